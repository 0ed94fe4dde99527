"""Files that are written whole or not at all."""

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


def file_digest(path: Path) -> str:
    """A short name for the content of a file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
