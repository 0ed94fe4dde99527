// The configurations: what differs between the runs, and what is the same.
import { keysTable } from "./compare.mjs";
import { byId, el } from "./dom.mjs";
import { tableButtons } from "./exporting.mjs";
import { MISSING, plural } from "./text.mjs";

const MOST_RUNS = 60;  // columns of the table of differences; more would be no table to read

export function drawConfiguration({ data, jobName }) {
  const line = (key, ...values) => el("tr", {}, el("th", { scope: "row" }, key), values.map((value) => el("td", {}, value ?? MISSING)));
  const common = Object.entries(data.config);
  const differing = [...new Set(data.runs.flatMap((job) => Object.keys(job.config)))];
  const shown = data.runs.slice(0, MOST_RUNS);
  const table = () => ({ head: ["key", ...data.runs.map(jobName)], rows: differing.map((key) => [key, ...data.runs.map((job) => job.config[key])]) });
  const more = data.runs.length > shown.length ? el("p", { class: "hint" }, `The first ${shown.length} of ${data.runs.length} runs; the saved table has all.`) : null;
  if (differing.length) {
    byId("config-view").append(folded(`Different: ${plural(differing.length, "key")}`, () => [tableButtons("configurations", table), more, keysTable(["", ...shown.map(jobName)], differing.map((key) => line(key, ...shown.map((job) => job.config[key]))))]));
  }
  byId("config-view").append(folded(`The same in all runs: ${plural(common.length, "key")}`, () => [el("table", { class: "keys" }, el("tbody", {}, common.map(([key, value]) => line(key, value))))]));
}

// Its content is made when it is opened, or printed.
function folded(title, make) {
  const content = el("div", { class: "scroll" });
  const fill = () => { if (!content.hasChildNodes()) content.append(...make().filter(Boolean)); };
  return el("details", { toggle: fill }, el("summary", {}, title), content);
}
