"""Stop jobs of a sweep that do badly, by the results of its other jobs at the same step.

The rule is the median stopping rule (Golovin et al. 2017, "Google Vizier"), as in Optuna's MedianPruner, with these
differences:

* The values of one step are compared, not the best values up to it: a picture is made from coarse to fine, and values
  of different sizes do not compare.
* With several objectives, a job did better than another if it did better in all of them.
* Only jobs with the same photos and paintings are compared, since some are easier than others.

Values of the coarse levels say little about the end: of 24 jobs with other layers and weights of the style, in random
orders, the best one was stopped there in 39 % to 70 % of the orders, and in none at full size. Hence the default of
`after_steps`.

Each job writes its values to objective.csv in its run folder, and reads those of completed jobs. The rule therefore
needs nothing of a sweeper or launcher: it works for grids and searches, with jobs at once, and on machines that share
the folder. Optuna's own pruners would need the trial inside the job, and the sweeper of Hydra neither passes it on nor
accepts a job that reports itself as pruned.
"""

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nstexp import outputs
from nstexp.core.errors import UserError, number, wholes
from nstexp.outputs import OBJECTIVE, RunFolder, Summary, read_summary

Values = tuple[float, ...]  # of all objectives


@dataclass(frozen=True)
class Settings:
    """When jobs stop early: the config table `prune`.

    Args:
        every_n_steps: steps between two looks at the objective; 0: no job stops early.
        after_steps: no job stops before this step.
        after_jobs: the number of completed jobs that a job is compared with, at least.
        share: a job stops if more than this share of them did better at the same step; 0.5 is the median rule.

    Raises:
        ArgumentError: a value out of its range.
    """

    every_n_steps: int = 0
    after_steps: int = 80
    after_jobs: int = 5
    share: float = 0.5

    def __post_init__(self) -> None:
        wholes(0, every_n_steps=self.every_n_steps, after_steps=self.after_steps)
        wholes(1, after_jobs=self.after_jobs)
        number("share", self.share, low=0, below=1, example="0.5")


@dataclass(frozen=True)
class Sweep:
    """The sweep that a job belongs to.

    Args:
        folder: the folder of the sweep.
        objective: the value of the key `objective`.
        directions: minimize or maximize for each objective, if the sweeper has such a setting.
    """

    folder: Path
    objective: str | Sequence[str] | None = None
    directions: Sequence[str] | None = None

    @property
    def names(self) -> list[str]:
        """The names of the objectives."""
        return [self.objective] if isinstance(self.objective, str) else list(self.objective or [])

    def signs(self, higher_is_better: Sequence[str] = ()) -> list[int]:
        """For each objective 1 if lower is better, else -1.

        Args:
            higher_is_better: measures of which a higher value is better, for sweepers without directions.
        """
        if self.directions is not None and len(self.directions) == len(self.names):
            return [-1 if direction == "maximize" else 1 for direction in self.directions]
        return [-1 if name in higher_is_better else 1 for name in self.names]


