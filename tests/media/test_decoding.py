"""What is no picture that can be read is told by what it is, before it takes memory; damage that decoders conceal."""

import io
import random
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from training_data import noise

from nstexp.core.errors import UserError
from nstexp.data.pictures import Cropping, Unusable, random_crop
from nstexp.media import decoding
from nstexp.media.images import load_image

KINDS = {
    "a.pdf": (b"%PDF-1.7\n", "a PDF document"),
    "a.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a drawing"),
    "a.jxl": (b"\xff\x0a\xfa\x01", "a JPEG XL picture"),
    "b.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    "a.exr": (b"v/1\x01\x02\0\0\0", "an OpenEXR picture of floating-point numbers"),
    "a.hdr": (b"#?RADIANCE\n", "a Radiance picture of floating-point numbers"),
    "a.raf": (b"FUJIFILMCCD-RAW 0201", "a camera's raw file"),
    "a.cr2": (b"II*\0\x10\0\0\0CR\x02\0", "a camera's raw file"),
    "a.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "a camera's raw file"),
    "a.mp4": (b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2", "a video, not a picture"),
    "a.mkv": (b"\x1aE\xdf\xa3\x01\0\0\0", "a video, not a picture"),
    "a.avi": (b"RIFF\0\0\0\0AVI LIST", "a video, not a picture"),
    "a.svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "a drawing"),
    "a.jpg": (b"<!DOCTYPE html>\n<html>Not found", "a web page or another text"),
    "a.zip": (b"PK\x03\x04\x14\0", "a ZIP archive"),
    "a.xcf": (b"gimp xcf v011\0", "a project of GIMP"),
}


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_image(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    with pytest.raises(Unusable) as unusable:
        random_crop(path.read_bytes(), np.random.default_rng(0), Cropping(8, 8, "short_side", False, 200))
    assert "\n" not in str(unusable.value)
    return text


@pytest.mark.parametrize("name", KINDS)
def test_other_files_say_what_they_are(tmp_path, name):
    data, kind = KINDS[name]
    (tmp_path / name).write_bytes(data)
    assert f"this is {kind}" in refused(tmp_path / name)


@pytest.mark.parametrize("main", [b"heic", b"mif1"])
def test_heic_without_its_package_names_it(tmp_path, monkeypatch, main):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftyp" + main + b"\0\0\0\0mif1heic")
    assert "this is a HEIC picture" in refused(tmp_path / "a.jpg")
    assert "pip install pillow-heif" in refused(tmp_path / "a.jpg")


def test_heic_is_read_where_its_package_is(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    gradient = Image.linear_gradient("L").resize((48, 32)).convert("RGB")
    pillow_heif.from_pillow(gradient).save(tmp_path / "a.heic", quality=95)
    assert np.abs(load_image(tmp_path / "a.heic")[1].numpy() * 255 - np.asarray(gradient)[..., 1]).mean() < 3


def tiff(path: Path, kind: int, bits: int, samples: int) -> Path:
    """A header of a small TIFF."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    one_each = {256: 4, 257: 4, 259: 1, 262: 2, 277: samples, 278: 4, 273: 8, 279: 2 * bits * samples}
    for tag, value in {**one_each, 258: (bits,) * samples, 339: (kind,) * samples}.items():
        tags[tag] = value
    directory = io.BytesIO()
    directory.write(bytes(8))
    tags.save(directory)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + directory.getvalue()[8:])
    return path


@pytest.mark.parametrize(
    ("kind", "bits", "samples", "words"),
    [
        (3, 32, 3, "32-bit floating-point numbers, 3 a pixel"),
        (3, 64, 3, "64-bit floating-point"),
        (1, 32, 3, "32-bit whole"),
    ],
)
def test_a_tiff_that_pillow_does_not_know_says_what_it_holds(tmp_path, kind, bits, samples, words):
    assert f"this is a TIFF of {words}" in refused(tiff(tmp_path / "a.tif", kind, bits, samples))


@pytest.mark.parametrize("tags", [{254: 1}, {50706: b"\x01\x04\0\0"}], ids=["a reduced picture", "DNG"])
def test_a_raw_file_is_not_taken_for_its_preview(tmp_path, tags):
    noise(0).save(tmp_path / "a.tif", tiffinfo=tags)
    assert "this is a camera's raw file" in refused(tmp_path / "a.tif")


def test_floating_point_numbers_beyond_1_say_what_is_taken_for_white(tmp_path, caplog):
    for name, brightest in (("a", 1.0), ("b", 255.0), ("c", 7.5), ("d", 1e6)):
        Image.fromarray(np.linspace(0, brightest, 12, dtype=np.float32).reshape(3, 4)).save(tmp_path / f"{name}.tif")
    load_image(tmp_path / "a.tif")
    assert not caplog.records
    load_image(tmp_path / "b.tif")
    assert "32-bit floating-point numbers from 0 to 255; 255 is used as white" in caplog.text
    for name in ("c", "d"):
        assert "does not say which value is white: scale them to 0 ... 1" in refused(tmp_path / f"{name}.tif")


def test_the_limit_follows_the_memory_that_is_free(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("1", (13000, 13000)).save(path)
    assert path.stat().st_size < 30_000
    monkeypatch.setattr(decoding, "free_bytes", lambda device: 4e9)
    monkeypatch.setattr(Image.Image, "crop", lambda *args: pytest.fail("decoded"))
    assert "reading 13000x13000 px needs up to 4.1 GB of memory, and of the 4.0 GB that are free" in refused(path)


def test_a_small_picture_is_read_however_little_memory_is_free(tmp_path, monkeypatch):
    noise(0).save(tmp_path / "a.png")
    monkeypatch.setattr(decoding, "free_bytes", lambda device: 0)
    assert load_image(tmp_path / "a.png").shape == (3, 30, 40)


def test_a_picture_inside_an_icon_is_no_way_around_the_limit(tmp_path):
    Image.new("RGBA", (64, 64)).save(tmp_path / "a.ico", sizes=[(64, 64)])
    data = (tmp_path / "a.ico").read_bytes()
    large = io.BytesIO()
    Image.new("1", (20000, 9000)).save(large, "PNG")
    assert data[22:26] == b"\x89PNG"
    entry = struct.pack("<II", len(large.getvalue()), 22)
    (tmp_path / "a.ico").write_bytes(data[:14] + entry + large.getvalue())
    assert "exceeds limit" in refused(tmp_path / "a.ico")


def test_texts_in_a_picture_may_be_long_and_not_endless(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    for name, megabytes in (("a.png", 4), ("b.png", 40)):
        text = PngInfo()
        text.add_text("Raw profile type exif", "0" * (megabytes * 2**20), zip=True)
        noise(0).save(tmp_path / name, pnginfo=text)
    assert load_image(tmp_path / "a.png").shape == (3, 30, 40)
    assert "unpacks to more than 16 MB" in refused(tmp_path / "b.png")


def test_no_memory_is_not_called_damage(tmp_path, monkeypatch):
    noise(0).save(tmp_path / "a.png")
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate"),
    ):

        def fail(*args, error=error):
            raise error

        monkeypatch.setattr(Image.Image, "convert", fail)
        monkeypatch.setattr(Image.Image, "load", fail)
        assert "there is not enough memory to read it" in refused(tmp_path / "a.png")


# ---------------------------------------------------------------------------------------------------- damaged JPEGs


def jpeg(**options) -> bytes:
    smooth = noise(3, (12, 9)).resize((320, 240), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def overwritten(data: bytes, seed: int) -> bytes:
    random_bytes = random.Random(seed).randbytes(40)
    at = len(data) // 2
    return data[:at] + random_bytes + data[at + len(random_bytes) :]


DAMAGED = {
    "a part is missing": lambda: (d := jpeg())[: len(d) // 2] + d[len(d) // 2 + 700 :],
    "zeros": lambda: (d := jpeg())[: len(d) // 2] + bytes(200) + d[len(d) // 2 + 200 :],
    "ends too early": lambda: (d := jpeg())[: len(d) // 2] + b"\xff\xd9",
    "restart markers are missing": lambda: (d := jpeg(restart_marker_rows=1))[: len(d) // 2] + d[len(d) // 2 + 2000 :],
    "progressive": lambda: overwritten(jpeg(progressive=True), 1),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_jpeg_that_decodes_to_garbage_is_refused(tmp_path, how):
    pytest.importorskip("simplejpeg")
    (tmp_path / "a.jpg").write_bytes(DAMAGED[how]())
    assert Image.open(tmp_path / "a.jpg").convert("RGB").size == (320, 240)  # Pillow says nothing
    assert "the image is damaged or truncated (" in refused(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}], ids=str
)
def test_whole_jpegs_are_read_whatever_follows_them(tmp_path, caplog, options):
    for name, data in (("a", jpeg(**options)), ("b", jpeg(**options) + b"more"), ("c", jpeg(**options) + bytes(99))):
        (tmp_path / f"{name}.jpg").write_bytes(data)
        assert load_image(tmp_path / f"{name}.jpg").shape == (3, 240, 320)
    for mode in ("L", "CMYK"):
        noise(0).convert(mode).save(tmp_path / "d.jpg")
        assert load_image(tmp_path / "d.jpg").shape == (3, 30, 40)
    noise(0).save(tmp_path / "e.jpg", "MPO", save_all=True, append_images=[noise(1)])
    assert load_image(tmp_path / "e.jpg").shape == (3, 30, 40)
    assert not caplog.records


def test_bytes_before_the_end_are_only_told(tmp_path, caplog):
    pytest.importorskip("simplejpeg")
    data = jpeg()
    (tmp_path / "a.jpg").write_bytes(data[:-2] + bytes(8) + data[-2:])
    assert load_image(tmp_path / "a.jpg").shape == (3, 240, 320)
    assert (
        "a.jpg: the file is damaged, check whether the picture is complete (Corrupt JPEG data: 4 extraneous"
        in caplog.text
    )


def test_without_the_decoder_of_jpeg_pictures_are_read_as_before(tmp_path, monkeypatch):
    monkeypatch.delattr(decoding, "simplejpeg", raising=False)
    (tmp_path / "a.jpg").write_bytes(DAMAGED["zeros"]())
    assert load_image(tmp_path / "a.jpg").shape == (3, 240, 320)
    assert decoding.damage(SimpleNamespace(format="PNG")) == ""
