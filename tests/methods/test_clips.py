"""What methods make of the frames of a clip: statistics over time, temporal loss, the start from the frame before."""

from dataclasses import replace

import pytest
import torch
from gatys_runs import make_gatys, stylized
from networks import saved_decoder
from pictures import smooth_picture
from torch.nn import functional as F

from nstexp.core.errors import UserError
from nstexp.core.losses import ContentLoss, GramLoss, TemporalLoss, temporal_loss
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks.encoder import BEFORE, IMAGE, TRUST
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.methods.adain import AdaIN
from nstexp.methods.base import Clip, Controls, Style
from nstexp.methods.canvas import starting_image

pytestmark = pytest.mark.usefixtures("one_thread")
TERMS = {"content": ContentLoss(["relu3_2"]), "gram": GramLoss(["relu1_1", "relu2_1"]), "temporal": TemporalLoss(255.0)}
WEIGHTS = {"alpha": 1.0, "beta": 1e3, "temporal": 1e3}


# ----------------------------------------------------------------------------------------------------------------- Clip


def test_statistics_are_averaged_with_weights_that_fall_with_age():
    clip = Clip(0.5)
    first = clip.smoothed("mean", torch.tensor([[1.0], [2.0]]))
    assert first.tolist() == [[1.0], [1.5]]
    assert clip.smoothed("mean", torch.tensor([[4.0]])).tolist() == [[2.75]]
    assert clip.smoothed("std", torch.tensor([[8.0]])).tolist() == [[8.0]], "another statistic"
    clip.begin_scene()
    assert clip.smoothed("mean", torch.tensor([[7.0]])).tolist() == [[7.0]]


def test_statistics_that_do_not_change_stay_the_same_to_the_bit():
    clip, own = Clip(0.8), torch.rand(1, 64)
    assert all(torch.equal(clip.smoothed("mean", own), own) for _ in range(20))


def test_steadiness_0_averages_nothing():
    clip, frames = Clip(0.0), torch.rand(3, 4)
    assert torch.equal(clip.smoothed("mean", frames), frames)


# ---------------------------------------------------------------------------------------------------------------- AdaIN


@pytest.fixture
def adain(tmp_path):
    encoder = VGG(random_vgg(), pad="reflect")
    decoder = saved_decoder(encoder, "relu4_1", tmp_path / "decoder.safetensors")
    return AdaIN(encoder, layer="relu4_1", decoder=decoder, style_px=None)


@pytest.mark.parametrize("masked", [False, True])
def test_adain_smooths_the_statistics_of_frames_given_together_or_one_by_one(adain, masked):
    frames = torch.cat([smooth_picture(48, 40, seed) for seed in (1, 2, 3)])
    mask = torch.linspace(0, 1, 40).expand(48, 40)
    styles = [Style(smooth_picture(40, 56, 9)[0], 0.5), Style(smooth_picture(40, 56, 8)[0], 0.5)]
    if masked:
        styles = [replace(s, mask=m) for s, m in zip(styles, (mask, 1 - mask), strict=True)]
    alone = adain.stylize(frames, styles, Controls())
    together = adain.stylize(frames, styles, Controls(clip=Clip(0.8)))
    clip = Clip(0.8)
    in_turn = torch.cat([adain.stylize(frame[None], styles, Controls(clip=clip)) for frame in frames])
    torch.testing.assert_close(together, in_turn, atol=1e-5, rtol=0)
    assert torch.equal(together[0], alone[0])
    assert (together[1:] - alone[1:]).abs().amax((1, 2, 3)).min() > 1e-4
    off = adain.stylize(frames, styles, Controls(clip=Clip(0.0)))
    assert torch.equal(off, alone)


# -------------------------------------------------------------------------------------------------------- temporal loss


def test_temporal_loss_of_the_worked_example():
    before, x = (torch.tensor(values).view(1, 1, 1, 3) for values in ([1.0, 2, 3], [1.0, 4, 3]))
    trust = torch.tensor([1.0, 0.5, 0]).view(1, 1, 1, 3)
    assert float(temporal_loss(x, before, trust)) == pytest.approx(2 / 3, abs=1e-6)
    assert float(temporal_loss(before, before, torch.ones_like(trust))) == 0


def test_where_nothing_is_trusted_there_is_no_loss_and_no_gradient():
    x = smooth_picture(8, 8).requires_grad_()
    trust = torch.zeros(1, 1, 8, 8)
    trust[..., :4] = 1
    loss = temporal_loss(x, 0 * x.detach(), trust)
    loss.backward()
    assert float(loss.detach()) > 0
    assert x.grad[..., :4].abs().min() > 0
    assert not x.grad[..., 4:].any()


