"""Sums up the runs of a sweep: one status, the keys that vary, the jobs that have not begun."""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from nstexp.studio import launching
from nstexp.studio.reading import Run

NO_SETTINGS = ("logger", "run_dir", "precision")  # keys that say little about a run
MOST_ABOUT = 140  # letters
GOING = ("running", "starting")
ENDED_EARLY = ("interrupted", "lost")
State = tuple[str, str | None]  # status, and the sentence that goes with it


def shown_first(runs: Sequence[Run], states: Sequence[State]) -> Run | None:
    """The run whose picture stands for the experiment: a finished one, else one that runs, else one that did."""
    both = list(zip(runs, (state for state, _ in states), strict=True))
    finished = [run for run, state in both if run.pictures and state not in GOING]
    others = [run for run, state in both if state in GOING] + [run for run, state in both if state in ENDED_EARLY]
    return next(iter([*finished, *others]), None)


def overall(statuses: Mapping[str, int], going: bool, waiting: int | None, record: launching.Record | None) -> str:
    """One word for a whole experiment."""
    if going:
        return "starting" if not statuses or set(statuses) == {"starting"} else "running"
    for status in ("failed", "lost", "no record", "interrupted"):
        if statuses.get(status):
            return "failed" if status == "no record" and record is not None else status
    if waiting:
        return "interrupted" if statuses else "failed"
    return "completed" if statuses else "no record"


def varying(runs: Sequence[Run], planned: Sequence[Mapping[str, str]]) -> list[tuple[str, int]]:
    """The keys whose values differ, with how many values each has."""
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.overrides.items():
            values.setdefault(key, {})[value] = None
    for job in planned:
        for key, value in job.items():
            values.setdefault(str(key), {})[str(value)] = None
    return [(key, len(found)) for key, found in values.items() if len(found) > 1]


def about(run: Run) -> str:
    """The keys and values of a run in a short text."""
    return " ".join(f"{key}={value}" for key, value in run.overrides.items() if key not in NO_SETTINGS)[:MOST_ABOUT]


def waiting_jobs(
    jobs: Sequence[Mapping[str, Any]], planned: Sequence[Mapping[str, str]], going: bool
) -> list[dict[str, Any]]:
    """The jobs of the plan that have no folder yet, as jobs without anything; only if jobs are named by numbers."""
    names = {job["name"] for job in jobs}
    if not all(name.isdecimal() for name in names):
        return []
    status = "waiting" if going else "not begun"
    empty: dict[str, Any] = {
        "id": None,
        "status": status,
        "error": None,
        "picture": None,
        "pictures": 0,
        "metrics": {},
        "seconds": None,
    }
    return [
        {"name": str(number), **empty, "values": dict(values), "progress": {}}
        for number, values in enumerate(planned)
        if str(number) not in names
    ]


def values_in_order(jobs: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The values of a key, in the order of the jobs."""
    found = dict.fromkeys(job["values"].get(key) for job in sorted(jobs, key=lambda job: _number(job["name"])))
    return [value for value in found if value is not None]


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else 0


def version_of(answer: Any) -> str:
    """A short text that changes with the content."""
    return blake2b(json.dumps(answer, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
