"""Color statistics, color transfer and luminance of RGB images in [0, 1]."""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from nstexp.core.errors import choice

Form = Literal["pca", "chol", "sym"]
Moments = tuple[Tensor, Tensor]  # mean (3,) and covariance (3, 3), float64, on the CPU

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
CHUNK_PX = 2**19  # float64 copies of so many pixels at a time: a large picture needs no gigabytes


def color_moments(image: Tensor, weights: Tensor | None = None) -> Moments:
    """Mean (3,) and covariance (3, 3), divided by the number of pixels, of a (..., 3, H, W) image, in float64.

    Args:
        weights: (H, W), 0 or larger, how much each pixel counts. Where all are 0 the moments are 0.
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


def mean_moments(images: Sequence[Tensor], shares: Sequence[float]) -> Moments:
    """Moments of several (3, H, W) images, averaged by `shares`."""
    found = [color_moments(image) for image in images]
    weights = [share / sum(shares) for share in shares]
    mean = torch.stack([w * mean for w, (mean, _) in zip(weights, found, strict=True)]).sum(0)
    cov = torch.stack([w * cov for w, (_, cov) in zip(weights, found, strict=True)]).sum(0)
    return mean, cov


def color_map(source_cov: Tensor, target_cov: Tensor, form: Form = "sym", eps: float = 1e-5) -> Tensor:
    """The A (3, 3) with A C_t Aᵀ = C_s, of the covariances C_t of the image to change and C_s of the color source.

    Gatys et al. 2017, section 5.3, whose released code has these three. They differ by a rotation of color space:
        pca: C_s^1/2 C_t^-1/2, with symmetric roots.
        chol: L_s L_t^-1, with the Cholesky factors C = L Lᵀ; depends on the order of the channels.
        sym: C_t^-1/2 (C_t^1/2 C_s C_t^1/2)^1/2 C_t^-1/2, which changes colors least (Monge-Kantorovich; Pitie &
            Kokaram 2007).

    Args:
        source_cov, target_cov: C_s and C_t in float64.
        eps: added to the variances of both, so that a gray picture has a map.

    Raises:
        ArgumentError: unknown form.
    """
    choice("form", form, get_args(Form))
    ridge = eps * torch.eye(3, dtype=torch.float64)
    source, target = source_cov + ridge, target_cov + ridge
    if form == "chol":
        lower = torch.linalg.cholesky(target)
        return torch.linalg.solve_triangular(lower, torch.linalg.cholesky(source), upper=False, left=False)
    inverse_root = _power(target, -0.5)
    if form == "pca":
        return _power(source, 0.5) @ inverse_root
    root = _power(target, 0.5)
    return inverse_root @ _power(root @ source @ root, 0.5) @ inverse_root


def match_moments(image: Tensor, own: Moments, wanted: Moments, form: Form = "sym", eps: float = 1e-5) -> Tensor:
    """Map the colors of `image` (B, 3, H, W) or (3, H, W) so that the moments `own` become `wanted`; see `color_map`.

    The result may leave [0, 1]. Before clipping its moments are exact, up to `eps`.
    """
    matrix = color_map(wanted[1], own[1], form, eps).to(image)
    before, after = own[0].to(image)[:, None], wanted[0].to(image)[:, None]
    result = torch.empty_like(image, memory_format=torch.contiguous_format)
    for pixels, mapped in zip(_pixels(image), _pixels(result), strict=True):
        mapped.copy_(matrix @ (pixels - before) + after)
    return result


def match_color(
    image: Tensor, references: Sequence[Tensor], shares: Sequence[float], form: Form = "sym", eps: float = 1e-5
) -> Tensor:
    """Give `image` (B, 3, H, W) the color mean and covariance of the references; the result may leave [0, 1].

    Args:
        references: (3, H, W) each; with several, their moments are averaged by `shares`.
        form, eps: see `color_map`.

    Raises:
        ArgumentError: unknown form.
    """
    return match_moments(image, color_moments(image), mean_moments(references, shares), form, eps)


def luminance(image: Tensor) -> Tensor:
    """The Y of YIQ and YUV: (..., 3, H, W) -> (..., 1, H, W) in the image's range."""
    red, green, blue = image.split(1, dim=-3)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def chroma(image: Tensor) -> Tensor:
    """What luminance leaves of the color, (..., 3, H, W), each channel in [-1, 1]; gray has none, its luminance is 0.

    Carries the same information as I and Q of YIQ, or U and V of YUV. Their inverses have 1 in every row of the Y
    column, so luminance(x) + chroma(x) = x is the exact inverse, and no matrix has to be inverted. (Gatys et al. 2017
    release rounded matrices that miss by 0.0024.)
    """
    return image - luminance(image)


def _weighted_pixels(image: Tensor, weights: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels (3, n) and their weights (n,) in float64, on the CPU since some accelerators have no float64."""
    area = image.shape[-2] * image.shape[-1]
    flat = torch.ones((), device="cpu").expand(area) if weights is None else weights.reshape(area)
    chunks = flat.split(CHUNK_PX)
    for number, pixels in enumerate(_pixels(image)):
        yield pixels.cpu().double(), chunks[number % len(chunks)].cpu().double()


def _pixels(image: Tensor) -> Iterator[Tensor]:
    """(..., 3, H, W) as (3, n) chunks, views where the image is contiguous."""
    for picture in image.reshape(-1, 3, image.shape[-2] * image.shape[-1]):
        yield from picture.split(CHUNK_PX, dim=1)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=1e-12) ** exponent) @ vectors.T
