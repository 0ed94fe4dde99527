"""Work beside the main thread, in order and with a bounded number of items on their way."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Iterable[T], count: int) -> Iterator[T]:
    """The items, of which up to `count` are made before they are asked for, in another thread."""
    source = iter(items)
    pool = ThreadPoolExecutor(1)
    try:
        coming = deque(pool.submit(next, source, _END) for _ in range(count))
        while (item := coming.popleft().result()) is not _END:
            coming.append(pool.submit(next, source, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        if hasattr(source, "close"):
            source.close()


class WriteBehind:
    """Calls a function in another thread, one call after the other.

    Args:
        function: what is called.
        count: how many calls may wait; one more blocks the caller.
    """

    def __init__(self, function: Callable[..., object], count: int) -> None:
        self.function, self.count = function, count
        self._pool = ThreadPoolExecutor(1)
        self._calls: deque[Future] = deque()

    def __call__(self, *args: object) -> None:
        """Call the function soon. What an earlier call raised is raised here."""
        while len(self._calls) > self.count or (self._calls and self._calls[0].done()):
            self._calls.popleft().result()
        self._calls.append(self._pool.submit(self.function, *args))

    def finish(self) -> None:
        """Wait for all calls; raises what any of them raised."""
        try:
            while self._calls:
                self._calls.popleft().result()
        finally:
            self.close()

    def close(self) -> None:
        """Drop the calls that wait, and wait for the one under way."""
        self._pool.shutdown(cancel_futures=True)
