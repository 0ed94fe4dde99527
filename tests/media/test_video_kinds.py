"""Clips of unusual kinds, as players show them: turned and mirrored, of several sizes, with covers, HDR, animations."""

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from nstexp.core.errors import UserError
from nstexp.media.video import Encoding, open_source, open_writer, read_frames

ONE = 1 << 16
# a, b, c, d of the eight display matrices: x' = a x + c y, y' = b x + d y
EIGHT = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)]
EIGHT += [(0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0)]


def corners(size) -> np.ndarray:
    """A picture whose eight orientations all look different."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[: size[0] // 2, : size[1] // 2] = 220
    pixels[: size[0] // 2, size[1] // 2 :] = 110
    return pixels


def mux(container, codec, pictures, rate=25, tags=(), matrix=None, **options) -> None:
    """Encode pictures (H, W, 3) into a new stream; `tags` are H.273 matrix, primaries, transfer."""
    height, width = pictures[0].shape[:2]
    format = options.pop("pix_fmt", "yuv420p")
    aspect = options.pop("aspect", None)
    stream = container.add_stream(codec, rate, width=width, height=height, pix_fmt=format, options=options)
    if matrix is not None:
        a, b, c, d = (round(value * ONE) for value in matrix)
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
    if aspect:
        stream.codec_context.sample_aspect_ratio = aspect
    if tags:
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = tags
        context.color_range = 1
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb48le" if picture.dtype == np.uint16 else "rgb24")
        matrix_of = {"dst_colorspace": {1: 1, 6: 5, 9: 9}[tags[0]], "src_color_range": 2} if tags else {}
        frame = frame.reformat(format=format, **matrix_of, **({"dst_color_range": 1} if tags else {}))
        frame.pts = number
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def make(path, pictures, codec="libx264", **options) -> Path:
    with av.open(str(path), "w") as container:
        mux(container, codec, pictures, **options)
    return path


def frames_of(path, reader="auto") -> list[np.ndarray]:
    clip = open_source(path)
    return [frame.pixels for frame in read_frames(clip, range(len(clip)), reader)]


def as_shown(picture, a, b, c, d) -> np.ndarray:
    """Pixel by pixel from the definition of the matrix."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    shown = np.zeros((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    shown[to_y, to_x] = picture
    return shown


# Orientations


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("matrix", EIGHT, ids=str)
def test_all_eight_orientations_are_as_players_show_them(tmp_path, name, matrix):
    original = corners((48, 80))
    path = make(tmp_path / name, [original] * 3, matrix=matrix, crf="4")
    expected = as_shown(original, *matrix)
    clip = open_source(path)
    assert clip.size == expected.shape[:2]
    for reader in ("auto", "av"):
        found = frames_of(path, reader)
        assert len(found) == 3
        assert np.abs(found[2].astype(int) - expected).mean() < 3


def test_the_orientation_of_a_black_beginning_is_not_guessed(tmp_path):
    """decord turns the frames of no Matroska file, which black ones do not show."""
    original = corners((48, 80))
    path = make(tmp_path / "a.mkv", [original * 0, original], matrix=(-1, 0, 0, -1), crf="4")
    assert np.abs(frames_of(path)[1].astype(int) - original[::-1, ::-1]).mean() < 3


def test_pixels_that_are_not_square_are_turned_too(tmp_path):
    path = make(tmp_path / "a.mp4", [corners((48, 80))] * 2, matrix=EIGHT[4], aspect=Fraction(4, 3))
    assert open_source(path).aspect == Fraction(3, 4)


def test_an_odd_angle_is_said_and_becomes_the_nearest(tmp_path, caplog):
    original, angle = corners((48, 80)), np.radians(100)
    matrix = (np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle))
    path = make(tmp_path / "a.mp4", [original] * 2, matrix=matrix, crf="4")
    assert np.abs(frames_of(path)[0].astype(int) - as_shown(original, 0, 1, -1, 0)).mean() < 3
    assert "less than a right angle" in caplog.text


def test_a_matrix_of_zeros_turns_nothing(tmp_path):
    path = make(tmp_path / "a.mp4", [corners((48, 80))] * 2, matrix=(1, 0, 0, 1))
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 40
    path.write_bytes(data[:at] + bytes(36) + data[at + 36 :])
    assert np.abs(frames_of(path)[0].astype(int) - corners((48, 80))).mean() < 4


# Sizes


def joined(path, *parts, **options) -> Path:
    """One stream out of several, as `cat` joins them."""
    data = b""
    for number, pictures in enumerate(parts):
        part = make(path.with_name(f"{number}.h264"), pictures, crf="4", bf="0", **options)
        data += part.read_bytes()
        part.unlink()
    raw = path.with_suffix(".h264")
    raw.write_bytes(data)
    with av.open(str(raw)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 25), stream
            new.mux(packet)
    raw.unlink()
    return path


