"""Exceptions whose text is the complete message for the user, and checks of arguments that raise them.

The message of a check begins with the name of the argument. Code that builds an object from a configuration adds the
place of the object (`under`): `form=x is unknown ...` becomes `loss.gram.form=x is unknown ...`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

if TYPE_CHECKING:  # not at runtime, so that short commands need not wait for the import of torch
    from torch import Tensor

T = TypeVar("T")


class UserError(ValueError):
    """Invalid input or configuration. The command line prints the text in one line and exits with code 2."""


class ArgumentError(UserError):
    """An argument with an invalid value. The text begins with the name of the argument.

    Args:
        argument: name of the argument, such as `form`.
        problem: the text after the name, such as `=x is unknown, choose one of a, b`.

    Examples:
        >>> error = ArgumentError("form", "=x is unknown")
        >>> str(error), str(error.under("loss.gram"))
        ('form=x is unknown', 'loss.gram.form=x is unknown')
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument}{problem}")
        self.argument, self.problem = argument, problem

    def __reduce__(self) -> tuple[Any, ...]:  # for pickle: the processes of a sweep exchange errors
        return type(self), (self.argument, self.problem)

    def under(self, path: str) -> "ArgumentError":
        """The same error with the argument `path.argument`, for an object configured at `path`."""
        return ArgumentError(f"{path}.{self.argument}" if path else self.argument, self.problem)


@contextmanager
def under(path: str) -> Iterator[None]:
    """Context manager: add the place of a configuration to the argument in an ArgumentError raised inside.

    Examples:
        >>> with under("loss.gram"):
        ...     choice("form", "x", ["a", "b"])
        Traceback (most recent call last):
        ...
        nstexp.core.errors.ArgumentError: loss.gram.form=x is unknown, choose one of a, b
    """
    try:
        yield
    except ArgumentError as error:
        raise error.under(path) from error


@contextmanager
def value_of(argument: str) -> Iterator[None]:
    """Context manager: turn a UserError raised inside, whose text begins with the value of an argument, into an
    ArgumentError.

    Examples:
        >>> with value_of("path"):
        ...     raise UserError("x.pth: there is no such file")
        Traceback (most recent call last):
        ...
        nstexp.core.errors.ArgumentError: path=x.pth: there is no such file
    """
    try:
        yield
    except ArgumentError:
        raise
    except UserError as error:
        raise ArgumentError(argument, f"={error}") from error


class JobFailed(Exception):
    """A job of a sweep failed; the text is the message for the user. The other jobs continue."""


class Stopped(Exception):
    """Work ended early.

    Args:
        reason: the message for the user.
        image: the best picture so far, RGB (B, 3, H, W) in [0, 1], if there is one.
        interrupted: True if a signal or the user ended the work, False if its results did.
        requeue: True if a cluster ended the work to use the machine for another job; the work can continue later.
        pruned: True if the task asked for the end, because other jobs of the sweep do better.
    """

    def __init__(
        self,
        reason: str,
        image: "Tensor | None" = None,
        interrupted: bool = False,
        requeue: bool = False,
        pruned: bool = False,
    ) -> None:
        super().__init__(reason)
        self.image = image
        self.interrupted, self.requeue, self.pruned = interrupted, requeue, pruned


# ------------------------------------------------------------------------------------------------ checks of arguments
# The checks return the value or raise an ArgumentError.


def choice(argument: str, value: T, known: Iterable[T]) -> T:
    """Check that a value is one of the known values.

    Examples:
        >>> choice("form", "a", ["a", "b"])
        'a'
    """
    known = tuple(known)
    if value not in known:
        raise ArgumentError(argument, f"={value} is unknown, choose one of {', '.join(map(str, known))}")
    return value


