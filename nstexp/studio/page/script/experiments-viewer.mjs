// A large view of one run: its picture, its values and numbers, its sentence and its log.
import { el } from "/page/shared/dom.mjs";
import { brief, duration, shown } from "/page/shared/text.mjs";
import { badge, progressText } from "./experiments-text.mjs";

export function makeViewer(page) {
  const body = el("div", { class: "exp-viewer-body" });
  const close = el("button", { type: "button", click: () => dialog.close() }, "Close");
  const heading = el("h2", { id: "exp-viewer-title" });
  const dialog = el("dialog", { class: "exp-viewer", "aria-labelledby": "exp-viewer-title" },
    el("header", {}, heading, close), body);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  function open(job, data) {
    if (!dialog.isConnected) document.body.append(dialog);
    heading.textContent = data.kind === "sweep" ? `Run ${job.name}` : "Run";
    const image = job.picture
      ? el("a", { href: job.picture.full, target: "_blank", title: "Open the picture in its full size" },
        el("img", { src: job.picture.full, alt: `The picture of run ${job.name}` }))
      : el("p", { class: "hint" }, "There is no picture.");
    const numbers = Object.entries(job.metrics);
    const log = el("pre", { class: "exp-log", hidden: true, tabindex: 0, "aria-label": "The end of the log" });
    const more = el("button", { type: "button", click: () => read(job.id, log) }, "Show its log");
    body.replaceChildren(image, el("div", {},
      el("div", { class: "exp-badges" }, badge(job.status), progressText(job.progress)),
      job.error ? el("p", { class: "exp-problem" }, job.error) : "",
      table(Object.entries(job.values).map(([key, value]) => [key, shown(value)]), "Values"),
      ...numbers.map(([name, row]) => table(Object.entries(row).map(([key, value]) => [key, brief(value)]), numbers.length > 1 ? name : "Numbers")),
      job.seconds === null ? "" : el("p", { class: "hint" }, `${duration(Math.round(job.seconds))}, ${job.id}`),
      el("div", { class: "row" }, more, page.chosen.box(job.id, `run ${job.name}`)), log));
    dialog.showModal();
  }

  async function read(id, log) {
    const answer = await page.studio.trying(() => page.studio.get(`${page.api}/log?path=${encodeURIComponent(id)}`));
    if (!answer) return;
    log.hidden = false;
    log.textContent = answer.lines.join("\n") || "The log is empty.";
    log.scrollTop = log.scrollHeight;
  }

  return { open };
}

function table(rows, caption) {
  if (rows.length === 0) return "";
  return el("table", { class: "exp-table" }, el("caption", {}, caption), el("tbody", {}, rows.map(([key, value]) =>
    el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, value)))));
}
