"""Which jobs a sweep has, from the words of its command, before it makes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from math import prod
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from nstexp.core.text import unquoted

MOST_VALUES = 10_000  # values of one key that are counted
MOST_JOBS = 1_000  # jobs whose values are listed
OPTUNA = "hydra/sweeper=optuna"


@dataclass(frozen=True)
class Plan:
    """The jobs of a command.

    Args:
        total: how many there are; None: the search decides.
        keys: the keys with several values, the last one varies fastest.
        jobs: key -> value of the first jobs, only for the keys with several values; empty for a search.
    """

    total: int | None
    keys: list[str] = field(default_factory=list)
    jobs: list[dict[str, str]] = field(default_factory=list)


def parsed(words: Sequence[str]) -> list[Override]:
    """The words, parsed by Hydra; of a key that is there twice, the last word.

    Args:
        words: `key=value`, quoted as Hydra needs them.

    Raises:
        hydra.errors.OverrideParseException: a word cannot be read.
    """
    found = OverridesParser.create().parse_overrides(list(words))
    return list({override.get_key_element(): override for override in found}.values())


def values_of(override: Override) -> list[str]:
    """The values of a word as texts; of an interval, its two ends.

    Examples:
        >>> [values_of(one) for one in parsed(["seed=range(1,4)", "layers=a,b", "style=[x,y]"])]
        [['1', '2', '3'], ['a', 'b'], ['[x,y]']]
    """
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start), str(value.end)]
    if override.is_discrete_sweep():
        return list(islice(override.sweep_string_iterator(), MOST_VALUES))
    return [override.input_line.partition("=")[2] if override.input_line else ""]


def plan_of(words: Sequence[str]) -> Plan:
    """The jobs of a sweep.

    Args:
        words: `key=value`, quoted as Hydra needs them.

    Raises:
        hydra.errors.OverrideParseException: a word cannot be read.

    Examples:
        >>> plan = plan_of(["image_px=64", "weights.beta=1,10", "layers=a,b"])
        >>> plan.total, plan.keys, plan.jobs[1]
        (4, ['weights.beta', 'layers'], {'weights.beta': '1', 'layers': 'b'})
    """
    overrides = parsed(words)
    several = {key_of(override): values_of(override) for override in overrides if override.is_sweep_override()}
    if any(word.startswith(OPTUNA) for word in words):
        trials = [values_of(override)[0] for override in overrides if key_of(override) == "hydra.sweeper.n_trials"]
        return Plan(int(trials[0]) if trials and trials[0].isdecimal() else None, list(several))
    total = prod(len(values) for values in several.values())
    return Plan(total, list(several), list(islice(_jobs(several), MOST_JOBS)))


def key_of(override: Override) -> str:
    """The key of a word, without signs in front of it."""
    return str(override.get_key_element()).lstrip("+")


def _jobs(several: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    for values in product(*several.values()):
        yield dict(zip(several, map(unquoted, values), strict=True))
