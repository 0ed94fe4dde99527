// The contact sheet: pictures by the keys that vary. Repeats, and pairs on request, are folded: one cell has them all.
import { breakable, byId, el, lazyPicture, select } from "./dom.mjs";
import { ANY, FOLD } from "./model.mjs";
import { brief, isNumber, shortened, shown, spread, unlisted } from "./text.mjs";

const CELL_ERROR = 90;  // number of characters that fit into a cell

export function makeSheet({ model, address, openCompare }) {
  const { data, rows, run, axes, axisOf, label, fullLabel } = model;
  const items = rows.map((_, index) => index).filter((index) => model.isPicture(rows[index]));
  const sheet = { rows: "", columns: "", picks: {}, number: "", size: null, step: null, flips: new Map() };
  const steps = [...new Set(rows.flatMap((row) => row.steps ?? []))].sort((a, b) => a - b);

  function start() {
    const normal = defaults();
    Object.assign(sheet, { rows: address.get("rows", normal.rows), columns: address.get("columns", normal.columns), number: address.get("number", normal.number) });
    if (!axisOf(sheet.rows)) sheet.rows = "";
    if (!axisOf(sheet.columns) || sheet.columns === sheet.rows) sheet.columns = "";
    for (const axis of axes) sheet.picks[axis.key] = address.get(`pick.${axis.key}`, normal.picks[axis.key]);
    sheet.step = address.get("step") === null ? null : Number(address.get("step"));
    sheet.normal = normal;
    draw();
  }

  function defaults() {
    const { pairs, repeats } = data.design;
    const keys = independentAxes(data).filter((key) => !repeats.includes(key));
    keys.sort((a, b) => pairs.includes(b) - pairs.includes(a));  // settings are the last, which are rows and columns
    const all = keys.length ? keys : independentAxes(data);
    let [across, down] = [all.at(-1) ?? "", all.at(-2) ?? ""];
    const area = (axisOf(down)?.values.length ?? 1) * (axisOf(across)?.values.length ?? 1);
    if (area > 3 * rows.length) across = down = "";  // most cells would be empty, so use a list
    const listed = !across && !down;
    const picks = {};
    for (const axis of axes) {
      const isRepeat = repeats.includes(axis.key) && keys.length;
      const isFree = axis.key === "picture" || (all.includes(axis.key) && !listed);
      picks[axis.key] = isRepeat ? FOLD : isFree ? axis.values[0] ?? "" : ANY;
    }
    const number = (data.numbers.find((n) => n.better && n.group === "measures") ?? data.numbers.find((n) => n.better) ?? { name: "" }).name;
    return { rows: down, columns: across, picks, number };
  }

  function store() {
    for (const name of ["rows", "columns", "number"]) address.put(name, sheet[name], sheet.normal[name]);
    for (const axis of axes) address.put(`pick.${axis.key}`, sheet.picks[axis.key], sheet.normal.picks[axis.key]);
    address.put("step", sheet.step);
  }

  function draw(focus) {
    const placed = [sheet.rows, sheet.columns];
    const others = axes.filter((axis) => !placed.includes(axis.key));
    const folded = others.filter((axis) => sheet.picks[axis.key] === FOLD).map((axis) => axis.key);
    const picked = others.filter((axis) => ![ANY, FOLD].includes(sheet.picks[axis.key]));
    const inView = items.filter((index) => picked.every((axis) => model.matches(axis, rows[index], sheet.picks[axis.key] || null)));
    const same = others.filter((axis) => new Set(inView.map((index) => axis.of(rows[index]))).size < 2);
    const groups = groupsOf(inView, folded);
    const view = { folded, without: [...placed, ...folded, ...[...picked, ...same].map((axis) => axis.key)] };
    view.best = bestOf(groups, view);
    view.groups = groups;
    byId("sheet-controls").replaceChildren(...controls(others));
    byId("inputs").replaceChildren(...constantInputs(inView));
    const nothing = el("p", { class: "hint" }, "No run has these values.");
    byId("sheet-view").replaceChildren(!groups.length ? nothing : sheet.rows ? crossed(groups, view) : flow(groups, view));
    sheet.view = view;
    setSize();
    const first = byId("sheet-view").querySelector(".cell");
    if (first) first.tabIndex = 0;
    if (sheet.step !== null) showStep();
    if (focus) byId("sheet-controls").querySelector(`[data-control="${CSS.escape(focus)}"] select`)?.focus();
  }

  // Rows that differ only in folded axes, in the order of their first row.
  function groupsOf(indices, folded) {
    const kept = axes.filter((axis) => !folded.includes(axis.key));
    const groups = new Map();
    for (const index of indices) {
      const key = folded.length ? JSON.stringify(kept.map((axis) => axis.of(rows[index]))) : String(index);
      groups.set(key, [...(groups.get(key) ?? []), index]);
    }
    return [...groups].map(([key, members]) => ({ key, members, first: members[0] }));
  }

  function controls(others) {
    const named = (control, name) => { control.dataset.control = name; return control; };
    const redraw = (focus) => { store(); draw(focus); };
    const choose = (which) => (value) => {
      const other = which === "rows" ? "columns" : "rows";
      if (value && sheet[other] === value) sheet[other] = sheet[which];
      sheet[which] = value;
      redraw(which);
    };
    const options = [["", "none"], ...axes.map((axis) => [axis.key, axis.key])];
    const found = axes.length ? [
      named(select("Rows", options, sheet.rows, choose("rows")), "rows"),
      named(select("Columns", options, sheet.columns, choose("columns")), "columns"),
    ] : [];
    for (const axis of others) {
      const fold = model.canFold.includes(axis.key) ? [[FOLD, "mean of all"]] : [];
      const values = [[ANY, "all"], ...fold, ...axis.values.map((value) => [value ?? "", shown(value)])];
      const change = (value) => { sheet.picks[axis.key] = value; redraw(axis.key); };
      found.push(named(select(axis.key, values, sheet.picks[axis.key], change), axis.key));
    }
    const numbers = [["", "none"], ...data.numbers.map((number) => [number.name, number.label])];
    found.push(named(select("Number under the picture", numbers, sheet.number, (value) => { sheet.number = value; redraw("number"); }), "number"));
    const slider = el("input", { type: "range", min: 70, max: 320, step: 10, id: "cell-size", input: (event) => { sheet.size = Number(event.target.value); setSize(); } });
    found.push(el("label", {}, "Size", slider));
    if (steps.length) found.push(stepSlider());
    return found;
  }

  function stepSlider() {
    const text = () => (sheet.step === null ? "the result" : `step ${sheet.step}`);
    const output = el("output", {}, text());
    const place = sheet.step === null ? steps.length : steps.indexOf(sheet.step);
    const change = (event) => {
      sheet.step = steps[Number(event.target.value)] ?? null;
      event.target.setAttribute("aria-valuetext", text());
      output.textContent = text();
      store();
      showStep();
    };
    const slider = el("input", { type: "range", id: "step", min: 0, max: steps.length, step: 1, "aria-valuetext": text(), input: change });
    slider.value = place < 0 ? steps.length : place;
    return el("label", {}, el("span", {}, "Step: ", output), slider);
  }

  // Shows every visible picture as it was at a step, from the files in images/; without them the result stays.
  function showStep() {
    for (const cell of byId("sheet-view").querySelectorAll(".cell")) stepOf(cell, rows[Number(cell.dataset.row)]);
  }

  function stepOf(cell, row) {
    const image = cell.querySelector("img");
    if (!image || !row.steps) return;
    const step = sheet.step === null ? undefined : row.steps.filter((one) => one <= sheet.step).at(-1);
    const result = data.images[row.image].src;
    image.onerror = () => { image.onerror = null; image.lazySource = image.src = result; };
    image.lazySource = image.src = step === undefined ? result : stepLink(row, step);
  }

  function setSize() {
    const columns = sheet.rows && sheet.columns ? byId("sheet-view").querySelectorAll("thead th").length - 1 : 5;
    const room = byId("sheet-view").clientWidth - (sheet.rows ? 130 : 0);
    const fitting = Math.max(105, Math.min(240, Math.floor(room / Math.max(1, columns)) - 10));
    const size = sheet.size ?? fitting;
    document.documentElement.style.setProperty("--cell", `${size}px`);
    byId("cell-size").value = size;
  }

  const valueOfGroup = (group, view) => (group.members.length > 1 ? model.estimate(sheet.number, group.members, view.folded)?.[1] : rows[group.first].numbers[sheet.number]);

  // The best groups among those with the same inputs; none if all are equal.
  function bestOf(groups, view) {
    const number = data.numbers.find((n) => n.name === sheet.number);
    const rivals = new Map();
    for (const group of number?.better ? groups : []) {
      const value = group.members.every((index) => run(rows[index]).status === "pruned") ? null : valueOfGroup(group, view);  // its numbers are those of an early step
      const folds = model.canFold.some((key) => view.folded.includes(key) && data.design.pairs.includes(key));
      const inputs = folds ? "" : model.inputsOf(rows[group.first]);
      if (isNumber(value)) rivals.set(inputs, [...(rivals.get(inputs) ?? []), [group.key, value]]);
    }
    return new Set([...rivals.values()].flatMap((pairs) => {
      const values = pairs.map(([, value]) => value);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const wanted = number.better === "lower" ? low : high;
      return low === high ? [] : pairs.filter(([, value]) => value === wanted).map(([key]) => key);
    }));
  }

  function constantInputs(indices) {
    const used = new Set(indices.map((index) => rows[index].picture));
    return data.inputs
      .filter((input) => input.constant && (input.picture === null || used.has(input.picture)))
      .slice(0, 12)
      .map((input) => el("figure", {},
        el("a", { href: input.link }, lazyPicture(data.images[input.image], `${input.kind} ${input.name}`)),
        el("figcaption", {}, el("b", {}, input.kind), input.name)));
  }

  function heading(axis, value, attributes) {
    const images = (axis.images[value ?? ""] ?? []).map((image) => lazyPicture(data.images[image], ""));
    return el("th", attributes, el("span", { class: "axis" }, breakable(axis.key)), breakable(unlisted(shown(value))),
      images.length ? el("span", { class: "inputs" }, images) : null);
  }

  function crossed(groups, view) {
    const [down, across] = [axisOf(sheet.rows), axisOf(sheet.columns)];
    const present = (axis) => axis.values.filter((value) => groups.some((group) => model.matches(axis, rows[group.first], value)));
    const columns = across ? present(across) : [undefined];
    const head = across ? el("thead", {}, el("tr", {}, el("th", {}, ""), columns.map((value) => heading(across, value, { scope: "col" })))) : null;
    const body = present(down).map((value) => el("tr", {}, heading(down, value, { scope: "row" }), columns.map((column) => {
      const here = groups.filter(({ first }) => model.matches(down, rows[first], value) && (!across || model.matches(across, rows[first], column)));
      const cells = here.map((group) => cell(group, view));
      return el("td", {}, across ? cells : el("div", { class: "flow" }, cells));
    })));
    return el("table", { class: "grid" }, head, el("tbody", {}, body));
  }

  function flow(groups, view) {
    const across = axisOf(sheet.columns);
    const place = (group) => across.values.indexOf(across.of(rows[group.first]));
    const ordered = across ? [...groups].sort((a, b) => place(a) - place(b)) : groups;
    const without = view.without.filter((key) => key !== sheet.columns);
    return el("div", { class: "flow" }, ordered.map((group) => cell(group, { ...view, without }, true)));
  }

  function cell(group, view, headed = false) {
    const place = Math.min(sheet.flips.get(group.key) ?? 0, group.members.length - 1);
    const index = group.members[place];
    const row = rows[index];
    const name = label(row, view.without);
    const named = axes.some((axis) => !view.without.includes(axis.key)) || !axes.length;
    const best = view.best.has(group.key);
    const parts = [named && headed ? el("span", { class: "heading" }, name) : null];
    parts.push(row.image === null ? empty(row) : lazyPicture(data.images[row.image], fullLabel(row)));
    if (named && !headed) parts.push(el("span", {}, name));
    const notes = [row.image !== null && run(row).status !== "completed" ? run(row).status : null, row.image === null ? null : row.note];
    if (notes.some(Boolean)) parts.push(el("span", {}, notes.filter(Boolean).join(", ")));
    parts.push(...numberUnder(group, view, row, best));
    const button = el("button", {
      type: "button", class: best ? "cell best" : "cell", tabindex: -1, "data-row": index, title: fullLabel(row),
      click: () => openCompare(index), keydown: move, focus: rove,
    }, parts);
    if (sheet.step !== null) stepOf(button, row);
    return group.members.length > 1 ? el("div", { class: "folded" }, button, flipper(group, place)) : button;
  }

  function numberUnder(group, view, row, best) {
    const number = data.numbers.find((n) => n.name === sheet.number);
    const star = best ? " \u2605 best" : "";
    if (!number) return [];
    if (group.members.length === 1) {
      const value = row.numbers[sheet.number];
      return value === undefined ? [] : [el("span", { class: "number", title: `${number.label} ${value}` }, `${brief(value)}${star}`)];
    }
    const found = model.estimate(sheet.number, group.members, view.folded);
    if (!found) return [];
    const [n, mean, sd, low] = found;
    const pairs = data.design.pairs.some((key) => view.folded.includes(key));
    const unit = pairs ? data.design.unit : data.design.repeats.join() === "seed" ? "seed" : "repeat";
    const title = `${number.label}: mean ${mean}${sd === null ? "" : `, standard deviation ${brief(sd)}`}${low === null ? "" : ", 95 % interval in brackets"}, ${n} ${unit}s`;
    return [el("span", { class: "number", title }, `${spread(found)}${star}`), el("span", {}, `mean of ${n} ${unit}${n === 1 ? "" : "s"}`)];
  }

  function flipper(group, place) {
    const turn = (by) => () => flip(group.key, by);
    const step = (by, text, name) => el("button", { type: "button", class: "quiet", tabindex: -1, "aria-label": `${name} picture of this setting`, click: turn(by) }, text);
    return el("span", { class: "flip" }, step(-1, "\u2039", "previous"), el("span", { role: "status" }, `${place + 1}/${group.members.length} ${foldedValues(group.members[place])}`), step(1, "\u203a", "next"));
  }

  const foldedValues = (index) => axes.filter((axis) => sheet.picks[axis.key] === FOLD && ![sheet.rows, sheet.columns].includes(axis.key))
    .map((axis) => `${axis.key === "picture" ? "" : `${axis.key} `}${shortened(unlisted(shown(axis.of(rows[index]))), 24)}`).join(", ");

  function flip(key, by) {
    const group = sheet.view.groups.find((one) => one.key === key);
    const count = group.members.length;
    sheet.flips.set(key, ((sheet.flips.get(key) ?? 0) + by + count) % count);
    const old = [...byId("sheet-view").querySelectorAll(".folded")].find((box) => group.members.includes(Number(box.querySelector(".cell").dataset.row)));
    const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") ?? "cell" : null;
    const fresh = cell(group, { ...sheet.view, without: sheet.rows ? sheet.view.without : sheet.view.without.filter((name) => name !== sheet.columns) }, !sheet.rows);
    old.replaceWith(fresh);
    if (focused) (focused === "cell" ? fresh.querySelector(".cell") : fresh.querySelector(`[aria-label="${focused}"]`)).focus();
  }

  function empty(row) {
    const { status, error } = run(row);
    const reason = row.note === "damaged" ? "the picture is damaged" : error ?? "there is no picture";
    return el("span", { class: "empty" }, el("b", {}, status), el("span", {}, shortened(reason, CELL_ERROR)));
  }

  // The Tab key reaches one cell only; the arrow keys move from there, and [ and ] turn over the pictures of a cell.
  function rove(event) {
    for (const other of byId("sheet-view").querySelectorAll('.cell[tabindex="0"]')) other.tabIndex = -1;
    event.currentTarget.tabIndex = 0;
  }

  function move(event) {
    const cells = [...byId("sheet-view").querySelectorAll(".cell")];
    const at = cells.indexOf(event.currentTarget);
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: cells.length - 1 };
    let next = null;
    if (event.key === "[" || event.key === "]") {
      const group = sheet.view.groups.find(({ members }) => members.includes(Number(event.currentTarget.dataset.row)));
      if (group.members.length > 1) flip(group.key, event.key === "]" ? 1 : -1);
    } else if (event.key in moves) next = cells[moves[event.key]];
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") next = vertical(cells, event.currentTarget, event.key === "ArrowDown" ? 1 : -1);
    else return;
    event.preventDefault();
    next?.focus();
  }

  return { start, setSize };
}

