"""Animated WebP and AVIF as clips, by Pillow: FFmpeg reads the one not at all, and the other without transparency."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from nstexp.core.errors import UserError
from nstexp.media.video.pictures import Colors
from nstexp.media.video.source import Frame, Source, simple_rate

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("WEBP", "AVIF")  # Pillow's names
SUFFIXES = (".webp", ".avif", ".avifs")
MILLISECOND = Fraction(1, 1000)
UNTOLD = 100  # milliseconds that browsers show a frame of no duration


def open_animation(path: Path, key: str, max_input_megapixels: float) -> Source | None:
    """What an animated picture holds; None: it is none of these, or of one frame.

    Raises:
        UserError: it is damaged, or larger than `max_input_megapixels`.
    """
    from nstexp.media.decoding import Unreadable, decoding

    remedy = " for one frame (raise it with max_input_megapixels=...)"
    try:
        with decoding(path, max_input_megapixels, remedy) as image:
            if image.format not in FORMATS or getattr(image, "n_frames", 1) < 2:
                return None
            durations = [round(frame.info.get("duration") or 0) or UNTOLD for frame in _decoded(image)]
            size = image.height, image.width
    except Unreadable as error:
        if path.suffix.lower() in SUFFIXES:
            raise UserError(f"{key}={path}: {error}") from error
        return None
    *times, end = accumulate(durations, initial=0)
    return Source(
        path=path,
        size=size,
        times=tuple(times),
        end=end,
        time_base=MILLISECOND,
        rate=simple_rate(len(times) / (end * MILLISECOND)),
        aspect=Fraction(1),
        colors=Colors.untagged(size[0]),
        pixel_format="rgb24",
        animation=True,
    )


def read_animation(source: Source, frames: range) -> Iterator[Frame]:
    """The frames with these indices, transparency composited over white."""
    from nstexp.core.pixels import to_array
    from nstexp.media.decoding import Unreadable, decoding
    from nstexp.media.images import to_tensors

    try:
        with decoding(source.path, math.inf) as image:  # measured when opened
            for index, frame in enumerate(_decoded(image)):
                if index >= frames.stop:
                    return
                if index >= frames.start:
                    yield Frame(source.times[index], to_array(to_tensors(frame)[0]))
    except Unreadable as error:
        raise UserError(f"{source.path}: {error}") from error


def _decoded(image: "Image.Image") -> "Iterator[Image.Image]":
    """Each frame in turn; its duration is known once it is decoded."""
    for number in range(image.n_frames):
        image.seek(number)
        image.load()
        yield image
