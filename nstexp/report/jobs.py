"""The run folders of sweeps, read into jobs: what was set, what came of it, and what could not be read."""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from natsort import natsorted

from nstexp.console import bar
from nstexp.core.errors import UserError, is_whole
from nstexp.media.learned import BUNDLED, Source, picture_of, styles_of
from nstexp.media.listing import is_input
from nstexp.media.paths import WRITABLE, find_images
from nstexp.media.samples import is_builtin
from nstexp.outputs import Summary, read_summary, unescaped

NO_RECORD = "no record"  # the status of a run without a readable summary.json
SWEEP = "sweep"  # the key that says which folder a job is from, when several are compared
INPUTS = ("content", "style")
MOST_INPUTS = 3  # pictures that one value of `content` or `style` is shown with
NOT_TERMS = ("image", "step", "seconds", "lr", "images_per_second", "data_wait")  # columns of losses.csv
MOST_POINTS = 200  # of one curve

# libyaml's loader is ten times as fast; PyYAML is also built without it.
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Job:
    """One run of a sweep.

    number: the job's number, or its place where they are not all numbered.
    name: of its folder, from the sweep's folder on.
    status: summary.json's, or NO_RECORD.
    error: what went wrong, on one line.
    overrides: {key: value} of what the user or the sweeper set; for a config group the option's name. Of several
        sweeps also SWEEP, the folder's name.
    config: the composed configuration; empty when it cannot be read.
    metrics: {picture: {name: number}}.
    pictures: {picture: file}, of those that are there.
    progress: {picture: (file, step)}, the newest of images/.
    missing: names of the pictures that the record names and that are gone.
    choices: {config group: option}, also of groups that nobody set.
    origin: the folder that relative paths in the configuration start from; None where it was not recorded.
    problems: a sentence for each file of the run that is damaged.
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

    def text(self, key: str) -> str | None:
        """The value of a key as one would type it; None where nothing says what it was."""
        if key in self.overrides:
            return as_text(self.overrides[key])
        value = _at(self.config, key)
        if value is not None and not isinstance(value[0], dict):
            return as_text(value[0])
        return as_text(self.choices[key]) if key in self.choices else None

    def recorded(self, name: str) -> Any:
        """A field of the summary; None without one."""
        return getattr(self.summary, name, None)


@dataclass
class Curve:
    """The rows of losses.csv of one picture; terms are {name: [value or None]}, seconds is empty if not recorded."""

    picture: str
    steps: list[int]
    seconds: list[float | None]
    terms: dict[str, list[float | None]]


def job_folders(folder: Path) -> list[Path]:
    """The run folders in a sweep's folder, at any depth, in natural order: 2 before 10. Those of a sweep that has its
    own folder in this one are not among them."""
    entries = list(_folders_in(folder))
    found = [entry for entry in entries if (entry / ".hydra").is_dir() or _has_record(entry)]
    inside = {parent for entry in found for parent in entry.parents}
    # A job that died before it left anything; and not a folder of jobs that is called after a value of theirs.
    found += [e for e in entries if e.parent == folder and e.name.isdecimal() and e not in inside and e not in found]
    return natsorted(found, key=lambda entry: entry.relative_to(folder).as_posix())


def _folders_in(folder: Path) -> Iterator[Path]:
    """All of them, and those in them, but for what links lead to."""
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if is_input(entry.name) and entry.is_dir()]
    for entry in found:
        yield entry
        if not entry.is_symlink() and not (entry / "multirun.yaml").is_file():
            with suppress(OSError):  # one that may not be read
                yield from _folders_in(entry)


def read_sweep(folder: str | Path) -> list[Job]:
    """The jobs of a sweep, by number.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    folder = _existing(folder)
    paths = job_folders(folder)
    if not paths:
        raise UserError(f"{folder}: no runs in this folder{_nearby(folder)}")
    shown = bar(paths, desc="runs", unit="run", delay=2, leave=False)
    jobs = [_read_job(path, place, path.relative_to(folder).as_posix()) for place, path in enumerate(shown)]
    if len({job.number for job in jobs}) < len(jobs):  # of several sweeps, or not all numbered
        for place, job in enumerate(jobs):
            job.number = place
    return sorted(jobs, key=lambda job: job.number)


