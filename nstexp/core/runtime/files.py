"""Files that are written whole or not at all, whether they can be written, and by whom at a time."""

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nstexp.core.errors import UserError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
UMASK = os.umask(0)  # it can only be read by setting it, which would be no good while other threads write files
os.umask(UMASK)


def json_text(content: Any, **options: Any) -> str:
    """JSON that every reader takes: it has no NaN and no infinity, which become null.

    Args:
        options: of `json.dumps`.
    """
    return json.dumps(finite(content), allow_nan=False, **options)


def finite(value: Any) -> Any:
    """Tables and lists with None for every number in them that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary path)` and rename the result to `path`, so that no half-written file is ever seen.

    A link stays, and the file that it leads to is written.

    Raises:
        UserError: the folder cannot be made or written, the disk is full, or the format cannot hold the picture.
    """
    temporary = None
    try:
        place = path_behind(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays: Pillow takes the format from it.
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix=path.suffix, dir=place.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o666 & ~UMASK)  # mkstemp makes files that only their owner reads
        os.replace(temporary, place)
    except OSError as error:
        reason = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise UserError(f"{path}: cannot be written ({reason})") from error
    except ValueError as reason:  # Pillow's, when the format has no room for so large a picture
        raise UserError(f"{path}: cannot be written ({reason})") from reason
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def path_behind(path: Path) -> Path:
    """Where a link leads; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_place(path: Path, key: str) -> None:
    """Fail before the work starts, not after it, where no file can be made at `path`.

    Args:
        key: what the user knows the path as, for the error message.

    Raises:
        UserError: what `check_replaceable` raises, or the folder around it cannot be written.
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
    """Raise a UserError for what no file may take the place of: a folder, a device, or a file that is read-only."""
    if path.is_dir():
        raise UserError(f"{key}={path}: this is a folder, add a file name")
    if path.exists() and not path.is_file():
        raise UserError(f"{key}={path}: this is a device or a pipe and not a file, choose another name")
    if is_read_only(path):
        raise UserError(f"{key}={path}: the file that is there is read-only, choose another name")


def is_read_only(path: Path) -> bool:
    """Whether a file that is there is protected from writing. It may be replaced nevertheless, which is the folder's
    to allow, and to root everything is; whoever protects a file does not want that.
    """
    try:
        return not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK)
    except (FileNotFoundError, NotADirectoryError):
        return False


def try_writing(folder: Path) -> None:
    """Make a file in a folder that vanishes again: to root os.access grants everything, also /proc and read-only disks.

    Raises:
        OSError: no file can be made there.
    """
    tempfile.TemporaryFile(prefix=".writing-", dir=folder).close()


def file_digest(path: Path) -> str:
    """A short name for the content of a file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


class Claim:
    """Keeps other processes from what a lock file stands for; the system drops it where a process ends without
    `release`.

    Args:
        file: the lock file, which is made, and removed by `release`.
        busy: what to say if another process has claimed it.

    Raises:
        UserError: another process has claimed it.
        OSError: the folder cannot be written.
    """

    def __init__(self, file: Path, busy: str) -> None:
        from filelock import FileLock, Timeout

        file.touch()  # where that fails, filelock may take it for a lock of another process
        self.held = True
        # Threads of one run share it: a frame may be written in one of them, and the end come in another.
        self._lock = FileLock(file, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(busy) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            # Such disks are rare, and writing without a lock is better than not at all.

    def release(self) -> None:
        if self.held:
            with suppress(OSError):  # first, for once it is free the file may be that of another process
                os.unlink(self._lock.lock_file)
            with suppress(OSError):
                self._lock.release()
        self.held = False
