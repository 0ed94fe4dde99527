"""Which style applies where: gray pictures in, weights that sum to 1 at every pixel out, and guides for features."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from nstexp.core.color import luminance
from nstexp.core.errors import UserError
from nstexp.core.features import IMAGE, VGG
from nstexp.core.images import load_image, resize

log = logging.getLogger(__name__)

Propagation = Literal["simple", "inside", "all"]

ASPECT_TOLERANCE = 0.02
COVERED = 5 / 255  # darker is black: JPEG leaves a few levels of noise there


def load_masks(paths: Sequence[Path], size: tuple[int, int], max_megapixels: float = 200.0) -> Tensor:
    """Masks (N, H, W) in [0, 1] that sum to 1 at every pixel; white means that the mask applies, gray partly.

    Where the pictures sum to another value they are divided by it: two that are white in one place share it equally.

    Args:
        paths: one picture of any size each; colors count by their luminance.
        size: (height, width) to resize them to.
        max_megapixels: see `load_image`.

    Raises:
        UserError: not an image, another aspect than `size`, or a part of the picture that every mask leaves black.
    """
    masks = torch.cat([_load_mask(path, size, max_megapixels) for path in paths])
    for path, mask in zip(paths, masks, strict=True):
        if float(mask.max()) < COVERED:
            log.warning("masks: %s is black everywhere, so its style applies nowhere", path)
    coverage = masks.sum(0)
    bare = float((coverage < COVERED).double().mean())
    if bare:
        raise UserError(
            f"masks: {100 * bare:.2g} % of the picture is black in every mask: let one of them be white wherever its "
            "style applies"
        )
    overlap = float((coverage > 1 + COVERED).double().mean())
    if overlap > 0.01:  # more than soft or anti-aliased edges
        log.info("masks overlap on %.2g %% of the picture: there each counts by its part of their sum", 100 * overlap)
    return masks.div_(coverage)


def guides(mask: Tensor, encoder: VGG, layers: Sequence[str], propagation: Propagation = "simple") -> dict[str, Tensor]:
    """What a region's mask becomes at each layer (Gatys et al. 2017, section 4): the factor T of the features there.

    Their mean square is 1, so that the Gram matrix of the features times T is that of the region alone. A layer at
    which nothing is left of the region is missing.

    Args:
        mask: (H, W) in [0, 1], of the image's size.
        encoder: knows what a position sees of the image.
        layers: names; `image` itself is always among the results.
        propagation: `simple` resizes the mask, and keeps its grays. The others take it as black and white, divided at
            1/2, and ask what a position sees: `inside` keeps those that see the region only (at a layer where there are
            none it does as `simple`), `all` those that see anything of it.

    Returns:
        Layer name -> (h, w).
    """
    if propagation not in get_args(Propagation):
        raise UserError(f"method.guide={propagation} is unknown, choose one of {', '.join(get_args(Propagation))}")
    sizes = {name: encoder.shape(name, tuple(mask.shape[-2:]))[1:] for name in layers}
    simple = {name: resize(mask[None, None].float(), size)[0, 0] for name, size in sizes.items()}
    found = simple
    if propagation != "simple":
        region = (mask if propagation == "inside" else 1 - mask)[None, None] >= 0.5
        # A position stays if all that it sees is in the region: its complement grows by what the position reaches.
        seen = {name: encoder.all_seen(region.float(), name)[0, 0] for name in layers}
        found = {name: kept if propagation == "inside" else 1 - kept for name, kept in seen.items()}
        found = {name: kept if kept.any() else simple[name] for name, kept in found.items()}
    found = {IMAGE: mask.float(), **found}
    return {name: t / t.square().mean().sqrt() for name, t in found.items() if float(t.max()) > 1e-3}


def _load_mask(path: Path, size: tuple[int, int], max_megapixels: float) -> Tensor:
    image = load_image(path, max_megapixels)
    height, width = image.shape[-2:]
    ratio = (height * size[1]) / (width * size[0])
    # A small size is rounded to whole pixels: one pixel on the shorter side may be more than 2 %.
    if max(ratio, 1 / ratio) - 1 > max(ASPECT_TOLERANCE, 1 / min(size)):
        raise UserError(
            f"masks: {path} is {width}x{height} px, another aspect than the picture's {size[1]}x{size[0]} px "
            f"(they may differ by {ASPECT_TOLERANCE:.0%})"
        )
    return resize(luminance(image), size)
