"""Color moments and transfer, luminance and chroma: closed forms, invariants, and pictures without any color."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from nstexp.core import color
from nstexp.core.color import chroma, color_map, color_moments, luminance, match_color, match_moments, mean_moments
from nstexp.core.errors import UserError

FORMS = ("pca", "chol", "sym")
IQ = torch.tensor([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=torch.float64)  # of YIQ; rows sum to 0


def picture(height: int, width: int, seed: int = 0, batch: int = 1) -> Tensor:
    """Colors that are correlated and far from gray, (B, 3, H, W) in float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    noise = torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64)
    return torch.einsum("ij,bjhw->bihw", mix / mix.sum(1, keepdim=True), noise)


def close(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], atol: float = 1e-12) -> bool:
    return all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------------------------------------------------ moments


def test_moments_are_numpys():
    image = picture(7, 9)
    flat = image[0].reshape(3, -1).numpy()
    mean, cov = color_moments(image)
    assert np.allclose(mean, flat.mean(1), atol=1e-14)
    assert np.allclose(cov, np.cov(flat, bias=True), atol=1e-14)


def test_weighted_moments_are_those_of_repeated_pixels():
    image, weights = picture(6, 5), torch.arange(30).reshape(6, 5) % 4
    flat = image[0].reshape(3, -1).numpy()
    mean, cov = color_moments(image, weights / 3)
    assert np.allclose(mean, np.average(flat, axis=1, weights=weights.flatten()), atol=1e-7)
    assert np.allclose(cov, np.cov(flat, bias=True, fweights=weights.flatten()), atol=1e-7)


@pytest.mark.parametrize("chunk_px", [1, 7, 20, 63])
def test_chunks_change_nothing(monkeypatch, chunk_px):
    image, weights = picture(7, 9, batch=2), torch.rand(7, 9, dtype=torch.float64)
    whole = color_moments(image, weights)
    matched = match_color(image, [picture(4, 4, seed=1)[0]], [1.0])
    monkeypatch.setattr(color, "CHUNK_PX", chunk_px)
    assert close(color_moments(image, weights), whole, atol=1e-14)
    assert torch.allclose(match_color(image, [picture(4, 4, seed=1)[0]], [1.0]), matched, atol=1e-14)


def test_weight_nowhere_is_finite():
    mean, cov = color_moments(picture(4, 4), torch.zeros(4, 4))
    assert mean.tolist() == [0, 0, 0]
    assert cov.eq(0).all()


def test_memory_does_not_grow_with_the_picture(monkeypatch):
    largest = []
    double = Tensor.double
    monkeypatch.setattr(Tensor, "double", lambda self: largest.append(self.numel()) or double(self))
    color_moments(torch.rand(1, 3, 1500, 1000))
    assert max(largest) == 3 * color.CHUNK_PX
    assert 3 * 8 * color.CHUNK_PX < 20e6


# ----------------------------------------------------------------------------------------------------------- transfer


@pytest.mark.parametrize("form", FORMS)
def test_match_cov(form):
    """Mean and covariance are exact before clipping."""
    image, reference = picture(20, 30, batch=2), picture(25, 11, seed=1)[0] ** 2
    assert not close(color_moments(image), color_moments(reference), atol=1e-2)
    assert close(color_moments(match_color(image, [reference], [1.0], form, eps=0.0)), color_moments(reference))


@pytest.mark.parametrize("form", FORMS)
def test_match_cov_in_float32(form):
    image, reference = picture(20, 30).float(), picture(25, 11, seed=1)[0].float()
    matched = match_color(image, [reference], [1.0], form, eps=0.0)
    assert matched.dtype == torch.float32
    assert close(color_moments(matched), color_moments(reference), atol=1e-6)
    with_eps = color_moments(match_color(image, [reference], [1.0], form))
    assert close(with_eps, color_moments(reference), atol=5e-4)


@pytest.mark.parametrize("form", FORMS)
def test_match_self(form):
    image = picture(20, 30)
    assert torch.allclose(match_color(image, [image[0]], [1.0], form), image, atol=1e-12)


def test_the_three_forms_give_different_pictures():
    image, reference = picture(20, 30), picture(25, 11, seed=1)[0]
    found = {form: match_color(image, [reference], [1.0], form) for form in FORMS}
    for one, other in itertools.combinations(FORMS, 2):
        assert (found[one] - found[other]).abs().max() > 0.01, (one, other)
    assert torch.equal(found["sym"], match_color(image, [reference], [1.0]))


