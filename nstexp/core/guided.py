"""The color guided filter, which makes a picture locally affine in a photo, and box means of any radius.

He, Sun & Tang 2013, "Guided image filtering", section 3.4 (the filter with a color guide); He & Sun 2015, "Fast guided
filter" (the fit on a reduced copy). In every square window k of the guide I, the picture p is approximated by A_k I +
b_k with

    A_k = (cov_k(I) + eps U)^-1 (cov_k(I, p) + eps S),   b_k = mean_k(p) - A_k mean_k(I),

and the result at a pixel is the mean of A_k and b_k, over all windows that contain the pixel, applied to the guide.
The paper has S = 0: where the guide is flat, the result is flat, too. A color map of the whole picture as S keeps the
guide's fine structure there; the result is then S I plus the filtered rest p - S I.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.color import color_map, color_moments
from nstexp.core.errors import ArgumentError, number, whole

BAND_PX = 2**20  # pixels of the reduced copy that are fitted together, because one of them takes about 600 bytes
APPLIED_PX = 2**18  # pixels to which the maps are applied together, so that intermediate results stay in the cache
MOST_ROWS = 16  # of the reduced copy, in one application: the matrix that enlarges them grows with their square
UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # entries of a symmetric 3x3 matrix that are computed
FROM_UPPER = (0, 1, 2, 1, 3, 4, 2, 4, 5)  # and where the nine entries are found among them
RIDGE = 1e-4  # added to the color variances of photos for the map of the whole picture, so that gray ones have it


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over square windows of side 2 radius + 1, cut off at the borders: (..., H, W) -> same shape, float64.

    Running sums make the cost independent of the radius. They are float64, because a sum over a row of a large picture
    leaves too few digits in float32 for a difference of two of them. At the borders the mean is over the pixels that
    exist.

    Args:
        x: any real numbers, of any type.
        radius: in pixels, 0 or larger.

    Raises:
        ArgumentError: a radius that is not a whole number, 0 or larger.

    Examples:
        >>> box_mean(torch.tensor([[0.0, 3.0, 6.0, 9.0]]), 1).tolist()
        [[1.5, 3.0, 6.0, 7.5]]
    """
    whole("radius", radius)
    return _running_mean(_running_mean(x.double(), radius, -1), radius, -2)


def _running_mean(x: Tensor, radius: int, dim: int) -> Tensor:
    length = x.shape[dim]
    radius = min(radius, length - 1)
    sums, kept = x.cumsum(dim), length - radius
    means = torch.empty_like(sums)  # first the sums up to the end of each window, then without those before its start
    means.narrow(dim, 0, kept).copy_(sums.narrow(dim, radius, kept))
    means.narrow(dim, kept, radius).copy_(sums.narrow(dim, length - 1, 1).expand_as(means.narrow(dim, kept, radius)))
    if kept > 1:
        means.narrow(dim, radius + 1, kept - 1).sub_(sums.narrow(dim, 0, kept - 1))
    index = torch.arange(length, device=x.device)
    counts = (index + radius + 1).clamp(max=length) - (index - radius).clamp(min=0)
    return means.div_(counts.view(-1, *[1] * (-1 - dim)))


def guided_filter(
    guide: Tensor, picture: Tensor, radius: int, eps: float, step: int = 1, slope: Tensor | None = None
) -> Tensor:
    """Filter pictures with a color guide, see the module's text.

    Tall pictures are filtered in bands that overlap by twice the radius, which bounds the memory and does not change
    the result.

    Args:
        guide: the photo, RGB (B, 3, H, W) or (1, 3, H, W) for all pictures, in [0, 1].
        picture: what is filtered, (B, 3, H, W).
        radius: of the windows, in pixels, 1 or larger.
        eps: ridge of the fit, in units of a color variance, larger than 0: windows in which the guide varies less than
            its square root count as flat.
        step: the fit uses means over step x step pixels of guide and picture, and the maps are enlarged bilinearly.
            1: the exact filter.
        slope: S, the color map where the guide is flat, (B, 3, 3) or (3, 3), acting on columns of colors; None: 0.

    Returns:
        (B, 3, H, W), with the type of the picture; values may leave [0, 1].

    Raises:
        ArgumentError: sizes that differ, or a number out of its range.

    Examples:
        >>> guide = torch.rand(1, 3, 16, 16)
        >>> torch.allclose(guided_filter(guide, 0.5 * guide + 0.2, radius=4, eps=1e-9), 0.5 * guide + 0.2, atol=1e-4)
        True
    """
    whole("radius", radius, 1)
    whole("step", step, 1)
    number("eps", eps, above=0)
    if guide.shape[1:] != picture.shape[1:] or guide.shape[0] not in (1, picture.shape[0]):
        shapes = f"{tuple(guide.shape)} and {tuple(picture.shape)}"
        raise ArgumentError("guide", f": guide and picture have different shapes, {shapes}")
    exact = torch.promote_types(torch.promote_types(guide.dtype, picture.dtype), torch.float32)
    guide, given = guide.to(exact), picture.to(exact)
    result = torch.empty_like(given, memory_format=torch.contiguous_format)
    small_guide, small = (reduced(x, step) for x in (guide, given))
    low_radius = max(1, round(radius / step))
    for top, bottom, first, end in _bands(small.shape[-2], small.shape[-1], low_radius):
        maps = _affine_maps(small_guide[..., first:end, :], small[..., first:end, :], low_radius, eps, slope).to(given)
        for rows in _rows(top, bottom, step, given.shape[-1]):
            cut = slice(rows.start * step, rows.stop * step)
            enlarged = _enlarged(maps, slice(rows.start - first, rows.stop - first), step)
            _apply(enlarged, guide[..., cut, :], result[..., cut, :])
    return result.to(picture.dtype)


