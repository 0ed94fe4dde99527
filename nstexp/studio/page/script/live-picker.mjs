// The choice of a painting, for the parts Webcam and Clip: a button that opens the window of built-in paintings.
import { el } from "/page/shared/dom.mjs";
import { makeGallery } from "./paint-gallery.mjs";
import { pictureOf } from "./paint-state.mjs";

const FIRST = "met:436535";

// `changed` is called with the name of each painting that the user takes. `id` tells the windows of two parts apart.
export async function makePicker(studio, id, changed) {
  const gallery = await studio.get("/api/gallery");
  const windows = makeGallery({ gallery, studio, upload });
  for (const one of windows.dialog.querySelectorAll("[id]")) one.id = `${id}-${one.id}`;
  for (const one of windows.dialog.querySelectorAll("[for]")) one.htmlFor = `${id}-${one.htmlFor}`;
  windows.dialog.setAttribute("aria-labelledby", `${id}-gallery-title`);
  const image = el("img", { alt: "" });
  const title = el("span", {});
  const button = el("button", { class: "live-painting", click: () => windows.open("paintings", take) }, image, title);
  const picker = { element: button, dialog: windows.dialog, name: "" };

  async function upload(file) {
    const form = new FormData();
    form.append("file", file);
    return studio.post("/api/paint/uploads", form);
  }

  function show(one) {
    picker.name = one.name;
    image.src = pictureOf(one.name, "thumbnail");
    title.textContent = one.title;
    button.setAttribute("aria-label", `Painting: ${one.title}. Choose another`);
  }

  function take(one) {
    show(one);
    changed(one.name);
  }

  show(gallery.paintings.find((one) => one.name === FIRST) ?? gallery.paintings[0]);
  return picker;
}
