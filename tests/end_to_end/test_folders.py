"""The real command line on folders that hold something: nothing of the user's is lost, and one run works at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import SMOKE, Result, finish, picture, run_folders, wait_for
from PIL import Image

from nstexp.outputs import read_summary
from nstexp.ownership import LOCK, Place


@pytest.fixture(autouse=True)
def _in_the_folder(folder):
    """Every test here runs in it."""


def contents() -> dict[str, bytes | None]:
    return {str(path): None if path.is_dir() else path.read_bytes() for path in Path().rglob("*")}


def refused(result: Result, *words: str) -> None:
    assert (result.code, result.out) == (2, "")
    assert len(result.sentences) == 1, result.err
    assert all(word in result.sentences[0] for word in words)


OVER_INPUTS = {
    "content=mine output=mine": "mine/holiday.png",
    "content=mine/holiday.png output=mine/holiday.png": "mine/holiday.png",
    "content=mine/holiday.png output=link.png": "link.png",
    "content=mine/holiday.png output=hard.png": "hard.png",
    "style=mine/holiday.png output=mine/holiday.png": "mine/holiday.png",
    "masks=white.png output=white.png": "white.png",
    "fine_style=painting.jpg output=painting.jpg": "painting.jpg",
    "method.init=mine/holiday.png output=mine/holiday.png": "mine/holiday.png",
    "content=before/output.png run_dir=before": "before/output.png",
    "method.init=before/output.png run_dir=before": "before/output.png",
    "content=[mine,before/output.png] run_dir=before": "before/output.png",
}


@pytest.mark.parametrize("args", OVER_INPUTS)
def test_a_run_never_writes_over_what_it_reads(nstexp, args):
    picture("mine/holiday.png", 50, 40, seed=3)
    picture("mine/other.jpg", 50, 40, seed=4)
    Image.new("L", (50, 37), 255).save("white.png")
    os.symlink("mine/holiday.png", "link.png")
    os.link("mine/holiday.png", "hard.png")
    if "before" in args:
        assert nstexp("run_dir=before").code == 0
    before = contents()
    refused(nstexp(*args.split()), "would replace the input", OVER_INPUTS[args])
    assert contents() == before


@pytest.mark.parametrize(
    "args", ["content=mine run_dir=mine", "style=mine run_dir=./mine/../mine/", "content=. run_dir=."]
)
def test_a_folder_whose_pictures_are_read_is_no_run_folder(nstexp, args):
    picture("mine/holiday.png", 50, 40, seed=3)
    before = contents()
    refused(nstexp(*args.split()), "run_dir=", "the run reads the pictures in this folder")
    assert contents() == before


@pytest.mark.parametrize("name", ["config.yaml", "losses.csv", "output.png", "images/output_00002.jpg", "nstexp.log"])
def test_a_run_never_writes_over_a_file_that_it_has_not_made(nstexp, name):
    Path("mine/images").mkdir(parents=True)
    Path("mine", name).write_text("the user's")
    result = nstexp("run_dir=mine", "picture_every_n_steps=2")
    assert (result.code, result.out) == (2, "")
    assert f"mine: {name} was not made by nstexp and would be replaced" in result.sentences[-1]
    assert Path("mine", name).read_text() == "the user's"


def test_the_same_command_replaces_its_own_results(nstexp):
    first = nstexp("run_dir=run", "seed=1")
    again = nstexp("run_dir=run", "seed=2")
    assert (first.code, again.code, again.sentences) == (0, 0, [])
    assert read_summary("run").seed == 2
    assert {"output.png", "losses.csv", "summary.json"} <= set(read_summary("run").files)
    assert not list(Path("run").glob(".nstexp*"))


def test_the_named_output_is_replaced_and_the_run_says_so(nstexp):
    picture("old.png", 20, 20)
    result = nstexp("output=old.png")
    assert (result.code, result.sentences) == (0, ["output=old.png: the existing file will be replaced"])
    assert Image.open("old.png").size == (48, 36)
    picture("many/photo.png", 20, 20)
    result = nstexp("content=[photo.png,painting.jpg]", "output=many")
    assert (result.code, result.sentences) == (0, ["output=many: 1 of 2 files exist and will be replaced"])
    assert nstexp("output=new.png").sentences == []


def test_a_protected_output_is_not_replaced(nstexp):
    picture("old.png", 20, 20).chmod(0o444)
    before = contents()
    refused(nstexp("output=old.png"), "output=old.png", "read-only")
    assert contents() == before


def test_a_linked_output_stays_a_link(nstexp):
    picture("real/old.png", 20, 20)
    os.symlink("real/old.png", "out.png")
    assert nstexp("output=out.png").code == 0
    assert Path("out.png").is_symlink()
    assert Image.open("real/old.png").size == (48, 36)


@pytest.mark.parametrize("args", ["content=nope.jpg", "content=text.jpg", "image_px=20"])
@pytest.mark.parametrize("run_dir", [".", "empty", "hydras", "used", "new/deeper"])
def test_a_refused_run_leaves_its_folder_as_it_was(nstexp, run_dir, args):
    Path("empty").mkdir()
    Path("hydras/.hydra").mkdir(parents=True)
    Path("hydras/.hydra/mine.yaml").write_text("a: 1")
    if run_dir == "used":
        assert nstexp("run_dir=used").code == 0
    Path("text.jpg").write_text("no picture")
    before = contents()
    refused(nstexp(f"run_dir={run_dir}", "logger=[csv,tensorboard]", args))
    after = contents()
    after.pop("used/nstexp.log", None), before.pop("used/nstexp.log", None)  # grows
    assert after == before


def test_a_second_run_in_the_folder_is_refused_and_changes_nothing(nstexp):
    place = Place("run")
    place.take()
    before = contents()
    refused(nstexp("run_dir=run"), "run_dir=", "another run is writing there")
    assert contents() == before
    place.release()
    assert nstexp("run_dir=run").code == 0


def test_two_commands_at_once_leave_one_result():
    command = [sys.executable, "-m", "nstexp", *SMOKE, "content=photo.png", "style=painting.jpg", "run_dir=run"]
    long = [*command, "method.max_steps=100000", "log_every_n_steps=1"]
    first = subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: Path("run/losses.csv").exists())
        second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = finish(second, 2)
        assert "another run is writing there" in err
        assert out == ""
        assert first.poll() is None
        first.kill()
        first.wait()
        assert Path("run", LOCK).exists()
        third = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        finish(third, 0)
    finally:
        first.kill()
        first.communicate()
    assert read_summary("run").status == "completed"
    assert Path("run/losses.csv").read_text().count("step") == 1
    assert not Path("run", LOCK).exists()


def test_a_sweep_keeps_the_users_files_and_its_folder_to_itself(nstexp):
    Path("mine").mkdir()
    Path("mine/report.html").write_text("the user's")
    before = contents()
    refused(nstexp("-m", "hydra.sweep.dir=mine", "seed=1,2"), "report.html", "not made by nstexp")
    place = Place("sweep")
    place.take_for_sweep()
    result = nstexp("-m", "hydra.sweep.dir=sweep", "seed=1,2")
    refused(result, "hydra.sweep.dir=", "another sweep is writing there")
    place.release()
    assert contents() == before
    assert nstexp("-m", "hydra.sweep.dir=sweep", "seed=1,2").code == 0
    assert not list(Path("sweep").rglob(".nstexp*"))
    assert nstexp("-m", "hydra.sweep.dir=sweep", "seed=1,2,3").code == 0


def test_a_job_of_a_sweep_that_another_process_works_on_is_left_alone(nstexp):
    assert nstexp("-m", "hydra.sweep.dir=sweep", "seed=1,2").code == 0
    before = contents()
    place = Place("sweep/1")
    place.take()
    Path("sweep/1/summary.json").write_text(Path("sweep/1/summary.json").read_text().replace("completed", "running"))
    result = nstexp("-m", "hydra.sweep.dir=sweep", "seed=1,2")
    assert result.code == 1
    assert "another run is writing there" in result.err
    assert read_summary("sweep/1").status == "running"
    assert contents()["sweep/1/losses.csv"] == before["sweep/1/losses.csv"]
    place.release()


def test_without_hydras_callbacks_the_folder_is_protected_too(nstexp):
    picture("mine/output.png", 20, 20)
    before = Path("mine/output.png").read_bytes()
    refused(nstexp("run_dir=mine", "~hydra.callbacks.start"), "not made by nstexp")
    assert Path("mine/output.png").read_bytes() == before
    assert run_folders() == []
