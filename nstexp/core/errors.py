"""Exceptions whose text is the whole message for the user: one sentence, no traceback."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `nstexp samples` answers at once because nothing on its way imports torch
    from torch import Tensor


class UserError(ValueError):
    """Bad input or configuration. Printed as one line on stderr, with exit code 2."""


class JobFailed(Exception):
    """One job of a sweep failed; its text is the sentence for the user. The other jobs go on."""


class Stopped(Exception):
    """Work ended early.

    image: RGB (B, 3, H, W) in [0, 1], the best picture until then, if any.
    interrupted: from outside, not by what came of the work.
    requeue: by a cluster that wants its machine back; the work can go on later.
    """

    def __init__(
        self, reason: str, image: "Tensor | None" = None, interrupted: bool = False, requeue: bool = False
    ) -> None:
        super().__init__(reason)
        self.image = image
        self.interrupted, self.requeue = interrupted, requeue


def is_whole(value: Any) -> bool:
    """Whether a value is an integer, which True and False are not here."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_integers(section: str, smallest: int, **values: Any) -> None:
    """Raise a UserError for a value that is no integer of at least `smallest`, naming it as `section.key`."""
    for key, value in values.items():
        if not is_whole(value) or value < smallest:
            raise UserError(f"{section}.{key}={value}: give a whole number, {smallest} or larger")
