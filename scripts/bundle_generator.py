"""Prepare a trained network for others: half precision, and without paths of this machine.

    python scripts/bundle_generator.py --model runs/many/model.safetensors --out many.safetensors

Names of styles are kept; of the files of their pictures only built-in names are kept. For every style, the script
prints the largest change of a stylized built-in photo through half precision, in gray levels of 255.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from nstexp import streams
from nstexp.commands import check_out, errors_on_one_line
from nstexp.core.networks.model_files import load_generator, save_generator
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.core.runtime.files import file_digest
from nstexp.media import samples
from nstexp.media.images import load_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model.safetensors, or a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    with errors_on_one_line():
        check_out(args.out, [args.model])
        generator, info = load_generator(args.model, "--model")
        built_in = [samples.is_builtin(source) for source in info.sources]
        sources = [source if known else "" for source, known in zip(info.sources, built_in, strict=True)]
        digests = [file_digest(samples.find(source)) if source else "" for source in sources]
        info = replace(info, sources=sources, digests=digests, content=None)
        save_generator(generator, info, args.out, torch.float16)
        half, _ = load_generator(args.out, "--out")
    photo = load_image(samples.find("sample:astronaut"))
    photo = resize(photo, size_for_longer_side(tuple(photo.shape[-2:]), 256))[None]
    noise = None
    if generator.noise_channels:
        noise = generator.make_noise(1, tuple(photo.shape[-2:]), torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for number, name in enumerate(info.names):
            mix = torch.tensor([number]) if len(info.names) > 1 else None
            difference = (generator(photo, mix, noise) - half(photo, mix, noise)).abs().max()
            print(f"{name:16} {255 * float(difference):.2f}")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {info.steps} steps")


if __name__ == "__main__":
    streams.prepare()
    main()
