"""EfficientNet-Lite (Tan & Le 2019, without squeeze-and-excitation and with ReLU6) as an encoder.

On a CPU, an optimization step takes a tenth of the time that it takes with VGG-19. The results look different: the
finest layer already has a stride of 2, activations are at most 6, and an optimization that starts from noise does not
recover the photo from the content loss.
"""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import UserError, choice
from nstexp.core.networks.convolution import conv2d
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
from nstexp.core.runtime.cache import TensorCache


class Stage(NamedTuple):
    """A row of Table 1 of the paper: consecutive blocks with equally many channels."""

    kernel: int
    stride: int  # stride of the first block; the others have 1
    expansion: int
    channels: int
    blocks: int


STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
STAGES = (  # of Lite0
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)


@dataclass(frozen=True)
class _Step:
    """A convolution with its activation and residual connection.

    A block consists of an expansion (not in the first stage), a depthwise convolution and a linear projection, to which
    the block's input is added if the shapes are equal.
    """

    name: str
    inputs: int
    channels: int
    kernel: int
    stride: int = 1
    opens: bool = False  # the first convolution of a block
    adds: bool = False  # the block's input is added to the result

    @property
    def linear(self) -> bool:
        return self.name.startswith("block")

    @property
    def depthwise(self) -> bool:
        return self.name.startswith("depthwise")

    @property
    def before(self) -> int:
        """Padding above and on the left, as TensorFlow's `same` has it for images of even size."""
        return (self.kernel - self.stride) // 2

    @property
    def after(self) -> int:
        """Padding below and on the right."""
        return self.kernel - self.stride - self.before


