"""Check every configuration that Hydra composes before Hydra creates objects from it, see `trust`.

Hydra creates callbacks, launchers, sweepers and log handlers right after composing. It offers no hook in between, so
`install` replaces methods of Hydra. It also prevents Hydra from composing a configuration that is not needed.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.override_parser import overrides_visitor
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nstexp.config import trust
from nstexp.core.errors import UserError

# Packages of Hydra's plugins and log handlers, which are allowed at these keys only.
PLUGINS = ("hydra._internal.core_plugins", "hydra_plugins")
PLUGIN_KEYS = ("hydra.launcher._target_", "hydra.sweeper._target_")
LOGGING = ("logging", "colorlog")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
# Keys with shell commands, and with environment variables for other programs.
COMMANDS = re.compile(
    r"hydra\.(job\.env_set|launcher\.(setup|python|srun_args|additional_parameters|ray\.\w+\.runtime_env))\b"
)
OWN_COMMANDS = ("export SLURM_KILL_BAD_EXIT=1 SLURM_WAIT=600",)  # in conf/hydra/launcher/slurm.yaml
WORDS = "hydra.job.override_dirname"  # the words of the command line as one text, with unresolved ${...}
# Interpolations that get a value only when a job begins; their values are text.
LATER = re.compile(r"\$\{(hydra\.[\w.]+|(hydra|now|job_name|sweep_name):[^${}]*)\}")


def install() -> None:
    """Make Hydra check every configuration that it composes from now on. Repeated calls do nothing."""
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

    def header(text: str) -> dict[str, str | None]:
        return header_of(text.removeprefix("\ufeff"))  # some Windows editors begin a file with a byte order mark

    hydras: Any = ConfigLoaderImpl, Hydra, ConfigRepository, ConfigSource
    loader_class, hydra_class, repository_class, source_class = hydras
    loader_class.load_configuration, hydra_class.get_mode = checked, mode
    repository_class.load_config, source_class._get_header_dict = checked_file, staticmethod(header)


def _check_file(result: ConfigResult, config_path: str) -> None:
    """Raise a UserError for a file whose keys Hydra would ignore or misplace."""
    file = Path(result.path.removeprefix("file://"), config_path).with_suffix(".yaml")
    if isinstance(result.config, ListConfig):
        raise UserError(f"{file}: a configuration file must be a table of keys, not a list")
    if config_path.startswith("experiment/") and result.config and result.header.get("package") is None:
        raise UserError(
            f"{file}: a file of this group must begin with the line `# @package _global_`, and its keys are those of "
            "the whole configuration"
        )


def _mend_reader() -> None:
    """Make Hydra read `range(1,4)` and `{a: 1}` under python -O, which removes the asserts in which it does so."""
    file = Path(str(overrides_visitor.__file__))
    with_asserts: dict[str, Any] = {"__name__": overrides_visitor.__name__}
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec", optimize=0), with_asserts)
    visitor: Any = overrides_visitor.HydraOverrideVisitor
    mended = with_asserts["HydraOverrideVisitor"]
    visitor.visitFunction, visitor.visitDictKeyValuePair = mended.visitFunction, mended.visitDictKeyValuePair


def _may_choose_mode(hydra: Hydra, overrides: Sequence[str]) -> bool:
    """Whether a file may turn the command into a sweep, as experiments do.

    To find out, Hydra composes the configuration a second time, which takes a third of the time of a wrong command.
    """
    has_folder = any(part.provider == "command-line" for part in hydra.config_loader.get_search_path().get_path())
    return has_folder or any(re.match(r"[+~]*(experiment|hydra)\b", word) for word in overrides)


def check(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Check the names in a composed configuration, and the values from which Hydra itself creates objects.

    Other names that are interpolations, and the objects that names lead to, are checked by `build`.

    Args:
        config: as Hydra composed it.
        overrides: the words of the command line.

    Raises:
        UserError: the configuration names something that it may not name.
    """
    if "trust" in config:
        raise UserError("trust: it can be set only on the command line, as in trust=[my_package], not in a file")
    for key, target in _names(config, ""):
        trust.check_name(target, key, PLUGINS if key in PLUGIN_KEYS else ())
    if "hydra" not in config:
        return
    typed = {word.lstrip("+~").partition("=")[0] for word in overrides}
    for part in ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging", "job"):
        key = f"hydra.{part}"
        _check_part(_plain(OmegaConf.select(config, key), key), key, typed)


