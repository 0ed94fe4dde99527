"""Whose files are in the folder a run writes to: the user's, inputs of the run, or results of an earlier run.

In its folder, a run replaces only files that earlier runs wrote (their summary.json lists them), and never a file that
it reads. Only one run at a time works in a folder. A run that is refused leaves the folder as it was.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import Claim, is_read_only
from nstexp.media.paths import READABLE

LOCK, SWEEP_LOCK = ".nstexp.lock", ".nstexp-sweep.lock"
LOG = "nstexp.log"
OF_EVERY_RUN = ("config.yaml", "summary.json", "metrics.json")
OF_SWEEPS = ("multirun.yaml", "optimization_results.yaml", "report.html", "table.csv", "grid.png")
TABLE_HEAD = "job,picture,status,"  # first line of a report's table.csv
OF_LOGGERS = ("csv", "tensorboard", "wandb")  # subfolders of a run folder
# Files that runs of older versions may have written, besides pictures; their records list no files.
OF_OLDER_VERSIONS = (
    *OF_EVERY_RUN, "losses.csv", "validation.csv", "skipped.txt", "scores.csv", "curve.csv", "grid.png", "frames.csv",
    "output.png", "model.onnx", "decoder.safetensors", "model.safetensors", "checkpoints/last.ckpt",
    "checkpoints/best.ckpt", "csv/metrics.csv", "csv/hparams.yaml",
)  # fmt: skip
OURS = re.compile(r"^ *_target_: nstexp\.", re.MULTILINE)  # marks a configuration of nstexp
# Keys whose files and folders are written, not read.
WRITTEN = ("run_dir", "output", "timelapse", "logger", "trainer", "hydra")
# Keys whose folders are read with all pictures in them; files are inputs under any key.
FOLDERS = (
    "content",
    "style",
    "fine_style",
    "masks",
    "style_masks",
    "protect",
    "add_style",
    "val_content",
    "val_style",
    "results",
)


class Inputs:
    """The files that a run reads. Links, hard links and other spellings of their names are recognized."""

    def __init__(self) -> None:
        self._files: set[tuple[int, int]] = set()
        self._folders: set[str] = set()

    def add(self, paths: Iterable[Path], folders: bool = False) -> None:
        """Add files, and with `folders` also folders of pictures. Paths that do not exist are ignored."""
        for path in paths:
            with suppress(OSError, ValueError):  # too long for a path, or with characters that paths cannot have
                if path.is_file():
                    self._files.add(_inode(path))
                elif folders and path.is_dir():
                    self._folders.add(os.path.join(os.path.realpath(path), ""))

    def add_config(self, values: Mapping[str, Any]) -> None:
        """Add every file that a resolved configuration names, and its folders of pictures."""
        for key, text in texts({key: value for key, value in values.items() if key not in WRITTEN}):
            # An override inside a text, as in task.methods, names its file after the = sign.
            paths = [Path(os.path.expanduser(name)) for name in {text, text.rpartition("=")[2]} if name]
            self.add(paths, folders=key in FOLDERS)

    def __contains__(self, path: Path) -> bool:
        """Whether `path`, or the target of its link, is a file that the run reads."""
        try:
            if _inode(path) in self._files:
                return True
        except OSError:
            return False
        place = os.path.realpath(path)
        return path.suffix.lower() in READABLE and any(place.startswith(folder) for folder in self._folders)

    def come_from(self, folder: Path) -> bool:
        """Whether all pictures in this folder are read, so that the next run would also read results in it."""
        return os.path.join(os.path.realpath(folder), "") in self._folders

    def protect(self, paths: Iterable[Path], key: str) -> None:
        """Check that results do not replace inputs.

        Args:
            paths: of the results.
            key: of the results, for the message.

        Raises:
            UserError: one of the paths is an input.
        """
        for path in paths:
            if path in self:
                raise UserError(f"{key}: the result would replace the input {path}, choose another file or folder")


class Place:
    """A folder in which a run, or a sweep, writes.

    Args:
        path: the folder, which may not exist yet.
        inputs: the files that the run reads.
        record: name of the subfolder with Hydra's record; None: there is none.
    """

    def __init__(self, path: str | Path, inputs: Inputs | None = None, record: str | None = ".hydra") -> None:
        self.path, self.inputs = Path(path), inputs or Inputs()
        self.made: set[str] = set()  # names of files that this run wrote
        self.begun = False  # whether more than the record of the run was written
        self._key = "run_dir"
        self._record = None if record is None else self.path / record
        self.known = self._made_before()  # names of files that earlier runs wrote
        self._claim: Claim | None = None
        self._folders: list[Path] = []  # folders that `take` created
        self._before: dict[Path, bytes | None] = {}  # contents of files before `take`; None: the file was missing
        self._logs: list[Path] = []  # folders of loggers that did not exist before

    def __getstate__(self) -> dict[str, Any]:
        """State for the other processes of a training, which do not hold the lock."""
        return {**vars(self), "_claim": None}

    def check(self, *names: str) -> None:
        """Raise a UserError if one of these files (relative to the folder) may not be written."""
        for name in names:
            path = self.path / name
            self.inputs.protect([path], f"{self._key}={self.path}")
            if not os.path.lexists(path):
                continue
            ours = name in self.known or name in self.made
            if not ours or is_read_only(path):
                why = "is read-only" if ours else "was not made by nstexp"
                raise UserError(f"{self._key}={self.path}: {name} {why} and would be replaced, choose another folder")

    def take(self, key: str = "run_dir") -> None:
        """Create the folder if needed, and lock it against other runs until `release`.

        Args:
            key: the config key of the folder, named in error messages.

        Raises:
            UserError: another run works in the folder, it is not writable, or it holds files in the way.
        """
        if self.inputs.come_from(self.path):
            raise UserError(f"{key}={self.path}: the run reads the pictures in this folder, choose another one")
        self._take(key, LOCK, "run")
        try:
            self.known = self._made_before()  # again, because another run may have ended meanwhile
            self.check(*self._of_hydra(), *OF_EVERY_RUN)
        except BaseException:
            self.release()
            raise
        restored = [self.path / name for name in (*self._of_hydra(), *OF_EVERY_RUN)]
        self._before = {path: path.read_bytes() if path.exists() else None for path in restored}
        self._logs = [self.path / name for name in OF_LOGGERS if not (self.path / name).exists()]
        if self._record is not None and not self._record.exists():
            self._folders.append(self._record)

    def take_for_sweep(self, key: str = "hydra.sweep.dir") -> None:
        """Like `take`, for the folder of a sweep."""
        self._take(key, SWEEP_LOCK, "sweep")
        try:
            self.known = set(OF_SWEEPS) if is_sweep(self.path) else set()
            self.check(*OF_SWEEPS)
            for record in self.path.glob("*/.hydra/config.yaml"):
                if record.parent.parent.name.isdecimal() and not _names_nstexp(record):
                    raise UserError(
                        f"{key}={self.path}: {record.parent.parent.name} holds a run of another program, "
                        "choose another folder"
                    )
        except BaseException:
            self.release()
            raise

    def _of_hydra(self) -> list[str]:
        """The files that Hydra writes, relative to the folder."""
        if self._record is None:
            return [LOG]
        record = self._record.relative_to(self.path)
        return [LOG, *((record / f"{name}.yaml").as_posix() for name in ("config", "hydra", "overrides"))]

    def _made_before(self) -> set[str]:
        """The files that earlier runs wrote in the folder, relative to it."""
        record = record_of(self.path)
        if record is None:  # the run ended before it wrote its record, or there was none
            begun = self._record is not None and _names_nstexp(self._record / "config.yaml")
            return set(self._of_hydra()) if begun else set()
        files = record.get("files")
        named = map(str, files) if isinstance(files, list) else _of_older_version(self.path, record)
        return {*self._of_hydra(), *named}

    def _take(self, key: str, lock: str, what: str) -> None:
        """Create the folder and lock it with a file named `lock`."""
        self._key = key
        missing = [folder for folder in (self.path, *self.path.parents) if not os.path.lexists(folder)]
        try:
            for folder in reversed(missing):
                with suppress(FileExistsError):  # another process created it just now
                    folder.mkdir()
                    self._folders.append(folder)
            if not self.path.is_dir():
                raise UserError(f"{key}={self.path}: there is a file of that name, choose another folder")
            busy = f"{key}={self.path}: another {what} is writing there, wait for it or choose another folder"
            self._claim = Claim(self.path / lock, busy)
        except BaseException as error:
            self._remove_empty()
            if isinstance(error, OSError):
                reason = error.strerror or error
                raise UserError(f"{key}={self.path}: the folder cannot be written ({reason})") from error
            raise

    def release(self) -> None:
        """Unlock the folder, and remove folders that `take` created if they are empty."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        self._remove_empty()

    def undo(self) -> None:
        """Restore the folder as it was before `take`, for a run that wrote only its record."""
        logging.shutdown()  # closes nstexp.log
        for path, content in self._before.items():
            with suppress(OSError):
                if content is None:
                    path.unlink(missing_ok=True)
                elif path.read_bytes() != content:
                    path.write_bytes(content)
        for folder in self._logs:
            shutil.rmtree(folder, ignore_errors=True)
        self.release()

    def _remove_empty(self) -> None:
        for folder in reversed(self._folders):
            with suppress(OSError):
                folder.rmdir()
        self._folders = []


