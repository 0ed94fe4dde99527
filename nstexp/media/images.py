"""Image files in and out. In memory an image is RGB, float32 in [0, 1], (3, H, W); nothing else leaves this module."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.pixels import from_array, to_array
from nstexp.core.runtime.files import write_atomically
from nstexp.media.paths import WRITABLE


def load_image(path: str | Path, max_input_megapixels: float = 200.0) -> Tensor:
    """Read one image of any mode as RGB in [0, 1], (3, H, W).

    EXIF orientation is applied, transparency is composited over white, 16-bit and CMYK data are converted.

    Raises:
        UserError: not an image, truncated, empty, or larger than `max_input_megapixels` (a guard against files
            that unpack to gigabytes; the size is read from the header, before anything is decoded).
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty (0 bytes)")
        with without_pillow_limit(), Image.open(path) as image:
            if image.width * image.height > max_input_megapixels * 1e6:
                raise UserError(
                    f"{path}: {image.width}x{image.height} px is over the limit of {max_input_megapixels:g} megapixels "
                    "for one input image (raise it with max_input_megapixels=...)"
                )
            return to_tensor(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Exception as error:  # every decoder of Pillow has errors of its own for a damaged file
        raise UserError(f"{path}: {why_unreadable(error)}") from error


def why_unreadable(error: Exception) -> str:
    """What is wrong with a picture's file, by what Pillow raised about it."""
    known = {
        FileNotFoundError: "there is no such file",
        IsADirectoryError: "this is a folder, not an image file",
        UnidentifiedImageError: "this is not an image file, whatever its name says",
        PermissionError: "no permission to read the file",
    }
    reasons = (reason for kind, reason in known.items() if isinstance(error, kind))
    return next(reasons, f"the image is damaged or truncated ({error})")


def save_image(image: Tensor, path: str | Path) -> None:
    """Write an RGB image (3, H, W), clamped to [0, 1], as 8 bits; the format follows the file name.

    The file appears complete or not at all: it is written beside its place and renamed.

    Raises:
        UserError: unknown suffix, folder not writable, disk full.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f"{path}: cannot write '{path.suffix}' files, use one of {', '.join(WRITABLE)}")
    pixels = to_array(image)
    options = {"quality": 95, "subsampling": 0} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    if path.suffix.lower() == ".webp":
        options = {"quality": 95}
    write_atomically(path, lambda temporary: Image.fromarray(pixels).save(temporary, **options))


def to_tensor(image: Image.Image) -> Tensor:
    if image.mode.startswith("I") or image.mode == "F":  # Pillow's own conversion would clip these at 255
        return _deep_gray(np.asarray(image, dtype=np.float32), image.mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return from_array(np.array(image.convert("RGB")))


def _deep_gray(gray: np.ndarray, mode: str) -> Tensor:
    # Modes "I" and "F" do not say their white point: take the smallest usual one that holds all values.
    usual = (65535.0,) if mode.startswith("I;16") else (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    if not np.isfinite(gray).all():
        raise ValueError("some pixels are not finite numbers")
    brightest = float(gray.max(initial=0))
    white = next((level for level in usual if brightest <= level), brightest)
    return torch.from_numpy(gray / white).clamp(0, 1).expand(3, -1, -1).contiguous()


@contextmanager
def without_pillow_limit() -> Iterator[None]:
    """Pillow refuses images over 179 megapixels by itself, whatever limit the user has set."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
