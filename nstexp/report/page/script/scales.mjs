// Scales of charts: from numbers or words to places, with round numbers as ticks.
import { isNumber } from "./text.mjs";

// { place: value -> pixels, ticks: [[value, text]], invert: pixels -> value, start: pixels of the low end } between two
// ends in pixels.
export function linearScale(values, [from, to], domain = null) {
  let [low, high] = domain ?? ends(values, 0.04);
  if (low === high) [low, high] = [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
  const place = (value) => from + ((value - low) / (high - low)) * (to - from);
  const invert = (pixels) => low + ((pixels - from) / (to - from)) * (high - low);
  const apart = from > to ? 42 : 80;  // pixels between two ticks of an upright or a level axis
  const step = niceStep((high - low) / Math.max(2, Math.abs(to - from) / apart));
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) ticks.push([n * step, tickText(n * step, step)]);
  return { place, invert, ticks, has: isNumber, start: from };
}

export function logScale(values, [from, to], domain = null) {
  const logarithms = domain ? domain.map(Math.log10) : ends(values.filter((value) => value > 0).map(Math.log10), 0.04);
  let [low, high] = logarithms;
  if (!(high - low > 1e-9)) [low, high] = [low - 0.2, high + 0.2];
  const place = (value) => from + ((Math.log10(value) - low) / (high - low)) * (to - from);
  const invert = (pixels) => 10 ** (low + ((pixels - from) / (to - from)) * (high - low));
  return { place, invert, ticks: logTicks(low, high, Math.abs(to - from)), has: (value) => isNumber(value) && value > 0, start: from };
}

// Words, or the few values of a key, at equal distances.
export function wordScale(words, [from, to]) {
  const step = (to - from) / Math.max(1, words.length);
  const place = (word) => from + (words.indexOf(word) + 0.5) * step;
  return { place, invert: null, ticks: words.map((word) => [word, word]), has: (word) => words.includes(word) };
}

export function ends(values, margin = 0) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!isNumber(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  return [low - margin * (high - low), high + margin * (high - low)];
}

// Whether all values are positive, and the largest is more than 30 times the smallest.
export function isWide(values) {
  const [low, high] = ends(values);
  return values.length > 1 && low > 0 && high > 30 * low;
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
}

function tickText(value, step) {
  if (Math.abs(value) < step / 1e6) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(Math.max(0, Math.floor(Math.log10(size)) - Math.floor(Math.log10(step)))).replace("e+", "e");
  return value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

function logTicks(low, high, pixels) {
  const decades = high - low;
  const factors = pixels / decades > 150 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil(decades / Math.max(2, pixels / 45)));
  const ticks = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    if (power % every !== 0) continue;
    for (const factor of factors) {
      const value = factor * 10 ** power;
      if (Math.log10(value) >= low - 1e-9 && Math.log10(value) <= high + 1e-9) ticks.push([value, powerText(value)]);
    }
  }
  return ticks.length > 1 ? ticks : linearScale([10 ** low, 10 ** high], [0, pixels], [10 ** low, 10 ** high]).ticks.filter(([value]) => value > 0);
}

const powerText = (value) => (value >= 1e5 || value < 1e-3 ? value.toExponential(0).replace("e+", "e") : String(Number(value.toPrecision(3))));