@pytest.mark.parametrize("reader", ["auto", "av"])
@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
def test_a_clip_that_changes_its_size_keeps_its_proportions_and_says_so(tmp_path, caplog, name, reader):
    def circle(size):
        y, x = np.mgrid[: size[0], : size[1]]
        inside = (y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2 < (min(size) / 3) ** 2
        return np.where(inside[..., None], 230, 60).astype(np.uint8).repeat(3, 2)

    path = joined(tmp_path / name, [circle((96, 128))] * 6, [circle((96, 64))] * 6, [circle((192, 256))] * 6)
    found = frames_of(path, reader)
    assert {frame.shape for frame in found} == {(96, 128, 3)}
    assert len(found) == 18
    for frame in found:
        rows, columns = (np.flatnonzero((frame > 150).any(2).any(axis)) for axis in (1, 0))
        assert abs(np.ptp(rows) - np.ptp(columns)) <= 2, "a circle is still one"
    assert found[8][:, :30].max() < 20, "black at the sides"
    assert found[8][48, 34:40].min() > 40
    assert found[14][:, :4].min() > 40, "the same proportions fill the frame"
    assert "from frame 7 on its pictures have 64x96 px instead of 128x96" in caplog.text
    assert "from frame 13 on its pictures have 256x192 px" in caplog.text


def test_pixels_that_change_their_shape_with_the_size_are_kept_in_proportion(tmp_path):
    original = np.full((96, 128, 3), 200, np.uint8)
    squeezed = np.full((96, 64, 3), 200, np.uint8)
    first = make(tmp_path / "0.h264", [original] * 4, bf="0").read_bytes()
    second = make(tmp_path / "1.h264", [squeezed] * 4, bf="0", aspect=Fraction(2)).read_bytes()
    (tmp_path / "a.h264").write_bytes(first + second)
    assert frames_of(tmp_path / "a.h264")[6].min() > 150, "2:1 pixels fill it"


def test_from_the_middle_a_clip_of_two_sizes_is_the_same(tmp_path):
    rng = np.random.default_rng(0)
    parts = [[rng.integers(0, 255, (*size, 3), np.uint8) for _ in range(6)] for size in ((96, 128), (64, 96))]
    clip = open_source(joined(tmp_path / "a.mkv", *parts))
    whole = [frame.pixels for frame in read_frames(clip, range(12))]
    for begin in (0, 3, 6, 9):
        rest = [frame.pixels for frame in read_frames(clip, range(12), begin=begin)]
        assert all(np.array_equal(a, b) for a, b in zip(whole[begin:], rest, strict=True))


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "ffv1"])
@pytest.mark.parametrize("begin", [1, 7, 13])
def test_going_on_reads_the_very_same_pixels(tmp_path, codec, begin):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (12, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1) for _ in range(16)]
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    clip = open_source(make(tmp_path / "a.mkv", pictures, codec, g="6", **quiet))
    whole = [frame.pixels for frame in read_frames(clip, range(16))]
    rest = [frame.pixels for frame in read_frames(clip, range(16), begin=begin)]
    assert all(np.array_equal(a, b) for a, b in zip(whole[begin:], rest, strict=True))


def test_interlaced_clips_are_said(tmp_path, caplog):
    path = make(tmp_path / "a.mkv", [corners((96, 128))] * 4, **{"x264-params": "interlaced=1:tff=1"})
    assert len(frames_of(path)) == 4
    assert "is interlaced" in caplog.text


# Covers


def film(count=6) -> list[np.ndarray]:
    return [np.full((48, 64, 3), 40 + 20 * number, np.uint8) for number in range(count)]


COVER = np.full((100, 100, 3), (250, 0, 0), np.uint8)


