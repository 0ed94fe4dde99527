// One number against another with the Pareto front, and parallel coordinates.
import { drawChart, makeLive } from "./chart.mjs";
import { colorOf } from "./curves.mjs";
import { byId, check, el, select } from "./dom.mjs";
import { tableButtons } from "./exporting.mjs";
import { drawParallel, makeLinesLive } from "./parallel.mjs";
import { paretoFront } from "./pareto.mjs";
import { isWide } from "./scales.mjs";
import { rampColor, showChart } from "./svg.mjs";
import { asNumber, brief, isNumber, plural, shown, spread } from "./text.mjs";

export function makeScatter({ model, address, table, openCompare }) {
  const { data, rows, pictures, fullLabel } = model;
  const measures = model.columns.filter((column) => column.kind === "number" && column.id !== "job");
  const folds = data.design.folds && data.design.settings.length > 1;
  const charts = { x: "", y: "", logX: false, logY: false, front: true, mean: folds, domains: [null, null], color: "", found: [], early: 0 };
  const columnOf = (id) => measures.find((column) => column.id === id);
  const lowerIsBetter = (column) => data.numbers.find((number) => number.name === column.name)?.better !== "higher";

  function start() {
    const has = (name) => measures.find((column) => column.name === name)?.id;
    const losses = measures.filter((column) => column.group === "losses" && column.name !== "total");
    const [first, second] = [...losses, ...measures.filter((column) => !losses.includes(column))];
    const both = has("style_gram") && has("content_loss");
    charts.x = address.get("x", both ? has("content_loss") : first?.id ?? "");
    charts.y = address.get("y", both ? has("style_gram") : (second ?? first)?.id ?? "");
    charts.front = address.get("front", "on") === "on";
    charts.mean = address.get("points", folds ? "means" : "all") === "means" && folds;
    [charts.logX, charts.logY] = [charts.x, charts.y].map(wide);
    drawControls();
    startParallel();
  }

  function drawControls() {
    const options = measures.map((column) => [column.id, column.id]);
    const choose = (name) => (value) => {
      charts[name] = value;
      charts[name === "x" ? "logX" : "logY"] = wide(value);
      charts.domains = [null, null];
      address.put(name, value);
      drawControls();
      draw();
    };
    const flag = (name) => (value) => { charts[name] = value; charts.domains = [null, null]; draw(); };
    byId("scatter-controls").replaceChildren(
      select("X", options, charts.x, choose("x")), select("Y", options, charts.y, choose("y")),
      check("log x", charts.logX, flag("logX")), check("log y", charts.logY, flag("logY")),
      check("Pareto front", charts.front, (value) => { address.put("front", value ? "on" : "off", "on"); flag("front")(value); }),
      ...(folds ? [check("means with 95 %", charts.mean, (value) => { address.put("points", value ? "means" : "all", "means"); flag("mean")(value); })] : []),
    );
  }

  function wide(id) {
    const column = columnOf(id);
    const references = column?.name === undefined ? [] : data.references.map((reference) => reference.numbers[column.name]);
    return isWide(column ? [...rows.map((row) => column.get(row)), ...references].filter(isNumber) : []);
  }

  function draw(color = charts.color) {
    charts.color = color;
    const [xColumn, yColumn] = [columnOf(charts.x), columnOf(charts.y)];
    if (!xColumn || !yColumn) return;
    const points = charts.mean ? meanPointsOf(xColumn, yColumn) : pointsOf(xColumn, yColumn);
    const front = charts.front && charts.x !== charts.y ? paretoFront(points, [xColumn, yColumn].map(lowerIsBetter)) : [];
    for (const place of front) points[place].ring = true;
    charts.found = front.map((place) => points[place]);
    charts.early = points.filter((point) => point.isEarly).length;
    const names = new Map();
    for (const point of points) {
      if (!names.has(point.name)) names.set(point.name, { name: point.name, color: point.color, points: [] });
      names.get(point.name).points.push(point);
    }
    const series = [...names.values(), ...referencePoints(xColumn, yColumn)];
    const make = (width, height, colors) => drawChart({
      x: { label: charts.x, log: charts.logX, domain: charts.domains[0] }, y: { label: charts.y, log: charts.logY, domain: charts.domains[1] },
      series: series.map((one) => (one.color ? one : { ...one, color: colors.muted })), legendTitle: charts.color, title: `${charts.y} against ${charts.x}`,
    }, width, height, colors);
    makeLive(byId("scatter"), showChart("scatter", "trade-off", make), { pick: openCompare, zoom: (x, y) => { charts.domains = [x, y]; draw(); } });
    drawFront();
    drawLines();
  }

  const nameOf = (row) => {
    const axis = model.axisOf(charts.color);
    return axis ? shown(axis.of(row)) : fullLabel(row);
  };

  function pointsOf(xColumn, yColumn) {
    return table.visible().filter((index) => model.isPicture(rows[index])).map((index) => {
      const [x, y] = [xColumn.get(rows[index]), yColumn.get(rows[index])];
      const text = fullLabel(rows[index]);
      return { x, y, index, isEarly: !model.isDone(rows[index]), label: text, name: nameOf(rows[index]), color: colorOf(model, charts.color, rows[index], index), title: `${text}\n${charts.x} ${brief(x)}\n${charts.y} ${brief(y)}` };
    }).filter(({ x, y }) => isNumber(x) && isNumber(y));
  }

  // One point per setting; its means are over all pairs and repeats, whatever the filter shows of them.
  function meanPointsOf(xColumn, yColumn) {
    const visible = new Set(table.visible());
    const folded = [...data.design.pairs, ...data.design.repeats];
    const isKey = data.design.keys.includes(charts.color);  // the other axes vary within a mean
    return model.rowsOfSettings.map((indices, place) => ({ indices: indices.filter((index) => visible.has(index)), place })).filter(({ indices }) => indices.length).map(({ indices, place }) => {
      const [x, y] = [xColumn, yColumn].map((column) => (column.name === undefined ? meanOf(indices.map((index) => column.get(rows[index]))) : model.estimate(column.name, indices, folded)));
      if (!x || !y) return null;
      const row = rows[indices[0]], label = model.settingLabel(place);
      return {
        x: x[1], y: y[1], xLow: x[3], xHigh: x[4], low: y[3], high: y[4], index: indices[0], label, estimates: [x, y], name: isKey ? nameOf(row) : label,
        color: colorOf(model, isKey ? charts.color : "", row, place), title: `${label}\n${charts.x} ${spread(x)}\n${charts.y} ${spread(y)}\nmean of ${Math.max(x[0], y[0])}`,
      };
    }).filter(Boolean);
  }

  function meanOf(values) {
    const numbers = values.filter(isNumber);
    return numbers.length ? [numbers.length, numbers.reduce((sum, value) => sum + value, 0) / numbers.length, null, null, null] : null;
  }

  function referencePoints(xColumn, yColumn) {
    const shapes = { photo: "diamond", painting: "star" };
    return data.references.map((reference) => {
      const [x, y] = [xColumn, yColumn].map((column) => reference.numbers[column.name]);
      const owner = [pictures.length > 1 ? reference.picture : null, ...Object.values(reference.values)].filter(Boolean).join(", ");
      const name = `the ${reference.kind} itself`;
      return { name, shape: shapes[reference.kind] ?? "diamond", points: isNumber(x) && isNumber(y) ? [{ x, y, title: `${owner ? `${name} (${owner})` : name}\n${charts.x} ${brief(x)}\n${charts.y} ${brief(y)}` }] : [] };
    }).filter((one) => one.points.length);
  }

  function drawFront() {
    const directions = [charts.x, charts.y].map((id) => `${lowerIsBetter(columnOf(id)) ? "low" : "high"} ${id}`).join(" and ");
    byId("front").hidden = !charts.front || !charts.found.length;
    byId("front-head").textContent = `Pareto front: ${plural(charts.found.length, charts.mean ? "setting" : "picture")} that no other beats in both ${directions}. ${charts.early ? `Without the ${plural(charts.early, "picture")} of runs that are not completed. ` : ""}`;
    byId("front-head").append(tableButtons("pareto-front", () => ({
      head: [charts.mean ? "setting" : "picture", charts.x, charts.y], rows: charts.found.map((point) => [point.label, ...(point.estimates ? point.estimates.map(spread) : [point.x, point.y])]) })));
    byId("front-list").replaceChildren(...charts.found.slice(0, 60).map((point) => el("li", {},
      el("button", { type: "button", class: "link", click: () => openCompare(point.index) }, point.label), `: ${charts.x} ${point.estimates ? spread(point.estimates[0]) : brief(point.x)}, ${charts.y} ${point.estimates ? spread(point.estimates[1]) : brief(point.y)}`)));
  }

  // ---------------------------------------------------------------- parallel coordinates

  const lines = { by: "" };

  function startParallel() {
    const names = measures.filter((column) => column.name !== undefined);
    byId("parallel-figure").hidden = data.design.keys.length < 2 || !names.length;
    lines.by = address.get("parallel", (names.find((column) => column.name === "style_gram") ?? names.find((column) => data.numbers.find((n) => n.name === column.name)?.better) ?? names[0])?.id ?? "");
    byId("parallel-controls").append(select("Colored by", names.map((column) => [column.id, column.id]), lines.by, (value) => { lines.by = value; address.put("parallel", value); drawLines(); }));
  }

  function drawLines() {
    if (byId("parallel-figure").hidden) return;
    const column = columnOf(lines.by);
    const more = [charts.x, charts.y].filter((id, n, all) => id !== lines.by && all.indexOf(id) === n).map(columnOf).filter((one) => one.name !== undefined);
    const visible = new Set(table.visible());
    const folded = [...data.design.pairs, ...data.design.repeats];
    const groups = model.rowsOfSettings.map((indices, place) => ({ place, indices: indices.filter((index) => visible.has(index)) })).filter(({ indices }) => indices.length);
    const valueOf = (one, { indices }) => model.estimate(one.name, indices, folded)?.[1] ?? null;
    const shades = groups.map((group) => valueOf(column, group));
    const isLog = isWide(shades.filter(isNumber));
    const place = (value) => (isLog ? Math.log10(value) : value);
    const numbers = shades.filter(isNumber).map(place);
    const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
    const dimensions = [
      ...data.design.keys.map((key, n) => ({ label: key, isKey: true, values: groups.map((group) => data.design.settings[group.place][n]) })),
      ...more.map((one) => ({ label: one.id, values: groups.map((group) => valueOf(one, group)) })),
      { label: column.id, values: shades },
    ].filter((dimension) => dimension.values.some((value) => value !== null && (dimension.isKey || !Number.isNaN(asNumber(value)))));
    const shown = groups.map((group, n) => ({
      color: isNumber(shades[n]) ? rampColor((place(shades[n]) - low) / (high - low || 1)) : "#999999", index: group.indices[0],
      title: `${model.settingLabel(group.place)}\n${column.id} ${brief(shades[n])}`,
    }));
    const make = (width, height, colors) => drawParallel({ dimensions, lines: shown, pick: openCompare, title: "Parallel coordinates of the settings" }, width, height, colors);
    makeLinesLive(byId("parallel"), showChart("parallel", "parallel-coordinates", make), shown, openCompare);
  }

  return { start, draw };
}
