"""One-dimensional optimal transport: giving values the distribution of a reference, channel by channel.

A reference is kept as its sorted values, (B, C, M): its quantile function. Matching sends the i-th smallest of N values
to the reference's quantile (i + 1/2) / N, which is exact where N = M.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.errors import choice

Mode = Literal["sort", "bins"]
Tie = Literal["random", "stable"]
BLOCK = 2**18  # values that one thread sorts at a time: their keys fit into its cache
RANK_BITS = 24  # so many positions can be told apart in a key


def hist_match(
    values: Tensor,
    reference: Tensor,
    mode: Mode = "sort",
    tie: Tie = "random",
    bins: int = 256,
    weights: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Values (B, C, N) with the distribution of a reference, by a monotone map per sample and channel.

    The R of Risser et al. 2017. No gradient flows through it.

    Args:
        values: (B, C, N).
        reference: (B or 1, C, M), sorted along the last dimension.
        mode: `sort` ranks the values; `bins` looks ranks up in a histogram of `bins` bins between the smallest and the
            largest value of each channel, and is off by less than what the map makes of one bin.
        tie: which of equal values goes first: by a `random` order of the positions, the same in every call with this
            `seed`, or by position (`stable`), which favors one side of the picture. Only mode=sort has ties.
        weights: (N,), 0 or larger: how much each position counts. Where it is 0 the value is mapped all the same.

    Raises:
        UserError: unknown mode or tie.
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
    inverse = torch.from_numpy(inverse).to(values.device)
    ranking = inverse[values[..., inverse].argsort(dim=-1, stable=True)]  # the position of every rank
    if weights is None:
        wanted = quantiles(reference, count).expand(values.shape)
    else:
        sorted_weights = weights.to(values.device, torch.float32)[ranking]
        share = (sorted_weights.cumsum(-1) - sorted_weights / 2) / sorted_weights.sum(-1, keepdim=True).clamp(min=1e-12)
        wanted = quantile(reference, share)
    return torch.empty_like(values).scatter_(-1, ranking, wanted.to(values.dtype))


def quantiles(reference: Tensor, count: int) -> Tensor:
    """The quantiles (i + 1/2) / count of sorted values (B, C, M) -> (B, C, count), interpolated linearly."""
    reference = reference if reference.dtype == torch.float64 else reference.float()
    if reference.shape[-1] == count:
        return reference
    return F.interpolate(reference, size=count, mode="linear", align_corners=False)


def quantile(reference: Tensor, share: Tensor) -> Tensor:
    """Quantiles `share` (B, C, K), each in [0, 1], of sorted values (B or 1, C, M) -> (B, C, K)."""
    last = reference.shape[-1] - 1
    at = (share * reference.shape[-1] - 0.5).clamp(0, last)
    below = at.floor().long()
    reference = reference.to(share.dtype).expand(*share.shape[:2], -1)
    low, high = reference.gather(-1, below), reference.gather(-1, (below + 1).clamp(max=last))
    return torch.lerp(low, high, at - below)


@lru_cache(maxsize=16)
def directions(channels: int, count: int, seed: int) -> Tensor:
    """Random unit vectors (channels, count), float32; up to `channels` of them orthogonal to each other, and so on."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):  # kept for calls that need gradients
        frames = [
            torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0]
            for _ in range(-(-count // channels))
        ]
        return torch.cat(frames, 1)[:, :count]


# ------------------------------------------------------------------------------------------------------------- sorting


@lru_cache(maxsize=8)
def _tie_order(count: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The rank of each position among equal values, and the position of each rank."""
    inverse = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    order = np.empty_like(inverse)
    order[inverse] = np.arange(count)
    return order, inverse


def _match_by_keys(values: Tensor, reference: Tensor, order: np.ndarray, inverse: np.ndarray) -> Tensor:
    """Rank matching on the CPU, in the layout of `values`.

    A value and its position, packed into one integer, sort ten times faster than torch ranks values.
    """
    kind = torch.bfloat16 if values.dtype == torch.bfloat16 else torch.float32
    values_in, reference = values.contiguous().to(kind), reference.to(kind).expand(len(values), -1, -1)
    bits, references = _bits(values_in), _bits(reference)
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
            wanted = references[part]
        else:
            low, high = (_floats(np.take(references[part], which, axis=1)) for which in (below, above))
            wanted = _rounded(low + between * (high - low), bits.dtype)
        positions = inverse[keys]
        positions += count * np.arange(len(keys))[:, None]
        out[part].ravel()[positions.ravel()] = wanted.ravel()  # a view: the part is contiguous

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(match, range(0, len(bits), rows)))
    return torch.from_numpy(out).view(kind).view(values.shape).to(values.dtype)


def _bits(x: Tensor) -> np.ndarray:
    """(B, C, N) bfloat16 or float32 as integers (B C, N)."""
    return x.contiguous().view(torch.int16 if x.dtype == torch.bfloat16 else torch.int32).flatten(0, 1).numpy()


def _in_order(bits: np.ndarray) -> np.ndarray:
    """Integers that are in the order of the floats whose bits are given: those of negative ones turned around."""
    sign_bit = 8 * bits.itemsize - 1
    return bits ^ ((bits >> sign_bit) & bits.dtype.type((1 << sign_bit) - 1))


def _floats(bits: np.ndarray) -> np.ndarray:
    """Bits of bfloat16 (the upper half of a float32) or float32 numbers as float32."""
    return (bits.astype(np.int32) << 16 if bits.itemsize == 2 else bits).view(np.float32)


def _rounded(x: np.ndarray, kind: np.dtype) -> np.ndarray:
    """The bits of float32 numbers, rounded to bfloat16 where `kind` has two bytes."""
    bits = x.view(np.int32)
    return ((bits + 0x8000) >> 16).astype(np.int16) if kind.itemsize == 2 else bits


def _match_by_bins(values: Tensor, reference: Tensor, bins: int, weights: Tensor | None) -> Tensor:
    """A few channels at a time, since a bin's number takes four times the memory of a value."""
    channels = max(1, BLOCK // values.shape[-1])
    parts = zip(
        values.split(channels, 1),
        reference.expand(len(values), -1, -1).split(channels, 1),
        strict=True,
    )
    return torch.cat([_look_up(part, own, bins, weights) for part, own in parts], 1)


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
