"""Measures of structure: other libraries, and NumPy in float64."""

import numpy as np
import pytest
import torch
from core.measures.pictures import constant, picture
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nstexp.core.color import luminance
from nstexp.core.errors import UserError
from nstexp.core.measures import cfsd, edge, ssim

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


def divergence(content: Tensor, result: Tensor) -> float:
    """The formula, in float64."""
    rows = []
    for features in (content, result):
        f = features.flatten(1).double().numpy() / len(features)
        s = np.exp(f.T @ f)
        rows.append(s / s.sum(1, keepdims=True))
    return float((rows[0] * np.log(rows[0] / rows[1])).sum())


@pytest.mark.parametrize("scale", [3, 20])  # exponents up to 7, and up to 300
@pytest.mark.parametrize("size", [(3, 4), (48, 48)])  # one block of rows, and two
def test_cfsd_is_the_formula(size, scale):
    content, result = (torch.randn(5, *size, generator=torch.Generator().manual_seed(s)) * scale for s in (0, 1))
    wanted = divergence(content, result)
    assert cfsd(content, result) == pytest.approx(wanted, rel=1e-4)
    assert cfsd(result, content) != pytest.approx(wanted, rel=1e-3), "a divergence has a direction"


def test_cfsd_of_nearly_equal_pictures_is_exact():
    content = torch.rand(64, 20, 20, generator=torch.Generator().manual_seed(0))
    result = content + 0.01 * torch.randn(content.shape, generator=torch.Generator().manual_seed(1))
    wanted = divergence(content, result)
    assert 0 < wanted < 1e-6, "smaller than the rounding of a logarithm"
    assert cfsd(content, result) == pytest.approx(wanted, rel=0.02)


def test_cfsd_of_bfloat16_features_is_that_of_the_same_values_in_float32():
    content, change = (torch.randn(192, 20, 20, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    content = (4 * content.relu()).bfloat16()
    result = (content + 4 * change).relu().bfloat16()
    wanted = divergence(content.float(), result.float())
    assert wanted > 1e-3
    assert cfsd(content, result) == pytest.approx(wanted, rel=1e-3)
    assert cfsd(content.float(), result) == pytest.approx(wanted, rel=1e-4), "of two dtypes, the exact one"


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


# ----------------------------------------------------------------------------------------------------------------- edge


def test_edge_is_the_correlation_of_smoothed_gradients():
    a, b = picture(30, 40), picture(30, 40, seed=1)
    fields = []
    for x in (a, b):
        smooth = gaussian_filter(luminance(x)[0].double().numpy(), 1.5, truncate=5 / 1.5)[5:-5, 5:-5]
        fields.append(np.stack(np.gradient(smooth)))
    wanted = (fields[0] * fields[1]).sum() / np.sqrt((fields[0] ** 2).sum() * (fields[1] ** 2).sum())
    assert edge(a, b) == pytest.approx(wanted, abs=1e-6)


def test_edge_sees_no_difference_in_brightness_and_contrast():
    x = picture(30, 40)
    assert edge(0.3 * x + 0.5, x) == pytest.approx(1, abs=1e-6)
    assert edge(1 - x, x) == pytest.approx(-1, abs=1e-6)
    assert edge(constant(0.5, 0.2, 0.1, size=(30, 40)), x) == 0


def test_edge_falls_as_strokes_are_added():
    at = torch.arange(96.0)
    photo = torch.sigmoid(at - 48).expand(3, 96, -1)
    strokes = torch.sin(at / 3)[:, None]
    found = [edge(0.8 * photo + strength * strokes, photo) for strength in (0, 0.01, 0.05, 0.5)]
    assert found == sorted(found, reverse=True) and found[0] > 0.999 and found[-1] < 0.5
    assert edge(strokes.expand(3, -1, 96), photo) == pytest.approx(0, abs=1e-6)
