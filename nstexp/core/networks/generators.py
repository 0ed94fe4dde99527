"""Feed-forward generators: a photo goes in, the same photo in a style that was learned comes out.

Two families share one convolution block and one kind of normalization: the residual networks of Johnson et al. 2016,
Ulyanov et al. 2017 and Dumoulin et al. 2016, and the pyramid of Ulyanov et al. 2016.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import UserError, check_integers
from nstexp.core.networks.encoder import CAFFE
from nstexp.core.networks.layers import (
    Conv,
    InstanceNorm,
    Mix,
    Norm,
    Pad,
    ResidualBlock,
    Up,
    _inside,
    _normed,
    make_norm,
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
            mix: see `Mix`; None, with one style: that.
            noise: (B, noise_channels, H, W), uniform in [0, 1], of a network that takes some.
        """
        raise NotImplementedError

    def make_noise(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Noise for `count` pictures of (height, width)."""
        return torch.rand(count, self.noise_channels, *size, generator=generator)


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
        gamma: Literal["ones", "uniform"] = "ones",
    ) -> None:
        super().__init__()
        self.settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        _check(pad=pad, up=up, output=output, space=space, gamma=gamma)
        check_integers("generator", 1, blocks=blocks, styles=styles, last_kernel=last_kernel)
        check_integers("generator", 0, start_pad_px=start_pad_px)
        if start_pad_px not in (0, 8 * blocks):
            raise UserError(f"generator.start_pad_px={start_pad_px}: give 0, or {8 * blocks}, which blocks take away")
        _check_flags(last_norm=last_norm, bias=bias)
        _check_positive("width", width)
        if weight_std is not None:
            _check_positive("weight_std", weight_std)
        if last_kernel % 2 == 0:
            raise UserError(f"generator.last_kernel={last_kernel}: give an odd number")
        self.noise_channels, self.start_pad_px = noise_channels, start_pad_px
        self.output, self.space = output, space
        a, b, c = (max(1, round(width * channels)) for channels in (32, 64, 128))

        def conv(inputs: int, outputs: int, kernel: int, **more: Any) -> Conv:
            normed = more.pop("normed", True)
            own = make_norm(norm, outputs, styles, gamma) if normed else None
            return Conv(inputs, outputs, kernel, pad=pad, norm=own, bias=bias, **more)

        inside = None if start_pad_px else pad
        self.down = nn.ModuleList([conv(3 + noise_channels, a, 9), conv(a, b, 3, stride=2), conv(b, c, 3, stride=2)])
        self.residual = nn.ModuleList(
            ResidualBlock(c, inside, [make_norm(norm, c, styles, gamma) for _ in range(2)], bias) for _ in range(blocks)
        )
        self.up = nn.ModuleList([conv(c, b, 3, up=up), conv(b, a, 3, up=up)])
        self.last = conv(a, 3, last_kernel, normed=last_norm, relu=False)
        if weight_std is not None:
            for module in self.modules():
                if isinstance(module, Conv):
                    nn.init.normal_(module.weight, std=weight_std)

    def forward(self, image: Tensor, mix: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        x = _entered(image, self.space)
        x = x if noise is None else torch.cat([x, noise.to(x)], 1)
        if self.start_pad_px:
            mode = "reflect" if min(x.shape[-2:]) > self.start_pad_px else "replicate"
            x = F.pad(x, (self.start_pad_px,) * 4, mode=mode)
        x = x.contiguous(memory_format=torch.channels_last)
        mix = None if mix is None else Mix(mix)
        outer = mix  # what is mixed where, over the whole of what a block sees
        if self.start_pad_px and mix is not None and mix.over_space:
            outer = mix.padded(tuple(image.shape[-2:]), self.start_pad_px)
        for block in self.down:
            x = block(x, outer)
        for block in self.residual:
            x = block(x, outer)
            outer = _inside(outer, 8) if self.start_pad_px else outer
        for block in (*self.up, self.last):
            x = block(x, mix)
        x = x.float() if x.dtype != torch.float64 else x
        if self.output == "sigmoid":
            return _left(x.sigmoid() if self.space == "unit" else 255 * x.sigmoid(), self.space)
        return _left(150 * x.tanh() if self.output == "tanh" else x, self.space)


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
        gamma: Literal["ones", "uniform"] = "ones",
    ) -> None:
        super().__init__()
        self.settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        _check(pad=pad, gamma=gamma)
        check_integers("generator", 1, scales=scales, channels=channels, styles=styles)
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
        mix = None if mix is None else Mix(mix)
        y = None
        for number in range(self.scales):
            ratio = 2 ** (self.scales - 1 - number)
            x = F.avg_pool2d(whole, ratio) if ratio > 1 else whole
            x = x.contiguous(memory_format=torch.channels_last)
            x = _through(self.own[number], x, mix)
            if y is not None:
                y = F.interpolate(y, scale_factor=2, mode="nearest")
                own, joined = self.own_norms[number - 1], self.joined_norms[number - 1]
                x = torch.cat([_normed(own, x, mix), _normed(joined, y, mix)], 1)
                x = _through(self.joined[number - 1], x, mix)
            y = x
        x = self.last(y)
        return x.float() if x.dtype != torch.float64 else x


FORMS: dict[str, type[Generator]] = {"residual": Residual, "pyramid": Pyramid}


def _through(blocks: nn.ModuleList, x: Tensor, mix: Mix | None) -> Tensor:
    for block in blocks:
        x = block(x, mix)
    return x


def _entered(image: Tensor, space: Space) -> Tensor:
    if space == "unit":
        return image
    if space == "bytes":
        return 255 * image
    return (255 * image.flip(1) - image.new_tensor(CAFFE.mean).view(1, 3, 1, 1)).to(image.dtype)


def _left(x: Tensor, space: Space) -> Tensor:
    if space == "unit":
        return x
    if space == "bytes":
        return x / 255
    return ((x + x.new_tensor(CAFFE.mean).view(1, 3, 1, 1)) / 255).flip(1)


def _check(**given: str) -> None:
    known = {
        "pad": ("reflect", "replicate", "zeros"),
        "up": ("nearest", "transposed"),
        "output": ("linear", "sigmoid", "tanh"),
        "space": ("unit", "bytes", "caffe"),
        "gamma": ("ones", "uniform"),
    }
    for key, value in given.items():
        if value not in known[key]:
            raise UserError(f"generator.{key}={value} is unknown, choose one of {', '.join(known[key])}")


def _check_flags(**given: Any) -> None:
    for key, value in given.items():
        if not isinstance(value, bool):
            raise UserError(f"generator.{key}={value}: give true or false")


def _check_positive(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"generator.{key}={value}: give a number larger than 0")