def is_whole(value: Any) -> TypeGuard[int]:
    """True for integers, but not for True and False.

    Examples:
        >>> is_whole(3), is_whole(3.0), is_whole(True)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """True for finite numbers, but not for True and False.

    Examples:
        >>> is_number(3), is_number(0.5), is_number(math.inf), is_number("3"), is_number(True)
        (True, True, False, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(argument: str, value: Any, smallest: int = 0, largest: float = math.inf) -> int:
    """Check that a value is a whole number from `smallest` to `largest`, both included.

    Examples:
        >>> whole("seed", 3)
        3
        >>> whole("seed", -1)
        Traceback (most recent call last):
        ...
        nstexp.core.errors.ArgumentError: seed=-1: give a whole number, 0 or larger
    """
    if not is_whole(value) or value < smallest:
        raise ArgumentError(argument, f"={value}: give a whole number, {smallest} or larger")
    if value > largest:
        raise ArgumentError(argument, f"={value}: give a whole number from {smallest} to {largest}")
    return value


def wholes(smallest: int, largest: float = math.inf, **values: Any) -> None:
    """Check that all keyword arguments are whole numbers from `smallest` to `largest`.

    Examples:
        >>> wholes(1, 100, blocks=5, kernel=101)
        Traceback (most recent call last):
        ...
        nstexp.core.errors.ArgumentError: kernel=101: give a whole number from 1 to 100
    """
    for argument, value in values.items():
        whole(argument, value, smallest, largest)


def multiples_of_8(**values: Any) -> None:
    """Check that all keyword arguments are positive multiples of 8, see `multiple_of_8`.

    Examples:
        >>> multiples_of_8(crop_px=256)
    """
    for argument, value in values.items():
        multiple_of_8(argument, value)


def multiple_of_8(argument: str, value: Any) -> int:
    """Check that a value is a positive multiple of 8: AdaIN's decoder makes pictures with such sides, in pixels.

    Examples:
        >>> multiple_of_8("crop_px", 100)
        Traceback (most recent call last):
        ...
        nstexp.core.errors.ArgumentError: crop_px=100: give a positive multiple of 8, the decoder's step
    """
    if not is_whole(value) or not 1 <= value <= 65_535 or value % 8:
        raise ArgumentError(argument, f"={value}: give a positive multiple of 8, the decoder's step")
    return value


def flags(**values: Any) -> None:
    """Check that all keyword arguments are True or False.

    Examples:
        >>> flags(bias=True, relu=0)
        Traceback (most recent call last):
        ...
        nstexp.core.errors.ArgumentError: relu=0: give true or false
    """
    for argument, value in values.items():
        flag(argument, value)


def text(argument: str, value: Any, example: str) -> Any:
    """Check that a value is a name or a path. Numbers are allowed, because the command line reads the name 2024 as one.

    Args:
        example: a valid name, for the error message.

    Examples:
        >>> text("layer", "relu3_1", "relu4_1"), text("run", 2024, "first")
        ('relu3_1', 2024)
    """
    if isinstance(value, bool) or not isinstance(value, str | Path | int | float) or not str(value).strip():
        raise ArgumentError(argument, f"={value}: give a name, such as {example}")
    return value


def name_list(argument: str, values: Any, example: str) -> tuple[str, ...]:
    """Check that a value is a list of one or more names.

    Args:
        example: a valid name, for the error message.

    Examples:
        >>> name_list("layers", ["relu1_1", "relu2_1"], "relu4_1")
        ('relu1_1', 'relu2_1')
    """
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or not values or not all(isinstance(value, str) and value for value in values):
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
    """Check that a value is a finite number in a range.

    Args:
        low, high: bounds that are included.
        above, below: bounds that are excluded.
        example: a valid value, for the error message.

    Examples:
        >>> number("eps", 1e-5, low=0, high=1)
        1e-05
        >>> number("lr", 0, above=0, example="1e-3")
        Traceback (most recent call last):
        ...
        nstexp.core.errors.ArgumentError: lr=0: give a number larger than 0, such as 1e-3
    """
    inside = is_number(value) and low <= value <= high
    if inside and (above is None or value > above) and (below is None or value < below):
        return cast(float, value)
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
    """Check the weight of a loss term: a finite number, 0 or larger.

    Examples:
        >>> weight("weights.beta", 3)
        3.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentError(argument, f"={value} is not a number")
    if not math.isfinite(value) or value < 0:
        raise ArgumentError(argument, f"={value}: a weight is a finite number, 0 or larger")
    return float(value)


def flag(argument: str, value: Any) -> bool:
    """Check that a value is True or False.

    Examples:
        >>> flag("bias", True)
        True
    """
    if not isinstance(value, bool):
        raise ArgumentError(argument, f"={value}: give true or false")
    return value
