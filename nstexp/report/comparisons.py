"""What the runs of a sweep say together: means over seeds and pairs, and differences from a baseline with a test."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nstexp.report.design import PICTURE, Blocks, Design, Values
from nstexp.report.statistics import Estimate, crossed_interval, estimate, holm, smallest_p, wilcoxon
from nstexp.report.texts import unique

SETTING = "setting"  # stands for all compared keys together
MOST_BASELINES = 12  # values of a key up to which each of them can be the baseline
MOST_VALUES = 100  # values of a key that are compared at all
LEAST_CROSSED = 3  # photos, and paintings, that an interval for new ones needs

Difference = dict[Values, float]  # unit -> difference


@dataclass(frozen=True)
class Comparison:
    """One value of a key against the baseline, on the same pairs and seeds, averaged over the other keys.

    Args:
        key: the key; SETTING for whole settings.
        baseline, value: as texts; the values of all keys for SETTING.
        difference: of the number, value minus baseline, over the units; None without a common unit.
        p: Wilcoxon's p-value; None without several units or without a difference.
        corrected: the p-value, corrected for all values that are compared with the same baseline.
        crossed: interval for new photos and paintings, if the pairs are a full crossing of enough of both.
    """

    key: str
    baseline: str
    value: str
    difference: Estimate
    p: float | None
    corrected: float | None = None
    crossed: tuple[float, float] | None = None


def setting_estimates(design: Design, number: str) -> dict[Values, Estimate]:
    """Setting -> the mean of a number over the units, each of which is the mean over its repeats."""
    blocks = design.blocks(number)
    found: dict[Values, Estimate] = {}
    for setting in design.settings:
        over_units = [_mean(values[setting]) for values in blocks.values() if setting in values]
        if (one := estimate(over_units)) is not None:
            found[setting] = one
    return found


def cell_estimates(design: Design, number: str) -> dict[tuple[Values, Values], Estimate]:
    """(setting, pair) -> the mean of a number over the repeats; empty where every cell has one picture only."""
    cells: dict[tuple[Values, Values], list[float]] = {}
    for row in design.rows:
        if (value := row.numbers.get(number)) is not None:
            cells.setdefault((row.at(design.keys), row.at(design.pairs)), []).append(value)
    if all(len(values) == 1 for values in cells.values()):
        return {}
    return {cell: one for cell, values in cells.items() if (one := estimate(values)) is not None}


def compared_keys(design: Design) -> list[str]:
    """The keys whose values can be compared, and SETTING if there are several."""
    return [*design.keys, *([SETTING] if len(design.keys) > 1 else [])]


def values_of(design: Design, key: str) -> list[str]:
    """The values of a key as texts, the baseline first; of SETTING, the settings."""
    if key == SETTING:
        values = [setting_text(design, setting) for setting in design.settings]
        wanted = next((v for v, s in zip(values, design.settings, strict=True) if _is_baseline(design, s)), None)
    else:
        at = design.keys.index(key)
        values = unique(str(setting[at]) for setting in design.settings if setting[at] is not None)
        wanted = design.baseline.get(key)
    first = [wanted] if wanted in values else []
    return [*first, *(value for value in values if value not in first)]


def setting_text(design: Design, setting: Values) -> str:
    """A setting as `weights.beta=10, layers=one`."""
    return ", ".join(f"{key}={value}" for key, value in zip(design.keys, setting, strict=True))


def comparisons(design: Design, number: str, all_baselines: bool = False) -> list[Comparison]:
    """The differences of a number between the values of each key and their baseline.

    Args:
        design: of the sweep.
        number: its name.
        all_baselines: whether every value is a baseline once, for keys with few values; else only the first one.

    Returns:
        For every key and baseline the other values, with p-values that are corrected within this list.
    """
    blocks = design.blocks(number)
    found: list[Comparison] = []
    for key in compared_keys(design):
        values = values_of(design, key)
        if len(values) > MOST_VALUES:
            continue
        several = all_baselines and len(values) <= MOST_BASELINES
        known: dict[tuple[str, str], Comparison | None] = {}
        for baseline in values if several else values[:1]:
            family = []
            for value in values:
                if value != baseline:
                    if (value, baseline) in known:
                        one = _turned(known[value, baseline])
                    else:
                        one = known[baseline, value] = _comparison(design, blocks, key, baseline, value)
                    family += [one] if one is not None else []
            corrected = holm([one.p for one in family])
            found += [replace(one, corrected=p) for one, p in zip(family, corrected, strict=True)]
    return found


def sentence(one: Comparison, label: str, unit: str) -> str:
    """A comparison in words: `beta 100 against 10: style_gram -0.12, 95 % -0.15 to -0.09, 24 pairs`.

    Args:
        one: the comparison.
        label: of the number.
        unit: what a unit is called, see `Design.unit`.
    """
    who = (
        f"{one.value} against {one.baseline}" if one.key == SETTING else f"{one.key} {one.value} against {one.baseline}"
    )
    found = one.difference
    if found.low is None or found.high is None:
        return f"{who}: {label} {rounded([found.mean])[0]}, one {unit} only, so there is no interval"
    mean, low, high = rounded([found.mean, found.low, found.high])
    return f"{who}: {label} {mean}, 95 % {low} to {high}, {found.n} {unit}s{_tested(one)}"


def rounded(numbers: Sequence[float], more: int = 0) -> list[str]:
    """A difference with its sign, and the ends of its interval, as texts with as many decimals as the interval tells.

    -0.1234 from -0.151 to -0.0904 becomes -0.12, -0.15, -0.09.

    Args:
        more: further decimals.
    """
    size = max(map(abs, numbers))
    span = max(numbers) - min(numbers)
    span = span if span > 1e-6 * size else size
    if span == 0:
        return ["0" for _ in numbers]
    decimals = more - math.floor(math.log10(span / 5))
    for _ in range(2):  # an end near 0 shows on which side of it it is
        decimals += any(end and round(end, decimals) == 0 for end in numbers[1:])
    form = f".{max(0, decimals)}f"
    if decimals > 5:
        form = f".{max(1, decimals + math.floor(math.log10(size)))}e"
    return [f"{number + 0.0:{'+' if n == 0 else ''}{form}}" for n, number in enumerate(numbers)]


def spread(one: Estimate) -> str:
    """A mean with its interval as `0.12 (0.09 to 0.15)`; only the mean, with four digits, without an interval."""
    if one.low is None or one.high is None:
        return f"{one.mean:.4g}"
    mean, low, high = (text.removeprefix("+") for text in rounded([one.mean, one.low, one.high], 1))
    return mean if low == high else f"{mean} ({low} to {high})"


def _tested(one: Comparison) -> str:
    if one.corrected is None or smallest_p(one.difference.n) > 0.05:
        return ""
    return f" (Wilcoxon p {'< 0.001' if one.corrected < 0.001 else f'= {one.corrected:.2g}'})"


def _is_baseline(design: Design, setting: Values) -> bool:
    given = dict(zip(design.keys, setting, strict=True))
    firsts = {key: design.settings[0][n] for n, key in enumerate(design.keys)}
    return given == {**firsts, **{key: value for key, value in design.baseline.items() if key in firsts}}


def _comparison(design: Design, blocks: Blocks, key: str, baseline: str, value: str) -> Comparison | None:
    differences = {
        unit: found
        for unit, settings in blocks.items()
        if (found := _difference(design, settings, key, baseline, value)) is not None
    }
    over_units = estimate([*differences.values()])
    if over_units is None:
        return None
    p = wilcoxon([*differences.values()]) if len(differences) > 1 else None
    return Comparison(key, baseline, value, over_units, p, None, _crossed(design, differences))


def _difference(
    design: Design, settings: Mapping[Values, Sequence[float]], key: str, baseline: str, value: str
) -> float | None:
    """Value minus baseline in one unit: the mean over the settings of the other keys that have both."""
    if key == SETTING:
        named = {setting_text(design, setting): setting for setting in settings}
        pairs = [(named[value], named[baseline])] if value in named and baseline in named else []
    else:
        at = design.keys.index(key)
        others = [setting for setting in settings if setting[at] == value]
        pairs = [(one, (*one[:at], baseline, *one[at + 1 :])) for one in others]
    found = [_mean(settings[one]) - _mean(settings[two]) for one, two in pairs if two in settings]
    return _mean(found) if found else None


def _crossed(design: Design, differences: Difference) -> tuple[float, float] | None:
    """The interval for new photos and paintings; None unless all of at least 3 photos meet all of 3 paintings."""
    if not design.has_pairs or "style" not in design.pairs:
        return None
    photo = [n for n, key in enumerate(design.pairs) if key in (PICTURE, "content")]
    painting = design.pairs.index("style")
    by_place = {(tuple(unit[n] for n in photo), unit[painting]): value for unit, value in differences.items()}
    photos, paintings = unique(place[0] for place in by_place), unique(place[1] for place in by_place)
    if min(len(photos), len(paintings)) < LEAST_CROSSED or len(by_place) < len(photos) * len(paintings):
        return None
    return crossed_interval(np.array([[by_place[one, two] for two in paintings] for one in photos]))


def _turned(one: Comparison | None) -> Comparison | None:
    """A comparison with baseline and value exchanged."""
    if one is None:
        return None
    found = one.difference
    low, high = (None, None) if found.low is None or found.high is None else (-found.high, -found.low)
    crossed = None if one.crossed is None else (-one.crossed[1], -one.crossed[0])
    turned = replace(found, mean=-found.mean, low=low, high=high)
    return replace(one, baseline=one.value, value=one.baseline, difference=turned, crossed=crossed)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
