"""Find the image files that the user named, and name result files. Imports no torch."""

import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import check_place
from nstexp.core.text import printable
from nstexp.media import samples
from nstexp.media.listing import list_files

# .heic and .heif need pillow-heif; the error message for a HEIC file says so.
READABLE = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif"),
    *(".heic", ".heif"),
)
WITH_ALPHA = (".png", ".webp", ".tif", ".tiff")
MOST_BYTES = 200  # longest file name that results get; file systems allow 255 bytes
CLIPS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".wmv", ".flv", ".3gp", ".ogv")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def find_images(spec: str | Path | Sequence[str | Path], key: str, lists: str | Path | None = None) -> list[Path]:
    """Find the image files that the user named, in a stable order.

    Args:
        spec: a file, a folder (searched recursively), a built-in name such as `sample:astronaut`, or a list of these.
        key: the config key that holds `spec`, named in error messages.
        lists: folder that caches the file lists of large folders, see `list_files`.

    Raises:
        UserError: `spec` is empty, names nothing that exists, or names a folder without images.
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
    check_exists(spec, key)
    return [path]


def check_exists(spec: str, key: str) -> None:
    """Check that `spec` names a file, a folder or a built-in image.

    Args:
        spec: what the user typed.
        key: the config key that holds `spec`, named in the error message.

    Raises:
        UserError: it names none of these.
    """
    if samples.is_builtin(spec):
        samples.find(spec)
    elif not is_there(spec):
        raise UserError(
            f"{key}={printable(spec, one_line=True)}: there is no such file, folder or built-in image "
            "(`python -m nstexp samples` lists those)"
        )


def is_there(name: str) -> bool:
    """Whether a file or folder of this name exists."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # the name is too long, has a zero byte, or ~ without a home
        return False


def is_clip(spec: str) -> bool:
    """Whether a file name ends like that of a video."""
    return Path(spec).suffix.lower() in CLIPS


def as_list(spec: Any) -> list[str]:
    """Turn one name or several into a list of strings; the command line reads a name such as 2024 as a number."""
    if spec is None:
        return []
    several = isinstance(spec, Sequence) and not isinstance(spec, str)
    return [str(name) for name in (spec if several else [spec])]


def check_writable(path: Path, key: str) -> None:
    """Check that the file `path` can be written, so that a run fails before the work instead of after it.

    Args:
        path: the file to write; it need not exist.
        key: the config key that holds `path`, named in the error message.

    Raises:
        UserError: the suffix is unknown, a folder has this name, or the folder around it is not writable.
    """
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f"{key}={path}: cannot write '{path.suffix}' files, use one of {', '.join(WRITABLE)}")
    check_place(path, key)


def unique_names(paths: Sequence[Path], taken: Sequence[str] = ()) -> list[str]:
    """Result names for `paths`: their stems, numbered (`_2`, `_3`) where they repeat or are `taken`.

    Names that differ only in case count as the same, because some file systems do not tell them apart. Names longer
    than 200 bytes are cut, so that a suffix still fits.
    """
    names = list(taken)
    used = {name.casefold() for name in names}
    for stem in map(_shortened, (path.stem for path in paths)):
        numbered = (stem if n == 1 else f"{stem}_{n}" for n in count(1))
        names.append(next(name for name in numbered if name.casefold() not in used))
        used.add(names[-1].casefold())
    return names[len(taken) :]


def _shortened(name: str) -> str:
    whole = os.fsencode(name)
    return name if len(whole) <= MOST_BYTES else whole[:MOST_BYTES].decode(errors="ignore")
