"""How much of the spread of a number each key explains: shares of variance, and tests of them.

`factorial` splits the variance of a full grid exactly. `additive` fits a model to runs whose values do not form a grid,
as those of a random or an Optuna search. Both take plain numbers and know nothing of runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.polynomial.legendre import legval
from numpy.typing import NDArray
from scipy.special import fdtrc

from nstexp.report.statistics import holm

MOST_LEVELS = 5  # a numeric key with more values is a curve in `additive`, and one with fewer a set of values
DEGREE, PAIR_DEGREE = 3, 2  # of these curves; of their products for two keys
SPARE, PAIR_SPARE = 1, 3  # degrees of freedom that `additive` leaves for the error, at least; beside two keys together

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """What one key, or two keys together beyond each alone, does to a number.

    Args:
        keys: one name or two.
        share: of the variance, from 0 to 1. In a full grid all shares add up to 1 with those in `Effects.rest`.
        beyond_chance: the share without what chance adds to it on average (omega squared); None without an error.
        p: p-value of the F test that there is no such effect; None if nothing tells how large chance is.
        corrected: the p-value with Holm's correction for all effects of the number.
    """

    keys: tuple[str, ...]
    share: float
    beyond_chance: float | None
    p: float | None
    corrected: float | None = None


@dataclass(frozen=True)
class Effects:
    """The effects of all keys on one number.

    Args:
        effects: of single keys, then of two keys.
        rest: name -> share of what is left.
        exact: whether it is the exact split of a full grid, or a fitted model.
        curves: key -> (value, effect) of the fitted curve of a numeric key, of `additive` only.
    """

    effects: list[Effect]
    rest: dict[str, float]
    exact: bool
    curves: dict[str, list[tuple[float, float]]]


def factorial(y: Matrix, names: Sequence[str], blocks: str = "pairs", repeats: str = "repeats") -> Effects | None:
    """Split the variance of a full grid into shares of its keys, exactly (analysis of variance).

    What differs between the blocks in all settings alike, such as that one photo is harder than another, is left out:
    the variance is that within blocks. An effect is tested against how much it differs between the blocks, so that the
    test speaks about other pairs than these. Without blocks, only single keys are tested, against what the keys do
    together, which makes the test careful.

    Args:
        y: a number (blocks, repeats, values of the first key, values of the second key, ...) without gaps.
        names: of the keys, one for each dimension behind the first two.
        blocks, repeats: what the first two dimensions are, for the names in `rest`.

    Returns:
        None if the number does not vary within the blocks.
    """
    inner = tuple(range(1, y.ndim))
    y = y - y.mean(inner, keepdims=True)
    total = float((y**2).sum())
    if total <= 1e-20 * max(1.0, float((y**2).max())) or not names:
        return None
    number_of_blocks = y.shape[0]
    groups = [*combinations(range(len(names)), 1), *combinations(range(len(names)), 2)]
    parts = {group: _part(y, group) for group in groups}
    squares = {group: _squares(part, y) for group, part in parts.items()}
    freedoms = {group: int(np.prod([y.shape[2 + axis] - 1 for axis in group])) for group in groups}
    within = float(((y - y.mean(1, keepdims=True)) ** 2).sum())
    settings = float((y.mean((0, 1)) ** 2).sum()) * y.shape[0] * y.shape[1]
    effects = []
    for group in groups:
        error: tuple[float, int] | None = None
        if number_of_blocks > 1:
            differing = _squares(_part(y, group, by_block=True) - parts[group], y)
            error = differing, freedoms[group] * (number_of_blocks - 1)
        elif y.shape[1] > 1:
            error = within, int(np.prod(y.shape[2:])) * (y.shape[1] - 1)
        elif len(group) == 1 and len(names) > 1:
            left = int(np.prod(y.shape[2:])) - 1 - sum(freedoms[one] for one in groups if len(one) == 1)
            error = total - sum(squares[one] for one in groups if len(one) == 1), left
        keys = tuple(names[axis] for axis in group)
        effects.append(_effect(keys, squares[group], freedoms[group], total, error))
    more = settings - sum(squares.values())
    rest = {"three and more keys": more / total} if len(names) > 2 else {}
    if number_of_blocks > 1:
        rest[f"differs between {blocks}"] = (total - settings - within) / total
    if y.shape[1] > 1:
        rest[repeats] = within / total
    return Effects(_corrected(effects), {name: max(0.0, share) for name, share in rest.items()}, True, {})


def additive(values: Sequence[Sequence[str]], y: Sequence[float], names: Sequence[str]) -> Effects | None:
    """Fit what each key does to a number, for settings that do not form a full grid.

    The model is a sum of one function per key, fitted by least squares: a curve over the ranks of a numeric key
    (Legendre polynomials up to the third degree), a constant per value of any other key. A pair of keys adds the
    products of their functions. The share of a key is the variance of its function over its values, as in functional
    ANOVA (Hutter et al. 2014, who fit a random forest instead), less what chance adds to it on average. Few runs get
    simpler curves. The test is the partial F test, exact for normal errors.

    Args:
        values: the texts of a setting's keys, one list per setting.
        y: a number per setting, such as the mean over pairs and repeats.
        names: of the keys.

    Returns:
        None if there are too few settings for the simplest model, or the number does not vary.
    """
    target = np.asarray(y, dtype=np.float64)
    target = target - target.mean()
    if not names or float((target**2).sum()) <= 0:
        return None
    columns = [[setting[n] for setting in values] for n in range(len(names))]
    for degree in range(DEGREE, 0, -1):
        bases = [_basis(column, degree) for column in columns]
        parameters = sum(basis.shape[1] for basis in bases)
        if parameters and len(target) >= max(1 + parameters + SPARE, 2 * parameters if degree > 1 else 0):
            return _fitted(bases, columns, target, names)
    return None


def _part(y: Matrix, group: Sequence[int], by_block: bool = False) -> Matrix:
    """What the keys of a group do together beyond what fewer of them do, from an array that is centered in blocks."""
    kept = {2 + axis for axis in group} | ({0} if by_block else set())
    part = y.mean(tuple(axis for axis in range(y.ndim) if axis not in kept), keepdims=True)
    for axis in group:
        if len(group) > 1:
            part = part - _part(y, [axis], by_block)
    return np.asarray(part, dtype=np.float64)


def _squares(part: Matrix, y: Matrix) -> float:
    """The sum of squares of a part over all numbers of y."""
    return float((part**2).sum()) * (y.size // part.size)


def _effect(
    keys: tuple[str, ...], square: float, freedom: int, total: float, error: tuple[float, int] | None
) -> Effect:
    """An effect with its F test against an error, given as (sum of squares, degrees of freedom)."""
    if error is None or error[1] < 1:
        return Effect(keys, square / total, None, None)
    mean = max(0.0, error[0]) / error[1]
    beyond = max(0.0, (square - freedom * mean) / (total + mean))
    if mean <= 1e-14 * total:  # without any chance, whatever is there is an effect
        return Effect(keys, square / total, beyond, 0.0 if square > 1e-12 * total else 1.0)
    return Effect(keys, square / total, beyond, float(fdtrc(freedom, error[1], square / freedom / mean)))


def _corrected(effects: Sequence[Effect]) -> list[Effect]:
    p_values = holm([effect.p for effect in effects])
    return [replace(effect, corrected=p) for effect, p in zip(effects, p_values, strict=True)]


def _basis(column: Sequence[str], degree: int) -> Matrix:
    """Functions of a key with mean 0 and variance 1 over its values: (settings, functions)."""
    levels = list(dict.fromkeys(column))
    numbers = _numbers(column)
    if numbers is not None and len(levels) > MOST_LEVELS:
        order = np.unique(numbers, return_inverse=True)[1]
        place = (2 * order + 1) / (order.max() + 1) - 1  # from -1 to 1, evenly spaced
        curves = np.stack([np.sqrt(2 * n + 1) * legval(place, np.eye(n + 1)[n]) for n in range(1, degree + 1)], 1)
        return np.asarray(curves, dtype=np.float64)
    return np.asarray(_contrasts(len(levels))[[levels.index(value) for value in column]], dtype=np.float64)


def _contrasts(levels: int) -> Matrix:
    """Orthogonal functions of a key without an order: (levels, levels - 1), Helmert's."""
    table = np.zeros((levels, levels - 1))
    for n in range(1, levels):
        table[:n, n - 1], table[n, n - 1] = 1, -n
        table[:, n - 1] *= np.sqrt(levels / (n * (n + 1)))
    return table