def test_the_forms_are_what_they_are_called():
    wanted, own = color_moments(picture(25, 11, seed=1))[1], color_moments(picture(20, 30))[1]
    sym, chol, pca = (color_map(wanted, own, form, eps=0.0) for form in ("sym", "chol", "pca"))
    assert torch.allclose(sym, sym.T, atol=1e-12)
    assert torch.linalg.eigvalsh(sym).min() > 0
    assert chol.triu(1).abs().max() < 1e-12
    root_of_own = torch.linalg.inv(pca) @ torch.from_numpy(_root(wanted.numpy()))
    assert torch.allclose(root_of_own, torch.from_numpy(_root(own.numpy())), atol=1e-12)


def _root(matrix: np.ndarray) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix)
    return left * np.sqrt(values) @ right


def test_sym_moves_the_colors_least():
    image, reference = picture(20, 30), picture(25, 11, seed=1)[0]
    moved = {form: (match_color(image, [reference], [1.0], form) - image).square().mean() for form in FORMS}
    assert moved["sym"] < min(moved["pca"], moved["chol"])


@pytest.mark.parametrize("form", FORMS)
def test_gray_and_constant_pictures_stay_finite(form):
    colored = picture(8, 8).float()
    gray = luminance(colored).expand(-1, 3, -1, -1)
    for flat in (torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8), gray, colored[..., :1, :1]):
        assert match_color(flat, [colored[0]], [1.0], form).isfinite().all()
        matched = match_color(colored, [flat[0]], [1.0], form)
        assert torch.allclose(color_moments(matched)[0], color_moments(flat)[0], atol=1e-5)
        assert torch.allclose(color_moments(matched)[1], color_moments(flat)[1], atol=2e-5)


def test_several_references_are_averaged_by_shares():
    one, other = picture(20, 30)[0], picture(25, 11, seed=1)[0]
    (mean_1, cov_1), (mean_2, cov_2) = color_moments(one), color_moments(other)
    expected = (0.75 * mean_1 + 0.25 * mean_2, 0.75 * cov_1 + 0.25 * cov_2)
    assert close(mean_moments([one, other], [3, 1]), expected)
    matched = match_color(picture(9, 9, seed=2), [one, other], [3, 1], eps=0.0)
    assert close(color_moments(matched), expected)


def test_a_map_for_one_region_is_exact_there():
    image, wanted = picture(10, 12), color_moments(picture(9, 9, seed=1))
    left = torch.zeros(10, 12)
    left[:, :5] = 1
    matched = match_moments(image, color_moments(image, left), wanted, eps=0.0)
    assert close(color_moments(matched, left), wanted)
    assert not close(color_moments(matched), wanted, atol=1e-3)


def test_a_strided_picture_is_left_alone():
    stored = picture(12, 10)
    image, copy = stored.transpose(-1, -2), stored.clone()
    matched = match_color(image, [picture(9, 9, seed=1)[0]], [1.0])
    assert torch.equal(stored, copy)
    assert torch.allclose(matched, match_color(image.contiguous(), [picture(9, 9, seed=1)[0]], [1.0]), atol=1e-14)


def test_an_unknown_form_is_named():
    with pytest.raises(UserError, match="form=cholesky is unknown, choose one of pca, chol, sym"):
        match_color(picture(4, 4), [picture(4, 4)[0]], [1.0], "cholesky")


# ---------------------------------------------------------------------------------------------------------- luminance


def test_luminance_is_that_of_bt_601():
    colors = torch.eye(3, dtype=torch.float64).reshape(3, 3, 1, 1)
    assert luminance(colors).flatten().tolist() == [0.299, 0.587, 0.114]
    assert luminance(picture(4, 5, batch=2)).shape == (2, 1, 4, 5)
    assert luminance(picture(4, 5)[0]).shape == (1, 4, 5)


def test_lum_only():
    """The chroma of one picture under the luminance of another, and back: an exact inverse."""
    content, light = picture(20, 30), picture(20, 30, seed=1)
    result = luminance(light) + chroma(content)
    assert torch.allclose(luminance(result), luminance(light), atol=1e-15)
    in_iq = [torch.einsum("ij,bjhw->bihw", IQ, image) for image in (result, content, light)]
    assert torch.allclose(in_iq[0], in_iq[1], atol=1e-15)
    assert not torch.allclose(in_iq[0], in_iq[2], atol=1e-2)
    assert torch.allclose(luminance(content) + chroma(content), content, atol=1e-15)


def test_gray_has_no_chroma():
    gray = torch.rand(1, 1, 9, 9).expand(-1, 3, -1, -1)
    result = luminance(picture(9, 9).float()) + chroma(gray)
    assert (result.amax(1) - result.amin(1)).max() == 0
    assert chroma(gray).abs().max() < 1e-6
    assert luminance(chroma(picture(9, 9))).abs().max() < 1e-15
