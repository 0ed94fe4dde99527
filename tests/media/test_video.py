"""Video files in and out, against clips whose frames carry their number as a gray level."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from nstexp.core.errors import UserError
from nstexp.media.video import Colors, Encoding, open_source, open_writer, read_frames, reading
from nstexp.media.video.source import simple_rate
from nstexp.media.video.writer import VideoWriter

HEIGHT, WIDTH, COUNT = 48, 64, 24
RED = np.full((HEIGHT, WIDTH, 3), (255, 0, 0), np.uint8)


def level(number):
    return 20 + 8 * number


def gray(number, size=(HEIGHT, WIDTH)):
    return np.full((*size, 3), level(number), np.uint8)


def make(
    path,
    codec="libx264",
    *,
    count=COUNT,
    rate=25,
    times=None,
    unit=None,
    size=(HEIGHT, WIDTH),
    picture=gray,
    audio=None,
    audio_start=0.0,
    seconds=None,
    turn=None,
    format="yuv420p",
    tags=None,
    **options,
):
    """Write a clip; `times` in `unit` seconds, `audio` a codec, `tags` the H.273 matrix and the range."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "a title"
        stream = container.add_stream(codec, rate, options={k.replace("_", "-"): str(v) for k, v in options.items()},
                                      width=size[1], height=size[0], pix_fmt=format)  # fmt: skip
        unit = unit or 1 / Fraction(rate)
        stream.codec_context.time_base = unit
        if turn is not None:
            stream.set_display_rotation(turn)
        if tags:
            stream.codec_context.colorspace, stream.codec_context.color_range = tags
        if audio:
            sound = container.add_stream(audio, 48000, layout="stereo")
            sound.codec_context.open()
            samples = sound.codec_context.frame_size or 1024
        container.start_encoding()
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            if tags:
                frame = frame.reformat(format=format, dst_colorspace={1: 1, 6: 5}[tags[0]], dst_color_range=tags[1],
                                       src_color_range=2)  # fmt: skip
            frame = frame.reformat(format=format)
            frame.pts, frame.time_base = times[number] if times else number, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio:
            noise = np.random.default_rng(0)
            layout = sound.codec_context.format.name
            for start in range(0, int(48000 * (seconds or count / rate)), samples):
                values = noise.normal(0, 0.1, (2, samples)).astype(np.float32)
                if layout.startswith("s16"):
                    values = (values * 32767).astype(np.int16)
                packed = not layout.endswith("p")
                frame = av.AudioFrame.from_ndarray(values.T.reshape(1, -1) if packed else values, layout, "stereo")
                frame.sample_rate, frame.pts = 48000, start + int(audio_start * 48000)
                frame.time_base = Fraction(1, 48000)
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


@pytest.fixture(autouse=True)
def own_handlers(monkeypatch):
    """Without those that another test's run has left, whose stderr is closed."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [h for h in root.handlers if type(h).__module__.startswith("_pytest")])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with the clips that several tests read and none changes."""
    folder = tmp_path_factory.mktemp("clips")
    make(folder / "plain.mp4", g=8, bf=2)
    make(folder / "sound.mp4", audio="aac", g=8)
    make(folder / "opus.mkv", audio="libopus", g=8)
    return folder


def numbers(frames):
    """The numbers that the gray levels of frames stand for."""
    return [round((frame.pixels.mean() - 20) / 8) for frame in frames]


def seconds(clip):
    return [time * clip.time_base for time in clip.times]


def audio_packets(path):
    with av.open(str(path)) as container:
        found = [p for p in container.demux(*container.streams.audio) if p.size] if container.streams.audio else []
        return [(p.pts * p.time_base, p.duration * p.time_base, bytes(p)) for p in found]


def write(path, clip, frames=None, encoding=None, size=None, change=lambda pixels: pixels, stop=None):
    """Copy `frames` of a clip; with `stop`, only up to there, and keep."""
    frames = range(len(clip)) if frames is None else frames
    writer = open_writer(path, clip, size or clip.size, frames, encoding or Encoding(), "same")
    for frame in read_frames(clip, frames[writer.done : stop]):
        writer.add(frame._replace(pixels=change(frame.pixels)))
    return writer.keep() if stop else writer.finish()


