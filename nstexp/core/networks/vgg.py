"""Feature encoders: an RGB image in [0, 1] goes in, named feature maps come out. Preprocessing is inside."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nstexp.core.errors import UserError
from nstexp.core.runtime.cache import TensorCache

MEMORY_BYTES = 256 * 2**20

Features = dict[str, Tensor]  # layer name -> (B, C, H, W)
IMAGE = "image"  # the name under which the image itself travels with its features
BEFORE, TRUST = "before", "trust"  # of a frame of a clip: the result before, warped to it, and where it belongs

Pool = Literal["max", "avg", "l2"]
Pad = Literal["zeros", "reflect", "replicate"]
Tap = Literal["post", "pre"]


@dataclass(frozen=True)
class Preprocessing:
    """x -> (scale * x - mean) / std per channel, in the channel order the weights were trained with."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    bgr: bool = False


CAFFE = Preprocessing(mean=(103.939, 116.779, 123.68), scale=255.0, bgr=True)
TORCHVISION = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IDENTITY = Preprocessing()


@dataclass(frozen=True)
class EncoderWeights:
    """Convolutions of a VGG-like network, by name, and what belongs to them.

    Args:
        convs: `conv1_1`, `conv1_2`, ... in order -> (weight (out, in, 3, 3), bias (out,)), float32. Read once each;
            a mapping that makes them on demand keeps the peak of memory low.
        preprocessing: what the first convolution expects.
        identity: a name for the run's record, such as `vgg19-caffe-8bit`.
    """

    convs: Mapping[str, tuple[Tensor, Tensor]]
    preprocessing: Preprocessing = IDENTITY
    identity: str = "unnamed"


