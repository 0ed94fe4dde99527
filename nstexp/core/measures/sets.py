"""Measures that compare all results with all paintings, and `SetScorer`, which collects the pictures."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nstexp.core.errors import ArgumentError, UserError, whole
from nstexp.core.intervals import LEAST_LABELS, drawn_counts, interval_of
from nstexp.core.measures.learned import InceptionFeatures, Pixels
from nstexp.core.measures.terms import SetMeasure, SetRole, about
from nstexp.core.networks.encoder import Encoder
from nstexp.core.resize import resize, size_for_pixels
from nstexp.core.runtime.cache import tensor_digest

DRAWS = 400  # resamples of a set for an interval


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor, eps: float = 0.0) -> float:
    """Squared Frechet distance of two normal distributions, 0 or larger.

    Dowson & Landau 1982, as used by Heusel et al. 2017: |mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^1/2), in float64. The
    trace of (S1 S2)^1/2 is computed as that of the symmetric (S1^1/2 S2 S1^1/2)^1/2, whose eigenvalues are real;
    eigenvalues that are negative by rounding count as 0.

    Args:
        mean1, mean2: means (D,).
        cov1, cov2: covariances (D, D).
        eps: added to both diagonals. Other implementations need 1e-6 for covariances of less than full rank, because
            they compute the root of S1 S2; this one needs none.

    Examples:
        >>> mean, cov = torch.zeros(2), torch.eye(2)
        >>> round(frechet_distance(mean, cov, mean + 3, 4 * cov), 6)
        20.0
    """
    mean1, cov1, mean2, cov2 = (x.cpu().double() for x in (mean1, cov1, mean2, cov2))
    ridge = eps * torch.eye(len(mean1), dtype=torch.float64)
    cov1, cov2 = cov1 + ridge, cov2 + ridge
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inner = root @ cov2 @ root
    overlap = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    return max(0.0, float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap))


def frechet_distances(x: Tensor, y: Tensor, x_counts: Tensor, y_counts: Tensor) -> Tensor:
    """`frechet_distance` of the moments of two sets, for many sets that repeat the same vectors -> (R,), float64.

    With centered vectors as the columns of A and B, S1 = A A^T and S2 = B B^T, and Tr (S1 S2)^1/2 is the sum of the
    singular values of A^T B. This matrix has the size of the sets, not of the vectors, and its parts are computed once.

    Args:
        x, y: vectors (n, D) and (m, D).
        x_counts, y_counts: how often each vector is present, 0 or larger: (R, n) and (R, m).

    Returns:
        Distances; nan for sets with fewer than two vectors.

    Examples:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> y = torch.tensor([[1.0], [5.0], [7.0]])
        >>> counts = torch.tensor([[1, 1, 0], [0, 0, 0]])
        >>> [round(d, 3) for d in frechet_distances(x, y, torch.ones(2, 2), counts).tolist()]
        [6.0, nan]
    """
    x, y = x.double(), y.double()
    products = x @ y.T  # (n, m)
    found = [_repeated(x, y, products, *counts) for counts in zip(x_counts.double(), y_counts.double(), strict=True)]
    return torch.tensor(found, dtype=torch.float64)


def _repeated(x: Tensor, y: Tensor, products: Tensor, x_count: Tensor, y_count: Tensor) -> float:
    """The distance for one row of counts."""
    n, m = x_count.sum(), y_count.sum()
    if min(n, m) < 2:
        return float("nan")
    mean_x, mean_y = x_count @ x / n, y_count @ y / m
    centered = products - (x @ mean_y)[:, None] - y @ mean_x + mean_x @ mean_y
    between = centered * (x_count / (n - 1)).sqrt()[:, None] * (y_count / (m - 1)).sqrt()  # A^T B
    smaller = between.T @ between if len(x) > len(y) else between @ between.T
    overlap = torch.linalg.eigvalsh(smaller).clamp(min=0).sqrt().sum()
    spread_x = x_count @ (x - mean_x).square().sum(1) / (n - 1)
    spread_y = y_count @ (y - mean_y).square().sum(1) / (m - 1)
    return max(0.0, float((mean_x - mean_y).square().sum() + spread_x + spread_y - 2 * overlap))


def art_fid(fid: float, lpips: float) -> float:
    """(1 + FID)(1 + LPIPS), 1 or larger: style and content in one number (Wright & Ommer 2022).

    Examples:
        >>> art_fid(fid=19.0, lpips=0.5)
        30.0
    """
    return (1 + fid) * (1 + lpips)


class FID(nn.Module):
    """Frechet distance of the features of all results and all paintings (Heusel et al. 2017), 0 or larger.

    The features are modeled by normal distributions. The value increases as the number of pictures decreases, above all
    with fewer pictures than features (2048), so compare only runs with equal numbers of pictures.

    Args:
        network: maps pictures (B, 3, H, W) in [0, 1] to features (B, D), and has an `identity`, its name as text.
    """

    role: SetRole = "set"
    min_pictures = 2
    unit = ""
    identity: str

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.identity = network, str(network.identity)

    def features(self, picture: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (D,), float64 on the CPU."""
        device = next(chain(self.network.parameters(), self.network.buffers())).device
        features: Tensor = self.network(picture.to(device))
        return features[0].double().cpu()

    def forward(self, results: Sequence[Tensor], styles: Sequence[Tensor], known: Mapping[str, float]) -> float:
        return frechet_distance(*_set_moments(results), *_set_moments(styles))

    def resampled(
        self, results: Sequence[Tensor], styles: Sequence[Tensor], result_counts: Tensor, style_counts: Tensor
    ) -> Tensor:
        """The value of sets in which each picture is present several times, or not at all.

        Args:
            results, styles: n and m vectors (D,), from `features`.
            result_counts: how often each result is present, in each of R sets (R, n).
            style_counts: the same of the paintings (R, m).

        Returns:
            Values (R,); nan for sets of fewer than two pictures.
        """
        return frechet_distances(torch.stack(list(results)), torch.stack(list(styles)), result_counts, style_counts)


