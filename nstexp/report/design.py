"""The design of a sweep: which keys are settings, which are repeats, and which name the pairs of photo and painting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from nstexp.core.errors import UserError
from nstexp.report.evaluations import LABELS, is_mean
from nstexp.report.job import Job, at, value_of, varying
from nstexp.report.texts import unique

PICTURE = "picture"  # the key of the results of a run with several photos
PAIR_KEYS = (PICTURE, "content", "style")
MOST_FOLLOWED = 12  # values of a key from which another can follow; more are those of a search
REPEATS = ("seed",)  # of runs whose configuration does not say

Values = tuple[str | None, ...]
Blocks = dict[Values, dict[Values, list[float]]]  # block -> setting -> the numbers of its repeats


@dataclass(frozen=True)
class Row:
    """One finished picture of a job, as the statistics count it.

    Args:
        values: key -> value, for all keys that vary.
    """

    job: Job
    picture: str
    values: Mapping[str, str | None]
    numbers: Mapping[str, float]

    def at(self, keys: Sequence[str]) -> Values:
        """The values of some keys."""
        return tuple(self.values[key] for key in keys)


@dataclass
class Design:
    """What varies between the pictures of a sweep, and what it is for.

    Args:
        rows: the finished pictures.
        keys: the keys whose values are compared; a setting is a combination of their values.
        pairs: those of `picture`, `content` and `style` that vary.
        repeats: the keys whose values only repeat a setting, such as `seed`.
        baseline: key -> the value that others are compared with.
    """

    rows: list[Row]
    keys: list[str]
    pairs: list[str]
    repeats: list[str]
    baseline: dict[str, str] = field(default_factory=dict)

    @cached_property
    def settings(self) -> list[Values]:
        """All combinations of values that occur, in the order of the jobs."""
        return unique(row.at(self.keys) for row in self.rows)

    @property
    def has_pairs(self) -> bool:
        """Whether the results are of several pairs, which are then the units of the statistics."""
        return len({row.at(self.pairs) for row in self.rows}) > 1

    @property
    def block_keys(self) -> list[str]:
        """The keys of the units: pairs where there are several, else repeats."""
        return self.pairs if self.has_pairs else self.repeats

    @property
    def folds(self) -> bool:
        """Whether several pictures are of the same setting."""
        return len(self.rows) > len(self.settings)

    @property
    def unit(self) -> str:
        """What one unit is called: pair, photo, painting, seed, repeat; run, if there is only one for each setting."""
        if not self.has_pairs:
            if not self.repeats:
                return "run"
            return "seed" if self.repeats == ["seed"] else "repeat"
        inputs = {"style"} & {*self.pairs}, {"content", PICTURE} & {*self.pairs}
        return "pair" if all(inputs) else "painting" if inputs[0] else "photo"

    def blocks(self, number: str) -> Blocks:
        """The values of a number by unit and setting; pictures without it are left out."""
        found: Blocks = {}
        for row in self.rows:
            value = row.numbers.get(number)
            if value is not None and abs(value) < float("inf"):
                setting = found.setdefault(row.at(self.block_keys), {}).setdefault(row.at(self.keys), [])
                setting.append(float(value))
        return found


def design_of(
    jobs: Sequence[Job], repeats: Sequence[str] | None = None, baseline: Mapping[str, str] | None = None
) -> Design:
    """The design of the jobs of a report.

    Args:
        jobs: the jobs; only completed ones count.
        repeats: keys whose values are repeats; None: those that the runs' configuration names in `report.repeats`.
        baseline: key -> value that others are compared with; None: `report.baseline` of the configuration.

    Raises:
        UserError: one of the `repeats`, or a key or value of the `baseline`, does not occur in the runs.
    """
    done = [job for job in jobs if job.status == "completed"]
    keys = axis_keys(jobs)
    rows = [
        Row(job, picture, {key: picture if key == PICTURE else value_of(job, picture, key) for key in keys}, numbers)
        for job in done
        for picture, numbers in job.metrics.items()
        if not is_mean(picture)
    ]
    folded = _repeats(jobs) if repeats is None else list(repeats)
    for key in repeats or ():
        if key not in keys:
            raise UserError(f"--repeats {key}: the runs do not differ in this key; they differ in {_listed(keys)}")
    others = [key for key in keys if key not in folded]
    pairs = [key for key in others if key in PAIR_KEYS]
    kept = [key for key in keys if key in folded]
    compared = _independent(rows, [key for key in others if key not in PAIR_KEYS], kept, pairs)
    given = _baseline(jobs) if baseline is None else dict(baseline)
    if baseline is not None:
        _check_baseline(rows, compared, baseline)
    return Design(rows, compared, pairs, kept, given)


def axis_keys(jobs: Sequence[Job]) -> list[str]:
    """All keys that vary between pictures: `picture` for several photos in one run, the overridden keys, and in
    evaluations photo, painting and method."""
    evaluated = {key for job in jobs for labels in job.labels.values() for key in labels}
    keys = [key for key in varying(jobs) if key not in evaluated]
    if evaluated:
        pictures = [(job, name) for job in jobs for name in job.labels if not is_mean(name)]
        keys += [key for key in LABELS if len({value_of(job, name, key) for job, name in pictures}) > 1]
    others = {name for job in jobs for name in job.metrics if name not in job.labels}
    return [*([PICTURE] if len(others) > 1 else []), *keys]


def _repeats(jobs: Sequence[Job]) -> list[str]:
    """The keys in `report.repeats` of the first configuration that has it."""
    named = next((found[0] for job in jobs if (found := at(job.config, "report.repeats"))), None)
    return [str(key) for key in named] if isinstance(named, list) else list(REPEATS)


def _baseline(jobs: Sequence[Job]) -> dict[str, str]:
    """The values in `report.baseline` of the first configuration that has it."""
    named = next((found[0] for job in jobs if (found := at(job.config, "report.baseline"))), None)
    return dict(str(word).partition("=")[::2] for word in named) if isinstance(named, list) else {}


def _check_baseline(rows: Sequence[Row], keys: Sequence[str], baseline: Mapping[str, str]) -> None:
    for key, value in baseline.items():
        if key not in keys:
            raise UserError(f"--baseline {key}: the runs are not compared by this key, but by {_listed(keys)}")
        values = unique(row.values[key] for row in rows)
        if value not in values:
            raise UserError(f"--baseline {key}={value}: no run has this value, only {_listed(values)}")


def _listed(words: Sequence[str | None]) -> str:
    return ", ".join(map(str, words)) or "nothing"


def _independent(rows: Sequence[Row], keys: Sequence[str], others: Sequence[str], pairs: Sequence[str]) -> list[str]:
    """The keys without those whose value follows from an earlier key, or from the pair.

    With two sweeps, for example, a setting that only differs between the sweeps follows from the sweep. Where every
    run has a value of its own, as in a search, nothing can be said to follow from it.

    Args:
        others: the keys of repeats.
    """
    kept: list[str] = []
    runs = len({row.at([*keys, *others]) for row in rows})
    for key in keys:
        before = [*([other] for other in kept), *([list(pairs)] if pairs else [])]
        counts = [(len({row.at(one) for row in rows}), len({row.at([*one, key]) for row in rows})) for one in before]
        if not any(alone == both < runs and alone <= MOST_FOLLOWED for alone, both in counts):
            kept.append(key)
    return kept
