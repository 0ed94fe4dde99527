"""Measures finished pictures, with one network for all methods."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nstexp.core.errors import ArgumentError, UserError, whole
from nstexp.core.measures.color import ColorCovariance, ColorMean, PaletteDistance
from nstexp.core.measures.faults import Chroma, Halo, Weave
from nstexp.core.measures.features import content_loss, style_gram, style_moments, style_swd
from nstexp.core.measures.sets import SetScorer
from nstexp.core.measures.structure import CFSD, SSIM
from nstexp.core.measures.terms import Measure, SetMeasure, about, check_measure
from nstexp.core.networks.encoder import IMAGE, Encoder, Features
from nstexp.core.resize import resize, size_for_longer_side, size_for_pixels
from nstexp.core.runtime.cache import TensorCache, tensor_digest

CACHE_BYTES = 384 * 2**20
DEFAULT: dict[str, Callable[[], Measure]] = {  # all that need no download
    "style_gram": style_gram,
    "style_moments": style_moments,
    "style_swd": style_swd,
    "content_loss": content_loss,
    "cfsd": CFSD,
    "ssim": SSIM,
    "color_mean": ColorMean,
    "color_cov": ColorCovariance,
    "palette_distance": PaletteDistance,
    "chroma": Chroma,
    "halo": Halo,
    "weave": Weave,
}
DEFAULT_NAMES = tuple(DEFAULT)


def default_measures() -> dict[str, Measure]:
    """The measures of a Scorer that is given none, by name."""
    return {name: make() for name, make in DEFAULT.items()}


class Scorer:
    """Measures finished pictures by one and the same network, whatever was optimized with which.

    Measures of style are taken against every painting alone; their value is the mean by the paintings' shares. Measures
    of sets of pictures are computed by what `of_set` returns.

    A measure that a picture is too small for is left out of the result: ssim needs 11 px, lpips 47, one of the encoder
    two positions at each side of its deepest layer (relu5_1: 32 px). The statistics of the last photos and paintings
    are kept, up to 384 MB: the same pictures given again cost nothing again.

    Args:
        encoder: the measuring network.
        measures: name -> measure, of a picture or of a set; None: `default_measures()`.
        longer_side_px: larger pictures are reduced to this longer side before they are measured, and paintings are
            resized to as many pixels as the result has, since a style's statistics depend on its scale; None: every
            picture is measured in its own size.

    Raises:
        ArgumentError: what is no measure, a layer that the encoder does not have, a measure of sets without those that
            it needs, or a size that is no whole number.
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
        """The measures of a picture, in the order in which they are returned."""
        return tuple(self.measures)

    @property
    def set_names(self) -> tuple[str, ...]:
        """The measures of a set of pictures."""
        return tuple(self.set_measures)

    def to(self, device: torch.device | str) -> "Scorer":
        """Move the networks."""
        for part in (self.encoder, *self.measures.values(), *self.set_measures.values()):
            if hasattr(part, "to"):
                part.to(device)
        self._memory.clear()
        return self

    @torch.no_grad()
    def __call__(
        self, result: Tensor, content: Tensor | None, styles: Sequence[tuple[Tensor, float]]
    ) -> dict[str, float]:
        """All measures of one result that can be computed, by name.

        Args:
            result: (3, H, W), clipped to [0, 1] as it is when it is saved.
            content: the photo, (3, H, W) in [0, 1], resized to the result's size; None: no measures of content.
            styles: (painting (3, H, W) in [0, 1], share); shares need not sum to 1; empty: no measures of style.

        Raises:
            UserError: shares that are negative, not finite or all 0.
        """
        styles = _shares(styles)
        size = self._size(result)
        sizes = [self._style_size(style, size) for style, _ in styles]
        there = {"content": content is not None, "style": bool(styles), "image": True}
        wanted = {
            name: measure
            for name, measure in self.measures.items()
            if there[measure.role] and self._possible(measure, [size, *(sizes if measure.role == "style" else [])])
        }
        of_content = {} if content is None else self._kept("content", content, size, wanted)
        of_styles = [self._kept("style", style, s, wanted) for (style, _), s in zip(styles, sizes, strict=True)]
        goals = {
            "content": [(1.0, of_content)],
            "style": [(share, kept) for (_, share), kept in zip(styles, of_styles, strict=True)],
            "image": [(1.0, {})],
        }
        feats = self._features(result.clamp(0, 1), size, wanted.values())
        return {
            name: sum(share * float(measure.forward(feats, kept.get(name))) for share, kept in goals[measure.role])
            for name, measure in wanted.items()
        }

    def references(self, content: Tensor, styles: Sequence[tuple[Tensor, float]]) -> dict[str, dict[str, float]]:
        """The same measures of two pictures nobody had to make, beside which those of a result can be read.

        Returns:
            `photo`: of the photo itself, which shows what a measure gives for doing nothing; `painting`: of the
            painting with the largest share (the first of equal ones), resized to the photo's size whatever its aspect.
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
        """Measure -> what computes it: network and weights, layers, unit, and the size of the pictures."""
        network = self.encoder.described
        px = "own size" if self.longer_side_px is None else f"longer side at most {self.longer_side_px} px"
        said = {}
        for name, measure in self.measures.items():
            facts = about(measure)
            by = facts.identity or (network if facts.layers else "no network")
            said[name] = ", ".join(part for part in (by, _in_words(facts.layers), facts.unit, px) if part)
        return said

    def of_set(self) -> SetScorer | None:
        """For the measures of a set of pictures, one set; None if there are none among the measures."""
        return SetScorer(self.set_measures) if self.set_measures else None

    def _size(self, picture: Tensor) -> tuple[int, int]:
        """The size in which a result is measured."""
        size = tuple(picture.shape[-2:])
        px = self.longer_side_px
        return size if px is None or max(size) <= px else size_for_longer_side(size, px)

    def _style_size(self, style: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        own = tuple(style.shape[-2:])
        return own if self.longer_side_px is None else size_for_pixels(own, size[0] * size[1])

    def _possible(self, measure: Measure, sizes: Sequence[tuple[int, int]]) -> bool:
        facts = about(measure)
        return min(map(min, sizes)) >= max(facts.min_side_px, self.encoder.min_side_px(facts.layers))

    def _features(self, picture: Tensor, size: tuple[int, int], measures: Sequence[Measure]) -> Features:
        layers = tuple(dict.fromkeys(layer for measure in measures for layer in about(measure).layers))
        # Where no network is asked for, the pictures stay where they are.
        picture = resize(picture.float().to(self.encoder.device), size)
        return self.encoder(picture[None], layers) if layers else {IMAGE: picture[None]}

    def _kept(self, role: str, picture: Tensor, size: tuple[int, int], wanted: Mapping[str, Measure]) -> dict[str, Any]:
        """Name -> what measures of a role keep of the photo or a painting."""
        own = {name: measure for name, measure in wanted.items() if measure.role == role}

        def make() -> dict[str, Any]:
            feats = self._features(picture, size, own.values())
            return {name: measure.target(feats) for name, measure in own.items()}

        return self._memory.get((tensor_digest(picture), size, *own), make) if own else {}


def _check_needs(name: str, needs: Sequence[str], measures: Mapping[str, Any]) -> None:
    missing = [need for need in needs if need not in measures or need == name]
    if missing:
        raise ArgumentError(name, f": it is made of {' and '.join(needs)}, but {missing[0]} is not among the measures")


def _check_layers(name: str, layers: Sequence[str], encoder: Encoder) -> None:
    for layer in layers:
        try:
            encoder.canonical(layer)
        except UserError as error:
            raise ArgumentError(name, f": {error}") from error


def _in_words(layers: Sequence[str]) -> str:
    """The names of layers; of relu1_1, relu2_1 and so on only the first and the last."""
    regular = [f"relu{block}_1" for block in range(1, len(layers) + 1)]
    return f"{layers[0]} ... {layers[-1]}" if len(layers) > 1 and list(layers) == regular else " + ".join(layers)


def _shares(styles: Sequence[tuple[Tensor, float]]) -> list[tuple[Tensor, float]]:
    """Shares that sum to 1, without paintings that have none."""
    shares = [float(share) for _, share in styles]
    if any(not math.isfinite(share) or share < 0 for share in shares) or (styles and not sum(shares)):
        raise UserError(f"the shares of the styles are {shares}: finite numbers, 0 or larger, not all 0")
    return [(style, share / sum(shares)) for (style, _), share in zip(styles, shares, strict=True) if share]
