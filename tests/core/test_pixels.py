"""Pictures as bytes and back."""

import numpy as np
import pytest
import torch

from nstexp.core.pixels import from_array, to_array, to_bytes


def test_bytes_are_the_nearest_levels_and_clamped():
    levels = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 127.4 / 255, 1.0, 7.0])
    assert to_bytes(levels).tolist() == [0, 0, 0, 1, 127, 255, 255]
    assert to_bytes(levels).dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_array_has_the_pixels_at_their_places(dtype):
    picture = torch.zeros(3, 4, 5, dtype=dtype, requires_grad=True)
    with torch.no_grad():
        picture[1, 2, 3] = 1
    pixels = to_array(picture)
    assert pixels.shape == (4, 5, 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert pixels[2, 3].tolist() == [0, 255, 0] and pixels.sum() == 255


def test_every_level_survives_the_way_there_and_back():
    pixels = np.random.default_rng(0).permuted(np.arange(256 * 3, dtype=np.int64) % 256).astype(np.uint8)
    pixels = pixels.reshape(16, 16, 3)
    picture = from_array(pixels)
    assert picture.shape == (3, 16, 16) and picture.dtype == torch.float32 and picture.is_contiguous()
    assert picture.min() >= 0 and picture.max() == 1
    assert np.array_equal(to_array(picture), pixels)


def test_arrays_that_may_not_be_written_or_are_turned_are_taken_too():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    expected = from_array(pixels)
    pixels.flags.writeable = False
    assert torch.equal(from_array(pixels), expected)  # PyTorch would warn
    assert torch.equal(from_array(pixels[::-1]), expected.flip(1))
    assert torch.equal(from_array(pixels[:, ::2]), expected[:, :, ::2])
