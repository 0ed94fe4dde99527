"""Files of trained generators and decoders, in the formats of this project and of two others."""

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
from nstexp.core.networks.eight_bits import packed, unpacked
from nstexp.core.networks.encoder import Encoder, same_network
from nstexp.core.networks.generators import FORMS, Generator
from nstexp.core.networks.swift import Swift
from nstexp.core.networks.tensor_files import check_numbers, read_tensors
from nstexp.core.networks.vgg import VGG
from nstexp.core.runtime.files import json_text, write_atomically

log = logging.getLogger(__name__)


@dataclass
class ModelInfo:
    """The metadata in the file of a generator.

    Args:
        form: key of FORMS.
        settings: see `Generator`.
        names: names of the styles, in the order of their rows.
        sources: pictures of the styles, as given to the training.
        encoder: encoder of the losses, with its pooling and padding.
        steps: number of steps of the last training.
        content: photos of the training, as given to it.
        digests: digests of the styles' files (`files.file_digest`), which identify the styles.
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
    """The network that the metadata describe, with initial weights."""
    return FORMS[info.form](**info.settings | {"styles": len(info.names)})


def state_of(generator: Generator) -> dict[str, Tensor]:
    """All weights by name, with the rows of each normalization joined to one block."""
    return _joined(generator.state_dict())


def save_generator(generator: Generator, info: ModelInfo, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a generator to a safetensors file, atomically.

    Args:
        dtype: dtype of the weights in the file.

    Raises:
        UserError: the file cannot be written.
    """
    from safetensors.torch import save

    running = [name for name, _ in generator.named_buffers()]  # averages of batch normalization can exceed float16
    tensors = {
        name: value.detach().to("cpu", None if name in running else dtype).contiguous()
        for name, value in state_of(generator).items()
    }
    content = save(tensors, {"generator": json_text(asdict(info))})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_generator(path: Path, key: str = "path") -> tuple[Generator, ModelInfo]:
    """Load a generator: a `.safetensors` or `.ckpt` file of this project, or a file of pytorch/examples'
    fast_neural_style.

    Args:
        key: the user's key for the file, for the error message.

    Returns:
        The generator, in evaluation mode and without gradients, and its metadata.

    Raises:
        UserError: no such file, a damaged file, or not the file of a generator.
    """
    if not path.is_file():
        inside = path / "model.safetensors"
        hint = f", do you mean {inside}?" if inside.is_file() else ""
        raise UserError(f"{key}={path}: there is no such file{hint}")
    state, info = _read(path, key)
    try:
        generator = build(info)
        info = replace(info, settings=generator.settings)  # adds defaults of settings that the file does not name
        generator.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except UserError:
        raise
    except (RuntimeError, KeyError, TypeError, AttributeError):
        raise UserError(f"{key}={path}: its layers are not those of the generator that it describes") from None
    check_numbers(state, f"{key}={path}")
    return generator.requires_grad_(False).eval(), info


