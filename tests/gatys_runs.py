"""The per-image optimization with a random encoder: the method, its optimizations, and a term that fails."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from pictures import smooth_picture
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from nstexp.core.losses import ContentLoss, GramLoss, TotalVariation
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.optim.lbfgs import LBFGS
from nstexp.methods import gatys as module
from nstexp.methods.base import Controls, Style
from nstexp.methods.gatys import Gatys
from nstexp.methods.picture import PictureOptimization

STYLE_LAYERS = ["relu1_1", "relu2_1", "relu3_1"]
OPTIMIZERS = {"lbfgs": LBFGS, "adam": partial(torch.optim.Adam, lr=0.02), "sgd": partial(torch.optim.SGD, lr=1e-3)}


def make_gatys(
    terms: Mapping[str, torch.nn.Module] | None = None,
    weights: Mapping[str, float] | None = None,
    callbacks: Sequence[Callback] = (),
    encoder: VGG | None = None,
    **settings: Any,
) -> Gatys:
    """The method with content and Gram loss and 12 steps, unless it is given others."""
    terms = terms or {"content": ContentLoss(["relu3_2"]), "gram": GramLoss(STYLE_LAYERS)}
    trainer = partial(
        Trainer,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    settings = {"optimizers": OPTIMIZERS, "max_steps": 12, "margin_px": 4, **settings}
    losses = LossSet(terms, weights or {"alpha": 1.0, "beta": 1e3})
    return Gatys(encoder or VGG(random_vgg()), losses, trainer, **settings)


def stylized(gatys: Gatys, content: Tensor | None = None, style: Tensor | None = None, **controls: Any) -> Tensor:
    """What the method makes of a picture (1, 3, H, W) in one style (3, h, w), or of 48x40 px in 40x56 px."""
    content = smooth_picture(48, 40) if content is None else content
    style = smooth_picture(40, 56, seed=1)[0] if style is None else style
    return gatys.stylize(content, [Style(style)], Controls(**controls))


def optimizations(gatys: Gatys, content: Tensor, styles: Sequence[Style], **controls: Any) -> list[PictureOptimization]:
    """Every optimization of a picture after its last step: first those of fine strokes, then its own."""
    seen: list[PictureOptimization] = []
    optimized = module.optimized
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "optimized", lambda picture, trainer: seen.append(picture) or optimized(picture, trainer))
        gatys.stylize(content, styles, Controls(**controls))
    return seen


def with_targets(picture: PictureOptimization) -> PictureOptimization:
    """An optimization that can be asked for losses and gradients before its first step."""
    picture._targets = picture.maker.at(picture.levels[0].size)
    return picture


def gram_distance(encoder: VGG, image: Tensor, style: Tensor, layers: Sequence[str] = STYLE_LAYERS) -> float:
    """The Gram loss of a picture (1, 3, H, W) against a style (3, h, w)."""
    term = GramLoss([encoder.canonical(name) for name in layers])
    return float(term(encoder(image, term.layers), term.target(encoder(style[None], term.layers))))


class BecomesNan(TotalVariation):
    """A term that is NaN from an evaluation on, which are counted from 1."""

    def __init__(self, first: int) -> None:
        super().__init__("mean", 1)
        self.first, self.calls = first, 0

    def forward(self, feats, target):
        self.calls += 1
        return super().forward(feats, target) * (float("nan") if self.calls >= self.first else 1)
