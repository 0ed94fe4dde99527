"""Thumbnails of the styles that networks have learned, in report.html and grid.png."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sweep_folders import COLORS, make_job

from nstexp import report
from nstexp.core.runtime.files import file_digest
from nstexp.media import samples
from nstexp.report.inputs import find_inputs, learned_by
from nstexp.report.page import page_data

CIN = "nstexp.methods.feedforward.FeedForward"


def make_run(sweep: Path, number: int, style: str | list[str] | None, model: str = "bundled", task: str = "stylize"):
    config = {"method": {"_target_": CIN, "model": model}, "task": {"_target_": f"nstexp.tasks.{task}.{task}"}}
    make_job(sweep, number, {"style": style}, config={**config, "style": style})


@pytest.fixture
def network(tmp_path) -> Path:
    """The file of a network that has learned the pictures red.png, which is there, and gone.png."""
    Image.new("RGB", (60, 40), COLORS[20]).save(tmp_path / "red.png")
    info = {"names": ["red", "gone"], "sources": [str(tmp_path / "red.png"), str(tmp_path / "gone.png")]}
    info["digests"] = [file_digest(tmp_path / "red.png"), ""]
    path = tmp_path / "mine.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"generator": json.dumps(info)})
    return path


def test_styles_of_the_bundled_network_are_shown(tmp_path):
    for number, style in enumerate(["irises", "jungle", ["irises", "toledo"]]):
        make_run(tmp_path / "sweep", number, style)
    data = page_data(report.read_sweep(tmp_path / "sweep"), tmp_path / "sweep")
    (axis,) = data["axes"]
    assert {value: len(images) for value, images in axis["images"].items()} == {
        "irises": 1, "jungle": 1, "[irises,toledo]": 2,
    }  # fmt: skip
    styles = [one for one in data["inputs"] if one["kind"] == "style"]
    assert [one["name"] for one in styles] == ["irises", "jungle", "toledo"]
    assert all(one["image"] is not None for one in styles)
    assert not any("style=" in notice for notice in data["notices"])


def test_no_style_means_the_first_one(tmp_path):
    make_run(tmp_path, 0, None)
    (job,) = report.read_sweep(tmp_path)
    irises = samples.find(samples.learned_styles()["irises"])
    assert find_inputs("style", job.text("style"), None, learned_by(job)) == [irises]


def test_styles_of_a_trained_network_are_drawn_on_the_sheet(tmp_path, network):
    for number, style in enumerate(["red", "gone"]):
        make_run(tmp_path / "sweep", number, style, str(network))
    path, _ = report.write_report(tmp_path / "sweep")
    pixels = np.asarray(Image.open(path.parent / report.GRID).convert("RGB"))
    assert (pixels == COLORS[20]).all(-1).any()
    data = page_data(report.read_sweep(tmp_path / "sweep"), tmp_path / "sweep")
    assert [one["name"] for one in data["inputs"]] == ["red"]
    assert [notice for notice in data["notices"] if "style=gone" in notice]


def test_a_picture_that_has_changed_since_is_not_shown(tmp_path, network):
    make_run(tmp_path / "sweep", 0, "red", str(network))
    Image.new("RGB", (60, 40), COLORS[21]).save(tmp_path / "red.png")
    (job,) = report.read_sweep(tmp_path / "sweep")
    assert find_inputs("style", "red", None, learned_by(job)) == []


@pytest.mark.parametrize(("model", "task"), [("gone.safetensors", "stylize"), ("bundled", "train")])
def test_without_a_network_and_in_trainings_a_style_is_a_file(tmp_path, model, task):
    make_run(tmp_path, 0, "irises", model, task)
    (job,) = report.read_sweep(tmp_path)
    assert learned_by(job) == {}
    report.write_report(tmp_path)
