"""report.html: a single file with all data of the report, which opens from disk.

`page_data` turns jobs into plain lists and dictionaries. `write_page` inserts these, the style sheet, the script and
plotly into page.html. page.js creates every element from the data as text and never as markup, so that a configuration
or a file name cannot inject HTML.
"""

import base64
import html
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plotly.offline import get_plotlyjs

from nstexp.console import bar
from nstexp.core.runtime.files import write_atomically
from nstexp.media.sheet import thumbnail
from nstexp.outputs import WHY_THE_PAINTING_IS_NOT_0
from nstexp.report.jobs import (
    INPUTS,
    NO_RECORD,
    SWEEP,
    Curve,
    Job,
    as_text,
    find_inputs,
    inputs_of,
    is_number,
    learned_by,
    learned_names,
    loss_terms,
    read_curves,
    unique,
    varying,
)
from nstexp.report.tables import ABOUT_PICTURES, number_columns

# Up to FULL_SIZE_FOR pictures, thumbnails have THUMBNAIL_PX on the longer side; more pictures get smaller ones.
THUMBNAIL_PX, LEAST_THUMBNAIL_PX, FULL_SIZE_FOR = 320, 96, 60
JPEG_QUALITY = 80
MOST_NAMED = 12  # jobs that one sentence names
MOST_REFERENCES = 24  # rows of references; more would hide the runs
SHARED = ("task", "method", "encoder", "precision", "device", "seed")
COMPARED_VERSIONS = ("nstexp", "torch")
HIGHER_IS_BETTER = ("ssim",)  # for records that do not contain this list


def write_page(jobs: Sequence[Job], path: Path, folders: Sequence[Path] = ()) -> None:
    """Write report.html.

    Args:
        jobs: the jobs of the report.
        path: the file.
        folders: the folders of the sweeps, for the title.

    Raises:
        UserError: the file cannot be written.
    """
    data = page_data(jobs, path.parent, folders)
    parts = {
        "title": html.escape(data["title"]),
        "style": _resource("page.css"),
        "script": _resource("page.js"),
        "plotly": get_plotlyjs(),
        "data": _as_json(data),
    }
    pieces = re.split(r"\{\{(\w+)\}\}", _resource("page.html"))
    text = "".join(parts[piece] if n % 2 else piece for n, piece in enumerate(pieces))
    # On Linux, a file name may not be valid Unicode.
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", errors="xmlcharrefreplace"))


def page_data(jobs: Sequence[Job], output: Path, folders: Sequence[Path] = ()) -> dict[str, Any]:
    """The data that page.js shows.

    Args:
        jobs: the jobs of the report.
        output: the page's folder; links are relative to it.
        folders: the folders of the sweeps.

    Returns:
        A dictionary of JSON values. "Image" stands for an index into `images`.
        title, made, folders: for the head of the page.
        statuses: {status: count}; seconds: total time of all runs; started: start of the first run.
        shared: [[name, value]]: facts that all runs have in common.
        notices: sentences about damaged and missing files, and other remarks.
        axes: [{key, values, images}]: the varying keys; images is {value: [image]}.
        numbers: [{name, label, group, better, title}]; better is "lower", "higher", or null for a number that has no
            direction or is not comparable between these jobs.
        runs: one entry per job: label, job, sweep, link, status, error, values {axis: text or null}, config (the keys
            that differ between runs), seed, seconds, memory_mb, gpu_memory_mb, started.
        rows: one entry per job and picture: run, picture, image (or null), link, note, numbers.
        references: [{kind, picture, values, numbers}]; reference_note: an explanation of them, or null.
        inputs: [{kind, name, image, link, picture, constant}]; picture is null for an input of all pictures; constant
            is true if all jobs have the same value.
        curves: [{run, picture, steps, seconds, terms}].
        config: {key: text}: the keys that are equal in all runs.
        images: [{src, width, height}]: thumbnails as data URLs.
    """
    keys = varying(jobs)
    entries = [_entry(job) for job in jobs]
    images = _Images(output, entries)
    rows = [row for n, entry in enumerate(entries) for row in _rows(n, entry, images)]
    references, too_many = _references(jobs, keys)
    common, differing = _configs(jobs)
    names = [folder.resolve().name for folder in folders]
    return {
        "title": ", ".join(names) or "report",
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "folders": [{"name": name, "link": images.link(f)} for name, f in zip(names, folders, strict=True)],
        "statuses": {status: sum(job.status == status for job in jobs) for status in unique(j.status for j in jobs)},
        "seconds": sum(s for job in jobs if is_number(s := job.recorded("seconds")) and math.isfinite(s)),
        "started": min((s for job in jobs if isinstance(s := job.recorded("started"), str)), default=None),
        "shared": _shared(jobs),
        "notices": [*_notices(entries), *images.problems(entries), *too_many],
        "axes": [_axis(key, entries, images) for key in keys],
        "numbers": _numbers(jobs, rows),
        "runs": [_run(job, keys, config, images) for job, config in zip(jobs, differing, strict=True)],
        "rows": rows,
        "references": references,
        "reference_note": WHY_THE_PAINTING_IS_NOT_0 if any(row["kind"] == "painting" for row in references) else None,
        "inputs": _inputs(entries, images),
        "curves": [{"run": n, **asdict(curve)} for n, entry in enumerate(entries) for curve in entry.curves],
        "config": common,
        "images": images.encoded,
    }


