"""task=video with clips that have transparency: what methods see, what the result keeps, and what is said."""

import csv
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nstexp.core.errors import Stopped, UserError
from nstexp.core.pixels import from_array, to_array
from nstexp.core.resize import resize
from nstexp.media.video import open_source, read_frames
from nstexp.outputs import RunFolder
from nstexp.tasks.request import Request
from nstexp.tasks.video.task import video
from nstexp.tasks.video_settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED = {field.name for field in fields(Request)}


class Darker:
    """Feed-forward: the photo at three quarters of its brightness."""

    accepts = frozenset()

    def __init__(self, stops_at: int | None = None) -> None:
        self.stops_at, self.seen = stops_at, []

    def stylize(self, content, styles, controls):
        if len(self.seen) == self.stops_at:
            raise KeyboardInterrupt
        self.seen.append(content.clone())
        return 0.75 * content


def cut_out(number: int) -> np.ndarray:
    """A disk that moves to the right, RGBA uint8 (36, 48, 4), black where nothing is seen."""
    y, x = np.mgrid[:36, :48]
    opacity = np.clip((10 - np.hypot(y - 18, x - 16 - 3 * number)) * 40 + 128, 0, 255)
    pixels = np.dstack([np.full((36, 48), 200), 4 * x, 3 * y, opacity]).astype(np.uint8)
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def pictures(frames, name: str = "frames") -> str:
    Path(name).mkdir()
    for number, frame in enumerate(frames, 1):
        Image.fromarray(np.ascontiguousarray(frame)).save(f"{name}/{number}.png")
    return name


def results(path: str = "out") -> list[np.ndarray]:
    return [np.array(Image.open(file)) for file in sorted(Path(path).glob("*.png"))]


@pytest.fixture
def make(folder):
    def call(method, content: str, settings: Settings | None = None, **options):
        run = RunFolder(folder / "run")
        run.path.mkdir(exist_ok=True)
        options = {"output": "out", "identity": "same", "device": torch.device("cpu"), **options}
        asked = {name: options.pop(name) for name in ASKED & set(options)}
        return video(method, run, Request(content, "painting.jpg", **asked), settings or Settings(), **options)

    return call


def test_a_folder_keeps_its_opacity_and_methods_see_no_background(make):
    frames, method = [cut_out(number) for number in range(4)], Darker()
    make(method, pictures(frames), Settings(stabilize=0))
    for before, seen, after in zip(frames, method.seen, results(), strict=True):
        assert np.array_equal(after[..., 3], before[..., 3])
        solid = before[..., 3] == 255
        assert np.abs(after[solid, :3] - 0.75 * before[solid, :3]).max() <= 1
        assert seen[0, 0].min() > 0.75, "the disk is red, and nothing black or white is around it"
        assert seen[0, 0].max() < 0.82
    poster = np.array(Image.open("run/output.png"))
    assert np.array_equal(poster[..., 3], frames[2][..., 3])


def test_opacity_is_resized_with_the_frames(make):
    frames = [cut_out(number) for number in range(2)]
    make(Darker(), pictures(frames), image_px=24)
    for before, after in zip(frames, results(), strict=True):
        assert after.shape == (18, 24, 4)
        expected = to_array(resize(from_array(before[..., 3:]), (18, 24)))[..., 0]
        assert np.array_equal(after[..., 3], expected)


@pytest.mark.parametrize("output", ["out.mov", "out.webm", "out.apng", "out.webp", "out.gif"])
def test_clips_keep_it_too(make, output):
    make(Darker(), pictures([cut_out(number) for number in range(3)]), Settings(quality=4), output=output)
    made = open_source(Path(output))
    for number, frame in enumerate(read_frames(made, range(3), background=None)):
        expected = cut_out(number)[..., 3].astype(int)
        clear = (expected < 60) | (expected > 200) if output == "out.gif" else np.ones_like(expected, bool)
        most = 60 if output == "out.gif" else 8
        assert np.abs(frame.opacity.astype(int) - expected)[clear].max() <= most


@pytest.mark.parametrize("color", ["black", "#336699"])
def test_a_color_behind_the_clip_makes_it_opaque(make, color):
    method = Darker()
    make(method, pictures([cut_out(0)]), transparency=color)
    (made,) = results()
    assert made.shape == (36, 48, 3)
    expected = (0, 0, 0) if color == "black" else (51, 102, 153)
    assert np.array_equal((method.seen[0][0, :, 0, 0] * 255).round().int().tolist(), expected)


