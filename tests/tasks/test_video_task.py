"""task=video: every method, frame by frame, steadied, resumed; what is recorded; bad input."""

import csv
import json
import logging
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from helpers import SMOKE, picture, run_folders, wait_for
from PIL import Image
from safetensors.torch import save_file

from nstexp.core.errors import Stopped, UserError
from nstexp.core.torus import edge_steps
from nstexp.media.video import Encoding, open_source, open_writer, read_frames
from nstexp.methods.base import Controls
from nstexp.outputs import RunFolder
from nstexp.tasks import protect
from nstexp.tasks.request import Request
from nstexp.tasks.video import memory, task
from nstexp.tasks.video.memory import Memory
from nstexp.tasks.video.task import video
from nstexp.tasks.video_settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (48, 64)
ASKED = {field.name for field in fields(Request)}


class Flickering:
    """Feed-forward: the photo with the first style's mean color, and noise that is new for every call."""

    accepts = frozenset({"masks"})

    def __init__(self, noise: float = 0.2) -> None:
        self.noise, self.calls, self.batches = noise, [], []
        self.generator = torch.Generator().manual_seed(0)

    def stylize(self, content, styles, controls: Controls):
        self.calls.append((content.clone(), styles, controls))
        self.batches.append(len(content))
        color = sum(s.share * s.image.mean((1, 2)) for s in styles).view(1, 3, 1, 1)
        noise = self.noise * torch.rand(content.shape, generator=self.generator)
        return (0.6 * content + 0.3 * color + noise).clamp(0, 1)


class Optimizing(Flickering):
    """One picture at a time, with its own use of the frame before."""

    optimizes = True

    def stylize(self, content, styles, controls: Controls):
        clip = controls.clip
        self.seen = [*getattr(self, "seen", []), None if clip is None else (clip.warped, clip.trust)]
        return super().stylize(content, styles, controls)


def scene(shift: float, size=SIZE, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (size[0], size[1] + 64, 3)).astype(np.float32)
    noise = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    columns = np.arange(size[1], dtype=np.float32) + shift
    x, y = np.meshgrid(columns, np.arange(size[0], dtype=np.float32))
    return cv2.remap(noise, x, y, cv2.INTER_CUBIC).round().clip(0, 255).astype(np.uint8)


def pictures(frames, name: str = "frames") -> str:
    """A folder of PNG files, which as a clip loses nothing."""
    Path(name).mkdir()
    for number, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(f"{name}/{number}.png")
    return name


def moving(count: int = 6, name: str = "frames") -> str:
    return pictures([scene(2 * n) for n in range(count)], name)


def mp4(frames, name: str = "clip.mp4", rate=Fraction(24000, 1001)) -> str:
    """The same as a video file."""
    source = open_source(Path(pictures(frames, f"{name} pictures")), fps=rate)
    size = frames[0].shape[:2]
    writer = open_writer(Path(name), source, size, range(len(frames)), Encoding(quality=4), "")
    for frame in read_frames(source, range(len(frames))):
        writer.add(frame)
    return str(writer.finish())


def results(path: str = "out") -> list[np.ndarray]:
    return [np.array(Image.open(file)) for file in sorted(Path(path).glob("*.png"))]


def frames_of(path: str) -> list[np.ndarray]:
    source = open_source(Path(path))
    return [frame.pixels for frame in read_frames(source, range(len(source)))]


@pytest.fixture
def make(folder):
    """Call the task; the result is a folder of PNG files unless it says otherwise."""

    def call(method, content: str, settings: Settings | None = None, style="painting.jpg", **options):
        run = RunFolder(folder / "run")
        run.path.mkdir(exist_ok=True)
        call.run = run
        options = {"output": "out", "identity": "same", "device": torch.device("cpu"), **options}
        asked = {name: options.pop(name) for name in ASKED & set(options)}
        return video(method, run, Request(content, style, **asked), settings or Settings(), **options)

    return call


# ----------------------------------------------------------------------------------------------------- frames and times


def test_a_clip_keeps_its_frames_times_and_size(make):
    frames = [scene(2 * n, (49, 63)) for n in range(7)]
    clip = mp4(frames)
    assert make(Flickering(0), clip, output="out.mp4") == Path("out.mp4")
    before, after = open_source(Path(clip)), open_source(Path("out.mp4"))
    assert after.rate == Fraction(24000, 1001)
    seconds = [[t * clip.time_base for t in (*clip.times, clip.end)] for clip in (before, after)]
    assert seconds[0] == seconds[1]
    assert make.run.summary.metrics["output"]["frames"] == 7
    assert make.run.summary.outputs == ["out.mp4"]
    assert not list(Path().glob("*partial*"))


def test_every_frame_is_what_the_method_makes_of_that_frame(make):
    frames = [scene(2 * n) for n in range(5)]
    make(Flickering(0), pictures(frames), Settings(stabilize=0))
    color = np.array(Image.open("painting.jpg")).mean((0, 1)) / 255
    for frame, result in zip(frames, results(), strict=True):
        np.testing.assert_allclose(result / 255, 0.6 * frame / 255 + 0.3 * color, atol=0.5 / 255 + 1e-5)