@pytest.mark.parametrize("reader", ["auto", "av"])
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_a_cover_before_the_film_is_not_the_film(tmp_path, name, marked, reader):
    with av.open(str(tmp_path / "cover.mjpeg"), "w") as container:
        mux(container, "mjpeg", [COVER], pix_fmt="yuvj420p")
    with av.open(str(tmp_path / "cover.mjpeg")) as cover, av.open(str(tmp_path / name), "w") as container:
        still = container.add_stream_from_template(cover.streams.video[0], opaque=True)
        if marked:
            still.disposition = 1024
        packets = [packet for packet in cover.demux() if packet.size]
        stream = container.add_stream("libx264", 25, width=64, height=48, pix_fmt="yuv420p", options={"crf": "4"})
        container.start_encoding()
        packets[0].pts = packets[0].dts = 0
        packets[0].stream = still
        container.mux(packets[0])
        for number, picture in enumerate(film()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = frames_of(tmp_path / name, reader)
    assert [round(float(frame.mean())) for frame in found] == pytest.approx([40 + 20 * n for n in range(6)], abs=3)
    assert found[0].shape == (48, 64, 3)
    clip = open_source(tmp_path / name)
    writer = open_writer(tmp_path / "out.mp4", clip, clip.size, range(6), Encoding(), "")
    for frame in read_frames(clip, range(6)):
        writer.add(frame)
    assert open_source(writer.finish()).times == clip.times or name == "a.mkv"


def test_of_two_films_the_first_is_taken(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("ffv1", 25, width=64, height=48, pix_fmt="bgr0") for _ in range(2)]
        container.start_encoding()
        for number in range(5):
            for value, stream in zip((50, 150), streams, strict=True):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame.reformat(format="bgr0")))
        for stream in streams:
            container.mux(stream.encode(None))
    assert [int(frame.mean()) for frame in frames_of(tmp_path / "a.mkv")] == [50] * 5


# Animations


@pytest.mark.parametrize("name", ["a.webp", "a.avif", "a.png", "a.gif", "wrong ending.mp4"])
def test_animated_pictures_are_clips_with_their_own_times(tmp_path, name):
    frames = [Image.fromarray(picture) for picture in film(5)]
    format = "WEBP" if name.endswith("mp4") else None
    frames[0].save(tmp_path / name, format, save_all=True, append_images=frames[1:], duration=[100, 200, 50, 300, 90])
    clip = open_source(tmp_path / name)
    assert [time * clip.time_base * 1000 for time in clip.times] == [0, 100, 300, 350, 650]
    assert clip.seconds == pytest.approx(0.74, abs=0.011)
    found = [frame.pixels for frame in read_frames(clip, range(5))]
    assert [round(float(picture.mean())) for picture in found] == pytest.approx([40, 60, 80, 100, 120], abs=2)
    (third,) = read_frames(clip, range(2, 3))
    assert np.array_equal(third.pixels, found[2])
    writer = open_writer(tmp_path / "out.mp4", clip, clip.size, range(5), Encoding(), "")
    for frame in read_frames(clip, range(5)):
        writer.add(frame)
    made = open_source(writer.finish())
    assert [time * made.time_base * 1000 for time in made.times] == [0, 100, 300, 350, 650]


@pytest.mark.parametrize("name", ["a.webp", "a.avif", "a.png"])
def test_transparency_of_animations_is_over_white(tmp_path, name):
    frames = [Image.new("RGBA", (64, 48), (0, 0, level, 0 if level else 255)) for level in (0, 200, 0)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100, disposal=1)
    means = [frame.mean() for frame in frames_of(tmp_path / name)]
    assert means == pytest.approx([0, 255, 0], abs=2)


def test_a_still_webp_is_one_picture_and_a_cut_off_animation_is_damaged(tmp_path):
    Image.fromarray(film()[0]).save(tmp_path / "still.webp")
    with pytest.raises(UserError, match="this is one picture"):
        open_source(tmp_path / "still.webp", "content")
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)) for _ in range(5)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    (tmp_path / "a.webp").write_bytes((tmp_path / "a.webp").read_bytes()[:-4000])
    with pytest.raises(UserError, match=r"content=.*a\.webp: ") as raised:
        open_source(tmp_path / "a.webp", "content")
    assert "\n" not in str(raised.value)


def test_large_animations_are_refused_by_their_header(tmp_path):
    frames = [Image.new("RGB", (400, 300), (level, 0, 0)) for level in (0, 90)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="400x300 px is over the limit"):
        open_source(tmp_path / "a.webp", max_input_megapixels=0.1)


# HDR and wide colors


