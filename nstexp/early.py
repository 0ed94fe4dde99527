"""What can be refused before torch is imported, which takes seconds: wrong values, and files that are not there."""

import re
from collections.abc import Sequence
from dataclasses import fields

from omegaconf import DictConfig, OmegaConf

from nstexp.core.errors import UserError, is_whole
from nstexp.media.paths import as_list, check_exists
from nstexp.tasks.request import Request

PLAIN_PATH = re.compile(r"(content|fine_style|masks)=([\w./~:@+-]*[\w/])")  # neither a list nor anything to resolve


def check_words(words: Sequence[str]) -> None:
    """Raise a UserError for a file that is not there, before the configuration is composed, which takes half a second.

    Only what is plainly one path is looked at; `check` looks at the rest.
    """
    if any(word.startswith("-") for word in words):
        return  # a sweep, or a question about the configuration
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


def request_of(cfg: DictConfig) -> Request:
    """What the user asks for, of a composed configuration."""
    values = {field.name: cfg.get(field.name) for field in fields(Request)}
    plain = {key: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for key, v in values.items()}
    return Request(**plain)


def check_values(cfg: DictConfig) -> Request:
    """What the user asks for, if nothing is wrong with a composed configuration before anything is built of it.

    Raises:
        UserError: a value that is missing, or that nobody can ask for.
    """
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{key} has no value yet: give it one with {key}=...")
    for key, smallest in {"seed": 0, "log_every_n_steps": 1, "picture_every_n_steps": 0}.items():
        value = cfg[key]
        if not is_whole(value) or not smallest <= value < 2**63:
            raise UserError(f"{key}={value}: give a whole number, {smallest} or larger")
    return request_of(cfg)
