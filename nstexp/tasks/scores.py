"""Means of the scores of an evaluation, with intervals, and the table that is printed."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nstexp.core.intervals import bootstrap_mean

REFERENCES = ("photo", "painting")
TIMES = ("seconds_per_picture", "seconds_with_new_style")

Interval = tuple[float, float]
Rows = Sequence[Mapping[str, Any]]


def mean_scores(rows: Rows) -> dict[str, dict[str, float]]:
    """Averages per method and reference, from the rows of scores.csv.

    Returns:
        Label -> `pairs` (number of pairs), the mean of each measure, and the median times `seconds_per_picture` (styles
        that the method has processed before) and `seconds_with_new_style`. Methods come first, then references.
    """
    result: dict[str, dict[str, float]] = {}
    for label, of_label in _by_method(rows).items():
        means: dict[str, float] = {"pairs": len(of_label)}
        means |= {key: statistics.fmean(row[key] for row in of_label if _has(row, key)) for key in _measures(of_label)}
        for key, new in zip(TIMES, (False, True), strict=True):
            times = [row["stylize_seconds"] for row in of_label if "stylize_seconds" in row]
            times = [time for time, row in zip(times, of_label, strict=False) if bool(row.get("new_style")) is new]
            if times:
                means[key] = statistics.median(times)
        result[label] = means
    return result


def score_intervals(rows: Rows) -> dict[str, dict[str, Interval]]:
    """95 % intervals of the means of `mean_scores`, for other photos and paintings: label -> measure -> (low, high)."""
    return {
        label: _with_intervals({key: _values(of_label, key) for key in _measures(of_label)})
        for label, of_label in _by_method(rows).items()
    }


def differences(rows: Rows) -> dict[str, dict[str, tuple[float, Interval]]]:
    """Differences of the other labels from the first method: label -> measure -> (mean, its 95 % interval).

    Only pairs of photo and painting that both have count, each with its own difference.
    """
    by_method = _by_method(rows)
    if len(by_method) < 2:
        return {}
    first, *others = by_method
    base = {(row["content"], row["style"]): row for row in by_method[first]}
    found: dict[str, dict[str, tuple[float, Interval]]] = {}
    for label in others:
        found[label] = {}
        for key in _measures(by_method[label]):
            both = {pair: value - base[pair][key] for pair, value in _values(by_method[label], key).items()
                    if pair in base and _has(base[pair], key)}  # fmt: skip
            if both:
                found[label][key] = statistics.fmean(both.values()), _interval(both)
    return found


def mean_rows(
    means: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, Interval]],
    compared: Mapping[str, Mapping[str, tuple[float, Interval]]],
) -> list[dict[str, Any]]:
    """The rows of means.csv: one for each method and measure.

    Args:
        means: see `mean_scores`; values of set measures may have been added.
        intervals: see `score_intervals`.
        compared: see `differences`.
    """
    rows = []
    for label, numbers in means.items():
        for key, value in numbers.items():
            if key != "pairs":
                row = {"method": label, "measure": key, "pairs": numbers["pairs"], "mean": value}
                row |= _ends("", intervals.get(label, {}).get(key))
                if key in compared.get(label, {}):
                    difference, ends = compared[label][key]
                    row |= {"difference": difference, **_ends("difference_", ends)}
                rows.append(row)
    return rows


def table_lines(
    means: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, Interval]] | None = None
) -> Iterator[str]:
    """Means, with their intervals where they are known, as aligned lines: a row per measure, a column per method."""
    measures = list(dict.fromkeys(key for numbers in means.values() for key in numbers))
    columns = [[label, *(_cell(label, key, means, intervals or {}) for key in measures)] for label in means]
    widths = [max(12, *map(len, column)) for column in columns]
    first = max(map(len, measures), default=0)
    for name, *cells in zip(["", *measures], *columns, strict=True):
        yield " ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])


def _cell(
    label: str,
    key: str,
    means: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, Interval]],
) -> str:
    if key not in means[label]:
        return "-"
    low, high = (f"{end:.3g}" for end in intervals.get(label, {}).get(key, (0.0, 0.0)))
    return f"{means[label][key]:.4g}" + (f" ({low} to {high})" if low != high else "")


def _by_method(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    labels = sorted(dict.fromkeys(row["method"] for row in rows), key=lambda label: label in REFERENCES)
    return {label: [row for row in rows if row["method"] == label] for label in labels}


def _measures(rows: Rows) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row if _has(row, key) and key != "stylize_seconds"))


def _has(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), float)


def _values(rows: Rows, key: str) -> dict[tuple[str, str], float]:
    """Photo and painting -> value."""
    return {(row["content"], row["style"]): row[key] for row in rows if _has(row, key)}


def _with_intervals(values: Mapping[str, Mapping[tuple[str, str], float]]) -> dict[str, Interval]:
    found = {key: _interval(of_pairs) for key, of_pairs in values.items()}
    return {key: ends for key, ends in found.items() if not math.isnan(ends[0])}


def _interval(values: Mapping[tuple[str, str], float]) -> Interval:
    photos, paintings = zip(*values, strict=True)
    return bootstrap_mean(list(values.values()), groups=[photos, paintings])


def _ends(prefix: str, ends: Interval | None) -> dict[str, float]:
    return {} if ends is None or math.isnan(ends[0]) else {f"{prefix}low": ends[0], f"{prefix}high": ends[1]}
