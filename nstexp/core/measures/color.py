"""Measures of color: distances between the colors of the picture and those of the painting."""

import math

import torch
from torch import Tensor

from nstexp.core.color import Moments, color_moments, luminance
from nstexp.core.measures.terms import PictureRole
from nstexp.core.networks.encoder import IMAGE, Features
from nstexp.core.resize import resize, size_for_longer_side

PALETTE_BINS, PALETTE_PX, PALETTE_SIGMA, PALETTE_EPS = 64, 150, 0.02, 1e-6


def color_distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Euclidean distance of the RGB means of two pictures, and Frobenius distance of their RGB covariances.

    Args:
        a, b: (3, H, W) in [0, 1], of any sizes.

    Examples:
        >>> color_distance(torch.zeros(3, 2, 2), torch.tensor([0.0, 0.0, 0.5]).view(3, 1, 1).expand(3, 4, 4))
        (0.5, 0.0)
    """
    return _mean_distance(color_moments(a), color_moments(b)), _cov_distance(color_moments(a), color_moments(b))


def _mean_distance(a: Moments, b: Moments) -> float:
    return float((a[0] - b[0]).norm())


def _cov_distance(a: Moments, b: Moments) -> float:
    return float((a[1] - b[1]).norm())


class ColorMean:
    """Distance of the color means of the picture and a painting: the first value of `color_distance`."""

    role: PictureRole = "style"
    layers = ()
    unit = "distance of RGB means"

    def target(self, feats: Features) -> Moments:
        return color_moments(feats[IMAGE])

    def forward(self, feats: Features, target: Moments) -> float:
        return _mean_distance(color_moments(feats[IMAGE]), target)


class ColorCovariance:
    """Distance of the color covariances of the picture and a painting: the second value of `color_distance`."""

    role: PictureRole = "style"
    layers = ()
    unit = "Frobenius distance of RGB covariances"

    def target(self, feats: Features) -> Moments:
        return color_moments(feats[IMAGE])

    def forward(self, feats: Features, target: Moments) -> float:
        return _cov_distance(color_moments(feats[IMAGE]), target)


def palette(picture: Tensor) -> Tensor:
    """Log-chroma histogram of a picture (3, H, W) in [0, 1] -> (3, 64, 64), float64, sum 1.

    This is the RGB-uv histogram of Afifi et al. 2021 (HistoGAN). Plane c is a histogram over u and v, the logarithms of
    the ratios of channel c to the other two channels, from -3 to 3. Pixels are weighted by brightness and smoothed with
    an inverse quadratic kernel of width 0.02. Unlike the authors' code, the reduction to 150 px keeps the aspect ratio.

    Examples:
        >>> histogram = palette(torch.full((3, 8, 8), 0.5))
        >>> histogram.shape, round(histogram.sum().item(), 6)
        (torch.Size([3, 64, 64]), 1.0)
    """
    size = (picture.shape[-2], picture.shape[-1])
    small = resize(picture.float(), size_for_longer_side(size, min(PALETTE_PX, max(size))))
    pixels = small.flatten(1).cpu().double()  # (3, N)
    weight = (pixels.square().sum(0) + PALETTE_EPS).sqrt()
    logs = (pixels + PALETTE_EPS).log()
    planes = [
        (_nearness(logs[c] - logs[u]) * weight) @ _nearness(logs[c] - logs[v]).T
        for c, u, v in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    ]
    histogram = torch.stack(planes)
    return histogram / histogram.sum()


def _nearness(values: Tensor) -> Tensor:
    """Kernel weights of values in the bins: (N,) -> (64, N)."""
    centers = torch.linspace(-3, 3, PALETTE_BINS, dtype=values.dtype)
    return 1 / (1 + ((values - centers[:, None]) / PALETTE_SIGMA).square())


def _hellinger(p: Tensor, q: Tensor) -> float:
    return min(1.0, float((p.sqrt() - q.sqrt()).norm()) / math.sqrt(2))


def palette_distance(a: Tensor, b: Tensor) -> float:
    """Hellinger distance, in [0, 1], of the `palette`s of two pictures (3, H, W) in [0, 1] of any sizes.

    Examples:
        >>> gray = torch.full((3, 8, 8), 0.5)
        >>> palette_distance(gray, gray)
        0.0
    """
    return _hellinger(palette(a), palette(b))


class PaletteDistance:
    """`palette_distance` of the picture and a painting."""

    role: PictureRole = "style"
    layers = ()
    unit = f"Hellinger distance of RGB-uv histograms, {PALETTE_BINS} bins, {PALETTE_PX} px"

    def target(self, feats: Features) -> Tensor:
        return palette(feats[IMAGE][0])

    def forward(self, feats: Features, target: Tensor) -> float:
        return _hellinger(palette(feats[IMAGE][0]), target)


def luminance_statistics(picture: Tensor) -> dict[str, float]:
    """Statistics of a picture (..., 3, H, W) in [0, 1].

    Returns:
        `luminance_mean` and `luminance_std` (biased), and `clipped_share`: the share of color values that are at most 0
        or at least 1.

    Examples:
        >>> luminance_statistics(torch.tensor([0.0, 0.5, 0.0, 0.5]).expand(3, 1, 4))["clipped_share"]
        0.5
    """
    light = luminance(picture)
    return {
        "luminance_mean": float(light.mean()),
        "luminance_std": float(light.std(unbiased=False)),
        "clipped_share": float(((picture <= 0) | (picture >= 1)).float().mean()),
    }
