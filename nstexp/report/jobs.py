"""Read the run folders of sweeps into jobs: settings, results, and notes on damaged files."""

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
SWEEP = "sweep"  # the key with the name of a job's sweep, if several sweeps are compared
INPUTS = ("content", "style")
MOST_INPUTS = 3  # a value of `content` or `style` with more pictures is shown without pictures
NOT_TERMS = ("image", "step", "seconds", "lr", "images_per_second", "data_wait")  # columns of losses.csv
MOST_POINTS = 200  # points of a curve

# The loader of libyaml is ten times as fast, but some builds of PyYAML lack it.
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
        """The value of a config key as a user would type it; None if it was not recorded."""
        if key in self.overrides:
            return as_text(self.overrides[key])
        value = _at(self.config, key)
        if value is not None and not isinstance(value[0], dict):
            return as_text(value[0])
        return as_text(self.choices[key]) if key in self.choices else None

    def recorded(self, name: str) -> Any:
        """A field of the summary; None without a summary."""
        return getattr(self.summary, name, None)


@dataclass
class Curve:
    """The loss curves of one picture.

    Args:
        steps: the step of each point.
        seconds: the time of each point; empty if it was not recorded.
        terms: loss term -> values, None where there is no number.
    """

    picture: str
    steps: list[int]
    seconds: list[float | None]
    terms: dict[str, list[float | None]]


def job_folders(folder: Path) -> list[Path]:
    """The run folders of a sweep, at any depth, in natural order (2 before 10), without those of sweeps inside it."""
    entries = list(_folders_in(folder))
    runs = [entry for entry in entries if (entry / ".hydra").is_dir() or _has_record(entry)]
    parents = {parent for entry in runs for parent in entry.parents}
    # A numbered folder is a job that died before it wrote any file, unless it contains jobs and is named after a value.
    runs += [e for e in entries if e.parent == folder and e.name.isdecimal() and e not in parents and e not in runs]
    return natsorted(runs, key=lambda entry: entry.relative_to(folder).as_posix())


def _folders_in(folder: Path) -> Iterator[Path]:
    """All folders inside a folder, at any depth, without the folders inside links and inside other sweeps."""
    with os.scandir(folder) as entries:
        folders = [Path(entry.path) for entry in entries if is_input(entry.name) and entry.is_dir()]
    for entry in folders:
        yield entry
        if not entry.is_symlink() and not (entry / "multirun.yaml").is_file():
            with suppress(OSError):  # a folder without permission to read it
                yield from _folders_in(entry)


def read_sweep(folder: str | Path) -> list[Job]:
    """The jobs of a sweep, ordered by number.

    Raises:
        UserError: the folder does not exist or contains no runs.
    """
    folder = _existing(folder)
    paths = job_folders(folder)
    if not paths:
        raise UserError(f"{folder}: no runs in this folder{_nearby(folder)}")
    with_bar = bar(paths, desc="runs", unit="run", delay=2, leave=False)
    jobs = [_read_job(path, position, path.relative_to(folder).as_posix()) for position, path in enumerate(with_bar)]
    if len({job.number for job in jobs}) < len(jobs):  # jobs of several sweeps, or without numbers
        for position, job in enumerate(jobs):
            job.number = position
    return sorted(jobs, key=lambda job: job.number)


def read_sweeps(folders: Sequence[str | Path]) -> list[Job]:
    """The jobs of several sweeps, with the name of the sweep as the first override, SWEEP.

    The folder of a single run counts as a sweep of one job. For a single folder this is the same as `read_sweep`.

    Raises:
        UserError: a folder does not exist or contains no runs.
    """
    sweeps = unique(_existing(folder).resolve() for folder in folders)
    if len(sweeps) == 1:
        return read_sweep(sweeps[0])
    jobs = []
    for folder, name in zip(sweeps, _names(sweeps), strict=True):
        is_run = _has_record(folder) and not job_folders(folder)
        for job in [_read_job(folder, 0, folder.name)] if is_run else read_sweep(folder):
            job.overrides = {SWEEP: name, **{key: value for key, value in job.overrides.items() if key != SWEEP}}
            jobs.append(job)
    return jobs


def varying(jobs: Sequence[Job]) -> list[str]:
    """The overridden keys whose values differ between jobs, in the order of the overrides (the last varies fastest)."""
    keys = unique(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.text(key) for job in jobs} - {None}) > 1]


def read_curves(path: Path) -> tuple[list[Curve], int]:
    """Read losses.csv of a run folder.

    Returns:
        The curves, with at most MOST_POINTS points, and the number of damaged lines, which are left out.
    """
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
    """The input pictures that belong to one result, see `inputs_of`.

    Args:
        key: one of INPUTS; other keys have no files.
        value: the value of the key, from `Job.text`.
        name: the name of the result.
        origin: the folder to which relative paths refer.
        learned: the styles that `style` can name, see `learned_by`.
    """
    return inputs_of(find_inputs(key, value, origin, learned), key, name)


