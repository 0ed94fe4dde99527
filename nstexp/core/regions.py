"""Regions that a photo and paintings have in common: clusters of encoder features, with edges that follow the picture.

Positions of all pictures are clustered together by k-means, so that a region of the photo and one of a painting match
if they are parts of the same cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.errors import whole
from nstexp.core.guided import guided_filter
from nstexp.core.networks.encoder import Encoder
from nstexp.core.resize import resize, size_for_longer_side

LAYER = "relu4_1"
LONGER_PX = 256  # pictures are analyzed at this size: 32 positions of the layer on the longer side
POSITION = 0.2  # weight of a position, from -1 to 1 over the picture, beside features of length 1
COMPONENTS = 32  # principal components that are clustered, for speed
STARTS, ROUNDS = 8, 50  # of k-means
SOFTNESS = 0.25  # of memberships, in units of the mean squared distance from the nearest center
LEAST_SHARE = 0.02  # smaller parts of a picture are no region
FINE_PX, FINE_EPS = 512, 1e-4  # size at which edges are refined, and the variance of colors that counts as an edge


@dataclass(frozen=True)
class Clusters:
    """Clusters of positions in several pictures.

    Args:
        origin: (C + 2,), the mean of all vectors.
        basis: (C + 2, D), the principal components.
        centers: (K, D), the centers of the clusters; the cluster with most positions comes first.
        spread: mean squared distance of the vectors from the nearest center.
    """

    origin: Tensor
    basis: Tensor
    centers: Tensor
    spread: float

    def memberships(self, vectors: Tensor) -> Tensor:
        """How far each position belongs to each cluster: (h, w, C + 2) -> (K, h, w) in [0, 1], sum 1.

        The softmax of the negative squared distances from the centers, averaged over 3x3 positions, which removes
        single positions that differ from their neighbors.
        """
        distances = torch.cdist((vectors - self.origin) @ self.basis, self.centers).square()
        soft = torch.softmax(-distances / (SOFTNESS * max(self.spread, 1e-12)), -1).permute(2, 0, 1)
        return F.avg_pool2d(F.pad(soft[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]


@torch.no_grad()
def features_of(encoder: Encoder, image: Tensor, layer: str = LAYER, longer_px: int = LONGER_PX) -> Tensor:
    """Features of length 1 of a picture (3, H, W), RGB in [0, 1], averaged over 3x3 positions: (h, w, C), float32.

    Args:
        encoder: the feature network.
        longer_px: the picture is resized to about this longer side.
    """
    stride, least = encoder.stride(layer), encoder.min_side_px([layer])
    height, width = image.shape[-2:]
    sides = size_for_longer_side((height, width), longer_px)
    size = tuple(max(least, stride, round(side / stride) * stride) for side in sides)
    found = encoder(resize(image, (size[0], size[1]))[None].to(encoder.device), [layer])[layer].float()
    smooth = F.avg_pool2d(found, 3, 1, 1, count_include_pad=False)[0]
    return F.normalize(smooth, dim=0).permute(1, 2, 0)


def with_positions(features: Tensor, mean: Tensor) -> Tensor:
    """Vectors to cluster: features (h, w, C) less a mean (C,), and the weighted position, (h, w, C + 2).

    With the mean of each picture removed, what all of a photo has and all of a painting lacks does not separate them.

    Examples:
        >>> with_positions(torch.ones(1, 3, 1), torch.ones(1))[0]
        tensor([[ 0.0000, -0.2000,  0.0000],
                [ 0.0000,  0.0000,  0.0000],
                [ 0.0000,  0.2000,  0.0000]])
    """
    height, width = features.shape[:2]
    x, y = (_centered(side).to(features) for side in (width, height))
    at = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
    return torch.cat([features - mean, POSITION * at], -1)


def _centered(count: int) -> Tensor:
    return torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1)


def clusters_of(vectors: Sequence[Tensor], count: int, seed: int = 0) -> Clusters:
    """Cluster the positions of several pictures together by k-means.

    The best of several starts by k-means++ (Arthur & Vassilvitskii 2007). Every picture counts alike, whatever its
    shape.

    Args:
        vectors: of each picture, (h, w, D), see `with_positions`.
        count: number of clusters K.
        seed: of the starts; the same seed gives the same clusters.

    Raises:
        ArgumentError: `count` is not a whole number from 1 on.

    Examples:
        >>> one, other = torch.zeros(2, 2, 3), torch.ones(2, 2, 3)
        >>> found = clusters_of([torch.cat([one, other]), torch.cat([one, one])], count=2)
        >>> found.memberships(torch.cat([one, other])).argmax(0).tolist()
        [[0, 0], [0, 0], [1, 1], [1, 1]]
    """
    whole("count", count, 1)
    flat = [v.flatten(0, 1) for v in vectors]
    x = torch.cat(flat)
    weights = torch.cat([torch.full((len(v),), 1 / len(v)) for v in flat]).to(x)
    weights = weights / weights.sum()
    origin = weights @ x
    centered = x - origin
    # In float64, so that neither the order of the sum nor the device changes the components visibly.
    scatter = (centered.double().T * weights.double()) @ centered.double()
    basis = torch.linalg.eigh(scatter.cpu())[1][:, -COMPONENTS:].to(x)
    x = centered @ basis
    generator = torch.Generator().manual_seed(seed)
    found = [_k_means(x, weights, _start(x, weights, count, generator)) for _ in range(STARTS)]
    spread, centers = min(found, key=lambda pair: pair[0])
    shares = torch.stack([weights[torch.cdist(x, centers).argmin(1) == k].sum() for k in range(count)])
    return Clusters(origin, basis, centers[shares.argsort(descending=True, stable=True)], spread)


def _start(x: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centers by k-means++: each is a vector, drawn in proportion to its squared distance from those before."""
    chosen = [int(torch.multinomial(weights.cpu(), 1, generator=generator))]
    for _ in range(count - 1):
        distances = torch.cdist(x, x[chosen]).amin(1).square() * weights
        chosen.append(int(torch.multinomial(distances.cpu() + 1e-12, 1, generator=generator)))
    return x[chosen]


