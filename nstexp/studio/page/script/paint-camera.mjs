// A photo from the camera. The stream ends as soon as the window is closed.
import { el } from "/page/shared/dom.mjs";

export function makeCamera(context) {
  let stream = null;
  const video = el("video", { autoplay: true, playsinline: true, muted: true });
  const take = el("button", { class: "main", click: snap }, "Take the picture");
  const dialog = el("dialog", { class: "camera", "aria-label": "Camera", close: end }, video, el("div", { class: "row" }, take, el("button", { click: () => dialog.close() }, "Cancel")));

  async function open() {
    try {
      if (!navigator.mediaDevices) throw new Error("the browser allows the camera only at 127.0.0.1, localhost and https addresses");
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 } } });
      video.srcObject = stream;
      dialog.showModal();
    } catch (error) {
      context.studio.say(`The camera cannot be used: ${error.message}`, "bad");
    }
  }

  function snap() {
    const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => { if (blob) context.useFile(new File([blob], "camera.png", { type: "image/png" }), "photo"); }, "image/png");
    dialog.close();
  }

  function end() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = video.srcObject = null;
  }

  return { dialog, open };
}
