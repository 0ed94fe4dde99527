"""One-dimensional optimal transport: map the values of a channel so that they have the distribution of a reference.

A reference is stored as its sorted values (B, C, M), which are its quantile function. The map sends the i-th smallest
of N values, i from 0, to the reference's quantile (i + 1/2) / N; it is exact for N = M.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.errors import choice

Mode = Literal["sort", "bins"]
Tie = Literal["random", "stable"]
BLOCK = 2**18  # number of values that a thread sorts at once, so that their keys fit into the processor's cache
RANK_BITS = 24  # bits of a sort key that hold the position


def hist_match(
    values: Tensor,
    reference: Tensor,
    mode: Mode = "sort",
    tie: Tie = "random",
    bins: int = 256,
    weights: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Histogram matching: map values monotonically, per sample and channel, to the distribution of a reference.

    This is the map R of Risser et al. 2017. The result (B, C, N) has no gradient.

    Args:
        values: (B, C, N).
        reference: (B or 1, C, M), sorted along the last dimension.
        mode: `sort` ranks the values. `bins` reads approximate ranks from a histogram with `bins` bins between the
            smallest and the largest value of the channel; the error is at most the image of one bin under the map.
        tie: the order of equal values in mode `sort`. `random` is a random order of the positions, fixed by `seed`;
            `stable` is the order of the positions, which favors one side of the picture.
        bins: number of bins in mode `bins`.
        weights: (N,), 0 or larger: weights of the positions in the distribution of the values. A value of weight 0 is
            mapped, too.
        seed: seed of the random order.

    Raises:
        UserError: unknown mode or tie.

    Examples:
        >>> hist_match(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[10.0, 20.0, 30.0]]])).tolist()
        [[[30.0, 10.0, 20.0]]]
    """
    choice("mode", mode, get_args(Mode))
    choice("tie", tie, get_args(Tie))
    values = values.detach()
    count = values.shape[-1]
    if mode == "bins":
        return _match_by_bins(values, reference, bins, weights)
    order, inverse = _tie_order(count, seed if tie == "random" else None)
    if weights is None and values.device.type == "cpu" and values.dtype != torch.float64 and count < 2**RANK_BITS:
        return _match_by_keys(values, reference, order, inverse)
    tie_positions = torch.from_numpy(inverse).to(values.device)
    ranking = tie_positions[values[..., tie_positions].argsort(dim=-1, stable=True)]  # rank -> position
    if weights is None:
        matched = quantiles(reference, count).expand(values.shape)
    else:
        sorted_weights = weights.to(values.device, torch.float32)[ranking]
        share = (sorted_weights.cumsum(-1) - sorted_weights / 2) / sorted_weights.sum(-1, keepdim=True).clamp(min=1e-12)
        matched = quantile(reference, share)
    return torch.empty_like(values).scatter_(-1, ranking, matched.to(values.dtype))


def quantiles(reference: Tensor, count: int) -> Tensor:
    """The quantiles (i + 1/2) / count, i from 0, of sorted values: (B, C, M) -> (B, C, count).

    Values between neighbors are interpolated linearly. float32, or float64 for float64 values.

    Examples:
        >>> quantiles(torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]), 2).tolist()
        [[[0.5, 2.5]]]
    """
    reference = reference if reference.dtype == torch.float64 else reference.float()
    if reference.shape[-1] == count:
        return reference
    return F.interpolate(reference, size=count, mode="linear", align_corners=False)


def quantile(reference: Tensor, share: Tensor) -> Tensor:
    """Quantiles of sorted values (B or 1, C, M), interpolated linearly -> (B, C, K).

    Args:
        share: (B, C, K) in [0, 1], the probabilities of the quantiles.

    Examples:
        >>> quantile(torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]), torch.tensor([[[0.0, 0.5, 1.0]]])).tolist()
        [[[0.0, 1.5, 3.0]]]
    """
    last = reference.shape[-1] - 1
    at = (share * reference.shape[-1] - 0.5).clamp(0, last)
    below = at.floor().long()
    reference = reference.to(share.dtype).expand(*share.shape[:2], -1)
    low, high = reference.gather(-1, below), reference.gather(-1, (below + 1).clamp(max=last))
    return torch.lerp(low, high, at - below)


