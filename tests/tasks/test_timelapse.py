"""The clip of how a picture is made: which step each frame shows, its end, interruptions, and what is refused."""

import gc
import weakref
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from gatys_runs import make_gatys
from pictures import smooth_picture
from PIL import Image
from torch import Tensor

from nstexp.core.errors import Stopped, UserError
from nstexp.media.images import load_image, save_image
from nstexp.media.video import open_source, read_frames
from nstexp.methods.base import Controls, Style
from nstexp.outputs import RunFolder
from nstexp.tasks import protect
from nstexp.tasks.request import Request
from nstexp.tasks.stylize import stylize
from nstexp.tasks.timelapse import Settings

pytestmark = pytest.mark.usefixtures("one_thread")
LOSSY = 2.5  # gray levels by which an encoded gray differs
SETTINGS = Settings(seconds=1, fps=11, ease=2, hold_seconds=0.4, quality=1)


class Stepper:
    """A method whose picture after step k is gray, with the level 20 k; `after` may end the work."""

    def __init__(self, steps: int | None = 6, after: Callable[[int], None] = lambda step: None) -> None:
        self.steps, self.after = steps, after
        self.alive: list[int] = []  # pictures in memory after each step

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        seen: list[weakref.ref[Tensor]] = []
        for step in range(1, (self.steps or 0) + 1):
            picture = torch.full_like(content, 20 * step / 255)
            seen.append(weakref.ref(picture))
            if controls.watch is not None:
                controls.watch(step, picture)
            del picture
            gc.collect()
            self.alive.append(sum(reference() is not None for reference in seen))
            self.after(step)
        made = torch.full_like(content, 140 / 255)
        made[..., -1] -= 10 / 255  # a picture of one color would be refused
        return made


@pytest.fixture(autouse=True)
def inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, (name, size) in enumerate({"photo.png": (32, 48), "small.png": (16, 20), "style.png": (24, 24)}.items()):
        save_image(smooth_picture(*size, seed=seed)[0], name)


def run(method, content="photo.png", timelapse="making.mp4", lapse=SETTINGS, **options) -> Path:
    return stylize(method, RunFolder("run"), Request(content, "style.png", **options), None, timelapse, lapse)


def frames(path: str | Path) -> list[np.ndarray]:
    clip = open_source(path)
    return [frame.pixels for frame in read_frames(clip, range(len(clip)))]


def test_frames_show_the_early_steps_longer_and_blend_between_steps():
    run(Stepper())
    levels = [20 * (1 + 5 * (k / 10) ** 2) for k in range(11)]
    shown = frames("making.mp4")
    assert [frame.shape for frame in shown] == [(32, 48, 3)] * 15
    for frame, level in zip(shown, [*levels, *[140] * 4], strict=True):
        assert np.abs(frame[:, :-2].astype(float) - level).max() < LOSSY
    assert open_source("making.mp4").rate == Fraction(11)


@pytest.mark.parametrize(("ease", "expected"), [(1, [1, 3, 5, 7, 9]), (2, [1, 1.5, 3, 5.5, 9])])
def test_the_step_of_every_frame(ease, expected):
    settings = Settings(seconds=5, fps=1, ease=ease)
    assert settings.steps(9) == expected
    assert settings.steps(1) == [1] * 5
    assert Settings(seconds=0.1, fps=1).steps(9) == [1]


def test_only_two_pictures_are_in_memory():
    method = Stepper(12)
    run(method)
    assert method.alive == [1] * 12, "the newest; the one before is dropped as soon as the next comes"


def test_frames_are_finished_like_the_picture():
    """The colors of the content are put on every frame, so that the end does not jump."""
    path = run(Stepper(), color="luminance")
    before_last, last = (frame.astype(float) for frame in frames("making.mp4")[10:12])
    assert np.abs(last - load_image(path).permute(1, 2, 0).numpy() * 255).mean() < 12
    chroma = [frame - frame.mean(-1, keepdims=True) for frame in (before_last, last)]
    assert np.abs(chroma[0] - chroma[1]).mean() < 6 < np.abs(chroma[1]).mean()


def test_the_cut_out_parts_of_a_photo_are_white():
    pixels = np.full((16, 16, 4), 255, np.uint8)
    pixels[:, :8, 3] = 0
    Image.fromarray(pixels).save("cut.png")
    run(Stepper(), "cut.png")
    for frame in frames("making.mp4")[:3]:
        assert frame[:, :6].min() > 245
        assert frame[:, 10:].max() < 40


