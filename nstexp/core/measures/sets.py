"""Measures that compare all results with all paintings, and `SetScorer`, which collects the pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nstexp.core.measures.learned import InceptionFeatures, Pixels
from nstexp.core.measures.terms import SetMeasure, SetRole, about


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
        device = next(self.network.parameters()).device
        features: Tensor = self.network(picture.to(device))
        return features[0].double().cpu()

    def forward(self, results: Sequence[Tensor], styles: Sequence[Tensor], known: Mapping[str, float]) -> float:
        return frechet_distance(*_set_moments(results), *_set_moments(styles))


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
        self.measures = dict(measures)
        self.facts = {name: about(measure) for name, measure in self.measures.items()}
        self.results: list[dict[str, object]] = []  # per picture: measure -> features
        self.styles: list[dict[str, object]] = []
        missing = {need for facts in self.facts.values() for need in facts.needs if need not in self.measures}
        self.numbers: dict[str, list[float]] = {name: [] for name in sorted(missing)}  # one number per result

    def add(self, result: Tensor, numbers: Mapping[str, float] | None = None) -> None:
        """Add a result (3, H, W); it is clipped to [0, 1].

        Args:
            numbers: measures of this result. Without them, set measures that need them are not computed.
        """
        self.results.append(self._features(result))
        for name, values in self.numbers.items():
            if numbers and name in numbers:
                values.append(float(numbers[name]))

    def add_style(self, style: Tensor) -> None:
        """Add a painting (3, H, W); it is clipped to [0, 1]."""
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
    def _features(self, picture: Tensor) -> dict[str, object]:
        picture = picture.float().clamp(0, 1)[None]
        return {name: measure.features(picture) for name, measure in self.measures.items()}
