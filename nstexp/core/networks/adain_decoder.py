"""Networks that are trained: the AdaIN decoder."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import ArgumentError
from nstexp.core.networks.encoder import Encoder
from nstexp.core.networks.layers import upsampled_conv
from nstexp.core.networks.vgg import VGG

log = logging.getLogger(__name__)


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
    def mirror(cls, encoder: Encoder, layer: str) -> "Decoder":
        """The decoder for features that `encoder` has at `layer`, with PyTorch's default initialization.

        Raises:
            ArgumentError: no VGG, or a layer that is no relu*.
        """
        if not isinstance(encoder, VGG):
            raise ArgumentError(
                "encoder",
                f": {encoder.identity} has no decoder, which mirrors a VGG, convolution by convolution; take a VGG as "
                "the backbone, such as vgg19_adain",
            )
        own = encoder.canonical(layer)
        if not own.startswith("relu"):
            raise ArgumentError("layer", f"={layer}: a decoder starts from a layer relu*, such as relu4_1")
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
