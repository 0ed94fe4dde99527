"""Parts of a labeled contact sheet: words, boxes and thumbnails as pictures that are put beside or below each other.

Everything here is an RGB `PIL.Image` on white; sizes are in pixels.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.pixels import from_array, to_array
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.media.images import load_image
from nstexp.media.paths import READABLE
from nstexp.media.video import CONTAINERS, open_source, read_frames

Color = tuple[int, int, int]
WHITE, DARK, GRAY, RED, PALE = (255, 255, 255), (34, 34, 34), (110, 110, 110), (170, 30, 30), (205, 205, 205)
GAP_PX = 8


def thumbnail(file: Path, px: int) -> Image.Image | None:
    """At most `px` on the longer side, of a clip the frame in its middle; None for what cannot be read."""
    try:
        is_clip = file.suffix.lower() in CONTAINERS and file.suffix.lower() not in READABLE
        return miniature(_middle_frame(file) if is_clip else load_image(file, max_input_megapixels=float("inf")), px)
    except UserError:
        return None


def _middle_frame(file: Path) -> Tensor:
    clip = open_source(file, max_input_megapixels=float("inf"))
    middle = len(clip) // 2
    for frame in read_frames(clip, range(middle, middle + 1)):
        return from_array(frame.pixels)
    raise UserError(f"{file}: the frame in its middle cannot be decoded")


def miniature(image: Tensor, px: int) -> Image.Image:
    """A picture (3, H, W) in [0, 1] at no more than `px` on the longer side."""
    size = tuple(image.shape[-2:])
    image = resize(image, size_for_longer_side(size, min(px, max(size))))
    return Image.fromarray(to_array(image))


def words(
    text: str, width: int | None = None, size: int = 14, color: Color = DARK, centered: bool = False
) -> Image.Image:
    """Text as a picture of its own size, wrapped at `width` pixels."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = plain.encode("ascii", "replace").decode()  # the default font has hardly more
    lines = wrap(plain, width, size) if width else [plain]
    image = blank(max(length(line, size) for line in lines), round(1.3 * size) * len(lines))
    for n, line in enumerate(lines):
        x = (image.width - length(line, size)) // 2 if centered else 0
        ImageDraw.Draw(image).text((x, round(1.3 * size) * n), line, color, font(size))
    return image


def wrap(text: str, width: int, size: int) -> list[str]:
    """Lines of at most `width` pixels, broken behind `=`, `/`, spaces and dots before letters; else anywhere."""
    lines = [""]
    for piece in re.split(r"(?<=[=/ ])|(?<=\.)(?=[A-Za-z])", text):
        if length(lines[-1] + piece.rstrip(), size) > width and lines[-1]:
            lines.append("")
        for letter in piece:
            if length(lines[-1] + letter, size) > width and lines[-1] and letter != " ":
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines]


def length(text: str, size: int = 14) -> int:
    """Pixels that a line of text is wide."""
    return ceil(font(size).getlength(text))


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font: no font has to be installed."""
    return ImageFont.load_default(size)


def blank(width: int, height: int) -> Image.Image:
    """White, at least 1 x 1."""
    return Image.new("RGB", (max(1, width), max(1, height)), WHITE)


def padded(image: Image.Image, width: int, height: int, x: float, y: float) -> Image.Image:
    """In a larger box, at x and y from 0 (left, top) to 1 (right, bottom)."""
    box = blank(width, height)
    box.paste(image, (round(x * (width - image.width)), round(y * (height - image.height))))
    return box


def beside(images: Sequence[Image.Image], gap: int = GAP_PX) -> Image.Image:
    """In a row, aligned at the top."""
    row = blank(sum(image.width + gap for image in images) - gap, max(image.height for image in images))
    x = 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + gap
    return row


def stacked(images: Sequence[Image.Image], gap: int = 0, x: float = 0) -> Image.Image:
    """Below each other, at x from 0 (left) to 1 (right)."""
    width = max((image.width for image in images), default=1)
    column = blank(width, sum(image.height + gap for image in images) - gap)
    y = 0
    for image in images:
        column.paste(image, (round(x * (width - image.width)), y))
        y += image.height + gap
    return column
