"""Initial weights of a decoder in closed form: ridge regression, layer by layer."""

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.encoder import IMAGE
from nstexp.core.networks.vgg import VGG


@torch.no_grad()
def fit_decoder(
    decoder: Decoder,
    encoder: VGG,
    layer: str,
    images: Tensor,
    ridge: float = 1e-2,
    positions: int = 65536,
    batch: int = 8,
    seed: int = 0,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> None:
    """Set a decoder's weights in closed form, so that it approximately inverts the encoder without training.

    From the deepest layer on, the weights W of each convolution minimize ||A W - Y||^2 + ridge mean(diag A'A) ||W||^2
    over sampled positions. A contains the input patches of the convolution in the decoder, and Y the encoder's
    activations before the corresponding convolution. The bias is not penalized.

    Args:
        decoder: the decoder, changed in place.
        encoder: the encoder to invert.
        layer: the encoder's layer from which the decoder starts.
        images: RGB (N, 3, H, W) in [0, 1], H and W multiples of `decoder.scale`.
        ridge: strength of the penalty.
        positions: number of sampled positions per regression, at most.
        batch: number of images per batch.
        seed: seed of the sampling.
        progress: wraps the iteration over the layers, for a progress bar.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = torch.split(images, batch)
    current = [encoder(part, [layer])[layer] for part in batches]
    for name in progress(decoder.names):
        conv, goal = decoder.conv(name), encoder.input_of(name)
        inputs = 9 * conv.in_channels
        normal = torch.zeros(inputs + 1, inputs + 1, device=images.device)
        moment = torch.zeros(inputs + 1, conv.out_channels, device=images.device)
        for part, x in zip(batches, current, strict=True):
            target = encoder(part, [goal] if goal != IMAGE else [])[goal].float()
            x = F.interpolate(x, scale_factor=2, mode="nearest") if name in decoder.upsamples else x
            patches, values = _samples(x.float(), target, max(1, positions // len(batches)), generator)
            normal += patches.T @ patches
            moment += patches.T @ values
        penalty = torch.full((inputs + 1,), ridge * float(normal.diagonal()[:-1].mean()), device=images.device)
        penalty[-1] = 0
        # On the CPU, because the GPU of a Mac has no float64.
        system = normal.cpu().double() + penalty.cpu().double().diag()
        solution = torch.linalg.solve(system, moment.cpu().double()).float()
        kernel = solution[:-1].T.reshape(conv.out_channels, conv.in_channels, 3, 3)
        conv.weight.copy_(kernel)
        cast(Tensor, conv.bias).copy_(solution[-1])
        current = [decoder.step(name, x) for x in current]


def _samples(x: Tensor, target: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """3x3 patches of `x` at random positions, with a 1 appended, (count, 9C + 1), and the target there, (count, D)."""
    b, _, h, w = x.shape
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect").permute(0, 2, 3, 1)
    chosen = torch.randperm(b * h * w, generator=generator)[:count].to(x.device)
    sample, row, column = chosen // (h * w), chosen // w % h, chosen % w
    taps = [padded[sample, row + i, column + j] for i in range(3) for j in range(3)]  # each (count, C)
    patches = torch.stack(taps, 2).flatten(1)  # channel first, then the tap, as in a kernel
    ones = torch.ones(len(chosen), 1, device=x.device)
    return torch.cat([patches, ones], 1), target.permute(0, 2, 3, 1)[sample, row, column]
