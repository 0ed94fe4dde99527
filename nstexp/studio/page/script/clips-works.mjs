// Clips that are redrawn, or were: how far they are, their command, and their result.
import { el } from "/page/shared/dom.mjs";

const LOOK_MS = 1000;  // between two looks at clips that are being redrawn
const STATES = { running: "is being redrawn", completed: "is done", stopped: "was stopped", failed: "failed" };

export function makeWorks(studio) {
  const list = el("ol", { class: "clips-works" });
  const element = el("section", { class: "clips-done", "aria-label": "Redrawn clips", hidden: true }, el("h2", {}, "Redrawn clips"), list);
  let timer = null;
  const cards = new Map();

  function add(work) {
    if (!cards.has(work.id)) {
      cards.set(work.id, makeCard(work.id));
      list.prepend(cards.get(work.id).element);
    }
    cards.get(work.id).draw(work);
    element.hidden = false;
    watch();
  }

  function watch() {
    clearTimeout(timer);
    const going = [...cards].filter(([, card]) => card.status() === "running").map(([id]) => id);
    if (!going.length) return;
    timer = setTimeout(async () => {
      for (const id of going) {
        const work = await studio.get(`/api/clips/works/${id}`).catch(() => null);  // the next look may succeed
        if (work) cards.get(id).draw(work);
      }
      watch();
    }, LOOK_MS);
  }

  function makeCard(id) {
    let now = { status: "" };
    const ask = async (what) => {
      const work = await studio.trying(() => studio.post(`/api/clips/works/${id}/${what}`));
      if (work) add(work);
    };
    const title = el("h3", {}), text = el("p", { class: "hint", role: "status" });
    const bar = el("progress", { max: 1, value: 0 });
    const poster = el("img", { alt: "", hidden: true });
    const video = el("div", { class: "clips-video" }, poster);
    const stop = el("button", { click: () => ask("stop") }, "Stop"), goOn = el("button", { click: () => ask("continue") }, "Go on");
    const save = el("a", { class: "button", href: `/api/clips/works/${id}/result?download=1` }, "Download");
    const command = el("code", { class: "command-text", tabindex: 0 });
    const copy = el("button", { class: "command-copy", click: () => navigator.clipboard.writeText(now.command).then(() => studio.say("The command is copied.", "good"), () => studio.say("The browser does not allow copying: select the command.", "bad")) }, "Copy");
    const card = el("li", { class: "card clips-work" }, video, el("div", { class: "clips-about" }, title, bar, text, el("div", { class: "row" }, stop, goOn, save), el("div", { class: "command" }, command, copy)));

    function draw(work) {
      const before = now.status;
      now = work;
      title.textContent = `${work.title} ${STATES[work.status]}`;
      bar.value = work.frames ? work.done / work.frames : 0;
      bar.hidden = work.status === "completed";
      bar.setAttribute("aria-label", `${work.done} of ${work.frames} frames`);
      text.textContent = describe(work);
      stop.hidden = work.status !== "running";
      stop.disabled = work.stopping;
      goOn.hidden = !["stopped", "failed"].includes(work.status);
      save.hidden = work.status !== "completed";
      command.textContent = work.command;
      if (work.status === "completed" && before !== "completed") showResult(work);
      else if (work.status !== "completed" && work.done) {
        poster.src = `/api/clips/works/${id}/poster?${work.done}`;
        poster.alt = "A redrawn frame";
        poster.hidden = false;
      }
      if (before === "running" && work.status === "completed") studio.say(`${work.title} is done.`, "good");
    }

    function showResult(work) {
      const address = `/api/clips/works/${id}/result`;
      const isPicture = /\.(gif|webp|apng|avif)$/.test(work.result);
      video.replaceChildren(isPicture ? el("img", { src: address, alt: `${work.title}, redrawn` })
        : el("video", { src: address, controls: true, loop: true, playsinline: true, preload: "metadata", "aria-label": `${work.title}, redrawn` }));
    }

    return { element: card, draw, status: () => now.status };
  }

  return { element, add };
}

function describe(work) {
  if (work.status === "completed") return `${work.frames} frames, ${size(work.bytes)}, in ${work.folder}`;
  const far = `${work.done} of ${work.frames} frames`;
  if (work.status === "running") return work.stopping ? `${far}; it stops after this frame` : work.done ? `${far}${work.seconds_left === null ? "" : `, about ${left(work.seconds_left)} left`}` : "It starts \u2026";
  if (work.status === "stopped") return `${far} are kept`;
  return work.error ?? "";
}

const size = (bytes) => (bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const left = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);