def color_slope(guide: Tensor, picture: Tensor) -> Tensor:
    """The linear color map from a photo to a picture of the same size that matches the color covariances.

    It is the symmetric map of `color_map`, one for each picture: (1 or B, 3, H, W) and (B, 3, H, W) -> (B, 3, 3),
    float64, on the CPU.

    Examples:
        >>> guide = torch.rand(1, 3, 8, 8)
        >>> torch.allclose(color_slope(guide, 0.5 * guide)[0], 0.5 * torch.eye(3).double(), atol=1e-2)
        True
    """
    before = [color_moments(one)[1] for one in guide]
    after = [color_moments(one)[1] for one in picture]
    before = before * len(after) if len(before) == 1 else before
    ridge = RIDGE * torch.eye(3, dtype=torch.float64)  # only the photo's, so that the map to a flat picture is 0
    return torch.stack([color_map(b - ridge, a, eps=RIDGE) for a, b in zip(before, after, strict=True)])


def reduced(x: Tensor, step: int) -> Tensor:
    """Means over cells of step x step pixels: (B, C, H, W) -> (B, C, ceil(H / step), ceil(W / step)).

    Cells at the right and the bottom edge may be smaller.

    Examples:
        >>> reduced(torch.tensor([[[[1.0, 3.0, 8.0]]]]), 2).tolist()
        [[[[2.0, 8.0]]]]
    """
    return x if step == 1 else F.avg_pool2d(x, step, ceil_mode=True, count_include_pad=False)


def _bands(height: int, width: int, radius: int) -> Iterator[tuple[int, int, int, int]]:
    """Rows of the reduced copy that are fitted together: the rows whose maps are needed, and the rows that are read.

    Means of means reach twice the radius, and one row more is needed to enlarge the maps.
    """
    rows, overlap = max(1, BAND_PX // width), 2 * radius + 1
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        yield top, bottom, max(0, top - overlap), min(height, bottom + overlap)


def _rows(top: int, bottom: int, step: int, width: int) -> Iterator[slice]:
    count = max(1, min(MOST_ROWS, APPLIED_PX // (width * step)))
    for first in range(top, bottom, count):
        yield slice(first, min(bottom, first + count))


def _affine_maps(guide: Tensor, picture: Tensor, radius: int, eps: float, slope: Tensor | None) -> Tensor:
    """Mean A and b at every pixel -> (B, 12, h, w), float64 on the CPU, since some accelerators have no float64.

    Channel 4 c + d, for d < 3, is the factor of the guide's channel d in channel c of the result; 4 c + 3 is b.
    """
    guide, picture = guide.cpu().double(), picture.cpu().double()
    mean_guide, mean = box_mean(guide, radius), box_mean(picture, radius)
    upper = torch.stack([guide[:, i] * guide[:, j] for i, j in UPPER], 1)
    cov_guide = box_mean(upper, radius)
    for n, (i, j) in enumerate(UPPER):
        cov_guide[:, n] -= mean_guide[:, i] * mean_guide[:, j] - eps * (i == j)
    products = (picture[:, :, None] * guide[:, None]).flatten(1, 2)
    square = (-1, 3, 3, *mean.shape[-2:])
    cov = box_mean(products, radius).view(square) - mean[:, :, None] * mean_guide[:, None]  # (B, c, d, h, w)
    if slope is not None:
        cov += eps * slope.cpu().double()[..., None, None]
    inverse = _inverse(cov_guide)[:, list(FROM_UPPER)].view(square)  # (1 or B, d, d, h, w)
    maps = torch.empty(len(cov), 3, 4, *mean.shape[-2:], dtype=torch.float64)
    for d in range(3):
        torch.sum(cov * inverse[:, d, None], 2, out=maps[:, :, d])
    maps[:, :, 3] = mean - (maps[:, :, :3] * mean_guide[:, None]).sum(2)
    return box_mean(maps.flatten(1, 2), radius)


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse of symmetric 3x3 matrices by cofactors, many times faster than a general solver; both as `UPPER`."""
    a, b, c, d, e, f = matrix.unbind(1)
    inverse = torch.stack([d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b], 1)
    return inverse.div_((a * inverse[:, 0] + b * inverse[:, 1] + c * inverse[:, 2])[:, None])


def _enlarged(maps: Tensor, rows: slice, step: int) -> Tensor:
    """The maps (B, 12, h, w) of some rows, enlarged `step` times bilinearly; pixels beyond the border repeat it."""
    if step == 1:
        return maps[..., rows, :]
    first = max(0, rows.start - 1)
    context = maps[..., first : rows.stop + 1, :]
    wide = F.interpolate(context, scale_factor=(1.0, float(step)), mode="bilinear", align_corners=False)
    # In two passes, since each row of the wide maps serves for `step` rows of the result.
    places = (torch.arange(rows.start * step, rows.stop * step) + 0.5) / step - 0.5 - first
    places = places.clamp(0, context.shape[-2] - 1)
    weights = (1 - (places[:, None] - torch.arange(context.shape[-2])).abs()).clamp(min=0)
    return torch.matmul(weights.to(wide), wide)


def _apply(maps: Tensor, guide: Tensor, result: Tensor) -> None:
    """Write A I + b into the result (B, 3, h, w).

    Args:
        maps: (B, 12, h', w'), at least as large as the guide.
        guide: (1 or B, 3, h, w).
    """
    height, width = guide.shape[-2:]
    factors = maps[..., :height, :width].view(-1, 3, 4, height, width)
    for c in range(3):
        channel = result[:, c].copy_(factors[:, c, 3])
        for d in range(3):
            channel.addcmul_(factors[:, c, d], guide[:, d])