def test_a_folder_gets_one_clip_per_picture():
    method = Stepper()
    run(method, ["photo.png", "small.png"], "clips")
    assert sorted(path.name for path in Path("clips").iterdir()) == ["photo.mp4", "small.mp4"]
    assert frames("clips/small.mp4")[0].shape == (16, 20, 3)
    run(method, "photo.png", "alone")
    assert [path.name for path in Path("alone").iterdir()] == ["photo.mp4"]


def test_faces_are_searched_once_and_protected_in_every_frame(monkeypatch):
    searched = []
    monkeypatch.setattr(protect, "is_installed", lambda: True)
    monkeypatch.setattr(protect, "find_faces", lambda photo: searched.append(photo) or [(0.0, 0.0, 48.0, 32.0)])
    run(Stepper(), protect="faces", protect_strength=1.0)
    assert len(searched) == 1
    assert all(frame.std() > 5 for frame in frames("making.mp4")), "a frame without the face is flat gray"


def test_an_earlier_clip_is_replaced_and_that_is_said(caplog):
    with caplog.at_level("INFO"):
        run(Stepper())
        assert "timelapse=" not in caplog.text
        stylize(
            Stepper(), RunFolder("again"), Request("photo.png", "style.png"), timelapse="making.mp4", lapse=SETTINGS
        )
    assert "timelapse=making.mp4: the existing file will be replaced" in caplog.text


def stopping(step: int) -> None:
    if step == 3:
        raise Stopped("interrupted at step 3", torch.full((1, 3, 32, 48), 0.5), interrupted=True)


def test_an_interruption_leaves_no_clip_and_the_earlier_one_stays():
    run(Stepper())
    before = Path("making.mp4").read_bytes()
    names = {path.name for path in Path().iterdir()}
    for name in ("making.mp4", "other.mp4"):
        with pytest.raises(Stopped, match="the best picture so far is"):
            run(Stepper(after=stopping), timelapse=name)
    assert Path("making.mp4").read_bytes() == before
    assert {path.name for path in Path().iterdir()} == names
    assert load_image("run/output.png").mean().item() == pytest.approx(128 / 255, abs=1e-5)


def test_an_error_of_the_clip_comes_after_the_picture_is_saved(monkeypatch):
    def full(*_):
        raise UserError("timelapse=making.mp4: cannot be written (no space left on the disk)")

    monkeypatch.setattr("nstexp.media.video.writer.VideoWriter.add", full)
    with pytest.raises(UserError, match="no space left"):
        run(Stepper())
    assert load_image("run/output.png").median().item() == pytest.approx(140 / 255)
    assert not list(Path().glob("*making*"))


@pytest.mark.parametrize(
    ("method", "content", "timelapse", "message"),
    [
        (Stepper(None), "photo.png", "a.mp4", "timelapse=a.mp4: this method makes a picture at once"),
        (Stepper(), ["photo.png", "small.png"], "a.mp4", "timelapse=a.mp4: is one clip for 2 content pictures"),
        (Stepper(), "photo.png", "a.jpg", "timelapse=a.jpg: cannot write '.jpg' files, use one of .mp4"),
        (Stepper(), "photo.png", "style.png/a.mp4", "timelapse=style.png/a.mp4: "),
        (Stepper(), "photo.png", "", "timelapse"),
    ],
)
def test_what_cannot_work_is_refused_before_the_work(method, content, timelapse, message):
    with pytest.raises(UserError) as refused:
        run(method, content, timelapse)
    assert str(refused.value).startswith(message)
    assert method.alive == []
    assert not Path("run/output.png").exists()


@pytest.mark.parametrize(
    "values", [{"seconds": 0}, {"fps": 0.5}, {"fps": 1000}, {"ease": 0}, {"hold_seconds": -1}, {"quality": 300}]
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(UserError, match=rf"^{next(iter(values))}="):
        Settings(**values)


def test_the_optimization_makes_the_same_picture_with_a_clip():
    gatys = make_gatys(max_steps=5, margin_px=0)
    assert gatys.steps == 5
    plain = load_image(run(gatys, timelapse=None))
    path = run(gatys)
    assert torch.equal(load_image(path), plain)
    shown = frames("making.mp4")
    assert len(shown) == 15
    assert np.abs(shown[-1] - plain.permute(1, 2, 0).numpy() * 255).mean() < 12
    assert np.abs(shown[0].astype(float) - shown[-1]).mean() > 1
