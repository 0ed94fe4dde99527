"""What a method computed of style pictures, kept for the next photo in the same styles."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from torch import Tensor

from nstexp.methods.base import Style

T = TypeVar("T")


class StyleMemory(Generic[T]):
    """Results by style picture and part, compared by identity: pictures are large, and a run keeps its own."""

    def __init__(self) -> None:
        # While a picture and its part are kept here, no other tensors can have their ids.
        self._kept: dict[tuple[int, int, int], tuple[Tensor, Tensor | None, T]] = {}

    def get(self, style: Style, make: Callable[[Style], T], number: int = 0) -> T:
        """The result for a style; `make` computes it if it is not there.

        Args:
            number: what the result depends on besides the style, such as the size at which it is read.
        """
        key = (*_key(style), number)
        if key not in self._kept:
            self._kept[key] = (style.picture, style.part, make(style))
        return self._kept[key][2]

    def keep_only(self, styles: Sequence[Style], number: int = 0) -> None:
        """Forget all other styles, and other numbers: with recolored paintings, every photo has new ones."""
        wanted = {(*_key(style), number) for style in styles}
        self._kept = {key: kept for key, kept in self._kept.items() if key in wanted}


def _key(style: Style) -> tuple[int, int]:
    return id(style.picture), id(style.part)