def test_an_output_that_cannot_hold_it_is_said_and_white(make, caplog):
    frames = pictures([cut_out(number) for number in range(3)])
    make(Darker(), frames, output="kept.mp4")
    assert [r.getMessage() for r in caplog.records if "transparency" in r.getMessage()] == [
        "output=kept.mp4: .mp4 files with this codec cannot hold the clip's transparency, which becomes white; with "
        "video.codec=null .mov, .webm, .apng and .webp files can, and folders"
    ]
    caplog.clear()
    make(Darker(), frames, output="white.mp4", transparency="white")
    assert "transparency" not in caplog.text
    assert Path("kept.mp4").read_bytes() == Path("white.mp4").read_bytes()


@pytest.mark.parametrize("output", ["out", "out.gif", "out.mov"])
def test_a_full_alpha_channel_changes_nothing(make, output, caplog):
    full = [cut_out(number) for number in range(3)]
    for frame in full:
        frame[..., 3] = 255
    make(Darker(), pictures(full, "with"), output=f"with_{output}")
    make(Darker(), pictures([frame[..., :3] for frame in full], "without"), output=f"without_{output}")
    assert "transparency" not in caplog.text
    if output == "out":
        one, other = results("with_out"), results("without_out")
        assert all(np.array_equal(a, b) and a.shape[2] == 3 for a, b in zip(one, other, strict=True))
    else:
        assert Path(f"with_{output}").read_bytes() == Path(f"without_{output}").read_bytes()


def test_a_frame_with_other_opacity_is_no_repetition(make):
    frames = [np.full((36, 48, 4), 90, np.uint8) for _ in range(4)]
    for frame, end in zip(frames, (20, 20, 30, 30), strict=True):
        frame[..., 3] = 0
        frame[:, :end, 3] = 255
    method = Darker()
    make(method, pictures(frames))
    with Path("run/frames.csv").open(newline="") as file:
        assert [int(row["repeated"]) for row in csv.DictReader(file)] == [0, 1, 0, 1]
    assert len(method.seen) == 2
    assert [int((made[..., 3] == 255).sum()) // 36 for made in results()] == [20, 20, 30, 30]


@pytest.mark.parametrize("output", ["out", "out.webp", "out.mov"])
def test_an_interrupted_clip_is_the_very_same_clip(make, output):
    frames = pictures([cut_out(number) for number in range(6)])
    make(Darker(), frames, output=f"whole_{output}")
    with pytest.raises(Stopped, match="at frame 3 of 6"):
        make(Darker(stops_at=3), frames, output=output)
    make(Darker(), frames, output=output)
    whole, found = (open_source(Path(name)) for name in (f"whole_{output}", output))
    pairs = [list(read_frames(clip, range(6), background=None)) for clip in (whole, found)]
    for one, other in zip(*pairs, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert np.array_equal(one.opacity, other.opacity)


@pytest.mark.parametrize("output", ["out", "out.mov"])
def test_without_its_state_the_work_goes_on_too(make, output):
    frames = pictures([cut_out(number) for number in range(6)])
    with pytest.raises(Stopped, match="at frame 3 of 6"):
        make(Darker(stops_at=3), frames, output=output)
    Path(f"{output}.partial.safetensors").unlink()
    make(Darker(), frames, output=output)
    made = open_source(Path(output))
    for number, frame in enumerate(read_frames(made, range(6), background=None)):
        assert np.abs(frame.opacity.astype(int) - cut_out(number)[..., 3]).max() <= 2


@pytest.mark.parametrize(("name", "transparent", "expected"), [
    ("a.webp", True, "output.webp"),
    ("a.png", True, "output.apng"),
    ("a.gif", True, "output.gif"),
    ("a.webp", False, "output.mp4"),
    ("a.png", False, "output.mp4"),
])  # fmt: skip
def test_the_result_in_the_run_folder_is_of_a_kind_that_keeps_it(make, name, transparent, expected):
    frames = [Image.fromarray(np.ascontiguousarray(cut_out(n)[..., : 4 if transparent else 3])) for n in range(2)]
    frames[0].save(name, save_all=True, append_images=frames[1:], duration=40, disposal=1)
    made = make(Darker(), name, output=None)
    assert made.name == expected


def test_a_codec_that_the_output_cannot_hold_is_refused_before_the_work(make):
    method = Darker()
    with pytest.raises(UserError, match=r"^video\.codec=prores_ks: webm files cannot hold it"):
        make(method, pictures([cut_out(0)]), Settings(codec="prores_ks"), output="out.webm")
    assert not method.seen
    assert not list(Path().glob("out*"))
