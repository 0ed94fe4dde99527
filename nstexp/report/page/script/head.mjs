// The head of the page, and its theme.
import { badge, byId, el, revealAll } from "./dom.mjs";
import { duration, moment, plural } from "./text.mjs";

export function drawHead({ data }) {
  byId("title").textContent = data.title;
  const statuses = Object.entries(data.statuses).map(([status, count]) => [badge(status, count), " "]);
  const facts = [data.seconds ? `${duration(data.seconds)} in total` : null, data.started && `started ${moment(data.started)}`];
  byId("summary").append(`${plural(data.runs.length, "run")} `, ...statuses.flat(), facts.filter(Boolean).map((fact) => ` \u00b7 ${fact}`).join(""));
  byId("shared").append(...data.shared.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  byId("notices").hidden = data.notices.length === 0;
  byId("notices").querySelector("ul").append(...data.notices.map((notice) => el("li", {}, notice)));
  for (const note of document.querySelectorAll(".reference-note")) {
    note.hidden = data.reference_note === null;
    note.textContent = data.reference_note ?? "";
  }
  byId("made").textContent = `Made ${moment(data.made)} from ${data.folders.map((folder) => folder.name).join(", ")}. `;
  byId("made").append(el("a", { href: "table.csv" }, "table.csv"), " ", el("a", { href: "grid.png" }, "grid.png"));
}

// `redraw` draws the charts in other colors or sizes; `print` shows or hides what only paper needs.
export function startTheme(redraw, print, resize) {
  const next = { "": "light", light: "dark", dark: "" };
  const root = document.documentElement;
  byId("theme").addEventListener("click", () => {
    const theme = next[root.dataset.theme ?? ""];
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    byId("theme").textContent = `Theme: ${theme || "system"}`;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    print(true);
    revealAll();
    redraw();
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    print(false);
    redraw();
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    resize();
  });
}

// Links within the page scroll, and leave the state in the address alone.
export function startLinks() {
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const target = document.querySelector(link.getAttribute("href"));
      target.scrollIntoView();
      target.querySelector("h2, [tabindex]")?.focus({ preventScroll: true });
    });
  }
}
