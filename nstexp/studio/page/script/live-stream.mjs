// Frames of a camera to the studio and back. One is being redrawn, and one waits; a newer one takes its place before it is old.

const MOST_UNDER_WAY = 2;
const FRESH_MS = 80;  // after which a frame that waits is replaced
const QUALITY = 0.85;
const WINDOW_MS = 3000;  // over which the rate is counted
const LOST_MS = 4000;  // after which a frame counts as dropped by the server

export function makeStream({ shown, said, lost }) {
  let socket = null, video = null, px = () => 256, settings = null, number = 0, newest = 0, last = 0, latest = 0, age = 0, dropped = 0;
  const sent = new Map(), times = [];
  const small = document.createElement("canvas");

  function open(source, longerSide) {
    [video, px] = [source, longerSide];
    [number, newest, last, age, dropped] = [0, 0, 0, 0, 0];
    sent.clear();
    times.length = 0;
    const mine = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`);
    mine.binaryType = "arraybuffer";
    mine.addEventListener("open", () => { if (settings) mine.send(settings); watch(mine); });
    mine.addEventListener("message", (event) => { if (mine === socket) take(event.data); });
    mine.addEventListener("close", (event) => { if (mine === socket) { socket = null; lost(event.reason); } });
    socket = mine;
  }

  // Asks for each new frame of the camera, as long as the connection is open.
  function watch(mine) {
    if (mine !== socket) return;
    frame(mine);
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(() => watch(mine));
    else setTimeout(() => watch(mine), 33);
  }

  function frame(mine) {
    const now = performance.now();
    for (const [one, at] of sent) if (now - at > LOST_MS) sent.delete(one);
    const isFull = sent.size >= MOST_UNDER_WAY && now - latest < FRESH_MS;
    if (!video.videoWidth || isFull || mine.readyState !== WebSocket.OPEN) return;
    const scale = Math.min(1, px() / Math.max(video.videoWidth, video.videoHeight));
    small.width = Math.max(16, Math.round(video.videoWidth * scale));
    small.height = Math.max(16, Math.round(video.videoHeight * scale));
    small.getContext("2d").drawImage(video, 0, 0, small.width, small.height);
    const own = (number = (number + 1) % 2 ** 32);
    sent.set(own, now);
    latest = now;
    small.toBlob(async (blob) => {
      if (!blob || mine !== socket || mine.readyState !== WebSocket.OPEN) return;
      const message = new Uint8Array(4 + blob.size);
      new DataView(message.buffer).setUint32(0, own);
      message.set(new Uint8Array(await blob.arrayBuffer()), 4);
      if (mine.readyState === WebSocket.OPEN) mine.send(message);
    }, "image/jpeg", QUALITY);
  }

  async function take(data) {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.error) sent.clear();
      dropped = message.dropped ?? dropped;
      said(message);
      return;
    }
    const own = new DataView(data).getUint32(0);
    const at = sent.get(own);
    for (const one of sent.keys()) if (one <= own) sent.delete(one);  // an older one was dropped
    const picture = await createImageBitmap(new Blob([new Uint8Array(data, 4)], { type: "image/jpeg" }));
    if (own > newest && socket) {
      newest = own;
      shown(picture);
      last = performance.now();
      if (at) age = last - at;
      times.push(last);
    }
    picture.close();
  }

  function set(values) {
    settings = JSON.stringify(values);
    if (socket?.readyState === WebSocket.OPEN) socket.send(settings);
  }

  function close() {
    const mine = socket;
    socket = null;
    mine?.close();
  }

  function numbers() {
    const now = performance.now();
    while (times.length && now - times[0] > WINDOW_MS) times.shift();
    const span = times.length > 1 ? times.at(-1) - times[0] : 0;
    return { rate: span ? ((times.length - 1) * 1000) / span : 0, age, dropped, last };
  }

  return { open, set, close, numbers };
}
