// The part Clip: a clip of the user's, three of its frames redrawn at once, and the whole clip in the background.
import { el } from "/page/shared/dom.mjs";
import { makeWorks } from "./clips-works.mjs";
import { makePicker } from "./live-picker.mjs";
import { COLORS } from "./paint-state.mjs";

const SIZES = [256, 384, 512, 768, 1024];
const REST_MS = 120;  // a slider rests for so long before frames are asked for
const PREVIEW_PX = 320;
const STILLS = [0, 1, 2];

export async function mount(element, studio) {
  for (const name of ["live", "clips"]) {
    if (!document.querySelector(`link[href="/page/${name}.css"]`)) document.head.append(el("link", { rel: "stylesheet", href: `/page/${name}.css` }));
  }
  const [picker, start] = await Promise.all([makePicker(studio, "clip", () => changed()), studio.get("/api/clips/start")]);
  const state = { clip: null, alpha: 1, color: "none", size: "512", stabilize: 0.8 };
  const works = makeWorks(studio);
  let timer = null, round = 0;

  // ------------------------------------------------------------------------------------------------ the clip
  const file = el("input", { type: "file", accept: "video/*,.mkv,.gif,.webp,.apng,.avif", class: "unseen", id: "clip-file", change: () => { if (file.files[0]) upload(file.files[0]); file.value = ""; } });
  const drop = el("label", { class: "clips-drop", for: "clip-file" }, el("b", {}, "Choose a clip, or drop it here"),
    el("span", { class: "hint" }, `A video or an animated picture, up to ${Math.round(start.limits.bytes / 2 ** 20)} MB. It stays on this machine.`));
  const progress = el("progress", { max: 1, value: 0, "aria-label": "The clip is being read" });
  const reading = el("p", { class: "clips-reading", hidden: true }, el("span", {}, "Reading the clip \u2026"), progress);
  const earlier = el("select", { "aria-label": "Your clips", change: () => choose(clips.find((one) => one.name === earlier.value)) });
  const about = el("p", { class: "hint" });
  const remove = el("button", { class: "quiet", click: forget }, "Remove this clip");
  const chooser = el("div", { class: "row", hidden: true }, earlier, remove);
  let clips = start.clips;

  const stills = STILLS.map((n) => {
    const before = el("img", { alt: "" }), after = el("img", { class: "clips-after", alt: "", hidden: true });
    const text = el("figcaption", { class: "hint" });
    return { before, after, text, figure: el("figure", { class: "clips-still" }, el("div", { class: "clips-pair" }, before, after), text) };
  });
  const frames = el("div", { class: "clips-stills", hidden: true }, stills.map((one) => one.figure));

  function upload(chosen) {
    if (chosen.size > start.limits.bytes) {
      studio.say(`${chosen.name}: the file is larger than ${Math.round(start.limits.bytes / 2 ** 20)} MB, the limit of the studio`, "bad");
      return;
    }
    const request = new XMLHttpRequest();  // fetch cannot tell how far an upload is
    request.open("POST", `/api/clips/uploads?name=${encodeURIComponent(chosen.name)}`);
    request.upload.addEventListener("progress", (event) => { if (event.lengthComputable) progress.value = event.loaded / event.total; });
    request.addEventListener("loadend", () => {
      reading.hidden = true;
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch { /* the studio is gone, or the page */ }
      if (request.status !== 200) return studio.say(answer.error ?? "the studio does not answer: is its command still running?", "bad");
      clips = [answer, ...clips];
      return choose(answer);
    });
    reading.hidden = false;
    progress.value = 0;
    request.send(chosen);
  }

  function choose(clip) {
    state.clip = clip ?? null;
    chooser.hidden = !clips.length;
    earlier.replaceChildren(...clips.map((one) => el("option", { value: one.name }, one.title)));
    frames.hidden = redraw.disabled = !clip;
    remove.disabled = !clip;
    if (!clip) {
      about.textContent = "";
      return;
    }
    earlier.value = clip.name;
    about.textContent = `${clip.width} x ${clip.height}, ${clip.frames} frames, ${seconds(clip.seconds)} at ${clip.fps} a second${clip.sound ? ", with sound" : ""}`;
    const longer = Math.max(clip.width, clip.height);
    const smaller = SIZES.filter((px) => px < longer);
    size.replaceChildren(...smaller.map((px) => el("option", { value: px }, `${px} px`)), el("option", { value: "own" }, `as the clip, ${longer} px`));
    size.value = smaller.includes(Number(state.size)) ? state.size : "own";
    [from.max, to.max] = [clip.seconds, clip.seconds];
    [from.value, to.value] = ["", ""];
    [from.placeholder, to.placeholder] = ["0", String(clip.seconds)];
    stills.forEach(({ before, after, text }, n) => {
      before.src = `/api/clips/uploads/${encodeURIComponent(clip.name)}/${n}`;
      before.alt = `Frame ${clip.stills[n]} of the clip`;
      after.hidden = true;
      text.textContent = `frame ${clip.stills[n]}`;
    });
    changed();
  }

  async function forget() {
    const gone = state.clip;
    const done = await studio.trying(() => studio.post(`/api/clips/uploads/${encodeURIComponent(gone.name)}/remove`));
    if (!done) return;
    clips = clips.filter((one) => one !== gone);
    choose(clips[0]);
  }

  // ------------------------------------------------------------------------------------------------ the settings
  const slider = (label, key, max, step, help) => {
    const shown = el("output", {}, `${Math.round(100 * state[key])} %`);
    const input = el("input", { type: "range", min: 0, max, step, value: state[key], title: help ?? null, "aria-valuetext": shown.textContent, input: () => {
      state[key] = Number(input.value);
      shown.textContent = `${Math.round(100 * state[key])} %`;
      input.setAttribute("aria-valuetext", shown.textContent);
      if (key === "alpha") changed();
    } });
    return el("label", { class: "live-slider" }, el("span", {}, label), shown, input);
  };
  const choice = (label, options, key) => {
    const list = el("select", { change: () => { state[key] = list.value; changed(); } }, Object.entries(options).map(([value, text]) => el("option", { value }, text)));
    list.value = state[key];
    return el("label", { class: "live-field" }, el("span", {}, label), list);
  };
  const size = el("select", { change: () => { state.size = size.value; changed(); } });
  const time = (label) => el("input", { type: "number", min: 0, step: 0.1, "aria-label": label });
  const [from, to] = [time("Start, in seconds"), time("End, in seconds")];
  const redraw = el("button", { class: "main", disabled: true, click: begin }, "Redraw the clip");

  const sent = () => {
    const px = size.value === "own" ? null : Number(size.value);
    return { clip: state.clip?.name, method: "swift", styles: [picker.name], alpha: state.alpha, color: state.color, image_px: px };
  };

  async function begin() {
    const more = { stabilize: state.stabilize };
    if (from.value !== "") more.start = Number(from.value);
    if (to.value !== "") more.end = Number(to.value);
    redraw.disabled = true;
    const work = await studio.trying(() => studio.post("/api/clips/works", { ...sent(), ...more }));
    redraw.disabled = !state.clip;
    if (work) works.add(work);
  }

  // The three frames follow the settings; frames of earlier settings that come late are not shown.
  function changed() {
    clearTimeout(timer);
    if (state.clip) timer = setTimeout(preview, REST_MS);
  }

  async function preview() {
    const own = ++round;
    const longer = Math.max(state.clip.width, state.clip.height);
    const whole = sent().image_px ?? longer;
    for (const [n, { after, text }] of stills.entries()) {
      if (own !== round) return;
      const answer = await studio.post("/api/clips/preview", { ...sent(), still: n, px: Math.min(PREVIEW_PX, whole), whole_px: whole })
        .catch((error) => { if (error.status !== 409 && own === round) studio.say(error.message, "bad"); return null; });
      if (!answer || own !== round) return;
      const address = URL.createObjectURL(await answer.blob());
      after.onload = () => URL.revokeObjectURL(address);
      after.src = address;
      after.alt = `Frame ${state.clip.stills[n]}, redrawn`;
      after.hidden = false;
      text.textContent = `frame ${state.clip.stills[n]}, before and after`;
    }
  }

  const left = el("div", { class: "clips-left" }, file, drop, reading, chooser, about, frames, works.element);
  element.replaceChildren(el("div", { class: "live" }, left,
    el("aside", { class: "live-panel card", "aria-label": "Settings of the clip" },
      el("h2", {}, "Clip"),
      el("div", { class: "live-field" }, el("span", {}, "Painting"), picker.element),
      slider("Amount of style", "alpha", 1, 0.01),
      choice("Colors", COLORS, "color"),
      el("label", { class: "live-field" }, el("span", {}, "Longer side"), size),
      slider("Steady", "stabilize", 0.95, 0.05, "The share of the frame before, moved along with the motion, in each frame"),
      el("div", { class: "live-field" }, el("span", {}, "Only a part, in seconds"), el("div", { class: "clips-part" }, from, "to", to)),
      redraw, el("p", { class: "hint" }, "It is the video command of nstexp. It goes on when you close this page, and the part Experiments shows it, too.")),
    picker.dialog));

  for (const name of ["dragover", "dragleave", "drop"]) {
    element.addEventListener(name, (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      event.stopPropagation();
      left.classList.toggle("dropping", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
    });
  }
  choose(clips[0]);
  for (const work of start.works) works.add(work);
}

const seconds = (value) => (value < 90 ? `${Number(value.toPrecision(3))} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`);
