"""Parts of a labeled contact sheet: text, boxes and thumbnails as pictures, and functions that place them.

All pictures here are RGB `PIL.Image` objects on white; all sizes are in pixels.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
GAP_PX, MARGIN_PX = 8, 20
HEADING_SIZE, NAME_SIZE, TITLE_SIZE = 22, 14, 12  # of letters on a contact sheet
MOST_TITLE_LINES = 4
# Letters and signs that Unicode does not break down into a Latin letter with an accent.
LATIN = str.maketrans(
    {
        "\N{EN DASH}": "-", "\N{EM DASH}": "-", "\N{HYPHEN}": "-", "\N{NON-BREAKING HYPHEN}": "-",
        "\N{LEFT SINGLE QUOTATION MARK}": "'", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"', "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{LATIN SMALL LETTER O WITH STROKE}": "o", "\N{LATIN CAPITAL LETTER O WITH STROKE}": "O",
        "\N{LATIN SMALL LETTER L WITH STROKE}": "l", "\N{LATIN CAPITAL LETTER L WITH STROKE}": "L",
        "\N{LATIN SMALL LETTER AE}": "ae", "\N{LATIN CAPITAL LETTER AE}": "AE",
        "\N{LATIN SMALL LETTER SHARP S}": "ss",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A picture of a contact sheet with its words.

    Args:
        picture: the thumbnail; None draws an empty frame, for a picture that is not on this machine.
        name: the word to type on the command line, below the picture.
        title: what the picture shows, in smaller letters below its name.
    """

    picture: Image.Image | None
    name: str
    title: str = ""


def contact_sheet(sections: Mapping[str, Sequence[Cell]], columns: int, cell_px: int) -> Image.Image:
    """Draw thumbnails in rows, with their names and titles below them.

    Args:
        sections: heading -> cells. An empty heading is not drawn.
        columns: how many cells a row has.
        cell_px: width of a cell; pictures are drawn at their own size, so no side of them is longer.
    """
    parts: list[Image.Image] = []
    for heading, cells in sections.items():
        rows = [_row(cells[n : n + columns], cell_px) for n in range(0, len(cells), columns)]
        title = [words(heading, size=HEADING_SIZE)] if heading else []
        parts.append(stacked([*title, *rows], gap=2 * GAP_PX))
    image = stacked(parts, gap=4 * GAP_PX)
    return padded(image, image.width + 2 * MARGIN_PX, image.height + 2 * MARGIN_PX, 0.5, 0.5)


def _row(cells: Sequence[Cell], cell_px: int) -> Image.Image:
    """Cells beside each other; the lower edges of their pictures are on one line."""
    height = max((cell.picture.height for cell in cells if cell.picture), default=cell_px // 2)
    return beside([_cell(cell, cell_px, height) for cell in cells], gap=2 * GAP_PX)


def _cell(cell: Cell, cell_px: int, height: int) -> Image.Image:
    if cell.picture is None:
        picture = padded(words("not on this machine", size=TITLE_SIZE, color=GRAY), cell_px, height, 0.5, 0.5)
        ImageDraw.Draw(picture).rectangle((0, 0, cell_px - 1, height - 1), outline=PALE)
    else:
        picture = padded(cell.picture, cell_px, height, 0.5, 1)
    lines = wrap(_in_latin(cell.title), cell_px, TITLE_SIZE)
    if len(lines) > MOST_TITLE_LINES:
        last = lines[MOST_TITLE_LINES - 1]
        while last and length(f"{last}...", TITLE_SIZE) > cell_px:
            last = last[:-1]
        lines = [*lines[: MOST_TITLE_LINES - 1], f"{last}..."]
    title = [words(line, size=TITLE_SIZE, color=GRAY) for line in lines if line]
    name = words(cell.name, cell_px, NAME_SIZE, centered=True)
    return stacked([picture, blank(1, GAP_PX // 2), name, *title], x=0.5)


def thumbnail(file: Path, px: int) -> Image.Image | None:
    """A small copy of a picture, or of the frame in the middle of a clip.

    Args:
        file: a picture or a clip.
        px: the longest side of the result; smaller pictures keep their size.

    Returns:
        The copy; None if the file cannot be read.
    """
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
    """A picture (3, H, W) in [0, 1] as 8-bit RGB, shrunk so that no side is longer than `px`."""
    height, width = image.shape[-2:]
    image = resize(image, size_for_longer_side((height, width), min(px, max(height, width))))
    return Image.fromarray(to_array(image))


def words(
    text: str, width: int | None = None, size: int = 14, color: Color = DARK, centered: bool = False
) -> Image.Image:
    """Draw text as a picture that is as large as the text.

    Args:
        text: letters with accents lose these, and a letter that the font lacks becomes `?`.
        width: where lines are broken, in pixels; None: nowhere.
        size: of the letters, in pixels.
        color: of the letters.
        centered: whether lines are centered, not aligned at the left.
    """
    plain = _in_latin(text)
    lines = wrap(plain, width, size) if width else [plain]
    image = blank(max(length(line, size) for line in lines), round(1.3 * size) * len(lines))
    for n, line in enumerate(lines):
        x = (image.width - length(line, size)) // 2 if centered else 0
        ImageDraw.Draw(image).text((x, round(1.3 * size) * n), line, color, font(size))
    return image


def _in_latin(text: str) -> str:
    """The text in ASCII, because Pillow's font has hardly any other letters."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.translate(LATIN)) if not unicodedata.combining(c))
    return plain.translate(LATIN).encode("ascii", "replace").decode()


def wrap(text: str, width: int, size: int) -> list[str]:
    """Break text into lines of at most `width` pixels: after `=`, `/` and spaces and before a letter behind a dot, or
    anywhere in a word that is wider than a line."""
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
    """Width of a line of text, in pixels."""
    return ceil(font(size).getlength(text))


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow, so that none has to be installed."""
    return ImageFont.load_default(size)


def blank(width: int, height: int) -> Image.Image:
    """A white picture of at least 1 x 1 pixels."""
    return Image.new("RGB", (max(1, width), max(1, height)), WHITE)


def padded(image: Image.Image, width: int, height: int, x: float, y: float) -> Image.Image:
    """Place a picture in a larger white box, at `x` and `y` from 0 (left, top) to 1 (right, bottom)."""
    box = blank(width, height)
    box.paste(image, (round(x * (width - image.width)), round(y * (height - image.height))))
    return box


def beside(images: Sequence[Image.Image], gap: int = GAP_PX) -> Image.Image:
    """Place pictures in a row, aligned at the top."""
    row = blank(sum(image.width + gap for image in images) - gap, max(image.height for image in images))
    x = 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + gap
    return row


def stacked(images: Sequence[Image.Image], gap: int = 0, x: float = 0) -> Image.Image:
    """Place pictures below each other, at `x` from 0 (left) to 1 (right)."""
    width = max((image.width for image in images), default=1)
    column = blank(width, sum(image.height + gap for image in images) - gap)
    y = 0
    for image in images:
        column.paste(image, (round(x * (width - image.width)), y))
        y += image.height + gap
    return column
