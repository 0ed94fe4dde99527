"""Exceptions whose text is the whole message for the user: one sentence, no traceback."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `nstexp samples` answers at once because nothing on its way imports torch
    from torch import Tensor


class UserError(ValueError):
    """Bad input or configuration. Printed as one line on stderr, with exit code 2."""


class Stopped(Exception):
    """Work ended early; `image` (B, 3, H, W) in [0, 1] is the best picture until then, if any."""

    def __init__(self, reason: str, image: "Tensor | None" = None, interrupted: bool = False) -> None:
        super().__init__(reason)
        self.image = image
        self.interrupted = interrupted
