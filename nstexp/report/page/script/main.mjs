// Puts the parts of the page together.
import { makeAddress } from "./address.mjs";
import { makeCompare } from "./compare.mjs";
import { drawConfiguration } from "./configuration.mjs";
import { makeCurves } from "./curves.mjs";
import { makeEffects } from "./effects.mjs";
import { byId } from "./dom.mjs";
import { drawHead, startLinks, startTheme } from "./head.mjs";
import { makeModel } from "./model.mjs";
import { makeNotes } from "./notes.mjs";
import { makeSearch } from "./search.mjs";
import { makeScatter } from "./scatter.mjs";
import { makeSheet } from "./sheet.mjs";
import { makeTable } from "./table.mjs";
import { makeTogether } from "./together.mjs";

const source = `<!doctype html>\n${document.documentElement.outerHTML}\n`;  // before anything is drawn: notes are saved in a copy
const model = makeModel(JSON.parse(byId("data").textContent));
const address = makeAddress(location, history);
const notes = makeNotes(source, "report.html", storageOfPage(), location.pathname);
const context = { model, address, notes };

drawHead(model);
const compare = makeCompare(context);
context.openCompare = compare.open;
const sheet = makeSheet(context);
const table = makeTable({ ...context, changed: () => redrawCharts() });
Object.assign(context, { table });
const [curves, scatter, together, effects, search] = [makeCurves, makeScatter, makeTogether, makeEffects, makeSearch].map((make) => make(context));

function redrawCharts() {
  curves.draw();
  scatter.draw(curves.color());
}

function redrawAll() {
  redrawCharts();
  together.redraw();
  effects.redraw();
  search.redraw();
}

function storageOfPage() {
  try {
    return localStorage;
  } catch {
    return { getItem: () => null, setItem: () => null };
  }
}

model.redrawCharts = redrawCharts;
sheet.start();
table.start();
curves.start();
scatter.start();
together.start();
effects.start();
search.start();
redrawCharts();
compare.start();
drawConfiguration(model);
startTheme(redrawAll, table.print, () => { sheet.setSize(); redrawAll(); });
startLinks();
addEventListener("hashchange", () => { if (address.isForeign()) location.reload(); });
