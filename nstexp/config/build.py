"""Objects from configurations: Hydra's instantiate, with the place of the settings in front of what is wrong with them.

A constructor that refuses an argument names the argument. The place of the object's settings is known here, so that
`form=x is unknown` becomes `loss.gram.form=x is unknown`. The same holds for factories, which are called later.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nstexp.config import trust
from nstexp.config.moved import moved
from nstexp.core.errors import ArgumentError, UserError

log = logging.getLogger(__name__)


class Factory:
    """A node with `_partial_`: calls its target with the node's settings and with what it is given.

    Args:
        path: where the settings are.
        target: what is called.
        settings: of the node.
    """

    def __init__(self, path: str, target: str, /, *args: Any, **settings: Any) -> None:
        self.path, self.target, self.args, self.settings = path, target, args, settings

    def __call__(self, *args: Any, **more: Any) -> Any:
        # Found now, not before: importing what is behind a factory that nobody calls can take seconds.
        make = _located(self.path, self.target)
        try:
            return make(*self.args, *args, **{**self.settings, **more})
        except ArgumentError as error:
            raise UserError(f"{self.path}.{error}") from error
        except (TypeError, ValueError) as error:
            if isinstance(error, UserError) or self.target.startswith("nstexp."):
                raise
            raise UserError(
                f"{self.path}: {self.target} does not take these settings ({_on_one_line(error)})"
            ) from error


def prepared(config: DictConfig) -> DictConfig:
    """A copy of a whole configuration, from whose parts `build` makes objects."""
    config = deepcopy(config)
    OmegaConf.set_struct(config, False)
    _keep_literal(config)
    for node in list(_nodes(config)):
        path, target = str(node._get_full_key(None)), moved(str(node["_target_"]))
        if target != node["_target_"]:
            log.warning("%s: %s is now %s", path, node["_target_"], target)
            node["_target_"] = target
        if node.get("_partial_") is True:
            node["_args_"] = [path, target, *(node.get("_args_") or [])]
            node["_target_"], node["_partial_"] = f"{__name__}.{Factory.__name__}", False
    return config


def build(config: Any, **given: Any) -> Any:
    """The object that a part of a `prepared` configuration describes, with all objects inside it.

    Args:
        given: arguments that no configuration holds.

    Raises:
        UserError: settings that do not work, named by their place in the configuration, or a name that no
            configuration may name (`trust`).
    """
    whole = OmegaConf.is_config(config)  # what a resolver makes of a text is a plain table
    key = str(config._get_full_key(None)) if whole else ""
    trust.check_tables(OmegaConf.to_container(config, resolve=True) if whole else config, key)
    try:
        return instantiate(config, _convert_="all", **given)
    except InstantiationException as error:
        raise UserError(_sentence(error, config)) from error


def _sentence(error: InstantiationException, config: Any) -> str:
    """What to tell the user: Hydra wraps what a constructor raises into words about classes."""
    place = re.search(r"^full_key: (.+)$", str(error), re.MULTILINE)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ArgumentError) and place:
            return f"{_written_at(place[1], config)}.{cause}"
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    reason = error.__cause__
    if place and isinstance(reason, TypeError | ValueError):
        return f"{_written_at(place[1], config)}: these settings do not work ({_on_one_line(reason)})"
    return _on_one_line(error)


def _on_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _written_at(place: str, config: Any) -> str:
    """Where the user finds an object's settings: with `settings: ${video}`, those of task.settings are at video."""
    root, path = config._get_root() if isinstance(config, DictConfig) else OmegaConf.create({}), ""
    for key in place.split("."):
        parent = OmegaConf.select(root, path) if path else root
        path = f"{path}.{key}" if path else key
        if isinstance(parent, DictConfig) and key in parent and OmegaConf.is_interpolation(parent, key):
            points_to = re.fullmatch(r"\$\{([\w.]+)\}", parent._get_node(key)._value())
            path = _written_at(points_to[1], config) if points_to else path
    return path


def _located(path: str, target: str) -> Any:
    try:
        return trust.located(target, f"{path}._target_")
    except UserError:
        raise
    except Exception as error:  # whatever an import raises
        raise UserError(f"{path}: {_on_one_line(error)}") from error


def _keep_literal(config: Any) -> None:
    """Put a Path in the place of every text that holds a literal ${, as a file's name can: Hydra resolves texts again
    before it builds objects of them, and would look for a key of that name."""
    keys = list(config) if isinstance(config, DictConfig) else range(len(config))
    for key in keys:
        node = config._get_node(key)
        if isinstance(node, DictConfig | ListConfig):
            if not (node._is_none() or node._is_missing() or node._is_interpolation()):
                _keep_literal(node)
        elif isinstance(node._value(), str) and "${" in node._value():
            with contextlib.suppress(OmegaConfBaseException):  # it is said where the value is used
                if isinstance(config[key], str) and "${" in config[key]:
                    config[key] = Path(config[key])


def _nodes(config: Any) -> Iterator[DictConfig]:
    """Every table with a `_target_`, the inner ones first. What a `${...}` points to is met where it stands."""
    if isinstance(config, DictConfig) and not config._is_none() and not config._is_missing():
        for key in list(config):
            if not OmegaConf.is_interpolation(config, key) and not OmegaConf.is_missing(config, key):
                yield from _nodes(config._get_node(key))
        if "_target_" in config and not OmegaConf.is_interpolation(config, "_target_"):
            yield config
    elif isinstance(config, ListConfig) and not config._is_none() and not config._is_missing():
        for index in range(len(config)):
            if not OmegaConf.is_interpolation(config, index):
                yield from _nodes(config._get_node(index))