class VGG(nn.Module):
    """A frozen VGG (Simonyan & Zisserman 2015) that returns feature maps by layer name.

    Layers are called `relu1_1` ... `relu5_4` and `pool1` ... `pool5`. `conv4_2` is accepted for `relu4_2`: the
    papers' Caffe blobs of that name hold the values after the in-place ReLU. With `tap="pre"` the conv names mean
    the values before it.

    Args:
        weights: see `EncoderWeights`.
        pool: `max`, `avg` (the choice of Gatys et al. for synthesis) or `l2`.
        pad: what the convolutions see outside the image. Zeros print a frame into textures.
        pad_first_only: pad the first convolution as said and the others with zeros.
        tap: see above.
        dtype: of filters and features, null: that of the weights; bfloat16 halves memory and, in hardware, time.
        pool_rescale: multiply after each avg (2.0) or l2 (0.78) pooling, which keeps the scale that max pooling has.

    `memory` is for what users of the encoder make of its features and want again, in the next picture or the next run
    of the same process.
    """

    def __init__(
        self,
        weights: EncoderWeights,
        pool: Pool = "max",
        pad: Pad = "zeros",
        pad_first_only: bool = False,
        tap: Tap = "post",
        pool_rescale: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check("pool", pool, ("max", "avg", "l2"))
        _check("pad", pad, ("zeros", "reflect", "replicate"))
        _check("tap", tap, ("post", "pre"))
        self.identity = weights.identity
        self.pool, self.pad, self.pad_first_only, self.tap = pool, pad, pad_first_only, tap
        self.pool_factor = {"max": 1.0, "avg": 2.0, "l2": 0.78}[pool] if pool_rescale else 1.0
        self.preprocessing = weights.preprocessing
        self.conv_names = tuple(weights.convs)
        for name, (weight, bias) in weights.convs.items():
            weight = weight.detach().to(dtype or weight.dtype, memory_format=torch.channels_last)
            # Not persistent: a checkpoint of what is trained with an encoder does not carry its 80 MB.
            self.register_buffer(f"{name}_weight", weight, persistent=False)
            self.register_buffer(f"{name}_bias", bias.detach().to(weight.dtype), persistent=False)
        self.steps = _steps(self.conv_names)
        self.memory = TensorCache(MEMORY_BYTES)
        self.eval()

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Every name that `forward` understands, without aliases."""
        pairs = ((step, _relu(step)) if self.tap == "pre" else (_relu(step),) for step in self.steps)
        return tuple(dict.fromkeys(name for pair in pairs for name in pair))

    def canonical(self, name: str) -> str:
        """The layer's own name for an alias.

        Raises:
            UserError: unknown layer; the message lists the known ones.
        """
        own = name if self.tap == "pre" else _relu(name)
        if own not in self.layer_names:
            raise UserError(f"unknown layer '{name}' in layers.*: known are {', '.join(self.layer_names)}")
        return own

    def depth(self, name: str) -> int:
        """How many convolutions and poolings lie before a layer's values."""
        return self._step_index(self.canonical(name)) + 1

    def stride(self, name: str) -> int:
        """How many image pixels lie between two neighboring positions of a layer."""
        until = self.canonical(name)
        passed = [step for step in self.steps[: self._step_index(until) + 1] if step.startswith("pool")]
        return 2 ** len(passed)

    def input_of(self, conv: str) -> str:
        """The layer whose values a convolution reads (the image's name, for the first)."""
        before = self.steps.index(conv) - 1
        return IMAGE if before < 0 else _relu(self.steps[before])

    def reach_px(self, layer: str) -> int:
        """How far from a position of a layer, in image pixels, the image can still change its value."""
        reach, stride = 0, 1
        for step in self.steps[: self._step_index(self.canonical(layer)) + 1]:
            reach += stride
            stride *= 2 if step.startswith("pool") else 1
        return reach

    def all_seen(self, marked: Tensor, layer: str) -> Tensor:
        """Which positions of a layer see marked pixels only: (B, 1, H, W) of 0 and 1 -> (B, 1, h, w) of 0 and 1.

        What lies outside the image does not count.
        """
        unmarked = 1 - marked
        for step in self.steps[: self._step_index(self.canonical(layer)) + 1]:
            pools = step.startswith("pool")
            unmarked = F.max_pool2d(unmarked, 2) if pools else F.max_pool2d(unmarked, 3, stride=1, padding=1)
        return 1 - unmarked

    def fingerprint(self, layer: str) -> list[float]:
        """Numbers that tell the network up to a layer from any other, the same in every number format.

        The preprocessing, and of every convolution the norm of its weights and their product with a fixed wave, which
        another order of the channels would change. Compare with `same_network`.
        """
        p = self.preprocessing
        numbers = [p.scale, float(p.bgr), *p.mean, *p.std]
        last = self._step_index(self.canonical(layer))
        for name in (step for step in self.steps[: last + 1] if not step.startswith("pool")):
            weight = getattr(self, f"{name}_weight").cpu().double().flatten()  # a Mac's GPU has no float64
            wave = torch.cos(torch.arange(len(weight), dtype=torch.float64))
            numbers += [float(weight.norm()), float(weight @ wave)]
        return [round(number, 6) for number in numbers]

    def min_side_px(self, layers: Iterable[str]) -> int:
        """Shortest image side with at least two positions in every one of these layers."""
        return max((2 * self.stride(name) for name in layers), default=1)

    def shape(self, layer: str, size: tuple[int, int]) -> tuple[int, int, int]:
        """Channels, height and width of a layer, for an image of (height, width)."""
        channels, stride = 0, self.stride(layer)
        for step in self.steps[: self._step_index(self.canonical(layer)) + 1]:
            channels = channels if step.startswith("pool") else getattr(self, f"{step}_bias").numel()
        return channels, size[0] // stride, size[1] // stride

    def activation_bytes(self, size: tuple[int, int], layers: Sequence[str]) -> int:
        """Memory that the feature maps of one image of (height, width) take until the backward pass."""
        deepest = max((self._step_index(self.canonical(name)) for name in layers), default=-1)
        total, (height, width), channels = 0, size, 0
        for step in self.steps[: deepest + 1]:
            if step.startswith("pool"):
                height, width = height // 2, width // 2
            else:
                channels = getattr(self, f"{step}_bias").numel()
            total += channels * height * width
        return total * self.dtype.itemsize * (2 if self.tap == "pre" or self.pad != "zeros" else 1)

    def forward(self, image: Tensor, layers: Sequence[str]) -> Features:
        """Feature maps of an image, and the image itself under `image`.

        Args:
            image: RGB, (B, 3, H, W), nominally in [0, 1].
            layers: names to return; the network is run to the deepest of them and no further.

        Returns:
            Name as asked -> (B, C, H, W), in the encoder's own dtype.
        """
        asked = {name: self.canonical(name) for name in layers}
        found: Features = {}
        deepest = max((self._step_index(own) for own in asked.values()), default=-1)
        x = self._enter(image)
        for index, step in enumerate(self.steps[: deepest + 1]):
            if step.startswith("pool"):
                x = self._pool(x)
            else:
                before_relu = self._conv(step, x, first=index == 0)
                found |= {step: before_relu} if step in asked.values() else {}
                # In place where nobody else holds the convolution's output: it saves a fifth of a CPU step.
                x = F.relu(before_relu) if self.tap == "pre" else F.relu_(before_relu)
            found |= {_relu(step): x} if _relu(step) in asked.values() else {}
        return {IMAGE: image} | {name: found[own] for name, own in asked.items()}

    def _enter(self, image: Tensor) -> Tensor:
        """Preprocess in the image's precision. A low-precision encoder gets the image as a sum of two halves.

        One bfloat16 rounds pixels to half a gray level, which is larger than an optimizer's steps; two of them, run
        through the same filters twice, keep 16 bits at no measurable cost.
        """
        p = self.preprocessing
        x = image.flip(1) if p.bgr else image
        x = (x * p.scale - x.new_tensor(p.mean).view(1, 3, 1, 1)) / x.new_tensor(p.std).view(1, 3, 1, 1)
        dtype = self.dtype
        if dtype in (torch.float32, torch.float64):
            return x.to(dtype)
        high = x.detach().to(dtype)
        low = (x - high).to(dtype)  # the gradient of the sum arrives through this half alone
        return torch.cat([high, low], 1).contiguous(memory_format=torch.channels_last)

    def _conv(self, name: str, x: Tensor, first: bool) -> Tensor:
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
        if x.shape[1] == 2 * weight.shape[1]:
            weight = torch.cat([weight, weight], 1)
        if self.pad == "zeros" or (self.pad_first_only and not first):
            return F.conv2d(x, weight, bias, padding=1)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=self.pad), weight, bias)

    def _pool(self, x: Tensor) -> Tensor:
        if self.pool == "max":
            # Autograd would keep an 8-byte index per position until the backward pass; finding the maxima twice
            # costs 2 % of a step and saves 47 MB at 512x384.
            return checkpoint(F.max_pool2d, x, 2, use_reentrant=False, preserve_rng_state=False)
        if self.pool == "avg":
            return F.avg_pool2d(x, 2) * self.pool_factor
        # sqrt has no gradient at 0, where ReLU leaves many positions
        return (F.avg_pool2d(x.square(), 2) * 4 + 1e-8).sqrt() * self.pool_factor

    def _step_index(self, own: str) -> int:
        return self.steps.index(own if own.startswith("pool") else own.replace("relu", "conv"))

    @property
    def dtype(self) -> torch.dtype:
        return getattr(self, f"{self.conv_names[0]}_weight").dtype

    def train(self, mode: bool = True) -> "VGG":
        """Does nothing: the encoder is frozen and stays in evaluation mode inside any training module."""
        return super().train(False)


def same_network(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two `VGG.fingerprint`s are of one network, in whatever number formats."""
    if len(first) != len(second):
        return False
    # Rounding to bfloat16 moves a norm by less than 1e-3 of itself and the wave's product by less than 1e-2 of a norm.
    norms = [1.0] * 8 + [max(first[i], 1e-6) for i in range(8, len(first), 2) for _ in (0, 1)]
    return all(abs(a - b) <= 0.01 * norm for a, b, norm in zip(first, second, norms, strict=True))


def _steps(conv_names: Sequence[str]) -> tuple[str, ...]:
    """Convolutions with a pooling after each block, in the order they run."""
    if not all(re.fullmatch(r"conv[1-9]_[1-9]", name) for name in conv_names) or not conv_names:
        raise UserError(f"encoder weights must be named conv1_1, conv1_2, ...; found {', '.join(conv_names)}")
    blocks: dict[str, list[str]] = {}
    for name in conv_names:
        blocks.setdefault(name[4], []).append(name)
    return tuple(step for block, names in blocks.items() for step in (*names, f"pool{block}"))


def _relu(name: str) -> str:
    return name.replace("conv", "relu")


def _check(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"backbone.{key}={value} is unknown, choose one of {', '.join(known)}")
