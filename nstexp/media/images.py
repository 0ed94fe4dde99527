"""Image files in and out. In memory an image is sRGB, float32 in [0, 1], (3, H, W); nothing else leaves this module."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.pixels import from_array, to_array
from nstexp.core.runtime.files import write_atomically
from nstexp.media import profiles
from nstexp.media.decoding import Unreadable, damage, decoding, upright
from nstexp.media.paths import WITH_ALPHA, WRITABLE

log = logging.getLogger(__name__)
STRIP_PIXELS = 2**22  # are converted at a time, so that a large picture is in memory once and not in every form
REMEDY = " for one input image (raise it with max_input_megapixels=...)"
ANIMATED = ("GIF", "WEBP", "AVIF", "PNG")  # Pillow's names of formats


def load_image(
    path: str | Path, max_input_megapixels: float = 200.0, background: str = "white", as_data: bool = False
) -> Tensor:
    """Read one image of any mode as sRGB in [0, 1], (3, H, W).

    Of an animation the first frame is taken. EXIF orientation is applied, colors are converted by the profile in the
    file, transparency is composited over `background`, 16-bit and CMYK data are converted.

    Args:
        path: the file.
        max_input_megapixels: limit on its size in the header; another one is the memory that is free.
        background: a color as Pillow names it.
        as_data: the pixels are numbers and no colors, so that a profile does not change them.

    Raises:
        UserError: not an image, truncated, damaged, empty, or too large.
    """
    return load_with_alpha(path, max_input_megapixels, background, as_data)[0]


def load_with_alpha(
    path: str | Path, max_input_megapixels: float = 200.0, background: str = "white", as_data: bool = False
) -> tuple[Tensor, Tensor | None]:
    """An image as of `load_image`, and its opacity in [0, 1], (1, H, W), if any of it is transparent."""
    try:
        with decoding(Path(path), max_input_megapixels, REMEDY) as image:
            if complaint := damage(image):
                log.warning("%s: the file is damaged, look whether the picture is (%s)", path, complaint)
            if image.format in ANIMATED and image.is_animated:
                log.info("%s: an animation of %d frames, of which the first is taken", path, image.n_frames)
            upright(image)
            if as_data:
                image.info.pop("icc_profile", None)
            return to_tensors(image, background, str(path))
    except Unreadable as error:
        raise UserError(f"{path}: {error}") from error


def save_image(image: Tensor, path: str | Path) -> None:
    """Write an RGB image (3, H, W), or one with its opacity (4, H, W), clamped to [0, 1], as 8 bits a channel.

    The format follows the file name; where it has no transparency the image is composited over white. The file says
    that its colors are sRGB, where the format has a place for that. It appears complete or not at all: it is written
    beside its place and renamed.

    Raises:
        UserError: unknown suffix, folder not writable, disk full.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise UserError(f"{path}: cannot write '{path.suffix}' files, use one of {', '.join(WRITABLE)}")
    if len(image) == 4 and suffix not in WITH_ALPHA:
        image = 1 + (image[:3].clamp(0, 1) - 1) * image[3:].clamp(0, 1)
    picture = Image.fromarray(to_array(image))
    write_atomically(path, lambda temporary: picture.save(temporary, **save_options(suffix)))


def save_options(suffix: str) -> dict[str, Any]:
    """What Pillow's `save` is told for files with this ending (lower case), besides what is to be in them."""
    if suffix == ".png":
        mark = PngImagePlugin.PngInfo()
        mark.add(b"sRGB", bytes([profiles.INTENT]))
        return {"pnginfo": mark}
    options: dict[str, Any] = {} if suffix == ".bmp" else {"icc_profile": profiles.srgb_profile()}
    if suffix in (".jpg", ".jpeg", ".webp"):
        options["quality"] = 95
    return options | ({"subsampling": 0} if suffix in (".jpg", ".jpeg") else {})


def opaque_rgb(image: Image.Image, background: str = "white", name: str = "") -> Image.Image:
    """A picture as 8-bit RGB in sRGB, composited over `background`; not for modes of more than 8 bits (`is_deep`).

    Args:
        image: a decoded picture of another mode.
        background: a color as Pillow names it.
        name: of the picture, for warnings.
    """
    convert = profiles.conversion(image, name)
    if not image.has_transparency_data:
        return _converted(image, convert)
    whole = image.convert("RGBA")
    if convert is not None:
        colors = _converted(whole.convert("RGB"), convert)
        colors.putalpha(whole.getchannel("A"))
        whole = colors
    return Image.alpha_composite(Image.new("RGBA", whole.size, background), whole).convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has gray levels that `opaque_rgb` would clip at 255."""
    return image.mode.startswith("I") or image.mode == "F"


def to_tensors(image: Image.Image, background: str = "white", name: str = "") -> tuple[Tensor, Tensor | None]:
    """A decoded picture of any mode as sRGB in [0, 1] (3, H, W), and its opacity (1, H, W), None where it is 1.

    Args:
        image: upright.
        background: see `load_image`.
        name: of the picture, for warnings.
    """
    if is_deep(image):
        return _deep_gray(image, name), None
    width, height = image.size
    rgb = torch.empty(3, height, width)
    alpha = torch.empty(1, height, width) if image.has_transparency_data else None
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        rgb[:, top : top + rows] = from_array(np.asarray(opaque_rgb(strip, background, name)))
        if alpha is not None:
            opacity = np.asarray(strip.convert("RGBA").getchannel("A"))
            alpha[:, top : top + rows] = from_array(opacity[..., None])
    return rgb, None if alpha is None or bool(alpha.min() == 1) else alpha


def _converted(image: Image.Image, convert: profiles.Conversion | None) -> Image.Image:
    if convert is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode == convert.mode:
        return convert(image)
    # A profile of grays takes the one channel of a gray picture, whose other forms have three that are equal.
    return convert(image.getchannel("R") if (image.mode, convert.mode) == ("RGB", "L") else image.convert(convert.mode))


def _deep_gray(image: Image.Image, name: str) -> Tensor:
    """Gray of 16 or 32 bits (H, W), as RGB in [0, 1]."""
    gray = np.asarray(image, dtype=np.float32)
    if not np.isfinite(gray).all():
        raise ValueError("some pixels are not finite numbers")
    gray = (gray / _white_point(gray, image.mode, name)).clip(0, 1)
    convert = profiles.conversion(image, name)
    if convert is not None:
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        levels = np.asarray(_converted(ramp, convert).getchannel("R"))[0] / 255
        gray = np.interp(gray, np.linspace(0, 1, 256), levels).astype(np.float32)
    return torch.from_numpy(gray).expand(3, -1, -1).contiguous()


def _white_point(gray: np.ndarray, mode: str, name: str) -> float:
    """Modes "I" and "F" do not say their white: the smallest usual one that holds all values."""
    usual = (65535.0,) if mode.startswith("I;16") else (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    brightest = float(gray.max(initial=0))
    white = next((level for level in usual if brightest <= level), brightest)
    if mode == "F" and white > 1:
        held = f"32-bit floating-point numbers from {gray.min():g} to {brightest:g}"
        if not white / 2 <= brightest <= usual[-1]:
            raise Unreadable(f"the file holds {held}, and nothing says which is white: scale them to 0 ... 1")
        log.warning("%s: the file holds %s, and %g is taken for white", name, held, white)
    return white
