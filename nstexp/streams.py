"""Make stdout and stderr robust: problems with them never end the work or change its exit code.

They may be closed (`>&-`), missing (pythonw), a pipe without a reader (`| head`), on a full disk, or of an encoding
without some letters (cp1252). Messages are also kept on lines of their own, apart from progress bars.
"""

import io
import logging
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

PACKAGE = str(Path(__file__).resolve().parent)
ERASE = "\n" if os.name == "nt" else "\r\x1b[J"  # clears the line of the bar and the lines below it


def prepare() -> None:
    """Make the streams of this process robust. Streams that were replaced, and repeated calls, change nothing."""
    for descriptor in (0, 1, 2):  # in this order, because a new file gets the lowest free number
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next opened file would become this stream, also in subprocesses.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if not isinstance(stream, Lasting) and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, Lasting(descriptor, stream))
    if isinstance(sys.stderr, Lasting):
        warnings.showwarning = _show_warning
        logging.raiseExceptions = False  # a full disk also fails for nstexp.log, and is reported elsewhere


class Lasting(io.TextIOWrapper):
    """A stream of this process that never raises; `bars` is the same stream for progress bars.

    Args:
        descriptor: 1 (stdout) or 2 (stderr).
        before: the stream that Python created for it; None if there is none.
    """

    def __init__(self, descriptor: int, before: Any) -> None:
        at_once = descriptor == 2 or os.isatty(descriptor)
        encoding = getattr(before, "encoding", None) or "utf-8"
        binary = io.BufferedWriter(_Descriptor(descriptor, "w", closefd=False))
        super().__init__(binary, encoding, "backslashreplace", line_buffering=at_once)
        self.bars, self._behind_bar = _Bars(self), False

    def write(self, text: str) -> int:
        """Write text, on a new line if a progress bar was written last."""
        if self._behind_bar and text:
            self._behind_bar = False
            super().write(ERASE if self.isatty() else "\n")
        return super().write(text)

    def write_bar(self, text: str) -> int:
        """Write a part of a progress bar."""
        if text:
            self._behind_bar = bool(text.strip())  # not a newline, nor blanks that erase a finished bar
        return super().write(text)


class _Descriptor(io.FileIO):
    """A file descriptor; after an error it leads to the null device, also for subprocesses."""

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
    """The interface of a `Lasting` for tqdm."""

    def __init__(self, stream: Lasting) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write_bar(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print warnings of nstexp and Hydra for the user; warnings of other libraries go to nstexp.log."""
    place = Path(filename).resolve()
    if place.is_relative_to(PACKAGE) or "hydra" in place.parts:
        print(" ".join(str(message).split()), file=file or sys.stderr)
    elif {"site-packages", "dist-packages"} & {*place.parts} or place.is_relative_to(Path(os.__file__).parent):
        logging.getLogger("py.warnings").debug(
            "%s", warnings.formatwarning(message, category, filename, lineno, line).strip()
        )
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)
