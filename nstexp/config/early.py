"""Check a command before torch is imported, which takes seconds: wrong values, and files that do not exist."""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nstexp.config import checks, keys, options
from nstexp.config.bare_words import with_keys
from nstexp.config.extras import check_loggers
from nstexp.config.quoting import quoted
from nstexp.config.refusals import sentence_of, unreadable
from nstexp.config.signatures import parameters, settings_of
from nstexp.core.errors import (
    ArgumentError,
    UserError,
    choice,
    flag,
    is_whole,
    name_list,
    number,
    text,
    under,
    weight,
    whole,
)
from nstexp.core.names import IMAGE, Precision
from nstexp.core.networks.vgg_names import described
from nstexp.core.runtime.cores import check_threads
from nstexp.media.paths import as_list, check_exists, is_clip
from nstexp.tasks.request import FACES, LARGEST_SIDE_PX, Request, is_automatic

REQUEST = {field.name for field in fields(Request)}
WORDS = {"null": None, "true": True, "false": False}
SETTINGS = "nstexp.methods.settings"  # module with the settings classes of the methods
VGG = "nstexp.core.networks.vgg.VGG"
CLIPS = "nstexp.tasks.video.Settings"  # the `_target_` of the group video; its class needs no torch
MEASURING = ("encoder", "longer_side_px", "names")  # keys of the group metrics that are not measures
LARGEST = 2**63 - 1  # largest whole number that torch takes
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
OF_OPTIMIZERS: dict[str, Callable[[str, Any], Any]] = {  # checks for arguments of the optimizers in torch.optim
    "lr": partial(number, above=0, example="0.01"),
    "momentum": partial(number, low=0, high=1),
    "weight_decay": partial(number, low=0),
    "max_iter": partial(whole, smallest=1, largest=100_000),
    "history_size": partial(whole, smallest=1, largest=10_000),
}
PLAIN_VALUE = re.compile(r"(?:\+\+)?(\w+)=([\w.+-]*)")  # a key of the top level with a value without quotes or brackets
# Without `style`, which may name a style that a network has learned.
FILES = ("content", "fine_style", "masks", "style_masks", "protect")


def words_for_hydra(words: Sequence[str]) -> list[str]:
    """Rewrite the command line for Hydra: add keys to bare pictures, and quote file names.

    Plain mistakes are refused here, before the configuration is composed, which takes half a second: an unknown key, a
    wrong value at the top level, and a file that does not exist. `check` examines the rest.

    Args:
        words: as the user typed them, after the shell has split and unquoted them.

    Returns:
        The words as Hydra reads them.

    Raises:
        UserError: a word is wrong or ambiguous.
    """
    if "${" in os.getcwd():  # Hydra stores the folder in the configuration, and would resolve it
        raise UserError(f"{os.getcwd()}: nstexp cannot work in a folder whose name holds ${{")
    words = options.in_front(with_keys(words, frozenset(keys.known().tree)))
    for word in words:
        if not word.partition("=")[0].strip("+~"):
            raise UserError(unreadable(word))
    words, names = quoted(words, sweep=is_sweep(words))
    keys.check_words(words)
    for match in filter(None, (re.fullmatch(r"hydra\.launcher\.n_jobs=([\w.+-]*)", word) for word in words)):
        _check_n_jobs(_read(match[1]))
    for match in filter(None, (re.fullmatch(r"(hydra\.(?:run|sweep)\.dir)=(null)?", word) for word in words)):
        _check_run_dir(match[1], None if match[2] else "")
    if any(word.startswith("-") for word in words):
        return words  # a sweep, or a question about the configuration
    plain = {match[1]: _read(match[2]) for match in map(PLAIN_VALUE.fullmatch, words) if match}
    checked({key: value for key, value in plain.items() if not (keys.CONF / key).is_dir()})
    for key in FILES:
        files = names.get(key) or []
        if key == "content" and len(files) > 1 and "task=video" in words:
            continue  # the task has a better message about several clips
        for name in () if key == "masks" and is_automatic(files[0] if len(files) == 1 else None) else files:
            if (key, name) != ("protect", FACES):
                check_exists(name, key)
    return words


