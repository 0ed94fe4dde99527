// The index of all sweeps and runs.
import { makeAddress } from "./address.mjs";
import { badge, breakable, byId, el, lazyPicture } from "./dom.mjs";
import { tableButtons } from "./exporting.mjs";
import { parseFilter } from "./filter.mjs";
import { MISSING, compareValues, duration, isMissing, moment, plural } from "./text.mjs";

const data = JSON.parse(byId("data").textContent);
const address = makeAddress(location, history);
const order = { column: null, descending: false };

const count = (entry) => Object.values(entry.statuses).reduce((sum, runs) => sum + runs, 0);
const bestText = (best) => `${best.label} ${best.text}: ${best.setting}`;

// A column: what sorts and filters, and what is shown.
const columns = [
  { id: "started", get: (entry) => entry.started, show: (entry) => (entry.started ? moment(entry.started) : MISSING) },
  { id: "kind", get: (entry) => entry.kind },
  { id: "name", get: (entry) => entry.name, show: (entry) => [el("a", { href: entry.report ?? entry.link, title: entry.report ? "its report" : "its folder" }, breakable(entry.name)), entry.report ? [" ", el("a", { href: entry.link, class: "hint" }, "folder")] : null] },
  { id: "runs", get: count, numeric: true },
  { id: "status", get: (entry) => Object.keys(entry.statuses).join(" "), show: (entry) => [Object.entries(entry.statuses).map(([status, runs]) => [badge(status, entry.kind === "run" ? undefined : runs), " "]), entry.error ? el("span", { class: "error", title: entry.error }, entry.error) : null] },
  { id: "varies", get: (entry) => entry.keys.map(([key, values]) => `${key} (${values})`).join(", ") },
  { id: "best", get: (entry) => entry.best.map(bestText).join("; "), show: (entry) => el("ul", {}, entry.best.map((best) => el("li", {}, el("a", { href: best.link }, `${best.label} ${best.text}`), `: ${best.setting}`))) },
  { id: "command", get: (entry) => entry.command, show: (entry) => el("code", {}, breakable(entry.command)) },
  { id: "seconds", get: (entry) => entry.seconds, show: (entry) => (entry.seconds === null ? MISSING : duration(entry.seconds)), numeric: true },
];

function visible() {
  const { test } = parseFilter(columns, byId("filter").value);
  const found = data.entries.filter(test);
  const column = columns.find((one) => one.id === order.column);
  if (!column) return found;
  return [...found].sort((a, b) => {
    const [x, y] = [column.get(a), column.get(b)];
    if (isMissing(x) || isMissing(y)) return isMissing(x) - isMissing(y);
    return (order.descending ? -1 : 1) * compareValues(x, y);
  });
}

function draw(focus) {
  const entries = visible();
  const head = columns.map((column) => {
    const active = order.column === column.id;
    const sort = () => {
      [order.column, order.descending] = active && order.descending ? [null, false] : [column.id, active];
      address.put("sort", order.column && `${order.column}|${order.descending ? "down" : "up"}`);
      draw(column.id);
    };
    return el("th", { scope: "col", class: column.numeric ? "n" : null, "aria-sort": active ? (order.descending ? "descending" : "ascending") : "none" },
      el("button", { type: "button", "data-column": column.id, click: sort }, column.id, active ? (order.descending ? " \u2193" : " \u2191") : ""));
  });
  const lines = entries.map((entry) => el("tr", { "data-name": entry.name },
    el("td", {}, entry.image ? el("a", { href: entry.report ?? entry.link, class: "mini" }, lazyPicture(entry.image, `a result of ${entry.name}`)) : null),
    columns.map((column) => el("td", { class: column.numeric ? "n" : `of-${column.id}` }, column.show ? column.show(entry) : String(column.get(entry) ?? MISSING)))));
  byId("index").replaceChildren(el("table", { class: "numbers overview" }, el("thead", {}, el("tr", {}, el("th", {}, ""), head)), el("tbody", {}, lines)));
  byId("filter-count").textContent = entries.length === data.entries.length ? plural(entries.length, "line") : `${entries.length} of ${plural(data.entries.length, "line")}`;
  if (focus) [...byId("index").querySelectorAll("thead button")].find((button) => button.dataset.column === focus)?.focus();
}

byId("title").textContent = data.title;
const sweeps = data.entries.filter((entry) => entry.kind === "sweep");
byId("summary").textContent = `${plural(sweeps.length, "sweep")} with ${plural(sweeps.reduce((sum, entry) => sum + count(entry), 0), "run")}, and ${plural(data.entries.length - sweeps.length, "single run")}`;
byId("made").textContent = `Made ${moment(data.made)}. A line leads to its report, or to its folder where there is no report yet.`;
byId("export").append(tableButtons("index", () => ({ head: columns.map((column) => column.id), rows: visible().map((entry) => columns.map((column) => column.get(entry))) })));
[order.column, order.descending] = [(address.get("sort") ?? "").split("|")[0] || null, address.get("sort", "").endsWith("|down")];
byId("filter").value = address.get("filter", "");
byId("filter").addEventListener("input", () => { address.put("filter", byId("filter").value, ""); draw(); });
draw();
