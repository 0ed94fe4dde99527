"""Content term of coherence: neighboring positions of the result differ as those of the photo do."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import name_list, number, whole
from nstexp.core.losses.terms import Role, accumulator, total_of
from nstexp.core.networks.encoder import Features

Coherence = tuple[Tensor, Tensor]  # directions (B, C, P), and the length below which a difference has none (B, 1, 1)

NEIGHBORS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
# Steps of the two-dimensional sequence that fills a square most evenly (Roberts 2018): 1 / g and 1 / g^2 with
# g^3 = g + 1. Its points are as even as a grid's and need no choice of rows and columns.
STEPS = (0.7548776662466927, 0.5698402909980532)
SHORTEST = 0.03  # differences shorter than this, relative to their root mean square, hardly have a direction


@lru_cache(maxsize=32)
def neighbor_pairs(height: int, width: int, samples: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Positions of a map, spread evenly, with their neighbors -> two lists of indices into H W positions, each (P,).

    The positions depend on the arguments alone, so that every step, picture, batch and resumed run has the same.

    Args:
        samples: number of positions; fewer where the map has fewer, or where two would fall together.
        seed: seed of the shift of all positions.

    Returns:
        The index of a position, and the index of one of its up to 8 neighbors in the map, for every pair.

    Examples:
        >>> [indices.tolist() for indices in neighbor_pairs(1, 3)]
        [[0, 1, 1, 2], [1, 0, 2, 1]]
    """
    if samples >= height * width:
        chosen = list(range(height * width))
    else:
        shift = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        points = (torch.arange(samples, dtype=torch.float64)[:, None] * torch.tensor(STEPS).double() + shift) % 1
        rows, columns = (points * torch.tensor([height, width])).long().unbind(1)
        chosen = sorted(set((rows * width + columns).tolist()))
    pairs = [
        (index, (index // width + dy) * width + index % width + dx)
        for index in chosen
        for dy, dx in NEIGHBORS
        if 0 <= index // width + dy < height and 0 <= index % width + dx < width
    ]
    here, there = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    return here, there


def differences(x: Tensor, samples: int = 64, seed: int = 0) -> Tensor:
    """Differences of the features (B, C, H, W) of neighboring positions, see `neighbor_pairs` -> (B, C, P), float32 or
    float64.

    Examples:
        >>> differences(torch.tensor([[[[1.0, 3.0, 6.0]]]])).tolist()
        [[[2.0, -2.0, 3.0, -3.0]]]
    """
    here, there = (indices.to(x.device) for indices in neighbor_pairs(*x.shape[-2:], samples, seed))
    flat = x.flatten(2)
    return flat[..., there].to(accumulator(x)) - flat[..., here].to(accumulator(x))


def coherence_target(difference: Tensor) -> Coherence:
    """The directions of differences (B, C, P), and the shortest length that counts (B, 1, 1), for `coherence_loss`."""
    mean_square = difference.square().sum(1).mean(1) if difference.shape[-1] else difference.new_zeros(len(difference))
    shortest = (SHORTEST * mean_square.sqrt()).clamp(min=1e-6)[:, None, None]
    return _directions(difference, shortest), shortest


def coherence_loss(difference: Tensor, target: Coherence, temperature: float = 0.07) -> Tensor:
    """Whether every difference (B, C, P) points where its own target does, rather than where others do -> scalar, a
    mean over pairs and over the batch.

    The contrastive coherence preserving loss of Wu et al. 2022: the cross entropy of finding a pair's
    target among the targets of all pairs of the picture, by the cosine over the temperature. It differs from the paper
    in that the features are compared themselves, without a projection that is learned, and in that a pair counts by
    the squared length of its target's direction, which is 1 except where the photo is flat and has no direction.

    Args:
        target: see `coherence_target`.
        temperature: smaller: pairs that are nearly alike are told apart, too.

    Examples:
        >>> difference = torch.eye(8)[None]  # 8 pairs that have nothing in common
        >>> target = coherence_target(difference)
        >>> [round(float(coherence_loss(d, target)), 4) for d in (difference, 0 * difference)]  # and ln 8
        [0.0, 2.0794]
    """
    wanted, shortest = target
    found = _directions(difference, shortest.to(difference))
    wanted = wanted.to(found)
    counts = wanted.square().sum(1)  # (B, P)
    if not counts.shape[1]:
        return difference.sum() * 0
    cosines = found.mT @ wanted  # (B, P, P)
    own = torch.arange(counts.shape[1], device=counts.device).expand_as(counts)
    each = F.cross_entropy((cosines / temperature).flatten(0, 1), own.flatten(), reduction="none").view_as(counts)
    return ((each * counts).sum(1) / counts.sum(1).clamp(min=1e-12)).mean()


def _directions(difference: Tensor, shortest: Tensor) -> Tensor:
    """Differences (B, C, P) scaled to length 1, and to less where they are about as short as `shortest` (B, 1, 1)."""
    return difference / (difference.square().sum(1, keepdim=True) + shortest.square()).sqrt()


class CoherenceLoss(nn.Module):
    """Content term: `coherence_loss` summed over layers. Places that look alike in the photo stay alike in the result,
    so that a network that is trained with it flickers less in clips.

    Args:
        layers: names of the layers whose features are compared.
        samples: number of positions in each layer; each is compared with its 8 neighbors.
        temperature: see `coherence_loss`.
        seed: seed of the positions, which are the same at every step.
    """

    role: Role = "content"
    unit = "cross entropy of pairs of neighbors"

    def __init__(self, layers: Sequence[str], samples: int = 64, temperature: float = 0.07, seed: int = 0) -> None:
        super().__init__()
        self.layers = name_list("layers", layers, "relu3_1")
        self.samples = whole("samples", samples, 1, 1024)
        self.temperature = number("temperature", temperature, above=0, high=10)
        self.seed = whole("seed", seed)

    def target(self, feats: Features) -> dict[str, Coherence]:
        return {name: coherence_target(self._differences(feats[name].detach())) for name in self.layers}

    def forward(self, feats: Features, target: dict[str, Coherence]) -> Tensor:
        return total_of([coherence_loss(self._differences(feats[n]), target[n], self.temperature) for n in self.layers])

    def _differences(self, x: Tensor) -> Tensor:
        return differences(x, self.samples, self.seed)
