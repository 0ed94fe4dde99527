// Parallel coordinates: one line per setting across an axis for each key and measure.
import { ends, isWide } from "./scales.mjs";
import { makeWalk } from "./keyboard.mjs";
import { canvas, draw, textWidth, words } from "./svg.mjs";
import { asNumber, brief, shortened } from "./text.mjs";

// `dimensions` are { label, values: [one per line], isKey }, `lines` are { color, title, index }.
export function drawParallel({ dimensions, lines, title, pick = null }, width, height, colors) {
  const [top, bottom] = [34, height - 14];
  const side = Math.min(90, width / (2 * Math.max(1, dimensions.length)));
  const x = (n) => side + (dimensions.length > 1 ? (n * (width - 2 * side)) / (dimensions.length - 1) : (width - 2 * side) / 2);
  const scales = dimensions.map((dimension) => scaleOfDimension(dimension, bottom, top));
  const order = lines.map((_, index) => index);
  const paths = order.map((index) => {
    const points = dimensions.map((dimension, n) => [x(n), scales[n].place(dimension.values[index])]).filter(([, y]) => y !== null);
    const attributes = { points: points.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" "), fill: "none", stroke: lines[index].color, "stroke-width": lines.length > 200 ? 0.8 : 1.5, "stroke-opacity": lines.length > 60 ? 0.5 : 0.85 };
    const click = pick ? { click: () => pick(lines[index].index), style: "cursor: pointer" } : {};
    return draw("polyline", { class: "line", ...attributes, ...click }, draw("title", {}, lines[index].title));
  });
  const most = Math.floor((width / Math.max(1, dimensions.length)) / 6.4);
  const axes = dimensions.map((dimension, n) => [
    draw("line", { x1: x(n), x2: x(n), y1: top, y2: bottom, stroke: colors.muted, "stroke-width": 1 }),
    words(most > 12 ? shortened(dimension.label, most) : dimension.label.slice(-Math.max(4, most)), { x: x(n), y: 14, "text-anchor": "middle", fill: colors.text }),
    scales[n].ticks.map(([value, text]) => {
      const y = scales[n].place(value), right = n === dimensions.length - 1;
      return [draw("rect", { x: right ? x(n) - textWidth(text) - 8 : x(n) + 4, y: y - 8, width: textWidth(text) + 3, height: 14, fill: colors.surface, "fill-opacity": 0.75 }),
        words(text, { x: right ? x(n) - 6 : x(n) + 6, y: y + 4, "text-anchor": right ? "end" : "start", fill: colors.muted })];
    }),
  ]);
  const chart = canvas(width, height, title, draw("g", {}, paths), axes);
  chart.paths = paths;
  return chart;
}

// Lets the arrow keys go through the lines of a chart of `drawParallel`, in the order in which they reach the last axis, from the top.
export function makeLinesLive(area, chart, lines, pick) {
  const lane = chart.paths.map((path, index) => ({ path, index, title: lines[index].title, px: endOf(path), py: index }));
  const hide = () => chart.querySelector(".marked")?.classList.remove("marked");
  const show = ({ path }) => { hide(); path.classList.add("marked"); };
  makeWalk(area, chart, { lanes: [lane], show, hide, pick: ({ index }) => pick(lines[index].index), name: "line" });
}

const endOf = (path) => Number(path.getAttribute("points").split(",").at(-1));

function scaleOfDimension({ values, isKey }, from, to) {
  const numbers = values.map(asNumber);
  const distinct = [...new Set(values)];
  const areNumbers = values.every((value, n) => value === null || !Number.isNaN(numbers[n]));
  if (areNumbers && (!isKey || distinct.length > 8)) {
    const finite = numbers.filter(Number.isFinite);
    const wide = isWide(finite);
    const form = wide ? Math.log10 : (value) => value;
    const [low, high] = ends(finite.map(form));
    const place = (value) => (Number.isFinite(asNumber(value)) ? from + ((form(asNumber(value)) - low) / (high - low || 1)) * (to - from) : null);
    const middle = (low + high) / 2;
    const ticks = (low === high ? [low] : [low, middle, high]).map((value) => (wide ? 10 ** value : value));
    return { place, ticks: ticks.map((value) => [value, brief(Number(value.toPrecision(3)))]) };
  }
  const sorted = areNumbers ? [...distinct].sort((a, b) => asNumber(a) - asNumber(b)) : distinct;
  const place = (value) => (sorted.length > 1 ? from + (sorted.indexOf(value) / (sorted.length - 1)) * (to - from) : (from + to) / 2);
  const ticks = sorted.length <= 12 ? sorted : [sorted[0], sorted.at(-1)];
  return { place, ticks: ticks.map((value) => [value, shortened(String(value ?? "not set"), 22)]) };
}
