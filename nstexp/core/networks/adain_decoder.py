"""Networks that are trained: the AdaIN decoder."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import UserError
from nstexp.core.networks.encoder import IMAGE, VGG, same_network
from nstexp.core.runtime.files import write_atomically

log = logging.getLogger(__name__)

# How an upsampled row sees a kernel of 3: phase 0 lies on the pair (i-1, i) of rows, phase 1 on the pair (i, i+1).
_PHASES = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # phase, row of the pair, kernel row


class Decoder(nn.Module):
    """Features back to an image: the encoder mirrored (Huang & Belongie 2017, section 4.1).

    Every 3x3 convolution of the encoder up to `layer` has one here that goes the other way, under the same name, with
    reflection padding and a ReLU behind it (none after the last); every pooling becomes a nearest x2 upsampling. There
    is no normalization. For VGG-19 and relu4_1 that makes 3,505,219 parameters.

    Args:
        shapes: name of each of the encoder's convolutions, in its order -> (channels out, channels in).

    Parameters are float32; the arithmetic is in the dtype of the features that come in.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.names = tuple(reversed(shapes))
        self.convs = nn.ModuleDict()
        for name in self.names:
            high, low = shapes[name]
            self.convs[name] = nn.Conv2d(high, low, 3).to(memory_format=torch.channels_last)
        blocks = [name[4] for name in self.names]
        # The last convolution of an encoder block has a pooling behind it: here its counterpart upsamples first.
        behind = zip(self.names[1:], blocks[1:], blocks, strict=False)
        self.upsamples = frozenset(name for name, block, deeper in behind if block != deeper)

    @classmethod
    def mirror(cls, encoder: VGG, layer: str) -> "Decoder":
        """The decoder for features that `encoder` has at `layer`, with PyTorch's default initialization."""
        own = encoder.canonical(layer)
        if not own.startswith("relu"):
            raise UserError(f"layers.content=[{layer}]: a decoder starts from a layer relu*, such as relu4_1")
        last = encoder.conv_names.index(own.replace("relu", "conv"))
        shapes = {n: tuple(getattr(encoder, f"{n}_weight").shape[:2]) for n in encoder.conv_names[: last + 1]}
        return cls(shapes)

    @property
    def scale(self) -> int:
        """How many times higher and wider the image is than the features."""
        return 2 ** len(self.upsamples)

    @property
    def reach(self) -> int:
        """How many positions of the features away a pixel can still be changed."""
        pixels, stride = 0, self.scale
        for name in self.names:
            stride //= 2 if name in self.upsamples else 1
            pixels += stride
        return -(-pixels // self.scale) + 1

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> RGB (B, 3, scale H, scale W) in float32, nominally in [0, 1] (nothing is clamped)."""
        x = features
        for name in self.names:
            x = self.step(name, x)
        return x.float() if x.dtype != torch.float64 else x

    def step(self, name: str, x: Tensor) -> Tensor:
        """One convolution with what belongs to it: upsampling before, padding, ReLU after (not at the last)."""
        conv = self.convs[name]
        weight, bias = conv.weight, conv.bias.to(x.dtype)
        if name in self.upsamples:
            x = upsampled_conv(x, weight, bias)
        else:
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight.to(x.dtype), bias)
        return x if name == self.names[-1] else F.relu_(x)


def upsampled_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Nearest x2 upsampling, reflection padding by 1 and a 3x3 convolution in one: (B, C, H, W) -> (B, D, 2H, 2W).

    Each of the four phases of the result sees 2x2 different pixels, so four 2x2 kernels at the low resolution do the
    same with 4/9 of the multiplications. Reflection at the high resolution repeats the border row of the low one.
    """
    b, _, h, w = x.shape
    d = weight.shape[0]
    phases = _PHASES.to(weight)
    kernels = torch.einsum("dcij,pai,qbj->pqdcab", weight, phases, phases).flatten(0, 2)  # (4D, C, 2, 2)
    kernels = kernels.to(x.dtype, memory_format=torch.channels_last)
    y = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernels)  # (B, 4D, H+1, W+1)
    y = y.permute(0, 2, 3, 1).unflatten(3, (2, 2, d))  # (B, H+1, W+1, phase of the row, of the column, D)
    rows = [torch.stack([y[:, p : p + h, q : q + w, p, q] for q in (0, 1)], 3) for p in (0, 1)]  # (B, H, W, 2, D)
    out = torch.stack(rows, 2).reshape(b, 2 * h, 2 * w, d) + bias
    return out.permute(0, 3, 1, 2)


# --------------------------------------------------------------------------------------------------------------- files


