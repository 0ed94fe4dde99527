"""Each feed-forward method as one network from pictures to pictures of any size, for task=export."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.losses.stats import adain, moments
from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.generators import Generator
from nstexp.core.networks.swift import Swift
from nstexp.core.runtime.files import json_text
from nstexp.core.tones import toned, tones
from nstexp.methods.base import Export

CONTENT_AXES = {0: "batch", 2: "height", 3: "width"}
STYLE_AXES = {0: "style_batch", 2: "style_height", 3: "style_width"}


class GeneratorGraph(nn.Module):
    """`FeedForward.stylize` without masks, as one network."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, content: Tensor, style_weights: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Stylized pictures, RGB (B, 3, H, W) in [0, 1].

        Args:
            content: RGB (B, 3, H, W) in [0, 1]; H and W are `smallest_side` or more.
            style_weights: (B or 1, N), only for conditional normalization; each row is divided by its sum.
            noise: (B, noise channels, H, W), uniform in [0, 1], only for a generator with noise.
        """
        height, width = content.shape[-2:]
        multiple = self.generator.multiple
        mix = None
        if style_weights is not None:
            mix = _repeated(style_weights / style_weights.sum(1, keepdim=True), content)
        noise = None if noise is None else _padded(noise, multiple)
        result: Tensor = self.generator(_padded(content, multiple), mix, noise)
        return result[..., :height, :width].clamp(0, 1)

    @property
    def smallest_side(self) -> int:
        """Shortest side of a picture, in pixels: reflection padding needs more pixels than it adds."""
        return 1 + max(self.generator.multiple, getattr(self.generator, "start_pad_px", 0))

    def export(self, styles: Sequence[str]) -> Export:
        """This network with examples of its inputs.

        Args:
            styles: the names of the learned styles.
        """
        mixes = bool(self.generator.norms) and self.generator.settings["norm"] == "conditional"
        channels = self.generator.noise_channels
        described = {"content": "photos, (batch, 3, height, width)"}
        axes = {"content": CONTENT_AXES}
        if mixes:
            described["style_weights"] = "weights of the styles, (batch or 1, styles); only their ratio counts"
            axes["style_weights"] = {0: STYLE_AXES[0]}
        if channels:
            described["noise"] = f"uniform in [0, 1], (batch, {channels}, height, width)"
            axes["noise"] = CONTENT_AXES

        def inputs(batch: int, size: tuple[int, int], weights: Tensor, seed: int) -> dict[str, Tensor]:
            named = {"content": example_pictures(batch, 3, size, seed)}
            named |= {"style_weights": weights} if mixes else {}
            random = torch.Generator().manual_seed(seed)
            return named | ({"noise": torch.rand(batch, channels, *size, generator=random)} if channels else {})

        random = torch.Generator().manual_seed(0)
        example, *sizes = example_sizes(self.smallest_side, self.generator.multiple)
        one_hot, mixed = torch.eye(len(styles))[-1:], torch.rand(1, len(styles), generator=random)
        per_picture = torch.rand(3, len(styles), generator=random)
        checks = [inputs(1, sizes[0], one_hot, 1), inputs(2, sizes[1], mixed, 2), inputs(3, sizes[2], per_picture, 3)]
        metadata = {"styles": json_text(list(styles), ensure_ascii=False)}
        return Export(
            self.eval(), inputs(2, example, per_picture[:2], 0), axes, self.smallest_side, checks, described, metadata
        )


class AdaINGraph(nn.Module):
    """`AdaIN.stylize` for one style without masks, as one network.

    Args:
        layer, eps, unbiased: see `AdaINSettings`.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, layer: str, eps: float, unbiased: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.layer, self.eps, self.unbiased = layer, eps, unbiased

    def forward(self, content: Tensor, style: Tensor, alpha: Tensor) -> Tensor:
        """Stylized pictures, RGB (B, 3, H, W) in [0, 1].

        Args:
            content: RGB (B, 3, H, W) in [0, 1]; H and W are `smallest_side` or more.
            style: RGB (B or 1, 3, H', W') in [0, 1], used at this size; H' and W' are `smallest_side` or more.
            alpha: strength, a tensor without axes, from 0 (statistics of the photo) to 1 (statistics of the style).
        """
        height, width = content.shape[-2:]
        features = self._encoded(content)
        of_style = moments(self._encoded(style), self.eps, self.unbiased)
        mean, std = (_repeated(statistic, content) for statistic in of_style)
        shifted = adain(features, moments(features, self.eps, self.unbiased), (mean, std), alpha)
        result: Tensor = self.decoder(shifted)
        return result[..., :height, :width].clamp(0, 1)

    def _encoded(self, image: Tensor) -> Tensor:
        return self.encoder(_padded(image, self.encoder.stride(self.layer)), [self.layer])[self.layer]

    @property
    def smallest_side(self) -> int:
        """Shortest side of a picture, in pixels; the same as for `AdaIN.stylize`."""
        return self.encoder.min_side_px([self.layer])

    def export(self) -> Export:
        """This network with examples of its inputs."""

        def inputs(
            batch: int, size: tuple[int, int], styles: int, style_size: tuple[int, int], alpha: float, seed: int
        ) -> dict[str, Tensor]:
            content = example_pictures(batch, 3, size, seed)
            style = example_pictures(styles, 3, style_size, 100 + seed)
            return {"content": content, "style": style, "alpha": torch.tensor(alpha)}

        example, a, b, c = example_sizes(self.smallest_side, self.encoder.stride(self.layer))
        checks = [inputs(1, a, 1, b, 1.0, 1), inputs(2, b, 1, c, 0.6, 2), inputs(3, c, 3, a, 0.0, 3)]
        described = {
            "content": "photos, (batch, 3, height, width)",
            "style": "style pictures, (batch or 1, 3, style_height, style_width), used at the size they have",
            "alpha": "strength, an array without axes: from 0, the photo as the decoder reproduces it, to 1, all style",
        }
        axes: dict[str, dict[int, str]] = {"content": CONTENT_AXES, "style": STYLE_AXES, "alpha": {}}
        return Export(self.eval(), inputs(2, example, 2, a, 0.5, 0), axes, self.smallest_side, checks, described)