def _numbers(column: Sequence[str]) -> Matrix | None:
    """The numbers of a numeric key; None if a value is no number."""
    try:
        numbers = np.array([float(value) for value in column])
    except (TypeError, ValueError):
        return None
    return numbers if np.isfinite(numbers).all() else None


def _fitted(bases: Sequence[Matrix], columns: Sequence[Sequence[str]], y: Matrix, names: Sequence[str]) -> Effects:
    """The effects of `additive`, with the functions that fit the number of settings."""
    bases = [basis for basis in bases if basis.shape[1]]
    full = _Model(bases, y)
    effects: list[tuple[tuple[str, ...], float, float | None]] = []
    curves, variances = {}, []
    for n, name in enumerate(names):
        without = _Model([basis for m, basis in enumerate(bases) if m != n], y)
        variances.append(full.variance(n))
        effects.append(((name,), full.variance(n), full.p_against(without)))
        numbers = _numbers(columns[n])
        if numbers is not None and len({*columns[n]}) > MOST_LEVELS:
            curves[name] = _thinned(numbers, full.function(n))
    total = sum(variances) + full.error
    for one, two in combinations(range(len(names)), 2):
        products = [a * b for a in bases[one].T[:PAIR_DEGREE] for b in bases[two].T[:PAIR_DEGREE]]
        if len(y) >= 1 + full.parameters + len(products) + PAIR_SPARE:
            pair = _Model([*bases, np.stack(products, 1)], y)
            effects.append(((names[one], names[two]), pair.variance(len(bases)), pair.p_against(full)))
    found = [Effect(keys, variance / total, variance / total, p) for keys, variance, p in effects]
    rest = max(0.0, 1 - sum(effect.share for effect in found))
    return Effects(_corrected(found), {"not explained": rest}, False, curves)


