"""What can be refused before torch is imported, which takes seconds: wrong values, and files that are not there."""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nstexp.config import checks, keys, options
from nstexp.config.bare_words import with_keys
from nstexp.config.extras import check_loggers
from nstexp.config.quoting import quoted
from nstexp.config.refusals import sentence_of, unreadable
from nstexp.config.signatures import parameters, settings_of
from nstexp.core.errors import ArgumentError, UserError, choice, flag, is_whole, name_list, number, under, weight, whole
from nstexp.core.names import IMAGE, Precision
from nstexp.core.networks.vgg_names import described
from nstexp.media.paths import as_list, check_exists, is_clip
from nstexp.tasks.request import LARGEST_SIDE_PX, Request

REQUEST = {field.name for field in fields(Request)}
WORDS = {"null": None, "true": True, "false": False}
SETTINGS = "nstexp.methods.settings"
VGG = "nstexp.core.networks.vgg.VGG"
CLIPS = "nstexp.tasks.video.Settings"  # what the group video makes; its class needs no torch
MEASURING = ("encoder", "longer_side_px", "names")  # of the group metrics: all others are measures
LARGEST = 2**63 - 1  # whole number that torch takes
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
OF_OPTIMIZERS = {  # of torch.optim
    "lr": partial(number, above=0, example="0.01"),
    "momentum": partial(number, low=0, high=1),
    "weight_decay": partial(number, low=0),
    "max_iter": partial(whole, smallest=1, largest=100_000),
    "history_size": partial(whole, smallest=1, largest=10_000),
}
PLAIN_VALUE = re.compile(r"(?:\+\+)?(\w+)=([\w.+-]*)")  # of the top level, and neither a list nor a text with quotes
FILES = ("content", "fine_style", "masks")  # `style` may be a word that only the method knows


def words_for_hydra(words: Sequence[str]) -> list[str]:
    """The command line as Hydra needs it, where pictures need no key and names of files no quotes.

    What is plainly wrong is refused now, before the configuration is composed, which takes half a second: a key that no
    configuration has, a wrong value at the top level, and a file that is not there. `check` looks at the rest.

    Args:
        words: as the user typed them, behind the shell.

    Raises:
        UserError: a word that is wrong, or that can mean two things.
    """
    if "${" in os.getcwd():  # Hydra keeps it in the configuration
        raise UserError(f"{os.getcwd()}: nstexp cannot work in a folder whose name holds ${{")
    words = options.in_front(with_keys(words, frozenset(keys.known().tree)))
    for word in words:
        if not word.partition("=")[0].strip("+~"):
            raise UserError(unreadable(word))
    words, names = quoted(words, sweep=_is_sweep(words))
    keys.check_words(words)
    for found in filter(None, (re.fullmatch(r"hydra\.launcher\.n_jobs=([\w.+-]*)", word) for word in words)):
        _check_n_jobs(_read(found[1]))
    for found in filter(None, (re.fullmatch(r"(hydra\.(?:run|sweep)\.dir)=(null)?", word) for word in words)):
        _check_run_dir(found[1], None if found[2] else "")
    if any(word.startswith("-") for word in words):
        return words  # a sweep, or a question about the configuration
    plain = {found[1]: _read(found[2]) for found in map(PLAIN_VALUE.fullmatch, words) if found}
    checked({key: value for key, value in plain.items() if not (keys.CONF / key).is_dir()})
    for key in FILES:
        found = names.get(key) or []
        if key == "content" and len(found) > 1 and "task=video" in words:
            continue  # the task has more to say about several clips
        for name in found:
            check_exists(name, key)
    return words


def _is_sweep(words: Sequence[str]) -> bool:
    """Whether a comma separates runs: -m, or an experiment that is a sweep of its own."""
    if any(word in ("-m", "--multirun") or word.lower().endswith("hydra.mode=multirun") for word in words):
        return True
    folders = [keys.CONF, *(Path(folder) for flag, folder in pairwise(words) if flag in ("--config-dir", "-cd"))]
    names = [word.partition("=")[2] for word in words if re.match(r"\+*experiment=", word)]
    files = [folder / "experiment" / f"{name}.yaml" for folder in folders for name in names]
    return any(re.search(r"^\s+mode: *MULTIRUN", f.read_text(encoding="utf-8"), re.M) for f in files if f.is_file())


