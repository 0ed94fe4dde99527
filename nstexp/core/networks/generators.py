"""Feed-forward generators: a photo goes in, the same photo in a style that was learned comes out.

Two families share one convolution block and one kind of normalization: the residual networks of Johnson et al. 2016,
Ulyanov et al. 2017 and Dumoulin et al. 2016, and the pyramid of Ulyanov et al. 2016.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import UserError, check_integers
from nstexp.core.losses.stats import affine, moments
from nstexp.core.networks.adain_decoder import upsampled_conv
from nstexp.core.networks.encoder import CAFFE
from nstexp.core.runtime.files import write_atomically

Norm = Literal["instance", "batch", "conditional"]
Pad = Literal["reflect", "replicate", "zeros"]
Up = Literal["nearest", "transposed"]
Output = Literal["linear", "sigmoid", "tanh"]
Space = Literal["unit", "bytes", "caffe"]
NORMS = ("instance", "batch", "conditional")


# ------------------------------------------------------------------------------------------------------ normalization


class Mix:
    """How much of which styles the pictures of a pass get.

    Args:
        amounts: int64 (B or 1,), numbers of styles; float (B or 1, N), how much of each, taken as it is (weights that
            do not sum to 1 make gamma and beta as much larger or smaller); float (B or 1, N, H, W), the same for each
            position of the picture, resized to those of each layer.
    """

    def __init__(self, amounts: Tensor) -> None:
        self.rows: Tensor | None = None  # of the tables of gamma and beta; None: all
        self.amounts: Tensor | None = None
        self._resized: dict[tuple[Any, ...], Tensor] = {}
        if not amounts.is_floating_point():
            self.rows = amounts
            return
        if not torch.compiler.is_exporting():  # a graph has the same rows whatever the weights are
            # Only styles that there are any of: sums over more terms are rounded otherwise, and a picture must not
            # change because a network has learned another style since.
            self.rows = amounts.transpose(0, 1).flatten(1).ne(0).any(1).nonzero()[:, 0]
            amounts = amounts[:, self.rows]
        self.amounts = amounts

    @property
    def over_space(self) -> bool:
        return self.amounts is not None and self.amounts.dim() == 4

    def of(self, table: Tensor) -> Tensor:
        """Rows of a table (N, C) as the pictures get them: (B or 1, C), or over space those that are mixed, (K, C)."""
        rows = table if self.rows is None else table[self.rows]
        return rows if self.amounts is None or self.over_space else self.amounts.to(rows) @ rows

    def at(self, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Amounts over space at a layer of (height, width): (B or 1, K, height, width)."""
        key = (*size, dtype)
        if key not in self._resized:
            same = tuple(self.amounts.shape[-2:]) == size
            resized = self.amounts if same else F.interpolate(self.amounts.float(), size=size, mode="area")
            self._resized[key] = resized.to(dtype)
        return self._resized[key]

    def padded(self, size: tuple[int, int], px: int) -> "Mix":
        """The same for a picture of (height, width) with `px` more pixels on each side."""
        return self._changed(F.pad(self.at(size, torch.float32), (px,) * 4, mode="replicate"))

    def inside(self, px: int) -> "Mix":
        """The same without `px` pixels on each side."""
        return self._changed(self.amounts[..., px:-px, px:-px])

    def _changed(self, amounts: Tensor) -> "Mix":
        other = Mix.__new__(Mix)
        other.rows, other.amounts, other._resized = self.rows, amounts, {}
        return other


