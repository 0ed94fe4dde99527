"""`Scorer`: measures of finished pictures, with the same network for all methods."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nstexp.core.errors import ArgumentError, UserError, whole
from nstexp.core.measures.color import ColorCovariance, ColorMean, PaletteDistance
from nstexp.core.measures.faults import Chroma, Halo, Weave
from nstexp.core.measures.features import content_loss, style_gram, style_moments, style_swd
from nstexp.core.measures.learned import LPIPS
from nstexp.core.measures.sets import SetScorer
from nstexp.core.measures.structure import CFSD, SSIM, Edge
from nstexp.core.measures.terms import Measure, SetMeasure, about, check_measure
from nstexp.core.networks.encoder import IMAGE, Encoder, Features
from nstexp.core.resize import resize, size_for_longer_side, size_for_pixels
from nstexp.core.runtime.cache import TensorCache, tensor_digest

CACHE_BYTES = 384 * 2**20
DEFAULT: dict[str, Callable[[], Measure]] = {  # the measures that need no download
    "style_gram": style_gram,
    "style_moments": style_moments,
    "style_swd": style_swd,
    "content_loss": content_loss,
    "cfsd": CFSD,
    "ssim": SSIM,
    "edge": Edge,
    "lpips": LPIPS,
    "color_mean": ColorMean,
    "color_cov": ColorCovariance,
    "palette_distance": PaletteDistance,
    "chroma": Chroma,
    "halo": Halo,
    "weave": Weave,
}
DEFAULT_NAMES = tuple(DEFAULT)


def default_measures() -> dict[str, Measure]:
    """Name -> measure, for the measures that a Scorer uses by default."""
    return {name: make() for name, make in DEFAULT.items()}


class Scorer:
    """Measures finished pictures with one network, independently of the networks that methods optimize with.

    A style measure is computed for every painting and averaged by the paintings' shares. Measures of sets of pictures
    are computed by the `SetScorer` that `of_set` returns.

    The result leaves out a measure for which a picture is too small: ssim needs a side of 11 px, edge 12 px, lpips
    47 px, and an encoder layer two positions (relu5_1: 32 px). The statistics of recent photos and paintings are
    cached, up to 384 MB.

    Args:
        encoder: the network of the measures.
        measures: name -> measure of a picture or of a set; None: `default_measures()`.
        longer_side_px: results whose longer side is larger are reduced to it, and paintings are resized to the number
            of pixels of the result, since the statistics of a style depend on its scale. None: no picture is resized.

    Raises:
        ArgumentError: an object that is not a measure, a layer that the encoder does not have, a set measure without
            the measures that it needs, or an invalid longer_side_px.
    """

    def __init__(
        self,
        encoder: Encoder,
        measures: Mapping[str, Measure | SetMeasure] | None = None,
        longer_side_px: int | None = 512,
    ) -> None:
        measures = default_measures() if measures is None else dict(measures)
        for name, measure in measures.items():
            check_measure(name, measure)
            _check_needs(name, about(measure).needs, measures)
            _check_layers(name, about(measure).layers, encoder)
        if longer_side_px is not None:
            whole("longer_side_px", longer_side_px, 1)
        self.encoder, self.longer_side_px = encoder, longer_side_px
        self.measures: dict[str, Measure] = {n: m for n, m in measures.items() if m.role != "set"}
        self.set_measures: dict[str, SetMeasure] = {n: m for n, m in measures.items() if m.role == "set"}
        self.higher_is_better = [name for name, measure in measures.items() if about(measure).higher_is_better]
        self._memory = TensorCache(CACHE_BYTES)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the measures of a picture, in the order of the results."""
        return tuple(self.measures)

    @property
    def set_names(self) -> tuple[str, ...]:
        """Names of the measures of a set of pictures."""
        return tuple(self.set_measures)

    def only(self, names: Iterable[str]) -> "Scorer":
        """A scorer that computes those measures of pictures that are named, with the same networks and cache."""
        some = copy.copy(self)
        some.measures = {name: measure for name, measure in self.measures.items() if name in {*names}}
        some.set_measures = {}
        return some

    def to(self, device: torch.device | str) -> "Scorer":
        """Move the networks to a device, and forget cached statistics."""
        for part in (self.encoder, *self.measures.values(), *self.set_measures.values()):
            if hasattr(part, "to"):
                part.to(device)
        self._memory.clear()
        return self

    @torch.no_grad()
    def __call__(
        self, result: Tensor, content: Tensor | None, styles: Sequence[tuple[Tensor, float]]
    ) -> dict[str, float]:
        """Measure one result.

        Args:
            result: (3, H, W); it is clipped to [0, 1], as saving does.
            content: the photo, (3, H, W) in [0, 1]; it is resized to the result's size. None: no content measures.
            styles: pairs (painting (3, H, W) in [0, 1], share); shares need not sum to 1. Empty: no style measures.

        Returns:
            Name -> value, for the measures that can be computed.

        Raises:
            UserError: shares that are negative, not finite or all 0.
        """
        styles = _shares(styles)
        size = self._size(result)
        sizes = [self._style_size(style, size) for style, _ in styles]
        available = {"content": content is not None, "style": bool(styles), "image": True}
        measures = {
            name: measure
            for name, measure in self.measures.items()
            if available[measure.role] and self._possible(measure, [size, *(sizes if measure.role == "style" else [])])
        }
        content_targets = {} if content is None else self._targets("content", content, size, measures)
        style_targets = [
            self._targets("style", style, s, measures) for (style, _), s in zip(styles, sizes, strict=True)
        ]
        no_targets: dict[str, Any] = {}
        goals = {
            "content": [(1.0, content_targets)],
            "style": [(share, targets) for (_, share), targets in zip(styles, style_targets, strict=True)],
            "image": [(1.0, no_targets)],
        }
        feats = self._features(result.clamp(0, 1), size, measures.values())
        return {
            name: sum(share * float(measure.forward(feats, goal.get(name))) for share, goal in goals[measure.role])
            for name, measure in measures.items()
        }

    def references(self, content: Tensor, styles: Sequence[tuple[Tensor, float]]) -> dict[str, dict[str, float]]:
        """The measures of the unchanged inputs, for comparison with those of a result.

        Returns:
            `photo`: measures of the photo itself; `painting`: measures of the painting with the largest share (the
            first, if several are equal), resized to the photo's size without keeping its aspect ratio.
        """

        def make() -> dict[str, dict[str, float]]:
            rows = {"photo": self(content, content, styles)}
            if styles:
                painting = max(styles, key=lambda style: style[1])[0]
                rows["painting"] = self(resize(painting, self._size(content)), content, styles)
            return rows

        key = ("references", tensor_digest(content), *((tensor_digest(style), share) for style, share in styles))
        return self._memory.get(key, make)

    def described(self) -> dict[str, str]:
        """Measure -> description as text: network and weights, layers, unit, and the size of the pictures."""
        network = self.encoder.described
        px = "own size" if self.longer_side_px is None else f"longer side at most {self.longer_side_px} px"
        descriptions = {}
        for name, measure in self.measures.items():
            facts = about(measure)
            source = facts.identity or (network if facts.layers else "no network")
            parts = (source, _in_words(facts.layers), facts.unit, px)
            descriptions[name] = ", ".join(part for part in parts if part)
        return descriptions

    def of_set(self) -> SetScorer | None:
        """An empty SetScorer for the measures of sets; None if there are no such measures."""
        return SetScorer(self.set_measures) if self.set_measures else None

    def _size(self, picture: Tensor) -> tuple[int, int]:
        """The size at which a result is measured."""
        size = (picture.shape[-2], picture.shape[-1])
        px = self.longer_side_px
        return size if px is None or max(size) <= px else size_for_longer_side(size, px)

    def _style_size(self, style: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        """The size at which a painting is measured, for a result of the size `size`."""
        style_size = (style.shape[-2], style.shape[-1])
        return style_size if self.longer_side_px is None else size_for_pixels(style_size, size[0] * size[1])

    def _possible(self, measure: Measure, sizes: Sequence[tuple[int, int]]) -> bool:
        facts = about(measure)
        return min(map(min, sizes)) >= max(facts.min_side_px, self.encoder.min_side_px(facts.layers))

    def _features(self, picture: Tensor, size: tuple[int, int], measures: Iterable[Measure]) -> Features:
        layers = tuple(dict.fromkeys(layer for measure in measures for layer in about(measure).layers))
        picture = resize(picture.float().to(self.encoder.device), size)
        return self.encoder(picture[None], layers) if layers else {IMAGE: picture[None]}

    def _targets(
        self, role: str, picture: Tensor, size: tuple[int, int], measures: Mapping[str, Measure]
    ) -> dict[str, Any]:
        """Name -> target, for the measures of one role, from the photo or a painting; cached."""
        chosen = {name: measure for name, measure in measures.items() if measure.role == role}

        def make() -> dict[str, Any]:
            feats = self._features(picture, size, chosen.values())
            return {name: measure.target(feats) for name, measure in chosen.items()}

        return self._memory.get((tensor_digest(picture), size, *chosen), make) if chosen else {}


def _check_needs(name: str, needs: Sequence[str], measures: Mapping[str, Any]) -> None:
    missing = [need for need in needs if need not in measures or need == name]
    if missing:
        problem = f": it needs {' and '.join(needs)}, but {missing[0]} is not among the measures"
        raise ArgumentError(name, problem)


def _check_layers(name: str, layers: Sequence[str], encoder: Encoder) -> None:
    for layer in layers:
        try:
            encoder.canonical(layer)
        except UserError as error:
            raise ArgumentError(name, f": {error}") from error


def _in_words(layers: Sequence[str]) -> str:
    """The names of layers as text, with the series relu1_1, relu2_1, ... shortened to its ends.

    Examples:
        >>> _in_words(["relu1_1", "relu2_1", "relu3_1"]), _in_words(["relu2_1", "relu4_1"])
        ('relu1_1 ... relu3_1', 'relu2_1 + relu4_1')
    """
    regular = [f"relu{block}_1" for block in range(1, len(layers) + 1)]
    return f"{layers[0]} ... {layers[-1]}" if len(layers) > 1 and list(layers) == regular else " + ".join(layers)


def _shares(styles: Sequence[tuple[Tensor, float]]) -> list[tuple[Tensor, float]]:
    """The styles with shares that sum to 1, without paintings of share 0."""
    shares = [float(share) for _, share in styles]
    if any(not math.isfinite(share) or share < 0 for share in shares) or (styles and not sum(shares)):
        raise UserError(f"the shares of the styles are {shares}: finite numbers, 0 or larger, not all 0")
    return [(style, share / sum(shares)) for (style, _), share in zip(styles, shares, strict=True) if share]
