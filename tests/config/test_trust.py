"""Configurations name what they may name, and nothing that runs anything else."""

import sys

import pytest
from omegaconf import OmegaConf

from nstexp import api
from nstexp.config import trust
from nstexp.config.build import Factory, build, prepared
from nstexp.core.errors import UserError

FACTORY = f"{Factory.__module__}.{Factory.__qualname__}"

# Each of them runs, loads, saves or fetches something for whoever writes the configuration.
REFUSED = [
    "os.system",
    "builtins.exec",
    "torch.load",
    "torch.hub.load",
    "torch.utils.data.DataLoader",
    "numpy.load",
    "pickle.loads",
    "pytorch_lightning.LightningModule",
    "pytorch_lightning.utilities.migration.utils.pl_load",
    "torchvision.datasets.CIFAR10",
    "torchvision.datasets.utils.download_url",
    "torchvision.io.write_file",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "nstexp.run.run",
    "nstexp.outputs.discard_unbegun",
    "nstexp.core.networks.model_files._read",
    "my_package.losses.Mine",
    "nstexpert.losses.Mine",
    "torchvision.models",
    "torch.nn.functional",
    "nstexp.core.losses",
]
# They begin like what is allowed.
LEADING_ELSEWHERE = [
    "nstexp.core.networks.pretrained.torch.load",
    "nstexp.core.networks.model_files.torch.hub.load",
    "nstexp.methods.adain.LightningModule.load_from_checkpoint",
    "torch.nn.modules.module.torch.load",
    "torch.nn.Module.load_state_dict",
    "torch.optim.optimizer.functools.partial",
    "torchvision.models._api.load_state_dict_from_url",
    "torchvision.models.vgg.partial",
    "torchmetrics.utilities.checks.os.system",
    "pytorch_lightning.trainer.trainer.Trainer.fit",
    "pytorch_lightning.callbacks.model_checkpoint.shutil.rmtree",
    "pytorch_lightning.loggers.csv_logs.os.system",
    "nstexp.core.errors.UserError.with_traceback",
    "wandb.init.__globals__",
]  # fmt: skip
ALLOWED = [
    "nstexp.core.losses.GramLoss",
    "nstexp.core.optim.schedules.cosine",
    "nstexp.methods.gatys.Gatys",
    "torch.optim.Adam",
    "torch.optim.lr_scheduler.CosineAnnealingLR",
    "torch.nn.MSELoss",
    "torch.nn.functional.mse_loss",
    "torchvision.models.vgg19",
    "torchvision.transforms.GaussianBlur",
    "torchvision.transforms.v2.GaussianBlur",
    "torchmetrics.image.StructuralSimilarityIndexMeasure",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.loggers.CSVLogger",
    "pytorch_lightning.callbacks.ModelCheckpoint",
    "pytorch_lightning.strategies.DDPStrategy",
]


@pytest.mark.parametrize("target", [*REFUSED, *LEADING_ELSEWHERE])
def test_what_a_configuration_may_not_name_is_never_called(target):
    for config in ({"_target_": target}, {"_target_": FACTORY, "_args_": ["loss.x", target]}):
        with pytest.raises((UserError, ImportError)) as refused:
            found = build(OmegaConf.create({"loss": {"x": config}}))["loss"]["x"]
            found()  # a factory looks when it is called
        if target in REFUSED:
            assert str(refused.value).startswith(f"loss.x._target_={target}")
            assert "trust=[" in str(refused.value)


@pytest.mark.parametrize("target", ALLOWED)
def test_what_it_may_name_is_found(target):
    assert callable(trust.located(target, "x._target_"))


