"""Protect the output: clear messages for disk errors, one writer at a time, and no overwriting of the input clip."""

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
    """Turn errors of writing into a UserError that begins with `name` and says that `kept` holds the work so far."""
    import av

    try:
        yield
    except (OSError, av.FFmpegError) as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left on the disk" if full else error.strerror or str(error)
        rest = f"; {kept} holds what is done" if kept else ""
        raise UserError(f"{name}: cannot be written ({reason}){rest}") from error


def refuse_inputs(output: Path, others: Sequence[Path], source: Source, name: str) -> None:
    """Check that neither `output` nor `others`, which writing replaces, is the input clip or a folder that holds it.

    Args:
        output: the file or folder to write.
        others: temporary files and folders that the writer uses.
        source: the input clip.
        name: of the output; the error message begins with it.

    Raises:
        UserError: one of them is the input clip, or holds it.
    """
    inputs = (source.path, *source.pictures)
    known = {_inode(file) for file in inputs}
    # Both the folder of a picture and, if the picture is a link, the folder of its target must stay.
    places = {os.path.join(os.path.realpath(place), "") for file in inputs for place in (file, file.parent)}
    for path in (output, *others, _lock_file(output)):
        if not path.exists():
            continue
        within = os.path.join(os.path.realpath(path), "")
        if _inode(path) in known or (path.is_dir() and any(place.startswith(within) for place in places)):
            what = "this" if path == output else f"the partial output, {path},"
            raise UserError(f"{name}: {what} is the clip itself or holds it, choose another name")


def claim(output: Path, name: str) -> Claim:
    """Lock the output, so that no other run writes it at the same time.

    Args:
        output: the file or folder to write.
        name: of the output; the error message begins with it.

    Raises:
        UserError: another run is writing the output.
        OSError: the folder is not writable.
    """
    return Claim(_lock_file(output), f"{name}: another run is writing it, wait for it or choose another name")


def _lock_file(output: Path) -> Path:
    return output.with_name(f".{output.name}.lock")


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
