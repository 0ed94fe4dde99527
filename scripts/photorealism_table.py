"""Compare filters that make stylized pictures photographic, and draw sheets of what photorealism does.

    python scripts/photorealism_table.py --sheet docs/gallery/photorealism.webp
    python scripts/photorealism_table.py --scenes docs/gallery/scenes.webp
    python scripts/photorealism_table.py --pair photo.jpg painting.jpg --pair other.jpg painting.jpg --method cin

Every photo is stylized once. Each filter gets the photo as guide and the stylized picture as input; photorealism is 1.
Printed as a Markdown table, means over the pairs: ssim, lpips, edge and halo against the photo (halo: its size,
whatever its sign), by how much color_mean differs from that of the stylized picture (mean and largest size), and
color_cov. `--scenes` draws night to day, day to night, a season, a room and a portrait instead: what is stylized, the
style, and the result with photorealism 1.

The filters are the two kinds that nstexp has, and those that were tried beside them: the edge-weighted filter of Li et
al. 2015, the gradient-domain filter of Kou et al. 2015, two radii in equal parts, and affine maps in a bilateral grid
(Chen et al. 2016), each with the settings that gave the best pictures.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from nstexp import stylize
from nstexp.commands import errors_on_one_line, table_head
from nstexp.core.color import color_moments, luminance
from nstexp.core.guided import box_mean, color_slope
from nstexp.core.measures import LPIPS, color_distance, edge, halo, ssim
from nstexp.core.pixels import to_array
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.media.images import load_image
from nstexp.media.paths import find_images
from nstexp.tasks.finish import photographic
from nstexp.tasks.request import PhotoFilter

Filter = Callable[[Tensor, Tensor], Tensor]  # photo and picture, float64 (1, 3, H, W)
PAIRS = (
    ("sample:astronaut", "met:436535"),
    ("sample:chelsea", "met:435809"),
    ("sample:coffee", "met:435844"),
    ("sample:rocket", "sample:coffee"),
    ("sample:rocket", "met:437097"),
    ("sample:coffee", "met:437881"),
    ("sample:astronaut", "met:441769"),
    ("sample:chelsea", "met:436819"),
)
IN_SHEET = 4  # of the pairs; more would be small
SCENES = (
    ("sample:rocket", "met:437097"),  # Haystacks: Autumn, Jean-François Millet
    ("met:435809", "met:441769"),  # The Harvesters, Pieter Bruegel; Virgil's Tomb by Moonlight, Joseph Wright
    ("met:436535", "met:437097"),  # Wheat Field with Cypresses, Vincent van Gogh
    ("sample:coffee", "met:437881"),  # Young Woman with a Water Pitcher, Johannes Vermeer
    ("sample:astronaut", "met:441769"),
)
STRENGTHS = (0.0, 0.25, 0.5, 1.0)
HEIGHT_PX, GAP_PX, QUALITY = 150, 4, 80
RADIUS = 0.08  # of all filters, as a share of the longer side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, action="append", metavar=("PHOTO", "STYLE"), help="default: built-in ones")
    parser.add_argument("--method", help="default: adain, and swift for --scenes")
    parser.add_argument("--image-px", type=int, default=384, help="longer side (default: 384)")
    parser.add_argument("--sheet", type=Path, help="file for the sheet")
    parser.add_argument("--filters-sheet", type=Path, help="file for a sheet with the results of all filters")
    parser.add_argument("--scenes", type=Path, help="file for a sheet of other scenes; no table is made")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with errors_on_one_line():
        run(args)


def run(args: argparse.Namespace) -> None:
    if args.scenes:
        method, pairs = args.method or "swift", args.pair or SCENES
        save_sheet([scene(pair[0], pair[1], method, args.image_px) for pair in pairs], args.scenes)
        return
    made = [stylized(pair[0], pair[1], args.method or "adain", args.image_px) for pair in args.pair or PAIRS]
    results = {name: [apply(photo, picture).clamp(0, 1) for photo, _, picture in made] for name, apply in filters()}
    print("\n".join(table(made, results)))
    if args.filters_sheet:
        save_sheet([[result[n] for result in results.values()] for n in range(len(made))], args.filters_sheet)
    if args.sheet:
        rows = [[p, *(photographic(x, p, s, PhotoFilter()) for s in STRENGTHS)] for p, _, x in made[:IN_SHEET]]
        save_sheet(rows, args.sheet)


def stylized(content: str, style: str, method: str, image_px: int) -> tuple[Tensor, Tensor, Tensor]:
    """Photo, painting and the stylized photo, float64 (1, 3, H, W) each."""
    photo, painting = (load_image(find_images(name, "pair")[0]) for name in (content, style))
    photo = resize(photo, size_for_longer_side((photo.shape[-2], photo.shape[-1]), image_px))
    picture = stylize(photo[None], style, method=method)
    return photo[None].double(), painting[None].double(), picture.double()


def scene(content: str, style: str, method: str, image_px: int) -> list[Tensor]:
    """What is stylized, the style, and the result with photorealism 1."""
    photo, painting, picture = stylized(content, style, method, image_px)
    return [photo, painting, photographic(picture, photo, 1.0, PhotoFilter())]


def table(made: Sequence[tuple[Tensor, Tensor, Tensor]], results: dict[str, list[Tensor]]) -> Iterator[str]:
    lpips = LPIPS()
    yield table_head("filter", "ssim", "lpips", "edge", "size of halo", "change of color_mean", "largest", "color_cov")
    for name, pictures in results.items():
        rows = []
        for (photo, painting, picture), result in zip(made, pictures, strict=True):
            mean, cov = color_distance(result[0], painting[0])
            change = abs(mean - color_distance(picture[0], painting[0])[0])
            beyond = abs(halo(result[0], photo[0]) - halo(photo[0], photo[0]))
            far = float(lpips.between(result.float(), photo.float()))
            rows.append((ssim(result, photo), far, edge(result, photo), beyond, change, cov))
        ssims, lpipses, edges, halos, changes, covs = zip(*rows, strict=True)
        numbers = [*map(fmean, (ssims, lpipses, edges, halos, changes)), max(changes), fmean(covs)]
        cells = (f"{x:.{digits}f}" for x, digits in zip(numbers, (3, 3, 3, 3, 4, 4, 4), strict=True))
        yield f"| {name} | {' | '.join(cells)} |"


def save_sheet(rows: Sequence[Sequence[Tensor]], path: Path) -> None:
    """Draw pictures as rows of equal height on white."""
    tiles = [[Image.fromarray(to_array(picture[0].float())) for picture in row] for row in rows]
    tiles = [[tile.resize((round(tile.width * HEIGHT_PX / tile.height), HEIGHT_PX)) for tile in row] for row in tiles]
    width = max(sum(tile.width + GAP_PX for tile in row) for row in tiles) - GAP_PX
    sheet = Image.new("RGB", (width, len(tiles) * (HEIGHT_PX + GAP_PX) - GAP_PX), "white")
    for number, row in enumerate(tiles):
        left = 0
        for tile in row:
            sheet.paste(tile, (left, number * (HEIGHT_PX + GAP_PX)))
            left += tile.width + GAP_PX
    sheet.save(path, quality=QUALITY, method=6)


def filters() -> Iterator[tuple[str, Filter]]:
    yield "none: the stylized picture", lambda photo, picture: picture
    yield "everything: the photo", lambda photo, picture: photo
    yield "one color map for the whole picture", one_map
    yield "`kind=plain`, eps 1e-3", nstexp(eps=1e-3, kind="plain")
    yield "`kind=plain`, eps 1e-2", nstexp(eps=1e-2, kind="plain")
    yield "edge-weighted, eps 1e-2", partial(windowed, eps=1e-2, weighted=True)
    yield "gradient-domain, eps 1e-2", partial(windowed, eps=1e-2, weighted=True, gradients=True)
    yield "two radii, 0.03 and 0.12, eps 1e-3", two_radii
    yield "bilateral grid, eps 1e-2", partial(in_grid, matched=False)
    yield "bilateral grid, matched, eps 1e-2", partial(in_grid, matched=True)
    yield "`kind=matched`, eps 1e-3", nstexp(eps=1e-3)
    yield "`kind=matched`, eps 1e-2", nstexp(eps=1e-2)
    yield "`kind=matched`, eps 1e-1", nstexp(eps=1e-1)
    yield "**the default**: `kind=matched`, eps 1e-2, fit_px=128", nstexp(**vars(PhotoFilter()))


def nstexp(**settings: object) -> Filter:
    """A filter of nstexp, by default without its reduced copy."""
    chosen = PhotoFilter.of({"radius": RADIUS, "fit_px": None, **settings})
    return lambda photo, picture: photographic(picture, photo, 1.0, chosen)


def one_map(photo: Tensor, picture: Tensor) -> Tensor:
    mapped = torch.einsum("bcd,bdhw->bchw", color_slope(photo, picture), photo)
    return mapped + (color_moments(picture)[0] - color_moments(mapped)[0]).view(3, 1, 1)


def two_radii(photo: Tensor, picture: Tensor) -> Tensor:
    return (windowed(photo, picture, 1e-3, share=0.03) + windowed(photo, picture, 1e-3, share=0.12)) / 2


def windowed(
    photo: Tensor, picture: Tensor, eps: float, weighted: bool = False, gradients: bool = False, share: float = RADIUS
) -> Tensor:
    """A guided filter whose eps (Li et al. 2015) and slope (Kou et al. 2015) depend on the window."""
    radius = max(1, round(share * max(photo.shape[-2:])))
    mean, mean_picture = box_mean(photo, radius), box_mean(picture, radius)
    cov = box_mean(photo[:, :, None] * photo[:, None], radius) - mean[:, :, None] * mean[:, None]
    cross = box_mean(photo[:, :, None] * picture[:, None], radius) - mean[:, :, None] * mean_picture[:, None]
    light = luminance(photo)
    near, far = ((box_mean(light**2, r) - box_mean(light, r) ** 2).clamp(min=0) for r in (1, radius))
    contrast = (near * far).sqrt() if gradients else near
    floor = 1e-6  # keeps the weights of flat windows finite
    ridge = eps / ((contrast + floor) * (1 / (contrast + floor)).mean()) if weighted else torch.full_like(light, eps)
    ridge = ridge[:, :, None]
    eye = torch.eye(3, dtype=photo.dtype)[..., None, None]
    if gradients:
        steep = torch.sigmoid(4 / (contrast.mean() - contrast.min()) * (contrast - contrast.mean()))
        cross = cross + ridge * steep[:, :, None] * eye
    maps = torch.linalg.solve((cov + ridge * eye).permute(0, 3, 4, 1, 2), cross.permute(0, 3, 4, 1, 2))
    factors = maps.permute(0, 3, 4, 1, 2)  # (B, d, c, H, W)
    offsets = mean_picture - (factors * mean[:, :, None]).sum(1)
    return (box_mean(factors, radius) * photo[:, :, None]).sum(1) + box_mean(offsets, radius)


def in_grid(photo: Tensor, picture: Tensor, matched: bool, eps: float = 1e-2, cells: int = 16, bins: int = 8) -> Tensor:
    """Affine maps fitted in the cells of a grid over x, y and luminance, smoothed, and read with linear weights."""
    slope = color_slope(photo, picture)[0] if matched else torch.zeros(3, 3, dtype=torch.float64)
    base = torch.einsum("cd,bdhw->bchw", slope, photo)
    height, width = photo.shape[-2:]
    cell_px = max(height, width) / cells
    rows, columns = math.ceil(height / cell_px) + 1, math.ceil(width / cell_px) + 1
    y, x = torch.meshgrid(torch.arange(height) / cell_px, torch.arange(width) / cell_px, indexing="ij")
    z = luminance(photo)[0, 0].clamp(0, 1) * (bins - 1)
    points = torch.stack([z, y.double(), x.double()]).flatten(1)  # (3, N)
    guide = torch.cat([photo[0], torch.ones_like(photo[0, :1])]).flatten(1)  # (4, N)
    values = torch.cat([guide, (picture - base)[0].flatten(1)])
    products = (guide[:, None] * values[None]).flatten(0, 1)  # (28, N)
    grid = _splat(products, points, (bins, rows, columns))
    for axis in (1, 2, 3):
        grid = _smoothed(grid, axis)
    count = grid.view(4, 7, bins, rows, columns)[3, 3]
    moments = grid.view(4, 7, bins, rows, columns).permute(2, 3, 4, 0, 1) / (count + 1e-6)[..., None, None]
    mean, mean_rest = moments[..., :3, 3], moments[..., 3, 4:]
    cov = moments[..., :3, :3] - mean[..., :, None] * mean[..., None, :] + eps * torch.eye(3, dtype=torch.float64)
    factors = torch.linalg.solve(cov, moments[..., :3, 4:] - mean[..., :, None] * mean_rest[..., None, :])  # (d, c)
    offsets = mean_rest - (factors * mean[..., None]).sum(-2)
    maps = torch.cat([factors.flatten(-2), offsets], -1).permute(3, 0, 1, 2)  # (12, bins, rows, columns)
    ends = torch.tensor([bins - 1, rows - 1, columns - 1])[:, None]
    places = (points / ends * 2 - 1).flip(0).T.view(1, 1, height, width, 3)
    read = F.grid_sample(torch.cat([maps * count, count[None]])[None], places, align_corners=True)[:, :, 0]
    read = read[:, :12] / read[:, 12:].clamp(min=1e-9)
    return base + (read[:, :9].view(1, 3, 3, height, width) * photo[:, :, None]).sum(1) + read[:, 9:]


def _splat(values: Tensor, points: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Add values (C, N) at points (3, N) to a grid (C, *size), with linear weights."""
    grid = torch.zeros(len(values), math.prod(size), dtype=values.dtype)
    low = points.floor()
    for corner in product((0, 1), repeat=3):
        at = low + torch.tensor(corner)[:, None]
        weights = (1 - (points - at).abs()).clamp(min=0).prod(0)
        z, y, x = (torch.minimum(c, torch.tensor(s - 1)).long() for c, s in zip(at, size, strict=True))
        grid.index_add_(1, (z * size[1] + y) * size[2] + x, values * weights)
    return grid.view(-1, *size)


def _smoothed(grid: Tensor, axis: int) -> Tensor:
    """Weights 1/4, 1/2, 1/4 along an axis; nothing comes from beyond the border."""
    padded = F.pad(grid, [0, 0] * (3 - axis) + [1, 1])
    length = grid.shape[axis]
    return sum((w * padded.narrow(axis, n, length) for n, w in enumerate((0.25, 0.5, 0.25))), torch.zeros_like(grid))


if __name__ == "__main__":
    main()
