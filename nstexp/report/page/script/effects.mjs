// Which keys matter: shares of variance, and the means at each value of a key.
import { drawChart, makeLive } from "./chart.mjs";
import { byId, el, select } from "./dom.mjs";
import { tableButtons } from "./exporting.mjs";
import { COLORS, drawBars, showChart } from "./svg.mjs";
import { MISSING, asNumber, brief, chance, isNumber, spread } from "./text.mjs";
import { numberTable } from "./together.mjs";

const percent = (share) => (share === null ? MISSING : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`);

export function makeEffects({ model, address }) {
  const { data } = model;
  const names = data.numbers.filter((number) => number.name in data.effects);
  const chosen = { number: "", split: "" };

  function start() {
    byId("effects").hidden = byId("effects-link").hidden = !names.length;
    if (!names.length) return;
    const first = names.find((one) => one.better && one.group === "measures") ?? names.find((one) => one.better) ?? names[0];
    chosen.number = address.get("effect", first.name);
    if (!(chosen.number in data.effects)) chosen.number = first.name;
    chosen.split = address.get("split", "");
    draw();
  }

  function draw() {
    const found = data.effects[chosen.number];
    const label = names.find((one) => one.name === chosen.number).label;
    const set = (name, place, otherwise) => (value) => { chosen[name] = value; address.put(place, value, otherwise); draw(); };
    const splits = Object.keys(found.means).filter((key) => found.means[key].length > 1 && found.means[key].length <= 8);
    if (!splits.includes(chosen.split)) chosen.split = "";
    byId("effects-controls").replaceChildren(
      select("Number", names.map((one) => [one.name, one.label]), chosen.number, set("number", "effect")),
      ...(splits.length > 1 ? [select("Lines for each value of", [["", "none"], ...splits.map((key) => [key, key])], chosen.split, set("split", "split", ""))] : []),
    );
    drawShares(found, label);
    drawMains(found, label);
  }

  function drawShares(found, label) {
    const items = [
      ...found.effects.map(([keys, share, , , p]) => ({ label: keys.join(" \u00d7 "), value: share, text: percent(share) + (p !== null && p < 0.05 ? " \u2605" : ""), color: COLORS[p !== null && p < 0.05 ? 0 : 8] })),
      ...Object.entries(found.rest).map(([name, share]) => ({ label: name, value: share, text: percent(share), color: "#c3c3c0" })),
    ];
    byId("shares").style.height = `${items.length * 24 + 26}px`;
    showChart("shares", "shares-of-variance", (width, _, colors) => drawBars({ items, ends: [0, Math.max(0.05, ...items.map((item) => item.value))], label: `share of the variance of ${label}`, title: `Shares of the variance of ${label}` }, width, colors));
    const table = () => ({
      head: ["key", "share", "beyond chance", "p", "p, Holm", ""],
      rows: [...found.effects.map(([keys, share, beyond, p, corrected]) => [keys.join(" \u00d7 "), percent(share), percent(beyond), chance(p), chance(corrected), verdict(corrected)]), ...Object.entries(found.rest).map(([name, share]) => [name, percent(share), "", "", "", ""])],
    });
    byId("shares-title").replaceChildren(`Shares of the variance of ${label} `, tableButtons("effects", table));
    byId("shares-view").replaceChildren(numberTable(...Object.values(table())));
    byId("shares-note").textContent = [
      found.exact ? "Split of a full grid (analysis of variance)." : "A fitted model of a search or of an incomplete grid: shares are estimates.",
      found.logarithm ? `Of the logarithm of ${label}, which spans more than a factor of 30, so that ratios count. Comparisons are plain differences, in which large numbers count most: the two can disagree.` : null,
      "\u2605: larger than chance (p below 0.05 after Holm's correction).",
    ].filter(Boolean).join(" ");
  }

  const verdict = (p) => (p === null ? "not tested: no repeats" : p < 0.05 ? "larger than chance" : "not larger than chance");

  function drawMains(found, label) {
    const keys = data.design.keys.filter((key) => (found.means[key]?.length ?? 0) > 1 || found.curves[key]);
    byId("mains").replaceChildren(...keys.map((key, n) => el("figure", {}, el("figcaption", {}, key), el("div", { class: "chart small", id: `main-${n}` }))));
    keys.forEach((key, n) => {
      const { axis, series, more } = found.means[key]?.length ? meansOf(found, key, label) : dotsOf(found, key);
      const make = (width, height, colors) => drawChart({ x: { label: key, ...axis }, y: { label, ...more }, series, legendTitle: series.length > 1 ? chosen.split : "", title: `${label} by ${key}` }, width, height, colors);
      makeLive(byId(`main-${n}`), showChart(`main-${n}`, `${label}-by-${key}`.replaceAll(/[^\w.-]+/g, "-"), make));
    });
  }

  function meansOf(found, key, label) {
    const values = orderedValues(found.means[key].map(([value]) => value));
    const words = { axis: { words: values }, more: { log: found.logarithm } };
    if (chosen.split && chosen.split !== key) return { ...words, series: splitSeries(key, values, label) };
    const points = values.map((value) => {
      const [, ...one] = found.means[key].find(([other]) => other === value);
      const [n, mean, , low, high] = one;
      return { x: value, y: mean, low, high, title: `${key} ${value}\n${label} ${spread(one)}\n${n} ${data.design.unit}${n === 1 ? "" : "s"}` };
    });
    return { ...words, series: [{ line: true, marks: true, name: "", color: COLORS[0], points }] };
  }

  // The mean at each value of a key, with a line for each value of another key.
  function splitSeries(key, values, label) {
    const { keys, settings } = data.design;
    const [at, by] = [keys.indexOf(key), keys.indexOf(chosen.split)];
    const means = data.means[chosen.number]?.settings ?? model.rowsOfSettings.map((indices) => model.estimate(chosen.number, indices, []));
    return orderedValues([...new Set(settings.map((setting) => setting[by]))]).map((other, n) => ({
      line: true, marks: true, name: other, color: COLORS[n % COLORS.length],
      points: values.map((value) => {
        const found = settings.map((setting, place) => (setting[at] === value && setting[by] === other ? means[place]?.[1] : null)).filter(isNumber);
        const mean = found.length ? found.reduce((sum, one) => sum + one, 0) / found.length : null;
        return { x: value, y: mean, title: `${key} ${value}, ${chosen.split} ${other}\n${label} ${brief(mean)}` };
      }),
    }));
  }

  // A numeric key of a search: each setting is a dot, and a line is what the model says of this key alone.
  function dotsOf(found, key) {
    const at = data.design.keys.indexOf(key);
    const all = model.rowsOfSettings.map((indices, place) => ({ x: asNumber(data.design.settings[place][at]), y: model.estimate(chosen.number, indices, [...data.design.pairs, ...data.design.repeats])?.[1], index: indices[0], title: model.settingLabel(place) }))
      .filter(({ x, y }) => isNumber(x) && isNumber(y));
    const values = all.map(({ y }) => (found.logarithm ? Math.log10(y) : y));
    const middle = values.reduce((sum, value) => sum + value, 0) / values.length;
    const back = (value) => (found.logarithm ? 10 ** (middle + value) : middle + value);
    const curve = (found.curves[key] ?? []).map(([x, effect]) => ({ x, y: back(effect), title: `${key} ${brief(x)}\nfitted ${brief(back(effect))}` }));
    const numbers = all.map(({ x }) => x);
    const log = Math.min(...numbers) > 0 && Math.max(...numbers) > 30 * Math.min(...numbers);
    return { axis: { log }, more: { log: found.logarithm }, series: [{ name: "", color: "#999999", points: all }, { line: true, name: "", color: COLORS[0], points: curve }] };
  }

  return { start, redraw: () => { if (names.length) draw(); } };
}

// Numbers in their order, words in that of the runs.
function orderedValues(values) {
  return values.every((value) => !Number.isNaN(asNumber(value))) ? [...values].sort((a, b) => asNumber(a) - asNumber(b)) : values;
}
