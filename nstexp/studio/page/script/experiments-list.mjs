// The list of all runs and sweeps, with a search. Only lines that changed are drawn again.
import { el, select } from "/page/shared/dom.mjs";
import { duration } from "/page/shared/text.mjs";
import { badges, bar, keysOf, kindOf, moment, nameOf } from "./experiments-text.mjs";

const STATUSES = [
  ["", "any status"], ["running", "running"], ["completed", "completed"], ["failed", "failed"], ["interrupted", "interrupted"],
];
const KINDS = [["", "sweeps and runs"], ["sweep", "sweeps"], ["run", "single runs"]];

export function makeList(page) {
  const wanted = { words: "", status: "", kind: "" };
  const lines = new Map(); // id -> { text, node, entry }
  let data = { entries: [], version: null, running: false, notice: null };
  let marked = null;

  const count = el("p", { class: "hint", role: "status" });
  const problem = el("p", { class: "exp-problem", role: "alert", hidden: true });
  const notice = el("p", { class: "hint", hidden: true });
  const items = el("ul", { class: "exp-items" });
  const search = el("input", { type: "search", placeholder: "weights.beta, adain, failed \u2026", "aria-label": "Search the list" });
  search.addEventListener("input", () => { wanted.words = search.value; draw(); });
  const filters = el("div", { class: "exp-filters" }, search,
    select("Status", STATUSES, "", (value) => { wanted.status = value; draw(); }),
    select("Kind", KINDS, "", (value) => { wanted.kind = value; draw(); }));
  const fresh = el("button", { type: "button", class: "quiet", click: () => page.ask(true) }, "Look again");
  const element = el("section", { class: "exp-list", "aria-label": "All experiments" },
    el("div", { class: "exp-head" }, el("h2", {}, "Experiments"), el("a", { class: "button exp-new", href: page.addressOf("new") }, "New experiment")),
    filters, problem, notice, el("div", { class: "exp-count" }, count, fresh), items);

  async function update(again) {
    const known = data.version === null || again ? "" : `?known=${data.version}`;
    const answer = await page.studio.get(`${page.api}/list${known || (again ? "?again=1" : "")}`);
    if (!answer.same) {
      data = answer;
      draw();
    }
    return data.running;
  }

  function matches(entry) {
    if (wanted.status === "running" ? !entry.running : wanted.status && !(wanted.status in entry.statuses) && entry.status !== wanted.status) return false;
    if (wanted.kind && entry.kind !== wanted.kind) return false;
    const text = [entry.id, nameOf(entry.id), keysOf(entry), entry.method, entry.task, entry.status, entry.error, entry.about].join(" ").toLowerCase();
    return wanted.words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  function draw() {
    const entries = data.entries.filter(matches);
    const all = data.entries.length;
    count.textContent = all === 0 ? "" : entries.length === all ? (all === 1 ? "1 entry" : `${all} entries`) : `${entries.length} of ${all} entries`;
    notice.textContent = data.notice ?? "";
    notice.hidden = !data.notice;
    const nodes = entries.map(lineOf);
    if (nodes.length !== items.children.length || nodes.some((node, n) => node !== items.children[n])) {
      const focused = items.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.id : null;
      items.replaceChildren(...nodes);
      if (focused) lines.get(focused)?.node.querySelector("a")?.focus({ preventScroll: true });
    }
    const kept = new Set(data.entries.map((entry) => entry.id));
    for (const id of lines.keys()) if (!kept.has(id)) lines.delete(id);
    if (all === 0) {
      items.replaceChildren(el("li", { class: "exp-none" },
        `No runs and no sweeps in ${data.folder ?? "this folder"} yet. Start one with New experiment, or in a terminal in this folder.`));
    } else if (entries.length === 0) items.replaceChildren(el("li", { class: "exp-none" }, "Nothing in the list has these words."));
  }

  function lineOf(entry) {
    const text = JSON.stringify(entry);
    const old = lines.get(entry.id);
    if (old?.text === text) return old.node;
    const node = line(entry);
    lines.set(entry.id, { text, node });
    if (old?.node.isConnected) {
      const focused = old.node.contains(document.activeElement);
      old.node.replaceWith(node);
      if (focused) node.querySelector("a").focus({ preventScroll: true });
    }
    return node;
  }

  function line(entry) {
    const about = [kindOf(entry), entry.method, entry.task === "stylize" ? null : entry.task].filter(Boolean).join(", ");
    const isDate = /^\d{4}-\d\d-\d\d \d/.test(nameOf(entry.id));
    const keys = keysOf(entry);
    const seconds = entry.seconds === null ? null : duration(Math.round(entry.seconds)).replaceAll(" ", "\u00a0");
    const when = [keys || !isDate ? moment(entry.started) : null, seconds].filter(Boolean).join(", ");
    const image = entry.picture
      ? el("img", { src: `${entry.picture.url}&px=128`, alt: "", loading: "lazy", decoding: "async", width: 64, height: 64 })
      : el("span", { class: "exp-blank" });
    const link = el("a", { href: page.addressOf("run", [entry.id]), "aria-current": entry.id === marked ? "page" : null }, image,
      el("span", { class: "exp-about" },
        el("strong", {}, keys || nameOf(entry.id)),
        el("span", { class: "hint" }, [keys && !isDate ? nameOf(entry.id) : null, about, when].filter(Boolean).join(" \u00b7 ")),
        entry.about ? el("span", { class: "hint exp-short" }, entry.about) : null,
        el("span", { class: "exp-badges" }, badges(entry)),
        entry.running && entry.progress !== null ? bar(entry.progress, `${nameOf(entry.id)}: share that is done`) : null,
        entry.error ? el("span", { class: "exp-error" }, entry.error) : null));
    return el("li", { "data-id": entry.id }, link);
  }

  function mark(id) {
    marked = id;
    for (const link of items.querySelectorAll("a")) {
      if (link.parentElement.dataset.id === id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  function complain(sentence) {
    problem.hidden = sentence === null;
    problem.textContent = sentence ?? "";
  }

  return { element, update, mark, complain };
}
