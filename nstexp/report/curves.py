"""The loss curves of a run, from its losses.csv."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nstexp.report.texts import unique

NOT_TERMS = ("image", "step", "seconds", "lr", "images_per_second", "data_wait")  # columns of losses.csv
MOST_POINTS = 200  # points of a curve


@dataclass
class Curve:
    """The loss curves of one picture.

    Args:
        steps: the step of each point.
        seconds: the time of each point; empty if it was not recorded.
        terms: loss term -> values, None where there is no number.
    """

    picture: str
    steps: list[int]
    seconds: list[float | None]
    terms: dict[str, list[float | None]]


def read_curves(path: Path, most: int = MOST_POINTS) -> tuple[list[Curve], int]:
    """Read losses.csv of a run folder.

    Args:
        path: the run folder.
        most: the largest number of points of a curve.

    Returns:
        The curves, and the number of damaged lines, which are left out.
    """
    try:
        with (path / "losses.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.DictReader(line.replace("\0", "") for line in file)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, csv.Error):
        return [], 0
    terms = [name for name in columns if name and name not in NOT_TERMS]
    good = [row for row in rows if _is_whole(row, terms)]
    pictures = unique(row["image"] for row in good)
    curves = [_curve(name, [row for row in good if row["image"] == name], terms, most) for name in pictures]
    return curves, len(rows) - len(good)


def _is_whole(row: Mapping[Any, Any], terms: Sequence[str]) -> bool:
    """Whether a line of losses.csv is complete and contains numbers; an incomplete line lacks its last columns."""
    if None in row or None in row.values() or not str(row.get("step", "")).isdecimal() or "image" not in row:
        return False
    return all(row[term] == "" or _float(row[term]) is not None for term in terms)


def _float(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _curve(picture: str, rows: Sequence[Mapping[str, str]], terms: Sequence[str], most: int) -> Curve:
    """The curves of one picture, with evenly chosen rows, the first and the last among them, if there are too many."""
    if len(rows) > most:
        rows = [rows[round(n * (len(rows) - 1) / (most - 1))] for n in range(most)]
    columns = {term: [_brief(row[term]) for row in rows] for term in terms}
    seconds = [_brief(row.get("seconds")) for row in rows]
    return Curve(
        picture=picture,
        steps=[int(row["step"]) for row in rows],
        seconds=seconds if any(value is not None for value in seconds) else [],
        terms={term: values for term, values in columns.items() if any(value is not None for value in values)},
    )


def _brief(text: str | None) -> float | None:
    """A finite number rounded to six digits, which is more than a chart shows; None for other texts."""
    value = _float(text)
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
