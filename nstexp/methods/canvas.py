"""Parts of the per-image optimization: starting image, canvas with margin, coarse-to-fine levels, pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.color import match_color
from nstexp.core.errors import UserError
from nstexp.core.resize import resize
from nstexp.core.torus import at_multiples, interpolate_wrapped, resize_wrapped
from nstexp.media.images import load_image
from nstexp.methods.base import size_of

STARTS = ("content", "recolored", "noise", "style", "gray", "adain")


def starting_image(
    start: str,
    content: Tensor,
    styles: Sequence[Tensor],
    shares: Sequence[float],
    noise_std: float,
    seed: int,
    parts: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """The starting image of the optimization, (B, 3, H, W) like `content`.

    Args:
        start: `content`; `recolored` (the content with the styles' color mean and covariance); `noise` (normal
            distribution around mid-gray); `style` (the first style picture, stretched to the content's size); `gray`;
            or the path of a picture.
        content: (B, 3, H, W) in [0, 1].
        styles: style pictures (3, H', W') in [0, 1]; needed for `recolored` and `style`.
        shares: the shares of the styles, for `recolored`.
        noise_std: standard deviation of the noise, in units of the [0, 1] range.
        seed: seed of the noise.
        parts: for each style picture, weights of its pixels (H', W'), or None, for `recolored`.

    Raises:
        UserError: `start` is neither one of these names nor a readable picture.
    """
    size = size_of(content)
    if start == "content":
        return content.clone()
    if start == "recolored":
        return match_color(content, styles, shares, parts=parts).clamp(0, 1)
    if start == "gray":
        return torch.full_like(content, 0.5)
    if start == "noise":
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(content.shape, generator=generator) * noise_std + 0.5
        return noise.to(content)
    if start == "style":
        return resize(styles[0], size).to(content).expand_as(content).clone()
    try:
        return resize(load_image(start), size).to(content).expand_as(content).clone()
    except UserError as error:
        raise UserError(f"method.init={start} is neither {', '.join(STARTS)} nor a picture: {error}") from error


class Canvas:
    """A picture as the optimization sees it: extended by a margin of its reflection, or on a torus.

    The optimization works on the canvas; the result is cropped.

    Without a margin, pixels near an edge get about half the gradient of others, since fewer filters see them, and show
    as a pale frame. The right and bottom margins are extended to whole strides of the encoder, since its pooling drops
    incomplete rows and columns.

    On a torus, opposite edges meet, so that there is no margin. The picture is resized to whole strides, and the result
    back to the picture's size; both keep the edges together.

    Args:
        picture: (B, 3, H, W) in [0, 1].
        margin_px: width of the margin; 0: none.
        stride: the stride of the deepest layer in use, in pixels.
        wraps: True: on a torus.

    Attributes:
        picture_size: (height, width) of the picture.
        margins: (left, right, top, bottom) in pixels.
        content: the picture with its margin.
        size: (height, width) of the canvas.
    """

    def __init__(self, picture: Tensor, margin_px: int, stride: int, wraps: bool = False) -> None:
        height, width = self.picture_size = size_of(picture)
        self.wraps, self.stride = wraps, stride
        # A reflection must be smaller than the picture.
        near = 0 if wraps else min(margin_px, height - 1, width - 1)
        self.margins = (0, 0, 0, 0)
        if near:
            right, bottom = (near + (-(side + 2 * near)) % stride for side in (width, height))
            self.margins = (near, min(right, width - 1), near, min(bottom, height - 1))
        self.content = self.extend(picture)
        self.size = size_of(self.content)

    def extend(self, picture: Tensor) -> Tensor:
        """Bring a picture or mask (B, C, H, W) of the picture's size to the canvas."""
        if self.wraps:
            return resize_wrapped(picture, at_multiples(self.picture_size, self.stride))
        return F.pad(picture, self.margins, mode="reflect")

    def resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize an image or mask (B, C, h, w) of the whole canvas."""
        return resize_wrapped(image, size) if self.wraps else resize(image, size)

    def crop(self, image: Tensor) -> Tensor:
        """Resize an image (B, C, h, w) of the whole canvas to full size, clamp it to [0, 1] and cut off the margin."""
        if self.wraps:
            return resize_wrapped(image.clamp(0, 1), self.picture_size)
        left, right, top, bottom = self.margins
        full = resize(image, self.size).clamp(0, 1)
        return full[..., top : self.size[0] - bottom, left : self.size[1] - right]


@dataclass(frozen=True)
class Level:
    """One coarse-to-fine level: the canvas' (height, width), and the total evaluation count at which the level ends."""

    size: tuple[int, int]
    last_step: int


def schedule(
    size: tuple[int, int],
    levels: int,
    coarse_steps: int | Sequence[int],
    max_steps: int,
    min_side_px: int,
    multiple: int = 1,
) -> tuple[Level, ...]:
    """The levels from coarse to fine; sides double from level to level, and the last level has the full `size`.

    Args:
        size: (height, width) of the canvas.
        levels: maximal number of levels.
        coarse_steps: evaluations at each coarser level, limited to an equal share of `max_steps`; or a list with one
            number per coarser level, from coarse to fine. If levels are left out, the list's last numbers are used.
        max_steps: evaluations in total.
        min_side_px: coarser levels with a shorter side than this are left out.
        multiple: the sides of coarser levels are rounded to multiples of this.
    """
    sizes = [size]
    for k in range(1, levels):
        height, width = (max(1, round(side / 2**k / multiple)) * multiple for side in size)
        sizes.append((height, width))
    sizes = [s for k, s in enumerate(sizes) if k == 0 or min(s) >= min_side_px][::-1]
    if isinstance(coarse_steps, int):
        steps = [min(coarse_steps, max_steps // len(sizes))] * (len(sizes) - 1)
    else:
        steps = list(coarse_steps)[len(coarse_steps) - len(sizes) + 1 :]
    ends = [*accumulate(steps), max_steps]
    return tuple(Level(s, end) for s, begin, end in zip(sizes, [0, *ends], ends, strict=False) if end > begin)


def enlarge(image: Tensor, start: Tensor, size: tuple[int, int], wraps: bool = False) -> Tensor:
    """Enlarge the result of a coarse level: only the change since the starting image is interpolated, so that the
    starting image keeps its detail.

    Args:
        image: (B, 3, h, w), the result of the coarse level.
        start: (B, 3, H, W), the starting image at full size.
        size: (height, width) of the finer level.
        wraps: whether opposite edges meet.

    Returns:
        (B, 3, *size).
    """
    if wraps:
        change = image - resize_wrapped(start, size_of(image))
        return resize_wrapped(start, size) + interpolate_wrapped(change, size, "bicubic")
    change = image - resize(start, size_of(image))
    return resize(start, size) + F.interpolate(change, size=size, mode="bicubic", align_corners=False)


class PyramidImage(nn.Module):
    """An image as a fixed start plus a pyramid of offsets: x = start + z_0 + gain up(z_1 + gain up(z_2 + ...)).

    The map from z to x is linear and surjective, so the optimum stays the same; but a step on z moves large structures
    as easily as single pixels, which acts as a preconditioner. With one level the offsets are plain pixels.

    Args:
        start: (B, 3, H, W).
        levels: number of offsets z_k, each with sides half as long as the previous one. A small image has fewer.
        gain: factor from each coarser level to the next finer one.
        wraps: whether opposite edges meet.
    """

    start: Tensor

    def __init__(self, start: Tensor, levels: int = 1, gain: float = 0.5, wraps: bool = False) -> None:
        super().__init__()
        self.gain, self.wraps = gain, wraps
        self.register_buffer("start", start.detach().clone())
        sizes = [tuple(start.shape[-2:])]
        while len(sizes) < levels and min(sizes[-1]) >= 8:
            sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
        self.offsets = nn.ParameterList(torch.zeros(*start.shape[:2], *size, dtype=start.dtype) for size in sizes)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Clamp the image to [0, 1] by changing the finest offsets."""
        image = self()
        self.offsets[0] += image.clamp(0, 1) - image

    def forward(self) -> Tensor:
        """The image (B, 3, H, W)."""
        total: Tensor = self.offsets[-1]
        for offset in reversed(self.offsets[:-1]):
            size = size_of(offset)
            if self.wraps:
                up = interpolate_wrapped(total, size, "bilinear")
            else:
                up = F.interpolate(total, size=size, mode="bilinear", align_corners=False)
            total = offset + self.gain * up
        return self.start + total
