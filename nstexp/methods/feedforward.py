"""Style transfer with a network that has learned its styles: one style (Johnson et al. 2016, Ulyanov et al. 2016 and
2017) or many (Dumoulin et al. 2016). Stylizing takes one pass and does not need the style pictures."""

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
from nstexp.media.learned import LearnedStyle
from nstexp.methods.base import SMALLER_RESULT, Controls, Export, Style, Stylizer, size_of
from nstexp.methods.seamless import at_whole_steps
from nstexp.methods.settings import FeedForwardSettings
from nstexp.weights import LEARNED_STYLES

if TYPE_CHECKING:  # Lightning takes seconds to import, and stylizing does not need it
    from nstexp.methods.feedforward_training import GeneratorTraining
    from nstexp.methods.training import Sources

BYTES_PER_VALUE = 165  # peak memory of a pass per pixel, divided by the size of a number; measured at 1024 px
UNTRAINED = "untrained"


class FeedForward(Stylizer):
    """Stylizes with a trained generator, and makes the module that trains one.

    Args:
        make_encoder: builds the feature network of the losses; only needed for training.
        losses: loss terms and their weights; only needed for training.
        trainer: returns a Lightning trainer; only needed for training.
        device: the device of the network.
        dtype: the number format of the network.
        settings: the fields of `FeedForwardSettings`.

    Raises:
        ArgumentError: see `FeedForwardSettings`.
    """

    accepts = frozenset({"masks", "seamless"})
    reasons = MappingProxyType(
        {
            "layers": "the styles of a trained network are fixed; use method=gatys for it",
            "fine": "the styles of a trained network are fixed; use method=gatys for it",
            "combine": "a network mixes its styles by style_weights; use method=gatys for it",
            "style_masks": "the styles of a trained network are fixed; use method=adain or method=gatys for it",
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
        """The learned styles, by name; None for an untrained network, which accepts any style picture.

        Raises:
            UserError: `method.model` is not set, or its file is not for this method.
        """
        if self.settings.model == UNTRAINED:
            return None
        info = self._network()[1]
        digests = info.digests or [""] * len(info.names)
        learned = zip(info.names, info.sources, digests, strict=True)
        return {name: LearnedStyle(source, digest) for name, source, digest in learned}

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """Draw `content` (B, 3, H, W), RGB in [0, 1], in the learned styles named in `styles`; same shape and range.

        Several styles are mixed by their shares (divided by the sum of the shares) or by their masks. The picture may
        have any size; it is padded to a multiple that the network needs, and the result is cropped.

        Raises:
            UserError: a style that the network has not learned, no usable network, or a picture too large for the
                memory.
        """
        if controls.seamless:
            multiple = self._network()[0].multiple
            return at_whole_steps(content, styles, multiple, lambda c, s: self._stylized(c, s, controls))
        return self._stylized(content, styles, controls)

    def _stylized(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """`stylize`; with `controls.seamless` the sides of the content are multiples already."""
        generator, info = self._network()
        generator.to(self.device)
        height, width = content.shape[-2:]
        masks = sum(style.mask is not None for style in styles)
        for_masks = 4 * len(info.names) + 16 * masks * self.dtype.itemsize if masks else 0
        per_pixel = BYTES_PER_VALUE * self.dtype.itemsize * len(content) + for_masks
        check_fits(per_pixel * height * width, (height, width), "content", SMALLER_RESULT, self.device)
        image = padded_to_multiple(content, generator.multiple).to(self.device, generator.dtype(self.dtype))
        mix = _mix(styles, [self._row(style, info) for style in styles], len(info.names), generator.multiple)
        noise = None
        if generator.noise_channels:
            random = torch.Generator().manual_seed(controls.seed)
            # The same noise for every picture and frame, so that only the seed changes it.
            noise = generator.make_noise(1, size_of(image), random).expand(len(image), -1, -1, -1)
        mix = None if mix is None else mix.to(self.device)
        result: Tensor = generator(image, mix, noise, controls.seamless)
        return result[..., :height, :width].clamp(0, 1).to(content.device)

    def to(self, device: torch.device) -> "FeedForward":
        """Use another device from the next picture on."""
        self.device = torch.device(device)
        return self

    def _network(self) -> tuple[Generator, ModelInfo]:
        """The network of `method.model` and its description, loaded at the first call."""
        if self._loaded is None:
            self._loaded = self._untrained() if self.settings.model == UNTRAINED else self._trained(self.settings.model)
        return self._loaded

    def _untrained(self) -> tuple[Generator, ModelInfo]:
        assert self.settings.generator is not None  # the config of every method with a network has it
        network = self.settings.generator(norm=self.settings.norm, noise_channels=self.settings.noise_channels)
        return network.requires_grad_(False).eval(), ModelInfo(network.form, network.settings, [UNTRAINED], [""])

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
            raise UserError(f"method.model={model} has learned a single style: use it with method=texture_net")
        if has_many and not self.settings.many:
            raise UserError(f"method.model={model} has conditional normalization: use it with method=cin")
        return generator, info

    def _row(self, style: Style, info: ModelInfo) -> int:
        """The row of a style in the tables of the conditional normalization."""
        if self.settings.model == UNTRAINED:
            return 0
        if style.name in info.names:
            return info.names.index(style.name)
        more = "" if not self.settings.many else "; task=train resume_from=... add_style=... teaches it another"
        raise UserError(f"style={style.name}: the network has learned {', '.join(info.names)}{more}")

    def exportable(self) -> Export:
        """The generator as one network; the weights of the styles and the noise are further inputs.

        Raises:
            UserError: `method.model` is not set, or its file is not for this method.
        """
        from nstexp.methods.export import GeneratorGraph

        generator, info = self._network()
        return GeneratorGraph(generator).export(info.names)

    # ------------------------------------------------------------------------------------------------------ training

    def training_module(self, sources: "Sources") -> "GeneratorTraining":
        """The Lightning module that trains a generator.

        Raises:
            UserError: style pictures, the network to start from and the loss terms do not fit together.
        """
        from nstexp.methods.feedforward_training import new_training, training_of_more_styles

        assert self.make_encoder is not None and self.losses is not None  # see the constructor: required for training
        make = new_training if sources.add_style is None else training_of_more_styles
        return make(self.settings, self.make_encoder(), self.losses, sources)


def _mix(styles: Sequence[Style], rows: Sequence[int], count: int, multiple: int) -> Tensor | None:
    """The mix of learned styles for one picture, as `generators.Mix` expects it.

    Args:
        styles: the chosen styles, with their shares and masks.
        rows: the row of each of these styles.
        count: number of styles that the network has learned.
        multiple: masks are padded to multiples of this, as the picture is.

    Returns:
        The row of a single style, (1,); or weights that sum to 1: (1, count), or with masks (1, count, H, W). None if
        the network has learned a single style.
    """
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
    masks = torch.stack([style.mask * style.share for style in styles if style.mask is not None]).float()
    masks = masks / masks.sum(0).clamp(min=1e-12)
    masks = padded_to_multiple(masks, multiple)
    mix = torch.zeros(1, count, *masks.shape[-2:])
    for row, mask in zip(rows, masks, strict=True):
        mix[0, row] += mask
    return mix