def sorted_values(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """The reference for `hist_match` that has the distribution of values: (B, C, N) -> (B, C, N), sorted.

    Args:
        weights: (N,), 0 or larger, how much each position counts in the distribution. The result then holds the
            quantiles (i + 1/2) / N, i from 0, of the weighted values, so that values of weight 0 do not occur.

    Examples:
        >>> sorted_values(torch.tensor([[[3.0, 9.0, 1.0, 9.0]]]), torch.tensor([1.0, 0.0, 1.0, 0.0])).tolist()
        [[[1.0, 1.0, 3.0, 3.0]]]
    """
    if weights is None:
        fast = values.device.type == "cpu" and values.dtype == torch.float32 and not values.requires_grad
        return _sorted_by_numpy(values) if fast else values.sort(-1).values
    ordered, at = values.sort(-1)
    count = values.shape[-1]
    ends = weights.to(values.device, torch.float64)[at].cumsum(-1)  # of the interval of shares that each value covers
    middles = (torch.arange(count, device=values.device, dtype=torch.float64) + 0.5) / count
    places = torch.searchsorted(ends, (middles * ends[..., -1:]).contiguous()).clamp(max=count - 1)
    return ordered.gather(-1, places)


@lru_cache(maxsize=16)
def directions(channels: int, count: int, seed: int) -> Tensor:
    """Random unit vectors (channels, count), float32: the columns form orthonormal bases of `channels` vectors; the
    last basis may be cut off.

    Examples:
        >>> onto = directions(channels=3, count=3, seed=0)
        >>> torch.allclose(onto.T @ onto, torch.eye(3), atol=1e-6)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):  # later calls that need gradients get the same cached tensor
        frames = [
            torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0]
            for _ in range(-(-count // channels))
        ]
        return torch.cat(frames, 1)[:, :count]


# ------------------------------------------------------------------------------------------------------------- sorting


def _sorted_by_numpy(values: Tensor) -> Tensor:
    """Sort float32 numbers (B, C, N) on the CPU along the last dimension, three times as fast as torch does."""
    rows = values.flatten(0, 1).numpy().copy()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(np.ndarray.sort, rows))
    return torch.from_numpy(rows).view(values.shape)


@lru_cache(maxsize=8)
def _tie_order(count: int, seed: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """The order of equal values: position -> rank, and the inverse, rank -> position; seed None: by position."""
    inverse = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    order = np.empty_like(inverse)
    order[inverse] = np.arange(count)
    return order, inverse


def _match_by_keys(values: Tensor, reference: Tensor, order: NDArray[Any], inverse: NDArray[Any]) -> Tensor:
    """`hist_match` in mode `sort` without weights, on the CPU.

    Integer keys that contain a value and its position are sorted ten times faster than torch ranks values.
    """
    dtype = torch.bfloat16 if values.dtype == torch.bfloat16 else torch.float32
    bits = _bits(values.contiguous().to(dtype))
    references = _bits(reference.to(dtype).expand(len(values), -1, -1))
    out = np.empty_like(bits)
    count, last = bits.shape[1], references.shape[1] - 1
    at = np.clip((np.arange(count) + 0.5) * ((last + 1) / count) - 0.5, 0, last)
    below = at.astype(np.int64)
    above, between = np.minimum(below + 1, last), (at - below).astype(np.float32)
    rows = max(1, BLOCK // count)

    def match(start: int) -> None:
        part = slice(start, start + rows)
        keys = _in_order(bits[part]).astype(np.int64)
        keys <<= RANK_BITS
        keys |= order
        keys.sort(axis=1)
        keys &= (1 << RANK_BITS) - 1
        if last + 1 == count:
            matched = references[part]
        else:
            low, high = (_floats(np.take(references[part], index, axis=1)) for index in (below, above))
            matched = _rounded(low + between * (high - low), bits.dtype)
        positions = inverse[keys]
        positions += count * np.arange(len(keys))[:, None]
        out[part].ravel()[positions.ravel()] = matched.ravel()  # ravel makes a view, because the part is contiguous

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(match, range(0, len(bits), rows)))
    return torch.from_numpy(out).view(dtype).view(values.shape).to(values.dtype)


def _bits(x: Tensor) -> NDArray[Any]:
    """The bits of bfloat16 or float32 numbers (B, C, N) as integers (B C, N)."""
    return x.contiguous().view(torch.int16 if x.dtype == torch.bfloat16 else torch.int32).flatten(0, 1).numpy()


def _in_order(bits: NDArray[Any]) -> NDArray[Any]:
    """Map the bits of floats to integers in the same order: the bits of negative floats below the sign are inverted."""
    sign_bit = 8 * bits.itemsize - 1
    ordered: NDArray[Any] = bits ^ ((bits >> sign_bit) & bits.dtype.type((1 << sign_bit) - 1))
    return ordered


def _floats(bits: NDArray[Any]) -> NDArray[Any]:
    """Bits of bfloat16 or float32 numbers -> float32. A bfloat16 is the upper half of a float32."""
    return (bits.astype(np.int32) << 16 if bits.itemsize == 2 else bits).view(np.float32)


def _rounded(x: NDArray[Any], bits_dtype: np.dtype[Any]) -> NDArray[Any]:
    """The bits of float32 numbers, rounded to bfloat16 if `bits_dtype` has two bytes."""
    bits = x.view(np.int32)
    return ((bits + 0x8000) >> 16).astype(np.int16) if bits_dtype.itemsize == 2 else bits


def _match_by_bins(values: Tensor, reference: Tensor, bins: int, weights: Tensor | None) -> Tensor:
    """`hist_match` in mode `bins`, a few channels at a time: bin numbers take four times the memory of the values."""
    channels = max(1, BLOCK // values.shape[-1])
    references = torch.split(reference.expand(len(values), -1, -1), channels, 1)
    parts = zip(torch.split(values, channels, 1), references, strict=True)
    return torch.cat([_look_up(part, part_reference, bins, weights) for part, part_reference in parts], 1)


def _look_up(values: Tensor, reference: Tensor, bins: int, weights: Tensor | None) -> Tensor:
    exact = values if values.dtype == torch.float64 else values.float()
    low, high = exact.amin(-1, keepdim=True), exact.amax(-1, keepdim=True)
    at = (exact - low) / (high - low).clamp(min=1e-12) * bins
    bin_of = at.long().clamp(max=bins - 1)
    weights = torch.ones(values.shape[-1]) if weights is None else weights
    weights = weights.to(exact).expand_as(exact)
    histogram = exact.new_zeros(*values.shape[:2], bins).scatter_add_(-1, bin_of, weights)
    edges = F.pad(histogram.cumsum(-1), (1, 0)) / histogram.sum(-1, keepdim=True).clamp(min=1e-12)
    table = quantile(reference, edges)
    return torch.lerp(table.gather(-1, bin_of), table.gather(-1, bin_of + 1), at - bin_of).to(values.dtype)
