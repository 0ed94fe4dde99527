// The form for a new experiment: keys and values, checked by the server as they are typed.
import { el } from "/page/shared/dom.mjs";
import { plural } from "/page/shared/text.mjs";
import { commandBox } from "./experiments-text.mjs";

const KEY = "nstexp studio form";
const WAIT_MS = 700; // after the last letter, before the form is checked
const START = [
  { key: "content", value: "sample:astronaut" },
  { key: "style", value: "met:436535" },
  { key: "weights.beta", value: "100,1000,10000" },
  { key: "logger", value: "none" },
];
const PICTURES = ["content", "style", "fine_style"];

export function makeForm(page) {
  const element = el("article", { class: "exp-form" });
  const rows = el("div", { class: "exp-rows" });
  const keys = el("datalist", { id: "exp-keys" });
  const help = el("pre", { class: "exp-help", "aria-live": "polite" }, "Go to a key to read what it means.");
  const result = el("div", { class: "exp-result", role: "status" });
  const general = el("p", { class: "exp-problem", role: "alert", hidden: true });
  const start = el("button", { type: "submit", class: "main" }, "Start");
  const add = el("button", { type: "button", click: () => { put("", "").key.focus(); } }, "Add a key");
  const reset = el("button", { type: "button", class: "quiet", click: () => fill(START) }, "Start over");
  const form = el("form", { novalidate: true }, keys, rows, general, el("div", { class: "row" }, add, start, reset), result);
  form.addEventListener("submit", (event) => { event.preventDefault(); launch(); });
  form.addEventListener("input", () => later());
  element.append(el("h2", { tabindex: -1 }, "New experiment"),
    el("p", { class: "hint" }, "Keys and values are those of the command line. Several values with commas between them make a sweep, one run for each combination. It runs in the background, also when this page is closed."),
    el("div", { class: "exp-split" }, form, el("aside", { "aria-label": "Help on the key" }, el("h3", {}, "Help on the key"), help)));

  let lines = [];
  let timer = null;
  let going = null;
  let suggested = null;
  let count = 0;

  async function show() {
    if (lines.length === 0) fill(read() ?? START);
    suggested ??= await page.studio.trying(() => page.studio.get(`${page.api}/keys`));
    if (!suggested) return;
    keys.replaceChildren(...[...Object.keys(suggested.groups), ...suggested.keys].map((key) => el("option", { value: key })));
    lines.forEach(suggest);
  }

  function fill(given) {
    rows.replaceChildren();
    lines = [];
    given.forEach((row) => put(row.key, row.value));
    later(0);
  }

  function put(key, value) {
    const number = count;
    count += 1;
    const problem = el("p", { class: "exp-problem", id: `exp-problem-${number}`, hidden: true });
    const options = el("datalist", { id: `exp-values-${number}` });
    const common = { type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false", "aria-describedby": problem.id };
    const line = {
      key: el("input", { ...common, list: "exp-keys", "aria-label": "Key", placeholder: "key" }),
      value: el("input", { ...common, list: options.id, "aria-label": "Value, or several with commas", placeholder: "value, or several with commas" }),
      problem,
      options,
    };
    line.key.value = key;
    line.value.value = value;
    const remove = el("button", { type: "button", class: "quiet", "aria-label": "Remove this key", title: "Remove this key", click: () => drop(line) }, "\u00d7");
    line.node = el("div", { class: "exp-row" }, line.key, el("span", { "aria-hidden": "true" }, "="), line.value, remove, options, problem);
    line.key.addEventListener("change", () => suggest(line));
    for (const field of [line.key, line.value]) field.addEventListener("focus", () => explain(line.key.value));
    line.key.addEventListener("change", () => explain(line.key.value));
    lines.push(line);
    rows.append(line.node);
    suggest(line);
    return line;
  }

  function drop(line) {
    const at = lines.indexOf(line);
    lines.splice(at, 1);
    line.node.remove();
    (lines[Math.min(at, lines.length - 1)]?.key ?? add).focus();
    later(0);
  }

  function suggest(line) {
    const key = line.key.value.trim();
    const values = suggested?.groups[key] ?? (PICTURES.includes(key) ? suggested?.pictures : null) ?? [];
    line.options.replaceChildren(...values.map((value) => el("option", { value })));
  }

  async function explain(key) {
    const name = key.trim().replace(/^\+/, "");
    if (help.dataset.name === name) return;
    help.dataset.name = name;
    const answer = name ? await page.studio.get(`${page.api}/key?name=${encodeURIComponent(name)}`).catch(() => null) : null;
    if (help.dataset.name === name) help.textContent = answer?.text || "There is no help on this key.";
  }

  const given = () => lines.map((line) => ({ key: line.key.value.trim(), value: line.value.value.trim() }));

  function later(ms = WAIT_MS) {
    store(given());
    clearTimeout(timer);
    going?.abort();
    timer = setTimeout(() => ask("check"), ms);
  }

  async function ask(what) {
    clearTimeout(timer);
    going?.abort();
    const mine = going = new AbortController();
    result.replaceChildren(el("span", { class: "hint" }, what === "start" ? "checking and starting \u2026" : "checking \u2026"));
    try {
      const answer = await page.studio.post(`${page.api}/${what}`, { rows: given() }, { signal: mine.signal });
      draw(answer);
      return answer;
    } catch (error) {
      if (error.name === "AbortError") return null;
      result.replaceChildren();
      tell(general, error.message);
      return null;
    }
  }

  function draw(answer) {
    let first = null;
    const left = [...answer.problems];
    for (const line of lines) {
      const at = left.findIndex((problem) => problem.key !== null && problem.key === line.key.value.trim());
      const problem = at < 0 ? null : left.splice(at, 1)[0].sentence;
      tell(line.problem, problem);
      for (const field of [line.key, line.value]) field.setAttribute("aria-invalid", String(problem !== null));
      if (problem !== null) first ??= line;
    }
    tell(general, left[0]?.sentence ?? null);
    if (answer.problems.length) {
      result.replaceChildren();
      return first;
    }
    const what = answer.sweep ? `A sweep of ${answer.total === null ? "runs that a search chooses" : plural(answer.total, "run")}.` : "A single run.";
    result.replaceChildren(el("p", {}, what, el("span", { class: "hint" }, ` In ${answer.folder} this is the command:`)), commandBox(answer.command));
    return null;
  }

  function tell(place, sentence) {
    place.hidden = sentence === null;
    place.textContent = sentence ?? "";
  }

  async function launch() {
    start.disabled = true;
    const answer = await ask("start");
    start.disabled = false;
    if (!answer) return;
    if (answer.id) {
      page.studio.say(answer.sweep ? "the sweep has started" : "the run has started", "good");
      page.go("run", [answer.id]);
    } else {
      const wrong = lines.find((line) => !line.problem.hidden);
      wrong?.value.focus();
    }
  }

  page.newFrom = (given) => {
    fill(given.length ? given : START);
    page.go("new");
  };

  return { element, show };
}

function store(rows) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(rows));
  } catch { /* without storage, the form lasts until a reload */ }
}

function read() {
  try {
    const found = JSON.parse(sessionStorage.getItem(KEY));
    return Array.isArray(found) && found.length && found.every((row) => typeof row.key === "string" && typeof row.value === "string") ? found : null;
  } catch {
    return null;
  }
}
