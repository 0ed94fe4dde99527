"""Exceptions whose text is the whole message for the user, and checks of arguments that raise them.

A check names the argument that it was given. Whoever builds an object from a configuration knows where its settings
are, and puts that in front (`ArgumentError.under`): `form=x is unknown ...` becomes `loss.gram.form=x is unknown ...`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # `nstexp samples` answers at once because nothing on its way imports torch
    from torch import Tensor

T = TypeVar("T")


class UserError(ValueError):
    """Bad input or configuration. Printed as one line on stderr, with exit code 2."""


class ArgumentError(UserError):
    """An argument with a value that it cannot have. The text begins with the argument's name.

    Args:
        argument: its name, such as `form`.
        problem: what follows the name, such as `=x is unknown, choose one of a, b`.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument}{problem}")
        self.argument, self.problem = argument, problem

    def __reduce__(self) -> tuple[Any, ...]:  # the processes of a sweep send errors to each other
        return type(self), (self.argument, self.problem)

    def under(self, path: str) -> "ArgumentError":
        """The same error about `path.argument`, of an object that is configured at `path`."""
        return ArgumentError(f"{path}.{self.argument}" if path else self.argument, self.problem)


@contextmanager
def under(path: str) -> Iterator[None]:
    """Put the place of a configuration in front of the arguments that errors inside name (`ArgumentError.under`)."""
    try:
        yield
    except ArgumentError as error:
        raise error.under(path) from error


@contextmanager
def value_of(argument: str) -> Iterator[None]:
    """Name the argument in errors inside whose text begins with its value: `x.pth: ...` becomes `path=x.pth: ...`."""
    try:
        yield
    except ArgumentError:
        raise
    except UserError as error:
        raise ArgumentError(argument, f"={error}") from error


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


# ------------------------------------------------------------------------------------------------ checks of arguments
# Each returns the value, or raises an ArgumentError.


def choice(argument: str, value: T, known: Iterable[T]) -> T:
    """One of the known values."""
    known = tuple(known)
    if value not in known:
        raise ArgumentError(argument, f"={value} is unknown, choose one of {', '.join(map(str, known))}")
    return value


def is_whole(value: Any) -> bool:
    """Whether a value is an integer, which True and False are not here."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, which True and False are not here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(argument: str, value: Any, smallest: int = 0, largest: float = math.inf) -> int:
    """A whole number from `smallest` to `largest`, both included."""
    if not is_whole(value) or value < smallest:
        raise ArgumentError(argument, f"={value}: give a whole number, {smallest} or larger")
    if value > largest:
        raise ArgumentError(argument, f"={value}: give a whole number from {smallest} to {largest}")
    return value


def wholes(smallest: int, largest: float = math.inf, **values: Any) -> None:
    """Several arguments by their names, each a whole number from `smallest` to `largest`."""
    for argument, value in values.items():
        whole(argument, value, smallest, largest)


def multiples_of_8(**values: Any) -> None:
    """Several arguments by their names, each a side in pixels that AdaIN's decoder can give back as it is."""
    for argument, value in values.items():
        multiple_of_8(argument, value)


def multiple_of_8(argument: str, value: Any) -> int:
    """A side in pixels that AdaIN's decoder can give back as it is."""
    if not is_whole(value) or not 1 <= value <= 65_535 or value % 8:
        raise ArgumentError(argument, f"={value}: give a positive multiple of 8, the decoder's step")
    return value


def flags(**values: Any) -> None:
    """Several arguments by their names, each True or False."""
    for argument, value in values.items():
        flag(argument, value)


def text(argument: str, value: Any, example: str) -> Any:
    """A name or a path. The command line reads some names as numbers, such as 2024, so numbers are names, too.

    Args:
        example: a name that would do, for the sentence.
    """
    if isinstance(value, bool) or not isinstance(value, str | Path | int | float) or not str(value).strip():
        raise ArgumentError(argument, f"={value}: give a name, such as {example}")
    return value


def name_list(argument: str, values: Any, example: str) -> tuple[str, ...]:
    """A list of one or more names.

    Args:
        example: a name that would do, for the sentence.
    """
    several = isinstance(values, Sequence) and not isinstance(values, str)
    if not several or not values or not all(isinstance(value, str) and value for value in values):
        raise ArgumentError(argument, f"={values}: give a list of names, such as [{example}]")
    return tuple(values)


def number(
    argument: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
    below: float | None = None,
    example: str | None = None,
) -> float:
    """A finite number from `low` to `high`, both included; with `above` or `below`, larger or smaller than that.

    Args:
        example: a value that would do, for the sentence.
    """
    inside = is_number(value) and low <= value <= high
    if inside and (above is None or value > above) and (below is None or value < below):
        return value
    suggestion = f", such as {example}" if example else ""
    raise ArgumentError(argument, f"={value}: give a number{_range_in_words(low, high, above, below)}{suggestion}")


def _range_in_words(low: float, high: float, above: float | None, below: float | None) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f" from {low:g} to {high:g}"
    if math.isfinite(low):
        return f", {low:g} or larger" if below is None else f" from {low:g} to below {below:g}"
    largest = f"{high:g} or smaller" if math.isfinite(high) else ""
    if above is None and below is None:
        return largest and f", {largest}"
    limits = ("" if above is None else f"larger than {above:g}", largest if below is None else f"below {below:g}")
    return " " + " and ".join(filter(None, limits))


def weight(argument: str, value: Any) -> float:
    """What a term of the loss is multiplied by."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentError(argument, f"={value} is not a number")
    if not math.isfinite(value) or value < 0:
        raise ArgumentError(argument, f"={value}: a weight is a finite number, 0 or larger")
    return float(value)


def flag(argument: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ArgumentError(argument, f"={value}: give true or false")
    return value
