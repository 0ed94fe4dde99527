"""Confidence intervals contain the true mean as often as they say, whatever the number of values."""

import math

import numpy as np
import pytest
from scipy import stats

from nstexp.core import intervals
from nstexp.core.errors import ArgumentError
from nstexp.core.intervals import bootstrap_mean, interval_of, student_quantile

TRIALS = 1200


@pytest.mark.parametrize("n", [3, 6, 18])
@pytest.mark.slow
def test_intervals_of_normal_values_contain_the_mean_in_95_percent(n):
    generator = np.random.default_rng(n)
    found = [bootstrap_mean(generator.normal(2.0, 3.0, n), seed=seed) for seed in range(TRIALS)]
    share = np.mean([low <= 2.0 <= high for low, high in found])
    assert 0.93 <= share <= 0.97


@pytest.mark.slow
def test_intervals_of_many_skewed_values_contain_the_mean_too():
    generator = np.random.default_rng(0)
    found = [bootstrap_mean(generator.exponential(1.0, 60), 0.9, seed) for seed in range(TRIALS // 2)]
    assert np.mean([low <= 1.0 <= high for low, high in found]) == pytest.approx(0.9, abs=0.03)


def test_of_many_values_it_is_the_interval_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(size=5000)
    low, high = bootstrap_mean(values)
    wanted = stats.norm.interval(0.95, values.mean(), values.std() / math.sqrt(len(values)))
    assert (low, high) == pytest.approx(wanted, abs=0.03 * (wanted[1] - wanted[0]))


def test_it_moves_and_stretches_with_the_values():
    values = [0.2, 0.5, 0.4, 0.9, 0.3]
    low, high = bootstrap_mean(values)
    assert bootstrap_mean([10 - 4 * value for value in values]) == pytest.approx((10 - 4 * high, 10 - 4 * low))
    assert low < np.mean(values) < high
    inner = bootstrap_mean(values, level=0.5)
    assert low < inner[0] < inner[1] < high


def test_the_long_tail_is_the_long_side():
    values = [0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 4.0]
    low, high = bootstrap_mean(values)
    assert high - np.mean(values) > 1.2 * (np.mean(values) - low)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(2).random(7)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(list(values), seed=3) != bootstrap_mean(values, seed=4)


def test_equal_values_have_an_interval_without_width():
    assert bootstrap_mean([0.25] * 4) == (0.25, 0.25)


@pytest.mark.parametrize("groups", [[], [["a", "a"], ["b", "c"]]])
def test_two_values_are_drawn_as_any_others(groups):
    low, high = bootstrap_mean([10.0, 9.0], groups=groups)
    assert (low, high) == pytest.approx((9.5 - 4.58, 9.5 + 4.58), abs=0.01), "the widening of two values is 9.17"


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_have_no_interval(values):
    assert all(math.isnan(end) for end in bootstrap_mean(values))


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan])
def test_a_level_is_a_share(level):
    with pytest.raises(ArgumentError, match=f"^level={level}: give a number above 0 and below 1"):
        bootstrap_mean([1.0, 2.0], level=level)


def test_blocks_give_all_resamples(monkeypatch):
    values = np.random.default_rng(0).random(50)
    monkeypatch.setattr(intervals, "BLOCK_NUMBERS", 330)  # blocks of six resamples, and a rest
    low, high = bootstrap_mean(values)
    monkeypatch.undo()
    assert (low, high) == pytest.approx(bootstrap_mean(values, seed=1), abs=0.1 * (high - low))


def table(photos: int, paintings: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Values of pairs around 0, from an effect of the photo, of the painting, and of the pair, with their labels."""
    generator = np.random.default_rng(seed)
    of_photo, of_painting = generator.normal(size=(photos, 1)), 0.5 * generator.normal(size=(1, paintings))
    values = of_photo + of_painting + 0.5 * generator.normal(size=(photos, paintings))
    return values.ravel(), [np.repeat(np.arange(photos), paintings), np.tile(np.arange(paintings), photos)]


@pytest.mark.slow
@pytest.mark.parametrize(("photos", "paintings"), [(6, 5), (20, 40)])
def test_intervals_of_pairs_hold_for_other_photos_and_paintings(monkeypatch, photos, paintings):
    monkeypatch.setattr(intervals, "DRAWS", 500)
    apart, together = 0, 0
    for seed in range(300):
        values, groups = table(photos, paintings, seed)
        low, high = bootstrap_mean(values, seed=seed, groups=groups)
        apart += low <= 0 <= high
        low, high = bootstrap_mean(values, seed=seed)
        together += low <= 0 <= high
    assert 0.93 <= apart / 300 <= 0.995
    assert together / 300 < 0.7, "pairs that share a photo are not independent"


def test_labels_of_fewer_than_three_kinds_are_taken_as_they_are():
    values, (photos, paintings) = table(2, 9, seed=0)
    assert bootstrap_mean(values, groups=[photos, paintings]) == bootstrap_mean(values, groups=[paintings])
    assert bootstrap_mean(values, groups=[photos]) == bootstrap_mean(values)
    low, high = bootstrap_mean(values, groups=[paintings])
    means = values.reshape(2, 9).mean(0)
    assert (low, high) == pytest.approx(bootstrap_mean(means), abs=0.05 * (high - low)), "of equally many values each"


def test_labels_may_be_of_any_kind():
    values, (photos, paintings) = table(4, 3, seed=1)
    named = [[f"photo {n}" for n in photos], [(n,) for n in paintings]]
    assert bootstrap_mean(values, groups=named) == bootstrap_mean(values, groups=[photos, paintings])


def test_a_statistic_that_grows_by_repetitions_has_its_interval_around_it():
    resampled = 3.0 + np.random.default_rng(0).normal(size=4000)
    low, high = interval_of(1.0, np.append(resampled, math.nan), units=200)
    assert (low, high) == pytest.approx((1 - 1.98, 1 + 1.98), abs=0.1)
    assert all(math.isnan(end) for end in interval_of(1.0, resampled, units=1))


def test_student_quantiles_are_those_of_scipy():
    for freedom in (1, 2, 3, 4, 7, 10, 99, 800):
        for share in (0.5, 0.9, 0.975, 0.995):
            assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9, abs=1e-12)
