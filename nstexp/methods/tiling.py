"""Decides by the memory whether a large picture is computed in tiles, and in which; `tiled` computes it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Protocol, cast

from torch import Tensor

from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.terms import works_in_tiles
from nstexp.core.networks.encoder import Encoder, Features
from nstexp.core.runtime.memory import OVER_ACTIVATIONS, check_fits, picture_bytes


class CutEncoder(Encoder, Protocol):
    """An encoder that can continue from the features at a cut; `core.networks.vgg.VGG` is one."""

    @property
    def cuts(self) -> tuple[str, ...]: ...

    def after(self, cut: str, x: Tensor, layers: Sequence[str]) -> Features: ...


@dataclass(frozen=True)
class Plan:
    """How a picture is cut.

    Args:
        cuts: layers where the network is cut, in order; none: the network is one part.
        tile_px: side of a tile, in pixels of the picture.
        last_whole: whether the part behind the last cut gets the whole picture at once, and once instead of twice.
        pairs: number of earlier steps for whose L-BFGS pairs there is memory; None: as many as the optimizer wants.
    """

    cuts: tuple[str, ...] = ()
    tile_px: int = 1024
    last_whole: bool = False
    pairs: int | None = None


# Memory of an optimization by tiles, besides feature maps: bytes per pixel of the picture for its copies (start,
# gradients, vectors of L-BFGS), and for a pair of L-BFGS: two vectors in bfloat16, with a third more values than the
# picture in their pyramid. Measured at 2048 and 4096 px.
PIXEL_BYTES, PAIR_BYTES = 210, 16
OVER_TILE = 1.5  # gradients and products beside the feature maps of a tile
LEAST_PAIRS = 5
SMALL_PX = 512  # side of the tiles if memory is short; the margins of smaller ones take too much time


@dataclass(frozen=True)
class Tiling:
    """Decides by memory whether a picture is computed as a whole, and in which tiles otherwise.

    Args:
        tile_px: side of tiles for every larger picture; None: never tiles; "auto": tiles of `AUTO_PX` for pictures
            that do not fit into the memory as a whole.
        free: memory in bytes.
        obstacle: why there cannot be tiles, for messages; empty: there can.
    """

    tile_px: int | str | None
    free: float
    obstacle: str = ""

    AUTO_PX: ClassVar[int] = 1024

    def plan(self, encoder: Encoder, layers: Sequence[str], size: tuple[int, int]) -> Plan | None:
        """How to compute a picture of (height, width); None: as a whole, as far as it fits."""
        pixels = size[0] * size[1]
        whole = picture_bytes(encoder.activation_bytes(size, layers), size)
        if self.obstacle or self.tile_px is None:
            return None
        if self.tile_px == "auto":
            if whole <= self.free:
                return None
        elif max(size) <= int(self.tile_px):
            return None
        side = self.AUTO_PX if self.tile_px == "auto" else int(self.tile_px)
        plans = list(self._plans(cast(CutEncoder, encoder), layers, side))
        for plan in plans:
            left = self.free - self.needed(cast(CutEncoder, encoder), layers, size, plan)
            if left >= LEAST_PAIRS * PAIR_BYTES * pixels or plan is plans[-1]:
                return replace(plan, pairs=max(LEAST_PAIRS, int(left / (PAIR_BYTES * pixels))))
        return None

    @staticmethod
    def _plans(encoder: CutEncoder, layers: Sequence[str], side: int) -> Iterator[Plan]:
        """Plans from the fastest to the one with the least memory."""
        deepest = max(map(encoder.depth, layers), default=0)
        cuts = tuple(cut for cut in encoder.cuts if encoder.depth(cut) < deepest)[1:3]  # pool2 and pool3 of VGG
        for last in (cuts[:1], cuts):
            if last:
                yield Plan(last, side, last_whole=True)
        yield Plan(cuts, side)
        if side > SMALL_PX:
            yield Plan(cuts, SMALL_PX)

    @staticmethod
    def needed(encoder: CutEncoder, layers: Sequence[str], size: tuple[int, int], plan: Plan) -> float:
        """Memory in bytes for a picture of (height, width), without the pairs of L-BFGS."""
        tile = (min(size[0], plan.tile_px + 128), min(size[1], plan.tile_px + 128))
        # A part of the network at a time holds the maps of a tile, and those of all tiles at its cut, with gradients.
        ends = [[cut] for cut in plan.cuts] + ([] if plan.last_whole else [list(layers)])
        until = [0, *(encoder.activation_bytes(tile, end) for end in ends)]
        needed = PIXEL_BYTES * size[0] * size[1] + OVER_TILE * max(b - a for a, b in pairwise(until))
        for cut in plan.cuts:
            needed += 2 * math.prod(encoder.shape(cut, size)) * encoder.dtype.itemsize
        if plan.last_whole:
            behind = encoder.activation_bytes(size, layers) - encoder.activation_bytes(size, plan.cuts[-1:])
            needed += OVER_ACTIVATIONS * behind
        return needed

    def check(self, encoder: Encoder, layers: Sequence[str], size: tuple[int, int], what: str, remedy: str) -> None:
        """Refuse a picture of (height, width) that does not fit into the memory, with tiles or without.

        Args:
            what, remedy: see `check_fits`.
        """
        plan = self.plan(encoder, layers, size)
        pixels = size[0] * size[1]
        if plan is None:
            needed = picture_bytes(encoder.activation_bytes(size, layers), size)
            reason = f"; there cannot be tiles, since {self.obstacle}" if self.obstacle else ""
        else:
            needed = self.needed(cast(CutEncoder, encoder), layers, size, plan) + LEAST_PAIRS * PAIR_BYTES * pixels
            reason = ""
        check_fits(needed, size, what, remedy + reason, free=self.free)


def obstacle_in(losses: LossSet, encoder: Encoder) -> str:
    """Why these terms, or this network, cannot be computed from tiles; empty if they can."""
    if not hasattr(encoder, "cuts"):
        return f"the network {encoder.identity} cannot go on from the features at a cut"
    names = [name for name, term in losses.terms.items() if not works_in_tiles(term)]
    return f"the loss term '{names[0]}' needs whole feature maps" if names else ""