@dataclass
class _Entry:
    """A job with its pictures and curves.

    Args:
        pictures: picture -> (file or None, note); a run without pictures has the key "".
        inputs: tuples of (one of INPUTS, picture, file).
        names: file -> name of the styles that the job's network has learned.
        curves: the loss curves.
        damaged_lines: number of damaged lines in losses.csv.
    """

    job: Job
    pictures: dict[str, tuple[Path | None, str | None]]
    inputs: list[tuple[str, str, Path]]
    names: dict[Path, str]
    curves: list[Curve]
    damaged_lines: int


def _entry(job: Job) -> _Entry:
    curves, damaged_lines = read_curves(job.path)
    pictures = _pictures(job, curves)
    learned = learned_by(job)
    files_of = {key: find_inputs(key, job.text(key) or "", job.origin, learned) for key in INPUTS}
    inputs = [(key, name, file) for key in INPUTS for name in pictures for file in inputs_of(files_of[key], key, name)]
    names = learned_names(job.text("style") or "", job.origin, learned)
    return _Entry(job, pictures, inputs, names, curves, damaged_lines)


class _Images:
    """One thumbnail per picture file, and links to the files.

    Args:
        output: the page's folder.
        entries: the entries whose pictures and inputs are shown; thumbnails are smaller if there are many.
    """

    def __init__(self, output: Path, entries: Sequence[_Entry]) -> None:
        self.output = output
        self.encoded: list[dict[str, Any]] = []
        wanted = unique(file for entry in entries for file in _files(entry))
        px = THUMBNAIL_PX * math.sqrt(FULL_SIZE_FOR / max(FULL_SIZE_FOR, len(wanted)))
        self.px = max(LEAST_THUMBNAIL_PX, round(px))
        self._numbers = {file: self._add(file) for file in bar(wanted, desc="pictures", delay=2, leave=False)}

    def number(self, file: Path | None) -> int | None:
        """The index of a file's thumbnail in `encoded`; None for a damaged picture."""
        return self._numbers[file] if file is not None else None

    def link(self, file: Path | None) -> str | None:
        """The URL of a file, relative to the page."""
        if file is None:
            return None
        try:
            return quote(os.fsencode(Path(os.path.relpath(file, self.output)).as_posix()))
        except ValueError:  # a different drive on Windows
            return Path(file).absolute().as_uri()

    def problems(self, entries: Sequence[_Entry]) -> list[str]:
        """A sentence for each damaged picture."""
        owners = {file: _named(entry.job) for entry in entries for file in _files(entry)}
        damaged = [file for file, number in self._numbers.items() if number is None]
        return [f"{owners[file]}: {file.name} is damaged and is not shown" for file in damaged]

    def _add(self, file: Path) -> int | None:
        image = thumbnail(file, self.px)
        if image is None:
            return None
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
        code = base64.b64encode(buffer.getvalue()).decode()
        self.encoded.append({"src": f"data:image/jpeg;base64,{code}", "width": image.width, "height": image.height})
        return len(self.encoded) - 1


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _as_json(data: Any) -> str:
    """JSON that is safe inside <script>: ASCII without the special characters of HTML."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _number(value: Any) -> float | str | None:
    """A number for JSON, which cannot express infinity and NaN: these become texts. None for other values."""
    if not is_number(value):
        return None
    return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


def _pictures(job: Job, curves: Sequence[Curve]) -> dict[str, tuple[Path | None, str | None]]:
    """Picture -> (file, note), for all pictures that a job has made or begun.

    An unfinished picture is represented by its newest picture in images/, and a training by that of its validation.
    """
    training = job.progress.get("validation")
    begun = [name for name in job.progress if name != "validation"]
    names = unique([*job.metrics, *job.pictures, *begun, *(curve.picture for curve in curves)])
    result: dict[str, tuple[Path | None, str | None]] = {}
    for name in names or (["validation"] if training else [""]):
        file, step = job.progress.get(name) or training or (None, None)
        if name in job.pictures:
            result[name] = (job.pictures[name], None)
        else:
            result[name] = (file, None if step is None else f"step {step}")
    return result


def _files(entry: _Entry) -> list[Path]:
    """Every file that gets a thumbnail."""
    made = [file for file, _ in entry.pictures.values() if file is not None]
    return [*made, *(file for _, _, file in entry.inputs)]


def _rows(run: int, entry: _Entry, images: _Images) -> list[dict[str, Any]]:
    """The `rows` of one job, see `page_data`; unfinished pictures have the last numbers of their curves."""
    last: dict[str, dict[str, Any]] = {
        curve.picture: {term: values[-1] for term, values in curve.terms.items()} for curve in entry.curves
    }
    rows = []
    for name, (file, note) in entry.pictures.items():
        number = images.number(file)
        numbers = entry.job.metrics.get(name) or last.get(name, {})
        rows.append({
            "run": run,
            "picture": name,
            "image": number,
            "link": images.link(file),
            "note": "damaged" if file is not None and number is None else note,
            "numbers": {key: _number(value) for key, value in numbers.items() if value is not None},
        })  # fmt: skip
    return rows


def _run(job: Job, keys: Sequence[str], config: Mapping[str, str], images: _Images) -> dict[str, Any]:
    """The entry of one job in `runs`, see `page_data`."""
    seed = job.recorded("seed")
    return {
        "label": job.name,
        "job": job.number,
        "sweep": job.overrides.get(SWEEP),
        "link": f"{images.link(job.path)}/",
        "status": job.status,
        "error": job.error,
        "values": {key: job.text(key) for key in keys},
        "config": config,
        "seed": None if seed is None else str(seed),
        "seconds": _number(job.recorded("seconds")),
        "memory_mb": _number(job.recorded("peak_memory_mb")),
        "gpu_memory_mb": _number(job.recorded("peak_gpu_memory_mb")),
        "started": None if job.recorded("started") is None else str(job.recorded("started")),
    }


def _axis(key: str, entries: Sequence[_Entry], images: _Images) -> dict[str, Any]:
    """The entry of one varying key in `axes`, see `page_data`."""
    values = unique(entry.job.text(key) for entry in entries)
    by_value: dict[str, list[int]] = {}
    for entry in entries:
        files = [file for kind, _, file in entry.inputs if kind == key]
        numbers = by_value.setdefault(entry.job.text(key) or "", [])
        numbers += [n for file in unique(files) if (n := images.number(file)) is not None and n not in numbers]
    return {"key": key, "values": values, "images": by_value if key in INPUTS else {}}


def _inputs(entries: Sequence[_Entry], images: _Images) -> list[dict[str, Any]]:
    """All content and style pictures of the jobs. With several contents, each content belongs to its result."""
    results_of: dict[tuple[str, Path], set[str]] = {}
    for entry in entries:
        for key, name, file in entry.inputs:
            results_of.setdefault((key, file), set()).add(name)
    several = len({name for entry in entries for name in entry.pictures}) > 1
    names_of_styles = {file: name for entry in entries for file, name in entry.names.items()}
    constant = {key: len({entry.job.text(key) for entry in entries} - {None}) == 1 for key in INPUTS}
    return [
        {
            "kind": key,
            "name": names_of_styles.get(file, file.name),
            "image": images.number(file),
            "link": images.link(file),
            "picture": min(names) if several and len(names) == 1 and key == "content" else None,
            "constant": constant[key],
        }
        for (key, file), names in results_of.items()
        if images.number(file) is not None
    ]


def _numbers(jobs: Sequence[Job], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`numbers` of `page_data`: every number of the rows, its meaning, and which direction is better."""
    names = unique(name for row in rows for name in row["numbers"])
    labels = number_columns(jobs, names)
    terms = unique(term for job in jobs for term in loss_terms(job.config))
    described = {name: unique(d for job in jobs if (d := _described(job, name))) for name in names}
    result = []
    for name in names:
        is_term = name == "total" or any(name == term or name.startswith(f"{term}_style") for term in terms)
        group = "losses" if is_term else "measures" if described[name] or name in HIGHER_IS_BETTER else "picture"
        better, title = _direction(jobs, name, group, described[name])
        result.append({"name": name, "label": labels[name], "group": group, "better": better, "title": title})
    return result


