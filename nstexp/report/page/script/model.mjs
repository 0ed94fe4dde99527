// The runs, rows and keys of the report, and what is known of them together.
import { asNumber, isMissing, isNumber, plural, rounded, unlisted } from "./text.mjs";

export const ANY = "any";
export const FOLD = "mean";

export function makeModel(data) {
  const rows = data.rows;
  const run = (row) => data.runs[row.run];
  const isPicture = (row) => !row.mean;
  const isDone = (row) => run(row).status === "completed";
  const pictures = [...new Set(rows.filter((row) => !row.values).map((row) => row.picture).filter((name) => name !== ""))];
  const valueOf = (row, key) => (row.values && key in row.values ? row.values[key] : run(row).values[key]);
  const axes = data.axes.map((axis) => ({ ...axis, of: (row) => valueOf(row, axis.key) }));
  if (pictures.length > 1) axes.unshift({ key: "picture", values: pictures, images: {}, of: (row) => row.picture });
  const axisOf = (key) => axes.find((axis) => axis.key === key);
  // A run that failed before its first picture belongs to every picture.
  const matches = (axis, row, value) => axis.of(row) === value || (axis.key === "picture" && row.picture === "");
  const jobName = (job) => (job.sweep === null ? `job ${job.job}` : `${job.sweep}/${job.job}`);

  function label(row, without = []) {
    const parts = axes
      .filter((axis) => !without.includes(axis.key) && !isMissing(axis.of(row)))
      .map((axis) => (axis.key === "picture" ? axis.of(row) : `${axis.key}=${unlisted(axis.of(row))}`));
    if (row.mean) return row.picture;
    return parts.length ? parts.join(", ") : jobName(run(row));
  }

  const fullLabel = (row) => (axes.length ? `${jobName(run(row))}: ${label(row)}` : jobName(run(row)));
  // Numbers are only comparable between rows with the same photo and painting.
  const inputsOf = (row) => JSON.stringify([row.picture === "output" || row.values ? "" : row.picture, valueOf(row, "content"), valueOf(row, "style")]);

  const model = { data, rows, run, isPicture, isDone, pictures, axes, axisOf, matches, jobName, label, fullLabel, inputsOf, valueOf };
  return { ...model, columns: columnsOf(model), ...lookups(model) };
}

// The columns of the table: { id, get, group, kind, name (of a number), title }.
function columnsOf({ data, rows, run, pictures, valueOf }) {
  const numberColumns = ["losses", "measures", "picture"].flatMap((group) => data.numbers.filter((number) => number.group === group).map((number) => ({
    id: number.label, name: number.name, group, title: number.title, get: (row) => row.numbers[number.name], kind: "number",
  })));
  return [
    { id: "job", get: (row) => run(row).job, kind: "number" },
    ...(pictures.length > 1 ? [{ id: "picture", get: (row) => row.picture }] : []),
    { id: "status", get: (row) => run(row).status },
    ...data.axes.map((axis) => ({
      id: axis.key, group: "overrides", get: (row) => valueOf(row, axis.key), override: true,
      kind: axis.values.every((value) => value === null || !Number.isNaN(asNumber(value))) ? "count" : "text",
    })),
    { id: "error", get: (row) => run(row).error, unseen: true },  // shown below the status
    ...numberColumns,
    { id: "seconds", group: "cost", get: (row) => run(row).seconds, kind: "number", title: "time of the whole run" },
    { id: "memory (MB)", group: "cost", get: (row) => run(row).memory_mb, kind: "number", title: "peak memory (resident set)" },
    { id: "GPU memory (MB)", group: "cost", get: (row) => run(row).gpu_memory_mb, kind: "number", title: "peak GPU memory" },
    { id: "seed", group: "cost", get: (row) => run(row).seed, kind: "count" },
    { id: "started", group: "cost", get: (row) => run(row).started },
  ].filter((column) => ["job", "status"].includes(column.id) || rows.some((row) => !isMissing(column.get(row))))
    .filter((column, index, all) => all.findIndex((other) => other.id === column.id) === index);
}

// Means of pictures that belong together.
function lookups({ data, rows, axes, axisOf, valueOf, isPicture, isDone }) {
  const { keys, pairs, repeats, settings, blocks } = data.design;
  const placeOf = (list, names) => {
    const places = new Map(list.map((values, place) => [JSON.stringify(values), place]));
    return (row) => places.get(JSON.stringify(names.map((key) => (key === "picture" ? row.picture : valueOf(row, key))))) ?? null;
  };
  const settingOf = placeOf(settings, keys);
  const pairOf = placeOf(blocks, pairs);
  const cells = {};
  for (const [name, found] of Object.entries(data.means)) {
    cells[name] = new Map(found.cells.map(([setting, pair, ...estimate]) => [`${setting} ${pair}`, estimate]));
  }

  // The estimate [n, mean, sd, low, high] of a number over rows of which these axes are folded.
  function estimate(name, indices, folded) {
    const values = indices.map((index) => rows[index].numbers[name]).filter(isNumber);
    if (!values.length) return null;
    const [setting, pair] = [settingOf(rows[indices[0]]), pairOf(rows[indices[0]])];
    const has = (names) => names.every((key) => folded.includes(key) || (axisOf(key)?.values.length ?? 1) < 2);
    const known = setting === null || !has(repeats) ? null
      : has(pairs) ? data.means[name]?.settings[setting]
      : pairs.every((key) => !folded.includes(key)) ? cells[name]?.get(`${setting} ${pair}`) : null;
    if (known) return known;
    return [values.length, values.reduce((sum, value) => sum + value, 0) / values.length, null, null, null];
  }

  const settingLabel = (place) => keys.map((key, n) => `${key}=${unlisted(settings[place][n] ?? "null")}`).join(", ") || "all runs";
  const rowsOfSettings = settings.map(() => []);
  rows.forEach((row, index) => {
    const place = isPicture(row) && isDone(row) ? settingOf(row) : null;
    if (place !== null) rowsOfSettings[place].push(index);
  });
  return { estimate, settingOf, settingLabel, rowsOfSettings, canFold: axes.filter((axis) => [...pairs, ...repeats].includes(axis.key)).map((axis) => axis.key) };
}

// A comparison in words, as report/comparisons.py writes it on the terminal.
export function sentence({ key, value, baseline, whole, n, mean, low, high, p }, label, unit) {
  const who = whole ? `${value} against ${baseline}` : `${key} ${value} against ${baseline}`;
  if (low === null) return `${who}: ${label} ${rounded([mean])[0]}, one ${unit} only, so there is no interval`;
  const [middle, from, to] = rounded([mean, low, high]);
  const canTest = p !== null && 2 ** (1 - n) <= 0.05;  // with fewer than 6 no p-value is below 0.05
  const test = canTest ? ` (Wilcoxon p ${p < 0.001 ? "< 0.001" : `= ${Number(p.toPrecision(2))}`})` : "";
  return `${who}: ${label} ${middle}, 95 % ${from} to ${to}, ${plural(n, unit)}${test}`;
}

