// The filter of the table: words, and comparisons such as seed=1 or total<0.5.
import { asNumber } from "./text.mjs";

const TESTS = {
  "=": (a, b) => a === b, "!=": (a, b) => a !== b,
  "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
};

// A column { id, get } by its name, the end of its dotted name, or its beginning; null if there is none.
export function findColumn(columns, name) {
  const wanted = name.toLowerCase();
  const ids = columns.map((column) => column.id.toLowerCase());
  for (const test of [(id) => id === wanted, (id) => id.endsWith(`.${wanted}`), (id) => id.startsWith(wanted)]) {
    const at = ids.findIndex(test);
    if (at >= 0) return columns[at];
  }
  return null;
}

const hasWord = (columns, word) => (row) => columns.some((column) => String(column.get(row) ?? "").toLowerCase().includes(word.toLowerCase()));

// One part of a filter as a function of a row; null if it compares a column that does not exist.
function condition(columns, part) {
  const [, name, sign, text] = part.match(/^([^<>=!]+)(<=|>=|!=|=|<|>)(.*)$/) ?? [];
  if (name === undefined) return hasWord(columns, part);
  const column = findColumn(columns, name);
  if (column === null) return null;
  return (row) => {
    const value = column.get(row);
    const [x, y] = [asNumber(value), asNumber(text)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return TESTS[sign](x, y);
    if (sign !== "=" && sign !== "!=") return false;
    return TESTS[sign](String(value ?? "").toLowerCase(), text.toLowerCase());
  };
}

// { test: row -> boolean, parts, unknown: parts that compare a column that does not exist, which count as words }
export function parseFilter(columns, text) {
  const parts = (text.match(/(?:"[^"]*"?|[^\s"])+/g) ?? []).map((part) => part.replaceAll('"', ""));
  const tests = parts.map((part) => condition(columns, part) ?? hasWord(columns, part));
  const unknown = parts.filter((part) => condition(columns, part) === null);
  return { parts, unknown, test: (row) => tests.every((test) => test(row)) };
}
