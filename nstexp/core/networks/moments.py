"""Means and covariances of photos and paintings, and how a photo gets those of a painting; `swift` is made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE, FLOOR = 1e-2, 1e-4  # added to the variances of the photo's features: a share of their mean, and a constant
ROOT_STEPS = 14  # of Newton-Schulz: as many make the root of an eigenvalue of 1e-4 of the largest


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of the vectors of a map.

    Args:
        mean: (B, C), float32.
        cov: (B, G, c, c), float32: of each of the G groups of c = C / G channels.
        count: positions that they were taken from, or the sum of their weights.
    """

    mean: Tensor
    cov: Tensor
    count: float

    def joined(self, other: "Moments") -> "Moments":
        """Moments of two sets of positions together (Chan, Golub & LeVeque 1983)."""
        count = self.count + other.count
        share = other.count / count if count else 0.0
        groups, size = self.cov.shape[1:3]
        gap = (other.mean - self.mean).view(-1, groups, size)
        between = share * (1 - share) * gap[..., :, None] * gap[..., None, :]
        return Moments(
            torch.lerp(self.mean, other.mean, share), torch.lerp(self.cov, other.cov, share) + between, count
        )

    def split(self, pictures: int) -> "list[Moments]":
        """The moments of every so many pictures of the batch."""
        parts = zip(torch.split(self.mean, pictures), torch.split(self.cov, pictures), strict=True)
        return [Moments(mean, cov, self.count) for mean, cov in parts]

    @classmethod
    def stacked(cls, parts: "Sequence[Moments]") -> "Moments":
        """One batch of the moments of several batches, whose maps have one size."""
        mean, cov = (torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "cov"))
        return cls(mean, cov, parts[0].count)


def color_moments(image: Tensor, weights: Tensor | None = None) -> Moments:
    """Mean (B, 3) and covariance (B, 1, 3, 3) of the colors of RGB (B, 3, H, W), in float64 for a float64 image, else
    in float32.

    Args:
        weights: (1, 1, H, W), see `Swift.level_moments`.
    """
    pixels = (image if image.dtype == torch.float64 else image.float()).flatten(2)
    if weights is None:
        count, mean = float(pixels.shape[-1]), pixels.mean(2)
        centered = pixels - mean[:, :, None]
        return Moments(mean, (centered @ centered.mT / pixels.shape[-1])[:, None], count)
    share = weights.to(pixels).flatten(2)
    count = float(share.sum())
    share = share / max(count, 1e-12)
    mean = (pixels * share).sum(2)
    centered = pixels - mean[:, :, None]
    return Moments(mean, ((centered * share) @ centered.mT)[:, None], count)


def feature_moments(x: Tensor, group: int, weights: Tensor | None = None) -> Moments:
    """Moments of features (B, C, h, w), whose covariances are those within groups of `group` channels, in float32.

    Args:
        weights: (1, 1, h, w), 0 or larger, how much each position counts.
    """
    rows = x.permute(0, 2, 3, 1).flatten(1, 2).float()  # (B, h w, C)
    if weights is None:
        count, mean = float(rows.shape[1]), rows.mean(1)
        # Products of centered features lose nothing to rounding where a mean is large beside the spread. They are
        # summed in float32: sums in bfloat16 can have negative eigenvalues, from where the roots diverge.
        centered = rows - mean[:, None]
        return Moments(mean, _blocks(centered.mT @ centered / count, group), count)
    count = float(weights.sum())
    share = weights.flatten(1)[..., None] / max(count, 1e-12)
    mean = (rows * share).sum(1)
    centered = (rows - mean[:, None]) * share.sqrt()
    return Moments(mean, _blocks(centered.mT @ centered, group), count)


def transferred(x: Tensor, own: Moments, mean: Tensor, root: Tensor) -> Tensor:
    """Features (B, C, h, w) with a painting's means (C,) and, within groups, its covariances: root (G, c, c) squared.

    Whitening and coloring (Li et al. 2017), as one product of the features with a matrix.
    """
    b, c, h, w = x.shape
    ridge = RIDGE * own.cov.diagonal(dim1=-2, dim2=-1).mean((-2, -1)) + FLOOR
    eye = torch.eye(own.cov.shape[-1], device=x.device)
    matrices = root @ roots(own.cov + ridge[:, None, None, None] * eye)[1]  # (B, G, c, c)
    apart = torch.eye(c // root.shape[-1], device=x.device)  # a group takes nothing from another
    whole = torch.einsum("bgij,gh->bgihj", matrices, apart).reshape(b, c, c)
    whole = whole.to(x.dtype)
    offset = mean - (whole.float() @ own.mean[..., None])[..., 0]  # with the rounded matrix, so that means are exact
    moved = torch.baddbmm(offset[:, None].to(x.dtype), x.permute(0, 2, 3, 1).reshape(b, h * w, c), whole.mT)
    return moved.view(b, h, w, c).permute(0, 3, 1, 2)


def roots(matrices: Tensor, steps: int = ROOT_STEPS) -> tuple[Tensor, Tensor]:
    """Square roots and inverse square roots of symmetric matrices without negative eigenvalues, (..., n, n).

    Newton-Schulz iterations: differentiable everywhere, which eigenvectors are not, and made of products only. The
    inverse root of an eigenvalue below 1.5^(-2 steps) of the largest stays smaller than it should be. Where neither a
    gradient nor a graph is needed, eigenvectors give the same in a fifth of the time on a CPU.

    Examples:
        >>> root, inverse = roots(4 * torch.eye(2))
        >>> root.round(decimals=3), inverse.round(decimals=3)
        (tensor([[2., 0.],
                [0., 2.]]), tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]]))
    """
    eye = torch.eye(matrices.shape[-1], device=matrices.device, dtype=matrices.dtype)
    size = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    if matrices.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
        values, vectors = torch.linalg.eigh(matrices)
        limit = 1.5 ** (-2 * steps) * size[..., 0]
        root = values.clamp(min=0).sqrt()[..., None, :]
        inverse = values.clamp(min=limit).rsqrt()[..., None, :]
        return (vectors * root) @ vectors.mT, (vectors * inverse) @ vectors.mT
    y, z = matrices / size, eye.expand_as(matrices)
    for _ in range(steps):
        step = 1.5 * eye - 0.5 * z @ y
        y, z = y @ step, step @ z
    return y * size.sqrt(), z / size.sqrt()


def _blocks(matrices: Tensor, group: int) -> Tensor:
    """The blocks on the diagonal: (B, C, C) -> (B, C / group, group, group)."""
    b, c, _ = matrices.shape
    blocks = matrices.view(b, c // group, group, c // group, group)
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