def test_a_part_of_a_clip(make):
    clip = mp4([np.full((*SIZE, 3), 20 * n, np.uint8) for n in range(8)], rate=Fraction(4))
    make(Flickering(0), clip, Settings(stabilize=0, start="0:00.5", end=1.25))
    assert [round(float(r.mean())) for r in results()] == pytest.approx(
        [0.6 * 20 * n + float(results()[0].mean()) - 0.6 * 40 for n in (2, 3, 4)], abs=2
    )


def test_image_px_is_the_longer_side_and_every_frame_has_the_pictures_own_resize(make):
    frames = [scene(n) for n in range(3)]
    method = Flickering(0)
    make(method, pictures(frames), image_px=40)
    assert results()[0].shape == (30, 40, 3)
    from nstexp.core.resize import resize
    from nstexp.media.images import load_image

    assert torch.equal(method.calls[1][0][0], resize(load_image("frames/2.png"), (30, 40)))


def test_several_frames_go_through_the_network_together_but_not_across_a_cut(make):
    frames = [scene(n) for n in range(5)] + [scene(n, seed=1) for n in range(3)]
    method = Flickering(0)
    make(method, pictures(frames), Settings(batch=4))
    assert method.batches == [4, 1, 3]
    assert len(results()) == 8
    optimizing = Optimizing(0)
    make(optimizing, "frames", Settings(batch=4), output="other")
    assert set(optimizing.batches) == {1}


def test_the_result_does_not_depend_on_the_batch(make):
    content = moving(6)
    make(Flickering(0), content, Settings(batch=1), output="one")
    make(Flickering(0), content, Settings(batch=4), output="four")
    for a, b in zip(results("one"), results("four"), strict=True):
        assert np.array_equal(a, b)


# ----------------------------------------------------------------------------------------------------------- steadiness


def test_a_clip_that_stands_still_gives_identical_frames(make):
    method = Flickering(0.3)
    make(method, pictures([scene(0)] * 6))
    first, *others = results()
    assert all(np.array_equal(first, other) for other in others)
    assert len(method.calls) == 1, "a frame that is the frame before needs no network"
    numbers = make.run.summary.metrics["output"]
    assert numbers["warping_error"] == numbers["warping_error_of_clip"] == 0


def test_stabilize_takes_flicker_away(make):
    content = moving(8)
    make(Flickering(), content, output="steady")
    steady = make.run.summary.metrics["output"]
    make(Flickering(), content, Settings(stabilize=0), output="plain", measure=True)
    plain = make.run.summary.metrics["output"]
    assert steady["warping_error_of_clip"] == pytest.approx(plain["warping_error_of_clip"])
    assert steady["warping_error_before_blending"] == pytest.approx(plain["warping_error"], rel=0.02)
    excess = [n["warping_error"] - n["warping_error_of_clip"] for n in (steady, plain)]
    assert excess[0] < 0.3 * excess[1]
    assert "warping_error_before_blending" not in plain


def test_without_stabilization_and_measures_no_motion_is_computed(make, monkeypatch):
    monkeypatch.setattr(task, "MotionEstimator", None)  # calling it would fail
    make(Flickering(), moving(3), Settings(stabilize=0))
    assert not any("warping" in key for key in make.run.summary.metrics["output"])


