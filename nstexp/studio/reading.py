"""Reads single files of runs and sweeps; what is damaged or missing is left out."""

import json
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from nstexp.core.secrets import without_secrets
from nstexp.core.text import unquoted
from nstexp.media.paths import WRITABLE
from nstexp.studio import launching
from nstexp.studio.progress import LOADER

# Words that name the folder of a sweep or run, and those that Hydra adds.
PLACES = ("hydra.sweep.dir=", "run_dir=", "hydra.run.dir=", "hydra.mode=")


@dataclass
class Run:
    """A run folder as it was read last.

    Args:
        path: the folder.
        status: of the record; None without one.
        error: the sentence of its error, on one line.
        overrides: key -> value as text.
        metrics: picture -> name -> number.
        pictures: name -> file, relative to the folder.
        started: seconds since 1970.
        changed: when anything in the folder changed last, in seconds since 1970.
    """

    path: Path
    status: str | None = None
    error: str | None = None
    method: str | None = None
    task: str | None = None
    overrides: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    started: float | None = None
    seconds: float | None = None
    changed: float = 0.0
    serial: int = field(default_factory=count().__next__)  # tells this reading of the folder from any other


@dataclass(frozen=True)
class Found:
    """A sweep with the folders of its jobs, or a single run."""

    path: Path
    is_sweep: bool


def read_run(path: Path) -> Run:
    """Read a run folder; what is damaged or missing is left out."""
    run = Run(path)
    record: Any = None
    with suppress(OSError, ValueError):
        record = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    if isinstance(record, dict) and "status" in record:
        run.status, error = str(record["status"]), record.get("error")
        run.error = " ".join(str(error).split()) if error else None
        run.method, run.task = (str(record[name]) if record.get(name) else None for name in ("method", "task"))
        run.overrides = overrides_of(record.get("overrides"))
        run.metrics = _numbers(record.get("metrics"))
        run.started = seconds_of(record.get("started"))
        seconds = record.get("seconds")
        run.seconds = seconds if isinstance(seconds, int | float) else None
        names = [os.path.basename(str(output)) for output in record.get("outputs") or []]
        files = [name for name in names if name.lower().endswith(WRITABLE)]
        files += [f"{name}.png" for name in run.metrics if f"{name}.png" not in files and os.sep not in name]
        run.pictures = {os.path.splitext(file)[0]: file for file in files if (path / file).is_file()}
    if run.status == "running":  # its numbers are only there until it ends
        with suppress(OSError, ValueError):
            run.metrics = _numbers(json.loads((path / "metrics.json").read_text(encoding="utf-8"))) or run.metrics
    if not run.overrides:
        with suppress(OSError, ValueError, yaml.YAMLError):
            text = (path / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
            run.overrides = overrides_of(yaml.load(text, LOADER))
    return run


def is_locked(file: Path) -> bool:
    """Whether a process holds a lock file. Nothing is written, because the process may be on another machine."""
    try:
        import fcntl
    except ImportError:  # Windows, where a locked file cannot be opened
        try:
            file.open("rb").close()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def overrides_of(words: Any) -> dict[str, str]:
    """Key -> value as text, from the words of a command line."""
    found = {}
    for word in words if isinstance(words, list) else []:
        key, equals, value = str(word).partition("=")
        if equals and not key.startswith("~"):
            found[key.lstrip("+")] = without_secrets(unquoted(value))
    return found


def _numbers(metrics: Any) -> dict[str, dict[str, float]]:
    table = metrics if isinstance(metrics, dict) else {}
    return {
        str(name): {
            str(key): value
            for key, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for name, row in table.items()
        if isinstance(row, dict)
    }


def seconds_of(moment: Any) -> float | None:
    """Seconds since 1970 of a time in ISO 8601; None for anything else."""
    try:
        return datetime.fromisoformat(str(moment)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def planned_by(file: Path) -> tuple[list[dict[str, str]], int | None]:
    """The jobs of a sweep by its multirun.yaml; nothing if it cannot be read, or a search chooses them."""
    from nstexp.sweeps.planning import plan_of

    words = recorded_words(file)
    try:
        plan = plan_of(words)
    except Exception:  # words of another version, which Hydra's parser refuses in many ways
        return [], None
    return (plan.jobs, plan.total) if words and plan.jobs else ([], None)


def recorded_words(file: Path) -> list[str]:
    """The words of the command line in multirun.yaml, with those of an experiment that is a sweep by itself."""
    try:
        hydra = yaml.load(file.read_text(encoding="utf-8"), LOADER)["hydra"]
        overrides = hydra["overrides"]
        typed = [*(overrides.get("hydra") or []), *(overrides.get("task") or [])]
        params = hydra["sweeper"].get("params") or {}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []
    keys = {str(word).partition("=")[0].lstrip("+") for word in typed}
    given = [f"{key}={value}" for key, value in params.items() if key not in keys] if isinstance(params, dict) else []
    return [*given, *(str(word) for word in typed if not str(word).startswith("hydra.mode="))]


def command_of(found: Found, runs: Sequence[Run], record: launching.Record | None) -> str:
    """The command of a sweep or run, as it can be typed again in the folder where it was started."""
    if record is not None:
        text = launching.shown_command(record, found.path)
    elif found.is_sweep:
        text = shlex.join(["nstexp", "-m", *recorded_words(found.path / "multirun.yaml")])
    else:
        text = shlex.join(["nstexp", *(f"{key}={value}" for key, value in runs[0].overrides.items())])
    return without_secrets(text)


def rows_of(found: Found, runs: Sequence[Run], record: launching.Record | None) -> list[dict[str, str]]:
    """The keys and values of the command of a sweep or run, without those that name its folder."""
    return [
        {"key": key, "value": value}
        for word in words_of(found, runs, record)
        for key, _, value in [word.partition("=")]
    ]


def words_of(found: Found, runs: Sequence[Run], record: launching.Record | None) -> list[str]:
    """The words of the command of a sweep or run, without those that name its folder."""
    if record is not None:
        return record.words
    if found.is_sweep:
        words = recorded_words(found.path / "multirun.yaml")
    else:
        words = [f"{key}={value}" for key, value in runs[0].overrides.items()]
    return [without_secrets(word) for word in words if not word.startswith(PLACES)]


def report_of(place: Path) -> Path | None:
    """The report of a sweep or an evaluation, if there is one."""
    return next((file for file in (place / "report.html", place / "report" / "report.html") if file.is_file()), None)


def has_log(place: Path) -> bool:
    """Whether a sweep or run has a log that the page can show."""
    return (place / launching.LOG).is_file() or (place / "nstexp.log").is_file()
