// The comparison of two pictures: a slider between them, what differs in their configurations, their numbers, notes.
import { byId, el } from "./dom.mjs";
import { tableButtons } from "./exporting.mjs";
import { MISSING, brief, isNumber, shortened } from "./text.mjs";

export function makeCompare({ model, address, notes }) {
  const { data, rows, run, fullLabel, inputsOf } = model;
  const measures = model.columns.filter((column) => column.kind === "number" && column.id !== "job");
  const choices = [
    ...rows.map((row, index) => ({ key: `row ${index}`, text: fullLabel(row), row, image: row.image, link: row.link })),
    ...data.inputs.map((input, index) => ({ key: `input ${index}`, text: `${input.kind}: ${input.name}`, image: input.image, link: input.link })),
  ];
  const byKey = new Map(choices.map((choice) => [choice.key, choice]));
  const sides = { a: null, b: null, last: null };

  function nearest(index) {
    const cells = [...byId("sheet-view").querySelectorAll(".cell")].map((button) => Number(button.dataset.row));
    const at = cells.indexOf(index);
    const order = at < 0 ? rows.map((_, n) => n) : [...cells.slice(at + 1), ...cells.slice(0, Math.max(at, 0)).reverse()];
    const others = order.filter((other) => other !== index && rows[other].image !== null);
    return others.find((other) => inputsOf(rows[other]) === inputsOf(rows[index])) ?? others[0] ?? null;
  }

  function open(index) {
    const other = sides.last !== null && sides.last !== index ? sides.last : nearest(index);
    const first = data.inputs.findIndex((input) => input.kind === "content");
    sides.a = `row ${index}`;
    sides.b = other !== null ? `row ${other}` : first >= 0 ? `input ${first}` : sides.a;
    sides.last = index;
    show();
  }

  function show() {
    fill();
    byId("compare-slider").value = 50;
    byId("compare").showModal();
    draw();
    byId("compare-slider").focus();
  }

  // The lists of all pictures are made when they are needed: with 1,000 runs they are long.
  function fill() {
    for (const side of ["a", "b"]) {
      const list = byId(`compare-${side}`);
      if (!list.options.length) list.append(...choices.map((choice) => el("option", { value: choice.key }, shortened(choice.text, 110))));
    }
  }

  function start() {
    for (const side of ["a", "b"]) byId(`compare-${side}`).addEventListener("change", (event) => { sides[side] = event.target.value; draw(); });
    byId("compare-swap").addEventListener("click", () => { [sides.a, sides.b] = [sides.b, sides.a]; draw(); });
    byId("compare-close").addEventListener("click", () => byId("compare").close());
    byId("compare").addEventListener("click", (event) => { if (event.target === byId("compare")) byId("compare").close(); });
    byId("compare").addEventListener("close", () => address.put("compare", null));
    byId("compare-slider").addEventListener("input", slide);
    byId("compare-note").addEventListener("input", (event) => { if (byKey.get(sides.a)?.row) notes.put(run(byKey.get(sides.a).row), event.target.value.trim()); });
    byId("compare-numbers-export").append(tableButtons("comparison", numberTable));
    const [a, b] = (address.get("compare") ?? "").split(",").map((text) => text.replace("-", " "));
    if (byKey.has(a) && byKey.has(b)) {
      Object.assign(sides, { a, b });
      show();
    }
  }

  function slide() {
    byId("compare-view").style.setProperty("--at", `${byId("compare-slider").value}%`);
  }

  function draw() {
    const [a, b] = [byKey.get(sides.a), byKey.get(sides.b)];
    address.put("compare", [sides.a, sides.b].map((key) => key.replace(" ", "-")).join(","));
    byId("compare-a").value = sides.a;
    byId("compare-b").value = sides.b;
    byId("compare-view").querySelector(".a").replaceChildren(full(a));
    byId("compare-view").querySelector(".b").replaceChildren(full(b));
    byId("compare-links").replaceChildren("Full size: ", ...[["A", a], ["B", b]].flatMap(([name, side]) =>
      [side.link ? el("a", { href: side.link, target: "_blank", rel: "noopener" }, name) : `${name} has no picture`, " "]));
    byId("compare-config").replaceChildren(configDiff(a, b));
    byId("compare-numbers").replaceChildren(numberDiff(a, b));
    byId("compare-note").value = a.row ? notes.get(run(a.row)) : "";
    byId("compare-note").disabled = !a.row;
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

  function configDiff(a, b) {
    if (!a.row || !b.row) return el("p", { class: "hint" }, "Input pictures have no configuration.");
    const own = { ...run(a.row).values, ...run(a.row).config, ...a.row.values };
    const other = { ...run(b.row).values, ...run(b.row).config, ...b.row.values };
    const keys = [...new Set([...Object.keys(own), ...Object.keys(other)])].filter((key) => (own[key] ?? null) !== (other[key] ?? null));
    if (!keys.length) return el("p", { class: "hint" }, "The configurations are the same.");
    return keysTable(["", "A", "B"], keys.map((key) => el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, own[key] ?? MISSING), el("td", {}, other[key] ?? MISSING))));
  }

  const valueOf = (side, column) => (side.row ? column.get(side.row) : undefined);

  function numberTable() {
    const [a, b] = [byKey.get(sides.a), byKey.get(sides.b)];
    const shown = measures.filter((column) => [a, b].some((side) => isNumber(valueOf(side, column))));
    return { head: ["number", a.text, b.text], rows: shown.map((column) => [column.id, valueOf(a, column), valueOf(b, column)]) };
  }

  function numberDiff(a, b) {
    const lines = measures.filter((column) => [a, b].some((side) => isNumber(valueOf(side, column)))).map((column) => {
      const compares = a.row && b.row && inputsOf(a.row) === inputsOf(b.row);
      const better = compares && data.numbers.find((number) => number.name === column.name)?.better;
      const [x, y] = [valueOf(a, column), valueOf(b, column)];
      const wins = (own, other) => better && isNumber(own) && isNumber(other) && (better === "lower" ? own < other : own > other);
      const mark = (own, other) => el("td", { class: wins(own, other) ? "n better" : "n", title: own === undefined ? null : String(own) }, brief(own));
      return el("tr", {}, el("td", { title: column.title }, column.id), mark(x, y), mark(y, x));
    });
    return lines.length ? keysTable(["", "A", "B"], lines, "numbers") : el("p", { class: "hint" }, "No numbers.");
  }

  return { start, open };
}

export function keysTable(head, lines, className = "keys") {
  const headers = head.map((text) => el("th", { scope: "col", class: className === "numbers" && text ? "n" : null }, text));
  return el("table", { class: className }, el("thead", {}, el("tr", {}, headers)), el("tbody", {}, lines));
}
