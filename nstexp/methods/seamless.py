"""What methods with a network share for results that tile."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from nstexp.core.torus import at_multiples, resize_wrapped
from nstexp.methods.base import Style, size_of


def at_whole_steps(
    content: Tensor, styles: Sequence[Style], multiple: int, redraw: Callable[[Tensor, Sequence[Style]], Tensor]
) -> Tensor:
    """Redraw a picture whose opposite edges meet at a size that a network divides into whole steps.

    If its sides are no multiples, content and masks are enlarged to the next ones, and the result is reduced again.

    Args:
        content: RGB (B, 3, H, W) in [0, 1].
        multiple: the sides that `redraw` gets are multiples of this, in pixels.
        redraw: from content and styles to a result of the content's size, in [0, 1].

    Returns:
        RGB (B, 3, H, W) in [0, 1].
    """
    size = size_of(content)
    whole = at_multiples(size, multiple)
    if whole == size:
        return redraw(content, styles)
    fitted = [s if s.mask is None else replace(s, mask=resize_wrapped(s.mask[None], whole)[0]) for s in styles]
    return resize_wrapped(redraw(resize_wrapped(content, whole), fitted), size)
