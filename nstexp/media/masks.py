"""Masks from files: which style applies where, as weights that sum to 1 at every pixel."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nstexp.core.color import luminance
from nstexp.core.errors import UserError
from nstexp.core.resize import resize
from nstexp.media.images import load_image

log = logging.getLogger(__name__)

ASPECT_TOLERANCE = 0.03
COVERED = 5 / 255  # darker is black: JPEG leaves a few levels of noise there


def load_masks(paths: Sequence[Path], size: tuple[int, int], max_input_megapixels: float = 200.0) -> Tensor:
    """Masks (N, H, W) in [0, 1] that sum to 1 at every pixel; white means that the mask applies, gray partly.

    Where the pictures sum to another value they are divided by it: two that are white in one place share it equally.

    Args:
        paths: one picture of any size each; colors count by their luminance.
        size: (height, width) to resize them to.
        max_input_megapixels: see `load_image`.

    Raises:
        UserError: not an image, another aspect than `size`, or a part of the picture that every mask leaves black.
    """
    masks = torch.cat([_load_mask(path, size, max_input_megapixels) for path in paths])
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


def _load_mask(path: Path, size: tuple[int, int], max_input_megapixels: float) -> Tensor:
    image = load_image(path, max_input_megapixels, as_data=True)
    height, width = image.shape[-2:]
    ratio = (height * size[1]) / (width * size[0])
    # A small size is rounded to whole pixels: one pixel on the shorter side may be more than that.
    if 1 - min(ratio, 1 / ratio) > max(ASPECT_TOLERANCE, 1 / min(size)) + 1e-9:
        raise UserError(
            f"masks: {path} is {width}x{height} px, another aspect than the picture's {size[1]}x{size[0]} px "
            f"(they may differ by {ASPECT_TOLERANCE:.0%})"
        )
    return resize(luminance(image), size)
