"""stdout, stderr and what is said on them: nothing that is wrong with them ends the work or changes its exit code.

They may be closed (`>&-`), missing (pythonw), a pipe whose reader is gone (`| head`), a full disk, or of an alphabet
that lacks letters (cp1252). And messages stand on lines of their own, not behind a progress bar.
"""

import io
import logging
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKAGE = str(Path(__file__).resolve().parent)
ERASE = "\n" if os.name == "nt" else "\r\x1b[J"  # the bar's line and those below it


def prepare() -> None:
    """Make the process's streams last; once more, no change. Streams that somebody else put there stay as they are."""
    for descriptor in (0, 1, 2):  # in this order: a new file gets the lowest number that is free
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next file that is opened would be this stream, also for the programs that are started.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if not isinstance(stream, Lasting) and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, Lasting(descriptor, stream))
    if isinstance(sys.stderr, Lasting):
        warnings.showwarning = _show_warning
        logging.raiseExceptions = False  # a full disk has no room for nstexp.log, and says so elsewhere


class Lasting(io.TextIOWrapper):
    """A stream of this process that never fails; `bars` is the same stream for progress bars.

    Args:
        descriptor: 1 or 2.
        before: the stream that Python made of it, which is None where there is none.
    """

    def __init__(self, descriptor: int, before: Any) -> None:
        at_once = descriptor == 2 or os.isatty(descriptor)
        encoding = getattr(before, "encoding", None) or "utf-8"
        binary = io.BufferedWriter(_Descriptor(descriptor, "w", closefd=False))
        super().__init__(binary, encoding, "backslashreplace", line_buffering=at_once)
        self.bars, self._behind_bar = _Bars(self), False

    def write(self, text: str) -> int:
        if self._behind_bar and text:
            self._behind_bar = False
            super().write(ERASE if self.isatty() else "\n")
        return super().write(text)

    def write_bar(self, text: str) -> int:
        """A part of a progress bar."""
        if text:
            self._behind_bar = bool(text.strip())  # and not a new line, or blanks over a bar that is done
        return super().write(text)


class _Descriptor(io.FileIO):
    """What cannot be written goes nowhere, from then on, also for other programs with this stream."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.fileno())
                os.close(nowhere)
            return memoryview(data).nbytes


class _Bars:
    """A `Lasting` as tqdm writes to it."""

    def __init__(self, stream: Lasting) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write_bar(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _show_warning(
    message: Warning | str, category: type[Warning], file: str, line: int, to: Any = None, text: str | None = None
) -> None:
    """Warnings of nstexp and Hydra are for the user; those of other libraries, and their paths, for nstexp.log."""
    place = Path(file).resolve()
    if place.is_relative_to(PACKAGE) or "hydra" in place.parts:
        print(" ".join(str(message).split()), file=to or sys.stderr)
    elif {"site-packages", "dist-packages"} & {*place.parts} or place.is_relative_to(Path(os.__file__).parent):
        logging.getLogger("py.warnings").debug(
            "%s", warnings.formatwarning(message, category, file, line, text).strip()
        )
    else:
        print(warnings.formatwarning(message, category, file, line, text), end="", file=to or sys.stderr)
