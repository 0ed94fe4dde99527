"""report.html: one page that holds everything and opens from disk.

`page_data` turns jobs into what the page shows, as plain lists and dictionaries; `write_page` puts that, the style, the
script and plotly into page.html. page.js makes every element from that data as text, never as markup, so that what a
configuration or a file name contains stays text.
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

THUMBNAIL_PX, LEAST_THUMBNAIL_PX, FULL_SIZE_FOR = 320, 96, 60  # up to that many pictures are shown at full size
JPEG_QUALITY = 80
MOST_NAMED = 12  # jobs in one sentence
MOST_REFERENCES = 24  # rows; more would hide the runs
SHARED = ("task", "method", "encoder", "precision", "device", "seed")
COMPARED_VERSIONS = ("nstexp", "torch")
HIGHER_IS_BETTER = ("ssim",)  # of records that do not say which measures are better when they are higher


def write_page(jobs: Sequence[Job], path: Path, folders: Sequence[Path] = ()) -> None:
    """The page of some jobs.

    Args:
        folders: the sweeps' folders, for the title.

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
    # A name that is no valid Unicode (a file's, on Linux) must not stop the page.
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", errors="xmlcharrefreplace"))


def page_data(jobs: Sequence[Job], output: Path, folders: Sequence[Path] = ()) -> dict[str, Any]:
    """What page.js shows.

    Args:
        output: the page's folder; links are relative to it.

    Returns a dictionary of JSON values:
        title, made, folders: of the head.
        statuses: {status: count}; seconds: of all runs together; started: of the first.
        shared: [[name, value]] of what all runs have in common.
        notices: sentences on what was left out.
        axes: [{key, values, images}]: the varying keys; images is {value: [number of an image]}.
        numbers: [{name, label, group, better, title}]; better is "lower", "higher" or null: no direction, or not
            comparable between these jobs.
        runs: one for each job: label, job, sweep, link, status, error, values {axis: text or null}, config (what
            differs between runs), seed, seconds, memory_mb, gpu_memory_mb, started.
        rows: one for each job and picture: run, picture, image (number or null), link, note, numbers.
        references: [{kind, picture, values, numbers}]; reference_note: what to know of them, or null.
        inputs: [{kind, name, image, link, picture}]; picture is null where it belongs to all.
        curves: [{run, picture, steps, seconds, terms}].
        config: {key: text} of what is the same in all runs.
        images: [{src, width, height}], thumbnails as data URLs.
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
    """A job with what the page shows of it besides its numbers.

    pictures: {picture: (file or None, note)}; "" stands for a run without one.
    inputs: [(one of INPUTS, picture, file)].
    names: {file: name} of styles that the job's network has learned.
    damaged_lines: of losses.csv.
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
    given = {key: find_inputs(key, job.text(key) or "", job.origin, learned) for key in INPUTS}
    inputs = [(key, name, file) for key in INPUTS for name in pictures for file in inputs_of(given[key], key, name)]
    names = learned_names(job.text("style") or "", job.origin, learned)
    return _Entry(job, pictures, inputs, names, curves, damaged_lines)


