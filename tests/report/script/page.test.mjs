// The parts of the page's script that need no browser. tests/report/test_script.py runs this file.
import assert from "node:assert/strict";
import { test } from "node:test";

const home = new URL("../../../nstexp/report/page/script/", import.meta.url);
const load = (name) => import(new URL(`${name}.mjs`, home));

const text = await load("text");
const { parseFilter } = await load("filter");
const { paretoFront } = await load("pareto");
const { placeBeside } = await load("keyboard");
const { linearScale, logScale, wordScale, isWide } = await load("scales");
const { toCsv, toLatex, toMarkdown } = await load("exporting");
const { makeAddress, readAddress, writeAddress } = await load("address");
const { makeModel, sentence } = await load("model");
const { meanPoints } = await load("curves");
const { withNotes } = await load("notes");
const { independentAxes, stepLink } = await load("sheet");

test("numbers are as exact as their intervals", () => {
  assert.deepEqual(text.rounded([-0.12345, -0.151, -0.0904]), ["-0.12", "-0.15", "-0.09"]);
  assert.deepEqual(text.rounded([0.6, 0.034, 1.13]), ["+0.60", "0.03", "1.13"]);
  assert.deepEqual(text.rounded([0.6, -0.002, 1.13]), ["+0.600", "-0.002", "1.130"]);
  assert.deepEqual(text.rounded([-1.234, -2.86, 0.391]), ["-1.2", "-2.9", "0.4"]);
  assert.deepEqual(text.rounded([12.3, -4, 30.2]), ["+12", "-4", "30"]);
  assert.deepEqual(text.rounded([8, 8, 8 + 1e-12]), ["+8", "8", "8"]);
  assert.deepEqual(text.rounded([0, 0, 0]), ["0", "0", "0"]);
  assert.equal(text.spread([3, 0.512, 0.1, 0.4, 0.63]), "0.512 (0.400 to 0.630)");
  assert.equal(text.spread([1, 0.512, null, null, null]), "0.5120");
});

test("the sentence is that of the terminal", () => {
  const one = { key: "weights.beta", value: "100", baseline: "10", whole: false, n: 24, mean: -0.12, low: -0.151, high: -0.0904, p: 0.0123 };
  assert.equal(sentence(one, "style_gram", "pair"), "weights.beta 100 against 10: style_gram -0.12, 95 % -0.15 to -0.09, 24 pairs (Wilcoxon p = 0.012)");
  assert.match(sentence({ ...one, p: 1e-5 }, "x", "pair"), /\(Wilcoxon p < 0\.001\)$/);
  assert.match(sentence({ ...one, n: 4 }, "x", "pair"), /4 pairs$/);
  assert.equal(sentence({ ...one, low: null, high: null }, "x", "run"), "weights.beta 100 against 10: x -0.12, one run only, so there is no interval");
});

const columns = [{ id: "weights.beta", get: (row) => row.beta }, { id: "status", get: (row) => row.status }, { id: "ssim", get: (row) => row.ssim }];
const table = [{ beta: "10", status: "completed", ssim: 0.5 }, { beta: "100", status: "failed" }, { beta: "10", status: "failed", ssim: 0.25 }];
const kept = (filter) => table.map((_, n) => n).filter((n) => parseFilter(columns, filter).test(table[n]));

test("a filter compares columns and finds words", () => {
  assert.deepEqual(kept("beta=10"), [0, 2]);
  assert.deepEqual(kept("beta=10 ssim<0.3"), [2]);
  assert.deepEqual(kept("ssim>=0.25"), [0, 2]);
  assert.deepEqual(kept("status!=failed"), [0]);
  assert.deepEqual(kept('"failed" 100'), [1]);
  assert.deepEqual(kept(""), [0, 1, 2]);
  assert.deepEqual(parseFilter(columns, "nothing<5").unknown, ["nothing<5"]);
});

