"""The data of the page, as plain lists and dictionaries."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nstexp.outputs import WHY_THE_PAINTING_IS_NOT_0
from nstexp.report.curves import MOST_POINTS
from nstexp.report.design import PICTURE, Design, axis_keys, design_of
from nstexp.report.evaluations import is_mean
from nstexp.report.inputs import INPUTS
from nstexp.report.job import SWEEP, Job, value_of
from nstexp.report.numbers import describe_numbers, objectives
from nstexp.report.page.entries import Entry, read_entry
from nstexp.report.page.images import Images
from nstexp.report.page.json_values import as_json_number
from nstexp.report.page.notices import equal_repeats, notices_of, versions_of
from nstexp.report.page.references import references_of
from nstexp.report.page.searches import searches_of
from nstexp.report.page.summaries import summaries
from nstexp.report.texts import as_text, is_number, unique

LEAST_POINTS, FULL_CURVES_FOR = 40, 60  # points of a curve, and runs whose curves have MOST_POINTS
SHARED = ("task", "method", "encoder", "precision", "device", "seed")


def page_data(
    jobs: Sequence[Job], output: Path, folders: Sequence[Path] = (), design: Design | None = None
) -> dict[str, Any]:
    """The data that the page's script shows.

    Args:
        jobs: the jobs of the report.
        output: the page's folder; links are relative to it.
        folders: the folders of the sweeps.
        design: of the jobs; None: that of `design_of`.

    Returns:
        A dictionary of JSON values. "Image" stands for an index into `images`.
        title, made, folders: for the head of the page.
        statuses: {status: count}; seconds: total time of all runs; started: start of the first run.
        shared: [[name, value]]: facts that all runs have in common.
        notices: sentences about damaged and missing files, and other remarks.
        axes: [{key, values, images}]: the varying keys; images is {value: [image]}.
        numbers: see `describe_numbers`.
        design, means, comparisons, effects: see `summaries`.
        searches: see `searches_of`.
        runs: one entry per job: label, job, sweep, link, status, error, values {axis: text or null}, config (the keys
            that differ between runs), seed, seconds, memory_mb, gpu_memory_mb, started.
        rows: one entry per job and picture: run, picture, image (or null), link, note, numbers; where there are some,
            values {axis: text} of a picture of an evaluation, mean (true for the means of an evaluation), and steps,
            those of the files in images/.
        references: [{kind, picture, values, numbers}]; reference_note: an explanation of them, or null.
        inputs: [{kind, name, image, link, picture, constant}]; picture is null for an input of all pictures; constant
            is true if all jobs have the same value.
        curves: [{run, picture, steps, seconds, terms}].
        config: {key: text}: the keys that are equal in all runs.
        images: [{src, width, height}]: thumbnails as data URLs.
    """
    design = design or design_of(jobs)
    keys = [key for key in axis_keys(jobs) if key != PICTURE]
    most_points = max(LEAST_POINTS, round(MOST_POINTS * math.sqrt(FULL_CURVES_FOR / max(FULL_CURVES_FOR, len(jobs)))))
    entries = [read_entry(job, most_points) for job in jobs]
    images = Images(output, entries)
    rows = [row for n, entry in enumerate(entries) for row in _rows(n, entry, images)]
    references, too_many = references_of(jobs, keys)
    searches, unread = searches_of(jobs, images)
    common, differing = _configs(jobs)
    names = [folder.resolve().name for folder in folders]
    numbers = describe_numbers(jobs, unique(name for row in rows for name in row["numbers"]))
    return {
        "title": ", ".join(names) or "report",
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "folders": [{"name": name, "link": images.link(f)} for name, f in zip(names, folders, strict=True)],
        "statuses": {status: sum(job.status == status for job in jobs) for status in unique(j.status for j in jobs)},
        "seconds": sum(s for job in jobs if is_number(s := job.recorded("seconds")) and math.isfinite(s)),
        "started": min((s for job in jobs if isinstance(s := job.recorded("started"), str)), default=None),
        "shared": _shared(jobs),
        "notices": [*notices_of(entries), *equal_repeats(design), *images.problems(entries), *too_many, *unread],
        "axes": [_axis(key, entries, images) for key in keys],
        "numbers": numbers,
        **summaries(design, [one["name"] for one in numbers if one["comparable"] or one["name"] in objectives(jobs)]),
        "searches": searches,
        "runs": [_run(job, keys, config, images) for job, config in zip(jobs, differing, strict=True)],
        "rows": rows,
        "references": references,
        "reference_note": WHY_THE_PAINTING_IS_NOT_0 if any(row["kind"] == "painting" for row in references) else None,
        "inputs": _inputs(entries, images),
        "curves": [{"run": n, **asdict(curve)} for n, entry in enumerate(entries) for curve in entry.curves],
        "config": common,
        "images": images.encoded,
    }


def _rows(run: int, entry: Entry, images: Images) -> list[dict[str, Any]]:
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
            "numbers": {key: as_json_number(value) for key, value in numbers.items() if value is not None},
            **({"values": labels} if (labels := entry.job.labels.get(name)) else {}),
            **({"mean": True} if is_mean(name) else {}),
            **({"steps": steps} if (steps := entry.steps.get(name)) else {}),
        })  # fmt: skip
    return rows


def _run(job: Job, keys: Sequence[str], config: Mapping[str, str], images: Images) -> dict[str, Any]:
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
        "seconds": as_json_number(job.recorded("seconds")),
        "memory_mb": as_json_number(job.recorded("peak_memory_mb")),
        "gpu_memory_mb": as_json_number(job.recorded("peak_gpu_memory_mb")),
        "started": None if job.recorded("started") is None else str(job.recorded("started")),
    }


def _axis(key: str, entries: Sequence[Entry], images: Images) -> dict[str, Any]:
    """The entry of one varying key in `axes`, see `page_data`."""
    shown = [(entry.job, name) for entry in entries for name in entry.pictures if not is_mean(name)]
    values = unique(value_of(job, name, key) for job, name in shown)
    by_value: dict[str, list[int]] = {}
    for entry in entries:
        for kind, name, file in entry.inputs:
            number = images.number(file) if kind == key else None
            of_value = by_value.setdefault(value_of(entry.job, name, key) or "", [])
            if number is not None and number not in of_value:
                of_value.append(number)
    return {"key": key, "values": values, "images": by_value if key in INPUTS else {}}


def _inputs(entries: Sequence[Entry], images: Images) -> list[dict[str, Any]]:
    """All content and style pictures of the jobs. With several contents, each content belongs to its result."""
    results_of: dict[tuple[str, Path], set[str]] = {}
    for entry in entries:
        for key, name, file in entry.inputs:
            results_of.setdefault((key, file), set()).add(name)
    several = len({name for entry in entries for name in entry.pictures}) > 1
    names_of_styles = {file: name for entry in entries for file, name in entry.names.items()}
    pictures = [(entry.job, name) for entry in entries for name in entry.pictures if not is_mean(name)]
    constant = {key: len({value_of(job, name, key) for job, name in pictures} - {None}) == 1 for key in INPUTS}
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
    versions = [versions_of(job) for job in recorded]
    packages = unique(package for of_job in versions for package in of_job)
    facts |= {package: {of_job.get(package, "None") for of_job in versions} for package in packages}
    return [[name, texts.pop()] for name, texts in facts.items() if len(texts) == 1 and texts != {"None"}]
