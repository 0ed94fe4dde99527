// The window with the built-in pictures: photos, paintings with a search, and learned styles.
import { el } from "/page/shared/dom.mjs";
import { pictureOf } from "./paint-state.mjs";

export function makeGallery(context) {
  const { gallery } = context;
  let take = () => {};
  const title = el("h2", { id: "gallery-title" });
  const search = el("input", { type: "search", placeholder: "Title, artist or year", "aria-label": "Search by title, artist or year", input: () => draw() });
  const count = el("span", { class: "hint", role: "status" });
  const grid = el("ul", { class: "gallery-grid" });
  const file = el("input", { type: "file", accept: "image/*,.heic,.tif,.tiff", class: "unseen", id: "gallery-file", change: own });
  const choose = el("label", { class: "button", for: "gallery-file" }, "Own file \u2026");
  const head = el("div", { class: "gallery-head" }, title, search, count, el("span", { class: "gallery-own" }, file, choose), el("button", { click: () => dialog.close() }, "Close"));
  const dialog = el("dialog", { class: "gallery", "aria-labelledby": "gallery-title", click: (event) => { if (event.target === dialog) dialog.close(); } }, head, grid);
  let entries = [];

  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = entries.filter((each) => words.every((word) => `${each.name} ${each.title}`.toLowerCase().includes(word)));
    count.textContent = found.length === entries.length ? `${entries.length} pictures` : `${found.length} of ${entries.length}`;
    grid.replaceChildren(...found.map((each) => el("li", {}, el("button", { class: "gallery-item", title: each.title, click: () => { dialog.close(); take(each); } },
      el("img", { src: pictureOf(each.source ?? each.name, "thumbnail"), alt: "", loading: "lazy", width: each.width ? Math.round((each.width * 150) / each.height) : 150, height: 150 }),
      el("span", {}, each.title), each.source ? el("b", {}, each.name) : null))));
  }

  function open(kind, chosen) {
    take = chosen;
    entries = gallery[kind];
    title.textContent = { photos: "Choose a photo", paintings: "Choose a painting", learned: "Choose a learned style" }[kind];
    head.querySelector(".gallery-own").hidden = kind === "learned";
    file.value = "";
    search.value = "";
    draw();
    dialog.showModal();
    search.focus();
  }

  async function own() {
    const chosen = file.files[0];
    if (!chosen) return;
    dialog.close();
    const kept = await context.studio.trying(() => context.upload(chosen));
    if (kept) take(kept);
  }

  return { dialog, open };
}
