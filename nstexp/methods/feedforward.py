"""Networks that learned their styles: one (Johnson et al. 2016, Ulyanov et al. 2016 and 2017) or many (Dumoulin et al.
2016). A picture takes one pass, and the style pictures are no longer needed."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.optim import Optimizer

from nstexp.core.errors import UserError, check_integers
from nstexp.core.losses import julesz
from nstexp.core.losses.loss_set import LossSet, LossValues
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.generators import Generator
from nstexp.core.networks.layers import Norm
from nstexp.core.networks.model_files import ModelInfo, build, load_generator, save_generator
from nstexp.core.resize import padded_to_multiple, resize, size_for_shorter_side
from nstexp.core.runtime.files import file_digest
from nstexp.core.runtime.memory import check_fits
from nstexp.media.images import as_list, find_images, load_image, unique_names
from nstexp.methods.base import Controls, Export, Learned, Style
from nstexp.methods.export import GeneratorGraph
from nstexp.methods.training import Recipe, Sources, Training, chosen, to_unit_range
from nstexp.weights import LEARNED_STYLES

log = logging.getLogger(__name__)

BYTES_PER_VALUE = 165  # peak memory of a pass, for each pixel of a picture and each byte of a number; at 1024 px
UNTRAINED = "untrained"


class FeedForward:
    """Stylizes with a trained generator, and trains one.

    Args:
        encoder: feature network of the losses; its precision is also the generator's.
        losses: terms and weights, for training.
        trainer: makes a Lightning trainer, for training.
        generator: makes the network from norm, styles and noise_channels.
        norm: `conditional` learns many styles; `instance` or `batch` one.
        model: the network to stylize with: `bundled`, a file (`generators.load_generator`), or `untrained`, which makes
            noise as fast as a trained one makes pictures.
        noise: whether the network takes noise beside the photo; None: if `diversity` asks for it.
        diversity: weight of the Julesz term (Ulyanov et al. 2017, section 3): pictures of one photo with other noise
            are to differ.
        noise_draws: how many pictures with other noise are made of each photo of a batch for that term.
        style_px: shorter side that the style pictures of a training are resized to; None keeps their size.
        balance: give every style's loss a factor, so that those of quiet paintings count as much as those of loud ones:
            see `balanced`.
        max_steps, optimizer, optimizers, schedule, schedules: see `Recipe`.
        compile: run the generator of a training through torch.compile.
    """

    def __init__(
        self,
        encoder: Encoder,
        losses: LossSet | None,
        trainer: Callable[..., Trainer] | None,
        generator: Callable[..., Generator],
        norm: Norm = "instance",
        model: str | None = None,
        noise: bool | None = None,
        diversity: float = 0.0,
        noise_draws: int = 2,
        style_px: int | None = 512,
        balance: bool = False,
        max_steps: int = 40_000,
        optimizer: str = "adam",
        optimizers: Mapping[str, Callable[..., Optimizer]] | None = None,
        schedule: str = "constant",
        schedules: Mapping[str, Callable[[int], float]] | None = None,
        compile: bool = False,
    ) -> None:
        if isinstance(diversity, bool) or not isinstance(diversity, int | float) or not 0 <= diversity < math.inf:
            raise UserError(f"method.diversity={diversity}: a weight is a finite number, 0 or larger")
        if noise not in (None, True, False):
            raise UserError(f"method.noise={noise}: give true, false, or null, which is what method.diversity needs")
        if diversity and noise is False:
            raise UserError(f"method.diversity={diversity} needs noise to tell pictures apart: leave method.noise out")
        check_integers("method", 1, noise_draws=noise_draws)
        if diversity and noise_draws < 2:
            raise UserError(
                f"method.noise_draws={noise_draws}: a single picture has nothing to differ from; method.diversity="
                f"{diversity} needs 2 or more of each photo"
            )
        if style_px is not None:
            check_integers("method", 64, style_px=style_px)
        for key, value in (("balance", balance), ("compile", compile)):
            if not isinstance(value, bool):
                raise UserError(f"method.{key}={value}: give true or false")
        self.recipe = Recipe(max_steps, optimizer, optimizers or {}, schedule, schedules or {})
        self.encoder, self.losses, self.trainer = encoder, losses, trainer
        self.make_generator, self.norm, self.model = generator, norm, model
        self.noise = bool(diversity) if noise is None else noise
        self.diversity, self.noise_draws = diversity, noise_draws
        self.style_px, self.balance, self.compile = style_px, balance, compile
        self._loaded: tuple[Generator, ModelInfo] | None = None

    # ----------------------------------------------------------------------------------------------------- stylizing

    @property
    def styles(self) -> Mapping[str, Learned] | None:
        """The styles that the network has learned, by name; None of an untrained one, which takes any for its own.

        Raises:
            UserError: no network, or not one of this method.
        """
        if self.model == UNTRAINED:
            return None
        info = self._network()[1]
        digests = info.digests or [""] * len(info.names)
        return {name: Learned(*each) for name, *each in zip(info.names, info.sources, digests, strict=True)}

    @torch.inference_mode()
    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """`content` (B, 3, H, W) in the learned styles that are named like `styles`, mixed by their shares (which count
        by their ratio) or masks. Pictures of any size: they are padded to what the network needs, and cropped back.

        Raises:
            UserError: a style that the network does not know, or controls it has not.
        """
        if any(style.layers is not None or style.fine is not None for style in styles):
            raise UserError("style_layers and fine_style are for method=gatys: a trained network has its styles fixed")
        if controls.combine != "weighted_loss":
            raise UserError(f"style_combine={controls.combine} is for method=gatys: networks mix by style_weights")
        generator, info = self._network()
        device = self.encoder.device
        generator.to(device)
        height, width = content.shape[-2:]
        masks = sum(style.mask is not None for style in styles)
        of_masks = 4 * len(info.names) + 16 * masks * self.encoder.dtype.itemsize if masks else 0
        per_pixel = BYTES_PER_VALUE * self.encoder.dtype.itemsize * len(content) + of_masks
        check_fits(per_pixel * height * width, (height, width), device=device)
        image = padded_to_multiple(content, generator.multiple).to(device, generator.dtype(self.encoder.dtype))
        size = tuple(image.shape[-2:])
        mix = _mix(styles, [self._number(style, info) for style in styles], len(info.names), generator.multiple)
        noise = None
        if generator.noise_channels:
            drawn = torch.Generator().manual_seed(controls.seed)
            # The same for every picture and frame: what differs between two seeds is the noise alone.
            noise = generator.make_noise(1, size, drawn).expand(len(image), -1, -1, -1)
        result = generator(image, None if mix is None else mix.to(device), noise)
        return result[..., :height, :width].clamp(0, 1).to(content.device)

    def to(self, device: torch.device) -> "FeedForward":
        """Move the networks."""
        self.encoder.to(device)
        return self

    def _network(self) -> tuple[Generator, ModelInfo]:
        if self._loaded is None:
            if self.model is None:
                raise UserError(
                    "method.model has no value yet: give the file that task=train wrote, such as "
                    "method.model=runs/mine/model.safetensors"
                )
            if self.model == UNTRAINED:
                made = self.make_generator(norm=self.norm, noise_channels=3 if self.noise else 0)
                info = ModelInfo(made.form, made.settings, [UNTRAINED], [""], self.encoder.identity)
                self._loaded = made.requires_grad_(False).eval(), info
                return self._loaded
            path = LEARNED_STYLES if self.model == "bundled" else Path(str(self.model)).expanduser()
            generator, info = load_generator(path)
            if self.norm == "conditional" and info.settings.get("norm") != "conditional":
                raise UserError(f"method.model={self.model} has learned one style: use it with method=texture_net")
            if self.norm != "conditional" and info.settings.get("norm") == "conditional":
                raise UserError(f"method.model={self.model} has conditional normalization: use it with method=cin")
            self._loaded = generator, info
        return self._loaded

    def _number(self, style: Style, info: ModelInfo) -> int:
        """The row of a style."""
        if self.model == UNTRAINED:
            return 0
        if style.name in info.names:
            return info.names.index(style.name)
        more = "" if self.norm != "conditional" else "; task=train resume_from=... add_style=... teaches it another"
        raise UserError(f"style={style.name}: the network has learned {', '.join(info.names)}{more}")

    def exportable(self) -> Export:
        """The generator as one network, of which the weights of the styles and the noise are inputs.

        Raises:
            UserError: no network, or not one of this method.
        """
        generator, info = self._network()
        return GeneratorGraph(generator).export("cin" if self.norm == "conditional" else "texture_net", info.names)

    # ------------------------------------------------------------------------------------------------------ training

    def training_module(self, sources: Sources) -> "GeneratorTraining":
        """The Lightning module that trains a generator.

        Raises:
            UserError: style pictures, a network to start from or loss terms that do not go together.
        """
        many = self.norm == "conditional"
        if sources.add_style is not None:
            return self._adding(sources, many)
        pictures = _load_styles(sources, "style", self.style_px)
        if len(pictures) > 1 and not many:
            raise UserError(f"style has {len(pictures)} pictures, and this network learns one: method=cin learns many")
        generator = self.make_generator(norm=self.norm, styles=len(pictures), noise_channels=3 if self.noise else 0)
        if self.noise and not self.diversity:
            log.warning("method.noise without method.diversity: the network will learn to disregard the noise")
        info = ModelInfo(
            generator.form,
            generator.settings,
            [picture.name for picture in pictures],
            [picture.source for picture in pictures],
            self._encoder_described(),
            digests=[picture.digest for picture in pictures],
        )
        content = None
        if sources.resume_from is not None:
            start, known = _load_start(sources.resume_from)
            if (known.settings["norm"] == "conditional") != many:
                other = "texture_net" if many else "cin"
                raise UserError(f"resume_from={sources.resume_from} is a network of method={other}")
            if difference := _diff(known, info):
                raise UserError(f"resume_from={sources.resume_from} has another generator: {difference}")
            generator.load_state_dict(start.state_dict())
            content = known.content
        return GeneratorTraining(self, generator, info, pictures, sources.seed, content=content)

    def _encoder_described(self) -> str:
        return f"{self.encoder.identity} ({self.encoder.settings})"

    def _adding(self, sources: Sources, many: bool) -> "GeneratorTraining":
        if not many:
            raise UserError("add_style is for method=cin, whose networks learn many styles")
        if sources.resume_from is None:
            raise UserError("add_style needs resume_from=..., the network that is to learn another style, or bundled")
        if sources.style is not None:
            raise UserError("add_style: the network has its styles already, leave style out")
        generator, info = _load_start(sources.resume_from)
        if info.settings.get("norm") != "conditional":
            raise UserError(f"resume_from={sources.resume_from} has learned one style and takes no others")
        new = _load_styles(sources, "add_style", self.style_px, taken=info.names)
        first = len(info.names)
        for norm in generator.norms:
            tables = (torch.cat(list(table)) for table in (norm.gamma, norm.beta))
            norm.append(*(table.mean(0, keepdim=True).expand(len(new), -1) for table in tables))  # the mean style
        names = [*info.names, *(picture.name for picture in new)]
        info = replace(
            info,
            names=names,
            sources=[*info.sources, *(picture.source for picture in new)],
            digests=[*(info.digests or [""] * first), *(picture.digest for picture in new)],
            settings=info.settings | {"styles": len(names)},
            encoder=self._encoder_described(),
        )
        return GeneratorTraining(self, generator, info, new, sources.seed, first, info.content)


@dataclass(frozen=True)
class _Picture:
    """A style of a training: its name, the file as it was given, a digest of that, and the picture (3, H, W) at the
    size at which it is learned."""

    name: str
    source: str
    digest: str
    image: Tensor


class GeneratorTraining(Training):
    """A generator's training (Johnson et al. 2016; Dumoulin et al. 2016, section 2).

    Every sample of a batch gets one style. Sample n of a training (counted over all processes) gets style n mod N of a
    permutation of its own for each round, so every style has its turn as often as the others, and an interruption or
    other processes change nothing.

    Args:
        method: settings.
        generator: what is trained: those of its parameters that require gradients, and of the styles those of `styles`.
        info: of the generator.
        styles: the last styles of the generator, those that are learned.
        seed: of styles and noise.
        first: how many styles it has before those; with some, everything but the new rows is frozen.
        content: see `Training`.
    """

    file_name, identity = "model.safetensors", "generator"
    wants_pairs = False

    def __init__(
        self,
        method: FeedForward,
        generator: Generator,
        info: ModelInfo,
        styles: Sequence[_Picture],
        seed: int,
        first: int = 0,
        content: str | list[str] | None = None,
    ) -> None:
        super().__init__(method.encoder, method.losses, method.recipe)
        if self.losses.has("identity"):
            raise UserError("the loss term 'identity' is for method=adain: leave it out of loss=[...]")
        self.settings, self.generator, self.made = method, generator, info
        self.styles, self.seed, self.first, self.content = styles, seed, first, content
        smallest = self.encoder.min_side_px(self.losses.layers("style"))
        self.multiple = generator.multiple
        for style in styles:
            if min(style.image.shape[-2:]) < smallest:
                raise UserError(f"{style.source}: the layers need a picture of {smallest} px or more on each side")
        generator.requires_grad_(not first)
        for norm in generator.norms:
            norm.gamma[-1].requires_grad_(True)
            norm.beta[-1].requires_grad_(True)
        if method.compile:
            generator.compile()
        self._targets: list[dict[str, Any]] = []
        self._factors: list[float] = []

    @property
    def network(self) -> Generator:
        return self.generator

    def info(self) -> ModelInfo:
        content = self.content
        data = getattr(self._trainer, "datamodule", None)
        if data is not None:
            content = data.specs["content"][0]
        return replace(self.made, steps=self.steps_done, content=content)

    def difference(self, made: Mapping[str, Any]) -> str | None:
        own = self.made
        if made.get("names") != own.names:
            return f"the styles {', '.join(made.get('names', []))}, and this one has {', '.join(own.names)}"
        known = ModelInfo(**made)
        if changed := [n for n, one, other in zip(own.names, known.digests, own.digests, strict=False) if one != other]:
            return f"another picture as the style {changed[0]}"
        if difference := _diff(known, own):
            return f"another generator ({difference})"
        if known.encoder != own.encoder:
            return f"the encoder {known.encoder}, and this one has {own.encoder}"
        return None

    def save(self, path: Path) -> None:
        save_generator(self.generator, self.info(), path)

    def on_fit_start(self) -> None:
        with torch.no_grad():
            for style in self.styles:
                feats = self.encoder(style.image[None].to(self.device), self.losses.layers("style"))
                targets = self.losses.targets("style", feats)
                self._targets.append({name: [(1.0, target)] for name, target in targets.items()})
            self._factors = [1.0] * len(self.styles)
            if self.settings.balance:
                self._factors = balanced(self.encoder, self.losses, self._targets, self.device)

    def on_fit_end(self) -> None:
        self._targets = []

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        content = to_unit_range(batch["content"])
        accumulated = self.trainer.accumulate_grad_batches
        number = self.trainer.global_step * accumulated + batch_idx % accumulated
        number = (number * self.trainer.world_size + self.trainer.global_rank) * len(content)
        given = sorted((self._style_of(number + place), place) for place in range(len(content)))
        which, places = zip(*given, strict=True)
        if list(places) != sorted(places):
            content = content[list(places)]
        samples = [number + place for place in places]
        values, result = self.evaluate(content, which, self._noise(samples, content), self.draws)
        return {"loss": values.total, "values": values.detached(), "count": len(result)}

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """Every style on one of the pictures at least."""
        content = to_unit_range(batch["content"])
        sizes = [len(other["content"]) for other in self.trainer.val_dataloaders.batches]
        places = range(sum(sizes[:batch_idx]), sum(sizes[: batch_idx + 1]))
        given = [
            ((place + offset) % len(self.styles), place - places.start)
            for offset in range(0, len(self.styles), sum(sizes))
            for place in places
        ]
        which, rows = zip(*sorted(given), strict=True)
        content = content[list(rows)]
        values, result = self.evaluate(content, which, self._noise([-1] * len(content), content), self.draws)
        result = result[:: self.draws]
        shown = torch.stack([_square(self.styles[s].image, result.shape[-1]) for s in which]).to(result)
        return {"values": values.detached(), "pictures": torch.stack([content, shown, result.clamp(0, 1)], 1)}

    @property
    def draws(self) -> int:
        """Pictures with other noise that are made of each photo."""
        return self.settings.noise_draws if self.settings.diversity else 1

    def evaluate(
        self, content: Tensor, which: Sequence[int], noise: Tensor | None = None, draws: int = 1
    ) -> tuple[LossValues, Tensor]:
        """Losses of one batch, and the pictures (B draws, 3, H, W), those of one photo next to each other.

        Args:
            content: RGB (B, 3, H, W) in [0, 1].
            which: the style of each, ascending; 0 is the first of `styles`.
            noise: (B draws, noise channels, H, W).
            draws: pictures made of each photo; only of several there is a diversity term.
        """
        photo = torch.arange(len(content), device=content.device).repeat_interleave(draws)
        with torch.no_grad():
            targets = self.losses.targets("content", self.encoder(content, self.losses.layers("content")))
            if draws > 1:
                targets, content = chosen(targets, photo), content[photo]
        which = [style for style in which for _ in range(draws)]
        mix = torch.tensor([self.first + style for style in which], device=content.device)
        result = self.generator(content.to(self.generator.dtype(self.encoder.dtype)), mix, noise)
        made = self.encoder(result, self.losses.layers())
        values = self.losses(made, {n: [(1.0, target)] for n, target in targets.items()}, ("content", "image"))
        values += self._style_values(made, which)
        if self.settings.diversity and draws > 1:
            term = julesz(result.unflatten(0, (-1, draws)).flatten(2), per_dim=True)
            values += LossValues(self.settings.diversity * term, {"diversity": term})
        return values, result

    def _style_values(self, made: Mapping[str, Tensor], which: Sequence[int]) -> LossValues:
        """Mean over the batch of the style terms, each picture's against its own style."""
        present = sorted(set(which))
        sizes = [which.count(style) for style in present]
        parts = {name: x.split(sizes) if len(present) > 1 else (x,) for name, x in made.items()}
        total, terms = 0.0, {}
        for number, (style, size) in enumerate(zip(present, sizes, strict=True)):
            feats = {name: split[number] for name, split in parts.items()}
            values = self.losses(feats, self._targets[style], ("style",))
            share = size / len(which)
            total = total + share * self._factors[style] * values.total
            terms = {name: terms.get(name, 0.0) + share * value for name, value in values.terms.items()}
        return LossValues(total, terms)

    def _style_of(self, sample: int) -> int:
        n = len(self.styles)
        order = np.random.default_rng([*b"styles", self.seed, sample // n]).permutation(n)
        return int(order[sample % n])

    def _noise(self, samples: Sequence[int], content: Tensor) -> Tensor | None:
        """Of each sample's number, whatever batch and process it is in: (len(samples) draws, channels, H, W)."""
        if not self.generator.noise_channels:
            return None
        size, parts = tuple(content.shape[-2:]), []
        for sample in samples:
            seed = np.random.default_rng([*b"noise", self.seed, sample + 1]).integers(2**63)
            parts.append(self.generator.make_noise(self.draws, size, torch.Generator().manual_seed(int(seed))))
        return torch.cat(parts).to(content.device)


def balanced(
    encoder: Encoder, losses: LossSet, targets: Sequence[Mapping[str, Any]], device: torch.device, px: int = 64
) -> list[float]:
    """A factor for each style, of mean 1, inverse to the style loss that a plain gray picture has: a painting with much
    contrast is further from every photo, and would have most of the gradient."""
    gray = torch.full((1, 3, px, px), 0.5, device=device)
    feats = encoder(gray, losses.layers("style"))
    distances = [float(losses(feats, target, ("style",)).total) for target in targets]
    least = max(0.1 * sum(distances) / len(distances), 1e-12)  # a plain painting is not to have all the weight
    inverse = [1 / max(distance, least) for distance in distances]
    return [len(inverse) * value / sum(inverse) for value in inverse]


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


def _load_styles(sources: Sources, key: str, px: int | None, taken: Sequence[str] = ()) -> list[_Picture]:
    """The style pictures of a training, by the key that names them, their shorter side resized to `px`.

    Args:
        taken: names that styles have already.

    Raises:
        UserError: none, one that cannot be read, or names that are no good.
    """
    spec = getattr(sources, key)
    if spec is None:
        raise UserError(f"{key} has no value yet: the network learns its pictures, such as {key}=painting.jpg")
    paths = find_images(spec, key)
    names = unique_names(paths, taken)
    if sources.style_names is not None:
        names = as_list(sources.style_names)
        if len(names) != len(paths) or len({*names, *taken}) != len(names) + len(taken) or not all(names):
            raise UserError(f"style_names={names}: give {len(paths)} different names, not taken, one per picture")
    given = as_list(spec)
    # A built-in picture keeps its name, which holds on every machine.
    files = given if len(given) == len(paths) else paths
    found = []
    for name, file, path in zip(names, files, paths, strict=True):
        image = load_image(path, sources.max_input_megapixels)
        size = tuple(image.shape[-2:])
        image = image if px is None else resize(image, size_for_shorter_side(size, px))
        found.append(_Picture(name, str(file), file_digest(path), image))
    return found


def _load_start(file: str) -> tuple[Generator, ModelInfo]:
    return load_generator(LEARNED_STYLES if file == "bundled" else Path(str(file)).expanduser(), "resume_from")


def _diff(one: ModelInfo, other: ModelInfo) -> str:
    """How two generators differ, for a sentence; empty if they do not."""
    first, second = ({"form": info.form, **build(info).settings} for info in (one, other))
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return ", ".join(f"{key} {first.get(key)} there and {second.get(key)} here" for key in keys)


def _square(image: Tensor, px: int) -> Tensor:
    """The middle of a picture (3, H, W), px high and wide."""
    image = resize(image, size_for_shorter_side(tuple(image.shape[-2:]), px))
    top, left = ((side - px) // 2 for side in image.shape[-2:])
    return image[:, top : top + px, left : left + px]
