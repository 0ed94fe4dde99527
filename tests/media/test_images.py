"""Images in: every mode, orientation and damage. Images out: exact bytes, or one sentence and nothing left behind."""

import errno
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nstexp.core import resize as resizing
from nstexp.core.errors import UserError
from nstexp.core.resize import resize
from nstexp.media import decoding, images, paths, samples
from nstexp.media.images import load_image, save_image
from nstexp.media.paths import check_writable, find_images

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)  # odd sides, no symmetry
LOSSLESS = (".png", ".tif", ".tiff", ".bmp")
ORIENTATIONS = {  # EXIF tag -> what a viewer does with the stored rows and columns (CIPA DC-008, section 4.6.4)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


def pixels(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) on the 0-255 scale, not rounded."""
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    return image.permute(1, 2, 0).double().numpy() * 255


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def gray3(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None].astype(float), 3, axis=2)


def damaged(path: Path) -> Path:
    """A picture whose file ends too early. (Wrong bytes instead are no sure thing: AVIF's decoder may conceal them.)"""
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    half = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:half])
    return path


def png_header_only(path: Path, width: int, height: int) -> Path:
    """A PNG that promises a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_rgb_is_read_exactly(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").shape == (3, 5, 7)
    assert np.allclose(pixels(load_image(tmp_path / "a.png")), RGB, atol=1e-4)


def test_gray_and_one_bit_become_three_equal_channels(tmp_path):
    gray, bits = RGB[..., 0], RGB[..., 1] > 127
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert Image.open(tmp_path / "bits.png").mode == "1"
    assert np.allclose(pixels(load_image(tmp_path / "gray.png")), gray3(gray), atol=1e-4)
    assert np.allclose(pixels(load_image(tmp_path / "bits.png")), gray3(bits) * 255, atol=1e-4)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_over_white(tmp_path, mode):
    alpha = np.array(RGB[..., 2])
    alpha[0, :3] = 0, 255, 128
    color = RGB if mode == "RGBA" else RGB[..., :1]
    Image.fromarray(np.dstack([color, alpha]), mode=None).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == mode
    expected = over_white(np.broadcast_to(color, RGB.shape), alpha)
    found = pixels(load_image(tmp_path / "a.png"))
    assert np.abs(found - expected).max() <= 1  # Pillow composites in 8 bits
    assert np.allclose(found[0, 0], 255)
    assert np.allclose(found[0, 1], expected[0, 1], atol=1e-4)


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_the_transparent_color_of_a_palette_becomes_white(tmp_path, suffix):
    image = Image.new("P", (7, 5), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 2), 0)
    image.save(tmp_path / f"a{suffix}", transparency=0)
    expected = np.full((5, 7, 3), (200, 100, 50), dtype=float)
    expected[2, 3] = 255
    assert np.allclose(pixels(load_image(tmp_path / f"a{suffix}")), expected, atol=1e-4)


def test_cmyk_becomes_rgb(tmp_path):
    cmyk = np.zeros((1, 3, 4), dtype=np.uint8)
    cmyk[0] = (0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)
    Image.fromarray(cmyk, mode="CMYK").save(tmp_path / "a.tif")
    found = pixels(load_image(tmp_path / "a.tif"))[0]
    assert np.allclose(found, [(255, 255, 255), (0, 255, 255), (0, 0, 0)], atol=1e-4)


@pytest.mark.parametrize(
    ("suffix", "dtype", "values", "white"),
    [
        (".png", np.uint16, [0, 1, 300, 65535], 65535),
        (".png", np.uint16, [0, 1, 2, 200], 65535),  # 16 bits that use little of their range stay dark
        (".tif", np.int32, [0, 17, 255, 128], 255),
        (".tif", np.int32, [0, 17, 300, 65535], 65535),
        (".tif", np.int32, [0, 17, 300, 100000], 100000),
        (".tif", np.float32, [0, 0.25, 0.5, 1.0], 1),
        (".tif", np.float32, [-0.5, 0.25, 128, 255], 255),
        (".tif", np.float32, [0, 0.25, 1000.5, 65535], 65535),
    ],
)
def test_deep_gray_keeps_its_range_and_precision(tmp_path, suffix, dtype, values, white):
    Image.fromarray(np.array([values], dtype=dtype)).save(tmp_path / f"a{suffix}")
    assert Image.open(tmp_path / f"a{suffix}").mode in ("I;16", "I", "F")
    found = load_image(tmp_path / f"a{suffix}")
    expected = np.clip(np.array(values, dtype=float) / white, 0, 1)
    assert found.shape == (3, 1, 4)
    assert np.allclose(found.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_a_float_image_with_nan_is_refused(tmp_path):
    Image.fromarray(np.array([[0.5, np.nan]], dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="not finite"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("tag", ORIENTATIONS)
def test_exif_orientation_is_applied(tmp_path, tag):
    blocks = np.kron(RGB[:2, :3], np.ones((16, 16, 1), dtype=np.uint8))  # large enough areas to survive JPEG
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(blocks).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    found, expected = pixels(load_image(tmp_path / "a.jpg")), ORIENTATIONS[tag](blocks).astype(float)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 2


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (7, 5), color) for color in ("#ff0000", "#00ff00", "#0000ff")]
    for suffix in (".gif", ".webp"):
        options = {"lossless": True} if suffix == ".webp" else {}
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options)
        assert Image.open(tmp_path / f"a{suffix}").n_frames == 3
        found = pixels(load_image(tmp_path / f"a{suffix}"))
        assert found.shape == (5, 7, 3)
        assert np.allclose(found, (255, 0, 0), atol=1e-4)


def test_the_format_follows_the_content_and_not_the_name(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.webp", lossless=True)
    (tmp_path / "a.webp").rename(tmp_path / "a.jpg")
    assert np.allclose(pixels(load_image(tmp_path / "a.jpg")), RGB, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: p / "missing.png", "there is no such file"),
        (lambda p: p, "this is a folder"),
        (lambda p: (p / "a.png").touch() or p / "a.png", "the file is empty"),
        (lambda p: (p / "a.jpg").write_text("hello") and p / "a.jpg", "not an image file"),
        (lambda p: damaged(p / "a.jpg"), "damaged or truncated"),
        (lambda p: damaged(p / "a.png"), "damaged or truncated"),
        (lambda p: damaged(p / "a.webp"), "damaged or truncated"),
        (lambda p: damaged(p / "a.avif"), "damaged or truncated|not an image"),
        (lambda p: damaged(p / "a.tif"), "damaged or truncated|not an image"),
        (lambda p: damaged(p / "a.gif"), "damaged or truncated"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence_with_its_name(tmp_path, make, sentence):
    path = make(tmp_path)
    with pytest.raises(UserError, match=sentence) as refused:
        load_image(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_a_bomb_is_refused_from_its_header_and_the_limit_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "free_bytes", lambda device: 1e12)
    monkeypatch.setattr(images, "upright", lambda image: pytest.fail("decoded"))
    bomb = png_header_only(tmp_path / "bomb.png", 40000, 30000)
    with pytest.raises(UserError, match=r"40000x30000 px is over the limit of 200 megapixels.*max_input_megapixels"):
        load_image(bomb)
    monkeypatch.setattr(images, "upright", lambda image: None)
    monkeypatch.setattr(images, "to_tensors", lambda image, *others: (image.size, None))
    assert load_image(bomb, max_input_megapixels=1200) == (40000, 30000)  # far over Pillow's own limit
    with pytest.raises(UserError, match="over the limit"):
        load_image(bomb, max_input_megapixels=1199.99)
    assert Image.MAX_IMAGE_PIXELS is not None  # other users of Pillow keep their guard


@pytest.mark.parametrize("suffix", paths.WRITABLE)
def test_every_writable_suffix_comes_back(tmp_path, suffix):
    assert suffix in paths.READABLE
    smooth = torch.linspace(0, 1, 48 * 33).view(1, 33, 48) * torch.tensor([1.0, 0.5, 0.2]).view(3, 1, 1)
    path = tmp_path / "new" / f"a{suffix.upper()}"
    save_image(smooth, path)
    found = load_image(path)
    assert found.shape == smooth.shape
    levels = (smooth * 255).round()
    assert (found * 255 - levels).abs().max() < (1e-3 if suffix in LOSSLESS else 8), suffix
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_saving_and_loading_8_bits_changes_nothing(tmp_path):
    every_level = torch.arange(256).view(1, 16, 16).expand(3, -1, -1) / 255
    save_image(every_level, tmp_path / "a.png")
    assert torch.equal(load_image(tmp_path / "a.png"), every_level)


def test_values_are_clamped_and_rounded_to_the_nearest_level(tmp_path):
    values = torch.tensor([-1.0, 0.0, 0.49 / 255, 0.51 / 255, 100.4 / 255, 100.6 / 255, 254.6 / 255, 1.0, 7.0])
    save_image(values.view(1, 1, 9).expand(3, -1, -1), tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 0, 1, 100, 101, 255, 255, 255]


def test_a_saved_file_is_readable_by_others_as_the_umask_says(tmp_path):
    save_image(torch.zeros(3, 2, 2), tmp_path / "a.png")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["save", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "a.png"
    path.write_text("old")
    target = (Image.Image, "save") if call == "save" else (os, "replace")
    monkeypatch.setattr(*target, full_disk)
    with pytest.raises(UserError, match=r"a\.png: cannot be written \(no space left on the disk\)"):
        save_image(torch.zeros(3, 4, 4), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.gif", "cannot write '.gif' files, use one of .png"),
        ("a", "cannot write '' files"),
        ("file/a.png", "cannot be written|not writable"),
        ("file/deeper/a.png", "cannot be written|not writable"),
        ("folder.png", "cannot be written|this is a folder"),
    ],
)
def test_an_impossible_place_is_refused_before_and_while_writing(tmp_path, name, sentence):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=sentence):
        check_writable(tmp_path / name, "output")
    with pytest.raises(UserError, match=sentence):
        save_image(torch.zeros(3, 4, 4), tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["file", "folder.png"]


def test_a_read_only_folder_is_found_out_by_trying(tmp_path, monkeypatch):
    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    check_writable(tmp_path / "new" / "a.png", "output")
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)  # as root no permission bit would do
    with pytest.raises(UserError, match=f"output=.*the folder {tmp_path} is not writable .Read-only"):
        check_writable(tmp_path / "new" / "a.png", "output")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_too_wide_for_its_format_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"a\.webp: cannot be written .*16383"):
        save_image(torch.zeros(3, 1, 16384), tmp_path / "a.webp")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (3, 11), (13, 9)])
def test_resize_gives_the_size_asked_for_within_the_range(size):
    image = torch.from_numpy(RGB).permute(2, 0, 1).float() / 255
    single, batch = resize(image, size), resize(image[None], size)
    assert single.shape == (3, *size)
    assert torch.equal(batch[0], single)
    assert 0 <= single.min() <= single.max() <= 1


def test_resize_to_the_same_size_returns_the_image_and_keeps_flat_areas_flat():
    image = torch.rand(3, 5, 7)
    assert resize(image, (5, 7)) is image
    assert torch.allclose(resize(torch.full((3, 31, 17), 0.3), (7, 23)), torch.tensor(0.3), atol=1e-5)


def test_resize_agrees_with_pillow_on_antialiased_bicubic():
    image = np.random.default_rng(1).random((37, 51), dtype=np.float32)
    expected = np.asarray(Image.fromarray(image).resize((20, 13), Image.Resampling.BICUBIC)).clip(0, 1)
    found = resize(torch.from_numpy(image).expand(3, -1, -1), (13, 20))[0].numpy()
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("size", "longer_px", "expected"),
    [((5, 7), None, (5, 7)), ((333, 500), 100, (67, 100)), ((500, 333), 101, (101, 67)), ((2, 20000), 50, (1, 50))],
)
def test_the_longer_side_is_exact_and_no_side_is_0(size, longer_px, expected):
    assert resizing.size_for_longer_side(size, longer_px) == expected


@pytest.mark.parametrize(
    ("size", "area", "expected"), [((10, 40), 100, (5, 20)), ((3, 300), 9, (1, 30)), ((7, 7), 49, (7, 7))]
)
def test_an_area_keeps_the_aspect(size, area, expected):
    assert resizing.size_for_pixels(size, area) == expected


def test_a_folder_is_searched_recursively_in_a_stable_order(tmp_path):
    for name in ("b.png", "a/c.JPG", "a/b/d.webp", "z.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "album.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path, "content")]
    assert found == ["a/b/d.webp", "a/c.JPG", "b.png", "z.tiff"]


def test_a_list_keeps_its_order_and_mixes_kinds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("2024").mkdir()
    for name in ("b.png", "a.png", "2024/c.png"):
        Path(name).touch()
    found = find_images(["b.png", Path("a.png"), "sample:astronaut", 2024], "content")  # Hydra reads 2024 as a number
    assert [path.name for path in found] == ["b.png", "a.png", "astronaut.png", "c.png"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nowhere.jpg", "style=nowhere.jpg: there is no such file, folder or built-in image"),
        (["here.png", "nowhere.jpg"], "style=nowhere.jpg: there is no such file"),
        ("empty", "style=empty: the folder holds no image"),
        ([], "style is empty"),
        ("", "style is empty"),
        (None, "style is empty"),
        ("sample:nobody", "sample:nobody: no built-in image has this name"),
        ("met:1", "met:1: no built-in image has this name"),
    ],
)
def test_what_cannot_be_found_is_named_with_its_key(tmp_path, monkeypatch, spec, sentence):
    monkeypatch.chdir(tmp_path)
    Path("here.png").touch()
    Path("empty").mkdir()
    Path("empty/readme.txt").touch()
    with pytest.raises(UserError, match=sentence):
        find_images(spec, "style")


def test_every_built_in_image_is_listed_once_and_opens():
    listing = samples.listing()
    assert len(listing) > len(samples.PHOTOS)
    assert len({image.name for image in listing}) == len(listing)
    for image in listing:
        assert image.title
        assert samples.is_builtin(image.name)
        assert find_images(image.name, "content") == [image.path]
        assert Image.open(image.path).size > (0, 0)
    assert load_image(samples.find("sample:astronaut")).shape == (3, 512, 512)


def test_a_missing_package_of_built_in_images_is_named(monkeypatch):
    monkeypatch.setattr(samples, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        samples.find("sample:astronaut")
