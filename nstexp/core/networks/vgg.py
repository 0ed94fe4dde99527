"""VGG (Simonyan & Zisserman 2015) as an encoder: the network of Gatys et al., neural-style and AdaIN."""

import copy
from collections.abc import Iterable, Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nstexp.core.errors import choice, flags
from nstexp.core.networks.encoder import (
    IMAGE,
    MEMORY_BYTES,
    WRAPS,
    EncoderWeights,
    Features,
    Pad,
    fingerprint_of,
    first_filters,
    grown,
    hold,
)
from nstexp.core.networks.vgg_names import Layers, Tap, relu, steps_of
from nstexp.core.networks.winograd import conv3x3
from nstexp.core.runtime.cache import TensorCache

Pool = Literal["max", "avg", "l2"]


class VGG(nn.Module):
    """A frozen VGG that returns feature maps by layer name; an `Encoder`.

    The layers are `relu1_1` ... `relu5_4` and `pool1` ... `pool5`. `conv4_2` is an alias of `relu4_2`, because the
    Caffe blobs of that name, which the papers use, contain the values after the in-place ReLU. With `tap="pre"`, conv
    names mean the values before the ReLU.

    Args:
        weights: see `EncoderWeights`.
        pool: `max`, `avg` (as Gatys et al. use for synthesis) or `l2`.
        pad: padding of the convolutions. Zeros cause a frame in textures. With `circular` opposite edges meet.
        pad_first_only: use `pad` for the first convolution only, and zeros for the others.
        tap: see above.
        pool_rescale: multiply by 2.0 after each avg pooling, or by 0.78 after each l2 pooling, which keeps the scale of
            max pooling.
        dtype: dtype of filters and features; null: that of the weights. bfloat16 halves the memory and, with hardware
            support, the time.

    Raises:
        UserError: an unknown setting, or weights with names other than those of a VGG.
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
        choice("pool", pool, get_args(Pool))
        choice("pad", pad, get_args(Pad))
        choice("tap", tap, get_args(Tap))
        flags(pad_first_only=pad_first_only, pool_rescale=pool_rescale)
        self.identity = weights.identity
        self.pool, self.pad, self.pad_first_only, self.tap = pool, pad, pad_first_only, tap
        self.pool_factor = {"max": 1.0, "avg": 2.0, "l2": 0.78}[pool] if pool_rescale else 1.0
        self.preprocessing = weights.preprocessing
        self.conv_names = tuple(weights.convs)
        hold(self, weights, dtype)
        self.steps = steps_of(self.conv_names)
        self._layers = Layers(self.identity, self.steps, tap)
        self.memory = TensorCache(MEMORY_BYTES)
        self.eval()

    @property
    def settings(self) -> str:
        return f"{self.pool} pooling, {self.pad} padding"

    @property
    def described(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.identity} ({self.settings}, {self.tap} ReLU, {dtype})"

    @property
    def device(self) -> torch.device:
        return self._weight(self.conv_names[0]).device

    @property
    def dtype(self) -> torch.dtype:
        return self._weight(self.conv_names[0]).dtype

    def _weight(self, conv: str) -> Tensor:
        return cast(Tensor, getattr(self, f"{conv}_weight"))

    @property
    def layer_names(self) -> tuple[str, ...]:
        return self._layers.names

    def canonical(self, name: str) -> str:
        return self._layers.canonical(name)

    def depth(self, name: str) -> int:
        """Number of convolutions and poolings from the image to a layer."""
        return self._step_index(self.canonical(name)) + 1

    def stride(self, name: str) -> int:
        layer = self.canonical(name)
        poolings = [step for step in self.steps[: self._step_index(layer) + 1] if step.startswith("pool")]
        return int(2 ** len(poolings))

    def input_of(self, conv: str) -> str:
        """Name of the layer that a convolution reads; `image` for the first convolution."""
        before = self.steps.index(conv) - 1
        return IMAGE if before < 0 else relu(self.steps[before])

    def reach_px(self, layer: str) -> int:
        reach, stride = 0, 1
        for step in self.steps[: self._step_index(self.canonical(layer)) + 1]:
            reach += stride
            stride *= 2 if step.startswith("pool") else 1
        return reach

    def all_seen(self, marked: Tensor, layer: str) -> Tensor:
        unmarked = 1 - marked
        for step in self.steps[: self._step_index(self.canonical(layer)) + 1]:
            unmarked = grown(unmarked, 2, 2) if step.startswith("pool") else grown(unmarked, 3, 1, 1, 1)
        return 1 - unmarked

    def fingerprint(self, layer: str) -> list[float]:
        steps = self.steps[: self._step_index(self.canonical(layer)) + 1]
        convs = (step for step in steps if not step.startswith("pool"))
        return fingerprint_of(self.preprocessing, (self._weight(name) for name in convs))

    def min_side_px(self, layers: Iterable[str]) -> int:
        return max((2 * self.stride(name) for name in layers), default=1)

    def shape(self, layer: str, size: tuple[int, int]) -> tuple[int, int, int]:
        channels, stride = 0, self.stride(layer)
        for step in self.steps[: self._step_index(self.canonical(layer)) + 1]:
            channels = channels if step.startswith("pool") else getattr(self, f"{step}_bias").numel()
        return channels, size[0] // stride, size[1] // stride

    def activation_bytes(self, size: tuple[int, int], layers: Sequence[str]) -> int:
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
        marks = {WRAPS: image.new_ones(())} if self.pad == "circular" else {}
        return {IMAGE: image} | self._run(self.preprocessing(image, self.dtype), layers, 0) | marks

    @property
    def cuts(self) -> tuple[str, ...]:
        """The poolings: layers from which `after` continues, see `methods.tiled`."""
        return tuple(step for step in self.steps if step.startswith("pool"))

    def after(self, cut: str, x: Tensor, layers: Sequence[str]) -> Features:
        """The features of deeper layers from those of a layer.

        Args:
            cut: one of `cuts`.
            x: the features of this layer, (B, C, H, W).
            layers: names to return, all of them deeper.
        """
        return self._run(x, layers, self._step_index(cut) + 1)

    def _run(self, x: Tensor, layers: Sequence[str], first: int) -> Features:
        """The features of layers from the input of the step with the number `first`."""
        canonical = {name: self.canonical(name) for name in layers}
        feats: Features = {}
        deepest = max((self._step_index(layer) for layer in canonical.values()), default=-1)
        for index in range(first, deepest + 1):
            step = self.steps[index]
            if step.startswith("pool"):
                x = self._pool(x)
            else:
                before_relu = self._conv(step, x, first=index == 0)
                feats |= {step: before_relu} if step in canonical.values() else {}
                # In place if the values before the ReLU are not needed: it saves a fifth of a step on a CPU.
                x = F.relu(before_relu) if self.tap == "pre" else F.relu_(before_relu)
            feats |= {relu(step): x} if relu(step) in canonical.values() else {}
        return {name: feats[layer] for name, layer in canonical.items()}

    def _conv(self, name: str, x: Tensor, first: bool) -> Tensor:
        weight, bias = first_filters(getattr(self, f"{name}_weight"), x), getattr(self, f"{name}_bias")
        if self.pad == "zeros" or (self.pad_first_only and not first):
            return conv3x3(x, weight, bias)
        return conv3x3(F.pad(x, (1, 1, 1, 1), mode=self.pad), weight, bias, padding=0)

    def _pool(self, x: Tensor) -> Tensor:
        if self.pool == "max":
            if not (torch.is_grad_enabled() and x.requires_grad):  # the first `checkpoint` of a process takes a second
                return F.max_pool2d(x, 2)
            # Without `checkpoint`, autograd stores an 8-byte index per position until the backward pass. Computing the
            # maxima twice takes 2 % of a step and saves 47 MB at 512x384.
            return checkpoint(F.max_pool2d, x, 2, use_reentrant=False, preserve_rng_state=False)
        if self.pool == "avg":
            return F.avg_pool2d(x, 2) * self.pool_factor
        # 1e-8, because the gradient of sqrt is infinite at 0, the value of many positions after a ReLU.
        return (F.avg_pool2d(x.square(), 2) * 4 + 1e-8).sqrt() * self.pool_factor

    def on_torus(self) -> "VGG":
        """The same network, which shares the weights, for pictures whose opposite edges meet."""
        other = copy.copy(self)
        other.pad, other.pad_first_only = "circular", False
        return other

    def _step_index(self, layer: str) -> int:
        return self.steps.index(layer if layer.startswith("pool") else layer.replace("relu", "conv"))

    def train(self, mode: bool = True) -> "VGG":
        """Does nothing: the encoder is frozen and stays in evaluation mode inside any training module."""
        return super().train(False)
