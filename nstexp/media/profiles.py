"""Color profiles: pictures become sRGB when they are read, and what is written says that it is sRGB."""

import logging
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

log = logging.getLogger(__name__)

# White stays white and black stays black, whatever light or ink they were made for: relative colorimetric with black
# point compensation, the default of image editors.
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}  # of profiles -> Pillow's
SAME = 1  # a profile that changes no color by more levels than this is sRGB, whatever its name
_reported: set[bytes] = set()


class Conversion:
    """Turns pictures of one Pillow mode into RGB pictures in sRGB."""

    def __init__(self, profile: ImageCms.ImageCmsProfile, mode: str) -> None:
        self.mode = mode
        self._transform = ImageCms.buildTransform(profile, _srgb(), mode, "RGB", INTENT, FLAGS)

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageCms.applyTransform(image, self._transform)


def conversion(image: Image.Image, name: str = "") -> Conversion | None:
    """What the colors of a picture need to become sRGB; None: nothing.

    That is so without a profile, with one of sRGB, and with a broken one, of which a warning tells once.

    Args:
        image: only its mode and its profile are looked at.
        name: of the picture, for the warning.
    """
    if image.mode == "LAB":  # needs no profile to be told what its numbers mean
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
    """An ICC profile of sRGB, always the same bytes."""
    data = bytearray(_srgb().tobytes())
    data[24:36] = (2000).to_bytes(2, "big") + bytes((0, 1, 0, 1, 0, 0, 0, 0, 0, 0))  # the date when it was made
    return bytes(data)


@lru_cache(maxsize=64)
def _conversion(data: bytes, kind: str) -> Conversion | str | None:
    """A conversion, None where none is needed, or why there can be none.

    Args:
        data: the profile.
        kind: of the picture: CMYK, gray or color.
    """
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        space = profile.profile.xcolor_space.strip().upper()
        # A gray picture may have a profile of RGB, whose grays it uses.
        if space not in {"CMYK": ("CMYK",), "gray": ("GRAY", "RGB"), "color": ("RGB",)}[kind]:
            return f"it is one of {space}, and the picture is not"
        found = Conversion(profile, MODES[space])
    except Exception as error:  # LittleCMS and Pillow raise several kinds for a damaged profile
        return " ".join(str(error).split()) or "it is damaged"
    return None if found.mode != "CMYK" and _changes_nothing(found) else found


def _changes_nothing(found: Conversion) -> bool:
    """Whether a conversion from RGB or gray leaves all of a grid of colors, and all grays, as they are."""
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
