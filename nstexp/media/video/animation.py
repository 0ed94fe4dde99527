"""Read animated WebP and AVIF as clips with Pillow: FFmpeg cannot read WebP, and loses the transparency of AVIF."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nstexp.core.errors import UserError
from nstexp.media.video.pictures import Colors
from nstexp.media.video.source import Source, simple_rate

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("WEBP", "AVIF")  # Pillow's names
SUFFIXES = (".webp", ".avif", ".avifs")
MILLISECOND = Fraction(1, 1000)
UNTOLD = 100  # milliseconds that browsers show a frame without a duration


def open_animation(path: Path, key: str, max_input_megapixels: float) -> Source | None:
    """Describe an animated WebP or AVIF file as a clip; None if the file is of another kind or has one frame.

    Args:
        path: the file.
        key: the config key that holds the path, named in error messages.
        max_input_megapixels: limit on the size of one frame, in millions of pixels.

    Raises:
        UserError: the file is damaged, or its frames are too large.
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


def read_animation(source: Source, frames: range, background: str | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, pixels) of the frames with these indices, see `Pictures.background`."""
    from nstexp.media.decoding import Unreadable, decoding
    from nstexp.media.images import to_pixels

    try:
        with decoding(source.path, math.inf) as image:  # `open_animation` has checked the size
            for index, frame in enumerate(_decoded(image)):
                if index >= frames.stop:
                    return
                if index >= frames.start:
                    yield index, to_pixels(frame, background)
    except Unreadable as error:
        raise UserError(f"{source.path}: {error}") from error


def _decoded(image: "Image.Image") -> "Iterator[Image.Image]":
    """Yield the frames in order, decoded, because the duration of a frame is known only after decoding."""
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        yield image
