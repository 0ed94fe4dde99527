"""The interface and the building blocks of feature encoders, which map RGB images in [0, 1] to named feature maps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.names import IMAGE as IMAGE  # exported here with the other names of features
from nstexp.core.runtime.cache import TensorCache

MEMORY_BYTES = 256 * 2**20

Features = dict[str, Tensor]  # layer name -> (B, C, H, W)
# For a frame of a clip: the previous result, warped to the frame, and a map of where the warp is valid.
BEFORE, TRUST = "before", "trust"
WRAPS = "wraps"  # among features: a number that is present if opposite edges of the picture meet, see `core.torus`


class Encoder(Protocol):
    """The interface that methods, masks and measures need from a frozen network that returns feature maps by name.

    In practice an encoder is an `nn.Module` whose weights are buffers: it has no parameters, and it stays in evaluation
    mode inside any training module. `core.networks.vgg.VGG` and `core.networks.efficientnet.EfficientNetLite` are
    encoders. Your class needs no base class; its constructor takes its settings and `dtype`, see `VGG`.

    A method `on_torus()` is optional. It returns the same network, with the same weights in memory, for pictures whose
    opposite edges meet: convolutions see the opposite edge outside the picture, and the features have an entry `WRAPS`.
    """

    identity: str
    """Name of the network and its weights for the run's record, such as `vgg19-caffe-8bit`."""

    memory: TensorCache
    """Cache for results computed from the features, to be used again for the next picture or in the next run of the
    same process."""

    @property
    def settings(self) -> str:
        """Settings that change the features, as text, for the files of networks trained with them: `max pooling, zeros
        padding`."""
        ...

    @property
    def described(self) -> str:
        """Identity and all settings as text, for the record of a measurement."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of filters and features; images may have another dtype."""
        ...

    @property
    def layer_names(self) -> tuple[str, ...]:
        """All layers in the order of computation, without aliases."""
        ...

    def canonical(self, name: str) -> str:
        """The name of a layer, given its name or an alias.

        Raises:
            UserError: unknown layer; the message lists the known layers.
        """
        ...

    def depth(self, name: str) -> int:
        """Number of operations from the image to a layer; the deepest layer has the largest number."""
        ...

    def stride(self, name: str) -> int:
        """Distance, in image pixels, of neighboring positions of a layer: a power of 2."""
        ...

    def reach_px(self, layer: str) -> int:
        """Largest distance, in pixels, from the first pixel of a position (position times stride) to a pixel that
        influences its value."""
        ...

    def all_seen(self, marked: Tensor, layer: str) -> Tensor:
        """Mark the positions of a layer whose receptive field contains marked pixels only; padding does not count.

        Args:
            marked: (B, 1, H, W) of 0 and 1.

        Returns:
            (B, 1, h, w) of 0 and 1.
        """
        ...

    def min_side_px(self, layers: Iterable[str]) -> int:
        """Shortest image side for which all these layers have at least two positions."""
        ...

    def shape(self, layer: str, size: tuple[int, int]) -> tuple[int, int, int]:
        """Channels, height and width of a layer, for an image of (height, width): height and width divided by the
        stride, rounded down."""
        ...

    def activation_bytes(self, size: tuple[int, int], layers: Sequence[str]) -> int:
        """Memory, in bytes, that the feature maps of one image of (height, width) take until the backward pass."""
        ...

    def fingerprint(self, layer: str) -> list[float]:
        """Numbers that identify the network up to a layer, see `fingerprint_of` and `same_network`."""
        ...

    def __call__(self, image: Tensor, layers: Sequence[str]) -> Features:
        """Compute feature maps of an image.

        Args:
            image: RGB (B, 3, H, W), nominally in [0, 1].
            layers: names to return; the network runs up to the deepest of them.

        Returns:
            Name as in `layers` -> (B, C, H, W) in the encoder's dtype; and the image itself under `image`.
        """
        ...

    def to(self, device: torch.device) -> "Encoder": ...


# ---------------------------------------------------------------------------------- building blocks of encoders