class PooledFeatures(nn.Module):
    """Mean activations of an encoder's layer over all positions, for `FID`: one number per channel.

    Args:
        encoder: the network.
        layer: the layer. The default is the deepest one with a name in the papers, whose means no bundled network was
            trained on.
        side_px: pictures are resized, in their own shape, to as many pixels as a square of this side has.

    Raises:
        ArgumentError: a layer that the encoder does not have, or pictures too small for it.
    """

    def __init__(self, encoder: Encoder, layer: str = "relu5_1", side_px: int = 256) -> None:
        super().__init__()
        try:
            self.layer = encoder.canonical(layer)
        except UserError as error:
            raise ArgumentError("layer", f": {error}") from error
        whole("side_px", side_px, encoder.min_side_px([self.layer]))
        self.encoder, self.side_px = encoder, side_px
        self.identity = f"{encoder.described}, mean activations of {layer}, as many pixels as {side_px}x{side_px}"

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C)."""
        size = (pictures.shape[-2], pictures.shape[-1])
        pictures = resize(pictures, size_for_pixels(size, self.side_px**2))
        return self.encoder(pictures, [self.layer])[self.layer].float().mean((2, 3))


def vgg_fid(encoder: Encoder, layer: str = "relu5_1", side_px: int = 256) -> FID:
    """`FID` with `PooledFeatures` in place of Inception's features. Published FIDs cannot be compared with it.

    The arguments are those of `PooledFeatures`.
    """
    return FID(PooledFeatures(encoder, layer, side_px))


def inception_fid(weights: str | Path | None = None, side_px: int | None = 299, pixels: Pixels = "symmetric") -> FID:
    """`FID` with `InceptionFeatures`; the arguments are those of `InceptionFeatures`."""
    return FID(InceptionFeatures(weights, side_px, pixels))


class ArtFID:
    """`art_fid` of the measures named `fid` and `lpips`."""

    role: SetRole = "set"
    needs = ("fid", "lpips")
    unit = "(1 + fid)(1 + mean lpips)"

    def features(self, picture: Tensor) -> None:
        """Returns None: the measure needs no features, only the values of other measures."""

    def forward(self, results: Sequence[None], styles: Sequence[None], known: Mapping[str, float]) -> float:
        return art_fid(known["fid"], known["lpips"])


def _set_moments(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of vectors (D,)."""
    matrix = torch.stack(list(rows))
    return matrix.mean(0), matrix.T.cov()


