"""Pictures on a torus, whose opposite edges meet: copies of such a picture beside each other show no seam."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ALIKE, UNLIKE = 1.5, 2.5  # steps over an edge, relative to those inside: up to the first they pass for one of them


def wrapped(image: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Extend (..., H, W) on each side, by any number of pixels, with what lies beyond the opposite edge.

    Examples:
        >>> wrapped(torch.tensor([[1.0, 2.0, 3.0]]), 1, 4, 0, 0).tolist()
        [[3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]]
    """
    return _extended(_extended(image, left, right, -1), top, bottom, -2)


def within(image: Tensor, margin: int) -> Tensor:
    """(..., H, W) without `margin` pixels on each side, for what was made of a `wrapped` picture."""
    height, width = image.shape[-2:]
    return image[..., margin : height - margin, margin : width - margin]


def _extended(image: Tensor, before: int, after: int, axis: int) -> Tensor:
    side = image.shape[axis]
    if not before and not after:
        return image
    if max(before, after) <= side:  # faster, also backward
        parts = image.narrow(axis, side - before, before), image, image.narrow(axis, 0, after)
        return torch.cat(parts, axis)
    places = torch.arange(-before, side + after, device=image.device) % side
    return image.index_select(axis, places)


def resize_wrapped(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a picture whose opposite edges meet, so that they meet in the result, too; else as `resize`.

    Args:
        image: (C, H, W) or (B, C, H, W) in [0, 1].
        size: (height, width); a picture of this size is returned unchanged.

    Examples:
        >>> stripes = torch.tensor([0.2, 0.8]).repeat(1, 1, 6, 3)
        >>> large = resize_wrapped(stripes, (6, 9))
        >>> torch.allclose(large.roll(3, -1), large, atol=1e-6)  # three periods, as before
        True
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    batch = image if image.dim() == 4 else image[None]
    result = interpolate_wrapped(batch, size, "bicubic", antialias=True).clamp(0, 1)
    return result if image.dim() == 4 else result[0]


def interpolate_wrapped(
    x: Tensor, size: tuple[int, int], mode: Literal["bilinear", "bicubic"], antialias: bool = False
) -> Tensor:
    """`torch.nn.functional.interpolate` of (B, C, H, W) to (height, width), for a map whose opposite edges meet."""
    for axis, side in ((-2, size[0]), (-1, size[1])):
        before = x.shape[axis]
        if before == side:
            continue
        # Margins of a whole number of these units are whole numbers of pixels before and after.
        units = math.gcd(before, side)
        reach = math.ceil(2 * max(1.0, before / side)) + 1
        count = -(-reach // (before // units))
        margin, margin_after = count * (before // units), count * (side // units)
        extended = _extended(x, margin, margin, axis)
        long = side + 2 * margin_after
        target = (long, x.shape[-1]) if axis == -2 else (x.shape[-2], long)
        x = F.interpolate(extended, size=target, mode=mode, antialias=antialias, align_corners=False)
        x = x.narrow(axis, margin_after, side)
    return x


def at_multiples(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(height, width) rounded up to multiples.

    Examples:
        >>> at_multiples((100, 64), 16)
        (112, 64)
    """
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def edge_steps(image: Tensor) -> Tensor:
    """How visible the seams between copies of a picture are: steps over its edges, relative to those inside.

    Args:
        image: (B, C, H, W), height and width 2 or more.

    Returns:
        (2, B): the mean absolute difference of neighboring pixels over the upper edge, and over the left edge, each
        divided by the mean absolute difference inside along the same axis. 1: the edge is like the inside.

    Examples:
        >>> ramp = torch.linspace(0, 1, 5).expand(1, 3, 5, 5)
        >>> [round(float(step), 3) for step in edge_steps(ramp)]  # left: a step of 1, beside four of 1/4
        [0.0, 4.0]
    """
    found = []
    for axis in (-2, -1):
        inside = image.diff(dim=axis).abs().mean((1, 2, 3))
        over = image.narrow(axis, 0, 1) - image.narrow(axis, image.shape[axis] - 1, 1)
        found.append(over.abs().mean((1, 2, 3)) / inside.clamp(min=1e-6))
    return torch.stack(found)


def periodic(image: Tensor) -> Tensor:
    """Even out the steps over the edges of a picture, so that opposite edges meet.

    The periodic component of Moisan 2011 ("Periodic plus smooth image decomposition", section 2): the picture without a
    smooth picture that has its steps over the edges. Differs from the paper in one point: an axis along which the edge
    is like the inside already (`edge_steps` up to 1.5) is left alone, so that a picture that tiles stays as it is;
    from 1.5 to 2.5 the change grows to that of the paper.

    Args:
        image: (B, C, H, W) in [0, 1].

    Returns:
        The same shape and range.

    Examples:
        >>> ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
        >>> [round(float((x[..., 0] - x[..., -1]).abs().max()), 3) for x in (ramp, periodic(ramp))]
        [1.0, 0.031]
    """
    height, width = image.shape[-2:]
    if min(height, width) < 2:
        return image
    shares = ((edge_steps(image) - ALIKE) / (UNLIKE - ALIKE)).clamp(0, 1)
    if not bool(shares.any()):
        return image
    share_y, share_x = shares[:, :, None, None].to(image)
    steps = torch.zeros_like(image)
    over_y, over_x = image[..., -1, :] - image[..., 0, :], image[..., -1] - image[..., 0]
    steps[..., 0, :] += share_y * over_y
    steps[..., -1, :] -= share_y * over_y
    steps[..., 0] += share_x * over_x
    steps[..., -1] -= share_x * over_x
    waves_y = torch.cos(2 * math.pi * torch.arange(height, device=image.device) / height)
    waves_x = torch.cos(2 * math.pi * torch.arange(width // 2 + 1, device=image.device) / width)
    factor = 2 * waves_y[:, None] + 2 * waves_x - 4  # the Laplacian on the torus
    factor[0, 0] = 1  # the mean of the smooth picture is 0, and so is that of `steps`
    smooth = torch.fft.irfft2(torch.fft.rfft2(steps) / factor, s=(height, width))
    # A picture that stays as it is must do so bit for bit.
    changed = shares.any(0)[:, None, None, None]
    return torch.where(changed, (image - smooth).clamp(0, 1), image)