class Pruner:
    """Looks at a job every few steps, and says when it shall stop.

    Args:
        settings: when.
        sweep: the sweep of the job.
        folder: the run folder of the job; it gets objective.csv.
        inputs: columns of objective.csv that name the photos and paintings; only jobs with the same ones are compared.
        higher_is_better: see `Sweep.signs`.

    Attributes:
        seconds: the time that the looks at the current picture have taken so far.

    Raises:
        UserError: no objective is named.
    """

    def __init__(
        self,
        settings: Settings,
        sweep: Sweep,
        folder: RunFolder,
        inputs: Mapping[str, str],
        higher_is_better: Sequence[str] = (),
    ) -> None:
        if not sweep.names:
            raise UserError(
                f"prune.every_n_steps={settings.every_n_steps} needs a number to go by: set objective=style_gram, or "
                "another number"
            )
        self.settings, self.sweep, self.folder, self.inputs = settings, sweep, folder, dict(inputs)
        self.signs = sweep.signs(higher_is_better)
        self.seconds = 0.0
        self._looks = 0  # number of the last look at the current picture
        self._picture: str | None = None
        self._known: dict[Path, dict[tuple[str, int], Values]] = {}  # completed job -> (picture, look) -> values

    def reason(
        self, picture: str, step: int, losses: Mapping[str, float], measure: Callable[[], Mapping[str, float]]
    ) -> str | None:
        """Why the job shall stop at this step; None if it shall go on, or if no look is due.

        Args:
            picture: name of the picture that is being made.
            step: steps done.
            losses: the loss terms at this step.
            measure: returns the measures of the unfinished picture.

        Raises:
            UserError: an objective is neither a loss nor a measure.
        """
        if picture != self._picture:
            self._picture, self._looks, self.seconds = picture, 0, 0.0
        look = step // self.settings.every_n_steps
        if look <= self._looks:  # some optimizers take several steps at once, so that a step may be missing
            return None
        self._looks, begun = look, time.perf_counter()
        try:
            return self._look(picture, look, step, self._values(losses, measure))
        finally:
            self.seconds += time.perf_counter() - begun

    def _values(self, losses: Mapping[str, float], measure: Callable[[], Mapping[str, float]]) -> Values:
        names = self.sweep.names
        numbers = losses if all(name in losses for name in names) else {**measure(), **losses}
        for name in names:
            if name not in numbers:
                known = ", ".join(sorted(numbers))
                raise UserError(
                    f"prune: objective={name} is not known before a picture is finished; known are {known}. Choose one "
                    "of these, or set prune.every_n_steps=0"
                )
        return tuple(float(numbers[name]) for name in names)

    def _look(self, picture: str, look: int, step: int, values: Values) -> str | None:
        named = dict(zip(self.sweep.names, values, strict=True))
        self.folder.append_objective({"image": picture, **self.inputs, "step": step, **named})
        if step < self.settings.after_steps:
            return None
        others = [rows[picture, look] for rows in self._completed() if (picture, look) in rows]
        better = better_ones(values, others, self.signs)
        if len(others) < self.settings.after_jobs or better <= self.settings.share * len(others):
            return None
        return f"pruned at step {step}: {better} of {len(others)} completed jobs did better by {_listed(list(named))}"

    def _completed(self) -> list[dict[tuple[str, int], Values]]:
        """The values of the completed jobs with the same inputs, by picture and look."""
        for path in _jobs(self.sweep.folder):
            if path not in self._known and path != self.folder.path and _record(path).status == "completed":
                self._known[path] = self._read(path / OBJECTIVE)
        return list(self._known.values())

    def _read(self, file: Path) -> dict[tuple[str, int], Values]:
        try:
            with file.open(newline="", encoding="utf-8") as opened:
                rows = [row for row in csv.DictReader(opened) if self.inputs.items() <= row.items()]
            every = self.settings.every_n_steps
            return {
                (row["image"], int(row["step"]) // every): tuple(float(row[name]) for name in self.sweep.names)
                for row in rows
            }
        except (OSError, ValueError, KeyError, csv.Error):  # of a job without looks, or by other objectives
            return {}


def better_ones(values: Values, others: Sequence[Values], signs: Sequence[int]) -> int:
    """How many of the others are better than `values` in every objective.

    Args:
        signs: 1 for each objective of which lower is better, else -1.

    Examples:
        >>> better_ones((3.0,), [(1.0,), (2.0,), (3.0,), (4.0,)], [1])
        2
        >>> better_ones((3.0, 0.5), [(1.0, 0.9), (1.0, 0.1)], [1, -1])
        1
    """
    own = [sign * value for sign, value in zip(signs, values, strict=True)]
    return sum(
        all(sign * value < mine for sign, value, mine in zip(signs, other, own, strict=True)) for other in others
    )


def objective(run_dir: Path, sweep: Sweep) -> float | list[float] | None:
    """The number or numbers that a search gets from a job, see `outputs.objective`.

    A pruned job counts as no better than the worst completed job: its own values are those of an early step, and some,
    such as the content loss of a picture that starts from the photo, are best at the beginning.

    Raises:
        UserError: the job recorded no such number.
    """
    own = outputs.objective(run_dir, sweep.objective)
    summary = _record(run_dir)
    if own is None or summary.status != "pruned":
        return own
    completed = [path for path in _jobs(sweep.folder) if _record(path).status == "completed"]
    rows = [[own] if isinstance(own, float) else own]
    for path in completed:
        with suppress(UserError):  # a job of another sweep in the same folder
            row = outputs.objective(path, sweep.names)
            rows += [row] if isinstance(row, list) else []
    signs = sweep.signs(summary.higher_is_better or ())
    columns = zip(*rows, strict=True)
    worst = [sign * max(sign * value for value in column) for sign, column in zip(signs, columns, strict=True)]
    return worst[0] if isinstance(own, float) else worst


def _jobs(folder: Path) -> list[Path]:
    """The run folders of a sweep."""
    from nstexp.report import job_folders  # imported late, because reports need libraries for pictures and charts

    return job_folders(folder)


def _record(path: Path) -> Summary:
    """The record of a run; an empty one, if it cannot be read."""
    try:
        return read_summary(path)
    except (OSError, ValueError, TypeError):
        return Summary()


def _listed(names: Sequence[Any]) -> str:
    return " and ".join(map(str, names))