def is_sweep(words: Sequence[str]) -> bool:
    """Whether a comma separates runs: with -m, or with an experiment that is a sweep by itself."""
    if any(word in ("-m", "--multirun") or word.lower().endswith("hydra.mode=multirun") for word in words):
        return True
    folders = [keys.CONF, *(Path(folder) for flag, folder in pairwise(words) if flag in ("--config-dir", "-cd"))]
    names = [word.partition("=")[2] for word in words if re.match(r"\+*experiment=", word)]
    files = [folder / "experiment" / f"{name}.yaml" for folder in folders for name in names]
    return any(re.search(r"^\s+mode: *MULTIRUN", f.read_text(encoding="utf-8"), re.M) for f in files if f.is_file())


def check(cfg: DictConfig) -> None:
    """Raise a UserError for a command that cannot work, whatever its method and task are."""
    request = check_values(cfg)
    checked = {"content": request.content, "fine_style": request.fine_style, "masks": request.mask_files}
    checked |= {"style_masks": request.style_masks, "protect": request.protecting_files}
    if "video" in cfg and not isinstance(request.content, str):
        del checked["content"]  # the task has a better message about several clips
    if "model" not in cfg.method:  # else `style` may name a style that the network has learned
        checked["style"] = request.style
    for key, spec in checked.items():
        for name in as_list(spec):
            check_exists(name, key)
            if is_clip(name) and (key != "content" or "video" not in cfg):
                advice = (
                    "stylize it with task=video" if key == "content" else "give a picture, such as one of its frames"
                )
                raise UserError(f"{key}={name}: this is a clip, not a picture: {advice}")
    data = cfg.get("data") or {}
    if (
        "content" in data and data["content"] is None and cfg.get("resume_from") is None
    ):  # else the checkpoint says which it was
        raise UserError("data.content has no value yet: give it one with data.content=photos/, a folder of pictures")


def _read(text: str) -> Any:
    """A plain value of the command line, with the type that Hydra gives it."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def request_of(cfg: DictConfig) -> Request:
    """The request of the user, from a composed configuration."""
    return _request({key: cfg.get(key) for key in REQUEST})


def _request(values: Mapping[str, Any]) -> Request:
    plain: dict[str, Any] = {
        key: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for key, v in values.items()
    }
    return Request(**{"content": None, **plain})


def check_values(cfg: DictConfig) -> Request:
    """Check a composed configuration before anything is built from it.

    Returns:
        The request of the user.

    Raises:
        UserError: a value is missing or wrong.
    """
    written = plain_table(cfg)
    keys.check(written)
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        resolved = plain_table(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(sentence_of(error)) from error
    if missing:
        raise UserError(f"{missing[0]} has no value yet: give it one with {missing[0]}=...")
    check_loggers(resolved.get("logger"))
    request = checked(resolved)
    check_objects(written, resolved, "")
    _check_layers_of_vgg(resolved)
    return request


def plain_table(cfg: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """A configuration as nested dictionaries and lists; `resolve` replaces `${...}` by its value."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=resolve))


def _check_layers_of_vgg(values: Mapping[str, Any]) -> None:
    """Check the layers of losses against a VGG whose layers are known without its weights.

    Other networks are checked when they are built. So is a VGG whose method may need no network (`make_encoder`).
    """
    asked = parameters(str(values["method"].get("_target_")))
    backbone = values["backbone"]
    if backbone.get("_target_") != VGG or asked is None or "make_encoder" in asked:
        return
    weights = described(backbone.get("weights"))
    if weights is None:
        return
    terms = {name: term for name, term in values["loss"].items() if isinstance(term, Mapping)}
    ours = {name: term for name, term in terms.items() if str(term.get("_target_")).startswith("nstexp.")}
    layers = weights.layers(backbone.get("tap", "post"))
    check_layers({name: term.get("layers") or () for name, term in ours.items()}, layers.canonical)