class SwiftGraph(nn.Module):
    """`SwiftMethod.stylize` for one style without masks.

    Args:
        smallest_side: of pictures, in pixels.
        strength: of the curves that bring the colors to the painting's, see `SwiftSettings.tones`.
    """

    def __init__(self, network: Swift, smallest_side: int, strength: float) -> None:
        super().__init__()
        self.network, self.smallest_side, self.strength = network, smallest_side, strength

    def forward(self, content: Tensor, style: Tensor, alpha: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] -> the same shape and range.

        Args:
            content: H and W are `smallest_side` or more.
            style: RGB (1, 3, H', W') in [0, 1], likewise; used at this size.
            alpha: (), from 0, the photo, to 1, all style.
        """
        height, width = content.shape[-2:]
        multiple = self.network.multiple
        kept = self.network.style(_padded(style, multiple))
        result = self.network(_padded(content, multiple), kept).clamp(0, 1)
        if self.strength:
            result = toned(result, tones(result), kept.tones[None], self.strength).clamp(0, 1)
        return torch.lerp(content, result[..., :height, :width], alpha)

    def export(self) -> Export:
        """This network with examples of its inputs."""

        def inputs(
            batch: int, size: tuple[int, int], style_size: tuple[int, int], alpha: float, seed: int
        ) -> dict[str, Tensor]:
            content = example_pictures(batch, 3, size, seed)
            style = example_pictures(1, 3, style_size, 100 + seed)
            return {"content": content, "style": style, "alpha": torch.tensor(alpha)}

        example, a, b, c = example_sizes(self.smallest_side, self.network.multiple)
        checks = [inputs(1, a, b, 1.0, 1), inputs(2, b, c, 0.6, 2), inputs(3, c, a, 0.0, 3)]
        described = {
            "content": "photos, (batch, 3, height, width)",
            "style": "a style picture, (1, 3, style_height, style_width), used at the size it has",
            "alpha": "an array without axes, from 0, the photo, to 1, all style",
        }
        style_axes = {axis: name for axis, name in STYLE_AXES.items() if axis}
        axes = {"content": CONTENT_AXES, "style": style_axes, "alpha": {}}
        return Export(self.eval(), inputs(2, example, a, 0.5, 0), axes, self.smallest_side, checks, described)


def example_sizes(smallest: int, multiple: int) -> list[tuple[int, int]]:
    """Four sizes (height, width) with sides above `smallest`; the sides of the last are multiples of `multiple`."""
    side = -(-(smallest + 32) // multiple) * multiple
    return [
        (smallest + 27, smallest + 40),
        (smallest + 58, smallest + 33),
        (smallest + 12, smallest + 81),
        (side, side + multiple),
    ]


def example_pictures(batch: int, channels: int, size: tuple[int, int], seed: int) -> Tensor:
    """Random pictures (B, C, H, W) in [0, 1] of soft shapes and some grain; they depend on the seed alone."""
    random = torch.Generator().manual_seed(seed)
    shapes = F.interpolate(torch.rand(batch, channels, 6, 6, generator=random), size=size, mode="bicubic")
    return (shapes + 0.1 * torch.randn(shapes.shape, generator=random)).clamp(0, 1)


def _padded(image: Tensor, multiple: int) -> Tensor:
    """`resize.padded_to_multiple` without branches that depend on the size, since an exported graph has none: the
    largest possible padding is always added, and the surplus cut off."""
    if multiple == 1:
        return image
    height, width = ((side + multiple - 1) // multiple * multiple for side in image.shape[-2:])
    image = F.pad(image, (0, multiple - 1, 0, multiple - 1), mode="reflect")
    return image.narrow(2, 0, height).narrow(3, 0, width)


def _repeated(rows: Tensor, pictures: Tensor) -> Tensor:
    """Rows (B or 1, ...) as (B, ...) for B pictures; broadcasting would fix one of the two cases in the graph."""
    last = torch.sym_min(rows.shape[0] - 1, 1)  # 0 for a single row
    which: Any = last * torch.arange(pictures.shape[0], device=rows.device)
    return rows.index_select(0, which)
