"use strict";

// All data is inserted as text nodes and attributes, and never parsed as markup.
const report = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const MISSING = "\u2013";
  const ANY = "any";

  // ---------------------------------------------------------------- elements and text

  function el(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  }

  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

  function brief(value) {
    if (value === null || value === undefined || value === "") return MISSING;
    if (typeof value !== "number") return String(value);
    if (value === 0 || (Number.isInteger(value) && Math.abs(value) < 1e5)) return String(value);
    const size = Math.abs(value);
    if (size >= 1e4 || size < 1e-3) return value.toExponential(3).replace("e+", "e");
    return value.toPrecision(4);
  }

  function duration(seconds) {
    if (seconds < 120) return `${brief(seconds)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }

  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const shown = (text) => (text === null || text === "" ? "not set" : text);
  const unlisted = (text) => (text.startsWith("[") ? text.slice(1, -1).replaceAll(",", " ") : text);
  const shortened = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 12)}...${text.slice(-9)}`);

  // Lets a narrow label wrap after these characters, and not inside a word.
  const breakable = (text) => text.split(/(?<=[._/=:,])/).flatMap((part) => [part, el("wbr")]);

  function picture(image, alt) {
    const { src, width, height } = data.images[image];
    return el("img", { src, width, height, alt, decoding: "async" });
  }

  function select(label, options, value, change) {
    const list = el("select", { change: (event) => change(event.target.value) });
    list.append(...options.map(([key, text]) => el("option", { value: key }, shortened(text, 60))));
    list.value = value;
    return el("label", {}, label, list);
  }

  function check(label, value, change) {
    const box = el("input", { type: "checkbox", change: (event) => change(event.target.checked) });
    box.checked = value;
    return el("label", { class: "check" }, box, label);
  }

  // ---------------------------------------------------------------- runs, rows, axes

  const rows = data.rows;
  const run = (row) => data.runs[row.run];
  const pictures = [...new Set(rows.map((row) => row.picture).filter((name) => name !== ""))];
  const axes = data.axes.map((axis) => ({ ...axis, of: (row) => run(row).values[axis.key] }));
  if (pictures.length > 1) {
    axes.unshift({ key: "picture", values: pictures, images: {}, of: (row) => row.picture });
  }
  // A run that failed before its first picture belongs to every picture.
  const matches = (axis, row, value) => axis.of(row) === value || (axis.key === "picture" && row.picture === "");
  const axisOf = (key) => axes.find((axis) => axis.key === key);
  const jobName = (job) => (job.sweep === null ? `job ${job.job}` : `${job.sweep}/${job.job}`);

  function label(row, without = []) {
    const parts = axes
      .filter((axis) => !without.includes(axis.key) && axis.of(row) !== null && axis.of(row) !== "")
      .map((axis) => (axis.key === "picture" ? axis.of(row) : `${axis.key}=${unlisted(axis.of(row))}`));
    return parts.length ? parts.join(", ") : jobName(run(row));
  }

  // Numbers are only comparable between rows with the same photo and painting.
  const inputsOf = (row) => JSON.stringify([row.picture, run(row).values.content, run(row).values.style]);

  const fullLabel = (row) => (axes.length ? `${jobName(run(row))}: ${label(row)}` : jobName(run(row)));

  // ---------------------------------------------------------------- head

  function drawHead() {
    byId("title").textContent = data.title;
    const statuses = Object.entries(data.statuses).map(([status, count]) => [badge(status, count), " "]);
    const facts = [data.seconds ? duration(data.seconds) + " in total" : null, data.started && `started ${moment(data.started)}`];
    byId("summary").append(
      `${plural(data.runs.length, "run")} `, ...statuses.flat(), facts.filter(Boolean).map((fact) => ` \u00b7 ${fact}`).join(""),
    );
    byId("shared").append(...data.shared.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    byId("notices").hidden = data.notices.length === 0;
    byId("notices").querySelector("ul").append(...data.notices.map((notice) => el("li", {}, notice)));
    for (const note of document.querySelectorAll(".reference-note")) {
      note.hidden = data.reference_note === null;
      note.textContent = data.reference_note ?? "";
    }
    byId("made").textContent = `Made ${moment(data.made)} from ${data.folders.map((folder) => folder.name).join(", ")}. `;
    byId("made").append(el("a", { href: "table.csv" }, "table.csv"), " ", el("a", { href: "grid.png" }, "grid.png"));
  }

  const badge = (status, count) =>
    el("span", { class: `status ${status.replaceAll(" ", "-")}` }, count === undefined ? status : `${count} ${status}`);

  function moment(text) {
    const time = new Date(text);
    return Number.isNaN(time.getTime()) ? text : time.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  }

  // ---------------------------------------------------------------- contact sheet

  const CELL_ERROR = 90;  // number of characters that fit into a cell
  const sheet = { rows: "", columns: "", picks: {}, number: "", size: null };

  // The axes whose value is not determined by an earlier axis. With two sweeps, for example, a setting that only differs
  // between the sweeps is determined by the sweep.
  function independent() {
    const kept = [];
    for (const axis of data.axes) {
      const follows = (other) => {
        const pairs = new Set(data.runs.map((job) => JSON.stringify([job.values[other.key], job.values[axis.key]])));
        return pairs.size === new Set(data.runs.map((job) => job.values[other.key])).size;
      };
      if (!kept.some(follows)) kept.push(axis);
    }
    return kept.map((axis) => axis.key);
  }

  function startSheet() {
    const keys = independent();
    sheet.columns = keys.at(-1) ?? "";
    sheet.rows = keys.at(-2) ?? "";
    const area = (axisOf(sheet.rows)?.values.length ?? 1) * (axisOf(sheet.columns)?.values.length ?? 1);
    if (area > 3 * rows.length) sheet.rows = sheet.columns = "";  // most cells would be empty, so use a list
    const listed = !sheet.rows && !sheet.columns;
    for (const axis of axes) {
      const isFree = axis.key === "picture" || (keys.includes(axis.key) && !listed);
      sheet.picks[axis.key] = isFree ? axis.values[0] ?? "" : ANY;
    }
    sheet.number = (data.numbers.find((n) => n.better && n.group === "measures") ?? data.numbers.find((n) => n.better) ?? { name: "" }).name;
    drawSheet();
  }

  function drawSheet(focus) {
    const placed = [sheet.rows, sheet.columns];
    const others = axes.filter((axis) => !placed.includes(axis.key));
    const picked = others.filter((axis) => sheet.picks[axis.key] !== ANY);
    const items = rows.map((_, index) => index).filter((index) =>
      picked.every((axis) => matches(axis, rows[index], sheet.picks[axis.key] || null)));
    const same = others.filter((axis) => new Set(items.map((index) => axis.of(rows[index]))).size < 2);
    const view = { best: bestOf(items), without: [...placed, ...picked, ...same].map((axis) => axis.key ?? axis) };
    byId("sheet-controls").replaceChildren(...sheetControls(others));
    byId("inputs").replaceChildren(...constantInputs(items));
    const nothing = el("p", { class: "hint" }, "No run has these values.");
    byId("sheet-view").replaceChildren(!items.length ? nothing : sheet.rows ? crossed(items, view) : flow(items, view));
    setSize();
    const first = byId("sheet-view").querySelector(".cell");
    if (first) first.tabIndex = 0;
    if (focus) byId("sheet-controls").querySelector(`[data-control="${CSS.escape(focus)}"] select`)?.focus();
  }

  function sheetControls(others) {
    const named = (control, name) => { control.dataset.control = name; return control; };
    const choose = (which) => (value) => {
      const other = which === "rows" ? "columns" : "rows";
      if (value && sheet[other] === value) sheet[other] = sheet[which];
      sheet[which] = value;
      drawSheet(which);
    };
    const options = [["", "none"], ...axes.map((axis) => [axis.key, axis.key])];
    const controls = axes.length ? [
      named(select("Rows", options, sheet.rows, choose("rows")), "rows"),
      named(select("Columns", options, sheet.columns, choose("columns")), "columns"),
    ] : [];
    for (const axis of others) {
      const values = [[ANY, "all"], ...axis.values.map((value) => [value ?? "", shown(value)])];
      const change = (value) => { sheet.picks[axis.key] = value; drawSheet(axis.key); };
      controls.push(named(select(axis.key, values, sheet.picks[axis.key], change), axis.key));
    }
    const numbers = [["", "none"], ...data.numbers.map((number) => [number.name, number.label])];
    const change = (value) => { sheet.number = value; drawSheet("number"); };
    controls.push(named(select("Number under the picture", numbers, sheet.number, change), "number"));
    const slider = el("input", { type: "range", min: 70, max: 320, step: 10, input: (event) => { sheet.size = Number(event.target.value); setSize(); } });
    controls.push(el("label", {}, "Size", slider));
    return controls;
  }

  function setSize() {
    const columns = sheet.rows && sheet.columns ? byId("sheet-view").querySelectorAll("thead th").length - 1 : 5;
    const room = byId("sheet-view").clientWidth - (sheet.rows ? 130 : 0);
    const fitting = Math.max(105, Math.min(240, Math.floor(room / Math.max(1, columns)) - 10));
    const size = sheet.size ?? fitting;
    document.documentElement.style.setProperty("--cell", `${size}px`);
    byId("sheet-controls").querySelector('input[type="range"]').value = size;
  }

  // The best rows among those with the same inputs; none if all are equal.
  function bestOf(items) {
    const number = data.numbers.find((n) => n.name === sheet.number);
    const groups = new Map();
    for (const index of number?.better ? items : []) {
      const group = inputsOf(rows[index]);
      if (isNumber(rows[index].numbers[sheet.number])) groups.set(group, [...(groups.get(group) ?? []), index]);
    }
    const best = [...groups.values()].flatMap((group) => {
      const values = group.map((index) => rows[index].numbers[sheet.number]);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const wanted = number.better === "lower" ? low : high;
      return low === high ? [] : group.filter((index) => rows[index].numbers[sheet.number] === wanted);
    });
    return new Set(best);
  }

  function constantInputs(items) {
    const used = new Set(items.map((index) => rows[index].picture));
    return data.inputs
      .filter((input) => input.constant && (input.picture === null || used.has(input.picture)))
      .slice(0, 12)
      .map((input) => el("figure", {},
        el("a", { href: input.link }, picture(input.image, `${input.kind} ${input.name}`)),
        el("figcaption", {}, el("b", {}, input.kind), input.name)));
  }

  function heading(axis, value, attributes) {
    const images = (axis.images[value ?? ""] ?? []).map((image) => picture(image, ""));
    return el("th", attributes, el("span", { class: "axis" }, breakable(axis.key)), breakable(unlisted(shown(value))),
      images.length ? el("span", { class: "inputs" }, images) : null);
  }

  function crossed(items, view) {
    const [down, across] = [axisOf(sheet.rows), axisOf(sheet.columns)];
    const present = (axis) => axis.values.filter((value) => items.some((index) => matches(axis, rows[index], value)));
    const columns = across ? present(across) : [undefined];
    const head = across ? el("thead", {}, el("tr", {}, el("td"), columns.map((value) => heading(across, value, { scope: "col" })))) : null;
    const body = present(down).map((value) => el("tr", {}, heading(down, value, { scope: "row" }), columns.map((column) => {
      const here = items.filter((index) => matches(down, rows[index], value) && (!across || matches(across, rows[index], column)));
      const cells = here.map((index) => cell(index, view));
      return el("td", {}, across ? cells : el("div", { class: "flow" }, cells));
    })));
    if (head) head.querySelector("td").replaceWith(el("th", {}, ""));
    return el("table", { class: "grid" }, head, el("tbody", {}, body));
  }

  function flow(items, view) {
    const across = axisOf(sheet.columns);
    const place = (index) => across.values.indexOf(across.of(rows[index]));
    const ordered = across ? [...items].sort((a, b) => place(a) - place(b)) : items;
    const without = view.without.filter((key) => key !== sheet.columns);
    return el("div", { class: "flow" }, ordered.map((index) => cell(index, { ...view, without }, true)));
  }

  function cell(index, view, headed = false) {
    const row = rows[index];
    const name = label(row, view.without);
    const named = axes.some((axis) => !view.without.includes(axis.key)) || !axes.length;
    const best = view.best.has(index);
    const value = row.numbers[sheet.number];
    const number = data.numbers.find((n) => n.name === sheet.number);
    const parts = [named && headed ? el("span", { class: "heading" }, name) : null];
    parts.push(row.image === null ? empty(row) : picture(row.image, fullLabel(row)));
    if (named && !headed) parts.push(el("span", {}, name));
    const notes = [row.image !== null && run(row).status !== "completed" ? run(row).status : null, row.image === null ? null : row.note];
    if (notes.some(Boolean)) parts.push(el("span", {}, notes.filter(Boolean).join(", ")));
    if (number && value !== undefined) {
      parts.push(el("span", { class: "number", title: `${number.label} ${value}` }, `${brief(value)}${best ? " \u2605 best" : ""}`));
    }
    return el("button", {
      type: "button", class: best ? "cell best" : "cell", tabindex: -1, "data-row": index, title: fullLabel(row),
      click: () => openCompare(index), keydown: moveFocus, focus: rove,
    }, parts);
  }

  function empty(row) {
    const { status, error } = run(row);
    const reason = row.note === "damaged" ? "the picture is damaged" : error ?? "there is no picture";
    return el("span", { class: "empty" }, el("b", {}, status), el("span", {}, shortened(reason, CELL_ERROR)));
  }

  // The Tab key reaches one cell only; the arrow keys move from there.
  function rove(event) {
    for (const other of byId("sheet-view").querySelectorAll('.cell[tabindex="0"]')) other.tabIndex = -1;
    event.currentTarget.tabIndex = 0;
  }

  function moveFocus(event) {
    const cells = [...byId("sheet-view").querySelectorAll(".cell")];
    const at = cells.indexOf(event.currentTarget);
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: cells.length - 1 };
    let next = null;
    if (event.key in moves) next = cells[moves[event.key]];
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") next = vertical(cells, event.currentTarget, event.key === "ArrowDown" ? 1 : -1);
    else return;
    event.preventDefault();
    next?.focus();
  }

  function vertical(cells, from, sign) {
    const start = from.getBoundingClientRect();
    const ahead = cells.map((other) => ({ other, box: other.getBoundingClientRect() })).filter(({ box }) => sign * (box.top - start.top) > 4);
    const distance = ({ box }) => Math.abs(box.top - start.top) + 4 * Math.abs(box.left - start.left);
    return ahead.sort((a, b) => distance(a) - distance(b))[0]?.other;
  }

  // ---------------------------------------------------------------- table

  const GROUPS = [["overrides", "overrides"], ["losses", "losses"], ["measures", "measures"], ["picture", "about the picture"], ["cost", "cost"]];
  const table = { sort: null, descending: false, hidden: new Set(), visible: rows.map((_, index) => index) };

  const columns = [
    { id: "job", get: (row) => run(row).job, kind: "number" },
    ...(pictures.length > 1 ? [{ id: "picture", get: (row) => row.picture }] : []),
    { id: "status", get: (row) => run(row).status },
    ...data.axes.map((axis) => ({ id: axis.key, group: "overrides", get: (row) => run(row).values[axis.key], override: true,
      kind: axis.values.every((value) => value === null || !Number.isNaN(asNumber(value))) ? "count" : "text",
    })),
    { id: "error", get: (row) => run(row).error, unseen: true },  // shown below the status
    ...["losses", "measures", "picture"].flatMap((group) => data.numbers.filter((number) => number.group === group).map((number) => ({
      id: number.label, name: number.name, group, title: number.title, get: (row) => row.numbers[number.name], kind: "number",
    }))),
    { id: "seconds", group: "cost", get: (row) => run(row).seconds, kind: "number", title: "time of the whole run" },
    { id: "memory (MB)", group: "cost", get: (row) => run(row).memory_mb, kind: "number", title: "peak memory (resident set)" },
    { id: "GPU memory (MB)", group: "cost", get: (row) => run(row).gpu_memory_mb, kind: "number", title: "peak GPU memory" },
    { id: "seed", group: "cost", get: (row) => run(row).seed, kind: "count" },
    { id: "started", group: "cost", get: (row) => run(row).started },
  ].filter((column) => ["job", "status"].includes(column.id) || rows.some((row) => ![null, undefined, ""].includes(column.get(row))))
    .filter((column, index, all) => all.findIndex((other) => other.id === column.id) === index);

  function asNumber(value) {
    if (typeof value === "number") return value;
    return value === null || value === undefined || value === "" ? NaN : Number(value);
  }

  function compareValues(a, b) {
    const [x, y] = [asNumber(a), asNumber(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  function sorted(indices) {
    const column = columns.find((c) => c.id === table.sort);
    if (!column) return indices;
    const absent = (value) => value === null || value === undefined || value === "" || value === "NaN";
    return [...indices].sort((a, b) => {
      const [x, y] = [column.get(rows[a]), column.get(rows[b])];
      if (absent(x) || absent(y)) return absent(x) - absent(y) || a - b;  // missing values come last in both directions
      return (table.descending ? -1 : 1) * compareValues(x, y) || a - b;
    });
  }

  function startTable() {
    byId("groups").append(...GROUPS.filter(([group]) => columns.some((column) => column.group === group)).map(([group, text]) =>
      check(text, true, (on) => { table.hidden[on ? "delete" : "add"](group); drawTable(); })));
    byId("filter").addEventListener("input", () => { applyFilter(); drawTable(); drawCharts(); });
    applyFilter();
    drawTable();
  }

  function drawTable(focus) {
    const visible = columns.filter((column) => !table.hidden.has(column.group) && !column.unseen);
    const head = visible.map((column) => {
      const active = table.sort === column.id;
      const arrow = active ? (table.descending ? " \u2193" : " \u2191") : "";
      const sort = () => {
        [table.sort, table.descending] = active && table.descending ? [null, false] : [column.id, active];
        drawTable(column.id);
      };
      return el("th", { scope: "col", class: ["number", "count"].includes(column.kind) ? "n" : null, "aria-sort": active ? (table.descending ? "descending" : "ascending") : "none", title: column.title },
        el("button", { type: "button", "data-column": column.id, click: sort }, breakable(column.id), arrow));
    });
    const body = sorted(table.visible).map((index) => el("tr", { "data-row": index }, thumb(index), visible.map((column) => tableCell(column, rows[index]))));
    const foot = data.references.map((reference) => el("tr", {}, el("td"), visible.map((column) => referenceCell(column, reference))));
    byId("table-view").replaceChildren(el("table", { class: "numbers" },
      el("thead", {}, el("tr", {}, el("th", {}, ""), head)), el("tbody", {}, body), foot.length ? el("tfoot", {}, foot) : null));
    if (focus) [...byId("table-view").querySelectorAll("thead button")].find((button) => button.dataset.column === focus)?.focus();
  }

  function thumb(index) {
    const row = rows[index];
    if (row.image === null) return el("td");
    return el("td", {}, el("button", { type: "button", class: "mini", title: "compare", click: () => openCompare(index) }, picture(row.image, `compare ${fullLabel(row)}`)));
  }

  function tableCell(column, row) {
    const value = column.get(row);
    if (column.id === "job" && column.kind) {
      return el("td", { class: "n" }, el("a", { href: run(row).link, title: "the run's folder" }, String(run(row).job)));
    }
    if (column.id === "status" && !column.override) {
      return el("td", {}, row.link ? el("a", { href: row.link, title: "the full-size picture" }, badge(value)) : badge(value), row.note ? ` ${row.note}` : "",
        run(row).error ? el("span", { class: "error", title: run(row).error }, run(row).error) : null);
    }
    if (value === null || value === undefined || value === "") return el("td", { class: ["number", "count"].includes(column.kind) ? "n none" : "none" }, MISSING);
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

  // ---------------------------------------------------------------- filter

  function findColumn(name) {
    const wanted = name.toLowerCase();
    const ids = columns.map((column) => column.id.toLowerCase());
    for (const test of [(id) => id === wanted, (id) => id.endsWith(`.${wanted}`), (id) => id.startsWith(wanted)]) {
      const at = ids.findIndex(test);
      if (at >= 0) return columns[at];
    }
    return null;
  }

  const TESTS = {
    "=": (a, b) => a === b, "!=": (a, b) => a !== b,
    "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
  };

  // One part of the filter as a function of a row; null if it compares a column that does not exist.
  function condition(part) {
    const [, name, sign, text] = part.match(/^([^<>=!]+)(<=|>=|!=|=|<|>)(.*)$/) ?? [];
    const column = name === undefined ? null : findColumn(name);
    if (name !== undefined && column === null) return null;
    if (column === null) {
      const word = part.toLowerCase();
      return (row) => columns.some((c) => String(c.get(row) ?? "").toLowerCase().includes(word));
    }
    return (row) => {
      const value = column.get(row);
      const [x, y] = [asNumber(value), asNumber(text)];
      if (!Number.isNaN(x) && !Number.isNaN(y)) return TESTS[sign](x, y);
      if (sign !== "=" && sign !== "!=") return false;
      return TESTS[sign](String(value ?? "").toLowerCase(), text.toLowerCase());
    };
  }

  function applyFilter() {
    const parts = (byId("filter").value.match(/(?:"[^"]*"?|[^\s"])+/g) ?? []).map((part) => part.replaceAll('"', ""));
    const unknown = parts.filter((part) => condition(part) === null);
    // A comparison with an unknown column is treated as a word.
    const tests = parts.map((part) => condition(part) ?? ((row) => columns.some((c) => String(c.get(row) ?? "").toLowerCase().includes(part.toLowerCase()))));
    table.visible = rows.map((_, index) => index).filter((index) => tests.every((test) => test(rows[index])));
    const hint = unknown.length ? `; no column has the name in ${unknown.join(" ")}` : "";
    byId("filter-count").textContent = parts.length ? `${table.visible.length} of ${plural(rows.length, "row")}${hint}` : plural(rows.length, "row");
  }

  // ---------------------------------------------------------------- charts

  const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c6d31", "#999999", "#b2182b"];
  const RAMP = [[70, 100, 220], [40, 150, 190], [60, 165, 100], [220, 155, 30], [214, 69, 65]];  // visible on white and black
  const charts = { term: "", picture: ANY, x: "steps", log: true, color: "", xAxis: "", yAxis: "", logX: false, logY: false };
  const terms = [...new Set(data.curves.flatMap((curve) => Object.keys(curve.terms)))];
  const measures = columns.filter((column) => column.kind === "number" && column.id !== "job");

  function startCharts() {
    const has = (name) => measures.find((column) => column.name === name)?.id;
    const losses = measures.filter((column) => column.group === "losses" && column.name !== "total");
    const [first, second] = [...losses, ...measures.filter((column) => !losses.includes(column))];
    const both = has("style_gram") && has("content_loss");
    byId("curves").closest("figure").hidden = !terms.length;
    charts.term = terms.includes("total") ? "total" : terms[0] ?? "";
    charts.color = data.axes[0]?.key ?? axes[0]?.key ?? "";
    charts.xAxis = both ? has("content_loss") : first?.id ?? "";
    charts.yAxis = both ? has("style_gram") : (second ?? first)?.id ?? "";
    [charts.logX, charts.logY] = [wide(charts.xAxis), wide(charts.yAxis)];
    const redraw = (name) => (value) => { charts[name] = value; drawCharts(); };
    const colors = select("Color", [["", "run"], ...axes.map((axis) => [axis.key, axis.key])], charts.color, redraw("color"));
    const all = [[ANY, "all"], ...pictures.map((name) => [name, name])];
    byId("curve-controls").append(
      select("Term", terms.map((term) => [term, term]), charts.term, redraw("term")),
      ...(pictures.length > 1 ? [select("Picture", all, charts.picture, redraw("picture"))] : []),
      ...(data.curves.some((curve) => curve.seconds.length) ? [select("X axis", [["steps", "steps"], ["seconds", "seconds"]], "steps", redraw("x"))] : []),
      colors, check("log scale", true, redraw("log")),
    );
    const options = measures.map((column) => [column.id, column.id]);
    byId("scatter-controls").append(
      select("X", options, charts.xAxis, redraw("xAxis")), select("Y", options, charts.yAxis, redraw("yAxis")),
      check("log x", charts.logX, redraw("logX")), check("log y", charts.logY, redraw("logY")),
    );
  }

  // Whether all values of a column are positive, and the largest is more than 30 times the smallest.
  function wide(id) {
    const column = measures.find((c) => c.id === id);
    const references = column?.name === undefined ? [] : data.references.map((reference) => reference.numbers[column.name]);
    const values = column ? [...rows.map((row) => column.get(row)), ...references].filter(isNumber) : [];
    return values.length > 1 && Math.min(...values) > 0 && Math.max(...values) > 30 * Math.min(...values);
  }

  // Plotly interprets some HTML in its labels.
  const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  function colorOf(row, index) {
    const axis = axisOf(charts.color);
    if (!axis) return COLORS[index % COLORS.length];
    const at = axis.values.indexOf(axis.of(row));
    const isScale = axis.values.length > 2 && axis.values.every((value) => !Number.isNaN(asNumber(value)));
    if (!isScale) return COLORS[at % COLORS.length];
    const place = (at / (axis.values.length - 1)) * (RAMP.length - 1);
    const low = Math.min(Math.floor(place), RAMP.length - 2);
    const mixed = RAMP[low].map((value, n) => Math.round(value + (place - low) * (RAMP[low + 1][n] - value)));
    return `rgb(${mixed.join(",")})`;
  }

  function legend(row, seen) {
    const axis = axisOf(charts.color);
    const name = axis ? shown(axis.of(row)) : fullLabel(row);
    const first = !seen.has(name);
    seen.add(name);
    return { name: escaped(shortened(name, 40)), legendgroup: name, showlegend: first && seen.size <= 14 };
  }

  function themeColor(name) {
    const probe = document.body.appendChild(el("span", { style: `color: var(${name})` }));
    const color = getComputedStyle(probe).color;
    probe.remove();
    return color;
  }

  function layout(x, y) {
    const [text, rule] = [themeColor("--text"), themeColor("--rule")];
    const axis = { gridcolor: rule, zerolinecolor: rule, linecolor: rule, automargin: true };
    const named = (title, log) => ({ ...axis, title: { text: escaped(title), font: { size: 12 } }, type: log ? "log" : "linear", exponentformat: log ? "power" : "e" });
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, family: "system-ui, sans-serif", size: 12 },
      margin: { l: 56, r: 8, t: 8, b: 44 }, hovermode: "closest", xaxis: named(...x), yaxis: named(...y),
      modebar: { bgcolor: "rgba(0,0,0,0)", color: rule, activecolor: themeColor("--muted") },
      hoverlabel: { align: "left", font: { family: "system-ui, sans-serif", size: 12 } },
      legend: { orientation: "h", y: -0.2, font: { size: 11 }, title: { text: charts.color ? escaped(charts.color) : "", font: { size: 11 } } },
    };
  }

  // The buttons are listed, since one of plotly's default buttons opens its cloud service.
  const OPTIONS = {
    responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  };

  function drawCharts() {
    if (typeof Plotly === "undefined") return;
    drawCurves();
    drawScatter();
  }

  function drawCurves() {
    const visible = new Map(table.visible.map((index) => [`${rows[index].run} ${rows[index].picture}`, index]));
    const seen = new Set();
    const traces = [];
    for (const curve of data.curves) {
      const index = visible.get(`${curve.run} ${curve.picture}`);
      const y = curve.terms[charts.term];
      const x = curve[charts.x];
      if (index === undefined || !y || !x.length || (charts.picture !== ANY && curve.picture !== charts.picture)) continue;
      const row = rows[index];
      traces.push({
        x, y: charts.log ? y.map((value) => (value > 0 ? value : null)) : y, type: "scatter", mode: x.length < 2 ? "markers" : "lines",
        line: { color: colorOf(row, index), width: 1.6 }, marker: { color: colorOf(row, index) }, meta: escaped(fullLabel(row)),
        hovertemplate: `%{meta}<br>${charts.x} %{x}: %{y:.5~g}<extra></extra>`, ...legend(row, seen),
      });
    }
    Plotly.react("curves", traces, layout([charts.x, false], [charts.term, charts.log]), OPTIONS);
  }

  function drawScatter() {
    const [xColumn, yColumn] = [charts.xAxis, charts.yAxis].map((id) => measures.find((column) => column.id === id));
    const traces = [];
    const seen = new Set();
    const template = "%{text}<br>%{xaxis.title.text} %{x:.5~g}<br>%{yaxis.title.text} %{y:.5~g}<extra></extra>";
    for (const index of xColumn && yColumn ? table.visible : []) {
      const row = rows[index];
      const [x, y] = [xColumn.get(row), yColumn.get(row)];
      if (!isNumber(x) || !isNumber(y)) continue;
      traces.push({
        x: [x], y: [y], customdata: [index], text: [escaped(fullLabel(row))], type: "scatter", mode: "markers",
        marker: { size: 9, color: colorOf(row, index), line: { width: 1, color: themeColor("--surface") } }, hovertemplate: template, ...legend(row, seen),
      });
    }
    const symbols = { photo: "diamond-open", painting: "star-open" };
    for (const reference of data.references) {
      const [x, y] = [xColumn, yColumn].map((column) => reference.numbers[column?.name]);
      if (!isNumber(x) || !isNumber(y)) continue;
      const owner = [pictures.length > 1 ? reference.picture : null, ...Object.values(reference.values)].filter(Boolean).join(", ");
      const name = `the ${reference.kind} itself`;
      const isFirst = !seen.has(name);
      seen.add(name);
      traces.push({
        x: [x], y: [y], text: [escaped(owner ? `${name} (${owner})` : name)], name: escaped(name), legendgroup: name, showlegend: isFirst, type: "scatter", mode: "markers", hovertemplate: template,
        marker: { size: 13, symbol: symbols[reference.kind] ?? "square-open", color: themeColor("--muted"), line: { width: 2 } },
      });
    }
    Plotly.react("scatter", traces, layout([charts.xAxis, charts.logX], [charts.yAxis, charts.logY]), OPTIONS);
    const area = byId("scatter");
    area.removeAllListeners?.("plotly_click");
    area.on("plotly_click", (event) => {
      const index = event.points[0].customdata;
      if (index !== undefined) openCompare(index);
    });
  }

  // ---------------------------------------------------------------- compare

  const choices = [
    ...rows.map((row, index) => ({ key: `row ${index}`, text: fullLabel(row), row, image: row.image, link: row.link })),
    ...data.inputs.map((input, index) => ({ key: `input ${index}`, text: `${input.kind}: ${input.name}`, image: input.image, link: input.link })),
  ];
  const sides = { a: null, b: null, last: null };
  const choice = (key) => choices.find((option) => option.key === key);

  function nearest(index) {
    const cells = [...byId("sheet-view").querySelectorAll(".cell")].map((button) => Number(button.dataset.row));
    const at = cells.indexOf(index);
    const order = at < 0 ? rows.map((_, n) => n) : [...cells.slice(at + 1), ...cells.slice(0, Math.max(at, 0)).reverse()];
    const others = order.filter((other) => other !== index && rows[other].image !== null);
    return others.find((other) => inputsOf(rows[other]) === inputsOf(rows[index])) ?? others[0] ?? null;
  }

  function openCompare(index) {
    const other = sides.last !== null && sides.last !== index ? sides.last : nearest(index);
    const first = data.inputs.findIndex((input) => input.kind === "content");
    sides.a = `row ${index}`;
    sides.b = other !== null ? `row ${other}` : first >= 0 ? `input ${first}` : sides.a;
    sides.last = index;
    byId("compare-slider").value = 50;
    byId("compare").showModal();
    drawCompare();
    byId("compare-slider").focus();
  }

  function startCompare() {
    for (const side of ["a", "b"]) {
      const list = byId(`compare-${side}`);
      list.append(...choices.map((option) => el("option", { value: option.key }, shortened(option.text, 110))));
      list.addEventListener("change", () => { sides[side] = list.value; drawCompare(); });
    }
    byId("compare-swap").addEventListener("click", () => { [sides.a, sides.b] = [sides.b, sides.a]; drawCompare(); });
    byId("compare-close").addEventListener("click", () => byId("compare").close());
    byId("compare").addEventListener("click", (event) => { if (event.target === byId("compare")) byId("compare").close(); });
    byId("compare-slider").addEventListener("input", slide);
  }

  function slide() {
    byId("compare-view").style.setProperty("--at", `${byId("compare-slider").value}%`);
  }

  function drawCompare() {
    const [a, b] = [choice(sides.a), choice(sides.b)];
    byId("compare-a").value = sides.a;
    byId("compare-b").value = sides.b;
    byId("compare-view").querySelector(".a").replaceChildren(full(a));
    byId("compare-view").querySelector(".b").replaceChildren(full(b));
    byId("compare-links").replaceChildren("Full size: ", ...[["A", a], ["B", b]].flatMap(([name, side]) =>
      [side.link ? el("a", { href: side.link, target: "_blank", rel: "noopener" }, name) : `${name} has no picture`, " "]));
    byId("compare-config").replaceChildren(configDiff(a, b));
    byId("compare-numbers").replaceChildren(numberDiff(a, b));
    slide();
  }

  // Shows the thumbnail at once, and the full-size picture when it is loaded. It may have been moved or deleted.
  function full(side) {
    if (side.image === null) return el("p", {}, `${run(side.row).status}: ${run(side.row).error ?? "there is no picture"}`);
    const image = el("img", { src: data.images[side.image].src, alt: side.text });
    if (side.link) {
      const large = new Image();
      large.addEventListener("load", () => { image.src = side.link; image.dataset.full = ""; });
      large.src = side.link;
    }
    return image;
  }

  function keysTable(head, lines, className = "keys") {
    return el("table", { class: className }, el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col", class: className === "numbers" && text ? "n" : null }, text)))),
      el("tbody", {}, lines));
  }

  function configDiff(a, b) {
    if (!a.row || !b.row) return el("p", { class: "hint" }, "Input pictures have no configuration.");
    const [first, second] = [run(a.row), run(b.row)];
    const own = { ...first.values, ...first.config }, other = { ...second.values, ...second.config };
    const keys = [...new Set([...Object.keys(own), ...Object.keys(other)])].filter((key) => (own[key] ?? null) !== (other[key] ?? null));
    if (!keys.length) return el("p", { class: "hint" }, "The configurations are the same.");
    return keysTable(["", "A", "B"], keys.map((key) => el("tr", {}, el("th", {}, key), el("td", {}, own[key] ?? MISSING), el("td", {}, other[key] ?? MISSING))));
  }

  function numberDiff(a, b) {
    const value = (side, column) => (side.row ? column.get(side.row) : undefined);
    const lines = measures.filter((column) => [a, b].some((side) => isNumber(value(side, column)))).map((column) => {
      const compares = a.row && b.row && inputsOf(a.row) === inputsOf(b.row);
      const better = compares && data.numbers.find((number) => number.name === column.name)?.better;
      const [x, y] = [value(a, column), value(b, column)];
      const wins = (own, other) => better && isNumber(own) && isNumber(other) && (better === "lower" ? own < other : own > other);
      const mark = (own, other) => el("td", { class: wins(own, other) ? "n better" : "n", title: own === undefined ? null : String(own) }, brief(own));
      return el("tr", {}, el("td", { title: column.title }, column.id), mark(x, y), mark(y, x));
    });
    return lines.length ? keysTable(["", "A", "B"], lines, "numbers") : el("p", { class: "hint" }, "No numbers.");
  }

  // ---------------------------------------------------------------- configuration, theme

  function drawConfig() {
    const line = (key, ...values) => el("tr", {}, el("th", {}, key), values.map((value) => el("td", {}, value ?? MISSING)));
    const common = Object.entries(data.config);
    const differing = [...new Set(data.runs.flatMap((job) => Object.keys(job.config)))];
    const parts = [];
    if (differing.length) {
      const lines = differing.map((key) => line(key, ...data.runs.map((job) => job.config[key])));
      parts.push(folded(`Different: ${plural(differing.length, "key")}`, keysTable(["", ...data.runs.map(jobName)], lines)));
    }
    parts.push(folded(`The same in all runs: ${plural(common.length, "key")}`, el("table", { class: "keys" }, el("tbody", {}, common.map(([key, value]) => line(key, value))))));
    byId("config-view").append(...parts);
  }

  const folded = (title, content) => el("details", {}, el("summary", {}, title), el("div", { class: "scroll" }, content));

  function startTheme() {
    const next = { "": "light", light: "dark", dark: "" };
    const root = document.documentElement;
    byId("theme").addEventListener("click", () => {
      const theme = next[root.dataset.theme ?? ""];
      if (theme) root.dataset.theme = theme;
      else delete root.dataset.theme;
      byId("theme").textContent = `Theme: ${theme || "system"}`;
      drawCharts();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
    let before;
    addEventListener("beforeprint", () => { before = root.dataset.theme; root.dataset.theme = "light"; drawCharts(); });
    addEventListener("afterprint", () => { if (before) root.dataset.theme = before; else delete root.dataset.theme; drawCharts(); });
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; setSize(); } });
  }

  drawHead();
  startSheet();
  startTable();
  startCharts();
  startCompare();
  drawConfig();
  startTheme();
  return { drawCharts };
})();