def gone(folder, *expected):
    """Nothing but these files may be left."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(expected)


# Reading


def test_importing_the_package_imports_no_library():
    code = "import sys, nstexp.media.video; print([m for m in ('av', 'decord', 'torch', 'cv2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_counts_and_times_are_exact_at_a_constant_rate(clips):
    clip = open_source(clips / "plain.mp4")
    assert clip.size == (HEIGHT, WIDTH)
    assert seconds(clip) == [Fraction(n, 25) for n in range(COUNT)]
    assert (clip.rate, clip.seconds, len(clip), clip.damage) == (25, COUNT / 25, COUNT, None)
    assert numbers(read_frames(clip, range(COUNT))) == list(range(COUNT))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_ntsc_rates_stay_fractions(tmp_path, name):
    clip = open_source(make(tmp_path / name, rate=Fraction(24000, 1001)))
    assert clip.rate == Fraction(24000, 1001)
    error = max(abs(a - n * Fraction(1001, 24000)) for n, a in enumerate(seconds(clip)))
    assert error <= (Fraction(1, 2000) if name.endswith("mkv") else 0)  # Matroska counts milliseconds


@pytest.mark.parametrize("reader", ["decord", "av"])
def test_variable_rates_keep_their_times(tmp_path, reader):
    times = [n * 40 + (n % 5) * 7 + (n > 10) * 500 for n in range(COUNT)]
    clip = open_source(make(tmp_path / "a.mp4", times=times, unit=Fraction(1, 1000), bf=2))
    frames = list(read_frames(clip, range(COUNT), reader))
    assert [f.time * clip.time_base * 1000 for f in frames] == times
    assert [clip.until(index) for index in range(COUNT)] == [*clip.times[1:], clip.end]
    assert numbers(frames) == list(range(COUNT))


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["auto", "av"])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": 8, "bf": 3}),
        ("open.mp4", "libx264", {"g": 8, "bf": 3, "x264_params": "open-gop=1"}),
        ("a.ts", "libx264", {"g": 8, "bf": 3}),  # decord begins such files at the second keyframe
        ("a.mkv", "libx265", {"x265_params": "keyint=8:open-gop=1:log-level=none"}),  # and misses here by a second
        ("a.avi", "libx264", {"g": 8, "bf": 2}),  # times of such files are out of order
        ("a.mpg", "mpeg2video", {"b": "2M", "bf": 2}),
        ("a.webm", "libvpx", {"auto_alt_ref": 1, "lag_in_frames": 10, "b": "200k"}),
    ],
)
def test_seeking_is_exact_to_the_frame(tmp_path, reader, name, codec, options):
    clip = open_source(make(tmp_path / name, codec, **options))
    assert len(clip) == COUNT
    for first in (0, 1, 7, 8, 9, 16, COUNT - 1):
        assert numbers(read_frames(clip, range(first, COUNT), reader)) == list(range(first, COUNT))


def test_seeking_does_not_decode_what_comes_before(tmp_path, monkeypatch):
    clip = open_source(make(tmp_path / "a.mp4", count=100, g=10, picture=lambda n, size: gray(n % 25, size)))
    decoded = []
    monkeypatch.setattr(
        reading, "decode", lambda *a, original=reading.decode: (decoded.append(f) or f for f in original(*a))
    )
    assert numbers(read_frames(clip, range(90, 92), "av")) == [15, 16]
    assert 0 < len(decoded) < 60


def test_time_windows_in_seconds_become_frames(clips):
    clip = open_source(clips / "plain.mp4")
    assert clip.between(None, None) == range(COUNT)
    assert clip.between(0.2, 0.4) == range(5, 10)  # 0.4 belongs to the next window
    assert clip.between(0.201, None) == range(6, COUNT)
    for large in (99, float("inf"), 10**400):
        assert clip.between(None, large) == range(COUNT)
    assert clip.between(0.95, None) == clip.between(0.95, 0.955) == range(COUNT - 1, COUNT)  # which is still shown
    for start, end, words in [
        (0.4, 0.2, "^end=0.2"),
        (5, 0, "^end=0: must be after start=5"),
        (None, 0, "^end=0: must be after start=0"),
        (5, None, "lasts only 0.96"),
        (0.96, None, "lasts only 0.96"),
        (float("inf"), None, "lasts only 0.96"),
        (-1, None, "^start=-1"),
        (0.201, 0.202, "no frame"),
    ]:
        with pytest.raises(UserError, match=words):
            clip.between(start, end)


@pytest.mark.parametrize("turn", [0, 90, 180, -90])
def test_rotation_is_applied(tmp_path, turn):
    def corner(number, size):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[: size[0] // 2, : size[1] // 2] = 200  # at the upper left
        return pixels

    clip = open_source(make(tmp_path / "a.mp4", size=(96, 128), turn=turn, picture=corner, count=3))
    expected = np.rot90(corner(0, (96, 128)), turn // 90)
    assert clip.size == expected.shape[:2]
    for reader in ("auto", "av"):
        frame = next(read_frames(clip, range(3), reader))
        assert np.abs(frame.pixels.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (720, 1280)])
@pytest.mark.parametrize("tags", [(6, 1), (1, 1), (6, 2), (1, 2)])
@pytest.mark.parametrize("reader", ["auto", "av"])
def test_tagged_colors_are_read_rightly(tmp_path, size, tags, reader):
    path = make(tmp_path / "a.mp4", size=size, tags=tags, picture=lambda n, s: np.resize(RED, (*s, 3)), count=2, crf=5)
    clip = open_source(path)
    assert (clip.colors.matrix, clip.colors.full_range, clip.colors.tagged) == (tags[0], tags[1] == 2, True)
    pixels = next(read_frames(clip, range(1), reader)).pixels
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(("size", "matrix"), [((HEIGHT, WIDTH), 6), ((720, 1280), 1)])
def test_untagged_colors_follow_the_height_as_in_players(tmp_path, size, matrix):
    # The pixels are made for `matrix`, the file does not say so.
    def coded(number, size):
        return np.resize(RED, (*size, 3))

    path = make(tmp_path / "tagged.mp4", size=size, tags=(matrix, 1), picture=coded, count=2, crf=5)
    with av.open(str(path)) as tagged, av.open(str(tmp_path / "a.mp4"), "w") as untagged:
        stream = untagged.add_stream("libx264", 25, options={"crf": "5"}, width=size[1], height=size[0])
        for number, frame in enumerate(tagged.decode(video=0)):
            plain = av.VideoFrame(size[1], size[0], "yuv420p")
            for target, plane in zip(plain.planes, frame.planes, strict=True):
                rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
                padded = np.zeros((target.height, target.line_size), np.uint8)
                padded[:, : target.width] = rows
                target.update(padded.tobytes())
            plain.pts, plain.time_base = number, Fraction(1, 25)
            untagged.mux(stream.encode(plain))
        untagged.mux(stream.encode(None))
    clip = open_source(tmp_path / "a.mp4")
    assert not clip.colors.tagged
    assert np.abs(next(read_frames(clip, range(1))).pixels.astype(int) - (255, 0, 0)).max() <= 4


def test_both_readers_give_the_same_pixels(clips):
    clip = open_source(clips / "plain.mp4")
    for a, b in zip(read_frames(clip, range(COUNT), "decord"), read_frames(clip, range(COUNT), "av"), strict=True):
        assert a.time == b.time
        assert np.abs(a.pixels.astype(int) - b.pixels).max() <= 1


def test_without_decord_the_other_reader_is_chosen_and_named(clips, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "decord", None)
    clip = open_source(clips / "plain.mp4")
    with caplog.at_level(logging.INFO):
        assert numbers(read_frames(clip, range(COUNT))) == list(range(COUNT))
    assert "PyAV instead of decord (decord is not installed)" in caplog.text
    with pytest.raises(UserError, match=r"^reader=decord: cannot read .*use reader=auto$"):
        next(read_frames(clip, range(COUNT), "decord"))


def test_where_decord_fails_the_other_reader_goes_on(clips, monkeypatch, caplog):
    decord = pytest.importorskip("decord")
    clip = open_source(clips / "plain.mp4")
    calls = []

    def failing(self, original=decord.VideoReader.next):
        calls.append(1)
        if len(calls) > 5:
            raise decord.DECORDError("damaged")
        return original(self)

    monkeypatch.setattr(decord.VideoReader, "next", failing)
    with caplog.at_level(logging.INFO):
        assert numbers(read_frames(clip, range(COUNT))) == list(range(COUNT))
    assert "decord fails at frame 5" in caplog.text


def test_an_unknown_reader_is_refused(clips):
    with pytest.raises(UserError, match=r"^reader=vlc is unknown, choose one of auto, decord, av"):
        read_frames(open_source(clips / "plain.mp4"), range(3), "vlc")


# Damaged and wrong input


def test_a_hole_in_the_frames_costs_only_what_is_in_it(clips, tmp_path, caplog):
    data = bytearray((clips / "plain.mp4").read_bytes())
    with av.open(str(clips / "plain.mp4")) as container:
        hurt = [p for p in container.demux(video=0) if p.size][12]
    data[hurt.pos : hurt.pos + hurt.size] = bytes(hurt.size)
    (tmp_path / "a.mp4").write_bytes(data)
    clip = open_source(tmp_path / "a.mp4")
    with caplog.at_level(logging.INFO):
        found = list(read_frames(clip, range(COUNT)))
    assert 15 <= len(found) < COUNT
    assert f"{len(found)} of {COUNT} frames could be read" in caplog.text
    assert {f.time for f in found} < set(clip.times)
    assert numbers(found)[-1] == COUNT - 1


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_of_a_truncated_file_the_rest_is_read(tmp_path, suffix):
    def noise(number, size):
        return np.random.default_rng(number).integers(0, 255, (*size, 3), np.uint8)

    clip = open_source(make(tmp_path / "made.mkv", picture=noise))
    whole = write(tmp_path / f"whole{suffix}", clip).read_bytes()  # an mp4 with its index in front
    (tmp_path / f"part{suffix}").write_bytes(whole[: len(whole) // 3])
    clip = open_source(tmp_path / f"part{suffix}")
    assert "are missing" in clip.damage or "ends after" in clip.damage
    found = list(read_frames(clip, range(len(clip))))
    assert 0 < len(found) < COUNT // 2


def bad_inputs(folder):
    plain = make(folder / "plain.mp4", count=4)
    data = plain.read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("hello " * 100)
    (folder / "text.txt").write_text("hello " * 100)
    (folder / "header.mp4").write_bytes(data[:20] + bytes(200) + data[220 : len(data) // 2])
    (folder / "codec.mp4").write_bytes(data.replace(b"avc1", b"zzzz"))
    make(folder / "frames.mp4", count=0)
    (folder / "nothing").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "photo.jpg")
    with av.open(str(folder / "sound.mp3"), "w") as container, av.open(str(folder / "photo.jpg")) as cover:
        sound = container.add_stream("libmp3lame", 44100)
        picture = container.add_stream_from_template(cover.streams.video[0], opaque=True)
        picture.disposition = 1024  # a cover
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1152 * 8), np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts = 44100, 0
        coded = sound.encode(av.AudioResampler("s16p", "stereo", 44100).resample(frame)[0])
        packet = next(p for p in cover.demux() if p.size)
        packet.stream = picture
        container.mux([*coded, *sound.encode(None), packet])


def test_bad_input_is_one_sentence(tmp_path, capfd):
    bad_inputs(tmp_path)
    capfd.readouterr()
    for name, words in {
        "none.mp4": "no such file",
        "nothing": "holds no picture",
        "empty.mp4": "empty",
        "text.mp4": "not a video file",
        "text.txt": "text file|not a video file",
        "header.mp4": "not a video file",
        "codec.mp4": "codec that FFmpeg cannot decode|cannot be decoded",
        "frames.mp4": "not one frame|no video|not a video",
        "photo.jpg": "one picture",
        "sound.mp3": "only sound",
    }.items():
        with pytest.raises(UserError, match=words) as raised:
            open_source(tmp_path / name, "content")
        assert str(raised.value).startswith(f"content={tmp_path / name}: ")
        assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_frames_over_the_limit_are_refused(clips):
    with pytest.raises(UserError, match="64x48 px is over the limit"):
        open_source(clips / "plain.mp4", max_input_megapixels=0.001)


# Writing


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        ("sound.mp4", "a.mp4"),
        ("sound.mp4", "a.mov"),
        ("sound.mp4", "a.mkv"),
        ("opus.mkv", "a.mp4"),
        ("opus.mkv", "a.mkv"),
        ("opus.mkv", "a.webm"),
    ],
)
def test_times_and_sound_go_through_unchanged(clips, tmp_path, origin, name):
    clip = open_source(clips / origin)
    result = open_source(write(tmp_path / name, clip))
    # In Matroska the run-in of AAC cannot be before 0: everything moves, together.
    moved = result.times[0] * result.time_base
    assert moved == (Fraction(21, 1000) if (origin, name) == ("sound.mp4", "a.mkv") else 0)
    assert [time - moved for time in seconds(result)] == seconds(clip)
    assert result.end * result.time_base - moved == clip.end * clip.time_base
    assert numbers(read_frames(result, range(COUNT))) == list(range(COUNT))
    before, after = audio_packets(clips / origin), audio_packets(tmp_path / name)
    assert len(before) > 10
    assert [data for _, _, data in after] == [data for _, _, data in before]
    unit = Fraction(1, 1000) if "mkv" in name + origin else Fraction(0)
    for a, b in zip(after, before, strict=True):
        assert abs(a[0] - b[0] - moved) <= unit
        assert abs(a[1] - b[1]) <= unit
    with av.open(str(tmp_path / name)) as container:
        assert container.metadata["title"] == "a title"
    gone(tmp_path, name)


def test_variable_rates_go_through_unchanged(tmp_path):
    times = [n * 40 + (n % 5) * 7 + (n > 10) * 500 for n in range(COUNT)]
    clip = open_source(make(tmp_path / "a.mp4", times=times, unit=Fraction(1, 90000), audio="aac"))
    result = open_source(write(tmp_path / "b.mp4", clip))
    assert (result.times, result.end, result.time_base) == (clip.times, clip.end, clip.time_base)


@pytest.mark.parametrize("sound_first", [True, False])
def test_the_distance_of_sound_and_video_is_kept(tmp_path, sound_first):
    path = make(tmp_path / "a.mp4", audio="aac", audio_start=0 if sound_first else 0.25,
                times=[n + 6 * sound_first for n in range(COUNT)])  # fmt: skip
    clip = open_source(path)
    result = open_source(write(tmp_path / "b.mp4", clip))
    assert seconds(result) == seconds(clip)
    assert audio_packets(tmp_path / "b.mp4") == audio_packets(path)
    assert abs(audio_packets(path)[0][0] - seconds(clip)[0]) > 0.2


def test_a_trimmed_clip_has_the_sound_of_its_time(clips, tmp_path):
    clip = open_source(clips / "sound.mp4")
    frames = clip.between(0.2, 0.6)
    result = open_source(write(tmp_path / "a.mp4", clip, frames))
    assert seconds(result) == [Fraction(n, 25) for n in range(10)]
    assert result.seconds == 0.4
    assert numbers(read_frames(result, range(10))) == list(range(5, 15))
    expected = [p for p in audio_packets(clips / "sound.mp4") if Fraction(1, 5) <= p[0] < Fraction(3, 5)]
    found = audio_packets(tmp_path / "a.mp4")
    assert len(found) > 10
    assert [p[2] for p in found] == [p[2] for p in expected]
    assert [p[0] for p in found] == [p[0] - Fraction(1, 5) for p in expected]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "codec"), [("a.webm", "opus"), ("a.avi", "mp3float")])
def test_sound_that_does_not_fit_is_recoded_and_said(clips, tmp_path, caplog, name, codec):
    clip = open_source(clips / "opus.mkv" if name == "a.avi" else clips / "sound.mp4")
    result = open_source(write(tmp_path / name, clip))
    assert result.audio == (codec,)
    packets = audio_packets(tmp_path / name)
    assert abs(packets[-1][0] + packets[-1][1] - clip.seconds) < 0.1
    assert numbers(read_frames(result, range(COUNT))) == list(range(COUNT))
    assert [r.levelname for r in caplog.records if "recoded with" in r.message] == ["WARNING"]


def test_the_recoded_sound_is_the_same_sound(clips, tmp_path):
    write(tmp_path / "a.webm", open_source(clips / "sound.mp4"))

    def samples(path):
        with av.open(str(path)) as container:
            mono = av.AudioResampler("flt", "mono", 48000)
            parts = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in mono.resample(frame)]
        return np.concatenate(parts)

    before, after = samples(clips / "sound.mp4"), samples(tmp_path / "a.webm")
    length = min(len(before), len(after)) - 4000
    best = max(np.corrcoef(before[2000 : length - 2000], np.roll(after, k)[2000 : length - 2000])[0, 1]
               for k in range(-1500, 1500, 4))  # fmt: skip
    assert best > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (720, 1280)])
@pytest.mark.parametrize("tags", [None, (6, 1), (1, 1), (1, 2)])
def test_red_in_is_red_out(tmp_path, size, tags):
    clip = open_source(make(tmp_path / "a.mp4", size=size, tags=tags, count=2))
    path = write(tmp_path / "b.mp4", clip, encoding=Encoding(quality=10), change=lambda p: np.resize(RED, p.shape))
    result = open_source(path)
    matrix = tags[0] if tags else 1 if size[0] >= 720 else 6
    assert result.colors == Colors(matrix, matrix, matrix, full_range=False, tagged=True)
    for reader in ("auto", "av"):
        assert np.abs(next(read_frames(result, range(1), reader)).pixels.astype(int) - (255, 0, 0)).max() <= 4


def test_odd_sizes_grow_by_an_edge_which_is_said(clips, tmp_path, caplog):
    clip = open_source(clips / "plain.mp4")
    with caplog.at_level(logging.INFO):
        path = write(tmp_path / "a.mp4", clip, size=(HEIGHT - 1, WIDTH - 3), change=lambda p: p[1:, 3:])
    result = open_source(path)
    assert result.size == (HEIGHT, WIDTH - 2)
    assert numbers(read_frames(result, range(COUNT))) == list(range(COUNT))
    assert sum("even sizes only" in r.message for r in caplog.records) == 1


def test_the_shape_of_pixels_is_kept(clips, tmp_path):
    import dataclasses

    clip = dataclasses.replace(open_source(clips / "plain.mp4"), aspect=Fraction(4, 3))
    for name in ("a.mp4", "a.mkv"):
        assert open_source(write(tmp_path / name, clip)).aspect == Fraction(4, 3)


@pytest.mark.parametrize(
    ("codec", "name"),
    [("libx265", "a.mp4"), ("ffv1", "a.mkv"), ("libsvtav1", "a.mp4"), ("mpeg4", "a.mp4"), ("mjpeg", "a.mov")],
)
def test_other_codecs_work_and_are_silent(clips, tmp_path, capfd, codec, name):
    clip = open_source(clips / "sound.mp4")
    write(tmp_path / name, clip, encoding=Encoding(codec), stop=7)
    result = open_source(write(tmp_path / name, clip, encoding=Encoding(codec)))
    assert seconds(result)[1] - seconds(result)[0] == Fraction(1, 25)
    assert numbers(read_frames(result, range(COUNT))) == list(range(COUNT))
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="a matter of Linux")
def test_no_encoder_gives_this_process_real_time_priority(clips, tmp_path):
    """SVT-AV1 does, as root: processes that are started later would leave the others no time."""

    def policies() -> set[int]:
        found = set()
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):
                found.add(os.sched_getscheduler(int(thread)))
        return found

    before, clip = policies(), open_source(clips / "plain.mp4")
    writer = open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding("libsvtav1"), "")
    for number, frame in enumerate(read_frames(clip, range(COUNT))):
        writer.add(frame)
        assert number > 1 or policies() == before
    writer.finish()
    assert policies() == before


@pytest.mark.parametrize(
    ("name", "encoding", "words"),
    [
        ("a.mp4", Encoding("x264x"), r"^codec=x264x: there is no such video encoder"),
        ("a.mp4", Encoding("aac"), r"^codec=aac: there is no such video encoder"),
        ("a.webm", Encoding("libx264"), r"^codec=libx264: webm files cannot hold it"),
        ("a.avi", Encoding("libx264"), r"^codec=libx264: avi files cannot hold it"),
        ("a.mp4", Encoding(codec_options={"crff": "3"}), r"^codec_options: libx264 has no option crff"),
        ("a.mp4", Encoding(codec_options={"level": "much"}), r"^codec_options=.*libx264 refuses"),
        ("a.mp4", Encoding(codec_options={"pix_fmt": "yuv999"}), r"^codec_options=.*libx264 refuses"),
        ("a.mp4", Encoding(codec_options={"bf": 2}), r"^codec_options: leave out what reorders frames"),
        ("a.avi", Encoding(codec_options={"bf": 2}), r"^codec_options: leave out what reorders frames"),
        ("a.wmv", Encoding(), r"^path=.*a\.wmv: cannot write '\.wmv' files"),
        ("plain.mp4", Encoding(), "this is the clip itself"),
    ],
)
def test_a_wrong_encoding_is_one_sentence_before_the_work(clips, tmp_path, name, encoding, words):
    clip = open_source(make(tmp_path / "plain.mp4"))
    with pytest.raises(UserError, match=words):
        open_writer(tmp_path / name, clip, clip.size, range(COUNT), encoding, "x")
    gone(tmp_path, "plain.mp4")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"preset": None}, r"^codec_options\.preset=null"), ({1: "a"}, r"^codec_options=\{1: 'a'\}: 1 is no")],
)
def test_options_need_a_name_and_a_value(options, words):
    with pytest.raises(UserError, match=words):
        Encoding(codec_options=options)


@pytest.mark.parametrize("name", [".", "/", "..", ""])
def test_an_output_needs_a_name(clips, name):
    clip = open_source(clips / "plain.mp4")
    with pytest.raises(UserError, match=r"^output=.*not the name of a file"):
        open_writer(name, clip, clip.size, range(COUNT), Encoding(), "x", key="output")


def test_avi_takes_even_times_only_which_is_said_before_the_work(tmp_path):
    times = [n * 40 + (n % 5) * 7 for n in range(COUNT)]
    times[8] = times[7] + 10
    clip = open_source(make(tmp_path / "a.mkv", times=times, unit=Fraction(1, 1000)))
    with pytest.raises(UserError, match=r"^path=.*b\.avi: AVI files cannot hold frames at uneven times, use \.mkv or"):
        open_writer(tmp_path / "b.avi", clip, clip.size, range(COUNT), Encoding(), "x")
    gone(tmp_path, "a.mkv")


@pytest.mark.parametrize("rate", [Fraction(120000, 1001), Fraction(500), Fraction(1, 3600)])
@pytest.mark.parametrize(
    ("codec", "name"),
    [(None, "b.avi"), (None, "b.mp4"), ("mpeg4", "b.mp4"), ("mpeg2video", "b.mkv"), ("libsvtav1", "b.mkv")],
)
def test_rates_that_encoders_do_not_know_go_through(tmp_path, rate, codec, name):
    (tmp_path / "in").mkdir()
    for number in range(6):
        Image.fromarray(gray(number)).save(tmp_path / "in" / f"{number}.png")
    clip = open_source(tmp_path / "in", fps=rate)
    result = open_source(write(tmp_path / name, clip, encoding=Encoding(codec)))
    assert numbers(read_frames(result, range(6))) == list(range(6))
    unit = Fraction(1, 1000) if name == "b.mkv" else Fraction(0)
    assert max(abs(a - b) for a, b in zip(seconds(result), seconds(clip), strict=True)) <= unit


def test_a_gif_of_a_very_slow_clip_can_be_written(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(2):
        Image.fromarray(gray(number)).save(tmp_path / "in" / f"{number}.png")
    result = open_source(write(tmp_path / "b.gif", open_source(tmp_path / "in", fps=Fraction(1, 3600))))
    assert numbers(read_frames(result, range(2))) == [0, 1]


@pytest.mark.parametrize(
    "measured", [Fraction(1, 3600), Fraction(1, 10**12), Fraction(25), Fraction(10**12), Fraction(7, 9)]
)
def test_every_rate_becomes_one_that_headers_can_hold(measured):
    rate = simple_rate(measured)
    assert 0 < max(rate.numerator, rate.denominator) < 2**31
    if 10**-9 < measured < 10**9:
        assert rate == measured


# GIF and folders


def test_a_gif_goes_out_and_in(clips, tmp_path, caplog):
    colorful = (
        np.random.default_rng(0).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    )
    clip = open_source(clips / "sound.mp4")
    with caplog.at_level(logging.INFO):
        path = write(tmp_path / "a.gif", clip, change=lambda p: p // 2 + colorful // 2)
    assert "a GIF has no sound" in caplog.text
    result = open_source(path)
    assert seconds(result) == seconds(clip)
    assert result.seconds == clip.seconds
    for before, after in zip(read_frames(clip, range(COUNT)), read_frames(result, range(COUNT)), strict=True):
        assert np.abs(after.pixels.astype(int) - (before.pixels // 2 + colorful // 2)).max() <= 8
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
    gone(tmp_path, "a.gif")


def test_a_gif_of_a_fast_clip_has_fewer_frames_but_its_speed(tmp_path, caplog):
    clip = open_source(make(tmp_path / "a.mp4", rate=100))
    with caplog.at_level(logging.INFO):
        result = open_source(write(tmp_path / "b.gif", clip))
    assert numbers(read_frames(result, range(len(result)))) == list(range(0, COUNT, 2))
    assert result.seconds == clip.seconds
    assert "12 of 24 frames" in caplog.text


def test_transparency_of_a_gif_is_white(tmp_path):
    frames = [Image.new("P", (16, 16), 0) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.putpalette([0, 0, 0, 250, 0, 0])
        frame.paste(1, (number, 0, number + 4, 16))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], transparency=0, disposal=2, duration=70)
    clip = open_source(tmp_path / "a.gif")
    assert (len(clip), clip.seconds) == (3, 0.21)
    for number, frame in enumerate(read_frames(clip, range(3))):
        expected = np.full((16, 16, 3), 255)
        expected[:, number : number + 4] = 250, 0, 0
        assert np.array_equal(frame.pixels, expected)


def test_a_folder_of_pictures_is_a_clip_in_natural_order(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(12):
        Image.fromarray(gray(number)).save(tmp_path / "in" / f"frame{number}.png")
    clip = open_source(tmp_path / "in", fps=Fraction(24000, 1001))
    assert (clip.rate, len(clip), clip.size) == (Fraction(24000, 1001), 12, (HEIGHT, WIDTH))
    assert numbers(read_frames(clip, range(2, 12))) == list(range(2, 12))
    result = open_source(write(tmp_path / "a.mp4", clip))
    assert seconds(result) == [n * Fraction(1001, 24000) for n in range(12)]
    out = write(tmp_path / "out", clip)
    assert sorted(p.name for p in out.glob("*.png")) == sorted(f"frame{n}.png" for n in range(12))
    Image.fromarray(gray(12)).save(tmp_path / "in" / "\u00b21.png")  # a digit, and no number
    assert len(open_source(tmp_path / "in")) == 13
    Image.new("RGB", (10, 10)).save(tmp_path / "in" / "frame3.png")
    with pytest.raises(UserError, match=r"frame3\.png has 10x10 px and frame0\.png 64x48"):
        open_source(tmp_path / "in")


def test_a_folder_goes_out_complete_or_not_at_all(clips, tmp_path):
    clip = open_source(clips / "plain.mp4")
    assert write(tmp_path / "out", clip, stop=5) == tmp_path / "out.partial"
    gone(tmp_path, "out.partial")
    writer = open_writer(tmp_path / "out", clip, clip.size, range(COUNT), Encoding(), "same")
    assert writer.done == 5
    assert round((writer.last_picture().mean() - 20) / 8) == 4
    writer.keep()
    assert write(tmp_path / "out", clip) == tmp_path / "out"
    gone(tmp_path, "out")
    result = open_source(tmp_path / "out")
    assert [p.name for p in result.pictures] == [f"{n:06d}.png" for n in range(1, COUNT + 1)]
    for a, b in zip(read_frames(clip, range(COUNT)), read_frames(result, range(COUNT)), strict=True):
        assert np.array_equal(a.pixels, b.pixels)
    write(tmp_path / "out", clip, range(3))  # its own folder may be replaced
    assert len(open_source(tmp_path / "out")) == 3
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        open_writer(tmp_path / "out", clip, clip.size, range(COUNT), Encoding(), "x")


def test_a_folder_of_pictures_of_the_user_is_never_replaced(clips, tmp_path):
    clip = open_source(clips / "plain.mp4")
    (tmp_path / "out").mkdir()
    Image.fromarray(gray(0)).save(tmp_path / "out" / "000001.png")
    with pytest.raises(UserError, match="holds other files"):
        open_writer(tmp_path / "out", clip, clip.size, range(COUNT), Encoding(), "x")
    assert (tmp_path / "out" / "000001.png").exists()


def test_a_folder_is_begun_with_its_mark_or_not_at_all(clips, tmp_path, monkeypatch):
    clip = open_source(clips / "plain.mp4")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            open_writer(tmp_path / "out", clip, clip.size, range(COUNT), Encoding(), "same")
    assert not (tmp_path / "out.partial").exists()
    assert write(tmp_path / "out", clip, stop=2) == tmp_path / "out.partial"
    gone(tmp_path, "out.partial")
    (tmp_path / "out.partial" / ".writing-abc.png").write_bytes(b"half")  # of a killed process
    write(tmp_path / "out", clip)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == [f"{n:06d}.png" for n in range(1, COUNT + 1)]


def test_of_a_folder_with_nothing_but_half_a_picture_nothing_is_kept(clips, tmp_path):
    clip = open_source(clips / "plain.mp4")
    writer = open_writer(tmp_path / "out", clip, clip.size, range(COUNT), Encoding(), "same")
    (writer.partial / ".writing-abc.png").write_bytes(b"half")
    assert writer.keep() is None
    gone(tmp_path)


def test_a_folder_of_other_work_is_begun_anew(clips, tmp_path, caplog):
    clip = open_source(clips / "plain.mp4")
    write(tmp_path / "out", clip, stop=5)
    writer = open_writer(tmp_path / "out", clip, clip.size, range(COUNT), Encoding(), "other")
    assert (writer.done, writer.last_picture()) == (0, None)
    assert "other settings" in caplog.text
    with pytest.raises(UserError, match="not one frame could be read"):
        writer.finish()
    assert writer.keep() is None
    gone(tmp_path)


# Where the output goes


@pytest.mark.parametrize(
    "name", [".out.mp4.lock", "out.mp4.partial.mkv", ".out.mp4.partial.mkv", ".writing-out.mp4", "out.mp4"]
)
def test_the_clip_is_never_overwritten_by_a_partial_output(clips, tmp_path, name):
    data = (clips / "plain.mp4").read_bytes()
    (tmp_path / name).write_bytes(data)
    clip = open_source(tmp_path / name)
    with pytest.raises(UserError, match=r"^path=.*out\.mp4: .*is the clip itself"):
        open_writer(tmp_path / "out.mp4", clip, clip.size, range(COUNT), Encoding(), "x")
    gone(tmp_path, name)
    assert (tmp_path / name).read_bytes() == data


@pytest.mark.parametrize("linked", [False, True])
def test_nor_is_a_folder_that_holds_the_clip(clips, tmp_path, linked):
    write(tmp_path / "out", open_source(clips / "plain.mp4"), stop=4)
    partial = tmp_path / "out.partial"
    (tmp_path / "link").symlink_to(partial)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.png").symlink_to(partial / "000001.png")
    (partial / "clip.mp4").write_bytes((clips / "plain.mp4").read_bytes())
    for path in (tmp_path / "link" if linked else partial, tmp_path / "in", partial / "clip.mp4"):
        clip = open_source(path)
        with pytest.raises(UserError, match=r"^path=.*out: the partial output, .*is the clip itself or holds it"):
            open_writer(tmp_path / "out", clip, clip.size, range(len(clip)), Encoding(), "other")
    assert len(list(partial.glob("*.png"))) == 4


def test_nor_is_a_picture_of_it(tmp_path):
    Image.fromarray(gray(0)).save(tmp_path / "a.gif")
    clip = open_source(tmp_path)
    with pytest.raises(UserError, match="is the clip itself"):
        open_writer(tmp_path / "a.gif", clip, clip.size, range(1), Encoding(), "x")


def test_a_clip_of_the_users_under_the_partial_name_stays(clips, tmp_path):
    clip = open_source(clips / "plain.mp4")
    partial = tmp_path / "a.mp4.partial.mkv"
    partial.write_bytes((clips / "sound.mp4").read_bytes())
    with pytest.raises(UserError, match="is in the way, and was not made by nstexp: remove it"):
        open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding(), "x")
    assert partial.read_bytes() == (clips / "sound.mp4").read_bytes()
    gone(tmp_path, partial.name)


def test_a_picture_that_the_user_has_put_into_an_output_folder_stays(clips, tmp_path):
    clip = open_source(clips / "plain.mp4")
    write(tmp_path / "out", clip, range(2))
    Image.fromarray(gray(0)).save(tmp_path / "out" / "holiday.png")
    with pytest.raises(UserError, match="holds other files"):
        open_writer(tmp_path / "out", clip, clip.size, range(COUNT), Encoding(), "x")
    assert (tmp_path / "out" / "holiday.png").exists()


@pytest.mark.parametrize("name", ["a.mp4", "a"])
def test_a_link_stays_and_what_it_leads_to_is_written(clips, tmp_path, name):
    clip = open_source(clips / "plain.mp4")
    (tmp_path / "real").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "real" / name)
    for _ in range(2):
        assert write(tmp_path / name, clip, range(3)) == tmp_path / name
        assert (tmp_path / name).is_symlink()
        assert len(open_source(tmp_path / "real" / name)) == 3
    gone(tmp_path, name, "real")


@pytest.mark.parametrize("name", ["a.mp4", "a"])
def test_what_is_read_only_is_not_replaced(clips, tmp_path, name):
    clip = open_source(clips / "plain.mp4")
    write(tmp_path / name, clip, range(3))
    (tmp_path / name).chmod(0o444 if name == "a.mp4" else 0o555)
    with pytest.raises(UserError, match="read-only"):
        open_writer(tmp_path / name, clip, clip.size, range(COUNT), Encoding(), "x")
    assert len(open_source(tmp_path / name)) == 3


def test_outputs_of_one_stem_do_not_meet(clips, tmp_path):
    clip = open_source(clips / "plain.mp4")
    names = ("a.mp4", "a.gif", "a")
    writers = [open_writer(tmp_path / name, clip, clip.size, range(COUNT), Encoding(), "same") for name in names]
    for frame in read_frames(clip, range(3)):
        for writer in writers:
            writer.add(frame)
    for writer in writers:
        writer.keep()
    gone(tmp_path, "a.mp4.partial.mkv", "a.gif.partial.mkv", "a.partial")


@pytest.mark.parametrize("name", ["a.mp4", "a"])
def test_only_one_run_writes_an_output(clips, tmp_path, name):
    clip = open_source(clips / "plain.mp4")
    first = open_writer(tmp_path / name, clip, clip.size, range(COUNT), Encoding(), "same")
    code = f"""
        from nstexp.core.errors import UserError
        from nstexp.media.video import *
        clip = open_source({str(clips / "plain.mp4")!r})
        try:
            open_writer({str(tmp_path / name)!r}, clip, clip.size, range({COUNT}), Encoding(), "other")
        except UserError as error:
            print(error)
    """
    frames = list(read_frames(clip, range(COUNT)))
    first.add(frames[0])
    second = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert second.stdout.startswith(f"path={tmp_path / name}: another run is writing it")
    with pytest.raises(UserError, match="another run is writing it"):
        open_writer(tmp_path / name, clip, clip.size, range(COUNT), Encoding(), "same")
    for frame in frames[1:]:
        first.add(frame)
    first.finish()
    gone(tmp_path, name)
    assert len(open_source(tmp_path / name)) == COUNT


# Interruptions


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.gif"])
@pytest.mark.parametrize("stop", [1, 13, COUNT])
def test_work_goes_on_behind_an_interruption(clips, tmp_path, name, stop):
    clip = open_source(clips / "opus.mkv")
    assert write(tmp_path / name, clip, stop=stop) == tmp_path / f"{name}.partial.mkv"
    gone(tmp_path, f"{name}.partial.mkv")
    partial = open_source(tmp_path / f"{name}.partial.mkv")
    assert numbers(read_frames(partial, range(len(partial)))) == list(range(stop))
    sound = audio_packets(tmp_path / f"{name}.partial.mkv")
    if name != "a.gif":
        assert sound
        assert sound[-1][0] <= partial.end * partial.time_base
    writer = open_writer(tmp_path / name, clip, clip.size, range(COUNT), Encoding(), "same")
    assert writer.done == stop
    assert round((writer.last_picture().mean() - 20) / 8) == stop - 1
    assert writer.keep() == tmp_path / f"{name}.partial.mkv"
    result = open_source(write(tmp_path / name, clip))
    assert seconds(result) == seconds(clip)
    assert numbers(read_frames(result, range(COUNT))) == list(range(COUNT))
    if name != "a.gif":
        assert [p[2] for p in audio_packets(tmp_path / name)] == [p[2] for p in audio_packets(clips / "opus.mkv")]
    gone(tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [(), (6, 7)])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_what_a_killed_process_leaves_plays_and_is_gone_on_from(clips, tmp_path, codec, lost):
    code = f"""
        import signal, os
        from nstexp.media.video import *
        clip = open_source({str(clips / "sound.mp4")!r})
        writer = open_writer({str(tmp_path / "a.mp4")!r}, clip, clip.size, range({COUNT}), Encoding({codec!r}), "same")
        for number, frame in enumerate(read_frames(clip, range(15))):
            if number not in {lost}:
                writer.add(frame)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = open_source(tmp_path / "a.mp4.partial.mkv")
    there = [number for number in range(COUNT) if number not in lost]
    assert 13 <= len(left) + len(lost) <= 15
    assert numbers(read_frames(left, range(len(left)))) == there[: len(left)]
    assert audio_packets(tmp_path / "a.mp4.partial.mkv")
    clip = open_source(clips / "sound.mp4")
    writer = open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding(codec), "same")
    assert writer.done == len(left) + len(lost)
    writer.keep()
    result = open_source(write(tmp_path / "a.mp4", clip, encoding=Encoding(codec)))
    assert seconds(result) == [seconds(clip)[number] for number in there]
    assert numbers(read_frames(result, range(len(result)))) == there
    assert audio_packets(tmp_path / "a.mp4") == audio_packets(clips / "sound.mp4")


