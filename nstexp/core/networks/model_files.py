"""Files of trained networks: what is in them, and other projects' formats."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.encoder import Encoder, same_network
from nstexp.core.networks.generators import FORMS, Generator
from nstexp.core.networks.tensor_files import check_numbers, read_tensors
from nstexp.core.networks.vgg import VGG
from nstexp.core.runtime.files import json_text, write_atomically

log = logging.getLogger(__name__)


@dataclass
class ModelInfo:
    """What the file of a generator says about itself.

    Args:
        form: key of FORMS.
        settings: see `Generator`.
        names: of the styles, in the order of their rows.
        sources: the picture of each style, as it was given to the training.
        encoder: the network that its losses were taken with, and how it pools and pads.
        steps: of its last training.
        content: the photos that it was trained with, as they were given.
        digests: of the styles' files (`files.file_digest`), by which they are known again.
    """

    form: str
    settings: dict[str, Any]
    names: list[str]
    sources: list[str]
    encoder: str = ""
    steps: int = 0
    content: str | list[str] | None = None
    digests: list[str] = field(default_factory=list)


def build(info: ModelInfo) -> Generator:
    """The network that a file describes, with weights at their start."""
    return FORMS[info.form](**info.settings | {"styles": len(info.names)})


def state_of(generator: Generator) -> dict[str, Tensor]:
    """All weights by name, the rows of each normalization as one block."""
    return _joined(generator.state_dict())


def save_generator(generator: Generator, info: ModelInfo, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a generator as safetensors, complete or not at all."""
    from safetensors.torch import save

    running = [name for name, _ in generator.named_buffers()]  # of batch normalization, beyond what float16 can hold
    tensors = {
        name: value.detach().to("cpu", None if name in running else dtype).contiguous()
        for name, value in state_of(generator).items()
    }
    content = save(tensors, {"generator": json_text(asdict(info))})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_generator(path: Path, key: str = "path") -> tuple[Generator, ModelInfo]:
    """A generator from a file: `.safetensors` or `.ckpt` of this project, or of pytorch/examples' fast_neural_style.

    Args:
        key: what the user knows the file as, for the error message.

    Raises:
        UserError: no such file, damaged, or of something else.
    """
    if not path.is_file():
        made = path / "model.safetensors"
        raise UserError(f"{key}={path}: there is no such file" + (f", do you mean {made}?" if made.is_file() else ""))
    state, info = _read(path, key)
    try:
        generator = build(info)
        info = replace(info, settings=generator.settings)  # complete, also of a file that names only some
        generator.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except UserError:
        raise
    except (RuntimeError, KeyError, TypeError, AttributeError):
        raise UserError(f"{key}={path}: its layers are not those of the generator that it describes") from None
    check_numbers(state, f"{key}={path}")
    return generator.requires_grad_(False).eval(), info


def _read(path: Path, key: str) -> tuple[dict[str, Tensor], ModelInfo]:
    of_something_else = f"{key}={path}: a file of something else than a generator"
    try:
        content, metadata = read_tensors(path)
        if "generator" in metadata:
            return content, ModelInfo(**json.loads(metadata["generator"]))
    except UserError as error:
        raise UserError(f"{key}={error}") from error
    except Exception as error:  # the loaders raise a dozen types for a damaged or unsafe file
        raise UserError(f"{key}={path}: not a file that loads safely ({type(error).__name__})") from error
    try:
        if not isinstance(content, Mapping):
            raise TypeError
        if "generator" in content and "state_dict" in content:
            state, prefix = content["state_dict"], "generator."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            return _joined(own), ModelInfo(**content["generator"])
        if "conv1.conv2d.weight" in content:
            return _from_pytorch_examples(content), ModelInfo("residual", PYTORCH_EXAMPLES, [path.stem], [""])
    except (TypeError, AttributeError, KeyError):
        pass  # it only looks like one
    raise UserError(of_something_else)


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A module's own state as `state_of` has it: a training that adds styles has its rows in two blocks."""
    found = {name: value for name, value in state.items() if not _is_later_block(name)}
    for name in filter(_is_later_block, state):  # the dictionary's order is that of the blocks
        stem = name.rpartition(".")[0]
        found[f"{stem}.0"] = torch.cat([found[f"{stem}.0"], state[name]])
    return found


