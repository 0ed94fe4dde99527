"""Atomic writing of files, checks whether a file can be written, and locks."""

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nstexp.core.errors import UserError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # errors of disks without locks
UMASK = os.umask(0)  # read at import, because reading sets it, which would disturb threads that write files
os.umask(UMASK)


def json_text(content: Any, **options: Any) -> str:
    """Standard JSON: NaN and infinity, which standard JSON does not have, become null.

    Args:
        content: nested mappings, lists and tuples of JSON values.
        options: other arguments of `json.dumps`.

    Examples:
        >>> json_text({"loss": float("nan"), "step": 3})
        '{"loss": null, "step": 3}'
    """
    return json.dumps(finite(content), allow_nan=False, **options)


def finite(value: Any) -> Any:
    """Replace all numbers that are not finite by None, in nested mappings, lists and tuples (which become lists).

    Examples:
        >>> finite({"losses": (1.0, float("inf"))})
        {'losses': [1.0, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that other processes see the complete file or the previous one.

    If `path` is a link, the file behind the link is written.

    Args:
        path: the file; missing folders are made.
        write: writes the content to a temporary path with the same suffix, which is then renamed.

    Raises:
        UserError: the folder cannot be made or written, the disk is full, or the format cannot store the picture.
    """
    temporary = None
    try:
        target = path_behind(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Pillow takes the format from the suffix.
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix=path.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o666 & ~UMASK)  # mkstemp makes files that only their owner can read
        os.replace(temporary, target)
    except OSError as error:
        reason = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise UserError(f"{path}: cannot be written ({reason})") from error
    except ValueError as reason:  # raised by Pillow if the picture is too large for the format
        raise UserError(f"{path}: cannot be written ({reason})") from reason
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def path_behind(path: Path) -> Path:
    """The target of a link; other paths stay the same."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_place(path: Path, key: str) -> None:
    """Check before long work that a file can be written at `path`.

    Args:
        key: the user's key for the path, for the error message.

    Raises:
        UserError: the folder is not writable, or an error of `check_replaceable`.
    """
    folder = path
    try:
        check_replaceable(path, key)
        folder = path_behind(path).parent
        while not folder.exists():
            folder = folder.parent
        try_writing(folder)
    except OSError as error:
        raise UserError(f"{key}={path}: the folder {folder} is not writable ({error.strerror})") from error


def check_replaceable(path: Path, key: str) -> None:
    """Check that a file may be written at `path`, if something exists there.

    Args:
        key: the user's key for the path, for the error message.

    Raises:
        UserError: a folder, a device or a pipe, or a read-only file.
    """
    if path.is_dir():
        raise UserError(f"{key}={path}: this is a folder, add a file name")
    if path.exists() and not path.is_file():
        raise UserError(f"{key}={path}: this is a device or a pipe and not a file, choose another name")
    if is_read_only(path):
        raise UserError(f"{key}={path}: the existing file is read-only, choose another name")


def is_read_only(path: Path) -> bool:
    """True for an existing file that is protected from writing.

    The permissions of the folder, or root's, would allow to replace the file, but its owner does not want that.
    """
    try:
        return not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK)
    except (FileNotFoundError, NotADirectoryError):
        return False


def try_writing(folder: Path) -> None:
    """Make and remove a file in a folder. For root, os.access allows everything, even on read-only disks.

    Raises:
        OSError: no file can be made in the folder.
    """
    tempfile.TemporaryFile(prefix=".writing-", dir=folder).close()


def file_digest(path: Path) -> str:
    """A hash of the content of a file, 16 hexadecimal digits."""
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


class Claim:
    """A lock file that other processes cannot claim. The operating system releases it if the process ends early.

    Args:
        file: the lock file, which is made here and removed by `release`.
        busy: the error message if another process has claimed it.

    Raises:
        UserError: another process has claimed it.
        OSError: the folder is not writable.
    """

    def __init__(self, file: Path, busy: str) -> None:
        from filelock import FileLock, Timeout

        file.touch()  # raises an error that filelock may mistake for a lock of another process
        self.held = True
        # One lock for all threads: a run may claim it in one thread and release it in another.
        self._lock = FileLock(file, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(busy) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            # Disks without locks are rare; there, the run goes on without a lock.

    def release(self) -> None:
        """Release the lock and remove its file; a second call does nothing."""
        if self.held:
            with suppress(OSError):  # before the release, after which the file may belong to another process
                os.unlink(self._lock.lock_file)
            with suppress(OSError):
                self._lock.release()
        self.held = False