class InstanceNorm(nn.Module):
    """Each channel of each picture to mean 0 and variance 1 over space, then scaled and shifted by what was learned.

    Ulyanov et al. 2017 for one style. Dumoulin et al. 2016, Eq. 5 (conditional instance normalization) for several:
    z = gamma_s (x - mean) / std + beta_s, everything else in a network being shared by the styles.

    Args:
        channels: C.
        styles: N, rows of the tables of gamma and beta.
        eps: see `stats.moments`; the variance is the biased one.
        gamma: what the rows of gamma begin with: `ones`, or `uniform` in [0, 1] (Torch7's). Those of beta begin with 0.
    """

    def __init__(
        self, channels: int, styles: int = 1, eps: float = 1e-5, gamma: Literal["ones", "uniform"] = "ones"
    ) -> None:
        super().__init__()
        self.eps = eps
        start = torch.rand(styles, channels) if gamma == "uniform" else torch.ones(styles, channels)
        # Blocks of rows, one below the other: what was learned can be frozen while a new block is trained.
        self.gamma = nn.ParameterList([start])
        self.beta = nn.ParameterList([torch.zeros(styles, channels)])

    @property
    def styles(self) -> int:
        return sum(len(block) for block in self.gamma)

    def append(self, gamma: Tensor, beta: Tensor) -> None:
        """More styles, behind those that are there: rows (M, C)."""
        self.gamma.append(nn.Parameter(gamma.clone()))
        self.beta.append(nn.Parameter(beta.clone()))

    def forward(self, x: Tensor, mix: Mix | Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> the same shape.

        Args:
            mix: a `Mix`, or what makes one. None: the first style.
        """
        mix = Mix(mix) if isinstance(mix, Tensor) else mix
        mean, std = moments(x, self.eps)
        tables = [torch.cat(list(rows)) for rows in (self.gamma, self.beta)]
        if mix is not None and mix.over_space:
            gamma, beta = (mix.of(table)[None] for table in tables)
            factor = gamma / std.flatten(1)[:, None]  # (B, K, C): as few numbers as there are before they are spread
            both = torch.cat([factor, beta - factor * mean.flatten(1)[:, None]], 2).to(x.dtype)
            amounts = mix.at(tuple(x.shape[-2:]), x.dtype).expand(len(x), -1, -1, -1)
            factor, offset = torch.einsum("bkhw,bkc->bchw", amounts, both).chunk(2, 1)
            return affine(x, factor, offset)
        rows = (table[:1] if mix is None else mix.of(table) for table in tables)
        gamma, beta = (row[:, :, None, None] for row in rows)
        factor = gamma / std
        return affine(x, factor, beta - factor * mean)


def make_norm(kind: Norm, channels: int, styles: int = 1, gamma: Literal["ones", "uniform"] = "ones") -> nn.Module:
    """The normalization of a generator.

    Raises:
        UserError: an unknown kind, or several styles for one that learns one.
    """
    if kind not in NORMS:
        raise UserError(f"method.norm={kind} is unknown, choose one of {', '.join(NORMS)}")
    if kind == "batch":
        norm = nn.BatchNorm2d(channels)
        if gamma == "uniform":
            nn.init.uniform_(norm.weight)
    else:
        norm = InstanceNorm(channels, styles, gamma=gamma)
    if styles > 1 and kind != "conditional":
        raise UserError(f"method.norm={kind} learns one style, and there are {styles}: method=cin learns many")
    return norm


# -------------------------------------------------------------------------------------------------------------- blocks


class Conv(nn.Module):
    """A convolution with what belongs to it: padding or upsampling before, normalization and ReLU after.

    Args:
        inputs, outputs: channels.
        kernel: side, odd.
        stride: 2 halves the size.
        pad: what it sees outside, `kernel // 2` wide on each side; None: nothing, and the result is smaller.
        up: doubles the size: `nearest` (each pixel four times, then the convolution) or `transposed` (a transposed
            convolution, which is free to make checkerboards; Odena et al. 2016).
        norm: applied after.
        bias: whether there is one.
        relu: whether there is one behind the normalization.

    Parameters are float32; the arithmetic is in the dtype of what comes in.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        pad: Pad | None = "reflect",
        up: Up | None = None,
        norm: nn.Module | None = None,
        bias: bool = True,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.pad, self.up, self.relu = kernel, stride, pad, up, relu
        make = nn.ConvTranspose2d if up == "transposed" else nn.Conv2d  # whose default initialization is used
        conv = make(inputs, outputs, kernel, bias=bias)
        self.weight = nn.Parameter(conv.weight.detach().contiguous(memory_format=torch.channels_last))
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach())
        self.norm = norm

    def forward(self, x: Tensor, mix: Mix | None = None) -> Tensor:
        weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        if self.up == "transposed":
            x = F.conv_transpose2d(x, weight, bias, stride=2, padding=self.kernel // 2, output_padding=1)
        elif self.up == "nearest" and self.kernel == 3 and self.pad == "reflect":
            x = upsampled_conv(x, self.weight, x.new_zeros(()) if bias is None else bias)
        else:
            x = F.interpolate(x, scale_factor=2, mode="nearest") if self.up == "nearest" else x
            x = self._conv(x, weight, bias)
        x = x if self.norm is None else _normed(self.norm, x, mix)
        return F.relu_(x) if self.relu else x

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        edge = 0 if self.pad is None else self.kernel // 2
        if edge == 0 or self.pad == "zeros":
            return F.conv2d(x, weight, bias, self.stride, padding=edge)
        # Reflection needs more pixels than it adds; a smaller picture has its edge repeated.
        mode = self.pad if min(x.shape[-2:]) > edge else "replicate"
        return F.conv2d(F.pad(x, (edge,) * 4, mode=mode), weight, bias, self.stride)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), each convolution normalized; nothing behind the sum. Without padding the result is 2
    positions, 8 px of the picture, smaller on each side, and so is what it is added to."""

    def __init__(self, channels: int, pad: Pad | None, norms: Sequence[nn.Module], bias: bool = True) -> None:
        super().__init__()
        self.first = Conv(channels, channels, 3, pad=pad, norm=norms[0], bias=bias)
        self.second = Conv(channels, channels, 3, pad=pad, norm=norms[1], bias=bias, relu=False)

    def forward(self, x: Tensor, mix: Mix | None = None) -> Tensor:
        if self.first.pad:
            return x + self.second(self.first(x, mix), mix)
        return x[..., 2:-2, 2:-2] + self.second(self.first(x, _inside(mix, 4)), _inside(mix, 8))


# ---------------------------------------------------------------------------------------------------------- generators


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


def _inside(mix: Mix | None, px: int) -> Mix | None:
    """A mix over space without `px` pixels on each side; others as they are."""
    return mix if mix is None or not mix.over_space else mix.inside(px)


def _normed(norm: nn.Module, x: Tensor, mix: Mix | None) -> Tensor:
    return norm(x, mix) if isinstance(norm, InstanceNorm) else norm(x)


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


# --------------------------------------------------------------------------------------------------------------- files


@dataclass
class ModelInfo:
    """What the file of a generator says about itself.

    Args:
        form: key of FORMS.
        settings: see `Generator`.
        names: of the styles, in the order of their rows.
        sources: the picture of each style, as it was given to the training.
        encoder: the network that its losses were taken with, and how it pools and pads.
        steps: of its last training.
        content: the photos that it was trained with, as they were given.
        digests: of the styles' files (`cache.file_digest`), by which they are known again.
    """

    form: str
    settings: dict[str, Any]
    names: list[str]
    sources: list[str]
    encoder: str = ""
    steps: int = 0
    content: str | list[str] | None = None
    digests: list[str] = field(default_factory=list)


def build(info: ModelInfo) -> Generator:
    """The network that a file describes, with weights at their start."""
    return FORMS[info.form](**info.settings | {"styles": len(info.names)})


def state_of(generator: Generator) -> dict[str, Tensor]:
    """All weights by name, the rows of each normalization as one block."""
    return _joined(generator.state_dict())


def save_generator(generator: Generator, info: ModelInfo, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a generator as safetensors, complete or not at all."""
    from safetensors.torch import save

    running = [name for name, _ in generator.named_buffers()]  # of batch normalization, beyond what float16 can hold
    tensors = {
        name: value.detach().to("cpu", None if name in running else dtype).contiguous()
        for name, value in state_of(generator).items()
    }
    content = save(tensors, {"generator": json.dumps(asdict(info))})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_generator(path: Path, key: str = "method.model") -> tuple[Generator, ModelInfo]:
    """A generator from a file: `.safetensors` or `.ckpt` of this project, or of pytorch/examples' fast_neural_style.

    Raises:
        UserError: no such file, damaged, or of something else.
    """
    if not path.is_file():
        made = path / "model.safetensors"
        raise UserError(f"{key}={path}: there is no such file" + (f", do you mean {made}?" if made.is_file() else ""))
    state, info = _read(path, key)
    try:
        generator = build(info)
        info = replace(info, settings=generator.settings)  # complete, also of a file that names only some
        generator.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except UserError:
        raise
    except (RuntimeError, KeyError, TypeError, AttributeError):
        raise UserError(f"{key}={path}: its layers are not those of the generator that it describes") from None
    return generator.requires_grad_(False).eval(), info


