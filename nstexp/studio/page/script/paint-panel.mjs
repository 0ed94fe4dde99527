// The panel with all settings. It is built once; `draw` brings it up to date, so that a slider in the hand stays there.
import { el } from "/page/shared/dom.mjs";
import { COLORS, DEFAULTS, METHODS, SIZES, pictureOf, sizeOf } from "./paint-state.mjs";

export function makePanel(context) {
  const { state, studio } = context;
  const redraws = [];
  const percent = (value) => `${Math.round(value * 100)} %`;

  // ------------------------------------------------------------------------------------------------ parts
  const section = (title, ...parts) => el("section", { class: "panel-part" }, el("h3", {}, title), ...parts);

  function slider({ label, key, min, max, step, shown, to = (x) => x, from = (x) => x, when }) {
    const value = el("output", {});
    // The words around an input name its first sibling, the output, so that the input needs its own name.
    const input = el("input", { type: "range", min, max, step, "aria-label": label, input: () => { state[key] = to(Number(input.value)); context.changed(key); },
      dblclick: () => { state[key] = DEFAULTS[key]; context.changed(key); } });
    const row = el("label", { class: "slider" }, el("span", {}, label), value, input);
    redraws.push(() => {
      row.hidden = when ? !when() : false;
      if (Number(input.value) !== from(state[key])) input.value = from(state[key]);
      value.textContent = shown(state[key]);
      input.setAttribute("aria-valuetext", value.textContent);
    });
    return row;
  }

  function choice({ label, key, options, when, disabled }) {
    const list = el("select", { change: () => { const own = list.value; state[key] = /^\d+$/.test(own) ? Number(own) : own; context.changed(key); } });
    const row = el("label", { class: "field" }, el("span", {}, label), list);
    redraws.push(() => {
      row.hidden = when ? !when() : false;
      const all = typeof options === "function" ? options() : options;
      list.replaceChildren(...Object.entries(all).map(([value, text]) => el("option", { value, disabled: disabled?.(value) ?? false }, text)));
      list.value = String(key === "size" ? sizeOf(state) : state[key]);
      if (list.selectedIndex < 0) list.selectedIndex = list.options.length - 1;
    });
    return row;
  }

  // ------------------------------------------------------------------------------------------------ the photo
  const photo = el("img", { class: "panel-photo", alt: "" });
  const photoTitle = el("p", { class: "panel-title" });
  const file = el("input", { type: "file", accept: "image/*,.heic,.tif,.tiff", class: "unseen", id: "photo-file", change: () => { context.useFile(file.files[0], "photo"); file.value = ""; } });
  const ofPhoto = section("Photo",
    el("div", { class: "panel-item" }, photo, el("div", {}, photoTitle,
      el("div", { class: "row small" }, file, el("label", { class: "button", for: "photo-file" }, "Open \u2026"),
        el("button", { click: () => context.chooser.open("photos", (each) => context.setPhoto(context.known.get(each.name) ?? each)) }, "Built-in \u2026"),
        el("button", { click: () => context.camera.open() }, "Camera \u2026")))),
    el("p", { class: "hint" }, "Or drop it anywhere, or paste it."));
  redraws.push(() => {
    if (!state.content) return;
    const address = pictureOf(state.content.name, state.content.name.startsWith("upload:") ? "view" : "thumbnail");
    if (photo.getAttribute("src") !== address) photo.src = address;
    photoTitle.textContent = `${state.content.title}, ${state.content.width} x ${state.content.height}`;
  });

  // ------------------------------------------------------------------------------------------------ the paintings
  const paintings = el("ol", { class: "panel-styles" });
  const add = el("button", { click: () => pick(state.styles.length) }, "Add a painting \u2026");
  const ofPaintings = section("Paintings", paintings, slider({ label: "Mix", key: "mix", min: 0, max: 1, step: 0.01, shown: (x) => `${Math.round(100 - 100 * x)} : ${Math.round(100 * x)}`, when: () => state.styles.length === 2 && !state.masks }), add);
  ofPaintings.dataset.drop = "painting";
  const pick = (place) => context.chooser.open(state.method === "cin" ? "learned" : "paintings", (each) => context.addStyle(each, place));
  let drawn = "";

  redraws.push(() => {
    add.hidden = state.styles.length >= 4;
    add.textContent = state.styles.length ? "Add a painting \u2026" : "Choose a painting \u2026";
    const now = JSON.stringify([state.styles, Boolean(state.masks)]);
    if (now !== drawn) paintings.replaceChildren(...state.styles.map(painting));
    drawn = now;
    for (const [number, row] of [...paintings.children].entries()) row.querySelector("output")?.replaceChildren(String(state.weights[number]));
  });

  function painting(style, number) {
    const many = state.styles.length > 2 && !state.masks;
    const weight = many && el("label", { class: "slider" }, el("span", {}, "Share"), el("output", {}),
      el("input", { type: "range", min: 0, max: 2, step: 0.05, value: state.weights[number], "aria-label": `Share of painting ${number + 1}`, input: (event) => { state.weights[number] = Number(event.target.value); context.changed("weights"); } }));
    return el("li", { class: "panel-item" },
      el("button", { class: "panel-thumb", "aria-label": `Change painting ${number + 1}: ${style.title}`, title: "Change it", click: () => pick(number) }, el("img", { src: style.picture, alt: "" })),
      el("div", {}, el("p", { class: "panel-title" }, state.styles.length > 1 ? el("b", { class: `dot dot${number}` }, String(number + 1)) : null, style.title), weight || null),
      el("button", { class: "quiet panel-remove", "aria-label": `Remove painting ${number + 1}`, click: () => context.removeStyle(number) }, "\u00d7"));
  }

  // ------------------------------------------------------------------------------------------------ the method
  const about = el("p", { class: "hint" });
  const radios = Object.entries(METHODS).map(([name, method]) => {
    const input = el("input", { type: "radio", name: "method", value: name, change: () => { state.method = name; context.changed("method"); } });
    redraws.push(() => { input.checked = state.method === name; });
    return el("label", { class: "segment" }, input, el("span", {}, method.title));
  });
  redraws.push(() => { about.textContent = METHODS[state.method].text; });
  const ofMethod = section("Method", el("div", { class: "segments", role: "radiogroup", "aria-label": "Method" }, radios), about);

  // ------------------------------------------------------------------------------------------------ adjust
  const has = (what) => () => Boolean(METHODS[state.method][what]);
  const faces = el("input", { type: "checkbox", change: () => { state.faces = faces.checked; context.changed("faces"); } });
  const facesRow = el("label", { class: "check", hidden: !context.start.faces }, faces, "Keep faces");
  const brushButton = el("button", { click: () => context.brush.toggle() });
  redraws.push(() => {
    faces.checked = state.faces;
    brushButton.textContent = state.masks || state.kept ? "Change the brush strokes \u2026" : state.styles.length > 1 ? "Brush: where each painting goes \u2026" : "Brush: what stays a photo \u2026";
  });
  const ofLook = section("Look",
    slider({ label: "Amount of style", key: "alpha", min: 0, max: 1, step: 0.01, shown: percent, when: has("alpha") }),
    slider({ label: "Amount of style", key: "beta", min: 1, max: 5, step: 0.1, to: (x) => Number((10 ** x).toPrecision(2)), from: (x) => Number(Math.log10(x).toFixed(1)), shown: (x) => `weight ${x}`, when: has("steps") }),
    slider({ label: "Size of strokes", key: "stroke", min: -2, max: 1, step: 0.1, to: (x) => Number((2 ** x).toPrecision(3)), from: (x) => Number(Math.log2(x).toFixed(1)), shown: (x) => (x === 1 ? "usual" : `x ${x}`), when: has("stroke") }),
    choice({ label: "Colors", key: "color", options: COLORS, disabled: (value) => state.method === "cin" && value === "preserve" }),
    slider({ label: "How strongly", key: "color_strength", min: 0, max: 1, step: 0.01, shown: percent, when: () => state.color !== "none" }),
    slider({ label: "Looks like a photo", key: "photorealism", min: 0, max: 1, step: 0.01, shown: percent }),
    el("div", { class: "row" }, brushButton, facesRow),
    slider({ label: "How much kept places keep", key: "protect_strength", min: 0, max: 1, step: 0.01, shown: percent, when: () => state.faces || Boolean(state.kept) }));

  // ------------------------------------------------------------------------------------------------ the result
  const paint = el("button", { class: "main paint-button", click: () => context.painter.paint() }, "Paint");
  redraws.push(() => {
    paint.hidden = context.live();
    paint.disabled = Boolean(context.painter?.growing()) || !state.content || !state.styles.length;
    paint.textContent = context.painter?.growing() ? "Painting \u2026" : "Paint";
  });
  const sizes = () => {
    const largest = state.content ? Math.max(state.content.width, state.content.height) : 0;
    const smaller = SIZES.filter((px) => px < largest).map((px) => [px, `${px} px`]);
    return { ...Object.fromEntries(smaller), own: `as the photo${largest ? `, ${largest} px` : ""}` };
  };
  const ofResult = section("Result",
    choice({ label: "Longer side", key: "size", options: sizes }),
    slider({ label: "Steps", key: "steps", min: 20, max: 1000, step: 10, shown: String, when: has("steps") }),
    paint);

  const reset = el("button", { class: "quiet", click: () => {
    for (const key of ["alpha", "beta", "stroke", "color", "color_strength", "photorealism", "faces", "protect_strength", "steps", "mix"]) state[key] = DEFAULTS[key];
    state.weights = [...DEFAULTS.weights];
    drawn = "";
    context.changed("all");
    studio.say("All sliders are back at their usual places.");
  } }, "Reset the sliders");
  const element = el("aside", { class: "paint-panel", "aria-label": "Settings" }, ofPhoto, ofPaintings, ofMethod, ofLook, ofResult, reset);
  const draw = () => { for (const redraw of redraws) redraw(); };
  return { element, draw };
}
