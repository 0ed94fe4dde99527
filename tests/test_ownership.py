"""Whose files are in a run folder: nothing that is not a run's own is written over, and one run works at a time."""

import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import check_place, write_atomically
from nstexp.outputs import RunFolder, record_death
from nstexp.ownership import LOCK, OF_EVERY_RUN, Inputs, Place, is_busy

USERS = "the user's"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def users(name: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(USERS)
    return path


def inputs(*paths: str) -> Inputs:
    found = Inputs()
    found.add([Path(path) for path in paths], folders=True)
    return found


# -------------------------------------------------------------------------------------------------------------- inputs


def test_an_input_is_known_by_every_name():
    users("in/photo.png")
    os.symlink("in/photo.png", "link.png")
    os.link("in/photo.png", "hard.png")
    os.symlink("in", "folder")
    users("other.png")
    known = inputs("in/photo.png")
    names = (
        "in/photo.png",
        "link.png",
        "hard.png",
        "folder/photo.png",
        "in/../in/photo.png",
        os.path.abspath("link.png"),
    )
    assert all(Path(name) in known for name in names)
    assert not any(Path(name) in known for name in ("other.png", "in/other.png", "in"))


def test_the_pictures_in_an_input_folder_are_inputs_and_other_files_are_not():
    users("in/deep/photo.PNG"), users("in/losses.csv"), users("inside.png")
    known = inputs("in")
    assert Path("in/deep/photo.PNG") in known
    assert not any(Path(name) in known for name in ("in/losses.csv", "in/new.png", "inside.png"))


def test_every_file_that_a_configuration_names_is_an_input():
    for name in ("a.png", "net.safetensors", "b.png", "style/x.png", "gram/y.png", "mine.safetensors", "out.png"):
        users(name)
    config = {
        "content": ["a.png", "nowhere.png"],
        "style": "style",
        "method": {"init": "b.png", "optimizer": "gram", "model": "net.safetensors"},
        "task": {"methods": {"mine": ["method.model=mine.safetensors"]}},
        "long": "x" * 5000,
        "odd": "\0~nobody/",
        "output": "out.png",
    }
    known = Inputs()
    known.add_config(config)
    found = ("a.png", "b.png", "net.safetensors", "mine.safetensors", "style/x.png")
    assert all(Path(name) in known for name in found)
    assert not any(Path(name) in known for name in ("out.png", "gram/y.png"))


# ---------------------------------------------------------------------------------------------------------- run folders


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("config.yaml", lambda run: run.write_config("")),
        ("summary.json", lambda run: run.write_summary()),
        ("metrics.json", lambda run: run.record_metrics("a", {})),
        ("losses.csv", lambda run: run.append_losses({"step": 1})),
        ("losses.csv", lambda run: run.continue_losses(1)),
        ("validation.csv", lambda run: run.append_validation({"step": 1})),
        ("frames.csv", lambda run: run.append_frame({"frame": 1})),
        ("skipped.txt", lambda run: run.write_skipped(["a"])),
        ("scores.csv", lambda run: run.write_rows("scores.csv", [{"a": 1}])),
        ("checkpoints/best.ckpt", lambda run: run.new_checkpoint("best").__enter__()),
    ],
)
def test_a_run_replaces_what_an_earlier_one_has_made_and_no_file_of_the_users(name, write):
    earlier = RunFolder("run")
    path = earlier.claim(name)
    earlier.write_summary()
    path.parent.mkdir(exist_ok=True)
    if name != "summary.json":
        path.write_text("step\n1\n")
    write(RunFolder("run"))

    users(f"mine/{name}")
    with pytest.raises(UserError, match="was not made by nstexp and would be replaced, choose another folder"):
        write(RunFolder("mine"))
    assert Path("mine", name).read_text() == USERS


def test_files_of_a_run_that_was_killed_are_known():
    killed = RunFolder("run")
    killed.append_losses({"step": 1})  # and no end
    users("run/notes.csv")
    RunFolder("run").check("losses.csv")
    with pytest.raises(UserError, match="not made by nstexp"):
        RunFolder("run").check("notes.csv")


