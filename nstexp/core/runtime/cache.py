"""A cache for tensors, with a limit of memory."""

import hashlib
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

from cachetools import LRUCache
from torch import Tensor

T = TypeVar("T")


class TensorCache:
    """Cache of the most recently used results. Their tensors take at most `max_bytes`; a larger result is not stored.

    Results are tensors, or nested mappings, lists and tuples of tensors. Callers must not change them.

    Examples:
        >>> cache = TensorCache(max_bytes=1000)
        >>> cache.get("a", lambda: torch.zeros(2)).tolist(), cache.get("a", lambda: torch.ones(2)).tolist()
        ([0.0, 0.0], [0.0, 0.0])
    """

    def __init__(self, max_bytes: int) -> None:
        self._results: LRUCache[Hashable, Any] = LRUCache(max_bytes, getsizeof=_bytes)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result stored under `key`; if there is none, the result of `make`, which is stored."""
        if key in self._results:
            return cast(T, self._results[key])
        result = make()
        with suppress(ValueError):  # raised for a result larger than the cache
            self._results[key] = result
        return result

    def clear(self) -> None:
        """Remove all results."""
        self._results.clear()


def tensor_digest(image: Tensor) -> str:
    """A hash of the values, shape and dtype of a tensor, as text.

    Examples:
        >>> digest = tensor_digest(torch.zeros(2))
        >>> digest == tensor_digest(torch.zeros(2)), digest == tensor_digest(torch.zeros(3))
        (True, False)
    """
    image = image.detach().cpu().contiguous()
    return hashlib.blake2b(image.numpy().tobytes() + repr((image.shape, image.dtype)).encode()).hexdigest()


def _bytes(result: Any) -> int:
    """Memory of the tensors in nested mappings, lists and tuples."""
    if isinstance(result, Tensor):
        return result.numel() * result.element_size()
    if isinstance(result, Mapping):
        return sum(map(_bytes, result.values()))
    return sum(map(_bytes, result)) if isinstance(result, list | tuple) else 0
