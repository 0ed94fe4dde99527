// Elements of the page. All data is inserted as text nodes and attributes, and never parsed as markup.
import { shortened } from "./text.mjs";

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

// Lets a narrow label wrap after these characters, and not inside a word.
export const breakable = (text) => text.split(/(?<=[._/=:,])/).flatMap((part) => [part, el("wbr")]);

export function select(label, options, value, change) {
  const list = el("select", { change: (event) => change(event.target.value) });
  list.append(...options.map(([key, text]) => el("option", { value: key }, shortened(text, 60))));
  list.value = value;
  return el("label", {}, label, list);
}

export function check(label, value, change) {
  const box = el("input", { type: "checkbox", change: (event) => change(event.target.checked) });
  box.checked = value;
  return el("label", { class: "check" }, box, label);
}

export const badge = (status, count) =>
  el("span", { class: `status ${status.replaceAll(" ", "-")}` }, count === undefined ? status : `${count} ${status}`);

// A picture whose data is only decoded when it comes near the window.
export function lazyPicture(image, alt) {
  const element = el("img", { width: image.width, height: image.height, alt, decoding: "async" });
  element.lazySource = image.src;
  watcher().observe(element);
  return element;
}

export const picture = (image, alt) => el("img", { src: image.src, width: image.width, height: image.height, alt, decoding: "async" });

let observer = null;

function watcher() {
  observer ??= new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) reveal(entry.target);
  }, { rootMargin: "600px" });
  return observer;
}

function reveal(element) {
  element.src = element.lazySource;
  observer?.unobserve(element);
}

// Printing shows what has not been scrolled to.
export function revealAll() {
  for (const element of document.querySelectorAll("img:not([src])")) if (element.lazySource) reveal(element);
}

export function download(name, type, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
