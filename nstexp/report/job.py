"""One run of a sweep: what it was asked to do, and what it left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nstexp.outputs import Summary
from nstexp.report.texts import as_text, unique

NO_RECORD = "no record"  # the status of a run without a readable summary.json
SWEEP = "sweep"  # the key with the name of a job's sweep, if several sweeps are compared


@dataclass
class Job:
    """One run of a sweep.

    Args:
        number: the job's number, or its position if not all jobs have different numbers.
        name: path of the run folder, relative to the sweep's folder.
        path: the run folder.
        summary: the content of summary.json; None if it cannot be read.
        status: the status in summary.json, or NO_RECORD.
        error: the error message on one line; None without an error.
        overrides: key -> value that the user or the sweeper has set; for a config group, the name of the option. If
            several sweeps are compared, also SWEEP -> the sweep's name.
        config: the composed configuration; empty if it cannot be read.
        metrics: picture -> name -> number.
        pictures: picture -> file, for pictures that exist.
        progress: picture -> (file, step) of the newest picture in images/.
        missing: names of pictures that the record lists and that no longer exist.
        choices: config group -> option, including groups that were not set.
        origin: the folder to which relative paths in the configuration refer; None if it was not recorded.
        problems: a sentence for each damaged file of the run.
        search: `storage` and `study_name` of the search that the job belongs to; empty without a storage.
        labels: picture of an evaluation -> its `content`, `style` and `method`; means have a method only.
    """

    number: int
    name: str
    path: Path
    summary: Summary | None
    status: str
    error: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    progress: dict[str, tuple[Path, int]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)
    origin: Path | None = None
    problems: list[str] = field(default_factory=list)
    search: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def text(self, key: str) -> str | None:
        """The value of a config key as a user would type it; None if it was not recorded."""
        if key in self.overrides:
            return as_text(self.overrides[key])
        value = at(self.config, key)
        if value is not None and not isinstance(value[0], dict):
            return as_text(value[0])
        return as_text(self.choices[key]) if key in self.choices else None

    def recorded(self, name: str) -> Any:
        """A field of the summary; None without a summary."""
        return getattr(self.summary, name, None)


def value_of(job: Job, picture: str, key: str) -> str | None:
    """The value of a key for one picture: in an evaluation, its own photo, painting and method."""
    labels = job.labels.get(picture)
    return labels[key] if labels and key in labels else job.text(key)


def varying(jobs: Sequence[Job]) -> list[str]:
    """The overridden keys whose values differ between jobs, in the order of the overrides (the last varies fastest)."""
    keys = unique(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.text(key) for job in jobs} - {None}) > 1]


def loss_terms(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Loss term -> settings, from a configuration."""
    terms = config.get("loss")
    return terms if isinstance(terms, Mapping) else {}


def at(config: Mapping[str, Any], key: str) -> tuple[Any] | None:
    """The value at a dotted key, in a tuple, because the value may be None; None if there is no such key."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return (value,)
