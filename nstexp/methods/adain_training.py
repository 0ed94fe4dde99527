"""The training of AdaIN's decoder (Huang & Belongie 2017, section 5)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from nstexp.console import bar
from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet, LossValues
from nstexp.core.losses.stats import adain, moments
from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.encoder import IMAGE, Encoder
from nstexp.core.networks.model_files import DecoderInfo, decoder_info, load_decoder, save_decoder
from nstexp.core.networks.ridge import fit_decoder
from nstexp.core.networks.vgg import VGG
from nstexp.methods.settings import LAYER_KEY, AdaINSettings, decoder_path
from nstexp.methods.training import Training, for_samples, to_unit_range


class DecoderTraining(Training):
    """Trains a decoder on batches of pairs of photo and painting (Huang & Belongie 2017, section 5).

    The height and width of the pictures are multiples of the layer's stride.

    Args:
        encoder, losses, settings: see `AdaIN`.
        init: see `AdaINSettings`; or the file of `resume_from`.
        key: the config key of `init`, for error messages.

    Raises:
        UserError: the content loss does not read exactly the layer of `settings`.
    """

    file_name, identity = "decoder.safetensors", "decoder"

    def __init__(
        self, encoder: Encoder, losses: LossSet, settings: AdaINSettings, init: str, key: str = "method.init"
    ) -> None:
        super().__init__(encoder, losses, settings.recipe)
        self.settings, self.init, self.key = settings, init, key
        self.layer = encoder.canonical(settings.layer)
        self.init_pictures = settings.init_pictures if init == "ridge" else 0
        self.decoder = Decoder.mirror(encoder, self.layer)
        contents = self.losses.layers("content")
        if [self.encoder.canonical(name) for name in contents] != [self.layer]:
            raise UserError(
                f"layers.content={list(contents)}: AdaIN exchanges statistics at one layer, {self.layer}, and its "
                "content loss is taken there"
            )
        if settings.compile:
            self.decoder.compile()

    @property
    def network(self) -> Decoder:
        return self.decoder

    def start(self, pictures: Tensor | None) -> None:
        if self.init == "ridge":
            assert pictures is not None  # `init_pictures` has asked for them
            device = self.encoder.device
            fit_decoder(
                self.decoder.to(device),
                cast(VGG, self.encoder),  # `Decoder.mirror` has refused other encoders
                self.layer,
                pictures.to(device),
                progress=lambda names: bar(names, desc="closed-form start", unit="layer"),
            )
        elif self.init != "default":
            start = load_decoder(decoder_path(self.init), self.encoder, self.layer, self.key, LAYER_KEY)
            self.decoder.load_state_dict(start.state_dict())

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        content, style = to_unit_range(batch["content"]), to_unit_range(batch["style"])
        values, result = self.evaluate(content, style, self.settings.styles_per_content)
        return {"loss": values.total, "values": values.detached(), "count": len(result)}

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        content, style = to_unit_range(batch["content"]), to_unit_range(batch["style"])
        values, result = self.evaluate(content, style)
        return {"values": values.detached(), "pictures": torch.stack([content, style, result.clamp(0, 1)], 1)}

    def evaluate(self, content: Tensor, style: Tensor, styles_per_content: int = 1) -> tuple[LossValues, Tensor]:
        """Losses of one batch (Huang & Belongie 2017, Eqs. 11-13), and the stylized pictures (B k, 3, H, W).

        Args:
            content, style: RGB (B, 3, H, W) in [0, 1].
            styles_per_content: k, see `AdaINSettings`; B is a multiple of it.

        Raises:
            UserError: B is not a multiple of k.
        """
        targets, goal, features = self._targets(content, style, styles_per_content)
        identity = self.losses.has("identity")
        result = self.decoder(torch.cat([goal, features]) if identity else goal)
        made = self.encoder(result, self.losses.layers())
        n = len(goal)
        values = self.losses({key: v[:n] for key, v in made.items()}, targets, ("content", "style", "image"))
        if identity:
            values += self.losses({key: v[n:] for key, v in made.items()}, targets, ("identity",))
        return values, result[:n]

    @torch.no_grad()
    def _targets(
        self, content: Tensor, style: Tensor, styles_per_content: int
    ) -> tuple[dict[str, list[tuple[float, Any]]], Tensor, Tensor]:
        """The targets of the loss terms, the features to decode (Eq. 8, (B k, C, h, w)), and the features of the
        content, (B, C, h, w)."""
        s, losses = self.settings, self.losses
        of_content = self.encoder(content, tuple(dict.fromkeys((self.layer, *losses.layers("identity")))))
        of_style = self.encoder(style, tuple(dict.fromkeys((*losses.layers("style"), self.layer))))
        features = of_content[self.layer]
        content_mean, content_std = moments(features, s.eps, s.unbiased)
        style_mean, style_std = moments(of_style[self.layer], s.eps, s.unbiased)
        which_content, which_style = pairs(len(content), styles_per_content)
        present = content_mean[which_content], content_std[which_content]
        wanted = style_mean[which_style], style_std[which_style]
        goal = adain(features[which_content], present, wanted).contiguous(memory_format=torch.channels_last)
        goals = dict.fromkeys(losses.layers("content"), goal)  # the terms may use different names of the layer
        targets = losses.targets("content", {**goals, IMAGE: content[which_content]})
        of_pairs = losses.targets("style", of_style).items()
        targets |= {name: for_samples(target, which_style) for name, target in of_pairs}
        targets |= losses.targets("identity", of_content)
        return {name: [(1.0, target)] for name, target in targets.items()}, goal, features

    def info(self) -> DecoderInfo:
        return decoder_info(self.encoder, self.layer, self.steps_done)

    def difference(self, made: Mapping[str, Any]) -> str | None:
        info = self.info()
        if info.agrees(made):
            return None
        return f"the encoder {made['encoder']} at {made['layer']}, but this run has {info.encoder} at {info.layer}"

    def save(self, path: Path) -> None:
        save_decoder(self.decoder, self.info(), path)


def pairs(batch: int, k: int) -> tuple[Tensor, Tensor]:
    """Indices of contents and of styles, both (batch * k,): all k x k pairs within each group of k."""
    if batch % k:
        raise UserError(f"method.styles_per_content={k} does not divide data.batch_size={batch} of each process")
    content = torch.arange(batch).repeat_interleave(k)
    style = (torch.arange(batch) // k * k).repeat_interleave(k) + torch.arange(k).repeat(batch)
    return content, style
