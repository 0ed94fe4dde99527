"""Write a clip as a folder of PNG files."""

import json
import logging
import os
import threading
from bisect import bisect_left
from contextlib import suppress
from pathlib import Path

import numpy as np

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import is_read_only, path_behind, write_atomically
from nstexp.media.video.disk import claim, explained, refuse_inputs
from nstexp.media.video.source import Frame, Source

logger = logging.getLogger(__name__)

MARK = ".nstexp.json"  # file that marks a folder as an output of nstexp, which may be replaced
UNFINISHED = ".writing-"  # prefix of the names of pictures that are not complete yet


class FolderWriter:
    """Writes PNG files into `<path>.partial`, which is renamed to `path` at the end, see `open_writer`.

    The files have the names of the pictures of the clip if it is a folder of pictures with different names; else they
    are numbered from 000001.png by their position in `frames`.
    """

    def __init__(self, path: Path, source: Source, frames: range, identity: str, key: str = "path") -> None:
        self.name = f"{key}={path}"  # in error messages
        self.path, self._place = path, path_behind(path)
        self.partial = self._place.with_name(f"{path.name}.partial")
        # A folder that is being set up or removed.
        self._temporary = self._place.with_name(f"{UNFINISHED}{path.name}")
        refuse_inputs(self._place, (self.partial, self._temporary), source, self.name)
        self._source, self._frames = source, frames
        if path.exists() and not _is_ours(path):
            raise UserError(f"{self.name}: holds other files than an earlier output, choose another name")
        if is_read_only(path):
            raise UserError(f"{self.name}: this folder exists and is read-only, choose another name")
        stems = [source.pictures[index].stem for index in frames] if source.pictures else []
        numbers = [f"{number:06d}" for number in range(1, len(frames) + 1)]
        self._names = [f"{stem}.png" for stem in (stems if len(set(stems)) == len(frames) else numbers)]
        if source.audio:
            logger.info("%s: a folder of pictures has no sound", path)
        self._ended = False
        self._guard = threading.Lock()
        with explained(self.name):
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._claim = claim(self._place, self.name)
            try:
                self._begin(identity)
                files = {file.name for file in self.partial.iterdir()}
            except BaseException:
                self._claim.release()
                raise
        self.done = max((n for n, name in enumerate(self._names, 1) if name in files), default=0)
        self._left = self.partial / self._names[self.done - 1] if self.done else None

    def last_picture(self) -> np.ndarray | None:
        """See `Writer.last_picture`."""
        from PIL import Image

        if self._left is None:
            return None
        with Image.open(self._left) as image:
            return np.array(image.convert("RGB"))  # of pictures with transparency the colors alone

    def add(self, frame: Frame) -> None:
        """See `Writer.add`."""
        from PIL import Image

        position = self._frames.index(bisect_left(self._source.times, frame.time))
        picture = Image.fromarray(frame.pixels)
        if frame.opacity is not None:
            picture.putalpha(Image.fromarray(frame.opacity))
        with self._guard:
            self._check_not_ended()
            if position < self.done:
                raise ValueError(f"the frame at {frame.time} is not later than those that are written")
            try:
                write_atomically(
                    self.partial / self._names[position], lambda file: picture.save(file, compress_level=1)
                )
            except UserError as error:
                raise UserError(f"{error}; {self.partial} holds what is done" if self.done else str(error)) from error
            self.done = position + 1

    def finish(self) -> Path:
        """See `Writer.finish`."""
        with self._guard:
            self._check_not_ended()
            self._ended = True
            if not self.done:
                raise UserError(f"{self.path}: not one frame could be read, so there is nothing to write")
            with explained(self.name, self.partial):
                self._replace_output()
            self._claim.release()
            return self.path

    def keep(self) -> Path | None:
        """See `Writer.keep`."""
        with self._guard:
            self._ended = True
            if self._claim.held and not self.done:
                with suppress(OSError):
                    _remove(self.partial)
            self._claim.release()
            return self.partial if self.done and self.partial.exists() else None

    def _check_not_ended(self) -> None:
        if self._ended:
            raise RuntimeError(f"{self.path} was finished or kept before")

    def _begin(self, identity: str) -> None:
        """Create the partial folder, or continue with an existing one of the same work."""
        if self._temporary.exists():  # left by a process that was killed
            _remove(self._temporary)
        if self.partial.exists():
            if self._is_of(identity):
                for file in self.partial.glob(f"{UNFINISHED}*"):
                    file.unlink()
                return
            logger.warning("%s: was left by work with other settings, this work starts over", self.partial)
            # Moved away first: a folder that lost only some of its pictures would look like unfinished work.
            os.replace(self.partial, self._temporary)
            _remove(self._temporary)
        self._temporary.mkdir()
        (self._temporary / MARK).write_text(json.dumps({"identity": identity, "names": self._names}))
        os.replace(self._temporary, self.partial)  # so that the folder never exists without its mark

    def _is_of(self, identity: str) -> bool:
        """Whether the partial folder was left by work with the same settings."""
        try:
            return bool(json.loads((self.partial / MARK).read_text())["identity"] == identity)
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{self.name}: {self.partial} is in the way, remove it") from None

    def _replace_output(self) -> None:
        replaces = self._place.exists()
        if replaces:
            os.replace(self._place, self._temporary)
        try:
            os.replace(self.partial, self._place)
        except OSError:
            if replaces:
                os.replace(self._temporary, self._place)
            raise
        if replaces:
            with suppress(OSError):  # the output is complete; the next writer removes the rest
                _remove(self._temporary)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or holds only files that a FolderWriter wrote."""
    if not folder.is_dir():
        return False
    names = {file.name for file in folder.iterdir()}
    if not names:
        return True
    try:
        mark = json.loads((folder / MARK).read_text())
    except (OSError, ValueError):
        return False
    written = mark.get("names", names) if isinstance(mark, dict) else ()  # older versions did not list the names
    return all(name in {*written, MARK} and name.endswith((".png", MARK)) for name in names)


def _remove(folder: Path) -> None:
    """Remove a folder of nstexp; if it holds other files it stays, and OSError is raised."""
    if folder.is_symlink():
        folder.unlink()
        return
    for file in folder.iterdir():
        if file.suffix == ".png" or file.name == MARK:
            file.unlink()
    folder.rmdir()
