// The part Webcam: the camera's picture, redrawn as fast as the machine can. Frames are dropped, never late.
import { el } from "/page/shared/dom.mjs";
import { makePicker } from "./live-picker.mjs";
import { makeStream } from "./live-stream.mjs";
import { COLORS } from "./paint-state.mjs";

const SIZES = { 160: "160 px, fastest", 256: "256 px", 384: "384 px", 512: "512 px, finest" };
const PATIENCE_MS = 2500;  // without a picture for this long, the page says why

export async function mount(element, studio) {
  if (!document.querySelector('link[href="/page/live.css"]')) document.head.append(el("link", { rel: "stylesheet", href: "/page/live.css" }));
  const settings = { px: 256, alpha: 1, color: "none" };
  const stream = makeStream({ shown, said: (message) => { if (message.error) studio.say(message.error, "bad"); }, lost });
  const picker = await makePicker(studio, "live", () => send());
  let camera = null, timer = null, begun = 0;

  const video = el("video", { class: "live-camera", autoplay: true, playsinline: true, muted: true, "aria-label": "Your camera" });
  const canvas = el("canvas", { class: "live-result", width: 640, height: 480, role: "img", "aria-label": "The camera's picture in the style of the painting" });
  const empty = el("div", { class: "live-empty" }, el("p", {}, "Your camera's picture appears here as a painting. It stays on this machine."));
  const numbers = el("p", { class: "live-numbers hint", role: "status" }, "The camera is off.");
  const start = el("button", { class: "main", click: () => (camera ? stop() : begin()) }, "Start the camera");
  const keep = el("button", { click: save, disabled: true }, "Save this picture");
  const full = el("button", { click: () => stage.requestFullscreen?.(), disabled: true }, "Full screen");
  const mirror = el("input", { type: "checkbox", change: () => stage.classList.toggle("mirrored", mirror.checked) });
  const inset = el("input", { type: "checkbox", change: () => { video.hidden = !inset.checked; } });
  mirror.checked = inset.checked = true;
  const stage = el("div", { class: "live-stage mirrored" }, canvas, empty, video);

  const percent = el("output", {}, "100 %");
  const alpha = el("input", { type: "range", min: 0, max: 1, step: 0.01, value: 1, "aria-valuetext": "100 %", input: () => {
    settings.alpha = Number(alpha.value);
    percent.textContent = `${Math.round(100 * settings.alpha)} %`;
    alpha.setAttribute("aria-valuetext", percent.textContent);
    send();
  } });
  const choice = (label, options, value, change) => {
    const list = el("select", { change: () => { change(list.value); send(); } }, Object.entries(options).map(([key, text]) => el("option", { value: key }, text)));
    list.value = value;
    return el("label", { class: "live-field" }, el("span", {}, label), list);
  };

  element.replaceChildren(el("div", { class: "live" },
    el("div", { class: "live-left" }, stage, el("div", { class: "row" }, start, keep, full), numbers),
    el("aside", { class: "live-panel card", "aria-label": "Settings of the webcam" },
      el("h2", {}, "Webcam"),
      el("div", { class: "live-field" }, el("span", {}, "Painting"), picker.element),
      el("label", { class: "live-slider" }, el("span", {}, "Amount of style"), percent, alpha),
      choice("Colors", COLORS, "none", (value) => { settings.color = value; }),
      choice("Longer side", SIZES, "256", (value) => { settings.px = Number(value); }),
      el("label", { class: "live-check" }, mirror, "Mirror, as in a mirror"), el("label", { class: "live-check" }, inset, "Show the camera in the corner"),
      el("p", { class: "hint" }, "The small network draws each frame by itself. A slow machine shows fewer frames, but none late. While a picture of the part Paint is being made, the webcam waits.")),
    picker.dialog));

  const send = () => stream.set({ ...settings, styles: [picker.name] });

  async function begin() {
    try {
      if (!navigator.mediaDevices) throw new Error("the browser allows the camera only at 127.0.0.1, localhost and https addresses");
      camera = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } } });
    } catch (error) {
      studio.say(`The camera cannot be used: ${error.message}`, "bad");
      return;
    }
    video.srcObject = camera;
    await video.play().catch(() => {});
    start.textContent = "Stop the camera";
    empty.hidden = true;
    keep.disabled = full.disabled = false;
    numbers.textContent = "Waiting for the first picture \u2026";
    begun = performance.now();
    stream.open(video, () => settings.px);
    send();
    timer = setInterval(tell, 500);
  }

  function stop() {
    clearInterval(timer);
    stream.close();
    for (const track of camera?.getTracks() ?? []) track.stop();
    camera = video.srcObject = null;
    start.textContent = "Start the camera";
    full.disabled = true;
    numbers.textContent = "The camera is off.";
  }

  function shown(picture) {
    if (canvas.width !== picture.width || canvas.height !== picture.height) Object.assign(canvas, { width: picture.width, height: picture.height });
    canvas.getContext("2d").drawImage(picture, 0, 0);
  }

  function tell() {
    const { rate, age, dropped, last } = stream.numbers();
    const silent = performance.now() - Math.max(last, begun);
    if (silent > PATIENCE_MS) numbers.textContent = "The studio still starts, or is busy with another picture; the webcam goes on afterwards.";
    else if (last) numbers.textContent = `${rate.toFixed(1)} pictures a second, ${Math.round(age)} ms behind the camera, ${dropped} frames left out`;
  }

  function lost(reason) {
    if (!camera) return;
    stop();
    studio.say(reason || "The studio has closed the connection of the webcam: is its command still running?", "bad");
  }

  function save() {
    canvas.toBlob((blob) => {
      if (!blob) return;
      const link = el("a", { href: URL.createObjectURL(blob), download: "webcam.png" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }, "image/png");
  }

  studio.on("hidden", (name) => { if (name === "webcam" && camera) stop(); });  // a camera that nobody sees is off
}