@dataclass(frozen=True)
class Preprocessing:
    """x -> (scale x - mean) / std per channel, in the channel order with which the weights were trained.

    Examples:
        >>> preprocessing = Preprocessing(mean=(1.0, 2.0, 3.0), scale=10.0, bgr=True)
        >>> preprocessing(torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1), torch.float32).flatten().tolist()
        [2.0, 0.0, -2.0]
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    bgr: bool = False

    def __call__(self, image: Tensor, dtype: torch.dtype) -> Tensor:
        """The input of the first convolution, computed in the image's dtype.

        Args:
            image: RGB (B, 3, H, W) in [0, 1].
            dtype: dtype of the result.

        Returns:
            (B, 3, H, W); in 16-bit dtypes (B, 6, H, W), two parts whose sum is the input, see `first_filters`. A single
            bfloat16 rounds pixels to half a gray level, which is more than an optimizer's step; two of them keep 16
            bits at no measurable cost.
        """
        x = image.flip(1) if self.bgr else image
        x = (x * self.scale - x.new_tensor(self.mean).view(1, 3, 1, 1)) / x.new_tensor(self.std).view(1, 3, 1, 1)
        if dtype in (torch.float32, torch.float64):
            return x.to(dtype)
        high = x.detach().to(dtype)
        low = (x - high).to(dtype)  # only this part carries the gradient
        return torch.cat([high, low], 1).contiguous(memory_format=torch.channels_last)


CAFFE = Preprocessing(mean=(103.939, 116.779, 123.68), scale=255.0, bgr=True)
TORCHVISION = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IDENTITY = Preprocessing()

Pad = Literal["zeros", "reflect", "replicate", "circular"]  # padding of convolutions


def first_filters(weight: Tensor, x: Tensor) -> Tensor:
    """Filters (D, C, k, k) for an input with C channels, or (D, 2C, k, k) for an input of two parts with C channels.

    Examples:
        >>> weight = torch.ones(4, 3, 1, 1)
        >>> first_filters(weight, torch.ones(1, 6, 2, 2)).shape
        torch.Size([4, 6, 1, 1])
    """
    return torch.cat([weight, weight], 1) if x.shape[1] == 2 * weight.shape[1] else weight


@dataclass(frozen=True)
class EncoderWeights:
    """Convolutions of a network by name, with the preprocessing of its input.

    Args:
        convs: names in order, such as `conv1_1`, `conv1_2` of a VGG -> (weight (out, in, k, k), bias (out,)), float32.
            Every entry is read once, so a mapping that computes entries on demand keeps the peak memory low.
        preprocessing: the preprocessing that the first convolution expects.
        identity: a name for the run's record, such as `vgg19-caffe-8bit`.
    """

    convs: Mapping[str, tuple[Tensor, Tensor]]
    preprocessing: Preprocessing = IDENTITY
    identity: str = "unnamed"


def hold(module: nn.Module, weights: EncoderWeights, dtype: torch.dtype | None) -> None:
    """Register the convolutions as buffers `<name>_weight` and `<name>_bias` of a module, in this dtype."""
    for name, (weight, bias) in weights.convs.items():
        weight = weight.detach().to(dtype or weight.dtype, memory_format=torch.channels_last)
        # Not persistent, so that checkpoints of networks trained with an encoder do not contain its 80 MB.
        module.register_buffer(f"{name}_weight", weight, persistent=False)
        module.register_buffer(f"{name}_bias", bias.detach().to(weight.dtype), persistent=False)


def grown(marked: Tensor, kernel: int, stride: int = 1, before: int = 0, after: int = 0) -> Tensor:
    """Mark the windows that contain a marked position: (B, 1, H, W) of 0 and 1 -> (B, 1, h, w).

    Args:
        kernel, stride: side and distance of the windows.
        before, after: zero padding above and on the left, and below and on the right.

    Examples:
        >>> grown(torch.tensor([[[[0.0, 0, 0, 1], [0, 0, 0, 0]]]]), kernel=2, stride=2).tolist()
        [[[[0.0, 1.0]]]]
    """
    return F.max_pool2d(F.pad(marked, (before, after, before, after)), kernel, stride)


def fingerprint_of(preprocessing: Preprocessing, filters: Iterable[Tensor]) -> list[float]:
    """Numbers that identify a network, nearly equal in all number formats.

    They are the preprocessing and, for every convolution, the norm of the weights and their inner product with a fixed
    wave, which depends on the order of the channels.
    """
    p = preprocessing
    numbers = [p.scale, float(p.bgr), *p.mean, *p.std]
    for tensor in filters:
        weight = tensor.cpu().double().flatten()  # on the CPU, because the GPU of a Mac has no float64
        wave = torch.cos(torch.arange(len(weight), dtype=torch.float64))
        numbers += [float(weight.norm()), float(weight @ wave)]
    return [round(number, 6) for number in numbers]


def same_network(first: Sequence[float], second: Sequence[float]) -> bool:
    """True if two fingerprints belong to the same network, possibly in different number formats.

    Examples:
        >>> filters = torch.linspace(-1, 1, 27).view(1, 3, 3, 3)
        >>> first = fingerprint_of(CAFFE, [filters])
        >>> same_network(first, fingerprint_of(CAFFE, [filters.bfloat16()]))
        True
        >>> same_network(first, fingerprint_of(CAFFE, [filters.flip(1)]))
        False
    """
    if len(first) != len(second):
        return False
    # Rounding to bfloat16 changes a norm by less than 1e-3 of it, and the inner product by less than 1e-2 of the norm.
    norms = [1.0] * 8 + [max(first[i], 1e-6) for i in range(8, len(first), 2) for _ in (0, 1)]
    return all(abs(a - b) <= 0.01 * norm for a, b, norm in zip(first, second, norms, strict=True))