def _k_means(x: Tensor, weights: Tensor, centers: Tensor) -> tuple[float, Tensor]:
    """Lloyd's iterations: the weighted mean squared distance from the nearest center, and the centers."""
    for _ in range(ROUNDS):
        nearest = F.one_hot(torch.cdist(x, centers).argmin(1), len(centers)).to(x) * weights[:, None]
        mass = nearest.sum(0)[:, None]
        moved = torch.where(mass > 0, nearest.T @ x / mass.clamp(min=1e-12), centers)  # an empty cluster stays
        if torch.allclose(moved, centers, atol=1e-6):
            break
        centers = moved
    return float((torch.cdist(x, centers).amin(1).square() * weights).sum()), centers


@dataclass(frozen=True)
class Match:
    """Which clusters make a region, in the photo and in each painting.

    Args:
        photo: for each region, the clusters in the photo.
        paintings: for each region, for each painting, the clusters in the painting.
    """

    photo: tuple[tuple[int, ...], ...]
    paintings: tuple[tuple[tuple[int, ...], ...], ...]


def match_regions(photo: Tensor, paintings: Sequence[Tensor], centers: Tensor) -> Match:
    """Match regions of a photo with regions of paintings.

    A cluster with less than 2 % of a picture is no region there: its positions belong to the nearest cluster that is
    one. A region of the photo takes the same cluster of each painting, or the nearest one that the painting has.
    Regions of the photo that take the same of all paintings are joined.

    Args:
        photo: memberships (K, h, w).
        paintings: memberships of each painting (K, h', w').
        centers: of the clusters, (K, D).

    Examples:
        >>> photo = torch.eye(3)[:, :, None]  # three clusters, a third of the picture each
        >>> match = match_regions(photo, [photo[:, :2]], torch.tensor([[0.0], [1.0], [1.2]]))
        >>> match.photo, match.paintings
        (((0,), (1, 2)), (((0,),), ((1,),)))
    """
    of_photo, of_paintings = (
        _nearest_present(photo, centers),
        [_nearest_present(painting, centers) for painting in paintings],
    )
    regions: dict[tuple[int, ...], list[int]] = {}
    for own in sorted(set(of_photo)):
        regions.setdefault(tuple(homes[own] for homes in of_paintings), []).append(own)
    return Match(
        tuple(tuple(k for k, own in enumerate(of_photo) if own in members) for members in regions.values()),
        tuple(
            tuple(
                tuple(k for k, own in enumerate(homes) if own == taken and (k == own or _is_there(painting, k)))
                for taken, homes, painting in zip(key, of_paintings, paintings, strict=True)
            )
            for key in regions
        ),
    )


