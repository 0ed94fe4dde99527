"""What a feature encoder is: an RGB image in [0, 1] goes in, named feature maps come out. Preprocessing is inside."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.names import IMAGE as IMAGE  # beside the other names of features
from nstexp.core.runtime.cache import TensorCache

MEMORY_BYTES = 256 * 2**20

Features = dict[str, Tensor]  # layer name -> (B, C, H, W)
BEFORE, TRUST = "before", "trust"  # of a frame of a clip: the result before, warped to it, and where it belongs


class Encoder(Protocol):
    """A frozen network that returns feature maps by layer name; what methods, masks and measures use of one.

    In practice it is an `nn.Module` whose weights are buffers: it has no parameters, and stays in evaluation mode
    inside any training module. `core.networks.vgg.VGG` and `core.networks.efficientnet.EfficientNetLite` are two. A
    class of your own needs no base class; besides its settings its constructor takes `dtype`, see `VGG`.
    """

    identity: str
    """A name of the network and its weights for the run's record, such as `vgg19-caffe-8bit`."""

    memory: TensorCache
    """For what users of the encoder make of its features and want again, in the next picture or the next run of the
    same process."""

    @property
    def settings(self) -> str:
        """What else changes the features, for the files of networks that are trained with them: `max pooling, zeros
        padding`."""
        ...

    @property
    def described(self) -> str:
        """The identity with all settings, for the record of a measurement."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """Of filters and features. The image may have another."""
        ...

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Every layer, from the image on, without aliases."""
        ...

    def canonical(self, name: str) -> str:
        """The layer's own name for an alias.

        Raises:
            UserError: unknown layer; the message lists the known ones.
        """
        ...

    def depth(self, name: str) -> int:
        """How many operations lie before a layer's values: the layer with the largest is the deepest."""
        ...

    def stride(self, name: str) -> int:
        """How many image pixels lie between two neighboring positions of a layer: a power of 2."""
        ...

    def reach_px(self, layer: str) -> int:
        """How far from the first pixel of a position (position times stride) the image can still change its value."""
        ...

    def all_seen(self, marked: Tensor, layer: str) -> Tensor:
        """Which positions of a layer see marked pixels only: (B, 1, H, W) of 0 and 1 -> (B, 1, h, w) of 0 and 1.

        What lies outside the image does not count.
        """
        ...

    def min_side_px(self, layers: Iterable[str]) -> int:
        """Shortest image side with at least two positions in every one of these layers."""
        ...

    def shape(self, layer: str, size: tuple[int, int]) -> tuple[int, int, int]:
        """Channels, height and width of a layer, for an image of (height, width): height and width divided by the
        stride, rounded down."""
        ...

    def activation_bytes(self, size: tuple[int, int], layers: Sequence[str]) -> int:
        """Memory that the feature maps of one image of (height, width) take until the backward pass."""
        ...

    def fingerprint(self, layer: str) -> list[float]:
        """Numbers that tell the network up to a layer from any other, see `fingerprint_of` and `same_network`."""
        ...

    def __call__(self, image: Tensor, layers: Sequence[str]) -> Features:
        """Feature maps of an image, and the image itself under `image`.

        Args:
            image: RGB, (B, 3, H, W), nominally in [0, 1].
            layers: names to return; the network is run to the deepest of them and no further.

        Returns:
            Name as asked -> (B, C, H, W), in the encoder's own dtype.
        """
        ...

    def to(self, device: torch.device) -> "Encoder": ...


# ------------------------------------------------------------------------------------- what encoders are made of


