"""The training of `Swift`, the network of method=swift, on pairs of photos and paintings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet, LossValues
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.model_files import SwiftInfo, load_swift, save_swift
from nstexp.core.networks.swift import Swift
from nstexp.core.secrets import without_secrets
from nstexp.methods.adain_training import pairs
from nstexp.methods.settings import SwiftSettings, swift_path
from nstexp.methods.training import Training, for_samples, to_unit_range

GRAY_PX = 64  # of the gray picture that style losses are compared with
MOST_BALANCE = 4.0  # a painting's factor lies between this and its inverse


class SwiftTraining(Training):
    """A network's training on batches of pairs; sides of the pictures are multiples of 8.

    Args:
        encoder, losses: what the pictures are compared by.
        settings: of the method.
        resume_from: file of a network to start from.
        seed: of the network's start and of the changed colors.
    """

    file_name, identity = "model.safetensors", "swift"
    multiple = Swift.multiple

    def __init__(
        self,
        encoder: Encoder,
        losses: LossSet,
        settings: SwiftSettings,
        resume_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, losses, settings.recipe)
        if losses.has("identity"):
            raise UserError("the loss term 'identity' is for method=adain: leave it out of loss=[...]")
        self.settings, self.seed = settings, seed
        if resume_from is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.swift = Swift(settings.widths, settings.groups, settings.experts)
        else:
            self.swift = load_swift(swift_path(resume_from), "resume_from")[0].requires_grad_(True).train()
        if settings.compile:
            self.swift.compile()
        # The mean style loss of a gray picture over the earlier paintings; as a buffer, so that checkpoints keep it.
        self.usual_distance: Tensor
        self.register_buffer("usual_distance", torch.zeros(()))
        self._gray: dict[str, Tensor] = {}

    @property
    def network(self) -> Swift:
        return self.swift

    def on_fit_start(self) -> None:
        gray = torch.full((1, 3, GRAY_PX, GRAY_PX), 0.5, device=self.device)
        with torch.no_grad():
            self._gray = self.encoder(gray, self.losses.layers("style"))

    def on_fit_end(self) -> None:
        self._gray = {}

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        content, style = to_unit_range(batch["content"]), to_unit_range(batch["style"])
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * (self.batch_number(batch_idx) + 1))
        style = recolored_at_random(style, self.settings.recolor, generator)
        values, result = self.evaluate(content, style, self.settings.styles_per_content, self.settings.balance)
        return {"loss": values.total, "values": values.detached(), "count": len(result)}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.swift.bound_()

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        content, style = to_unit_range(batch["content"]), to_unit_range(batch["style"])
        values, result = self.evaluate(content, style)
        return {"values": values.detached(), "pictures": torch.stack([content, style, result.clamp(0, 1)], 1)}

    def evaluate(
        self, content: Tensor, style: Tensor, styles_per_content: int = 1, balance: bool = False
    ) -> tuple[LossValues, Tensor]:
        """The losses of one batch, and the stylized pictures (B k, 3, H, W), those of one painting next to each other.

        Args:
            content, style: RGB (B, 3, H, W) in [0, 1].
            styles_per_content: k, see `SwiftSettings`; B is a multiple of it.
            balance: whether every painting's style loss has a factor.
        """
        which_content, which_style = pairs(len(content), styles_per_content)
        order = torch.argsort(which_style, stable=True)
        which_content, which_style = which_content[order], which_style[order]
        with torch.no_grad():
            of_content = self.encoder(content, self.losses.layers("content"))
            of_content = for_samples(self.losses.targets("content", of_content), which_content)
            targets = self.losses.targets("style", self.encoder(style, self.losses.layers("style")))
        photos = torch.split(content[which_content], styles_per_content)
        dtype = self.encoder.dtype
        # One pass for each painting, whose filters all its photos share.
        made = [
            self.swift(part, self.swift.style(style[number : number + 1], dtype), dtype)
            for number, part in enumerate(photos)
        ]
        result = torch.cat(made)
        feats = self.encoder(result, self.losses.layers())
        contents = {name: [(1.0, target)] for name, target in of_content.items()}
        values = self.losses(feats, contents, ("content", "image"))
        # The backward pass of a split is one copy; that of every slice would be a map of zeros of the whole size.
        parts = {name: torch.split(x, styles_per_content) for name, x in feats.items()}
        for number in range(len(style)):
            wanted = {n: [(1.0, for_samples(t, torch.tensor([number])))] for n, t in targets.items()}
            of_style = self.losses({name: part[number] for name, part in parts.items()}, wanted, ("style",))
            factor = (self._factor(wanted) if balance else 1.0) / len(style)
            terms = {name: values.terms.get(name, 0.0) + value / len(style) for name, value in of_style.terms.items()}
            values = LossValues(values.total + factor * of_style.total, values.terms | terms)
        return values, result

    @torch.no_grad()
    def _factor(self, wanted: Mapping[str, Any]) -> float:
        """Of a painting's style loss: a painting with much contrast is further from every photo than others, and would
        have most of the gradient."""
        distance = self.losses(self._gray, wanted, ("style",)).total.float()
        usual = self.usual_distance
        usual.copy_(torch.where(usual > 0, torch.lerp(usual, distance, 0.01), distance))
        return float((usual / distance.clamp(min=1e-12)).clamp(1 / MOST_BALANCE, MOST_BALANCE))

    def info(self) -> SwiftInfo:
        data = getattr(self._trainer, "datamodule", None)
        specs = {} if data is None else getattr(data, "specs", {})
        content, style = (without_secrets(specs.get(kind, (None,))[0]) for kind in ("content", "style"))
        encoder = f"{self.encoder.identity} ({self.encoder.settings})"
        return SwiftInfo(self.swift.settings, encoder, self.steps_done, content, style)

    def difference(self, made: Mapping[str, Any]) -> str | None:
        info = self.info()
        if made.get("settings") != info.settings:
            return f"a network of {made.get('settings')}, and this one is of {info.settings}"
        if made.get("encoder") != info.encoder:
            return f"the encoder {made.get('encoder')}, and this one has {info.encoder}"
        return None

    def save(self, path: Path) -> None:
        save_swift(self.swift, self.info(), path)


def recolored_at_random(paintings: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Paintings (B, 3, H, W) in [0, 1], a share of them with other colors: gray, with permuted or inverted channels, or
    after a random linear map of their colors."""
    if not share:
        return paintings
    return torch.stack([_recolored(painting, share, generator) for painting in paintings])


def _recolored(painting: Tensor, share: float, generator: torch.Generator) -> Tensor:
    drawn = float(torch.rand((), generator=generator)) / share
    permutation = torch.randperm(3, generator=generator).tolist()
    noise, offset = torch.randn(3, 3, generator=generator), torch.randn(3, generator=generator)
    if drawn >= 1:
        return painting
    if drawn < 0.2:
        return painting.mean(0, keepdim=True).expand_as(painting)
    if drawn < 0.5:
        return painting[permutation]
    if drawn < 0.64:
        return 1 - painting
    mean = painting.mean((1, 2), keepdim=True)
    mapped = torch.einsum("dc,chw->dhw", (torch.eye(3) + 0.5 * noise).to(painting), painting - mean)
    contrast = painting.std().clamp(min=0.1) / mapped.std().clamp(min=1e-3)
    return (mapped * contrast + mean + 0.1 * offset.to(painting)[:, None, None]).clamp(0, 1)
