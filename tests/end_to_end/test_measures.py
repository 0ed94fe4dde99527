"""Measures that a user adds: a class and a YAML file of their own, and no line of nstexp."""

import json
import sys
from pathlib import Path

import pytest
from helpers import SMOKE

from nstexp.outputs import read_summary
from nstexp.report.jobs import read_sweep
from nstexp.report.page import page_data

CODE = '''
import torch


class LayerEnergy:
    """A measure of content at a layer, of which more is better."""

    role = "content"
    unit = "energy of the photo's features over that of their change"
    higher_is_better = True
    min_side_px = 12

    def __init__(self, layers, gain=1.0):
        if gain <= 0:
            from nstexp.core.errors import ArgumentError
            raise ArgumentError("gain", f"={gain}: give a number larger than 0")
        self.layers, self.gain = tuple(layers), gain

    def target(self, feats):
        return {name: feats[name] for name in self.layers}

    def forward(self, feats, target):
        change = sum((feats[name] - target[name]).square().sum() for name in self.layers)
        return self.gain * sum(target[name].square().sum() for name in self.layers) / (change + 1e-6)


class Spread:
    """A measure of sets: how different the results are from each other."""

    role = "set"
    higher_is_better = True

    def features(self, picture):
        return picture.mean((0, 2, 3))

    def forward(self, results, styles, known):
        return torch.stack(results).std(0, correction=0).mean()
'''
FILES = {
    "mine": "_target_: my_measures.LayerEnergy\n  layers: [relu2_1, relu1_1]\n  gain: 2.0",
    "edges": "_target_: nstexp.core.losses.LaplacianLoss",  # a loss term, as it is
    "spread": "_target_: my_measures.Spread",
}


@pytest.fixture
def mine(folder, monkeypatch) -> tuple[str, ...]:
    """The beginning of a command that knows my_conf, whose measures are in a module beside it."""
    Path("my_measures.py").write_text(CODE)
    Path("my_conf/metrics").mkdir(parents=True)
    for name, text in FILES.items():
        Path(f"my_conf/metrics/{name}.yaml").write_text(f"{name}:\n  {text}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_measures", raising=False)
    inputs = ("content=photo.png", "style=painting.jpg", "backbone@metrics.encoder=random")
    return ("--config-dir", "my_conf", "trust=[my_measures]", *SMOKE, *inputs)


def test_measures_from_outside_are_recorded_and_reported(nstexp, mine):
    chosen = ("metrics=[style_gram,mine,edges]", "hydra.sweep.dir=sweep", "method.init=noise", "seed=1,2")
    result = nstexp.bare("-m", *mine, *chosen)
    assert result.code == 0, result.err
    summary = read_summary("sweep/0")
    assert list(summary.measured_with) == ["style_gram", "mine", "edges"]
    assert summary.measured_with["mine"].startswith("vgg19-random-0 (")
    assert ", relu2_1 + relu1_1, energy of the photo's features over" in summary.measured_with["mine"]
    assert summary.measured_with["edges"].startswith("no network, mean square of the Laplacian of 0-255 pixels, ")
    assert summary.higher_is_better == ["mine"]
    numbers = summary.metrics["output"]
    assert numbers["mine"] > 0 and numbers["edges"] > 0 and "ssim" not in numbers
    assert summary.references["output"]["photo"]["mine"] > numbers["mine"], "the photo itself has not changed"
    assert summary.references["output"]["photo"]["edges"] == 0
    shown = {number["name"]: number for number in page_data(read_sweep("sweep"), Path("sweep"))["numbers"]}
    assert [shown[name]["better"] for name in ("style_gram", "mine", "edges")] == ["lower", "higher", "lower"]
    assert {shown[name]["group"] for name in ("style_gram", "mine", "edges")} == {"measures"}
    assert '"mine"' in Path("sweep/report.html").read_text()


def test_a_measure_from_outside_in_an_evaluation(nstexp, mine):
    args = ("task=evaluate", "metrics=[mine,spread]", "metrics.mine.gain=4.0", "content=[photo.png,painting.jpg]")
    result = nstexp.bare(*mine, *args)
    assert result.code == 0, result.err
    summary = read_summary(result.path.parent)
    means = summary.metrics["mean of gatys"]
    assert means["spread"] > 0 and means["mine"] > 0
    assert summary.measured_with["spread"] == "Spread, 2 results, 1 paintings"
    assert summary.higher_is_better == ["mine", "spread"]
    assert [line.split()[0] for line in result.sentences if line.startswith(("mine ", "spread "))] == ["mine", "spread"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["metrics.mine.gain=0"], "metrics.mine.gain=0: give a number larger than 0"),
        (["metrics.mine.layers=[relu9_9]"], "metrics.mine: unknown layer 'relu9_9': vgg19-random-0 has "),
        (
            ["metrics.mine._target_=torch.nn.Identity", "~metrics.mine.gain", "~metrics.mine.layers"],
            "metrics.mine: this",
        ),
    ],
)
def test_what_is_wrong_with_a_measure_is_one_sentence(nstexp, mine, args, message):
    result = nstexp.bare(*mine, "metrics=[mine]", "measure=true", *args)
    assert (result.code, result.out) == (2, "")
    assert len(result.sentences) == 1 and result.sentences[0].startswith(message)


def test_an_old_record_is_read(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"status": "completed", "measured_with": {"ssim": "luminance"}}))
    assert read_summary(tmp_path).higher_is_better is None
