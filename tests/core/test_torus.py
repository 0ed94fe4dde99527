"""Pictures on a torus: extended, resized and evened out, so that shifts commute with all of it."""

import pytest
import torch
from pictures import random_picture, smooth_picture

from nstexp.core.losses import LaplacianLoss, TotalVariation, laplacian, total_variation
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks.encoder import IMAGE, WRAPS
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.torus import edge_steps, interpolate_wrapped, periodic, resize_wrapped, within, wrapped


@pytest.mark.parametrize("margins", [(3, 5, 2, 0), (9, 20, 17, 8)])
def test_a_wrapped_picture_goes_on_at_the_opposite_edge(margins):
    image = random_picture(7, 8)
    left, right, top, bottom = margins
    made = wrapped(image, *margins)
    rows = [row % 7 for row in range(-top, 7 + bottom)]
    columns = [column % 8 for column in range(-left, 8 + right)]
    assert torch.equal(made, image[..., rows, :][..., columns])


def test_within_undoes_wrapping():
    image = random_picture(7, 8)
    assert torch.equal(within(wrapped(image, 10, 10, 10, 10), 10), image)


@pytest.mark.parametrize("size", [(36, 70), (64, 56), (48, 7), (47, 57)])
def test_resizing_on_a_torus_is_resizing_of_many_copies(size):
    image = random_picture(48, 56).double()
    three = torch.nn.functional.interpolate(
        image.repeat(1, 1, 3, 3), size=(3 * size[0], 3 * size[1]), mode="bicubic", antialias=True
    )
    middle = three[..., size[0] : 2 * size[0], size[1] : 2 * size[1]].clamp(0, 1)
    torch.testing.assert_close(resize_wrapped(image, size), middle)


def test_interpolation_has_a_gradient_everywhere():
    small = torch.rand(1, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    interpolate_wrapped(small, (9, 8), "bilinear").sum().backward()
    assert small.grad.sum() == pytest.approx(72)
    assert (small.grad > 0).all()


def test_evening_out_removes_the_steps_and_little_else():
    photo = smooth_picture(60, 80)
    made = periodic(photo)
    assert edge_steps(photo).min() > 2
    assert edge_steps(made).max() < 1.2
    inside = (slice(None), slice(None), slice(15, 45), slice(20, 60))
    assert (made - photo)[inside].abs().mean() < (made - photo).abs().mean() / 2
    # A picture that tiles is left alone, bit for bit, also beside one that does not in a batch.
    assert torch.equal(periodic(made), made)
    both = periodic(torch.cat([made, photo]))
    assert torch.equal(both[:1], made)
    torch.testing.assert_close(both[1:], made)


def test_evening_out_solves_its_equation():
    """On the torus, the Laplacian of the smooth part is the picture's steps over the edges (Moisan 2011, Eq. 11)."""
    ramps = torch.linspace(0, 0.3, 12)[:, None] + torch.linspace(0, 0.3, 15)
    photo = (0.2 + ramps + 0.01 * random_picture(12, 15)).double()
    assert edge_steps(photo).min() > 2.5
    smooth = photo - periodic(photo)
    found = sum(smooth.roll(by, axis) for axis in (-2, -1) for by in (1, -1)) - 4 * smooth
    steps = torch.zeros_like(photo)
    steps[..., 0, :] += photo[..., -1, :] - photo[..., 0, :]
    steps[..., -1, :] -= photo[..., -1, :] - photo[..., 0, :]
    steps[..., 0] += photo[..., -1] - photo[..., 0]
    steps[..., -1] -= photo[..., -1] - photo[..., 0]
    torch.testing.assert_close(found, steps, atol=1e-6, rtol=0)
    assert smooth.sum().abs() < 1e-5


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (2, 2)])
def test_narrow_pictures_stay_finite(size):
    assert periodic(random_picture(*size)).isfinite().all()


# ------------------------------------------------------------------------------------------------------ loss terms


@pytest.mark.parametrize("form", ["jc", "sq", "mean", "keras", "l1", "pystiche"])
def test_total_variation_on_a_torus_sees_no_edge(form):
    image = random_picture(6, 8).double()
    plain = total_variation(image, form, wraps=True)
    assert plain == pytest.approx(float(total_variation(image.roll((2, 3), (-2, -1)), form, wraps=True)))
    # Two periods, between edges that repeat the first row and column.
    four = total_variation(image.repeat(1, 1, 2, 2), form, wraps=True)
    assert four == pytest.approx(float(plain) * (1 if form == "mean" else 4))
    assert total_variation(image, form) != pytest.approx(float(plain))


def test_the_laplacian_on_a_torus():
    image = random_picture(6, 8)
    made = laplacian(image, wraps=True)
    assert made.shape == (1, 1, 6, 8)
    torch.testing.assert_close(made[..., 1:-1, 1:-1], laplacian(image))
    torch.testing.assert_close(laplacian(image.roll((2, 3), (-2, -1)), wraps=True), made.roll((2, 3), (-2, -1)))


def test_terms_learn_from_the_features_that_the_picture_is_on_a_torus():
    encoder = VGG(random_vgg())
    picture, torus = random_picture(24, 32), encoder.on_torus()
    assert torus.pad == "circular" and encoder.pad == "zeros"
    assert torus.conv1_1_weight is encoder.conv1_1_weight
    plain, circular = encoder(picture, ["relu1_1"]), torus(picture, ["relu1_1"])
    assert set(circular) - set(plain) == {WRAPS}
    shifted = torus(picture.roll((4, 8), (-2, -1)), ["relu1_1"])["relu1_1"]
    torch.testing.assert_close(shifted, circular["relu1_1"].roll((4, 8), (-2, -1)))
    for term in (TotalVariation(), LaplacianLoss([4])):
        losses = LossSet({"term": term, "gram": _gram()}, {"term": 1.0, "beta": 1.0})
        goals = {"term": [(1.0, losses.targets(term.role, circular)["term"])]} if term.role == "content" else {}
        shift = picture.roll((4, 8), (-2, -1))
        values = [float(losses.one("term", {IMAGE: image, WRAPS: picture.new_ones(())}, goals)) for image in (shift,)]
        if term.role == "image":
            assert values[0] == pytest.approx(float(losses.one("term", circular, goals)))
            assert values[0] != pytest.approx(float(losses.one("term", plain, goals)))
        else:
            assert values[0] > 1 and losses.one("term", circular, goals) == 0


def _gram():
    from nstexp.core.losses import GramLoss

    return GramLoss(["relu1_1"])


def test_a_set_without_a_role_keeps_the_other_terms_and_weights():
    losses = LossSet({"tv": TotalVariation(), "gram": _gram(), "laplacian": LaplacianLoss()}, {
        "tv": 2.0, "beta": 3.0, "laplacian": 4.0,
    }, "name")  # fmt: skip
    rest = losses.without("content")
    assert dict(rest.weights) == {"tv": 2.0, "gram": 3.0}
    assert rest.identity != losses.identity
    assert rest.min_side_px == 1 and losses.min_side_px == 12
