"""Convolutions in bfloat16 are those of float32, up to rounding, also of maps that shrink to one column."""

import pytest
import torch
from torch.nn import functional as F

from nstexp.core.networks.convolution import conv2d
from nstexp.core.networks.generators import Residual

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("width", range(3, 9))
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
def test_bfloat16_is_float32_rounded(width, stride, padding):
    torch.manual_seed(0)
    x = torch.randn(1, 8, 33, width).bfloat16().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(16, 8, 3, 3).bfloat16(), torch.randn(16).bfloat16()
    weight = weight.contiguous(memory_format=torch.channels_last)
    exact = F.conv2d(x.float(), weight.float(), bias.float(), stride, padding)
    torch.testing.assert_close(conv2d(x, weight, bias, stride, padding).float(), exact, atol=0.25, rtol=0.02)


def test_a_network_redraws_a_picture_of_one_column():
    torch.manual_seed(0)
    network = Residual(width=0.25, blocks=1).eval()
    with torch.no_grad():
        picture = torch.rand(1, 3, 64, 1)
        exact, rounded = network(picture).float(), network(picture.bfloat16()).float()
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.1)
