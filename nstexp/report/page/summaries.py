"""What the runs say together, for the page: means with intervals, comparisons, and effects of the keys."""

from collections.abc import Sequence
from typing import Any

from nstexp.console import bar
from nstexp.report.comparisons import (
    SETTING,
    Comparison,
    cell_estimates,
    compared_keys,
    comparisons,
    setting_estimates,
    values_of,
)
from nstexp.report.design import Design
from nstexp.report.effects import Effects
from nstexp.report.explained import Explained, explain
from nstexp.report.page.json_values import brief
from nstexp.report.statistics import Estimate, student_factors
from nstexp.report.texts import unique

MOST_FACTORS = 60  # beyond them Student's factors hardly change


def summaries(design: Design, numbers: Sequence[str]) -> dict[str, Any]:
    """The statistics that the page shows.

    Args:
        design: of the jobs.
        numbers: the names of the numbers by which the runs can be compared.

    Returns:
        design: {keys, pairs, repeats, unit, folds, settings, blocks, student}; settings and blocks are lists of values
            of `keys` and `pairs`; student is the half width of a 95 % interval for 2, 3, ... values, in standard
            errors.
        means: {number: {settings: [estimate or null], cells: [[setting, pair, *estimate]]}}; an estimate is
            [n, mean, sd, low, high], and `settings` and `pairs` are indices.
        comparisons: {keys: {key: [value]}, numbers: {number: [[key, value, baseline, n, mean, low, high, p,
            corrected, crossed_low, crossed_high]]}} with indices of the keys and of their values.
        effects: {number: {logarithm, exact, effects: [[keys, share, beyond_chance, p, corrected]], rest, means: {key:
            [[value, *estimate]]}, curves: {key: [[value, effect]]}}}.
    """
    varied = [name for name in numbers if len({row.numbers.get(name) for row in design.rows} - {None}) > 1]
    pairs = unique(row.at(design.pairs) for row in design.rows)
    keys = {key: values_of(design, key) for key in compared_keys(design)} if design.folds else {}
    means, compared, effects = {}, {}, {}
    for name in bar(varied, desc="statistics", unit="number", delay=2, leave=False):
        if design.folds:
            means[name] = _means(design, name, pairs)
            compared[name] = [_comparison(one, keys) for one in comparisons(design, name, all_baselines=True)]
        if design.keys:
            effects[name] = _explained(explain(design, name))
    return {
        "design": {
            "keys": design.keys,
            "pairs": design.pairs,
            "repeats": design.repeats,
            "unit": design.unit,
            "folds": design.folds,
            "settings": design.settings,
            "blocks": pairs,
            "student": [brief(factor) for factor in student_factors(min(len(design.rows), MOST_FACTORS))],
        },
        "means": means,
        "comparisons": {"keys": keys, "numbers": compared, "whole": SETTING},
        "effects": {name: found for name, found in effects.items() if found is not None},
    }


def _means(design: Design, name: str, pairs: Sequence[Any]) -> dict[str, Any]:
    settings = setting_estimates(design, name)
    places = {setting: n for n, setting in enumerate(design.settings)}
    pair_places = {pair: n for n, pair in enumerate(pairs)}
    cells = cell_estimates(design, name)
    return {
        "settings": [_estimate(settings[one]) if one in settings else None for one in design.settings],
        "cells": [[places[s], pair_places[pair], *_estimate(one)] for (s, pair), one in cells.items()],
    }


def _estimate(one: Estimate) -> list[float | int | None]:
    return [one.n, *map(brief, (one.mean, one.sd, one.low, one.high))]


def _comparison(one: Comparison, keys: dict[str, list[str]]) -> list[float | int | None]:
    n, mean, _, low, high = _estimate(one.difference)
    values = keys[one.key]
    places = [[*keys].index(one.key), values.index(one.value), values.index(one.baseline)]
    return [*places, n, mean, low, high, *map(brief, (one.p, one.corrected, *(one.crossed or (None, None))))]


def _explained(found: Explained) -> dict[str, Any] | None:
    effects: Effects | None = found.effects
    if effects is None:
        return None
    return {
        "logarithm": found.logarithm,
        "exact": effects.exact,
        "effects": [
            [list(one.keys), *map(brief, (one.share, one.beyond_chance, one.p, one.corrected))]
            for one in effects.effects
        ],
        "rest": {name: brief(share) for name, share in effects.rest.items()},
        "means": {
            key: [[value, *_estimate(one)] for value, one in means] for key, means in found.means.items() if means
        },
        "curves": {key: [list(map(brief, point)) for point in curve] for key, curve in effects.curves.items()},
    }
