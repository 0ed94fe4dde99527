"""Loss terms beside content and Gram matrices, and what several styles make of them: closed forms, NumPy in float64."""

import math

import hydra
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional

from nstexp.cli import CONF
from nstexp.core import losses
from nstexp.core.errors import UserError
from nstexp.core.losses import (
    CoherenceLoss,
    ContentLoss,
    CovarianceLoss,
    GramLoss,
    HistogramLoss,
    LaplacianLoss,
    MattingLoss,
    MomentsLoss,
    SlicedWassersteinLoss,
    TotalVariation,
)
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.stats import gram, mean_square
from nstexp.core.losses.style import project
from nstexp.core.losses.transport import hist_match, sorted_values
from nstexp.core.networks.encoder import IMAGE

GRAM_FORMS = ("gatys", "mse_hw", "mse_chw", "keras")
KERNEL = [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]

# Worked example: 3 channels, 2 positions, and the features of two styles.
F = torch.tensor([[1, 2], [0, 1], [3, 0]], dtype=torch.float64).view(1, 3, 1, 2)
A = torch.tensor([[1, 0], [1, 1], [0, 2]], dtype=torch.float64).view(1, 3, 1, 2)
B = torch.tensor([[0, 1], [2, 0], [1, 1]], dtype=torch.float64).view(1, 3, 1, 2)


pytestmark = pytest.mark.usefixtures("one_thread")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(seed: int, batch: int = 1) -> dict[str, Tensor]:
    """Image and three layers as an encoder would return them."""
    return {
        IMAGE: rand(batch, 3, 24, 16, seed=seed).sigmoid(),
        "relu1_1": rand(batch, 4, 24, 16, seed=seed + 1).relu(),
        "relu2_1": rand(batch, 6, 12, 8, seed=seed + 2).relu(),
        "relu3_1": rand(batch, 8, 6, 4, seed=seed + 3).relu(),
    }


LAYERS = tuple(features(0))[1:]


def shapes_of(feats: dict[str, Tensor]) -> dict[str, tuple[int, int, int]]:
    return {name: tuple(f.shape[1:]) for name, f in feats.items()}


def matrices(features: Tensor) -> np.ndarray:
    """(B, C, H W) in float64."""
    return features.detach().double().flatten(2).numpy()


def quantiles(values: np.ndarray, count: int) -> np.ndarray:
    """Of each row, at the middle of each of `count` equal shares."""
    return np.quantile(values, (np.arange(count) + 0.5) / count, axis=-1, method="hazen")


def squared_w2(one: np.ndarray, other: np.ndarray) -> float:
    """Mean squared distance of the sorted values of two rows."""
    return float(((np.sort(one) - quantiles(other, len(one))) ** 2).mean())


# ---------------------------------------------------------------------------------------------------------- Laplacian


def one_channel(plane: Tensor) -> Tensor:
    """(1, 3, H, W) with the other two channels 0."""
    return torch.stack([plane, 0 * plane, 0 * plane])[None]


def test_the_laplacian_of_a_constant_and_of_a_ramp_is_0():
    y, x = torch.meshgrid(torch.arange(6.0).double(), torch.arange(7.0).double(), indexing="ij")
    for plane in (torch.full_like(x, 0.3), x, y, 2 * x - 3 * y + 1):
        assert losses.laplacian(one_channel(plane)).abs().max() < 1e-12


def test_the_laplacian_of_a_square_is_minus_2():
    x = torch.arange(7.0).double().expand(6, 7)
    for plane in (x**2, x.T**2):
        assert losses.laplacian(one_channel(plane)).unique().tolist() == [-2]
    assert losses.laplacian((x**2).expand(1, 3, 6, 7)).unique().tolist() == [-6], "the channels are summed"


def test_the_laplacian_of_an_impulse_is_the_kernel():
    impulse = torch.zeros(5, 5).double()
    impulse[2, 2] = 1
    assert losses.laplacian(one_channel(impulse))[0, 0].tolist() == KERNEL
    white = impulse.expand(1, 3, 5, 5)
    value = losses.laplacian_loss(white, losses.laplacian(0 * white), 1)
    assert value.item() == pytest.approx(20, abs=1e-12)  # (16 + 4) * 9 / 9


