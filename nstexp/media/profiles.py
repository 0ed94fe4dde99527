"""Color profiles: convert pictures to sRGB when they are read, and tag written files as sRGB."""

import logging
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

log = logging.getLogger(__name__)

# Relative colorimetric with black point compensation, the default of image editors: white stays white and black stays
# black, whatever light or ink the picture was made for.
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}  # color space of the profile -> mode of Pillow
SAME = 1  # a profile that changes no color by more levels (of 255) than this is treated as sRGB, whatever its name
_reported: set[bytes] = set()


class Conversion:
    """Converts pictures of one Pillow mode to RGB pictures in sRGB."""

    def __init__(self, profile: ImageCms.ImageCmsProfile, mode: str) -> None:
        self.mode = mode
        self._transform = ImageCms.buildTransform(profile, _srgb(), mode, "RGB", INTENT, FLAGS)

    def __call__(self, image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image, self._transform)
        assert converted is not None  # it is None only for conversions in place
        return converted


def conversion(image: Image.Image, name: str = "") -> Conversion | None:
    """The conversion of a picture's colors to sRGB; None if it needs none.

    A picture needs none if it has no profile, or the profile of sRGB, or a broken profile; the last is warned about
    once.

    Args:
        image: only its mode and its profile are used.
        name: of the picture, for the warning.
    """
    if image.mode == "LAB":  # the mode alone defines the colors
        return Conversion(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")
    data = image.info.get("icc_profile")
    if not data:
        return None
    kind = "CMYK" if image.mode == "CMYK" else "gray" if image.mode[:1] in "1LI" else "color"
    found = _conversion(bytes(data), kind)
    if isinstance(found, str):
        if data not in _reported:
            _reported.add(data)
            log.warning("%s: its color profile cannot be used (%s), so its colors are taken for sRGB", name, found)
        return None
    return found


@lru_cache(maxsize=16)
def srgb_profile() -> bytes:
    """An ICC profile of sRGB: the same bytes at every call and in every process."""
    data = bytearray(_srgb().tobytes())
    data[24:36] = (2000).to_bytes(2, "big") + bytes((0, 1, 0, 1, 0, 0, 0, 0, 0, 0))  # not the time of this call
    return bytes(data)


@lru_cache(maxsize=64)
def _conversion(data: bytes, kind: str) -> Conversion | str | None:
    """The conversion of a profile to sRGB, None if it is not needed, or a sentence saying why it is not possible.

    Args:
        data: the bytes of the profile.
        kind: color model of the picture: "CMYK", "gray" or "color".
    """
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        space = profile.profile.xcolor_space.strip().upper()
        # A gray picture may have an RGB profile, of which only the grays are used.
        if space not in {"CMYK": ("CMYK",), "gray": ("GRAY", "RGB"), "color": ("RGB",)}[kind]:
            return f"it is a {space} profile, but the picture is not {space}"
        found = Conversion(profile, MODES[space])
    except Exception as error:  # LittleCMS and Pillow raise several exception types for a damaged profile
        return " ".join(str(error).split()) or "it is damaged"
    return None if found.mode != "CMYK" and _changes_nothing(found) else found


def _changes_nothing(found: Conversion) -> bool:
    """Whether a conversion from RGB or gray leaves all grays and a grid of colors unchanged, within `SAME` levels."""
    grays = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(-1, 3)
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    colors = np.concatenate([grays, grid]) if found.mode == "RGB" else grays
    image = Image.fromarray(colors[None])
    given = image if found.mode == "RGB" else image.getchannel(0)
    change = np.asarray(found(given)).astype(int) - np.asarray(image)
    return bool(np.abs(change).max() <= SAME)


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