def record_of(folder: Path) -> dict[str, Any] | None:
    """The content of summary.json in a run folder; None if it is missing or not written by nstexp."""
    try:
        record = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"status", "overrides", "outputs"} <= record.keys() else None


def is_sweep(folder: Path) -> bool:
    """Whether files named as in OF_SWEEPS belong to a sweep of nstexp, or to a report."""
    try:
        with (folder / "table.csv").open(encoding="utf-8", errors="replace") as table:
            reported = table.readline().startswith(TABLE_HEAD)
    except OSError:
        reported = False
    return reported or _names_nstexp(folder / "multirun.yaml")


def is_busy(folder: Path) -> bool:
    """Whether a run works in a folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        Claim(folder / LOCK, "").release()
    except (UserError, OSError):
        return True
    return False


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested tables and lists, with the innermost key that it belongs to."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from texts(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from texts(part, key)


def _of_older_version(folder: Path, record: Mapping[str, Any]) -> Iterator[str]:
    """Names of files that an older version may have written; its record lists no files."""
    yield from OF_OLDER_VERSIONS
    yield from (f"{name}.png" for name in record.get("metrics") or ())
    yield from (Path(str(output)).name for output in record["outputs"] or ())
    yield from (f"images/{path.name}" for path in folder.glob("images/*_[0-9][0-9][0-9][0-9][0-9]*.jpg"))


def _names_nstexp(config: Path) -> bool:
    """Whether a file written by Hydra holds a configuration of nstexp."""
    try:
        return bool(OURS.search(config.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