@dataclass
class DecoderInfo:
    """What a decoder file says about itself.

    Args:
        layer: the encoder layer that it inverts.
        encoder: the encoder's name.
        fingerprint: of that encoder, see `VGG.fingerprint`.
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


def decoder_info(encoder: VGG, layer: str, steps: int = 0) -> DecoderInfo:
    """The record of a decoder for a layer of an encoder."""
    settings = f"{encoder.pool} pooling, {encoder.pad} padding"
    own = encoder.canonical(layer)
    return DecoderInfo(own, encoder.identity, encoder.fingerprint(layer), settings, steps)


def save_decoder(decoder: Decoder, info: DecoderInfo, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a decoder as safetensors, complete or not at all."""
    from safetensors.torch import save

    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in decoder.state_dict().items()}
    metadata = {"info": json.dumps(asdict(info))}  # one entry: several come in random order, and files would differ
    content = save(tensors, metadata)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_decoder(path: Path, encoder: VGG, layer: str, key: str = "method.decoder") -> Decoder:
    """A decoder from a file: `.safetensors` or `.ckpt` of this project, or pytorch-AdaIN's `decoder.pth`.

    Raises:
        UserError: no such file, damaged, of another method, made for another layer or another encoder.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: there is no such file")
    state, info = _read_decoder(path, key)
    decoder = Decoder.mirror(encoder, layer)
    if info is not None:
        if encoder.canonical(info.layer) != encoder.canonical(layer):
            raise UserError(
                f"{key}={path} was trained for {info.layer}, and layers.content is {layer}: set layers.content="
                f"[{info.layer}], or train another with task=train"
            )
        own = decoder_info(encoder, layer)
        if not info.agrees(asdict(own)):
            raise UserError(
                f"{key}={path} was trained with the encoder {info.encoder} ({info.settings}), and the backbone is "
                f"{own.encoder} ({own.settings}): its pictures would be gray or garish; choose that backbone, or train "
                "another decoder with task=train"
            )
    else:
        state = _from_sequential(state, decoder)
        log.warning("%s does not say which encoder it was trained with: gray pictures mean another one", path)
    try:
        decoder.load_state_dict({name: value.float() for name, value in state.items()})
    except (RuntimeError, AttributeError):
        raise UserError(f"{key}={path}: its layers are not those of a decoder for {layer}") from None
    return decoder.requires_grad_(False).eval()


def read_info(path: Path, key: str = "method.decoder") -> DecoderInfo | None:
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
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            info = DecoderInfo(**json.loads(metadata["info"])) if "info" in metadata else None
            return state, info
        content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, Mapping) and "decoder" in content and "state_dict" in content:
            own = {k.removeprefix("decoder."): v for k, v in content["state_dict"].items() if k.startswith("decoder.")}
            return own, DecoderInfo(**content["decoder"])
    except Exception as error:  # the loaders raise a dozen types for a damaged or unsafe file
        raise UserError(f"{key}={path}: not a decoder file that loads safely ({type(error).__name__})") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{key}={path}: a checkpoint of something else than an AdaIN decoder")
    return dict(content), None


# --------------------------------------------------------------------------------------------------- closed-form start


@torch.no_grad()
def fit_decoder(
    decoder: Decoder,
    encoder: VGG,
    layer: str,
    images: Tensor,
    ridge: float = 1e-2,
    positions: int = 65536,
    batch: int = 8,
    seed: int = 0,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> None:
    """Set a decoder's weights in closed form, so that it inverts the encoder before any training.

    From the deepest on, each convolution is the ridge regression from what the decoder has there to what the encoder
    had on its way in: ||A W - Y||^2 + ridge * mean(diag A'A) ||W||^2 over sampled positions, the bias unpenalized.

    Args:
        images: RGB (N, 3, H, W) in [0, 1], H and W multiples of `decoder.scale`.
        positions: how many places of the images one regression sees at most.
        batch: images worked on at once.
        progress: wraps the iteration over the layers, for a progress bar.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = images.split(batch)
    current = [encoder(part, [layer])[layer] for part in batches]
    for name in progress(decoder.names):
        conv, goal = decoder.convs[name], encoder.input_of(name)
        inputs = 9 * conv.in_channels
        normal = torch.zeros(inputs + 1, inputs + 1, device=images.device)
        moment = torch.zeros(inputs + 1, conv.out_channels, device=images.device)
        for part, x in zip(batches, current, strict=True):
            wanted = encoder(part, [goal] if goal != IMAGE else [])[goal].float()
            x = F.interpolate(x, scale_factor=2, mode="nearest") if name in decoder.upsamples else x
            patches = _patches(x.float(), wanted, max(1, positions // len(batches)), generator)
            normal += patches[0].T @ patches[0]
            moment += patches[0].T @ patches[1]
        penalty = torch.full((inputs + 1,), ridge * float(normal.diagonal()[:-1].mean()), device=images.device)
        penalty[-1] = 0
        system = normal.cpu().double() + penalty.cpu().double().diag()  # a Mac's GPU has no float64
        solution = torch.linalg.solve(system, moment.cpu().double()).float()
        kernel = solution[:-1].T.reshape(conv.out_channels, conv.in_channels, 3, 3)
        conv.weight.copy_(kernel)
        conv.bias.copy_(solution[-1])
        current = [decoder.step(name, x) for x in current]


def _patches(x: Tensor, wanted: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` random 3x3 neighborhoods with a 1 appended, (count, 9C + 1), and what is wanted there, (count, D)."""
    b, _, h, w = x.shape
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect").permute(0, 2, 3, 1)
    chosen = torch.randperm(b * h * w, generator=generator)[:count].to(x.device)
    sample, row, column = chosen // (h * w), chosen // w % h, chosen % w
    taps = [padded[sample, row + i, column + j] for i in range(3) for j in range(3)]  # each (count, C)
    neighborhoods = torch.stack(taps, 2).flatten(1)  # channel first, then the tap, as in a kernel
    ones = torch.ones(len(chosen), 1, device=x.device)
    return torch.cat([neighborhoods, ones], 1), wanted.permute(0, 2, 3, 1)[sample, row, column]
