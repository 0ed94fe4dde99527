"""The targets of an optimization: the photo's features, the styles' statistics, and the previous frame."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.terms import Role, guided
from nstexp.core.masks import guides
from nstexp.core.names import Combine
from nstexp.core.networks.encoder import BEFORE, IMAGE, TRUST, Encoder, Features
from nstexp.core.resize import resize
from nstexp.core.runtime.cache import tensor_digest
from nstexp.methods.base import Clip, Style
from nstexp.methods.canvas import Canvas
from nstexp.methods.settings import GatysSettings
from nstexp.methods.tiled import TiledLosses
from nstexp.methods.tiling import Plan, Tiling


@dataclass(frozen=True)
class StyleTargets:
    """The targets of one style at one level.

    Args:
        statistics: term -> layer -> the statistics to match.
        energy: layer -> mean squared length of the style's features, see `energy`.
        guides: one mapping, layer -> guide (h, w) in [0, 1]; empty if the style applies everywhere.
    """

    statistics: Mapping[str, Mapping[str, Any]]
    energy: Mapping[str, float]
    guides: tuple[Mapping[str, Tensor], ...]


@dataclass(frozen=True)
class LevelTargets:
    """The targets of all loss terms at one level.

    Args:
        goals: term -> tuples of (share, target) or (share, target, guides), as `LossSet.forward` takes them.
        styles: the targets of each style.
    """

    goals: Mapping[str, Sequence[tuple[Any, ...]]]
    styles: Sequence[StyleTargets]


@dataclass(frozen=True)
class TargetMaker:
    """Computes the targets of a picture at any level.

    Args:
        encoder: reads the styles.
        of_picture: reads the picture and the content: the same network, on a torus if the canvas is one.
        canvas: the content picture with its margin.
        styles: the styles; their masks have the canvas' size.
        combine: see `LossSet.combined`.
        clip: for a frame of a clip: the previous result.
        roles: the roles of the terms to use; empty: all terms. If "content" is left out, the picture gets new strokes
            and keeps its colors.
    """

    encoder: Encoder
    of_picture: Encoder
    losses: LossSet
    settings: GatysSettings
    canvas: Canvas
    styles: Sequence[Style]
    combine: Combine = "weighted_loss"
    clip: Clip | None = None
    roles: Sequence[Role] = ()
    tiling: Tiling = field(default_factory=lambda: Tiling(None, 0))
    _plans: dict[str, Plan | None] = field(default_factory=dict)

    def tiles(self, role: Role, layers: Sequence[str], size: tuple[int, int]) -> TiledLosses | None:
        """Computes the terms on a picture of (height, width) in tiles; None: as a whole.

        Args:
            role: `content` for the picture and the photo, `style` for a style picture.
            layers: the layers that are read.
        """
        encoder = self.of_picture if role == "content" else self.encoder
        what = f"{role} {' '.join(layers)} {size[0]} {size[1]}"
        if what not in self._plans:
            self._plans[what] = self.tiling.plan(encoder, layers, size)
        plan = self._plans[what]
        return None if plan is None else TiledLosses(encoder, self.losses, plan)

    def plans(self) -> dict[str, dict[str, Any] | None]:
        """The choices of `tiles` so far, for `keep_plans`."""
        return {what: None if plan is None else asdict(plan) for what, plan in self._plans.items()}

    def keep_plans(self, plans: Mapping[str, dict[str, Any] | None]) -> None:
        """Choose tiles as before, even if there is more or less memory now, because other tiles round differently."""
        self._plans.update({what: None if plan is None else Plan(**plan) for what, plan in plans.items()})

    def at(self, size: tuple[int, int]) -> LevelTargets:
        """The targets for a canvas of `size` = (height, width)."""
        goals: dict[str, Sequence[tuple[Any, ...]]] = {}
        if not self.roles or "content" in self.roles:
            of_content, _ = self._statistics("content", self.canvas.content, size, self.losses.layers("content"))
            goals = {name: [(1.0, target)] for name, target in of_content.items()}
        if before := self.before():
            resized = {name: self.canvas.resize(image, size) for name, image in before.items()}
            goals |= {name: [(1.0, target)] for name, target in self.losses.targets("before", resized).items()}
        of_styles = [self._style_targets(style, size) for style in self.styles]
        for name in of_styles[0].statistics:
            pairs = [(s.share, targets.statistics[name]) for s, targets in zip(self.styles, of_styles, strict=True)]
            combined = self.losses.combined(name, pairs, self.combine, "style_combine")
            goals[name] = [(*goal, *targets.guides) for goal, targets in zip(combined, of_styles, strict=False)]
        return LevelTargets(goals, of_styles)

    def before(self) -> Features:
        """For a frame of a clip, the previous result warped to this frame and its trust map, both on the canvas.

        Returns:
            `BEFORE` -> (1, 3, H, W) and `TRUST` -> (1, 1, H, W), in [0, 1]; empty for the first frame of a scene and
            for a picture that is not a frame.
        """
        if self.clip is None or self.clip.warped is None or self.clip.trust is None:
            return {}
        return {
            name: self.canvas.extend(image.float()).to(self.encoder.device)
            for name, image in ((BEFORE, self.clip.warped), (TRUST, self.clip.trust))
        }

    def _style_targets(self, style: Style, size: tuple[int, int]) -> StyleTargets:
        scale = size[0] / self.canvas.size[0]
        style_size = self.settings.style_size(style.picture, self.canvas.picture_size, scale)
        guides, part = self._guides(style.mask, size), style.part_at(style_size)
        of_part = None if part is None else self._guides(part, style_size, of_style=True)[0]
        # A layer counts if it has a position in the region of the picture, and in the part of the style picture.
        known = [each for each in (*guides, of_part) if each is not None]
        layers = [layer for layer in self.losses.layers("style") if self._counts(style, layer, known)]
        targets, energy = self._statistics("style", style.picture[None], style_size, layers, of_part, part)
        statistics = {
            name: {layer: found for layer, found in target.items() if self._counts(style, layer, known)}
            for name, target in targets.items()
        }
        return StyleTargets(statistics, energy, guides)

    def _statistics(
        self,
        role: Role,
        image: Tensor,
        size: tuple[int, int],
        layers: Sequence[str],
        guides: Mapping[str, Tensor] | None = None,
        part: Tensor | None = None,
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """The targets of a role's terms from a picture resized to `size`, and the energies of its features.

        The encoder's cache keeps the result for later pictures and runs in the same process.

        Args:
            guides: restrict the statistics to a part of the picture; they follow from `part` and the settings.
            part: (h, w), for the key of the cache.
        """
        wraps = role == "content" and self.canvas.wraps

        def make() -> tuple[dict[str, Any], dict[str, float]]:
            encoder, resized = (self.of_picture, self.canvas.resize) if role == "content" else (self.encoder, resize)
            if tiles := self.tiles(role, layers, size):
                return tiles.targets(role, resized(image, size), layers, guides)
            feats = features(encoder, resized(image, size), layers)
            seen = {layer: guided(feats, layer, guides) for layer in feats if layer != IMAGE and role == "style"}
            return self.losses.targets(role, feats, guides), {layer: energy(x) for layer, x in seen.items()}

        if self.losses.identity is None:
            return make()
        of_part = () if part is None else (self.settings.guide, tensor_digest(part))
        of_picture = (str(self.encoder.device), tensor_digest(image), of_part)
        key = (self.losses.identity, role, wraps, size, tuple(layers), *of_picture)
        return self.encoder.memory.get(key, make)

    def _counts(self, style: Style, layer: str, guides: Sequence[Mapping[str, Tensor]]) -> bool:
        return all(layer in each for each in guides) and counts(self.encoder, style, layer, self.roles)

    def _guides(
        self, mask: Tensor | None, size: tuple[int, int], of_style: bool = False
    ) -> tuple[dict[str, Tensor], ...]:
        """The guides of a mask (H, W) at a level, see `StyleTargets`.

        Args:
            of_style: whether the mask is of a style picture, which never lies on a torus.
        """
        if mask is None:
            return ()
        mask = (resize if of_style else self.canvas.resize)(mask[None, None], size)[0, 0]
        per_layer = guides(mask, self.encoder, self.losses.layers("style"), self.settings.guide)
        return ({name: guide.to(self.encoder.device) for name, guide in per_layer.items()},)


def counts(encoder: Encoder, style: Style, layer: str, roles: Sequence[Role] = ()) -> bool:
    """Whether a style is matched at a layer, according to `Style.layers` (masks are not considered)."""
    if style.layers is None:
        return True
    # Terms that read the pixels (`IMAGE`) match the colors of every style; fine strokes (roles given) have no colors.
    canonical = encoder.canonical
    return not roles if layer == IMAGE else canonical(layer) in map(canonical, style.layers)


def layers_in_use(
    encoder: Encoder, losses: LossSet, styles: Sequence[Style], roles: Sequence[Role] = ()
) -> tuple[str, ...]:
    """The layers that the terms of these roles read; of the style layers, only those that some style uses."""
    others = losses.layers(*(role for role in roles or ("content", "style", "image") if role != "style"))
    of_styles = [x for x in losses.layers("style") if any(counts(encoder, style, x, roles) for style in styles)]
    return tuple(dict.fromkeys([*others, *of_styles]))


def min_side_for_styles(maker: TargetMaker) -> int:
    """Shortest side of the canvas, in pixels, at which every style picture is large enough for its deepest layer."""
    encoder, canvas, sides = maker.encoder, maker.canvas, [1]
    for style in maker.styles:
        layers = [x for x in maker.losses.layers("style") if counts(encoder, style, x, maker.roles)]
        side = min(maker.settings.style_size(style.picture, canvas.picture_size))
        sides.append(math.ceil(encoder.min_side_px(layers) * min(canvas.size) / side))
    return max(sides)


@torch.no_grad()
def features(encoder: Encoder, image: Tensor, layers: Sequence[str]) -> Features:
    """Features of an image (B, 3, H, W) without gradients: layer -> (B, C, h, w)."""
    return encoder(image.to(encoder.device), layers)


def energy(feats: Tensor) -> float:
    """Mean squared length of the feature vectors (1, C, H, W), which is the trace of the Gram matrix per position."""
    dtype = torch.promote_types(feats.dtype, torch.float32)
    return float(torch.linalg.vector_norm(feats, dtype=dtype)) ** 2 / feats[0, 0].numel()


def trace_ratio(
    losses: LossSet, styles: Sequence[Style], targets: LevelTargets, of_picture: Mapping[str, float]
) -> float | None:
    """The picture's energy at the style layers divided by the styles' energy (averaged by their shares).

    The energy is the trace of the Gram matrix, see `energy`; the ratio is averaged over the layers. None with masks,
    since each style's energy then belongs to its region only.

    Args:
        of_picture: layer -> energy of the picture; the other layers do not count.
    """
    if any(of_style.guides for of_style in targets.styles):
        return None
    ratios = []
    for layer in (layer for layer in losses.layers("style") if layer in of_picture):
        pairs = zip(styles, targets.styles, strict=True)
        energies = [(style.share, of_style.energy[layer]) for style, of_style in pairs if layer in of_style.energy]
        if total := sum(share for share, _ in energies):
            wanted = sum(share / total * value for share, value in energies)
            ratios.append(of_picture[layer] / max(wanted, 1e-12))
    return sum(ratios) / len(ratios) if ratios else None
