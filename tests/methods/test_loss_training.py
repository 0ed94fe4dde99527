"""Every loss term of the configuration as what trains a decoder, with a random encoder."""

import csv
import logging
import sys
from functools import cache
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

import nstexp.cli as cli
from nstexp.cli import CONF
from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet
from nstexp.media.images import save_image
from nstexp.methods.adain_training import DecoderTraining
from nstexp.methods.training import Sources

OF_CLIPS = {"temporal"}
OTHER_FORMS = {"gram_hw"}  # of terms that have a file of their own
TERMS = sorted({file.stem for file in (CONF / "loss").glob("*.yaml")} - OF_CLIPS - OTHER_FORMS)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_there_are_as_many_terms_as_counted():
    """A new one is added here, so that none can be missed in silence."""
    assert len(TERMS) == 14


@pytest.mark.parametrize("name", sorted(OF_CLIPS))
def test_terms_of_clips_are_refused(name):
    with pytest.raises(UserError, match=rf"'{name}' is for clips.*leave it out of loss"):
        training(name, content=1)


@cache
def configuration(name: str) -> DictConfig:
    """Of a training on content and this term."""
    chosen = ",".join(dict.fromkeys(("content", name)))
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra.compose("config", ["method=adain", "task=train", "backbone=random", f"loss=[{chosen}]"])


def training(name: str, weight: float = 1.0, content: float = 0) -> DecoderTraining:
    """The module that trains a decoder on this term alone.

    A set with none but image terms is refused; beside those content has a weight too small for any step.
    """
    cfg = configuration(name)
    terms = instantiate(cfg.loss, _convert_="all")
    weights = {"alpha": 1e-30 if terms[name].role == "image" else content, name: weight}
    encoder = instantiate(cfg.backbone, _convert_="all")
    method = instantiate(cfg.method, encoder=encoder, losses=LossSet(terms, weights), trainer=None, _convert_="all")
    torch.manual_seed(0)
    return method.training_module(Sources())


def pairs(batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Content and style, uint8 (B, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2 * batch, 3, 5, 5, generator=generator)
    pictures = F.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1).mul(255).byte()
    return {"content": pictures[:batch], "style": pictures[batch:]}


def train(module: DecoderTraining, steps: int) -> list[dict[str, float]]:
    """The losses before each step."""
    optimizer, found = module.configure_optimizers()["optimizer"], []
    for step in range(steps):
        optimizer.zero_grad()
        outputs = module.training_step(pairs(2, seed=step), step)
        outputs["loss"].backward()
        optimizer.step()
        found.append(outputs["values"].numbers())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_a_term_alone_trains_the_decoder(name):
    module = training(name)
    before = [parameter.detach().clone() for parameter in module.decoder.parameters()]
    values = train(module, 2)
    assert all(torch.isfinite(torch.tensor(list(numbers.values()))).all() for numbers in values)
    assert values[0][name] > 0
    assert values[0]["total"] == pytest.approx(values[0][name], rel=1e-5)
    assert all(parameter.isfinite().all() for parameter in module.decoder.parameters())
    changed = [not torch.equal(old, new) for old, new in zip(before, module.decoder.parameters(), strict=True)]
    assert all(changed)
    assert not any(buffer.requires_grad for buffer in module.encoder.buffers())


def test_a_weight_too_small_for_any_step_moves_nothing():
    """So that what moved the decoder above was the term."""
    module = training("tv", weight=0)
    before = [parameter.detach().clone() for parameter in module.decoder.parameters()]
    train(module, 2)
    assert all(torch.equal(old, new) for old, new in zip(before, module.decoder.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("styles_per_content", [1, 2])
@pytest.mark.parametrize("name", TERMS)
def test_every_sample_has_a_target_of_its_own(name, styles_per_content):
    """A batch is the mean of its pairs, each trained alone."""
    module = training(name).double()
    batch = {key: value.double() / 255 for key, value in pairs(4).items()}
    together = module.evaluate(batch["content"], batch["style"], styles_per_content)[0].terms[name]
    k = styles_per_content
    which = [(i, i // k * k + j) for i in range(4) for j in range(k)]
    alone = [module.evaluate(batch["content"][[i]], batch["style"][[j]])[0].terms[name] for i, j in which]
    torch.testing.assert_close(together, sum(alone) / len(alone), rtol=1e-6, atol=0)
    assert len({round(value.item(), 9) for value in alone}) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_a_term_falls_when_it_is_trained(name):
    """On one batch, over and over."""
    module = training(name)
    optimizer, values = torch.optim.Adam(module.trained, lr=1e-3), []
    for step in range(5):
        optimizer.zero_grad()
        outputs = module.training_step(pairs(2), step)
        outputs["loss"].backward()
        optimizer.step()
        values.append(outputs["values"].numbers()[name])
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


@pytest.fixture
def nstexp(tmp_path, monkeypatch, capfd):
    """Call the command line in this process, to train on 16 photos and 16 paintings for two steps."""
    monkeypatch.chdir(tmp_path)
    batch = pairs(16)
    for folder, key in (("photos", "content"), ("paintings", "style")):
        for number, picture in enumerate(batch[key]):
            large = F.interpolate(picture[None].float() / 255, size=(48, 40), mode="bilinear")[0]
            save_image(large, Path(folder, f"{number:02d}.png"))

    def call(*overrides: str) -> tuple[int, str]:
        """Exit code and the last line of stderr."""
        settings = [
            "method=adain", "task=train", "backbone=random", "logger=none", "precision=fp32", "run_dir=run",
            "trainer.accelerator=cpu", "data.content=photos", "data.style=paintings", "data.crop_px=32",
            "data.resize_px=40", "data.val_px=32", "data.val_pairs=2", "data.batch_size=2", "data.workers=0",
            "method.max_steps=2", "log_every_n_steps=1", "task.validate_every_n_steps=2",
        ]  # fmt: skip
        GlobalHydra.instance().clear()
        monkeypatch.setattr(logging.getLogger(), "handlers", [])  # the last run's hold its closed stderr
        monkeypatch.setattr(sys, "argv", ["nstexp", *settings, *overrides])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        stderr = capfd.readouterr().err
        assert "Traceback" not in stderr
        return code, stderr.strip().splitlines()[-1]

    return call


def test_all_terms_together_from_the_command_line(nstexp):
    """With validation, accumulated batches and every photo with two styles."""
    more = ["method.styles_per_content=2", "+trainer.accumulate_grad_batches=2", "weights.tv=1e-6"]
    code, message = nstexp(f"loss=[{','.join(TERMS)}]", *more)
    assert code == 0, message
    for table, rows_wanted in (("losses.csv", 2), ("validation.csv", 1)):
        with Path("run", table).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == rows_wanted
        for name in ("total", *TERMS):
            assert all(0 < float(row[name]) < float("inf") for row in rows), name
    assert Path("run/decoder.safetensors").exists()


def test_crops_too_small_for_a_loss_are_refused_before_the_training(nstexp):
    code, message = nstexp("loss=[content,moments,laplacian]", "loss.laplacian.pool_px=[16]")
    assert code == 2
    assert "data.crop_px" in message
