// The pictures of this session as a strip, the newest first.
import { el } from "/page/shared/dom.mjs";

export function makeHistory(context) {
  const { studio, start } = context;
  const pictures = new Map(start.pictures.filter((one) => ["completed", "stopped"].includes(one.status)).map((one) => [one.id, one]));
  const list = el("ol", { class: "strip", "aria-label": "Pictures of this session, the newest first" });
  const element = el("section", { class: "strip-all", hidden: true }, el("h3", {}, "This session"), list);
  let current = null;

  function draw() {
    element.hidden = pictures.size === 0;
    const newest = [...pictures.values()].sort((a, b) => b.made - a.made);
    list.replaceChildren(...newest.map(item));
    context.stage.offer(newest);
  }

  function item(picture) {
    const number = Number(picture.id.slice(0, 4));
    const text = `Picture ${number}, ${picture.sent.method}, ${picture.width} x ${picture.height} px${picture.status === "stopped" ? ", stopped early" : ""}`;
    const show_ = el("button", { class: "strip-picture", "aria-label": text, title: text, "aria-current": picture.id === current ? "true" : null, click: () => show(picture.id) },
      el("img", { src: `/api/paint/pictures/${picture.id}/thumbnail`, alt: "", loading: "lazy" }), el("span", {}, String(number)));
    const remove = el("button", { class: "strip-remove", "aria-label": `Take picture ${number} out of the strip`, title: "Take it out of the strip; its folder stays on the disk", click: () => drop(picture.id) }, "\u00d7");
    return el("li", {}, show_, remove);
  }

  function add(picture) {
    pictures.set(picture.id, picture);
    draw();
  }

  function show(id, revision) {
    current = id;
    draw();
    context.painter.hideGrowth();
    context.stage.showResult(pictures.get(id), revision);
  }

  const drop = (id) => studio.trying(async () => {
    await studio.post(`/api/paint/pictures/${id}/remove`);
    pictures.delete(id);
    draw();
  });

  queueMicrotask(draw);
  return { element, add, show };
}
