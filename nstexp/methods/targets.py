"""What an optimization has to match: the photo's features, the styles' statistics, and the frame before."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.terms import Role
from nstexp.core.masks import guides
from nstexp.core.names import Combine
from nstexp.core.networks.encoder import BEFORE, IMAGE, TRUST, Encoder, Features
from nstexp.core.resize import resize
from nstexp.core.runtime.cache import tensor_digest
from nstexp.methods.base import Clip, Style
from nstexp.methods.canvas import Canvas
from nstexp.methods.settings import GatysSettings


@dataclass(frozen=True)
class StyleTargets:
    """What one style asks for at one level.

    Args:
        statistics: term -> layer -> what to match there.
        energy: layer -> mean squared length of the style's features.
        place: the style's guides, layer -> (h, w); empty where the style applies everywhere.
    """

    statistics: Mapping[str, Mapping[str, Any]]
    energy: Mapping[str, float]
    place: tuple[Mapping[str, Tensor], ...]


@dataclass(frozen=True)
class LevelTargets:
    """What the terms have to match at one level.

    Args:
        goals: term -> tuples of (share, target) or (share, target, guides), as `LossSet.forward` takes them.
        styles: of each style.
    """

    goals: Mapping[str, Sequence[tuple[Any, ...]]]
    styles: Sequence[StyleTargets]


@dataclass(frozen=True)
class TargetMaker:
    """Makes the targets of a picture at any level.

    Args:
        canvas: the picture with its margin.
        styles: with their masks on the canvas.
        combine: see `LossSet.combined`.
        clip: of a frame of a clip.
        roles: of the terms that count; none given: all. Without the content's role, a picture gets strokes and keeps
            its colors.
    """

    encoder: Encoder
    losses: LossSet
    settings: GatysSettings
    canvas: Canvas
    styles: Sequence[Style]
    combine: Combine = "weighted_loss"
    clip: Clip | None = None
    roles: Sequence[Role] = ()

    def at(self, size: tuple[int, int]) -> LevelTargets:
        """The targets for a canvas of (height, width)."""
        goals: dict[str, Sequence[tuple[Any, ...]]] = {}
        if not self.roles or "content" in self.roles:
            of_content, _ = self._statistics("content", self.canvas.content, size, self.losses.layers("content"))
            goals = {name: [(1.0, target)] for name, target in of_content.items()}
        if before := self.before():
            size_of = {name: resize(known, size) for name, known in before.items()}
            goals |= {name: [(1.0, target)] for name, target in self.losses.targets("before", size_of).items()}
        styles = [self._of_style(style, size) for style in self.styles]
        for name in styles[0].statistics:
            pairs = [(s.share, own.statistics[name]) for s, own in zip(self.styles, styles, strict=True)]
            combined = self.losses.combined(name, pairs, self.combine, "style_combine")
            goals[name] = [(*goal, *own.place) for goal, own in zip(combined, styles, strict=False)]
        return LevelTargets(goals, styles)

    def before(self) -> Features:
        """Of a frame of a clip: the result before it, on the canvas, and where that belongs; empty of any other."""
        if self.clip is None or self.clip.warped is None:
            return {}
        return {
            name: self.canvas.extend(known.float()).to(self.encoder.device)
            for name, known in ((BEFORE, self.clip.warped), (TRUST, self.clip.trust))
        }

    def _of_style(self, style: Style, size: tuple[int, int]) -> StyleTargets:
        place = self._guides(style, size)
        wanted = [layer for layer in self.losses.layers("style") if self._counts(style, layer, place)]
        scale = size[0] / self.canvas.size[0]
        of_size = self.settings.style_size(style.image, self.canvas.picture_size, scale)
        targets, energy = self._statistics("style", style.image[None], of_size, wanted)
        statistics = {
            name: {layer: part for layer, part in target.items() if self._counts(style, layer, place)}
            for name, target in targets.items()
        }
        return StyleTargets(statistics, energy, place)

    def _statistics(
        self, role: Role, image: Tensor, size: tuple[int, int], layers: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """What the terms of a role have to match in a picture at a size, and of its features the energy; the next run
        of this process that asks for the same gets it from the encoder's memory."""

        def make() -> tuple[dict[str, Any], dict[str, float]]:
            feats = features(self.encoder, resize(image, size), layers)
            energies = {layer: energy(x) for layer, x in feats.items() if layer != IMAGE and role == "style"}
            return self.losses.targets(role, feats), energies

        if self.losses.identity is None:
            return make()
        key = (self.losses.identity, role, size, tuple(layers), str(self.encoder.device), tensor_digest(image))
        return self.encoder.memory.get(key, make)

    def _counts(self, style: Style, layer: str, place: Sequence[Mapping[str, Tensor]]) -> bool:
        return (not place or layer in place[0]) and counts(self.encoder, style, layer, self.roles)

    def _guides(self, style: Style, size: tuple[int, int]) -> tuple[dict[str, Tensor], ...]:
        """The style's guides at a level; empty where it applies everywhere."""
        if style.mask is None:
            return ()
        mask = resize(style.mask[None, None], size)[0, 0]
        found = guides(mask, self.encoder, self.losses.layers("style"), self.settings.guide)
        return ({name: guide.to(self.encoder.device) for name, guide in found.items()},)