def test_a_partial_file_of_other_work_is_not_gone_on_from(clips, tmp_path, caplog):
    clip = open_source(clips / "plain.mp4")
    write(tmp_path / "a.mp4", clip, stop=5)
    writer = open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding(), "other")
    assert (writer.done, writer.last_picture()) == (0, None)
    assert "other settings" in caplog.text
    assert writer.keep() is None
    gone(tmp_path)
    write(tmp_path / "a.mp4", clip, stop=5)
    changed = open_writer(tmp_path / "a.mp4", clip, (32, 32), range(COUNT), Encoding(), "same")
    assert changed.done == 0
    assert "another version of the encoder" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "zeros", "garbage", "empty"])
def test_of_a_damaged_partial_file_the_complete_frames_are_kept(clips, tmp_path, damage):
    clip = open_source(clips / "plain.mp4")
    partial = write(tmp_path / "a.mp4", clip, stop=15)
    data = bytearray(partial.read_bytes())
    if damage == "cut":
        data = data[: -len(data) // 4]
    elif damage == "zeros":
        data[-len(data) // 4 :] = bytes(len(data) // 4 + 1)
    elif damage == "garbage":
        data = b"not a video" * 99
    partial.write_bytes(b"" if damage == "empty" else data)
    writer = open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding(), "same")
    assert writer.done < 15
    if damage in ("cut", "zeros"):
        assert writer.done > 2
        assert round((writer.last_picture().mean() - 20) / 8) == writer.done - 1
    writer.keep()
    result = open_source(write(tmp_path / "a.mp4", clip))
    assert numbers(read_frames(result, range(COUNT))) == list(range(COUNT))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi", "a.gif", "a"])
@pytest.mark.parametrize("lost", [(6, 7), (0, 12), (11,)])
def test_frames_that_the_clip_has_lost_leave_a_gap_and_are_not_waited_for(clips, tmp_path, name, lost):
    clip = open_source(clips / "sound.mp4")
    done = 0
    for stop in (12, 18, COUNT):
        writer = open_writer(tmp_path / name, clip, clip.size, range(COUNT), Encoding(), "same")
        assert writer.done == done
        if done:
            assert round((writer.last_picture().mean() - 20) / 8) == done - 1
        for number, frame in enumerate(read_frames(clip, range(done, stop)), done):
            if number not in lost:
                writer.add(frame)
                done = writer.done
                assert done == number + 1
        if stop < COUNT:
            writer.keep()
    result = open_source(writer.finish())
    there = [number for number in range(COUNT) if number not in lost]
    assert numbers(read_frames(result, range(len(result)))) == there
    if name == "a":
        assert [p.name for p in result.pictures] == [f"{number + 1:06d}.png" for number in there]
    elif name != "a.gif" and name != "a.avi":  # these begin with their first frame
        assert seconds(result) == [seconds(clip)[number] for number in there]
    gone(tmp_path, name)


def test_what_a_damaged_partial_file_has_lost_is_done_again(clips, tmp_path):
    clip = open_source(clips / "plain.mp4")
    fast = Encoding(codec_options={"g": 4})  # so that frames behind the hole could be decoded
    partial = write(tmp_path / "a.mp4", clip, encoding=fast, stop=20)
    data = bytearray(partial.read_bytes())
    with av.open(str(partial)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data[places[6] - 8 : places[9] - 8] = bytes(places[9] - places[6])
    partial.write_bytes(data)
    writer = open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), fast, "same")
    assert 4 <= writer.done <= 6
    assert round((writer.last_picture().mean() - 20) / 8) == writer.done - 1
    writer.keep()
    result = open_source(write(tmp_path / "a.mp4", clip, encoding=fast))
    assert numbers(read_frames(result, range(len(result)))) == list(range(COUNT))


