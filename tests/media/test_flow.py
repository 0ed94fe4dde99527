"""Optical flow, masks, warping error, and the motion of a clip frame by frame."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pictures import random_picture
from torch import Tensor
from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

from nstexp.core.errors import UserError
from nstexp.media.flow import Flicker, Motion, MotionEstimator, reliability, warp, warping_error

pytestmark = pytest.mark.usefixtures("one_thread")


def flow_of(u: float, v: float, size: tuple[int, int] = (6, 8)) -> Tensor:
    return torch.tensor([float(u), float(v)]).view(1, 2, 1, 1).expand(1, 2, *size).clone()


def test_warp_takes_what_lies_where_the_flow_leads():
    image = random_picture(6, 8)
    torch.testing.assert_close(warp(image, flow_of(0, 0)), image, atol=1e-5, rtol=0)
    moved = warp(image, flow_of(2, -1))
    torch.testing.assert_close(moved[..., 1:, :6], image[..., :5, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[..., 1:, 6], image[..., :5, 7], atol=1e-5, rtol=0)  # the border, outside
    half = warp(image, flow_of(0, 0.5))
    torch.testing.assert_close(half[..., :5, :], (image[..., :5, :] + image[..., 1:, :]) / 2, atol=1e-5, rtol=0)


def test_flow_that_leads_outside_is_not_reliable():
    wanted = torch.ones(6, 8)
    wanted[:, 6:] = 0
    wanted[0] = 0
    assert torch.equal(reliability(flow_of(2, -1), flow_of(-2, 1))[0, 0], wanted)


@pytest.mark.parametrize(("gap", "reliable"), [(0.70, 1), (0.72, 0)])  # gap^2 against 0.01 gap^2 + 0.5
def test_flow_that_does_not_lead_back_is_not_reliable(gap, reliable):
    assert reliability(flow_of(0, 0), flow_of(gap, 0)).unique().tolist() == [reliable]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("step", "reliable"), [(0.044, 1), (0.046, 0)])  # step^2 against 0.01 |w|^2 + 0.002
def test_flow_at_a_motion_boundary_is_not_reliable(axis, step, reliable):
    flow = flow_of(0, 0)
    flow[:, 1 - axis].narrow(1 + axis, 3, 3)[:] += step
    found = reliability(flow, -flow)[0, 0].movedim(axis, 0)[:, 2]
    assert found[[0, 1, 2, 4]].tolist() == [1, 1, reliable, found[4]]
    assert found[0] == 1


def test_the_mask_is_of_the_frame_at_which_the_first_flow_starts():
    """A square moves right over a background at rest: the later frame has no use for what it will cover."""
    forward, backward = flow_of(0, 0, (9, 12)), flow_of(0, 0, (9, 12))
    forward[:, 0, 3:6, 2:5] = 3  # columns 2-4 go to 5-7
    backward[:, 0, 3:6, 5:8] = -3
    covered = reliability(forward, backward)[0, 0]
    uncovered = reliability(backward, forward)[0, 0]
    assert covered[4, 5:8].tolist() == [0, 0, 0]
    assert covered[4, 3] == 1
    assert uncovered[4, 2:4].tolist() == [0, 0]
    assert uncovered[4, 6] == 1


def test_warping_error_of_the_worked_example():
    frames = torch.tensor([[1.0, 2, 3], [1, 4, 3]]).view(2, 1, 1, 3).expand(2, 3, 1, 3)
    masks = torch.tensor([1.0, 0.5, 0]).view(1, 1, 1, 3)
    still = torch.zeros(1, 2, 1, 3)
    assert warping_error(frames, still, masks) == pytest.approx(0.5 * 4 / 1.5, rel=1e-5)
    assert warping_error(frames, still) == pytest.approx(4 / 3, rel=1e-5)


def test_warping_error_of_a_moving_video_is_0_where_it_is_visible():
    wide = random_picture(6, 12)[0]
    frames = torch.stack([wide[..., 2 * t : 2 * t + 8] for t in range(3)])  # everything moves left by 2 px
    flows = flow_of(-2, 0).repeat(2, 1, 1, 1)
    masks = reliability(flows, -flows)
    assert masks.mean() == 0.75
    assert warping_error(frames, flows, masks) < 1e-9
    assert warping_error(frames, 0 * flows) > 1e-4


def test_warping_error_leaves_out_pairs_without_anything_visible():
    frames = torch.stack([torch.full((3, 4, 6), v) for v in (0.0, 0.5, 0.6)])
    flows, masks = torch.zeros(2, 2, 4, 6), torch.ones(2, 1, 4, 6)
    assert warping_error(frames, flows, masks) == pytest.approx((0.25 + 0.01) / 2, rel=1e-5)
    masks[0] = 0
    assert warping_error(frames, flows, masks) == pytest.approx(0.01, rel=1e-5)
    with pytest.raises(UserError, match="visible"):
        warping_error(frames, flows, 0 * masks)


# -------------------------------------------------------------------------------------------------------------- motion


def scene(shift: float = 0.0, size: tuple[int, int] = (64, 96), seed: int = 0) -> np.ndarray:
    """Smooth noise of which the window moved left by `shift` px, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).uniform(0, 255, (size[0], size[1] + 64, 3)).astype(np.float32)
    noise = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    columns = np.arange(size[1], dtype=np.float32) + shift
    x, y = np.meshgrid(columns, np.arange(size[0], dtype=np.float32))
    return cv2.remap(noise, x, y, cv2.INTER_CUBIC).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["dis", "dis_fast"])
