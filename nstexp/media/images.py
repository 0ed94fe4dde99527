"""Read and write image files. In memory an image is sRGB, float32 in [0, 1], (3, H, W)."""

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
STRIP_PIXELS = 2**22  # converted at a time, so that a large picture is not in memory in several forms at once
REMEDY = " for one input image (raise it with max_input_megapixels=...)"
ANIMATED = ("GIF", "WEBP", "AVIF", "PNG")  # Pillow's names of the formats that can be animated


def load_image(
    path: str | Path, max_input_megapixels: float = 200.0, background: str = "white", as_data: bool = False
) -> Tensor:
    """Read one image of any mode as sRGB in [0, 1], (3, H, W).

    The first frame of an animation is used. EXIF orientation is applied, colors are converted with the profile in the
    file, transparency is composited over `background`, and 16-bit and CMYK data are converted.

    Args:
        path: the file.
        max_input_megapixels: limit on width times height, in millions of pixels; the free memory is a separate limit.
        background: a color name or code that Pillow knows.
        as_data: whether the pixels are data instead of colors, so that a color profile is ignored.

    Raises:
        UserError: the file is not an image, or it is truncated, damaged, empty or too large.
    """
    return load_with_alpha(path, max_input_megapixels, background, as_data)[0]


def load_with_alpha(
    path: str | Path, max_input_megapixels: float = 200.0, background: str | None = "white", as_data: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Read an image like `load_image`, and its opacity in [0, 1], (1, H, W); None if that is 1 everywhere.

    With the background None, the colors are those in the file, also where nothing of them is seen.
    """
    try:
        with decoding(Path(path), max_input_megapixels, REMEDY) as image:
            if complaint := damage(image):
                log.warning("%s: the file is damaged, check whether the picture is complete (%s)", path, complaint)
            if image.format in ANIMATED and getattr(image, "is_animated", False):
                log.info("%s: an animation of %d frames; the first one is used", path, getattr(image, "n_frames", 1))
            upright(image)
            if as_data:
                image.info.pop("icc_profile", None)
            return to_tensors(image, background, str(path))
    except Unreadable as error:
        raise UserError(f"{path}: {error}") from error


def save_image(image: Tensor, path: str | Path) -> None:
    """Write an RGB image (3, H, W), or RGB with opacity (4, H, W), in [0, 1] (other values are clamped), as 8 bits.

    The suffix of the file name decides the format. If the format has no transparency, the image is composited over
    white. The file is tagged as sRGB where the format allows it. The file appears complete or not at all: it is
    written under a temporary name and renamed.

    Raises:
        UserError: the suffix is unknown, the folder is not writable, or the disk is full.
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
    """Keyword arguments for Pillow's `save`, for files with this suffix (lower case): quality and the sRGB tag."""
    if suffix == ".png":
        mark = PngImagePlugin.PngInfo()
        mark.add(b"sRGB", bytes([profiles.INTENT]))
        return {"pnginfo": mark}
    options: dict[str, Any] = {} if suffix == ".bmp" else {"icc_profile": profiles.srgb_profile()}
    if suffix in (".jpg", ".jpeg", ".webp"):
        options["quality"] = 95
    return options | ({"subsampling": 0} if suffix in (".jpg", ".jpeg") else {})


def opaque_rgb(image: Image.Image, background: str | None = "white", name: str = "") -> Image.Image:
    """Convert a picture to 8-bit RGB in sRGB, composited over `background`; not for modes above 8 bits (`is_deep`).

    Args:
        image: a decoded picture of any other mode.
        background: a color name or code that Pillow knows; None: drop the transparency, and keep the colors below it.
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
    if background is None:
        return whole.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", whole.size, background), whole).convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has more than 8 bits a channel, so that `opaque_rgb` would clip its levels at 255."""
    return image.mode.startswith("I") or image.mode == "F"


def to_tensors(image: Image.Image, background: str | None = "white", name: str = "") -> tuple[Tensor, Tensor | None]:
    """Convert a decoded picture to sRGB in [0, 1], (3, H, W), and its opacity (1, H, W); None if that is 1 everywhere.

    Args:
        image: of any mode, with its EXIF orientation already applied.
        background: see `load_with_alpha`.
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


def to_pixels(image: Image.Image, background: str | None = "white") -> np.ndarray:
    """`to_tensors` as uint8 (H, W, 3); RGBA (H, W, 4) if the background is None and the picture has transparency."""
    return _as_pixels(*to_tensors(image, background), background)


def load_pixels(path: str | Path, background: str | None = "white") -> np.ndarray:
    """Read an image of any size as `to_pixels` returns it."""
    return _as_pixels(*load_with_alpha(path, float("inf"), background), background)


def _as_pixels(rgb: Tensor, alpha: Tensor | None, background: str | None) -> np.ndarray:
    return to_array(rgb if alpha is None or background is not None else torch.cat([rgb, alpha]))


def _converted(image: Image.Image, convert: profiles.Conversion | None) -> Image.Image:
    if convert is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode == convert.mode:
        return convert(image)
    # A gray profile converts one channel. A gray picture that is stored as RGB has three equal channels: use one.
    return convert(image.getchannel("R") if (image.mode, convert.mode) == ("RGB", "L") else image.convert(convert.mode))


def _deep_gray(image: Image.Image, name: str) -> Tensor:
    """Convert a gray picture of 16 or 32 bits to RGB in [0, 1], (3, H, W)."""
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
    """The level of white: modes "I" and "F" do not define it, so the smallest usual level that no pixel exceeds."""
    usual = (65535.0,) if mode.startswith("I;16") else (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    brightest = float(gray.max(initial=0))
    white = next((level for level in usual if brightest <= level), brightest)
    if mode == "F" and white > 1:
        held = f"32-bit floating-point numbers from {gray.min():g} to {brightest:g}"
        if not white / 2 <= brightest <= usual[-1]:
            raise Unreadable(f"the file holds {held}, and does not say which value is white: scale them to 0 ... 1")
        log.warning("%s: the file holds %s; %g is used as white", name, held, white)
    return white
