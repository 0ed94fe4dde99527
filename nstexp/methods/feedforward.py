"""Networks that learned their styles: one (Johnson et al. 2016, Ulyanov et al. 2016 and 2017) or many (Dumoulin et al.
2016). A picture takes one pass, and the style pictures are no longer needed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.generators import Generator
from nstexp.core.networks.model_files import ModelInfo, load_generator
from nstexp.core.resize import padded_to_multiple
from nstexp.core.runtime.memory import check_fits
from nstexp.methods.base import SMALLER_RESULT, Controls, Export, LearnedStyle, Style, Stylizer
from nstexp.methods.settings import FeedForwardSettings
from nstexp.weights import LEARNED_STYLES

if TYPE_CHECKING:  # Lightning takes seconds to import, and stylizing needs none
    from nstexp.methods.feedforward_training import GeneratorTraining
    from nstexp.methods.training import Sources

BYTES_PER_VALUE = 165  # peak memory of a pass, for each pixel of a picture and each byte of a number; at 1024 px
UNTRAINED = "untrained"


class FeedForward(Stylizer):
    """Stylizes with a trained generator, and trains one.

    Args:
        make_encoder: builds the feature network of the losses, which stylizing does without.
        losses: terms and weights, for training.
        trainer: makes a Lightning trainer, for training.
        device: where the network computes.
        dtype: of its arithmetic.
        settings: the fields of `FeedForwardSettings`.
    """

    accepts = frozenset({"masks"})
    reasons = MappingProxyType(
        {
            "layers": "a trained network has its styles fixed; method=gatys takes it",
            "fine": "a trained network has its styles fixed; method=gatys takes it",
            "combine": "networks mix by style_weights; method=gatys takes it",
        }
    )
    settings_type = FeedForwardSettings

    def __init__(
        self,
        make_encoder: Callable[[], Encoder] | None = None,
        losses: LossSet | None = None,
        trainer: Callable[..., Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> None:
        self.settings = FeedForwardSettings(**settings)
        self.make_encoder, self.losses, self.trainer = make_encoder, losses, trainer
        self.device, self.dtype, self.recipe = torch.device(device), dtype, self.settings.recipe
        self._loaded: tuple[Generator, ModelInfo] | None = None

    # ----------------------------------------------------------------------------------------------------- stylizing

    @property
    def styles(self) -> Mapping[str, LearnedStyle] | None:
        """The styles that the network has learned, by name; None of an untrained one, which takes any for its own.

        Raises:
            UserError: no network, or not one of this method.
        """
        if self.settings.model == UNTRAINED:
            return None
        info = self._network()[1]
        digests = info.digests or [""] * len(info.names)
        return {name: LearnedStyle(*each) for name, *each in zip(info.names, info.sources, digests, strict=True)}

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """`content` (B, 3, H, W) in the learned styles that are named like `styles`, mixed by their shares (which count
        by their ratio) or masks. Pictures of any size: they are padded to what the network needs, and cropped back.

        Raises:
            UserError: a style that the network does not know, or controls it has not.
        """
        generator, info = self._network()
        generator.to(self.device)
        height, width = content.shape[-2:]
        masks = sum(style.mask is not None for style in styles)
        of_masks = 4 * len(info.names) + 16 * masks * self.dtype.itemsize if masks else 0
        per_pixel = BYTES_PER_VALUE * self.dtype.itemsize * len(content) + of_masks
        check_fits(per_pixel * height * width, (height, width), "content", SMALLER_RESULT, self.device)
        image = padded_to_multiple(content, generator.multiple).to(self.device, generator.dtype(self.dtype))
        size = tuple(image.shape[-2:])
        mix = _mix(styles, [self._number(style, info) for style in styles], len(info.names), generator.multiple)
        noise = None
        if generator.noise_channels:
            drawn = torch.Generator().manual_seed(controls.seed)
            # The same for every picture and frame: what differs between two seeds is the noise alone.
            noise = generator.make_noise(1, size, drawn).expand(len(image), -1, -1, -1)
        result = generator(image, None if mix is None else mix.to(self.device), noise)
        return result[..., :height, :width].clamp(0, 1).to(content.device)

    def to(self, device: torch.device) -> "FeedForward":
        """Move the networks."""
        self.device = torch.device(device)
        return self

    def _network(self) -> tuple[Generator, ModelInfo]:
        if self._loaded is None:
            self._loaded = self._untrained() if self.settings.model == UNTRAINED else self._trained(self.settings.model)
        return self._loaded

    def _untrained(self) -> tuple[Generator, ModelInfo]:
        made = self.settings.generator(norm=self.settings.norm, noise_channels=self.settings.noise_channels)
        return made.requires_grad_(False).eval(), ModelInfo(made.form, made.settings, [UNTRAINED], [""])

    def _trained(self, model: str | None) -> tuple[Generator, ModelInfo]:
        if model is None:
            raise UserError(
                "method.model has no value yet: give the file that task=train wrote, such as "
                "method.model=runs/mine/model.safetensors"
            )
        path = LEARNED_STYLES if model == "bundled" else Path(str(model)).expanduser()
        generator, info = load_generator(path, "method.model")
        has_many = info.settings.get("norm") == "conditional"
        if self.settings.many and not has_many:
            raise UserError(f"method.model={model} has learned one style: use it with method=texture_net")
        if has_many and not self.settings.many:
            raise UserError(f"method.model={model} has conditional normalization: use it with method=cin")
        return generator, info

    def _number(self, style: Style, info: ModelInfo) -> int:
        """The row of a style."""
        if self.settings.model == UNTRAINED:
            return 0
        if style.name in info.names:
            return info.names.index(style.name)
        more = "" if not self.settings.many else "; task=train resume_from=... add_style=... teaches it another"
        raise UserError(f"style={style.name}: the network has learned {', '.join(info.names)}{more}")

    def exportable(self) -> Export:
        """The generator as one network, of which the weights of the styles and the noise are inputs.

        Raises:
            UserError: no network, or not one of this method.
        """
        from nstexp.methods.export import GeneratorGraph

        generator, info = self._network()
        return GeneratorGraph(generator).export(info.names)

    # ------------------------------------------------------------------------------------------------------ training

    def training_module(self, sources: "Sources") -> "GeneratorTraining":
        """The Lightning module that trains a generator.

        Raises:
            UserError: style pictures, a network to start from or loss terms that do not go together.
        """
        from nstexp.methods.feedforward_training import new_training, training_of_more_styles

        make = new_training if sources.add_style is None else training_of_more_styles
        return make(self.settings, self.make_encoder(), self.losses, sources)


def _mix(styles: Sequence[Style], rows: Sequence[int], count: int, multiple: int) -> Tensor | None:
    """What `generators.Mix` takes, for one picture; None where there is only one style to have."""
    if count == 1:
        return None
    if len(styles) == 1 and styles[0].mask is None:
        return torch.tensor([rows[0]])
    if styles[0].mask is None:
        total = sum(style.share for style in styles)
        mix = torch.zeros(1, count)
        for row, style in zip(rows, styles, strict=True):
            mix[0, row] += style.share / total
        return mix
    masks = torch.stack([style.mask * style.share for style in styles]).float()
    masks = masks / masks.sum(0).clamp(min=1e-12)
    masks = padded_to_multiple(masks, multiple)
    mix = torch.zeros(1, count, *masks.shape[-2:])
    for row, mask in zip(rows, masks, strict=True):
        mix[0, row] += mask
    return mix