def find_inputs(key: str, value: str, origin: Path | None, learned: Mapping[str, Source] | None = None) -> list[Path]:
    """All pictures that a value of `content` or `style` names; empty if they no longer exist.

    Args: as for `input_files`.
    """
    if key not in INPUTS or not value:
        return []
    learned = learned if learned and key == "style" else {}
    try:
        return [path for spec in _specs(value, learned) for path in _pictures_of(spec, key, origin, learned)]
    except (UserError, OSError, ValueError):  # files that were moved, or a name that no file can have
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
    """The files that belong to one result: of several contents the file with the name of the result; otherwise all
    files, or none if there are more than MOST_INPUTS."""
    if key == "content" and len(files) > 1:
        return [file for file in files if file.stem == name][:1]
    return list(files) if len(files) <= MOST_INPUTS else []


def as_text(value: Any) -> str:
    """A value of the configuration as a user would type it."""
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
    """An item of a list; in quotes if it contains a comma or a quote."""
    return json.dumps(item, ensure_ascii=False) if isinstance(item, str) and re.search('[,"]', item) else as_text(item)


def _items(text: str) -> list[str]:
    """The items of a list in the format of `as_text`; any other text is the only item."""
    if not (text.startswith("[") and text.endswith("]")):
        return [text]
    items = re.findall(r'"(?:[^"\\]|\\.)*"|[^,]+', text[1:-1])
    return [json.loads(item) if item.startswith('"') else item.strip() for item in items]


def is_number(value: Any) -> bool:
    """Whether a value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def unique(items: Iterable[Any]) -> list[Any]:
    """The items without duplicates, in order."""
    return list(dict.fromkeys(items))


def loss_terms(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Loss term -> settings, from a configuration."""
    terms = config.get("loss")
    return terms if isinstance(terms, Mapping) else {}


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters; the middle is left out, since texts mostly differ at their ends."""
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[len(text) - (most - most // 2 - 1) :]}"


def _existing(folder: str | Path) -> Path:
    """The path of a folder; raises a UserError if it does not exist."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    return folder


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parent folders as are needed to tell them apart."""
    deepest = max(len(folder.parts) for folder in folders)
    for depth in range(1, deepest + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len({*names}) == len(names):
            break
    return names


def _read_job(path: Path, position: int, name: str) -> Job:
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
    )


def _job_number(name: str, hydra: Mapping[str, Any], position: int) -> int:
    """The number in the folder's name, or the number that Hydra has recorded, or the position."""
    if name.isdecimal():
        return int(name)
    recorded: Any = (_at(hydra, "hydra.job.num") or (None,))[0]
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
            value = _at(config, key)
            parsed[key] = text if value is None or isinstance(value[0], dict) else value[0]
    return parsed


def _at(config: Mapping[str, Any], key: str) -> tuple[Any] | None:
    """The value at a dotted key, in a tuple, because the value may be None; None if there is no such key."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return (value,)


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
    choices = (_at(hydra, "hydra.runtime.choices") or (None,))[0]
    return {str(key): value for key, value in choices.items()} if isinstance(choices, dict) else {}


def _origin(hydra: Mapping[str, Any]) -> Path | None:
    folder = (_at(hydra, "hydra.runtime.cwd") or (None,))[0]
    return Path(folder) if isinstance(folder, str) and folder else None


def _from(spec: str, origin: Path | None) -> str:
    """A path of the configuration, relative to `origin`; absolute paths and built-in names stay as they are."""
    if origin is None or is_builtin(spec) or spec.startswith("~"):
        return spec
    return os.path.join(origin, spec)


def _has_record(path: Path) -> bool:
    return (path / "summary.json").is_file()


def _nearby(folder: Path) -> str:
    """The end of the error message for a folder without runs: a folder that the user may have meant."""
    if _has_record(folder):
        return f": it is itself one run; give the sweep's folder, {folder.parent}"
    sweeps = sorted(entry for entry in folder.iterdir() if entry.is_dir() and job_folders(entry))
    return f"; did you mean {sweeps[-1]}?" if sweeps else ": give the folder of a sweep, such as multirun/nstexp/DATE"


def _is_whole(row: Mapping[Any, Any], terms: Sequence[str]) -> bool:
    """Whether a line of losses.csv is complete and contains numbers; an incomplete line lacks its last columns."""
    if None in row or None in row.values() or not str(row.get("step", "")).isdecimal() or "image" not in row:
        return False
    return all(row[term] == "" or _float(row[term]) is not None for term in terms)


def _float(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _curve(picture: str, rows: Sequence[Mapping[str, str]], terms: Sequence[str]) -> Curve:
    """The curves of one picture, with evenly chosen rows if there are more than MOST_POINTS."""
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
    """A finite number rounded to six digits, which is more than a chart shows; None for other texts."""
    value = _float(text)
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
