"""Work in other threads: in order and with a bounded queue, or for several pictures at the same time."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar, cast

import torch

S = TypeVar("S")
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


def for_each(function: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """The results of a function for all items, computed at the same time on a CPU.

    Each item has a thread of its own with an equal share of PyTorch's threads (`torch.get_num_threads`). Networks on
    small maps use the cores better so: within one picture, the threads wait for each other after every operation. With
    one item, or one thread of PyTorch, the caller's thread does the work.

    Raises:
        Exception: the first exception of the function, in the order of the items; no call is at work any more then.

    Examples:
        >>> for_each(lambda x: 2 * x, [1, 2, 3])
        [2, 4, 6]
    """
    workers = min(len(items), torch.get_num_threads())
    if workers <= 1:
        return [function(item) for item in items]
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def call(item: S) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad and not inference):
            return function(item)

    calls = [_workers(workers, torch.get_num_threads() // workers).submit(call, item) for item in items]
    for one in calls:
        one.exception()  # waits
    return [one.result() for one in calls]


@cache
def _workers(count: int, threads: int) -> ThreadPoolExecutor:
    """Threads that PyTorch gives so many threads each; they are kept, since starting them takes time."""
    pool = ThreadPoolExecutor(count)
    together = threading.Barrier(count)
    before = torch.get_num_threads()

    def begin() -> None:
        torch.get_num_threads()  # else the first use of PyTorch in this thread would undo the next line
        torch.set_num_threads(threads)
        together.wait()  # so that every thread gets one of these calls

    try:
        for one in [pool.submit(begin) for _ in range(count)]:
            one.result()
    finally:
        torch.set_num_threads(before)
    return pool
