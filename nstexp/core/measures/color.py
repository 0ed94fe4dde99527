"""Measures of color: how far the picture's colors are from the painting's."""

import math

import torch
from torch import Tensor

from nstexp.core.color import Moments, color_moments, luminance
from nstexp.core.measures.terms import Role
from nstexp.core.networks.encoder import IMAGE, Features
from nstexp.core.resize import resize, size_for_longer_side

PALETTE_BINS, PALETTE_PX, PALETTE_SIGMA, PALETTE_EPS = 64, 150, 0.02, 1e-6


def color_distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Distance of the color means of two pictures (3, H, W) in [0, 1], and Frobenius distance of their covariances.

    The sizes of the pictures may differ.
    """
    return _mean_distance(color_moments(a), color_moments(b)), _cov_distance(color_moments(a), color_moments(b))


def _mean_distance(a: Moments, b: Moments) -> float:
    return float((a[0] - b[0]).norm())


def _cov_distance(a: Moments, b: Moments) -> float:
    return float((a[1] - b[1]).norm())


class ColorMean:
    """Distance of the color means of the picture and a painting: the first of `color_distance`."""

    role: Role = "style"
    layers = ()
    unit = "distance of RGB means"

    def target(self, feats: Features) -> Moments:
        return color_moments(feats[IMAGE])

    def forward(self, feats: Features, target: Moments) -> float:
        return _mean_distance(color_moments(feats[IMAGE]), target)


class ColorCovariance:
    """Distance of the color covariances of the picture and a painting: the second of `color_distance`."""

    role: Role = "style"
    layers = ()
    unit = "Frobenius distance of RGB covariances"

    def target(self, feats: Features) -> Moments:
        return color_moments(feats[IMAGE])

    def forward(self, feats: Features, target: Moments) -> float:
        return _cov_distance(color_moments(feats[IMAGE]), target)


def palette(picture: Tensor) -> Tensor:
    """Histogram of the log-chroma of a picture (3, H, W) in [0, 1] -> (3, 64, 64) float64, sum 1.

    The RGB-uv histogram of Afifi et al. 2021 (HistoGAN): plane c counts the pixels over u and v, the logarithms of
    channel c over each of the other two, from -3 to 3, weighed by brightness, with an inverse quadratic kernel of width
    0.02. Differs from their code in keeping the aspect when a picture is reduced to 150 px.
    """
    size = tuple(picture.shape[-2:])
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
    """(N,) -> (64, N), how much each value counts in each bin."""
    centers = torch.linspace(-3, 3, PALETTE_BINS, dtype=values.dtype)
    return 1 / (1 + ((values - centers[:, None]) / PALETTE_SIGMA).square())


def _hellinger(p: Tensor, q: Tensor) -> float:
    return min(1.0, float((p.sqrt() - q.sqrt()).norm()) / math.sqrt(2))


def palette_distance(a: Tensor, b: Tensor) -> float:
    """Hellinger distance, in [0, 1], of the `palette`s of two pictures (3, H, W) in [0, 1] of any sizes."""
    return _hellinger(palette(a), palette(b))


class PaletteDistance:
    """`palette_distance` of the picture and a painting."""

    role: Role = "style"
    layers = ()
    unit = f"Hellinger distance of RGB-uv histograms, {PALETTE_BINS} bins, {PALETTE_PX} px"

    def target(self, feats: Features) -> Tensor:
        return palette(feats[IMAGE][0])

    def forward(self, feats: Features, target: Tensor) -> float:
        return _hellinger(palette(feats[IMAGE][0]), target)


def luminance_statistics(picture: Tensor) -> dict[str, float]:
    """Mean and standard deviation of the luminance of a picture (..., 3, H, W), and the share of its color values that
    are 0 or 1, or outside."""
    light = luminance(picture)
    return {
        "luminance_mean": float(light.mean()),
        "luminance_std": float(light.std(unbiased=False)),
        "clipped_share": float(((picture <= 0) | (picture >= 1)).float().mean()),
    }
