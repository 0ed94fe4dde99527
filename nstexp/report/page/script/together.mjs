// What the runs say together: means of settings, and differences from a baseline with intervals and a test.
import { byId, el, select } from "./dom.mjs";
import { tableButtons } from "./exporting.mjs";
import { sentence } from "./model.mjs";
import { COLORS, drawBars, showChart } from "./svg.mjs";
import { MISSING, brief, chance, plural, rounded } from "./text.mjs";

export function makeTogether({ model, address }) {
  const { data } = model;
  const { keys, numbers, whole } = data.comparisons;
  const names = data.numbers.filter((number) => number.name in data.means);
  const chosen = { number: "", key: "", baseline: "" };
  const keyNames = Object.keys(keys);

  function start() {
    byId("together").hidden = !names.length;
    byId("together-link").hidden = !names.length;
    if (!names.length) return;
    const first = names.find((one) => one.better && one.group === "measures") ?? names.find((one) => one.better) ?? names[0];
    chosen.number = address.get("measure", first.name);
    if (!names.some((one) => one.name === chosen.number)) chosen.number = first.name;
    chosen.key = address.get("key", keyNames[0] ?? "");
    if (!keyNames.includes(chosen.key)) chosen.key = keyNames[0] ?? "";
    chosen.baseline = address.get("baseline", keys[chosen.key]?.[0] ?? "");
    draw();
  }

  // The comparisons of a key with the chosen baseline, or with the first one where every baseline would be too many.
  function comparisonsOf() {
    const values = keys[chosen.key] ?? [];
    const all = (numbers[chosen.number] ?? []).filter(([key]) => keyNames[key] === chosen.key);
    const baselines = values.filter((_, place) => all.some((one) => one[2] === place));
    if (!baselines.includes(chosen.baseline)) chosen.baseline = baselines[0] ?? "";
    const found = all.filter((one) => values[one[2]] === chosen.baseline).map(([, value, , n, mean, low, high, p, corrected, crossedLow, crossedHigh]) =>
      ({ key: chosen.key, whole: chosen.key === whole, value: values[value], baseline: chosen.baseline, n, mean, low, high, test: p, p: corrected, crossed: crossedLow === null ? null : [crossedLow, crossedHigh] }));
    return { baselines, found };
  }

  function draw() {
    const { baselines, found } = comparisonsOf();
    const label = names.find((one) => one.name === chosen.number).label;
    const set = (name, place) => (value) => { chosen[name] = value; address.put(place, value); draw(); byId("together-controls").querySelector(`[data-control="${place}"] select`)?.focus(); };
    const named = (control, place) => { control.dataset.control = place; return control; };
    byId("together-controls").replaceChildren(
      named(select("Number", names.map((one) => [one.name, one.label]), chosen.number, set("number", "measure")), "measure"),
      ...(keyNames.length ? [named(select("Key", keyNames.map((key) => [key, key === whole ? "whole settings" : key]), chosen.key, set("key", "key")), "key")] : []),
      ...(baselines.length ? [named(select("Baseline", baselines.map((value) => [value, value]), chosen.baseline, set("baseline", "baseline")), "baseline")] : []),
    );
    drawMeans(label);
    drawComparisons(found, label);
  }

  function drawMeans(label) {
    const estimates = data.means[chosen.number].settings;
    const places = estimates.map((_, place) => place).filter((place) => estimates[place]);
    const head = ["setting", "n", label, "standard deviation", "95 % interval"];
    const cells = (place) => {
      const [n, mean, sd, low, high] = estimates[place];
      return [model.settingLabel(place), n, brief(mean), sd === null ? MISSING : brief(sd), low === null ? MISSING : rounded([mean, low, high], 1).slice(1).join(" to ")];
    };
    byId("means-title").replaceChildren(`Means over ${data.design.unit}s `, tableButtons("means", meansTable));
    byId("means-view").replaceChildren(numberTable(head, places.map(cells)));
  }

  function meansTable() {
    const estimates = data.means[chosen.number].settings;
    const shown = estimates.map((one, place) => [one, place]).filter(([one]) => one);
    return { head: [...data.design.keys, "n", chosen.number, "sd", "low", "high"], rows: shown.map(([one, place]) => [...data.design.settings[place], ...one]) };
  }

  function drawComparisons(found, label) {
    byId("comparisons").hidden = !found.length;
    if (!found.length) return;
    const unit = data.design.unit;
    const others = data.design.keys.filter((key) => key !== chosen.key);
    const better = names.find((one) => one.name === chosen.number).better;
    byId("comparisons-title").replaceChildren(`${label} against ${chosen.key === whole ? "" : `${chosen.key} `}${chosen.baseline} `, tableButtons("comparisons", () => comparisonTable(found, label)));
    const notes = [
      better ? `${better === "lower" ? "Lower" : "Higher"} is better.` : null,
      chosen.key !== whole && others.length ? `Averaged over ${others.join(", ")}.` : null,
      2 ** (1 - found[0].n) > 0.05 ? `With ${plural(found[0].n, unit)} no test can be significant: Wilcoxon's needs 6.` : `p is corrected for the ${plural(found.length, "comparison")} of this table.`,
    ];
    byId("comparisons-note").textContent = notes.filter(Boolean).join(" ");
    byId("sentences").replaceChildren(...found.map((one) => el("li", {}, sentence(one, label, unit) + verdict(one))));
    const items = found.map((one) => {
      const texts = one.low === null ? rounded([one.mean]) : rounded([one.mean, one.low, one.high]);
      return { label: one.value, value: one.mean, low: one.low, high: one.high, text: texts[0], color: COLORS[isClear(one) ? (better && (one.mean < 0) === (better === "lower") ? 2 : 1) : 8] };
    });
    const height = items.length * 24 + 26;
    byId("differences").style.height = `${height}px`;
    showChart("differences", "differences", (width, _, colors) => drawBars({ items, dots: true, label: `${label}: difference from ${chosen.baseline}, 95 % interval`, title: `Differences of ${label} from ${chosen.baseline}` }, width, colors));
    byId("comparisons-view").replaceChildren(numberTable(...Object.values(comparisonTable(found, label))));
  }

  const isClear = (one) => one.low !== null && (one.low > 0 || one.high < 0);

  function verdict(one) {
    if (one.low === null || isClear(one)) return "";
    return "; the interval contains 0, so that no difference is shown";
  }

  function comparisonTable(found, label) {
    const crossed = found.some((one) => one.crossed);
    const head = [chosen.key === whole ? "setting" : chosen.key, `difference of ${label}`, "95 % interval", `${data.design.unit}s`, "Wilcoxon p", "p, Holm", ...(crossed ? ["95 % for new photos and paintings"] : [])];
    const rows = found.map((one) => {
      const texts = one.low === null ? [rounded([one.mean])[0], MISSING, MISSING] : rounded([one.mean, one.low, one.high]);
      const wide = one.crossed ? rounded([one.mean, ...one.crossed]).slice(1).join(" to ") : MISSING;
      return [one.value, texts[0], one.low === null ? MISSING : `${texts[1]} to ${texts[2]}`, one.n, chance(one.test), chance(one.p), ...(crossed ? [wide] : [])];
    });
    return { head, rows };
  }

  return { start, redraw: () => { if (names.length) draw(); } };
}

// A table whose first column are words, and the others numbers.
export function numberTable(head, rows) {
  const headers = head.map((text, n) => el("th", { scope: "col", class: n ? "n" : null }, text));
  const lines = rows.map((row) => el("tr", {}, row.map((value, n) => (n ? el("td", { class: "n" }, value) : el("th", { scope: "row" }, value)))));
  return el("table", { class: "numbers plain" }, el("thead", {}, el("tr", {}, headers)), el("tbody", {}, lines));
}
