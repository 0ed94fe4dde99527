"""A sweep as a clip: one picture after another in the order of the jobs, with the values that vary."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sweep_folders import COLORS, make_job, make_sweep

from nstexp.core.errors import UserError
from nstexp.media.video import open_source, read_frames
from nstexp.report import clip, read_sweep
from nstexp.report.__main__ import main

LOSSY = 8  # gray levels by which an encoded color differs


def frames(path: Path) -> list[np.ndarray]:
    source = open_source(path)
    return [frame.pixels for frame in read_frames(source, range(len(source)))]


def test_the_pictures_come_in_the_order_of_the_jobs_with_their_values(tmp_path, capsys, monkeypatch):
    folder = make_sweep(tmp_path / "sweep", weights__beta=[10, 100, 1000])
    drawn, draw = [], clip.words
    monkeypatch.setattr(
        clip, "words", lambda text, *more, **options: (drawn.append(text), draw(text, *more, **options))[1]
    )
    main([str(folder), "--clip", str(tmp_path / "sweep.mp4"), "--seconds", "0.2"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "sweep.mp4")
    assert list(dict.fromkeys(drawn)) == ["weights.beta=10", "weights.beta=100", "weights.beta=1000"]
    shown = frames(tmp_path / "sweep.mp4")
    assert len(shown) == 15
    for number, frame in enumerate(shown):
        assert np.abs(frame[8:22, 8:32].astype(int) - COLORS[number // 5]).max() < LOSSY
        assert frame[31:].min() < 120 < 240 < frame[31:].max(), "dark letters on white"
    assert not (folder / "report.html").exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["sweep.mp4"]


def test_pictures_of_other_sizes_and_failed_jobs(tmp_path):
    make_job(tmp_path, 0, {"image_px": 20}, size=(20, 16))
    make_job(tmp_path, 1, {"image_px": 30}, status="failed", pictures=())
    make_job(tmp_path, 2, {"image_px": 60}, size=(60, 48))
    path = clip.write_clip(read_sweep(tmp_path), tmp_path / "a.mp4", seconds=0.04)
    first, second = frames(path)
    assert first.shape == second.shape
    assert np.abs(second[8:40, 8:52].astype(int) - COLORS[2]).max() < LOSSY
    assert np.abs(first[4:12, 24:36].astype(int) - COLORS[0]).max() < LOSSY, "in the middle, at its own size"


def test_several_pictures_of_a_job_are_side_by_side(tmp_path):
    for number in (0, 1):
        make_job(tmp_path, number, {"seed": number}, pictures=("a", "b"))
    (frame, _) = frames(clip.write_clip(read_sweep(tmp_path), tmp_path / "a.mkv", seconds=0.01))
    assert frame.shape[1] >= 80


@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [("a.png", 1, "--clip .*a.png: give the name of a clip"), ("a.mp4", 0, "--seconds 0: give a number")],
)
def test_wrong_names_and_durations_are_refused(tmp_path, name, seconds, message):
    make_job(tmp_path, 0, {"seed": 1})
    with pytest.raises(UserError, match=message):
        clip.write_clip(read_sweep(tmp_path), tmp_path / name, seconds)


def test_a_sweep_without_pictures_is_refused(tmp_path):
    make_job(tmp_path, 0, {"seed": 1}, status="failed", pictures=())
    with pytest.raises(UserError, match="no run of this sweep has a picture yet"):
        clip.write_clip(read_sweep(tmp_path), tmp_path / "a.mp4")


def test_a_damaged_picture_leaves_no_clip(tmp_path):
    make_job(tmp_path, 0, {"seed": 1})
    job = make_job(tmp_path, 1, {"seed": 2})
    jobs = read_sweep(tmp_path)
    Image.new("RGB", (4, 4)).save(job / "output.png")
    (job / "output.png").write_bytes((job / "output.png").read_bytes()[:20])
    with pytest.raises(UserError, match=r"output\.png"):
        clip.write_clip(jobs, tmp_path / "a.mp4")
    assert not list(tmp_path.glob("*a.mp4*"))