def check_layers(terms: Mapping[str, Sequence[str]], canonical: Callable[[str], str]) -> None:
    """Check that a network has the layers that loss terms read.

    Args:
        terms: name of each loss term -> its layers.
        canonical: method of the encoder that raises a UserError for an unknown layer.

    Raises:
        UserError: a layer does not exist; the message names the key of its term.
    """
    for name, layers in terms.items():
        for layer in layers:
            try:
                _ = layer == IMAGE or canonical(layer)
            except UserError as error:
                raise UserError(
                    f"loss.{name}.layers, by default from layers.content or layers.style: {error}"
                ) from error


def check_objects(written: Any, values: Any, path: str) -> None:
    """Raise an ArgumentError for a value that a class or function of nstexp would refuse when it is used.

    Args:
        written: a table in which `${...}` is not resolved. Tables that are references are not checked here, but where
            they are defined.
        values: the same table, resolved.
        path: its place in the configuration.
    """
    if not isinstance(written, Mapping):
        return
    target = str(written.get("_target_"))
    if target.startswith("nstexp."):
        checks.refuse(target, values, path)
    for key, inner in written.items():
        check_objects(inner, values[key], f"{path}.{key}" if path else str(key))


def checked(values: Mapping[str, Any]) -> Request:
    """Check values of keys at the top level.

    Args:
        values: key -> value, resolved; keys that are missing have their default.

    Returns:
        The request of the user.

    Raises:
        ArgumentError: a value is wrong.
    """
    checks: dict[str, Callable[[str, Any], Any]] = {
        "seed": partial(whole, largest=LARGEST),
        "log_every_n_steps": partial(whole, smallest=1, largest=LARGEST),
        "picture_every_n_steps": partial(whole, largest=LARGEST),
        "measure": flag,
        "precision": partial(choice, known=get_args(Precision)),
        "threads": check_threads,
        "objective": _check_objective,
        "run_dir": _check_run_dir,
        "timelapse": _check_timelapse,
    }
    for key in checks.keys() & values.keys():
        checks[key](key, values[key])
    for key, layers in (values.get("layers") or {}).items():
        name_list(f"layers.{key}", layers, "relu4_1")
    for key, value in (values.get("weights") or {}).items():
        if value is not None:  # null means no weight, which some terms allow
            weight(f"weights.{key}", value)
    _check_report(values.get("report") or {})
    if "metrics" in values:
        measure_names(values["metrics"])
    _check_optimizers(values, "")
    _check_method(values.get("method") or {})
    _check_video(values.get("video") or {})
    _check_trainer(values.get("trainer") or {})
    return _request({key: values[key] for key in REQUEST & values.keys()})


def _check_method(method: Mapping[str, Any]) -> None:
    """Check the settings of a method of nstexp. The classes of other methods check theirs when they are created."""
    module, _, name = (settings_of(str(method.get("_target_"))) or "").rpartition(".")
    if module != SETTINGS:
        return
    kind: Any = getattr(import_module(module), name)
    known = {field.name: field for field in fields(kind)}
    needed = {key for key, field in known.items() if field.default is field.default_factory is MISSING}
    if needed <= method.keys():
        with under("method"):
            kind(**{key: method[key] for key in known.keys() & method.keys()})


def _check_video(video: Mapping[str, Any]) -> None:
    """Check the settings of the group video."""
    if video.get("_target_") != CLIPS:
        return
    from nstexp.tasks.video_settings import Settings

    known = {field.name for field in fields(Settings)}
    with under("video"):
        Settings(**{key: video[key] for key in known & video.keys()})


