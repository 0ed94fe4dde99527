"""Errors of the disk as sentences."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nstexp.core.errors import UserError


@contextmanager
def explained(path: Path, kept: Path | None = None) -> Iterator[None]:
    """Turn what writing raises into a UserError about `path`, which says that `kept` holds the work so far."""
    import av

    try:
        yield
    except UserError:
        raise
    except (OSError, av.FFmpegError) as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left on the disk" if full else error.strerror or str(error)
        rest = f"; {kept} holds what is done, and the same command goes on from there" if kept else ""
        raise UserError(f"output={path}: cannot be written ({reason}){rest}") from error
