// Where each painting goes, and what stays a photo: strokes of a brush on the photo, sent to the server as masks.
import { el } from "/page/shared/dom.mjs";

const SIDE_PX = 512, SOFT_PX = 3;
const COLORS = ["#e8e3d3", "#ff9f43", "#3fb6d3", "#b06cf0"], KEPT = "#7ed957";
const KEEP = "keep", ERASE = "erase";

export function makeBrush(context) {
  const { state, studio } = context;
  let strokes = [], tool = 1, size = 0.08, active = false, stroke = null, sending = 0;
  const canvas = el("canvas", { class: "brush-canvas", hidden: true });
  context.stage.layers.append(canvas);
  const tools = el("div", { class: "row", role: "radiogroup", "aria-label": "Brush" });
  const width = el("input", { type: "range", min: 0.01, max: 0.3, step: 0.005, value: size, input: () => { size = Number(width.value); } });
  const bar = el("div", { class: "brush-bar card", hidden: true },
    el("p", { class: "hint" }, "Draw on the photo. The first painting covers everything that you do not draw on."),
    tools,
    el("div", { class: "row" }, el("label", { class: "slider brush-size" }, el("span", {}, "Width"), width),
      el("button", { click: undo }, "Undo"), el("button", { click: () => { clear(); send(); } }, "Clear"), el("button", { class: "main", click: toggle }, "Done")));

  const options = () => [...(state.styles.length > 1 ? state.styles.map((style, number) => [number, `${number + 1}: ${style.title.split(",")[0]}`]) : []), [KEEP, "Keep the photo"], [ERASE, "Eraser"]];
  const colorOf = (one) => (one === KEEP ? KEPT : COLORS[one]);

  function toggle() {
    active = !active;
    bar.hidden = canvas.hidden = !active;
    context.stage.frame.classList.toggle("brushing", active);
    if (!active) return;
    if (!options().some(([one]) => one === tool)) tool = KEEP;
    drawTools();
    draw();
    bar.scrollIntoView({ block: "nearest" });
  }

  function drawTools() {
    tools.replaceChildren(...options().map(([one, text]) => el("button", {
      role: "radio", "aria-checked": String(one === tool), class: "brush-tool", click: () => { tool = one; drawTools(); },
    }, el("i", { class: `dot dot${one}` }), text)));
  }

  function fit(target) {
    const { width: w, height: h } = state.content;
    const scale = SIDE_PX / Math.max(w, h);
    target.width = Math.max(1, Math.round(w * scale));
    target.height = Math.max(1, Math.round(h * scale));
  }

  // Draws strokes, each in the color that `paint` gives for its tool; null takes away what is there.
  function drawOn(target, paint) {
    fit(target);
    const pen = target.getContext("2d");
    pen.lineCap = pen.lineJoin = "round";
    for (const one of strokes) {
      const color = paint(one.tool);
      if (color === undefined) continue;
      pen.globalCompositeOperation = color === null ? "destination-out" : "source-over";
      pen.strokeStyle = pen.fillStyle = color ?? "#000";
      pen.lineWidth = one.size * Math.min(target.width, target.height);
      pen.beginPath();
      const points = one.points.map(([x, y]) => [x * target.width, y * target.height]);
      pen.moveTo(...points[0]);
      for (const point of points.length > 1 ? points.slice(1) : [[points[0][0] + 0.01, points[0][1]]]) pen.lineTo(...point);
      pen.stroke();
    }
    return target;
  }

  const draw = () => drawOn(canvas, (one) => (one === ERASE || one === 0 ? null : colorOf(one)));

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    stroke = { tool, size, points: [place(event)] };
    strokes.push(stroke);
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke) return;
    const between = event.getCoalescedEvents?.() ?? [];
    for (const one of between.length ? between : [event]) stroke.points.push(place(one));
    draw();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { if (stroke) { stroke = null; send(); } });

  function undo() { strokes.pop(); draw(); send(); }
  function clear() { strokes = []; state.masks = state.kept = null; if (active) draw(); }

  // The mask of one painting: white where it goes. The first one goes where no other does.
  function maskOf(number) {
    const mask = el("canvas");
    fit(mask);
    const pen = mask.getContext("2d");
    pen.fillStyle = number === 0 ? "#fff" : "#000";
    pen.fillRect(0, 0, mask.width, mask.height);
    pen.filter = `blur(${SOFT_PX}px)`;
    const ink = number === 0 ? "#000" : "#fff";
    pen.drawImage(drawOn(el("canvas"), (one) => (one === KEEP ? undefined : one === ERASE || one === 0 || (number !== 0 && one !== number) ? null : ink)), 0, 0);
    return mask;
  }

  function keptMask() {
    const mask = el("canvas");
    fit(mask);
    const pen = mask.getContext("2d");
    pen.fillRect(0, 0, mask.width, mask.height);
    pen.filter = `blur(${SOFT_PX}px)`;
    pen.drawImage(drawOn(el("canvas"), (one) => (one === KEEP ? "#fff" : one === ERASE ? null : undefined)), 0, 0);
    return mask;
  }

  async function upload(mask, name) {
    const blob = await new Promise((done) => mask.toBlob(done, "image/png"));
    return (await context.upload(new File([blob], `${name}.png`, { type: "image/png" }))).name;
  }

  async function send() {
    const turn = ++sending;
    const usesMasks = state.styles.length > 1 && strokes.some((one) => typeof one.tool === "number" && one.tool > 0);
    const usesKept = strokes.some((one) => one.tool === KEEP);
    await studio.trying(async () => {
      const masks = usesMasks ? await Promise.all(state.styles.map((_, number) => upload(maskOf(number), `mask${number + 1}`))) : null;
      const kept = usesKept ? await upload(keptMask(), "keep") : null;
      if (turn !== sending) return;
      Object.assign(state, { masks, kept });
      context.changed("masks");
    });
  }

  // Other paintings than before: strokes of paintings that are gone go, too.
  function follow() {
    if (state.masks && state.masks.length !== state.styles.length) state.masks = null;
    const before = strokes.length;
    strokes = strokes.filter((one) => typeof one.tool !== "number" || one.tool < state.styles.length);
    if (active) { drawTools(); draw(); }
    if (before && strokes.some((one) => typeof one.tool === "number")) send();
  }

  function remove(number) {
    strokes = strokes.filter((one) => one.tool !== number);
    for (const one of strokes) if (typeof one.tool === "number" && one.tool > number) one.tool -= 1;
  }

  function forget() {
    sending += 1;
    strokes = [];
    if (active) toggle();
  }

  return { bar, toggle, follow, remove, forget };
}
