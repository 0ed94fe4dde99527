"""Convolutions by Winograd's algorithm, which needs a quarter of the multiplications, for frozen filters on a CPU.

PyTorch's library for CPUs multiplies every pixel with every filter. Winograd's algorithm F(4x4, 3x3) (Lavin & Gray
2016, Sec. 4.3) transforms tiles of 6x6 pixels and the filters, multiplies them element by element, and transforms the
products back into 4x4 pixels: 36 multiplications for 16 pixels, where the direct way takes 144. It pays where the
transforms cost little in comparison, that is, with many channels. In float32 it rounds about as the direct way does
(relative error 2e-6 and 1e-6 with 512 channels); in bfloat16 the transforms would lose too much.
"""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

# The processors for which it was measured. Those with AVX-512 have much faster direct convolutions, and most of them
# compute in bfloat16.
GAINS = torch.backends.cpu.get_cpu_capability() == "AVX2"
LEAST_FILTERS = 128 * 256  # input times output channels; with fewer, the transforms cost what the multiplications save
LEAST_TILES = 36  # of a map; with fewer, reading the transformed filters takes longer than the direct convolution
TILES = 64  # of one step: their transforms stay in the processor's cache
SIDE, STEP = 6, 4  # of a tile in the input, and in the output

# Lavin & Gray 2016, Sec. 4.3: output = AT [(G filter G^T) * (BT tile B)] A
_BT: list[list[float]] = [
    [4.0, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_G: list[list[float]] = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_AT: list[list[float]] = [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
_CONSTANT = SIDE + 1  # the product of which all 16 pixels of a tile get the same share: a bias is added there


def _both(matrix: list[list[float]]) -> Tensor:
    """The matrix of a transform of rows and of columns, applied to flattened tiles."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one)


TO_PRODUCTS, TO_PIXELS, OF_FILTERS = (_both(matrix) for matrix in (_BT, _AT, _G))  # 36x36, 16x36, 36x9


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, padding: int = 1) -> Tensor:
    """`torch.nn.functional.conv2d` with 3x3 filters, by Winograd's algorithm where that is faster.

    The transforms of the filters, which are four times as large as these, are kept as long as the filters.

    Args:
        x: (B, C, H, W).
        weight: (D, C, 3, 3).
        bias: (D,).
        padding: zeros on each side.

    Returns:
        (B, D, H - 2 + 2 padding, W - 2 + 2 padding).

    Examples:
        >>> conv3x3(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), torch.zeros(1)).flatten().tolist()
        [4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0]
    """
    if not _pays(x, weight):
        return F.conv2d(x, weight, bias, padding=padding)
    version = 0 if weight.is_inference() else weight._version  # it changes when filters are changed in place
    kept = _kept.get(weight)
    if kept is None or kept[0] != version:
        kept = version, transformed(weight)
        _kept[weight] = kept
    return winograd_conv(x, kept[1], bias, padding)


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Inside, `conv3x3` is PyTorch's convolution on every processor, as for a count of its operations.

    Examples:
        >>> with direct_convolutions():
        ...     conv3x3(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), torch.zeros(1)).sum().item()
        49.0
    """
    global GAINS
    gains, GAINS = GAINS, False
    try:
        yield
    finally:
        GAINS = gains


_kept: MutableMapping[Tensor, tuple[int, Tensor]] = WeakTensorKeyDictionary()


def _pays(x: Tensor, weight: Tensor) -> bool:
    """True for frozen filters in float32 on a CPU, many channels, and a map that is not tiny."""
    return (
        GAINS
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not (weight.requires_grad and torch.is_grad_enabled())
        and weight.shape[0] * weight.shape[1] >= LEAST_FILTERS
        and x.shape[0] * (x.shape[2] // STEP) * (x.shape[3] // STEP) >= LEAST_TILES
        and not torch.compiler.is_compiling()  # also true during an export
    )


def transformed(weight: Tensor) -> Tensor:
    """Filters (D, C, 3, 3) as `winograd_conv` takes them: (36, C, D).

    Examples:
        >>> x, weight, bias = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), torch.zeros(1)
        >>> winograd_conv(x, transformed(weight), bias).round(decimals=3).flatten().tolist()
        [4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0]
    """
    flat = weight.detach().double().permute(2, 3, 1, 0).reshape(9, -1)
    made = OF_FILTERS @ flat
    return made.to(weight.dtype).view(SIDE * SIDE, weight.shape[1], weight.shape[0])


def winograd_conv(x: Tensor, filters: Tensor, bias: Tensor, padding: int = 1) -> Tensor:
    """A convolution with fixed 3x3 filters, differentiable in `x`.

    Args:
        x: (B, C, H, W).
        filters: (36, C, D) of `transformed`; neither they nor the bias get a gradient.
        bias: (D,).
        padding: zeros on each side.

    Returns:
        (B, D, H - 2 + 2 padding, W - 2 + 2 padding), channels last in memory.
    """
    result: Tensor = _Winograd.apply(x, filters, bias, padding)
    return result


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, bias: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(filters)
        ctx.size, ctx.padding = x.shape, padding
        b, c, h, w = x.shape
        out = (h - 2 + 2 * padding, w - 2 + 2 * padding)
        rows, columns = (-(-side // STEP) for side in out)
        padded = x.new_zeros(b, STEP * rows + 2, STEP * columns + 2, c)
        padded[:, padding : padding + h, padding : padding + w] = x.permute(0, 2, 3, 1)
        to_products, to_pixels = TO_PRODUCTS.to(x.dtype), TO_PIXELS.to(x.dtype)
        # A tensor of its own and no view of one, so that a ReLU can be applied in place.
        result = torch.empty(
            (b, filters.shape[2], *out), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        fits = (STEP * rows, STEP * columns) == out
        made = result.permute(0, 2, 3, 1) if fits else x.new_empty(b, STEP * rows, STEP * columns, filters.shape[2])
        tiled = made.view(b, rows, STEP, columns, STEP, -1)
        for n, r in _strips(b, rows, columns):
            strip = padded[n, STEP * r.start : STEP * r.stop + 2]
            picture, row, column, channel = strip.stride()
            shape = (SIDE, SIDE, len(strip), r.stop - r.start, columns)
            tiles = strip.as_strided((*shape, c), (row, column, picture, STEP * row, STEP * column, channel))
            products = to_products @ tiles.reshape(SIDE * SIDE, -1)
            products = products.view(SIDE * SIDE, -1, c) @ filters
            products[_CONSTANT] += bias
            pixels = to_pixels @ products.view(SIDE * SIDE, -1)
            tiled[n, r] = pixels.view(STEP, STEP, *shape[2:], -1).permute(2, 3, 0, 4, 1, 5)
        if not fits:
            result.copy_(made[:, : out[0], : out[1]].permute(0, 3, 1, 2))
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """The transposed transforms in reverse order, with the same filters."""
        (filters,) = ctx.saved_tensors
        (b, c, h, w), padding = ctx.size, ctx.padding
        d, height, width = grad.shape[1:]
        rows, columns = -(-height // STEP), -(-width // STEP)
        given = grad.permute(0, 2, 3, 1)
        if (STEP * rows, STEP * columns) != (height, width) or not given.is_contiguous():
            given = grad.new_zeros(b, STEP * rows, STEP * columns, d)
            given[:, :height, :width] = grad.permute(0, 2, 3, 1)
        given = given.view(b, rows, STEP, columns, STEP, d)
        of_pixels, of_products = TO_PIXELS.T.to(grad.dtype), TO_PRODUCTS.T.to(grad.dtype)
        back = filters.transpose(1, 2)
        # Neighboring tiles overlap by 2 pixels, whose gradients are added.
        whole = grad.new_zeros(b, STEP * (rows + 1), STEP * (columns + 1), c)
        blocks = whole.view(b, rows + 1, STEP, columns + 1, STEP, c)
        for n, r in _strips(b, rows, columns):
            strip = given[n, r]
            pixels = strip.permute(2, 4, 0, 1, 3, 5).reshape(STEP * STEP, -1)
            products = (of_pixels @ pixels).view(SIDE * SIDE, -1, d) @ back
            tiles = (of_products @ products.view(SIDE * SIDE, -1)).view(SIDE, SIDE, *strip.shape[:2], columns, c)
            for down, of_rows in ((0, slice(0, STEP)), (1, slice(STEP, SIDE))):
                for right, of_columns in ((0, slice(0, STEP)), (1, slice(STEP, SIDE))):
                    part = tiles[of_rows, of_columns].permute(2, 3, 0, 4, 1, 5)
                    place = blocks[n, r.start + down : r.stop + down, :, right : columns + right]
                    place[:, :, : part.shape[2], :, : part.shape[4]] += part
        inside = whole[:, padding : padding + h, padding : padding + w]
        return inside.permute(0, 3, 1, 2), None, None, None


def _strips(pictures: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Strips of about `TILES` tiles for each thread: pictures of the batch, and rows of tiles."""
    wanted = TILES * torch.get_num_threads()
    some = max(1, wanted // (rows * columns))  # small pictures go together
    step = max(1, -(-wanted // (some * columns)))
    for n in range(0, pictures, some):
        for first in range(0, rows, step):
            yield slice(n, n + some), slice(first, min(first + step, rows))