test("the Pareto front is what no point beats in both", () => {
  const points = [[1, 5], [2, 3], [2, 4], [3, 3], [4, 1], [5, 1], [0, 9]].map(([x, y]) => ({ x, y }));
  assert.deepEqual(paretoFront(points), [6, 0, 1, 4]);
  assert.deepEqual(paretoFront(points, [false, true]), [5]);
  assert.deepEqual(paretoFront(points, [true, false]), [6]);
  assert.deepEqual(paretoFront([{ x: 1, y: 1 }, { x: 1, y: 1 }]), [0, 1]);
  assert.deepEqual(paretoFront([]), []);
  const early = [[1, 1, true], [2, 2, false], [3, 1, false], [0, 5, true]].map(([x, y, isEarly]) => ({ x, y, isEarly }));
  assert.deepEqual(paretoFront(early), [1, 2], "a pruned run neither is on the front nor beats others");
  const many = Array.from({ length: 300 }, (_, n) => ({ x: (n * 7919) % 300, y: (n * 104729) % 211 }));
  const beaten = (one) => many.some((other) => other.x <= one.x && other.y <= one.y && (other.x < one.x || other.y < one.y));
  assert.deepEqual(paretoFront(many).sort((a, b) => a - b), many.map((_, n) => n).filter((n) => !beaten(many[n])));
});

test("arrow keys reach every point of a chart", () => {
  const place = (px, py) => ({ px, py });
  const dots = [place(3, 9), place(1, 5), place(2, 7), place(2, 1)];
  const walk = (lanes, from, ...keys) => keys.reduce((at, key) => placeBeside(lanes, at, key), from);
  const right = (count) => Array(count).fill("ArrowRight");
  assert.deepEqual([0, 1, 2, 3].map((n) => dots.indexOf(walk([dots], dots[1], ...right(n)))), [1, 3, 2, 0], "from left to right");
  assert.equal(walk([dots], dots[0], "ArrowRight"), dots[0], "nothing lies beyond the last");
  assert.deepEqual([0, 1, 2, 3].map((n) => dots.indexOf(walk([dots], dots[0], ...Array(n).fill("ArrowUp")))), [0, 2, 1, 3], "upwards");
  assert.equal(walk([dots], dots[2], "Home"), dots[1]);
  assert.equal(walk([dots], dots[1], "PageDown"), dots[0]);
  const lines = [[place(0, 50), place(10, 40)], [place(0, 20), place(10, 20)], [place(1, 20), place(9, 20)]];
  assert.equal(walk(lines, lines[0][1], "ArrowUp"), lines[1][1], "to the nearest point of the line above");
  assert.equal(walk(lines, lines[0][1], "ArrowUp", "ArrowUp"), lines[2][1], "two lines at one height can both be reached");
  assert.equal(walk(lines, lines[0][0], "ArrowRight"), lines[0][1]);
  assert.equal(placeBeside(lines, lines[0][0], "x"), null);
});

test("scales have round ticks inside their range", () => {
  const linear = linearScale([0.13, 0.87], [50, 450]);
  assert.ok(linear.ticks.length >= 3 && linear.ticks.every(([value]) => linear.place(value) >= 50 && linear.place(value) <= 450));
  assert.deepEqual(linear.ticks.map(([, name]) => name), ["0.2", "0.4", "0.6", "0.8"]);
  assert.ok(Math.abs(linear.invert(linear.place(0.4)) - 0.4) < 1e-12);
  const log = logScale([1, 1000], [0, 400]);
  assert.deepEqual(log.ticks.map(([value]) => value), [1, 10, 100, 1000]);
  assert.equal(log.has(0), false);
  assert.equal(log.start, 0, "an interval that contains 0 begins at the edge");
  assert.ok(Math.abs(log.invert(log.place(30)) - 30) < 1e-9);
  assert.deepEqual(wordScale(["a", "b"], [0, 100]).ticks.map(([value]) => value), ["a", "b"]);
  assert.equal(wordScale(["a", "b"], [0, 100]).place("b"), 75);
  assert.equal(linearScale([3, 3], [0, 10]).place(3), 5);
  assert.ok(linearScale([], [0, 10]).ticks.length > 1);
  assert.equal(isWide([1, 31]), true);
  assert.equal(isWide([-1, 31]), false);
});

test("tables become CSV, Markdown and LaTeX", () => {
  const made = { head: ["key", "a_b"], rows: [["x, \"y\"|z", 0.5], ["50 % & more", null]] };
  assert.equal(toCsv(made), 'key,a_b\r\n"x, ""y""|z",0.5\r\n50 % & more,\r\n');
  assert.equal(toMarkdown(made), '| key | a_b |\n|---|---:|\n| x, "y"\\|z | 0.5 |\n| 50 % & more |  |\n');
  const latex = toLatex(made);
  assert.match(latex, /\\begin\{tabular\}\{lr\}\n  \\toprule\n  key & a\\_b \\\\\n  \\midrule/);
  assert.match(latex, /50 \\% \\& more &  \\\\\n  \\bottomrule\n\\end\{tabular\}/);
});

