"""Swift: any painting at once, by a small network that needs no feature network to stylize; see `networks.swift`."""

import copy
from collections import deque
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.model_files import load_swift
from nstexp.core.networks.moments import Moments, color_moments
from nstexp.core.networks.swift import Filters, PhotoMoments, Swift, SwiftStyle, recolored
from nstexp.core.resize import padded_to_multiple, resize
from nstexp.core.runtime.memory import check_fits, free_bytes
from nstexp.core.runtime.threads import for_each
from nstexp.core.tones import toned, tones
from nstexp.core.torus import wrapped
from nstexp.methods.base import SMALLER_RESULT, Clip, Controls, Export, Style, Stylizer, size_of
from nstexp.methods.seamless import at_whole_steps
from nstexp.methods.settings import SwiftSettings, swift_path
from nstexp.methods.style_memory import StyleMemory
from nstexp.methods.tiles import Part, part_of, tile_parts

if TYPE_CHECKING:  # Lightning takes seconds to import, and stylizing needs none
    from nstexp.methods.swift_training import SwiftTraining
    from nstexp.methods.training import Sources

# Peak memory, measured at 1024 to 3072 px: for each pixel of the picture, and for each pixel of a tile and each byte of
# a number.
BYTES_PER_PIXEL, BYTES_PER_VALUE = 60, 70
UNCHECKED_BYTES = 100e6  # asking for the free memory takes a millisecond, a tenth of a small picture's time
MOST_FRAMES = 8  # of a clip at once, each with its share of the threads
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

    accepts = frozenset({"masks", "style_masks", "seamless"})
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
        self._fast: Swift | None = None  # the network in the number format of the method
        self._filters: deque[tuple[SwiftStyle, Filters]] = deque(maxlen=8)  # of the last styles
        self._styles: StyleMemory[SwiftStyle] = StyleMemory()

    # ----------------------------------------------------------------------------------------------------- stylizing

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """`content` (B, 3, H, W) in the styles, mixed by their shares (only their ratio counts) or by their masks.

        Raises:
            UserError: a picture that is too small, or too large for the memory, or a file that is no such network.
        """
        if controls.seamless:
            return at_whole_steps(content, styles, Swift.multiple, lambda c, s: self._stylized(c, s, controls))
        return self._stylized(content, styles, controls)

    def _stylized(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """`stylize`; with `controls.seamless` the sides of the content are multiples already."""
        height, width = content.shape[-2:]
        self._check_side("content", (height, width), "image_px")
        network, wraps = self.network(), controls.seamless
        margin = 2 * network.reach_px if wraps else 0
        needed = self._bytes((height, width), margin)
        if needed * len(content) > UNCHECKED_BYTES:
            check_fits(needed * len(content), (height, width), "content", SMALLER_RESULT, self.device)
        pixels = height * width
        known = [self._styles.get(style, lambda style: self._style(style, pixels), pixels) for style in styles]
        self._styles.keep_only(styles, pixels)
        photo = padded_to_multiple(content, network.multiple).to(self.device)
        shares = [style.share / sum(style.share for style in styles) for style in styles]
        if any(style.mask is not None for style in styles):
            result = self._by_regions(photo, known, styles, controls.clip, wraps)
        else:
            result = self._painted(photo, SwiftStyle.mixed(known, shares), None, controls.clip, "", wraps)
        result = result[..., :height, :width].to(content.device)
        return result if self.settings.alpha == 1 else torch.lerp(content, result, self.settings.alpha)

    def _bytes(self, size: tuple[int, int], margin: int = 0) -> float:
        """Peak memory for a picture of (height, width); `margin` is what is added to the sides of a tile."""
        height, width = (min(side, self.settings.tile_px) + margin for side in size)
        return BYTES_PER_PIXEL * size[0] * size[1] + BYTES_PER_VALUE * self.dtype.itemsize * height * width

    def frames_at_once(self, size: tuple[int, int]) -> int:
        """As many as PyTorch has threads, if a quarter of the free memory is enough; one if a frame needs tiles."""
        if self.device.type != "cpu" or max(size) > self.settings.tile_px:
            return 1
        fitting = int(free_bytes(self.device) / (4 * self._bytes(size)))
        return max(1, min(torch.get_num_threads(), MOST_FRAMES, fitting))

    def to(self, device: torch.device) -> "SwiftMethod":
        """Move the network, and forget what is known of styles."""
        self.device = torch.device(device)
        self._styles, self._fast = StyleMemory(), None
        self._filters.clear()
        if self._network is not None:
            self._network.to(self.device)
        return self

    def network(self) -> Swift:
        """The network of `method.model`, on the method's device."""
        if self._network is None:
            self._network = load_swift(swift_path(self.settings.model), "method.model")[0].to(self.device)
        return self._network

    def _style(self, style: Style, pixels: int) -> SwiftStyle:
        """What the network keeps of a style picture inside its part, for a photo with so many pixels."""
        picture = style.picture
        wanted = self.settings.style_size(size_of(picture), pixels)
        self._check_side("style", wanted, "method.style_scale")
        network = self.network()
        painting = resize(picture, wanted, "style", "set method.style_scale or method.style_px smaller")
        painting = padded_to_multiple(painting[None], network.multiple)
        part = style.part_at(wanted)
        weights = None if part is None else padded_to_multiple(part[None, None], network.multiple).to(self.device)
        return network.style(painting.to(self.device), torch.float32, weights)  # exact: a painting is read once

    def _by_regions(
        self, photo: Tensor, known: Sequence[SwiftStyle], styles: Sequence[Style], clip: Clip | None, wraps: bool
    ) -> Tensor:
        """Every region in its style, with the statistics of the photo inside the region."""
        masks = torch.stack([style.mask * style.share for style in styles if style.mask is not None]).float()
        masks = masks / masks.sum(0).clamp(min=1e-12)
        masks = padded_to_multiple(masks[None], self.network().multiple).to(self.device)
        result = torch.zeros_like(photo, dtype=torch.float32)
        for number, style in enumerate(known):
            mask = masks[:, number : number + 1]
            if mask.any():
                result += mask * self._painted(photo, style, mask, clip, f"{number} ", wraps)
        return result

    def _painted(
        self, photo: Tensor, style: SwiftStyle, weights: Tensor | None, clip: Clip | None, name: str, wraps: bool
    ) -> Tensor:
        """The photo (B, 3, H, W) in one style, with values in [0, 1].

        Args:
            weights: (1, 1, H, W), where the style counts.
            name: of the statistics in the clip.
            wraps: whether opposite edges of the photo meet.
        """
        result = self._drawn(photo, style, weights, clip, name, wraps).clamp_(0, 1)
        if clip is not None or not self.settings.tones:  # in clips, steep parts of the curves would amplify flicker
            return result
        return toned(result, tones(result, weights), style.tones[None], self.settings.tones).clamp_(0, 1)

    def _drawn(
        self, photo: Tensor, style: SwiftStyle, weights: Tensor | None, clip: Clip | None, name: str, wraps: bool
    ) -> Tensor:
        """What the network makes of the photo, in tiles if it is large; see `_painted`."""
        network, tile_px, filters = self._in_dtype(), self.settings.tile_px, self._filters_of(style)
        smoothed = _over_time(clip, name)
        size = size_of(photo)
        if max(size) <= tile_px and not wraps:
            return self._drawn_whole(photo, style, weights, smoothed)
        colors = smoothed("colors", color_moments(photo, weights))
        around = wrapped(photo, *[network.reach_px] * 4) if wraps else photo
        parts = list(tile_parts(tile_px, size, network.reach_px, network.multiple, wraps))
        # Moments of the whole photo, whatever the tiles; with `wraps` of the photo once, seen on a torus.
        found: tuple[Moments, ...] = ()
        for outer, inner, place in parts:
            features = network.levels(recolored(part_of(around, outer), colors, style), self.dtype)
            within = [_with_frame(x, inner, 2 << level, network.frame_px) for level, x in enumerate(features)]
            part = network.level_moments(within, None if weights is None else part_of(weights, place))
            found = part if not found else tuple(a.joined(b) for a, b in zip(found, part, strict=True))
        own = PhotoMoments(colors, _each(found, smoothed))
        result = torch.empty_like(photo, dtype=torch.float32)
        for outer, inner, place in parts:
            piece = network(part_of(around, outer), style, self.dtype, own, filters)
            part_of(result, place).copy_(part_of(piece, inner))
        return result

    def _drawn_whole(self, photo: Tensor, style: SwiftStyle, weights: Tensor | None, smoothed: "Smoothing") -> Tensor:
        """What the network makes of photos that need no tiles; on a CPU, several are drawn at the same time."""
        network, filters = self._in_dtype(), self._filters_of(style)
        together = 1 if self.device.type == "cpu" else len(photo)
        photos: Sequence[Tensor] = torch.split(photo, together)
        of_colors = Moments.stacked(for_each(lambda one: color_moments(one, weights), photos))
        colors = smoothed("colors", of_colors).split(together)

        def seen(number: int) -> tuple[Tensor, tuple[Tensor, ...], tuple[Moments, ...]]:
            start = recolored(photos[number], colors[number], style)
            levels = network.levels(start, self.dtype)
            return start, levels, network.level_moments(levels, weights)

        parts = for_each(seen, range(len(photos)))
        of_levels = [Moments.stacked(level) for level in zip(*(moments for *_, moments in parts), strict=True)]
        own = [level.split(together) for level in _each(of_levels, smoothed)]

        def painted(number: int) -> Tensor:
            start, levels, _ = parts[number]
            return network.painted(start, levels, [level[number] for level in own], style, filters)

        return torch.cat(for_each(painted, range(len(photos))))

    def _in_dtype(self) -> Swift:
        """The network whose convolutions have the number format of the method."""
        if self._fast is None:
            self._fast = self.network().in_dtype(self.dtype)
        return self._fast

    def _filters_of(self, style: SwiftStyle) -> Filters:
        """The filters of a style in the number format of the method; those of the last styles are kept."""
        for known, filters in self._filters:
            if known is style:
                return filters
        made = self.network().filters(style)
        made = [(w.to(dtype=self.dtype, memory_format=torch.channels_last), b.to(self.dtype)) for w, b in made]
        self._filters.append((style, made))
        return made

    def _check_side(self, key: str, size: tuple[int, int], knob: str) -> None:
        if min(size) < SMALLEST_PX:
            raise UserError(
                f"{key}: the picture is {size[1]}x{size[0]} px, and method=swift needs at least {SMALLEST_PX} px on "
                f"the shorter side: set {knob} larger"
            )

    def exportable(self) -> Export:
        """Photo, painting and `alpha` to picture as one network; the painting is read at its own size.

        Raises:
            UserError: a file that is no such network.
        """
        from nstexp.methods.export import SwiftGraph

        return SwiftGraph(copy.deepcopy(self.network()).cpu(), SMALLEST_PX, self.settings.tones).export()

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


Smoothing = Callable[[str, Moments], Moments]


def _over_time(clip: Clip | None, name: str) -> Smoothing:
    """Averages moments of frames over the frames before: a light that flashes up would change the whole picture.

    Args:
        clip: the clip; None: there is none, and nothing is averaged.
        name: begins the names of the averages in the clip.
    """
    if clip is None:
        return lambda _, moments: moments

    def smoothed(place: str, moments: Moments) -> Moments:
        mean = clip.smoothed(f"{name}{place} mean", moments.mean)
        return Moments(mean, clip.smoothed(f"{name}{place} covariance", moments.cov), moments.count)

    return smoothed


def _each(levels: Sequence[Moments], smoothed: Smoothing) -> tuple[Moments, ...]:
    return tuple(smoothed(f"level {number}", level) for number, level in enumerate(levels))
