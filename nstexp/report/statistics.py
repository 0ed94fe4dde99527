"""Means with intervals, a paired test, and its correction for several comparisons.

Nothing here knows of runs: all functions take plain numbers. `docs/use/statistics.md` explains them to readers of a
report.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from nstexp.core.intervals import bootstrap_mean

LEVEL = 0.95
MOST_EXACT = 200  # differences up to which the distribution of Wilcoxon's statistic is computed exactly


@dataclass(frozen=True)
class Estimate:
    """A mean of independent values.

    Args:
        n: the number of values.
        mean: their mean.
        sd: their standard deviation (n - 1 in the denominator); None for a single value.
        low, high: 95 % confidence interval of the mean; None for a single value.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean of independent values with its interval; infinite numbers and NaN are left out, None if none is left.

    The interval is the bootstrap's, widened for few values (see `bootstrap_mean`). Three values say little about their
    spread, so that their interval is wide: about 2.5 standard deviations to each side.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    mean = math.fsum(finite) / len(finite)
    if len(finite) == 1:
        return Estimate(1, mean)
    low, high = bootstrap_mean(finite, LEVEL)
    return Estimate(len(finite), mean, float(np.std(finite, ddof=1)), low, high)


def student_factors(most: int) -> list[float]:
    """Half widths of Student's 95 % intervals of 2, 3, ... and up to `most` values, in standard errors of the mean."""
    return [float(stdtrit(n - 1, (1 + LEVEL) / 2)) for n in range(2, most + 1)]


def crossed_interval(table: NDArray[np.floating]) -> tuple[float, float]:
    """95 % interval of a mean over all pairs of photos and paintings, for new photos and new paintings.

    Pairs with the same photo are alike, and so are pairs with the same painting. An interval over pairs leaves that
    out, and is too narrow for a claim about other photos and paintings. Here the variance of the mean comes from the
    mean squares of a two-way table, MS_photo + MS_painting - MS_rest over the number of pairs, and the degrees of
    freedom from Satterthwaite (1946). With two or three photos it is very wide.

    Args:
        table: one value per pair (photos, paintings), at least 2 x 2.

    Returns:
        The ends of the interval.
    """
    rows, columns = table.shape
    mean = table.mean()
    of_rows, of_columns = table.mean(1), table.mean(0)
    rest = table - of_rows[:, None] - of_columns + mean
    squares = (
        columns * ((of_rows - mean) ** 2).sum() / (rows - 1),
        rows * ((of_columns - mean) ** 2).sum() / (columns - 1),
        (rest**2).sum() / ((rows - 1) * (columns - 1)),
    )
    freedoms = (rows - 1, columns - 1, (rows - 1) * (columns - 1))
    variance = squares[0] + squares[1] - squares[2]
    if variance <= max(squares):  # chance can make the difference small or negative; one part alone is then a bound
        largest = int(np.argmax(squares))
        variance, freedom = squares[largest], float(freedoms[largest])
    else:
        freedom = variance**2 / sum(square**2 / n for square, n in zip(squares, freedoms, strict=True))
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(variance / table.size)
    return float(mean - half), float(mean + half)


def wilcoxon(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the signed-rank test (Wilcoxon 1945): are the differences symmetric about 0?

    Differences of 0 are left out, as by Wilcoxon, and equal ones share their ranks. Up to 200 differences the p-value
    is exact, also with shared ranks; scipy's is exact without them only. Of more, it is the normal distribution's.

    Returns:
        The p-value; None if all differences are 0, or there are none.
    """
    x = np.asarray([value for value in differences if value != 0 and math.isfinite(value)], dtype=np.float64)
    n = len(x)
    if n == 0:
        return None
    twice = _twice_the_ranks(np.abs(x))
    observed, total = int(twice[x > 0].sum()), int(twice.sum())
    if n > MOST_EXACT:
        variance = float((twice.astype(float) ** 2).sum()) / 4
        z = max(0.0, abs(observed - total / 2) - 1) / math.sqrt(variance)  # half a rank for continuity
        return math.erfc(z / math.sqrt(2))
    ways = np.zeros(total + 1)  # share of the sign patterns in which the positive ranks have each sum
    ways[0] = 1
    for rank in twice:
        ways[rank:] += ways[: total + 1 - rank].copy()
        ways /= 2
    tail = min(ways[: observed + 1].sum(), ways[observed:].sum())
    return float(min(1.0, 2 * tail))


def smallest_p(n: int) -> float:
    """The smallest p-value that `wilcoxon` can give for n differences; above 0.05 for fewer than 6."""
    return min(1.0, 2.0 ** (1 - n))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values that are corrected for the number of comparisons (Holm 1979).

    If none of the effects exists, at most 5 % of such families have any corrected p-value below 0.05.

    Args:
        p_values: of the comparisons that are looked at together; None for a comparison without a test.
    """
    tested = sorted((p, n) for n, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, n) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - place)))
        corrected[n] = largest
    return corrected


def _twice_the_ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Twice the rank of each value, whole numbers also where equal values share the mean of their ranks."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((2 * last - count + 1)[group], dtype=np.int64)
