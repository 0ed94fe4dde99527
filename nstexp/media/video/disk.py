"""Where the output goes: errors of the disk as sentences, one writer at a time, and never over the clip itself."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import Claim
from nstexp.media.video.source import Source


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


def claim(output: Path, name: str) -> Claim:
    """Keep other runs from writing the same output.

    Args:
        name: of it, with which the error message begins.

    Raises:
        UserError: another run writes it.
        OSError: the folder cannot be written.
    """
    return Claim(_lock_file(output), f"{name}: another run is writing it, wait for it or choose another name")


def _lock_file(output: Path) -> Path:
    return output.with_name(f".{output.name}.lock")


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