def _check_optimizers(value: Any, path: str) -> None:
    """Check arguments of PyTorch's optimizers, whose messages name no key. Those of nstexp check their own."""
    if not isinstance(value, Mapping):
        return
    if str(value.get("_target_")).startswith("torch.optim."):
        for key in OF_OPTIMIZERS.keys() & value.keys():
            OF_OPTIMIZERS[key](f"{path}.{key}", value[key])
    for key, inner in value.items():
        _check_optimizers(inner, f"{path}.{key}" if path else str(key))


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    """Check settings that Lightning would accept silently, or refuse with messages about Python."""
    for key, value in trainer.items():
        place = f"trainer.{key}"
        if key.startswith("enable_"):
            flag(place, value)
        elif key == "accelerator" and not isinstance(value, Mapping):
            choice(place, value, ACCELERATORS)
        elif key == "num_nodes":
            whole(place, value, 1, 100_000)
        elif key == "max_epochs" and value not in (None, -1):
            whole(place, value, 1)
        elif key == "devices" and value not in ("auto", -1, "-1"):
            _check_devices(place, value)


def _check_devices(place: str, value: Any) -> None:
    for device in value if isinstance(value, list) and value else str(value).split(","):
        if not str(device).strip().isdecimal() or (value in (0, "0")):
            problem = "give how many devices, a list of their numbers, such as [0,1], or auto"
            raise ArgumentError(place, f"={value}: {problem}")


def measure_names(metrics: Mapping[str, Any]) -> list[str]:
    """The names of the measures to compute: those in `names`, or else all tables of the group.

    Args:
        metrics: the group metrics of a configuration.

    Raises:
        UserError: there is no measure of this name, or it is not part of this configuration.
    """
    if "_target_" in metrics:
        raise UserError("metrics._target_: every measure needs its own _target_, such as metrics.ssim._target_")
    known = [name for name in metrics if name not in MEASURING]
    side_px, names = metrics["longer_side_px"], metrics["names"]
    if side_px is not None:
        whole("metrics.longer_side_px", side_px, 1, LARGEST_SIDE_PX)
    names = known if names is None else names
    names = list(dict.fromkeys(name_list("metrics.names", names, "style_gram"))) if names != [] else []
    for name in names:
        if name in known:
            if not isinstance(metrics[name], Mapping) or "_target_" not in metrics[name]:
                raise UserError(
                    f"metrics.{name} has settings, but metrics=[...] does not list this measure: add it there"
                )
        elif name in (options := [file.stem for file in (keys.CONF / "metrics").glob("*.yaml")]):
            raise UserError(f"metrics.names: {name} is not among the measures of this run: metrics=[default,{name}]")
        else:
            hint = keys.nearest(name, [*known, *options]) or f", only {', '.join(known)}"
            raise UserError(f"metrics.names: there is no measure {name}{hint}")
    return names


def _check_report(report: Mapping[str, Any]) -> None:
    """Check the settings of the report of a sweep; whether the keys vary is only known at its end."""
    for key, example in (("repeats", "seed"), ("baseline", "'weights.beta=100'")):
        if report.get(key, []) != []:
            name_list(f"report.{key}", report[key], example)
    for word in report.get("baseline", []):
        if not re.fullmatch(r"[^=]+=.*", word, re.DOTALL):
            raise ArgumentError("report.baseline", f": {word} is not a key and a value, such as weights.beta=100")


def _check_objective(key: str, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    if value is not None and not (names and all(isinstance(name, str) and name for name in names)):
        raise ArgumentError(key, f"={value}: give the name of a recorded number, or a list of them, such as style_gram")


def _check_n_jobs(value: Any) -> None:
    if not is_whole(value) or value == 0:
        raise UserError(
            f"hydra.launcher.n_jobs={value}: give how many jobs run at once, or -1: as many as there are cores"
        )


def _check_timelapse(key: str, value: Any) -> None:
    if value is not None:
        text(key, value, "making.mp4")


def _check_run_dir(key: str, value: Any) -> None:
    if value is None or isinstance(value, bool | list | dict) or not str(value).strip():
        shown = "null" if value is None else value
        raise ArgumentError(key, f"={shown}: give the folder that the run writes to, such as runs/mine")
