"""Run a network over a large picture in tiles, with the same result as in one pass."""

from collections.abc import Callable, Iterator

from torch import Tensor

from nstexp.console import bar


def in_tiles(
    part: Callable[[slice, slice], Tensor],
    tile_px: int,
    size: tuple[int, int],
    margin: int,
    unit: int,
    up: int,
    down: int,
) -> Tensor:
    """Apply `part` to every tile of an input, and join the results without their margins.

    Args:
        part: function from (rows, columns) of the input, margins included, to the result (B, C, h, w) for them.
        tile_px: side of a tile, in pixels of the picture.
        size: (height, width) of the input.
        margin: how far each tile extends beyond its edges, where the input goes on; a multiple of `unit`.
        unit: tiles start at multiples of this.
        up, down: the result's sides are up / down times as long as the input's.

    Returns:
        (B, C, H, W) for the whole input.
    """
    tile = max(unit, tile_px // up // unit * unit)
    if size[0] * size[1] <= tile * tile:
        return part(slice(None), slice(None))
    whole: Tensor | None = None
    corners = [(top, left) for top in range(0, size[0], tile) for left in range(0, size[1], tile)]
    for top, left in bar(corners, desc="decode" if up > down else "encode", unit="tile", leave=False):
        bottom, right = min(top + tile, size[0]), min(left + tile, size[1])
        rows = slice(max(0, top - margin), min(size[0], bottom + margin))
        columns = slice(max(0, left - margin), min(size[1], right + margin))
        piece = part(rows, columns)
        if whole is None:
            b, c = piece.shape[:2]
            whole = piece.new_empty(b, size[0] * up // down, size[1] * up // down, c).permute(0, 3, 1, 2)
        inner = [
            slice((a - r.start) * up // down, (z - r.start) * up // down)
            for a, z, r in ((top, bottom, rows), (left, right, columns))
        ]
        outer = [slice(a * up // down, z * up // down) for a, z in ((top, bottom), (left, right))]
        whole[..., outer[0], outer[1]] = piece[..., inner[0], inner[1]]
    assert whole is not None  # an input has at least one tile
    return whole


Part = tuple[slice, slice]  # rows and columns


def part_of(image: Tensor, part: Part) -> Tensor:
    """Some rows and columns of (..., H, W), without a copy."""
    rows, columns = part
    return image[..., rows, columns]


def tile_parts(
    tile_px: int, size: tuple[int, int], margin: int, unit: int, wraps: bool = False
) -> Iterator[tuple[Part, Part, Part]]:
    """Three parts for every tile of a picture of (height, width): the tile with its margin within the picture, the tile
    within that part, and the tile within the picture.

    Args:
        tile_px, margin: as for `in_tiles`.
        unit: tiles start at multiples of this number of pixels.
        wraps: True: the picture goes on beyond its edges, and the first part is one of the picture that `torus.wrapped`
            has extended by `margin` on each side.
    """
    tile = max(unit, tile_px // unit * unit)
    for top in range(0, size[0], tile):
        for left in range(0, size[1], tile):
            rows, columns = (
                slice(start, min(start + tile, side)) for start, side in zip((top, left), size, strict=True)
            )
            if wraps:
                outer = slice(rows.start, rows.stop + 2 * margin), slice(columns.start, columns.stop + 2 * margin)
                within = (slice(margin, margin + part.stop - part.start) for part in (rows, columns))
                yield outer, (next(within), next(within)), (rows, columns)
                continue
            outer = _grown(rows, margin, size[0]), _grown(columns, margin, size[1])
            inner = _within(rows, outer[0]), _within(columns, outer[1])
            yield outer, inner, (rows, columns)


def _grown(part: slice, margin: int, side: int) -> slice:
    return slice(max(0, part.start - margin), min(side, part.stop + margin))


def _within(part: slice, outer: slice) -> slice:
    return slice(part.start - outer.start, part.stop - outer.start)
