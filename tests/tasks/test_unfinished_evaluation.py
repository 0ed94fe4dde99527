"""Evaluations that are interrupted, and go on with the same command."""

import csv
from pathlib import Path
from typing import Any

import pytest
from helpers import picture

from nstexp.methods.gatys import Gatys
from nstexp.outputs import read_summary
from nstexp.tasks.unfinished import UnfinishedRun

COMMAND = (
    "task=evaluate", "image_px=48", "backbone=random", "backbone@metrics.encoder=random", "logger=none",
    "picture_every_n_steps=0", "log_every_n_steps=1", "precision=fp32", "method=gatys", "method.max_steps=6",
    "method.levels=1", "metrics=[style_gram,ssim,fid_vgg]", "content=[photo.png,other.png]",
    "style=[painting.jpg,second.png]",
)  # fmt: skip
PAIRS = ["photo_painting_gatys", "other_painting_gatys", "photo_second_gatys", "other_second_gatys"]


@pytest.fixture(autouse=True)
def _in_the_folder(folder):
    """Every test here runs in it."""
    picture("other.png", 44, 50, seed=3)
    picture("second.png", 60, 40, seed=4)


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """The pictures that are made, or begun, in this order; the third one is interrupted."""
    names: list[str] = []
    stylize = Gatys.stylize

    def noted(self: Gatys, content: Any, styles: Any, controls: Any) -> Any:
        if controls.recorded:  # the first one is made twice, for its time
            names.append(controls.name)
            if len(names) == 3:
                raise KeyboardInterrupt
        return stylize(self, content, styles, controls)

    monkeypatch.setattr(Gatys, "stylize", noted)
    return names


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a table, without what depends on time."""
    with path.open(newline="") as file:
        found = [*csv.DictReader(file)]
    times = ("stylize_seconds", "new_style", "seconds")
    return [
        {k: v for k, v in row.items() if k not in times} for row in found if "seconds" not in str(row.get("measure"))
    ]


def alike(one: Path, two: Path) -> None:
    for name in ("scores.csv", "means.csv", "losses.csv"):
        assert table(one / name) == table(two / name), name
    first, second = (read_summary(folder) for folder in (one, two))
    assert first.references == second.references and first.measured_with == second.measured_with
    assert first.status == second.status == "completed"
    for name in (*(f"{pair}.png" for pair in PAIRS), "grid.png"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert not (two / "checkpoints").exists()


def test_finished_pairs_are_not_made_again(nstexp, made):
    made += ["", "", ""]
    assert nstexp.bare(*COMMAND, "run_dir=whole").code == 0
    made.clear()

    result = nstexp.bare(*COMMAND, "run_dir=parts")
    assert result.code == 130
    kept = Path("parts/checkpoints/unfinished.ckpt").resolve()
    assert "interrupted at picture 3 of 4" in result.sentences[-1]
    assert result.sentences[-1].endswith(f"the same command with run_dir={kept.parents[1]} goes on from {kept}")
    assert len(table(Path("parts/scores.csv"))) == 6, "two pictures, with their photos and paintings"

    result = nstexp.bare(*COMMAND, "run_dir=parts")
    assert result.code == 0, result.err
    assert made == [*PAIRS[:3], *PAIRS[2:]]
    assert "picture 2 of 4: other, painting, gatys, done before" in result.err
    assert "picture 3 of 4: photo, second, gatys\n" in result.err
    alike(Path("whole"), Path("parts"))


def test_pictures_of_other_programs_are_not_scored_again(nstexp, made):
    made += ["", "", ""]
    assert nstexp.bare(*COMMAND, "run_dir=whole").code == 0
    made.clear()
    Path("theirs").mkdir()
    for pair in PAIRS:
        picture(f"theirs/{pair.removesuffix('_gatys')}.png", 60, 60, seed=len(pair))
    both = (*COMMAND, "results=theirs", "results_name={content}_{style}")
    assert nstexp.bare(*both, "run_dir=two").code == 130
    result = nstexp.bare(*both, "run_dir=two")
    assert result.code == 0, result.err
    of_gatys = [row for row in table(Path("two/scores.csv")) if row["method"] == "gatys"]
    assert of_gatys == [row for row in table(Path("whole/scores.csv")) if row["method"] == "gatys"]
    assert any("theirs: 4 pictures were resized" in line for line in result.sentences)
    assert any("theirs: 4 pictures do not have the shape" in line for line in result.sentences)


def test_only_pairs_whose_files_changed_are_made_again(nstexp, made):
    Path("photos").mkdir()
    for name in ("photo.png", "other.png"):
        Path(name).rename(f"photos/{name}")
    command = (*COMMAND, "content=photos", "run_dir=parts")
    assert nstexp.bare(*command).code == 130
    picture("photos/photo.png", 44, 50, seed=5)
    made.clear()
    made += ["", "", ""]
    result = nstexp.bare(*command)
    assert result.code == 0, result.err
    assert made[3:] == [PAIRS[0], PAIRS[3], PAIRS[2]], "both with the photo, and the interrupted one"
    with Path("parts/losses.csv").open(newline="") as file:
        steps = [(row["image"], row["step"]) for row in csv.DictReader(file)]
    assert len(steps) == len(set(steps)), "losses of a picture that is made again replace those before"


@pytest.mark.parametrize("other", ["metrics=[style_gram]", "method.init=noise", "task.crop=square"])
def test_other_settings_begin_anew(nstexp, made, other):
    assert nstexp.bare(*COMMAND, "run_dir=parts").code == 130
    made.clear()
    made += ["", "", ""]
    result = nstexp.bare(*COMMAND, other, "run_dir=parts")
    assert result.code == 0, result.err
    assert made[3:] == PAIRS


def test_a_picture_goes_on_from_its_last_kept_step(nstexp, made, monkeypatch):
    made += ["", "", ""]
    command = (*COMMAND, "method.max_steps=60")
    assert nstexp.bare(*command, "run_dir=whole").code == 0
    keep, ended = UnfinishedRun.keep, []

    def cut(self: UnfinishedRun, state: Any) -> None:
        keep(self, state)
        if len(made) == 9 and state.get("steps_done"):
            ended.append(state)
            raise KeyboardInterrupt

    always = (*command, "task.checkpoint_minutes=1e-9", "run_dir=parts")
    monkeypatch.setattr(UnfinishedRun, "keep", cut)
    assert nstexp.bare(*always).code == 130
    assert ended and made[-1] == PAIRS[1]
    result = nstexp.bare(*always)
    assert result.code == 0, result.err
    assert made[9:] == PAIRS[1:]
    assert f"{PAIRS[1]} goes on from step" in result.err
    alike(Path("whole"), Path("parts"))