def test_a_partial_file_is_found_where_a_process_died_while_it_copied(clips, tmp_path):
    clip = open_source(clips / "plain.mp4")
    partial = write(tmp_path / "a.mp4", clip, stop=9)
    partial.rename(tmp_path / ".a.mp4.partial.mkv")
    partial.write_bytes(b"the beginning of a copy")
    (tmp_path / ".writing-a.mp4").write_bytes(b"and of a result")
    writer = open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding(), "same")
    assert writer.done == 9
    assert writer.keep() == partial
    gone(tmp_path, partial.name)
    assert len(open_source(partial)) == 9


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_partial_file_is_put_back_where_it_cannot_be_copied(clips, tmp_path, monkeypatch, error):
    clip = open_source(clips / "plain.mp4")
    partial = write(tmp_path / "a.mp4", clip, stop=9)
    data = partial.read_bytes()

    def failing(self, packets, original=VideoWriter._mux):
        if self.done > 4:
            raise error
        original(self, packets)

    with monkeypatch.context() as patch:
        patch.setattr(VideoWriter, "_mux", failing)
        with pytest.raises((UserError, KeyboardInterrupt)):
            open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding(), "same")
    gone(tmp_path, partial.name)
    assert partial.read_bytes() == data
    assert len(open_source(write(tmp_path / "a.mp4", clip))) == COUNT