class _Model:
    """A least-squares fit of y (settings,), which has mean 0, by groups of columns and a constant."""

    def __init__(self, bases: Sequence[Matrix], y: Matrix) -> None:
        self.bases = bases
        x = np.concatenate([np.ones((len(y), 1)), *bases], 1)
        self.inverse = np.linalg.pinv(x)
        self.weights = self.inverse @ y
        self.parameters = int(np.linalg.matrix_rank(x)) - 1
        self.left = len(y) - 1 - self.parameters  # degrees of freedom
        self.squares = float(((y - x @ self.weights) ** 2).sum())
        self.error = self.squares / self.left if self.left > 0 else 0.0  # variance of the error

    def _columns(self, n: int) -> slice:
        start = 1 + sum(basis.shape[1] for basis in self.bases[:n])
        return slice(start, start + self.bases[n].shape[1])

    def function(self, n: int) -> Matrix:
        """The fitted function of a group at each setting."""
        return np.asarray(self.bases[n] @ self.weights[self._columns(n)], dtype=np.float64)

    def variance(self, n: int) -> float:
        """The variance of a group's function, less what the error adds to it on average; 0 or larger."""
        columns = self._columns(n)
        by_chance = self.error * float((self.inverse[columns] ** 2).sum())
        return max(0.0, float((self.weights[columns] ** 2).sum()) - by_chance)

    def p_against(self, smaller: "_Model") -> float | None:
        """p-value of the F test whether this model fits better than a smaller one."""
        more = self.parameters - smaller.parameters
        if more < 1 or self.left < 1:
            return None
        gained = max(0.0, smaller.squares - self.squares)
        if self.error <= 1e-14 * max(smaller.squares, 1e-300):
            return 0.0 if gained > 1e-12 * smaller.squares else 1.0
        return float(fdtrc(more, self.left, gained / more / self.error))


def _thinned(x: Matrix, y: Matrix, most: int = 30) -> list[tuple[float, float]]:
    """Points of a curve in the order of x, at most this many."""
    order = np.unique(x, return_index=True)[1]
    chosen = np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))
    return [(float(x[order[n]]), float(y[order[n]])) for n in chosen]
