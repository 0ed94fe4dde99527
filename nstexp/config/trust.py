"""Which classes and functions a configuration may name, so that a stranger's YAML file runs nothing of its own.

Hydra makes whatever a `_target_` names, and calls it with what stands beside it: `torch.hub.load` fetches code and runs
it. So a configuration names only what is meant to be named. `trust=[my_package]` on the command line adds to that; a
file cannot.

Two things are looked at. The name, when Hydra has composed a configuration and has made nothing of it (`composing`).
And what the name leads to, before it is called: `torch.optim.adam.sys.exit` begins well and ends elsewhere.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from hydra.utils import get_object

from nstexp.config.moved import moved
from nstexp.core.errors import UserError

VARIABLE = "NSTEXP_TRUST"  # hands what the command line trusts to the processes that it starts
LIGHTNING = ("pytorch_lightning", "lightning.pytorch")

# The classes in these places. Of data sets, some unpickle what they find, and torch.hub runs what it downloads.
CLASSES = (
    "torch.nn", "torch.optim", "torchmetrics", "hydra.experimental.callbacks", "optuna.samplers",
    *(f"{name}.{part}" for name in LIGHTNING
      for part in ("callbacks", "loggers", "profilers", "strategies", "trainer")),
)  # fmt: skip
# Here the functions, too.
FUNCTIONS = (
    *(f"nstexp.{part}" for part in
      ("config.build.Factory", "callbacks", "core", "data", "loggers", "media", "methods", "sweeps.hooks", "tasks")),
    "torch.nn.functional", "torch.nn.init", "torchmetrics.functional",
    *(f"torchvision.{part}" for part in ("models", "ops", "transforms")),
)  # fmt: skip
# These names alone, of places that hold other things as well.
NAMES = (
    *(f"{name}.Trainer" for name in LIGHTNING),
    *(f"wandb.{part}" for part in ("init", "setup", "Settings", "termsetup", "Image", "Table", "Video")),
)  # fmt: skip
FINDERS = tuple(f"hydra.utils.get_{kind}" for kind in ("class", "method", "object", "static_method"))
# To trust one function of these is not to trust all of them.
PARTLY = {name.partition(".")[0] for name in (*CLASSES, *FUNCTIONS, *NAMES)} | sys.stdlib_module_names

_trusted: tuple[str, ...] = tuple(filter(None, os.environ.get(VARIABLE, "").split(",")))


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line without `trust=...`, and the packages in it.

    Raises:
        UserError: something else than names of packages.
    """
    found = [re.fullmatch(r"\+{0,2}trust=(.*)", word, re.DOTALL) for word in words]
    packages = [name.strip("[]\"' ") for match in filter(None, found) for name in match[1].split(",")]
    for name in filter(None, packages):
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
            raise UserError(f"trust={name}: give names of packages, such as trust=[my_package]")
    return [word for word, match in zip(words, found, strict=True) if not match], [*filter(None, packages)]


@contextmanager
def trusting(packages: Sequence[str]) -> Iterator[None]:
    """Inside, configurations may name what is in these packages, also in processes that are started meanwhile."""
    global _trusted
    before, variable = _trusted, os.environ.get(VARIABLE)
    _trusted = tuple(dict.fromkeys([*_trusted, *packages]))
    os.environ[VARIABLE] = ",".join(_trusted)
    try:
        yield
    finally:
        _trusted = before
        if variable is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = variable


def is_trusted(name: str) -> bool:
    """Whether the command line trusts this name or what it is in."""
    return is_in(name, _trusted)


def is_in(name: str, places: Sequence[str]) -> bool:
    """Whether a full name is one of these places, or inside one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def located(target: str, key: str) -> Any:
    """The class or function of a name that a configuration may name.

    Args:
        key: where the name stands, for the message.

    Raises:
        UserError: it may not.
        Exception: whatever importing it raises.
    """
    check_name(target, key)
    found = get_object(target)
    check_home(found, target, key)
    return found


def check_tables(config: Any, key: str = "") -> None:
    """Raise a UserError for tables and lists, with nothing left to resolve, that name what they may not.

    Args:
        key: where they are in the configuration.
    """
    for place, table in tables(config, key):
        name, target = f"{place}._target_", table["_target_"]
        if target in FINDERS:  # it finds what it is given the name of
            name, target = f"{place}.path", table.get("path") or next(iter(table.get("_args_") or []), "")
        if not isinstance(target, str):
            continue  # a class, from Python
        check_name(target, name)
        try:
            found = get_object(target)
        except Exception:  # whatever an import raises: it is said when the object is made
            continue
        check_home(found, target, name)


def check_name(target: str, key: str, more: Sequence[str] = ()) -> None:
    """Raise a UserError for a name that a configuration may not name.

    Args:
        key: where the name stands.
        more: places that it may be in besides.
    """
    public = not any(part.startswith("_") for part in target.split("."))
    if target in NAMES or is_trusted(target) or is_in(target, more) or (public and is_in(target, CLASSES + FUNCTIONS)):
        return
    raise refusal(f"{key}={target}", target)


def check_home(found: Any, target: str, key: str, more: Sequence[str] = ()) -> None:
    """The same of what a name leads to: what counts is where that was defined."""
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", "")
    home = f"{module}.{name}" if isinstance(module, str) and name else getattr(found, "__name__", target)
    if target in NAMES or is_trusted(home):
        return
    # No methods: a module, a trainer and a data module have one that loads. Nor what is only imported there.
    if "." not in name and (
        (isinstance(found, type) and is_in(home, (*CLASSES, *FUNCTIONS, *more)))
        or (isinstance(found, FunctionType) and is_in(home, FUNCTIONS))
    ):
        return
    raise refusal(f"{key}={target}" + (f", that is {home}," if home != target else ""), home)


def refusal(what: str, name: str) -> UserError:
    """What to say of a name that is not trusted.

    Args:
        what: begins the sentence.
        name: of what is not trusted.
    """
    package = name if name.partition(".")[0] in PARTLY else name.partition(".")[0]
    if moved(name) != name:
        return UserError(f"{name} is now {moved(name)}: change this _target_")
    return UserError(
        f"{what} is not among what a configuration may run: if you know it and trust it, add {words(package)} to the "
        "command"
    )


def words(package: str) -> str:
    """What to type in order to trust one more package."""
    return f"'trust=[{','.join([*_trusted, package])}]'"


def tables(config: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every table with a `_target_` in tables and lists, and where it is."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield key, config
        for name, value in config.items():
            yield from tables(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for index, value in enumerate(config):
            yield from tables(value, f"{key}[{index}]")