def test_no_file_is_renamed_or_removed_while_it_is_open(clips, tmp_path, monkeypatch):
    """As on Windows, which refuses that."""
    import os

    def checked(original):
        def call(path, *others, **options):
            handles = Path("/proc/self/fd")
            opened = {os.readlink(handle) for handle in handles.iterdir() if handle.is_symlink()}
            assert str(path) not in opened or str(path).endswith(".lock")
            return original(path, *others, **options)

        return call

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs a list of the open files")
    monkeypatch.setattr(os, "replace", checked(os.replace))
    monkeypatch.setattr(Path, "unlink", checked(Path.unlink))
    clip = open_source(clips / "sound.mp4")
    for stop in (1, 9, None):
        write(tmp_path / "a.mp4", clip, stop=stop)
    gone(tmp_path, "a.mp4")
    writer = open_writer(tmp_path / "b.mp4", clip, clip.size, range(COUNT), Encoding(), "same")
    assert writer.keep() is None


@pytest.mark.parametrize("name", ["a.mp4", "a"])
def test_an_output_that_has_ended_takes_no_frame(clips, tmp_path, name):
    clip = open_source(clips / "plain.mp4")
    frames = list(read_frames(clip, range(COUNT)))
    writer = open_writer(tmp_path / name, clip, clip.size, range(COUNT), Encoding(), "same")
    writer.add(frames[0])
    with pytest.raises(ValueError, match="is not later"):
        writer.add(frames[0])
    assert writer.keep() == writer.keep() == writer.partial
    for call in (lambda: writer.add(frames[1]), writer.finish):
        with pytest.raises(RuntimeError, match="was finished or kept before"):
            call()
    write(tmp_path / name, clip)
    writer = open_writer(tmp_path / name, clip, clip.size, range(3), Encoding(), "same")
    writer.add(frames[0])
    assert writer.finish().exists()
    assert writer.keep() is None
    gone(tmp_path, name)
    idle = open_writer(tmp_path / f"b{name}", clip, clip.size, range(3), Encoding(), "same")
    assert idle.keep() is None
    other = open_writer(tmp_path / f"b{name}", clip, clip.size, range(3), Encoding(), "same")
    assert idle.keep() is None
    assert other.partial.exists()


