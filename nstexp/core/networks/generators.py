"""Feed-forward generators: networks that map a photo to the photo in a learned style.

Two families share convolution blocks and normalizations: the residual networks of Johnson et al. 2016, Ulyanov et al.
2017 and Dumoulin et al. 2016, and the pyramid of Ulyanov et al. 2016.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import ArgumentError, choice, flag, number, whole, wholes
from nstexp.core.names import Norm
from nstexp.core.networks.encoder import CAFFE
from nstexp.core.networks.layers import (
    Conv,
    Gamma,
    InstanceNorm,
    Mix,
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
    """Base class of the generators.

    Attributes:
        form: key of the class in `FORMS`.
        settings: constructor arguments that build the network again, plain numbers and texts.
        multiple: the sides of a picture must be multiples of this number.
        noise_channels: number of noise channels of the input.
        low_precision: True if bfloat16 is precise enough.
    """

    form: str
    settings: dict[str, Any]
    multiple: int = 1
    noise_channels: int = 0
    low_precision = True

    def dtype(self, encoder_dtype: torch.dtype) -> torch.dtype:
        """The dtype of computations, given that of the encoder."""
        return encoder_dtype if self.low_precision or encoder_dtype == torch.float64 else torch.float32

    @property
    def norms(self) -> list[InstanceNorm]:
        """All instance normalizations, in the order of the modules."""
        return [module for module in self.modules() if isinstance(module, InstanceNorm)]

    @property
    def styles(self) -> int:
        """Number of learned styles."""
        norms = self.norms
        return norms[0].styles if norms else 1

    def forward(
        self, image: Tensor, mix: Tensor | None = None, noise: Tensor | None = None, wraps: bool = False
    ) -> Tensor:
        """Stylize photos.

        Args:
            image: RGB (B, 3, H, W) in [0, 1], H and W multiples of `multiple`. Computations use its dtype.
            mix: the styles, see `Mix.made_of`; None: the first style.
            noise: (B, noise_channels, H, W), uniform in [0, 1], for a network with noise channels.
            wraps: True: opposite edges of the photo meet, and so do those of the result. Convolutions then see the
                opposite edge, and normalizations the whole picture once.

        Returns:
            RGB (B, 3, H, W), float32 or float64, nominally in [0, 1] but not clamped.
        """
        raise NotImplementedError

    def make_noise(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Noise for `count` pictures of (height, width): (count, noise_channels, height, width), uniform in [0, 1]."""
        return torch.rand(count, self.noise_channels, *size, generator=generator)


@dataclass(frozen=True)
class ResidualSettings:
    """The arguments of `Residual`. Files of networks contain them, so names and order must stay the same.

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
            problem = f"={self.start_pad_px}: give 0, or {8 * self.blocks}, the pixels that the blocks remove"
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
        """Numbers of channels at full, half and a quarter of the picture's size."""
        full, half, quarter = (max(1, round(self.width * channels)) for channels in (32, 64, 128))
        return full, half, quarter

    def norm_of(self, channels: int) -> nn.Module:
        """A normalization layer with these settings."""
        return make_norm(self.norm, channels, self.styles, self.gamma)

    def conv(self, inputs: int, outputs: int, kernel: int, normed: bool = True, **more: Any) -> Conv:
        """A convolution with these settings."""
        norm = self.norm_of(outputs) if normed else None
        return Conv(inputs, outputs, kernel, pad=self.pad, norm=norm, bias=self.bias, **more)

    def block(self) -> ResidualBlock:
        """A residual block with these settings; without padding if the picture is padded at the start."""
        channels = self.channels[-1]
        norms = [self.norm_of(channels) for _ in range(2)]
        return ResidualBlock(channels, None if self.start_pad_px else self.pad, norms, self.bias)


