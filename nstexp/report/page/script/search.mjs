// What the storage of an Optuna search says: importances of the keys, and the best trials.
import { byId, el } from "./dom.mjs";
import { tableButtons } from "./exporting.mjs";
import { COLORS, drawBars, showChart } from "./svg.mjs";
import { MISSING, asNumber, brief, plural } from "./text.mjs";

export function makeSearch({ model, openCompare }) {
  const { data, rows } = model;
  const charts = [];

  function start() {
    byId("search").hidden = byId("search-link").hidden = !data.searches.length;
    byId("searches").replaceChildren(...data.searches.map(partOf));
    redraw();
  }

  function partOf(one, place) {
    const pictures = one.objectives.map((objective, n) => importancesOf(objective, `importance-${place}-${n}`));
    return el("div", {}, el("p", { class: "hint" }, ...originOf(one)), el("div", { class: "mains" }, pictures), frontOf(one));
  }

  function originOf(one) {
    const left = one.trials - one.complete - one.pruned;
    return ["From Optuna's storage ", el("a", { href: one.link }, one.file), `, study ${one.study}: ${plural(one.trials, "trial")}, ${one.complete} complete`,
      one.pruned ? `, ${one.pruned} of runs that stopped early, which do not count` : "", left ? `, ${left} failed or unfinished` : "",
      one.here < one.trials ? `; ${one.here} of them are runs of this report, the others are of other sweeps` : "; all are runs of this report", `. Read with Optuna ${one.version}.`];
  }

  function importancesOf(objective, id) {
    const head = el("figcaption", {}, `Importance for ${objective.name} `);
    if (!objective.importances.length) return el("figure", {}, head, el("p", { class: "hint" }, "Too few trials to tell."));
    const search = data.searches.find((one) => one.objectives.includes(objective));
    head.append(tableButtons(`importance-${objective.name}`, () => ({ head: ["key", "importance"], rows: objective.importances })));
    charts.push({ id, objective });
    return el("figure", {}, head, el("div", { class: "chart bars", id, style: `height: ${objective.importances.length * 24 + 26}px` }), el("p", { class: "hint" }, `By ${search.by}.`));
  }

  function frontOf(one) {
    const several = one.objectives.length > 1;
    const names = one.objectives.map(({ name, better }) => `${better === "lower" ? "low" : "high"} ${name}`);
    const head = ["trial", ...one.objectives.map(({ name }) => name), ...one.keys];
    const cells = ({ values, params }) => [...values, ...params.map((value) => value ?? MISSING)];
    const table = () => ({ head, rows: one.front.map((trial) => [trial.trial, ...cells(trial)]) });
    const short = (value) => (value === MISSING || Number.isNaN(asNumber(value)) ? value : brief(asNumber(value)));
    const lines = one.front.map((trial) => {
      const index = rows.findIndex((row) => row.run === trial.run && model.isPicture(row));
      const name = index < 0 ? String(trial.trial) : el("button", { type: "button", class: "link", click: () => openCompare(index) }, String(trial.trial));
      return el("tr", {}, el("th", { scope: "row" }, name), cells(trial).map((value) => el("td", { class: "n", title: String(value) }, short(value))));
    });
    const title = several ? `Front of the trials: ${plural(one.front.length, "trial")} that no other beats in all of ${names.join(" and ")} ` : `Best of the trials by ${names[0]} `;
    return el("div", {}, el("h3", {}, title, tableButtons("front-of-trials", table)),
      el("div", { class: "scroll some", tabindex: "0", role: "region", "aria-label": title }, el("table", { class: "numbers plain" },
        el("thead", {}, el("tr", {}, head.map((text, n) => el("th", { scope: "col", class: n ? "n" : null }, text)))), el("tbody", {}, lines))));
  }

  function redraw() {
    for (const { id, objective } of charts) {
      const items = objective.importances.map(([key, share]) => ({ label: key, value: share, text: `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`, color: COLORS[0] }));
      showChart(id, `importance-for-${objective.name}`.replaceAll(/[^\w.-]+/g, "-"), (width, _, colors) => drawBars({ items, ends: [0, Math.max(0.05, ...items.map((item) => item.value))], label: "share of the variance", title: `Importance of the keys for ${objective.name}` }, width, colors));
    }
  }

  return { start, redraw };
}
