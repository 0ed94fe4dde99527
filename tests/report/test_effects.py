"""Shares of variance of simulated grids and searches whose effects are known, and of those without any."""

import math

import numpy as np
import pytest

from nstexp.report.effects import additive, factorial

TRIALS = 400
AT_MOST = 0.05 + 2 * math.sqrt(0.05 * 0.95 / TRIALS)


def shares(found) -> dict[str, float]:
    return {" x ".join(effect.keys): effect.share for effect in found.effects}


def grid(generator, a=0.0, b=0.0, ab=0.0, noise=1.0, blocks=4, repeats=3) -> np.ndarray:
    """(blocks, repeats, 3, 3) with a line in the first key, one in the second, and their product."""
    line = np.array([-1.0, 0.0, 1.0])
    y = a * line[:, None] + b * line + ab * line[:, None] * line
    y = y + 10 * generator.normal(size=(blocks, 1, 1, 1))  # one photo is harder than another
    return y + noise * generator.normal(size=(blocks, repeats, 3, 3))


def test_a_grid_is_split_exactly():
    y = grid(np.random.default_rng(0), a=2.0, b=1.0, ab=1.0, noise=0.0)
    found = factorial(y, ["a", "b"])
    # Sums of squares: a 3 * 2 * 4, b 3 * 2 * 1, both 4 * 1.
    assert shares(found) == pytest.approx({"a": 24 / 34, "b": 6 / 34, "a x b": 4 / 34})
    assert found.exact and [effect.p for effect in found.effects] == [0.0, 0.0, 0.0]


def test_all_shares_add_up_to_1():
    generator = np.random.default_rng(1)
    found = factorial(generator.normal(size=(3, 2, 2, 4, 3)), ["a", "b", "c"], "pairs", "seeds")
    assert sum(shares(found).values()) + sum(found.rest.values()) == pytest.approx(1)
    assert [*found.rest] == ["three and more keys", "differs between pairs", "seeds"]
    assert len(found.effects) == 6


def test_the_sums_of_squares_are_those_of_a_regression():
    y = np.random.default_rng(2).normal(size=(2, 2, 3, 4))
    centered = y - y.mean((1, 2, 3), keepdims=True)
    rows = np.indices(y.shape).reshape(4, -1)
    a, b = np.eye(3)[rows[2]], np.eye(4)[rows[3]]

    def left(*columns: np.ndarray) -> float:
        x = np.concatenate([np.ones((y.size, 1)), *columns], 1)
        return float(((centered.ravel() - x @ np.linalg.lstsq(x, centered.ravel(), rcond=None)[0]) ** 2).sum())

    both = (a[:, :, None] * b[:, None]).reshape(y.size, -1)
    total = left()
    wanted = {"a": total - left(a), "b": total - left(b), "a x b": left(a, b) - left(a, b, both)}
    assert shares(factorial(y, ["a", "b"])) == pytest.approx({key: value / total for key, value in wanted.items()})


def test_a_known_effect_gets_its_share_and_is_found():
    generator = np.random.default_rng(3)
    found = [factorial(grid(generator, a=1.0, noise=0.5), ["a", "b"]) for _ in range(100)]
    # Variance of the line: 2/3, of the noise 1/4.
    assert np.mean([one.effects[0].beyond_chance for one in found]) == pytest.approx(2 / 3 / (2 / 3 + 1 / 4), abs=0.03)
    assert np.mean([one.effects[0].corrected < 0.05 for one in found]) > 0.95


@pytest.mark.parametrize(("blocks", "repeats"), [(4, 3), (4, 1), (6, 1), (1, 3), (1, 1)])
def test_no_effect_in_a_grid_is_flagged_in_at_most_5_percent(blocks, repeats):
    generator = np.random.default_rng(blocks * 10 + repeats)
    found = [factorial(grid(generator, b=1.0, blocks=blocks, repeats=repeats), ["a", "b"]) for _ in range(TRIALS)]
    p_values = [one.effects[0].p for one in found]
    assert np.mean(np.less(p_values, 0.05)) <= AT_MOST, "before the correction"
    assert np.mean([one.effects[0].corrected < 0.05 for one in found]) <= 0.05
    assert np.mean([one.effects[0].beyond_chance for one in found]) < 0.08