def check(cfg: DictConfig) -> None:
    """Raise a UserError for a command that cannot work, whatever method and task do with it."""
    request = check_values(cfg)
    checked = {"content": request.content, "fine_style": request.fine_style, "masks": request.masks}
    if "video" in cfg and not isinstance(request.content, str):
        del checked["content"]  # the task has more to say about several clips
    if "model" not in cfg.method:  # a word may be the name of a style that the network of `model` has learned
        checked["style"] = request.style
    for key, spec in checked.items():
        for each in as_list(spec):
            check_exists(each, key)
            if is_clip(each) and (key != "content" or "video" not in cfg):
                advice = (
                    "redraw it with task=video" if key == "content" else "give a picture, such as one of its frames"
                )
                raise UserError(f"{key}={each}: this is a clip, not a picture: {advice}")
    data = cfg.get("data") or {}
    if "content" in data and data["content"] is None and cfg.get("resume_from") is None:  # else it says what it was
        raise UserError("data.content has no value yet: give it one with data.content=photos/, a folder of pictures")


def _read(text: str) -> Any:
    """A plain value of the command line, as Hydra understands it."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def request_of(cfg: DictConfig) -> Request:
    """What the user asks for, of a composed configuration."""
    return _request({key: cfg.get(key) for key in REQUEST})


def _request(values: Mapping[str, Any]) -> Request:
    plain = {key: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for key, v in values.items()}
    return Request(**{"content": None, **plain})


def check_values(cfg: DictConfig) -> Request:
    """What the user asks for, if nothing is wrong with a composed configuration before anything is built of it.

    Raises:
        UserError: a value that is missing, or that nobody can ask for.
    """
    written = OmegaConf.to_container(cfg)
    keys.check(written)
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        resolved = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(sentence_of(error)) from error
    if missing:
        raise UserError(f"{missing[0]} has no value yet: give it one with {missing[0]}=...")
    check_loggers(resolved.get("logger"))
    request = checked(resolved)
    check_objects(written, resolved, "")
    _check_layers_of_vgg(resolved)
    return request


def _check_layers_of_vgg(values: Mapping[str, Any]) -> None:
    """Raise for a layer that a VGG does not have whose layers are known without its weights. Of others they are checked
    when there is a network, as they are where a method may need none (`make_encoder`)."""
    asked = parameters(str(values["method"].get("_target_")))
    backbone = values["backbone"]
    if backbone.get("_target_") != VGG or asked is None or "make_encoder" in asked:
        return
    weights = described(backbone.get("weights"))
    if weights is None:
        return
    terms = {name: term for name, term in values["loss"].items() if isinstance(term, Mapping)}
    own = {name: term for name, term in terms.items() if str(term.get("_target_")).startswith("nstexp.")}
    layers = weights.layers(backbone.get("tap", "post"))
    check_layers({name: term.get("layers") or () for name, term in own.items()}, layers.canonical)


def check_layers(terms: Mapping[str, Sequence[str]], canonical: Callable[[str], str]) -> None:
    """Raise a UserError for a layer that a network does not have, with the key of the term that reads it.

    Args:
        terms: the layers of each term.
        canonical: of an encoder.
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
    """Raise for a value that a class or function of nstexp would refuse when it is made or called.

    Args:
        written: a table with `${...}` as it was written; what that points to is checked where it stands.
        values: the same, resolved.
        path: where it is.
    """
    if not isinstance(written, Mapping):
        return
    target = str(written.get("_target_"))
    if target.startswith("nstexp."):
        checks.refuse(target, values, path)
    for key, inner in written.items():
        check_objects(inner, values[key], f"{path}.{key}" if path else str(key))


def checked(values: Mapping[str, Any]) -> Request:
    """What the user asks for, of values at the top level; what is not among them has its default.

    Raises:
        ArgumentError: a value that nobody can ask for.
    """
    checks: dict[str, Callable[[str, Any], Any]] = {
        "seed": partial(whole, largest=LARGEST),
        "log_every_n_steps": partial(whole, smallest=1, largest=LARGEST),
        "picture_every_n_steps": partial(whole, largest=LARGEST),
        "measure": flag,
        "precision": partial(choice, known=get_args(Precision)),
        "objective": _check_objective,
        "run_dir": _check_run_dir,
    }
    for key in checks.keys() & values.keys():
        checks[key](key, values[key])
    for key, layers in (values.get("layers") or {}).items():
        name_list(f"layers.{key}", layers, "relu4_1")
    for key, value in (values.get("weights") or {}).items():
        if value is not None:  # which says that there is none, and some terms need none
            weight(f"weights.{key}", value)
    if "metrics" in values:
        measure_names(values["metrics"])
    _check_optimizers(values, "")
    _check_method(values.get("method") or {})
    _check_video(values.get("video") or {})
    _check_trainer(values.get("trainer") or {})
    return _request({key: values[key] for key in REQUEST & values.keys()})


