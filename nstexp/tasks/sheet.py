"""The sheet of an evaluation: every painting once, and beside it what the methods made of the photos."""

import math
from collections.abc import Mapping, Sequence
from math import ceil

from PIL import Image

from nstexp.media.sheet import GAP_PX, beside, blank, padded, stacked, words

LABEL_PX, LEAST_WIDTH_PX, MARGIN_PX = 110, 80, 16
# Width by height: of a sheet that is left in one column, and what many paintings come close to in several.
NO_STRIP, SHAPE = 0.6, 4 / 3


def evaluation_sheet(
    photos: Mapping[str, Image.Image],
    paintings: Mapping[str, Image.Image],
    methods: Sequence[str],
    made: Mapping[tuple[str, str, str], Image.Image],
) -> Image.Image:
    """Photos above, paintings at the left, each once and as large as the results.

    Columns are the photos, and rows the methods; of a single photo by several methods these are the columns. Many
    paintings go into several columns, each with the photos above.

    Args:
        photos, paintings: name -> picture of any size.
        methods: their labels.
        made: (method, painting, photo) -> result; what is missing stays empty.
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
    """With this longer side."""
    scale = side / max(image.size)
    return image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.LANCZOS)


def _columns(head: Image.Image, blocks: Sequence[Image.Image]) -> int:
    """Into how many columns the blocks go, so that the whole is no strip."""
    high = sum(block.height for block in blocks) / len(blocks)

    def shape(columns: int) -> float:
        return columns * blocks[0].width / (head.height + ceil(len(blocks) / columns) * high)

    if shape(1) >= NO_STRIP:
        return 1
    return min(range(1, len(blocks) + 1), key=lambda columns: abs(math.log(shape(columns) / SHAPE)))