class _Images:
    """Thumbnails of files, each once, and links to the files.

    Args:
        output: the page's folder.
        entries: whose pictures and inputs there will be; their number decides the size.
    """

    def __init__(self, output: Path, entries: Sequence[_Entry]) -> None:
        self.output, self.encoded = output, []
        wanted = unique(file for entry in entries for file in _files(entry))
        px = THUMBNAIL_PX * math.sqrt(FULL_SIZE_FOR / max(FULL_SIZE_FOR, len(wanted)))
        self.px = max(LEAST_THUMBNAIL_PX, round(px))
        self._numbers = {file: self._add(file) for file in bar(wanted, desc="pictures", delay=2, leave=False)}

    def number(self, file: Path | None) -> int | None:
        """The place in `encoded`; None for a picture that is damaged."""
        return self._numbers[file] if file is not None else None

    def link(self, file: Path | None) -> str | None:
        """A relative URL."""
        if file is None:
            return None
        try:
            return quote(os.fsencode(Path(os.path.relpath(file, self.output)).as_posix()))
        except ValueError:  # another drive of Windows
            return Path(file).absolute().as_uri()

    def problems(self, entries: Sequence[_Entry]) -> list[str]:
        """A sentence on each damaged picture."""
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
    """JSON that can stand inside <script>: ASCII, and without the characters that HTML knows."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _number(value: Any) -> float | str | None:
    """JSON has no words for what is not finite."""
    if not is_number(value):
        return None
    return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


def _pictures(job: Job, curves: Sequence[Curve]) -> dict[str, tuple[Path | None, str | None]]:
    """{picture: (file, note)} of all that a job made or began; the newest of images/ stands in for what is not there.

    The pictures of a training are those of its validation.
    """
    training = job.progress.get("validation")
    begun = [name for name in job.progress if name != "validation"]
    names = unique([*job.metrics, *job.pictures, *begun, *(curve.picture for curve in curves)])
    found = {}
    for name in names or (["validation"] if training else [""]):
        file, step = job.progress.get(name) or training or (None, None)
        if name in job.pictures:
            found[name] = (job.pictures[name], None)
        else:
            found[name] = (file, None if step is None else f"step {step}")
    return found


def _files(entry: _Entry) -> list[Path]:
    """Every file that gets a thumbnail."""
    made = [file for file, _ in entry.pictures.values() if file is not None]
    return [*made, *(file for _, _, file in entry.inputs)]


def _rows(run: int, entry: _Entry, images: _Images) -> list[dict[str, Any]]:
    so_far = {curve.picture: {term: values[-1] for term, values in curve.terms.items()} for curve in entry.curves}
    rows = []
    for name, (file, note) in entry.pictures.items():
        number = images.number(file)
        found = entry.job.metrics.get(name) or so_far.get(name, {})
        rows.append({
            "run": run,
            "picture": name,
            "image": number,
            "link": images.link(file),
            "note": "damaged" if file is not None and number is None else note,
            "numbers": {key: _number(value) for key, value in found.items() if value is not None},
        })  # fmt: skip
    return rows


def _run(job: Job, keys: Sequence[str], config: Mapping[str, str], images: _Images) -> dict[str, Any]:
    seed = job.recorded("seed")
    return {
        "label": job.name,
        "job": job.number,
        "sweep": job.overrides.get(SWEEP),
        "link": images.link(job.path) + "/",
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
    values = unique(entry.job.text(key) for entry in entries)
    shown: dict[str, list[int]] = {}
    for entry in entries:
        files = [file for kind, _, file in entry.inputs if kind == key]
        found = shown.setdefault(entry.job.text(key) or "", [])
        found += [n for file in unique(files) if (n := images.number(file)) is not None and n not in found]
    return {"key": key, "values": values, "images": shown if key in INPUTS else {}}


def _inputs(entries: Sequence[_Entry], images: _Images) -> list[dict[str, Any]]:
    """Every content and style picture of the jobs; several contents belong to the picture that was made of them."""
    found: dict[tuple[str, Path], set[str]] = {}
    for entry in entries:
        for key, name, file in entry.inputs:
            found.setdefault((key, file), set()).add(name)
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
        for (key, file), names in found.items()
        if images.number(file) is not None
    ]


def _numbers(jobs: Sequence[Job], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every number of the rows: what it is, and which direction is better."""
    names = unique(name for row in rows for name in row["numbers"])
    labels = number_columns(jobs, names)
    terms = unique(term for job in jobs for term in loss_terms(job.config))
    described = {name: unique(d for job in jobs if (d := _described(job, name))) for name in names}
    found = []
    for name in names:
        is_term = name == "total" or any(name == term or name.startswith(f"{term}_style") for term in terms)
        group = "losses" if is_term else "measures" if described[name] or name in HIGHER_IS_BETTER else "picture"
        better, title = _direction(jobs, name, group, described[name])
        found.append({"name": name, "label": labels[name], "group": group, "better": better, "title": title})
    return found


