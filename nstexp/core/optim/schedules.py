"""Learning rates over a training: step -> factor on the optimizer's own rate."""

import math

from nstexp.core.errors import number, whole


def inverse_time(step: int, decay: float = 5e-5) -> float:
    """1 / (1 + decay * step), as Huang & Belongie 2017 train: a ninth after 160,000 steps."""
    number("decay", decay, 0, example="5e-5")
    return 1 / (1 + decay * step)


def cosine(step: int, steps: int, warmup: int = 20, final: float = 0.02) -> float:
    """Half a cosine from 1 to `final` over `steps`, rising linearly in the first `warmup` of them."""
    whole("steps", steps, 1)
    whole("warmup", warmup)
    number("final", final, 0, 1)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2
    return rise * (final + (1 - final) * fall)


def constant(step: int) -> float:
    """1."""
    return 1.0
