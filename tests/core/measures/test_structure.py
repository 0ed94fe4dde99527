"""Measures of structure: other libraries, and NumPy in float64."""

import numpy as np
import pytest
import torch
from core.measures.pictures import constant, picture
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nstexp.core.color import luminance
from nstexp.core.errors import UserError
from nstexp.core.measures import cfsd, ssim

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("size", [(11, 11), (12, 40), (48, 64)])
def test_ssim_is_that_of_scikit_image(size):
    a, b = picture(*size), picture(*size, seed=1)
    gray = [luminance(x)[0].double().numpy() for x in (a, b)]
    wanted = structural_similarity(
        *gray, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, win_size=11
    )
    assert ssim(a, b) == pytest.approx(wanted, abs=1e-9)
    assert ssim(b, a) == pytest.approx(wanted, abs=1e-12)
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_ssim_of_constant_pictures_is_the_luminance_term():
    a, b = constant(0.2, 0.2, 0.2, size=(16, 16)), constant(0.7, 0.7, 0.7, size=(16, 16))
    assert ssim(a, b) == pytest.approx((2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4), abs=1e-6)


def test_ssim_says_which_pictures_it_cannot_compare():
    with pytest.raises(UserError, match="20x10 px, at least 11"):
        ssim(picture(10, 20), picture(10, 20))
    with pytest.raises(UserError, match="different sizes"):
        ssim(picture(20, 20), picture(20, 21))


def test_cfsd_of_the_worked_example():
    content = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 1, 2)
    assert cfsd(content, torch.zeros(2, 1, 2)) == pytest.approx(0.0155038, abs=1e-7)
    assert cfsd(content, content) == 0


@pytest.mark.parametrize("size", [(3, 4), (48, 48)])  # one block of rows, and two
def test_cfsd_is_the_formula(size):
    content, result = (torch.randn(5, *size, generator=torch.Generator().manual_seed(s)) * 3 for s in (0, 1))
    rows = []
    for features in (content, result):
        f = features.flatten(1).double().numpy() / 5
        s = np.exp(f.T @ f)
        rows.append(s / s.sum(1, keepdims=True))
    wanted = (rows[0] * np.log(rows[0] / rows[1])).sum()
    assert cfsd(content, result) == pytest.approx(wanted, rel=1e-5)
    assert cfsd(result, content) != pytest.approx(wanted, rel=1e-3), "a divergence has a direction"


def test_cfsd_takes_a_block_of_rows_at_a_time():
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel()) if isinstance(out, Tensor) else largest
            return out

    features = torch.randn(2, 64, 64)
    with Sizes():
        cfsd(features, -features)
    assert 64**2 < largest <= 2**22 < 64**4
