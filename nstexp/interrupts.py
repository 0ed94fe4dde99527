"""Ctrl-C and its relatives, each of which ends a command in the same way: with a record, one line, and exit code 130.

Where there is something to keep, a signal waits for the end of a step (`SignalHandlers`) or of a short piece of work
(`held`). Everywhere else it raises KeyboardInterrupt (`heeded`), which whoever has a record to write turns into
`Stopped`. This module imports nothing that takes time: Ctrl-C may come while Python still loads the rest.
"""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

EXIT_INTERRUPTED = 130
# Ctrl-C, a polite kill, and the end of the terminal, which `nohup` has ignored.
ENDINGS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name) and (name != "SIGHUP" or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN)
)
_asked, _heeding = False, False


class SignalHandlers:
    """Answers to signals, for a while. Only the main thread can have any; in another one nothing is changed."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def install(self, answer: Callable[[int, Any], object], signals: Iterable[int]) -> None:
        def counted(signum: int, frame: Any) -> None:
            global _asked
            _asked = _asked or signum in ENDINGS
            answer(signum, frame)

        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, counted) for signum in signals}

    def restore(self) -> None:
        """Bring back what there was before, once."""
        for signum, handler in self._before.items():
            with suppress(TypeError):  # a handler that was not installed from Python reads as None
                signal.signal(signum, handler)
        self._before = {}


def asked() -> bool:
    """Whether a signal has come since `heeded` began."""
    return _heeding and _asked


def check() -> None:
    """Raise KeyboardInterrupt if a signal has come, and whoever was at work has dropped it: imports may do that."""
    if asked():
        raise KeyboardInterrupt


def caused(error: BaseException) -> bool:
    """Whether it was Ctrl-C that ended some work with this error.

    Libraries answer to it with errors of many kinds, and helpers that get the signal, too, are missed afterwards.
    """
    return isinstance(error, KeyboardInterrupt) or asked()


@contextmanager
def heeded() -> Iterator[None]:
    """Inside, the signals raise KeyboardInterrupt, wherever nothing else answers to them; once more inside, no change.

    What others have installed stays, such as the answer to SIGTERM of a cluster's launcher.
    """
    global _heeding, _asked
    if _heeding:
        yield
        return

    def interrupt(signum: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    def report(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):  # it came where Python drops errors, such as in a destructor
            threading.Timer(0.01, lambda: asked() and _thread.interrupt_main()).start()
        else:
            hook_before(lost)

    _heeding, _asked, hook_before, handlers = True, False, sys.unraisablehook, SignalHandlers()
    handlers.install(interrupt, filter(_is_free, ENDINGS))
    sys.unraisablehook = report
    try:
        yield
    finally:
        _heeding, sys.unraisablehook = False, hook_before
        handlers.restore()


def _is_free(signum: int) -> bool:
    """Whether nobody else answers to a signal."""
    handler = signal.getsignal(signum)
    plain = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
    return handler in plain or getattr(handler, "__module__", None) == __name__


class Hold:
    """Whether a signal came while something was `held`."""

    asked = False


@contextmanager
def held() -> Iterator[Hold]:
    """Signals do not disturb what is inside, which is short and worth keeping."""
    hold, handlers = Hold(), SignalHandlers()
    handlers.install(lambda signum, frame: setattr(hold, "asked", True), ENDINGS)
    try:
        yield hold
    finally:
        handlers.restore()


def leave_at_once(code: int, sentence: str = "") -> None:
    """From now on a signal ends the process in this moment: before there is anything to keep, and when all is done."""

    def leave(signum: int, frame: Any) -> NoReturn:
        with suppress(OSError):  # stderr is closed
            os.write(2, f"{sentence}\n".encode() if sentence else b"")
        os._exit(code)

    SignalHandlers().install(leave, ENDINGS)


def ignore() -> None:
    """From now on the signals do nothing."""
    for signum in ENDINGS:
        signal.signal(signum, signal.SIG_IGN)
