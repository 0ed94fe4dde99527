// The tab Experiments: a list of all runs and sweeps, and beside it one of them, a comparison, or the form for a new one.
// The address has the state: #experiments/run/PATH, #experiments/compare/PATH,PATH and #experiments/new.
import { el } from "/page/shared/dom.mjs";
import { makeChosen } from "./experiments-chosen.mjs";
import { makeCompare } from "./experiments-compare.mjs";
import { makeDetail } from "./experiments-detail.mjs";
import { makeForm } from "./experiments-form.mjs";
import { makeList } from "./experiments-list.mjs";

const API = "/api/experiments";
const BUSY_MS = 2000; // between two questions while something runs
const IDLE_MS = 20000; // and while nothing does

export const addressOf = (view, ids = []) => `#experiments/${view}/${ids.map(encodeURIComponent).join(",")}`;

function place() {
  const [part, view = "", ids = ""] = location.hash.slice(1).split("/");
  if (part !== "experiments") return null;
  return { view: ["run", "compare", "new"].includes(view) ? view : "list", ids: ids.split(",").filter(Boolean).map(decodeURIComponent) };
}

async function withStyle() {
  if (document.querySelector("link[data-part=experiments]")) return;
  await new Promise((done) => {
    document.head.append(el("link", { rel: "stylesheet", href: "/page/experiments.css", "data-part": "experiments", load: done, error: done }));
  });
}

export async function mount(element, studio) {
  await withStyle();
  const page = { studio, api: API, addressOf, go: (view, ids) => { location.hash = addressOf(view, ids); }, ask };
  page.chosen = makeChosen(page);
  const list = makeList(page);
  const views = { run: makeDetail(page), compare: makeCompare(page), new: makeForm(page) };
  const side = el("div", { class: "exp-side" });
  const board = el("div", { class: "exp-board" }, list.element, side);
  element.append(board, page.chosen.element);
  const nothing = el("p", { class: "exp-nothing hint" }, "Choose a sweep or a run from the list, or start a new one.");

  let timer = null;
  let asking = false;
  let again = false;
  let search = false;
  let shown = null;

  const visible = () => document.visibilityState === "visible" && !element.hidden;

  function show() {
    const at = place();
    if (at === null) return;
    const key = JSON.stringify(at);
    list.mark(at.view === "run" ? at.ids[0] : null);
    if (key === shown) return;
    shown = key;
    board.dataset.view = at.view;
    const view = views[at.view];
    side.replaceChildren(...(view ? [el("a", { class: "button exp-back", href: "#experiments" }, "\u2190 All experiments"), view.element] : [nothing]));
    view?.show(at.ids);
    if (view) side.querySelector("h2")?.focus({ preventScroll: true });
    if (view && matchMedia("(max-width: 60rem)").matches) scrollTo({ top: 0 });
    ask();
  }

  // Asks the server what is new; `fresh`: also searches folders in which there was nothing a short while ago.
  async function ask(fresh = false) {
    if (asking) {
      again = true;
      search ||= fresh;
      return;
    }
    asking = true;
    const all = fresh || search;
    search = false;
    clearTimeout(timer);
    let running = false;
    try {
      running = await list.update(all);
      const at = place();
      if (at && views[at.view]?.update) running = (await views[at.view].update(at.ids)) || running;
      list.complain(null);
    } catch (error) {
      list.complain(error.message);
    }
    asking = false;
    if (again) {
      again = false;
      ask();
    } else if (visible()) timer = setTimeout(() => visible() && ask(), running ? BUSY_MS : IDLE_MS);
  }

  addEventListener("hashchange", show);
  document.addEventListener("visibilitychange", () => visible() && ask());
  studio.on("shown", (name) => { if (name === "experiments") { show(); ask(); } });
  studio.on("hidden", (name) => { if (name === "experiments") clearTimeout(timer); });
  show();
}
