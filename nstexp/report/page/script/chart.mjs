// Charts with two axes: lines with bands, and points with intervals.
import { el } from "./dom.mjs";
import { makeWalk } from "./keyboard.mjs";
import { linearScale, logScale, wordScale } from "./scales.mjs";
import { canvas, draw, legendOf, symbol, textWidth, words } from "./svg.mjs";
import { shortened } from "./text.mjs";

const MOST_IN_LEGEND = 14;
const REACH_PX = 30;  // distance at which a point is found by the mouse

// A chart of `series`: { name, color, shape, line, dashed, points: [{ x, y, low, high, xLow, xHigh, title, index, ring }] }.
// An axis is { label, log, words, domain }.
export function drawChart({ x, y, series, title, legendTitle = "" }, width, height, colors) {
  const named = [...new Map(series.filter((one) => one.name).map((one) => [one.name, one])).values()];
  const shown = named.slice(0, MOST_IN_LEGEND).map((one) => ({ name: shortened(one.name, 40), color: one.color, shape: one.line ? "line" : one.shape ?? "circle" }));
  const legend = legendOf(shown, width - 60, colors, named.length ? legendTitle : "");
  const bottom = height - legend.height - 42;
  const yScale = scaleOf(y, series, "y", ["low", "high"], [bottom, 10]);
  const left = Math.min(0.3 * width, 28 + Math.max(0, ...yScale.ticks.map(([, text]) => textWidth(text))));
  const xScale = scaleOf(x, series, "x", ["xLow", "xHigh"], [left, width - 18]);
  const clip = `clip${Math.random().toString(36).slice(2)}`;
  const marks = series.map((one) => drawSeries(one, xScale, yScale, colors));
  const chart = canvas(width, height, title,
    draw("defs", {}, draw("clipPath", { id: clip }, draw("rect", { x: left - 6, y: 4, width: width - left, height: bottom + 2 }))),
    gridOf(xScale, yScale, left, width - 18, bottom, colors),
    draw("g", { "clip-path": `url(#${clip})` }, marks),
    words(x.label, { x: (left + width) / 2, y: bottom + 34, "text-anchor": "middle", "font-size": 12, fill: colors.text }),
    words(y.label, { transform: `translate(12,${bottom / 2}) rotate(-90)`, "text-anchor": "middle", "font-size": 12, fill: colors.text }),
    draw("g", { transform: `translate(${left},${bottom + 42})` }, legend.element));
  chart.scales = { x: xScale, y: yScale, left, right: width - 18, top: 10, bottom };
  chart.series = series;
  return chart;
}

function scaleOf(axis, series, name, more, range) {
  if (axis.words) return wordScale(axis.words, range);
  const values = series.flatMap((one) => one.points.flatMap((point) => [point[name], point[more[0]], point[more[1]]]));
  return (axis.log ? logScale : linearScale)(values, range, axis.domain ?? null);
}

function gridOf(xScale, yScale, left, right, bottom, colors) {
  const room = (right - left) / Math.max(1, xScale.ticks.length);
  const most = Math.max(3, Math.floor(room / 6.2));
  const cut = (text) => (text.length <= most ? text : `..${text.slice(-Math.max(1, most - 2))}`);
  return [
    yScale.ticks.map(([value, text]) => [
      draw("line", { x1: left, x2: right, y1: yScale.place(value), y2: yScale.place(value), stroke: colors.rule, "stroke-width": 1 }),
      words(text, { x: left - 6, y: yScale.place(value) + 4, "text-anchor": "end", fill: colors.muted })]),
    xScale.ticks.map(([value, text]) => [
      draw("line", { x1: xScale.place(value), x2: xScale.place(value), y1: 8, y2: bottom + 4, stroke: colors.rule, "stroke-width": 1 }),
      words(cut(text), { x: xScale.place(value), y: bottom + 17, "text-anchor": "middle", fill: colors.muted })]),
  ];
}

function drawSeries(one, xScale, yScale, colors) {
  const at = (px, py) => `${px.toFixed(1)},${py.toFixed(1)}`;
  const points = one.points.filter((point) => xScale.has(point.x) && yScale.has(point.y));
  const parts = [];
  const bound = points.filter((point) => yScale.has(point.low) && yScale.has(point.high));
  if (one.line && bound.length > 1) {
    const edge = [...bound.map((p) => at(xScale.place(p.x), yScale.place(p.high))), ...bound.map((p) => at(xScale.place(p.x), yScale.place(p.low))).reverse()];
    parts.push(draw("polygon", { class: "band", points: edge.join(" "), fill: one.color, "fill-opacity": 0.18 }));
  }
  if (one.line && points.length > 1) {
    parts.push(draw("polyline", { points: points.map((p) => at(xScale.place(p.x), yScale.place(p.y))).join(" "), fill: "none", stroke: one.color, "stroke-width": 1.6, "stroke-linejoin": "round", "stroke-dasharray": one.dashed ? "4 3" : null }));
  }
  const dots = one.line ? (one.marks ? points : points.slice(-1)) : points;
  for (const point of dots) {
    const [px, py] = [xScale.place(point.x), yScale.place(point.y)];
    if ((!one.line || one.marks) && yScale.has(point.high)) parts.push(draw("line", { class: "interval", x1: px, x2: px, y1: lowEnd(yScale, point.low), y2: yScale.place(point.high), stroke: one.color, "stroke-width": 1.4 }));
    if (!one.line && xScale.has(point.xHigh)) parts.push(draw("line", { class: "interval", x1: lowEnd(xScale, point.xLow), x2: xScale.place(point.xHigh), y1: py, y2: py, stroke: one.color, "stroke-width": 1.4 }));
    if (point.ring) parts.push(draw("circle", { class: "front", cx: px, cy: py, r: 8, fill: "none", stroke: colors.text, "stroke-width": 1.6 }));
    parts.push(symbol(one.shape ?? "circle", px, py, one.color, one.line ? 2.6 : 4.5, one.shape ? {} : { stroke: colors.surface, "stroke-width": 1 }));
  }
  return draw("g", { class: "series", "data-name": one.name ?? "" }, parts);
}

