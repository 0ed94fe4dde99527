"""Make of a training's network a file to pass on: weights in 8 bits, without the places on this machine.

    python scripts/bundle_swift.py --model runs/swift/model.safetensors --out swift.safetensors

Prints how far 8 bits move the picture of a built-in photo in three built-in paintings, in gray levels of 255.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from nstexp import streams
from nstexp.commands import check_out, errors_on_one_line
from nstexp.core.networks.model_files import load_swift, save_swift
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.media import samples
from nstexp.media.images import load_image
from nstexp.methods.base import Controls, Style
from nstexp.methods.swift import SwiftMethod

PAINTINGS = ("met:436535", "met:436532", "met:459092")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model.safetensors, or a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--steps", type=int, help="steps of all runs of the training; else of the last one")
    args = parser.parse_args()
    with errors_on_one_line():
        check_out(args.out, [args.model])
        network, info = load_swift(args.model, "--model")
        steps = info.steps if args.steps is None else args.steps
        save_swift(network, replace(info, content=None, style=None, steps=steps), args.out, small=True)
    photo = load_image(samples.find("sample:astronaut"))
    photo = resize(photo, size_for_longer_side(tuple(photo.shape[-2:]), 256))[None]
    before, after = (SwiftMethod(model=str(path)) for path in (args.model, args.out))
    for painting in PAINTINGS:
        style = Style(load_image(samples.find(painting)))
        one, other = (method.stylize(photo, [style], Controls()) for method in (before, after))
        print(f"{painting}: 8 bits move a value by {255 * float((one - other).abs().mean()):.2f} gray levels")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    streams.prepare()
    main()
