// Notes on runs. A page cannot write its file, so it offers a copy of itself that contains them; what is not in a file
// yet waits in the browser's storage.
import { byId, download, el } from "./dom.mjs";
import { plural } from "./text.mjs";

const IN_PAGE = /(<script type="application\/json" id="notes">)[^]*?(<\/script>)/;

// The source of a page with other notes in it.
export function withNotes(source, notes) {
  const text = JSON.stringify(notes).replaceAll("<", "\\u003c").replaceAll(">", "\\u003e").replaceAll("&", "\\u0026");
  return source.replace(IN_PAGE, (_, head, tail) => head + text + tail);
}

// `run` is an entry of data.runs; `source` the page as it was loaded.
export function makeNotes(source, name, storage, place) {
  const saved = JSON.parse(byId("notes").textContent);
  const key = `nstexp notes ${place}`;
  const drafts = Object.fromEntries(Object.entries(read(storage, key)).filter(([run, text]) => text !== (saved[run] ?? "")));
  const keyOf = (run) => (run.sweep === null ? run.label : `${run.sweep}/${run.label}`);
  const all = () => Object.fromEntries(Object.entries({ ...saved, ...drafts }).filter(([, text]) => text !== ""));
  const waiting = () => Object.keys(drafts).length;
  const listeners = [];

  function put(run, text) {
    const id = keyOf(run);
    if (text === (saved[id] ?? "")) delete drafts[id];
    else drafts[id] = text;
    try {
      storage.setItem(key, JSON.stringify(drafts));
    } catch { /* without storage, notes last until the page is closed or saved */ }
    listeners.forEach((listener) => listener());
  }

  function drawBar() {
    const bar = byId("notes-bar");
    bar.hidden = waiting() === 0;
    const save = () => download(name, "text/html", withNotes(source, all()));
    bar.replaceChildren(`${plural(waiting(), "note")} not in the file yet. `, el("button", { type: "button", click: save }, "Save the page with its notes"),
      ` Put it in the place of ${name}: then the notes stay, also when the report is made again.`);
  }

  listeners.push(drawBar);
  drawBar();
  return { get: (run) => all()[keyOf(run)] ?? "", put, has: () => Object.keys(all()).length > 0, listen: (listener) => listeners.push(listener), all };
}

function read(storage, key) {
  try {
    return JSON.parse(storage.getItem(key) ?? "{}") ?? {};
  } catch {
    return {};
  }
}