class Residual(Generator):
    """The residual network of Johnson et al. 2016 and its variants: three convolutions reduce the picture to a quarter
    of its size, residual blocks follow, and three convolutions restore the size.

    The defaults are the network of Dumoulin et al. 2016, appendix A, with 1,674,432 convolution weights and 3,206
    numbers per style. `conf/generator/` has the settings of the other variants.

    Args:
        norm: `conditional`, `instance` or `batch`.
        styles: number of styles, for the conditional norm.
        noise_channels: number of noise channels beside the photo's three channels.
        width: factor on all numbers of channels.
        blocks: number of residual blocks.
        pad: padding of the convolutions.
        start_pad_px: reflection padding of the picture at the start, 0 or 8 per block; the residual blocks then have
            no padding and remove it again.
        up: see `Conv`.
        last_kernel: side of the last convolution's kernel.
        last_norm: normalize after the last convolution, too.
        bias: give the convolutions a bias (it has no effect before a normalization).
        output: function after the last convolution: `linear` (none), `sigmoid`, or `tanh` (times 150 gray levels).
        space: pixel range inside the network: `unit` ([0, 1]), `bytes` (0 to 255), or `caffe` (BGR, 0 to 255, mean
            subtracted).
        weight_std: standard deviation of the normal distribution of initial kernels; None: PyTorch's default
            initialization.
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
        settings = ResidualSettings(
            norm, styles, noise_channels, width, blocks, pad, start_pad_px, up, last_kernel, last_norm, bias, output,
            space, weight_std, gamma,
        )  # fmt: skip
        self.settings = asdict(settings)
        self.noise_channels, self.start_pad_px = noise_channels, start_pad_px
        self.output, self.space = output, space
        conv, (a, b, c) = settings.conv, settings.channels
        self.down = nn.ModuleList([conv(3 + noise_channels, a, 9), conv(a, b, 3, stride=2), conv(b, c, 3, stride=2)])
        self.residual = nn.ModuleList(settings.block() for _ in range(blocks))
        self.up = nn.ModuleList([conv(c, b, 3, up=up), conv(b, a, 3, up=up)])
        self.last = conv(a, 3, last_kernel, normed=last_norm, relu=False)
        if weight_std is not None:
            for module in self.modules():
                if isinstance(module, Conv):
                    nn.init.normal_(module.weight, std=weight_std)

    def forward(
        self, image: Tensor, mix: Tensor | None = None, noise: Tensor | None = None, wraps: bool = False
    ) -> Tensor:
        x = _from_unit(image, self.space)
        x = x if noise is None else torch.cat([x, noise.to(x)], 1)
        start_pad_px = 0 if wraps else self.start_pad_px
        if start_pad_px:
            mode = "reflect" if min(x.shape[-2:]) > start_pad_px else "replicate"
            x = F.pad(x, (start_pad_px,) * 4, mode=mode)
        x = x.contiguous(memory_format=torch.channels_last)
        styles = None if mix is None else Mix.made_of(mix)
        padded = styles  # the mixture over the padded picture
        if start_pad_px and styles is not None and styles.over_space:
            padded = styles.padded((image.shape[-2], image.shape[-1]), start_pad_px)
        for block in self.down:
            x = block(x, padded, wraps)
        for block in self.residual:
            x = block(x, padded, wraps)
            padded = without_border(padded, 8) if start_pad_px else padded
        for block in (*self.up, self.last):
            x = block(x, styles, wraps)
        x = x.float() if x.dtype != torch.float64 else x
        if self.output == "sigmoid":
            return _to_unit(x.sigmoid() if self.space == "unit" else 255 * x.sigmoid(), self.space)
        return _to_unit(150 * x.tanh() if self.output == "tanh" else x, self.space)


class Pyramid(Generator):
    """The pyramid of Ulyanov et al. 2016: three convolutions at each of six sizes, joined from the smallest size to the
    largest. With the defaults, it has 116,915 parameters.

    Args:
        norm, styles, noise_channels, pad, gamma: see `Residual`.
        scales: number of sizes; every size is half the next larger one.
        channels: number of channels that every size adds.
    """

    form = "pyramid"
    # bfloat16 errors accumulate from size to size, to a fifth of the pictures' standard deviation and more.
    low_precision = False

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
        self.settings = {  # files of networks contain them, so names and order must stay the same
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

        # Attribute names are names of tensors in files. `own`: the convolutions of one size, smallest size first;
        # `joined`: the convolutions after the join with the smaller sizes.
        numbers = range(2, scales + 1)
        self.own = nn.ModuleList(convs(3 + noise_channels, channels) for _ in range(scales))
        self.own_norms = nn.ModuleList(make_norm(norm, channels, styles, gamma) for _ in numbers)
        self.joined_norms = nn.ModuleList(make_norm(norm, channels * (i - 1), styles, gamma) for i in numbers)
        self.joined = nn.ModuleList(convs(channels * i, channels * i) for i in numbers)
        self.last = Conv(channels * scales, 3, 1, relu=False)

    def forward(
        self, image: Tensor, mix: Tensor | None = None, noise: Tensor | None = None, wraps: bool = False
    ) -> Tensor:
        whole = image if noise is None else torch.cat([image, noise.to(image)], 1)
        styles = None if mix is None else Mix.made_of(mix)
        y = None
        for level in range(self.scales):
            ratio = 2 ** (self.scales - 1 - level)
            x = F.avg_pool2d(whole, ratio) if ratio > 1 else whole
            x = x.contiguous(memory_format=torch.channels_last)
            x = _through(self.own[level], x, styles, wraps)
            if y is not None:
                y = F.interpolate(y, scale_factor=2, mode="nearest")
                x_norm, y_norm = self.own_norms[level - 1], self.joined_norms[level - 1]
                x = torch.cat([apply_norm(x_norm, x, styles), apply_norm(y_norm, y, styles)], 1)
                x = _through(self.joined[level - 1], x, styles, wraps)
            y = x
        result: Tensor = self.last(y)
        return result.float() if result.dtype != torch.float64 else result


FORMS: dict[str, type[Generator]] = {"residual": Residual, "pyramid": Pyramid}


def _through(blocks: nn.Module, x: Tensor, mix: Mix | None, wraps: bool) -> Tensor:
    """Apply the blocks of a ModuleList one after the other."""
    for block in cast(nn.ModuleList, blocks):
        x = block(x, mix, wraps)
    return x


def _from_unit(image: Tensor, space: Space) -> Tensor:
    """Pixels in [0, 1] -> pixels in `space`."""
    if space == "unit":
        return image
    if space == "bytes":
        return 255 * image
    return (255 * image.flip(1) - image.new_tensor(CAFFE.mean).view(1, 3, 1, 1)).to(image.dtype)


def _to_unit(x: Tensor, space: Space) -> Tensor:
    """Pixels in `space` -> pixels in [0, 1]."""
    if space == "unit":
        return x
    if space == "bytes":
        return x / 255
    return ((x + x.new_tensor(CAFFE.mean).view(1, 3, 1, 1)) / 255).flip(1)
