"""The distribution of each color channel of a picture, and curves that give a picture the distribution of another."""

from itertools import pairwise

import torch
from torch import Tensor

# Shares of the pixels that are darker: close together at the ends, where few pixels have strong colors.
LEVELS = (0.001, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 0.999)
SAMPLES_PX = 64  # side of the grid of pixels that are sorted
STEEPEST = 5.0  # limit of a curve's slope, so that noise in a flat picture stays small
NARROWEST = 1e-3  # least distance that two quantiles count with


def tones(image: Tensor, weights: Tensor | None = None) -> Tensor:
    """Quantiles of the channels of a picture (B, C, H, W) at `LEVELS`, from a grid of 64x64 pixels: (B, C, N).

    Args:
        weights: (1, 1, H, W), 0 or larger, how much each pixel counts; if those of the whole grid are 0, all count
            alike.

    Examples:
        >>> tones(torch.arange(64.0).expand(1, 1, 64, 64))[0, 0].tolist()
        [0.0, 1.0, 6.0, 16.0, 32.0, 48.0, 57.0, 62.0, 63.0]
    """
    values, order = _sampled(image).sort(-1)
    count = SAMPLES_PX**2
    if weights is None:
        return values[..., [int(level * count) for level in LEVELS]]
    sampled = _sampled(weights.to(values))
    shares = torch.where(sampled.sum() > 0, sampled, torch.ones_like(sampled))
    shares = shares.expand(values.shape).gather(-1, order).cumsum(-1)
    wanted = torch.tensor(LEVELS, dtype=values.dtype, device=values.device) * shares[..., -1:]
    return values.gather(-1, torch.searchsorted(shares, wanted, right=True).clamp(max=count - 1))


def _sampled(image: Tensor) -> Tensor:
    """A grid of pixels, (B, C, H, W) -> (B, C, S)."""
    height, width = image.shape[-2:]
    places = torch.arange(SAMPLES_PX, device=image.device)
    rows, columns = places * height // SAMPLES_PX, places * width // SAMPLES_PX
    return image.index_select(-2, rows).index_select(-1, columns).flatten(2)


def toned(image: Tensor, own: Tensor, wanted: Tensor, strength: float = 1.0) -> Tensor:
    """A picture (B, C, H, W) with other quantiles, by one curve of straight pieces for each channel.

    Values outside the picture's smallest and largest quantile become as those.

    Args:
        own: the quantiles of the picture, (B, C, N), from `tones`.
        wanted: those that it shall have, (B or 1, C, N).
        strength: from 0 (no change) to 1.

    Examples:
        >>> image = torch.linspace(0.1, 0.4, 64).view(1, 1, 1, 64)
        >>> toned(image, tones(image), 2 * tones(image))[0, 0, 0, ::21]
        tensor([0.2000, 0.4000, 0.6000, 0.8000])
    """
    gaps = own.diff(dim=-1)
    slopes = strength * (wanted.diff(dim=-1) / gaps.clamp(min=NARROWEST)).clamp(0.0, STEEPEST)
    # A curve is the sum of its pieces, each of which grows between two knots. It maps the median to the median; its
    # other knots follow from the slopes, which have limits.
    middle = len(LEVELS) // 2
    start = strength * wanted[..., middle] - (slopes * gaps)[..., :middle].sum(-1) - (slopes * own[..., :-1]).sum(-1)
    if image.device.type != "cpu" or torch.compiler.is_compiling():  # also true during an export
        result = start[..., None, None] + (1 - strength) * image
        for place, (low, high) in enumerate(pairwise(own[..., None, None].unbind(2))):
            result = result + slopes[..., place, None, None] * torch.maximum(torch.minimum(image, high), low)
        return result
    result, part = torch.empty_like(image), torch.empty_like(image[0, 0])
    # Plane by plane, which the cache of a processor holds: a sixth of the time of whole pictures at 512 px.
    curves = zip(image, result, own.tolist(), slopes.tolist(), start.tolist(), strict=True)
    for planes, made, *of_picture in curves:
        for plane, out, knots, steep, value in zip(planes, made, *of_picture, strict=True):
            torch.mul(plane, 1 - strength, out=out).add_(value)
            for (low, high), slope in zip(pairwise(knots), steep, strict=True):
                out.add_(torch.clamp(plane, low, high, out=part), alpha=slope)
    return result
