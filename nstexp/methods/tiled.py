"""The loss of a large picture and its gradient from tiles: the same numbers as from the whole picture, in less memory.

Style terms read features only through sums over positions, such as Gram matrices. So the picture passes through the
network twice (Galerne et al. 2024): the first pass adds up the sums over all tiles; with their losses, the derivative
by each sum is known; and the second pass goes over the tiles again and carries these derivatives back to the pixels.
Every tile is computed with enough of its surroundings that its features are those of the whole picture.

The network is cut at poolings, and the features at a cut are stored for the whole picture. Then the surroundings of a
tile are narrow (8 px up to pool2 of VGG, where one tile from the pixels to relu5_1 needs 80 px), and the part behind
the last cut, whose maps are small, need not be computed twice if it fits into memory.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from nstexp.core.losses.loss_set import LossSet, LossValues
from nstexp.core.losses.terms import Guides, Role, total_of, used
from nstexp.core.names import IMAGE
from nstexp.core.networks.encoder import Encoder, Features
from nstexp.methods.tiling import CutEncoder, Plan

Goals = Mapping[str, Sequence[tuple[Any, ...]]]
Sums = tuple[Tensor, ...]
Window = tuple[slice, slice]  # rows and columns
ENERGY = ""  # the name, among the sums, of those that `Seen.energy` needs


@dataclass(frozen=True)
class Part:
    """A part of the network between two cuts.

    Args:
        start: the cut that it starts from; None: the pixels.
        layers: the layers that terms read in it.
        end: the cut at its end; None: it is the last part.
        whole: whether it gets the whole picture at once.
    """

    start: str | None
    layers: tuple[str, ...]
    end: str | None
    whole: bool

    @property
    def outputs(self) -> tuple[str, ...]:
        """The layers that are computed, without the image."""
        return self.layers if self.end is None else tuple(dict.fromkeys((*self.layers, self.end)))


@dataclass(frozen=True)
class Tile:
    """A rectangle of the input of a part of the network, with a margin around it.

    Args:
        inner, outer: (top, bottom, left, right), without and with the margin.
    """

    inner: tuple[int, int, int, int]
    outer: tuple[int, int, int, int]

    def cut(self, source: Tensor) -> Tensor:
        """The tile with its margin, from the whole input (..., H, W)."""
        top, bottom, left, right = self.outer
        return source[..., top:bottom, left:right]

    def window(self, scale: int = 1) -> Window:
        """The rows and columns of the tile in a layer whose positions are `scale` positions of the input apart.

        Incomplete rows and columns at the end of a picture are dropped, as by pooling.
        """
        top, bottom, left, right = (x // scale for x in self.inner)
        return slice(top, bottom), slice(left, right)

    def without_margin(self, x: Tensor, scale: int) -> Tensor:
        """The features of the tile, from those of the tile with its margin."""
        rows, columns = self.window(scale)
        top, left = self.outer[0] // scale, self.outer[2] // scale
        inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        if (inner[0].stop - inner[0].start, inner[1].stop - inner[1].start) == tuple(x.shape[-2:]):
            return x
        return cast(Tensor, _Crop.apply(x, *inner)) if x.requires_grad else x[..., inner[0], inner[1]]


@dataclass(frozen=True)
class Reader:
    """How a term reads a layer: `sums` of a tile's features, given the rows and columns of the layer.

    Readers with an equal `key` give equal sums.
    """

    key: tuple[Any, ...]
    layer: str
    sums: Callable[[Tensor, Window], Sums]


@dataclass
class Seen:
    """The sums of all terms over a picture, from which losses follow.

    Args:
        sums: key of a reader -> sums over all positions.
        shapes: layer -> (C, H, W).
        pixels: the picture, for the terms that read pixels only.
    """

    losses: LossSet
    sums: Mapping[tuple[Any, ...], Sums]
    shapes: Mapping[str, tuple[int, int, int]]
    pixels: Features

    def value(self, name: str, goals: Goals) -> Tensor:
        """The unweighted value of a term, as of `LossSet.one`."""
        term = cast(Any, self.losses.terms[name])
        if not any(term.layers):
            return self.losses.one(name, self.pixels, goals)
        values = []
        for share, *goal in goals.get(name, ()):
            for reader, factor in readers_of(name, term, goal):
                values.append(share * factor * self._distance(term, reader, goal[0]))
        return total_of([value.to(self.pixels[IMAGE].device) for value in values])

    def _distance(self, term: Any, reader: Reader, target: Any) -> Tensor:
        shape, sums = self.shapes[reader.layer], self.sums[reader.key]
        if term.role == "content":
            return cast(Tensor, term.distance(sums, shape))
        size, positions = shape[1:], shape[1] * shape[2]
        image_px = math.prod(self.shapes[IMAGE][1:])
        return cast(Tensor, term.distance(term.of_sums(sums, positions), target[reader.layer], size, image_px))

    def energy(self, layer: str) -> float:
        """Mean squared length of the feature vectors of a layer, as of `targets.energy`."""
        _, height, width = self.shapes[layer]
        return float(self.sums[ENERGY, layer][0]) / (height * width)


def readers_of(name: str, term: Any, goal: Sequence[Any]) -> Iterator[tuple[Reader, float]]:
    """How a term reads its layers for a goal (target, or target and guides), with the factors of the layers."""
    target = goal[0]
    if term.role == "content":
        for layer in term.layers:
            yield Reader((name, layer, id(target[layer])), layer, _compared(term, target[layer])), 1.0
        return
    guides = goal[1] if len(goal) > 1 else None
    for layer, factor in used(term, target):
        guide = None if guides is None else guides[layer]
        yield Reader((name, layer, None if guide is None else id(guide)), layer, _guided(term, guide)), factor


def _compared(term: Any, reference: Tensor) -> Callable[[Tensor, Window], Sums]:
    return lambda x, window: term.sums(x, reference[..., window[0], window[1]])


def _guided(term: Any, guide: Tensor | None) -> Callable[[Tensor, Window], Sums]:
    if guide is None:
        return lambda x, window: term.sums(x)
    return lambda x, window: term.sums(x, guide[window[0], window[1]].to(x.device))


def _squares(x: Tensor, _: Window) -> Sums:
    return (torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32)).double().square(),)


class TiledLosses:
    """Evaluates loss terms on pictures tile by tile.

    Args:
        encoder: the network; one with `cuts` if the plan has any.
        losses: the terms; all of them work in tiles, see `tiling.obstacle_in`.
        plan: see `Plan`.
    """

    def __init__(self, encoder: Encoder, losses: LossSet, plan: Plan) -> None:
        self.encoder, self.losses, self.plan = cast(CutEncoder, encoder), losses, plan

    # ------------------------------------------------------------------------------------------------ what users call

    def values(
        self, image: Tensor, goals: Goals, roles: Sequence[Role] = (), frozen: Mapping[tuple[Any, ...], Sums] = {}
    ) -> LossValues:
        """The losses of a picture, as of `LossSet.forward`; `total` has the gradient by the picture.

        Args:
            image: (1, 3, H, W).
            goals, roles: see `LossSet.forward`.
            frozen: sums that are not computed anew and have no gradient, from `sums_of_layer`.
        """
        names = [name for name, term in self._terms().items() if not roles or term.role in roles]
        counted = [name for name in names if self.losses.weights[name]]
        readers = self._readers({name: goals[name] for name in names if goals.get(name)})
        tiled = [name for name in names if any(self._terms()[name].layers)]
        pixels = {name: self._on_pixels(name, image, goals) for name in names if name not in tiled}
        wants = torch.is_grad_enabled() and image.requires_grad
        walk = _Walk(self.encoder, self.plan, [r for r in readers if r.key not in frozen], image.detach(), wants)
        sums = walk.forward()
        with torch.set_grad_enabled(wants):
            seen = self._seen({**frozen, **sums}, image)
            found = {name: seen.value(name, goals) for name in tiled}
            total = total_of([self.losses.weights[name] * found[name] for name in tiled if name in counted])
        values = {name: (found | pixels)[name] for name in names}
        if not wants or not total.requires_grad:
            return self.losses.weighed(values, image.device)
        total.backward()  # type: ignore[no-untyped-call]  # of PyTorch
        gradient = walk.backward()
        values |= {name: found[name].detach() for name in tiled}
        whole = self.losses.weighed(values, image.device)
        return LossValues(whole.total + _WithGradient.apply(image, gradient), values)

    def see(self, image: Tensor, goals: Sequence[Goals], energies: Sequence[str] = ()) -> Seen:
        """The sums of a picture, without gradients, for several goals and for `Seen.energy` of these layers."""
        readers = [reader for one in goals for reader in self._readers(one)]
        readers += [Reader((ENERGY, layer), layer, _squares) for layer in energies]
        with torch.no_grad():
            sums = _Walk(self.encoder, self.plan, readers, image.detach()).forward()
        return self._seen(sums, image)

    def sums_of_layer(self, image: Tensor, goals: Goals, layer: str) -> dict[tuple[Any, ...], Sums]:
        """The sums that the terms read from one layer, see `values`."""
        readers = [reader for reader in self._readers(goals) if reader.layer == layer]
        with torch.no_grad():
            return _Walk(self.encoder, self.plan, readers, image.detach()).forward()

    @torch.no_grad()
    def targets(
        self, role: Role, image: Tensor, layers: Sequence[str], guides: Guides | None = None
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """The targets of a role's terms, as of `LossSet.targets`, and the energies of the style layers.

        Args:
            image: the reference picture, (1, 3, H, W).
            layers: layers to use.
            guides: see `LossSet.targets`.
        """
        image = image.to(self.encoder.device)
        terms = {name: term for name, term in self._terms().items() if term.role == role}
        result = {name: term.target({IMAGE: image}) for name, term in terms.items() if not any(term.layers)}
        terms = {name: term for name, term in terms.items() if name not in result}
        if role == "content":
            maps = _Walk(self.encoder, self.plan, [], image).maps(layers) if terms else {}
            return result | {name: {x: maps[x] for x in term.layers} for name, term in terms.items()}, {}
        readers, energies = {}, {}
        for name, term in terms.items():
            for layer in (layer for layer in term.layers if layer in layers or layer == IMAGE):
                guide = None if guides is None else guides[layer]
                readers[name, layer] = Reader((name, layer), layer, _guided(term, guide))
        for layer in layers:
            squares = _squares if guides is None else _guided_squares(guides[layer])
            energies[layer] = Reader((ENERGY, layer), layer, squares)
        sums = _Walk(self.encoder, self.plan, [*readers.values(), *energies.values()], image).forward()
        seen = self._seen(sums, image)
        for name, term in terms.items():
            positions = {layer: math.prod(seen.shapes[layer][1:]) for n, layer in readers if n == name}
            result[name] = {layer: term.of_sums(sums[name, layer], count) for layer, count in positions.items()}
        return result, {layer: seen.energy(layer) for layer in energies}

    # -------------------------------------------------------------------------------------------------------- helpers

    def _terms(self) -> dict[str, Any]:
        return dict(self.losses.terms.items())

    def _on_pixels(self, name: str, image: Tensor, goals: Goals) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.losses.weights[name] > 0):
            return self.losses.one(name, {IMAGE: image}, goals)

    def _readers(self, goals: Goals) -> list[Reader]:
        terms = self._terms()
        with_layers = [(name, terms[name]) for name in goals if any(terms[name].layers)]
        return [
            reader
            for name, term in with_layers
            for _, *goal in goals[name]
            for reader, _ in readers_of(name, term, goal)
        ]

    def _seen(self, sums: Mapping[tuple[Any, ...], Sums], image: Tensor) -> Seen:
        size = (image.shape[-2], image.shape[-1])
        names = dict.fromkeys(layer for term in self._terms().values() for layer in term.layers if layer != IMAGE)
        shapes = {layer: self.encoder.shape(layer, size) for layer in names}
        return Seen(self.losses, sums, {IMAGE: (3, *size), **shapes}, {IMAGE: image})


def _guided_squares(guide: Tensor) -> Callable[[Tensor, Window], Sums]:
    return lambda x, window: _squares(x * guide[window[0], window[1]].to(x), window)


class _Crop(torch.autograd.Function):
    """Some rows and columns of feature maps (B, C, H, W).

    The gradient keeps the order of the numbers in memory. That of a slice does not, and sums and convolutions of
    numbers in two orders took a third of the time of a step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: slice, columns: slice) -> Tensor:
        ctx.shape, ctx.window = x.shape, (rows, columns)
        return x[..., rows, columns].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        batch, channels, height, width = ctx.shape
        rows, columns = ctx.window
        whole = grad.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)
        whole[..., rows, columns] = grad
        for margin in (slice(0, rows.start), slice(rows.stop, height)):
            whole[..., margin, :] = 0
        for margin in (slice(0, columns.start), slice(columns.stop, width)):
            whole[..., margin] = 0
        return whole, None, None


