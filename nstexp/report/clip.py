"""A clip that shows the pictures of a sweep one after another, each with the values that vary below it."""

import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from nstexp.core.errors import UserError
from nstexp.core.pixels import to_array
from nstexp.media.images import load_image
from nstexp.media.sheet import GAP_PX, beside, padded, stacked, words
from nstexp.media.video import CONTAINERS, Encoding, Frame, made_source, open_writer
from nstexp.report.job import Job, varying

RATE = 25  # frames per second
LABEL_SIZE = 20  # of the letters, in pixels


def write_clip(jobs: Sequence[Job], path: Path, seconds: float = 1.0) -> Path:
    """Write a clip with one picture per job, in the order of the jobs; returns its path.

    The pictures of a job with several content pictures are side by side. Only one picture at a time is in memory.

    Args:
        path: a video file.
        seconds: how long each picture is shown.

    Raises:
        UserError: no job has a picture, the duration is not above 0, or the file cannot be written.
    """
    if not path.suffix or path.suffix.lower() not in CONTAINERS:
        raise UserError(f"--clip {path}: give the name of a clip that ends with one of {', '.join(CONTAINERS)}")
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds {seconds:g}: give a number above 0 and up to 3600")
    keys = varying(jobs)
    shown = [job for job in jobs if job.status == "completed" and job.pictures]
    if not shown:
        raise UserError(f"--clip {path}: no run of this sweep has a picture yet, so there is nothing to show")
    sizes = [_size(job, keys) for job in shown]
    width, height = (max(sides) for sides in zip(*sizes, strict=True))
    each = max(1, round(seconds * RATE))
    source = made_source(next(iter(shown[0].pictures.values())), (height, width), each * len(shown), Fraction(RATE))
    writer = open_writer(
        path, source, (height, width), range(len(source)), Encoding(), f"sweep {time.time_ns()}", key="--clip"
    )
    try:
        for number, job in enumerate(shown):
            pixels = np.asarray(padded(_frame(job, keys), width, height, 0.5, 0))
            for frame in range(each):
                writer.add(Frame(number * each + frame, pixels))
        return writer.finish()
    finally:
        if partial := writer.keep():
            partial.unlink(missing_ok=True)


def _size(job: Job, keys: Sequence[str]) -> tuple[int, int]:
    return _frame(job, keys).size


def _frame(job: Job, keys: Sequence[str]) -> Image.Image:
    """The pictures of a job side by side, and below them the values that vary."""
    files = job.pictures.values()
    pictures = beside([Image.fromarray(to_array(load_image(f, max_input_megapixels=float("inf")))) for f in files])
    label = " ".join(f"{key}={job.text(key)}" for key in keys) or f"job {job.number}"
    return stacked([pictures, words(label, pictures.width, LABEL_SIZE, centered=True)], gap=GAP_PX, x=0.5)
