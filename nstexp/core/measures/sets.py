"""Measures of a set of pictures against a set of paintings, and a SetScorer that collects the pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nstexp.core.measures.learned import InceptionFeatures, Pixels
from nstexp.core.measures.terms import Role, SetMeasure, about


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor, eps: float = 0.0) -> float:
    """Squared Frechet distance of two normal distributions with means (D,) and covariances (D, D), 0 or larger.

    Dowson & Landau 1982, as used by Heusel et al. 2017: |mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^1/2), in float64.
    (S1 S2)^1/2 has the trace of the symmetric (S1^1/2 S2 S1^1/2)^1/2, whose eigenvalues are real; what rounding makes
    negative is 0.

    Args:
        eps: added to both diagonals. Codes that take a root of the product need it (1e-6) if a covariance has less than
            full rank; this one does not.
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
    """(1 + FID)(1 + LPIPS), 1 or larger: style and content in one number (Wright & Ommer 2022)."""
    return (1 + fid) * (1 + lpips)


class FID(nn.Module):
    """Frechet distance of the features of all results and all paintings (Heusel et al. 2017), 0 or larger.

    It compares normal distributions of features. With fewer pictures than features (2048) the covariances have less
    than full rank, and the fewer there are the larger is the value: compare runs with equal numbers of pictures only.

    Args:
        network: pictures (B, 3, H, W) in [0, 1] -> (B, D); has an `identity`.
    """

    role: Role = "set"
    min_pictures = 2
    unit = ""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.identity = network, network.identity

    def features(self, picture: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (D,), float64 on the CPU."""
        device = next(self.network.parameters()).device
        return self.network(picture.to(device))[0].double().cpu()

    def forward(self, results: Sequence[Tensor], styles: Sequence[Tensor], known: Mapping[str, float]) -> float:
        return frechet_distance(*_set_moments(results), *_set_moments(styles))


def inception_fid(weights: str | Path | None = None, side_px: int | None = 299, pixels: Pixels = "symmetric") -> FID:
    """`FID` by `InceptionFeatures`, which takes the arguments."""
    return FID(InceptionFeatures(weights, side_px, pixels))


class ArtFID:
    """`art_fid`, of the measures called `fid` and `lpips`."""

    role: Role = "set"
    needs = ("fid", "lpips")
    unit = "(1 + fid)(1 + mean lpips)"

    def features(self, picture: Tensor) -> None:
        """Nothing but the other measures counts."""

    def forward(self, results: Sequence[None], styles: Sequence[None], known: Mapping[str, float]) -> float:
        return art_fid(known["fid"], known["lpips"])


def _set_moments(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of vectors (D,)."""
    matrix = torch.stack(list(rows))
    return matrix.mean(0), matrix.T.cov()


class SetScorer:
    """Collects the results of a whole run and its paintings, for measures of sets.

    Args:
        measures: name -> measure.
    """

    def __init__(self, measures: Mapping[str, SetMeasure]) -> None:
        self.measures = dict(measures)
        self.facts = {name: about(measure) for name, measure in self.measures.items()}
        self.results: list[dict[str, object]] = []  # of each what every measure keeps
        self.styles: list[dict[str, object]] = []
        of_pictures = {need for facts in self.facts.values() for need in facts.needs if need not in self.measures}
        self.numbers: dict[str, list[float]] = {name: [] for name in sorted(of_pictures)}

    def add(self, result: Tensor, numbers: Mapping[str, float] | None = None) -> None:
        """Count a result (3, H, W), clipped to [0, 1].

        Args:
            numbers: its own measures, without which there is no measure that needs them.
        """
        self.results.append(self._features(result))
        for name, own in self.numbers.items():
            if name in (numbers or {}):
                own.append(float(numbers[name]))

    def add_style(self, style: Tensor) -> None:
        """Count a painting (3, H, W)."""
        self.styles.append(self._features(style))

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """Every measure that there are enough pictures for and, of every result, the measures that it needs."""
        count = len(self.results)
        known = {name: sum(own) / count for name, own in self.numbers.items() if own and len(own) == count}
        for name in sorted(self.measures, key=self._depth):
            if name not in self.too_few() and all(need in known for need in self.facts[name].needs):
                kept = ([picture[name] for picture in pictures] for pictures in (self.results, self.styles))
                known[name] = float(self.measures[name].forward(*kept, known))
        return {name: known[name] for name in self.measures if name in known}

    def too_few(self) -> dict[str, int]:
        """Measure -> how many results and how many paintings it needs, of those that have fewer."""
        count = min(len(self.results), len(self.styles))
        return {name: facts.min_pictures for name, facts in self.facts.items() if count < facts.min_pictures}

    def described(self) -> dict[str, str]:
        """Measure -> what computes it, with the numbers of pictures."""
        count = f"{len(self.results)} results, {len(self.styles)} paintings"
        said = {}
        for name, facts in self.facts.items():
            made_of = [facts, *(self.facts[need] for need in facts.needs if need in self.facts)]
            said[name] = ", ".join(part for part in (facts.unit, *(f.identity for f in made_of), count) if part)
        return said

    def _depth(self, name: str) -> int:
        """0 for a measure that needs no other one of sets."""
        return max((1 + self._depth(need) for need in self.facts[name].needs if need in self.measures), default=0)

    @torch.no_grad()
    def _features(self, picture: Tensor) -> dict[str, object]:
        picture = picture.float().clamp(0, 1)[None]
        return {name: measure.features(picture) for name, measure in self.measures.items()}