class SetScorer:
    """Collects the results and the paintings of a run, and computes measures of sets.

    Args:
        measures: name -> measure.
    """

    def __init__(self, measures: Mapping[str, SetMeasure]) -> None:
        self.measures: dict[str, Any] = dict(measures)
        self.facts = {name: about(measure) for name, measure in self.measures.items()}
        self.results: list[dict[str, Any]] = []  # per picture: measure -> features
        self.styles: list[dict[str, Any]] = []
        self.pairs: list[tuple[str, str | None]] = []  # photo and painting of each result
        self.paintings: list[str] = []
        self._known: dict[str, dict[str, Any]] = {}  # digest of a picture -> its features
        missing = {need for facts in self.facts.values() for need in facts.needs if need not in self.measures}
        self.numbers: dict[str, list[float]] = {name: [] for name in sorted(missing)}  # one number per result

    def add(
        self, result: Tensor, numbers: Mapping[str, float] | None = None, pair: tuple[str, str | None] | None = None
    ) -> None:
        """Add a result (3, H, W); it is clipped to [0, 1].

        Args:
            numbers: measures of this result. Without them, set measures that need them are not computed.
            pair: the names of its photo and its painting, for `intervals`; None: a photo of its own, and no painting.
        """
        self.add_known(self._features(result), numbers, pair)

    def add_known(
        self,
        features: Mapping[str, Any],
        numbers: Mapping[str, float] | None = None,
        pair: tuple[str, str | None] | None = None,
    ) -> None:
        """Add a result by its features, an entry of `results`; the other arguments are those of `add`."""
        self.pairs.append(pair or (f"photo of result {len(self.pairs)}", None))
        self.results.append(dict(features))
        for name, values in self.numbers.items():
            if numbers and name in numbers:
                values.append(float(numbers[name]))

    def add_style(self, style: Tensor, name: str | None = None) -> None:
        """Add a painting (3, H, W); it is clipped to [0, 1].

        Args:
            name: the name that the pairs of results have for it.
        """
        self.paintings.append(f"painting {len(self.paintings)}" if name is None else name)
        self.styles.append(self._features(style))

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """Measure -> value, for the measures that have enough pictures and the other measures that they need."""
        count = len(self.results)
        known = {n: sum(values) / count for n, values in self.numbers.items() if values and len(values) == count}
        for name in sorted(self.measures, key=self._depth):
            if name not in self.too_few() and all(need in known for need in self.facts[name].needs):
                results, styles = ([picture[name] for picture in pictures] for pictures in (self.results, self.styles))
                known[name] = float(self.measures[name].forward(results, styles, known))
        return {name: known[name] for name in self.measures if name in known}

    @torch.no_grad()
    def intervals(self, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Measure -> interval of its value for other photos and paintings, for the measures that can be resampled.

        Photos and paintings are drawn with replacement, each kind on its own. A result counts as often as its photo is
        drawn times as often as its painting is, see `core.intervals`.

        Args:
            level: the level of the interval.
            seed: seed of the draws.
        """
        chosen = [name for name, m in self.measures.items() if hasattr(m, "resampled") and name not in self.too_few()]
        generator = np.random.default_rng(seed)
        of_photo = _draws([photo for photo, _ in self.pairs], generator)
        of_painting = _draws([*self.paintings, *(painting for _, painting in self.pairs if painting)], generator)
        units = [len(kind) for kind in (of_photo, of_painting) if len(kind) >= LEAST_LABELS]
        if not chosen or not units:
            return {}
        result_counts = torch.stack([of_photo[c] * (of_painting[s] if s else 1) for c, s in self.pairs], 1)
        style_counts = torch.stack([of_painting[name] for name in self.paintings], 1)
        values = self.compute()
        found = {}
        for name in chosen:
            results, styles = ([picture[name] for picture in pictures] for pictures in (self.results, self.styles))
            resampled = self.measures[name].resampled(results, styles, result_counts, style_counts)
            found[name] = interval_of(values[name], resampled.numpy(), min(units), level)
        return found

    def too_few(self) -> dict[str, int]:
        """Measure -> required number of results and of paintings, for the measures with too few pictures."""
        count = min(len(self.results), len(self.styles))
        return {name: facts.min_pictures for name, facts in self.facts.items() if count < facts.min_pictures}

    def described(self) -> dict[str, str]:
        """Measure -> description as text: unit, network, and the numbers of pictures."""
        count = f"{len(self.results)} results, {len(self.styles)} paintings"
        descriptions = {}
        for name, facts in self.facts.items():
            sources = [facts, *(self.facts[need] for need in facts.needs if need in self.facts)]
            parts = (facts.unit, *(source.identity for source in sources), count)
            descriptions[name] = ", ".join(part for part in parts if part)
        return descriptions

    def _depth(self, name: str) -> int:
        """0 for a measure that needs no other set measure, else 1 more than the deepest one that it needs."""
        return max((1 + self._depth(need) for need in self.facts[name].needs if need in self.measures), default=0)

    @torch.no_grad()
    def _features(self, picture: Tensor) -> dict[str, Any]:
        picture = picture.float().clamp(0, 1)[None]
        key = tensor_digest(picture)
        if key not in self._known:  # a photo comes again with every painting
            self._known[key] = {name: measure.features(picture) for name, measure in self.measures.items()}
        return self._known[key]


def _draws(names: Sequence[str], generator: np.random.Generator) -> dict[str, Tensor]:
    """Name -> how often it is drawn, in each of `DRAWS` draws; fewer than `LEAST_LABELS` names count once each."""
    distinct = list(dict.fromkeys(names))
    if len(distinct) < LEAST_LABELS:
        return {name: torch.ones(DRAWS, dtype=torch.float64) for name in distinct}
    counts = drawn_counts(len(distinct), DRAWS, generator)
    return dict(zip(distinct, torch.from_numpy(counts).unbind(1), strict=True))