// Where an interval begins. On a log scale, one that contains 0 reaches to the edge.
const lowEnd = (scale, low) => (scale.has(low) ? scale.place(low) : scale.start);

// Lets the mouse and the keyboard find points, and the mouse zoom by a rectangle; a double click shows all again.
// `zoom(x, y)` gets two domains, or null twice.
export function makeLive(area, chart, { pick = null, zoom = null } = {}) {
  const { scales, series } = chart;
  const tip = area.appendChild(el("div", { class: "tip", hidden: true }));
  const seen = ({ px, py }) => px > scales.left - 7 && px < scales.right + 7 && py > scales.top - 7 && py < scales.bottom + 7;  // not outside of an enlarged part
  const placesOf = (one) => one.points.filter((point) => scales.x.has(point.x) && scales.y.has(point.y))
    .map((point) => ({ point, title: point.title, px: scales.x.place(point.x), py: scales.y.place(point.y) })).filter(seen);
  const [lines, dots] = [series.filter((one) => one.line).map(placesOf), series.filter((one) => !one.line).flatMap(placesOf)];
  const places = [...lines.flat(), ...dots];
  let start = null, box = null;
  const inside = (event) => {
    const frame = chart.getBoundingClientRect();
    return [((event.clientX - frame.left) * chart.viewBox.baseVal.width) / frame.width, ((event.clientY - frame.top) * chart.viewBox.baseVal.height) / frame.height];
  };
  const nearest = (x, y) => {
    let [found, least] = [null, REACH_PX ** 2];
    for (const place of places) {
      const distance = (place.px - x) ** 2 + (place.py - y) ** 2;
      if (distance < least) [found, least] = [place, distance];
    }
    return found;
  };
  const show = (place) => {
    tip.hidden = !place;
    if (!place) return;
    tip.textContent = place.title;
    tip.style.left = `${Math.min(place.px + 12, area.clientWidth - Math.min(260, tip.offsetWidth) - 8)}px`;
    tip.style.top = `${place.py + 14}px`;
  };
  let mark = null;
  const hide = () => { mark?.remove(); mark = null; show(null); };
  makeWalk(area, chart, {
    lanes: [...lines, dots], hide, pick: pick && (({ point }) => { if (point.index !== undefined) pick(point.index); }),
    show(place) {
      hide();
      mark = chart.appendChild(draw("circle", { class: "mark", cx: place.px, cy: place.py, r: 7, fill: "none", stroke: "currentColor", "stroke-width": 2.5 }));
      show(place);
    },
  });
  chart.addEventListener("pointermove", (event) => {
    const [x, y] = inside(event);
    if (start && zoom) {
      box ??= chart.appendChild(draw("rect", { fill: "currentColor", "fill-opacity": 0.12, stroke: "currentColor" }));
      for (const [name, value] of Object.entries({ x: Math.min(x, start[0]), y: Math.min(y, start[1]), width: Math.abs(x - start[0]), height: Math.abs(y - start[1]) })) box.setAttribute(name, value);
    }
    const found = nearest(x, y);
    show(found);
    chart.style.cursor = pick && found && found.point.index !== undefined ? "pointer" : "";
  });
  chart.addEventListener("pointerleave", () => { tip.hidden = true; });
  chart.addEventListener("pointerdown", (event) => { start = inside(event); });
  chart.addEventListener("pointerup", (event) => {
    const [x, y] = inside(event);
    const from = start;
    start = null;
    box?.remove();
    box = null;
    if (from && zoom && scales.x.invert && scales.y.invert && Math.abs(x - from[0]) > 12 && Math.abs(y - from[1]) > 12) {
      const domain = (scale, a, b) => [scale.invert(a), scale.invert(b)].sort((one, two) => one - two);
      zoom(domain(scales.x, from[0], x), domain(scales.y, from[1], y));
    } else if (pick) {
      const found = nearest(x, y);
      if (found && found.point.index !== undefined) pick(found.point.index);
    }
  });
  if (zoom) chart.addEventListener("dblclick", () => zoom(null, null));
}