def _check_method(method: Mapping[str, Any]) -> None:
    """Raise for settings of a method of nstexp's, whose classes need no torch; those of others check theirs later."""
    module, _, name = (settings_of(str(method.get("_target_"))) or "").rpartition(".")
    if module != SETTINGS:
        return
    kind = getattr(import_module(module), name)
    known = {field.name: field for field in fields(kind)}
    needed = {key for key, field in known.items() if field.default is field.default_factory is MISSING}
    if needed <= method.keys():
        with under("method"):
            kind(**{key: method[key] for key in known.keys() & method.keys()})


def _check_video(video: Mapping[str, Any]) -> None:
    """Raise for settings that clips cannot have."""
    if video.get("_target_") != CLIPS:
        return
    from nstexp.tasks.video_settings import Settings

    known = {field.name for field in fields(Settings)}
    with under("video"):
        Settings(**{key: video[key] for key in known & video.keys()})


def _check_optimizers(value: Any, path: str) -> None:
    """Raise for settings of PyTorch's optimizers, which would say no key. Those of nstexp say theirs."""
    if not isinstance(value, Mapping):
        return
    if str(value.get("_target_")).startswith("torch.optim."):
        for key in OF_OPTIMIZERS.keys() & value.keys():
            OF_OPTIMIZERS[key](f"{path}.{key}", value[key])
    for key, inner in value.items():
        _check_optimizers(inner, f"{path}.{key}" if path else str(key))


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    """Raise for settings that Lightning would take in silence, or refuse in words about Python."""
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
    for one in value if isinstance(value, list) and value else str(value).split(","):
        if not str(one).strip().isdecimal() or (value in (0, "0")):
            problem = "give how many devices, a list of their numbers, such as [0,1], or auto"
            raise ArgumentError(place, f"={value}: {problem}")


def measure_names(metrics: Mapping[str, Any]) -> list[str]:
    """Of the measures of a configuration: all besides the settings of the measuring itself, or those of its `names`.

    Raises:
        UserError: there is no such measure, or it is not among those that are chosen.
    """
    if "_target_" in metrics:
        raise UserError("metrics._target_: every measure has a _target_ of its own now, such as metrics.ssim._target_")
    known = [name for name in metrics if name not in MEASURING]
    side_px, names = metrics["longer_side_px"], metrics["names"]
    if side_px is not None:
        whole("metrics.longer_side_px", side_px, 1, LARGEST_SIDE_PX)
    names = known if names is None else names
    names = list(dict.fromkeys(name_list("metrics.names", names, "style_gram"))) if names != [] else []
    for name in names:
        if name in known:
            if not isinstance(metrics[name], Mapping) or "_target_" not in metrics[name]:
                raise UserError(f"metrics.{name} has settings, but the measure is not in metrics=[...]: add it there")
        elif name in (options := [file.stem for file in (keys.CONF / "metrics").glob("*.yaml")]):
            raise UserError(f"metrics.names: {name} is not among the measures of this run: metrics=[default,{name}]")
        else:
            hint = keys.nearest(name, [*known, *options]) or f", only {', '.join(known)}"
            raise UserError(f"metrics.names: there is no measure {name}{hint}")
    return names


def _check_objective(key: str, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    if value is not None and not (names and all(isinstance(name, str) and name for name in names)):
        raise ArgumentError(key, f"={value}: give the name of a recorded number, or a list of them, such as style_gram")


def _check_n_jobs(value: Any) -> None:
    if not is_whole(value) or value == 0:
        raise UserError(
            f"hydra.launcher.n_jobs={value}: give how many jobs run at once, or -1: as many as there are cores"
        )


def _check_run_dir(key: str, value: Any) -> None:
    if value is None or isinstance(value, bool | list | dict) or not str(value).strip():
        shown = "null" if value is None else value
        raise ArgumentError(key, f"={shown}: give the folder that the run writes to, such as runs/mine")
