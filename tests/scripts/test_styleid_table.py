"""The table of the protocol of papers: a small run of it, and lines of several runs."""

import csv
from pathlib import Path

import pytest
from helpers import SCRIPTS, picture

SCRIPT = SCRIPTS / "styleid_table.py"
HEAD = "method,measure,pairs,mean,low,high,difference,difference_low,difference_high"


def write(folder: str, *lines: str) -> str:
    Path(folder).mkdir(parents=True)
    Path(folder, "means.csv").write_text("\n".join([HEAD, *lines, ""]))
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_several_runs_are_one_table(run):
    photo = "photo,lpips,800,0.0,0.0,0.0,,,"
    first = write("first", "adain,lpips,800,0.62345,0.6,0.65,,,", "adain,fid_vgg,800,12.0,,,,,", photo,
                  "painting,lpips,800,0.8,0.7,0.9,,,")  # fmt: skip
    second = write("second", "gatys,lpips,80,0.5,0.4,0.6,,,", "gatys,seconds_per_picture,80,61.0,,,,,", photo)
    third = write("third", "gatys,lpips,80,0.4,0.3,0.5,,,")
    assert run(first, second, third).out.splitlines() == [
        "| method | pairs | `lpips` | `fid_vgg` | `seconds_per_picture` |",
        "|---|---|---|---|---|",
        "| adain | 800 | 0.623 (0.6 to 0.65) | 12 |  |",
        "| gatys | 80 | 0.5 (0.4 to 0.6) |  | 61 |",
        "| gatys (run 2) | 80 | 0.4 (0.3 to 0.5) |  |  |",
        "| the photo itself | 800 | 0 |  |  |",
        "| the painting itself | 800 | 0.8 (0.7 to 0.9) |  |  |",
    ]
    assert run(first, "--measures", "fid_vgg").out.splitlines()[2] == "| adain | 800 | 12 |"


def test_a_folder_without_means_is_one_sentence(run):
    Path("empty").mkdir()
    done = run("empty", expect=2)
    assert done.out == "" and done.err.startswith("empty: not a finished run with task=evaluate (")


@pytest.mark.slow
def test_the_protocol_on_two_photos_and_two_paintings(run, nstexp):
    for name in ("photos/a.png", "photos/b.png", "paintings/x.png", "paintings/y.png"):
        picture(name, 72, 64, seed=len(name) + ord(name[-5]))
    small = ("image_px=64", "logger=none", "precision=fp32", "backbone@metrics.encoder=random")
    result = nstexp.bare("experiment=styleid", "content=photos", "style=paintings", *small)
    assert result.code == 0, result.err
    with (result.path.parent / "means.csv").open(newline="") as file:
        means = {(row["method"], row["measure"]): row for row in csv.DictReader(file)}
    methods = ("adain", "swift", "photo", "painting")
    for measure in ("lpips", "cfsd", "style_gram", "ssim", "color_cov"):
        assert [float(means[method, measure]["pairs"]) for method in methods] == [4] * 4
    assert float(means["photo", "lpips"]["mean"]) == 0 < float(means["adain", "lpips"]["low"])
    assert float(means["painting", "style_gram"]["mean"]) == pytest.approx(0, abs=1e-6), "squares of one size"
    assert all(float(means[method, "fid_vgg"]["mean"]) > 0 for method in ("adain", "swift", "photo"))
    assert all(float(means[method, "seconds_per_picture"]["mean"]) > 0 for method in ("adain", "swift"))
    lines = run(result.path.parent).out.splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        *("adain", "swift", "the photo itself", "the painting itself")
    ]
    assert lines[2].split(" | ")[1] == "4" and " to " in lines[2]


@pytest.mark.slow
def test_the_protocol_is_for_any_method_and_some_of_the_pairs(nstexp):
    for name in ("photos/a.png", "photos/b.png", "paintings/x.png", "paintings/y.png"):
        picture(name, 40, 40, seed=ord(name[-5]))
    small = ("image_px=32", "logger=none", "precision=fp32", "backbone@metrics.encoder=random", "metrics=[ssim]")
    pictures, gatys = ("content=photos", "style=paintings"), ("backbone=random", "method.max_steps=2")
    result = nstexp.bare("experiment=styleid", *pictures, *small, "method=[gatys]", *gatys, "task.pairs=2")
    assert result.code == 0, result.err
    with (result.path.parent / "means.csv").open(newline="") as file:
        means = list(csv.DictReader(file))
    assert {(row["method"], row["pairs"]) for row in means} == {(m, "2") for m in ("gatys", "photo", "painting")}


@pytest.mark.slow
def test_the_protocol_needs_pictures(nstexp):
    result = nstexp.bare("experiment=styleid", "logger=none")
    assert result.code == 2
    assert "content is empty: give at least one image, such as content=photo.jpg" in result.sentences[-1]
