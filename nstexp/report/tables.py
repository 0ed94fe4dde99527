"""The jobs of a sweep as rows: table.csv, and the main columns for a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nstexp.outputs import write_csv
from nstexp.report.jobs import Job, loss_terms, shortened, unique, varying

FIRST_COLUMNS, LAST_COLUMNS = ("job", "picture", "status"), ("seconds", "error")
MOST_COLUMNS, MOST_LINES, MOST_CHARACTERS, MOST_ERRORS = 12, 60, 32, 5  # of the comparison on the terminal
MAIN_MEASURES = ("style_gram", "content_loss", "ssim")
ABOUT_PICTURES = ("luminance_mean", "luminance_std", "clipped_share")


def table(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """One row per job and picture, all with the same columns; a job without numbers is one row.

    The columns are FIRST_COLUMNS, the varying keys, every number that any job has, LAST_COLUMNS. A number that is
    called like another column (the loss term `content` in a sweep over `content`) gets the prefix `metrics.`.
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


def number_columns(jobs: Sequence[Job], more: Sequence[str] = ()) -> dict[str, str]:
    """{number: its column}, of every number that any job has, and of more."""
    taken = {*FIRST_COLUMNS, *varying(jobs), *LAST_COLUMNS}
    names = unique([*(name for job in jobs for numbers in job.metrics.values() for name in numbers), *more])
    return {name: f"metrics.{name}" if name in taken else name for name in names}


def write_table(jobs: Sequence[Job], path: Path) -> None:
    """`table` as a CSV file.

    Raises:
        UserError: the file cannot be written.
    """
    write_csv(path, table(jobs))


def comparison(jobs: Sequence[Job]) -> str:
    """The main columns of the table, aligned for a terminal, and what went wrong."""
    rows = table(jobs)
    columns = _main_columns(jobs, rows)
    lines = [columns, *([_for_terminal(row[column]) for column in columns] for row in rows[:MOST_LINES])]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    text = ["  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)) for line in lines]
    if len(rows) > MOST_LINES:
        text.append(f"... and {len(rows) - MOST_LINES} more rows in table.csv")
    return "\n".join([*text, *_errors(jobs)])


def _main_columns(jobs: Sequence[Job], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of the table that fit a terminal: what was searched for, the first loss terms, the main measures, and
    with few varying keys the other terms."""
    several = len({row["picture"] for row in rows} - {""}) > 1
    troubled = {job.status for job in jobs} != {"completed"}
    keys = varying(jobs)
    head = ["job", *(["picture"] if several else []), *(["status"] if troubled else []), *keys]
    tail = [name for name in ABOUT_PICTURES if name in rows[0]] + ["seconds"]
    terms = unique(term for job in jobs for term in loss_terms(job.config))
    terms = [f"metrics.{term}" if term in keys else term for term in terms]
    sought = unique(name for job in jobs for name in _objective(job.config))
    middle = unique([*sought, "total", *terms[:2], *MAIN_MEASURES, *terms])
    middle = [name for name in middle if name in rows[0]]
    return [*head, *middle[: max(1, MOST_COLUMNS - len(head) - len(tail))], *tail]


def _objective(config: Mapping[str, Any]) -> list[str]:
    """The names of a search's objective."""
    names = config.get("objective") or []
    return [names] if isinstance(names, str) else [str(name) for name in names] if isinstance(names, list) else []


def _errors(jobs: Sequence[Job]) -> list[str]:
    """A line for each reason, with the jobs that ended so; many reasons are only counted."""
    reasons = unique(job.error for job in jobs if job.error)
    lines = []
    for reason in reasons[:MOST_ERRORS]:
        numbers = [str(job.number) for job in jobs if job.error == reason]
        lines.append(f"job {shortened(', '.join(numbers), MOST_CHARACTERS)}: {reason}")
    if len(reasons) > MOST_ERRORS:
        lines.append(f"... and {len(reasons) - MOST_ERRORS} more errors in table.csv")
    return lines


def _for_terminal(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else shortened(str(value), MOST_CHARACTERS)
