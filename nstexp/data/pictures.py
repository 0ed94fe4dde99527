"""Square 8-bit RGB crops of image files; only the part that a crop needs is decoded and resized, where possible."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nstexp.core.errors import ArgumentError, choice, flag, is_whole, multiples_of_8, number
from nstexp.core.pixels import to_array
from nstexp.media.decoding import Unreadable, damage, decoding, upright
from nstexp.media.images import is_deep, opaque_rgb, to_tensors

ORIENTATION = 0x0112  # the EXIF tag; its values 5 to 8 swap width and height

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Unusable(Exception):
    """A picture cannot be used; the message is the reason. The training goes on with another picture."""


@dataclass(frozen=True)
class Cropping:
    """The settings of training crops.

    Args:
        crop_px: side of the crop in pixels, a multiple of 8.
        resize_px: the picture is first resized to this side in pixels, `crop_px` or more. From a pair (lowest,
            highest), a side is drawn for each sample, log-uniformly.
        resize: `short_side` resizes the shorter side and keeps the aspect ratio; `squash` makes the picture a square.
        flip: mirror a crop with probability 1/2.
        max_megapixels: pictures with more pixels, according to their header, are unusable.

    Raises:
        ArgumentError: a value out of its range.
    """

    crop_px: int
    resize_px: int | tuple[int, int] | list[int]
    resize: str
    flip: bool
    max_megapixels: float

    def __post_init__(self) -> None:
        multiples_of_8(crop_px=self.crop_px)
        sides = self.resize_px if isinstance(self.resize_px, tuple | list) else [self.resize_px]
        if not 1 <= len(sides) <= 2 or not all(map(is_whole, sides)) or min(sides) < 1 or sides[0] > sides[-1]:
            raise ArgumentError("resize_px", f"={self.resize_px}: give one side in px, or the range [lowest, highest]")
        if sides[0] < self.crop_px:
            raise ArgumentError(
                "resize_px",
                f"={self.resize_px}: a picture resized to {sides[0]} px has no crop of data.crop_px={self.crop_px} px",
            )
        choice("resize", self.resize, ("short_side", "squash"))
        flag("flip", self.flip)
        number("max_megapixels", self.max_megapixels, above=0)

    def side_px(self, share: float) -> int:
        """The side at position `share` in [0, 1) of the range `resize_px`, on a logarithmic scale."""
        if not isinstance(self.resize_px, tuple | list):
            return self.resize_px
        lowest, highest = self.resize_px[0], self.resize_px[-1]
        side: int = round(lowest * (highest / lowest) ** share)
        return min(highest, max(lowest, side))


def random_crop(source: str | bytes, rng: np.random.Generator, how: Cropping) -> Tensor:
    """A random crop of an image file, uint8 (3, crop_px, crop_px).

    Args:
        source: the path or the bytes of the file.
        rng: every call draws exactly four numbers from it.
        how: the settings.

    Raises:
        Unusable: not an image, damaged, empty, too large, or the disk failed (see `storage.is_transient`).
    """
    size, across, down, mirror = rng.random(4)
    crop = _crop(source, how.side_px(size), how.crop_px, (across, down), how.resize == "squash", how.max_megapixels)
    return torch.from_numpy(crop[:, ::-1].copy() if how.flip and mirror < 0.5 else crop).permute(2, 0, 1).contiguous()


def center_crop(source: str | bytes, side_px: int, max_megapixels: float) -> Tensor:
    """The central square of an image file, resized to uint8 (3, side_px, side_px).

    Raises:
        Unusable: as for `random_crop`.
    """
    crop = _crop(source, side_px, side_px, (0.5, 0.5), False, max_megapixels)
    return torch.from_numpy(crop).permute(2, 0, 1).contiguous()


def open_rgb(
    source: str | bytes, max_megapixels: float, needed: Callable[[tuple[int, int]], tuple[int, int]]
) -> tuple[Image.Image, Box]:
    """Decode an image file as 8-bit RGB, upright and opaque. JPEG files may be decoded at a fraction of their size.

    Args:
        source: the path or the bytes of the file.
        max_megapixels: the limit for width times height, according to the header.
        needed: function from the picture's (width, height) to the smallest (width, height) that suffices.

    Returns:
        The decoded picture, and the box of the original in it (in decoded pixels): at a fraction of the size, the
        outermost row and column can extend beyond the original.

    Raises:
        Unusable: not an image, damaged, empty, or too large; the exception's cause is the original error.
    """
    with _unusable_if_it_fails(), decoding(source, max_megapixels) as image:
        damage(image)
        orientation, full = 1, None
        if image.format in ("JPEG", "MPO"):
            orientation = image.getexif().get(ORIENTATION, 1)
            turned = orientation in (5, 6, 7, 8)
            full = image.size[::-1] if turned else image.size
            least = needed(full)
            image.draft(None, least[::-1] if turned else least)
        upright(image)
        return _opaque_rgb(image, source), _extent(image.size, full or image.size, orientation)


def resized(size: tuple[float, float], side_px: int) -> tuple[int, int]:
    """(width, height) scaled so that the shorter side is `side_px`; the aspect ratio is kept."""
    scale = side_px / min(size)
    return max(side_px, round(size[0] * scale)), max(side_px, round(size[1] * scale))


def _crop(
    source: str | bytes, side_px: int, crop_px: int, place: tuple[float, float], squash: bool, max_megapixels: float
) -> np.ndarray:
    """A crop of a resized picture, uint8 (crop_px, crop_px, 3).

    Args:
        side_px: side to which the picture is resized.
        place: (horizontal, vertical) position of the crop, from 0 (left, top) to 1.
        squash: see `Cropping.resize`.
    """

    def target(size: tuple[float, float]) -> tuple[int, int]:
        return (side_px, side_px) if squash else resized(size, side_px)

    image, (left, top, right, bottom) = open_rgb(source, max_megapixels, target)
    width, height = target((right - left, bottom - top))
    # The crop's corner in pixels of the resized picture. Only the crop itself is resized, from its box in the original.
    x, y = (
        min(side - crop_px, int(share * (side - crop_px + 1)))
        for share, side in zip(place, (width, height), strict=True)
    )
    box = (
        left + (right - left) * x / width,
        top + (bottom - top) * y / height,
        min(right, left + (right - left) * (x + crop_px) / width),
        min(bottom, top + (bottom - top) * (y + crop_px) / height),
    )
    return np.array(image.resize((crop_px, crop_px), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))


@contextmanager
def _unusable_if_it_fails() -> Iterator[None]:
    try:
        yield
    except Unreadable as error:
        raise Unusable(str(error)) from error.__cause__  # `is_transient` looks at the cause


def _extent(decoded: tuple[int, int], full: tuple[int, int], orientation: int) -> Box:
    """The box of the original in a decoded picture, see `open_rgb`.

    Args:
        decoded, full: (width, height) of the decoded and of the original picture, both upright.
        orientation: the EXIF value.
    """
    scale = round(max(full) / max(decoded))
    width, height = full[0] / scale, full[1] / scale
    # The decoder pads the last row and column; after rotation or mirroring they may be the first ones.
    left = decoded[0] - width if orientation in (2, 3, 6, 7) else 0
    top = decoded[1] - height if orientation in (3, 4, 7, 8) else 0
    return left, top, left + width, top + height


def _opaque_rgb(image: Image.Image, source: str | bytes) -> Image.Image:
    name = "a picture" if isinstance(source, bytes) else source
    if is_deep(image):
        return Image.fromarray(to_array(to_tensors(image, name=name)[0]))
    return opaque_rgb(image, name=name)
