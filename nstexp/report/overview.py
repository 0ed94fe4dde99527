"""index.html: one line for each sweep and run below some folders, with links to their reports.

Sweeps are found by the multirun.yaml that Hydra and the report leave, or by numbered jobs; every other folder with a
record is a single run.
"""

import html
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from natsort import natsorted

from nstexp.console import bar
from nstexp.core.errors import UserError
from nstexp.core.runtime.files import try_writing
from nstexp.core.secrets import without_secrets
from nstexp.media.listing import is_input
from nstexp.report.comparisons import setting_estimates, setting_text, spread
from nstexp.report.design import Design, Values, axis_keys, design_of
from nstexp.report.job import Job, value_of, varying
from nstexp.report.jobs import existing, read_run, read_sweep
from nstexp.report.numbers import MAIN_MEASURES, describe_numbers, objectives
from nstexp.report.page import joined, resource, write_filled
from nstexp.report.page.images import encoded, link_to
from nstexp.report.page.json_values import as_json, as_json_number
from nstexp.report.records import has_record
from nstexp.report.texts import is_number, unique

INDEX = "index.html"
OURS = '<meta name="generator" content="nstexp report">'  # marks an index, which the next one replaces
SCRIPTS = ("text", "dom", "address", "exporting", "filter", "overview")
THUMBNAIL_PX = 96
MOST_BEST = 3  # numbers whose best setting is named
MOST_VALUES = 12  # values of a key in the command of a sweep without a record of its own


@dataclass(frozen=True)
class Found:
    """A folder of a sweep, or of a single run."""

    path: Path
    is_sweep: bool


def find_all(folders: Sequence[str | Path]) -> list[Found]:
    """All sweeps and runs below some folders, in natural order; a folder may itself be one.

    Raises:
        UserError: a folder does not exist, or there is no sweep and no run below all of them.
    """
    paths = unique(existing(folder).resolve() for folder in folders)
    found = unique(one for path in paths for one in _found_in(path))
    if not found:
        raise UserError(f"{', '.join(map(str, folders))}: no sweeps and no runs below this folder")
    return found


def needs_index(folders: Sequence[str | Path]) -> bool:
    """Whether one of the folders is neither a sweep nor a run, but contains sweeps."""
    for folder in folders:
        path = Path(folder).expanduser()
        if path.is_dir() and not (_is_sweep(path) or has_record(path)) and any(one.is_sweep for one in _found_in(path)):
            return True
    return False


