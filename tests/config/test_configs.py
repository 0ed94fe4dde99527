"""Every YAML file in conf/ is composed in a full configuration, and every _target_ in it takes the keys it is given."""

import inspect
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning.strategies
import torch
import wandb
import yaml
from composed import compose, resolve, text_of
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from nstexp.cli import CONF
from nstexp.config.early import check_values
from nstexp.core.losses.loss_set import LossSet
from nstexp.data.batches import Pairs
from nstexp.data.folders import FolderPairs
from nstexp.data.shards import ShardPairs

OF_HYDRA = {"hydra/launcher", "hydra/sweeper"}  # groups that need no line in a defaults list
FILES = sorted(CONF.rglob("*.yaml"))
# What a file needs beside it: values that only the user can give, and groups that only some methods and tasks have.
NEEDED = {
    "backbone=vgg_file": ["backbone.weights.path=weights.pth"],
    "layers=efficientnet": ["backbone=efficientnet_lite0"],
    "task=train": ["method=adain"],
    "data=folders": ["method=adain", "task=train"],
    "data=shards": ["method=adain", "task=train"],
    "optimization@method=default": ["method=adain"],
    **{f"generator={file.stem}": ["method=texture_net"] for file in (CONF / "generator").glob("*.yaml")},
}
# The network whose layers a file names, where it is not a VGG. Any VGG has the same names, and the random one is small.
NETWORKS = {"layers=efficientnet": "efficientnet_lite0", "experiment=efficientnet": "efficientnet_lite0"}
# What run.py adds when it builds the objects; the first part of a key's path that matches decides.
RUNTIME = {
    r"trainer": ("logger", "default_root_dir", "callbacks"),
    r"logger\.\w+": ("save_dir",),
}
# What run.py gives tasks and methods that ask for it by the names of their arguments.
OF_TASKS = {
    "request", "method", "methods", "folder", "scorer", "data", "device", "identity", "active_loggers",
    "log_every_n_steps", "measure", "prune", "sweep",
}  # fmt: skip
OF_METHODS = {"encoder", "make_encoder", "losses", "trainer", "device", "dtype"}
PASSES_KEYWORDS_ON = {
    FolderPairs: Pairs,
    ShardPairs: Pairs,
    pytorch_lightning.strategies.DDPStrategy: torch.nn.parallel.DistributedDataParallel,
}
TAKES_A_TABLE = {(wandb.init, "settings"): wandb.Settings}
# Values at the top level that only some tasks and methods have.
OF_TASK = {
    "evaluate": {"results", "results_name", "results_seconds"},
    "stylize": {"timelapse", "lapse", "prune"},
    "train": {"data", "resume_from", "add_style", "style_names"},
    "video": {"video"},
}
OF_METHOD = {"texture_net": {"generator"}, "cin": {"generator"}}
# Tables of experiments that hold values for other keys.
OF_EXPERIMENT = {"six_pairs", "second_paintings"}
HYDRAS_OWN = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def nodes(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and content of every table that has a _target_, at any depth."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield path, value
        for key, child in value.items():
            yield from nodes(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from nodes(child, f"{path}.{index}")


def check(path: str, node: dict[str, Any]) -> None:
    """Raises TypeError unless the target can be called with exactly these keys and what run.py adds."""
    target = get_object(node["_target_"])
    given = {key: value for key, value in node.items() if key not in HYDRAS_OWN}
    for key in given:
        check_table(f"{path}.{key}", TAKES_A_TABLE.get((target, key)), given[key])
    settings = {}
    if hasattr(target, "settings_type"):
        settings = {key: given.pop(key) for key in set(given) - set(inspect.signature(target).parameters)}
        bind(path, inspect.signature(target.settings_type), settings)
    signature = without_settings(target)
    if target in PASSES_KEYWORDS_ON:
        unknown = set(given) - set(signature.parameters) - set(inspect.signature(PASSES_KEYWORDS_ON[target]).parameters)
        if unknown:
            raise TypeError(f"{path}: {sorted(unknown)} are passed on to nothing that takes them")
    elif any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        unknown = set(given) - set(signature.parameters)
        if unknown:
            raise TypeError(f"{path}: nothing says whether {target} takes {sorted(unknown)}")
    bind(path, signature, given, added_to(path, signature, given), partial=bool(node.get("_partial_")))


def without_settings(target: Any) -> inspect.Signature:
    """The signature, without `**settings` of a method, which are checked by themselves."""
    signature = inspect.signature(target)
    if not hasattr(target, "settings_type"):
        return signature
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD])


