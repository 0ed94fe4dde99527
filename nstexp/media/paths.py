"""Where pictures are: what the user typed as existing files, and names for results. Nothing here imports torch."""

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

READABLE = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")
READABLE += (".heic", ".heif")  # with pillow-heif, which the error about the first of them names
WITH_ALPHA = (".png", ".webp", ".tif", ".tiff")
MOST_BYTES = 200  # of a name; systems allow 255
CLIPS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".wmv", ".flv", ".3gp", ".ogv")
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
    check_exists(spec, key)
    return [path]


def check_exists(spec: str, key: str) -> None:
    """Raise a UserError where `spec` is neither a file, a folder nor a built-in image; `key` as of `find_images`."""
    if samples.is_builtin(spec):
        samples.find(spec)
    elif not is_there(spec):
        raise UserError(
            f"{key}={printable(spec, one_line=True)}: there is no such file, folder or built-in image "
            "(`python -m nstexp samples` lists those)"
        )


def is_there(name: str) -> bool:
    """Whether a file or folder has this name."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, with a zero byte, or ~ without a home
        return False


def is_clip(spec: str) -> bool:
    """Whether a file is called like a clip."""
    return Path(spec).suffix.lower() in CLIPS


def as_list(spec: Any) -> list[str]:
    """One or several names as a list; the command line reads a name such as 2024 as a number."""
    if spec is None:
        return []
    several = isinstance(spec, Sequence) and not isinstance(spec, str)
    return [str(each) for each in (spec if several else [spec])]


def check_writable(path: Path, key: str) -> None:
    """Fail before the work starts, not after it, when `path` (a file to be) cannot be written.

    Raises:
        UserError: unknown suffix, a folder of that name, or the folder around it is not writable.
    """
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f"{key}={path}: cannot write '{path.suffix}' files, use one of {', '.join(WRITABLE)}")
    check_place(path, key)


def unique_names(paths: Sequence[Path], taken: Sequence[str] = ()) -> list[str]:
    """The files' names without endings, numbered where they are the same or `taken`; where only the case differs, too,
    for on some disks that is the same file. Very long ones lose their end, so that something can be put behind them."""
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
