"""Swift: any painting at once, by a small network that needs no feature network to stylize; see `networks.swift`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.model_files import load_swift
from nstexp.core.networks.swift import Moments, PhotoMoments, Swift, SwiftStyle, color_moments, recolored
from nstexp.core.resize import padded_to_multiple, resize, size_for_shorter_side
from nstexp.core.runtime.memory import check_fits
from nstexp.methods.base import SMALLER_RESULT, SMALLER_STYLE, Clip, Controls, Export, Style, Stylizer, size_of
from nstexp.methods.settings import SwiftSettings
from nstexp.methods.tiles import Part, part_of, tile_parts

if TYPE_CHECKING:  # Lightning takes seconds to import, and stylizing needs none
    from nstexp.methods.swift_training import SwiftTraining
    from nstexp.methods.training import Sources

# Peak memory, measured at 1024 to 3072 px: for each pixel of the picture, and for each pixel of a tile and each byte of
# a number.
BYTES_PER_PIXEL, BYTES_PER_VALUE = 60, 70
SMALLEST_PX = Swift.frame_px + 1  # of a picture's side


class SwiftMethod(Stylizer):
    """Stylizes with a trained `Swift`, and trains one.

    Args:
        make_encoder: builds the feature network of the losses, which stylizing does without.
        losses: terms and weights, for training.
        trainer: makes a Lightning trainer, for training.
        device: where the network computes.
        dtype: of its arithmetic.
        settings: the fields of `SwiftSettings`.
    """

    accepts = frozenset({"masks"})
    reasons = MappingProxyType(
        {
            "layers": "a network that is trained reads its styles whole; method=gatys takes it",
            "fine": "a network that is trained reads its styles whole; method=gatys takes it",
            "combine": "the network mixes styles by style_weights; method=gatys takes it",
        }
    )
    settings_type = SwiftSettings

    def __init__(
        self,
        make_encoder: Callable[[], Encoder] | None = None,
        losses: LossSet | None = None,
        trainer: Callable[..., Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> None:
        self.settings = SwiftSettings(**settings)
        self.make_encoder, self.losses, self.trainer = make_encoder, losses, trainer
        self.device, self.dtype, self.recipe = torch.device(device), dtype, self.settings.recipe
        self._network: Swift | None = None
        self._styles: dict[int, tuple[Tensor, SwiftStyle]] = {}

    # ----------------------------------------------------------------------------------------------------- stylizing

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """`content` (B, 3, H, W) in the styles, mixed by their shares (only their ratio counts) or by their masks.

        Raises:
            UserError: a picture that is too small, or too large for the memory, or a file that is no such network.
        """
        height, width = content.shape[-2:]
        self._check_side("content", (height, width), "image_px")
        network = self.network()
        whole = min(height, self.settings.tile_px) * min(width, self.settings.tile_px)
        needed = BYTES_PER_PIXEL * height * width + BYTES_PER_VALUE * self.dtype.itemsize * whole
        check_fits(needed * len(content), (height, width), "content", SMALLER_RESULT, self.device)
        known = [self._style(style) for style in styles]
        # Recolored styles are new pictures for every photo: older ones are dropped.
        self._styles = {id(style.image): self._styles[id(style.image)] for style in styles}
        photo = padded_to_multiple(content, network.multiple).to(self.device)
        shares = [style.share / sum(style.share for style in styles) for style in styles]
        if any(style.mask is not None for style in styles):
            result = self._by_regions(photo, known, styles, controls.clip)
        else:
            result = self._painted(photo, SwiftStyle.mixed(known, shares), None, controls.clip, "")
        result = result[..., :height, :width].clamp(0, 1).to(content.device)
        return result if self.settings.alpha == 1 else torch.lerp(content, result, self.settings.alpha)

    def to(self, device: torch.device) -> "SwiftMethod":
        """Move the network."""
        self.device = torch.device(device)
        return self

    def network(self) -> Swift:
        """The network of `method.model`, on the method's device."""
        if self._network is None:
            if self.settings.model is None:
                raise UserError(
                    "method.model has no value yet: give the file that task=train wrote, such as "
                    "method.model=runs/mine/model.safetensors"
                )
            self._network = load_swift(Path(str(self.settings.model)).expanduser(), "method.model")[0]
        return self._network.to(self.device)

    def _style(self, style: Style) -> SwiftStyle:
        """What the network keeps of a style picture, computed once for the pictures of a run."""
        picture = style.picture
        known = self._styles.get(id(picture))
        if known is not None and known[0] is picture:
            return known[1]
        size = size_of(picture)
        wanted = size if self.settings.style_px is None else size_for_shorter_side(size, self.settings.style_px)
        self._check_side("style", wanted, "method.style_px")
        network = self.network()
        painting = padded_to_multiple(resize(picture, wanted, "style", SMALLER_STYLE)[None], network.multiple)
        kept = network.style(painting.to(self.device))  # in float32, which costs little: a painting is read once
        self._styles[id(picture)] = (picture, kept)
        return kept

    def _by_regions(
        self, photo: Tensor, known: Sequence[SwiftStyle], styles: Sequence[Style], clip: Clip | None
    ) -> Tensor:
        """Every region in its style, with the statistics of the photo inside the region."""
        masks = torch.stack([style.mask * style.share for style in styles if style.mask is not None]).float()
        masks = masks / masks.sum(0).clamp(min=1e-12)
        masks = padded_to_multiple(masks[None], self.network().multiple).to(self.device)
        result = torch.zeros_like(photo, dtype=torch.float32)
        for number, style in enumerate(known):
            mask = masks[:, number : number + 1]
            if mask.any():
                result += mask * self._painted(photo, style, mask, clip, f"{number} ")
        return result

    def _painted(
        self, photo: Tensor, style: SwiftStyle, weights: Tensor | None, clip: Clip | None, name: str
    ) -> Tensor:
        """The photo (B, 3, H, W) in one style, in tiles if it is large; `weights` (1, 1, H, W) say where it counts."""
        network, tile_px = self.network(), self.settings.tile_px
        filters = network.filters(style)
        own = self._measured(photo, style, weights)
        if clip is not None:
            own = _over_time(own, clip, name)
        size = size_of(photo)
        if max(size) <= tile_px:
            picture: Tensor = network(photo, style, self.dtype, own, filters)
            return picture
        result = torch.empty_like(photo, dtype=torch.float32)
        for outer, inner, place in tile_parts(tile_px, size, network.reach_px, network.multiple):
            piece = network(part_of(photo, outer), style, self.dtype, own, filters)
            part_of(result, place).copy_(part_of(piece, inner))
        return result

    def _measured(self, photo: Tensor, style: SwiftStyle, weights: Tensor | None) -> PhotoMoments:
        """Moments of the whole photo, whatever the tiles."""
        network, tile_px = self.network(), self.settings.tile_px
        size = size_of(photo)
        if max(size) <= tile_px:
            return network.measure(photo, style, self.dtype, weights)
        colors = color_moments(photo, weights)
        levels: tuple[Moments, ...] = ()
        for outer, inner, place in tile_parts(tile_px, size, network.reach_px, network.multiple):
            features = network.levels(recolored(part_of(photo, outer), colors, style), self.dtype)
            within = [_with_frame(x, inner, 2 << level, network.frame_px) for level, x in enumerate(features)]
            part = network.level_moments(within, None if weights is None else part_of(weights, place))
            levels = part if not levels else tuple(a.joined(b) for a, b in zip(levels, part, strict=True))
        return PhotoMoments(colors, levels)

    def _check_side(self, key: str, size: tuple[int, int], knob: str) -> None:
        if min(size) < SMALLEST_PX:
            raise UserError(
                f"{key}: the picture is {size[1]}x{size[0]} px, and method=swift needs at least {SMALLEST_PX} px on "
                f"the shorter side: set {knob} larger"
            )

    def exportable(self) -> Export:
        """Photo, painting and `alpha` to picture as one network; `style_px` has no part in it.

        Raises:
            UserError: a file that is no such network.
        """
        from nstexp.methods.export import SwiftGraph

        return SwiftGraph(self.network().cpu(), SMALLEST_PX).export()

    # ------------------------------------------------------------------------------------------------------ training

    def training_module(self, sources: "Sources") -> "SwiftTraining":
        """The Lightning module that trains a network.

        Raises:
            UserError: loss terms or sources that such a network has no use for.
        """
        if sources.add_style is not None:
            raise UserError("add_style is for method=cin: a network of method=swift takes any style as it is")
        if sources.style_names is not None:
            raise UserError("style_names is for method=cin: a network of method=swift knows no styles by name")
        from nstexp.methods.swift_training import SwiftTraining

        assert self.make_encoder is not None and self.losses is not None, "the method was made for stylizing only"
        return SwiftTraining(self.make_encoder(), self.losses, self.settings, sources.resume_from, sources.seed)


def _with_frame(x: Tensor, inner: Part, stride: int, frame_px: int) -> Tensor:
    """The positions of a framed map that lie in a part of the picture, and a frame around them."""
    rows, columns = (slice(part.start // stride, (part.stop + 2 * frame_px) // stride) for part in inner)
    return x[..., rows, columns]


def _over_time(own: PhotoMoments, clip: Clip, name: str) -> PhotoMoments:
    """Moments of frames, averaged over the frames before: a light that flashes up would change the whole picture."""

    def smoothed(moments: Moments, place: str) -> Moments:
        mean = clip.smoothed(f"{name}{place} mean", moments.mean)
        return Moments(mean, clip.smoothed(f"{name}{place} covariance", moments.cov), moments.count)

    levels = tuple(smoothed(level, f"level {number}") for number, level in enumerate(own.levels))
    return PhotoMoments(smoothed(own.colors, "colors"), levels)