def added_to(path: str, signature: inspect.Signature, given: Mapping[str, Any]) -> set[str]:
    """Names of the arguments that run.py adds to those of the configuration."""
    if path == "task":
        return OF_TASKS & set(signature.parameters) - set(given)
    if path == "method":
        return OF_METHODS & set(signature.parameters)
    return set(next((names for pattern, names in RUNTIME.items() if re.fullmatch(pattern, path)), ()))


def bind(path: str, signature: inspect.Signature, given: Mapping[str, Any], added=(), partial: bool = False) -> None:
    try:
        (signature.bind_partial if partial else signature.bind)(**given, **dict.fromkeys(added))
    except TypeError as error:
        raise TypeError(f"{path}: {error}") from error


def check_table(path: str, kind: Any, table: Any) -> None:
    """Raises TypeError for keys of a plain table that what it is made into does not take."""
    try:
        _ = kind and isinstance(table, dict) and kind(**table)
    except ValueError as error:
        raise TypeError(f"{path}: {error}") from error


@cache
def top_level() -> set[str]:
    """config.yaml's values and the groups it takes options from."""
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    groups = re.findall(r"^  - (\w+):", text, re.MULTILINE)
    return {*groups, *re.findall(r"^(\w+):", text, re.MULTILINE)} - {"defaults", "experiment"}


def check_all(cfg: DictConfig) -> int:
    resolved = resolve(cfg)
    choices = cfg.hydra.runtime.choices
    own = OF_TASK.get(choices["task"], set()) | OF_METHOD.get(choices["method"], set())
    if unknown := (set(resolved) - OF_EXPERIMENT) ^ (top_level() | own):
        raise TypeError(f"config: nothing reads {sorted(unknown)}")
    found = list(nodes(resolved))
    for path, node in found:
        check(path, node)
    return len(found)


def chosen(file: Path) -> str | None:
    """The override that selects a file, None for those that config.yaml always takes."""
    group = file.parent.relative_to(CONF).as_posix()
    if group == "hydra/launcher":
        return f"{group}={file.stem}"
    if group == "." or group.startswith("hydra"):
        return None
    terms = dict.fromkeys(["content", "gram", file.stem])
    if group == "loss":
        return f"loss=[{','.join(terms)}]"
    return f"{'optimization@method' if group == 'optimization' else group}={file.stem}"


def entries_of(conf: Path, file: Path) -> Iterator[tuple[str, str]]:
    """(group, option) of every entry in a file's defaults list; one without a group is of the file's own."""
    own = file.parent.relative_to(conf).as_posix()
    for entry in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", []):
        for key, options in entry.items() if isinstance(entry, dict) else [(own, entry)]:
            group = str(key).removeprefix("override ").strip("/").partition("@")[0]
            yield from ((group, str(option)) for option in (options if isinstance(options, list) else [options]))


def strays(conf: Path) -> list[str]:
    """Files that nothing leads to: of another kind, in a folder that is no group, or under a name that nobody says."""
    entries = {entry for file in conf.rglob("*.yaml") for entry in entries_of(conf, file)}
    groups, text, found = {group for group, _ in entries} | OF_HYDRA, text_of(conf), []
    for file in sorted(path for path in conf.rglob("*") if path.is_file()):
        group, place = file.parent.relative_to(conf).as_posix(), file.relative_to(conf).as_posix()
        said = rf"(?<!\w){re.escape(group)}(@[\w.]+)?(=|: )['\[]*(\w+, ?)*{re.escape(file.stem)}(?![\w-])"
        if place == "config.yaml":
            continue
        if file.suffix != ".yaml":
            found.append(f"{place}: not a .yaml file")
        elif group not in groups or group == ".":
            found.append(f"{place}: no defaults list names the group {group}")
        elif (group, file.stem) not in entries and not re.search(said, text):
            found.append(f"{place}: nothing says {group}={file.stem}")
    return found