def _read(path: Path, key: str) -> tuple[dict[str, Tensor], ModelInfo]:
    of_something_else = f"{key}={path}: a file of something else than a generator of method=texture_net or method=cin"
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                content: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if "generator" in metadata:
                return content, ModelInfo(**json.loads(metadata["generator"]))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the loaders raise a dozen types for a damaged or unsafe file
        raise UserError(f"{key}={path}: not a file that loads safely ({type(error).__name__})") from error
    try:
        if not isinstance(content, Mapping):
            raise TypeError
        if "generator" in content and "state_dict" in content:
            state, prefix = content["state_dict"], "generator."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            return _joined(own), ModelInfo(**content["generator"])
        if "conv1.conv2d.weight" in content:
            return _from_pytorch_examples(content), ModelInfo("residual", PYTORCH_EXAMPLES, [path.stem], [""])
    except (TypeError, AttributeError, KeyError):
        pass  # it only looks like one
    raise UserError(of_something_else)


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A module's own state as `state_of` has it: a training that adds styles has its rows in two blocks."""
    found = {name: value for name, value in state.items() if not _is_later_block(name)}
    for name in filter(_is_later_block, state):  # the dictionary's order is that of the blocks
        stem = name.rpartition(".")[0]
        found[f"{stem}.0"] = torch.cat([found[f"{stem}.0"], state[name]])
    return found


