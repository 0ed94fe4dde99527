// The large picture: photo, preview or result, the divider between two pictures, and the command below it.
import { el } from "/page/shared/dom.mjs";

const MOST_ENLARGED = 2.5;  // how much larger than itself a small picture is shown

export function makeStage(context) {
  const { studio, state } = context;
  let revision = 0, object = null, shown = { kind: "photo" }, busyTimer = 0;
  const picture = el("img", { class: "stage-picture", alt: "", draggable: "false" });
  const other = el("img", { class: "stage-other", alt: "", hidden: true, draggable: "false" });
  const divider = el("input", { type: "range", class: "stage-divider", min: 0, max: 100, step: 0.5, value: 50, "aria-label": "Divider between the two pictures", hidden: true, input: divide });
  const line = el("div", { class: "stage-line", hidden: true });
  const tags = [el("span", { class: "stage-tag left", hidden: true }), el("span", { class: "stage-tag right", hidden: true })];
  const layers = el("div", { class: "stage-layers" });
  const frame = el("div", { class: "stage-frame" }, picture, other, line, ...tags, layers, divider);
  const hint = el("div", { class: "stage-hint" }, "Drop a photo here");
  const spinner = el("div", { class: "stage-busy", hidden: true, "aria-hidden": "true" });
  const box = el("div", { class: "stage", "data-drop": "photo" }, frame, hint, spinner);

  const about = el("span", { class: "stage-about", role: "status" });
  const compare = el("select", { class: "stage-compare", "aria-label": "Compare with", change: () => setOther(compare.value) });
  const restore = el("button", { class: "quiet", hidden: true, click: () => { context.restore(shown.sent); studio.say("The settings are those of this picture now.", "good"); restore.hidden = true; } }, "Use its settings");
  const hold = el("button", { class: "quiet", "aria-pressed": "false", click: toggleOriginal }, "Show the photo");
  const save = el("a", { class: "button", hidden: true, download: "" }, "Download");
  const saveWith = el("a", { class: "button quiet", hidden: true, download: "", title: "The same pixels; the file also holds the command as a text" }, "with command");
  const bar = el("div", { class: "stage-bar" }, about, compare, hold, restore, save, saveWith);

  const command = el("code", { class: "command-text", tabindex: 0, "aria-label": "The command that makes this picture" });
  const copy = el("button", { class: "command-copy", click: copyCommand }, "Copy");
  const commandBox = el("div", { class: "command", hidden: true }, command, copy);
  const note = el("p", { class: "hint command-note", hidden: true });
  const element = el("div", { class: "stage-all" }, box, bar, commandBox, note);
  new ResizeObserver(() => fit()).observe(box);
  picture.addEventListener("load", () => { hint.hidden = true; });

  function fit() {
    if (!state.content) return;
    const { width, height } = state.content;
    box.style.setProperty("--aspect", `${width} / ${height}`);
    const space = { width: box.clientWidth, height: box.clientHeight };
    const most = Math.max(context.whole() / Math.max(width, height), 0.01) * MOST_ENLARGED;
    const scale = Math.min(space.width / width, space.height / height, most);
    frame.style.width = `${Math.round(width * scale)}px`;
    frame.style.height = `${Math.round(height * scale)}px`;
  }

  function put(address, about_) {
    picture.src = address;
    about.textContent = about_;
    for (const link of [save, saveWith]) link.hidden = true;
    restore.hidden = true;
    note.hidden = true;
    showOriginal(false);
  }

  function showPhoto() {
    shown = { kind: "photo" };
    setOther("");
    put(state.content.picture, `${state.content.title ?? "Your photo"}, ${state.content.width} x ${state.content.height} px`);
    picture.alt = "The photo";
    fit();
  }

  function showBlob(blob, at, text) {
    revision = at;
    if (object) URL.revokeObjectURL(object);
    object = URL.createObjectURL(blob);
    shown = { kind: "preview" };
    put(object, text);
    picture.alt = "A preview of the result";
  }

  function showAddress(address, text) {
    shown = { kind: "growing" };
    put(address, text);
    picture.alt = "The picture as it grows";
  }

  function showResult(result, at) {
    revision = at ?? revision;
    shown = { kind: "result", id: result.id, sent: result.sent };
    const seconds = result.seconds < 10 ? result.seconds.toFixed(1) : Math.round(result.seconds);
    const address = `/api/paint/pictures/${result.id}`;
    put(`${address}/image`, `${result.width} x ${result.height} px, made in ${seconds} s`);
    picture.alt = "The result";
    save.href = `${address}/download`;
    saveWith.href = `${address}/download?record=1`;
    save.hidden = saveWith.hidden = false;
    restore.hidden = JSON.stringify({ ...result.sent, automatic: 0 }) === JSON.stringify({ ...context.sent(), automatic: 0 });
    setCommand(result.command, result.status === "stopped" ? `This picture was stopped at step ${result.step} of ${result.steps}; the command makes all steps.` : null);
    if (compare.value) setOther(compare.value);
  }

  function setCommand(text, remark) {
    command.textContent = text;
    commandBox.hidden = !text;
    note.textContent = remark ?? "";
    note.hidden = !remark;
  }

  async function copyCommand() {
    try {
      await navigator.clipboard.writeText(command.textContent);
    } catch {  // the browser allows it only on some addresses
      getSelection().selectAllChildren(command);
      document.execCommand("copy");
    }
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  }

  function toggleOriginal() { showOriginal(hold.getAttribute("aria-pressed") !== "true"); }

  function showOriginal(on) {
    hold.setAttribute("aria-pressed", String(on));
    hold.textContent = on ? "Show the result" : "Show the photo";
    hold.hidden = shown.kind === "photo";
    frame.classList.toggle("original", on);
    if (state.content) frame.style.setProperty("--photo", `url("${state.content.picture}")`);
  }

  function offer(pictures) {
    const value = compare.value;
    compare.replaceChildren(
      el("option", { value: "" }, "Compare with \u2026"), el("option", { value: "photo" }, "the photo"),
      ...pictures.map((one) => el("option", { value: one.id }, `picture ${Number(one.id.slice(0, 4))}`)),
    );
    compare.value = value;
    if (compare.selectedIndex < 0) setOther("");
  }

  function setOther(value) {
    compare.value = value;
    const on = value !== "" && state.content !== null;
    if (on) other.src = value === "photo" ? state.content.picture : `/api/paint/pictures/${value}/image`;
    for (const part of [other, divider, line, ...tags]) part.hidden = !on;
    tags[0].textContent = value === "photo" ? "Photo" : `Picture ${Number(value.slice(0, 4))}`;
    tags[1].textContent = shown.kind === "result" ? `Picture ${Number(shown.id.slice(0, 4))}` : "This one";
    divide();
  }

  function divide() {
    frame.style.setProperty("--at", `${divider.value}%`);
    divider.setAttribute("aria-valuetext", `${Math.round(divider.value)} % of the other picture`);
  }

  function idle(text) { hint.textContent = text; hint.hidden = !text || (shown.kind !== "photo" && Boolean(picture.getAttribute("src"))); }

  function busy(on) {
    clearTimeout(busyTimer);
    if (on) busyTimer = setTimeout(() => { spinner.hidden = false; }, 250);
    else spinner.hidden = true;
  }

  const say = (text) => { about.textContent = text; };

  return { element, say, layers, frame, fit, showPhoto, showBlob, showAddress, showResult, setCommand, offer, idle, busy, revision: () => revision, shown: () => shown };
}