def test_motion_of_a_moving_window(name):
    motion = MotionEstimator(name, (64, 96))(scene(0), scene(4))
    inner = np.s_[16:-16, 16:-16]
    np.testing.assert_allclose(np.median(motion.forward[inner], (0, 1)), [-4, 0], atol=0.2)
    np.testing.assert_allclose(np.median(motion.backward[inner], (0, 1)), [4, 0], atol=0.2)
    assert not motion.cut
    assert motion.trust[inner].mean() > 0.8
    assert (motion.visible[inner] == 255).mean() > 0.8
    moved = motion.from_before(scene(0).astype(np.float32) / 255)
    assert np.abs(moved - scene(4) / 255.0)[inner].mean() < 0.02


def test_flow_is_scaled_to_the_size_of_the_result():
    motion = MotionEstimator("dis", (32, 48))(scene(0), scene(4))
    assert motion.forward.shape == (32, 48, 2)
    assert motion.trust.shape == motion.visible.shape == (32, 48)
    np.testing.assert_allclose(np.median(motion.forward[8:-8, 8:-8], (0, 1)), [-2, 0], atol=0.2)


def test_equal_frames_have_no_motion_at_all():
    motion = MotionEstimator("dis", (64, 96))(scene(), scene())
    assert not motion.forward.any()
    assert not motion.backward.any()
    before = np.random.default_rng(1).uniform(0, 1, (64, 96, 3)).astype(np.float32)
    assert np.array_equal(motion.from_before(before), before)
    assert motion.trust.min() > 0.999


def test_another_scene_is_a_cut_and_nothing_of_the_one_before_is_trusted():
    assert MotionEstimator("dis", (64, 96))(scene(seed=0), scene(seed=1)).cut
    dark = np.zeros((64, 96, 3), np.uint8)
    assert MotionEstimator("dis", (64, 96))(dark, scene()).cut
    assert not MotionEstimator("dis", (64, 96))(dark, dark).cut


def test_what_changes_its_color_on_the_spot_is_not_trusted():
    before, now = scene(), scene()
    now[16:48, 32:64] //= 3
    trust = MotionEstimator("dis", (64, 96))(before, now).trust
    assert trust[24:40, 40:56].max() < 0.01
    assert trust[:, :16].mean() > 0.9


@pytest.mark.parametrize("size", [(8, 8), (15, 40), (17, 31)])
def test_small_and_odd_frames(size):
    motion = MotionEstimator("dis", size)(scene(0, size), scene(1, size))
    assert motion.backward.shape == (*size, 2)
    assert np.isfinite(motion.backward).all()


def test_flicker_is_the_warping_error():
    frames = [scene(2 * t) for t in range(4)]
    noisy = [np.clip(f + np.random.default_rng(t).normal(0, 12, f.shape), 0, 255).astype(np.uint8)
             for t, f in enumerate(frames)]  # fmt: skip
    estimate, flicker, motions = MotionEstimator("dis", (64, 96)), Flicker(), []
    assert flicker.mean() is None
    for (a, b), (x, y) in zip(pairwise(frames), pairwise(noisy), strict=True):
        motions.append(estimate(a, b))
        flicker.add(x, y, motions[-1])
    flows = torch.stack([torch.from_numpy(m.forward).permute(2, 0, 1) for m in motions])
    masks = torch.stack([torch.from_numpy(m.visible / 255.0)[None].float() for m in motions])
    clip = torch.stack([torch.from_numpy(f).permute(2, 0, 1) / 255.0 for f in noisy])
    assert flicker.mean() == pytest.approx(warping_error(clip, flows, masks), rel=0.01)


def test_flicker_leaves_out_frames_without_anything_visible():
    flicker, nothing = Flicker(), np.zeros((4, 6), np.uint8)
    motion = Motion(np.zeros((4, 6, 2), np.float32), np.zeros((4, 6, 2), np.float32), nothing, nothing / 1.0, True)
    assert flicker.add(np.zeros((4, 6, 3), np.uint8), np.ones((4, 6, 3), np.uint8), motion) is None
    assert flicker.mean() is None


def test_unknown_flow():
    with pytest.raises(UserError, match=r"^name=deep is unknown, choose one of dis, dis_fast, raft$"):
        MotionEstimator("deep", (64, 96))


def raft_file(folder) -> Path:
    return folder / "checkpoints" / Path(Raft_Small_Weights.C_T_V2.url).name


def test_raft_with_weights_from_torchs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    raft_file(tmp_path).parent.mkdir()
    torch.manual_seed(0)
    torch.save(raft_small().state_dict(), raft_file(tmp_path))
    motion = MotionEstimator("raft", (64, 96))(scene(0), scene(4))
    assert motion.backward.shape == (64, 96, 2)
    assert np.isfinite(motion.backward).all()
    assert motion.backward.any()


def test_raft_without_weights_says_what_to_do(tmp_path, monkeypatch):
    def offline(*args):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"^the flow raft needs .*no network.*use the flow dis, which needs none$"):
        MotionEstimator("raft", (64, 96))


@pytest.mark.parametrize("size", [(30, 40), (20, 44), (33, 47), (48, 64)])
@pytest.mark.parametrize("name", ["dis", "dis_fast"])
def test_two_frames_always_have_the_same_flow(size, name):
    rng = np.random.default_rng(0)
    frames = [
        cv2.resize(np.roll(rng.integers(0, 255, (8, 10, 3), np.uint8), n, 1), size[::-1], interpolation=cv2.INTER_CUBIC)
        for n in range(3)
    ]
    estimator = MotionEstimator(name, size)
    found = [estimator(*pair) for _ in range(6) for pair in pairwise(frames) if rng.normal(0, 1e3, 9999).any()]
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert np.array_equal(first.forward, found[0].forward)
        assert np.array_equal(second.backward, found[1].backward)
        assert first.forward.shape == (*size, 2)