def test_every_file_is_named_where_a_reader_finds_it():
    assert len(FILES) > 100
    assert strays(CONF) == []


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("loss/swd.yaml", "loss/sdw.yaml", "nothing says loss=sdw"),
        ("experiment/inits.yaml", "experiment/init.yaml", "nothing says experiment=init"),
        ("layers/style_first2.yaml", "layers/style_frist2.yaml", "nothing says layers=style_frist2"),
        ("generator/pyramid.yaml", "generators/pyramid.yaml", "no defaults list names the group generators"),
        ("hydra/launcher/ray.yaml", "hydra/lancher/ray.yaml", "no defaults list names the group hydra/lancher"),
        ("loss/tv.yaml", "tv.yaml", "no defaults list names the group ."),
        ("loss/tv.yaml", "loss/tv.yml", "not a .yaml file"),
        ("loss/tv.yaml", "loss/tv.yaml~", "not a .yaml file"),
    ],
)
def test_a_misspelt_file_is_found(tmp_path, old, new, why):
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    (conf / new).parent.mkdir(exist_ok=True)
    (conf / old).rename(conf / new)
    assert strays(conf) == [f"{new}: {why}"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CONF).as_posix())
def test_every_file_introduces_itself(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    first = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert re.match(r"# \w.{20,}", first), "a comment at the top says what the file is for"


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CONF).as_posix())
def test_file_composes_resolves_and_binds(file):
    override = chosen(file)
    cfg = compose(*([override] if override else []), *NEEDED.get(override, []))
    assert check_all(cfg) >= 7
    check_values(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
    group, name = file.parent.relative_to(CONF).as_posix(), file.stem
    choice = OmegaConf.to_container(cfg.hydra.runtime.choices).get((override or group).partition("=")[0], name)
    assert name in re.findall(r"\w+", choice), "another file was taken in its place"
    for hydras in ("job_logging", "hydra_logging", "run", "sweep", "job"):
        OmegaConf.to_container(cfg.hydra[hydras], resolve=True)


def test_hydra_files_are_in_force():
    cfg = compose().hydra
    assert cfg.job.name == "nstexp"
    assert cfg.run.dir.startswith("runs/nstexp/")
    assert cfg.sweep.dir.startswith("multirun/nstexp/")
    assert cfg.help.app_name == "nstexp"
    for logging in (cfg.job_logging, cfg.hydra_logging):
        assert logging.handlers.console.stream == "ext://sys.stderr"


@pytest.mark.slow
@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name in ("experiment", "layers")], ids=lambda f: f.stem)
def test_layers_and_weights_fit_the_encoder_and_the_losses(file):
    network = NETWORKS.get(chosen(file), "random")
    needed = dict.fromkeys([f"backbone={network}", *NEEDED.get(chosen(file), [])])  # each once
    cfg = resolve(compose(chosen(file), *needed))
    encoder = instantiate(cfg["backbone"], _convert_="all")
    losses = LossSet(instantiate(cfg["loss"], _convert_="all"), cfg["weights"])
    assert all(encoder.canonical(name) for name in losses.layers())
    assert set(cfg["layers"]) == {"content", "style"}
    assert {name for names in cfg["layers"].values() for name in names} == set(losses.layers())
    assert cfg["method"]["optimizer"] in cfg["method"]["optimizers"]


