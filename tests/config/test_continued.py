"""What a training that adds styles takes over, of the training before and of the user."""

import logging
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from nstexp.cli import CONF
from nstexp.config.continued import take_over

CHOICES = {"method": "cin", "task": "train", "data": "folders"}
BEFORE = ("weights.beta=14", "layers.style=[relu1_1,relu2_1]", "method.style_px=448", "method.max_steps=7",
          "data.crop_px=128", "data.resize_px=[144,384]", "precision=fp32", "backbone=vgg16_torchvision",
          "loss=[content,gram,tv]", "data.content=photos", "data.workers=9", "seed=5")  # fmt: skip


@pytest.fixture(autouse=True)
def conf():
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield


def composed(*overrides: str) -> DictConfig:
    return hydra.compose(
        "config", ["method=cin", "task=train", "logger=none", "run_dir=here", "measure=false", *overrides]
    )


@pytest.fixture
def network(tmp_path) -> Path:
    """Of a training whose configuration is beside it."""
    OmegaConf.save(composed(*BEFORE), tmp_path / "config.yaml", resolve=True)
    return tmp_path / "model.safetensors"


def adding(network: Path | str, *overrides: str) -> dict:
    given = [f"resume_from={network}", "add_style=new.jpg", *overrides]
    cfg = composed(*given)
    found = take_over(cfg, CHOICES, given)
    assert cfg == composed(*given)
    return OmegaConf.to_container(found, resolve=True)


def test_the_settings_are_those_of_the_training_before(network, caplog):
    with caplog.at_level(logging.INFO):
        cfg = adding(network)
    before = OmegaConf.to_container(composed(*BEFORE), resolve=True)
    for key in ("weights", "layers", "loss", "backbone", "precision"):
        assert cfg[key] == before[key], key
    assert (cfg["method"]["style_px"], cfg["method"]["max_steps"]) == (448, 7)
    assert (cfg["data"]["crop_px"], cfg["data"]["resize_px"]) == (128, [144, 384])
    assert "gram_hw" not in cfg["loss"]
    (record,) = caplog.records
    assert record.message.startswith("as in the earlier training: ")
    assert "weights.beta=14" in record.message and "data.resize_px=[144,384]" in record.message


def test_where_pictures_are_and_how_this_machine_works_is_the_users(network):
    cfg = adding(network)
    assert (cfg["data"]["content"], cfg["data"]["workers"], cfg["seed"]) == (None, 2, 0)
    assert (cfg["style"], cfg["add_style"], cfg["run_dir"]) == (None, "new.jpg", "here")


def test_what_the_user_sets_stays_and_is_said(network, caplog):
    cfg = adding(
        network, "weights.beta=5", "method.style_px=512", "method.optimizers.muon.bias_lr=3", "layers.content=[relu2_2]"
    )
    assert (cfg["weights"]["beta"], cfg["method"]["style_px"]) == (5, 512)
    assert cfg["method"]["optimizers"]["muon"]["bias_lr"] == 3
    assert (cfg["layers"]["content"], cfg["layers"]["style"]) == (["relu2_2"], ["relu1_1", "relu2_1"])
    assert cfg["loss"]["content"]["layers"] == ["relu2_2"]
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert record.message.startswith("not as in the earlier training: ")
    for said in ("weights.beta=5, 14 there", "method.style_px=512, 448 there", "muon.bias_lr=3, 1.0 there"):
        assert said in record.message


def test_a_network_that_the_user_chooses_stays(network, caplog):
    cfg = adding(network, "backbone=random", "loss=[content,gram_hw]")
    assert cfg["backbone"] == OmegaConf.to_container(composed("backbone=random"), resolve=True)["backbone"]
    assert (set(cfg["loss"]), cfg["loss"]["gram"]["form"]) == ({"content", "gram"}, "mse_hw")
    assert cfg["loss"]["gram"]["layers"] == ["relu1_1", "relu2_1"], "which the user has not set"
    assert "loss.tv=none, TotalVariation there" in caplog.text


def test_the_network_is_the_one_of_the_training_whatever_the_user_sets(network, caplog):
    cfg = adding(network, "generator.width=0.5")
    assert cfg["generator"]["width"] == 1
    assert "generator.width=0.5, 1.0 there, which is used" in caplog.text


def test_a_checkpoint_is_one_folder_deeper(network):
    assert adding(network.parent / "checkpoints" / "last.ckpt")["weights"]["beta"] == 14


def test_the_bundled_network_was_trained_as_its_preset_says():
    cfg = adding("bundled")
    assert (cfg["weights"]["beta"], cfg["data"]["crop_px"], cfg["method"]["style_px"]) == (14, 128, 448)


def test_without_a_record_it_is_said(tmp_path, caplog):
    before = OmegaConf.to_container(composed(), resolve=True)
    cfg = adding(tmp_path / "model.safetensors")
    assert {key: cfg[key] for key in ("weights", "method", "data")} == {
        key: before[key] for key in ("weights", "method", "data")
    }
    (record,) = caplog.records
    assert "the config.yaml of its training is not beside it" in record.message


def test_other_trainings_are_as_they_are(network):
    cfg = composed(f"resume_from={network}")
    assert take_over(cfg, CHOICES, []) is cfg