class EfficientNetLite(nn.Module):
    """A frozen EfficientNet-Lite that returns feature maps by layer name; an `Encoder`.

    The layers are `stem`; `expand2_1`, `depthwise2_1` and `block2_1` for the first block of the second stage (blocks of
    the first stage have no expansion), and so on to `block7_1`; and `head`. A `block*` layer is the output of a block
    including the residual connection, and can be negative. All other layers are outputs of a ReLU6.

    Args:
        weights: convolutions with these names, batch normalization folded in.
        pad: padding of the convolutions; the weights were trained with zeros. With `circular` opposite edges meet.
        dtype: dtype of filters and features; null: that of the weights. bfloat16 halves the memory and, with hardware
            support, the time.

    Raises:
        UserError: an unknown setting, or weights with other names.
    """

    stem_weight: Tensor

    def __init__(self, weights: EncoderWeights, pad: Pad = "zeros", dtype: torch.dtype | None = None) -> None:
        super().__init__()
        choice("pad", pad, get_args(Pad))
        self.identity, self.pad = weights.identity, pad
        self.preprocessing = weights.preprocessing
        hold(self, weights, dtype)
        self.steps = _steps({name: tuple(getattr(self, f"{name}_weight").shape) for name in weights.convs})
        self.memory = TensorCache(MEMORY_BYTES)
        self.eval()

    @property
    def settings(self) -> str:
        return f"{self.pad} padding"

    @property
    def described(self) -> str:
        return f"{self.identity} ({self.settings}, {str(self.dtype).removeprefix('torch.')})"

    @property
    def device(self) -> torch.device:
        return self.stem_weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.stem_weight.dtype

    @property
    def layer_names(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.steps)

    def canonical(self, name: str) -> str:
        if name not in self.layer_names:
            raise UserError(f"unknown layer '{name}': {self.identity} has {', '.join(self.layer_names)}")
        return name

    def depth(self, name: str) -> int:
        return len(self._until(name))

    def stride(self, name: str) -> int:
        return self._strides(name)[-1]

    def reach_px(self, layer: str) -> int:
        pairs = list(zip(self._until(layer), self._strides(layer), strict=False))
        before = sum(step.before * stride for step, stride in pairs)
        after = sum((step.kernel - 1 - step.before) * stride for step, stride in pairs)
        return max(before, after)

    def all_seen(self, marked: Tensor, layer: str) -> Tensor:
        unmarked = 1 - marked
        for step in self._until(layer):
            if step.kernel > 1:
                unmarked = grown(unmarked, step.kernel, step.stride, step.before, step.after)
        return 1 - unmarked

    def min_side_px(self, layers: Iterable[str]) -> int:
        positions = 3 if self.pad == "reflect" else 2  # a kernel of 5 reflects two rows, which needs three
        return max((positions * self.stride(name) for name in layers), default=1)

    def shape(self, layer: str, size: tuple[int, int]) -> tuple[int, int, int]:
        stride = self.stride(layer)
        return self._until(layer)[-1].channels, size[0] // stride, size[1] // stride

    def activation_bytes(self, size: tuple[int, int], layers: Sequence[str]) -> int:
        deepest = max(layers, key=self.depth, default=None)
        values = 0
        for step, stride in zip(self._until(deepest), self._strides(deepest), strict=False) if deepest else ():
            inputs, outputs = (size[0] // s * (size[1] // s) for s in (stride, stride * step.stride))
            values += step.channels * outputs * (1 if step.linear else 2)  # autograd stores input and output of a ReLU6
            values += step.inputs * inputs if self._pads_itself(step) else 0
        return values * self.dtype.itemsize

    def fingerprint(self, layer: str) -> list[float]:
        return fingerprint_of(self.preprocessing, (getattr(self, f"{s.name}_weight") for s in self._until(layer)))

    def forward(self, image: Tensor, layers: Sequence[str]) -> Features:
        deepest = max(map(self.depth, layers), default=0)
        feats: Features = {}
        x = block_input = self.preprocessing(image, self.dtype)
        for step in self.steps[:deepest]:
            block_input = x if step.opens else block_input
            x = self._conv(step, x)
            if not step.linear:
                x = F.relu6(x, inplace=True)  # the convolution's output is not used elsewhere
            elif step.adds:
                x = x + block_input
            feats |= {step.name: x} if step.name in layers else {}
        marks = {WRAPS: image.new_ones(())} if self.pad == "circular" else {}
        return {IMAGE: image} | {name: feats[name] for name in layers} | marks

    def on_torus(self) -> "EfficientNetLite":
        """The same network, which shares the weights, for pictures whose opposite edges meet."""
        other = copy.copy(self)
        other.pad = "circular"
        return other

    def _conv(self, step: _Step, x: Tensor) -> Tensor:
        weight, bias = first_filters(getattr(self, f"{step.name}_weight"), x), getattr(self, f"{step.name}_bias")
        groups = step.channels if step.depthwise else 1
        if not self._pads_itself(step):
            return conv2d(x, weight, bias, step.stride, step.before, groups=groups)
        sides = (step.before, step.after) * 2
        padded = F.pad(x, sides, mode="constant" if self.pad == "zeros" else self.pad)
        return conv2d(padded, weight, bias, step.stride, groups=groups)

    def _pads_itself(self, step: _Step) -> bool:
        """True if the convolution cannot pad by itself, so that a padded copy is needed."""
        return step.before != step.after or (self.pad != "zeros" and step.kernel > 1)

    def _until(self, layer: str) -> tuple[_Step, ...]:
        return self.steps[: self.layer_names.index(self.canonical(layer)) + 1]

    def _strides(self, layer: str) -> list[int]:
        """Strides of the inputs of all convolutions up to a layer, and of the layer itself."""
        return list(accumulate((step.stride for step in self._until(layer)), mul, initial=1))

    def train(self, mode: bool = True) -> "EfficientNetLite":
        """Does nothing: the encoder is frozen and stays in evaluation mode inside any training module."""
        return super().train(False)


def block_names(stages: Sequence[Stage] = STAGES) -> list[str]:
    """Names of the blocks, `stage_block`, in the order of computation.

    Examples:
        >>> block_names()[:4]
        ['1_1', '2_1', '2_2', '3_1']
    """
    return [f"{stage}_{block}" for stage, s in enumerate(stages, 1) for block in range(1, s.blocks + 1)]


def _steps(shapes: Mapping[str, tuple[int, ...]]) -> tuple[_Step, ...]:
    """The steps of the network, from the names of the convolutions and the shapes of their weights."""
    known = r"stem|head|(expand|depthwise|block)[1-7]_[1-9]"
    if next(iter(shapes), "") != "stem" or not all(re.fullmatch(known, name) for name in shapes):
        raise UserError(
            f"encoder weights must be named stem, depthwise1_1, block1_1, expand2_1, ...; found {', '.join(shapes)}"
        )
    steps: list[_Step] = []
    block_inputs = 0  # channels of the block's input
    for name, (channels, _, kernel, _) in shapes.items():
        inputs = steps[-1].channels if steps else 3
        depthwise = name.startswith("depthwise")
        opens = name.startswith("expand") or (depthwise and name.replace("depthwise", "expand") not in shapes)
        block_inputs = inputs if opens else block_inputs
        stride = 2 if name == "stem" else STAGES[int(name[-3]) - 1].stride if depthwise and name.endswith("_1") else 1
        adds = name.startswith("block") and steps[-1].stride == 1 and channels == block_inputs
        steps.append(_Step(name, inputs, channels, kernel, stride, opens, adds))
    return tuple(steps)
