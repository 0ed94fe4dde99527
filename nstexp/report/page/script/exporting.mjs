// Tables as CSV, Markdown and LaTeX. A table is { head: [text], rows: [[text or number]] }.
import { download, el } from "./dom.mjs";

const text = (value) => (value === null || value === undefined ? "" : String(value));

export function toCsv({ head, rows }) {
  const quoted = (value) => (/[",\r\n]/.test(text(value)) ? `"${text(value).replaceAll('"', '""')}"` : text(value));
  return [head, ...rows].map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
}

export function toMarkdown({ head, rows }) {
  const escaped = (value) => text(value).replaceAll("|", "\\|").replace(/\s*\r?\n\s*/g, " ");
  const line = (row) => `| ${row.map(escaped).join(" | ")} |`;
  const rule = `|${head.map((_, n) => (isNumeric(rows, n) ? "---:|" : "---|")).join("")}`;
  return [line(head), rule, ...rows.map(line)].join("\n") + "\n";
}

// A tabular of the package booktabs.
export function toLatex({ head, rows }) {
  const line = (row) => `  ${row.map(forLatex).join(" & ")} \\\\`;
  const columns = head.map((_, n) => (isNumeric(rows, n) ? "r" : "l")).join("");
  return [
    "% \\usepackage{booktabs}", `\\begin{tabular}{${columns}}`, "  \\toprule", line(head), "  \\midrule", ...rows.map(line),
    "  \\bottomrule", "\\end{tabular}", "",
  ].join("\n");
}

const LATEX = {
  "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "_": "\\_", "%": "\\%", "~": "\\textasciitilde{}",
  "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "\u2013": "--", "\u2605": "$\\star$", "\u00d7": "$\\times$",
};
const forLatex = (value) => text(value).replace(/\s*\r?\n\s*/g, " ").replace(/[\\{}$&#_%~^<>\u2013\u2605\u00d7]/g, (sign) => LATEX[sign]);

function isNumeric(rows, column) {
  const values = rows.map((row) => text(row[column])).filter((value) => value !== "" && value !== "\u2013");
  return values.length > 0 && values.every((value) => /^[<+-]?\s*\d/.test(value) && !/[a-z]{3}/i.test(value.replace(" to ", "")));
}

const FORMS = [["CSV", "csv", "text/csv", toCsv], ["Markdown", "md", "text/markdown", toMarkdown], ["LaTeX", "tex", "text/plain", toLatex]];

// Buttons that save a table; `make` gives the table as it is then.
export function tableButtons(name, make) {
  return el("span", { class: "export", role: "group", "aria-label": `Save the table ${name}` }, FORMS.map(([label, ending, type, form]) =>
    el("button", { type: "button", class: "quiet", title: `save this table as ${name}.${ending}`, click: () => download(`${name}.${ending}`, type, form(make())) }, label)));
}
