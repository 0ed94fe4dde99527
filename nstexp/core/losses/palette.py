"""Style term of the picture's colors as a distribution: the histogram of their log-chroma."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import number, whole
from nstexp.core.losses.terms import Guides, Role
from nstexp.core.networks.encoder import IMAGE, Features

LARGEST_LOG = 3.0  # of the ratio of two color channels: the histogram's edge
DARKEST = 1e-3  # channels are not taken to be darker: the logarithm of 0 has no slope


def chroma_histogram(image: Tensor, bins: int = 64, sigma: float = 0.15, weights: Tensor | None = None) -> Tensor:
    """Histogram of the log-chroma of RGB (B, 3, H, W) in [0, 1] -> (B, 3, bins, bins), sum 1, float32.

    The RGB-uv histogram of Afifi et al. 2021 (HistoGAN), of which the measure `palette_distance` takes a sharper one:
    plane c counts the pixels over the logarithms of channel c over each of the other two channels, from -3 to 3,
    weighed by brightness, with an inverse quadratic kernel.

    Args:
        sigma: width of the kernel, in units of the logarithm; a kernel narrower than
            a bin (6 / bins) would have no slope between bins.
        weights: (H, W), 0 or larger, how much each pixel counts.

    Examples:
        >>> histogram = chroma_histogram(torch.rand(2, 3, 8, 8))
        >>> histogram.shape, [round(float(one.sum()), 4) for one in histogram]
        (torch.Size([2, 3, 64, 64]), [1.0, 1.0])
    """
    pixels = image.float().clamp(DARKEST, 1).flatten(2)  # (B, 3, N)
    bright = pixels.square().sum(1).sqrt()  # (B, N)
    if weights is not None:
        bright = bright * weights.flatten().to(bright)
    logs = pixels.log()
    centers = torch.linspace(-LARGEST_LOG, LARGEST_LOG, bins, device=image.device)

    def nearness(values: Tensor) -> Tensor:  # (B, N) -> (B, bins, N)
        return 1 / (1 + ((values[:, None] - centers[:, None]) / sigma).square())

    planes = []
    for c, u, v in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        of_u, of_v = nearness(logs[:, c] - logs[:, u]), nearness(logs[:, c] - logs[:, v])
        planes.append((of_u * bright[:, None]) @ of_v.mT)
    histogram = torch.stack(planes, 1)
    return histogram / histogram.sum((1, 2, 3), keepdim=True).clamp(min=1e-12)


def chroma_histogram_loss(x: Tensor, target: Tensor) -> Tensor:
    """Squared Hellinger distance of two histograms (B or 1, 3, bins, bins) of sum 1 -> scalar in [0, 1], a mean over
    the batch.

    Examples:
        >>> red = chroma_histogram(torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1))
        >>> blue = chroma_histogram(torch.tensor([0.1, 0.1, 0.9]).view(1, 3, 1, 1))
        >>> float(chroma_histogram_loss(red, red)), float(chroma_histogram_loss(red, blue)) > 0.5
        (0.0, True)
    """
    # Square roots have an infinite slope at 0, where no pixel of either picture is.
    difference = (x + 1e-9).sqrt() - (target + 1e-9).sqrt()
    return difference.square().sum((1, 2, 3)).mean() / 2


class ChromaHistogramLoss(nn.Module):
    """Style term: `chroma_histogram_loss` of the picture. Mean and covariance of the colors (`palette`) say nothing of
    how many hues a painting has; their histogram does.

    Args:
        pool_px: the picture is averaged over squares of this side first, for speed.
        bins, sigma: see `chroma_histogram`.
    """

    role: Role = "style"
    layers: Sequence[str] = (IMAGE,)
    unit = "squared Hellinger distance of log-chroma histograms"

    def __init__(self, pool_px: int = 2, bins: int = 64, sigma: float = 0.15) -> None:
        super().__init__()
        self.pool_px, self.min_side_px = whole("pool_px", pool_px, 1, 64), pool_px
        self.bins = whole("bins", bins, 2, 256)
        self.sigma = number("sigma", sigma, above=0, high=10)

    def target(self, feats: Features, guides: Guides | None = None) -> Features:
        guide = None if guides is None else guides[IMAGE].square()[None, None]
        return {IMAGE: self._histogram(feats[IMAGE].detach(), guide)}

    def forward(self, feats: Features, target: Mapping[str, Any], guides: Guides | None = None) -> Tensor:
        if IMAGE not in target:
            return feats[IMAGE].new_zeros(())
        guide = None if guides is None else guides[IMAGE].square()[None, None]
        return chroma_histogram_loss(self._histogram(feats[IMAGE], guide), target[IMAGE])

    def _histogram(self, image: Tensor, weights: Tensor | None) -> Tensor:
        pooled = F.avg_pool2d(image, self.pool_px)
        weights = None if weights is None else F.avg_pool2d(weights.to(pooled), self.pool_px)[0, 0]
        return chroma_histogram(pooled, self.bins, self.sigma, weights)

    @staticmethod
    def blend(parts: Sequence[tuple[float, Tensor]], strength: float = 1.0) -> Tensor:
        """The histogram of the paintings together; `strength`, which is of features, has no part in it."""
        return torch.stack([share * histogram for share, histogram in parts]).sum(0)
