"""Results that are expensive to make and asked for again, up to a limit of memory."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class TensorCache:
    """Keeps the results used last, while their tensors take at most `max_bytes`; one that is larger is never kept.

    Results may be tensors or mappings and sequences of them, and must not be changed by who gets them.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result kept under `key`, or a new one."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        result = make()
        size = _bytes(result)
        if size <= self.max_bytes:
            self._kept[key] = (result, size)
            self._bytes += size
            while self._bytes > self.max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1][1]
        return result

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0


def digest(image: Tensor) -> str:
    """A name for the content of a tensor: equal tensors have the same, others do not."""
    image = image.detach().cpu().contiguous()
    return hashlib.blake2b(image.numpy().tobytes() + repr((image.shape, image.dtype)).encode()).hexdigest()


def _bytes(result: Any) -> int:
    if isinstance(result, Tensor):
        return result.numel() * result.element_size()
    if isinstance(result, Mapping):
        return sum(map(_bytes, result.values()))
    return sum(map(_bytes, result)) if isinstance(result, list | tuple) else 0
