"""Swift: a small network that gives a photo the style of any painting in one pass."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.networks.convolution import conv2d
from nstexp.core.networks.moments import Moments, color_moments, feature_moments, roots, transferred
from nstexp.core.networks.subpixel import shuffled, without_weave
from nstexp.core.tones import tones

# Scale of kernels at the start: of the first and the second convolution of the residual blocks whose filters depend on
# the painting, and of the encoder's convolutions that end a residual block. All others have 1.
MIXED_GAINS = (1.0, 0.5)
ENCODER_GAINS = {"same4": 0.5, "second8": 0.5}
STROKES = 0.4  # scale of what the network paints: an untrained one changes the recolored photo little
COLOR_RIDGE = 4e-4  # added to the variances of the photo's colors, so that a gray photo gets no amplified noise
COLOR_STEPS = 24  # of Newton-Schulz, more than for features: colors have smaller eigenvalues
THIN_GROUP = 8  # moments of groups this small come from every fourth position: the map at half size is large
CODE = 128  # numbers that choose the filters for a painting
GROWTH = 1.5  # largest norm of a kernel, in units of its norm at the start


@dataclass(frozen=True)
class PhotoMoments:
    """What `Swift` needs to know of a photo: its colors, and the features of the recolored photo at each level."""

    colors: Moments
    levels: tuple[Moments, ...]


@dataclass(frozen=True)
class SwiftStyle:
    """What `Swift` keeps of a painting.

    Args:
        color_mean: (3,), RGB in [0, 1].
        color_root: (3, 3), the square root of the covariance of the painting's colors.
        means: of the features at each level, (C,).
        roots: the square roots of the covariances of their groups, (G, c, c).
        numbers: (N,), which choose the filters; see `Swift.filters`.
        tones: (3, T), quantiles of the painting's colors; see `tones`.
    """

    color_mean: Tensor
    color_root: Tensor
    means: tuple[Tensor, ...]
    roots: tuple[Tensor, ...]
    numbers: Tensor
    tones: Tensor

    @classmethod
    def mixed(cls, styles: Sequence["SwiftStyle"], shares: Sequence[float]) -> "SwiftStyle":
        """The style between several, whose shares sum to 1."""
        if len(styles) == 1:
            return styles[0]

        def mean(values: Sequence[Tensor]) -> Tensor:
            return torch.stack([share * value for share, value in zip(shares, values, strict=True)]).sum(0)

        def over_levels(values: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            return tuple(mean(level) for level in zip(*values, strict=True))

        return cls(
            mean([style.color_mean for style in styles]),
            mean([style.color_root for style in styles]),
            over_levels([style.means for style in styles]),
            over_levels([style.roots for style in styles]),
            mean([style.numbers for style in styles]),
            mean([style.tones for style in styles]),
        )


class Experts(nn.Module):
    """A 3x3 convolution for each painting: a weighted mean of several kernels, with its own scale for each channel.

    Args:
        channels: C, in and out.
        count: of the kernels.
        gain: scale of the kernels at the start.
    """

    def __init__(self, channels: int, count: int, gain: float = 1.0) -> None:
        super().__init__()
        self.channels, self.count = channels, count
        # One parameter for each kernel: Muon orthogonalizes the updates of kernels.
        self.weights = nn.ParameterList([_conv(channels, channels, gain).weight.detach() for _ in range(count)])
        self.bias = nn.Parameter(torch.zeros(channels))

    @property
    def inputs(self) -> int:
        """How many numbers choose a convolution."""
        return self.count + 2 * self.channels

    def forward(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (C, C, 3, 3) and bias (C,) for `inputs` numbers."""
        shares, scale, offset = torch.split(numbers, [self.count, self.channels, self.channels])
        shares = F.softmax(shares, 0)
        # The mean of independent kernels is weaker than one kernel; shares whose squares sum to 1 keep the strength.
        shares = shares / shares.square().sum().sqrt()
        weight = torch.stack([share * kernel for share, kernel in zip(shares, self.weights, strict=True)]).sum(0)
        return weight * torch.exp(0.5 * torch.tanh(scale))[:, None, None, None], self.bias + offset


