"""Create objects from a configuration with Hydra, and name the config key of a wrong setting in the error message.

A constructor that refuses an argument names only the argument. Here the place of the settings is known, so that
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
from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nstexp.config import trust
from nstexp.config.moved import moved
from nstexp.core.errors import ArgumentError, UserError

log = logging.getLogger(__name__)


class Factory:
    """Stands for a table with `_partial_: true`: calls its target with the settings and further arguments.

    Args:
        path: place of the settings in the configuration.
        target: full name of the class or function to call.
        args, settings: arguments from the configuration.
    """

    def __init__(self, path: str, target: str, /, *args: Any, **settings: Any) -> None:
        self.path, self.target, self.args, self.settings = path, target, args, settings

    def __call__(self, *args: Any, **more: Any) -> Any:
        # Imported only now, because importing the target of a factory that is never called may take seconds.
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
    """A copy of a whole configuration in a form from which `build` can create objects."""
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
    """Create the object that a part of a `prepared` configuration describes, with all objects inside it.

    Args:
        config: the part.
        given: further arguments.

    Raises:
        UserError: a setting does not work, or a name is not allowed (`trust`); the message names the config key.
    """
    whole = OmegaConf.is_config(config)  # resolvers return plain tables
    key = str(config._get_full_key(None)) if whole else ""
    trust.check_tables(OmegaConf.to_container(config, resolve=True) if whole else config, key)
    try:
        return instantiate(config, _convert_="all", **given)
    except InstantiationException as error:
        raise UserError(_sentence(error, config)) from error


def _sentence(error: InstantiationException, config: Any) -> str:
    """The message for the user; Hydra's own message wraps the error of a constructor in internal details."""
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
    """The place where the user wrote an object's settings: with `settings: ${video}`, task.settings is at video."""
    root, path = config._get_root() if isinstance(config, DictConfig) else OmegaConf.create({}), ""
    for key in place.split("."):
        parent = OmegaConf.select(root, path) if path else root
        path = f"{path}.{key}" if path else key
        if isinstance(parent, DictConfig) and key in parent and OmegaConf.is_interpolation(parent, key):
            points_to = re.fullmatch(r"\$\{([\w.]+)\}", _raw_value(parent, key))
            path = _written_at(points_to[1], config) if points_to else path
    return path


def _raw_value(table: DictConfig, key: str) -> str:
    """An interpolation as it is written."""
    node = table._get_node(key)
    assert isinstance(node, Node)
    return str(node._value())


def _located(path: str, target: str) -> Any:
    try:
        return trust.located(target, f"{path}._target_")
    except UserError:
        raise
    except Exception as error:  # imports may raise anything
        raise UserError(f"{path}: {_on_one_line(error)}") from error


def _keep_literal(config: Any) -> None:
    """Replace every text that contains a literal ${, as file names may, by a Path.

    Hydra resolves texts again before it creates objects, and would search for a key of that name.
    """
    keys = list(config) if isinstance(config, DictConfig) else range(len(config))
    for key in keys:
        node = config._get_node(key)
        if isinstance(node, DictConfig | ListConfig):
            if not (node._is_none() or node._is_missing() or node._is_interpolation()):
                _keep_literal(node)
        elif isinstance(node._value(), str) and "${" in node._value():
            with contextlib.suppress(OmegaConfBaseException):  # reported where the value is used
                if isinstance(config[key], str) and "${" in config[key]:
                    config[key] = Path(config[key])


def _nodes(config: Any) -> Iterator[DictConfig]:
    """Yield every table with a `_target_`, inner ones first, without following `${...}`."""
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
