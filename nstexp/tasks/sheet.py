"""The contact sheet of an evaluation: every painting once, with the results of all methods beside it."""

import math
from collections.abc import Mapping, Sequence
from math import ceil, isqrt

from PIL import Image

from nstexp.media.sheet import GAP_PX, beside, blank, padded, stacked, words

LABEL_PX, LEAST_WIDTH_PX, MARGIN_PX = 110, 80, 16
NO_STRIP = 0.6  # width / height; a sheet at least this wide stays in one column
LEAST_CELL_PX, LARGEST_SIDE_PX = 32, 20_000
LARGEST_PX = 40_000_000  # of all cells together; a picture of more takes long to open
SHAPE = 4 / 3  # width / height that a sheet in several columns comes close to


def cell_px(columns: int, rows: int, largest_px: int) -> int:
    """The longer side of a picture in a sheet with this many columns and rows."""
    return max(
        LEAST_CELL_PX, min(largest_px, LARGEST_SIDE_PX // max(columns, rows), isqrt(LARGEST_PX // (columns * rows)))
    )


def evaluation_sheet(
    photos: Mapping[str, Image.Image],
    paintings: Mapping[str, Image.Image],
    methods: Sequence[str],
    made: Mapping[tuple[str, str, str], Image.Image],
) -> Image.Image:
    """Draw the photos at the top, the paintings at the left, and the results where a photo and a painting meet.

    The columns are the photos and the rows are the methods; with one photo and several methods, the columns are the
    methods. Photos and paintings are drawn as large as the results, each painting once. Many paintings are spread over
    several columns, with the photos at the top of every column.

    Args:
        photos: name -> picture of any size.
        paintings: name -> picture of any size.
        methods: labels of the methods.
        made: (method, painting, photo) -> result, not empty; a missing result leaves its place empty.
    """
    side = max(max(image.size) for image in made.values())
    width = max(side, LEAST_WIDTH_PX)
    by_method = len(photos) == 1 < len(methods)
    rows = [""] if by_method else methods
    label_px = min(LABEL_PX, max(words(row).width for row in rows)) if len(rows) > 1 else 0

    def line(label: str, cells: Sequence[Image.Image | None], y: float = 0.5) -> Image.Image:
        height = max((cell.height for cell in cells if cell), default=side)
        boxes = [padded(cell or blank(1, 1), width, height, 0.5, y) for cell in cells]
        return beside([padded(words(label, label_px), label_px, height, 1, 0.5), *boxes] if label_px else boxes)

    def named(name: str, image: Image.Image) -> Image.Image:
        return stacked([words(name, width, centered=True), _sized(image, side)], gap=GAP_PX // 2, x=0.5)

    def block(style: str) -> Image.Image:
        if by_method:
            lines = [line("", [made.get((method, style, photo)) for method in methods for photo in photos])]
        else:
            lines = [line(row, [made.get((row, style, photo)) for photo in photos]) for row in rows]
        made_of_it = stacked(lines, gap=GAP_PX)
        painting = named(style, paintings[style])
        height = max(painting.height, made_of_it.height)
        return beside([padded(painting, width, height, 0.5, 0.5), padded(made_of_it, made_of_it.width, height, 0, 0.5)])

    shown = [named(name, image) for name, image in photos.items()]
    labels = [words(method, width, centered=True) for method in methods]
    corner, heads = (shown[0], line("", labels)) if by_method else (blank(1, 1), line("", shown, y=1))
    height = max(corner.height, heads.height)
    head = beside([padded(corner, width, height, 0.5, 1), padded(heads, heads.width, height, 0, 1)])
    blocks = [block(style) for style in paintings]
    each = ceil(len(blocks) / _columns(head, blocks))
    parts = [stacked([head, *blocks[n : n + each]], gap=2 * GAP_PX) for n in range(0, len(blocks), each)]
    image = beside(parts, gap=4 * GAP_PX)
    return padded(image, image.width + 2 * MARGIN_PX, image.height + 2 * MARGIN_PX, 0.5, 0.5)


def _sized(image: Image.Image, side: int) -> Image.Image:
    """Resize a picture so that its longer side is `side` pixels."""
    scale = side / max(image.size)
    return image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.LANCZOS)


def _columns(head: Image.Image, blocks: Sequence[Image.Image]) -> int:
    """The number of columns of blocks with which the sheet is not a narrow strip."""
    high = sum(block.height for block in blocks) / len(blocks)

    def shape(columns: int) -> float:
        return columns * blocks[0].width / (head.height + ceil(len(blocks) / columns) * high)

    if shape(1) >= NO_STRIP:
        return 1
    return min(range(1, len(blocks) + 1), key=lambda columns: abs(math.log(shape(columns) / SHAPE)))