@pytest.mark.parametrize("size", [(24, 16), (13, 17)])
@pytest.mark.parametrize("pool_px", [1, 2, 4])
def test_laplacian_loss_is_the_formula(pool_px, size):
    x, p = rand(2, 3, *size).sigmoid(), rand(2, 3, *size, seed=1).sigmoid()
    total, count = 0.0, 0
    for difference in (x - p).sum(1).numpy():
        rows, columns = (side // pool_px for side in size)
        means = difference[: rows * pool_px, : columns * pool_px]
        means = means.reshape(rows, pool_px, columns, pool_px).mean((1, 3))
        for i, j in np.ndindex(rows - 2, columns - 2):
            total += (means[i : i + 3, j : j + 3] * KERNEL).sum() ** 2
            count += 1
    value = losses.laplacian_loss(x, losses.laplacian(functional.avg_pool2d(p, pool_px)), pool_px)
    assert value.item() == pytest.approx(total / count, rel=1e-12)


def test_the_laplacian_sees_squares_of_pool_px():
    term = LaplacianLoss([4])
    assert [t.shape for t in term.target({IMAGE: rand(1, 3, 12, 12)})] == [(1, 1, 1, 1)]
    image, shuffled = rand(1, 3, 12, 12), rand(1, 3, 12, 12)
    shuffled[..., 4:8, 4:8] = shuffled[..., 4:8, 4:8].flip(-1).transpose(-1, -2)
    assert not torch.equal(image, shuffled)
    assert term({IMAGE: shuffled}, term.target({IMAGE: image})).item() < 1e-20


def test_lap_offset_a_constant_color_changes_nothing():
    term, image, photo = LaplacianLoss([1, 4]), rand(1, 3, 24, 16), rand(1, 3, 24, 16, seed=1)
    tinted = image + torch.tensor([0.1, -0.2, 0.5]).view(1, 3, 1, 1)
    target = term.target({IMAGE: photo})
    torch.testing.assert_close(term({IMAGE: tinted}, target), term({IMAGE: image}, target))


def test_lap_zero_at_content():
    x = rand(1, 3, 24, 16).requires_grad_()
    term = LaplacianLoss([1, 4])
    loss = term({IMAGE: x}, term.target({IMAGE: x}))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


def test_laplacian_module_weighs_its_squares_on_its_pixel_scale():
    x, p = features(0), features(10)
    values = [losses.laplacian_loss(x[IMAGE], LaplacianLoss([s], None, 1).target(p)[0], s).item() for s in (1, 4)]
    for weights, scale in (((1, 1), 1), ((0.5, 3), 1), ((0.5, 3), 255)):
        term = LaplacianLoss([1, 4], weights, scale)
        expected = scale**2 * sum(w * value for w, value in zip(weights, values, strict=True))
        assert term(x, term.target(p)).item() == pytest.approx(expected, rel=1e-12)
    term = LaplacianLoss([1, 4])
    assert term(x, term.target(p)).item() == pytest.approx(65025 * sum(values), rel=1e-12)


def test_laplacian_loss_passes_gradcheck():
    target = losses.laplacian(functional.avg_pool2d(rand(2, 3, 8, 10, seed=1), 2))
    x = rand(2, 3, 8, 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda image: losses.laplacian_loss(image, target, 2), x)


@pytest.mark.parametrize("pool_px", [[1], [4], [4, 16], [7, 3]])
def test_the_laplacian_knows_the_smallest_picture_it_can_see(pool_px):
    term = LaplacianLoss(pool_px)
    side = term.min_side_px
    assert LossSet({"laplacian": term}, {"laplacian": 1}).min_side_px == side
    assert all(t.numel() for t in term.target({IMAGE: torch.rand(1, 3, side, side)}))
    for smaller in (side - 1, side - max(pool_px)):
        assert not all(t.numel() for t in term.target({IMAGE: torch.rand(1, 3, side, max(smaller, max(pool_px)))}))


# --------------------------------------------------------------------------------------------------------- covariance


@pytest.mark.parametrize("guided", [False, True])
def test_covariance_is_numpys(guided):
    x = rand(2, 5, 6, 4) + 1
    guide = rand(6, 4, seed=1).relu() if guided else None
    guide = guide / guide.square().mean().sqrt() if guided else None
    weights = guide.square().flatten().numpy() if guided else None
    mean, cov = losses.covariance(x, guide)
    assert mean.shape == (2, 5, 1)
    for own_mean, own_cov, f in zip(mean.numpy(), cov.numpy(), matrices(x), strict=True):
        np.testing.assert_allclose(own_mean[:, 0], np.average(f, axis=1, weights=weights), rtol=1e-6)
        np.testing.assert_allclose(own_cov, np.cov(f, bias=True, aweights=weights), rtol=0, atol=1e-5)


def test_a_gram_matrix_is_the_covariance_and_the_means_together():
    x = rand(2, 5, 6, 4) + 1
    mean, cov = losses.covariance(x)
    torch.testing.assert_close(cov + mean @ mean.mT, gram(x, "hw"))


def test_covariance_loss_is_the_formula():
    x, a = features(0, batch=2), features(10, batch=2)
    factors = (1.0, 0.0, 2.5)
    expected = 0.0
    for name, factor in zip(LAYERS, factors, strict=True):
        for f, s in zip(matrices(x[name]), matrices(a[name]), strict=True):
            squares = (np.cov(f, bias=True) - np.cov(s, bias=True)) ** 2
            squares += (np.outer(f.mean(1), f.mean(1)) - np.outer(s.mean(1), s.mean(1))) ** 2
            expected += factor * squares.mean() / len(f) ** 2 / 2
    term = CovarianceLoss(LAYERS, factors)
    assert term(x, term.target(a)).item() == pytest.approx(expected, rel=1e-12)


def test_covariances_tell_apart_what_has_one_gram_matrix():
    half, flat = torch.tensor([0.0, 1, 0, 1]).double().view(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5).double().sqrt()
    assert losses.gram_loss(half, gram(flat)).item() < 1e-30
    term = CovarianceLoss(["a"])
    value = term({"a": half}, term.target({"a": flat})).item()
    assert value == pytest.approx(0.25**2 + (0.25 - 0.5) ** 2, abs=1e-12)


def test_covariance_loss_passes_gradcheck():
    term, target = CovarianceLoss(["a"]), CovarianceLoss(["a"]).target({"a": rand(2, 3, 3, 2, seed=1)})
    assert torch.autograd.gradcheck(lambda f: term({"a": f}, target), rand(2, 3, 2, 4).requires_grad_())


# ---------------------------------------------------------------------------------------------------------- histogram


def test_gram_blind():
    """Half 0 and half 1 has the second moment of a constant, and another histogram."""
    half, flat = torch.tensor([0.0, 1, 0, 1]).double().view(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5).double().sqrt()
    assert losses.gram_loss(half, gram(flat)).item() < 1e-30
    for reduction, expected in (("sum", 1.1715729), ("mean", 0.2928932)):
        term = HistogramLoss(["a"], reduction=reduction)
        assert term({"a": half}, term.target({"a": flat})).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("size", [(12, 8), (5, 3)])
def test_histogram_loss_is_the_formula(reduction, size):
    x, a = rand(2, 6, 12, 8), rand(2, 6, *size, seed=1)
    rows = zip(matrices(x).reshape(12, -1), matrices(a).reshape(12, -1), strict=True)
    expected = np.mean([squared_w2(f, s) for f, s in rows]) * (6 * 96 if reduction == "sum" else 1)
    term = HistogramLoss(["a"], reduction=reduction)
    assert term({"a": x}, term.target({"a": a})).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", ["sort", "bins"])
def test_the_matched_features_are_constant_in_the_gradient(mode):
    """Twice the distance to them, times the weight."""
    x, reference = rand(1, 6, 12, 8).requires_grad_(), rand(1, 6, 5, 5, seed=1).flatten(2).sort(-1).values
    set_ = LossSet({"histogram": HistogramLoss(["a"], reduction="sum", mode=mode)}, {"histogram": 7})
    feats = {IMAGE: torch.zeros(()), "a": x}
    set_(feats, {"histogram": [(1.0, {"a": reference})]}).total.backward()
    matched = hist_match(x.flatten(2), reference, mode).view_as(x)
    torch.testing.assert_close(x.grad, 2 * 7 * (x - matched).detach())


@pytest.mark.parametrize("size", [24, 10])
def test_histogram_loss_passes_gradcheck_away_from_ties(size):
    """The ranks do not change by so little, so the derivative is that of the Wasserstein distance."""
    reference = rand(2, 3, size, seed=1).sort(-1).values
    x = rand(2, 3, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: losses.histogram_loss(f, reference), x)


def test_shuffled_positions_of_the_style_change_nothing():
    x, a = rand(1, 6, 12, 8).relu(), rand(1, 6, 5, 5, seed=1)
    shuffled = a.flatten(2)[..., torch.randperm(25, generator=torch.Generator().manual_seed(0))].view_as(a)
    for term in (HistogramLoss(["a"]), HistogramLoss(["a"], mode="bins"), SlicedWassersteinLoss(["a"])):
        values = [term({"a": x}, term.target({"a": style})) for style in (a, shuffled)]
        assert values[0] > 0
        torch.testing.assert_close(*values)


def test_histogram_settings_reach_the_matching():
    x, a = {"a": rand(1, 2, 12, 8).relu()}, {"a": rand(1, 2, 12, 8, seed=1)}
    target = HistogramLoss(["a"]).target(a)
    gradients = {}
    for name, settings in {
        "sort": {},
        "again": {},
        "stable": {"tie": "stable"},
        "seed": {"seed": 1},
        "bins": {"mode": "bins"},
        "few bins": {"mode": "bins", "bins": 4},
    }.items():
        leaf = x["a"].clone().requires_grad_()
        HistogramLoss(["a"], **settings)({"a": leaf}, target).backward()
        gradients[name] = leaf.grad
    assert torch.equal(gradients.pop("again"), gradients["sort"])
    found = list(gradients.values())
    assert not any(torch.allclose(one, other) for i, one in enumerate(found) for other in found[:i])


# ----------------------------------------------------------------------------------------------------------------- SWD


def test_in_one_dimension_it_is_the_wasserstein_distance():
    x, a = (torch.tensor(v).double().view(1, 1, 1, 3) for v in ([4.0, 0, 2], [1.0, 8, 3]))
    term = SlicedWassersteinLoss(["a"])
    assert term({"a": x}, term.target({"a": a})).item() == pytest.approx(6, rel=1e-6)


@pytest.mark.parametrize("count", [None, 3, 20])
@pytest.mark.parametrize("size", [(12, 8), (5, 3)])
def test_sliced_wasserstein_loss_is_the_formula(count, size):
    x, a = rand(2, 6, 12, 8), rand(2, 6, *size, seed=1)
    term = SlicedWassersteinLoss(["a"], count, seed=5)
    onto = term.onto("a", {"a": x})
    assert onto.shape == (6, count or 6)
    expected = [
        squared_w2(direction @ f, direction @ s)
        for f, s in zip(matrices(x), matrices(a), strict=True)
        for direction in onto.double().numpy().T
    ]
    assert term({"a": x}, term.target({"a": a})).item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_a_shift_of_all_vectors_is_seen_whatever_its_direction():
    """As many orthogonal directions as channels leave none out: the mean over them is the shift's square over C."""
    x, shift = rand(1, 6, 12, 8), rand(1, 6, 1, 1, seed=1)
    for seed in (0, 1):
        term = SlicedWassersteinLoss(["a"], seed=seed)
        value = term({"a": x + shift}, term.target({"a": x})).item()
        assert value == pytest.approx(shift.square().sum().item() / 6, rel=1e-5)


def test_what_a_histogram_of_each_channel_cannot_see():
    """Two channels with the same values each, together or apart."""
    ramp = torch.linspace(0, 1, 64).double()
    together, apart = (torch.stack([ramp, other]).view(1, 2, 8, 8) for other in (ramp, ramp.flip(0)))
    blind, seeing = HistogramLoss(["a"]), SlicedWassersteinLoss(["a"])
    assert blind({"a": together}, blind.target({"a": apart})).item() < 1e-25
    assert seeing({"a": together}, seeing.target({"a": apart})).item() > 1e-3


@pytest.mark.parametrize("size", [(5, 7), (4, 6)])
def test_sliced_wasserstein_loss_is_the_same_without_gradients(size):
    """Measures sort values instead of ranking them; the values of two pictures are as many, or not."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, 4, 6, generator=generator), torch.randn(1, 6, *size, generator=generator)
    term = SlicedWassersteinLoss(["a"])
    target = term.target({"a": y})
    wanted = term.forward({"a": x}, target)
    with torch.no_grad():
        assert float(term.forward({"a": x}, target)) == pytest.approx(float(wanted), rel=1e-5)


def test_values_are_sorted_as_torch_sorts_them():
    values = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    before = values.clone()
    assert torch.equal(sorted_values(values), values.sort(-1).values) and torch.equal(values, before)
    assert torch.equal(sorted_values(values.double()), values.double().sort(-1).values)
    assert sorted_values(values.requires_grad_()).requires_grad


def test_sliced_wasserstein_loss_passes_gradcheck_away_from_ties():
    term = SlicedWassersteinLoss(["a"], 4)
    target = term.target({"a": rand(2, 3, 3, 3, seed=1)})
    assert torch.autograd.gradcheck(lambda f: term({"a": f}, target), rand(2, 3, 4, 6).requires_grad_())


def test_directions_differ_by_seed_and_width_only():
    narrow, wide = {"a": rand(1, 4, 3, 3), "b": rand(1, 4, 5, 5)}, {"a": rand(1, 5, 3, 3)}
    term = SlicedWassersteinLoss(["a", "b"])
    assert torch.equal(term.onto("a", narrow), term.onto("b", narrow))
    assert term.onto("a", wide).shape == (5, 5)
    assert not torch.equal(SlicedWassersteinLoss(["a"], seed=1).onto("a", narrow), term.onto("a", narrow))


def test_projections_are_scalar_products():
    x, onto = rand(2, 4, 3, 2), rand(4, 5, seed=1)
    expected = np.einsum("bcn,cd->bdn", matrices(x), onto.numpy())
    np.testing.assert_allclose(project(x, onto), expected, atol=1e-12)


# -------------------------------------------------------------------------------------------------------- mean square


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_square_and_its_gradient(dtype, weighted):
    x, fixed = rand(2, 3, 4, 5).to(dtype).requires_grad_(), rand(2, 3, 4, 5, seed=1).to(dtype)
    weights = rand(4, 5, seed=2).relu() if weighted else None
    value = mean_square(x, fixed, weights)
    (3 * value).backward()
    factor = weights if weighted else torch.ones(4, 5)
    difference = x.detach().double() - fixed.double()
    rel = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.item() == pytest.approx((factor * difference.square()).mean().item(), rel=rel)
    expected = 6 * factor * difference / difference.numel()
    torch.testing.assert_close(x.grad.double(), expected.double(), rtol=rel, atol=rel * 1e-2)


# ---------------------------------------------------------------------------------------------------------- every term

STYLE_TERMS = {
    **{f"gram {form}": lambda form=form: GramLoss(LAYERS, form) for form in GRAM_FORMS},
    "gram mean": lambda: GramLoss(LAYERS, reduction="mean", layer_weights=[1, 2, 3]),
    "moments": lambda: MomentsLoss(LAYERS),
    "moments sum": lambda: MomentsLoss(LAYERS, "sum"),
    "moments unbiased": lambda: MomentsLoss(LAYERS, unbiased=True),
    "palette": lambda: MomentsLoss([IMAGE]),
    "cov": lambda: CovarianceLoss(LAYERS),
    "histogram": lambda: HistogramLoss(LAYERS),
    "histogram stable": lambda: HistogramLoss(LAYERS, tie="stable"),
    "histogram sum": lambda: HistogramLoss(LAYERS, reduction="sum"),
    "histogram bins": lambda: HistogramLoss(LAYERS, mode="bins"),
    "swd": lambda: SlicedWassersteinLoss(LAYERS),
    "swd 3": lambda: SlicedWassersteinLoss(LAYERS, 3),
}
CONTENT_TERMS = {
    **{f"content {form}": lambda form=form: ContentLoss(LAYERS, form) for form in ("mse", "half_sum", "sum")},
    "laplacian": lambda: LaplacianLoss([1, 4], [2, 3]),
    "ccpl": lambda: CoherenceLoss(LAYERS),
    "matting": lambda: MattingLoss(),
}
TERMS = STYLE_TERMS | CONTENT_TERMS


def gradients(term, feats: dict[str, Tensor], target, *guides) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and its gradient at every feature map that it depends on."""
    leaves = {name: f.detach().clone().requires_grad_() for name, f in feats.items()}
    loss = term(leaves, target, *guides)
    loss.backward()
    return loss.detach(), {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_loss_of_a_batch_is_the_mean_of_single_losses(make):
    """With one target per sample, and with one target for all."""
    term, x, reference = make(), features(0, batch=3), features(10, batch=3)
    singles, references = ([{name: f[i : i + 1] for name, f in fs.items()} for i in range(3)] for fs in (x, reference))
    each = [term(one, term.target(own)) for one, own in zip(singles, references, strict=True)]
    assert len({round(value.item(), 9) for value in each}) == 3
    torch.testing.assert_close(term(x, term.target(reference)), sum(each) / 3)
    if term.role == "style":
        expected = sum(term(one, term.target(references[0])) for one in singles) / 3
        torch.testing.assert_close(term(x, term.target(references[0])), expected)


@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_bfloat16_features_in_channels_last_give_nearly_the_same(make):
    def lowered(feats: dict[str, Tensor]) -> dict[str, Tensor]:
        layers = {name: feats[name].bfloat16().to(memory_format=torch.channels_last) for name in LAYERS}
        return {IMAGE: feats[IMAGE]} | layers

    term = make()
    # Apart by more than a rounding error, which is all that is left to see where the distributions agree.
    low, reference = lowered(features(0, 2)), lowered({n: 1.5 * f + 0.2 for n, f in features(10, 2).items()})
    exact, exact_reference = ({n: f.double().contiguous() for n, f in fs.items()} for fs in (low, reference))
    loss, grads = gradients(term, low, term.target(reference))
    expected, expected_grads = gradients(term, exact, term.target(exact_reference))
    assert loss.dtype in (torch.float32, torch.float64)
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert set(grads) == set(expected_grads)
    for name, grad in grads.items():
        assert grad.dtype == low[name].dtype
        assert (grad.double() - expected_grads[name]).norm() < 0.05 * expected_grads[name].norm(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_gradients_at_features_that_are_all_0_are_finite(make, dtype):
    term = make()
    zeros, reference = ({n: f.to(dtype) for n, f in fs.items()} for fs in (features(0), features(10)))
    zeros = {name: torch.zeros_like(f) for name, f in zeros.items()}
    for x, target in ((zeros, reference), (reference, zeros), (zeros, zeros)):
        loss, grads = gradients(term, x, term.target(target))
        assert loss.isfinite()
        assert grads
        assert all(grad.isfinite().all() for grad in grads.values())


# Coherence contrasts positions, and a matting Laplacian reads the photo: neither is 0 at its reference.
UNEQUAL = ("ccpl", "matting")


@pytest.mark.parametrize("name", [name for name in TERMS if "bins" not in name and name not in UNEQUAL])
def test_loss_and_gradient_are_0_at_the_reference(name):
    term, x = TERMS[name](), features(0)
    loss, grads = gradients(term, x, term.target(x))
    assert loss.item() < 1e-24
    assert max(grad.abs().max().item() for grad in grads.values()) < 1e-12


@pytest.mark.parametrize("make", STYLE_TERMS.values(), ids=STYLE_TERMS)
def test_guides_of_all_ones_are_no_guides(make):
    term, x = make(), features(0, batch=2)
    ones = {name: torch.ones(f.shape[-2:]) for name, f in x.items()}
    target = term.target(features(10, batch=2))
    loss, grads = gradients(term, x, target)
    guided, guided_grads = gradients(term, x, target, ones)
    assert guided.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(guided_grads[name], grad, rtol=1e-4, atol=1e-5 * grad.abs().max().item())


@pytest.mark.parametrize("make", STYLE_TERMS.values(), ids=STYLE_TERMS)
def test_guided_gradients_at_features_that_are_all_0_are_finite(make):
    term, zeros = make(), {name: torch.zeros_like(f) for name, f in features(0).items()}
    half = {name: (torch.arange(f.shape[-1]) % 2 * 2**0.5).expand(f.shape[-2:]) for name, f in zeros.items()}
    loss, grads = gradients(term, zeros, term.target(features(10)), half)
    assert loss.isfinite()
    assert grads
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_targets_hold_no_graph(make):
    def tensors(value):
        if isinstance(value, Tensor):
            return [value]
        return [t for child in (value.values() if isinstance(value, dict) else value) for t in tensors(child)]

    found = tensors(make().target({name: f.requires_grad_() for name, f in features(0).items()}))
    assert found
    assert not any(t.requires_grad for t in found)


@pytest.mark.parametrize("name", ["gram mse_chw", "moments", "cov", "histogram", "swd"])
def test_a_layer_that_the_target_leaves_out_counts_nothing(name):
    term, x = STYLE_TERMS[name](), features(0)
    target = term.target(features(10))
    partial = {layer: target[layer] for layer in ("relu1_1", "relu3_1")}
    rest = {"relu2_1": target["relu2_1"]}
    torch.testing.assert_close(term(x, partial) + term(x, rest), term(x, target))
    assert term(x, {}).item() == 0


@pytest.mark.parametrize(
    "make", [MomentsLoss, CovarianceLoss, HistogramLoss, SlicedWassersteinLoss], ids=lambda cls: cls.__name__
)
def test_layer_weights_multiply_each_layer(make):
    x, a = features(0), features(10)
    each = [(t := make([name]))(x, t.target(a)) for name in LAYERS]
    term = make(LAYERS, layer_weights=[2, 0, 0.5])
    torch.testing.assert_close(term(x, term.target(a)), 2 * each[0] + 0.5 * each[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LaplacianLoss([]), "pool_px=[]: give a list of whole numbers"),
        (lambda: LaplacianLoss([0]), "pool_px=[0]"),
        (lambda: LaplacianLoss([4, 1.5]), "pool_px=[4, 1.5]"),
        (lambda: LaplacianLoss([True]), "pool_px=[True]"),
        (lambda: LaplacianLoss(4), "pool_px=4"),
        (lambda: LaplacianLoss([4, 16], [1]), "pool_weights has 1 numbers for the 2 entries of pool_px"),
        (lambda: LaplacianLoss([4], [-1]), "pool_weights=[-1]"),
        (lambda: CovarianceLoss(LAYERS, [1]), "layer_weights has 1 numbers for the 3 layers"),
        (lambda: HistogramLoss(LAYERS, [1]), "layer_weights has 1 numbers for the 3 layers"),
        (lambda: HistogramLoss(LAYERS, [1, math.inf, 1]), "layer_weights"),
        (lambda: HistogramLoss(LAYERS, reduction="max"), "reduction=max is unknown, choose one of"),
        (lambda: HistogramLoss(LAYERS, mode="sorted"), "mode=sorted is unknown, choose one of sort"),
        (lambda: HistogramLoss(LAYERS, tie="left"), "tie=left is unknown, choose one of random, stable"),
        (lambda: HistogramLoss(LAYERS, bins=1), "bins=1: give a whole number, 2 or larger"),
        (lambda: HistogramLoss(LAYERS, bins=2.5), "bins=2.5"),
        (lambda: SlicedWassersteinLoss(LAYERS, 0), "directions=0: give a whole number, 1 or larger"),
        (lambda: SlicedWassersteinLoss(LAYERS, None, [1]), "layer_weights has 1 numbers for the 3 layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_setting_is_one_sentence_with_the_arguments_name(make, message):
    with pytest.raises(UserError) as refused:
        make()
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


# --------------------------------------------------------------------------------------------------------- two styles


def gatys_set(form: str = "gatys") -> LossSet:
    return LossSet({"gram": GramLoss(["a"], form)}, {"beta": 1})


def of_two(set_: LossSet, shares: tuple[float, float], combine: str, first: Tensor = A, second: Tensor = B) -> list:
    """What the term has to match for two styles, given their features."""
    (name,) = set_.terms
    found = [set_.targets("style", {"a": style})[name] for style in (first, second)]
    return set_.combined(name, list(zip(shares, found, strict=True)), combine)


def value_and_gradient(set_: LossSet, goals: list, at: Tensor = F) -> tuple[Tensor, Tensor]:
    (name,) = set_.terms
    x = at.clone().requires_grad_()
    total = set_({IMAGE: torch.zeros(1, 3, 6, 7), "a": x}, {name: goals}).total
    total.backward()
    return total.detach(), x.grad


def test_worked_4_the_two_ideas_on_the_worked_example():
    set_ = gatys_set()
    alone = [value_and_gradient(set_, [(1.0, {"a": gram(style)})])[0].item() for style in (A, B)]
    assert alone == pytest.approx([0.4861111, 0.6805556], abs=1e-7)
    found = {
        combine: value_and_gradient(set_, of_two(set_, (0.5, 0.5), combine))[0].item()
        for combine in ("weighted_loss", "mean_gram", "sum_gram")
    }
    assert found == pytest.approx({"weighted_loss": 0.5833333, "mean_gram": 0.5625, "sum_gram": 0.5902778}, abs=1e-7)
    distance = ((gram(A, "none") - gram(B, "none")) ** 2).sum() / (4 * 9 * 4)
    assert found["weighted_loss"] - found["mean_gram"] == pytest.approx(distance.item() / 4, abs=1e-12)


def test_gram_sum_self_asks_for_twice_the_energy():
    (goal,) = of_two(gatys_set(), (0.5, 0.5), "sum_gram", A, A)
    assert goal[0] == 1
    torch.testing.assert_close(goal[1]["a"], 2 * gram(A))
    assert value_and_gradient(gatys_set(), [goal], at=A)[1].any(), "the style itself is no minimum"


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1, 1), (3, 1), (0.2, 0.5)])
def test_idea1_is_twice_the_mean(shares):
    set_ = gatys_set()
    (mean,), (total,) = (of_two(set_, shares, combine) for combine in ("mean_gram", "sum_gram"))
    expected = (shares[0] * gram(A) + shares[1] * gram(B)) / sum(shares)
    torch.testing.assert_close(mean[1]["a"], expected)
    torch.testing.assert_close(total[1]["a"], 2 * expected)
    if shares[0] == shares[1]:
        torch.testing.assert_close(total[1]["a"], gram(A) + gram(B))


@pytest.mark.parametrize("form", GRAM_FORMS)
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.2, 0.8)])
def test_idea2_is_mean_gram(form, shares):
    """The same gradient anywhere; the values differ by a constant, which is known for the paper's form."""
    set_, first, second = gatys_set(form), rand(1, 5, 4, 6, seed=1).relu(), rand(1, 5, 7, 3, seed=2).relu()
    gaps = []
    for seed in (3, 4):
        at = rand(1, 5, 6, 7, seed=seed)
        (loss, grad), (mean_loss, mean_grad) = (
            value_and_gradient(set_, of_two(set_, shares, combine, first, second), at)
            for combine in ("weighted_loss", "mean_gram")
        )
        assert (grad - mean_grad).norm() < 1e-12 * grad.norm()
        gaps.append((loss - mean_loss).item())
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-9)
    times_e_l = {"gatys": 1, "mse_hw": 4, "mse_chw": 4 / 25, "keras": 25 / 9}[form]
    constant = shares[0] * shares[1] * ((gram(first) - gram(second)) ** 2).sum().item() / (4 * 25)
    assert gaps[0] == pytest.approx(times_e_l * constant, rel=1e-9)


