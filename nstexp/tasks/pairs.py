"""Which pairs of photo and painting an evaluation takes."""

import math
import random
from collections.abc import Sequence

from nstexp.core.errors import UserError, whole


def chosen_pairs(contents: Sequence[str], styles: Sequence[str], pairs: int | None) -> list[tuple[str, str]]:
    """Pairs of photo and painting, in the order of the paintings.

    Args:
        contents, styles: names.
        pairs: their number; the pairs are the same in every run with as many photos and paintings, photos and paintings
            are about equally frequent, and fewer pairs are among more. None: all pairs.

    Raises:
        UserError: a number below 1, or above that of all pairs.

    Examples:
        >>> chosen_pairs(["a", "b"], ["x", "y"], 2)
        [('a', 'x'), ('b', 'y')]
    """
    every = [(content, style) for style in styles for content in contents]
    if pairs is None:
        return every
    whole("task.pairs", pairs, 1)
    if pairs > len(every):
        raise UserError(f"task.pairs={pairs}: there are {len(every)} pairs of photo and painting")
    draw = random.Random(0)
    photos, paintings = (draw.sample(names, len(names)) for names in (contents, styles))
    # Both lists are gone through again and again; after a common end, the paintings are shifted by one.
    round_of = math.lcm(len(photos), len(paintings))
    taken = {(photos[n % len(photos)], paintings[(n + n // round_of) % len(paintings)]) for n in range(pairs)}
    return [pair for pair in every if pair in taken]
