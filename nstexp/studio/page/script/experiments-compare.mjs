// Runs beside each other: pictures, the keys in which they differ, and their measures. Two have a slider as well.
import { el, select } from "/page/shared/dom.mjs";
import { brief, duration, isNumber, shown } from "/page/shared/text.mjs";
import { badge, runName } from "./experiments-text.mjs";

const MOST_KEYS = 4; // below a picture; the table has all

export function makeCompare(page) {
  const element = el("article", { class: "exp-compare" });
  let asked = "";

  async function show(ids) {
    asked = ids.join();
    element.replaceChildren(el("h2", { tabindex: -1 }, "Comparison"), el("p", { class: "hint" }, "reading the runs \u2026"));
    if (ids.length < 2) {
      element.replaceChildren(el("h2", { tabindex: -1 }, "Comparison"), el("p", {}, "Choose two runs or more: mark them with their check box \u201ccompare\u201d, in any sweeps."));
      return;
    }
    const wanted = asked;
    try {
      const data = await page.studio.post(`${page.api}/compare`, { paths: ids });
      for (const run of data.runs) run.name = runName(run.id);
      if (wanted === asked) draw(data);
    } catch (error) {
      if (wanted === asked) element.replaceChildren(el("h2", { tabindex: -1 }, "Comparison"), el("p", { class: "exp-problem", role: "alert" }, error.message));
    }
  }

  function draw(data, name = null) {
    const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.pictures)))];
    const wanted = name ?? names[0];
    const pictureOf = (run) => run.pictures[wanted] ?? Object.values(run.pictures)[0];
    const rowOf = (run) => run.metrics[wanted] ?? Object.values(run.metrics)[0] ?? {};
    const heads = data.runs.map((run) => run.name);
    const figures = data.runs.map((run) => {
      const picture = pictureOf(run);
      return el("figure", {},
        picture ? el("a", { href: picture.full, target: "_blank", title: "Open the picture in its full size" },
          el("img", { src: `${picture.url}&px=640`, alt: `The picture of ${run.name}`, decoding: "async" }))
          : el("div", { class: "exp-empty" }, "no picture"),
        el("figcaption", {}, el("a", { href: page.addressOf("run", [run.id]) }, run.name), " ", run.status === "completed" ? "" : badge(run.status),
          data.keys.slice(0, MOST_KEYS).map(([key, values]) => el("div", { class: "exp-values" }, `${key}=${shown(values[data.runs.indexOf(run)])}`)),
          run.error ? el("div", { class: "exp-error" }, run.error) : ""));
    });
    const measured = data.measures.filter((measure) => measure.better);
    const others = data.measures.filter((measure) => !measure.better);
    const rows = (measures) => measures.map((measure) => numbers(measure, data.runs.map((run) => rowOf(run)[measure.name])));
    const time = { name: "seconds", text: data.runs.map((run) => (run.seconds === null ? "\u2013" : duration(Math.round(run.seconds)))) };
    element.replaceChildren(...[
      el("h2", { tabindex: -1 }, `Comparison of ${data.runs.length} runs`),
      names.length > 1 ? el("div", { class: "exp-choice" }, select("Picture", names.map((one) => [one, one]), wanted, (value) => draw(data, value))) : null,
      el("div", { class: "exp-figures" }, figures),
      data.runs.length === 2 && data.runs.every(pictureOf) ? slider(data.runs, data.runs.map(pictureOf)) : null,
      el("h3", {}, "Keys that differ"),
      data.keys.length ? table(heads, data.keys.map(([key, values]) => [key, values.map(shown)])) : el("p", { class: "hint" }, "The commands of these runs have the same keys and values."),
      data.more.length ? el("details", {}, el("summary", {}, `${data.more.length} more lines of the configuration differ`), table(heads, data.more.map(([key, values]) => [key, values.map(shown)]))) : null,
      el("h3", {}, "Measures"),
      measured.length ? table(heads, [...rows(measured), [time.name, time.text]]) : el("p", { class: "hint" }, "These runs have no measures that can be compared: sweeps have them, and runs with measure=true."),
      others.length ? el("details", {}, el("summary", {}, "Losses and other numbers"), table(heads, rows(others))) : null,
    ].filter(Boolean));
  }

  return { element, show };
}

// A row of numbers in which the best is marked.
function numbers(measure, values) {
  const known = values.filter(isNumber);
  const best = measure.better && known.length > 1 && Math.min(...known) !== Math.max(...known)
    ? (measure.better === "higher" ? Math.max(...known) : Math.min(...known)) : null;
  const cells = values.map((value) => (value === best ? el("strong", { class: "exp-best" }, `${brief(value)} `, el("span", { class: "unseen" }, "(best)")) : brief(value)));
  const name = el("span", { title: measure.title }, measure.name, measure.better ? el("span", { class: "hint" }, ` ${measure.better} is better`) : "");
  return [name, cells];
}

function table(heads, rows) {
  return el("div", { class: "exp-scroll", tabindex: 0, role: "region", "aria-label": "Table" }, el("table", { class: "exp-table exp-wide" },
    el("thead", {}, el("tr", {}, el("td"), heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, rows.map(([name, values]) => el("tr", {}, el("th", { scope: "row" }, name), values.map((value) => el("td", {}, value)))))));
}

// Two pictures over each other; the slider moves the line between them.
function slider(runs, pictures) {
  const view = el("div", { class: "exp-slider" });
  const over = el("div", { class: "exp-over" }, el("img", { src: pictures[0].full, alt: "" }));
  const range = el("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": `How much of ${runs[0].name} is shown over ${runs[1].name}` });
  const move = () => view.style.setProperty("--at", `${range.value}%`);
  range.addEventListener("input", move);
  view.append(el("img", { src: pictures[1].full, alt: `${runs[0].name} at the left, ${runs[1].name} at the right` }), over, el("div", { class: "exp-line" }), range);
  move();
  return el("figure", { class: "exp-slide" }, view, el("figcaption", { class: "hint" }, `${runs[0].name} at the left, ${runs[1].name} at the right of the line`));
}
