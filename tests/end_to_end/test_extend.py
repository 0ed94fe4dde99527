"""The examples of docs/extend.md, from outside: their files in a folder of their own, their commands as written."""

import csv
import importlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, Result, picture
from omegaconf import OmegaConf
from PIL import Image

from nstexp.media.images import load_image
from nstexp.outputs import read_summary

SECTIONS = {
    "A loss",
    "A measure",
    "A backbone",
    "A method",
    "A task",
    "A data source",
    "An optimizer",
    "A schedule",
    "A preset experiment",
}
YAML_ALONE = {"A preset experiment"}
TINY = ("backbone=random", "image_px=48", "logger=none", "precision=fp32")
STEPS = ("method.max_steps=2", "method.levels=1")


def blocks() -> dict[str, list[tuple[str, str]]]:
    """Section -> the language and the text of its code blocks; only sections that have any."""
    sections = re.split(r"^## (.*)$", (ROOT / "docs" / "extend.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    pairs = zip(sections[1::2], sections[2::2], strict=True)
    found = {name: re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) for name, text in pairs}
    return {name: own for name, own in found.items() if own}


@pytest.fixture
def run(folder, nstexp, monkeypatch) -> Callable[..., Result]:
    """The command of a section, at a tiny size; the files of all sections are in the folder."""
    for found in blocks().values():
        for language, text in found:
            if language in ("python", "yaml"):
                path = Path(re.search(r"^# (\S+/\S+)$", text, re.MULTILINE)[1])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:  # of the folder before
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()

    def call(section: str, *more: str) -> Result:
        (command,) = (text for language, text in blocks()[section] if language == "sh")
        python, _, package, option, conf, *overrides = shlex.split(command)
        assert (python, package, option, conf) == ("python", "nstexp", "--config-dir", "my_conf")
        done = nstexp.bare(option, conf, *TINY, *overrides, *more)
        assert done.code == 0, done.err
        return done

    return call


def losses(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_section_has_a_class_and_a_yaml_file():
    found = blocks()
    assert found.keys() == SECTIONS
    for name, own in found.items():
        languages = ["yaml", "sh"] if name in YAML_ALONE else ["python", "yaml", "sh"]
        assert [language for language, _ in own] == languages, name


def test_a_loss(run):
    done = run("A loss", "log_every_n_steps=1", *STEPS)
    rows = losses(done.path.parent)
    assert all(float(row["spread"]) > 0 for row in rows)
    content, gram, spread, total = (float(rows[0][name]) for name in ("content", "gram", "spread", "total"))
    assert total == pytest.approx(content + 1000 * gram + 50 * spread, rel=1e-3)
    other = losses(run("A loss", "log_every_n_steps=1", "loss.spread.power=1", *STEPS).path.parent)
    assert float(other[0]["spread"]) != pytest.approx(spread, rel=0.01)


def test_a_method(run):
    done = run("A method", "image_px=null")
    from mine.methods import MatchColors, recolored

    photo, painting = load_image("photo.png"), load_image("painting.jpg")
    expected = torch.lerp(photo, recolored(photo[None], painting)[0], 0.8).clamp(0, 1)
    assert torch.allclose(load_image(done.path), expected, atol=1 / 255)
    with pytest.raises(ValueError, match=r"^strength=2: give a number from 0 to 1$"):
        MatchColors(None, None, None, strength=2)


def test_a_method_redraws_several_pictures_with_regions_too(run, folder):
    for name, left in (("left.png", 255), ("right.png", 0)):
        mask = Image.new("L", (50, 37), left)
        mask.paste(255 - left, (25, 0, 50, 37))
        mask.save(name)
    done = run("A method", "image_px=null", "style=[painting.jpg,photo.png]", "masks=[left.png,right.png]")
    result, photo = load_image(done.path), load_image("photo.png")
    assert torch.allclose(result[..., 30:], photo[..., 30:], atol=2 / 255)  # there its own colors are the style
    assert not torch.allclose(result[..., :20], photo[..., :20], atol=0.02)


def test_a_task(run):
    done = run("A task", *STEPS, "method.max_steps=8")
    assert done.path.name == "side_by_side.png"
    both = load_image(done.path)
    photo = load_image("photo.png")
    assert both.shape[2] == 2 * 48 + 8, "with the gap of the YAML file"
    assert both.shape[1] == round(48 * photo.shape[1] / photo.shape[2])
    assert not torch.equal(both[..., :48], both[..., 56:])


SMALL = ("data.batch_size=2", "data.crop_px=32", "data.val_pairs=2", "log_every_n_steps=1")


def test_a_data_source(run):
    small = (*SMALL, "task.checkpoint_every_n_steps=1", "task.validate_every_n_steps=2")
    whole = run("A data source", *small, "method.max_steps=4", "run_dir=whole").path
    assert len(losses(Path("whole"))) == 4
    assert (Path("whole") / "validation.csv").exists()
    run("A data source", *small, "method.max_steps=2", "run_dir=parts")
    parts = run("A data source", *small, "method.max_steps=4", "run_dir=parts").path
    assert whole.read_bytes() == parts.read_bytes()  # it went on with the third batch


def test_a_data_source_draws_other_batches_in_every_process(run):
    from mine.data import Waves

    def first(rank: int, step: int = 0) -> torch.Tensor:
        data = Waves(batch_size=2, crop_px=16)
        data.trainer = SimpleNamespace(global_step=step, accumulate_grad_batches=1, global_rank=rank, world_size=2)
        return next(iter(data.train_dataloader()))["content"]

    batches = [first(rank, step) for step in (0, 1) for rank in (0, 1)]
    assert all(not torch.equal(a, b) for n, a in enumerate(batches) for b in batches[:n])
    assert torch.equal(first(1, 1), batches[3])


def test_a_measure(run):
    done = run("A measure", "backbone@metrics.encoder=random", *STEPS)
    summary = read_summary(done.path.parent)
    measured = summary.metrics["output"]
    painting = load_image("painting.jpg")
    warmth = [float((image[0] - image[2]).mean()) for image in (load_image(done.path), painting)]
    assert measured["warmth"] == pytest.approx(abs(warmth[0] - warmth[1]), abs=0.01)
    assert "style_gram" in measured
    assert "warmth" in summary.measured_with and "warmth" not in summary.higher_is_better


def test_a_backbone(run):
    command = dict(blocks()["A backbone"])["sh"]
    assert "backbone=edges" in command
    done = run("A backbone", *STEPS, "backbone=edges")
    assert read_summary(done.path.parent).encoder == "edges"
    rows = losses(done.path.parent)
    assert float(rows[-1]["total"]) < float(rows[0]["total"]) or len(rows) == 1


def test_an_optimizer(run):
    plain = ("method.init=gray", "method.levels=1", "method.pyramid_levels=1", "weights.alpha=0")
    done = run("An optimizer", "log_every_n_steps=1", "method.max_steps=4", *plain)
    rows = losses(done.path.parent)
    assert float(rows[-1]["total"]) < float(rows[0]["total"])
    moved = (load_image(done.path) - 0.5).abs()
    assert 0.01 < float(moved.max()) <= 4 * 0.02 + 1 / 255, "a step changes a number by the learning rate at most"


def test_an_optimizer_of_pytorch_needs_no_file(folder, nstexp):
    text = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^Optimizers of PyTorch need no file of yours: `(.*)`\.$", text, re.MULTILINE)
    done = nstexp(*shlex.split(command), *STEPS)
    assert done.code == 0, done.err


def test_a_schedule(run):
    for number in range(8):
        picture(f"photos/{number}.png", 40, 36, seed=number)
        picture(f"paintings/{number}.png", 36, 40, seed=10 + number)
    small = (*SMALL, "data.resize_px=34", "data.val_px=32", "data.workers=0", "method.init=default")
    done = run("A schedule", *small, "method.max_steps=5", "run_dir=stairs")
    rates = [float(row["lr"]) for row in losses(done.path.parent)]
    assert rates == pytest.approx([1e-4, 1e-4, 0.5e-4, 0.5e-4, 0.25e-4])


def test_a_preset_experiment(run):
    done = run("A preset experiment", *STEPS)
    assert done.path.name == "report.html"
    configs = [OmegaConf.load(path) for path in sorted(done.path.parent.glob("[0-9]*/config.yaml"))]
    assert [config.method.style_scale for config in configs] == [0.5, 1, 2]
    assert all(config.weights.alpha == 30 and "tv" not in config.loss for config in configs)
    assert all(list(config.layers.style) == ["relu1_1", "relu2_1", "relu3_1"] for config in configs)
