// One sweep with the grid of its runs, or one run: pictures, how far they are, and what can be done with it.
import { el, select } from "/page/shared/dom.mjs";
import { brief, duration, isNumber, shown } from "/page/shared/text.mjs";
import { badge, badges, bar, commandBox, kindOf, moment, nameOf, progressText } from "./experiments-text.mjs";
import { makeViewer } from "./experiments-viewer.mjs";

const FIRST = ["style_gram", "content_loss", "ssim", "total"];
const GOING = ["running", "starting"];

export function makeDetail(page) {
  const element = el("article", { class: "exp-detail" });
  const viewer = makeViewer(page);
  const cells = new Map(); // name of a job -> { text, node }
  let id = null;
  let data = null;
  let version = "";
  let layout = "";
  let number = null;
  let waiting = false; // for the answer to a button

  const title = el("h2", { tabindex: -1 });
  const about = el("p", { class: "hint" });
  const state = el("div", { class: "exp-badges" });
  const actions = el("div", { class: "row exp-actions" });
  const error = el("p", { class: "exp-problem", hidden: true });
  const done = el("div", { class: "exp-done" });
  const choice = el("div", { class: "exp-choice" });
  const grid = el("div", { class: "exp-grid", tabindex: 0, role: "region", "aria-label": "Pictures of the runs" });
  const command = el("div");
  const log = el("pre", { class: "exp-log", tabindex: 0, "aria-label": "The end of the log" });
  const logs = el("details", { class: "exp-logs", toggle: () => readLog() }, el("summary", {}, "Log"), log);

  async function show([wanted]) {
    id = wanted;
    [data, version, layout] = [null, "", ""];
    cells.clear();
    title.textContent = nameOf(id ?? "");
    logs.open = false;
    log.textContent = "";
    for (const part of [about, state, actions, done, choice, grid, command]) part.replaceChildren();
    error.hidden = true;
    element.replaceChildren(el("header", {}, title, state), about, actions, error, done, choice, grid, el("h3", {}, "Command"), command, logs);
  }

  async function update([wanted]) {
    if (wanted === undefined) return false;
    let answer;
    try {
      answer = await page.studio.get(`${page.api}/one?path=${encodeURIComponent(wanted)}&known=${version}`);
    } catch (problem) {
      if (problem.status !== 400) throw problem;
      error.hidden = false;
      error.textContent = problem.message;
      return false;
    }
    if (wanted !== id) return false;
    if (!answer.same) {
      data = answer;
      version = answer.version;
      draw();
    }
    if (logs.open && data.running) await readLog();
    return data.running;
  }

  function draw() {
    title.textContent = nameOf(data.id);
    state.replaceChildren(...badges(data));
    about.replaceChildren([kindOf(data), data.method, data.task === "stylize" ? null : data.task, moment(data.started),
      data.seconds === null ? null : duration(Math.round(data.seconds)), data.id].filter(Boolean).join(" \u00b7 "));
    const below = data.jobs.some((job) => job.error === data.error); // each picture has its own sentence
    error.hidden = !data.error || below;
    error.textContent = data.error ?? "";
    done.replaceChildren(...(data.running && data.progress !== null
      ? [bar(data.progress, "Share of the work that is done"), el("span", { class: "hint" }, `${Math.round(100 * data.progress)} % done`)] : []));
    if (!waiting) drawActions();
    drawChoice();
    drawGrid();
    if (command.dataset.text !== data.command) {
      command.dataset.text = data.command;
      command.replaceChildren(commandBox(data.command));
    }
    logs.hidden = !data.log;
    if (data.log && data.running && data.started_here && !logs.dataset.seen) {
      logs.dataset.seen = "yes";
      logs.open = true;
    }
  }

  function drawActions() {
    const focused = actions.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    const goes = data.kind === "run" && data.task !== "train" ? "Run again" : "Continue";
    const buttons = [
      data.can.stop ? button("Stop", () => act("stop"), "bad") : null,
      data.can.continue ? button(goes, () => act("continue"), "main") : null,
      data.can.report ? button(data.report ? "Open the report" : "Write the report", openReport) : null,
      button("New one with these keys", () => page.newFrom(data.rows)),
      data.kind === "run" ? page.chosen.box(data.id, nameOf(data.id)) : null,
    ];
    actions.replaceChildren(...buttons.filter(Boolean));
    if (focused) (actions.querySelector(`[data-name="${focused}"]`) ?? title).focus({ preventScroll: true });
    if (data.running && !data.can.stop) {
      actions.append(el("span", { class: "hint" }, "It was started elsewhere: stop it there, with Ctrl-C or scancel."));
    }
  }

  const button = (text, click, kind) => el("button", { type: "button", class: kind, click, "data-name": text }, text);

  async function act(what) {
    waiting = true;
    for (const one of actions.querySelectorAll("button")) one.disabled = true;
    const answer = await page.studio.trying(() => page.studio.post(`${page.api}/${what}`, { path: id }));
    waiting = false;
    if (answer) page.studio.say(answer.sentence, "good");
    delete logs.dataset.seen;
    version = "";
    drawActions();
    await page.ask();
  }

  // The window is opened at once, because a browser blocks those that open long after the click.
  async function openReport() {
    const tab = window.open("about:blank", "_blank");
    if (!data.fresh) page.studio.say("the report is being written, which takes some seconds");
    const answer = await page.studio.trying(() => page.studio.post(`${page.api}/report`, { path: id }));
    if (!answer) tab?.close();
    else if (tab) tab.location = answer.url;
    else location.assign(answer.url);
    await page.ask();
  }

  function drawChoice() {
    const names = [...new Set(data.jobs.flatMap((job) => Object.values(job.metrics).flatMap(Object.keys)))];
    names.sort((a, b) => (FIRST.includes(a) ? FIRST.indexOf(a) : 9) - (FIRST.includes(b) ? FIRST.indexOf(b) : 9));
    const key = names.join();
    if (choice.dataset.key === key && choice.children.length > 0) return;
    choice.dataset.key = key;
    number = names.includes(number) ? number : FIRST.find((name) => names.includes(name)) ?? null;
    const options = [["", "nothing"], ...names.map((name) => [name, name])];
    choice.replaceChildren(...(names.length ? [select("Under each picture", options, number ?? "", (value) => { number = value; cells.clear(); drawGrid(); })] : []));
  }

  function drawGrid() {
    const axes = data.axes;
    const asTable = axes.length >= 2 && axes[0].values.length > 1 && data.jobs.length <= 600;
    const rows = axes[0];
    const columns = axes.at(-1);
    const form = JSON.stringify([asTable, axes, data.jobs.map((job) => [job.name, job.values])]);
    const nodes = new Map(data.jobs.map((job) => [job.name, cellOf(job, asTable ? axes.slice(1, -1).map((axis) => axis.key) : axes.map((axis) => axis.key))]));
    if (form === layout) return;
    layout = form;
    if (!asTable) {
      grid.replaceChildren(el("div", { class: data.jobs.length === 1 ? "exp-flow exp-single" : "exp-flow" }, [...nodes.values()]));
      return;
    }
    const at = (row, column) => data.jobs.filter((job) => job.values[rows.key] === row && job.values[columns.key] === column);
    const rest = data.jobs.filter((job) => !rows.values.includes(job.values[rows.key]) || !columns.values.includes(job.values[columns.key]));
    grid.replaceChildren(el("table", {},
      el("thead", {}, el("tr", {}, el("td", { class: "exp-corner" }, `${rows.key} \u2193`, el("br"), `${columns.key} \u2192`), columns.values.map((value) => el("th", { scope: "col" }, shown(value))))),
      el("tbody", {}, rows.values.map((row) => el("tr", {}, el("th", { scope: "row" }, shown(row)),
        columns.values.map((column) => el("td", {}, at(row, column).map((job) => nodes.get(job.name)))))))),
      rest.length ? el("div", { class: "exp-flow" }, rest.map((job) => nodes.get(job.name))) : "");
  }

  function cellOf(job, keys) {
    const text = JSON.stringify([job, keys, number]);
    const old = cells.get(job.name);
    if (old?.text === text) return old.node;
    const node = cell(job, keys);
    cells.set(job.name, { text, node });
    if (old?.node.isConnected) {
      const focused = old.node.contains(document.activeElement) ? document.activeElement.tagName : null;
      old.node.replaceWith(node);
      if (focused) node.querySelector(focused)?.focus({ preventScroll: true });
    }
    return node;
  }

  function cell(job, keys) {
    const values = keys.filter((key) => job.values[key] !== null && job.values[key] !== undefined).map((key) => `${key}=${job.values[key]}`);
    const name = data.kind === "sweep" ? `run ${job.name}` : nameOf(data.id);
    const named = [name, ...Object.entries(job.values).map(([key, value]) => `${key}=${shown(value)}`)].join(", ");
    const px = data.jobs.length === 1 ? 768 : 320;
    const inside = job.picture
      ? el("img", { src: `${job.picture.url}&px=${px}`, alt: named, loading: "lazy", decoding: "async" })
      : el("span", { class: "exp-empty" }, job.status === "completed" ? "no picture" : job.status);
    const picture = job.id === null ? el("div", { class: "exp-look" }, inside)
      : el("button", { type: "button", class: "exp-look", "aria-label": `Look at ${named}`, click: () => viewer.open(job, data) }, inside);
    const amount = number ? Object.values(job.metrics)[0]?.[number] : undefined;
    const going = GOING.includes(job.status);
    return el("div", { class: "exp-cell", "data-status": job.status, "data-name": job.name }, picture,
      values.length ? el("div", { class: "exp-values" }, values.map((value) => el("div", {}, value))) : null,
      going && job.progress.of ? bar(job.progress.step / job.progress.of, `${name}: share that is done`) : null,
      going ? el("div", { class: "hint" }, progressText(job.progress) || job.status) : null,
      isNumber(amount) ? el("div", { class: "exp-number" }, brief(amount)) : null,
      job.status !== "completed" && !going && job.picture ? badge(job.status) : null,
      job.error ? el("div", { class: "exp-error", title: job.error }, job.error) : null,
      job.id === null || data.kind === "run" ? null : page.chosen.box(job.id, named));
  }

  async function readLog() {
    if (!logs.open || id === null) return;
    const asked = id;
    const answer = await page.studio.trying(() => page.studio.get(`${page.api}/log?path=${encodeURIComponent(id)}`));
    if (!answer || asked !== id) return;
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    const text = answer.lines.join("\n");
    if (log.textContent !== text) log.textContent = text;
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  return { element, show, update };
}