def read_sweeps(folders: Sequence[str | Path]) -> list[Job]:
    """The jobs of several sweeps; each job has its sweep's name as its first override, SWEEP.

    A folder that is itself a run is a sweep of one job. A single folder is read as `read_sweep` does.

    Raises:
        UserError: there is no such folder, or no run in one.
    """
    found = unique(_existing(folder).resolve() for folder in folders)
    if len(found) == 1:
        return read_sweep(found[0])
    jobs = []
    for folder, name in zip(found, _names(found), strict=True):
        is_run = _has_record(folder) and not job_folders(folder)
        for job in [_read_job(folder, 0, folder.name)] if is_run else read_sweep(folder):
            job.overrides = {SWEEP: name, **{key: value for key, value in job.overrides.items() if key != SWEEP}}
            jobs.append(job)
    return jobs


def varying(jobs: Sequence[Job]) -> list[str]:
    """The overridden keys whose values differ between jobs, in the order of the overrides: the last varies fastest."""
    keys = unique(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.text(key) for job in jobs} - {None}) > 1]


def read_curves(path: Path) -> tuple[list[Curve], int]:
    """The curves in a run folder's losses.csv, at most MOST_POINTS each, and how many damaged lines were left out."""
    try:
        with (path / "losses.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.DictReader(line.replace("\0", "") for line in file)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, csv.Error):
        return [], 0
    terms = [name for name in columns if name and name not in NOT_TERMS]
    good = [row for row in rows if _is_whole(row, terms)]
    pictures = unique(row["image"] for row in good)
    curves = [_curve(name, [row for row in good if row["image"] == name], terms) for name in pictures]
    return curves, len(rows) - len(good)


def input_files(
    key: str, value: str, name: str, origin: Path | None = None, learned: Mapping[str, Source] | None = None
) -> list[Path]:
    """The few pictures that a value of INPUTS means; of several contents the one that is called like the picture.

    Args:
        key: one of INPUTS; anything else has no files.
        value: as `Job.text` gives it.
        name: the picture that was made.
        origin: where relative paths start.
        learned: the styles that `style` can name, see `learned_by`.
    """
    return inputs_of(find_inputs(key, value, origin, learned), key, name)


def find_inputs(key: str, value: str, origin: Path | None, learned: Mapping[str, Source] | None = None) -> list[Path]:
    """All pictures that a value of INPUTS means; none if one of them is gone.

    Args:
        key: one of INPUTS; anything else has no files.
        value: as `Job.text` gives it.
        origin: where relative paths start.
        learned: the styles that `style` can name, see `learned_by`.
    """
    if key not in INPUTS or not value:
        return []
    learned = learned if learned and key == "style" else {}
    try:
        return [path for spec in _specs(value, learned) for path in _pictures_of(spec, key, origin, learned)]
    except (UserError, OSError, ValueError):  # moved since, or a name that no file can have
        return []


def learned_names(value: str, origin: Path | None, learned: Mapping[str, Source]) -> dict[Path, str]:
    """The pictures of the learned styles that a value of `style` names, and these names; arguments as `find_inputs`."""
    files = {
        spec: picture_of(learned[spec].name, learned[spec].digest, origin)
        for spec in _specs(value, learned)
        if spec in learned
    }
    return {file: spec for spec, file in files.items() if file is not None}


def _specs(value: str, learned: Mapping[str, Source]) -> list[str]:
    """The words of a value; of a style that was not given, the first one, which the network then takes."""
    return [next(iter(learned))] if learned and value == "null" else _items(value)


def _pictures_of(spec: str, key: str, origin: Path | None, learned: Mapping[str, Source]) -> list[Path]:
    """The pictures of one word: a file, a folder, a built-in name, or a learned style, whose picture may be gone."""
    if spec not in learned:
        return find_images(_from(spec, origin), key)
    found = picture_of(learned[spec].name, learned[spec].digest, origin)
    if found is None:
        raise UserError(f"{key}={spec}: its picture is not on this machine")
    return [found]


def learned_by(job: Job) -> dict[str, Source]:
    """The styles that the network of a job has learned, by name; none if it takes any picture, or is gone, or if the
    job trained it."""
    model, task = _at(job.config, "method.model"), str((_at(job.config, "task._target_") or ("",))[0])
    if model is None or not isinstance(model[0], str) or task.endswith(".train"):
        return {}
    return _learned_in(model[0] if model[0] == BUNDLED else _from(model[0], job.origin))


@cache
def _learned_in(model: str) -> dict[str, Source]:
    try:
        return styles_of(model)
    except (UserError, OSError):
        return {}


def inputs_of(files: Sequence[Path], key: str, name: str) -> list[Path]:
    """The few of `files` that belong to one picture."""
    if key == "content" and len(files) > 1:
        return [file for file in files if file.stem == name][:1]
    return list(files) if len(files) <= MOST_INPUTS else []


def as_text(value: Any) -> str:
    """A value of the configuration as one would type it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list):
        return f"[{','.join(_item_as_text(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {as_text(item)}' for key, item in value.items())}}}"
    return str(value)


def _item_as_text(item: Any) -> str:
    """An item of a list; in quotes where a comma or a quote would part it."""
    return json.dumps(item, ensure_ascii=False) if isinstance(item, str) and re.search('[,"]', item) else as_text(item)


def _items(text: str) -> list[str]:
    """The items of a list as `as_text` writes it; of anything else itself."""
    if not (text.startswith("[") and text.endswith("]")):
        return [text]
    items = re.findall(r'"(?:[^"\\]|\\.)*"|[^,]+', text[1:-1])
    return [json.loads(item) if item.startswith('"') else item.strip() for item in items]


def is_number(value: Any) -> bool:
    """Whether it is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def unique(items: Iterable[Any]) -> list[Any]:
    """Each item once, in order."""
    return list(dict.fromkeys(items))


def loss_terms(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """{term: its settings} of a configuration."""
    terms = config.get("loss")
    return terms if isinstance(terms, Mapping) else {}


def shortened(text: str, most: int) -> str:
    """With the middle left out: what differs is mostly at the ends."""
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[len(text) - (most - most // 2 - 1) :]}"


def _existing(folder: str | Path) -> Path:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    return folder


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of the folders around them as it takes to tell them apart."""
    deepest = max(len(folder.parts) for folder in folders)
    for depth in range(1, deepest + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len({*names}) == len(names):
            break
    return names


def _read_job(path: Path, place: int, name: str) -> Job:
    problems: list[str] = []
    summary, problem = _read_record(path)
    # The run's own record first: Hydra writes its own anew also for a job that is then refused.
    overrides = summary.overrides if summary else []
    overrides = overrides or _read(path / ".hydra" / "overrides.yaml", list, problems) or []
    config = _read(path / "config.yaml", dict, problems) or _read(path / ".hydra" / "config.yaml", dict, problems) or {}
    hydra = _read(path / ".hydra" / "hydra.yaml", dict, problems) or {}
    # metrics.json grows while a run works; a run that was killed has numbers only there.
    metrics = _numbers(_read(path / "metrics.json", dict, problems) or (summary.metrics if summary else {}))
    status, error = (NO_RECORD, problem) if summary is None else (str(summary.status), summary.error)
    if status == "running":
        error = "no end is recorded: it still runs, or was killed"
    outputs = _image_names(summary)
    files = {name: path / f"{name}.png" for name in unique([*metrics, *(Path(file).stem for file in outputs)])}
    pictures = {name: file for name, file in files.items() if file.is_file()}
    gone = [Path(file).name for file in outputs if not (path / Path(file).name).is_file() and not _is_file(file)]
    return Job(
        number=_job_number(name, hydra, place),
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
    )


def _job_number(name: str, hydra: Mapping[str, Any], place: int) -> int:
    """By the name of its folder, or as Hydra recorded it."""
    if name.isdecimal():
        return int(name)
    recorded = (_at(hydra, "hydra.job.num") or (None,))[0]
    return recorded if is_whole(recorded) else place


def _read_record(path: Path) -> tuple[Summary | None, str | None]:
    try:
        return read_summary(path), None
    except FileNotFoundError:
        return None, "summary.json is missing: the run was refused or killed before its first step"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return None, f"summary.json cannot be read ({error})"


def _read(path: Path, kind: type, problems: list[str]) -> Any:
    """The content of a YAML or JSON file; None when it is missing, damaged or of another kind, which is a problem
    unless it is missing."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else unescaped(_yaml(text))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        content = None
    if not isinstance(content, kind):
        place = f"{path.parent.name}/{path.name}" if path.parent.name == ".hydra" else path.name
        problems.append(f"{place} is damaged and was left out")
        return None
    return content


def _yaml(text: str) -> Any:
    """The content of a YAML file. libyaml refuses names that are no valid Unicode, PyYAML does not."""
    return yaml.load(text, yaml.SafeLoader if "\\uDC" in text else _YamlLoader)


def _numbers(metrics: Any) -> dict[str, dict[str, float]]:
    if not isinstance(metrics, dict):
        return {}
    return {
        str(name): {str(key): value for key, value in numbers.items() if is_number(value)}
        for name, numbers in metrics.items()
        if isinstance(numbers, dict)
    }


def _parsed(overrides: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """{key: value}. The text of an override keeps quotes and number formats, so the composed value is taken, except of
    a config group, where it is a whole table and the text is the option's name."""
    parsed = {}
    for override in overrides if isinstance(overrides, list) else []:
        key, equals, text = str(override).partition("=")
        key = key.lstrip("+")
        if equals and not key.startswith("~"):
            value = _at(config, key)
            parsed[key] = text if value is None or isinstance(value[0], dict) else value[0]
    return parsed


def _at(config: Mapping[str, Any], key: str) -> tuple[Any] | None:
    """The value at a dotted key, in a tuple, because null is a value; None when there is no such key."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return (value,)


def _image_names(summary: Summary | None) -> list[str]:
    """What the record names as made, as far as it is a picture."""
    outputs = summary.outputs if summary is not None else []
    names = [str(output) for output in outputs] if isinstance(outputs, list) else []
    return [name for name in names if Path(name).suffix.lower() in WRITABLE]


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def _progress(path: Path) -> dict[str, tuple[Path, int]]:
    """The newest picture of each name in images/."""
    newest: dict[str, tuple[Path, int]] = {}
    for file in sorted(file for file in (path / "images").glob("*.jpg") if is_input(file.name)):
        name, _, step = file.stem.rpartition("_")
        if name and step.isdecimal() and int(step) >= newest.get(name, (file, -1))[1]:
            newest[name] = (file, int(step))
    return newest


def _choices(hydra: Mapping[str, Any]) -> dict[str, Any]:
    choices = (_at(hydra, "hydra.runtime.choices") or (None,))[0]
    return {str(key): value for key, value in choices.items()} if isinstance(choices, dict) else {}


def _origin(hydra: Mapping[str, Any]) -> Path | None:
    folder = (_at(hydra, "hydra.runtime.cwd") or (None,))[0]
    return Path(folder) if isinstance(folder, str) and folder else None


def _from(spec: str, origin: Path | None) -> str:
    """A file or folder as seen from here; a path that was absolute, or a built-in name, stays."""
    if origin is None or is_builtin(spec) or spec.startswith("~"):
        return spec
    return os.path.join(origin, spec)


def _has_record(path: Path) -> bool:
    return (path / "summary.json").is_file()


def _nearby(folder: Path) -> str:
    """The end of the sentence that this folder holds no runs: which one may have been meant."""
    if _has_record(folder):
        return f": it is itself one run; give the sweep's folder, {folder.parent}"
    sweeps = sorted(entry for entry in folder.iterdir() if entry.is_dir() and job_folders(entry))
    return f"; did you mean {sweeps[-1]}?" if sweeps else ": give the folder of a sweep, such as multirun/nstexp/DATE"


def _is_whole(row: Mapping[Any, Any], terms: Sequence[str]) -> bool:
    """Whether a line of losses.csv was written to its end and holds numbers; a missing last column was cut off."""
    if None in row or None in row.values() or not str(row.get("step", "")).isdecimal() or "image" not in row:
        return False
    return all(row[term] == "" or _float(row[term]) is not None for term in terms)


def _float(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _curve(picture: str, rows: Sequence[Mapping[str, str]], terms: Sequence[str]) -> Curve:
    if len(rows) > MOST_POINTS:
        rows = [rows[round(n * (len(rows) - 1) / (MOST_POINTS - 1))] for n in range(MOST_POINTS)]
    columns = {term: [_brief(row[term]) for row in rows] for term in terms}
    seconds = [_brief(row.get("seconds")) for row in rows]
    return Curve(
        picture=picture,
        steps=[int(row["step"]) for row in rows],
        seconds=seconds if any(value is not None for value in seconds) else [],
        terms={term: values for term, values in columns.items() if any(value is not None for value in values)},
    )


def _brief(text: str | None) -> float | None:
    """Six digits are more than a chart shows."""
    value = _float(text)
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