def _described(job: Job, name: str) -> str | None:
    """The job's description of a measure, see `Summary.measured_with`."""
    measured = job.recorded("measured_with")
    return str(measured[name]) if isinstance(measured, dict) and name in measured else None


def _higher_is_better(job: Job) -> Sequence[str]:
    """The measures of the job for which a higher value is better."""
    recorded = job.recorded("higher_is_better")
    return recorded if isinstance(recorded, list) else HIGHER_IS_BETTER


def _direction(jobs: Sequence[Job], name: str, group: str, described: Sequence[str]) -> tuple[str | None, str | None]:
    """(better, title) of a number: "lower", "higher", or None if it has no direction or the jobs are not comparable."""
    title = "; ".join(described) or None
    if name == "total":
        return None, "the weighted sum of the terms: not comparable between runs with different weights"
    if group == "picture" or name in ABOUT_PICTURES:
        return None, title
    if group == "losses" and not _same_term(jobs, name):
        return None, "unweighted; not comparable, as the runs have different encoders or settings of the term"
    if len(described) > 1:
        return None, f"not comparable, as the runs were measured differently: {title}"
    directions = unique(name in _higher_is_better(job) for job in jobs if _described(job, name) is not None)
    if len(directions) > 1:
        return None, f"not comparable, as the runs do not agree on which direction is better: {title}"
    better = "higher" if (directions or [name in HIGHER_IS_BETTER])[0] else "lower"
    return better, f"{title or ('unweighted' if group == 'losses' else name)}; {better} is better"