def pq(nits) -> np.ndarray:
    """SMPTE ST 2084."""
    y = (np.asarray(nits) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(nits) -> np.ndarray:
    """ITU-R BT.2100, gray of a screen of 1000 cd/m2."""
    e = (np.asarray(nits) / 1000) ** (1 / 1.2)
    return np.where(
        e <= 1 / 12, np.sqrt(3 * e), 0.17883277 * np.log(np.maximum(12 * e - 0.28466892, 1e-9)) + 0.55991073
    )


def columns(values) -> np.ndarray:
    """Columns of 16 px with R'G'B' in [0, 1], 16 bits."""
    colors = np.asarray(values, float)
    colors = colors[:, None].repeat(3, 1) if colors.ndim == 1 else colors
    return (colors * 65535).round().astype(np.uint16).repeat(16, 0)[None].repeat(48, 0)


@pytest.mark.parametrize(("transfer", "curve"), [(16, pq), (18, hlg)])
def test_hdr_is_tone_mapped(tmp_path, caplog, transfer, curve):
    nits = [0, 5, 50, 100, 203, 400, 900]
    path = make(tmp_path / "a.mkv", [columns(curve(nits))] * 2, "libx265", pix_fmt="yuv420p10le", tags=(9, 9, transfer),
                crf="4", **{"x265-params": "log-level=none"})  # fmt: skip
    with caplog.at_level(logging.INFO):
        clip = open_source(path)
    assert f"HDR ({'PQ' if transfer == 16 else 'HLG'}), BT.2020" in caplog.text
    first, second = frames_of(path)
    assert np.array_equal(first, second)
    shades = first[24, 8::16].astype(int)
    assert np.ptp(shades, axis=1).max() <= 2, "gray stays gray"
    levels = shades.mean(1)
    assert levels[0] <= 1
    assert (np.diff(levels) > 5).all(), "nothing is clipped"
    assert 130 < levels[4] < 215, "white paper is bright"
    assert levels[6] > 195
    writer = open_writer(tmp_path / "out.mp4", clip, clip.size, range(2), Encoding(), "")
    for frame in read_frames(clip, range(2)):
        writer.add(frame)
    made = open_source(writer.finish())
    assert (made.colors.matrix, made.colors.primaries, made.colors.transfer, made.converted) == (1, 1, 1, "")
    assert np.abs(frames_of(tmp_path / "out.mp4")[0].astype(int) - first)[:, 4::16].mean() < 4


def test_wide_colors_become_those_of_usual_screens(tmp_path):
    # BT.709's red, green and blue and a gray in BT.2020's primaries (ITU-R BT.2087), gamma 2.4 as of screens.
    linear = np.array([[0.6274, 0.0691, 0.0164], [0.3293, 0.9195, 0.0880], [0.0433, 0.0114, 0.8956], [0.2, 0.2, 0.2]])
    path = make(tmp_path / "a.mkv", [columns(linear ** (1 / 2.4))] * 2, "libx265", pix_fmt="yuv444p10le",
                tags=(9, 9, 14), crf="2", **{"x265-params": "log-level=none"})  # fmt: skip
    assert open_source(path).converted == "BT.2020"
    colors = frames_of(path)[0][24, 8::16].astype(int)
    gray = round(255 * 0.2 ** (1 / 2.4))
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (gray, gray, gray)]
    # swscale compresses what lies at the limits.
    assert np.abs(colors - expected).max() <= 75, colors.tolist()
    assert (colors[:3].argmax(1) == (0, 1, 2)).all()
    assert np.abs(colors[3] - gray).max() <= 3


def test_where_hdr_cannot_be_converted_a_sentence_says_what_to_run(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mkv", [columns([0.2, 0.5, 0.3, 0.4])], "libx265", pix_fmt="yuv420p10le", tags=(9, 9, 16),
                **{"x265-params": "log-level=none"})  # fmt: skip

    def without(*args):
        raise ValueError("no such option")

    monkeypatch.setattr("nstexp.media.video.source.to_sdr", without)
    with pytest.raises(UserError, match=r"^content=.*HDR \(PQ\).*ffmpeg -i a\.mkv -vf ") as raised:
        open_source(path, "content")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("matrix", "name"), [(8, "YCgCo"), (14, "ICtCp")])
def test_colors_that_nothing_here_converts_are_refused(tmp_path, matrix, name):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", 25, width=64, height=48, pix_fmt="yuv420p")
        stream.codec_context.colorspace = matrix
        for number in range(2):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.colorspace = number, matrix
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match=rf"its colors are {name}, which.*ffmpeg -i"):
        open_source(tmp_path / "a.mkv")


# Transparency, times


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparency_of_webm_is_over_white(tmp_path, codec):
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[:, :32, 3] = 255
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        options = {"auto-alt-ref": "0"}
        stream = container.add_stream(codec, 25, width=64, height=48, pix_fmt="yuva420p", options=options)
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format="yuva420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = frames_of(tmp_path / "a.webm")
    assert len(found) == 4
    for frame in found:
        assert frame[:, :28].max() < 10
        assert frame[:, 36:].min() > 245


def test_what_a_file_itself_cuts_off_is_not_damage(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", 25, width=64, height=48, pix_fmt="yuv420p", options={"bf": "0"})
        for number, picture in enumerate(film()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number - 3, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = open_source(tmp_path / "a.mp4")
    assert (len(clip), clip.damage) == (3, None)
    assert [frame.pixels.mean() for frame in read_frames(clip, range(3))] == pytest.approx([100, 120, 140], abs=2)
