"""Guides: factors on features that restrict a style to the region of a mask."""

import logging
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from nstexp.core.errors import choice
from nstexp.core.names import Propagation
from nstexp.core.networks.encoder import IMAGE, Encoder
from nstexp.core.resize import resize

log = logging.getLogger(__name__)


def guides(
    mask: Tensor, encoder: Encoder, layers: Sequence[str], propagation: Propagation = "simple"
) -> dict[str, Tensor]:
    """Propagate the mask of a region to the layers of an encoder (Gatys et al. 2017, section 4).

    The result is the factor T on the features of a layer. T has a mean square of 1, so that the Gram matrix of the
    features times T is the Gram matrix of the region.

    Args:
        mask: (H, W) in [0, 1], of the image's size.
        encoder: the network of the layers, which knows their receptive fields.
        layers: names of the layers.
        propagation: `simple` resizes the mask and keeps its gray levels. The others divide it into black and white at
            1/2: `inside` keeps the positions whose receptive field is inside the region (a layer without such a
            position is treated as in `simple`), and `all` keeps those whose receptive field touches the region.

    Returns:
        Layer name -> (h, w), for `image` and for the layers that have a position in the region.

    Raises:
        ArgumentError: unknown propagation.

    Examples:
        >>> from nstexp.core import VGG, random_vgg
        >>> mask = torch.zeros(32, 32)
        >>> mask[:, 16:] = 1
        >>> factors = guides(mask, VGG(random_vgg()), ["relu2_1"], propagation="inside")
        >>> factors["relu2_1"].shape, round(factors["relu2_1"].square().mean().item(), 4)
        (torch.Size([16, 16]), 1.0)
    """
    choice("propagation", propagation, get_args(Propagation))
    sizes = {name: encoder.shape(name, (mask.shape[-2], mask.shape[-1]))[1:] for name in layers}
    simple = {name: resize(mask[None, None].float(), size)[0, 0] for name, size in sizes.items()}
    masks = simple
    if propagation != "simple":
        region = (mask if propagation == "inside" else 1 - mask)[None, None] >= 0.5
        # `all` is the complement of `inside` for the complement of the region.
        inside = {name: encoder.all_seen(region.float(), name)[0, 0] for name in layers}
        masks = {name: kept if propagation == "inside" else 1 - kept for name, kept in inside.items()}
        masks = {name: kept if kept.any() else simple[name] for name, kept in masks.items()}
    masks = {IMAGE: mask.float(), **masks}
    return {name: t / t.square().mean().sqrt() for name, t in masks.items() if float(t.max()) > 1e-3}


def soft_box(size: tuple[int, int], box: Sequence[float], feather: float) -> Tensor:
    """A mask of a box with soft edges around it: 1 in the box, falling smoothly to 0 outside.

    Args:
        size: (height, width) in pixels.
        box: left, top, right and bottom edge, in pixels; it may reach beyond the picture.
        feather: how far the soft edge reaches, as a share of the box's mean side.

    Returns:
        (height, width), float32.

    Examples:
        >>> soft_box((1, 8), (0, 0, 2, 2), feather=1.5).round(decimals=2)
        tensor([[1.0000, 1.0000, 0.9300, 0.5000, 0.0700, 0.0000, 0.0000, 0.0000]])
    """
    left, top, right, bottom = box
    reach = max(feather * ((right - left) + (bottom - top)) / 2, 1e-6)
    rows, columns = (torch.arange(side) + 0.5 for side in size)  # the middles of the pixels
    down = (top - rows).clamp(min=0) + (rows - bottom).clamp(min=0)
    across = (left - columns).clamp(min=0) + (columns - right).clamp(min=0)
    near = 1 - torch.hypot(down[:, None], across).div(reach).clamp(max=1)
    return near.square() * (3 - 2 * near)
