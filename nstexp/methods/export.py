"""Methods as one network each, from pictures to pictures of any size: what task=export writes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.losses.stats import adain, moments
from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.generators import Generator
from nstexp.core.runtime.files import json_text
from nstexp.methods.base import Export

CONTENT_AXES = {0: "batch", 2: "height", 3: "width"}
STYLE_AXES = {0: "style_batch", 2: "style_height", 3: "style_width"}


class GeneratorGraph(nn.Module):
    """`FeedForward.stylize` without masks."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, content: Tensor, style_weights: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] -> the same shape and range.

        Args:
            content: H and W are `smallest_side` or more.
            style_weights: (B or 1, N), of a generator with conditional normalization; only their ratio counts.
            noise: (B, noise channels, H, W), uniform in [0, 1], of a generator that takes some.
        """
        height, width = content.shape[-2:]
        multiple = self.generator.multiple
        mix = None
        if style_weights is not None:
            mix = _one_each(style_weights / style_weights.sum(1, keepdim=True), content)
        noise = None if noise is None else _padded(noise, multiple)
        result = self.generator(_padded(content, multiple), mix, noise)
        return result[..., :height, :width].clamp(0, 1)

    @property
    def smallest_side(self) -> int:
        """In pixels: a smaller picture has a border somewhere that is too thin to be reflected."""
        return 1 + max(self.generator.multiple, getattr(self.generator, "start_pad_px", 0))

    def export(self, styles: Sequence[str]) -> Export:
        """This network with examples of its inputs.

        Args:
            styles: their names.
        """
        mixes = bool(self.generator.norms) and self.generator.settings["norm"] == "conditional"
        channels = self.generator.noise_channels
        described = {"content": "photos, (batch, 3, height, width)"}
        axes = {"content": CONTENT_AXES}
        if mixes:
            described["style_weights"] = "how much of each style, (batch or 1, styles); only their ratio counts"
            axes["style_weights"] = {0: STYLE_AXES[0]}
        if channels:
            described["noise"] = f"uniform in [0, 1], (batch, {channels}, height, width)"
            axes["noise"] = CONTENT_AXES

        def inputs(batch: int, size: tuple[int, int], weights: Tensor, seed: int) -> dict[str, Tensor]:
            found = {"content": example_pictures(batch, 3, size, seed)}
            found |= {"style_weights": weights} if mixes else {}
            drawn = torch.Generator().manual_seed(seed)
            return found | ({"noise": torch.rand(batch, channels, *size, generator=drawn)} if channels else {})

        drawn = torch.Generator().manual_seed(0)
        example, *sizes = example_sizes(self.smallest_side, self.generator.multiple)
        one_hot, mixed = torch.eye(len(styles))[-1:], torch.rand(1, len(styles), generator=drawn)
        each = torch.rand(3, len(styles), generator=drawn)
        checks = [inputs(1, sizes[0], one_hot, 1), inputs(2, sizes[1], mixed, 2), inputs(3, sizes[2], each, 3)]
        metadata = {"styles": json_text(list(styles), ensure_ascii=False)}
        return Export(
            self.eval(), inputs(2, example, each[:2], 0), axes, self.smallest_side, checks, described, metadata
        )


class AdaINGraph(nn.Module):
    """`AdaIN.stylize` for one style without masks.

    Args:
        layer, eps, unbiased: see `AdaIN`.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, layer: str, eps: float, unbiased: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.layer, self.eps, self.unbiased = layer, eps, unbiased

    def forward(self, content: Tensor, style: Tensor, alpha: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] -> the same shape and range.

        Args:
            content: H and W are `smallest_side` or more.
            style: RGB (B or 1, 3, H', W') in [0, 1], likewise; used at this size.
            alpha: (), from 0, the photo's own statistics, to 1, the style's.
        """
        height, width = content.shape[-2:]
        features = self._encoded(content)
        mean, std = (_one_each(each, content) for each in moments(self._encoded(style), self.eps, self.unbiased))
        shifted = adain(features, moments(features, self.eps, self.unbiased), (mean, std), alpha)
        return self.decoder(shifted)[..., :height, :width].clamp(0, 1)

    def _encoded(self, image: Tensor) -> Tensor:
        return self.encoder(_padded(image, self.encoder.stride(self.layer)), [self.layer])[self.layer]

    @property
    def smallest_side(self) -> int:
        """In pixels, as `AdaIN.stylize` has it."""
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
            "alpha": "an array without axes, from 0, the photo as the decoder gives it back, to 1, all style",
        }
        axes = {"content": CONTENT_AXES, "style": STYLE_AXES, "alpha": {}}
        return Export(self.eval(), inputs(2, example, 2, a, 0.5, 0), axes, self.smallest_side, checks, described)


def example_sizes(smallest: int, multiple: int) -> list[tuple[int, int]]:
    """Four sizes (height, width) of sides from `smallest` on; those of the last are multiples."""
    side = -(-(smallest + 32) // multiple) * multiple
    return [
        (smallest + 27, smallest + 40),
        (smallest + 58, smallest + 33),
        (smallest + 12, smallest + 81),
        (side, side + multiple),
    ]


def example_pictures(batch: int, channels: int, size: tuple[int, int], seed: int) -> Tensor:
    """(B, C, H, W) in [0, 1]: soft shapes and some grain, the same whenever the seed is."""
    drawn = torch.Generator().manual_seed(seed)
    shapes = F.interpolate(torch.rand(batch, channels, 6, 6, generator=drawn), size=size, mode="bicubic")
    return (shapes + 0.1 * torch.randn(shapes.shape, generator=drawn)).clamp(0, 1)


def _padded(image: Tensor, multiple: int) -> Tensor:
    """`images.padded_to_multiple` without a question about the size, which a graph cannot ask: as much as may be needed
    is always reflected, and the rest cut off."""
    if multiple == 1:
        return image
    height, width = ((side + multiple - 1) // multiple * multiple for side in image.shape[-2:])
    image = F.pad(image, (0, multiple - 1, 0, multiple - 1), mode="reflect")
    return image.narrow(2, 0, height).narrow(3, 0, width)


def _one_each(rows: Tensor, pictures: Tensor) -> Tensor:
    """Rows (B or 1, ...) as (B, ...): broadcasting would settle for one of the two when a graph is made."""
    last = torch.sym_min(rows.shape[0] - 1, 1)
    return rows.index_select(0, last * torch.arange(pictures.shape[0], device=rows.device))