@pytest.mark.parametrize("combine", ["weighted_loss", "mean_gram", "sum_gram"])
@pytest.mark.parametrize("term", [GramLoss, MomentsLoss, CovarianceLoss, HistogramLoss, SlicedWassersteinLoss])
def test_idea2_onehot_is_the_single_style(term, combine):
    set_ = LossSet({"term": term(["a"])}, {"term": 2})
    alone = [(1.0, set_.targets("style", {"a": A})["term"])]
    expected_loss, expected_grad = value_and_gradient(set_, alone)
    loss, grad = value_and_gradient(set_, of_two(set_, (1.0, 0.0), combine))
    assert torch.equal(loss, expected_loss)
    assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize("term", [GramLoss, MomentsLoss, CovarianceLoss, HistogramLoss, SlicedWassersteinLoss])
def test_a_sum_asks_every_statistic_for_features_of_the_same_strength(term):
    """Two equal styles: twice the Gram matrix is that of features sqrt(2) times as strong."""
    arguments = {"eps": 0.0} if term is MomentsLoss else {}
    set_ = LossSet({"term": term(["a"], **arguments)}, {"beta": 1})
    ((_, merged),) = of_two(set_, (0.5, 0.5), "sum_gram", A, A)
    expected = set_.targets("style", {"a": 2**0.5 * A})["term"]["a"]
    torch.testing.assert_close(merged["a"], expected)


