"""What a training that adds styles takes over from the training of the network that it goes on from.

A new style is like the others only if it is learned from the same losses at the same sizes. What the user sets counts
all the same, and is said where it differs.
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

BUNDLED = "experiment=cin_bundled"  # how the bundled network was made
# Tables that are taken as a whole or not at all, tables of which each value is taken by itself, of those what is
# taken whatever the user sets, for the network is there already, and what is not taken: where pictures are, and how
# this machine works.
WHOLE, BY_VALUE = ("backbone",), ("layers", "loss", "weights", "precision", "method", "data", "generator")
ALWAYS_TAKEN = ("generator",)
NOT_TAKEN = ("method._target_", "method.generator", "method.model", "method.compile", "data._target_", "data.content",
             "data.style", "data.val_content", "data.val_style", "data.workers", "data.retries", "data.file_lists",
             "data.cache_dir", "data.cache_gb", "data.shuffle_buffer", "data.seed", "data.max_megapixels")  # fmt: skip
NOTHING = object()


def take_over(cfg: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """The configuration with the settings of the training that it goes on from, for a training that adds styles.

    Args:
        cfg: as composed; any other is returned as it is.
        choices: the option of every config group.
        overrides: of the command line. What they name, and what is not as the method's and the task's own files have
            it, was set by the user and stays.
    """
    if cfg.get("add_style") is None or cfg.get("resume_from") is None:
        return cfg
    before = _training_of(str(cfg.resume_from))
    if before is None:
        log.warning(
            "resume_from=%s: the config.yaml of its training is not beside it; the settings are those of this command",
            cfg.resume_from,
        )
        return cfg
    usual = _plain(
        compose("config", [f"{key}={choices[key]}" for key in ("method", "task", "data") if choices.get(key)])
    )
    now = _plain(cfg)
    taken, different, cfg = {}, {}, deepcopy(cfg)
    for key in _keys(before, now):
        old, new = _at(before, key), _at(now, key)
        if old == new:
            continue
        is_users = new != _at(usual, key) or _is_named(key, overrides)
        if not _follows(cfg, key):  # else what it follows is said
            (different if is_users else taken)[key] = (new, old)
        if not is_users or _is_within(key, ALWAYS_TAKEN):
            _set(cfg, key, old)
    if taken:
        log.info("as in the training before: %s", ", ".join(f"{key}={_short(old)}" for key, (_, old) in taken.items()))
    if different:
        counts = {key: ", which counts" if _is_within(key, ALWAYS_TAKEN) else "" for key in different}
        said = (f"{key}={_short(new)}, {_short(old)} there{counts[key]}" for key, (new, old) in different.items())
        log.warning("not as in the training before: %s", "; ".join(said))
    return cfg


def _training_of(file: str) -> dict[str, Any] | None:
    """The configuration that a network was trained with; None if it is not known."""
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
    """Resolved, but for Hydra's own part."""
    return {key: _resolved(cfg, key) for key in (*WHOLE, *BY_VALUE) if key in cfg}


def _resolved(cfg: DictConfig, key: str) -> Any:
    value = cfg[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _keys(*configs: Mapping[str, Any]) -> list[str]:
    """Those that are compared, each once; a loss term that only one of them has is one of these as a whole."""
    terms = [config.get("loss") or {} for config in configs]
    alone = {f"loss.{name}" for own in terms for name in own if any(name not in other for other in terms)}
    found = [key for config in configs for top in BY_VALUE if top in config for key in _leaves(config[top], top)]
    found = [next((term for term in alone if _is_within(key, [term])), key) for key in found]
    return [*WHOLE, *(key for key in dict.fromkeys(found) if not _is_within(key, NOT_TAKEN))]


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
    """Whether a value is another one's, such as a loss term's layers."""
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
            if not table:  # such as a loss term that the other training did not have
                _set(cfg, parent, NOTHING)


def _is_named(key: str, overrides: Sequence[str]) -> bool:
    """Whether the command line sets a value, or the table or config group that it is in."""
    named = [override.partition("=")[0].lstrip("+~").partition("@")[0] for override in overrides]
    return _is_within(key, [name.replace("/", ".") for name in named if name not in ("method", "data")])


def _is_within(key: str, tables: Sequence[str]) -> bool:
    return any(key == table or key.startswith(f"{table}.") for table in tables)


def _short(value: Any) -> str:
    if value is NOTHING:
        return "none"
    if isinstance(value, Mapping):  # a network with its weights, or a loss term
        names = [str(each["_target_"]).rpartition(".")[2] for each in (value, value.get("weights")) if each]
        return "/".join(names)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else re.sub("[' ]", "", str(value))
    )
