"""What can be refused before torch is imported, which takes seconds: wrong values, and files that are not there."""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nstexp import keys
from nstexp.core.errors import ArgumentError, UserError, choice, flag, whole
from nstexp.core.names import Precision
from nstexp.media.paths import as_list, check_exists
from nstexp.refusals import sentence_of, unreadable
from nstexp.tasks.request import Request

REQUEST = {field.name for field in fields(Request)}
WORDS = {"null": None, "true": True, "false": False}
PLAIN_VALUE = re.compile(r"(?:\+\+)?(\w+)=([\w.+-]*)")  # of the top level, and neither a list nor a text with quotes
PLAIN_PATH = re.compile(r"(content|fine_style|masks)=([\w./~:@+-]*[\w/])")  # neither a list nor anything to resolve


def check_words(words: Sequence[str]) -> None:
    """Raise a UserError before the configuration is composed, which takes half a second: for a key that no
    configuration has, a wrong value at the top level, and a file that is not there.

    Only what is plain is looked at, such as one path; `check` looks at the rest.
    """
    for word in words:
        if not word.partition("=")[0].strip("+~"):
            raise UserError(unreadable(word))
    keys.check_words(words)
    if any(word.startswith("-") for word in words):
        return  # a sweep, or a question about the configuration
    plain = {found[1]: _read(found[2]) for found in map(PLAIN_VALUE.fullmatch, words) if found}
    _checked(plain)
    last = {word.partition("=")[0]: word for word in words}  # of several values the last one counts
    for found in filter(None, map(PLAIN_PATH.fullmatch, last.values())):
        if found[2].lower() != "null":
            check_exists(found[2], found[1])


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
    keys.check(OmegaConf.to_container(cfg))
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        resolved = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(sentence_of(error)) from error
    if missing:
        raise UserError(f"{missing[0]} has no value yet: give it one with {missing[0]}=...")
    return _checked(resolved)


def _checked(values: Mapping[str, Any]) -> Request:
    """What the user asks for, of values at the top level; what is not among them has its default.

    Raises:
        ArgumentError: a value that nobody can ask for.
    """
    checks: dict[str, Callable[[str, Any], Any]] = {
        "seed": whole,
        "log_every_n_steps": partial(whole, smallest=1),
        "picture_every_n_steps": whole,
        "measure": flag,
        "precision": partial(choice, known=get_args(Precision)),
        "objective": _check_objective,
        "run_dir": _check_run_dir,
    }
    for key in checks.keys() & values.keys():
        checks[key](key, values[key])
    return _request({key: values[key] for key in REQUEST & values.keys()})


def _check_objective(key: str, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    if value is not None and not (names and all(isinstance(name, str) and name for name in names)):
        raise ArgumentError(key, f"={value}: give the name of a recorded number, or a list of them, such as style_gram")


def _check_run_dir(key: str, value: Any) -> None:
    if value is None or isinstance(value, bool | list | dict) or not str(value).strip():
        shown = "null" if value is None else value
        raise ArgumentError(key, f"={shown}: give the folder that the run writes to, such as runs/mine")
