"""Work in a second thread, in order and with a bounded queue."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")
_END = object()


def prefetch(items: Iterable[T], count: int) -> Iterator[T]:
    """Iterate over items that another thread computes, up to `count` items ahead.

    Examples:
        >>> list(prefetch(iter("abc"), count=2))
        ['a', 'b', 'c']
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1)
    try:
        queue: deque[Future[object]] = deque(pool.submit(next, source, _END) for _ in range(count))
        while (item := queue.popleft().result()) is not _END:
            queue.append(pool.submit(next, source, _END))
            yield cast(T, item)
    finally:
        pool.shutdown(cancel_futures=True)
        if hasattr(source, "close"):
            source.close()


class WriteBehind:
    """Calls a function in another thread, one call after the other.

    Args:
        function: the function.
        count: number of calls that may wait; a further call blocks the caller.

    Examples:
        >>> results = []
        >>> append = WriteBehind(results.append, count=1)
        >>> append(1), append(2), append.finish()
        (None, None, None)
        >>> results
        [1, 2]
    """

    def __init__(self, function: Callable[..., object], count: int) -> None:
        self.function, self.count = function, count
        self._pool = ThreadPoolExecutor(1)
        self._calls: deque[Future[object]] = deque()

    def __call__(self, *args: object) -> None:
        """Queue a call of the function. Raises the exception of an earlier call, if there was one."""
        while len(self._calls) > self.count or (self._calls and self._calls[0].done()):
            self._calls.popleft().result()
        self._calls.append(self._pool.submit(self.function, *args))

    def finish(self) -> None:
        """Wait for all calls, and close. Raises the exception of a call, if there was one."""
        try:
            while self._calls:
                self._calls.popleft().result()
        finally:
            self.close()

    def close(self) -> None:
        """Cancel waiting calls, and wait for the running call."""
        self._pool.shutdown(cancel_futures=True)