@pytest.mark.parametrize("term", [GramLoss, CovarianceLoss, MomentsLoss, HistogramLoss, SlicedWassersteinLoss])
def test_half_precision_of_a_training_does_not_reach_the_statistics(term):
    set_ = LossSet({"term": term(["a"])}, {"beta": 1})
    x, style = (1e3 * rand(1, 4, 16, 16, seed=seed).abs().float() for seed in (0, 1))  # products pass 65504

    def loss() -> torch.Tensor:
        targets = {"term": [(1.0, set_.targets("style", {"a": style})["term"])]}
        return set_({"a": x, IMAGE: x[:, :3]}, targets).total

    with torch.autocast("cpu", torch.float16):
        mixed = loss()
    assert mixed.isfinite()
    torch.testing.assert_close(mixed, loss())


def test_settings_of_a_term_that_is_left_out_are_named():
    with pytest.raises(
        UserError, match=r"^the loss term 'tv' has settings, but is not among those chosen: choose it too$"
    ):
        LossSet({"gram": GramLoss(["a"]), "tv": {"form": "jc"}}, {"beta": 1})


def test_weighted_losses_keep_their_shares_as_they_are():
    set_ = gatys_set()
    goals = of_two(set_, (3, 1), "weighted_loss")
    assert [share for share, _ in goals] == [3, 1]
    loss = value_and_gradient(set_, goals)[0].item()
    assert loss == pytest.approx(3 * 0.4861111 + 0.6805556, abs=1e-6)


