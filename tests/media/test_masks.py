"""Masks: any size of the right aspect in, weights that sum to 1 at every pixel out, or one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nstexp.core.errors import UserError
from nstexp.media.masks import load_masks


def save(path: Path, gray: np.ndarray) -> Path:
    Image.fromarray(gray.round().astype(np.uint8)).save(path)
    return path


def halves(folder: Path, height: int, width: int) -> list[Path]:
    """White on the left half, and white on the right half."""
    left = np.zeros((height, width))
    left[:, : width // 2] = 255
    return [save(folder / "left.png", left), save(folder / "right.png", 255 - left)]


def test_hard_masks_arrive_as_they_are(tmp_path):
    masks = load_masks(halves(tmp_path, 6, 8), (6, 8), 1.0)
    assert masks.shape == (2, 6, 8)
    assert masks.dtype == torch.float32
    assert masks[0, :, :4].eq(1).all()
    assert masks[0, :, 4:].eq(0).all()
    assert torch.equal(masks[1], 1 - masks[0])


@pytest.mark.parametrize("size", [(60, 80), (6, 8), (30, 40), (61, 80), (13, 17), (600, 800)])
def test_masks_of_any_size_still_sum_to_1(tmp_path, size):
    masks = load_masks(halves(tmp_path, 60, 80), size, 1.0)
    assert masks.shape == (2, *size)
    assert 0 <= masks.min() <= masks.max() <= 1
    assert torch.allclose(masks.sum(0), torch.ones(size), atol=1e-6)
    assert masks[0, :, : size[1] // 2 - 20 * size[1] // 80].min() > 0.999
    assert float(masks[0].mean()) == pytest.approx(0.5, abs=0.01)


def test_soft_masks_keep_their_proportions(tmp_path):
    ramp = np.linspace(20, 200, 8 * 6).reshape(6, 8).round()
    paths = [save(tmp_path / "a.png", ramp), save(tmp_path / "b.png", np.full((6, 8), 50))]
    masks = load_masks(paths, (6, 8), 1.0)
    expected = torch.from_numpy(np.stack([ramp, np.full((6, 8), 50)]) / (ramp + 50)).float()
    assert torch.allclose(masks, expected, atol=1e-6)
    assert torch.allclose(masks.sum(0), torch.ones(6, 8), atol=1e-6)


def test_one_mask_alone_is_1_everywhere(tmp_path):
    mask = load_masks([save(tmp_path / "a.png", np.arange(10, 58).reshape(6, 8))], (6, 8), 1.0)
    assert mask.eq(1).all()


def test_colors_count_by_their_luminance(tmp_path):
    for name, value in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        Image.new("RGB", (8, 6), value).save(tmp_path / f"{name}.png")
    masks = load_masks([tmp_path / "red.png", tmp_path / "green.png"], (6, 8), 1.0)
    assert torch.allclose(masks[0], torch.tensor(0.299 / (0.299 + 0.587)), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "fits"),
    [((103, 100), True), ((97, 100), True), ((100, 97), True), ((96, 100), False), ((105, 100), False)],
)
def test_the_aspect_may_differ_by_3_percent(tmp_path, size, fits):
    path = save(tmp_path / "a.png", np.full(size, 255))
    if fits:
        assert load_masks([path], (100, 100), 1.0).shape == (1, 100, 100)
    else:
        with pytest.raises(UserError):
            load_masks([path], (100, 100), 1.0)


@pytest.mark.parametrize("size", [(373, 500), (500, 373), (40, 3000), (3000, 40)])
@pytest.mark.parametrize("longer_px", [48, 101, 301])
def test_rounding_of_a_small_picture_is_no_other_aspect(tmp_path, size, longer_px):
    path = save(tmp_path / "a.png", np.full(size, 255))
    small = tuple(max(1, round(side * longer_px / max(size))) for side in size)
    assert load_masks([path], small, 1.0).shape == (1, *small)


def test_another_aspect_is_refused_with_both_sizes(tmp_path):
    path = save(tmp_path / "wide.png", np.full((50, 100), 255))
    with pytest.raises(
        UserError, match=r"^masks: .*wide\.png is 100x50 px, but the picture has another aspect ratio, 80x60 px"
    ) as refused:
        load_masks([path], (60, 80), 1.0)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="another aspect"):
        load_masks([path], (100, 50), 1.0)


@pytest.mark.parametrize(("black", "share"), [(0, "25 %"), (4, "25 %"), (6, None)])
def test_a_part_without_a_mask_is_refused_with_its_share(tmp_path, black, share):
    left, right = np.full((2, 6, 8), black)
    left[:, :4] = right[:, 6:] = 255
    paths = [save(tmp_path / "left.png", left), save(tmp_path / "right.png", np.where(right == 255, 255, 0))]
    if share is None:
        assert load_masks(paths, (6, 8), 1.0)[0, 0, 5] == 1
    else:
        with pytest.raises(UserError, match=f"^masks: {share} of the picture is black in every mask"):
            load_masks(paths, (6, 8), 1.0)


def test_a_mask_is_read_like_any_picture(tmp_path):
    with pytest.raises(UserError, match=r"missing\.png: there is no such file"):
        load_masks([tmp_path / "missing.png"], (6, 8), 1.0)
    path = save(tmp_path / "a.png", np.full((60, 80), 255))
    with pytest.raises(UserError, match=r"over the limit of 0\.001 megapixels"):
        load_masks([path], (60, 80), 0.001)
