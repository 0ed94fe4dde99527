"""The pictures of the page: small copies inside it, and links to the files."""

import base64
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nstexp.console import bar
from nstexp.media.sheet import thumbnail
from nstexp.report.page.entries import Entry, files_of, named
from nstexp.report.texts import unique

# Up to FULL_SIZE_FOR pictures, thumbnails have THUMBNAIL_PX on the longer side; more pictures get smaller ones.
THUMBNAIL_PX, LEAST_THUMBNAIL_PX, FULL_SIZE_FOR = 320, 96, 60
WEBP_QUALITY = 80


class Images:
    """One thumbnail per picture file, and links to the files.

    Args:
        output: the page's folder.
        entries: the entries whose pictures and inputs are shown; thumbnails are smaller if there are many.
    """

    def __init__(self, output: Path, entries: Sequence[Entry]) -> None:
        self.output = output
        self.encoded: list[dict[str, Any]] = []
        wanted = unique(file for entry in entries for file in files_of(entry))
        px = THUMBNAIL_PX * math.sqrt(FULL_SIZE_FOR / max(FULL_SIZE_FOR, len(wanted)))
        self.px = max(LEAST_THUMBNAIL_PX, round(px))
        self._numbers = {file: self._add(file) for file in bar(wanted, desc="pictures", delay=2, leave=False)}

    def number(self, file: Path | None) -> int | None:
        """The index of a file's thumbnail in `encoded`; None for a damaged picture."""
        return self._numbers[file] if file is not None else None

    def link(self, file: Path | None) -> str | None:
        """The URL of a file, relative to the page."""
        return None if file is None else link_to(file, self.output)

    def problems(self, entries: Sequence[Entry]) -> list[str]:
        """A sentence for each damaged picture."""
        owners = {file: named(entry.job) for entry in entries for file in files_of(entry)}
        damaged = [file for file, number in self._numbers.items() if number is None]
        return [f"{owners[file]}: {file.name} is damaged and is not shown" for file in damaged]

    def _add(self, file: Path) -> int | None:
        image = encoded(file, self.px)
        if image is None:
            return None
        self.encoded.append(image)
        return len(self.encoded) - 1


def encoded(file: Path, px: int) -> dict[str, Any] | None:
    """A small copy of a picture as {src, width, height}, with a data URL; None for a damaged picture.

    Args:
        file: a picture or a clip.
        px: the longest side.
    """
    image = thumbnail(file, px)
    if image is None:
        return None
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    code = base64.b64encode(buffer.getvalue()).decode()
    return {"src": f"data:image/webp;base64,{code}", "width": image.width, "height": image.height}


def link_to(file: Path, folder: Path) -> str:
    """The URL of a file, relative to a page in a folder."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(file, folder)).as_posix()))
    except ValueError:  # a different drive on Windows
        return Path(file).absolute().as_uri()