def test_colors_begin_anew_at_a_cut_also_without_stabilization(make):
    method = Flickering(0)
    frames = [scene(0), scene(1), scene(0, seed=1) // 4]
    make(method, pictures(frames), Settings(stabilize=0), color="preserve")
    seen = [styles[0].image for _, styles, _ in method.calls]
    assert seen[0] is seen[1]
    assert not torch.equal(seen[1], seen[2])


def test_nothing_of_a_scene_is_left_behind_a_cut(make):
    light, dark = scene(0) // 2 + 127, scene(0, seed=1) // 8
    make(Flickering(0), pictures([light, light // 1, dark, dark]), output="cut")
    make(Flickering(0), pictures([dark, dark], "alone"), output="dark")
    assert np.array_equal(results("cut")[2], results("dark")[0])
    rows = list(csv.DictReader((make.run.path / "frames.csv").open()))
    assert [row["begins_scene"] for row in rows] == ["1", "0"]


def test_optimizing_methods_get_the_frame_before_and_are_not_blended(make):
    content, method = moving(4), Optimizing()
    make(method, content)
    assert method.seen[0] == (None, None)
    inner = np.s_[12:-12, 12:-12]
    for number in (1, 2, 3):
        warped, trust = method.seen[number]
        before = cv2.remap(
            results()[number - 1], *(m.astype(np.float32) for m in np.meshgrid(np.arange(64) + 2.0, np.arange(48.0))),
            cv2.INTER_CUBIC,
        )  # fmt: skip
        difference = np.abs(warped[0].permute(1, 2, 0).numpy() * 255 - before)[inner]
        assert difference.mean() < 12, "moved by 2 px"
        assert trust.shape == (1, 1, *SIZE)
        assert trust.mean() > 0.6
    color = np.array(Image.open("painting.jpg")).mean((0, 1)) / 255
    rest = results()[3] / 255 - 0.6 * scene(6) / 255 - 0.3 * color
    assert rest.min() > -0.01
    assert 0.09 < rest.mean() < 0.11
    assert np.std(rest) == pytest.approx(0.2 / 12**0.5, rel=0.05), "as noisy as the method makes it"
    assert "warping_error_before_blending" not in make.run.summary.metrics["output"]


def test_methods_are_told_that_it_is_a_clip_and_how_steady(make):
    method = Flickering(0)
    make(method, moving(3))
    clips = [controls.clip for _, _, controls in method.calls]
    assert clips[0] is clips[2] is not None
    assert clips[0].steadiness == 0.8
    make(method, "frames", Settings(stabilize=0), output="plain")
    alone = method.calls[-1][2].clip
    assert alone is not None and alone.steadiness == 0


# ----------------------------------------------------------------------------------------------------- styles and color


def test_fade_goes_from_style_to_style(make):
    Image.new("RGB", (40, 44), (255, 0, 0)).save("red.png")
    Image.new("RGB", (40, 44), (0, 0, 255)).save("blue.png")
    method = Flickering(0)
    make(method, pictures([scene(0)] * 5), Settings(fade=[0, 1], stabilize=0), style=["red.png", "blue.png"])
    shares = [{tuple(s.image[:, 0, 0].tolist()): s.share for s in styles} for _, styles, _ in method.calls]
    red, blue = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    assert shares[0] == {red: 1.0}
    assert shares[2] == {red: 0.5, blue: 0.5}
    assert shares[4] == {blue: 1.0}
    assert shares[1][blue] == pytest.approx(0.25)


def test_fade_with_matched_colors_goes_from_color_to_color(make):
    noise = np.random.default_rng(0).integers(0, 60, (40, 44, 3), dtype=np.uint8)
    for name, channel in (("red.png", 0), ("blue.png", 2)):
        pixels = noise.copy()
        pixels[..., channel] += 190
        Image.fromarray(pixels).save(name)
    content = pictures([scene(0)] * 3)
    make(Flickering(0), content, Settings(fade=[0, 1], stabilize=0), style=["red.png", "blue.png"], color="match")
    first, middle, last = (result.mean((0, 1)) for result in results())
    assert first[0] > 180 > 60 > first[2]
    assert last[2] > 180 > 60 > last[0]
    assert middle[0] == pytest.approx(middle[2], abs=25)


def test_fade_there_and_back_over_three_styles(make):
    styles = [str(picture(f"{n}.png", 40, 44, seed=n)) for n in range(3)]
    method = Flickering(0)
    make(method, pictures([scene(n) for n in range(5)]), Settings(fade=[0, 2, 0]), style=styles)
    images = [styles for _, styles, _ in method.calls]
    assert [len(s) for s in images] == [1, 1, 1, 1, 1]
    assert [round(float(s[0].image.mean()), 4) for s in images] == [
        round(float(images[n][0].image.mean()), 4) for n in (0, 1, 2, 1, 0)
    ]
    assert not torch.equal(images[0][0].image, images[1][0].image)


def test_colors_of_the_style_are_chosen_once_for_a_scene(make):
    method = Flickering(0)
    bright = [scene(n) for n in range(3)] + [scene(n, seed=1) for n in range(2)]
    make(method, pictures(bright), color="preserve")
    seen = [styles[0].image for _, styles, _ in method.calls]
    assert seen[0] is seen[1] is seen[2]
    assert seen[3] is seen[4] is not seen[0]
    assert not torch.equal(seen[3], seen[0])


def test_luminance_keeps_the_colors_of_every_frame(make):
    frames = [scene(2 * n) for n in range(4)]
    method = Flickering(0)
    make(method, pictures(frames), color="luminance")
    for content, _, _ in method.calls:
        torch.testing.assert_close(content[:, 0], content[:, 1])
    for frame, result in zip(frames, results(), strict=True):
        unclipped = ((result > 0) & (result < 255)).all(2)
        gray = [[0.299], [0.587], [0.114]]
        chroma = [(x.astype(float) - x.astype(float) @ gray)[unclipped] for x in (frame, result)]
        np.testing.assert_allclose(*chroma, atol=1.6)


class Tiling(Flickering):
    accepts = frozenset({"masks", "seamless"})


def test_seamless_frames_keep_their_edges_in_spite_of_the_frame_before(make):
    """The previous frame counts inside, and not at all at the edges."""
    clip, method = moving(), Tiling(noise=0.1)
    make(method, clip, Settings(stabilize=0.8), seamless=True)
    made = torch.from_numpy(np.stack(results())).permute(0, 3, 1, 2) / 255
    assert all(controls.seamless for _, _, controls in method.calls)
    given = torch.cat([content for content, _, _ in method.calls])
    assert edge_steps(given).max() < 1.5
    # Without noise of the method's own, the result at the edges is what the method made of the frame alone.
    exact = Tiling(noise=0)
    make(exact, clip, Settings(stabilize=0.8), seamless=True, output="exact")
    steady = torch.from_numpy(np.stack(results("exact"))).permute(0, 3, 1, 2) / 255
    contents, styles, _ = exact.calls[3]
    alone = 0.6 * contents + 0.3 * styles[0].image.mean((1, 2)).view(1, 3, 1, 1)
    for edge in ((..., 0), (..., -1), (..., 0, slice(None)), (..., -1, slice(None))):
        torch.testing.assert_close(steady[3:4][edge], alone[edge], atol=0.51 / 255, rtol=0)
    noise = (made[1:] - steady[1:]).std((0, 1))
    assert noise[0].mean() > 1.3 * noise[20:-20, 20:-20].mean(), "averaged inside, not at the edge"


def test_protected_faces_do_not_flicker(make, monkeypatch, caplog):
    """The face is missed in one frame of two; its protection neither ends at once nor begins anew."""
    caplog.set_level(logging.INFO)
    searched = []

    def every_second(photo):
        searched.append(photo)
        return [(20.0, 14.0, 44.0, 34.0)] if len(searched) % 2 else []

    monkeypatch.setattr(protect, "is_installed", lambda: True)
    monkeypatch.setattr(protect, "find_faces", every_second)
    clip = pictures([scene(0, seed=n) // 4 + scene(0) // 2 for n in range(6)])
    make(Negative(), clip, Settings(stabilize=0), protect="faces", protect_strength=1)
    plain = [255 - frame.astype(float) for frame in frames_in(clip)]
    assert len(searched) == 6
    left = [np.abs(made - frame)[14:34, 20:44].mean() for made, frame in zip(results(), plain, strict=True)]
    assert min(left) > 0.3 * max(left), "the protection lasts"
    assert all(np.array_equal(made[:4], frame[:4]) for made, frame in zip(results(), plain, strict=True))
    assert "faces are protected, up to 1 in a frame" in caplog.text


def test_a_clip_without_faces_is_made_with_a_warning(make, monkeypatch, caplog):
    monkeypatch.setattr(protect, "is_installed", lambda: True)
    monkeypatch.setattr(protect, "find_faces", lambda photo: [])
    clip = moving(2)
    make(Negative(), clip, Settings(stabilize=0), protect="faces")
    assert all(np.array_equal(255 - frame, made) for frame, made in zip(frames_in(clip), results(), strict=True))
    assert "protect=faces: there is no face in the clip" in caplog.text


def test_boxes_are_protected_in_every_frame(make):
    clip = moving(3)
    make(Negative(), clip, Settings(stabilize=0), protect=[0, 0, 0.3, 1])
    for frame, made in zip(frames_in(clip), results(), strict=True):
        changed = np.abs(made.astype(float) - (255 - frame)).mean((0, 2))
        assert changed[:16].min() > 3 and changed[-16:].max() == 0


class Negative:
    """Answers with the negative of the photo."""

    def stylize(self, content, styles, controls):
        return 1 - content


def frames_in(folder: str) -> list[np.ndarray]:
    return [np.array(Image.open(file)) for file in sorted(Path(folder).glob("*.png"))]


def test_masks_hold_for_every_frame(make):
    half = np.zeros((*SIZE, 3), np.uint8)
    half[:, :32] = 255
    Image.fromarray(half).save("left.png")
    Image.fromarray(255 - half).save("right.png")
    method = Flickering(0)
    styles = ["painting.jpg", "photo.png"]
    make(method, moving(3), style=styles, masks=["left.png", "right.png"], image_px=32)
    assert all(tuple(s.mask.shape) == (24, 32) for _, styles, _ in method.calls for s in styles)


# ---------------------------------------------------------------------------------------------------- stop and go on


class StopsAt(Flickering):
    def __init__(self, count: int, error: BaseException) -> None:
        super().__init__(0)
        self.count, self.error = count, error

    def stylize(self, content, styles, controls):
        if len(self.calls) == self.count:
            raise self.error
        return super().stylize(content, styles, controls)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out.mp4", "out"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), Stopped("interrupted at step 3", interrupted=True), Stopped("the loss became nan")]
)
def test_what_is_done_is_kept_and_the_same_command_goes_on(make, output, error):
    clip = mp4([scene(2 * n) for n in range(10)])
    make(Flickering(0), clip, output=f"whole{Path(output).suffix}")
    with pytest.raises(Stopped, match=r"at frame 4 of 10; the clip so far is out.*same command goes on") as stop:
        make(StopsAt(4, error), clip, output=output)
    assert stop.value.interrupted == (not isinstance(error, Stopped) or error.interrupted)
    assert not Path(output).exists()
    partial = Path("out.mp4.partial.mkv" if Path(output).suffix else "out.partial")
    assert partial.exists()
    if Path(output).suffix:
        assert len(open_source(partial)) == 4
    make(Flickering(0), clip, output=output)
    assert make.run.summary.metrics["output"]["frames_made"] == 6
    whole, resumed = frames_of(f"whole{Path(output).suffix}"), frames_of(output)
    assert len(resumed) == 10
    for a, b in zip(whole, resumed, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 3
    assert not partial.exists()


def test_a_complete_partial_clip_only_has_to_be_finished(make, monkeypatch):
    content = mp4([scene(2 * n) for n in range(5)])
    from nstexp.media.video.writer import VideoWriter

    finish = VideoWriter.finish

    def fail(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "finish", fail)
    with pytest.raises(Stopped):
        make(Flickering(0), content, output="out.mp4")
    monkeypatch.setattr(VideoWriter, "finish", finish)
    method = Flickering(0)
    make(method, content, output="out.mp4")
    assert not method.calls
    assert len(open_source(Path("out.mp4"))) == 5


@pytest.mark.parametrize("output", ["out.mp4", "out"])
def test_a_result_that_is_replaced_is_said(make, caplog, output):
    clip = mp4([scene(n) for n in range(2)])
    caplog.set_level("INFO")
    make(Flickering(0), clip, output=output)
    assert "replaced" not in caplog.text
    make(Flickering(0), clip, output=output, identity="other")
    assert (
        f"output={output}: the existing {'file' if output == 'out.mp4' else 'folder'} will be replaced" in caplog.text
    )


def test_a_clip_in_the_run_folder_is_not_written_over(make):
    clip = Path(mp4([scene(n) for n in range(2)]))
    Path("run").mkdir()
    clip = clip.rename("run/output.mp4")
    before = clip.read_bytes()
    with pytest.raises(UserError, match="the result would replace the input"):
        make(Flickering(0), str(clip), output=None)
    assert clip.read_bytes() == before


def test_other_settings_or_another_clip_start_over(make, caplog):
    clip = mp4([scene(2 * n) for n in range(6)])
    for change in ({"identity": "other"}, {"style": "photo.png"}):
        with pytest.raises(Stopped):
            make(StopsAt(3, KeyboardInterrupt()), clip, output="out.mp4")
        method = Flickering(0)
        make(method, clip, **{"output": "out.mp4", **change})
        assert len(method.calls) == 6
        assert "starts over" in caplog.text


class Slow(Flickering):
    """Raises a signal during one frame."""

    def __init__(self, signum: int, at: int, times: int = 1) -> None:
        super().__init__(0)
        self.signum, self.at, self.times = signum, at, times

    def stylize(self, content, styles, controls):
        if len(self.calls) == self.at:
            for _ in range(self.times):
                signal.raise_signal(self.signum)
        return super().stylize(content, styles, controls)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_frame_that_is_being_made(make, signum):
    content = moving(12)
    before = signal.getsignal(signum)
    with pytest.raises(Stopped, match="interrupted at frame 5 of 12") as stop:
        make(Slow(signum, 4), content)
    assert stop.value.interrupted
    assert signal.getsignal(signum) == before
    assert len(list(Path("out.partial").glob("*.png"))) == 5


def test_a_second_signal_does_not_wait(make):
    with pytest.raises(Stopped, match="interrupted at frame 4 of 12"):
        make(Slow(signal.SIGINT, 4, times=2), moving(12))


class StopsInTheMiddle(StopsAt, Optimizing):
    """An optimizing method whose frames come in part from the frame before."""

    def stylize(self, content, styles, controls):
        result = super().stylize(content, styles, controls)
        warped = controls.clip.warped if controls.clip is not None else None
        return result if warped is None else 0.5 * result + 0.5 * warped


def scenes() -> str:
    """A clip with a pause, and with a cut before its 18th frame."""
    frames = [scene(0, seed=2) // 2] * 2 + [scene(2 * n) // (1 + n // 9) for n in range(6)] + [scene(12)] * 3
    return pictures(frames + [scene(14 + n, seed=0) for n in range(6)] + [scene(3 * n, seed=1) // 2 for n in range(9)])


def rows_of(run) -> list[dict[str, str]]:
    """frames.csv without what differs from run to run."""
    rows = list(csv.DictReader((run.path / "frames.csv").open()))
    return [{name: value for name, value in row.items() if name != "stylize_seconds"} for row in rows]


def no_partial() -> bool:
    return not list(Path().rglob("*partial*"))


@pytest.mark.parametrize("count", [1, 8, 13, 19])
@pytest.mark.parametrize(
    ("kind", "settings", "options"),
    [
        (StopsAt, {}, {}),
        (StopsAt, {}, {"color": "preserve"}),
        (StopsAt, {"stabilize": 0}, {"color": "luminance"}),
        (StopsAt, {"fade": [0, 1], "batch": 3}, {"color": "match", "style": ["painting.jpg", "photo.png"]}),
        (StopsInTheMiddle, {}, {"color": "preserve", "color_strength": 0.7}),
    ],
)
def test_a_clip_that_was_interrupted_is_the_very_same_clip(make, kind, settings, options, count):
    content = scenes()
    options = {"image_px": 40, **options}
    make(kind(99, None), content, Settings(**settings), **options, output="whole")
    whole, rows, numbers = results("whole"), rows_of(make.run), make.run.summary.metrics["output"]
    poster = np.array(Image.open(make.run.path / "output.png"))
    (make.run.path / "frames.csv").unlink()
    with pytest.raises(Stopped):
        make(kind(count, KeyboardInterrupt()), content, Settings(**settings), **options)
    left = len(results("out.partial"))
    assert 0 < left < len(whole)
    make(kind(99, None), content, Settings(**settings), **options)
    assert make.run.summary.metrics["output"]["frames_made"] == len(whole) - left
    for a, b in zip(whole, results(), strict=True):
        assert np.array_equal(a, b)
    assert rows_of(make.run) == rows
    measures = [name for name in numbers if name.startswith("warping_error")]
    assert [make.run.summary.metrics["output"][name] for name in measures] == [numbers[name] for name in measures]
    assert np.array_equal(np.array(Image.open(make.run.path / "output.png")), poster)
    assert no_partial()


@pytest.mark.parametrize("lag", [0, 1, 4])
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_what_a_kill_leaves_is_gone_on_from_exactly(make, monkeypatch, lag, seconds):
    """A kill leaves the last state that was saved, and frames up to some behind it."""
    content = moving(14)
    make(Flickering(0), content, output="whole")
    rows = rows_of(make.run)
    monkeypatch.setattr(memory, "SAVE_EVERY_SECONDS", seconds)
    saved = []

    class Killed(Memory):
        def add_state(self, state, done):
            super().add_state(state, done - lag)
            saved.append(self._load().number)
            assert saved[-1] < max(1, done)

        def keep(self, done):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(task, "Memory", Killed)
        with pytest.raises(Stopped):
            make(StopsAt(8, KeyboardInterrupt()), content)
    assert saved[-1] == (0 if seconds else max(0, 8 - lag - 1))
    (make.run.path / "frames.csv").unlink()
    method = Flickering(0)
    make(method, content)
    assert len(method.calls) == 14 - saved[-1], "frames behind the state are made again"
    assert make.run.summary.metrics["output"]["frames_made"] == 6
    assert all(np.array_equal(a, b) for a, b in zip(results("whole"), results(), strict=True))
    assert rows_of(make.run) == rows
    assert no_partial()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out", "out.mkv"])
def test_a_killed_command_goes_on_to_the_very_same_clip(folder, output):
    mp4([scene(2 * n) for n in range(12)])
    words = [sys.executable, "-m", "nstexp", *SMOKE, "task=video", "content=clip.mp4", "style=painting.jpg"]
    words += ["logger=none", "image_px=48", "method.next_steps=4", "video.codec=ffv1"]
    whole = output.replace("out", "whole")
    subprocess.run([*words, f"output={whole}"], check=True, capture_output=True)
    process = subprocess.Popen([*words, f"output={output}", "run_dir=first"], stderr=subprocess.DEVNULL)
    wait_for(lambda: Path("first/frames.csv").exists() and len(Path("first/frames.csv").read_text().splitlines()) > 5)
    process.kill()
    process.wait()
    assert not Path(output).exists()
    again = subprocess.run([*words, f"output={output}", "run_dir=second"], check=True, capture_output=True, text=True)
    assert "going on after frame" in again.stderr
    for a, b in zip(frames_of(whole), frames_of(output), strict=True):
        assert np.array_equal(a, b)
    assert len(Path("second/frames.csv").read_text().splitlines()) == 13
    assert no_partial()


@pytest.mark.parametrize("harm", ["remove", "garbage", "other"])
@pytest.mark.parametrize("kind", [StopsAt, StopsInTheMiddle])
@pytest.mark.parametrize("color", ["none", "preserve"])
def test_without_its_state_an_interrupted_clip_still_goes_on_and_says_so(make, caplog, harm, kind, color):
    content = scenes()
    make(kind(99, None), content, color=color, output="whole")
    with pytest.raises(Stopped):
        make(kind(19, KeyboardInterrupt()), content, color=color)
    state = Path("out.partial.safetensors")
    if harm == "remove":
        state.unlink()
        Path("out.partial.csv").unlink()
    elif harm == "garbage":
        state.write_bytes(b"garbage" * 99)
        Path("out.partial.csv").write_bytes(b"\xff\x00,," * 99)
    else:
        save_file({}, state, {"identity": "other", "number": "3", "scene": ""})
    make(kind(99, None), content, color=color)
    assert "may differ slightly" in caplog.text
    whole, resumed = results("whole"), results()
    assert len(whole) == len(resumed) == 26
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(whole, resumed, strict=True)) <= 3


def test_a_disk_without_room_for_the_state_still_takes_the_clip(make, monkeypatch, caplog):
    def full(path, write):
        raise UserError(f"{path}: cannot be written (no space left on the disk)")

    monkeypatch.setattr(memory, "write_atomically", full)
    make(Flickering(0), moving(5))
    assert len(results()) == 5
    assert caplog.text.count("no space left") == 1


def damaged(path: str) -> str:
    """A clip of which a packet in the middle is zeros."""
    with av.open(path) as container:
        packet = [p for p in container.demux(video=0) if p.size][9]
        where, size = packet.pos, packet.size
    data = bytearray(Path(path).read_bytes())
    data[where : where + size] = bytes(size)
    Path(path).write_bytes(data)
    return path


@pytest.mark.slow
def test_a_damaged_clip_gives_what_can_be_read_also_when_it_is_interrupted(make, caplog):
    content = damaged(mp4([scene(2 * n) for n in range(20)]))
    make(Flickering(0), content, output="whole.mp4")
    count = len(frames_of("whole.mp4"))
    assert 9 <= count < 20
    assert "could" in caplog.text
    with pytest.raises(Stopped):
        make(StopsAt(count - 3, KeyboardInterrupt()), content, output="out.mp4")
    make(Flickering(0), content, output="out.mp4")
    whole, resumed = open_source(Path("whole.mp4")), open_source(Path("out.mp4"))
    assert resumed.times == whole.times


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "settings"),
    [("out.gif", {}), ("out.mkv", {"batch": 4}), ("out", {"fade": [0, 1]}), ("out.webm", {"start": 0.2})],
)
def test_interrupted_in_other_ways_of_making_a_clip(make, output, settings):
    content = mp4([scene(2 * n) for n in range(16)])
    options = {"output": output, "style": ["painting.jpg", "photo.png"]}
    make(Flickering(0), content, Settings(**settings), **{**options, "output": f"whole{Path(output).suffix}"})
    with pytest.raises(Stopped):
        make(StopsAt(2, KeyboardInterrupt()), content, Settings(**settings), **options)
    make(Flickering(0), content, Settings(**settings), **options)
    whole, resumed = frames_of(f"whole{Path(output).suffix}"), frames_of(output)
    assert len(whole) == len(resumed)
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(whole, resumed, strict=True)) < 4


def test_in_the_run_folder_the_same_command_needs_that_folder(make):
    clip = mp4([scene(2 * n) for n in range(6)])
    with pytest.raises(Stopped, match=r"the same command with run_dir=.*run goes on from there"):
        make(StopsAt(3, KeyboardInterrupt()), clip, output=None)
    make(Flickering(0), clip, output=None)
    assert make.run.summary.metrics["output"]["frames_made"] == 3


def test_a_full_disk_keeps_the_partial_clip_and_is_what_is_said(make, monkeypatch):
    from nstexp.media.video.folder import FolderWriter

    add = FolderWriter.add

    def fail(self, frame):
        if self.done == 3:
            raise UserError("output=out: cannot be written (no space left on the disk)")
        add(self, frame)

    monkeypatch.setattr(FolderWriter, "add", fail)
    monkeypatch.setattr(RunFolder, "record_metrics", lambda *args: fail(type("Full", (), {"done": 3}), None))
    with pytest.raises(UserError, match=r"^output=out: cannot be written \(no space.*out\.partial holds what is done"):
        make(Flickering(0), moving(8))
    assert len(list(Path("out.partial").glob("*.png"))) == 3


def test_an_error_of_the_method_before_the_first_frame_leaves_nothing(make):
    with pytest.raises(UserError, match="too small"):
        make(StopsAt(0, UserError("too small")), moving(4), output="out.mp4")
    assert not list(Path().glob("*out*"))


# ---------------------------------------------------------------------------------------------------------- the record


def test_numbers_of_the_clip_and_of_every_frame(make):
    make(Flickering(), moving(6))
    numbers = make.run.summary.metrics["output"]
    assert numbers["frames"] == 6
    for stage in ("decode", "flow", "stylize", "encode", "wall"):
        assert numbers[f"{stage}_seconds"] >= 0
    rows = list(csv.DictReader((make.run.path / "frames.csv").open()))
    assert [int(row["frame"]) for row in rows] == list(range(6))
    assert [float(row["time"]) for row in rows] == pytest.approx([0.04 * n for n in range(6)])
    errors = [float(row["warping_error"]) for row in rows[1:]]
    assert numbers["warping_error"] == pytest.approx(np.mean(errors))
    poster = np.array(Image.open(make.run.path / "output.png"))
    assert np.array_equal(poster, results()[3])


class Logger:
    def __init__(self) -> None:
        self.steps, self.clips = Counter(), []

    def log_metrics(self, numbers, step=None):
        self.steps[step] += len(numbers)

    def log_video(self, key, videos, step=None):
        self.clips += videos


def test_loggers_get_numbers_and_the_clip(make):
    logger = Logger()
    clip = mp4([scene(2 * n) for n in range(7)])
    make(Flickering(), clip, output="out.mp4", log_every_n_steps=3, active_loggers=[logger])
    assert sorted(logger.steps) == [0, 3, 6]
    assert logger.clips == ["out.mp4"]
    make(Flickering(), clip, output="out.mkv", active_loggers=[logger])
    assert logger.clips == ["out.mp4"], "no browser plays it"


# -------------------------------------------------------------------------------------------------------- command line


def test_every_method_makes_clips_from_the_command_line(folder, nstexp):
    mp4([scene(2 * n) for n in range(4)])
    result = nstexp("task=video", "content=clip.mp4", "image_px=48", "method.next_steps=2", "output=out.mp4")
    assert result.code == 0, result.err
    assert str(result.path) == "out.mp4"
    assert len(open_source(Path("out.mp4"))) == 4
    summary = json.loads((run_folders()[-1] / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert "nstexp.core.losses.TemporalLoss" in (run_folders()[-1] / "config.yaml").read_text()
    assert (run_folders()[-1] / "output.png").is_file()


def test_a_clip_of_one_frame_is_the_picture(folder, nstexp):
    still = nstexp("output=still.png")
    assert still.code == 0, still.err
    Path("photos").mkdir()
    Path("photo.png").rename("photos/photo.png")
    clip = nstexp("task=video", "content=photos", "output=clip")
    assert clip.code == 0, clip.err
    (only,) = results("clip")
    assert np.array_equal(only, np.array(Image.open("still.png")))


def test_without_output_the_clip_is_in_the_run_folder(folder, nstexp):
    mp4([scene(n) for n in range(2)], "clip.mkv")
    result = nstexp("task=video", "content=clip.mkv", "image_px=48")
    assert result.code == 0, result.err
    assert result.path.resolve() == (run_folders()[-1] / "output.mkv").resolve()


def test_a_sweep_over_stabilize_ends_in_a_report_with_warping_errors(folder, nstexp):
    mp4([scene(2 * n) for n in range(3)])
    result = nstexp("-m", "task=video", "content=clip.mp4", "image_px=48", "video.stabilize=0,0.8")
    assert result.code == 0, result.err
    sweep = next(Path("multirun/nstexp").iterdir())
    rows = list(csv.DictReader((sweep / "table.csv").open()))
    assert [row["video.stabilize"] for row in rows] == ["0", "0.8"]
    assert all(float(row["warping_error"]) >= 0 for row in rows)
    page = (sweep / "report.html").read_text()
    assert '"kind":"content","name":"clip.mp4","image":' in page, "a frame of it stands for the clip"
    assert "is not shown" not in page
    assert "lower is better" in page


BAD = [
    (["content=missing.mp4"], "content=missing.mp4"),
    (["content=photo.png"], "this is one picture"),
    (["content=[a.mp4,b.mp4]"], "-m content=a.mp4,b.mp4"),
    (["content=clip.mp4", "video.start=9"], "video.start=9"),
    (["content=clip.mp4", "video.start=0.05", "video.end=0.01"], "must be after video.start"),
    (["content=clip.mp4", "video.quality=fine"], "video.quality=fine"),
    (["content=clip.mp4", "video.quality=null"], "video.quality=None"),
    (["content=clip.mp4", "video.codec=[libx264]"], "video.codec=['libx264']"),
    (["content=clip.mp4", "video.codec_options=5"], "video.codec_options=5"),
    (["content=clip.mp4", "video.codec_options={preset: null}"], "video.codec_options"),
    (["content=clip.mp4", "video.codec_options={bf: 2}"], "video.codec_options"),
    (["content=clip.mp4", "output=."], "output=."),
    (["content=clip.mp4", "video.stabilize=0", "video.flow=deep"], "dis, dis_fast, raft"),
    (["content=clip.mp4", "video.start=soon"], "video.start=soon"),
    (["content=clip.mp4", "video.stabilize=1"], "video.stabilize=1"),
    (["content=clip.mp4", "video.stabilize=true"], "video.stabilize=True"),
    (["content=clip.mp4", "video.flow=deep"], "dis, dis_fast, raft"),
    (["content=clip.mp4", "video.reader=vlc"], "auto, decord, av"),
    (["content=clip.mp4", "video.batch=0"], "video.batch=0"),
    (["content=frames", "video.fps=0"], "video.fps=0"),
    (["content=clip.mp4", "video.fade=[0,1]"], "video.fade needs two or more"),
    (["content=clip.mp4", "video.fade=[0,2]", "style=[photo.png,painting.jpg]"], "to 1, the last"),
    (["content=clip.mp4", "video.fade=7", "style=[photo.png,painting.jpg]"], "video.fade=7"),
    (
        ["content=clip.mp4", "video.fade=[0,1]", "style=[photo.png,painting.jpg]", "style_weights=[1,2]"],
        "style_weights",
    ),
    (["content=clip.mp4", "output=out.flv"], "'.flv'"),
    (["content=clip.mp4", "output=clip.mp4"], "clip.mp4"),
    (["content=clip.mp4", "video.codec=h265x"], "video.codec=h265x"),
    (["content=clip.mp4", "image_px=32"], "set image_px larger"),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=lambda value: value[-1] if isinstance(value, list) else "")
def test_bad_input_is_one_sentence_and_leaves_nothing(folder, nstexp, words, said):
    mp4([scene(n) for n in range(2)])
    moving(2)

    def files() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in Path().rglob("*") if p.is_file() and "runs" not in p.parts}

    before = files()
    result = nstexp("task=video", *words)
    assert result.code == 2, result.err
    assert len(result.sentences) == 1, result.err
    assert said in result.sentences[0]
    assert files() == before
    assert not run_folders()


@pytest.mark.parametrize("words", [["content=clip.mp4"], ["style=clip.mp4"], ["task=video", "style=clip.mp4"]])
def test_a_clip_where_a_picture_belongs_is_one_sentence(folder, nstexp, words):
    Path("clip.mp4").write_bytes(b"is not even read")
    result = nstexp(*words)
    assert result.code == 2, result.err
    assert len(result.sentences) == 1, result.err
    assert "clip.mp4: this is a clip, not a picture" in result.sentences[0]
    assert ("task=video" in result.sentences[0]) == (words == ["content=clip.mp4"])


@pytest.mark.parametrize("name", ["a.webp", "a.gif"])
def test_an_animation_is_a_clip_and_as_a_photo_its_first_frame(folder, nstexp, name):
    frames = [Image.fromarray(scene(n, (64, 64))) for n in range(3)]
    frames[0].save(name, save_all=True, append_images=frames[1:], duration=100)
    clip = nstexp("task=video", f"content={name}", "method.next_steps=2", "output=out")
    assert clip.code == 0, clip.err
    assert len(results()) == 3
    photo = nstexp(f"content={name}", "output=still.png")
    assert photo.code == 0, photo.err
    assert f"{name}: an animation of 3 frames; the first one is used" in photo.err
    assert np.array_equal(np.array(Image.open("still.png")), results()[0])


def test_there_is_no_clip_unless_one_is_named(folder, nstexp):
    result = nstexp.bare("task=video", "logger=none")
    assert result.code == 2
    assert len(result.sentences) == 1
    assert result.sentences[0].startswith("content=null: give one clip, such as content=clip.mp4")


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (25, "25"),
        (23.976, "24000/1001"),
        (29.97, "30000/1001"),
        ("30000/1001", "30000/1001"),
        (12.5, "25/2"),
        (24, "24"),
    ],
)
def test_rates(given, rate):
    assert Settings(fps=given).rate == Fraction(rate)
