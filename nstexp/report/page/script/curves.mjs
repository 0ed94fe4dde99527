// The loss curves: one per picture, or the mean over repeats and pairs with its interval as a band.
import { drawChart, makeLive } from "./chart.mjs";
import { byId, check, select } from "./dom.mjs";
import { ANY } from "./model.mjs";
import { ends } from "./scales.mjs";
import { COLORS, rampColor, showChart } from "./svg.mjs";
import { asNumber, brief, isNumber, shown } from "./text.mjs";

export function makeCurves({ model, address, table, openCompare }) {
  const { data, rows, pictures, fullLabel } = model;
  const terms = [...new Set(data.curves.flatMap((curve) => Object.keys(curve.terms)))];
  const folds = data.design.folds && data.curves.length > data.design.settings.length;
  const charts = { term: "", picture: ANY, x: "steps", log: true, color: "", mean: folds, domains: [null, null] };

  function start() {
    byId("curves").closest("figure").hidden = !terms.length;
    charts.term = address.get("term", terms.includes("total") ? "total" : terms[0] ?? "");
    charts.color = address.get("color", defaultColor());
    charts.x = address.get("curve.x", "steps");
    charts.log = address.get("curve.log", "on") === "on";
    const several = data.design.settings.length > 1;
    charts.mean = address.get("curve.mean", several ? "on" : "off") === "on" && folds;
    const redraw = (name, place, text = (value) => value) => (value) => { charts[name] = value; charts.domains = [null, null]; address.put(place, text(value)); draw(); };
    const flag = (value) => (value ? "on" : "off");
    const colors = select("Color", [["", "run"], ...model.axes.map((axis) => [axis.key, axis.key])], charts.color, (value) => { charts.color = value; address.put("color", value, defaultColor()); model.redrawCharts(); });
    byId("curve-controls").append(
      select("Term", terms.map((term) => [term, term]), charts.term, redraw("term", "term")),
      ...(pictures.length > 1 ? [select("Picture", [[ANY, "all"], ...pictures.map((name) => [name, name])], charts.picture, redraw("picture", "curve.picture"))] : []),
      ...(data.curves.some((curve) => curve.seconds.length) ? [select("X axis", [["steps", "steps"], ["seconds", "seconds"]], charts.x, redraw("x", "curve.x"))] : []),
      colors, ...(folds ? [check("means with 95 %", charts.mean, redraw("mean", "curve.mean", flag))] : []), check("log scale", charts.log, redraw("log", "curve.log", flag)),
    );
  }

  function defaultColor() {
    return data.design.keys[0] ?? data.axes[0]?.key ?? model.axes[0]?.key ?? "";
  }

  function draw() {
    if (!terms.length) return;
    const visible = new Map(table.visible().map((index) => [`${rows[index].run} ${rows[index].picture}`, index]));
    const chosen = data.curves.map((curve) => ({ curve, index: visible.get(`${curve.run} ${curve.picture}`), y: curve.terms[charts.term], x: curve[charts.x] }))
      .filter(({ curve, index, y, x }) => index !== undefined && y && x.length && (charts.picture === ANY || curve.picture === charts.picture));
    const series = charts.mean ? means(chosen) : chosen.map(({ curve, index, x, y }) => ({
      line: true, name: nameOf(index), color: colorOf(model, charts.color, rows[index], index),
      points: x.map((at, n) => ({ x: at, y: y[n], index, title: `${fullLabel(rows[index])}\n${charts.x} ${at}: ${brief(y[n])}` })),
    }));
    const make = (width, height, colors) => drawChart({
      x: { label: charts.x, domain: charts.domains[0] }, y: { label: charts.term, log: charts.log, domain: charts.domains[1] },
      series, legendTitle: charts.color, title: `Loss curves: ${charts.term} by ${charts.x}`,
    }, width, height, colors);
    const chart = showChart("curves", "curves", make);
    makeLive(byId("curves"), chart, { pick: openCompare, zoom: (x, y) => { charts.domains = [x, y]; draw(); } });
  }

  const nameOf = (index) => {
    const axis = model.axisOf(charts.color);
    return axis ? shown(axis.of(rows[index])) : fullLabel(rows[index]);
  };

  // The mean curve of each setting. Its band is Student's 95 % interval at each step, over pairs or repeats.
  function means(chosen) {
    const groups = new Map();
    for (const one of chosen) {
      const place = model.settingOf(rows[one.index]);
      if (place !== null) groups.set(place, [...(groups.get(place) ?? []), one]);
    }
    const isKey = data.design.keys.includes(charts.color);  // the other axes vary within a mean
    return [...groups].map(([place, members]) => {
      const title = model.settingLabel(place);
      return { line: true, name: isKey ? nameOf(members[0].index) : title, color: colorOf(model, isKey ? charts.color : "", rows[members[0].index], place), points: meanPoints(members, data.design.student, charts.log).map((point) => ({
        ...point, index: members[0].index, title: `${title}\n${charts.x} ${brief(point.x)}: ${brief(point.y)}, mean of ${point.n}${point.low === null ? "" : `, 95 % ${brief(point.low)} to ${brief(point.high)}`}` })) };
    });
  }

  return { start, draw, color: () => charts.color };
}

// The mean of curves { x, y } at the places of the first one; places that others lack are interpolated. On a log scale
// the mean is that of the logarithms, so that the band stays above 0.
export function meanPoints(members, student, log) {
  const form = log ? Math.log : (value) => value, back = log ? Math.exp : (value) => value;
  return members[0].x.map((at) => {
    const values = members.map(({ x, y }) => interpolated(x, y, at)).filter((value) => isNumber(value) && (!log || value > 0)).map(form);
    const n = values.length;
    if (!n) return { x: at, y: null, n, low: null, high: null };
    const mean = values.reduce((sum, value) => sum + value, 0) / n;
    if (n < 2) return { x: at, y: back(mean), n, low: null, high: null };
    const sd = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1));
    const half = ((student[n - 2] ?? student.at(-1) ?? 1.96) * sd) / Math.sqrt(n);
    return { x: at, y: back(mean), n, low: back(mean - half), high: back(mean + half) };
  });
}

function interpolated(x, y, at) {
  const next = x.findIndex((place) => place >= at);
  if (next < 0) return null;
  if (x[next] === at) return y[next];
  if (next === 0 || !isNumber(y[next]) || !isNumber(y[next - 1])) return null;
  return y[next - 1] + ((at - x[next - 1]) / (x[next] - x[next - 1])) * (y[next] - y[next - 1]);
}

export function colorOf(model, key, row, index) {
  const axis = model.axisOf(key);
  if (!axis) return COLORS[index % COLORS.length];
  const at = axis.values.indexOf(axis.of(row));
  const isScale = axis.values.length > 2 && axis.values.every((value) => !Number.isNaN(asNumber(value)));
  if (!isScale) return COLORS[Math.max(0, at) % COLORS.length];
  if (axis.values.length <= 12) return rampColor(at / (axis.values.length - 1));
  const [low, high] = ends(axis.values.map(asNumber));
  return rampColor((asNumber(axis.of(row)) - low) / (high - low || 1));
}
