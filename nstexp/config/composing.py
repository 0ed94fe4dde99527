"""Every configuration that Hydra composes is looked at before Hydra makes anything of it, see `trust`; and none is
composed for nothing.

What Hydra makes by itself, it makes as soon as the configuration is composed: callbacks, launchers, sweepers, handlers
of the log. It has no place in between for others, so that `install` puts one there.
"""

import os
import re
from collections.abc import Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.override_parser import overrides_visitor
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nstexp.config import trust
from nstexp.core.errors import UserError

# Hydra itself looks after the names of its plugins, and of the log's handlers after those that run things.
PLUGINS = ("hydra._internal.core_plugins", "hydra_plugins")
PLUGIN_KEYS = ("hydra.launcher._target_", "hydra.sweeper._target_")
LOGGING = ("logging", "colorlog")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
# What is run although it is no class, and what other programs find in their environment.
COMMANDS = re.compile(
    r"hydra\.(job\.env_set|launcher\.(setup|python|srun_args|additional_parameters|ray\.\w+\.runtime_env))\b"
)
OWN_COMMANDS = ("export SLURM_KILL_BAD_EXIT=1 SLURM_WAIT=600",)  # of conf/hydra/launcher/slurm.yaml
WORDS = "hydra.job.override_dirname"  # the words of the command line as one text, ${...} and all
# What has no value before a job begins, and is text then.
LATER = re.compile(r"\$\{(hydra\.[\w.]+|(hydra|now|job_name|sweep_name):[^${}]*)\}")