def _described(job: Job, name: str) -> str | None:
    measured = job.recorded("measured_with")
    return str(measured[name]) if isinstance(measured, dict) and name in measured else None


def _higher_is_better(job: Job) -> Sequence[str]:
    """The job's measures of which more is better."""
    recorded = job.recorded("higher_is_better")
    return recorded if isinstance(recorded, list) else HIGHER_IS_BETTER


def _direction(jobs: Sequence[Job], name: str, group: str, described: Sequence[str]) -> tuple[str | None, str | None]:
    """(better, title): "lower", "higher", or None for what has no direction or is not comparable between the jobs."""
    title = "; ".join(described) or None
    if name == "total":
        return None, "the weighted sum of the terms: not comparable between runs with different weights"
    if group == "picture" or name in ABOUT_PICTURES:
        return None, title
    if group == "losses" and not _same_term(jobs, name):
        return None, "unweighted; not comparable between these runs, whose settings of the term or encoders differ"
    if len(described) > 1:
        return None, f"not comparable, as the runs were measured differently: {title}"
    directions = unique(name in _higher_is_better(job) for job in jobs if _described(job, name) is not None)
    if len(directions) > 1:
        return None, f"not comparable, as the runs do not agree on which direction is better: {title}"
    better = "higher" if (directions or [name in HIGHER_IS_BETTER])[0] else "lower"
    return better, f"{title or ('unweighted' if group == 'losses' else name)}; {better} is better"


def _same_term(jobs: Sequence[Job], name: str) -> bool:
    """Whether all jobs that have the term compute the same formula, on the same layers of the same encoder."""
    having = [job for job in jobs if any(name in numbers for numbers in job.metrics.values())]
    settings = {as_text(job.config.get("loss")) for job in having if not loss_terms(job.config)}
    settings |= {as_text(loss_terms(job.config).get(name.partition("_style")[0])) for job in having}
    return len(settings) <= 1 and len({str(job.recorded("encoder")) for job in having}) <= 1


