// The tabs: each part of the page is loaded when its tab is first opened.
import { byId } from "/page/shared/dom.mjs";
import { say, studio, tell } from "./studio.mjs";

const FILES = { paint: "./paint.mjs", experiments: "./experiments.mjs", clip: "./clips.mjs", webcam: "./live.mjs" };
const tabs = [...document.querySelectorAll("[role=tab]")];
const mounted = new Set();
let current = null;

const wanted = () => {
  const name = location.hash.slice(1).split("/")[0];
  return name in FILES ? name : "paint";
};

async function open(name) {
  if (current !== name) tell("hidden", current);
  current = name;
  for (const tab of tabs) {
    const chosen = tab.dataset.part === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(`part-${tab.dataset.part}`).hidden = !chosen;
  }
  if (!mounted.has(name)) {
    mounted.add(name);
    try {
      const part = await import(FILES[name]);
      await part.mount(byId(`part-${name}`), studio);
    } catch (error) {
      mounted.delete(name);
      say(`this part of the page cannot be shown: ${error.message}`, "bad");
    }
  }
  if (current === name) tell("shown", name);
}

for (const [number, tab] of tabs.entries()) {
  tab.addEventListener("click", () => { location.hash = tab.dataset.part; });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    const next = tabs[(number + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}
addEventListener("hashchange", () => { if (wanted() !== current) open(wanted()); });
open(wanted());