@pytest.mark.parametrize("combine", ["weighted_loss", "mean_gram", "sum_gram"])
def test_one_style_is_left_alone(combine):
    set_ = gatys_set()
    pairs = [(0.7, {"a": gram(A)})]
    assert set_.combined("gram", pairs, combine) == pairs


def test_statistics_are_blended_at_the_layers_where_a_style_counts():
    set_ = LossSet({"gram": GramLoss(LAYERS)}, {"beta": 1})
    one, two, three = (set_.targets("style", features(seed))["gram"] for seed in (0, 10, 20))
    only = [{"relu1_1": one["relu1_1"], "relu2_1": one["relu2_1"]}, {"relu2_1": two["relu2_1"]}, three]
    for combine, times in (("mean_gram", (1, 1, 1)), ("sum_gram", (2, 3, 1))):
        ((share, merged),) = set_.combined("gram", list(zip((0.6, 0.1, 0.3), only, strict=True)), combine)
        assert share == 1
        assert set(merged) == set(LAYERS)
        expected = (
            (0.6 * one["relu1_1"] + 0.3 * three["relu1_1"]) / 0.9,
            0.6 * one["relu2_1"] + 0.1 * two["relu2_1"] + 0.3 * three["relu2_1"],
            three["relu3_1"],
        )
        for layer, wanted, factor in zip(LAYERS, expected, times, strict=True):
            torch.testing.assert_close(merged[layer], factor * wanted)


