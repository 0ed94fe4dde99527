// Words of the part Experiments.
import { el } from "/page/shared/dom.mjs";
import { brief, duration, plural } from "/page/shared/text.mjs";

export const badge = (status, count) =>
  el("span", { class: "exp-status", "data-status": status }, count === undefined ? status : `${count} ${status}`);

export const moment = (seconds) =>
  seconds === null ? "" : new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

const DATE = /^(\d{4}-\d\d-\d\d)_(\d\d)-(\d\d)-(\d\d)-\d{6}$/;

// The name of a folder; the long one that nstexp gives by itself becomes a date and a time.
export function nameOf(id) {
  const last = id.split("/").at(-1);
  const found = DATE.exec(last);
  return found ? `${found[1]} ${found[2]}:${found[3]}:${found[4]}` : last;
}

// The name of one run of a sweep has that of the sweep in front.
export function runName(id) {
  const [parent, last] = id.split("/").slice(-2);
  return /^\d+$/.test(last ?? "") ? `${nameOf(parent)} / ${last}` : nameOf(id);
}

export function kindOf(entry) {
  const count = Object.values(entry.statuses).reduce((sum, one) => sum + one, 0) + (entry.waiting ?? 0);
  return entry.kind === "sweep" ? `sweep of ${plural(count, "run")}` : "single run";
}

export const keysOf = (entry) => entry.keys.map(([key, count]) => `${key} \u00d7 ${count}`).join(", ");

export function badges(entry) {
  const found = Object.entries(entry.statuses).map(([status, count]) => badge(status, entry.kind === "sweep" ? count : undefined));
  if (entry.waiting) found.push(badge(entry.running ? "waiting" : "not begun", entry.waiting));
  if (found.length === 0) found.push(badge(entry.status));
  if (entry.stopping) found.push(badge("stopping"));
  return found;
}

export function progressText(progress) {
  if (progress.frames !== undefined) return plural(progress.frames, "frame");
  if (progress.step === undefined) return "";
  const steps = progress.of === undefined ? `step ${progress.step}` : `step ${progress.step} of ${progress.of}`;
  const left = progress.of && progress.seconds ? (progress.seconds / progress.step) * (progress.of - progress.step) : null;
  const loss = progress.loss === null || progress.loss === undefined ? "" : `, loss ${brief(progress.loss)}`;
  return steps + loss + (left !== null && left >= 1 ? `, ${duration(Math.round(left))} left` : "");
}

export function bar(share, label) {
  return el("progress", { max: 1, value: share, "aria-label": label, class: "exp-bar" });
}

export async function copied(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // without permission, or not on this machine
    const field = el("textarea", { class: "unseen" });
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}

export function commandBox(text) {
  const copy = el("button", { type: "button", click: () => copied(text, copy) }, "Copy");
  return el("div", { class: "exp-command" }, el("code", { tabindex: 0, role: "group", "aria-label": "Command" }, text), copy);
}
