"""Files and folders of any name through the whole program: what goes in, what comes out, and what is recorded of it."""

import html
import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
import yaml
from helpers import picture, run_folders
from omegaconf import OmegaConf
from PIL import Image

from nstexp.outputs import read_summary

NAMES = [
    "photo (1).png", "Zürich.png", "写真.png", "it's.png", "#1.png", "a[1].png", "IMG&2.png", "a=b.png", "a,b.png",
    "${oc.env:HOME}.png", "a\x1b]0;pwned\x07.png", "a\nb.png", "50%25.png", "<b>.png", '"q".png', "back\\slash.png",
    "{x}.png", os.fsdecode(b"caf\xe9.png"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_the_folder(folder):
    """Every test here runs in it."""


def test_a_folder_of_any_names_is_redrawn(nstexp):
    for n, name in enumerate(NAMES):
        picture(f"in/{name}", 40, 32 + n)
    result = nstexp(
        "content=in", "output=results (1)", "image_px=null", "picture_every_n_steps=1", "logger=[csv,tensorboard]"
    )
    assert result.code == 0, result.err
    heights = {os.fsencode(path.name): Image.open(path).height for path in Path("results (1)").iterdir()}
    assert heights == {os.fsencode(name): 32 + n for n, name in enumerate(NAMES)}
    assert not re.search("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]", result.err.replace("\x1b[A", ""))
    (run,) = run_folders()
    assert {*read_summary(run).metrics} == {Path(name).stem for name in NAMES}
    assert json.loads((run / "metrics.json").read_text()).keys() == read_summary(run).metrics.keys()


@pytest.mark.parametrize("name", [*NAMES[:9], "2024_05", "1e3", "1_000", "true"])
def test_one_picture_and_its_places_have_any_name(nstexp, name):
    photo, output = f"{name}", f"out/{name}.png"
    picture("photo.png", 40, 33)
    os.rename("photo.png", photo)
    result = nstexp(f"content={photo}", f"output={output}", f"run_dir=runs/{name}", "image_px=null")
    assert (result.code, result.path) == (0, Path(output)), result.err
    assert Image.open(output).size == (40, 33)
    config = (Path("runs") / name / "config.yaml").read_text()
    assert yaml.safe_load(config)["content"] == photo
    assert OmegaConf.to_container(OmegaConf.create(config), resolve=True)["output"] == output
    assert read_summary(f"runs/{name}").outputs == [output]


def test_the_same_names_in_a_sweep_and_in_its_report(nstexp):
    names = [name for name in NAMES[:10] if name not in ("a,b.png", '"q".png')]
    for n, name in enumerate(names):
        picture(name, 40, 32 + n)
    result = nstexp("-m", f'content={",".join(names[:-1])},"a,b.png"', "image_px=null")
    assert result.code != 0  # a,b.png is not there
    assert [read_summary(run).status for run in run_folders()] == ["completed"] * (len(names) - 1) + ["failed"]
    made = [Image.open(run / "output.png").height for run in run_folders()[:-1]]
    assert made == [32 + n for n in range(len(names) - 1)]
    page = result.path.read_text() if result.path else (run_folders()[0].parent / "report.html").read_text()
    data = json.loads(html.unescape(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page, re.S)[1]))
    linked = {entry["name"]: entry["link"] for entry in data["inputs"] if entry["kind"] == "content"}
    assert linked.keys() == {*names[:-1]}
    folder = run_folders()[0].parent
    assert all((folder / os.fsdecode(unquote_to_bytes(link))).is_file() for link in linked.values())


def test_a_file_that_describes_a_sweep_names_them_as_the_command_line_does(nstexp):
    for name in ("a (1).png", "it's.png"):
        picture(name, 40, 32)
    Path("mine/experiment").mkdir(parents=True)
    sweep = {"mode": "MULTIRUN", "sweeper": {"params": {"content": "a (1).png,it's.png"}}}
    text = "# @package _global_\n" + yaml.safe_dump({"hydra": sweep, "defaults": ["smoke_gatys"]})
    Path("mine/experiment/own.yaml").write_text(text)
    result = nstexp.bare("--config-dir", "mine", "experiment=own", "style=painting.jpg", "method.max_steps=1")
    assert result.code == 0, result.err
    contents = [yaml.safe_load((run / "config.yaml").read_text())["content"] for run in run_folders()]
    assert contents == ["a (1).png", "it's.png"]


def test_lists_and_masks_and_starts_have_any_name(nstexp):
    for name in ("a (1).jpg", "b,c.jpg", "init [1].png"):
        picture(name, 40, 40)
    picture("mask #1.png", 50, 37)
    picture("${oc.env:NOT_SET}.png", 50, 37)
    result = nstexp(
        "style=[a (1).jpg,b,c.jpg]", "masks=[mask #1.png,${oc.env:NOT_SET}.png]", "method.init=init [1].png",
        "fine_style=a (1).jpg",
    )  # fmt: skip
    assert result.code == 0, result.err
    config = yaml.safe_load((run_folders()[0] / "config.yaml").read_text())
    assert config["style"] == ["a (1).jpg", "b,c.jpg"]
    assert OmegaConf.create(config).masks[1] == "${oc.env:NOT_SET}.png"


@pytest.mark.parametrize("key", ["method.init", "content"])
def test_a_reference_in_a_name_is_resolved_once_and_no_file_is_one(nstexp, monkeypatch, key):
    picture("${seed}.png", 50, 37)
    assert nstexp(f"{key}=${{seed}}.png").code == 0
    picture("place/${oc.env:HOME} (2).png", 50, 37)
    monkeypatch.setenv("PLACE", "place/${oc.env:HOME} (2).png")
    assert nstexp(f"{key}=${{oc.env:PLACE}}").code == 0


def test_methods_of_an_evaluation_start_from_any_name(nstexp):
    picture("init (1),${x}.png", 50, 37)
    methods = 'task.methods={other: ["method=gatys","method.init=init (1),\\${x}.png"]}'
    result = nstexp("task=evaluate", methods, "content=[photo.png]", "metrics=style_gram", "style=[painting.jpg]")
    assert result.code == 0, result.err


def test_pictures_need_no_key(nstexp, monkeypatch):
    picture("photo (1).png", 44, 33)
    result = nstexp.bare(*smoke(), "photo (1).png", "painting.jpg", "output=out.png", "image_px=null")
    assert (result.code, Image.open("out.png").size) == (0, (44, 33))


def smoke() -> list[str]:
    from helpers import SMOKE

    return list(SMOKE)


@pytest.mark.parametrize("word", ["content=gone (1)\x1b]0;x\x07\n.png", "gone\x1b[31m.png", "method.init=gone\x1b[31m"])
def test_a_terminal_gets_no_commands_from_names(nstexp, word):
    result = nstexp(word) if "=" in word else nstexp.bare(word)
    assert result.code == 2
    assert len(result.sentences) == 1
    assert "\\x1b" in result.err and "\x1b" not in result.err


def test_a_folder_that_nobody_can_work_in_is_named(nstexp, monkeypatch):
    Path("${x}").mkdir()
    monkeypatch.chdir("${x}")
    result = nstexp.bare()
    assert (result.code, len(result.sentences)) == (2, 1)
    monkeypatch.chdir("..")
    result = nstexp("run_dir=a${")
    assert (result.code, len(result.sentences), Path("a${").exists()) == (2, 1, False)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_name_that_is_no_unicode_is_recorded(nstexp):
    name = os.fsdecode(b"caf\xe9 (1).png")
    picture("photo.png", 40, 33)
    os.rename("photo.png", name)
    result = nstexp(f"content={name}", f"output=out/{name}", "image_px=null")
    assert result.code == 0, result.err
    (run,) = run_folders()
    assert read_summary(run).outputs == [f"out/{name}"]
    assert yaml.safe_load((run / "config.yaml").read_text())["content"] == name
