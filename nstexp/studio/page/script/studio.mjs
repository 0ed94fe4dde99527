// What all parts of the page use: requests to the server, messages to the user, and events between parts.
import { byId, el } from "/page/shared/dom.mjs";

const SHOWN_MS = 8000;
const listeners = new Map();

// The answer of the server as an object. An error has the sentence that the command line would print.
async function answerOf(promise) {
  let response;
  try {
    response = await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the studio does not answer: is its command still running?");
  }
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  if (!response.ok) {
    const problem = isJson ? (await response.json()).error : `the studio answered with ${response.status}`;
    throw Object.assign(new Error(problem), { status: response.status });
  }
  return isJson ? response.json() : response;
}

export const get = (url, options = {}) => answerOf(fetch(url, options));

// A body may be a FormData object, or anything that JSON can hold.
export function post(url, body = {}, options = {}) {
  const isForm = body instanceof FormData;
  const headers = isForm ? {} : { "content-type": "application/json" };
  return answerOf(fetch(url, { method: "POST", headers, body: isForm ? body : JSON.stringify(body), ...options }));
}

// Shows a sentence: kind is "bad", "good" or "plain". Errors stay until they are closed.
export function say(sentence, kind = "plain") {
  const messages = byId("messages");
  for (const old of messages.children) if (old.dataset.text === sentence) old.remove();
  const close = el("button", { "aria-label": "Close this message", click: () => box.remove() }, "\u00d7");
  const box = el("div", { class: kind, role: kind === "bad" ? "alert" : null, "data-text": sentence }, el("span", {}, sentence), close);
  messages.append(box);
  if (kind !== "bad") setTimeout(() => box.remove(), SHOWN_MS);
}

// Events between parts: "shown" and "hidden" with the name of a part, and any others.
export function on(event, listener) {
  if (!listeners.has(event)) listeners.set(event, new Set());
  listeners.get(event).add(listener);
  return () => listeners.get(event).delete(listener);
}

export function tell(event, value) {
  for (const listener of listeners.get(event) ?? []) listener(value);
}

// Runs something that may fail, and shows the sentence of its error.
export async function trying(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, "bad");
    return undefined;
  }
}

export const studio = { get, post, say, on, tell, trying };
