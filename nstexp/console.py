"""What a person at the console sees while something takes long: progress bars on stderr, beside which messages have
lines of their own (`streams.Lasting`)."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nstexp.core.text import printable

if TYPE_CHECKING:  # a wrong command is refused before anything is imported that it does not need
    from tqdm import tqdm

SECONDS_AT_A_TERMINAL = 0.5


def bar(items: Iterable[Any] | None = None, **settings: Any) -> "tqdm":
    """A progress bar; none where there is no stderr, as without a console on Windows.

    Args:
        items, settings: arguments of tqdm.
    """
    from tqdm import tqdm

    stream = getattr(sys.stderr, "bars", sys.stderr)
    return tqdm(items, **{"file": stream, "disable": stream is None, **settings})


def progress(total: int, desc: str, unit: str, seconds_in_a_log: float = 10.0, **more: Any) -> "tqdm":
    """A bar that is drawn often at a terminal, and seldom where stderr is a file, which wants few lines.

    Args:
        seconds_in_a_log: from one line to the next in a file.
        more: other arguments of tqdm.
    """
    at_terminal = sys.stderr is not None and sys.stderr.isatty()
    seconds = SECONDS_AT_A_TERMINAL if at_terminal else seconds_in_a_log
    return bar(total=total, desc=printable(desc, one_line=True), unit=unit, mininterval=seconds, **more)