def test_a_style_whose_share_is_0_is_not_counted_among_the_summed():
    set_ = gatys_set()
    found = [(share, {"a": gram(style)}) for share, style in ((1.0, A), (0.0, F), (1.0, B))]
    ((_, merged),) = set_.combined("gram", found, "sum_gram")
    torch.testing.assert_close(merged["a"], gram(A) + gram(B))


def test_blended_moments_and_covariances_are_averages():
    for term in (MomentsLoss(["a"]), CovarianceLoss(["a"])):
        set_ = LossSet({"term": term}, {"beta": 1})
        ((_, merged),) = of_two(set_, (3, 1), "mean_gram")
        one, two = (term.target({"a": style})["a"] for style in (A, B))
        for found, first, second in zip(merged["a"], one, two, strict=True):
            torch.testing.assert_close(found, 0.75 * first + 0.25 * second)


@pytest.mark.parametrize("term", [HistogramLoss(["a"]), SlicedWassersteinLoss(["a"])], ids=["histogram", "swd"])
def test_blended_histograms_are_averages_of_quantiles(term):
    set_ = LossSet({"term": term}, {"beta": 1})
    first, second = rand(1, 3, 4, 6), rand(1, 3, 5, 3, seed=1)
    ((_, merged),) = of_two(set_, (3, 1), "mean_gram", first, second)
    one, two = (term.target({"a": style})["a"].numpy() for style in (first, second))
    expected = [0.75 * a + 0.25 * quantiles(b, 24) for a, b in zip(one[0], two[0], strict=True)]
    np.testing.assert_allclose(merged["a"][0], expected, atol=1e-12)


