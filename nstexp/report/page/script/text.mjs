// Numbers and names as texts.

export const MISSING = "\u2013";

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
export const isMissing = (value) => value === null || value === undefined || value === "";

export function brief(value) {
  if (isMissing(value)) return MISSING;
  if (typeof value !== "number") return String(value);
  if (value === 0 || (Number.isInteger(value) && Math.abs(value) < 1e5)) return String(value);
  const size = Math.abs(value);
  if (size >= 1e4 || size < 1e-3) return value.toExponential(3).replace("e+", "e");
  return value.toPrecision(4);
}

// A difference with its sign, and the ends of its interval, with as many decimals as the interval tells.
export function rounded(numbers, more = 0) {
  const size = Math.max(...numbers.map(Math.abs));
  const width = Math.max(...numbers) - Math.min(...numbers);
  const span = width > 1e-6 * size ? width : size;
  if (span === 0) return numbers.map(() => "0");
  let decimals = more - Math.floor(Math.log10(span / 5));
  const hasZero = () => numbers.slice(1).some((end) => end !== 0 && Math.abs(end) < 0.5 * 10 ** -decimals);
  for (let n = 0; n < 2; n++) decimals += hasZero() ? 1 : 0;  // an end near 0 shows on which side of it it is
  const digits = Math.max(1, decimals + Math.floor(Math.log10(size)));
  const form = (number) => (decimals > 5 ? number.toExponential(digits) : number.toFixed(Math.max(0, decimals)));
  return numbers.map((number, n) => (n === 0 && number >= 0 ? "+" : "") + form(number));
}

// A mean with its interval, from [n, mean, sd, low, high].
export function spread([, mean, , low, high]) {
  if (low === null || high === null) return brief(mean);
  const [middle, from, to] = rounded([mean, low, high], 1).map((text) => text.replace("+", ""));
  return from === to ? middle : `${middle} (${from} to ${to})`;
}

export function duration(seconds) {
  if (seconds < 120) return `${brief(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function moment(text) {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? text : time.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
export const shown = (text) => (text === null || text === "" ? "not set" : text);
export const unlisted = (text) => (text.startsWith("[") ? text.slice(1, -1).replaceAll(",", " ") : text);
export const shortened = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 12)}...${text.slice(-9)}`);

export function asNumber(value) {
  if (typeof value === "number") return value;
  return isMissing(value) ? NaN : Number(value);
}

export function compareValues(a, b) {
  const [x, y] = [asNumber(a), asNumber(b)];
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

// A p-value as a text; null for a comparison without a test.
export function chance(p) {
  if (p === null || p === undefined) return MISSING;
  return p < 0.001 ? "< 0.001" : p.toPrecision(2);
}
