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
from nstexp.core.torus import within, wrapped

Pad = Literal["reflect", "replicate", "zeros"]
Up = Literal["nearest", "transposed"]
Gamma = Literal["ones", "uniform"]


class Mix:
    """Mixture of styles for the pictures of a batch.

    Args:
        rows: indices into the tables of gamma and beta: (K,), the rows that are mixed, or without amounts (B or 1,),
            one row per picture; None: all rows.
        amounts: weights of the rows, float (B or 1, K) or, per position, (B or 1, K, H, W); None: no mixture.
    """

    def __init__(self, rows: Tensor | None, amounts: Tensor | None) -> None:
        self.rows, self.amounts = rows, amounts
        self._resized: dict[tuple[Any, ...], Tensor] = {}

    @classmethod
    def made_of(cls, amounts: Tensor) -> "Mix":
        """From the argument `mix` of a generator.

        Args:
            amounts: int64 (B or 1,), numbers of styles; float (B or 1, N), weights of all N styles, which are not
                normalized: weights that sum to s scale gamma and beta by s; or float (B or 1, N, H, W), weights for
                each position of the picture, resized for each layer.
        """
        if not amounts.is_floating_point():
            return cls(amounts, None)
        if torch.compiler.is_exporting():  # an exported graph cannot choose rows by the values of the weights
            return cls(None, amounts)
        # Only styles with a weight above 0: a sum over more terms is rounded differently, and a picture must stay the
        # same when the network learns another style.
        rows = amounts.transpose(0, 1).flatten(1).ne(0).any(1).nonzero()[:, 0]
        return cls(rows, amounts[:, rows])

    @property
    def over_space(self) -> bool:
        """True if the amounts differ between positions."""
        return self.amounts is not None and self.amounts.dim() == 4

    def of(self, table: Tensor) -> Tensor:
        """Mix the rows of a table (N, C) -> (B or 1, C); over space, select them only -> (K, C)."""
        rows = table if self.rows is None else table[self.rows]
        return rows if self.amounts is None or self.over_space else self.amounts.to(rows) @ rows

    def at(self, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Amounts over space, resized to a layer of (height, width) -> (B or 1, K, height, width)."""
        key = (*size, dtype)
        if key not in self._resized:
            amounts = self._maps()
            same = tuple(amounts.shape[-2:]) == size
            resized = amounts if same else F.interpolate(amounts.float(), size=size, mode="area")
            self._resized[key] = resized.to(dtype)
        return self._resized[key]

    def padded(self, size: tuple[int, int], px: int) -> "Mix":
        """The mixture over space of a picture of (height, width), extended by `px` pixels on each side."""
        return Mix(self.rows, F.pad(self.at(size, torch.float32), (px,) * 4, mode="replicate"))

    def inside(self, px: int) -> "Mix":
        """The mixture over space without `px` pixels on each side."""
        return Mix(self.rows, self._maps()[..., px:-px, px:-px])

    def _maps(self) -> Tensor:
        assert self.amounts is not None, "a mixture over space has amounts"
        return self.amounts


class InstanceNorm(nn.Module):
    """Instance normalization with learned scale and shift (Ulyanov et al. 2017), conditional for several styles.

    Dumoulin et al. 2016, Eq. 5: z = gamma_s (x - mean) / std + beta_s for style s, with mean and biased standard
    deviation over the space of a channel of a picture. The styles share all other parameters of a network.

    Args:
        channels: C.
        styles: N, the number of rows of the tables of gamma and beta.
        eps: see `stats.moments`.
        gamma: initial values of gamma: `ones`, or `uniform` in [0, 1] as in Torch7. beta starts with 0.
    """

    def __init__(self, channels: int, styles: int = 1, eps: float = 1e-5, gamma: Gamma = "ones") -> None:
        super().__init__()
        self.eps = eps
        start = torch.rand(styles, channels) if gamma == "uniform" else torch.ones(styles, channels)
        # Tables consist of blocks of rows, so that learned blocks can be frozen while a new block is trained.
        self.gamma = nn.ParameterList([start])
        self.beta = nn.ParameterList([torch.zeros(styles, channels)])

    @property
    def styles(self) -> int:
        return sum(len(block) for block in self.gamma)

    def append(self, gamma: Tensor, beta: Tensor) -> None:
        """Add M styles behind the present styles, with gamma and beta (M, C)."""
        self.gamma.append(nn.Parameter(gamma.clone()))
        self.beta.append(nn.Parameter(beta.clone()))

    def forward(self, x: Tensor, mix: Mix | Tensor | None = None) -> Tensor:
        """Normalize (B, C, H, W) -> same shape.

        Args:
            mix: a `Mix`, or the argument of `Mix.made_of`; None: the first style.
        """
        mix = Mix.made_of(mix) if isinstance(mix, Tensor) else mix
        mean, std = moments(x, self.eps)
        tables = [torch.cat(list(rows)) for rows in (self.gamma, self.beta)]
        if mix is not None and mix.over_space:
            gamma, beta = (mix.of(table)[None] for table in tables)
            mean, std = above_rounding((mean, std), x.dtype)
            statistics = mean.flatten(1)[:, None], std.flatten(1)[:, None]
            # Factor and offset per style, (B, K, 2C), before broadcasting over space.
            per_style = torch.cat(shift(statistics, (beta, gamma)), 2).to(x.dtype)
            amounts = mix.at((x.shape[-2], x.shape[-1]), x.dtype).expand(len(x), -1, -1, -1)
            factor, offset = torch.einsum("bkhw,bkc->bchw", amounts, per_style).chunk(2, 1)
            return affine(x, factor, offset)
        rows = (table[:1] if mix is None else mix.of(table) for table in tables)
        gamma, beta = (row[:, :, None, None] for row in rows)
        return adain(x, (mean, std), (beta, gamma))


def make_norm(norm: Norm, channels: int, styles: int = 1, gamma: Gamma = "ones") -> nn.Module:
    """The normalization layer of a generator.

    Raises:
        ArgumentError: unknown norm, or several styles with a norm that learns one style.

    Examples:
        >>> make_norm("conditional", 8, styles=4).styles
        4
    """
    choice("norm", norm, get_args(Norm))
    if styles > 1 and norm != "conditional":
        problem = f"={norm} learns one style, and there are {styles}: norm=conditional learns many"
        raise ArgumentError("norm", problem)
    if norm != "batch":
        return InstanceNorm(channels, styles, gamma=gamma)
    batch_norm = nn.BatchNorm2d(channels)
    if gamma == "uniform":
        nn.init.uniform_(batch_norm.weight)
    return batch_norm


class Conv(nn.Module):
    """A convolution with optional upsampling and padding before it, and normalization and ReLU after it.

    Args:
        inputs, outputs: numbers of channels.
        kernel: side of the kernel, odd.
        stride: 2 halves the size.
        pad: padding of `kernel // 2` on each side; None: no padding, so the result is smaller.
        up: doubling of the size: `nearest` (nearest-neighbor upsampling before the convolution) or `transposed` (a
            transposed convolution, which can cause checkerboard patterns; Odena et al. 2016).
        norm: normalization after the convolution.
        bias: add a bias.
        relu: apply a ReLU after the normalization.

    Parameters are float32; computations use the dtype of the input.
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
        make = nn.ConvTranspose2d if up == "transposed" else nn.Conv2d
        conv = make(inputs, outputs, kernel, bias=bias)  # only for its default initialization
        self.weight = nn.Parameter(conv.weight.detach().contiguous(memory_format=torch.channels_last))
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach())
        self.norm = norm

    def forward(self, x: Tensor, mix: Mix | None = None, wraps: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w). With `wraps`, opposite edges of the map meet, whatever the padding is."""
        weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        if self.up == "transposed":
            edge = self.kernel // 2 if wraps else 0
            x = wrapped(x, edge, edge, edge, edge)
            x = F.conv_transpose2d(x, weight, bias, stride=2, padding=self.kernel // 2, output_padding=1)
            x = within(x, 2 * edge) if edge else x
        elif self.up == "nearest" and self.kernel == 3 and (wraps or self.pad == "reflect"):
            x = upsampled_conv(x, self.weight, x.new_zeros(()) if bias is None else bias, wraps)
        else:
            x = F.interpolate(x, scale_factor=2, mode="nearest") if self.up == "nearest" else x
            x = self._conv(x, weight, bias, wraps)
        x = x if self.norm is None else apply_norm(self.norm, x, mix)
        return F.relu_(x) if self.relu else x

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, wraps: bool) -> Tensor:
        if wraps:
            return conv2d(wrapped(x, *[self.kernel // 2] * 4), weight, bias, self.stride)
        edge = 0 if self.pad is None else self.kernel // 2
        if edge == 0 or self.pad is None or self.pad == "zeros":
            return conv2d(x, weight, bias, self.stride, padding=edge)
        # Reflection requires a picture larger than the padding; a smaller picture is padded by replication.
        mode = self.pad if min(x.shape[-2:]) > edge else "replicate"
        return conv2d(F.pad(x, (edge,) * 4, mode=mode), weight, bias, self.stride)


class ResidualBlock(nn.Module):
    """Residual block x + conv(relu(conv(x))) with normalized convolutions and no ReLU after the sum.

    Without padding, the result is smaller by 2 positions (8 px of the picture) on each side, and x is cropped to it.

    Args:
        channels: number of channels.
        pad: see `Conv`.
        norms: normalizations of the two convolutions.
        bias: add biases.
    """

    def __init__(self, channels: int, pad: Pad | None, norms: Sequence[nn.Module], bias: bool = True) -> None:
        super().__init__()
        self.first = Conv(channels, channels, 3, pad=pad, norm=norms[0], bias=bias)
        self.second = Conv(channels, channels, 3, pad=pad, norm=norms[1], bias=bias, relu=False)

    def forward(self, x: Tensor, mix: Mix | None = None, wraps: bool = False) -> Tensor:
        """(B, C, H, W) -> the same shape, or smaller without padding. `wraps`: see `Conv.forward`."""
        residual: Tensor
        if self.first.pad or wraps:
            residual = self.second(self.first(x, mix, wraps), mix, wraps)
            return x + residual
        residual = self.second(self.first(x, without_border(mix, 4)), without_border(mix, 8))
        return x[..., 2:-2, 2:-2] + residual


def without_border(mix: Mix | None, px: int) -> Mix | None:
    """Crop a mixture over space by `px` pixels on each side; other mixtures stay the same."""
    return mix if mix is None or not mix.over_space else mix.inside(px)


def apply_norm(norm: nn.Module, x: Tensor, mix: Mix | None) -> Tensor:
    """Apply a normalization; only an `InstanceNorm` uses the mixture."""
    result: Tensor = norm(x, mix) if isinstance(norm, InstanceNorm) else norm(x)
    return result


# Rows of a 3x3 kernel on an upsampled map. Even rows of the result (phase 0) depend on the pair of rows (i-1, i) of the
# map, odd rows (phase 1) on the pair (i, i+1). Dimensions: phase, row of the pair, kernel row.
_PHASES = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])


def upsampled_conv(x: Tensor, weight: Tensor, bias: Tensor, wraps: bool = False) -> Tensor:
    """Nearest-neighbor x2 upsampling, reflection padding by 1 and a 3x3 convolution in one step.

    Each of the four phases of the result depends on 2x2 pixels of `x`, so four 2x2 convolutions at the low resolution
    give the same result with 4/9 of the multiplications. Reflection at the high resolution equals replication at the
    low resolution.

    Args:
        x: (B, C, H, W).
        weight: (D, C, 3, 3).
        bias: (D,) or a scalar.
        wraps: True: opposite edges of the map meet, instead of the reflection.

    Returns:
        (B, D, 2H, 2W).

    Examples:
        >>> x, center = torch.tensor([[[[1.0, 2.0]]]]), torch.zeros(1, 1, 3, 3)
        >>> center[..., 1, 1] = 1
        >>> upsampled_conv(x, center, torch.tensor(0.5)).tolist()
        [[[[1.5, 1.5, 2.5, 2.5], [1.5, 1.5, 2.5, 2.5]]]]
    """
    b, _, h, w = x.shape
    d = weight.shape[0]
    phases = _PHASES.to(weight)
    kernels = torch.einsum("dcij,pai,qbj->pqdcab", weight, phases, phases).flatten(0, 2)  # (4D, C, 2, 2)
    kernels = kernels.to(x.dtype, memory_format=torch.channels_last)
    y = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular" if wraps else "replicate"), kernels)  # (B, 4D, H+1, W+1)
    y = torch.unflatten(y.permute(0, 2, 3, 1), 3, (2, 2, d))  # (B, H+1, W+1, phase of the row, of the column, D)
    rows = [torch.stack([y[:, p : p + h, q : q + w, p, q] for q in (0, 1)], 3) for p in (0, 1)]  # (B, H, W, 2, D)
    out = torch.stack(rows, 2).reshape(b, 2 * h, 2 * w, d) + bias
    return out.permute(0, 3, 1, 2)
