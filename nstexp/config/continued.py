"""Settings that a training which adds styles copies from the training of the network that it continues.

A new style fits the others only if it is learned with the same losses at the same sizes. Settings of the user still
take precedence, and a warning lists those that differ.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)

BUNDLED = "experiment=cin_bundled"  # the experiment that trained the bundled network
# WHOLE: tables that are copied completely or not at all. BY_VALUE: tables whose values are copied one by one.
# ALWAYS_TAKEN: copied even if the user sets them, because the network already exists. NOT_TAKEN: not copied, because
# they are paths of pictures or depend on the machine.
WHOLE, BY_VALUE = ("backbone",), ("layers", "loss", "weights", "precision", "method", "data", "generator")
ALWAYS_TAKEN = ("generator",)
NOT_TAKEN = ("method._target_", "method.generator", "method.model", "method.compile", "data._target_", "data.content",
             "data.style", "data.val_content", "data.val_style", "data.workers", "data.retries", "data.file_lists",
             "data.cache_dir", "data.cache_gb", "data.shuffle_buffer", "data.seed", "data.max_megapixels")  # fmt: skip
NOTHING = object()  # stands for a value that a configuration does not have


def take_over(cfg: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Copy settings from the continued training into the configuration of a training that adds styles.

    Args:
        cfg: as composed; a configuration of another kind is returned unchanged.
        choices: config group -> chosen option.
        overrides: words of the command line. Settings that they name, and settings that differ from the files of
            method, task and data, come from the user and are kept.

    Returns:
        The configuration with the copied settings.
    """
    if cfg.get("add_style") is None or cfg.get("resume_from") is None:
        return cfg
    before = _training_of(str(cfg.resume_from))
    if before is None:
        log.warning(
            "resume_from=%s: the config.yaml of its training is not beside it; all settings are those of this command",
            cfg.resume_from,
        )
        return cfg
    usual = _plain(
        compose("config", [f"{key}={choices[key]}" for key in ("method", "task", "data") if choices.get(key)])
    )
    now = _plain(cfg)
    taken: dict[str, tuple[Any, Any]] = {}
    different: dict[str, tuple[Any, Any]] = {}
    cfg = deepcopy(cfg)
    for key in _keys(before, now):
        old, new = _at(before, key), _at(now, key)
        if old == new:
            continue
        is_users = new != _at(usual, key) or _is_named(key, overrides)
        if not _follows(cfg, key):  # else the key that it refers to is listed
            (different if is_users else taken)[key] = (new, old)
        if not is_users or _is_within(key, ALWAYS_TAKEN):
            _set(cfg, key, old)
    if taken:
        log.info("as in the earlier training: %s", ", ".join(f"{key}={_short(old)}" for key, (_, old) in taken.items()))
    if different:
        counts = {key: ", which is used" if _is_within(key, ALWAYS_TAKEN) else "" for key in different}
        said = (f"{key}={_short(new)}, {_short(old)} there{counts[key]}" for key, (new, old) in different.items())
        log.warning("not as in the earlier training: %s", "; ".join(said))
    return cfg


def _training_of(file: str) -> dict[str, Any] | None:
    """The configuration that a network was trained with; None if it is not found."""
    if file == "bundled":
        return _plain(compose("config", [BUNDLED]))
    path = Path(file).expanduser()
    for folder in (path.parent, path.parent.parent):  # a checkpoint is one folder deeper
        try:
            found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(found, dict) and all(isinstance(found.get(key), dict) for key in ("method", "data", "loss")):
            return found
    return None


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """The tables that may be copied, resolved."""
    return {key: _resolved(cfg, key) for key in (*WHOLE, *BY_VALUE) if key in cfg}


def _resolved(cfg: DictConfig, key: str) -> Any:
    value = cfg[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _keys(*configs: Mapping[str, Any]) -> list[str]:
    """The keys to compare, without duplicates. A loss term that only one configuration has counts as one key."""
    terms = [config.get("loss") or {} for config in configs]
    alone = {f"loss.{name}" for names in terms for name in names if any(name not in other for other in terms)}
    leaves = [key for config in configs for top in BY_VALUE if top in config for key in _leaves(config[top], top)]
    leaves = [next((term for term in alone if _is_within(key, [term])), key) for key in leaves]
    return [*WHOLE, *(key for key in dict.fromkeys(leaves) if not _is_within(key, NOT_TAKEN))]


def _leaves(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    else:
        yield key


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return NOTHING
        value = value[part]
    return value


def _follows(cfg: DictConfig, key: str) -> bool:
    """Whether a value refers to another key, as the layers of a loss term do."""
    parent, _, name = key.rpartition(".")
    table = OmegaConf.select(cfg, parent) if parent else cfg
    return OmegaConf.is_dict(table) and name in table and OmegaConf.is_interpolation(table, name)


def _set(cfg: DictConfig, key: str, value: Any) -> None:
    with open_dict(cfg):
        if value is not NOTHING:
            OmegaConf.update(cfg, key, value, merge=False, force_add=True)
            return
        parent, _, name = key.rpartition(".")
        table = OmegaConf.select(cfg, parent)
        if table is not None and name in table:
            del table[name]
            if not table:  # such as a loss term that the earlier training did not have
                _set(cfg, parent, NOTHING)


def _is_named(key: str, overrides: Sequence[str]) -> bool:
    """Whether the command line sets a key, its table, or the config group of the table."""
    named = [override.partition("=")[0].lstrip("+~").partition("@")[0] for override in overrides]
    return _is_within(key, [name.replace("/", ".") for name in named if name not in ("method", "data")])


def _is_within(key: str, tables: Sequence[str]) -> bool:
    return any(key == table or key.startswith(f"{table}.") for table in tables)


def _short(value: Any) -> str:
    if value is NOTHING:
        return "none"
    if isinstance(value, Mapping):  # a network with its weights, or a loss term
        names = [str(table["_target_"]).rpartition(".")[2] for table in (value, value.get("weights")) if table]
        return "/".join(names)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else re.sub("[' ]", "", str(value))
    )
