// Asks the server for previews and whole pictures. With a fast method the picture follows the sliders: one preview is
// under way at a time, the next one has the newest settings, and the whole picture comes when the sliders rest.
import { el } from "/page/shared/dom.mjs";
import { brief, duration } from "/page/shared/text.mjs";
import { makeCurve } from "./paint-curve.mjs";

const LONG_MS = 2500;  // after this time the page says that it waits
const REST_MS = 650;  // how long the sliders rest before the whole picture is made
const SIZES_PX = [128, 192, 256, 320], SLOW_S = 0.45, FAST_S = 0.12;

export function makePainter(context) {
  const { studio, state } = context;
  let revision = 0, previewed = 0, underWay = false, timer = 0, place = 2, growing = null;
  const curve = makeCurve();
  const status = el("p", { class: "paint-status", role: "status" });
  const stop = el("button", { class: "main", hidden: true, click: () => growing && studio.trying(() => studio.post(`/api/paint/pictures/${growing}/stop`)) }, "Stop and keep this");
  const progress = el("progress", { max: 1, value: 0, "aria-label": "Steps done" });
  const growth = el("div", { class: "paint-growth card", hidden: true }, el("div", { class: "paint-growth-words" }, status, progress), curve.element, stop);
  const element = el("div", {}, growth);

  function changed() {
    revision += 1;
    clearTimeout(timer);
    if (!state.content || !state.styles.length) return context.stage.idle(state.content ? "Choose a painting" : "Choose a photo");
    if (!context.live()) return context.stage.idle(growing ? "" : "Press Paint to begin");
    preview();
    timer = setTimeout(() => whole(true), REST_MS);
    return undefined;
  }

  async function preview() {
    if (underWay) return;
    underWay = true;
    context.stage.busy(true);
    while (previewed < revision && context.live()) {
      const current = revision;
      previewed = current;
      const patience = setTimeout(() => context.stage.say(growing ? "The sliders work again when this picture is done or stopped" : "Waits for other pictures"), LONG_MS);
      try {
        const begun = performance.now();
        const answer = await studio.post("/api/paint/preview", { ...context.sent(), px: SIZES_PX[place], whole_px: context.whole() });
        const picture = await answer.blob();
        const seconds = (performance.now() - begun) / 1000;
        if (seconds > SLOW_S) place = Math.max(0, place - 1);
        else if (seconds < FAST_S) place = Math.min(SIZES_PX.length - 1, place + 1);
        if (current >= context.stage.revision()) {
          context.stage.showBlob(picture, current, `Preview, ${answer.headers.get("x-width")} x ${answer.headers.get("x-height")} px`);
          context.stage.setCommand(decodeURIComponent(answer.headers.get("x-command") ?? ""), null);
        }
      } catch (error) {
        if (error.status !== 409 && error.name !== "AbortError") { studio.say(error.message, "bad"); clearTimeout(timer); }
      }
      clearTimeout(patience);
    }
    underWay = false;
    context.stage.busy(false);
  }

  // Makes the picture at its whole size: by itself when the sliders rest, or because the user asks.
  async function whole(automatic = false) {
    if (automatic && underWay) { timer = setTimeout(() => whole(true), REST_MS / 2); return; }
    const current = revision;
    context.stage.busy(true);
    try {
      let picture = await studio.post("/api/paint/pictures", { ...context.sent(), automatic });
      if (picture.steps && !["completed", "failed"].includes(picture.status)) await watch(picture);
      else {
        while (["waiting", "running"].includes(picture.status)) picture = await news(picture);
        finish(picture, current === revision || !automatic, automatic);
      }
    } catch (error) {
      if (!automatic || current === revision) studio.say(error.message, "bad");
    }
    if (!underWay) context.stage.busy(false);
  }

  const news = (picture) => studio.get(`/api/paint/pictures/${picture.id}?after=${picture.version}`);

  function finish(picture, shows, automatic) {
    if (picture.status === "failed") {
      if (!automatic) studio.say(picture.error, "bad");
      else if (shows && !picture.error.startsWith("stopped")) studio.say(picture.error, "bad");
      return;
    }
    context.history.add(picture);
    if (shows) context.history.show(picture.id, revision);
    for (const note of picture.notes) studio.say(note);
  }

  // An optimization: the picture is shown as it grows.
  async function watch(begun) {
    growing = begun.id;
    growth.hidden = stop.hidden = false;
    context.panel.draw();
    let picture = begun, seen = 0;
    context.stage.setCommand(picture.command, null);
    while (["waiting", "running"].includes(picture.status)) {
      describe(picture);
      if (picture.shown > seen) {
        seen = picture.shown;
        context.stage.showAddress(`/api/paint/pictures/${picture.id}/now?step=${seen}`, `Step ${seen} of ${picture.steps}`);
      }
      picture = await news(picture);
    }
    growing = null;
    stop.hidden = true;
    describe(picture);
    context.panel.draw();
    finish(picture, picture.status !== "failed", false);
    if (picture.status === "failed") growth.hidden = true;
  }

  function describe(picture) {
    const words = [];
    if (picture.status === "waiting") words.push(picture.ahead ? `Waits for ${picture.ahead} other${picture.ahead === 1 ? "" : "s"}` : "Begins");
    else if (picture.status === "running") words.push(picture.step ? `Step ${picture.step} of ${picture.steps}` : "Reads the pictures");
    else words.push(picture.status === "stopped" ? `Stopped at step ${picture.step} of ${picture.steps}` : `All ${picture.steps} steps are done`);
    const loss = picture.losses.at(-1)?.[1];
    if (loss !== undefined) words.push(`loss ${brief(loss)}`);
    if (picture.seconds_left !== null) words.push(`about ${duration(Math.max(1, Math.round(picture.seconds_left)))} left`);
    else if (picture.seconds) words.push(duration(Math.round(picture.seconds)));
    status.textContent = words.join(" \u00b7 ");
    progress.max = picture.steps || 1;
    progress.value = picture.step;
    curve.draw(picture.losses, picture.steps);
  }

  const resume = (picture) => studio.trying(() => watch(picture));

  return { element, changed, resume, paint: () => whole(false), growing: () => growing, revision: () => revision, hideGrowth: () => { if (!growing) growth.hidden = true; } };
}