@pytest.mark.parametrize(
    ("method", "optimizer", "schedule", "adam", "steps"),
    [
        ("adain", "adam", "inverse_time", 1e-4, 160_000),  # as published
        ("cin", "muon", "cosine", 1e-3, 4000),
        ("texture_net", "muon", "cosine", 1e-3, 4000),
    ],
)
def test_trained_methods_share_optimizers_and_have_their_own_values(method, optimizer, schedule, adam, steps):
    cfg = resolve(compose(f"method={method}", "task=train"))["method"]
    assert (cfg["optimizer"], cfg["schedule"], cfg["max_steps"]) == (optimizer, schedule, steps)
    assert set(cfg["optimizers"]) == {"adam", "muon"}
    assert set(cfg["schedules"]) == {"inverse_time", "cosine", "constant"}
    assert cfg["optimizers"]["adam"]["lr"] == adam
    assert cfg["schedules"]["cosine"]["steps"] == steps
    assert cfg["schedules"]["inverse_time"]["decay"] == 5e-5
    assert cfg["compile"] is False


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["none", "csv", "tensorboard", "wandb", "[wandb,csv]", "[csv,tensorboard]"])
def test_loggers_combine(logger):
    cfg = resolve(compose(f"logger={logger}"))
    assert set(cfg["logger"] or {}) == set(re.findall(r"\w+", logger)) - {"none"}
    assert check_all(compose(f"logger={logger}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("misspelt", "path"),
    [
        ("+backbone.pol=max", "backbone"),
        ("+backbone.weights.sede=1", "backbone.weights"),
        ("+loss.gram.from=gatys", "loss.gram"),
        ("+method.max_step=1", "method"),
        ("+method.optimizers.lbfgs.histroy_size=1", "method.optimizers.lbfgs"),
        ("+task.contents=x", "task"),
        ("+trainer.acelerator=cpu", "trainer"),
        ("+logger.wandb.base_ulr=x", "logger.wandb"),
        ("+logger.wandb.logger.projekt=x", "logger.wandb.logger"),
        ("+logger.wandb.logger.settings.silnt=true", "logger.wandb.logger.settings"),
        ("~method.optimizers", "method"),
        ("method=adain ~method.layer", "method"),
        ("task=video ~task.settings", "task"),
        ("+method.encoder=x", "method"),
        ("+image_pxx=512", "config"),
        ("+metrics.cfsd.layers=x", "metrics.cfsd"),
        ("metrics=[default,fid] +metrics.fid.side=75", "metrics.fid"),
        ("method=texture_net +generator.widht=2", "generator"),
        ("method=adain task=train +data.batchsize=2", "data"),
        ("method=cin +method.balanced=true", "method"),
        ("method=cin +method.optimizers.muon.momentun=1", "method.optimizers.muon"),
        ("method=adain task=train +task.resume=last.ckpt", "task"),
        ("method=adain task=train +styles_name=a", "config"),
    ],
)
def test_the_check_finds_a_misspelt_or_missing_key(misspelt, path):
    with pytest.raises(TypeError, match=rf"^{re.escape(path)}: "):
        check_all(compose(*misspelt.split()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss: {gram: {form: gatys}}", None),
        ("loss: {gram: {fomr: gatys}}", "loss.gram: got an unexpected keyword argument 'fomr'"),
        ("methd: {init: noise}", "config: nothing reads ['methd']"),
        ("method: {optimizers: {adam: {lrr: 1}}}", "method.optimizers.adam: got an unexpected keyword argument 'lrr'"),
    ],
)
def test_the_check_finds_a_misspelt_key_in_an_experiment_file(tmp_path, text, message):
    """Hydra itself composes such a file without a word."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "fixture.yaml").write_text(f"# @package _global_\n{text}\n", encoding="utf-8")
    cfg = compose(f"hydra.searchpath=[file://{tmp_path}]", "experiment=fixture")
    with pytest.raises(TypeError, match=re.escape(message)) if message else nullcontext():
        check_all(cfg)


@pytest.mark.parametrize("target", ["nstexp.core.losses.GramLos", "nstexp.core.loses.GramLoss", "torch.optim.Adm"])
def test_the_check_finds_a_target_that_is_not_there(target):
    with pytest.raises(Exception, match=re.escape(target.rpartition(".")[2]) + "|loses"):
        check_all(compose(f"loss.gram._target_={target}"))


def test_the_check_reaches_lists_and_every_depth():
    cfg = {"a": [{"b": {"_target_": "x", "c": {"_target_": "y"}}}], "d": 3}
    assert [path for path, _ in nodes(cfg)] == ["a.0.b", "a.0.b.c"]


# ----------------------------------------------------------------------------------------------- one default, one place


def own_defaults(target: str) -> dict[str, Any]:
    """The defaults that code of nstexp has for the settings of an object, lists as lists."""
    if not target.startswith("nstexp."):
        return {}
    found = get_object(target)
    signatures = [inspect.signature(each) for each in (found, getattr(found, "settings_type", found))]
    if found in PASSES_KEYWORDS_ON:
        signatures.append(inspect.signature(PASSES_KEYWORDS_ON[found]))
    defaults = {p.name: p.default for each in signatures for p in each.parameters.values() if p.default is not p.empty}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}


def values_of(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Target and plain settings of every object that a file describes, other objects left out.

    What a file overrides in another one has no target.
    """
    written = nodes(OmegaConf.to_container(OmegaConf.load(file)))
    return [
        (node["_target_"], {key: value for key, value in node.items() if is_plain(key, value)}) for _, node in written
    ]


def is_plain(key: str, value: Any) -> bool:
    return key not in HYDRAS_OWN and not isinstance(value, dict) and "${" not in str(value)


def contradictions(conf: Path) -> list[str]:
    """Values that differ from the signature's default, where no other option of the group has the default."""
    found = []
    for group in sorted({file.parent for file in conf.rglob("*.yaml")}):
        objects = [(file, *each) for file in sorted(group.glob("*.yaml")) for each in values_of(file)]
        for file, target, values in objects:
            alike = [other for _, name, other in objects if name == target and other is not values]
            for key, default in own_defaults(target).items():
                value = values.get(key, default)
                if is_same(value, default) or any(is_same(other.get(key, default), default) for other in alike):
                    continue
                found.append(f"{file.relative_to(conf)}: {key}={value}, and {target} has {default}")
    return found


def is_same(value: Any, default: Any) -> bool:
    """Whether they are equal, and 1 is not True."""
    return value == default and isinstance(value, bool) == isinstance(default, bool)


@pytest.mark.slow
def test_a_default_has_one_value():
    """An object made from Python is the one of the command line. Experiments and presets override other files."""
    objects = [each for file in FILES for each in values_of(file)]
    compared = [key for target, values in objects for key in values.keys() & own_defaults(target)]
    assert len(compared) > 100
    assert contradictions(CONF) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        (
            "method/gatys.yaml",
            "max_steps: 200",
            "max_steps: 300",
            "max_steps=300, and nstexp.methods.gatys.Gatys has 2",
        ),
        ("method/adain.yaml", "unbiased: false", "unbiased: 0", "unbiased=0, and nstexp.methods.adain.AdaIN has False"),
        ("method/gatys.yaml", "[relu1_1, relu2_1]", "[relu1_1]", "fine_layers=['relu1_1'], and nstexp.methods.gatys."),
        ("task/video.yaml", "fps: 25", "fps: 24", "fps=24, and nstexp.tasks.video.Settings has 25"),
        ("data/shards.yaml", "retries: 5", "retries: 6", "retries=6, and nstexp.data.shards.ShardPairs has 5"),
    ],
)
def test_another_default_is_found(tmp_path, file, old, new, found):
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    text = (conf / file).read_text(encoding="utf-8")
    assert old in text
    (conf / file).write_text(text.replace(old, new), encoding="utf-8")
    (only,) = set(contradictions(conf)) - set(contradictions(CONF))
    assert only.startswith(f"{file}: {found}")


@pytest.mark.parametrize("task", ["train", "video"])
def test_numbers_of_every_run_have_the_same_default_in_the_tasks(task):
    config = compose(f"task={task}", "method=adain")
    parameters = inspect.signature(get_object(config.task._target_)).parameters
    assert parameters["log_every_n_steps"].default == config.log_every_n_steps
