"""Compares runs of any sweeps: their pictures, the keys in which they differ, and their measures."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import finite
from nstexp.core.secrets import without_secrets
from nstexp.studio.progress import LOADER
from nstexp.studio.reading import Run, read_run
from nstexp.studio.watching import Watcher

MOST_RUNS = 12
# Keys that do not change a picture.
NOT_SETTINGS = (
    "run_dir", "hydra", "logger", "output", "log_every_n_steps", "picture_every_n_steps", "measure", "metrics",
    "report",
)  # fmt: skip
FIRST = ("style_gram", "content_loss", "ssim")  # the measures that people look at most


def compared(watcher: Watcher, folders: Sequence[Path]) -> dict[str, Any]:
    """Compare runs.

    Args:
        watcher: of the folder of the studio.
        folders: of the runs.

    Returns:
        runs: [{id, name, status, error, seconds, pictures: {name: addresses}, metrics: {picture: {name: number}}}];
        keys: [[key, [value of each run, or null]]], those that the commands set and that differ; more: the same for
        all other keys that differ; measures: [{name, better (lower, higher or null), title}].

    Raises:
        UserError: too few or too many runs, or a folder without a run.
    """
    if not 2 <= len(folders) <= MOST_RUNS:
        raise UserError(f"choose from 2 to {MOST_RUNS} runs to compare")
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        if run.status is None and not run.overrides:
            raise UserError(f"{run.path.name}: there is no run in this folder any more")
    records = [_record(run) for run in runs]
    settings = [_settings(run) for run in runs]
    chosen = [_choices(record) for record in records]
    typed = list(dict.fromkeys(key for run in runs for key in run.overrides if key not in NOT_SETTINGS))
    every = list(dict.fromkeys(key for table in settings for key in table))
    named_by = zip(chosen, settings, runs, strict=True)
    keys = _differing(typed, [{**table, **options, **run.overrides} for options, table, run in named_by])
    named = {key for key, _ in keys}
    # A chosen option of a group brings many keys; they are listed behind the group.
    more = [row for row in _differing(every, settings) if row[0] not in named]
    return {
        "runs": [_shown(watcher, run) for run in runs],
        "keys": keys,
        "more": more,
        "measures": _measures(runs, records),
    }


def _shown(watcher: Watcher, run: Run) -> dict[str, Any]:
    pictures = {name: watcher.picture(run.path / file) for name, file in run.pictures.items()}
    newest = None if pictures else watcher.newest(run)
    name = run.path.relative_to(watcher.folder).as_posix()
    return {
        "id": name,
        "name": "/".join(name.split("/")[-2:]),
        "status": run.status or "no record",
        "error": without_secrets(run.error) if run.error else None,
        "seconds": run.seconds,
        "pictures": pictures or ({"so far": newest} if newest else {}),
        "metrics": finite(run.metrics),
    }


def _choices(record: Mapping[str, Any]) -> dict[str, str]:
    """Config group -> option, of a run's record."""
    choices = record.get("choices")
    return {str(key): str(value) for key, value in choices.items()} if isinstance(choices, Mapping) else {}


def _settings(run: Run) -> dict[str, str]:
    """Dotted key -> value as text, from the resolved configuration."""
    for file in (run.path / "config.yaml", run.path / ".hydra" / "config.yaml"):
        with suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
            content = yaml.load(file.read_text(encoding="utf-8"), LOADER)
            if isinstance(content, dict):
                return {key: text for key, text in _leaves(content, "") if key.partition(".")[0] not in NOT_SETTINGS}
    return {}


def _leaves(value: Any, key: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [leaf for name, inner in value.items() for leaf in _leaves(inner, f"{key}.{name}" if key else str(name))]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return [(key, without_secrets(text.replace('"', "").replace(", ", ",") if isinstance(value, list) else text))]


def _differing(keys: Sequence[str], tables: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str | None]]]:
    rows = [(key, [table.get(key) for table in tables]) for key in keys]
    return [(key, values) for key, values in rows if len({*values}) > 1]


def _measures(runs: Sequence[Run], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The numbers of the pictures, the main ones first, with the direction that is better."""
    names = dict.fromkeys(name for run in runs for row in run.metrics.values() for name in row)
    measured = [record.get("measured_with") or {} for record in records]
    higher = {name for record in records for name in record.get("higher_is_better") or ["ssim"]}
    found = []
    for name in sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        described = {str(table[name]) for table in measured if isinstance(table, Mapping) and name in table}
        better = None if len(described) != 1 else "higher" if name in higher else "lower"
        title = f"{next(iter(described))}; {better} is better" if better else "; ".join(sorted(described)) or None
        found.append({"name": name, "better": better, "title": title})
    return found


def _record(run: Run) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        record = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    return {}
