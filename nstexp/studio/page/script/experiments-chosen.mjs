// The runs that are chosen for a comparison; they stay chosen while other sweeps are looked at, and after a reload.
import { el } from "/page/shared/dom.mjs";
import { plural } from "/page/shared/text.mjs";

const KEY = "nstexp studio chosen runs";
const MOST = 12;

export function makeChosen(page) {
  const ids = new Set(read());
  const listeners = new Set();
  const text = el("span", { role: "status" });
  const compare = el("button", { class: "main", type: "button", click: () => page.go("compare", [...ids]) }, "Compare");
  const clear = el("button", { type: "button", class: "quiet", click: () => set([]) }, "Clear");
  const element = el("div", { class: "exp-tray", hidden: true }, text, compare, clear);

  function draw() {
    element.hidden = ids.size === 0;
    text.textContent = `${plural(ids.size, "run")} chosen${ids.size === 1 ? "; choose another to compare" : ""}`;
    compare.disabled = ids.size < 2;
    try {
      sessionStorage.setItem(KEY, JSON.stringify([...ids]));
    } catch { /* without storage, the choice lasts until a reload */ }
    listeners.forEach((listener) => listener());
  }

  function set(list) {
    ids.clear();
    list.forEach((id) => ids.add(id));
    draw();
  }

  function put(id, on) {
    if (on && ids.size >= MOST) page.studio.say(`at most ${MOST} runs can be compared at once`);
    else if (on) ids.add(id);
    else ids.delete(id);
    draw();
  }

  // A check box for a run; it follows what other parts of the page choose.
  function box(id, label) {
    const input = el("input", { type: "checkbox", change: () => put(id, input.checked), "aria-label": `Compare ${label}`, "data-run": id });
    input.checked = ids.has(id);
    return el("label", { class: "exp-check" }, input, "compare");
  }

  listeners.add(() => {
    for (const input of document.querySelectorAll("input[data-run]")) input.checked = ids.has(input.dataset.run);
  });
  draw();
  return { element, box, put, has: (id) => ids.has(id), remove: (id) => put(id, false) };
}

function read() {
  try {
    const found = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter((id) => typeof id === "string").slice(0, MOST) : [];
  } catch {
    return [];
  }
}
