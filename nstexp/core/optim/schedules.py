"""Learning rate schedules: functions from the step, counted from 0, to a factor on the optimizer's learning rate."""

import math

from nstexp.core.errors import number, whole


def inverse_time(step: int, decay: float = 5e-5) -> float:
    """1 / (1 + decay step), the schedule of Huang & Belongie 2017; with the default decay, 1/9 after 160,000 steps.

    Raises:
        ArgumentError: a negative decay.

    Examples:
        >>> inverse_time(0), inverse_time(20_000)
        (1.0, 0.5)
    """
    number("decay", decay, 0, example="5e-5")
    return 1 / (1 + decay * step)


def cosine(step: int, steps: int, warmup: int = 20, final: float = 0.02) -> float:
    """A half cosine from 1 to `final` over `steps` steps, times a linear rise over the first `warmup` steps.

    Raises:
        ArgumentError: a number out of its range.

    Examples:
        >>> [round(cosine(step, steps=100, warmup=2), 3) for step in (0, 50, 100)]
        [0.5, 0.51, 0.02]
    """
    whole("steps", steps, 1)
    whole("warmup", warmup)
    number("final", final, 0, 1)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2
    return rise * (final + (1 - final) * fall)


def constant(step: int) -> float:
    """Always 1.

    Examples:
        >>> constant(7)
        1.0
    """
    return 1.0