def _references(jobs: Sequence[Job], keys: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """One row for each distinct reference, with the values that its jobs share; a sentence if there are too many."""
    groups: dict[tuple[str, str, str], list[Job]] = {}
    numbers: dict[tuple[str, str, str], dict[str, float]] = {}
    for job in jobs:
        for picture, kind, found in _reference_numbers(job):
            # Measured in each run again: the same up to rounding.
            rounded = json.dumps({key: f"{value:.5g}" for key, value in found.items()})
            groups.setdefault((picture, kind, rounded), []).append(job)
            numbers.setdefault((picture, kind, rounded), found)
    if len(groups) > MOST_REFERENCES:
        return [], [f"references: {len(groups)} different ones, too many to show beside the runs"]
    rows = []
    for (picture, kind, rounded), owners in groups.items():
        texts = {key: {job.text(key) for job in owners} for key in keys}
        values = {key: found.pop() if len(found) == 1 else None for key, found in texts.items()}
        found = numbers[picture, kind, rounded]
        rows.append({
            "picture": picture,
            "kind": kind,
            "values": values,
            "numbers": {name: _number(value) for name, value in found.items()},
        })  # fmt: skip
    return rows, []


def _reference_numbers(job: Job) -> list[tuple[str, str, dict[str, float]]]:
    found = []
    references = job.recorded("references")
    for picture, kinds in references.items() if isinstance(references, dict) else []:
        for kind, numbers in kinds.items() if isinstance(kinds, dict) else []:
            if isinstance(numbers, dict):
                found.append((picture, kind, {name: value for name, value in numbers.items() if is_number(value)}))
    return found


def _configs(jobs: Sequence[Job]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """({key: text} of what all jobs with a configuration share, and for each job of what differs)."""
    flat = [dict(_flattened(job.config)) for job in jobs]
    known = [config for config in flat if config]
    keys = unique(key for config in known for key in config)
    common = {key: known[0][key] for key in keys if len({config.get(key) for config in known}) == 1}
    return common, [{key: value for key, value in config.items() if key not in common} for config in flat]


def _flattened(config: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{name}.")
        elif name != "run_dir":  # every run has its own
            yield name, as_text(value)


def _shared(jobs: Sequence[Job]) -> list[list[str]]:
    """What every recorded job has in common."""
    recorded = [job for job in jobs if job.summary is not None]
    facts = {name: {str(job.recorded(name)) for job in recorded} for name in SHARED}
    versions = [_versions(job) for job in recorded]
    facts |= {name: {found.get(name, "None") for found in versions} for name in unique(n for v in versions for n in v)}
    return [[name, texts.pop()] for name, texts in facts.items() if len(texts) == 1 and texts != {"None"}]


def _versions(job: Job) -> dict[str, str]:
    found = job.recorded("versions")
    return {str(name): str(version) for name, version in found.items()} if isinstance(found, dict) else {}


def _named(*jobs: Job) -> str:
    """How a notice calls jobs: `job 3`, `jobs 1, 2`; of several sweeps `job NAME/3`."""
    names = [f"{job.overrides[SWEEP]}/{job.number}" if SWEEP in job.overrides else str(job.number) for job in jobs]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"job{'s' if len(names) > 1 else ''} {', '.join(names[:MOST_NAMED])}{more}"


def _notices(entries: Sequence[_Entry]) -> list[str]:
    """A sentence for everything that is not as the rest of the page suggests."""
    jobs = [entry.job for entry in entries]
    unrecorded = [(job, str(job.error)) for job in jobs if job.status == NO_RECORD]
    running = [
        (job, "still running, or killed; shown is what there is so far") for job in jobs if job.status == "running"
    ]
    damaged = [(job, problem) for job in jobs for problem in job.problems]
    gone = [(job, f"{', '.join(job.missing)} was made and is no longer there") for job in jobs if job.missing]
    # The last line of a run that still works may be half written.
    lines = [(e.job, e.damaged_lines) for e in entries if e.damaged_lines > (e.job.status == "running")]
    cut = [(job, f"losses.csv has damaged lines, which were left out ({count})") for job, count in lines]
    return [*_grouped([*unrecorded, *running, *damaged, *gone, *cut]), *_mixed_versions(jobs), *_lost_inputs(entries)]


def _grouped(found: Sequence[tuple[Job, str]]) -> list[str]:
    """One sentence for all jobs of which the same is to be said."""
    return [f"{_named(*(job for job, own in found if own == text))}: {text}" for text in unique(t for _, t in found)]


def _mixed_versions(jobs: Sequence[Job]) -> list[str]:
    sentences = []
    for package in COMPARED_VERSIONS:
        having = [(job, version) for job in jobs if (version := _versions(job).get(package))]
        versions = unique(version for _, version in having)
        if len(versions) > 1:
            groups = [f"{v} ({_named(*(job for job, own in having if own == v))})" for v in versions]
            sentences.append(f"different versions of {package}: {', '.join(groups)}")
    return sentences


def _lost_inputs(entries: Sequence[_Entry]) -> list[str]:
    """Inputs that are named and cannot be found; of a job that failed the error says so already."""
    done = [entry for entry in entries if entry.job.status == "completed" and entry.job.pictures]
    lost = unique(
        (key, text)
        for entry in done
        for key in INPUTS
        if (text := entry.job.text(key)) and not any(kind == key for kind, _, _ in entry.inputs)
    )
    return [f"{key}={text} is not shown: not found, or more than a few pictures" for key, text in lost]
