"""Color statistics, color transfer, and luminance of RGB images in [0, 1]."""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from nstexp.core.errors import choice

Form = Literal["pca", "chol", "sym"]
Moments = tuple[Tensor, Tensor]  # mean (3,) and biased covariance (3, 3) of the colors, float64, on the CPU

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
CHUNK_PX = 2**19  # pixels per chunk, because a float64 copy of a large picture takes gigabytes


def color_moments(image: Tensor, weights: Tensor | None = None) -> Moments:
    """Mean and biased covariance of the colors of an image.

    Args:
        image: (..., 3, H, W).
        weights: (H, W), 0 or larger, weights of the pixels. If all are 0, the moments are 0.

    Returns:
        Mean (3,) and covariance (3, 3), float64, on the CPU.

    Examples:
        >>> mean, cov = color_moments(torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]], [[0.0, 0.0]]]))
        >>> mean.tolist(), cov[0].tolist()
        ([0.5, 0.5, 0.0], [0.25, 0.0, 0.0])
    """
    count, total, scatter = (torch.zeros(shape, dtype=torch.float64) for shape in ((), (3,), (3, 3)))
    for pixels, weight in _weighted_pixels(image, weights):
        count += weight.sum()
        total += pixels @ weight
    count = count.clamp(min=1e-12)
    mean = total / count
    for pixels, weight in _weighted_pixels(image, weights):
        centered = pixels - mean[:, None]
        scatter += (centered * weight) @ centered.T
    return mean, scatter / count


def mean_moments(
    images: Sequence[Tensor], shares: Sequence[float], parts: Sequence[Tensor | None] | None = None
) -> Moments:
    """Averages of the means and of the covariances of several images (3, H, W), weighted by `shares`.

    Args:
        parts: for each image, weights of its pixels (H, W), or None: all count alike.

    Examples:
        >>> mean, _ = mean_moments([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)], shares=[3, 1])
        >>> mean.tolist()
        [0.25, 0.25, 0.25]
    """
    moments = [color_moments(image, part) for image, part in zip(images, parts or [None] * len(images), strict=True)]
    weights = [share / sum(shares) for share in shares]
    mean = torch.stack([w * mean for w, (mean, _) in zip(weights, moments, strict=True)]).sum(0)
    cov = torch.stack([w * cov for w, (_, cov) in zip(weights, moments, strict=True)]).sum(0)
    return mean, cov


def color_map(source_cov: Tensor, target_cov: Tensor, form: Form = "sym", eps: float = 1e-5) -> Tensor:
    """The linear map A (3, 3) with A C_t Aᵀ = C_s, which gives an image the color covariance of another one.

    C_t is the covariance of the image to change, and C_s that of the color source (Gatys et al. 2017, section 5.3,
    whose released code has these three forms). The forms differ by a rotation of color space:

    * pca: C_s^1/2 C_t^-1/2 with symmetric roots;
    * chol: L_s L_t^-1 with the Cholesky factors C = L Lᵀ; it depends on the order of the channels;
    * sym: C_t^-1/2 (C_t^1/2 C_s C_t^1/2)^1/2 C_t^-1/2, which changes the colors least (Monge-Kantorovich; Pitie &
      Kokaram 2007).

    Args:
        source_cov, target_cov: C_s and C_t, (3, 3), float64.
        eps: added to the variances of both, so that the map exists for gray pictures.

    Raises:
        ArgumentError: unknown form.

    Examples:
        >>> identity = torch.eye(3, dtype=torch.float64)
        >>> maps = [color_map(4 * identity, identity, form, eps=0.0) for form in ("pca", "chol", "sym")]
        >>> [torch.allclose(matrix, 2 * identity) for matrix in maps]
        [True, True, True]
    """
    choice("form", form, get_args(Form))
    ridge = eps * torch.eye(3, dtype=torch.float64)
    source, target = source_cov + ridge, target_cov + ridge
    if form == "chol":
        lower = torch.linalg.cholesky(target)
        matrix: Tensor = torch.linalg.solve_triangular(lower, torch.linalg.cholesky(source), upper=False, left=False)
        return matrix
    inverse_root = _power(target, -0.5)
    if form == "pca":
        return _power(source, 0.5) @ inverse_root
    root = _power(target, 0.5)
    return inverse_root @ _power(root @ source @ root, 0.5) @ inverse_root