def counts(encoder: Encoder, style: Style, layer: str, roles: Sequence[Role] = ()) -> bool:
    """Whether a style counts at a layer, wherever it applies."""
    if style.layers is None:
        return True
    # The picture's own colors are no stroke; styles with layers of their own still have them.
    own = encoder.canonical
    return not roles if layer == IMAGE else own(layer) in map(own, style.layers)


def layers_in_use(
    encoder: Encoder, losses: LossSet, styles: Sequence[Style], roles: Sequence[Role] = ()
) -> tuple[str, ...]:
    """Those that terms of the roles read and, of the style layers, those that any style counts at."""
    others = losses.layers(*(role for role in roles or ("content", "style", "image") if role != "style"))
    counting = [x for x in losses.layers("style") if any(counts(encoder, style, x, roles) for style in styles)]
    return tuple(dict.fromkeys([*others, *counting]))


def min_side_for_styles(maker: TargetMaker) -> int:
    """The shorter side of the canvas below which a style picture is too small for its deepest layer."""
    encoder, canvas, sides = maker.encoder, maker.canvas, [1]
    for style in maker.styles:
        layers = [x for x in maker.losses.layers("style") if counts(encoder, style, x, maker.roles)]
        side = min(maker.settings.style_size(style.image, canvas.picture_size))
        sides.append(math.ceil(encoder.min_side_px(layers) * min(canvas.size) / side))
    return max(sides)


@torch.no_grad()
def features(encoder: Encoder, image: Tensor, layers: Sequence[str]) -> Features:
    """Features of a picture that nothing is optimized by."""
    return encoder(image.to(encoder.device), layers)


def energy(feats: Tensor) -> float:
    """Trace of the Gram matrix per position of (1, C, H, W) features: the mean of their squared length."""
    kind = torch.promote_types(feats.dtype, torch.float32)
    return float(torch.linalg.vector_norm(feats, dtype=kind)) ** 2 / feats[0, 0].numel()


def trace_ratio(losses: LossSet, styles: Sequence[Style], targets: LevelTargets, feats: Features) -> float | None:
    """How much energy features at the style layers have for each unit that the styles have there.

    The traces of the Gram matrices, the styles' averaged by their shares; the mean over the layers. None with masks,
    where the styles' energies belong to their regions.
    """
    if any(own.place for own in targets.styles):
        return None
    ratios = []
    for layer in (layer for layer in losses.layers("style") if layer in feats):
        pairs = zip(styles, targets.styles, strict=True)
        having = [(style.share, own.energy[layer]) for style, own in pairs if layer in own.energy]
        if total := sum(share for share, _ in having):
            wanted = sum(share / total * own for share, own in having)
            ratios.append(energy(feats[layer]) / max(wanted, 1e-12))
    return sum(ratios) / len(ratios) if ratios else None
