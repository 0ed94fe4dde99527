"""The effects of the keys of a sweep on its numbers, and the means by which they are drawn."""

import math
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from nstexp.report.design import Blocks, Design, Values
from nstexp.report.effects import Effects, additive, factorial
from nstexp.report.statistics import Estimate, estimate
from nstexp.report.texts import unique

WIDE = 30  # positive numbers whose largest is this many times the smallest are compared by their logarithms
MOST_DRAWN = 20  # values of a key that are drawn as a mean each


@dataclass(frozen=True)
class Explained:
    """What the keys do to one number.

    Args:
        logarithm: whether the effects are those on the logarithm of the number.
        effects: None if there are too few runs, or the number does not vary.
        means: key -> [(value, mean over everything else)], for keys with few values. The interval is that of the
            difference from the unit's own mean, so that it leaves out what all values of the key have in common
            (Cousineau 2005, with the correction of Morey 2008).
    """

    logarithm: bool
    effects: Effects | None
    means: dict[str, list[tuple[str, Estimate]]]


def explain(design: Design, number: str) -> Explained:
    """The effects of all compared keys on a number."""
    blocks = design.blocks(number)
    values = [value for settings in blocks.values() for found in settings.values() for value in found]
    logarithm = len(values) > 1 and min(values) > 0 and max(values) > WIDE * min(values)
    scaled = _logarithms(blocks) if logarithm else blocks
    units = design.unit + "s"
    repeats = "seeds" if design.repeats == ["seed"] else "repeats"
    grid = _grid(design, scaled)
    effects = _fitted(design, scaled) if grid is None else factorial(grid, design.keys, units, repeats)
    return Explained(logarithm, effects, {key: _means(design, blocks, n) for n, key in enumerate(design.keys)})


def _fitted(design: Design, blocks: Blocks) -> Effects | None:
    """The effects by a fitted model, from the mean of each setting over its units."""
    by_setting: dict[Values, list[float]] = {}
    for settings in blocks.values():
        shared = [setting for setting in settings if all(setting in other for other in blocks.values())]
        middle = _mean([_mean(settings[setting]) for setting in shared or settings])
        for setting, found in settings.items():
            by_setting.setdefault(setting, []).append(_mean(found) - middle)
    settings_of = [*by_setting]
    texts = [[str(value) for value in setting] for setting in settings_of]
    return additive(texts, [_mean(by_setting[setting]) for setting in settings_of], design.keys)


def _grid(design: Design, blocks: Blocks) -> np.ndarray | None:
    """The numbers as an array (units, repeats, values of each key...); None if a cell lacks some."""
    if not blocks or not design.keys:
        return None
    levels = [unique(setting[n] for setting in design.settings) for n in range(len(design.keys))]
    cells = [*product(*levels)]
    counts = {len(settings.get(cell, ())) for settings in blocks.values() for cell in cells}
    if len(counts) != 1 or not (repeats := counts.pop()):
        return None
    table = np.array([[settings[cell] for cell in cells] for settings in blocks.values()])  # (units, cells, repeats)
    return np.moveaxis(table, 2, 1).reshape(len(blocks), repeats, *map(len, levels))


def _means(design: Design, blocks: Blocks, at: int) -> list[tuple[str, Estimate]]:
    """The mean at each value of the key at a place, over units and the values of the other keys."""
    values = unique(setting[at] for setting in design.settings if setting[at] is not None)
    if len(values) > MOST_DRAWN:
        return []
    by_unit = []
    for settings in blocks.values():
        found = {value: [_mean(x) for one, x in settings.items() if one[at] == value] for value in values}
        if all(found.values()):
            by_unit.append({value: _mean(means) for value, means in found.items()})
    if not by_unit:
        return []
    everywhere = _mean([_mean([*means.values()]) for means in by_unit])
    drawn = []
    for value in values:
        normalized = [means[value] - _mean([*means.values()]) + everywhere for means in by_unit]
        one = estimate(normalized)
        if one is not None:
            drawn.append((str(value), _stretched(one, len(values))))
    return drawn


def _stretched(one: Estimate, values: int) -> Estimate:
    """An estimate with the correction for means of `values` values having been subtracted."""
    if one.low is None or one.high is None or one.sd is None or values < 2:
        return one
    factor = math.sqrt(values / (values - 1))
    low, high = (one.mean + factor * (end - one.mean) for end in (one.low, one.high))
    return replace(one, low=low, high=high, sd=one.sd * factor)


def _logarithms(blocks: Blocks) -> Blocks:
    return {
        unit: {setting: [math.log10(value) for value in found] for setting, found in settings.items()}
        for unit, settings in blocks.items()
    }


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