def test_keep_waits_for_a_frame_that_is_being_written(clips, tmp_path, monkeypatch):
    clip = open_source(clips / "plain.mp4")
    frames = list(read_frames(clip, range(3)))
    writer = open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding(), "same")
    begun, inside, most = threading.Event(), [], []

    def slow(pixels, number=0, original=writer._encoder.encode):
        inside.append(number)
        most.append(len(inside))
        begun.set()
        time.sleep(0.2)
        inside.pop()
        return original(pixels, number)

    monkeypatch.setattr(writer._encoder, "encode", slow)
    adding = threading.Thread(target=lambda: writer.add(frames[0]))
    adding.start()
    begun.wait()
    assert writer.keep() == writer.partial
    adding.join()
    assert max(most) == 1
    assert len(open_source(writer.partial)) == 1


def test_keep_never_raises(clips, tmp_path, monkeypatch):
    clip = open_source(clips / "plain.mp4")
    writer = open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding(), "same")

    def failing(packets):
        raise UserError("reordered")

    monkeypatch.setattr(writer, "_mux", failing)
    assert writer.keep() is None
    gone(tmp_path)


def test_a_full_disk_is_one_sentence_and_keeps_the_partial_file(tmp_path):
    make(tmp_path / "in.mp4", picture=lambda n, s: np.random.default_rng(n).integers(0, 255, (*s, 3), np.uint8))
    code = f"""
        import resource
        from nstexp.core.errors import UserError
        from nstexp.media.video import *
        clip = open_source({str(tmp_path / "in.mp4")!r})
        writer = open_writer({str(tmp_path / "a.mp4")!r}, clip, clip.size, range({COUNT}), Encoding(), "same")
        largest = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, largest[1]))
        try:
            for frame in read_frames(clip, range({COUNT})):
                writer.add(frame)
        except UserError as error:
            print(error)
            print(writer.keep())
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)  # a measurement of coverage writes a larger file at the end
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    sentence, kept = ran.stdout.splitlines()
    assert sentence.startswith(f"path={tmp_path / 'a.mp4'}: cannot be written (File too large); ")
    assert kept == str(tmp_path / "a.mp4.partial.mkv")
    assert sentence.endswith(f"{kept} holds what is done")
    clip = open_source(tmp_path / "in.mp4")
    writer = open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding(), "same")
    assert 0 < writer.done < COUNT
    writer.keep()
    assert len(open_source(write(tmp_path / "a.mp4", clip))) == COUNT


def test_no_space_is_called_so(clips, tmp_path, monkeypatch):
    import errno

    clip = open_source(clips / "plain.mp4")
    writer = open_writer(tmp_path / "a.mp4", clip, clip.size, range(COUNT), Encoding(), "same")

    def full(packets):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_mux", full)
    with pytest.raises(UserError, match="no space left on the disk"):
        writer.add(next(read_frames(clip, range(1))))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
@pytest.mark.parametrize("name", ["a.mp4", "a"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(clips, name):
    clip = open_source(clips / "plain.mp4")
    with pytest.raises(UserError, match=rf"path=/proc/self/{name}.*cannot be written"):
        open_writer(f"/proc/self/{name}", clip, clip.size, range(COUNT), Encoding(), "x")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(tmp_path):
    code = """
        import resource, sys
        from pathlib import Path
        from nstexp.media.video import *
        clip = open_source(sys.argv[1])
        fast = Encoding(codec_options={"preset": "ultrafast"})
        writer = open_writer(sys.argv[2], clip, clip.size, range(len(clip)), fast, "x")
        for n, frame in enumerate(read_frames(clip, range(len(clip)))):
            writer.add(frame)
            if n == 40:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        writer.finish()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    path = make(
        tmp_path / "a.mp4", count=300, size=(480, 640), picture=lambda n, s: gray(n % 20, s), preset="ultrafast"
    )
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), path, tmp_path / "b.mp4"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(ran.stdout) < 60_000  # kilobytes; 260 frames are 240 000
