"""EfficientNet-Lite (Tan & Le 2019, without squeeze-and-excitation and with ReLU6) as an encoder.

A step of Gatys et al. on it takes a tenth of VGG-19's time on a CPU. Its finest layer has a stride of 2 already, its
features end at 6, and from noise its content loss finds no photo: another look than VGG's, not the same for less.
"""

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
    """A row of Table 1 in the paper: blocks of one width."""

    kernel: int
    stride: int  # of its first block
    expansion: int
    channels: int
    blocks: int


STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)  # of Lite0


@dataclass(frozen=True)
class _Step:
    """A convolution and what belongs to it. A block is an expansion (if it has one), a depthwise convolution and a
    projection, which is linear and to which the block's input is added where it fits."""

    name: str
    inputs: int
    channels: int
    kernel: int
    stride: int = 1
    opens: bool = False  # the first of a block
    adds: bool = False  # the block's input

    @property
    def linear(self) -> bool:
        return self.name.startswith("block")

    @property
    def depthwise(self) -> bool:
        return self.name.startswith("depthwise")

    @property
    def before(self) -> int:
        """Rows above the image, and columns left of it: as TensorFlow's `same` has them for even sizes."""
        return (self.kernel - self.stride) // 2

    @property
    def after(self) -> int:
        return self.kernel - self.stride - self.before


class EfficientNetLite(nn.Module):
    """A frozen EfficientNet-Lite that returns feature maps by layer name; see `Encoder` for what it can be asked.

    Layers are called `stem`; `expand2_1`, `depthwise2_1` and `block2_1` for the second stage's first block (the first
    stage's has no expansion); and so on to `block7_1`; and `head`. Those of a block are what comes out of it, with the
    block's input added, and can be negative. All others are behind a ReLU6.

    Args:
        weights: convolutions by these names, with the batch normalization folded into them.
        pad: what the convolutions see outside the image; the weights were trained with zeros.
        dtype: of filters and features, null: that of the weights; bfloat16 halves memory and, in hardware, time.

    Raises:
        UserError: an unknown setting, or weights with other names.
    """

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
        positions = 3 if self.pad == "reflect" else 2  # a window of 5 reaches two rows beyond the border
        return max((positions * self.stride(name) for name in layers), default=1)

    def shape(self, layer: str, size: tuple[int, int]) -> tuple[int, int, int]:
        stride = self.stride(layer)
        return self._until(layer)[-1].channels, size[0] // stride, size[1] // stride

    def activation_bytes(self, size: tuple[int, int], layers: Sequence[str]) -> int:
        deepest = max(layers, key=self.depth, default=None)
        values = 0
        for step, stride in zip(self._until(deepest), self._strides(deepest), strict=False) if deepest else ():
            inputs, outputs = (size[0] // s * (size[1] // s) for s in (stride, stride * step.stride))
            values += step.channels * outputs * (1 if step.linear else 2)  # autograd keeps both sides of a ReLU6
            values += step.inputs * inputs if self._pads_itself(step) else 0
        return values * self.dtype.itemsize

    def fingerprint(self, layer: str) -> list[float]:
        return fingerprint_of(self.preprocessing, (getattr(self, f"{s.name}_weight") for s in self._until(layer)))

    def forward(self, image: Tensor, layers: Sequence[str]) -> Features:
        deepest = max(map(self.depth, layers), default=0)
        found: Features = {}
        x = block_input = self.preprocessing(image, self.dtype)
        for step in self.steps[:deepest]:
            block_input = x if step.opens else block_input
            x = self._conv(step, x)
            if not step.linear:
                x = F.relu6(x, inplace=True)  # nobody else holds the convolution's output
            elif step.adds:
                x = x + block_input
            found |= {step.name: x} if step.name in layers else {}
        return {IMAGE: image} | {name: found[name] for name in layers}

    def _conv(self, step: _Step, x: Tensor) -> Tensor:
        weight, bias = first_filters(getattr(self, f"{step.name}_weight"), x), getattr(self, f"{step.name}_bias")
        groups = step.channels if step.depthwise else 1
        if not self._pads_itself(step):
            return conv2d(x, weight, bias, step.stride, step.before, groups=groups)
        sides = (step.before, step.after) * 2
        padded = F.pad(x, sides, mode="constant" if self.pad == "zeros" else self.pad)
        return conv2d(padded, weight, bias, step.stride, groups=groups)

    def _pads_itself(self, step: _Step) -> bool:
        """Whether the convolution cannot do it, and a padded copy is made."""
        return step.before != step.after or (self.pad != "zeros" and step.kernel > 1)

    def _until(self, layer: str) -> tuple[_Step, ...]:
        return self.steps[: self.layer_names.index(self.canonical(layer)) + 1]

    def _strides(self, layer: str) -> list[int]:
        """Of what each convolution until a layer reads, and of the layer."""
        return list(accumulate((step.stride for step in self._until(layer)), mul, initial=1))

    def train(self, mode: bool = True) -> "EfficientNetLite":
        """Does nothing: the encoder is frozen and stays in evaluation mode inside any training module."""
        return super().train(False)


def block_names(stages: Sequence[Stage] = STAGES) -> list[str]:
    """`1_1`, `2_1`, `2_2`, ... in the order in which the blocks run."""
    return [f"{stage}_{block}" for stage, s in enumerate(stages, 1) for block in range(1, s.blocks + 1)]


def _steps(shapes: Mapping[str, tuple[int, ...]]) -> tuple[_Step, ...]:
    """What runs, from the names of the convolutions and the shapes of their weights."""
    known = r"stem|head|(expand|depthwise|block)[1-7]_[1-9]"
    if next(iter(shapes), "") != "stem" or not all(re.fullmatch(known, name) for name in shapes):
        raise UserError(
            f"encoder weights must be named stem, depthwise1_1, block1_1, expand2_1, ...; found {', '.join(shapes)}"
        )
    steps: list[_Step] = []
    block_input = 0  # its channels
    for name, (channels, _, kernel, _) in shapes.items():
        inputs = steps[-1].channels if steps else 3
        depthwise = name.startswith("depthwise")
        opens = name.startswith("expand") or (depthwise and name.replace("depthwise", "expand") not in shapes)
        block_input = inputs if opens else block_input
        stride = 2 if name == "stem" else STAGES[int(name[-3]) - 1].stride if depthwise and name.endswith("_1") else 1
        adds = name.startswith("block") and steps[-1].stride == 1 and channels == block_input
        steps.append(_Step(name, inputs, channels, kernel, stride, opens, adds))
    return tuple(steps)
