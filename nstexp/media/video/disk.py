"""Where the output goes: errors of the disk as sentences, one writer at a time, and never over the clip itself."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nstexp.core.errors import UserError
from nstexp.media.video.source import Source

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def explained(name: str, kept: Path | None = None) -> Iterator[None]:
    """Turn what writing raises into a UserError that begins with `name` and says that `kept` holds the work so far."""
    import av

    try:
        yield
    except (OSError, av.FFmpegError) as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left on the disk" if full else error.strerror or str(error)
        rest = f"; {kept} holds what is done" if kept else ""
        raise UserError(f"{name}: cannot be written ({reason}){rest}") from error


def refuse_inputs(output: Path, others: Sequence[Path], source: Source, name: str) -> None:
    """Writing `output` replaces and removes it and `others`, so none may be the clip, nor a folder around it.

    Args:
        name: of the output, with which the error message begins.

    Raises:
        UserError: one of them is.
    """
    inputs = (source.path, *source.pictures)
    known = {_inode(file) for file in inputs}
    # Both where a picture lies and where a link leads: a folder must keep either.
    places = {os.path.join(os.path.realpath(place), "") for file in inputs for place in (file, file.parent)}
    for path in (output, *others, _lock_file(output)):
        if not path.exists():
            continue
        within = os.path.join(os.path.realpath(path), "")
        if _inode(path) in known or (path.is_dir() and any(place.startswith(within) for place in places)):
            what = "this" if path == output else f"the partial output, {path},"
            raise UserError(f"{name}: {what} is the clip itself or holds it, choose another name")


class Claim:
    """Keeps other runs from writing the same output; the system drops it where a process ends without `release`.

    Args:
        path: the output.
        name: of it, with which the error message begins.

    Raises:
        UserError: another run has claimed it.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: Path, name: str) -> None:
        from filelock import FileLock, Timeout

        file = _lock_file(path)
        file.touch()  # where that fails, filelock may take it for a lock of another run
        self.held = True
        # Threads of one run share it: a frame may be written in one of them, and the end come in another.
        self._lock = FileLock(file, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{name}: another run is writing it, wait for it or choose another name") from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            # Such disks are rare, and writing without a lock is better than not at all.

    def release(self) -> None:
        if self.held:
            with suppress(OSError):  # first, for once it is free the file may be that of another run
                os.unlink(self._lock.lock_file)
            with suppress(OSError):
                self._lock.release()
        self.held = False


def _lock_file(output: Path) -> Path:
    return output.with_name(f".{output.name}.lock")


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
