"""Swift: a small network that gives a photo the style of any painting in one pass."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.networks.convolution import conv2d

# Scale of kernels at the start: of the first and the second convolution of the residual blocks whose filters depend on
# the painting, and of the encoder's convolutions that end a residual block. All others have 1.
MIXED_GAINS = (1.0, 0.5)
ENCODER_GAINS = {"same4": 0.5, "second8": 0.5}
STROKES = 0.4  # scale of what the network paints: an untrained one changes the recolored photo little
COLOR_RIDGE = 4e-4  # added to the variances of the photo's colors, so that a gray photo gets no amplified noise
RIDGE, FLOOR = 1e-2, 1e-4  # added to the variances of the photo's features: a share of their mean, and a constant
ROOT_STEPS, COLOR_STEPS = 14, 24  # of Newton-Schulz: 14 make the root of an eigenvalue of 1e-4 of the largest
THIN_GROUP = 8  # moments of groups this small come from every fourth position: the map at half size is large
CODE = 128  # numbers that choose the filters for a painting
GROWTH = 1.5  # largest norm of a kernel, in units of its norm at the start


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of the vectors of a map.

    Args:
        mean: (B, C), float32.
        cov: (B, G, c, c), float32: of each of the G groups of c = C / G channels.
        count: positions that they were taken from, or the sum of their weights.
    """

    mean: Tensor
    cov: Tensor
    count: float

    def joined(self, other: "Moments") -> "Moments":
        """Moments of two sets of positions together (Chan, Golub & LeVeque 1983)."""
        count = self.count + other.count
        share = other.count / count if count else 0.0
        groups, size = self.cov.shape[1:3]
        gap = (other.mean - self.mean).view(-1, groups, size)
        between = share * (1 - share) * gap[..., :, None] * gap[..., None, :]
        return Moments(
            torch.lerp(self.mean, other.mean, share), torch.lerp(self.cov, other.cov, share) + between, count
        )


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
    """

    color_mean: Tensor
    color_root: Tensor
    means: tuple[Tensor, ...]
    roots: tuple[Tensor, ...]
    numbers: Tensor

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
        quarter = quarter + _run(F.relu(quarter), encode["same4"])
        eighth = _run(F.relu(quarter), encode["down8"], 2)
        eighth = _residual(eighth, encode["first8"], encode["second8"])
        return half, quarter, eighth

    def _strokes(self, moved: Sequence[Tensor], style: SwiftStyle, filters: Filters) -> Tensor:
        half, quarter, x = moved
        x = _residual(_residual(x, filters[0], filters[1]), filters[2], filters[3])
        x = _residual(_enlarged(_run(F.relu(x), self.decode["up4"])) + quarter, filters[4], filters[5])
        x = _residual(_enlarged(_run(F.relu(x), self.decode["up2"])) + half, filters[6], filters[7])
        return shuffled(without_weave(_run(F.relu(x), self.decode["last"])))

    def _moments(self, x: Tensor, group: int, weights: Tensor | None = None) -> Moments:
        """Moments of features (B, C, h, w); `weights` as for `level_moments`."""
        share = None if weights is None else F.interpolate(weights.float(), size=x.shape[-2:], mode="area")
        if group <= THIN_GROUP:
            x, share = x[:, :, ::2, ::2], None if share is None else share[:, :, ::2, ::2]
        rows = x.permute(0, 2, 3, 1).flatten(1, 2).float()  # (B, h w, C)
        if share is None:
            count, mean = float(rows.shape[1]), rows.mean(1)
            # Products of centered features lose nothing to rounding where a mean is large beside the spread. They are
            # summed in float32: sums in bfloat16 can have negative eigenvalues, from where the roots diverge.
            centered = rows - mean[:, None]
            return Moments(mean, _blocks(centered.mT @ centered / count, group), count)
        count = float(share.sum())
        share = share.flatten(1)[..., None] / max(count, 1e-12)
        mean = (rows * share).sum(1)
        centered = (rows - mean[:, None]) * share.sqrt()
        return Moments(mean, _blocks(centered.mT @ centered, group), count)


# ---------------------------------------------------------------------------------------------------------- functions


def color_moments(image: Tensor, weights: Tensor | None = None) -> Moments:
    """Mean (B, 3) and covariance (B, 1, 3, 3) of the colors of RGB (B, 3, H, W), in float64 for a float64 image, else
    in float32.

    Args:
        weights: (1, 1, H, W), see `Swift.level_moments`.
    """
    pixels = (image if image.dtype == torch.float64 else image.float()).flatten(2)
    if weights is None:
        count, mean = float(pixels.shape[-1]), pixels.mean(2)
        centered = pixels - mean[:, :, None]
        return Moments(mean, (centered @ centered.mT / pixels.shape[-1])[:, None], count)
    share = weights.to(pixels).flatten(2)
    count = float(share.sum())
    share = share / max(count, 1e-12)
    mean = (pixels * share).sum(2)
    centered = pixels - mean[:, :, None]
    return Moments(mean, ((centered * share) @ centered.mT)[:, None], count)


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


def without_weave(strokes: Tensor) -> Tensor:
    """Strokes without patterns that repeat every 2 pixels, and without the frame around them.

    The last convolution draws the four pixels of a position with different filters, which leave a pattern, above all in
    flat areas. The means of these four over 25 positions have the pattern and little else, since brush strokes are not
    in step with the positions. What a mean differs by from that of the four pixels together is subtracted.

    Args:
        strokes: (B, 12, h, w) at half the size of the picture: three colors times 2x2 pixels, with a frame of 8.

    Returns:
        (B, 12, h - 16, w - 16), float32.
    """
    planes = strokes[..., 6:-6, 6:-6].to(torch.float32, memory_format=torch.contiguous_format)
    means = torch.unflatten(_sum_of_five(_sum_of_five(planes, 2), 3) / 25, 1, (3, 4))
    pattern = means - means.mean(2, keepdim=True)
    return planes[..., 2:-2, 2:-2] - pattern.flatten(1, 2)


def _sum_of_five(x: Tensor, dim: int) -> Tensor:
    """Sums of every five neighbors in a dimension, which gets shorter by 4."""
    length = x.shape[dim] - 4
    pairs = x.narrow(dim, 0, length + 3) + x.narrow(dim, 1, length + 3)
    return pairs.narrow(dim, 0, length) + pairs.narrow(dim, 2, length) + x.narrow(dim, 4, length)


def shuffled(x: Tensor) -> Tensor:
    """`F.pixel_shuffle(x, 2)`, (B, 12, h, w) -> (B, 3, 2h, 2w), in a third of the time on a CPU."""
    places = torch.unflatten(x, 1, (3, 2, 2))
    rows = [torch.stack([places[:, :, row, 0], places[:, :, row, 1]], -1).flatten(-2) for row in (0, 1)]
    return torch.stack(rows, 3).flatten(2, 3)


def transferred(x: Tensor, own: Moments, mean: Tensor, root: Tensor) -> Tensor:
    """Features (B, C, h, w) with a painting's means (C,) and, within groups, its covariances: root (G, c, c) squared.

    Whitening and coloring (Li et al. 2017), as one product of the features with a matrix.
    """
    b, c, h, w = x.shape
    ridge = RIDGE * own.cov.diagonal(dim1=-2, dim2=-1).mean((-2, -1)) + FLOOR
    eye = torch.eye(own.cov.shape[-1], device=x.device)
    matrices = root @ roots(own.cov + ridge[:, None, None, None] * eye)[1]  # (B, G, c, c)
    apart = torch.eye(c // root.shape[-1], device=x.device)  # a group takes nothing from another
    whole = torch.einsum("bgij,gh->bgihj", matrices, apart).reshape(b, c, c)
    whole = whole.to(x.dtype)
    offset = mean - (whole.float() @ own.mean[..., None])[..., 0]  # with the rounded matrix, so that means are exact
    moved = torch.baddbmm(offset[:, None].to(x.dtype), x.permute(0, 2, 3, 1).reshape(b, h * w, c), whole.mT)
    return moved.view(b, h, w, c).permute(0, 3, 1, 2)


def roots(matrices: Tensor, steps: int = ROOT_STEPS) -> tuple[Tensor, Tensor]:
    """Square roots and inverse square roots of symmetric matrices without negative eigenvalues, (..., n, n).

    Newton-Schulz iterations: differentiable everywhere, which eigenvectors are not, and made of products only. The
    inverse root of an eigenvalue below 1.5^(-2 steps) of the largest stays smaller than it should be. Where neither a
    gradient nor a graph is needed, eigenvectors give the same in a fifth of the time on a CPU.

    Examples:
        >>> root, inverse = roots(4 * torch.eye(2))
        >>> root.round(decimals=3), inverse.round(decimals=3)
        (tensor([[2., 0.],
                [0., 2.]]), tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]]))
    """
    eye = torch.eye(matrices.shape[-1], device=matrices.device, dtype=matrices.dtype)
    size = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    if matrices.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
        values, vectors = torch.linalg.eigh(matrices)
        limit = 1.5 ** (-2 * steps) * size[..., 0]
        root = values.clamp(min=0).sqrt()[..., None, :]
        inverse = values.clamp(min=limit).rsqrt()[..., None, :]
        return (vectors * root) @ vectors.mT, (vectors * inverse) @ vectors.mT
    y, z = matrices / size, eye.expand_as(matrices)
    for _ in range(steps):
        step = 1.5 * eye - 0.5 * z @ y
        y, z = y @ step, step @ z
    return y * size.sqrt(), z / size.sqrt()


def _blocks(matrices: Tensor, group: int) -> Tensor:
    """The blocks on the diagonal: (B, C, C) -> (B, C / group, group, group)."""
    b, c, _ = matrices.shape
    blocks = matrices.view(b, c // group, group, c // group, group)
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


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
    return x + _run(F.relu(_run(F.relu(x), first)), second)


def _enlarged(x: Tensor) -> Tensor:
    # Bilinear, then a convolution: shuffled channels at this depth draw a grid of 8 px into the picture.
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
