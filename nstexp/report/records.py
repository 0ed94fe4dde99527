"""Reads one run folder into a `Job`; damaged files become notes on the job."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nstexp.core.errors import is_whole
from nstexp.media.listing import is_input
from nstexp.media.paths import WRITABLE
from nstexp.outputs import Summary, read_summary, unescaped
from nstexp.report.evaluations import read_labels
from nstexp.report.job import NO_RECORD, Job, at
from nstexp.report.texts import is_number, unique

# The loader of libyaml is ten times as fast, but some builds of PyYAML lack it.
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_job(path: Path, position: int, name: str) -> Job:
    """Read a run folder; damaged files become entries of `Job.problems`."""
    problems: list[str] = []
    summary, problem = _read_record(path)
    # summary.json comes first, since Hydra replaces its files even for a job that is then refused.
    overrides = summary.overrides if summary else []
    overrides = overrides or _read(path / ".hydra" / "overrides.yaml", list, problems) or []
    config = _read(path / "config.yaml", dict, problems) or _read(path / ".hydra" / "config.yaml", dict, problems) or {}
    hydra = _read(path / ".hydra" / "hydra.yaml", dict, problems) or {}
    # metrics.json grows while a run works; a run that was killed has numbers only there.
    metrics = _numbers(_read(path / "metrics.json", dict, problems) or (summary.metrics if summary else {}))
    status, error = (NO_RECORD, problem) if summary is None else (str(summary.status), summary.error)
    if status == "running":
        error = "no end is recorded: the run is still running, or was killed"
    outputs = _image_names(summary)
    files = {name: path / f"{name}.png" for name in unique([*metrics, *(Path(file).stem for file in outputs)])}
    pictures = {name: file for name, file in files.items() if file.is_file()}
    gone = [Path(file).name for file in outputs if not (path / Path(file).name).is_file() and not _is_file(file)]
    return Job(
        number=_job_number(name, hydra, position),
        name=name,
        path=path,
        summary=summary,
        status=status,
        error=" ".join(str(error).split()) if error else None,
        overrides=_parsed(overrides, config),
        config=config,
        metrics=metrics,
        pictures=pictures,
        progress=_progress(path),
        missing=gone if any(name not in pictures for name in metrics or {"": {}}) else [],
        choices=(summary.choices if summary else {}) or _choices(hydra),
        origin=_origin(hydra),
        problems=problems,
        search=_search(hydra),
        labels=read_labels(path),
    )


def _job_number(name: str, hydra: Mapping[str, Any], position: int) -> int:
    """The number in the folder's name, or the number that Hydra has recorded, or the position."""
    if name.isdecimal():
        return int(name)
    recorded: Any = (at(hydra, "hydra.job.num") or (None,))[0]
    return int(recorded) if is_whole(recorded) else position


def _read_record(path: Path) -> tuple[Summary | None, str | None]:
    """The content of summary.json, or an error message."""
    try:
        return read_summary(path), None
    except FileNotFoundError:
        return None, "summary.json is missing: the run was refused or killed before its first step"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return None, f"summary.json cannot be read ({error})"


def _read(path: Path, kind: type, problems: list[str]) -> Any:
    """The content of a YAML or JSON file; None if it is missing, damaged or not of type `kind`.

    A file that exists and cannot be used becomes an entry of `problems`.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else unescaped(_yaml(text))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        content = None
    if not isinstance(content, kind):
        name = f"{path.parent.name}/{path.name}" if path.parent.name == ".hydra" else path.name
        problems.append(f"{name} is damaged and was left out")
        return None
    return content


def _yaml(text: str) -> Any:
    """Parse YAML. PyYAML reads names that are not valid Unicode, which libyaml refuses."""
    return yaml.load(text, yaml.SafeLoader if "\\uDC" in text else _YamlLoader)


def _numbers(metrics: Any) -> dict[str, dict[str, float]]:
    """The numbers in the content of metrics.json."""
    if not isinstance(metrics, dict):
        return {}
    return {
        str(name): {str(key): value for key, value in numbers.items() if is_number(value)}
        for name, numbers in metrics.items()
        if isinstance(numbers, dict)
    }


def _parsed(overrides: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides as key -> value.

    The value comes from the composed configuration, since the text of an override has quotes and number formats. Only
    for a config group, where the configuration has a whole table, it is the text, which is the option's name.
    """
    parsed = {}
    for override in overrides if isinstance(overrides, list) else []:
        key, equals, text = str(override).partition("=")
        key = key.lstrip("+")
        if equals and not key.startswith("~"):
            value = at(config, key)
            parsed[key] = text if value is None or isinstance(value[0], dict) else value[0]
    return parsed


def _image_names(summary: Summary | None) -> list[str]:
    """The outputs in the record that are pictures."""
    outputs = summary.outputs if summary is not None else []
    names = [str(output) for output in outputs] if isinstance(outputs, list) else []
    return [name for name in names if Path(name).suffix.lower() in WRITABLE]


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def _progress(path: Path) -> dict[str, tuple[Path, int]]:
    """The newest picture for each name in images/, and its step."""
    newest: dict[str, tuple[Path, int]] = {}
    for file in sorted(file for file in (path / "images").glob("*.jpg") if is_input(file.name)):
        name, _, step = file.stem.rpartition("_")
        if name and step.isdecimal() and int(step) >= newest.get(name, (file, -1))[1]:
            newest[name] = (file, int(step))
    return newest


def _choices(hydra: Mapping[str, Any]) -> dict[str, Any]:
    choices = (at(hydra, "hydra.runtime.choices") or (None,))[0]
    return {str(key): value for key, value in choices.items()} if isinstance(choices, dict) else {}


def _search(hydra: Mapping[str, Any]) -> dict[str, Any]:
    """The storage of an Optuna search and the name of its study."""
    sweeper = (at(hydra, "hydra.sweeper") or (None,))[0]
    if not isinstance(sweeper, dict) or "optuna" not in str(sweeper.get("_target_")):
        return {}
    storage, name = sweeper.get("storage"), sweeper.get("study_name")
    if not isinstance(storage, str):
        return {}
    return {"storage": storage, "study_name": None if name is None else str(name)}


def _origin(hydra: Mapping[str, Any]) -> Path | None:
    folder = (at(hydra, "hydra.runtime.cwd") or (None,))[0]
    return Path(folder) if isinstance(folder, str) and folder else None


def has_record(path: Path) -> bool:
    return (path / "summary.json").is_file()
