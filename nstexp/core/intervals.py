"""Confidence intervals of means by the bootstrap, in NumPy alone."""

import math
from collections.abc import Hashable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from nstexp.core.errors import ArgumentError

DRAWS = 4000
BLOCK_NUMBERS = 2**18  # drawn at a time, so that many values need little memory
LEAST_LABELS = 3  # of fewer, a draw would say nothing about others

Numbers = NDArray[np.float64]


def bootstrap_mean(
    values: Sequence[float] | Numbers,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Sequence[Hashable]] = (),
) -> tuple[float, float]:
    """Confidence interval of a mean: (low, high).

    The ends are percentiles of the means of 4,000 resamples (Efron 1979). Resamples of n values spread too little, most
    of all where n is small: the distances of the ends from the mean are therefore multiplied by `widening`. Of skewed
    values, the interval reaches further to the side of the long tail.

    Values of pairs, such as every photo in the style of every painting, are not independent. With the photo and the
    painting of each value as `groups`, photos and paintings are drawn, each kind on its own, and a value counts as
    often as its photo is drawn times as often as its painting is (Owen 2007). The interval then says how the mean would
    vary with other photos and paintings; without groups, it is far too narrow for that. Labels of fewer than three
    kinds are not drawn: the interval is then that for these.

    Args:
        values: numbers (n,). Values that belong together, such as results of two methods, are subtracted before.
        level: the share of such intervals that contain the true mean, above 0 and below 1.
        seed: seed of the resamples; the same seed, the same interval.
        groups: sequences of n labels.

    Returns:
        The ends of the interval; (nan, nan) for fewer than two values, which say nothing about their spread.

    Raises:
        ArgumentError: a level that is not between 0 and 1.

    Examples:
        >>> low, high = bootstrap_mean([1.0, 2.0, 3.0, 4.0])
        >>> round(low, 1), round(high, 1)
        (0.6, 4.4)
    """
    check_level(level)
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return math.nan, math.nan
    numbered = [np.unique(labels, return_inverse=True)[1] for labels in (tuple(map(str, each)) for each in groups)]
    drawn = [labels for labels in numbered if labels.max() + 1 >= LEAST_LABELS] or [np.arange(len(x))]
    generator = np.random.default_rng(seed)
    means = np.concatenate([_means(x, drawn, draws, generator) for draws in _blocks(len(x))])
    return interval_of(float(x.mean()), means, min(int(labels.max()) + 1 for labels in drawn), level)


def interval_of(value: float, resampled: Numbers, units: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a value from those of its resamples, as in `bootstrap_mean`.

    The resamples tell only how far values spread: their mean is moved to the value. For a mean both are the same. A
    statistic that grows as pictures repeat, such as a Frechet distance, would otherwise have an interval above itself.

    Args:
        value: the statistic of the data.
        resampled: the statistic of each resample; values that are not finite are left out.
        units: number of units that were drawn; the smallest number, if several kinds of units were drawn.
        level: see `bootstrap_mean`.
    """
    spread = resampled[np.isfinite(resampled)]
    if units < 2 or not len(spread):
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = np.quantile(spread - spread.mean(), [tail, 1 - tail]) * widening(units, level)
    return float(value + low), float(value + high)


def drawn_counts(labels: int, draws: int, generator: np.random.Generator) -> Numbers:
    """How often each of some labels is drawn, if as many are drawn with replacement: (draws, labels)."""
    places = generator.integers(labels, size=(draws, labels)) + labels * np.arange(draws)[:, None]
    return np.bincount(places.ravel(), minlength=draws * labels).reshape(draws, labels).astype(np.float64)


def widening(units: int, level: float = 0.95) -> float:
    """Factor by which the spread of resamples of `units` units is too small.

    sqrt(n/(n-1)), because resamples vary by the biased variance, times Student's quantile with n-1 degrees of freedom
    over the normal one, because that variance is itself uncertain.
    """
    share = (1 + level) / 2
    return math.sqrt(units / (units - 1)) * student_quantile(share, units - 1) / NormalDist().inv_cdf(share)


def check_level(level: float) -> None:
    """Check the level of an interval.

    Raises:
        ArgumentError: it is not above 0 and below 1.
    """
    if not 0 < level < 1:
        raise ArgumentError("level", f"={level}: give a number above 0 and below 1")


def _means(x: Numbers, drawn: Sequence[NDArray[np.intp]], draws: int, generator: np.random.Generator) -> Numbers:
    """Means of resamples (draws,); nan for a resample without values."""
    counts = np.ones((draws, len(x)))
    for labels in drawn:
        counts *= drawn_counts(int(labels.max()) + 1, draws, generator)[:, labels]
    totals = counts.sum(1)
    means: Numbers = np.divide(counts @ x, totals, out=np.full(draws, math.nan), where=totals > 0)
    return means


def _blocks(values: int) -> Iterator[int]:
    """Numbers of draws whose counts fit into a block."""
    most = max(1, BLOCK_NUMBERS // values)
    return (min(most, DRAWS - start) for start in range(0, DRAWS, most))


def student_quantile(share: float, freedom: int) -> float:
    """The value that Student's t with `freedom` degrees of freedom does not exceed in this share of cases.

    Args:
        share: 0.5 or larger, below 1.
        freedom: a whole number, 1 or larger.

    Examples:
        >>> round(student_quantile(0.975, 4), 3), round(student_quantile(0.975, 1000), 3)
        (2.776, 1.962)
    """
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_share(middle, freedom) < share else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _student_share(angle: float, freedom: int) -> float:
    """Share of cases in which t is at most sqrt(freedom) tan(angle), for a whole number of degrees of freedom.

    Abramowitz & Stegun 1964, Eq. 26.7.3 and 26.7.4.
    """
    odd, cos2, total = freedom % 2, math.cos(angle) ** 2, 0.0
    term = math.cos(angle) if odd else 1.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cos2 * k / (k + 1)
    between = math.sin(angle) * total
    return (1 + (2 / math.pi * (angle + between) if odd else between)) / 2