def _check_part(part: Any, key: str, typed: set[str]) -> None:
    """Check one part of Hydra's own configuration.

    Args:
        part: plain tables and lists.
        key: its place in the configuration.
        typed: keys that the command line sets.

    Raises:
        UserError: the part names something that it may not name, or a file sets a command.
    """
    if isinstance(part, dict):
        rest = {
            name: value for name, value in part.items() if f"{key}._target_" not in PLUGIN_KEYS or name != "_target_"
        }
        trust.check_tables(rest, key)
    for place, value in _leaves(part, key):
        field = place.rpartition(".")[2]
        if "logging" in key and field in ("()", "class", "factory") and isinstance(value, str):
            trust.check_name(value, place, LOGGING)
            trust.check_home(get_object(value), value, place, LOGGING)
        elif isinstance(value, str) and value.startswith("ext://") and value not in STREAMS:
            trust.check_name(value.removeprefix("ext://"), place)
        elif place == "hydra.sweeper.custom_search_space" and value:
            trust.check_name(str(value), place)
        elif _is_command(place, value):
            command_key = re.sub(r"\[.*", "", place)  # the key of the list that holds the command
            if not trust.is_in(command_key, [*typed]) and not trust.is_trusted(command_key):
                raise UserError(
                    f"{command_key}={value!r} comes from a file and could run anything: set {command_key} on the "
                    f"command line, or add {trust.words(command_key)} if you trust it"
                )


def _is_command(place: str, value: Any) -> bool:
    """Whether a value is run by a shell or read by a program when it starts."""
    if value in (None, *OWN_COMMANDS) or value == os.environ.get(place.rpartition(".")[2]):
        return False
    # A line break would end a comment in Slurm's script, which holds most values of the launcher.
    return bool(COMMANDS.match(place)) or (place.startswith("hydra.launcher.") and "\n" in str(value))


def _check_search_path(loader: ConfigLoaderImpl, config_name: str | None, overrides: Sequence[str]) -> None:
    """Raise a UserError for a file that makes Hydra import a package to search it for configurations."""
    if config_name is None or any(word.startswith("hydra.searchpath=") for word in overrides):
        return
    loaded = loader.repository.load_config(config_path=config_name)
    found = OmegaConf.select(loaded.config, "hydra.searchpath") if loaded else None
    for place in found or []:
        package = str(place).removeprefix("pkg://").replace("/", ".")
        if str(place).startswith("pkg://") and not trust.is_trusted(package):
            raise trust.refusal(f"hydra.searchpath={place}", package)


def _names(config: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of every `_target_`, without following interpolations of tables."""
    if not isinstance(config, DictConfig | ListConfig) or config._is_none() or config._is_missing():
        return
    names: Iterable[Any] = config if isinstance(config, DictConfig) else range(len(config))
    for name in names:
        place = str(config._get_full_key(name))
        if name == "_target_" and _value(config, name) not in trust.FINDERS:  # `build` checks what FINDERS return
            yield place, str(_value(config, name))
        elif not OmegaConf.is_interpolation(config, name):
            yield from _names(config._get_node(name), place)


def _plain(config: Any, key: str) -> Any:
    """Tables and lists with resolved values; values that Hydra resolves later stay as they are written.

    Raises:
        UserError: an interpolation has no value.
    """
    if not isinstance(config, DictConfig | ListConfig):
        return config
    if config._is_none() or config._is_missing():
        return None
    if isinstance(config, DictConfig):
        keys: Iterable[Any] = config
        names = [name for name in keys if f"{key}.{name}" != WORDS]
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
            raise UserError(f"{config._get_full_key(name)}={text} has no value: replace it by a value") from None
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
