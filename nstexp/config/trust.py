"""The classes and functions that a configuration may name, so that a YAML file from a stranger cannot run code.

Hydra creates whatever a `_target_` names and passes it the settings beside it: `torch.hub.load` would download code and
run it. So configurations may name only what is allowed here. `trust=[my_package]` on the command line allows more; a
file cannot.

Two things are checked: the name, after Hydra composed a configuration and before it creates anything (`composing`), and
the object that the name leads to, before it is called. `torch.optim.adam.sys.exit`, for instance, begins with an
allowed name but leads elsewhere.
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

VARIABLE = "NSTEXP_TRUST"  # environment variable that passes the trusted packages on to subprocesses
LIGHTNING = ("pytorch_lightning", "lightning.pytorch")

# Classes in these packages are allowed. Data sets are not, because some unpickle files; nor torch.hub, which runs
# what it downloads.
CLASSES = (
    "torch.nn", "torch.optim", "torchmetrics", "hydra.experimental.callbacks", "optuna.samplers",
    *(f"{name}.{part}" for name in LIGHTNING
      for part in ("callbacks", "loggers", "profilers", "strategies", "trainer")),
)  # fmt: skip
# Classes and functions in these packages are allowed.
FUNCTIONS = (
    *(f"nstexp.{part}" for part in
      ("config.build.Factory", "callbacks", "core", "data", "loggers", "media", "methods", "sweeps.hooks",
       "sweeps.pruning", "tasks")),
    "torch.nn.functional", "torch.nn.init", "torchmetrics.functional",
    *(f"torchvision.{part}" for part in ("models", "ops", "transforms")),
)  # fmt: skip
# Of some packages, only these names are allowed.
NAMES = (
    *(f"{name}.Trainer" for name in LIGHTNING),
    *(f"wandb.{part}" for part in ("init", "setup", "Settings", "termsetup", "Image", "Table", "Video")),
)  # fmt: skip
FINDERS = tuple(f"hydra.utils.get_{kind}" for kind in ("class", "method", "object", "static_method"))
# Packages that are allowed in part: to trust one more function must not trust the whole package.
PARTLY = {name.partition(".")[0] for name in (*CLASSES, *FUNCTIONS, *NAMES)} | sys.stdlib_module_names

_trusted: tuple[str, ...] = tuple(filter(None, os.environ.get(VARIABLE, "").split(",")))


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split `trust=...` off a command line.

    Returns:
        The other words, and the packages to trust.

    Raises:
        UserError: a value of trust is not the name of a package.
    """
    found = [re.fullmatch(r"\+{0,2}trust=(.*)", word, re.DOTALL) for word in words]
    packages = [name.strip("[]\"' ") for match in filter(None, found) for name in match[1].split(",")]
    for name in filter(None, packages):
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
            raise UserError(f"trust={name}: give names of packages, such as trust=[my_package]")
    return [word for word, match in zip(words, found, strict=True) if not match], [*filter(None, packages)]


@contextmanager
def trusting(packages: Sequence[str]) -> Iterator[None]:
    """Allow configurations to name what is in these packages, here and in subprocesses that are started meanwhile."""
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
    """Whether the command line trusts this name, or a package or module that contains it."""
    return is_in(name, _trusted)


def is_in(name: str, places: Sequence[str]) -> bool:
    """Whether a full name is one of these places, or is inside one of them."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def located(target: str, key: str) -> Any:
    """Import the class or function of a name.

    Args:
        target: the full name.
        key: config key that holds the name, for the error message.

    Raises:
        UserError: configurations may not name it.
        Exception: the import fails.
    """
    check_name(target, key)
    found = get_object(target)
    check_home(found, target, key)
    return found


def check_tables(config: Any, key: str = "") -> None:
    """Check the names in resolved tables and lists.

    Args:
        config: tables and lists without interpolations.
        key: their place in the configuration.

    Raises:
        UserError: a name is not allowed.
    """
    for place, table in tables(config, key):
        name, target = f"{place}._target_", table["_target_"]
        if target in FINDERS:  # Hydra's functions that import a name: check the name that they are given
            name, target = f"{place}.path", table.get("path") or next(iter(table.get("_args_") or []), "")
        if not isinstance(target, str):
            continue  # a class, given in Python code
        check_name(target, name)
        try:
            found = get_object(target)
        except Exception:  # a failing import is reported when the object is created
            continue
        check_home(found, target, name)


def check_name(target: str, key: str, more: Sequence[str] = ()) -> None:
    """Check a name in a configuration.

    Args:
        target: the full name.
        key: config key that holds the name.
        more: further packages that are allowed here.

    Raises:
        UserError: configurations may not name it.
    """
    public = not any(part.startswith("_") for part in target.split("."))
    if target in NAMES or is_trusted(target) or is_in(target, more) or (public and is_in(target, CLASSES + FUNCTIONS)):
        return
    raise refusal(f"{key}={target}", target)


def check_home(found: Any, target: str, key: str, more: Sequence[str] = ()) -> None:
    """Check the object that a name leads to, by the module that defines it; otherwise like `check_name`."""
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", "")
    home = f"{module}.{name}" if isinstance(module, str) and name else getattr(found, "__name__", target)
    if target in NAMES or is_trusted(home):
        return
    # Methods are not allowed, because modules, trainers and data modules have one that loads files; nor are objects
    # that an allowed module only imports.
    if "." not in name and (
        (isinstance(found, type) and is_in(home, (*CLASSES, *FUNCTIONS, *more)))
        or (isinstance(found, FunctionType) and is_in(home, FUNCTIONS))
    ):
        return
    raise refusal(f"{key}={target}" + (f", that is {home}," if home != target else ""), home)


def refusal(what: str, name: str) -> UserError:
    """The error for a name that is not allowed.

    Args:
        what: begins the message.
        name: of the class or function.
    """
    package = name if name.partition(".")[0] in PARTLY else name.partition(".")[0]
    if moved(name) != name:
        return UserError(f"{name} is now {moved(name)}: change this _target_")
    return UserError(
        f"{what} is not among the things that a configuration may run: if you know and trust it, add {words(package)} "
        "to the command"
    )


def words(package: str) -> str:
    """The word to type on the command line in order to trust one more package."""
    return f"'trust=[{','.join([*_trusted, package])}]'"


def tables(config: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every table with a `_target_` in tables and lists, with its place."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield key, config
        for name, value in config.items():
            yield from tables(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for index, value in enumerate(config):
            yield from tables(value, f"{key}[{index}]")