class _WithGradient(torch.autograd.Function):
    """0, with a given gradient by the picture."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return image.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None


class _Walk:
    """The passes of one picture through the parts of the network.

    Args:
        encoder, plan: see `TiledLosses`.
        readers: what to add up.
        image: (1, 3, H, W), without a gradient.
        wants_gradient: whether `backward` will be called.
    """

    def __init__(
        self, encoder: CutEncoder, plan: Plan, readers: Sequence[Reader], image: Tensor, wants_gradient: bool = False
    ) -> None:
        self.encoder, self.plan, self.wants_gradient = encoder, plan, wants_gradient
        self.size = (image.shape[-2], image.shape[-1])
        self.readers: dict[str, list[Reader]] = {}
        for reader in {reader.key: reader for reader in readers}.values():
            self.readers.setdefault(reader.layer, []).append(reader)
        self.inputs = [image]  # of the parts
        self.sums: dict[tuple[Any, ...], Sums] = {}

    def forward(self) -> dict[tuple[Any, ...], Sums]:
        """The sums of all readers; with `wants_gradient`, tensors by which a loss can be derived."""
        self.parts = self._parts(self.readers)
        for part in self.parts:
            at_once = part.whole and self.wants_gradient
            if at_once:
                self.inputs[-1].requires_grad_()
            with torch.set_grad_enabled(at_once):
                self._pass(part, (part.end,) if part.end else ())
        if self.wants_gradient:
            # The sums of a part that gets the whole picture at once depend on its input already.
            self.sums = {
                k: tuple(x if x.requires_grad else x.requires_grad_() for x in s) for k, s in self.sums.items()
            }
        return self.sums

    def backward(self) -> Tensor:
        """The gradient by the picture, once a loss was derived by the sums."""
        gradient = None
        for part, source in reversed(list(zip(self.parts, self.inputs, strict=True))):
            if part.whole:
                gradient, source.grad = source.grad, None
            else:
                gradient = self._gradient(part, source, gradient)
        assert gradient is not None  # there is at least one part
        return gradient

    def maps(self, layers: Sequence[str]) -> Features:
        """Whole feature maps of layers, put together from the tiles."""
        self.parts = self._parts(layers)
        found: Features = {}
        for part in self.parts:
            found |= self._pass(part, part.outputs)
        return {name: found[name] for name in layers}

    def _pass(self, part: Part, stored: Sequence[str]) -> Features:
        """Compute a part from the input of it that is known; add to the sums, and return whole maps of some layers."""
        source, maps = self.inputs[-1], {}
        for tile in self._tiles(part):
            feats = self._run(part, tile.cut(source), tile)
            for reader, found in self._read(part, feats, tile):
                old = self.sums.get(reader.key)
                self.sums[reader.key] = found if old is None else tuple(map(torch.add, old, found))
            for name in stored:
                if name not in maps:
                    channels, height, width = self.encoder.shape(name, self.size)
                    maps[name] = feats[name].new_empty(1, height, width, channels).permute(0, 3, 1, 2)
                rows, columns = tile.window(self._scale(part, name))
                maps[name][..., rows, columns] = feats[name]
        if part.end:
            self.inputs.append(maps[part.end])
        return maps

    def _gradient(self, part: Part, source: Tensor, following: Tensor | None) -> Tensor:
        """The gradient by the input of a part.

        Args:
            source: the input.
            following: the gradient by the input of the next part; None: this is the last one.
        """
        total = torch.zeros_like(source)
        for tile in self._tiles(part):
            x = tile.cut(source).detach().requires_grad_()
            with torch.enable_grad():
                feats = self._run(part, x, tile)
                pairs = [
                    (value, leaf.grad)
                    for reader, found in self._read(part, feats, tile)
                    for value, leaf in zip(found, self.sums[reader.key], strict=True)
                ]
            if part.end and following is not None:
                rows, columns = tile.window(self._scale(part, part.end))
                pairs.append((feats[part.end], following[..., rows, columns]))
            counted = [(value, grad) for value, grad in pairs if grad is not None and value.requires_grad]
            if counted:
                torch.autograd.backward([value for value, _ in counted], [grad for _, grad in counted])
                tile.cut(total).add_(cast(Tensor, x.grad))
        return total

    def _parts(self, layers: Iterable[str]) -> list[Part]:
        """The parts of the network up to the deepest of these layers."""
        depth = {layer: self.encoder.depth(layer) for layer in layers if layer != IMAGE}
        deepest = max(depth.values(), default=0)
        cuts = [cut for cut in self.plan.cuts if self.encoder.depth(cut) < deepest]
        parts = []
        for start, end in zip([None, *cuts], [*cuts, None], strict=True):
            low = self.encoder.depth(start) if start else 0
            high = self.encoder.depth(end) if end else deepest
            inside = tuple(layer for layer in depth if low < depth[layer] <= high)
            parts.append(Part(start, inside, end, self.plan.last_whole and end is None))
        return parts

    def _run(self, part: Part, x: Tensor, tile: Tile) -> Features:
        """The features of a tile without its margin; in the first part, also the pixels."""
        if part.start is None:
            names: Sequence[str] = (IMAGE, *part.outputs)
            feats = self.encoder(x, part.outputs)
        else:
            names = part.outputs
            feats = self.encoder.after(part.start, x, names)
        return {name: tile.without_margin(feats[name], self._scale(part, name)) for name in names}

    def _read(self, part: Part, feats: Features, tile: Tile) -> Iterator[tuple[Reader, Sums]]:
        for layer, x in feats.items():
            for reader in self.readers.get(layer, ()):
                yield reader, reader.sums(x, tile.window(self._scale(part, layer)))

    def _scale(self, part: Part, layer: str) -> int:
        """How many positions of the part's input one position of a layer is wide."""
        if layer == IMAGE:
            return 1
        return self.encoder.stride(layer) // (self.encoder.stride(part.start) if part.start else 1)

    def _tiles(self, part: Part) -> Iterator[Tile]:
        start, reach_px = 1, 0
        height, width = self.size
        if part.start:
            start, reach_px = self.encoder.stride(part.start), self.encoder.reach_px(part.start)
            _, height, width = self.encoder.shape(part.start, self.size)
        if part.whole:
            yield Tile((0, height, 0, width), (0, height, 0, width))
            return
        unit = max((self._scale(part, name) for name in part.outputs), default=1)
        reach = max(((self.encoder.reach_px(name) - reach_px) // start for name in part.outputs), default=0)
        margin, side = -(-reach // unit) * unit, max(unit, self.plan.tile_px // start // unit * unit)
        for top, bottom in _spans(height, side, unit):
            for left, right in _spans(width, side, unit):
                outer = max(0, top - margin), min(height, bottom + margin)
                across = max(0, left - margin), min(width, right + margin)
                yield Tile((top, bottom, left, right), (*outer, *across))


def _spans(length: int, side: int, unit: int) -> list[tuple[int, int]]:
    """Divide a length into spans of `side`; a rest that is shorter than `unit` belongs to the span before it.

    Examples:
        >>> _spans(21, side=8, unit=4), _spans(17, side=8, unit=4)
        ([(0, 8), (8, 16), (16, 21)], [(0, 8), (8, 17)])
    """
    starts = [0, *(x for x in range(side, length, side) if length - x >= unit)]
    return list(pairwise([*starts, length]))
