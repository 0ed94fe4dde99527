"""Feed-forward generators: a photo goes in, the same photo in a style that was learned comes out.

Two families share one convolution block and one kind of normalization: the residual networks of Johnson et al. 2016,
Ulyanov et al. 2017 and Dumoulin et al. 2016, and the pyramid of Ulyanov et al. 2016.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import ArgumentError, choice, flag, number, whole, wholes
from nstexp.core.networks.encoder import CAFFE
from nstexp.core.networks.layers import (
    Conv,
    Gamma,
    InstanceNorm,
    Mix,
    Norm,
    Pad,
    ResidualBlock,
    Up,
    apply_norm,
    make_norm,
    without_border,
)

Output = Literal["linear", "sigmoid", "tanh"]
Space = Literal["unit", "bytes", "caffe"]


class Generator(nn.Module):
    """What all generators have.

    Attributes:
        settings: the arguments that make such a network again, plain numbers and words.
        multiple: a picture's sides have to be multiples of this.
        noise_channels: how many of the input's channels are noise.
        low_precision: whether bfloat16 is enough.
    """

    form: str
    settings: dict[str, Any]
    multiple: int = 1
    noise_channels: int = 0
    low_precision = True

    def dtype(self, wanted: torch.dtype) -> torch.dtype:
        """Of the arithmetic, where `wanted` is that of the encoder."""
        return wanted if self.low_precision or wanted == torch.float64 else torch.float32

    @property
    def norms(self) -> list[InstanceNorm]:
        """All conditional normalizations, in their order."""
        return [module for module in self.modules() if isinstance(module, InstanceNorm)]

    @property
    def styles(self) -> int:
        """How many styles it has learned."""
        norms = self.norms
        return norms[0].styles if norms else 1

    def forward(self, image: Tensor, mix: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1], H and W multiples of `multiple`, -> RGB (B, 3, H, W), float32 or float64,
        nominally in [0, 1] (nothing is clamped).

        Args:
            image: the photo. Its dtype is that of the arithmetic.
            mix: see `Mix.made_of`; None, with one style: that.
            noise: (B, noise_channels, H, W), uniform in [0, 1], of a network that takes some.
        """
        raise NotImplementedError

    def make_noise(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Noise for `count` pictures of (height, width)."""
        return torch.rand(count, self.noise_channels, *size, generator=generator)


@dataclass(frozen=True)
class ResidualSettings:
    """The arguments of `Residual`, by which files describe it: names and order stay.

    Raises:
        ArgumentError: a value out of its range.
    """

    norm: Norm
    styles: int
    noise_channels: int
    width: float
    blocks: int
    pad: Pad
    start_pad_px: int
    up: Up
    last_kernel: int
    last_norm: bool
    bias: bool
    output: Output
    space: Space
    weight_std: float | None
    gamma: Gamma

    def __post_init__(self) -> None:
        choice("pad", self.pad, get_args(Pad))
        choice("up", self.up, get_args(Up))
        choice("output", self.output, get_args(Output))
        choice("space", self.space, get_args(Space))
        choice("gamma", self.gamma, get_args(Gamma))
        wholes(1, 100, blocks=self.blocks, last_kernel=self.last_kernel)
        wholes(1, styles=self.styles)
        whole("start_pad_px", self.start_pad_px)
        if self.start_pad_px not in (0, 8 * self.blocks):
            problem = f"={self.start_pad_px}: give 0, or {8 * self.blocks}, which blocks take away"
            raise ArgumentError("start_pad_px", problem)
        flag("last_norm", self.last_norm)
        flag("bias", self.bias)
        number("width", self.width, above=0, high=64)
        if self.weight_std is not None:
            number("weight_std", self.weight_std, above=0, high=1)
        if self.last_kernel % 2 == 0:
            raise ArgumentError("last_kernel", f"={self.last_kernel}: give an odd number")

    @property
    def channels(self) -> tuple[int, int, int]:
        """At the picture's size, half and a quarter of it."""
        return tuple(max(1, round(self.width * channels)) for channels in (32, 64, 128))

    def norm_of(self, channels: int) -> nn.Module:
        """A normalization as the network has them."""
        return make_norm(self.norm, channels, self.styles, self.gamma)

    def conv(self, inputs: int, outputs: int, kernel: int, normed: bool = True, **more: Any) -> Conv:
        """A convolution as the network has them."""
        norm = self.norm_of(outputs) if normed else None
        return Conv(inputs, outputs, kernel, pad=self.pad, norm=norm, bias=self.bias, **more)

    def block(self) -> ResidualBlock:
        """A residual block, without padding where the picture has it."""
        channels = self.channels[-1]
        norms = [self.norm_of(channels) for _ in range(2)]
        return ResidualBlock(channels, None if self.start_pad_px else self.pad, norms, self.bias)


class Residual(Generator):
    """Johnson et al. 2016 and what was made of it: three convolutions down to a quarter of the size, residual blocks,
    three convolutions back.

    With the defaults the form of Dumoulin et al. 2016, appendix A: 1,674,432 weights of convolutions and 3,206 numbers
    for each style. `conf/generator/` has the settings of the others.

    Args:
        norm: `conditional`, `instance` or `batch`.
        styles: how many the conditional one learns.
        noise_channels: of noise beside the photo's three channels.
        width: factor on all numbers of channels.
        blocks: residual blocks.
        pad: of the convolutions.
        start_pad_px: reflected around the picture once, as much as residual blocks without padding take away again.
        up: see `Conv`.
        last_kernel: side of the last convolution's kernel.
        last_norm: whether the last convolution is normalized too.
        bias: whether convolutions have a bias (of no effect before a normalization).
        output: what makes pixels of the last convolution: `linear` (nothing), `sigmoid`, or `tanh` (times 150 gray
            levels).
        space: in which the network sees and makes pixels: `unit` ([0, 1]), `bytes` (0 to 255), `caffe` (BGR, 0 to 255,
            mean subtracted).
        weight_std: kernels start from a normal distribution of this deviation; None: PyTorch's default.
        gamma: see `InstanceNorm`.
    """

    form = "residual"
    multiple = 4

    def __init__(
        self,
        norm: Norm = "conditional",
        styles: int = 1,
        noise_channels: int = 0,
        width: float = 1.0,
        blocks: int = 5,
        pad: Pad = "reflect",
        start_pad_px: int = 0,
        up: Up = "nearest",
        last_kernel: int = 9,
        last_norm: bool = True,
        bias: bool = False,
        output: Output = "sigmoid",
        space: Space = "unit",
        weight_std: float | None = 0.01,
        gamma: Gamma = "ones",
    ) -> None:
        super().__init__()
        own = ResidualSettings(
            norm, styles, noise_channels, width, blocks, pad, start_pad_px, up, last_kernel, last_norm, bias, output,
            space, weight_std, gamma,
        )  # fmt: skip
        self.settings = asdict(own)
        self.noise_channels, self.start_pad_px = noise_channels, start_pad_px
        self.output, self.space = output, space
        conv, (a, b, c) = own.conv, own.channels
        self.down = nn.ModuleList([conv(3 + noise_channels, a, 9), conv(a, b, 3, stride=2), conv(b, c, 3, stride=2)])
        self.residual = nn.ModuleList(own.block() for _ in range(blocks))
        self.up = nn.ModuleList([conv(c, b, 3, up=up), conv(b, a, 3, up=up)])
        self.last = conv(a, 3, last_kernel, normed=last_norm, relu=False)
        if weight_std is not None:
            for module in self.modules():
                if isinstance(module, Conv):
                    nn.init.normal_(module.weight, std=weight_std)

    def forward(self, image: Tensor, mix: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        x = _from_unit(image, self.space)
        x = x if noise is None else torch.cat([x, noise.to(x)], 1)
        if self.start_pad_px:
            mode = "reflect" if min(x.shape[-2:]) > self.start_pad_px else "replicate"
            x = F.pad(x, (self.start_pad_px,) * 4, mode=mode)
        x = x.contiguous(memory_format=torch.channels_last)
        mix = None if mix is None else Mix.made_of(mix)
        outer = mix  # what is mixed where, over the whole of what a block sees
        if self.start_pad_px and mix is not None and mix.over_space:
            outer = mix.padded(tuple(image.shape[-2:]), self.start_pad_px)
        for block in self.down:
            x = block(x, outer)
        for block in self.residual:
            x = block(x, outer)
            outer = without_border(outer, 8) if self.start_pad_px else outer
        for block in (*self.up, self.last):
            x = block(x, mix)
        x = x.float() if x.dtype != torch.float64 else x
        if self.output == "sigmoid":
            return _to_unit(x.sigmoid() if self.space == "unit" else 255 * x.sigmoid(), self.space)
        return _to_unit(150 * x.tanh() if self.output == "tanh" else x, self.space)


class Pyramid(Generator):
    """Ulyanov et al. 2016: the picture at six sizes, each through three convolutions, joined from the smallest on. With
    8 channels a size and one style 116,915 parameters.

    Args:
        norm, styles, noise_channels, pad, gamma: as of `Residual`.
        scales: how many sizes; each is half as large as the one before.
        channels: that each size adds.
    """

    form = "pyramid"
    low_precision = False  # errors add up from size to size: a fifth of the pictures' standard deviation and more

    def __init__(
        self,
        norm: Norm = "instance",
        styles: int = 1,
        noise_channels: int = 0,
        scales: int = 6,
        channels: int = 8,
        pad: Pad = "replicate",
        gamma: Gamma = "uniform",
    ) -> None:
        super().__init__()
        choice("pad", pad, get_args(Pad))
        choice("gamma", gamma, get_args(Gamma))
        wholes(1, scales=scales, channels=channels, styles=styles)
        self.settings = {  # by which files describe it: names and order stay
            "norm": norm,
            "styles": styles,
            "noise_channels": noise_channels,
            "scales": scales,
            "channels": channels,
            "pad": pad,
            "gamma": gamma,
        }
        self.noise_channels, self.scales = noise_channels, scales
        self.multiple = 2 ** (scales - 1)

        def convs(inputs: int, outputs: int) -> nn.ModuleList:
            sides = ((inputs, 3), (outputs, 3), (outputs, 1))
            return nn.ModuleList(
                Conv(n, outputs, kernel, pad=pad, norm=make_norm(norm, outputs, styles, gamma)) for n, kernel in sides
            )

        numbers = range(2, scales + 1)
        self.own = nn.ModuleList(convs(3 + noise_channels, channels) for _ in range(scales))  # smallest first
        self.own_norms = nn.ModuleList(make_norm(norm, channels, styles, gamma) for _ in numbers)
        self.joined_norms = nn.ModuleList(make_norm(norm, channels * (i - 1), styles, gamma) for i in numbers)
        self.joined = nn.ModuleList(convs(channels * i, channels * i) for i in numbers)
        self.last = Conv(channels * scales, 3, 1, relu=False)

    def forward(self, image: Tensor, mix: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        whole = image if noise is None else torch.cat([image, noise.to(image)], 1)
        mix = None if mix is None else Mix.made_of(mix)
        y = None
        for level in range(self.scales):
            ratio = 2 ** (self.scales - 1 - level)
            x = F.avg_pool2d(whole, ratio) if ratio > 1 else whole
            x = x.contiguous(memory_format=torch.channels_last)
            x = _through(self.own[level], x, mix)
            if y is not None:
                y = F.interpolate(y, scale_factor=2, mode="nearest")
                own, joined = self.own_norms[level - 1], self.joined_norms[level - 1]
                x = torch.cat([apply_norm(own, x, mix), apply_norm(joined, y, mix)], 1)
                x = _through(self.joined[level - 1], x, mix)
            y = x
        x = self.last(y)
        return x.float() if x.dtype != torch.float64 else x


FORMS: dict[str, type[Generator]] = {"residual": Residual, "pyramid": Pyramid}


def _through(blocks: nn.ModuleList, x: Tensor, mix: Mix | None) -> Tensor:
    for block in blocks:
        x = block(x, mix)
    return x


def _from_unit(image: Tensor, space: Space) -> Tensor:
    if space == "unit":
        return image
    if space == "bytes":
        return 255 * image
    return (255 * image.flip(1) - image.new_tensor(CAFFE.mean).view(1, 3, 1, 1)).to(image.dtype)


def _to_unit(x: Tensor, space: Space) -> Tensor:
    if space == "unit":
        return x
    if space == "bytes":
        return x / 255
    return ((x + x.new_tensor(CAFFE.mean).view(1, 3, 1, 1)) / 255).flip(1)