def install() -> None:
    """From now on Hydra hands out no configuration that was not looked at."""
    compose, mode_of = ConfigLoaderImpl.load_configuration, Hydra.get_mode
    load, header_of = ConfigRepository.load_config, ConfigSource._get_header_dict
    if hasattr(compose, "__wrapped__"):
        return

    @wraps(compose)
    def checked(
        loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *args: Any, **more: Any
    ) -> Any:
        _check_search_path(loader, config_name, overrides)
        config = compose(loader, config_name, overrides, *args, **more)
        check(config, overrides)
        return config

    if not __debug__:
        _mend_reader()

    @wraps(mode_of)
    def mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        return mode_of(hydra, config_name, overrides) if _may_choose_mode(hydra, overrides) else None

    @wraps(load)
    def checked_file(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        result = load(repository, config_path)
        if result is not None and result.path.startswith("file://"):
            _check_file(result, config_path)
        return result

    def header(text: str) -> dict[str, str]:
        return header_of(text.removeprefix("\ufeff"))  # some editors of Windows begin a file with a byte order mark

    ConfigLoaderImpl.load_configuration, Hydra.get_mode = checked, mode
    ConfigRepository.load_config, ConfigSource._get_header_dict = checked_file, staticmethod(header)


def _check_file(result: ConfigResult, config_path: str) -> None:
    """Raise a UserError for a file whose keys would come to nothing."""
    file = Path(result.path.removeprefix("file://"), config_path).with_suffix(".yaml")
    if isinstance(result.config, ListConfig):
        raise UserError(f"{file}: a file of a configuration is a table of keys, not a list")
    if config_path.startswith("experiment/") and result.config and result.header.get("package") is None:
        raise UserError(
            f"{file}: a file of this group begins with the line `# @package _global_`, and its keys are those of the "
            "whole configuration"
        )


def _mend_reader() -> None:
    """Let `range(1,4)` and `{a: 1}` be read under python -O, too: what Hydra's reader does in asserts is more
    than checking."""
    file = Path(str(overrides_visitor.__file__))
    with_asserts: dict[str, Any] = {"__name__": overrides_visitor.__name__}
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec", optimize=0), with_asserts)
    ours, mended = overrides_visitor.HydraOverrideVisitor, with_asserts["HydraOverrideVisitor"]
    ours.visitFunction, ours.visitDictKeyValuePair = mended.visitFunction, mended.visitDictKeyValuePair


def _may_choose_mode(hydra: Hydra, overrides: Sequence[str]) -> bool:
    """Whether a file can make a command a sweep, as experiments do. For the answer Hydra composes the configuration
    once more than it needs, which is a third of the time that a wrong command takes."""
    own = any(part.provider == "command-line" for part in hydra.config_loader.get_search_path().get_path())
    return own or any(re.match(r"[+~]*(experiment|hydra)\b", word) for word in overrides)


def check(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Raise a UserError for a composed configuration that names what it may not.

    Of all names, those that are written out; `build` looks at the others, and at what they lead to. Of what Hydra makes
    by itself, everything.

    Args:
        overrides: the words of the command line.
    """
    if "trust" in config:
        raise UserError("trust: what you trust counts on the command line only, trust=[my_package], and in no file")
    for key, target in _names(config, ""):
        trust.check_name(target, key, PLUGINS if key in PLUGIN_KEYS else ())
    if "hydra" not in config:
        return
    typed = {word.lstrip("+~").partition("=")[0] for word in overrides}
    for part in ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging", "job"):
        key = f"hydra.{part}"
        _check_part(_plain(OmegaConf.select(config, key), key), key, typed)


def _check_part(part: Any, key: str, typed: set[str]) -> None:
    """Raise for a part of Hydra's own configuration, in plain tables and lists."""
    if isinstance(part, dict):
        rest = {
            name: value for name, value in part.items() if f"{key}._target_" not in PLUGIN_KEYS or name != "_target_"
        }
        trust.check_tables(rest, key)
    for place, value in _leaves(part, key):
        field = place.rpartition(".")[2]
        if "logging" in key and field in ("()", "class", "factory") and isinstance(value, str):
            trust.check_name(value, place, LOGGING)
            trust.check_home(trust.get_object(value), value, place, LOGGING)
        elif isinstance(value, str) and value.startswith("ext://") and value not in STREAMS:
            trust.check_name(value.removeprefix("ext://"), place)
        elif place == "hydra.sweeper.custom_search_space" and value:
            trust.check_name(str(value), place)
        elif _is_command(place, value):
            own = re.sub(r"\[.*", "", place)  # of a list, the list
            if not trust.is_in(own, [*typed]) and not trust.is_trusted(own):
                raise UserError(
                    f"{own}={value!r} comes from a file and could run anything: set {own} on the command line "
                    f"yourself, or add {trust.words(own)} if you trust it"
                )


def _is_command(place: str, value: Any) -> bool:
    """Whether a value is one that a shell or a program's start reads."""
    if value in (None, *OWN_COMMANDS) or value == os.environ.get(place.rpartition(".")[2]):
        return False
    # A line break ends a comment in Slurm's script, where most of the launcher's values are.
    return bool(COMMANDS.match(place)) or (place.startswith("hydra.launcher.") and "\n" in str(value))


def _check_search_path(loader: ConfigLoaderImpl, config_name: str | None, overrides: Sequence[str]) -> None:
    """Raise for a file that has Hydra import a package in order to look for configurations there."""
    if config_name is None or any(word.startswith("hydra.searchpath=") for word in overrides):
        return
    loaded = loader.repository.load_config(config_path=config_name)
    found = OmegaConf.select(loaded.config, "hydra.searchpath") if loaded else None
    for place in found or []:
        package = str(place).removeprefix("pkg://").replace("/", ".")
        if str(place).startswith("pkg://") and not trust.is_trusted(package):
            raise trust.refusal(f"hydra.searchpath={place}", package)


def _names(config: Any, key: str) -> Iterator[tuple[str, str]]:
    """The key and the value of every `_target_`, where they stand."""
    if not isinstance(config, DictConfig | ListConfig) or config._is_none() or config._is_missing():
        return
    for name in config if isinstance(config, DictConfig) else range(len(config)):
        place = str(config._get_full_key(name))
        if name == "_target_" and _value(config, name) not in trust.FINDERS:  # `build` looks at what those find
            yield place, str(_value(config, name))
        elif not OmegaConf.is_interpolation(config, name):
            yield from _names(config._get_node(name), place)


def _plain(config: Any, key: str) -> Any:
    """Tables and lists with all values; what has none yet, if it is text, as it is written.

    Raises:
        UserError: nobody can know what it will be.
    """
    if not isinstance(config, DictConfig | ListConfig):
        return config
    if config._is_none() or config._is_missing():
        return None
    if isinstance(config, DictConfig):
        names = [name for name in config if f"{key}.{name}" != WORDS]
        return {str(name): _plain(_value(config, name), f"{key}.{name}") for name in names}
    return [_plain(_value(config, index), f"{key}[{index}]") for index in range(len(config))]


def _value(config: Any, name: Any) -> Any:
    if OmegaConf.is_missing(config, name):
        return None
    try:
        return config[name]
    except OmegaConfBaseException:
        text = str(config._get_node(name)._value())
        if "${" in LATER.sub("", text):
            raise UserError(f"{config._get_full_key(name)}={text} has no value: write it out") from None
        return text


def _leaves(config: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(config, dict):
        for name, value in config.items():
            yield from _leaves(value, f"{key}.{name}")
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from _leaves(value, f"{key}[{index}]")
    else:
        yield key, config
