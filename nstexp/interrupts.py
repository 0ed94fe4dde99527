"""Ctrl-C and similar signals: each ends a command with a record, one line and exit code 130.

Where results must be kept, a signal waits for the end of a step (`SignalHandlers`) or of a short piece of work
(`held`). Elsewhere it raises KeyboardInterrupt (`heeded`), and callers that write a record turn that into `Stopped`.
This module imports only fast modules, because Ctrl-C may come while Python still imports the rest.
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
# Ctrl-C, kill, and the end of the terminal; `nohup` ignores the last.
ENDINGS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name) and (name != "SIGHUP" or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN)
)
_asked, _heeding = False, False  # whether a signal came; whether `heeded` is active


class SignalHandlers:
    """Installs signal handlers and restores the earlier ones. Outside the main thread it does nothing."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def install(self, answer: Callable[[int, Any], object], signals: Iterable[int]) -> None:
        """Call `answer(signum, frame)` when one of the signals comes."""

        def counted(signum: int, frame: Any) -> None:
            global _asked
            _asked = _asked or signum in ENDINGS
            answer(signum, frame)

        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, counted) for signum in signals}

    def restore(self) -> None:
        """Restore the earlier handlers; later calls do nothing."""
        for signum, handler in self._before.items():
            with suppress(TypeError):  # handlers that were not installed from Python are None
                signal.signal(signum, handler)
        self._before = {}


def asked() -> bool:
    """Whether a signal came since `heeded` began."""
    return _heeding and _asked


def check() -> None:
    """Raise KeyboardInterrupt if a signal came and the code that ran dropped the exception, as imports may do."""
    if asked():
        raise KeyboardInterrupt


def caused(error: BaseException) -> bool:
    """Whether Ctrl-C was the reason for this error.

    Libraries raise many kinds of errors after Ctrl-C, for instance because it also ended their helper processes.
    """
    return isinstance(error, KeyboardInterrupt) or asked()


@contextmanager
def heeded() -> Iterator[None]:
    """Inside, signals raise KeyboardInterrupt, unless other handlers are installed. Nested use changes nothing.

    Handlers of others stay, such as those for SIGTERM of a cluster's launcher.
    """
    global _heeding, _asked
    if _heeding:
        yield
        return

    def interrupt(signum: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    def report(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):  # raised where Python drops errors, such as in a destructor
            threading.Timer(0.01, interrupt_main).start()
        else:
            hook_before(lost)

    def interrupt_main() -> None:
        if asked():
            _thread.interrupt_main()

    _heeding, _asked, hook_before, handlers = True, False, sys.unraisablehook, SignalHandlers()
    handlers.install(interrupt, filter(_is_free, ENDINGS))
    sys.unraisablehook = report
    try:
        yield
    finally:
        _heeding, sys.unraisablehook = False, hook_before
        handlers.restore()


def _is_free(signum: int) -> bool:
    """Whether a signal has no handler but the default or ours."""
    handler = signal.getsignal(signum)
    plain = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
    return handler in plain or getattr(handler, "__module__", None) == __name__


class Hold:
    """Tells whether a signal came inside `held`."""

    asked = False


@contextmanager
def held() -> Iterator[Hold]:
    """Let signals not interrupt the short work inside, but only be noted; the result tells whether one came."""
    hold, handlers = Hold(), SignalHandlers()
    handlers.install(lambda signum, frame: setattr(hold, "asked", True), ENDINGS)
    try:
        yield hold
    finally:
        handlers.restore()


def leave_at_once(code: int, sentence: str = "") -> None:
    """From now on, a signal ends the process at once: used before anything must be kept, and when all is done."""

    def leave(signum: int, frame: Any) -> NoReturn:
        with suppress(OSError):  # stderr is closed
            os.write(2, f"{sentence}\n".encode() if sentence else b"")
        os._exit(code)

    SignalHandlers().install(leave, ENDINGS)


def ignore() -> None:
    """From now on, ignore the signals."""
    for signum in ENDINGS:
        signal.signal(signum, signal.SIG_IGN)
