"""Files that are written whole or not at all, and whether they can be written."""

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from nstexp.core.errors import UserError

UMASK = os.umask(0)  # it can only be read by setting it, which would be no good while other threads write files
os.umask(UMASK)


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary path)` and rename the result to `path`, so that no half-written file is ever seen.

    Raises:
        UserError: the folder cannot be made or written, the disk is full, or the format cannot hold the picture.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays: Pillow takes the format from it.
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o666 & ~UMASK)  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except OSError as error:
        reason = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise UserError(f"{path}: cannot be written ({reason})") from error
    except ValueError as reason:  # Pillow's, when the format has no room for so large a picture
        raise UserError(f"{path}: cannot be written ({reason})") from reason
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_place(path: Path, key: str) -> None:
    """Fail before the work starts, not after it, where no file can be made at `path`.

    Args:
        key: what the user knows the path as, for the error message.

    Raises:
        UserError: a folder has that name, or the folder around it cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{key}={path}: this is a folder, add a file name")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        try_writing(folder)
    except OSError as error:
        raise UserError(f"{key}={path}: the folder {folder} is not writable ({error.strerror})") from error


def try_writing(folder: Path) -> None:
    """Make a file in a folder that vanishes again: to root os.access grants everything, also /proc and read-only disks.

    Raises:
        OSError: no file can be made there.
    """
    tempfile.TemporaryFile(prefix=".writing-", dir=folder).close()


def file_digest(path: Path) -> str:
    """A short name for the content of a file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
