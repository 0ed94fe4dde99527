"""What a person at the console sees and presses while something takes long: progress bars and Ctrl-C."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

from nstexp.core.text import printable

SECONDS_AT_A_TERMINAL = 0.5


def progress(total: int, desc: str, unit: str, seconds_in_a_log: float = 10.0, **more: Any) -> tqdm:
    """A bar on stderr that is drawn often at a terminal, and seldom where stderr is a file, which wants few lines.

    Args:
        seconds_in_a_log: from one line to the next in a file.
        more: other arguments of tqdm.
    """
    seconds = SECONDS_AT_A_TERMINAL if sys.stderr.isatty() else seconds_in_a_log
    desc = printable(desc, one_line=True)
    return tqdm(total=total, desc=desc, unit=unit, file=sys.stderr, mininterval=seconds, **more)


class SignalHandlers:
    """Answers to signals, for a while. Only the main thread can have any; in another one nothing is changed."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def install(self, answer: Callable[[int, Any], object], signals: Iterable[int]) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, answer) for signum in signals}

    def restore(self) -> None:
        """Bring back what there was before, once."""
        for signum, handler in self._before.items():
            with contextlib.suppress(TypeError):  # a handler that was not installed from Python reads as None
                signal.signal(signum, handler)
        self._before = {}
