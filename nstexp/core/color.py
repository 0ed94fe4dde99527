"""Color statistics of RGB images in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor


def color_moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (3,) and covariance (3, 3) of the pixels of a (..., 3, H, W) image, in float64."""
    pixels = image.double().movedim(-3, 0).flatten(1)  # (3, pixels)
    mean = pixels.mean(1)
    centered = pixels - mean[:, None]
    return mean, centered @ centered.T / pixels.shape[1]


def match_color(image: Tensor, references: Sequence[Tensor], shares: Sequence[float], eps: float = 1e-5) -> Tensor:
    """Give `image` (B, 3, H, W) the color mean and covariance of the references, with the least change of color.

    The linear Monge-Kantorovich map (Pitie & Kokaram 2007), one of the color transfers of Gatys et al. 2017, section
    5.3: T = C^-1/2 (C^1/2 S C^1/2)^1/2 C^-1/2 between the covariances C of the image and S of the references. The
    result may leave [0, 1].

    Args:
        references: (3, H, W) each; with several, their moments are averaged by `shares`.
        eps: added to the variances, so that a gray picture has a map.
    """
    total = sum(shares)
    moments = [color_moments(reference) for reference in references]
    target_mean = sum(share / total * mean for share, (mean, _) in zip(shares, moments, strict=True))
    target_cov = sum(share / total * cov for share, (_, cov) in zip(shares, moments, strict=True))
    mean, cov = color_moments(image)
    ridge = eps * torch.eye(3, dtype=torch.float64)
    root = _power(cov + ridge, 0.5)
    inverse_root = _power(cov + ridge, -0.5)
    transform = inverse_root @ _power(root @ (target_cov + ridge) @ root, 0.5) @ inverse_root
    centered = image.double() - mean.view(3, 1, 1)
    return (torch.einsum("ij,bjhw->bihw", transform, centered) + target_mean.view(3, 1, 1)).to(image)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=1e-12) ** exponent) @ vectors.T
