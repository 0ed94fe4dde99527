"""Intervals contain the truth as often as they say, and tests find nothing where there is nothing."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from nstexp.report.statistics import crossed_interval, estimate, holm, smallest_p, wilcoxon


def test_an_estimate_has_mean_deviation_and_interval():
    found = estimate([1.0, 2.0, 6.0])
    assert (found.n, found.mean, found.sd) == (3, 3.0, pytest.approx(math.sqrt(7)))
    assert found.low < 1.0 and found.high > 6.0, "three values say little"
    assert estimate([2.0, math.nan]) == estimate([2.0])
    assert (estimate([2.0]).sd, estimate([2.0]).low) == (None, None)
    assert estimate([math.inf]) is None and estimate([]) is None


@pytest.mark.parametrize("n", [3, 5, 24])
def test_an_interval_over_seeds_or_pairs_contains_the_mean_in_93_to_97_percent(n):
    values = np.random.default_rng(n).normal(0.4, 0.1, (1000, n))
    found = [estimate(row) for row in values]
    assert 0.93 <= np.mean([one.low <= 0.4 <= one.high for one in found]) <= 0.97


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (8, 8)])
def test_an_interval_for_new_photos_and_paintings_knows_that_pairs_share_them(rows, columns):
    generator = np.random.default_rng(0)
    kept = {"crossed": [], "pairs": []}
    for _ in range(500):
        table = 1 + 0.5 * generator.normal(size=(rows, 1)) + 0.5 * generator.normal(size=columns)
        table = table + 0.5 * generator.normal(size=(rows, columns))
        low, high = crossed_interval(table)
        kept["crossed"].append(low <= 1 <= high)
        half = stats.t.ppf(0.975, table.size - 1) * table.std(ddof=1) / math.sqrt(table.size)
        kept["pairs"].append(abs(table.mean() - 1) <= half)
    assert 0.93 <= np.mean(kept["crossed"]) <= 0.98
    assert np.mean(kept["pairs"]) < 0.85, "the simulated pairs are too independent to show the difference"


def test_where_pairs_share_nothing_the_interval_is_still_wide_enough():
    generator = np.random.default_rng(1)
    found = [crossed_interval(generator.normal(size=(5, 5))) for _ in range(500)]
    assert np.mean([low <= 0 <= high for low, high in found]) >= 0.94


@pytest.mark.parametrize("n", [1, 4, 6, 13, 30])
def test_the_signed_rank_test_is_scipy_s(n):
    generator = np.random.default_rng(n)
    for shift in (0.0, 0.5, 2.0):
        x = generator.normal(shift, 1.0, n)
        assert wilcoxon(x) == pytest.approx(stats.wilcoxon(x, method="exact").pvalue, rel=1e-9)


def test_with_equal_differences_the_signed_rank_test_counts_all_sign_patterns():
    x = np.array([1.0, -1.0, 2.0, 2.0, 2.0, 3.0, -4.0])
    ranks = stats.rankdata(abs(x))
    sums = [np.dot(signs, ranks) for signs in product((0, 1), repeat=len(x))]
    observed, middle = ranks[x > 0].sum(), ranks.sum() / 2
    assert wilcoxon(x) == np.mean([abs(s - middle) >= abs(observed - middle) for s in sums])


def test_of_many_differences_the_test_is_the_normal_distribution_s():
    x = np.random.default_rng(0).normal(0.1, 1.0, 300)
    assert wilcoxon(x) == pytest.approx(stats.wilcoxon(x, correction=True, method="asymptotic").pvalue, rel=1e-6)


def test_differences_of_zero_say_nothing():
    assert wilcoxon([0.0, 0.0]) is None and wilcoxon([]) is None
    assert wilcoxon([0.0, 1.0, 2.0, 3.0]) == wilcoxon([1.0, 2.0, 3.0]) == smallest_p(3) == 0.25
    assert smallest_p(5) > 0.05 > smallest_p(6)


def test_holm_s_correction():
    assert holm([0.01, 0.04, 0.03, None, 0.005]) == pytest.approx([0.03, 0.06, 0.06, None, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_without_effects_a_corrected_test_finds_something_in_at_most_5_percent_of_cases():
    generator = np.random.default_rng(3)
    found = [min(holm([wilcoxon(x) for x in generator.normal(size=(4, 12))])) < 0.05 for _ in range(600)]
    assert np.mean(found) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)