def test_an_effect_that_differs_between_pairs_is_not_taken_for_a_general_one():
    generator = np.random.default_rng(5)
    flagged = []
    for _ in range(TRIALS):
        slopes = generator.normal(size=(4, 1, 1, 1)) * np.array([-1.0, 0.0, 1.0])[:, None]
        flagged.append(factorial(grid(generator, noise=0.1) + slopes, ["a", "b"]).effects[0].corrected < 0.05)
    assert np.mean(flagged) <= 0.08


def test_without_repeats_two_keys_together_are_not_tested():
    found = factorial(np.random.default_rng(0).normal(size=(1, 1, 3, 3)), ["a", "b"])
    assert [effect.p is None for effect in found.effects] == [False, False, True]
    assert factorial(np.random.default_rng(0).normal(size=(1, 1, 3)), ["a"]).effects[0].p is None


def test_what_does_not_vary_has_no_effects():
    assert factorial(np.ones((2, 2, 3)), ["a"]) is None
    assert additive([["1"], ["2"]] * 10, [1.0] * 20, ["a"]) is None


def search(generator, n: int, noise: float = 0.3) -> tuple[list[list[str]], np.ndarray]:
    """Random values of a numeric key with a curved effect, a word with one, and a numeric key without."""
    a, c = generator.uniform(0, 1, n), 10 ** generator.uniform(0, 4, n)
    b = generator.choice(["x", "y", "z"], n)
    y = 4 * (a - 0.5) ** 2 + np.array([{"x": 0.0, "y": 0.5, "z": 1.0}[word] for word in b])
    values = [[f"{one:.6g}", word, f"{two:.6g}"] for one, word, two in zip(a, b, c, strict=True)]
    return values, y + noise * generator.normal(size=n)


def test_a_search_gets_the_shares_of_its_effects():
    generator = np.random.default_rng(6)
    found = [additive(*search(generator, 60), ["a", "b", "c"]) for _ in range(60)]
    # Variances: 16 (1/80 - 1/144) = 4/45 of the curve, 1/6 of the word, 0.09 of the noise.
    total = 4 / 45 + 1 / 6 + 0.09
    means = {key: np.mean([shares(one)[key] for one in found]) for key in ("a", "b", "c", "a x b")}
    assert means["a"] == pytest.approx(4 / 45 / total, abs=0.05)
    assert means["b"] == pytest.approx(1 / 6 / total, abs=0.05)
    assert means["c"] < 0.04 and means["a x b"] < 0.04
    assert np.mean([one.effects[0].corrected < 0.05 for one in found]) > 0.9
    curve = np.mean([[y for _, y in one.curves["a"]] for one in found], 0)
    assert curve[0] > 0.5 > 0 > curve[len(curve) // 2]


@pytest.mark.parametrize("n", [12, 24, 60])
def test_no_effect_in_a_search_is_flagged_in_at_most_5_percent(n):
    generator = np.random.default_rng(n)
    found = [additive(*search(generator, n), ["a", "b", "c"]) for _ in range(TRIALS)]
    effects = [next(effect for effect in one.effects if effect.keys == ("c",)) for one in found]
    assert np.mean([effect.p < 0.05 for effect in effects]) <= AT_MOST, "before the correction"
    assert np.mean([effect.corrected < 0.05 for effect in effects]) <= 0.05


def test_two_keys_of_a_search_together():
    generator = np.random.default_rng(8)
    a, b = generator.uniform(-1, 1, (2, 80))
    values = [[f"{x:.5f}", f"{y:.5f}"] for x, y in zip(a, b, strict=True)]
    found = additive(values, a * b + 0.05 * generator.normal(size=80), ["a", "b"])
    assert found.effects[2].keys == ("a", "b") and found.effects[2].corrected < 1e-6
    assert found.effects[2].share > 0.8


def test_a_grid_with_a_hole_is_fitted():
    values = [[a, b] for a in "123" for b in "xyz"][:-1]
    found = additive(values, [float(a) + 0.1 * (b == "y") for a, b in values], ["a", "b"])
    assert not found.exact and shares(found)["a"] > 0.9
    assert additive(values[:4], [1.0, 2.0, 3.0, 4.0], ["a", "b"]) is None, "too few runs"
