// Charts as SVG: a picture of a chart is its own file, and its texts stay texts.
import { byId, download, el } from "./dom.mjs";

export const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c6d31", "#999999", "#b2182b"];
const RAMP = [[70, 100, 220], [40, 150, 190], [60, 165, 100], [220, 155, 30], [214, 69, 65]];  // visible on white and black
const SPACE = "http://www.w3.org/2000/svg";
export const PAPER = { text: "#1b1b1a", muted: "#5f5f5b", rule: "#dededa", surface: "#ffffff" };

// A color between both ends of the ramp, for a share from 0 to 1.
export function rampColor(share) {
  const place = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  return `rgb(${RAMP[low].map((value, n) => Math.round(value + (place - low) * (RAMP[low + 1][n] - value))).join(",")})`;
}

export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, typeof value === "number" ? Math.round(value * 100) / 100 : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export const words = (text, attributes) => draw("text", { "font-size": 11, ...attributes }, String(text));
export const textWidth = (text, size = 11) => 0.58 * size * String(text).length;

// The colors of the page's theme as it is shown.
export function themeColors() {
  const probe = document.body.appendChild(el("span"));
  const colors = Object.fromEntries(Object.keys(PAPER).map((name) => {
    probe.style.color = `var(--${name})`;
    return [name, getComputedStyle(probe).color];
  }));
  probe.remove();
  return colors;
}

// Puts a chart into its place. `make(width, height, colors)` returns an SVG element; a button saves it in light colors.
export function showChart(id, name, make) {
  const area = byId(id);
  const width = Math.max(260, area.clientWidth || 500), height = Math.max(200, area.clientHeight || 400);
  const save = () => {
    const picture = make(width, height, PAPER);
    picture.prepend(draw("rect", { width: "100%", height: "100%", fill: PAPER.surface }));
    download(`${name}.svg`, "image/svg+xml", `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(picture)}\n`);
  };
  const chart = make(width, height, themeColors());
  area.replaceChildren(chart, el("button", { type: "button", class: "quiet save", title: "save this chart as an SVG file", "aria-label": `save the chart ${name} as an SVG file`, click: save }, "SVG"));
  return chart;
}

// The frame of a picture, with what a screen reader says of it.
export function canvas(width, height, label, ...children) {
  return draw("svg", { xmlns: SPACE, viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, "font-family": "system-ui, sans-serif" },
    draw("title", {}, label), children);
}

// Entries { name, color, symbol } of a legend in lines of a width: { element, height }.
export function legendOf(entries, width, colors, title = "") {
  let [x, y] = [0, 12];
  const parts = title ? [words(title, { x: 0, y, fill: colors.muted })] : [];
  if (title) x = textWidth(title) + 14;
  for (const { name, color, shape } of entries) {
    const room = textWidth(name) + 26;
    if (x > 0 && x + room > width) [x, y] = [0, y + 16];
    parts.push(symbol(shape ?? "line", x + 7, y - 4, color), words(name, { x: x + 18, y, fill: colors.text }));
    x += room;
  }
  return { element: draw("g", { class: "legend" }, parts), height: parts.length ? y + 4 : 0 };
}

export function symbol(shape, x, y, color, size = 5, attributes = {}) {
  if (shape === "line") return draw("line", { x1: x - 7, x2: x + 7, y1: y, y2: y, stroke: color, "stroke-width": 2.5, ...attributes });
  const around = { diamond: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]], star: star() }[shape];
  if (!around) return draw("circle", { cx: x, cy: y, r: size, fill: color, ...attributes });
  const points = around.map(([dx, dy]) => `${(x + dx * size).toFixed(1)},${(y + dy * size).toFixed(1)}`).join(" ");
  return draw("polygon", { points, fill: "none", stroke: color, "stroke-width": 1.8, ...attributes });
}

const star = () => Array.from({ length: 10 }, (_, n) => [1, 0].map((turn) => {
  const angle = (n * Math.PI) / 5;
  return (n % 2 ? 0.55 : 1.4) * (turn ? Math.sin(angle) : -Math.cos(angle));
}));

// Horizontal bars, or dots with intervals: items { label, value, low, high, text, color }.
export function drawBars({ items, label, title, dots = false, ends = null }, width, colors) {
  const left = Math.min(0.5 * width, Math.max(40, ...items.map((item) => textWidth(item.label))) + 10);
  const right = Math.max(40, ...items.map((item) => textWidth(item.text ?? ""))) + 14;
  const values = items.flatMap((item) => [item.value, item.low ?? item.value, item.high ?? item.value]);
  const [low, high] = ends ?? [Math.min(0, ...values), Math.max(0, ...values)];
  const place = (value) => left + ((value - low) / (high - low || 1)) * (width - left - right);
  const height = items.length * 24 + 26;
  const rows = items.map((item, n) => {
    const y = 6 + n * 24, color = item.color ?? COLORS[0];
    const most = Math.floor((left - 10) / 6.4);
    const name = item.label.length > most ? `${item.label.slice(0, Math.max(1, most - 3))}...` : item.label;
    const mark = dots
      ? [item.low !== null && item.low !== undefined ? draw("line", { x1: place(item.low), x2: place(item.high), y1: y + 9, y2: y + 9, stroke: color, "stroke-width": 2 }) : null, symbol("circle", place(item.value), y + 9, color, 4)]
      : draw("rect", { x: Math.min(place(0), place(item.value)), y: y + 2, width: Math.max(1, Math.abs(place(item.value) - place(0))), height: 14, rx: 2, fill: color });
    return draw("g", { "data-label": item.label }, draw("title", {}, `${item.label}: ${item.text ?? item.value}`), words(name, { x: left - 8, y: y + 13, "text-anchor": "end", fill: colors.text }), mark,
      item.text ? words(item.text, { x: width - right + 8, y: y + 13, fill: colors.muted }) : null);
  });
  const zero = draw("line", { x1: place(0), x2: place(0), y1: 2, y2: height - 20, stroke: colors.muted, "stroke-width": 1, "stroke-dasharray": dots ? "3 3" : null });
  return canvas(width, height, title, zero, rows, words(label, { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle", fill: colors.muted }));
}
