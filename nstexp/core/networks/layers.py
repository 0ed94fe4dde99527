"""Building blocks of generators and decoders: convolutions, normalizations, upsampling."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import ArgumentError, choice
from nstexp.core.losses.stats import above_rounding, adain, affine, moments, shift
from nstexp.core.names import Norm
from nstexp.core.networks.convolution import conv2d

Pad = Literal["reflect", "replicate", "zeros"]
Up = Literal["nearest", "transposed"]
Gamma = Literal["ones", "uniform"]


class Mix:
    """How much of which styles the pictures of a pass get.

    Args:
        rows: of the tables of gamma and beta: (K,) that are mixed, or (B or 1,), one for each picture; None: all.
        amounts: how much of each, float (B or 1, K) or, over space, (B or 1, K, H, W); None: one row is taken as it is.
    """

    def __init__(self, rows: Tensor | None, amounts: Tensor | None) -> None:
        self.rows, self.amounts = rows, amounts
        self._resized: dict[tuple[Any, ...], Tensor] = {}

    @classmethod
    def made_of(cls, amounts: Tensor) -> "Mix":
        """From what a generator is given.

        Args:
            amounts: int64 (B or 1,), numbers of styles; float (B or 1, N), how much of each, taken as it is (weights
                that do not sum to 1 make gamma and beta as much larger or smaller); float (B or 1, N, H, W), the same
                for each position of the picture, resized to those of each layer.
        """
        if not amounts.is_floating_point():
            return cls(amounts, None)
        if torch.compiler.is_exporting():  # a graph has the same rows whatever the weights are
            return cls(None, amounts)
        # Only styles that there are any of: sums over more terms are rounded otherwise, and a picture must not
        # change because a network has learned another style since.
        rows = amounts.transpose(0, 1).flatten(1).ne(0).any(1).nonzero()[:, 0]
        return cls(rows, amounts[:, rows])

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
        return Mix(self.rows, F.pad(self.at(size, torch.float32), (px,) * 4, mode="replicate"))

    def inside(self, px: int) -> "Mix":
        """The same without `px` pixels on each side."""
        return Mix(self.rows, self.amounts[..., px:-px, px:-px])


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

    def __init__(self, channels: int, styles: int = 1, eps: float = 1e-5, gamma: Gamma = "ones") -> None:
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
            mix: a `Mix`, or what one is made of. None: the first style.
        """
        mix = Mix.made_of(mix) if isinstance(mix, Tensor) else mix
        mean, std = moments(x, self.eps)
        tables = [torch.cat(list(rows)) for rows in (self.gamma, self.beta)]
        if mix is not None and mix.over_space:
            gamma, beta = (mix.of(table)[None] for table in tables)
            mean, std = above_rounding((mean, std), x.dtype)
            own = mean.flatten(1)[:, None], std.flatten(1)[:, None]
            both = torch.cat(shift(own, (beta, gamma)), 2).to(x.dtype)  # (B, K, 2C): few numbers before they are spread
            amounts = mix.at(tuple(x.shape[-2:]), x.dtype).expand(len(x), -1, -1, -1)
            factor, offset = torch.einsum("bkhw,bkc->bchw", amounts, both).chunk(2, 1)
            return affine(x, factor, offset)
        rows = (table[:1] if mix is None else mix.of(table) for table in tables)
        gamma, beta = (row[:, :, None, None] for row in rows)
        return adain(x, (mean, std), (beta, gamma))


def make_norm(norm: Norm, channels: int, styles: int = 1, gamma: Gamma = "ones") -> nn.Module:
    """The normalization of a generator.

    Raises:
        ArgumentError: an unknown one, or several styles for one that learns one.
    """
    choice("norm", norm, get_args(Norm))
    if styles > 1 and norm != "conditional":
        problem = f"={norm} learns one style, and there are {styles}: norm=conditional learns many"
        raise ArgumentError("norm", problem)
    if norm != "batch":
        return InstanceNorm(channels, styles, gamma=gamma)
    made = nn.BatchNorm2d(channels)
    if gamma == "uniform":
        nn.init.uniform_(made.weight)
    return made


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
        x = x if self.norm is None else apply_norm(self.norm, x, mix)
        return F.relu_(x) if self.relu else x

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        edge = 0 if self.pad is None else self.kernel // 2
        if edge == 0 or self.pad == "zeros":
            return conv2d(x, weight, bias, self.stride, padding=edge)
        # Reflection needs more pixels than it adds; a smaller picture has its edge repeated.
        mode = self.pad if min(x.shape[-2:]) > edge else "replicate"
        return conv2d(F.pad(x, (edge,) * 4, mode=mode), weight, bias, self.stride)


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
        return x[..., 2:-2, 2:-2] + self.second(self.first(x, without_border(mix, 4)), without_border(mix, 8))


def without_border(mix: Mix | None, px: int) -> Mix | None:
    """A mix over space without `px` pixels on each side; others as they are."""
    return mix if mix is None or not mix.over_space else mix.inside(px)


def apply_norm(norm: nn.Module, x: Tensor, mix: Mix | None) -> Tensor:
    """A normalization of either kind; what is mixed concerns those that are conditional."""
    return norm(x, mix) if isinstance(norm, InstanceNorm) else norm(x)


# How an upsampled row sees a kernel of 3: phase 0 lies on the pair (i-1, i) of rows, phase 1 on the pair (i, i+1).
_PHASES = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # phase, row of the pair, kernel row


def upsampled_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Nearest x2 upsampling, reflection padding by 1 and a 3x3 convolution in one: (B, C, H, W) -> (B, D, 2H, 2W).

    Each of the four phases of the result sees 2x2 different pixels, so four 2x2 kernels at the low resolution do the
    same with 4/9 of the multiplications. Reflection at the high resolution repeats the border row of the low one.
    """
    b, _, h, w = x.shape
    d = weight.shape[0]
    phases = _PHASES.to(weight)
    kernels = torch.einsum("dcij,pai,qbj->pqdcab", weight, phases, phases).flatten(0, 2)  # (4D, C, 2, 2)
    kernels = kernels.to(x.dtype, memory_format=torch.channels_last)
    y = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernels)  # (B, 4D, H+1, W+1)
    y = y.permute(0, 2, 3, 1).unflatten(3, (2, 2, d))  # (B, H+1, W+1, phase of the row, of the column, D)
    rows = [torch.stack([y[:, p : p + h, q : q + w, p, q] for q in (0, 1)], 3) for p in (0, 1)]  # (B, H, W, 2, D)
    out = torch.stack(rows, 2).reshape(b, 2 * h, 2 * w, d) + bias
    return out.permute(0, 3, 1, 2)
