"""Compare the speed of per-image optimization with that of the command `pastiche`, both as whole programs.

    python scripts/benchmark_gatys.py --pairs photo1.jpg,painting1.jpg photo2.jpg,painting2.jpg

For each pair, pastiche runs once with its defaults (512 px, starting from the photo, L-BFGS), and its pictures after
--iterations (100, 200 and 300) are kept. nstexp then runs `experiment=pastiche` (the same loss) in new processes with a
growing number of steps, until its saved picture is as good. Only the last run is reported, from the start of the
process to its end, including imports, weights and coarse levels. Pictures are scored by a separate float32
implementation of pastiche's loss in this script. There are two targets: the score of the picture that pastiche saves,
and the lower loss that it prints, which belongs to the unclipped image in its memory. The saved picture of nstexp must
reach each of them.

Both programs get the same pixels: photo and painting are resized before, so that neither program resizes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp import streams
from nstexp.commands import read_csv, table_head
from nstexp.core.networks.pretrained import pastiche_vgg19
from nstexp.core.resize import resize, size_for_longer_side, size_for_pixels
from nstexp.media.images import load_image, save_image

LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
BGR_MEAN = (103.939, 116.779, 123.68)


@dataclass
class Finished:
    """A finished process: wall seconds, peak resident memory in MB, and (seconds, line) for each printed line."""

    seconds: float
    peak_mb: float
    lines: list[tuple[float, str]] = field(default_factory=list)


class Scorer:
    """pastiche's loss in float32: 0.01 MSE at relu4_2 plus 10 / C^2 MSE of the Gram matrices, each divided by HW."""

    def __init__(self, content: Tensor, style: Tensor) -> None:
        self.weights = pastiche_vgg19().convs
        self.content = self._features(content)["conv4_2"]
        self.style = {name: _gram(f) for name, f in self._features(style).items() if name in LAYERS}

    @torch.no_grad()
    def __call__(self, picture: Tensor) -> float:
        found = self._features(picture)
        total = 0.01 * F.mse_loss(found["conv4_2"], self.content)
        for name in LAYERS:
            total += 10 / found[name].shape[1] ** 2 * F.mse_loss(_gram(found[name]), self.style[name])
        return float(total)

    @torch.no_grad()
    def _features(self, picture: Tensor) -> dict[str, Tensor]:
        x = picture[None].flip(1) * 255 - torch.tensor(BGR_MEAN).view(1, 3, 1, 1)
        found, block = {}, "1"
        for name, (weight, bias) in self.weights.items():
            if name[4] != block:
                x, block = F.max_pool2d(x, 2), name[4]
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
            if name in (*LAYERS, "conv4_2"):
                found[name] = x
            if name == LAYERS[-1]:
                return found
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", required=True, metavar="PHOTO,PAINTING", help="pairs of files")
    parser.add_argument("--px", type=int, default=512, help="longer side in pixels (512)")
    parser.add_argument(
        "--iterations", nargs="+", type=int, default=[100, 200, 300], help="of pastiche, multiples of the first"
    )
    parser.add_argument("--factor", type=float, default=1.15, help="growth of the number of steps between tries (1.15)")
    parser.add_argument("--first-steps", type=int, default=80, help="steps of the first try (80)")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="further settings for nstexp")
    parser.add_argument("--out", type=Path, help="write all numbers to this JSON file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = [_measure_pair(pair, args, Path(scratch)) for pair in args.pairs]
    print(_table(results))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


def _measure_pair(pair: str, args: argparse.Namespace, scratch: Path) -> dict:
    photo, painting = _prepare(pair, args.px, scratch)
    score = Scorer(load_image(photo), load_image(painting))
    name = " + ".join(Path(p).stem for p in pair.split(","))
    print(f"{name}: pastiche, {args.iterations[-1]} iterations ...", file=sys.stderr)
    reference = _run_pastiche(photo, painting, args.px, args.iterations, scratch, score)
    result = {"pair": name, "px": list(load_image(photo).shape[:0:-1]), "pastiche": reference, "nstexp": []}
    runs: dict[int, dict] = {}  # by number of steps, because one run may reach several targets
    for kind in ("saved", "printed"):
        steps = args.first_steps
        for iteration in args.iterations:
            target = reference[str(iteration)][kind]
            while True:
                if steps not in runs:
                    runs[steps] = _run_nstexp(photo, painting, steps, args.override, scratch, score)
                ours = runs[steps]
                said = f"{steps} steps, {ours['seconds']:.1f} s, {ours['score']:.0f} for {target:.0f}"
                print(f"{name}: {said}", file=sys.stderr)
                if ours["score"] <= target:
                    break
                steps = round(steps * args.factor)
            ratio = ours["seconds"] / reference[str(iteration)]["seconds"]
            result["nstexp"].append({"target": kind, "iteration": iteration, "ratio": ratio, **ours})
    return result


def _prepare(pair: str, px: int, scratch: Path) -> tuple[Path, Path]:
    photo, painting = (load_image(path) for path in pair.split(","))
    photo = resize(photo, size_for_longer_side(tuple(photo.shape[-2:]), px))
    painting = resize(painting, size_for_pixels(tuple(painting.shape[-2:]), photo.shape[-1] * photo.shape[-2]))
    folder = Path(tempfile.mkdtemp(dir=scratch))
    save_image(photo, folder / "photo.png")
    save_image(painting, folder / "painting.png")
    return folder / "photo.png", folder / "painting.png"


def _run_pastiche(photo: Path, painting: Path, px: int, iterations: list[int], scratch: Path, score: Scorer) -> dict:
    work = Path(tempfile.mkdtemp(dir=scratch))
    command = [sys.executable, "-u", "-m", "pastiche", "-c", photo, "-s", painting, "-o", work / "last.png"]
    command += ["--size", px, "--num-steps", iterations[-1], "--info-step", iterations[0], "--workspace", work]
    command += ["--workspace-step", iterations[0], "--seed", 0]
    finished = _run(command)
    found = {"peak_mb": finished.peak_mb}
    for seconds, line in finished.lines:
        match = re.match(r"(\d+)\s+[\d.]+\s+([\d.]+)$", line.strip())
        if match and int(match[1]) in iterations:
            digits = len(str(iterations[-1]))
            saved = score(load_image(work / f"{int(match[1]):0{digits}d}.png"))
            found[match[1]] = {"seconds": seconds, "printed": float(match[2]), "saved": saved}
    first, last = (found[str(i)]["seconds"] for i in (iterations[0], iterations[-1]))
    return found | {"seconds_per_step": (last - first) / (iterations[-1] - iterations[0])}


def _run_nstexp(photo: Path, painting: Path, steps: int, overrides: list[str], scratch: Path, score: Scorer) -> dict:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    command = [sys.executable, "-m", "nstexp", "experiment=pastiche", f"content={photo}", f"style={painting}"]
    command += ["image_px=null", f"method.max_steps={steps}", "logger=none", "picture_every_n_steps=0"]
    command += ["log_every_n_steps=5", f"run_dir={folder}", *overrides]
    finished = _run(command)
    rows = read_csv(folder / "losses.csv")
    late = [(int(row["step"]), float(row["seconds"])) for row in rows if int(row["step"]) > steps * 0.8]
    per_step = (late[-1][1] - late[0][1]) / (late[-1][0] - late[0][0])
    saved = score(load_image(folder / "output.png"))
    return {
        "steps": steps,
        "seconds": finished.seconds,
        "peak_mb": finished.peak_mb,
        "seconds_per_step": per_step,
        "score": saved,
    }


def _run(command: list) -> Finished:
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    lines = [(time.perf_counter() - start, line) for line in process.stdout]
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{' '.join(map(str, command))} failed")
    return Finished(seconds, usage.ru_maxrss / 1024, lines)


def _gram(features: Tensor) -> Tensor:
    f = features[0].flatten(1)
    return f @ f.T / f.shape[1]


def _table(results: list[dict]) -> str:
    columns = "pair", "target", "pastiche, s", "nstexp, s (steps)", "ratio", "step ratio", "memory ratio"
    rows = [table_head(*columns)]
    for result in results:
        reference = result["pastiche"]
        for ours in result["nstexp"]:
            at = reference[str(ours["iteration"])]
            rows.append(
                f"| {result['pair']} | {ours['target']} loss at {ours['iteration']}: {at[ours['target']]:.0f} "
                f"| {at['seconds']:.1f} | {ours['seconds']:.1f} ({ours['steps']}) | {ours['ratio']:.2f} "
                f"| {ours['seconds_per_step'] / reference['seconds_per_step']:.2f} "
                f"| {ours['peak_mb'] / reference['peak_mb']:.2f} |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    streams.prepare()
    main()
