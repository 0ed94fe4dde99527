// The table of all runs: sorted, filtered, with the columns that the reader wants. Of many rows, those near the window
// are in the page.
import { badge, breakable, byId, check, el, lazyPicture } from "./dom.mjs";
import { tableButtons } from "./exporting.mjs";
import { parseFilter } from "./filter.mjs";
import { MISSING, brief, compareValues, isMissing, moment, plural } from "./text.mjs";

const GROUPS = [["overrides", "overrides"], ["losses", "losses"], ["measures", "measures"], ["picture", "about the picture"], ["cost", "cost"]];
const MOST_ROWS = 150;  // rows up to which all are in the page
const ROW_PX = 45;  // height of a row of a longer table
const MORE_ROWS = 12;  // beyond both ends of the window

export function makeTable({ model, address, notes, openCompare, changed }) {
  const { data, rows, run, fullLabel } = model;
  const columns = [...model.columns, { id: "note", get: (row) => notes.get(run(row)), kind: "text" }];
  const names = new Set(columns.map((column) => column.id));
  const listed = (name) => (address.get(name) ?? "").split("|").filter((id) => names.has(id));
  const table = { sort: null, descending: false, hidden: new Set(listed("hide")), visible: rows.map((_, index) => index), order: [], printing: false };

  function start() {
    const [sort, direction] = (address.get("sort") ?? "").split("|");
    if (names.has(sort)) [table.sort, table.descending] = [sort, direction === "down"];
    byId("filter").value = address.get("filter", "");
    byId("filter").addEventListener("input", () => { address.put("filter", byId("filter").value, ""); applyFilter(); draw(); changed(); });
    byId("table-export").append(tableButtons("table", exported));
    byId("table-view").addEventListener("scroll", () => { if (isLong()) drawBody(); });
    notes.listen(() => draw());
    applyFilter();
    drawMenu();
    draw();
  }

  const groupOf = (group) => columns.filter((column) => column.group === group && !column.unseen);

  function drawMenu() {
    const hide = (ids, on) => {
      for (const id of ids) table.hidden[on ? "delete" : "add"](id);
      address.put("hide", [...table.hidden].join("|"), "");
      drawMenu();
      draw();
    };
    const groups = GROUPS.filter(([group]) => groupOf(group).length).map(([group, text]) =>
      check(text, groupOf(group).some((column) => !table.hidden.has(column.id)), (on) => hide(groupOf(group).map((column) => column.id), on)));
    const single = columns.filter((column) => !column.unseen).map((column) => check(column.id, !table.hidden.has(column.id), (on) => hide([column.id], on)));
    const wasOpen = byId("groups").querySelector("details")?.open ?? false;
    byId("groups").replaceChildren(...groups, el("details", { class: "menu", open: wasOpen }, el("summary", {}, "columns"), el("div", {}, single)));
  }

  function applyFilter() {
    const { parts, unknown, test } = parseFilter(columns, byId("filter").value);
    table.visible = rows.map((_, index) => index).filter((index) => test(rows[index]));
    const hint = unknown.length ? `; no column has the name in ${unknown.join(" ")}` : "";
    byId("filter-count").textContent = parts.length ? `${table.visible.length} of ${plural(rows.length, "row")}${hint}` : plural(rows.length, "row");
  }

  function sorted(indices) {
    const column = columns.find((one) => one.id === table.sort);
    if (!column) return indices;
    const absent = (value) => isMissing(value) || value === "NaN";
    return [...indices].sort((a, b) => {
      const [x, y] = [column.get(rows[a]), column.get(rows[b])];
      if (absent(x) || absent(y)) return absent(x) - absent(y) || a - b;  // missing values come last in both directions
      return (table.descending ? -1 : 1) * compareValues(x, y) || a - b;
    });
  }

  const shownColumns = () => columns.filter((column) => !column.unseen && !table.hidden.has(column.id) && (column.id !== "note" || notes.has()));
  const isNumeric = (column) => ["number", "count"].includes(column.kind);
  const isLong = () => table.order.length > MOST_ROWS && !table.printing;

  function draw(focus) {
    table.order = sorted(table.visible);
    const shown = shownColumns();
    const head = shown.map((column) => {
      const active = table.sort === column.id;
      const arrow = active ? (table.descending ? " \u2193" : " \u2191") : "";
      const sort = () => {
        [table.sort, table.descending] = active && table.descending ? [null, false] : [column.id, active];
        address.put("sort", table.sort && `${table.sort}|${table.descending ? "down" : "up"}`);
        draw(column.id);
      };
      const attributes = { scope: "col", class: isNumeric(column) ? "n" : null, "aria-sort": active ? (table.descending ? "descending" : "ascending") : "none", title: column.title };
      if (isLong()) attributes.style = `min-width: ${widest(column)}ch`;
      return el("th", attributes, el("button", { type: "button", "data-column": column.id, click: sort }, breakable(column.id), arrow));
    });
    const foot = data.references.map((reference) => el("tr", {}, el("td"), shown.map((column) => referenceCell(column, reference))));
    byId("table-view").replaceChildren(el("table", { class: isLong() ? "numbers long" : "numbers", "aria-rowcount": table.order.length + 1 },
      el("thead", {}, el("tr", {}, el("th", {}, ""), head)), el("tbody"), foot.length ? el("tfoot", {}, foot) : null));
    drawBody();
    if (focus) [...byId("table-view").querySelectorAll("thead button")].find((button) => button.dataset.column === focus)?.focus();
  }

  // The rows themselves; of a long table those near the window, between two empty rows of the height of the others.
  function drawBody() {
    const body = byId("table-view").querySelector("tbody");
    const count = table.order.length;
    let [from, to] = [0, count];
    if (isLong()) {
      from = Math.max(0, Math.floor(byId("table-view").scrollTop / ROW_PX) - MORE_ROWS);
      to = Math.min(count, from + Math.ceil(byId("table-view").clientHeight / ROW_PX) + 2 * MORE_ROWS);
      if (body.dataset.from === `${from} ${to}`) return;
      body.dataset.from = `${from} ${to}`;
    }
    const shown = shownColumns();
    const lines = table.order.slice(from, to).map((index, n) => el("tr", { "data-row": index, "aria-rowindex": from + n + 2 }, thumb(index), shown.map((column) => tableCell(column, rows[index]))));
    const gap = (rowCount) => (rowCount > 0 ? el("tr", { class: "gap", "aria-hidden": "true", style: `height: ${rowCount * ROW_PX}px` }) : null);
    body.replaceChildren(...[gap(from), ...lines, gap(count - to)].filter(Boolean));
  }

  // The widest text of a column, so that columns keep their widths while rows come and go.
  function widest(column) {
    const lengths = table.order.map((index) => (column.kind === "number" ? brief(column.get(rows[index])) : String(column.get(rows[index]) ?? "")).length);
    return Math.min(36, Math.max(4, ...lengths));
  }

  function thumb(index) {
    const row = rows[index];
    if (row.image === null) return el("td");
    return el("td", {}, el("button", { type: "button", class: "mini", title: "compare", click: () => openCompare(index) }, lazyPicture(data.images[row.image], `compare ${fullLabel(row)}`)));
  }

  function tableCell(column, row) {
    const value = column.get(row);
    if (column.id === "job" && column.kind) {
      return el("td", { class: "n" }, el("a", { href: run(row).link, title: "the run's folder" }, String(run(row).job)));
    }
    if (column.id === "status" && !column.override) {
      const mark = badge(row.mean ? "mean" : value);
      return el("td", {}, row.link ? el("a", { href: row.link, title: "the full-size picture" }, mark) : mark, row.note ? ` ${row.note}` : "",
        run(row).error ? el("span", { class: "error", title: run(row).error }, run(row).error) : null);
    }
    if (isMissing(value)) return el("td", { class: isNumeric(column) ? "n none" : "none" }, MISSING);
    if (column.id === "started" && !column.override) return el("td", { class: "started", title: value }, moment(value));
    if (column.kind === "number") return el("td", { class: "n", title: String(value) }, brief(value));
    return el("td", { class: column.kind === "count" ? "n" : "text", title: value }, value);
  }

  function referenceCell(column, reference) {
    if (column.id === "status") return el("td", {}, `the ${reference.kind} itself`);
    if (column.id === "picture" && !column.group) return el("td", {}, reference.picture);
    if (column.override) return el("td", { class: column.kind === "count" ? "n" : "text" }, reference.values[column.id] ?? "");
    const value = column.name === undefined ? undefined : reference.numbers[column.name];
    return value === undefined ? el("td") : el("td", { class: "n", title: String(value) }, brief(value));
  }

  function exported() {
    const shown = shownColumns();
    return { head: shown.map((column) => column.id), rows: sorted(table.visible).map((index) => shown.map((column) => column.get(rows[index]))) };
  }

  function print(on) {
    table.printing = on;
    if (rows.length > MOST_ROWS) draw();
  }

  return { start, print, visible: () => table.visible };
}