@pytest.mark.parametrize("combine", ["mean_gram", "sum_gram"])
def test_a_term_whose_statistics_cannot_be_added_is_named(combine):
    class Unblended(GramLoss):
        blend = property()  # hides that of GramLoss, as in a term that never had one

    set_ = LossSet({"own": Unblended(["a"])}, {"beta": 1})
    message = f"^combine={combine}: the loss term 'own' knows only combine=weighted_loss$"
    with pytest.raises(UserError, match=message):
        of_two(set_, (0.5, 0.5), combine)
    with pytest.raises(UserError, match=f"^blend={combine}: .* knows only blend=weighted_loss$"):
        set_.combined("own", [(0.5, {}), (0.5, {})], combine, key="blend")
    assert len(of_two(set_, (0.5, 0.5), "weighted_loss")) == 2


# ------------------------------------------------------------------------------------------------------- coefficients

SIZE = (512, 384)
FULL_WIDTH = {IMAGE: (3, *SIZE)} | {
    f"relu{block}_{i}": (min(64 * 2 ** (block - 1), 512), *(side // 2 ** (block - 1) for side in SIZE))
    for block in range(1, 6)
    for i in (1, 2)
}
# Of each preset: what multiplies the mean squared difference of the content features, and E_l at relu1_1 ... relu5_1.
# The authors' own weights for the normalized network, 1e6 and 8e8, are a million times those of gatys2016.
TABLE = {
    "leongatys_pytorch": (1, (0.9766, 0.2441, 0.06104, 0.01526, 0.01526)),
    "neural_style": (5, (0.09766, 0.02441, 0.006104, 0.001526, 0.001526)),
    "gatys2016": (1, (800, 800, 800, 800, 800)),
    "keras_deck": (2.5e-8 * 512 * 32 * 24, (9.102e-5, 2.276e-5, 5.69e-6, 1.422e-6, 8.89e-8)),
}


@pytest.mark.parametrize("preset", TABLE)
def test_coefficients_of_the_presets_are_those_of_the_table(preset):
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = hydra.compose("config", overrides=[f"experiment={preset}"])
    set_ = LossSet(instantiate(cfg.loss, _convert_="all"), OmegaConf.to_container(cfg.weights))
    content, style = TABLE[preset]
    found = set_.coefficients(FULL_WIDTH)
    assert list(found["content"].values()) == pytest.approx([content], rel=1e-3)
    assert list(found["gram"]) == [f"relu{block}_1" for block in range(1, 6)]
    assert list(found["gram"].values()) == pytest.approx(style, rel=1e-3)


def test_keras_factors_on_e_l():
    term = GramLoss([f"relu{block}_1" for block in range(1, 6)], "keras")
    assert list(term.coefficients(FULL_WIDTH).values()) == pytest.approx([455.1, 113.8, 28.44, 7.111, 0.4444], rel=1e-3)


def mean_squared_difference(x, a):
    return np.mean((matrices(x) - matrices(a)) ** 2)


def e_l(x, a):
    (f,), (s,) = matrices(x), matrices(a)
    return np.sum((f @ f.T / f.shape[1] - s @ s.T / s.shape[1]) ** 2) / (4 * len(f) ** 2)


def squared_moments(x, a):
    (f,), (s,) = matrices(x), matrices(a)
    deviations = (np.sqrt(side.var(1) + 1e-5) for side in (f, s))
    return np.mean((f.mean(1) - s.mean(1)) ** 2 + np.subtract(*deviations) ** 2)


def squared_covariances(x, a):
    (f,), (s,) = matrices(x), matrices(a)
    outer = [np.outer(side.mean(1), side.mean(1)) for side in (f, s)]
    return np.mean((np.cov(f, bias=True) - np.cov(s, bias=True)) ** 2 + np.subtract(*outer) ** 2) / len(f) ** 2


def squared_w2_of_channels(x, a):
    return np.mean([squared_w2(f, s) for f, s in zip(matrices(x)[0], matrices(a)[0], strict=True)])


WEIGHTS = [1, 2, 0.5]
UNITS = {
    **{f"content {form}": (ContentLoss(LAYERS, form), mean_squared_difference) for form in ("mse", "half_sum", "sum")},
    **{f"gram {form}": (GramLoss(LAYERS, form, WEIGHTS), e_l) for form in GRAM_FORMS},
    "gram mean": (GramLoss(LAYERS, "mse_hw", WEIGHTS, "mean"), e_l),
    **{f"moments {r}": (MomentsLoss(LAYERS, r, WEIGHTS), squared_moments) for r in ("mean", "sum")},
    "cov": (CovarianceLoss(LAYERS, WEIGHTS), squared_covariances),
    **{f"histogram {r}": (HistogramLoss(LAYERS, WEIGHTS, r), squared_w2_of_channels) for r in ("mean", "sum")},
}


@pytest.mark.parametrize(("term", "unit"), UNITS.values(), ids=UNITS)
def test_a_term_is_the_sum_of_its_coefficients_times_its_unit(term, unit):
    x, a = features(0), features(10)
    set_ = LossSet({"term": term}, {"term": 3})
    found = set_.coefficients(shapes_of(x))["term"]
    expected = sum(factor * unit(x[layer], a[layer]) for layer, factor in found.items())
    total = set_(x, {"term": [(1.0, term.target(a))]}).total.item()
    assert total == pytest.approx(expected, rel=1e-9)
    assert set(found) == set(LAYERS)


def test_the_laplacian_and_terms_without_a_unit_have_coefficients_too():
    x, photo = features(0), features(10)
    lap = LaplacianLoss([1, 4], [2, 3], pixel_scale=1)
    set_ = LossSet({"lap": lap, "swd": SlicedWassersteinLoss(LAYERS, None, WEIGHTS), "tv": TotalVariation("mean", 1)},
                   {"lap": 10, "beta": 7, "tv": 5})  # fmt: skip
    found = set_.coefficients(shapes_of(x))
    unit = [LaplacianLoss([side])(x, LaplacianLoss([side]).target(photo)).item() for side in (1, 4)]
    assert 10 * lap(x, lap.target(photo)).item() == pytest.approx(np.dot(list(found["lap"].values()), unit), rel=1e-9)
    assert found["swd"] == dict(zip(LAYERS, (7, 14, 3.5), strict=True))
    assert found["tv"] == {"": 5}


def test_the_literal_content_unit_converts_by_half_the_number_of_values():
    """alpha on means of squares and alpha on the paper's half sum, of the same loss."""
    for form in ("mse", "half_sum", "sum"):
        term = ContentLoss(LAYERS, form)
        unit, times = term.as_published(FULL_WIDTH)
        assert unit == "half sum (F - P)^2"
        for layer, factor in term.coefficients(FULL_WIDTH).items():
            n = math.prod(FULL_WIDTH[layer])
            assert times[layer] * factor == pytest.approx({"mse": 2 / n, "half_sum": 1, "sum": 2}[form], rel=1e-12)


def test_a_description_has_one_line_per_term_with_its_numbers():
    set_ = LossSet(
        {"content": ContentLoss(["relu3_1"]), "gram": GramLoss(LAYERS, "gatys"), "tv": TotalVariation("jc", 255)},
        {"alpha": 2, "beta": 30, "tv": 0.5},
    )
    content, style, smooth = set_.describe(shapes_of(features(0)))
    assert content.startswith("content") and "relu3_1 2 " in content and f"{2 * 2 / (8 * 6 * 4):.4g} x half" in content
    assert style.startswith("gram") and "relu1_1 30, relu2_1 30, relu3_1 30 x E_l" in style
    assert smooth.startswith("tv") and "0.5 x total variation (jc) of 0-255 pixels" in smooth


# ------------------------------------------------------------------------------------------------ normalized gradients


def small_set() -> LossSet:
    terms = {
        "content": ContentLoss(["relu2_1", "relu3_1"], "sum"),
        "gram": GramLoss(LAYERS, "gatys"),
        "palette": MomentsLoss([IMAGE]),
        "tv": TotalVariation("jc", 255),
    }
    return LossSet(terms, {"alpha": 5.0, "beta": 100.0, "palette": 3.0, "tv": 1e-3})


def encode(image: Tensor) -> dict[str, Tensor]:
    """A small network of random convolutions."""
    found, x = {IMAGE: image}, image
    for number, name in enumerate(LAYERS):
        x = functional.avg_pool2d(x, 2) if number else x
        x = functional.conv2d(x, rand(4, x.shape[1], 3, 3, seed=number), padding=1).relu()
        found[name] = x
    return found


def all_targets(set_: LossSet) -> dict[str, list]:
    photo, style = (encode(features(seed)[IMAGE]) for seed in (10, 20))
    found = set_.targets("content", photo) | set_.targets("style", style)
    return {name: [(1.0, target)] for name, target in found.items()}


def test_normalized_gradients_are_the_recipe_written_out():
    """Each term's gradient at each layer over its sum of absolute values, times the weight, carried to the image."""
    set_ = small_set()
    targets, image = all_targets(set_), features(0)[IMAGE].requires_grad_()
    feats = encode(image)
    expected = torch.zeros_like(image)
    for name, term in set_.terms.items():
        loss = term(feats, *(goal[1] for goal in targets.get(name, [(1.0, None)])))
        if term.role == "image":
            expected += set_.weights[name] * torch.autograd.grad(loss, image, retain_graph=True)[0]
            continue
        for layer in term.layers:
            # The derivative of the loss at this layer alone, as if the layers were independent of each other.
            loose = {other: f.detach().requires_grad_() for other, f in feats.items()}
            (own,) = torch.autograd.grad(term(loose, targets[name][0][1]), loose[layer])
            own = own / own.abs().sum() * set_.weights[name]
            own = own if layer == IMAGE else torch.autograd.grad(feats[layer], image, own, retain_graph=True)[0]
            expected += own
    values = set_(feats, targets, normalize_gradients=True)
    (found,) = torch.autograd.grad(values.total, image, retain_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    plain = set_(feats, targets)
    assert torch.equal(values.total, plain.total)
    assert all(torch.equal(values.terms[name], plain.terms[name]) for name in values.terms)
    assert not torch.allclose(torch.autograd.grad(plain.total, image)[0], expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_what_reaches_a_layer_has_the_weight_as_sum_of_absolute_values(layer):
    set_, leaves = small_set(), {n: f.detach().requires_grad_() for n, f in encode(features(0)[IMAGE]).items()}
    set_(leaves, all_targets(set_), ("style",), normalize_gradients=True).total.backward()
    assert leaves[layer].grad.abs().sum().item() == pytest.approx(100, rel=1e-5)


def test_normalized_gradients_do_not_depend_on_the_size_of_a_loss():
    found = []
    for form in ("gatys", "mse_hw", "mse_chw"):
        set_ = LossSet({"gram": GramLoss(LAYERS, form)}, {"beta": 100.0})
        image = features(0)[IMAGE].requires_grad_()
        set_(encode(image), all_targets(set_), normalize_gradients=True).total.backward()
        found.append(image.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found[0], found[2], rtol=1e-5, atol=1e-9)


def test_normalized_gradients_of_a_loss_that_is_0_are_0():
    set_, image = LossSet({"gram": GramLoss(LAYERS)}, {"beta": 100.0}), features(0)[IMAGE].requires_grad_()
    own = {"gram": [(1.0, set_.targets("style", encode(image))["gram"])]}
    set_(encode(image), own, normalize_gradients=True).total.backward()
    assert image.grad.abs().max() < 1e-6


def test_normalized_gradients_of_bfloat16_features_keep_their_type():
    set_ = LossSet({"gram": GramLoss(LAYERS)}, {"beta": 100.0})
    leaves = {name: f.bfloat16().requires_grad_() for name, f in features(0).items()}
    targets = {"gram": [(1.0, set_.targets("style", features(10))["gram"])]}
    set_(leaves, targets, normalize_gradients=True).total.backward()
    for layer in LAYERS:
        assert leaves[layer].grad.dtype == torch.bfloat16
        assert leaves[layer].grad.double().abs().sum().item() == pytest.approx(100, rel=0.02)


def test_one_term_is_its_part_of_the_whole():
    set_ = small_set()
    feats, targets = encode(features(0)[IMAGE]), all_targets(set_)
    values = set_(feats, targets)
    assert {name: set_.one(name, feats, targets) for name in set_.terms} == values.terms
    doubled = set_.one("gram", feats, {"gram": targets["gram"] * 2})
    torch.testing.assert_close(doubled, 2 * values.terms["gram"])
