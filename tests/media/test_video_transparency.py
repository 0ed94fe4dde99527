"""Clips with transparency: what is read of it, and in which outputs it stays."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from nstexp.core.errors import ArgumentError
from nstexp.media.video import (
    Encoding,
    Frame,
    is_transparent,
    keeps_transparency,
    open_source,
    open_writer,
    read_frames,
)

COUNT = 5
pytestmark = pytest.mark.usefixtures("one_thread")


def cut_out(number: int, soft: bool = True) -> np.ndarray:
    """A disk that moves to the right, RGBA uint8 (48, 64, 4), black where nothing is seen."""
    y, x = np.mgrid[:48, :64]
    away = np.hypot(y - 24, x - 20 - 4 * number)
    opacity = np.clip((14 - away) * 40 + 128, 0, 255) if soft else np.where(away < 14, 255, 0)
    pixels = np.dstack([np.full((48, 64), 200), 3 * x, 2 * y, opacity]).astype(np.uint8)
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def encoded(path: Path, codec: str, layout: str, soft: bool = True, **options) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 25, width=64, height=48, pix_fmt=layout, options=options)
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(cut_out(number, soft), format="rgba").reformat(format=layout)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def animated(path: Path) -> Path:
    frames = [Image.fromarray(cut_out(number, path.suffix != ".gif")) for number in range(COUNT)]
    lossless = {"lossless": True, "exact": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, disposal=2, **lossless)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    for number in range(COUNT):
        Image.fromarray(cut_out(number)).save(path / f"{number}.png")
    return path


CLIPS = {
    "prores.mov": lambda path: encoded(path, "prores_ks", "yuva444p10le"),
    "png.mov": lambda path: encoded(path, "png", "rgba"),
    "qtrle.mov": lambda path: encoded(path, "qtrle", "argb"),
    "vp9.webm": lambda path: encoded(path, "libvpx-vp9", "yuva420p", crf="4", **{"auto-alt-ref": "0"}),
    "vp8.webm": lambda path: encoded(path, "libvpx", "yuva420p", crf="4", **{"auto-alt-ref": "0"}),
    "ffv1.mkv": lambda path: encoded(path, "ffv1", "bgra"),
    "a.png": animated,
    "a.webp": animated,
    "a.avif": animated,
    "a.gif": animated,
    "pictures": folder,
}


@pytest.fixture
def clip(tmp_path):
    return open_source(folder(tmp_path / "in"), fps=Fraction(25))


def cut_outs(clip) -> list[Frame]:
    return list(read_frames(clip, range(len(clip)), background=None))


def furthest(one, other) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("name", CLIPS)
def test_every_kind_of_clip_is_read_with_its_opacity(tmp_path, name):
    clip = open_source(CLIPS[name](tmp_path / name))
    assert is_transparent(clip, range(COUNT))
    frames = cut_outs(clip)
    assert len(frames) == COUNT
    for number, frame in enumerate(frames):
        expected = cut_out(number, soft=name != "a.gif")
        assert frame.pixels.shape == (48, 64, 3)
        assert furthest(frame.opacity, expected[..., 3]) <= 6
        inside = cut_out(number)[..., 3] == 255
        assert np.abs(frame.pixels[inside].astype(int) - expected[inside, :3]).mean() < 6
        assert frame.pixels[..., 0].min() > 150, "the black around it is not seen"


@pytest.mark.parametrize("name", CLIPS)
def test_a_color_behind_a_clip(tmp_path, name):
    clip = open_source(CLIPS[name](tmp_path / name))
    for background, color in (("white", (255, 255, 255)), ("#336699", (51, 102, 153))):
        for number, frame in enumerate(read_frames(clip, range(COUNT), background=background)):
            assert frame.opacity is None
            outside = cut_out(number)[..., 3] == 0
            # Codecs that store a color for two by two pixels mix it at the edge, below what is hardly seen.
            assert np.abs(frame.pixels[outside].astype(int) - color).mean() < 1


def test_formats_with_an_alpha_channel_that_is_full_are_not_transparent(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("prores_ks", 25, width=64, height=48, pix_fmt="yuva444p10le")
        picture = cut_out(0)
        picture[..., 3] = 255
        frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format="yuva444p10le")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = open_source(tmp_path / "a.mov")
    assert clip.pixel_format.startswith("yuva")
    assert not is_transparent(clip, range(1))


def test_only_the_chosen_frames_count(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(4):
        picture = cut_out(number) if number == 3 else cut_out(number)[..., :3]
        Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / "in" / f"{number}.png")
    clip = open_source(tmp_path / "in")
    assert is_transparent(clip, range(4))
    assert not is_transparent(clip, range(3))
    assert [int(frame.opacity.min()) for frame in cut_outs(clip)] == [255, 255, 255, 0]


# Output -> the encoding, and the most that the opacity may differ.
OUTPUTS = {
    "a.mov": (Encoding(), 2),
    "a.webm": (Encoding(), 6),
    "vp8.webm": (Encoding("libvpx"), 8),
    "prores.mkv": (Encoding("prores_ks"), 2),
    "vp9.mkv": (Encoding("libvpx-vp9"), 6),
    "ffv1.mkv": (Encoding("ffv1"), 0),
    "a.apng": (Encoding(), 0),
    "a.webp": (Encoding(), 0),
    "out": (Encoding(), 0),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_keep_opacity_and_colors_also_after_an_interruption(tmp_path, clip, name):
    encoding, most = OUTPUTS[name]
    assert keeps_transparency(tmp_path / name, encoding)
    frames = cut_outs(clip)

    def open_again():
        return open_writer(tmp_path / name, clip, clip.size, range(COUNT), replace(encoding, transparent=True), "same")

    writer = open_again()
    for frame in frames[:2]:
        writer.add(frame)
    assert writer.keep() is not None
    writer = open_again()
    assert writer.done == 2
    assert np.abs(writer.last_picture().astype(int) - frames[1].pixels).mean() < 4, "the colors without a background"
    for frame in frames[2:]:
        writer.add(frame)
    made = open_source(writer.finish())
    found = cut_outs(made)
    assert len(found) == COUNT
    assert abs(made.seconds - clip.seconds) < 0.005
    for before, after in zip(frames, found, strict=True):
        assert furthest(before.opacity, after.opacity) <= most
        solid = before.opacity >= 128
        assert np.abs(before.pixels[solid].astype(int) - after.pixels[solid]).mean() < 5


def test_a_gif_keeps_one_bit_of_opacity(tmp_path, clip):
    assert keeps_transparency(tmp_path / "a.gif", Encoding())
    writer = open_writer(tmp_path / "a.gif", clip, clip.size, range(COUNT), Encoding(transparent=True), "")
    frames = cut_outs(clip)
    for frame in frames:
        writer.add(frame)
    for before, after in zip(frames, cut_outs(open_source(writer.finish())), strict=True):
        assert set(np.unique(after.opacity)) == {0, 255}
        sure = np.abs(before.opacity.astype(int) - 128) > 8
        assert np.array_equal((before.opacity >= 128)[sure], (after.opacity == 255)[sure])


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("a.mp4", Encoding()),
        ("a.mp4", Encoding("libvpx-vp9")),
        ("a.mkv", Encoding()),
        ("a.avi", Encoding()),
        ("a.mov", Encoding(codec_options={"preset": "slow"})),
        ("a.mov", Encoding("prores_ks", codec_options={"pix_fmt": "yuv444p10le"})),
        ("a.webm", Encoding(codec_options={"pix_fmt": "yuv420p"})),
    ],
)
def test_outputs_that_cannot_hold_transparency(name, encoding):
    assert not keeps_transparency(Path(name), encoding)


def test_a_codec_that_the_container_cannot_hold_is_refused():
    with pytest.raises(ArgumentError, match=r"codec=prores_ks: webm files cannot hold it"):
        keeps_transparency(Path("a.webm"), Encoding("prores_ks"))


@pytest.mark.parametrize("name", ["a.apng", "a.webp"])
@pytest.mark.parametrize("transparent", [False, True])
def test_animated_pictures_keep_uneven_times(tmp_path, clip, name, transparent):
    clip = replace(clip, times=(0, 3, 4, 10, 11), end=60)
    encoding = Encoding(transparent=transparent)
    writer = open_writer(tmp_path / name, clip, clip.size, range(COUNT), encoding, "")
    for frame in cut_outs(clip):
        writer.add(frame)
    made = open_source(writer.finish())
    assert [float(time * made.time_base) for time in made.times] == pytest.approx([0, 0.12, 0.16, 0.4, 0.44])
    assert made.seconds == pytest.approx(2.4, abs=0.002)
    assert is_transparent(made, range(COUNT)) is transparent
