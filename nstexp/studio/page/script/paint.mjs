// The part Paint: the settings of a picture, and what happens when one of them changes.
import { el } from "/page/shared/dom.mjs";
import { makeBrush } from "./paint-brush.mjs";
import { makeCamera } from "./paint-camera.mjs";
import { makeGallery } from "./paint-gallery.mjs";
import { makeHistory } from "./paint-history.mjs";
import { makePanel } from "./paint-panel.mjs";
import { makePainter } from "./paint-painter.mjs";
import { makeStage } from "./paint-stage.mjs";
import { DEFAULTS, METHODS, fromSent, longerSide, pictureOf, toSent } from "./paint-state.mjs";

const FIRST = { photo: "sample:coffee", painting: "met:436535" };

export async function mount(element, studio) {
  const [gallery, start] = await Promise.all([studio.get("/api/gallery"), studio.get("/api/paint/start")]);
  const known = new Map([...gallery.photos, ...gallery.paintings, ...start.uploads].map((each) => [each.name, each]));
  const state = { ...DEFAULTS, content: null, styles: [] };
  const context = { studio, gallery, known, state, start };
  const before = {};  // the paintings of the kind of method that is not chosen
  let kindBefore = "free";

  // Every part of the page calls this when the user has changed something.
  context.changed = (what) => {
    if (what === "content") {
      context.brush.forget();
      Object.assign(state, { masks: null, kept: null });
    }
    if (what === "styles") context.brush.follow();
    if (what === "method") adapt();
    context.panel.draw();
    context.stage.fit();
    context.painter.changed();
  };

  // Methods take different paintings: a network with learned styles knows these only. Each kind of method gets back the
  // paintings that it had before.
  function adapt() {
    const learned = gallery.learned;
    const kind = state.method === "cin" ? "learned" : "free";
    if (kind === kindBefore) return;
    before[kindBefore] = state.styles;
    kindBefore = kind;
    if (before[kind]?.length) {
      state.styles = before[kind];
    } else if (kind === "learned") {
      const names = state.styles.map((style) => (learned.find((one) => one.source === style.name) ?? learned[0]).name);
      state.styles = [...new Set(names)].map((name) => styleOf(name));
    } else {
      state.styles = state.styles.map((style) => styleOf(learned.find((one) => one.name === style.name)?.source ?? style.name));
    }
    context.brush.follow();
  }

  function styleOf(name, given = {}) {
    const learned = gallery.learned.find((one) => one.name === name);
    const title = learned ? `${name}: ${learned.title}` : known.get(name)?.title ?? given.title ?? name;
    return { ...given, name, title, picture: pictureOf(learned?.source ?? name, "thumbnail") };
  }

  context.setPhoto = (photo) => {
    state.content = { ...photo, picture: pictureOf(photo.name, "view") };
    context.stage.showPhoto();
    context.changed("content");
  };
  context.addStyle = (style, place = state.styles.length) => {
    if (state.styles.some((one, number) => one.name === style.name && number !== place)) return;
    state.styles[Math.min(place, 3)] = styleOf(style.name, style);
    if (state.method === "cin" && !gallery.learned.some((one) => one.name === style.name)) state.method = "swift";
    kindBefore = state.method === "cin" ? "learned" : "free";
    context.changed("styles");
  };
  context.removeStyle = (number) => {
    context.brush.remove(number);
    state.styles.splice(number, 1);
    context.changed("styles");
  };
  context.upload = async (file) => {
    const form = new FormData();
    if (file.size > start.limits.upload_bytes) {
      throw new Error(`${file.name}: the file is larger than ${Math.round(start.limits.upload_bytes / 2 ** 20)} MB, the limit of the studio`);
    }
    form.append("file", file, file.name || "picture.png");
    const kept = await studio.post("/api/paint/uploads", form);
    known.set(kept.name, kept);
    return kept;
  };
  context.useFile = (file, as) => studio.trying(async () => {
    if (!file) return;
    const kept = await context.upload(file);
    if (as === "painting") context.addStyle(kept);
    else context.setPhoto(kept);
  });
  context.restore = (sent) => {
    Object.assign(state, fromSent(sent, known, styleOf));
    kindBefore = state.method === "cin" ? "learned" : "free";
    context.brush.forget();
    context.stage.showPhoto();
    context.panel.draw();
    context.stage.fit();
  };
  context.sent = () => toSent(state);
  context.whole = () => longerSide(state);
  context.live = () => METHODS[state.method].live;

  context.chooser = makeGallery(context);
  context.camera = makeCamera(context);
  context.stage = makeStage(context);
  context.brush = makeBrush(context);
  context.history = makeHistory(context);
  context.painter = makePainter(context);
  context.panel = makePanel(context);
  element.replaceChildren(
    el("h2", { class: "unseen" }, "Paint"),
    el("div", { class: "paint" },
      el("div", { class: "paint-left" }, context.stage.element, context.brush.bar, context.painter.element, context.history.element),
      context.panel.element),
    context.chooser.dialog, context.camera.dialog,
  );
  startDropping(element, context);

  const growing = start.pictures.findLast((picture) => picture.steps && ["waiting", "running"].includes(picture.status));
  const last = start.pictures.filter((picture) => picture.status === "completed").at(-1);
  if (growing && known.has(growing.sent.content)) {
    context.restore(growing.sent);
    context.painter.resume(growing);
  } else if (last && known.has(last.sent.content)) {
    context.restore(last.sent);
    context.history.show(last.id);
  } else {
    state.styles = known.has(FIRST.painting) ? [styleOf(FIRST.painting)] : [];
    if (known.has(FIRST.photo)) context.setPhoto(known.get(FIRST.photo));
  }
}

// Files may be dropped anywhere: on the paintings they become paintings, elsewhere the photo. Pasting gives the photo.
function startDropping(element, context) {
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
  element.addEventListener("dragenter", (event) => { if (hasFiles(event)) element.classList.add("dropping"); });
  element.addEventListener("dragleave", (event) => { if (!element.contains(event.relatedTarget)) element.classList.remove("dropping"); });
  addEventListener("drop", (event) => {
    if (!hasFiles(event) || element.hidden) return;
    event.preventDefault();
    element.classList.remove("dropping");
    const as = event.target.closest?.("[data-drop]")?.dataset.drop ?? "photo";
    for (const file of [...event.dataTransfer.files].slice(0, as === "painting" ? 4 : 1)) context.useFile(file, as);
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!file || element.hidden) return;
    event.preventDefault();
    context.useFile(file, document.querySelector("dialog[open]") ? "painting" : "photo");
  });
}