def _nearest_present(memberships: Tensor, centers: Tensor) -> list[int]:
    """For each cluster, the nearest cluster that is a region of the picture; itself, if it is one."""
    count = len(centers)
    shares = memberships.argmax(0).flatten().bincount(minlength=count) / memberships[0].numel()
    there = (shares >= min(LEAST_SHARE, float(shares.max()))).to(centers.device)
    distances = torch.cdist(centers, centers).masked_fill(~there, float("inf"))
    return [k if there[k] else int(distances[k].argmin()) for k in range(count)]


def _is_there(memberships: Tensor, cluster: int) -> bool:
    return bool((memberships.argmax(0) == cluster).any())


def assign_regions(photo: Tensor, paintings: Sequence[Tensor], centers: Tensor) -> tuple[tuple[int, ...], ...]:
    """Give each region of a photo to one painting as a whole: for each painting, the clusters in the photo.

    A painting gets the regions of which it has more than the others; before that, each painting gets one region, as far
    as there are enough.

    Args:
        photo, paintings, centers: see `match_regions`.

    Examples:
        >>> photo = torch.eye(3)[:, :, None]
        >>> assign_regions(photo, [photo[:, 1:], photo[:, :1]], torch.eye(3))
        ((1, 2), (0,))
    """
    homes = _nearest_present(photo, centers)
    likeness = torch.stack([painting.flatten(1).mean(1) for painting in paintings], 1).tolist()  # (K, paintings)
    own = sorted(set(homes))
    best = sorted(((likeness[k][s], -k, -s) for k in own for s in range(len(paintings))), reverse=True)
    owner: dict[int, int] = {}
    for _, k, s in best:
        if -k not in owner and -s not in owner.values():
            owner[-k] = -s
    for _, k, s in best:
        owner.setdefault(-k, -s)
    return tuple(tuple(k for k, home in enumerate(homes) if owner[home] == s) for s in range(len(paintings)))


def summed_in_groups(memberships: Tensor, groups: Sequence[Sequence[int]], size: tuple[int, int]) -> Tensor:
    """Memberships (K, h, w) added up by groups of clusters and resized: (number of groups, *size)."""
    summed = torch.stack([memberships[list(group)].sum(0) for group in groups])
    return F.interpolate(summed[None], size=size, mode="bilinear", align_corners=False)[0]


def coarse_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which memberships of a picture of `size` are kept between the frames of a clip."""
    return size_for_longer_side(size, min(LONGER_PX, max(size)))


def with_refined_edges(memberships: Tensor, image: Tensor) -> Tensor:
    """Memberships with edges where the picture has edges.

    Args:
        memberships: (K, h, w) in [0, 1].
        image: the picture, RGB (3, H, W) in [0, 1].

    Returns:
        (K, H, W) in [0, 1], with sum 1 if K > 1 and the memberships sum to 1.
    """
    total = F.interpolate(memberships.sum(0)[None, None], size=image.shape[-2:], mode="bilinear", align_corners=False)
    found = _filtered(memberships, image).clamp(0, 1)
    rest = (1 - total[0, 0]).clamp(0, 1)
    return found / (found.sum(0) + rest).clamp(min=1e-6)


def _filtered(memberships: Tensor, image: Tensor) -> Tensor:
    """Memberships (K, h, w) at the size of the image (3, H, W), with edges where the image has them (guided filter)."""
    size = (int(image.shape[-2]), int(image.shape[-1]))
    step, radius = max(1, max(size) // FINE_PX), max(1, round(max(size) / 32))
    triples = F.pad(memberships, (0, 0, 0, 0, 0, -len(memberships) % 3)).view(-1, 3, *memberships.shape[1:])
    result = torch.empty(*triples.shape[:2], *size, device=image.device)
    for k, three in enumerate(triples):  # the maps of all together take gigabytes for a large picture
        enlarged = F.interpolate(three[None], size=size, mode="bilinear", align_corners=False)
        result[k] = guided_filter(image[None], enlarged, radius, FINE_EPS, step)[0]
    return result.flatten(0, 1)[: len(memberships)]
