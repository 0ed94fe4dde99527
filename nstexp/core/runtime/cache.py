"""Results that are expensive to make and asked for again, up to a limit of memory."""

import hashlib
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from cachetools import LRUCache
from torch import Tensor

T = TypeVar("T")


class TensorCache:
    """Keeps the results used last, while their tensors take at most `max_bytes`; one that is larger is never kept.

    Results may be tensors or mappings and sequences of them, and must not be changed by who gets them.
    """

    def __init__(self, max_bytes: int) -> None:
        self._results: LRUCache[Hashable, Any] = LRUCache(max_bytes, getsizeof=_bytes)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result kept under `key`, or a new one."""
        if key in self._results:
            return self._results[key]
        result = make()
        with suppress(ValueError):  # larger than the whole cache
            self._results[key] = result
        return result

    def clear(self) -> None:
        """Forget everything."""
        self._results.clear()


def tensor_digest(image: Tensor) -> str:
    """A name for the content of a tensor: equal tensors have the same, others do not."""
    image = image.detach().cpu().contiguous()
    return hashlib.blake2b(image.numpy().tobytes() + repr((image.shape, image.dtype)).encode()).hexdigest()


def _bytes(result: Any) -> int:
    if isinstance(result, Tensor):
        return result.numel() * result.element_size()
    if isinstance(result, Mapping):
        return sum(map(_bytes, result.values()))
    return sum(map(_bytes, result)) if isinstance(result, list | tuple) else 0