def _read(path: Path, key: str) -> tuple[dict[str, Tensor], ModelInfo]:
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
            weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            return _joined(weights), ModelInfo(**content["generator"])
        if "conv1.conv2d.weight" in content:
            return _from_pytorch_examples(content), ModelInfo("residual", PYTORCH_EXAMPLES, [path.stem], [""])
    except (TypeError, AttributeError, KeyError):
        pass  # not a generator, although it has some of the keys
    raise UserError(f"{key}={path}: not the file of a generator")


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the blocks of rows of normalizations; a training that adds styles has two blocks."""
    joined = {name: value for name, value in state.items() if not _is_later_block(name)}
    for name in filter(_is_later_block, state):  # a state dict has the blocks in order
        stem = name.rpartition(".")[0]
        joined[f"{stem}.0"] = torch.cat([joined[f"{stem}.0"], state[name]])
    return joined


def _is_later_block(name: str) -> bool:
    """True for gamma.1, beta.1, gamma.2, ..."""
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
    """Rename the weights of pytorch/examples, and drop running statistics, which early versions of PyTorch saved."""
    # convolution -> its normalization, and its place in `Residual`
    places: dict[str, tuple[str | None, str]] = {f"conv{i + 1}": (f"in{i + 1}", f"down.{i}") for i in range(3)}
    places |= {f"deconv{i + 1}": (f"in{i + 4}", f"up.{i}") for i in range(2)}
    places["deconv3"] = (None, "last")
    for index in range(5):
        block = f"res{index + 1}"
        for number, attribute in ((1, "first"), (2, "second")):
            places[f"{block}.conv{number}"] = (f"{block}.in{number}", f"residual.{index}.{attribute}")
    renamed = {}
    for conv, (norm, place) in places.items():
        for tensor in ("weight", "bias"):
            renamed[f"{place}.{tensor}"] = state[f"{conv}.conv2d.{tensor}"]
        if norm is not None:
            renamed[f"{place}.norm.gamma.0"] = state[f"{norm}.weight"][None]
            renamed[f"{place}.norm.beta.0"] = state[f"{norm}.bias"][None]
    return renamed


@dataclass
class DecoderInfo:
    """The metadata in the file of a decoder.

    Args:
        layer: the encoder layer that the decoder inverts.
        encoder: name of the encoder.
        fingerprint: fingerprint of the encoder, see `Encoder.fingerprint`.
        settings: pooling and padding of the encoder.
        steps: number of training steps.
    """

    layer: str
    encoder: str
    fingerprint: list[float]
    settings: str = ""
    steps: int = 0

    def agrees(self, other: Mapping[str, Any]) -> bool:
        """True if the metadata of another file name the same layer of the same encoder."""
        same_settings = self.settings == other.get("settings", "") or not (self.settings and other.get("settings"))
        same_layer = self.layer == other.get("layer")
        return same_layer and same_settings and same_network(self.fingerprint, other.get("fingerprint", ()))


def decoder_info(encoder: Encoder, layer: str, steps: int = 0) -> DecoderInfo:
    """The metadata of a decoder for a layer of an encoder."""
    name = encoder.canonical(layer)
    return DecoderInfo(name, encoder.identity, encoder.fingerprint(layer), encoder.settings, steps)


def save_decoder(decoder: Decoder, info: DecoderInfo, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a decoder to a safetensors file, atomically.

    Args:
        dtype: dtype of the weights in the file.

    Raises:
        UserError: the file cannot be written.
    """
    from safetensors.torch import save

    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in decoder.state_dict().items()}
    metadata = {"info": json_text(asdict(info))}  # one entry, because safetensors writes entries in random order
    content = save(tensors, metadata)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_decoder(path: Path, encoder: Encoder, layer: str, key: str = "path", layer_key: str = "layer") -> Decoder:
    """Load a decoder: a `.safetensors` or `.ckpt` file of this project, or pytorch-AdaIN's `decoder.pth`.

    Args:
        path: the file.
        encoder, layer: the encoder, and the layer from which the decoder starts.
        key, layer_key: the user's keys for the file and the layer, for the error message.

    Returns:
        The decoder, in evaluation mode and without gradients.

    Raises:
        UserError: no such file, a damaged file, not the file of a decoder, or a decoder for another layer or encoder.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: there is no such file")
    state, info = _read_decoder(path, key)
    decoder = Decoder.mirror(encoder, layer)
    if info is None:
        state = _from_sequential(state, decoder)
        log.warning(
            "%s does not name the encoder of its training: gray pictures mean that it was another encoder", path
        )
    else:
        _check_fits(info, encoder, layer, f"{key}={path}", layer_key)
    try:
        decoder.load_state_dict({name: value.float() for name, value in state.items()})
    except (RuntimeError, AttributeError):
        raise UserError(f"{key}={path}: its layers are not those of a decoder for {layer}") from None
    check_numbers(state, f"{key}={path}")
    return decoder.requires_grad_(False).eval()


def _check_fits(info: DecoderInfo, encoder: Encoder, layer: str, file: str, layer_key: str) -> None:
    if encoder.canonical(info.layer) != encoder.canonical(layer):
        raise UserError(
            f"{file} was trained for {info.layer}, and {layer_key} is {layer}: set {layer_key} to {info.layer}, or "
            "train another decoder"
        )
    required = decoder_info(encoder, layer)
    if not info.agrees(asdict(required)):
        raise UserError(
            f"{file} was trained with the encoder {info.encoder} ({info.settings}), and the backbone is "
            f"{required.encoder} ({required.settings}): its pictures would be gray or garish; choose that backbone, or "
            "train another decoder"
        )


def read_info(path: Path, key: str = "path") -> DecoderInfo | None:
    """The metadata in the file of a decoder; None for files of other projects.

    Raises:
        UserError: a damaged file, or not the file of a decoder.
    """
    return _read_decoder(path, key)[1]


def to_sequential(decoder: Decoder) -> dict[str, Tensor]:
    """A decoder's weights by pytorch-AdaIN's names: positions in its nn.Sequential, such as `1.weight`."""
    state = decoder.state_dict()
    positions = _sequential_positions(decoder)
    return {f"{positions[n]}.{part}": state[f"convs.{n}.{part}"] for n in decoder.names for part in ("weight", "bias")}


def encoder_to_sequential(encoder: VGG) -> dict[str, Tensor]:
    """An encoder's weights by pytorch-AdaIN's names; the preprocessing becomes a 1x1 convolution at the start."""
    p = encoder.preprocessing
    mean, std = torch.tensor(p.mean), torch.tensor(p.std)
    scale = torch.diag(p.scale / std)
    state = {"0.weight": (scale.flip(1) if p.bgr else scale)[:, :, None, None], "0.bias": -mean / std}
    position = 1
    for step in encoder.steps:
        if step.startswith("pool"):
            position += 1
        else:  # padding, convolution, ReLU
            for part in ("weight", "bias"):
                state[f"{position + 1}.{part}"] = getattr(encoder, f"{step}_{part}").float()
            position += 3
    return state


def _from_sequential(state: Mapping[str, Tensor], decoder: Decoder) -> dict[str, Tensor]:
    """The inverse of `to_sequential`; unknown names stay the same."""
    names = {f"{position}.": f"convs.{name}." for name, position in _sequential_positions(decoder).items()}
    prefix = {key: key[: key.find(".") + 1] for key in state}
    return {names.get(prefix[key], prefix[key]) + key[len(prefix[key]) :]: value for key, value in state.items()}


def _sequential_positions(decoder: Decoder) -> dict[str, int]:
    positions, position = {}, 0
    for name in decoder.names:
        position += 1 if name in decoder.upsamples else 0
        positions[name] = position + 1  # after its padding
        position += 3  # padding, convolution, ReLU
    return positions


def _read_decoder(path: Path, key: str) -> tuple[dict[str, Tensor], DecoderInfo | None]:
    try:
        content, metadata = read_tensors(path)
        if path.suffix == ".safetensors":
            return content, DecoderInfo(**json.loads(metadata["info"])) if "info" in metadata else None
        if isinstance(content, Mapping) and "decoder" in content and "state_dict" in content:
            state, prefix = content["state_dict"], "decoder."
            weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            return weights, DecoderInfo(**content["decoder"])
    except UserError as error:
        raise UserError(f"{key}={error}") from error
    except Exception as error:  # the loaders raise a dozen types for a damaged or unsafe file
        raise UserError(f"{key}={path}: not a decoder file that loads safely ({type(error).__name__})") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{key}={path}: not the file of an AdaIN decoder")
    return dict(content), None


# ---------------------------------------------------------------------------------------------------------------- swift


@dataclass
class SwiftInfo:
    """What the file of a `Swift` network says about itself.

    Args:
        settings: the arguments of `Swift`.
        encoder: the network that its losses were taken with, and how it pools and pads.
        steps: of its training.
        content, style: the photos and the paintings that it was trained with, as they were given.
    """

    settings: dict[str, Any]
    encoder: str = ""
    steps: int = 0
    content: str | list[str] | None = None
    style: str | list[str] | None = None


def save_swift(network: Swift, info: SwiftInfo, path: Path, small: bool = False) -> None:
    """Write a network as safetensors, complete or not at all.

    Args:
        small: in 8 bits (`eight_bits.packed`) rather than float32.
    """
    from safetensors.torch import save

    state = network.state_dict()
    tensors = (
        packed(state) if small else {k: v.detach().to("cpu", torch.float32).contiguous() for k, v in state.items()}
    )
    content = save(tensors, {"swift": json_text(asdict(info))})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_swift(path: Path, key: str = "path") -> tuple[Swift, SwiftInfo]:
    """A `Swift` network from a `.safetensors` or `.ckpt` file.

    Args:
        key: what the user knows the file as, for the error message.

    Raises:
        UserError: no such file, damaged, or of something else.
    """
    if not path.is_file():
        made = path / "model.safetensors"
        raise UserError(f"{key}={path}: there is no such file" + (f", do you mean {made}?" if made.is_file() else ""))
    try:
        content, metadata = read_tensors(path)
        if "swift" in metadata:
            state, info = unpacked(content), SwiftInfo(**json.loads(metadata["swift"]))
        elif isinstance(content, Mapping) and "swift" in content and "state_dict" in content:
            prefix, info = "swift.", SwiftInfo(**content["swift"])
            state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
        else:
            raise UserError(f"{path}: not the file of a Swift network")
    except UserError as error:
        raise UserError(f"{key}={error}") from error
    except Exception as error:  # the loaders raise a dozen types for a damaged or unsafe file
        raise UserError(f"{key}={path}: not a file that loads safely ({type(error).__name__})") from error
    try:
        network = Swift(**info.settings)
        network.load_state_dict({name: value.float() for name, value in state.items()})
    except (RuntimeError, TypeError, ValueError, AttributeError):
        raise UserError(f"{key}={path}: its layers are not those of the network that it describes") from None
    check_numbers(state, f"{key}={path}")
    return network.requires_grad_(False).eval(), info