def _is_later_block(name: str) -> bool:
    stem, _, number = name.rpartition(".")
    return number.isdecimal() and number != "0" and stem.rpartition(".")[2] in ("gamma", "beta")


# pytorch/examples, fast_neural_style: Johnson et al. 2016 with instance normalization and nearest upsampling.
PYTORCH_EXAMPLES: dict[str, Any] = {
    "norm": "instance",
    "last_norm": False,
    "bias": True,
    "output": "linear",
    "space": "bytes",
    "weight_std": None,
}


def _from_pytorch_examples(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its names to ours; running statistics, which early versions of PyTorch saved, are dropped."""
    places = {f"conv{i + 1}": (f"in{i + 1}", f"down.{i}") for i in range(3)}
    places |= {f"deconv{i + 1}": (f"in{i + 4}", f"up.{i}") for i in range(2)} | {"deconv3": (None, "last")}
    for block in range(5):
        for number, own in ((1, "first"), (2, "second")):
            old = f"res{block + 1}"
            places[f"{old}.conv{number}"] = (f"{old}.in{number}", f"residual.{block}.{own}")
    found = {}
    for conv, (norm, place) in places.items():
        for kind in ("weight", "bias"):
            found[f"{place}.{kind}"] = state[f"{conv}.conv2d.{kind}"]
        if norm is not None:
            found[f"{place}.norm.gamma.0"] = state[f"{norm}.weight"][None]
            found[f"{place}.norm.beta.0"] = state[f"{norm}.bias"][None]
    return found


def _check_flags(**given: Any) -> None:
    for key, value in given.items():
        if not isinstance(value, bool):
            raise UserError(f"generator.{key}={value}: give true or false")


def _check_positive(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"generator.{key}={value}: give a number larger than 0")