export const stepLink = (row, step) => `${row.link.slice(0, row.link.lastIndexOf("/") + 1)}images/${row.link.slice(row.link.lastIndexOf("/") + 1).replace(/\.[^.]*$/, "")}_${String(step).padStart(5, "0")}.jpg`;

function vertical(cells, from, sign) {
  const start = from.getBoundingClientRect();
  const ahead = cells.map((other) => ({ other, box: other.getBoundingClientRect() })).filter(({ box }) => sign * (box.top - start.top) > 4);
  const distance = ({ box }) => Math.abs(box.top - start.top) + 4 * Math.abs(box.left - start.left);
  return ahead.sort((a, b) => distance(a) - distance(b))[0]?.other;
}

// The axes whose value is not determined by an earlier axis. With two sweeps, for example, a setting that only differs
// between the sweeps is determined by the sweep.
export function independentAxes(data) {
  const kept = [];
  const values = data.rows.filter((row) => !row.mean).map((row) => ({ ...data.runs[row.run].values, ...row.values }));
  for (const axis of data.axes) {
    const follows = (other) => {
      const pairs = new Set(values.map((of) => JSON.stringify([of[other.key], of[axis.key]])));
      return pairs.size === new Set(values.map((of) => of[other.key])).size;
    };
    if (!kept.some(follows)) kept.push(axis);
  }
  return kept.map((axis) => axis.key);
}
