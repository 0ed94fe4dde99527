"""Networks that several test files need: a decoder in a file, and one of another program."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.model_files import decoder_info, save_decoder
from nstexp.core.networks.vgg import VGG


def saved_decoder(encoder: VGG, layer: str, path: Path) -> str:
    """The path of a file with a decoder of random weights, always the same."""
    torch.manual_seed(0)
    save_decoder(Decoder.mirror(encoder, layer), decoder_info(encoder, layer), path)
    return str(path)


class TransformerNet(nn.Module):
    """The network of pytorch/examples, fast_neural_style, under its names; pixels from 0 to 255."""

    class Layer(nn.Module):
        def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, double: bool = False) -> None:
            super().__init__()
            self.double, self.edge = double, kernel // 2
            self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)

        def forward(self, x: Tensor) -> Tensor:
            x = F.interpolate(x, scale_factor=2, mode="nearest") if self.double else x
            return self.conv2d(F.pad(x, (self.edge,) * 4, mode="reflect"))

    class Block(nn.Module):
        def __init__(self, norm) -> None:
            super().__init__()
            self.conv1, self.in1 = TransformerNet.Layer(128, 128, 3), norm(128)
            self.conv2, self.in2 = TransformerNet.Layer(128, 128, 3), norm(128)

        def forward(self, x: Tensor) -> Tensor:
            return self.in2(self.conv2(self.in1(self.conv1(x)).relu())) + x

    def __init__(self, tracked: bool = False) -> None:
        super().__init__()

        def norm(channels: int) -> nn.InstanceNorm2d:
            return nn.InstanceNorm2d(channels, affine=True, track_running_stats=tracked)

        self.conv1, self.in1 = self.Layer(3, 32, 9), norm(32)
        self.conv2, self.in2 = self.Layer(32, 64, 3, 2), norm(64)
        self.conv3, self.in3 = self.Layer(64, 128, 3, 2), norm(128)
        for number in range(1, 6):
            setattr(self, f"res{number}", self.Block(norm))
        self.deconv1, self.in4 = self.Layer(128, 64, 3, double=True), norm(64)
        self.deconv2, self.in5 = self.Layer(64, 32, 3, double=True), norm(32)
        self.deconv3 = self.Layer(32, 3, 9)

    def forward(self, x: Tensor) -> Tensor:
        for number in (1, 2, 3):
            x = getattr(self, f"in{number}")(getattr(self, f"conv{number}")(x)).relu()
        for number in range(1, 6):
            x = getattr(self, f"res{number}")(x)
        x = self.in4(self.deconv1(x)).relu()
        x = self.in5(self.deconv2(x)).relu()
        return self.deconv3(x)
