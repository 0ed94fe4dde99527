"""Runs that are killed, and go on from checkpoints/unfinished.ckpt with the same command."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, picture, wait_for

from nstexp.core.errors import UserError
from nstexp.outputs import RunFolder
from nstexp.tasks.unfinished import UnfinishedRun

SMALL = (
    "backbone=random", "image_px=64", "method.max_steps=200", "method.levels=2", "method.coarse_steps=6",
    "log_every_n_steps=1", "picture_every_n_steps=0", "logger=none", "seed=3", "measure=true",
    "metrics.names=[style_gram]",
)  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_is_written_before_its_time(tmp_path, clock):
    unfinished = UnfinishedRun(RunFolder(tmp_path), "a", 5, clock)
    unfinished.begin("one")
    clock.now = 299
    assert not unfinished.due() and not unfinished.how_to_continue()
    clock.now = 300
    assert unfinished.due()
    unfinished.keep({"steps_done": 7, "image": torch.ones(3)})
    assert not unfinished.due() and f"run_dir={tmp_path} goes on" in unfinished.how_to_continue()
    unfinished.end()
    assert not list(tmp_path.glob("checkpoints*"))


def test_state_belongs_to_its_picture_and_settings(tmp_path, clock):
    folder = RunFolder(tmp_path)
    first = UnfinishedRun(folder, "a", 5, clock)
    first.begin("one")
    first.finish({"one": []})
    first.begin("two")
    clock.now = 400
    first.keep({"steps_done": 7, "image": torch.ones(3)})

    (tmp_path / "one.png").touch()
    again = UnfinishedRun(RunFolder(tmp_path), "a", 5, clock)
    assert again.restore({name: tmp_path / f"{name}.png" for name in ("one", "two")}) == {"one"}
    again.begin("three")
    assert again.load() is None and again.seconds_before == 0
    again.begin("two")
    assert again.seconds_before == 400 and torch.equal(again.load()["image"], torch.ones(3))
    assert again.load() is None  # it is not kept in memory

    (tmp_path / "one.png").unlink()  # a result that is missing is made again
    assert UnfinishedRun(RunFolder(tmp_path), "a", 5, clock).restore({"one": tmp_path / "one.png"}) == set()
    other = UnfinishedRun(RunFolder(tmp_path), "b", 5, clock)
    other.begin("two")
    assert other.load() is None and not other.how_to_continue()
    other.end()
    assert UnfinishedRun(RunFolder(tmp_path), "a", 5, clock).how_to_continue()  # hours of work of the other settings


def test_damaged_file_is_no_hindrance(tmp_path, clock, caplog):
    (tmp_path / "checkpoints").mkdir()
    folder = RunFolder(tmp_path)
    folder.place.known.add("checkpoints/unfinished.ckpt")
    (tmp_path / "checkpoints/unfinished.ckpt").write_bytes(b"damaged")
    unfinished = UnfinishedRun(folder, "a", 5, clock)
    unfinished.begin("one")
    assert unfinished.load() is None and "the run begins anew" in caplog.text


def test_file_of_the_user_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/unfinished.ckpt").write_bytes(b"mine")
    with pytest.raises(UserError, match="was not made by nstexp"):
        UnfinishedRun(RunFolder(tmp_path), "a")


def test_full_disk_does_not_end_the_run(tmp_path, clock, monkeypatch, caplog):
    def full(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nstexp.tasks.unfinished.torch.save", full)
    unfinished = UnfinishedRun(RunFolder(tmp_path), "a", 5, clock)
    unfinished.begin("one")
    unfinished.keep({"steps_done": 7})
    assert "No space left" in caplog.text and not list((tmp_path / "checkpoints").iterdir())


def test_long_writing_makes_it_rarer(tmp_path, clock, monkeypatch):
    def slow(content: object, path: Path) -> None:
        path.write_bytes(b"")
        clock.now += 60

    monkeypatch.setattr("nstexp.tasks.unfinished.torch.save", slow)
    unfinished = UnfinishedRun(RunFolder(tmp_path), "a", 5, clock)
    unfinished.begin("one")
    unfinished.keep({"steps_done": 7})
    clock.now += 19 * 60
    assert not unfinished.due()
    clock.now += 60
    assert unfinished.due()


def command(run_dir: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "nstexp", *SMALL, f"run_dir={run_dir}", *words]


def start(*words: str, folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_run_of_several_pictures_goes_on(folder):
    photos = folder / "photos"
    photos.mkdir()
    for number in range(3):
        picture(str(photos / f"{number}.png"), 64, 48, seed=number)
    painting = picture(str(folder / "painting.png"), 50, 60, seed=9)
    given = [f"content={photos}", f"style={painting}", "output=copies"]

    whole = start(*command(folder / "whole", "task.checkpoint_minutes=null", *given), folder=folder)
    assert whole.wait(120) == 0
    expected = {path.name: path.read_bytes() for path in (folder / "copies").iterdir()}
    for path in (folder / "copies").iterdir():
        path.unlink()

    parts = command(folder / "parts", "task.checkpoint_minutes=1e-9", *given)
    run = start(*parts, folder=folder)
    losses = folder / "parts/losses.csv"
    wait_for(lambda: losses.exists() and "\n1,30," in losses.read_text())  # in the middle of the second picture
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = folder / "parts/checkpoints/unfinished.ckpt"
    assert kept.exists()
    run = start(*parts, folder=folder)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert "0.png, done before" in said and "1 goes on from step" in said
    assert {path.name: path.read_bytes() for path in (folder / "copies").iterdir()} == expected
    assert not kept.parent.exists()

    summary = json.loads((folder / "parts/summary.json").read_text())
    other = json.loads((folder / "whole/summary.json").read_text())
    assert summary["outputs"] == other["outputs"] and summary["status"] == "completed"
    assert "checkpoints/unfinished.ckpt" not in summary["files"]
    for name, numbers in other["metrics"].items():
        same = {key: value for key, value in numbers.items() if key != "stylize_seconds"}
        assert summary["metrics"][name].items() >= same.items()
    assert set(summary["references"]) == set(other["references"])
    assert rows(folder / "parts") == rows(folder / "whole")


def rows(run_dir: Path) -> list[tuple[str, str, str]]:
    with (run_dir / "losses.csv").open(newline="") as file:
        return [(row["image"], row["step"], row["total"]) for row in csv.DictReader(file)]
