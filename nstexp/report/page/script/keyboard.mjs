// Lets the keyboard walk through a chart: the Tab key reaches it, arrow keys move from point to point, Enter compares.
import { el } from "./dom.mjs";
import { plural } from "./text.mjs";

const FAR = 10;  // points that Page Up and Page Down pass

const byX = (a, b) => a.px - b.px || a.py - b.py;
const byY = (a, b) => a.py - b.py || a.px - b.px;

// The place that a key leads to; null for a key that leads nowhere. `lanes` are lists of places { px, py } in pixels.
// Left and right stay in a lane. Up and down change to the lane next above or below, or go through a single lane by height.
export function placeBeside(lanes, place, key) {
  const own = lanes.find((lane) => lane.includes(place));
  const across = { ArrowLeft: -1, ArrowRight: 1, PageUp: -FAR, PageDown: FAR, Home: -Infinity, End: Infinity };
  const upright = { ArrowUp: -1, ArrowDown: 1 };
  if (!(key in across) && !(key in upright)) return null;
  const others = lanes.map((lane) => (lane === own ? place : lane.reduce((best, one) => (Math.abs(one.px - place.px) < Math.abs(best.px - place.px) ? one : best))));
  const order = key in across ? [...own].sort(byX) : (lanes.length > 1 ? others : [...own]).sort(byY);
  const wanted = order.indexOf(place) + (across[key] ?? upright[key]);
  return order[Math.min(order.length - 1, Math.max(0, wanted))];
}

// Makes a chart one stop of the Tab key. `show(place)` marks a place, `hide()` takes the mark away, `pick(place)` opens
// its picture. A place has a `title`, which a screen reader says with its number.
export function makeWalk(area, chart, { lanes, show, hide, pick = null, name = "point" }) {
  const filled = lanes.filter((lane) => lane.length);
  const all = filled.flat();
  if (!all.length) return;
  const spoken = area.appendChild(el("span", { class: "spoken", role: "status" }));
  let at = [...filled[0]].sort(byX)[0];
  const go = (place) => {
    at = place;
    show(at);
    const lane = [...filled.find((one) => one.includes(at))].sort(byX);
    spoken.textContent = `${lane.indexOf(at) + 1} of ${lane.length}: ${at.title.replaceAll("\n", ", ")}`;
  };
  chart.setAttribute("tabindex", "0");
  chart.setAttribute("role", "application");
  chart.setAttribute("aria-roledescription", "chart");
  const label = chart.getAttribute("aria-label");
  chart.setAttribute("aria-label", `${label}, ${plural(all.length, name)}; arrow keys move between them${pick ? ", Enter compares the picture" : ""}`);
  chart.addEventListener("focus", () => { if (chart.matches(":focus-visible")) go(at); });
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const next = placeBeside(filled, at, event.key);
    if (next) go(next);
    else if (event.key === "Enter" && pick) pick(at);
    else if (event.key === "Escape") hide();
    else return;
    event.preventDefault();
  });
}