def test_a_record_without_a_list_of_files_stands_for_what_runs_have_written():
    names = ("output.png", "photo.png", "losses.csv", "images/photo_00050.jpg", "clip.mp4", "checkpoints/last.ckpt")
    for name in (*names, "holiday.png", "images/holiday.jpg"):
        users(f"run/{name}")
    record = {"status": "completed", "overrides": [], "outputs": ["run/clip.mp4"], "metrics": {"photo": {}}}
    Path("run/summary.json").write_text(json.dumps(record))
    RunFolder("run").check(*names, *OF_EVERY_RUN)
    for name in ("holiday.png", "images/holiday.jpg"):
        with pytest.raises(UserError, match="not made by nstexp"):
            RunFolder("run").check(name)


def test_a_result_that_is_read_now_or_protected_is_not_replaced():
    earlier = RunFolder("run")
    earlier.claim("output.png").write_text("result")
    again = RunFolder("run")
    again.inputs.add([Path("run/output.png")])
    with pytest.raises(UserError, match="the result would replace the input"):
        again.claim("output.png")
    Path("run/output.png").chmod(0o444)
    with pytest.raises(UserError, match="is read-only"):
        RunFolder("run").claim("output.png")


# --------------------------------------------------------------------------------------------------------------- places


def contents(folder: str = ".") -> dict[str, str | None]:
    return {str(path): None if path.is_dir() else path.read_text() for path in Path(folder).rglob("*")}


def hydra_writes(folder: str, record: str = ".hydra") -> None:
    """What Hydra does when a place is taken."""
    Path(folder, record).mkdir(exist_ok=True)
    for name in ("config", "hydra", "overrides"):
        Path(folder, record, f"{name}.yaml").write_text("task:\n  _target_: nstexp.tasks.new\n")
    with Path(folder, "nstexp.log").open("a") as log:
        log.write("a line\n")


@pytest.mark.parametrize("folder", [".", "empty", "used", "new", "new/deeper/still"])
def test_a_refused_run_leaves_everything_as_it_was(folder):
    Path("empty").mkdir()
    users("used/notes.txt")
    users("used/csv/table.csv")
    Path("used/.hydra").mkdir()
    before = contents()
    place = Place(folder)
    place.take()
    assert is_busy(Path(folder))
    hydra_writes(folder)
    run = RunFolder(folder, place=place)
    run.write_config("a: 1")
    run.write_summary()
    Path(folder, "wandb").mkdir()
    users(f"{folder}/wandb/log")
    assert not place.begun
    place.undo()
    assert contents() == before


def test_a_refused_run_leaves_the_record_of_the_one_before():
    first = Place("run")
    first.take()
    hydra_writes("run")
    run = RunFolder("run", place=first)
    run.write_config("a: 1")
    run.record_metrics("a", {"total": 1})
    assert first.begun
    first.release()
    Path("run/.hydra/config.yaml").write_text("task:\n  _target_: nstexp.tasks.before\n")
    Path("run/nstexp.log").write_text("before\n")
    before = contents()
    second = Place("run")
    second.take()
    hydra_writes("run")
    run = RunFolder("run", place=second)
    run.write_config("a: 2")
    run.summary.status = "failed"
    run.write_summary()
    second.undo()
    assert contents() == before


def test_the_record_may_have_another_name_or_be_none():
    for record in ("record", None):
        for _ in range(2):
            place = Place("run", record=record)
            place.take()
            if record:
                hydra_writes("run", record)
            RunFolder("run", place=place).append_losses({"step": 1})
            place.release()


@pytest.mark.parametrize("name", [*OF_EVERY_RUN, "nstexp.log", ".hydra/config.yaml", ".hydra/hydra.yaml"])
def test_a_folder_with_files_of_these_names_is_not_taken(name):
    users(f"mine/{name}")
    before = contents()
    with pytest.raises(UserError, match="not made by nstexp"):
        Place("mine").take()
    assert contents() == before


