"""Color profiles: what a picture means in sRGB when it is read, and that what is written says sRGB."""

import io
import logging

import numpy as np
import pytest
import torch
from color_profiles import ADOBE_RGB, DISPLAY_P3, SPACES, SRGB, gray_profile, in_srgb
from PIL import Image, ImageCms

from nstexp.data.pictures import center_crop
from nstexp.media import profiles
from nstexp.media.images import load_image, save_image
from nstexp.media.masks import load_masks

LEVELS = np.array([0, 40, 90, 128, 200, 255], dtype=np.uint8)
COLORS = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS), axis=-1).reshape(12, 18, 3)


@pytest.fixture(autouse=True)
def nothing_reported(monkeypatch):
    monkeypatch.setattr(profiles, "_reported", set())


def pixels(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).double().numpy() * 255


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("name", SPACES)
def test_colors_become_those_of_srgb(tmp_path, name, suffix):
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(COLORS).save(path, icc_profile=SPACES[name].profile(), **options)
    expected = in_srgb(COLORS.astype(float), SPACES[name])
    assert np.abs(expected - COLORS).max() > 40  # else this would say nothing
    found = pixels(load_image(path))
    # In dark saturated colors one step of linear light is several levels.
    assert np.abs(found - expected).max() <= (6 if name == "ProPhoto" else 2)
    assert np.abs(found - expected).mean() < 0.5


def test_grays_stay_gray_and_white_white(tmp_path):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for space in SPACES.values():
        Image.fromarray(ramp).save(tmp_path / "a.png", icc_profile=space.profile())
        found = pixels(load_image(tmp_path / "a.png"))[0]
        assert np.abs(found - found.mean(1, keepdims=True)).max() <= 1.5
        assert found[0].tolist() == [0, 0, 0]
        assert np.allclose(found[255], 255, atol=1e-3)


def test_a_jpeg_is_converted_in_training_crops_as_elsewhere(tmp_path):
    color = (220, 60, 40)
    Image.new("RGB", (64, 64), color).save(
        tmp_path / "a.jpg", quality=100, subsampling=0, icc_profile=DISPLAY_P3.profile()
    )
    expected = in_srgb(np.array(color, dtype=float), DISPLAY_P3)
    for found in (load_image(tmp_path / "a.jpg") * 255, center_crop(str(tmp_path / "a.jpg"), 16, 200).float()):
        assert np.abs(found.mean((1, 2)).numpy() - expected).max() < 2


@pytest.mark.parametrize("profile", [SRGB.profile(), profiles.srgb_profile()])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_a_profile_of_srgb_changes_no_byte(tmp_path, profile, mode):
    image = Image.fromarray(COLORS).convert(mode)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "tagged.png", icc_profile=profile)
    assert Image.open(tmp_path / "tagged.png").info["icc_profile"]
    assert torch.equal(load_image(tmp_path / "plain.png"), load_image(tmp_path / "tagged.png"))


def test_transparent_and_palette_pictures_are_converted_too(tmp_path):
    image = Image.new("RGB", (4, 4), (220, 60, 40))
    expected = in_srgb(np.array([220.0, 60, 40]), ADOBE_RGB)
    image.quantize(2).save(tmp_path / "p.png", icc_profile=ADOBE_RGB.profile())
    assert np.abs(pixels(load_image(tmp_path / "p.png"))[0, 0] - expected).max() <= 1
    image.putalpha(51)
    image.save(tmp_path / "a.png", icc_profile=ADOBE_RGB.profile())
    assert np.abs(pixels(load_image(tmp_path / "a.png"))[0, 0] - (0.2 * expected + 0.8 * 255)).max() <= 1.5


@pytest.mark.parametrize("deep", [False, True])
def test_gray_with_a_gamma_of_its_own(tmp_path, deep):
    levels = np.arange(256)
    gray = (levels * 257).astype(np.uint16) if deep else levels.astype(np.uint8)
    Image.fromarray(gray[None]).save(tmp_path / "a.png", icc_profile=gray_profile(1.8))
    linear = (levels / 255) ** 1.8
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    found = pixels(load_image(tmp_path / "a.png"))[0]
    assert (found == found[:, :1]).all()
    assert np.abs(found[:, 0] - expected)[4:].max() < 1.5
    assert np.abs(expected - levels).max() > 10


def test_lab_pictures_are_read(tmp_path):
    lab = Image.merge("LAB", [Image.new("L", (2, 2), value) for value in (136, 128 + 81, 128 + 70)])
    lab.save(tmp_path / "a.tif")
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), srgb, "LAB", "RGB", profiles.INTENT)
    expected = np.asarray(ImageCms.applyTransform(lab, transform))[0, 0]
    assert np.abs(pixels(load_image(tmp_path / "a.tif"))[0, 0] - expected).max() <= 1
    assert expected[0] > 2 * expected[1]  # a red


def cut(profile: bytes) -> bytes:
    return profile[:200]


@pytest.mark.parametrize(
    "profile", [b"no profile", cut(DISPLAY_P3.profile()), gray_profile(1.0), bytes(200)], ids=range(4)
)
def test_a_broken_profile_is_told_once_and_the_colors_stay(tmp_path, caplog, profile):
    for name in ("a.png", "b.png"):
        Image.fromarray(COLORS).save(tmp_path / name, icc_profile=profile)
        assert np.allclose(pixels(load_image(tmp_path / name)), COLORS, atol=1e-3)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{tmp_path / 'a.png'}: its color profile cannot be used (")
    assert "\n" not in record.getMessage()


def test_masks_are_numbers_and_no_colors(tmp_path):
    half = np.full((6, 8), 128, dtype=np.uint8)
    Image.fromarray(half).save(tmp_path / "a.png", icc_profile=gray_profile(1.8))
    Image.fromarray(255 - half).save(tmp_path / "b.png")
    masks = load_masks([tmp_path / "a.png", tmp_path / "b.png"], (6, 8))
    assert torch.allclose(masks[0], torch.tensor(128 / 255), atol=1e-4)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_what_is_written_says_srgb_and_is_always_the_same(tmp_path, suffix):
    image = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0))
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    save_image(image, first)
    save_image(image, second)
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as written:
        if suffix == ".png":
            assert written.info["srgb"] == profiles.INTENT
        else:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(written.info["icc_profile"]))
            assert "sRGB" in ImageCms.getProfileDescription(profile)
        assert profiles.conversion(written) is None


def test_the_profile_is_the_same_in_another_second(monkeypatch):
    first = profiles.srgb_profile()
    profiles.srgb_profile.cache_clear()
    changed = bytearray(first)
    changed[24:36] = bytes(range(12))
    monkeypatch.setattr(profiles, "_srgb", lambda: type("Later", (), {"tobytes": lambda self: bytes(changed)})())
    assert profiles.srgb_profile() == first
    profiles.srgb_profile.cache_clear()
