"""Per-image optimization: the canvas, where it starts, in which stages it grows, and how it is parametrized."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.color import match_color
from nstexp.core.errors import UserError
from nstexp.core.resize import resize
from nstexp.media.images import load_image

STARTS = ("content", "recolored", "noise", "style", "gray", "adain")


def starting_image(
    start: str, content: Tensor, styles: Sequence[Tensor], shares: Sequence[float], noise_std: float, seed: int
) -> Tensor:
    """The image that the optimization begins with, (B, 3, H, W) like `content`.

    Args:
        start: `content`; `recolored` (the content with the styles' color mean and covariance); `noise` (normal around
            mid-gray); `style` (the first style picture, stretched); `gray`; or the path of a picture.
        content: (B, 3, H, W) in [0, 1].
        styles: (3, H', W') each, in [0, 1]; needed by `recolored` and `style`.
        shares: of the styles.
        noise_std: standard deviation of the noise, in units of the [0, 1] range.
        seed: of the noise.

    Raises:
        UserError: none of these.
    """
    size = content.shape[-2:]
    if start == "content":
        return content.clone()
    if start == "recolored":
        return match_color(content, styles, shares).clamp(0, 1)
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
    """A picture and a margin of its reflection around it, which is worked on and cropped in the end.

    Pixels near an edge are seen from one side only, get about half the gradient of the others, and would show as a
    pale frame. The far sides are rounded up to whole strides of the encoder, whose pooling drops the rows beyond.

    Args:
        picture: (B, 3, H, W) in [0, 1].
        margin_px: 0 works on the bare picture.
        stride: of the deepest layer in use.
    """

    def __init__(self, picture: Tensor, margin_px: int, stride: int) -> None:
        height, width = self.picture_size = tuple(picture.shape[-2:])
        near = min(margin_px, height - 1, width - 1)  # a reflection cannot be larger than the picture
        self.margins = (0, 0, 0, 0)
        if near:
            right, bottom = (near + (-(side + 2 * near)) % stride for side in (width, height))
            self.margins = (near, min(right, width - 1), near, min(bottom, height - 1))
        self.content = self.extend(picture)
        self.size = tuple(self.content.shape[-2:])

    def extend(self, picture: Tensor) -> Tensor:
        """A picture of the same size, or a mask, (B, C, H, W), with its margin."""
        return F.pad(picture, self.margins, mode="reflect")

    def crop(self, image: Tensor) -> Tensor:
        """The picture, clamped to [0, 1], out of an image of the whole canvas at any size."""
        left, right, top, bottom = self.margins
        full = resize(image, self.size).clamp(0, 1)
        return full[..., top : self.size[0] - bottom, left : self.size[1] - right]


@dataclass(frozen=True)
class Level:
    """One stage of coarse-to-fine work: the canvas' (height, width), and the evaluation count at which it ends."""

    size: tuple[int, int]
    last_step: int


def schedule(
    size: tuple[int, int], levels: int, coarse_steps: int | Sequence[int], max_steps: int, min_side_px: int
) -> tuple[Level, ...]:
    """Stages from coarse to fine, each twice as large as the one before; the last has the full `size`.

    Args:
        levels: how many at most; those with a side below `min_side_px` are left out.
        coarse_steps: evaluations of each coarser level, at most an equal share of `max_steps`; or one number for each,
            from coarse to fine, of which the last ones are taken where levels are left out.
    """
    sizes = [size] + [(max(1, round(size[0] / 2**k)), max(1, round(size[1] / 2**k))) for k in range(1, levels)]
    sizes = [s for k, s in enumerate(sizes) if k == 0 or min(s) >= min_side_px][::-1]
    if isinstance(coarse_steps, int):
        each = [min(coarse_steps, max_steps // len(sizes))] * (len(sizes) - 1)
    else:
        each = list(coarse_steps)[len(coarse_steps) - len(sizes) + 1 :]
    ends = [*accumulate(each), max_steps]
    return tuple(Level(s, end) for s, begin, end in zip(sizes, [0, *ends], ends, strict=False) if end > begin)


def enlarge(image: Tensor, start: Tensor, size: tuple[int, int]) -> Tensor:
    """A coarse image at a larger size: what was added to its start is enlarged, the start's own detail is kept.

    Args:
        image: (B, 3, h, w), the result of the coarse level.
        start: (B, 3, H, W), what the work began with, at full size.
    """
    added = image - resize(start, image.shape[-2:])
    return resize(start, size) + F.interpolate(added, size=size, mode="bicubic", align_corners=False)


class PyramidImage(nn.Module):
    """An image as a fixed start plus a pyramid of offsets: x = start + z_0 + gain up(z_1 + gain up(z_2 + ...)).

    The map from z to x is linear and onto, so the optimum is the same; but a step on z moves large structures as
    easily as single pixels, which acts as a preconditioner. One level is the plain pixel image.

    Args:
        start: (B, 3, H, W).
        levels: number of z, each half as large as the one before (fewer where the image is too small).
        gain: relative scale of the next coarser level.
    """

    def __init__(self, start: Tensor, levels: int = 1, gain: float = 0.5) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("start", start.detach().clone())
        sizes = [tuple(start.shape[-2:])]
        while len(sizes) < levels and min(sizes[-1]) >= 8:
            sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
        self.offsets = nn.ParameterList(torch.zeros(*start.shape[:2], *size, dtype=start.dtype) for size in sizes)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Move the image into [0, 1], by its finest offsets."""
        image = self()
        self.offsets[0] += image.clamp(0, 1) - image

    def forward(self) -> Tensor:
        """The image (B, 3, H, W)."""
        total = self.offsets[-1]
        for offset in reversed(self.offsets[:-1]):
            up = F.interpolate(total, size=offset.shape[-2:], mode="bilinear", align_corners=False)
            total = offset + self.gain * up
        return self.start + total