def _same_term(jobs: Sequence[Job], name: str) -> bool:
    """Whether all jobs with the term compute the same formula on the same layers of the same encoder."""
    with_term = [job for job in jobs if any(name in numbers for numbers in job.metrics.values())]
    settings = {as_text(job.config.get("loss")) for job in with_term if not loss_terms(job.config)}
    settings |= {as_text(loss_terms(job.config).get(name.partition("_style")[0])) for job in with_term}
    return len(settings) <= 1 and len({str(job.recorded("encoder")) for job in with_term}) <= 1


def _references(jobs: Sequence[Job], keys: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """`references` of `page_data`, and a list of notices.

    Jobs with equal references share a row, which has the values that these jobs have in common. If there are too many
    rows, there are none, but a notice.
    """
    groups: dict[tuple[str, str, str], list[Job]] = {}
    numbers: dict[tuple[str, str, str], dict[str, float]] = {}
    for job in jobs:
        for picture, kind, measured in _reference_numbers(job):
            # Every run measures its references again, so that equal ones can differ by rounding.
            rounded = json.dumps({key: f"{value:.5g}" for key, value in measured.items()})
            groups.setdefault((picture, kind, rounded), []).append(job)
            numbers.setdefault((picture, kind, rounded), measured)
    if len(groups) > MOST_REFERENCES:
        return [], [f"{len(groups)} different photos and paintings are too many to show their scores beside the runs"]
    rows = []
    for group, group_jobs in groups.items():
        picture, kind, _ = group
        texts = {key: {job.text(key) for job in group_jobs} for key in keys}
        rows.append({
            "picture": picture,
            "kind": kind,
            "values": {key: values.pop() if len(values) == 1 else None for key, values in texts.items()},
            "numbers": {name: _number(value) for name, value in numbers[group].items()},
        })  # fmt: skip
    return rows, []


def _reference_numbers(job: Job) -> list[tuple[str, str, dict[str, float]]]:
    """The recorded scores of the job's photos and paintings: (picture, kind, numbers)."""
    found = []
    references = job.recorded("references")
    for picture, kinds in references.items() if isinstance(references, dict) else []:
        for kind, numbers in kinds.items() if isinstance(kinds, dict) else []:
            if isinstance(numbers, dict):
                found.append((picture, kind, {name: value for name, value in numbers.items() if is_number(value)}))
    return found


def _configs(jobs: Sequence[Job]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Configuration keys and their values as text: those that are equal in all jobs, and per job those that differ."""
    flat = [dict(_flattened(job.config)) for job in jobs]
    known = [config for config in flat if config]
    keys = unique(key for config in known for key in config)
    common = {key: known[0][key] for key in keys if len({config.get(key) for config in known}) == 1}
    return common, [{key: value for key, value in config.items() if key not in common} for config in flat]


def _flattened(config: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """The dotted keys of a configuration, and their values as text."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{name}.")
        elif name != "run_dir":  # it always differs
            yield name, as_text(value)


def _shared(jobs: Sequence[Job]) -> list[list[str]]:
    """Names and values of the facts that are the same for every recorded job."""
    recorded = [job for job in jobs if job.summary is not None]
    facts = {name: {str(job.recorded(name)) for job in recorded} for name in SHARED}
    versions = [_versions(job) for job in recorded]
    packages = unique(package for of_job in versions for package in of_job)
    facts |= {package: {of_job.get(package, "None") for of_job in versions} for package in packages}
    return [[name, texts.pop()] for name, texts in facts.items() if len(texts) == 1 and texts != {"None"}]


def _versions(job: Job) -> dict[str, str]:
    """Package -> recorded version."""
    recorded = job.recorded("versions")
    return {str(name): str(version) for name, version in recorded.items()} if isinstance(recorded, dict) else {}


def _named(*jobs: Job) -> str:
    """The names of jobs in a notice: `job 3`, `jobs 1, 2`; with several sweeps `job NAME/3`."""
    names = [f"{job.overrides[SWEEP]}/{job.number}" if SWEEP in job.overrides else str(job.number) for job in jobs]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"job{'s' if len(names) > 1 else ''} {', '.join(names[:MOST_NAMED])}{more}"


def _notices(entries: Sequence[_Entry]) -> list[str]:
    """Sentences about missing and damaged files, unfinished runs and different versions."""
    jobs = [entry.job for entry in entries]
    unrecorded = [(job, str(job.error)) for job in jobs if job.status == NO_RECORD]
    running = [
        (job, "still running, or killed; the page shows its results so far") for job in jobs if job.status == "running"
    ]
    damaged = [(job, problem) for job in jobs for problem in job.problems]
    gone = [(job, f"{', '.join(job.missing)} was made and is no longer there") for job in jobs if job.missing]
    # A run that is still running may not have finished its last line.
    lines = [(e.job, e.damaged_lines) for e in entries if e.damaged_lines > (e.job.status == "running")]
    cut = [(job, f"losses.csv has damaged lines, which were left out ({count})") for job, count in lines]
    return [*_grouped([*unrecorded, *running, *damaged, *gone, *cut]), *_mixed_versions(jobs), *_lost_inputs(entries)]


def _grouped(notices: Sequence[tuple[Job, str]]) -> list[str]:
    """Notices as sentences; jobs with the same text share a sentence."""
    texts = unique(text for _, text in notices)
    return [f"{_named(*(job for job, other in notices if other == text))}: {text}" for text in texts]


def _mixed_versions(jobs: Sequence[Job]) -> list[str]:
    """A sentence for each package of which the jobs used different versions."""
    sentences = []
    for package in COMPARED_VERSIONS:
        recorded = [(job, version) for job in jobs if (version := _versions(job).get(package))]
        versions = unique(version for _, version in recorded)
        if len(versions) > 1:
            groups = [f"{v} ({_named(*(job for job, other in recorded if other == v))})" for v in versions]
            sentences.append(f"different versions of {package}: {', '.join(groups)}")
    return sentences


def _lost_inputs(entries: Sequence[_Entry]) -> list[str]:
    """Sentences about inputs that cannot be found. Failed jobs are left out, since their error already reports it."""
    done = [entry for entry in entries if entry.job.status == "completed" and entry.job.pictures]
    lost = unique(
        (key, text)
        for entry in done
        for key in INPUTS
        if (text := entry.job.text(key)) and not any(kind == key for kind, _, _ in entry.inputs)
    )
    return [f"{key}={text} is not shown: not found, or more than a few pictures" for key, text in lost]
