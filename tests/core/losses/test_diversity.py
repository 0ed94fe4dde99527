"""The diversity term of Ulyanov et al. 2017: numbers worked by hand, and what must not change it."""

import math

import pytest
import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.losses import julesz


def pictures(count: int = 5, dim: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(*rows: float | tuple[float, ...]) -> Tensor:
    return torch.tensor([row if isinstance(row, tuple) else (row,) for row in rows], dtype=torch.float64)


@pytest.mark.parametrize(
    ("given", "squared", "value"),
    [
        (points(0, 1, 3), False, -0.2310491),  # distances 1, 1 and 2: -ln(2) / 3
        (points(0, 2, 6), False, -0.9241962),
        (points(0, 1, 3), True, -0.4620981),
        (points((0, 0), (1, 0), (0, 2)), False, -0.4620981),
    ],
)
def test_numbers_worked_by_hand(given, squared, value):
    assert julesz(given, squared=squared).item() == pytest.approx(value, abs=1e-7)
    assert julesz(given, squared=squared, per_dim=True).item() == pytest.approx(value / given.shape[1], abs=1e-7)


def test_the_formula():
    z = pictures()
    nearest = [min((z[i] - z[j]).norm().item() for j in range(5) if j != i) for i in range(5)]
    assert julesz(z).item() == pytest.approx(-7 / 5 * sum(map(math.log, nearest)))


@pytest.mark.parametrize("factor", [0.01, 2.0, 30.0])
def test_scaling_takes_the_dimension_times_its_logarithm_away(factor):
    z = pictures()
    assert julesz(factor * z).item() == pytest.approx(julesz(z).item() - 7 * math.log(factor))
    assert julesz(factor * z, squared=True).item() == pytest.approx(
        julesz(z, squared=True).item() - 14 * math.log(factor)
    )
    assert julesz(factor * z, per_dim=True).item() == pytest.approx(julesz(z, per_dim=True).item() - math.log(factor))


def test_order_and_place_do_not_matter():
    z = pictures()
    value = julesz(z).item()
    assert julesz(z[[3, 0, 4, 2, 1]]).item() == pytest.approx(value)
    assert julesz(z + pictures(1, seed=1)).item() == pytest.approx(value)
    assert julesz(z[:, [6, 2, 0, 1, 5, 4, 3]]).item() == pytest.approx(value)


def test_a_step_along_its_gradient_spreads_the_pictures():
    z = pictures().requires_grad_()
    before = julesz(z)
    (slope,) = torch.autograd.grad(before, z)
    after = (z - 0.01 * slope).detach()
    assert julesz(after) < before
    assert torch.pdist(after).min() > torch.pdist(z.detach()).min()
    assert torch.autograd.gradcheck(julesz, [z])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("squared", [False, True])
def test_equal_pictures_have_a_finite_value_and_gradient(squared, dtype):
    z = points(0.3, 0.3, 5).to(dtype).requires_grad_()
    value = julesz(z, squared=squared, eps=1e-4)
    factor = 2 if squared else 1
    assert value.item() == pytest.approx(-factor / 3 * (2 * math.log(1e-4) + math.log(4.7)), rel=1e-5)
    value.backward()
    assert z.grad.isfinite().all()
    assert julesz(z).isfinite()
    assert julesz(z) > julesz(points(0.3, 0.31, 5)), "two pictures that differ are better"


def test_groups_are_compared_within_themselves():
    groups = torch.stack([pictures(3, seed=1), pictures(3, seed=2), 4 * pictures(3, seed=3)])
    alone = [julesz(group).item() for group in groups]
    assert julesz(groups).item() == pytest.approx(sum(alone) / 3)
    same = torch.stack([pictures(2), pictures(2)])  # of other groups no picture is near
    assert julesz(same).item() == pytest.approx(julesz(same[0]).item())


@pytest.mark.parametrize("shape", [(1, 7), (4, 1, 7)])
def test_one_picture_has_no_neighbor(shape):
    with pytest.raises(UserError, match="it needs 2 or more pictures of each style"):
        julesz(torch.zeros(shape))


def test_low_precision_is_summed_in_float32():
    z = 100 * pictures().to(torch.float16)
    value = julesz(z)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(julesz(z.double()).item(), rel=1e-5)