test("the address keeps what differs from the usual", () => {
  const location = { hash: "#rows=a&filter=x%3D1+y", pathname: "/p", search: "" };
  const calls = [];
  const address = makeAddress(location, { replaceState: (_, __, to) => calls.push(to) });
  assert.equal(address.get("filter"), "x=1 y");
  assert.equal(address.get("columns", "seed"), "seed");
  address.put("rows", "b", "b");
  address.put("pick.seed", "2", "mean");
  assert.deepEqual(readAddress(calls.at(-1)), { filter: "x=1 y", "pick.seed": "2" });
  address.put("filter", "", "");
  address.put("pick.seed", null);
  assert.equal(calls.at(-1), "/p");
  assert.equal(writeAddress({}), "");
});

const data = {
  numbers: [{ name: "style_gram", label: "style_gram", group: "measures", better: "lower" }],
  axes: [{ key: "beta", values: ["1", "10"], images: {} }, { key: "seed", values: ["1", "2"], images: {} }],
  runs: [["1", "1"], ["1", "2"], ["10", "1"], ["10", "2"]].map(([beta, seed], n) => ({ job: n, sweep: null, status: "completed", values: { beta, seed } })),
  rows: [1, 3, 5, 9].map((value, run) => ({ run, picture: "output", image: null, numbers: { style_gram: value } })),
  references: [], inputs: [], curves: [],
  design: { keys: ["beta"], pairs: [], repeats: ["seed"], settings: [["1"], ["10"]], blocks: [[]], unit: "seed", folds: true, student: [12.7062] },
  means: { style_gram: { settings: [[2, 2, 1.4, -10, 14], [2, 7, 2.8, -18, 32]], cells: [[0, 0, 2, 2, 1.4, -10, 14], [1, 0, 2, 7, 2.8, -18, 32]] } },
};

test("folded rows have the mean that was computed, others a plain one", () => {
  const model = makeModel(data);
  assert.deepEqual(model.estimate("style_gram", [2, 3], ["seed"]), [2, 7, 2.8, -18, 32]);
  assert.deepEqual(model.estimate("style_gram", [0, 2], ["beta"]), [2, 3, null, null, null]);
  assert.equal(model.estimate("unknown", [0], ["seed"]), null);
  assert.deepEqual(model.rowsOfSettings, [[0, 1], [2, 3]]);
  assert.equal(model.label(data.rows[1], ["seed"]), "beta=1");
  assert.deepEqual(model.columns.map((column) => column.id), ["job", "status", "beta", "seed", "style_gram"]);
});

test("an axis that follows from another is no row or column", () => {
  const more = { ...data, axes: [...data.axes, { key: "follows" }], runs: data.runs.map((run) => ({ ...run, values: { ...run.values, follows: `x${run.values.beta}` } })) };
  assert.deepEqual(independentAxes(more), ["beta", "seed"]);
});

test("the mean of curves has Student's interval", () => {
  const members = [{ x: [1, 2, 3], y: [10, 4, 1] }, { x: [1, 3], y: [20, 2] }];
  const points = meanPoints(members, [12.7062], false);
  assert.deepEqual(points.map((point) => point.y), [15, 7.5, 1.5]);
  assert.ok(Math.abs(points[0].high - (15 + 12.7062 * 5)) < 1e-9);
  const log = meanPoints(members, [12.7062], true);
  assert.ok(Math.abs(log[0].y - Math.sqrt(200)) < 1e-9 && log[0].low > 0);
  assert.deepEqual(meanPoints([members[0]], [], false)[1], { x: 2, y: 4, n: 1, low: null, high: null });
});

test("notes are put into a copy of the page, and cannot leave their place", () => {
  const page = '<script type="application/json" id="notes">{}</script><script>/id="notes">[^]*<\\/script>/</script>';
  const saved = withNotes(page, { "0": "good </script><b> $& $1" });
  assert.equal(saved.match(/<\/script>/g).length, 2);
  assert.deepEqual(JSON.parse(saved.match(/id="notes">(.*?)<\/script>/)[1]), { "0": "good </script><b> $& $1" });
  assert.deepEqual(withNotes(saved, {}), page);
});

test("the file of a step lies beside the result", () => {
  assert.equal(stepLink({ link: "3/output.png" }, 50), "3/images/output_00050.jpg");
  assert.equal(stepLink({ link: "../a/x.y.png" }, 1200), "../a/images/x.y_01200.jpg");
});
