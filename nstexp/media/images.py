"""Image files in and out. In memory an image is RGB, float32 in [0, 1], (3, H, W); nothing else leaves this module."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.pixels import from_array, to_array
from nstexp.core.runtime.files import check_place, write_atomically
from nstexp.media import samples
from nstexp.media.listing import list_files

READABLE = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def find_images(spec: str | Path | Sequence[str | Path], key: str, lists: str | Path | None = None) -> list[Path]:
    """Turn what the user typed into existing image files, in a stable order.

    Args:
        spec: a file, a folder (searched recursively), a built-in name such as `sample:astronaut`, or a list of these.
        key: what the user knows the value as, for the error message.
        lists: where the lists of large folders are kept, see `list_files`.

    Raises:
        UserError: nothing there, an empty list, or a folder without images.
    """
    if spec is None or (isinstance(spec, Sequence) and not spec):  # Path("") would be the current folder
        raise UserError(f"{key} is empty: give at least one image, such as {key}=photo.jpg")
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return [path for item in spec for path in find_images(item, key, lists)]
    spec = str(spec)  # the command line reads a folder named 2024 as a number
    if samples.is_builtin(spec):
        return [samples.find(spec)]
    path = Path(spec).expanduser()
    if path.is_dir():
        found = list_files(path, READABLE, lists)
        if not found:
            raise UserError(f"{key}={spec}: the folder holds no image ({', '.join(READABLE)})")
        return found
    if not path.exists():
        raise UserError(
            f"{key}={spec}: there is no such file, folder or built-in image (`python -m nstexp samples` lists those)"
        )
    return [path]


def as_list(spec: Any) -> list[str]:
    """One or several names as a list; the command line reads a name such as 2024 as a number."""
    several = isinstance(spec, Sequence) and not isinstance(spec, str)
    return [str(each) for each in (spec if several else [spec])]


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
        with _without_pillow_limit(), Image.open(path) as image:
            if image.width * image.height > max_input_megapixels * 1e6:
                raise UserError(
                    f"{path}: {image.width}x{image.height} px is over the limit of {max_input_megapixels:g} megapixels "
                    "for one input image (raise it with max_input_megapixels=...)"
                )
            return _to_tensor(ImageOps.exif_transpose(image))
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


def check_writable(path: Path, key: str) -> None:
    """Fail before the work starts, not after it, when `path` (a file to be) cannot be written.

    Raises:
        UserError: unknown suffix, a folder of that name, or the folder around it is not writable.
    """
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f"{key}={path}: cannot write '{path.suffix}' files, use one of {', '.join(WRITABLE)}")
    check_place(path, key)


def unique_names(paths: Sequence[Path], taken: Sequence[str] = ()) -> list[str]:
    """The files' names without endings, numbered where they are the same or `taken`."""
    names = list(taken)
    for path in paths:
        numbered = (path.stem if n == 1 else f"{path.stem}_{n}" for n in count(1))
        names.append(next(name for name in numbered if name not in names))
    return names[len(taken) :]


def _to_tensor(image: Image.Image) -> Tensor:
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
def _without_pillow_limit() -> Iterator[None]:
    """Pillow refuses images over 179 megapixels by itself, whatever limit the user has set."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
