"""Progress bars on stderr; log messages appear on separate lines above or below them (`streams.Lasting`)."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nstexp.core.text import printable

if TYPE_CHECKING:  # imported late, because a wrong command fails before it needs a bar
    from tqdm import tqdm

SECONDS_AT_A_TERMINAL = 0.5


def bar(items: Iterable[Any] | None = None, **settings: Any) -> "tqdm":
    """Create a progress bar; it is disabled without stderr, as in Windows programs without a console.

    Args:
        items, settings: arguments of tqdm.
    """
    from tqdm import tqdm

    stream = getattr(sys.stderr, "bars", sys.stderr)
    return tqdm(items, **{"file": stream, "disable": stream is None, **settings})


def progress(total: int, desc: str, unit: str, seconds_in_a_log: float = 10.0, **more: Any) -> "tqdm":
    """Create a bar that is redrawn often at a terminal, and rarely if stderr is a file.

    Args:
        total: number of units.
        desc: text before the bar.
        unit: name of a unit.
        seconds_in_a_log: between two lines in a file.
        more: other arguments of tqdm.
    """
    at_terminal = sys.stderr is not None and sys.stderr.isatty()
    seconds = SECONDS_AT_A_TERMINAL if at_terminal else seconds_in_a_log
    return bar(total=total, desc=printable(desc, one_line=True), unit=unit, mininterval=seconds, **more)