def write_index(folders: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write index.html.

    Args:
        folders: that contain sweeps and runs, at any depth.
        output: the folder for the file, created if necessary; None: the folder itself, or ./overview for several.

    Returns:
        The path of index.html.

    Raises:
        UserError: there are no sweeps and no runs, or the file cannot be written.
    """
    found = find_all(folders)
    place = Path(output or (folders[0] if len(folders) == 1 else "overview")).expanduser().absolute()
    path = place / INDEX
    _check(path)
    entries = [_entry(one, place) for one in bar(found, desc="folders", unit="folder", delay=2, leave=False)]
    entries.sort(key=lambda entry: entry["started"] or "", reverse=True)
    names = unique(Path(folder).resolve().name for folder in folders)
    title = ", ".join(names)
    data = {
        "title": title,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "entries": entries,
    }
    parts = {
        "title": html.escape(title),
        "style": resource("page.css"),
        "data": as_json(data),
        "script": joined(SCRIPTS),
        "ours": OURS,
    }
    write_filled(path, "overview.html", parts)
    return path


def _check(path: Path) -> None:
    """Create the folder of the index, and raise a UserError if it cannot be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try_writing(path.parent)
        is_ours = not path.exists() or OURS in path.read_text(encoding="utf-8", errors="replace")[:4000]
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: cannot be written ({reason}); name another folder with --output") from error
    if not is_ours:
        raise UserError(f"{path} was not made by nstexp; name another folder with --output")


def _is_sweep(folder: Path) -> bool:
    if (folder / "multirun.yaml").is_file():
        return True
    with suppress(OSError):
        return any(child.name.isdecimal() and (child / ".hydra").is_dir() for child in folder.iterdir())
    return False


def _found_in(folder: Path) -> Iterator[Found]:
    if _is_sweep(folder):
        yield Found(folder, True)
    elif has_record(folder):
        yield Found(folder, False)
    else:
        with suppress(OSError):  # a folder without permission to read it
            entries = [child for child in folder.iterdir() if is_input(child.name) and child.is_dir()]
            for child in natsorted(entries, key=lambda entry: entry.name):
                if not child.is_symlink():
                    yield from _found_in(child)


def _entry(one: Found, place: Path) -> dict[str, Any]:
    """The line of a sweep or run, as the page's script shows it.

    Returns:
        kind, name, link, report (a link, or null), command, started, seconds, statuses {status: count}, keys [[key,
        number of values]], best [{label, text, setting, link}], image (or null), error.
    """
    jobs = _jobs(one)
    report = one.path / "report.html" if one.is_sweep else one.path / "report" / "report.html"
    seconds = [value for job in jobs if is_number(value := job.recorded("seconds"))]
    starts = [value for job in jobs if isinstance(value := job.recorded("started"), str)]
    best = _best(jobs, place)
    shown = best[0]["file"] if best else next((file for job in jobs for file in job.pictures.values()), None)
    return {
        "kind": "sweep" if one.is_sweep else "run",
        "name": f"{one.path.parent.name}/{one.path.name}",
        "link": f"{link_to(one.path, place)}/",
        "report": link_to(report, place) if report.is_file() else None,
        "command": without_secrets(_command(one, jobs)),
        "started": min(starts, default=None),
        "seconds": as_json_number(sum(seconds)) if seconds else None,
        "statuses": {status: sum(job.status == status for job in jobs) for status in unique(j.status for j in jobs)},
        "keys": [[key, _count(jobs, key)] for key in axis_keys(jobs)],
        "best": [{key: value for key, value in found.items() if key != "file"} for found in best],
        "image": None if shown is None else encoded(shown, THUMBNAIL_PX),
        "error": next((job.error for job in jobs if job.error), None),
    }


def _jobs(one: Found) -> list[Job]:
    try:
        return read_sweep(one.path) if one.is_sweep else [read_run(one.path)]
    except UserError:  # a sweep whose jobs are gone
        return []


def _count(jobs: Sequence[Job], key: str) -> int:
    names = [(job, name) for job in jobs for name in job.metrics or {"": {}}]
    values = {name if key == "picture" else value_of(job, name, key) for job, name in names}
    return len(values - {None})


def _best(jobs: Sequence[Job], place: Path) -> list[dict[str, Any]]:
    """The best setting by each of the main measures."""
    design = design_of(jobs)
    names = unique(name for row in design.rows for name in row.numbers)
    described = {one["name"]: one for one in describe_numbers(jobs, names)}
    wanted = unique([*objectives(jobs), *MAIN_MEASURES, *described])
    chosen = [name for name in wanted if name in described and described[name]["better"] is not None][:MOST_BEST]
    best = []
    for name in chosen:
        sign = -1 if described[name]["better"] == "higher" else 1
        found = setting_estimates(design, name)
        pictures = _pictures(design)
        shown = [setting for setting in found if setting in pictures]
        if not shown:
            continue
        setting = min(shown, key=lambda setting: sign * found[setting].mean)
        unit = f", mean of {found[setting].n} {design.unit}s" if design.folds else ""
        best.append({
            "label": described[name]["label"],
            "text": f"{spread(found[setting])}{unit}",
            "setting": setting_text(design, setting) or "the only setting",
            "link": link_to(pictures[setting], place),
            "file": pictures[setting],
        })  # fmt: skip
    return best


def _pictures(design: Design) -> dict[Values, Path]:
    """Setting -> its first picture."""
    found: dict[Values, Path] = {}
    for row in design.rows:
        if row.picture in row.job.pictures:
            found.setdefault(row.at(design.keys), row.job.pictures[row.picture])
    return found


def _command(one: Found, jobs: Sequence[Job]) -> str:
    """The command of a sweep or run, as it can be typed again."""
    if not one.is_sweep:
        overrides = [str(word) for job in jobs for word in job.recorded("overrides") or []]
        return shlex.join(["python", "-m", "nstexp", *overrides])
    words = _recorded_words(one.path / "multirun.yaml")
    if not words:
        keys = unique(key for job in jobs for key in job.overrides)
        texts = {key: unique(str(job.text(key)) for job in jobs)[:MOST_VALUES] for key in keys}
        words = [f"{key}={','.join(values)}" for key, values in texts.items()]
        words = [word for word in words if word.partition("=")[0] in varying(jobs)] or words
    return shlex.join(["python", "-m", "nstexp", "-m", *words])


def _recorded_words(path: Path) -> list[str]:
    """The words of the command line in multirun.yaml; none if it cannot be read."""
    try:
        recorded = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        overrides = recorded["hydra"]["overrides"]
        words = [*(overrides.get("hydra") or []), *(overrides.get("task") or [])]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []
    return [str(word) for word in words if not str(word).startswith("hydra.mode=")]