def match_moments(image: Tensor, before: Moments, after: Moments, form: Form = "sym", eps: float = 1e-5) -> Tensor:
    """Apply the affine color map that changes the color moments of an image from `before` to `after`.

    Args:
        image: (B, 3, H, W) or (3, H, W).
        before: moments of the image, see `color_moments`.
        after: moments of the result, exact up to `eps`.
        form, eps: see `color_map`.

    Returns:
        The image with mapped colors, same shape; values may leave [0, 1].

    Raises:
        ArgumentError: unknown form.

    Examples:
        >>> image = torch.rand(3, 8, 8)
        >>> before, after = color_moments(image), (torch.full((3,), 0.5).double(), torch.eye(3).double())
        >>> mean, cov = color_moments(match_moments(image, before, after, eps=0.0))
        >>> torch.allclose(mean, after[0], atol=1e-4), torch.allclose(cov, after[1], atol=1e-4)
        (True, True)
    """
    matrix = color_map(after[1], before[1], form, eps).to(image)
    mean_before, mean_after = before[0].to(image)[:, None], after[0].to(image)[:, None]
    result = torch.empty_like(image, memory_format=torch.contiguous_format)
    for pixels, mapped in zip(_pixels(image), _pixels(result), strict=True):
        mapped.copy_(matrix @ (pixels - mean_before) + mean_after)
    return result


def match_color(
    image: Tensor,
    references: Sequence[Tensor],
    shares: Sequence[float],
    form: Form = "sym",
    eps: float = 1e-5,
    parts: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Give an image the color mean and covariance of reference images.

    Args:
        image: (B, 3, H, W) or (3, H, W).
        references: images (3, H, W), whose moments are averaged.
        shares: weights of the references in that average.
        form, eps: see `color_map`.
        parts: see `mean_moments`.

    Returns:
        The image with mapped colors, same shape; values may leave [0, 1].

    Raises:
        ArgumentError: unknown form.

    Examples:
        >>> reference = torch.rand(3, 8, 8)
        >>> result = match_color(torch.rand(1, 3, 8, 8), [reference], shares=[1.0])
        >>> torch.allclose(result.mean((0, 2, 3)), reference.mean((1, 2)), atol=1e-4)
        True
    """
    return match_moments(image, color_moments(image), mean_moments(references, shares, parts), form, eps)


def luminance(image: Tensor) -> Tensor:
    """Luminance, the Y of YIQ and YUV (ITU-R BT.601): (..., 3, H, W) -> (..., 1, H, W), in the range of the image.

    Examples:
        >>> round(luminance(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)).item(), 3)
        0.299
    """
    red, green, blue = torch.split(image, 1, -3)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def chroma(image: Tensor) -> Tensor:
    """An image minus its luminance: (..., 3, H, W) -> same shape, in [-1, 1]; 0 for gray.

    It contains the same information as I and Q of YIQ, or U and V of YUV, and luminance(x) + chroma(x) = x is exact.
    (The rounded matrices in the released code of Gatys et al. 2017 have an error of 0.0024.)

    Examples:
        >>> gray = torch.full((3, 1, 1), 0.5)
        >>> chroma(gray).abs().max().item() < 1e-6
        True
    """
    return image - luminance(image)


def _weighted_pixels(image: Tensor, weights: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of pixels (3, n) and weights (n,), float64, on the CPU because some accelerators have no float64."""
    area = image.shape[-2] * image.shape[-1]
    flat = torch.ones((), device="cpu").expand(area) if weights is None else weights.reshape(area)
    chunks = torch.split(flat, CHUNK_PX)
    for number, pixels in enumerate(_pixels(image)):
        yield pixels.cpu().double(), chunks[number % len(chunks)].cpu().double()


def _pixels(image: Tensor) -> Iterator[Tensor]:
    """(..., 3, H, W) as (3, n) chunks, views where the image is contiguous."""
    for picture in image.reshape(-1, 3, image.shape[-2] * image.shape[-1]):
        yield from torch.split(picture, CHUNK_PX, dim=1)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    power: Tensor = vectors @ torch.diag(values.clamp(min=1e-12) ** exponent) @ vectors.T
    return power