@pytest.mark.parametrize(
    "config",
    [
        {"x": [{"a": [{"_target_": "os.getcwd"}]}]},
        {"a": "os.getcwd", "x": {"_target_": "${a}"}},
        {"a": {"b": {"_target_": "os.getcwd"}}, "x": "${a}"},
        {"x": "${oc.decode:'{_target_: os.getcwd}'}"},
        {"x": "${oc.create:{_target_:os.getcwd}}"},
        {"x": {"_target_": "torch.nn.Identity", "_args_": [{"_target_": "os.getcwd"}]}},
        {"x": {"_target_": "hydra.utils.get_method", "path": "os.getcwd"}},
        {"x": {"_target_": "hydra.utils.get_object", "_args_": ["os.getcwd"]}},
        {"x": {"_target_": "torch.nn.Identity", "_recursive_": False, "y": {"_target_": "os.getcwd"}}},
    ],
)
def test_wherever_it_stands(config):
    with pytest.raises(UserError, match=r"os\.getcwd.* 'trust=\[(os|posix)\.getcwd\]'"):
        build(OmegaConf.create(config)["x"])


def test_what_the_command_line_trusts_is_made(tmp_path, monkeypatch):
    (tmp_path / "my_stuff.py").write_text("import os\nclass Mine:\n    @classmethod\n    def make(cls): return cls()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_stuff", raising=False)
    config = OmegaConf.create({name: {"_target_": f"my_stuff.{name}"} for name in ("Mine", "Mine.make", "os.getcwd")})
    with pytest.raises(UserError, match=r"^Mine\._target_=my_stuff\.Mine is not .* 'trust=\[my_stuff\]' to"):
        build(config["Mine"])
    assert "my_stuff" not in sys.modules, "it is not imported either"
    with trust.trusting(["my_stuff"]):
        assert type(build(config["Mine"])).__name__ == "Mine"
        assert type(build(config["Mine.make"])).__name__ == "Mine"
        with pytest.raises(UserError, match=r"that is posix\.getcwd, .* 'trust=\[my_stuff,posix\.getcwd\]'"):
            build(config["os.getcwd"])
    with pytest.raises(UserError):
        build(config["Mine"])


@pytest.mark.parametrize(
    ("words", "packages"),
    [
        (["trust=[a,b.c]", "seed=1"], ["a", "b.c"]),
        (["seed=1", "trust=mine"], ["mine"]),
        (["+trust=['mine', \"yours\"]", "seed=1"], ["mine", "yours"]),
        (["trust=[a]", "seed=1", "trust=[b]"], ["a", "b"]),
        (["trust=[]", "trust=", "seed=1"], []),
    ],
)
def test_the_words_that_trust(words, packages):
    assert trust.split_words(words) == (["seed=1"], packages)


@pytest.mark.parametrize("name", ["a-b", "../mine", "1", "mine.", "*"])
def test_words_that_trust_no_package_are_refused(name):
    with pytest.raises(UserError, match=r"^trust=.*: give names of packages, such as trust=\[my_package\]$"):
        trust.split_words([f"trust=[{name}]"])


def test_from_python_the_settings_say_what_is_trusted(folder, monkeypatch):
    settings = {"loss.gram._target_": "my_gram.Mine", "backbone": "random", "method.max_steps": 1}
    with pytest.raises(UserError, match=r"loss\.gram\._target_=my_gram\.Mine is not"):
        api.stylize("photo.png", "painting.jpg", image_px=48, settings=settings)
    (folder / "my_gram.py").write_text("from nstexp.core.losses import GramLoss\nclass Mine(GramLoss): pass\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_gram", raising=False)
    made = api.stylize("photo.png", "painting.jpg", image_px=48, settings={**settings, "trust": ["my_gram"]})
    assert made.size[0] == 48


def test_a_factory_that_a_file_writes_itself_finds_no_more():
    cfg = prepared(OmegaConf.create({"x": {"_target_": FACTORY, "_args_": ["x", "os.getcwd"]}}))
    with pytest.raises(
        UserError, match=r"^x\._target_=os\.getcwd, that is posix\.getcwd, is not|^x\._target_=os\.getcwd is"
    ):
        build(cfg["x"])()