def test_a_file_is_no_run_folder():
    users("file")
    for path in ("file", "file/run"):
        with pytest.raises(UserError, match=rf"run_dir={path}: (there is a file|the folder cannot be written)"):
            Place(path).take()
    assert contents() == {"file": USERS}


def test_one_run_at_a_time():
    first = Place("run")
    first.take()
    before = contents()
    with pytest.raises(UserError, match="run_dir=run: another run is writing there"):
        Place("run").take()
    assert contents() == before
    pickle.loads(pickle.dumps(first)).release()  # by another process of the same training
    assert is_busy(Path("run"))
    first.release()
    assert not Path("run").exists()  # nothing was written
    Place("run").take()


def test_a_process_that_ends_lets_the_next_one_in():
    code = "import os; from nstexp.ownership import Place; Place('run').take(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert Path("run", LOCK).exists()
    assert not is_busy(Path("run"))
    Place("run").take()


def test_a_disk_without_locks_is_written_without_one(monkeypatch):
    import filelock

    def none(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    place = Place("run")
    place.take()
    place.release()
    assert not Path("run").exists()


def test_two_sweeps_do_not_share_a_folder_and_a_sweep_keeps_the_users_files():
    first = Place("sweep")
    first.take_for_sweep()
    with pytest.raises(UserError, match=r"hydra\.sweep\.dir=sweep: another sweep is writing there"):
        Place("sweep").take_for_sweep()
    Place("sweep/0").take()  # its jobs can
    first.release()
    for name in ("report.html", "table.csv", "grid.png", "multirun.yaml", "3/.hydra/config.yaml"):
        users(f"mine-{name}/{name}")
        with pytest.raises(UserError, match=r"not made by nstexp|of another program"):
            Place(f"mine-{name}").take_for_sweep()
    Path("sweep/0/summary.json").write_text('{"status": "completed", "overrides": [], "outputs": []}')
    users("sweep/table.csv")
    with pytest.raises(UserError, match=r"table\.csv was not made by nstexp"):  # the job has not made it
        Place("sweep").take_for_sweep()
    Path("sweep/multirun.yaml").write_text("task:\n  _target_: nstexp.tasks\n")
    users("sweep/report.html")
    Place("sweep").take_for_sweep()


def test_a_run_at_work_is_not_dead_and_a_users_file_no_record():
    run = RunFolder("run")
    run.write_summary()
    place = Place("run")
    place.take()
    record_death(Path("run"), "killed")
    assert json.loads(Path("run/summary.json").read_text())["status"] == "running"
    place.release()
    record_death(Path("run"), "killed")
    assert json.loads(Path("run/summary.json").read_text())["status"] == "failed"
    users("mine/summary.json")
    record_death(Path("mine"), "killed")
    assert Path("mine/summary.json").read_text() == USERS


# --------------------------------------------------------------------------------------------------------- single files


def test_a_link_stays_and_its_file_is_written():
    users("real/out.png")
    os.symlink("real/out.png", "out.png")
    os.symlink("real/new.png", "new.png")
    for name in ("out.png", "new.png"):
        check_place(Path(name), "output")
        write_atomically(Path(name), lambda path: path.write_text("new"))
        assert Path(name).is_symlink()
        assert Path("real", name).read_text() == "new"


def test_places_that_cannot_be_written_are_refused_before():
    users("protected.png").chmod(0o444)
    os.mkfifo("pipe.png")
    Path("folder.png").mkdir()
    os.symlink("protected.png", "link.png")
    refused = {
        "protected.png": "read-only",
        "link.png": "read-only",
        "pipe.png": "a device or a pipe",
        "folder.png": "this is a folder",
        "protected.png/out.png": "not writable",
        "x" * 300 + ".png": "not writable",
    }
    for name, reason in refused.items():
        with pytest.raises(UserError, match=f"^output={name}: .*{reason}"):
            check_place(Path(name), "output")
    assert stat.S_ISFIFO(os.stat("pipe.png").st_mode)