Filters = list[tuple[Tensor, Tensor]]
Conv = nn.Module | tuple[Tensor, Tensor]  # a convolution, or its weight and bias


class Swift(nn.Module):
    """Photo and painting to picture, by 1.6 million parameters.

    The photo first gets the mean and the covariance of the painting's colors, in closed form. An encoder then reads the
    recolored photo, and likewise the painting, at 1/2, 1/4 and 1/8 of the size. At each level the photo's features get
    the means of the painting's features, and their covariances within groups of channels: AdaIN (Huang & Belongie 2017)
    is the case of groups of one channel, WCT (Li et al. 2017) the case of one group of all. A decoder, most of whose
    filters are mixed for the painting, turns the features into strokes. The pattern of 2 pixels that its last step
    leaves is taken out of them, see `without_weave`, and they are added to the recolored photo.

    Args:
        widths: channels at 1/2, 1/4 and 1/8 of the size.
        groups: channels of a group at each level.
        experts: kernels that are mixed, of each convolution that depends on the painting.

    Examples:
        >>> network = Swift((8, 8, 16), (8, 8, 8), 2)
        >>> photo, painting = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 64, 64)
        >>> network(photo, network.style(painting)).shape
        torch.Size([1, 3, 32, 32])
    """

    multiple = 8  # sides of pictures are multiples of this
    frame_px = 16  # pictures are mirrored by so much: zeros around the maps, which cost no time, stay outside
    reach_px = 160  # a pixel depends on no other that is further away, beside the moments

    def __init__(
        self, widths: Sequence[int] = (24, 48, 96), groups: Sequence[int] = (8, 16, 16), experts: int = 3
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"widths": list(widths), "groups": list(groups), "experts": experts}
        self.groups = tuple(groups)
        half, quarter, eighth = widths
        self.encode = nn.ModuleDict(
            {
                "down2": _conv(12, half),
                "down4": _conv(half, quarter),
                "same4": _conv(quarter, quarter, ENCODER_GAINS["same4"]),
                "down8": _conv(quarter, eighth),
                "first8": _conv(eighth, eighth),
                "second8": _conv(eighth, eighth, ENCODER_GAINS["second8"]),
            }
        )
        self.decode = nn.ModuleDict(
            {"up4": _conv(eighth, quarter), "up2": _conv(quarter, half), "last": _conv(half, 12)}
        )
        channels = [eighth] * 4 + [quarter] * 2 + [half] * 2
        self.mixed = nn.ModuleList(Experts(c, experts, MIXED_GAINS[place % 2]) for place, c in enumerate(channels))
        self.code = nn.Linear(2 * sum(widths), CODE)
        self.heads = nn.Linear(CODE, sum(self._inputs))
        with torch.no_grad():  # the four pixels of a position begin alike, without a grid (Aitken et al. 2017)
            last, _ = _weights(self.decode["last"])
            last.copy_(last[::4].repeat_interleave(4, 0))
        nn.init.normal_(self.heads.weight, std=0.3 / CODE**0.5)
        nn.init.zeros_(self.heads.bias)

    @property
    def _inputs(self) -> list[int]:
        return [experts.inputs for experts in self.mixed if isinstance(experts, Experts)]

    def in_dtype(self, dtype: torch.dtype) -> "Swift":
        """A copy whose convolutions need no conversion at each picture; for `levels` and `painted` only."""
        made = copy.deepcopy(self)
        for conv in (*made.encode.values(), *made.decode.values()):
            conv.to(dtype)
        return made.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def bound_(self) -> None:
        """Shrink the kernels that have grown beyond `GROWTH` times their norm at the start; after every training step.

        Statistics are exchanged at the scale of the encoder's features, which nothing else bounds: without the limit,
        encoder and decoder enlarge each other's values until a training diverges. The last kernel is free, since it
        decides how strong the strokes are.
        """
        for kernel, gain in self._bounded():
            limit = GROWTH * gain * (2 * kernel.shape[0]) ** 0.5  # see `_conv`
            kernel.mul_((limit / kernel.norm().clamp(min=1e-12)).clamp(max=1))

    def _bounded(self) -> Iterator[tuple[Tensor, float]]:
        """The kernels that `bound_` limits, each with its scale at the start."""
        for name, conv in [*self.encode.items(), *self.decode.items()]:
            if name != "last":
                yield _weights(conv)[0], ENCODER_GAINS.get(name, 1.0)
        for place, experts in enumerate(self.mixed):
            assert isinstance(experts, Experts)
            yield from ((kernel, MIXED_GAINS[place % 2]) for kernel in experts.weights)

    def style(self, painting: Tensor, dtype: torch.dtype = torch.float32, weights: Tensor | None = None) -> SwiftStyle:
        """What to keep of a painting: RGB (1, 3, H, W) in [0, 1], H and W multiples of 8.

        Args:
            weights: (1, 1, H, W), 0 or larger, how much each pixel counts.
        """
        # A gray painting has covariances of rank 1. Rounding in float32 can make their zero eigenvalues negative, from
        # where the iterations for the root diverge.
        colors = color_moments(painting.double(), weights)
        levels = self.level_moments(self.levels(painting, dtype), weights)
        spread = [level.cov[0].diagonal(dim1=-2, dim2=-1).flatten().clamp(min=0).add(1e-4).log() for level in levels]
        known = [part for level, log in zip(levels, spread, strict=True) for part in (level.mean[0], log)]
        code = F.relu(self.code(torch.cat([F.layer_norm(part, part.shape) for part in known])))
        return SwiftStyle(
            colors.mean[0].float(),
            roots(colors.cov, COLOR_STEPS)[0][0, 0].float(),
            tuple(level.mean[0] for level in levels),
            tuple(roots(level.cov)[0][0] for level in levels),
            self.heads(code),
            tones(painting.float(), weights)[0],
        )

    def filters(self, style: SwiftStyle) -> Filters:
        """Weights and biases of the convolutions that depend on the painting."""
        parts = torch.split(style.numbers, self._inputs)
        return [experts(part) for experts, part in zip(self.mixed, parts, strict=True)]

    def level_moments(self, levels: Sequence[Tensor], weights: Tensor | None = None) -> tuple[Moments, ...]:
        """Moments of the features of `levels` without their frames.

        Args:
            weights: (1, 1, H, W), 0 or larger, how much each pixel counts.
        """
        found = []
        for number, (x, group) in enumerate(zip(levels, self.groups, strict=True)):
            edge = self.frame_px >> (number + 1)
            found.append(self._moments(x[..., edge:-edge, edge:-edge], group, weights))
        return tuple(found)

    def forward(
        self,
        photo: Tensor,
        style: SwiftStyle,
        dtype: torch.dtype = torch.float32,
        own: PhotoMoments | None = None,
        filters: Filters | None = None,
    ) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1], H and W multiples of 8 -> the same shape in float32, not clamped.

        Args:
            dtype: of the convolutions.
            own: moments of the photo, or of the whole that it is a part of; None: they are measured.
            filters: of the style, where they are known already.
        """
        start = recolored(photo, color_moments(photo) if own is None else own.colors, style)
        levels = self.levels(start, dtype)
        of_levels = self.level_moments(levels) if own is None else own.levels
        return self.painted(start, levels, of_levels, style, self.filters(style) if filters is None else filters)

    def painted(
        self, start: Tensor, levels: Sequence[Tensor], own: Sequence[Moments], style: SwiftStyle, filters: Filters
    ) -> Tensor:
        """The picture (B, 3, H, W).

        Args:
            start: (B, 3, H, W), the photo in the colors of the painting, see `recolored`.
            levels: its features.
            own: their moments, from `level_moments`.
            filters: of the style.
        """
        moved = [transferred(*parts) for parts in zip(levels, own, style.means, style.roots, strict=True)]
        strokes = self._strokes(moved, style, filters)
        # Strokes spread as the painting's colors do: a gray painting gets gray strokes.
        matrices = (STROKES * style.color_root).expand(len(start), 3, 3)
        return torch.baddbmm(start.flatten(2), matrices, strokes.flatten(2)).view(start.shape)

    def levels(self, image: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        """Features of RGB (B, 3, H, W) at 1/2, 1/4 and 1/8 of the size, with a frame around them.

        H and W are larger than `frame_px`; the shapes are (B, C, (H + 2 frame_px) / 2, (W + 2 frame_px) / 2) and so on.
        """
        encode = self.encode
        framed = F.pad(image - 0.5, (self.frame_px,) * 4, mode="reflect")
        x = F.pixel_unshuffle(framed, 2).to(dtype, memory_format=torch.channels_last)
        half = _run(x, encode["down2"])
        quarter = _run(F.relu(half), encode["down4"], 2)
        quarter = _run(F.relu(quarter), encode["same4"]).add_(quarter)
        eighth = _run(F.relu(quarter), encode["down8"], 2)
        eighth = _residual(eighth, encode["first8"], encode["second8"])
        return half, quarter, eighth

    def _strokes(self, moved: Sequence[Tensor], style: SwiftStyle, filters: Filters) -> Tensor:
        half, quarter, x = moved
        x = _residual(_residual(x, filters[0], filters[1]), filters[2], filters[3])
        x = _enlarged(_run(F.relu_(x), self.decode["up4"])).add_(quarter)
        x = _enlarged(_run(F.relu_(_residual(x, filters[4], filters[5])), self.decode["up2"])).add_(half)
        return shuffled(without_weave(_run(F.relu_(_residual(x, filters[6], filters[7])), self.decode["last"])))

    def _moments(self, x: Tensor, group: int, weights: Tensor | None = None) -> Moments:
        """Moments of features (B, C, h, w); `weights` as for `level_moments`."""
        share = None if weights is None else F.interpolate(weights.float(), size=x.shape[-2:], mode="area")
        if group <= THIN_GROUP:
            x, share = x[:, :, ::2, ::2], None if share is None else share[:, :, ::2, ::2]
        return feature_moments(x, group, share)


# ---------------------------------------------------------------------------------------------------------- functions


def recolored(image: Tensor, own: Moments, style: SwiftStyle) -> Tensor:
    """RGB (B, 3, H, W) with the mean and covariance of a painting's colors, in float32; it may leave [0, 1].

    The linear map between the two covariances that changes colors least (Pitie & Kokaram 2007); see `color.color_map`,
    whose eigenvectors cannot be exported.
    """
    root = style.color_root.double()
    eye = torch.eye(3, dtype=root.dtype, device=root.device)
    inner = root @ (own.cov[:, 0].double() + COLOR_RIDGE * eye) @ root
    trace = inner.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    matrix = root @ roots(inner + (1e-7 * trace + 1e-12) * eye, COLOR_STEPS)[1] @ root
    offset = style.color_mean - (matrix @ own.mean[..., None].double())[..., 0]
    return _matrix_at_each_pixel(matrix.float(), image.float()) + offset.float()[:, :, None, None]


def _matrix_at_each_pixel(matrices: Tensor, image: Tensor) -> Tensor:
    """Matrices (B or 1, 3, 3) times the pixels of (B, 3, H, W)."""
    return (matrices @ image.flatten(2)).view(image.shape)


def _conv(channels_in: int, channels_out: int, gain: float = 1.0) -> nn.Conv2d:
    made = nn.Conv2d(channels_in, channels_out, 3).to(memory_format=torch.channels_last)
    nn.init.normal_(made.weight, std=gain * (2 / (9 * channels_in)) ** 0.5)
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


def _weights(conv: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return conv.weight, conv.bias


def _run(x: Tensor, conv: Conv, stride: int = 1) -> Tensor:
    """A 3x3 convolution with zeros around the map."""
    weight, bias = conv if isinstance(conv, tuple) else _weights(conv)
    weight = weight.to(dtype=x.dtype, memory_format=torch.channels_last)
    return conv2d(x, weight, bias.to(x.dtype), stride, 1)


def _residual(x: Tensor, first: Conv, second: Conv) -> Tensor:
    # In place where nothing else needs a map, which saves memory.
    return _run(F.relu_(_run(F.relu(x), first)), second).add_(x)


def _enlarged(x: Tensor) -> Tensor:
    # Bilinear, then a convolution: shuffled channels at this depth draw a grid of 8 px into the picture.
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
