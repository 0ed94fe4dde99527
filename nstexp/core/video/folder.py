"""A clip as a folder of PNG files."""

import json
import logging
import os
import shutil
from bisect import bisect_left
from pathlib import Path

import numpy as np

from nstexp.core.errors import UserError
from nstexp.core.video.disk import explained
from nstexp.core.video.source import Frame, Source

logger = logging.getLogger(__name__)

MARK = ".nstexp.json"  # in a folder that is ours to replace


class FolderWriter:
    """Writes PNG files into `<path>.partial`, which is renamed at the end, see `open_writer`.

    They are numbered from 000001.png, or have the names of the pictures that the clip consists of.
    """

    def __init__(self, path: Path, source: Source, frames: range, identity: str) -> None:
        self.path, self.partial = path, path.with_name(f"{path.name}.partial")
        self._source, self._frames = source, frames
        if path.exists() and not _is_ours(path):
            raise UserError(f"output={path}: holds other files than an earlier output, choose another name")
        stems = [source.pictures[index].stem for index in frames] if source.pictures else []
        numbers = [f"{number:06d}" for number in range(1, len(frames) + 1)]
        self._names = [f"{stem}.png" for stem in (stems if len(set(stems)) == len(frames) else numbers)]
        if source.audio:
            logger.info("%s: a folder of pictures has no sound", path)
        with explained(path):
            self._begin(identity)
        files = {file.name for file in self.partial.iterdir()}
        self.done = next((n for n, name in enumerate(self._names) if name not in files), len(frames))
        self.last_time = source.times[frames[self.done - 1]] if self.done else None

    def last_picture(self) -> np.ndarray | None:
        from PIL import Image

        if not self.done:
            return None
        with Image.open(self.partial / self._names[self.done - 1]) as image:
            return np.array(image)

    def add(self, frame: Frame) -> None:
        from PIL import Image

        from nstexp.core.images import write_atomically

        name = self._names[self._frames.index(bisect_left(self._source.times, frame.time))]
        picture = Image.fromarray(frame.pixels)
        try:
            write_atomically(self.partial / name, lambda file: picture.save(file, compress_level=1))
        except UserError as error:
            raise UserError(f"{error}; the files before it are kept, and the same command goes on from them") from error

    def finish(self) -> Path:
        with explained(self.path, self.partial):
            if self.path.exists():
                shutil.rmtree(self.path)
            os.replace(self.partial, self.path)
        return self.path

    def keep(self) -> Path | None:
        if any(self.partial.glob("*.png")):
            return self.partial
        shutil.rmtree(self.partial)
        return None

    def _begin(self, identity: str) -> None:
        """Make the partial folder, or empty one that belongs to other work."""
        mark = self.partial / MARK
        if self.partial.exists():
            try:
                same = json.loads(mark.read_text())["identity"] == identity
            except (OSError, ValueError, KeyError):
                raise UserError(f"output={self.path}: {self.partial} is in the way, remove it") from None
            if same:
                return
            logger.warning("%s: was left by work with other settings, this work starts over", self.partial)
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True)
        mark.write_text(json.dumps({"identity": identity}))


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or holds nothing but what a FolderWriter has put there."""
    if not folder.is_dir():
        return False
    names = {file.name for file in folder.iterdir()}
    return not names or (MARK in names and all(name.endswith(".png") for name in names - {MARK}))
