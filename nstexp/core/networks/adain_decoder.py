"""The decoder of AdaIN."""

import logging
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import ArgumentError
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.layers import upsampled_conv
from nstexp.core.networks.vgg import VGG
from nstexp.core.networks.winograd import conv3x3

log = logging.getLogger(__name__)


class Decoder(nn.Module):
    """Maps features back to an image: the encoder mirrored (Huang & Belongie 2017, section 4.1).

    For every 3x3 convolution of the encoder, the decoder has a 3x3 convolution of the same name with input and output
    channels exchanged, reflection padding, and a ReLU except after the last. Every pooling becomes a nearest-neighbor
    x2 upsampling. There is no normalization. For VGG-19 and relu4_1, the decoder has 3,505,219 parameters.

    Args:
        shapes: name of an encoder convolution -> (output channels, input channels), in the encoder's order.

    Parameters are float32; computations use the dtype of the features.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.names = tuple(reversed(list(shapes)))
        self.convs = nn.ModuleDict()
        for name in self.names:
            high, low = shapes[name]
            self.convs[name] = nn.Conv2d(high, low, 3).to(memory_format=torch.channels_last)
        blocks = [name[4] for name in self.names]
        # In the encoder, a pooling follows the last convolution of a block, so its counterpart upsamples first.
        pairs = zip(self.names[1:], blocks[1:], blocks, strict=False)
        self.upsamples = frozenset(name for name, block, deeper in pairs if block != deeper)

    @classmethod
    def mirror(cls, encoder: Encoder, layer: str) -> "Decoder":
        """A decoder for the features of `encoder` at `layer`, with PyTorch's default initialization.

        Raises:
            ArgumentError: the encoder is not a VGG, or the layer is not a ReLU.
        """
        if not isinstance(encoder, VGG):
            raise ArgumentError(
                "encoder",
                f": {encoder.identity} has no decoder, because a decoder mirrors the convolutions of a VGG; take a VGG "
                "as the backbone, such as vgg19_adain",
            )
        name = encoder.canonical(layer)
        if not name.startswith("relu"):
            raise ArgumentError("layer", f"={layer}: a decoder starts from a layer relu*, such as relu4_1")
        last = encoder.conv_names.index(name.replace("relu", "conv"))
        weights = {n: getattr(encoder, f"{n}_weight") for n in encoder.conv_names[: last + 1]}
        return cls({n: (weight.shape[0], weight.shape[1]) for n, weight in weights.items()})

    def conv(self, name: str) -> nn.Conv2d:
        """The convolution of this name."""
        return cast(nn.Conv2d, self.convs[name])

    @property
    def scale(self) -> int:
        """Factor between the height and width of the features and those of the image."""
        return int(2 ** len(self.upsamples))

    @property
    def reach(self) -> int:
        """Largest distance, in positions of the features, at which a feature influences a pixel."""
        pixels, stride = 0, self.scale
        for name in self.names:
            stride //= 2 if name in self.upsamples else 1
            pixels += stride
        return -(-pixels // self.scale) + 1

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) -> RGB (B, 3, scale H, scale W), nominally in [0, 1] but not clamped.

        The result is float32, or float64 for float64 features.
        """
        x = features
        for name in self.names:
            x = self.step(name, x)
        return x.float() if x.dtype != torch.float64 else x

    def step(self, name: str, x: Tensor) -> Tensor:
        """Apply one convolution with its upsampling, padding and ReLU (no ReLU after the last convolution)."""
        conv = self.conv(name)
        weight, bias = conv.weight, cast(Tensor, conv.bias).to(x.dtype)
        if name in self.upsamples:
            x = upsampled_conv(x, weight, bias)
        else:
            x = conv3x3(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight.to(x.dtype), bias, padding=0)
        return x if name == self.names[-1] else F.relu_(x)