def test_the_term_is_0_without_a_frame_before_and_in_squared_gray_levels_with_one():
    term, image = TemporalLoss(255.0), smooth_picture(8, 8)
    assert float(term({IMAGE: image}, None)) == 0
    target = term.target({BEFORE: image + 2 / 255, TRUST: torch.ones(1, 1, 8, 8)})
    assert float(term({IMAGE: image}, target)) == pytest.approx(4, rel=1e-3)


def test_a_temporal_loss_alone_is_nothing_to_optimize():
    with pytest.raises(UserError, match="nothing to optimize"):
        LossSet({"temporal": TemporalLoss()}, {"temporal": 1.0})
    with pytest.raises(UserError, match=r"weights\.temporal"):
        LossSet({"content": ContentLoss(["relu1_1"]), "temporal": TemporalLoss()}, {"alpha": 1.0})


# ---------------------------------------------------------------------------------------------------------------- Gatys


def following(warped: torch.Tensor, trust: float | torch.Tensor = 1.0) -> Clip:
    size = warped.shape[-2:]
    trust = torch.full((1, 1, *size), trust) if isinstance(trust, float) else trust
    return Clip(0.8, warped, trust)


@pytest.mark.slow
def test_a_clips_first_frame_is_the_picture():
    still = stylized(make_gatys(terms=TERMS, weights=WEIGHTS, levels=2, coarse_steps=4))
    first = stylized(make_gatys(terms=TERMS, weights=WEIGHTS, levels=2, coarse_steps=4), clip=Clip(0.8))
    assert torch.equal(first, still)


@pytest.mark.slow
def test_a_frame_begins_with_the_frame_before_where_that_is_trusted():
    content, before = smooth_picture(48, 40), smooth_picture(48, 40, 5)
    trust = torch.zeros(1, 1, 48, 40)
    trust[..., :20] = 1
    weights = {"alpha": 1e-9, "beta": 0, "temporal": 0}
    made = make_gatys(terms=TERMS, weights=weights, next_steps=1, optimizer="sgd", margin_px=0)
    result = stylized(made, content, clip=following(before, trust))
    torch.testing.assert_close(result[..., :19], before[..., :19], atol=1e-3, rtol=0)
    style = smooth_picture(40, 56, seed=1)[0]
    recolored = starting_image("recolored", content, [style], [1.0], 0.0, 0)
    torch.testing.assert_close(result[..., 21:], recolored[..., 21:], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_the_temporal_loss_keeps_a_frame_near_the_frame_before():
    content, before = smooth_picture(48, 40), smooth_picture(48, 40, 5)
    distances = []
    for weight in (0.0, 1e5):
        made = make_gatys(terms=TERMS, weights=WEIGHTS | {"temporal": weight}, next_steps=12)
        distances.append(float((stylized(made, content, clip=following(before)) - before).abs().mean()))
    assert distances[1] < 0.2 * distances[0]


@pytest.mark.slow
def test_frames_that_follow_take_next_steps_at_full_size():
    seen = []
    made = make_gatys(terms=TERMS, weights=WEIGHTS, levels=2, coarse_steps=4, max_steps=9, next_steps=3)

    def watch(step, image):
        seen.append((step, tuple(image.shape[-2:])))

    stylized(made, clip=following(smooth_picture(48, 40, 5)), watch=watch)
    assert seen[-1] == (3, (48, 40))
    seen.clear()
    stylized(made, clip=Clip(0.8), watch=watch)
    assert seen[-1][0] == 9


def test_clips_work_with_masks_fine_strokes_and_normalized_gradients():
    mask = torch.linspace(0, 1, 40).expand(48, 40)
    styles = [
        Style(smooth_picture(40, 56, s)[0], 0.5, m, fine=smooth_picture(40, 56, 7)[0])
        for s, m in ((1, mask), (2, 1 - mask))
    ]
    made = make_gatys(
        terms=TERMS, weights=WEIGHTS, next_steps=2, fine_steps=2, optimizer="adam", normalize_gradients=True,
        fine_layers=["relu1_1"],
    )  # fmt: skip
    controls = Controls(clip=following(smooth_picture(48, 40, 5)))
    result = made.stylize(smooth_picture(48, 40), styles, controls)
    assert result.shape == (1, 3, 48, 40)
    assert torch.isfinite(result).all()


def test_next_steps_is_checked():
    with pytest.raises(UserError, match=r"^next_steps=0: give a whole number, 1 or larger"):
        make_gatys(next_steps=0)


def test_a_margin_larger_than_none_is_cropped_again():
    before = F.interpolate(smooth_picture(24, 20, 5), scale_factor=2)
    made = make_gatys(terms=TERMS, weights=WEIGHTS, next_steps=1, margin_px=16)
    assert stylized(made, clip=following(before)).shape == (1, 3, 48, 40)
