"""The jobs of a sweep as a table: all columns for table.csv, and the main columns for a terminal."""

import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nstexp.outputs import write_csv
from nstexp.report.comparisons import SETTING, Comparison, comparisons, sentence, setting_estimates, spread
from nstexp.report.design import Design, design_of
from nstexp.report.job import Job, loss_terms, varying
from nstexp.report.numbers import ABOUT_PICTURES, MAIN_MEASURES, describe_numbers, number_columns, objectives
from nstexp.report.statistics import Estimate
from nstexp.report.texts import shortened, unique

MEAN = "mean"  # the status of a row with means
MOST_COMPARED, MOST_SENTENCES = 3, 12  # numbers, and sentences about them, on the terminal
LEAST_TESTED = 6  # units with which a test can be significant
# Limits of the table on the terminal.
MOST_LINES, MOST_ERRORS, MOST_CHARACTERS, LEAST_CHARACTERS, USUAL_WIDTH, GAP = 60, 5, 32, 8, 120, "  "


def table(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """One row per job and picture, all with the same columns; a job without numbers has one row.

    The columns are FIRST_COLUMNS, the varying keys, every number of any job, and LAST_COLUMNS. A number with the name
    of another column (the loss term `content` in a sweep over `content`) gets the prefix `metrics.`.
    """
    keys = varying(jobs)
    numbers = number_columns(jobs)
    rows = []
    for job in jobs:
        for picture in job.metrics or {"": {}}:
            row: dict[str, Any] = {"job": job.number, "picture": picture, "status": job.status}
            row |= {key: job.text(key) for key in keys}
            row |= {column: job.metrics.get(picture, {}).get(name) for name, column in numbers.items()}
            row |= {"seconds": job.summary and job.summary.seconds, "error": job.error}
            rows.append(row)
    return rows


def mean_rows(design: Design, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per setting with the means of its pictures, if several pictures are of the same setting.

    Their status is `mean`, and `n` the number of pairs, or of repeats of a single pair. A column such as `gram` has the
    mean, `gram_sd` the standard deviation, `gram_low` and `gram_high` the 95 % interval.

    Args:
        columns: name of a number -> name of its column, see `number_columns`.
    """
    if not design.folds:
        return []
    estimates = {name: setting_estimates(design, name) for name in columns}
    rows = []
    for setting in design.settings:
        found = {name: of_number[setting] for name, of_number in estimates.items() if setting in of_number}
        row: dict[str, Any] = {"status": MEAN, **dict(zip(design.keys, setting, strict=True))}
        row["n"] = max((one.n for one in found.values()), default=0)
        for name, one in found.items():
            column = columns[name]
            row |= {column: one.mean, f"{column}_sd": one.sd, f"{column}_low": one.low, f"{column}_high": one.high}
        rows.append(row)
    return rows


def write_table(jobs: Sequence[Job], path: Path, design: Design | None = None) -> None:
    """Write `table` as a CSV file, followed by `mean_rows`.

    Raises:
        UserError: the file cannot be written.
    """
    means = mean_rows(design or design_of(jobs), number_columns(jobs))
    write_csv(path, [*table(jobs), *means])


def comparison(jobs: Sequence[Job], width: int | None = None, design: Design | None = None) -> str:
    """The main columns of the table as aligned text, followed by sentences that compare, and by the errors.

    Where several pictures are of the same setting, a row is a setting, with means and their 95 % intervals.

    Args:
        width: longest line, in characters; None: the width of the terminal, or USUAL_WIDTH without a terminal. Values
            are shortened, and numbers left out, until the lines fit.
        design: of the jobs; None: that of `design_of`.
    """
    design = design or design_of(jobs)
    rows = table(jobs)
    head, numbers = _main_columns(jobs, rows)
    if design.folds and len(design.settings) > 1:
        rows = [_as_texts(row) for row in mean_rows(design, number_columns(jobs))]
        head = [*design.keys, "n"]
        numbers = [name for name in numbers if name in rows[0] and name != "seconds"]
    shown = rows[:MOST_LINES]
    lines = _fitted(head, numbers, shown, width or _terminal_width())
    if len(rows) > MOST_LINES:
        lines.append(f"... and {len(rows) - MOST_LINES} more rows in table.csv")
    return "\n".join([*lines, *_sentences(jobs, design), *_errors(jobs)])


def _as_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `mean_rows` whose numbers have their intervals in the same cell."""
    found = dict(row)
    for name, value in row.items():
        if f"{name}_sd" in row:
            found[name] = spread(Estimate(row["n"], value, row[f"{name}_sd"], row[f"{name}_low"], row[f"{name}_high"]))
    return found


def _sentences(jobs: Sequence[Job], design: Design) -> list[str]:
    """Means of a single setting, or the differences of the values of each key, for the main comparable numbers."""
    if not design.folds:
        return []
    names = unique(name for row in design.rows for name in row.numbers)
    described = {one["name"]: one for one in describe_numbers(jobs, names)}
    wanted = unique([*objectives(jobs), *MAIN_MEASURES])
    chosen = [name for name in wanted if name in described and described[name]["comparable"]][:MOST_COMPARED]
    if len(design.settings) == 1:
        means = {name: setting_estimates(design, name).get(design.settings[0]) for name in chosen}
        return [f"{described[n]['label']}: {spread(one)}, {one.n} {design.unit}s" for n, one in means.items() if one]
    if not chosen:
        chosen = [name for name, one in described.items() if one["better"] is not None][:1]
    lines: list[str] = []
    found: list[Comparison] = []
    for name in chosen:
        found = [one for one in comparisons(design, name) if one.key != SETTING]
        lines += [sentence(one, described[name]["label"], design.unit) for one in found]
    more = len(lines) - MOST_SENTENCES
    cut = [f"... and {more} more comparisons in report.html"] if more > 0 else []
    n = max((one.difference.n for one in found), default=0)
    few = [f"with {n} {design.unit}s no test can be significant: Wilcoxon's needs 6"] if 1 < n < LEAST_TESTED else []
    return [*lines[:MOST_SENTENCES], *cut, *few]


def _terminal_width() -> int:
    """The width of the terminal in characters."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or USUAL_WIDTH
    except (AttributeError, OSError, ValueError):  # no terminal, or no stderr
        return USUAL_WIDTH


def _fitted(head: Sequence[str], numbers: Sequence[str], rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Aligned lines: all columns of `head`, shortened if necessary, and as many columns of `numbers` as fit.

    If even the shortest columns of `head` do not fit, the last ones are left out, and a further line names them.
    """
    texts = {name: [name, *(_for_terminal(row[name]) for row in rows)] for name in (*head, *numbers)}
    enough = width - sum(_width(texts[name]) + len(GAP) for name in numbers[:1])
    for most in (MOST_CHARACTERS, 24, 16, 12, LEAST_CHARACTERS):
        columns = [[shortened(name, most), *_shortened(texts[name][1:], most)] for name in head]
        if _total(columns) <= enough:
            break
    kept = max((n for n in range(1, len(columns) + 1) if _total(columns[:n]) <= width), default=1)
    columns, left_out = columns[:kept], head[kept:]
    chosen: list[str] = []
    for name in numbers:
        if _total([*columns, *(texts[number] for number in (*chosen, name))]) <= width:
            chosen.append(name)
    columns += [texts[name] for name in sorted(chosen, key=lambda name: name == "seconds")]
    widths = [_width(column) for column in columns]
    lines = [
        GAP.join(_right(text, n) for text, n in zip(line, widths, strict=True)) for line in zip(*columns, strict=True)
    ]
    return [*lines, *([f"... and {', '.join(left_out)} in table.csv"] if left_out else [])]


def _shortened(texts: Sequence[str], most: int) -> list[str]:
    """Texts shortened to `most` characters; without their common beginning and end, if they would look alike."""
    short = [shortened(text, most) for text in texts]
    if len({*short}) < len({*texts}):
        start = _alike(texts)
        end = _alike([text[start:][::-1] for text in texts])
        short = [shortened(f"...{text[start : len(text) - end]}", most) for text in texts]
    return short


def _alike(texts: Sequence[str]) -> int:
    """The length of the texts' common beginning."""
    letters = zip(*texts, strict=False)
    return next((n for n, at_n in enumerate(letters) if len({*at_n}) > 1), min(map(len, texts)))


def _total(columns: Sequence[Sequence[str]]) -> int:
    """The length of a line with these columns."""
    return sum(map(_width, columns)) + len(GAP) * (len(columns) - 1)


def _width(column: Sequence[str]) -> int:
    return max(map(_cells, column))


def _cells(text: str) -> int:
    """The width of a text on a terminal, where Chinese characters are two cells wide."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _right(text: str, width: int) -> str:
    return " " * (width - _cells(text)) + text


def _main_columns(jobs: Sequence[Job], rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The columns that identify the rows, and the columns with numbers, the most important first.

    The numbers are: objectives of a search, total and the first loss terms, seconds, the main measures, the other
    terms, and numbers about the pictures. Numbers that are the same in all rows are left out.
    """
    several = len({row["picture"] for row in rows} - {""}) > 1
    incomplete = {job.status for job in jobs} != {"completed"}
    keys = varying(jobs)
    head = ["job", *(["picture"] if several else []), *(["status"] if incomplete else []), *keys]
    tail = [name for name in ABOUT_PICTURES if name in rows[0]]
    terms = unique(term for job in jobs for term in loss_terms(job.config))
    terms = [f"metrics.{term}" if term in keys else term for term in terms]
    searched = objectives(jobs)
    numbers = unique([*searched, "total", *terms[:2], "seconds", *MAIN_MEASURES, *terms, *tail])
    numbers = [name for name in numbers if name in rows[0]]
    differing = [name for name in numbers if len({_for_terminal(row[name]) for row in rows} - {"-"}) > 1]
    if not {*differing} - {"seconds"}:  # a single row, or equal numbers in all rows
        return head, numbers
    return head, [name for name in numbers if name in differing or name in searched]


def _errors(jobs: Sequence[Job]) -> list[str]:
    """A line per error message, with the numbers of its jobs; messages beyond MOST_ERRORS are only counted.

    Pruned jobs share one line, since each of them has a reason of its own.
    """
    reasons = unique(job.error for job in jobs if job.error and job.status != "pruned")
    pruned = [str(job.number) for job in jobs if job.status == "pruned"]
    lines = [f"job {shortened(', '.join(pruned), MOST_CHARACTERS)}: pruned, other jobs did better"] if pruned else []
    for reason in reasons[:MOST_ERRORS]:
        numbers = [str(job.number) for job in jobs if job.error == reason]
        lines.append(f"job {shortened(', '.join(numbers), MOST_CHARACTERS)}: {reason}")
    if len(reasons) > MOST_ERRORS:
        lines.append(f"... and {len(reasons) - MOST_ERRORS} more errors in table.csv")
    return lines


def _for_terminal(value: Any) -> str:
    """The text of a cell."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else shortened(str(value), MOST_CHARACTERS)