def _is_later_block(name: str) -> bool:
    stem, _, number = name.rpartition(".")
    return number.isdecimal() and number != "0" and stem.rpartition(".")[2] in ("gamma", "beta")


# pytorch/examples, fast_neural_style: Johnson et al. 2016 with instance normalization and nearest upsampling.
PYTORCH_EXAMPLES: dict[str, Any] = {
    "norm": "instance",
    "last_norm": False,
    "bias": True,
    "output": "linear",
    "space": "bytes",
    "weight_std": None,
}


def _from_pytorch_examples(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its names to ours; running statistics, which early versions of PyTorch saved, are dropped."""
    places = {f"conv{i + 1}": (f"in{i + 1}", f"down.{i}") for i in range(3)}
    places |= {f"deconv{i + 1}": (f"in{i + 4}", f"up.{i}") for i in range(2)} | {"deconv3": (None, "last")}
    for block in range(5):
        for number, own in ((1, "first"), (2, "second")):
            old = f"res{block + 1}"
            places[f"{old}.conv{number}"] = (f"{old}.in{number}", f"residual.{block}.{own}")
    found = {}
    for conv, (norm, place) in places.items():
        for kind in ("weight", "bias"):
            found[f"{place}.{kind}"] = state[f"{conv}.conv2d.{kind}"]
        if norm is not None:
            found[f"{place}.norm.gamma.0"] = state[f"{norm}.weight"][None]
            found[f"{place}.norm.beta.0"] = state[f"{norm}.bias"][None]
    return found


@dataclass
class DecoderInfo:
    """What a decoder file says about itself.

    Args:
        layer: the encoder layer that it inverts.
        encoder: the encoder's name.
        fingerprint: of that encoder, see `Encoder.fingerprint`.
        settings: how that encoder pools and pads.
        steps: how long it was trained.
    """

    layer: str
    encoder: str
    fingerprint: list[float]
    settings: str = ""
    steps: int = 0

    def agrees(self, other: Mapping[str, Any]) -> bool:
        """Whether another file's record names the same layer of the same encoder."""
        same_settings = self.settings == other.get("settings", "") or not (self.settings and other.get("settings"))
        same_layer = self.layer == other.get("layer")
        return same_layer and same_settings and same_network(self.fingerprint, other.get("fingerprint", ()))


def decoder_info(encoder: Encoder, layer: str, steps: int = 0) -> DecoderInfo:
    """The record of a decoder for a layer of an encoder."""
    own = encoder.canonical(layer)
    return DecoderInfo(own, encoder.identity, encoder.fingerprint(layer), encoder.settings, steps)


def save_decoder(decoder: Decoder, info: DecoderInfo, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a decoder as safetensors, complete or not at all."""
    from safetensors.torch import save

    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in decoder.state_dict().items()}
    metadata = {"info": json_text(asdict(info))}  # one entry: several come in random order, and files would differ
    content = save(tensors, metadata)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_decoder(path: Path, encoder: Encoder, layer: str, key: str = "path", layer_key: str = "layer") -> Decoder:
    """A decoder from a file: `.safetensors` or `.ckpt` of this project, or pytorch-AdaIN's `decoder.pth`.

    Args:
        key, layer_key: what the user knows the file and the layer as, for the error message.

    Raises:
        UserError: no such file, damaged, of another method, made for another layer or another encoder.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: there is no such file")
    state, info = _read_decoder(path, key)
    decoder = Decoder.mirror(encoder, layer)
    if info is None:
        state = _from_sequential(state, decoder)
        log.warning("%s does not say which encoder it was trained with: gray pictures mean another one", path)
    else:
        _check_fits(info, encoder, layer, f"{key}={path}", layer_key)
    try:
        decoder.load_state_dict({name: value.float() for name, value in state.items()})
    except (RuntimeError, AttributeError):
        raise UserError(f"{key}={path}: its layers are not those of a decoder for {layer}") from None
    check_numbers(state, f"{key}={path}")
    return decoder.requires_grad_(False).eval()


def _check_fits(info: DecoderInfo, encoder: VGG, layer: str, file: str, layer_key: str) -> None:
    if encoder.canonical(info.layer) != encoder.canonical(layer):
        raise UserError(
            f"{file} was trained for {info.layer}, and {layer_key} is {layer}: set {layer_key} to {info.layer}, or "
            "train another decoder"
        )
    own = decoder_info(encoder, layer)
    if not info.agrees(asdict(own)):
        raise UserError(
            f"{file} was trained with the encoder {info.encoder} ({info.settings}), and the backbone is {own.encoder} "
            f"({own.settings}): its pictures would be gray or garish; choose that backbone, or train another decoder"
        )


def read_info(path: Path, key: str = "path") -> DecoderInfo | None:
    """What a decoder file says about itself; None for other projects' files."""
    return _read_decoder(path, key)[1]


def to_sequential(decoder: Decoder) -> dict[str, Tensor]:
    """A decoder's weights under pytorch-AdaIN's names: positions in its nn.Sequential, such as `1.weight`."""
    state = decoder.state_dict()
    positions = _sequential_positions(decoder)
    return {f"{positions[n]}.{kind}": state[f"convs.{n}.{kind}"] for n in decoder.names for kind in ("weight", "bias")}


def encoder_to_sequential(encoder: VGG) -> dict[str, Tensor]:
    """An encoder's weights under pytorch-AdaIN's names; the preprocessing becomes the 1x1 convolution in front."""
    p = encoder.preprocessing
    mean, std = torch.tensor(p.mean), torch.tensor(p.std)
    mix = torch.diag(p.scale / std)
    state = {"0.weight": (mix.flip(1) if p.bgr else mix)[:, :, None, None], "0.bias": -mean / std}
    position = 1
    for step in encoder.steps:
        if step.startswith("pool"):
            position += 1
        else:  # padding, convolution, ReLU
            for kind in ("weight", "bias"):
                state[f"{position + 1}.{kind}"] = getattr(encoder, f"{step}_{kind}").float()
            position += 3
    return state


def _from_sequential(state: Mapping[str, Tensor], decoder: Decoder) -> dict[str, Tensor]:
    names = {f"{position}.": f"convs.{name}." for name, position in _sequential_positions(decoder).items()}
    prefix = {key: key[: key.find(".") + 1] for key in state}
    return {names.get(prefix[key], prefix[key]) + key[len(prefix[key]) :]: value for key, value in state.items()}


def _sequential_positions(decoder: Decoder) -> dict[str, int]:
    positions, position = {}, 0
    for name in decoder.names:
        position += 1 if name in decoder.upsamples else 0
        positions[name] = position + 1  # behind its padding
        position += 3  # padding, convolution, ReLU
    return positions


def _read_decoder(path: Path, key: str) -> tuple[dict[str, Tensor], DecoderInfo | None]:
    try:
        content, metadata = read_tensors(path)
        if path.suffix == ".safetensors":
            return content, DecoderInfo(**json.loads(metadata["info"])) if "info" in metadata else None
        if isinstance(content, Mapping) and "decoder" in content and "state_dict" in content:
            own = {k.removeprefix("decoder."): v for k, v in content["state_dict"].items() if k.startswith("decoder.")}
            return own, DecoderInfo(**content["decoder"])
    except UserError as error:
        raise UserError(f"{key}={error}") from error
    except Exception as error:  # the loaders raise a dozen types for a damaged or unsafe file
        raise UserError(f"{key}={path}: not a decoder file that loads safely ({type(error).__name__})") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{key}={path}: a checkpoint of something else than an AdaIN decoder")
    return dict(content), None
