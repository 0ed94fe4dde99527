"""Measures of faults: made pictures whose fault is known."""

import math

import pytest
import torch
from core.measures.pictures import constant, picture
from torch import Tensor

from nstexp.core.measures import Chroma, Halo, Weave, chroma_distance, chroma_values, halo, weave
from nstexp.core.measures.faults import lab
from nstexp.core.networks.encoder import IMAGE

pytestmark = pytest.mark.usefixtures("one_thread")


def test_lab_of_known_colors():
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5]]).T[..., None]
    wanted = [  # published values for D65
        (53.24, 80.09, 67.20),
        (87.73, -86.18, 83.18),
        (32.30, 79.19, -107.86),
        (100, 0, 0),
        (0, 0, 0),
        (53.39, 0, 0),
    ]
    torch.testing.assert_close(lab(colors)[..., 0].T, torch.tensor(wanted).double(), atol=0.02, rtol=0)


def test_the_chroma_of_a_colored_picture_in_the_style_of_a_gray_one_is_its_mean():
    gray, colored = constant(0.4, 0.4, 0.4), picture(40, 30)
    assert chroma_distance(colored, gray) == pytest.approx(float(chroma_values(colored).mean()), rel=0.01)
    assert chroma_distance(colored, colored) == 0
    assert chroma_distance(colored, colored.flip(0)) > 0.5


def test_chroma_does_not_depend_on_the_size():
    x = picture(40, 30)
    assert chroma_distance(x, x.repeat_interleave(2, 1).repeat_interleave(2, 2)) < 0.1


def disk(radius: float = 60.0, px: int = 240) -> Tensor:
    """Distance from the edge of a disk: negative inside."""
    at = torch.arange(px) - (px - 1) / 2
    return torch.hypot(at[:, None], at) - radius


def shaded(distance: Tensor, inside: float = 0.3, outside: float = 0.7) -> Tensor:
    share = torch.sigmoid(distance)
    return (inside + (outside - inside) * share).expand(3, -1, -1)


@pytest.mark.parametrize("bright_inside", [False, True])
def test_a_pale_seam_on_the_bright_side_of_an_edge_is_a_halo(bright_inside):
    distance = disk()
    photo = shaded(distance, *((0.7, 0.3) if bright_inside else (0.3, 0.7)))
    band = ((-distance if bright_inside else distance) > 0) & (distance.abs() < 16)
    seamed, std = photo + 0.1 * band, float((photo + 0.1 * band)[0].std())
    assert halo(photo, photo) == pytest.approx(0, abs=0.03)
    assert halo(seamed, photo) == pytest.approx(0.1 / std, rel=0.1)
    assert halo(photo - 0.1 * band, photo) < -0.2, "a dark seam is the contrary"
    assert Halo().forward({IMAGE: seamed[None]}, Halo().target({IMAGE: photo[None]})) > 0.2


def test_texture_contrast_and_what_is_on_the_dark_side_are_no_halos():
    torch.manual_seed(0)
    photo = shaded(disk())
    target = Halo().target({IMAGE: photo[None]})
    assert Halo().forward({IMAGE: photo[None]}, target) == 0
    inside = (disk() < 0) & (disk() > -16)
    for other in (0.5 * photo, photo.square(), photo + 0.05 * torch.randn(1, 240, 240), photo - 0.1 * inside):
        assert abs(Halo().forward({IMAGE: other[None]}, target)) < 0.05


def test_only_plain_sides_of_edges_count():
    torch.manual_seed(0)
    photo = shaded(disk()) + 0.2 * torch.randn(1, 240, 240)
    assert halo(shaded(disk()) + 0.1 * ((disk() > 0) & (disk() < 16)), photo) == 0


def test_a_picture_without_edges_has_no_halo():
    flat = constant(0.5, 0.5, 0.5, size=(80, 80))
    assert Halo().forward({IMAGE: flat[None]}, Halo().target({IMAGE: flat[None]})) == 0


def wave(period: float, px: int = 96) -> Tensor:
    return 0.5 + 0.04 * torch.cos(2 * math.pi * torch.arange(px) / period).expand(3, px, px)


@pytest.mark.parametrize("period", [2, 4, 8])
@pytest.mark.parametrize("turned", [False, True])
def test_patterns_of_the_periods_of_enlarging_are_a_weave(period, turned):
    flat, woven = constant(0.5, 0.5, 0.5, size=(96, 96)), wave(period)
    woven = woven.transpose(1, 2) if turned else woven
    std = 255 * float(woven[0].std())
    assert weave(woven, flat) == pytest.approx(std, rel=0.02)
    target = Weave().target({IMAGE: woven[None]})
    assert Weave().forward({IMAGE: woven[None]}, target) == 0, "the photo's own pattern is none of the network's"


@pytest.mark.parametrize("period", [3, 5.3, 16, 48])
def test_other_patterns_are_none(period):
    assert weave(wave(period), constant(0.5, 0.5, 0.5, size=(96, 96))) < 0.3


def test_noise_is_no_weave():
    torch.manual_seed(0)
    flat = constant(0.5, 0.5, 0.5, size=(256, 256))
    assert weave(flat + 0.05 * torch.randn(1, 256, 256), flat) < 3 < 255 * 0.05


def test_only_flat_places_count():
    photo = constant(0.5, 0.5, 0.5, size=(96, 96)).clone()
    torch.manual_seed(0)
    photo[:, :, :64] += 0.2 * torch.randn(1, 96, 64)
    made = photo.clone()
    made[:, :, :64] += wave(4)[:, :, :64] - 0.5
    assert weave(made, photo) == pytest.approx(0, abs=1e-6)


def test_the_chroma_of_a_painting_is_kept():
    x, y = picture(40, 30), picture(30, 40, seed=1)
    assert Chroma().forward({IMAGE: x[None]}, Chroma().target({IMAGE: y[None]})) == pytest.approx(chroma_distance(x, y))