@dataclass(frozen=True)
class Preprocessing:
    """x -> (scale * x - mean) / std per channel, in the channel order the weights were trained with."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    bgr: bool = False

    def __call__(self, image: Tensor, dtype: torch.dtype) -> Tensor:
        """What the first convolution reads, computed in the image's precision: (B, 3, H, W), or (B, 6, H, W) for a
        dtype of low precision, where it is a sum of two halves; see `first_filters`.

        One bfloat16 rounds pixels to half a gray level, which is larger than an optimizer's steps; two of them, run
        through the same filters twice, keep 16 bits at no measurable cost.
        """
        x = image.flip(1) if self.bgr else image
        x = (x * self.scale - x.new_tensor(self.mean).view(1, 3, 1, 1)) / x.new_tensor(self.std).view(1, 3, 1, 1)
        if dtype in (torch.float32, torch.float64):
            return x.to(dtype)
        high = x.detach().to(dtype)
        low = (x - high).to(dtype)  # the gradient of the sum arrives through this half alone
        return torch.cat([high, low], 1).contiguous(memory_format=torch.channels_last)


CAFFE = Preprocessing(mean=(103.939, 116.779, 123.68), scale=255.0, bgr=True)
TORCHVISION = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IDENTITY = Preprocessing()

Pad = Literal["zeros", "reflect", "replicate"]  # what convolutions see outside the image


def first_filters(weight: Tensor, x: Tensor) -> Tensor:
    """Filters (D, C, k, k) as they are, or twice if `x` has two halves of the C channels."""
    return torch.cat([weight, weight], 1) if x.shape[1] == 2 * weight.shape[1] else weight


@dataclass(frozen=True)
class EncoderWeights:
    """Convolutions of a network, by name, and what belongs to them.

    Args:
        convs: names in order, such as `conv1_1`, `conv1_2` of a VGG -> (weight (out, in, k, k), bias (out,)), float32.
            Read once each; a mapping that makes them on demand keeps the peak of memory low.
        preprocessing: what the first convolution expects.
        identity: a name for the run's record, such as `vgg19-caffe-8bit`.
    """

    convs: Mapping[str, tuple[Tensor, Tensor]]
    preprocessing: Preprocessing = IDENTITY
    identity: str = "unnamed"


def hold(module: nn.Module, weights: EncoderWeights, dtype: torch.dtype | None) -> None:
    """Give a module the convolutions of `weights` as buffers `<name>_weight` and `<name>_bias`, in this dtype."""
    for name, (weight, bias) in weights.convs.items():
        weight = weight.detach().to(dtype or weight.dtype, memory_format=torch.channels_last)
        # Not persistent: a checkpoint of what is trained with an encoder does not carry its 80 MB.
        module.register_buffer(f"{name}_weight", weight, persistent=False)
        module.register_buffer(f"{name}_bias", bias.detach().to(weight.dtype), persistent=False)


def grown(unmarked: Tensor, kernel: int, stride: int = 1, before: int = 0, after: int = 0) -> Tensor:
    """Where a window sees anything marked: (B, 1, H, W) of 0 and 1, each side first padded by `before` and `after`."""
    return F.max_pool2d(F.pad(unmarked, (before, after, before, after)), kernel, stride)


def fingerprint_of(preprocessing: Preprocessing, filters: Iterable[Tensor]) -> list[float]:
    """Numbers that tell a network from any other, the same in every number format.

    The preprocessing, and of every convolution the norm of its weights and their product with a fixed wave, which
    another order of the channels would change.
    """
    p = preprocessing
    numbers = [p.scale, float(p.bgr), *p.mean, *p.std]
    for each in filters:
        weight = each.cpu().double().flatten()  # a Mac's GPU has no float64
        wave = torch.cos(torch.arange(len(weight), dtype=torch.float64))
        numbers += [float(weight.norm()), float(weight @ wave)]
    return [round(number, 6) for number in numbers]


def same_network(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two fingerprints are of one network, in whatever number formats."""
    if len(first) != len(second):
        return False
    # Rounding to bfloat16 moves a norm by less than 1e-3 of itself and the wave's product by less than 1e-2 of a norm.
    norms = [1.0] * 8 + [max(first[i], 1e-6) for i in range(8, len(first), 2) for _ in (0, 1)]
    return all(abs(a - b) <= 0.01 * norm for a, b, norm in zip(first, second, norms, strict=True))
