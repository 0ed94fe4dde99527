"""Canvas, schedule, start images, pyramid parametrization and L-BFGS: properties that need no encoder."""

import pytest
import torch
from pictures import random_picture
from torch import nn

from nstexp.core.color import color_moments, match_color
from nstexp.core.errors import UserError
from nstexp.core.optim.lbfgs import LBFGS
from nstexp.media.images import save_image
from nstexp.methods import canvas as optimize

# ------------------------------------------------------------------------------------------------------------- canvas


@pytest.mark.parametrize("size", [(64, 48), (101, 77), (37, 200), (17, 33)])
@pytest.mark.parametrize("margin_px", [0, 5, 16])
def test_the_canvas_crops_back_to_the_very_picture(size, margin_px):
    content = random_picture(*size)
    canvas = optimize.Canvas(content, margin_px, stride=16)
    assert torch.equal(canvas.crop(canvas.content), content)


def test_the_canvas_is_a_reflection_in_whole_strides():
    content = random_picture(101, 77)
    canvas = optimize.Canvas(content, 16, stride=16)
    assert canvas.size == (144, 112)
    assert torch.equal(canvas.content[..., 15, 16:93], content[..., 1, :])  # mirrored around the first row
    assert torch.equal(canvas.content[..., 16:117, 93], content[..., :, 75])


# ----------------------------------------------------------------------------------------------------------- schedule


def test_levels_double_in_size_and_share_the_steps():
    levels = optimize.schedule((512, 384), levels=3, coarse_steps=35, max_steps=200, min_side_px=32)
    assert [(level.size, level.last_step) for level in levels] == [((128, 96), 35), ((256, 192), 70), ((512, 384), 200)]


def test_levels_too_small_for_the_encoder_are_left_out():
    levels = optimize.schedule((100, 50), levels=4, coarse_steps=35, max_steps=200, min_side_px=32)
    assert [level.size for level in levels] == [(100, 50)]


@pytest.mark.parametrize("max_steps", [1, 2, 3, 10, 100])
def test_the_full_size_always_gets_the_last_step(max_steps):
    levels = optimize.schedule((128, 128), levels=3, coarse_steps=35, max_steps=max_steps, min_side_px=16)
    assert levels[-1] == optimize.Level((128, 128), max_steps)
    ends = [level.last_step for level in levels]
    assert ends == sorted(set(ends))


def test_enlarging_keeps_the_start_where_nothing_was_added():
    start = random_picture(64, 48)
    coarse = optimize.resize(start, (32, 24))
    assert torch.allclose(optimize.enlarge(coarse, start, (64, 48)), start, atol=1e-6)
    assert torch.allclose(optimize.enlarge(coarse + 0.1, start, (64, 48)), start + 0.1, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- start


def test_each_start_is_what_its_name_says(tmp_path):
    content, style = random_picture(40, 30), random_picture(20, 50, seed=1)[0]

    def start(name, seed=0):
        return optimize.starting_image(name, content, [style], [1.0], noise_std=0.25, seed=seed)

    assert torch.equal(start("content"), content)
    assert start("gray").unique().tolist() == [0.5]
    assert torch.equal(start("style"), optimize.resize(style, (40, 30))[None])
    assert torch.equal(start("noise"), start("noise"))
    assert not torch.equal(start("noise"), start("noise", seed=1))
    assert start("noise").std() == pytest.approx(0.25, rel=0.05)
    save_image(content[0], tmp_path / "own.png")
    assert torch.allclose(start(str(tmp_path / "own.png")), content, atol=0.5 / 255 + 1e-6)
    with pytest.raises(UserError, match=r"method\.init=zeros is neither content, recolored, noise"):
        start("zeros")


def test_recoloring_matches_mean_and_covariance():
    content, style = random_picture(40, 30) * 0.5, random_picture(20, 50, seed=1)[0] ** 2
    mean, cov = color_moments(match_color(content, [style], [1.0], eps=0.0))
    wanted_mean, wanted_cov = color_moments(style)
    assert torch.allclose(mean, wanted_mean, atol=1e-6)
    assert torch.allclose(cov, wanted_cov, atol=1e-6)
    assert torch.allclose(match_color(content, [content[0]], [1.0]), content, atol=1e-5)


def test_recoloring_survives_a_gray_picture():
    gray = torch.full((1, 3, 8, 8), 0.5)
    assert match_color(gray, [random_picture(8, 8)[0]], [1.0]).isfinite().all()
    assert match_color(random_picture(8, 8), [gray[0]], [1.0]).isfinite().all()


# ------------------------------------------------------------------------------------------------------------ pyramid


@pytest.mark.parametrize("size", [(64, 64), (37, 51), (9, 130)])
def test_a_pyramid_begins_at_its_start(size):
    start = random_picture(*size)
    pyramid = optimize.PyramidImage(start, levels=7, gain=0.7)
    assert torch.equal(pyramid(), start)
    assert len(pyramid.offsets) > 1
    assert len(optimize.PyramidImage(start, levels=1).offsets) == 1


def test_a_pyramid_is_linear_and_every_level_moves_the_image():
    pyramid = optimize.PyramidImage(torch.zeros(1, 3, 32, 32), levels=3, gain=0.5)
    seen = []
    for offset in pyramid.offsets:
        with torch.no_grad():
            offset.fill_(1)
        seen.append(pyramid().mean().item())
    assert seen == pytest.approx([1, 1.5, 1.75])  # 1 + gain + gain^2


# -------------------------------------------------------------------------------------------------------------- L-BFGS


def minimize(function, start, steps, **settings):
    """Minimum that `steps` iterations reach, and the number of evaluations they took."""
    x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer, evaluations, lowest = LBFGS([x], **settings), 0, float("inf")

    def closure():
        nonlocal evaluations, lowest
        evaluations += 1
        x.grad = None
        loss = function(x)
        loss.backward()
        lowest = min(lowest, loss.item())
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return lowest, evaluations


def quadratic(x):
    return (torch.arange(1, 21, dtype=x.dtype) * (x - 1) ** 2).sum()


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def quartic(x):
    """Concave along the way out of a quiet start, as the Gram loss is: (c^2 g - a)^2."""
    return ((x**2).mean() - 1) ** 2


def test_a_quadratic_is_solved_at_about_one_evaluation_per_iteration():
    lowest, evaluations = minimize(quadratic, [0.0] * 20, steps=60)
    assert lowest < 1e-10
    assert evaluations <= 70


def test_rosenbrock_is_solved():
    assert minimize(rosenbrock, [-1.2, 1.0] * 5, steps=150)[0] < 1e-8


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_quiet_start_does_not_stall_whatever_the_scale_of_the_loss(scale):
    assert minimize(lambda x: scale * quartic(x), [0.05, -0.03, 0.02, 0.04], steps=25)[0] / scale < 1e-6


def test_a_zero_gradient_is_left_where_it_is():
    lowest, evaluations = minimize(lambda x: (x**2).sum(), [0.0, 0.0], steps=3)
    assert (lowest, evaluations) == (0, 3)


def test_clearing_the_state_is_a_fresh_start():
    x = nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = LBFGS([x])

    def closure():
        x.grad = None
        loss = (x**4).sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    optimizer.step(closure)
    optimizer.state.clear()
    with torch.no_grad():
        x.fill_(1)
    assert optimizer.step(closure) == first
