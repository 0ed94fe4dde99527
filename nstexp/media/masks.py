"""Load masks from image files: one weight per style at every pixel, with a sum of 1."""

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

ASPECT_TOLERANCE = 0.03  # relative difference between the aspect ratios of mask and picture
COVERED = 5 / 255  # weights below this count as black, because JPEG leaves a few levels of noise in black areas


def load_masks(paths: Sequence[Path], size: tuple[int, int], max_input_megapixels: float = 200.0) -> Tensor:
    """Load masks (N, H, W) in [0, 1] that sum to 1 at every pixel; the mask applies where its picture is white.

    Where the pictures do not sum to 1, they are divided by their sum: two masks that are both white share the pixel
    equally.

    Args:
        paths: one picture per mask, of any size; colors are converted to luminance.
        size: (height, width) in pixels to resize the masks to.
        max_input_megapixels: see `load_image`.

    Raises:
        UserError: a file is not an image, its aspect ratio differs from that of `size`, or every mask is black in
            some part of the picture.
    """
    masks = torch.cat([load_mask(path, size, max_input_megapixels) for path in paths])
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
        log.info("masks overlap on %.2g %% of the picture: there each one gets its share of their sum", 100 * overlap)
    return masks.div_(coverage)


def load_style_mask(path: Path, size: tuple[int, int], max_input_megapixels: float, key: str) -> Tensor:
    """Load the mask (H, W) in [0, 1] of a style picture, which is bright in the part that counts.

    Args:
        path: a picture of any size; colors are converted to luminance.
        size: (height, width) of the style picture, in pixels, to which the mask is resized.
        max_input_megapixels: see `load_image`.
        key: the config key that names the file, for the error message.

    Raises:
        UserError: the file is not an image, its aspect ratio differs from that of `size`, or it is black everywhere.
    """
    mask = load_mask(path, size, max_input_megapixels, key)[0]
    if float(mask.max()) < COVERED:
        raise UserError(
            f"{key}: {path} is black everywhere, so nothing of its style picture would count: paint the part "
            "that counts white"
        )
    return mask


def load_mask(path: Path, size: tuple[int, int], max_input_megapixels: float = 200.0, key: str = "masks") -> Tensor:
    """Load one mask, (1, H, W) in [0, 1]; its colors are converted to luminance.

    Args:
        path, size, max_input_megapixels: see `load_masks`.
        key: the config key that names the file, for the error message.

    Raises:
        UserError: the file is not an image, or its aspect ratio differs from that of `size`.
    """
    image = load_image(path, max_input_megapixels, as_data=True)
    height, width = image.shape[-2:]
    ratio = (height * size[1]) / (width * size[0])
    # Small sizes are rounded to whole pixels: one pixel on the shorter side may exceed the tolerance.
    if 1 - min(ratio, 1 / ratio) > max(ASPECT_TOLERANCE, 1 / min(size)) + 1e-9:
        raise UserError(
            f"{key}: {path} is {width}x{height} px, but the picture has another aspect ratio, {size[1]}x{size[0]} px "
            f"(they may differ by {ASPECT_TOLERANCE:.0%})"
        )
    return resize(luminance(image), size)
