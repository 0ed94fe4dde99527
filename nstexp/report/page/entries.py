"""What the page shows of each job: its pictures with their photos and paintings, and its curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nstexp.media.paths import unique_names
from nstexp.report.curves import MOST_POINTS, Curve, read_curves
from nstexp.report.inputs import INPUTS, find_inputs, inputs_of, learned_by, learned_names
from nstexp.report.job import SWEEP, Job
from nstexp.report.texts import unique

MOST_NAMED = 12  # jobs that one sentence names


@dataclass
class Entry:
    """A job with its pictures and curves.

    Args:
        pictures: picture -> (file or None, note); a run without pictures has the key "".
        inputs: tuples of (one of INPUTS, picture, file).
        steps: picture -> the steps of its files in images/.
        names: file -> name of the styles that the job's network has learned.
        curves: the loss curves.
        damaged_lines: number of damaged lines in losses.csv.
    """

    job: Job
    pictures: dict[str, tuple[Path | None, str | None]]
    inputs: list[tuple[str, str, Path]]
    steps: dict[str, list[int]]
    names: dict[Path, str]
    curves: list[Curve]
    damaged_lines: int


def read_entry(job: Job, most_points: int = MOST_POINTS) -> Entry:
    """Read what the page shows of a job.

    Args:
        most_points: the largest number of points of a curve.
    """
    curves, damaged_lines = read_curves(job.path, most_points)
    pictures = _pictures(job, curves)
    learned = learned_by(job)
    found = {key: find_inputs(key, job.text(key) or "", job.origin, learned) for key in INPUTS}
    names = learned_names(job.text("style") or "", job.origin, learned)
    inputs = [
        (key, name, file)
        for key in INPUTS
        for name in pictures
        for file in (_labeled(job, found[key], names, key, name) if job.labels else inputs_of(found[key], key, name))
    ]
    return Entry(job, pictures, inputs, steps_of(job), names, curves, damaged_lines)


def _labeled(job: Job, found: Sequence[Path], names: Mapping[Path, str], key: str, picture: str) -> list[Path]:
    """The photo or painting of one picture of an evaluation, whose label is the name of the file."""
    label = job.labels.get(picture, {}).get(key)
    by_name = dict(zip(unique_names(found), found, strict=True)) | {name: file for file, name in names.items()}
    return [by_name[label]] if label in by_name else []


def steps_of(job: Job) -> dict[str, list[int]]:
    """Picture -> the steps of its files in images/, of pictures with a result."""
    steps: dict[str, list[int]] = {}
    for file in (job.path / "images").glob("*.jpg"):
        name, _, step = file.stem.rpartition("_")
        if name in job.pictures and step.isdecimal() and file.stem == f"{name}_{int(step):05d}":
            steps.setdefault(name, []).append(int(step))
    return {name: sorted(of_picture) for name, of_picture in steps.items()}


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


def files_of(entry: Entry) -> list[Path]:
    """Every file that gets a thumbnail."""
    made = [file for file, _ in entry.pictures.values() if file is not None]
    return [*made, *(file for _, _, file in entry.inputs)]


def named(*jobs: Job) -> str:
    """The names of jobs in a notice: `job 3`, `jobs 1, 2`; with several sweeps `job NAME/3`."""
    names = [f"{job.overrides[SWEEP]}/{job.number}" if SWEEP in job.overrides else str(job.number) for job in jobs]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"job{'s' if len(names) > 1 else ''} {', '.join(names[:MOST_NAMED])}{more}"
