"""The training of networks with learned styles (Johnson et al. 2016; Dumoulin et al. 2016, section 2)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.losses.diversity import julesz
from nstexp.core.losses.loss_set import LossSet, LossValues
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.generators import Generator
from nstexp.core.networks.model_files import ModelInfo, build, load_generator, save_generator
from nstexp.core.resize import resize, size_for_shorter_side
from nstexp.core.runtime.files import file_digest
from nstexp.core.secrets import without_secrets
from nstexp.media.images import load_image
from nstexp.media.paths import as_list, find_images, unique_names
from nstexp.methods.base import size_of
from nstexp.methods.settings import FeedForwardSettings
from nstexp.methods.training import Sources, Training, for_samples, to_unit_range
from nstexp.weights import LEARNED_STYLES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StylePicture:
    """A style that a training learns.

    Args:
        name: the style's name.
        source: the picture's file, as the user gave it.
        digest: the digest of the file, see `files.file_digest`.
        image: the picture, RGB (3, H, W) in [0, 1], at the size at which it is learned.
    """

    name: str
    source: str
    digest: str
    image: Tensor


def new_training(
    settings: FeedForwardSettings, encoder: Encoder, losses: LossSet, sources: Sources
) -> "GeneratorTraining":
    """The training of a new network on the styles of `sources.style`.

    Raises:
        UserError: no usable style pictures, or `sources.resume_from` is a file of another kind of network.
    """
    pictures = _load_styles(sources, "style", settings.style_px)
    if len(pictures) > 1 and not settings.many:
        raise UserError(f"style has {len(pictures)} pictures, and this network learns one: method=cin learns many")
    assert settings.generator is not None  # the config of every method with a network has it
    generator = settings.generator(norm=settings.norm, styles=len(pictures), noise_channels=settings.noise_channels)
    if settings.noise_channels and not settings.diversity:
        log.warning("method.noise=true without method.diversity: the network will learn to ignore the noise")
    info = ModelInfo(
        generator.form,
        generator.settings,
        [picture.name for picture in pictures],
        [picture.source for picture in pictures],
        _described(encoder),
        digests=[picture.digest for picture in pictures],
    )
    content = None
    if sources.resume_from is not None:
        content = _start_from(sources.resume_from, generator, info, settings.many)
    return GeneratorTraining(settings, encoder, losses, generator, info, pictures, sources.seed, content=content)


def _start_from(file: str, generator: Generator, info: ModelInfo, many: bool) -> str | list[str] | None:
    """Copy the weights of a file into a generator of the same form.

    Args:
        info: the description of the generator.
        many: whether the generator learns many styles.

    Returns:
        The photos that the file's network was trained with.

    Raises:
        UserError: the file's network is of another form.
    """
    start, known = _load_start(file)
    if (known.settings["norm"] == "conditional") != many:
        other = "texture_net" if many else "cin"
        raise UserError(f"resume_from={file} is a network of method={other}")
    if difference := _diff(known, info):
        raise UserError(f"resume_from={file} has another generator: {difference}")
    generator.load_state_dict(start.state_dict())
    return known.content


def training_of_more_styles(
    settings: FeedForwardSettings, encoder: Encoder, losses: LossSet, sources: Sources
) -> "GeneratorTraining":
    """The training of the styles of `sources.add_style` in a trained network, which keeps its present styles.

    Only the rows of the new styles are trained; they start from the mean of the present styles.

    Raises:
        UserError: no usable network or style pictures.
    """
    if not settings.many:
        raise UserError("add_style is for method=cin, whose networks learn many styles")
    if sources.resume_from is None:
        raise UserError("add_style needs resume_from=..., the network that is to learn another style, or bundled")
    if sources.style is not None:
        raise UserError("add_style: the network has its styles already, leave style out")
    generator, info = _load_start(sources.resume_from)
    if info.settings.get("norm") != "conditional":
        raise UserError(
            f"resume_from={sources.resume_from} has learned a single style, and add_style needs a network of method=cin"
        )
    new = _load_styles(sources, "add_style", settings.style_px, taken=info.names)
    first = len(info.names)
    for norm in generator.norms:
        tables = (torch.cat(list(table)) for table in (norm.gamma, norm.beta))
        norm.append(*(table.mean(0, keepdim=True).expand(len(new), -1) for table in tables))
    names = [*info.names, *(picture.name for picture in new)]
    info = replace(
        info,
        names=names,
        sources=[*info.sources, *(picture.source for picture in new)],
        digests=[*(info.digests or [""] * first), *(picture.digest for picture in new)],
        settings=info.settings | {"styles": len(names)},
        encoder=_described(encoder),
    )
    return GeneratorTraining(settings, encoder, losses, generator, info, new, sources.seed, first, info.content)


def _described(encoder: Encoder) -> str:
    """The encoder's identity and settings, for the network's file."""
    return f"{encoder.identity} ({encoder.settings})"


class GeneratorTraining(Training):
    """The training of a generator (Johnson et al. 2016; Dumoulin et al. 2016, section 2).

    Each sample of a batch gets one of the N styles. The samples of a training are numbered over all processes; every N
    consecutive samples get a new random permutation of the styles. All styles are therefore trained equally often, and
    the order depends neither on interruptions nor on the number of processes.

    Args:
        settings: the settings of the method.
        encoder, losses: the feature network and the loss terms.
        generator: the network; `styles` are its last styles.
        info: the description of the generator.
        styles: the styles that are trained.
        seed: seed of the order of the styles and of the noise.
        first: number of styles before those in `styles`. If above 0, only the rows of `styles` are trained, and all
            other parameters are frozen.
        content: see `Training`.

    Raises:
        UserError: a loss term that is only for method=adain, or a style picture too small for the layers.
    """

    file_name, identity = "model.safetensors", "generator"
    wants_pairs = False

    def __init__(
        self,
        settings: FeedForwardSettings,
        encoder: Encoder,
        losses: LossSet,
        generator: Generator,
        info: ModelInfo,
        styles: Sequence[StylePicture],
        seed: int,
        first: int = 0,
        content: str | list[str] | None = None,
    ) -> None:
        super().__init__(encoder, losses, settings.recipe)
        if self.losses.has("identity"):
            raise UserError("the loss term 'identity' is for method=adain: leave it out of loss=[...]")
        self.settings, self.generator, self.made = settings, generator, info
        self.styles, self.seed, self.first, self.content = styles, seed, first, content
        smallest = self.encoder.min_side_px(self.losses.layers("style"))
        self.multiple = generator.multiple
        for style in styles:
            if min(style.image.shape[-2:]) < smallest:
                raise UserError(
                    f"{style.source}: the style layers need a picture of {smallest} px or more on the shorter side"
                )
        generator.requires_grad_(not first)
        for norm in generator.norms:
            norm.gamma[-1].requires_grad_(True)
            norm.beta[-1].requires_grad_(True)
        if settings.compile:
            generator.compile()
        self._targets: list[dict[str, Any]] = []
        self._factors: list[float] = []

    @property
    def network(self) -> Generator:
        return self.generator

    def info(self) -> ModelInfo:
        content: Any = self.content
        data = getattr(self._trainer, "datamodule", None)
        if data is not None:
            # A user-defined data source may have no `specs`.
            content, *_ = getattr(data, "specs", {}).get("content", (content,))
        return replace(self.made, steps=self.steps_done, content=without_secrets(content))

    def difference(self, made: Mapping[str, Any]) -> str | None:
        current = self.made
        if made.get("names") != current.names:
            return f"the styles {', '.join(made.get('names', []))}, but this run has {', '.join(current.names)}"
        known = ModelInfo(**made)
        digests = zip(current.names, known.digests, current.digests, strict=False)
        if changed := [name for name, before, now in digests if before != now]:
            return f"another picture as the style {changed[0]}"
        if difference := _diff(known, current):
            return f"another generator ({difference})"
        if known.encoder != current.encoder:
            return f"the encoder {known.encoder}, but this run has {current.encoder}"
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
        number = self.batch_number(batch_idx) * len(content)
        by_style = sorted((self._style_of(number + place), place) for place in range(len(content)))
        which, places = zip(*by_style, strict=True)
        if list(places) != sorted(places):
            content = content[list(places)]
        samples = [number + place for place in places]
        values, result = self.evaluate(content, which, self._noise(samples, content), self.draws)
        return {"loss": values.total, "values": values.detached(), "count": len(result)}

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """Validation losses; over all batches, every style is applied to at least one of the pictures."""
        content = to_unit_range(batch["content"])
        loader: Any = self.trainer.val_dataloaders
        sizes = [len(other["content"]) for other in loader.batches]
        places = range(sum(sizes[:batch_idx]), sum(sizes[: batch_idx + 1]))
        pairs = [
            ((place + offset) % len(self.styles), place - places.start)
            for offset in range(0, len(self.styles), sum(sizes))
            for place in places
        ]
        which, rows = zip(*sorted(pairs), strict=True)
        content = content[list(rows)]
        values, result = self.evaluate(content, which, self._noise([-1] * len(content), content), self.draws)
        result = result[:: self.draws]
        shown = torch.stack([_square(self.styles[s].image, result.shape[-1]) for s in which]).to(result)
        return {"values": values.detached(), "pictures": torch.stack([content, shown, result.clamp(0, 1)], 1)}

    @property
    def draws(self) -> int:
        """Number of results per photo, each with different noise."""
        return self.settings.noise_draws if self.settings.diversity else 1

    def evaluate(
        self, content: Tensor, which: Sequence[int], noise: Tensor | None = None, draws: int = 1
    ) -> tuple[LossValues, Tensor]:
        """Losses of one batch, and the results (B draws, 3, H, W); the results of one photo are consecutive.

        Args:
            content: RGB (B, 3, H, W) in [0, 1].
            which: the index in `styles` of each photo's style, in ascending order.
            noise: (B draws, noise channels, H, W).
            draws: number of results per photo; the diversity term needs 2 or more.
        """
        photo = torch.arange(len(content), device=content.device).repeat_interleave(draws)
        with torch.no_grad():
            targets = self.losses.targets("content", self.encoder(content, self.losses.layers("content")))
            if draws > 1:
                targets, content = for_samples(targets, photo), content[photo]
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
        """The style terms, averaged over the batch; each picture is compared with its style.

        Args:
            made: features of the results, layer -> (N, C, h, w).
            which: the index of each result's style, in ascending order.
        """
        present = sorted(set(which))
        sizes = [which.count(style) for style in present]
        parts = {name: torch.split(x, sizes) if len(present) > 1 else (x,) for name, x in made.items()}
        total: Any = 0.0
        terms: dict[str, Any] = {}
        for number, (style, size) in enumerate(zip(present, sizes, strict=True)):
            feats = {name: split[number] for name, split in parts.items()}
            values = self.losses(feats, self._targets[style], ("style",))
            share = size / len(which)
            total = total + share * self._factors[style] * values.total
            terms = {name: terms.get(name, 0.0) + share * value for name, value in values.terms.items()}
        return LossValues(total, terms)

    def _style_of(self, sample: int) -> int:
        """The index of the style for the sample of this number."""
        n = len(self.styles)
        order = np.random.default_rng([*b"styles", self.seed, sample // n]).permutation(n)
        return int(order[sample % n])

    def _noise(self, samples: Sequence[int], content: Tensor) -> Tensor | None:
        """Noise that depends on the seed and on each sample's number alone, not on batches and processes.

        Returns:
            (len(samples) * draws, channels, H, W) for content (..., H, W); None if the network has no noise input.
        """
        if not self.generator.noise_channels:
            return None
        size, parts = size_of(content), []
        for sample in samples:
            seed = np.random.default_rng([*b"noise", self.seed, sample + 1]).integers(2**63)
            parts.append(self.generator.make_noise(self.draws, size, torch.Generator().manual_seed(int(seed))))
        return torch.cat(parts).to(content.device)


def balanced(
    encoder: Encoder, losses: LossSet, targets: Sequence[Mapping[str, Any]], device: torch.device, px: int = 64
) -> list[float]:
    """A factor for each style's loss: the inverse of the style loss of a plain gray picture, scaled to mean 1.

    A painting of high contrast is far from every photo, and would otherwise contribute most of the gradient.

    Args:
        targets: the style targets of each style.
        px: side of the gray picture.
    """
    gray = torch.full((1, 3, px, px), 0.5, device=device)
    feats = encoder(gray, losses.layers("style"))
    distances = [float(losses(feats, target, ("style",)).total) for target in targets]
    least = max(0.1 * sum(distances) / len(distances), 1e-12)  # a lower limit, or a plain painting gets all the weight
    inverse = [1 / max(distance, least) for distance in distances]
    return [len(inverse) * value / sum(inverse) for value in inverse]


def _load_styles(sources: Sources, key: str, px: int | None, taken: Sequence[str] = ()) -> list[StylePicture]:
    """Load the style pictures of a training.

    Args:
        key: the field of `sources` with the pictures, which is also the config key.
        px: length to which the shorter side is resized; None keeps the size.
        taken: names that the network's present styles have.

    Raises:
        UserError: no picture, an unreadable picture, or names that are empty, repeated, taken or too few.
    """
    spec = getattr(sources, key)
    if spec is None:
        raise UserError(f"{key} has no value yet: give the pictures to learn, such as {key}=painting.jpg")
    paths = find_images(spec, key)
    names = unique_names(paths, taken)
    if sources.style_names is not None:
        names = as_list(sources.style_names)
        if len(names) != len(paths) or len({*names, *taken}) != len(names) + len(taken) or not all(names):
            raise UserError(f"style_names={names}: give {len(paths)} different names, not taken, one per picture")
    given = as_list(spec)
    # Prefer the text that the user gave: the name of a built-in picture is valid on every machine, its path is not.
    files: Sequence[str | Path] = given if len(given) == len(paths) else paths
    pictures = []
    for name, file, path in zip(names, files, paths, strict=True):
        image = load_image(path, sources.max_input_megapixels)
        image = image if px is None else resize(image, size_for_shorter_side(size_of(image), px))
        pictures.append(StylePicture(name, str(file), file_digest(path), image))
    return pictures


def _load_start(file: str) -> tuple[Generator, ModelInfo]:
    """The generator of `resume_from` and its description."""
    return load_generator(LEARNED_STYLES if file == "bundled" else Path(str(file)).expanduser(), "resume_from")


def _diff(one: ModelInfo, other: ModelInfo) -> str:
    """How two generators differ, as a part of a sentence ("there" and "here"); empty if they are alike."""
    first, second = ({"form": info.form, **build(info).settings} for info in (one, other))
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return ", ".join(f"{key} {first.get(key)} there and {second.get(key)} here" for key in keys)


def _square(image: Tensor, px: int) -> Tensor:
    """A picture (3, H, W) resized and cropped to its central square, (3, px, px)."""
    image = resize(image, size_for_shorter_side(size_of(image), px))
    top, left = ((side - px) // 2 for side in image.shape[-2:])
    return image[:, top : top + px, left : left + px]
