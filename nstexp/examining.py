"""Check a command as the command line does, and list its jobs, without running it."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from nstexp import cli
from nstexp.config import early
from nstexp.config.keys import CONF
from nstexp.config.quoting import quoted
from nstexp.config.refusals import in_one_sentence
from nstexp.core.errors import UserError
from nstexp.sweeps import hooks
from nstexp.sweeps.planning import MOST_VALUES, Plan, key_of, parsed, plan_of, values_of

MOST_SECONDS = 10.0  # for checks of single values; the first value of each key is always checked
CheckValue = Callable[[str, Any], None]
FOR_SWEEPS = ("hydra/sweeper=", "hydra/launcher=")  # words that make a sweep even of one job


class WrongValue(UserError):
    """A value of a key that is wrong.

    Args:
        key: the key.
        sentence: what is wrong.
    """

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


def examine(
    words: Sequence[str], check_value: Callable[[str, Any], None] = lambda key, value: None
) -> tuple[bool, Plan]:
    """Check a command in the current folder.

    A sweep runs every combination of its values. Here each value is checked once, beside the first values of the other
    keys, so that the check takes seconds.

    Args:
        words: of the command line, `key=value`, without options such as -m.
        check_value: a further check of each key and value, which raises a UserError.

    Returns:
        Whether the command needs -m, and its jobs.

    Raises:
        UserError: the command line would refuse the command, or one of its jobs. A `WrongValue` knows the key.
    """
    with in_one_sentence():
        return _examine(words, check_value)


def _examine(words: Sequence[str], check_value: CheckValue) -> tuple[bool, Plan]:
    several = any(override.is_sweep_override() for override in parsed(quoted(words, sweep=True)[0]))
    sweep = several or early.is_sweep(words) or any(word.startswith(FOR_SWEEPS) for word in words)
    ready = early.words_for_hydra([*(["-m"] if sweep else []), *words])
    ready = cli.one_method([word for word in ready if word != "-m"])
    for override in parsed(ready):
        swept = override.is_discrete_sweep()
        check_value(key_of(override), list(override.sweep_iterator()) if swept else override.value())
    params = _check(ready, sweep)
    return sweep, plan_of([*params, *ready]) if sweep else Plan(1)


def _check(words: Sequence[str], sweep: bool) -> list[str]:
    """Check the command and each value; returns further words of the sweep, from a file of the group `experiment`."""
    began = time.monotonic()
    overrides = parsed(words)
    first = [word for override in overrides if (word := _first(override))]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = _composed(first, sweep)
        typed = {key_of(override) for override in overrides}
        given = early.plain_table(OmegaConf.select(config, "hydra.sweeper.params") or OmegaConf.create({}))
        params = [f"{key}={value}" for key, value in given.items() if key not in typed]
        if params:
            config = _composed([*first, *filter(None, map(_first, parsed(params)))], sweep)
        HydraConfig.instance().set_config(config)  # values such as ${in_sweep:} need it
        settings, cfg = config.hydra.copy(), _without_hydra(config)
        if sweep:
            cli.check_sweep(cfg, settings, list(words))
            for problem in hooks.why_no_jobs(config):
                raise UserError(problem)
            early.check(cfg)
        else:
            hooks.check_run(cfg, settings)
        for key, value, word in _others(overrides):
            if time.monotonic() - began > MOST_SECONDS:
                break
            try:
                if "/" in key or "@" in key or (CONF / key).is_dir():
                    changed = [word if _is_of(each, key) else each for each in first]
                    other = _without_hydra(_composed(changed, sweep))
                else:
                    other = cfg.copy()
                    OmegaConf.update(other, key, value)
                early.check(other)
            except UserError as error:
                raise WrongValue(key, str(error)) from error
    return params


def _others(overrides: Sequence[Override]) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and word of every value but the first, of keys with several."""
    for override in overrides:
        if override.is_discrete_sweep():
            values = zip(override.sweep_string_iterator(), override.sweep_iterator(), strict=True)
            for text, value in islice(values, 1, MOST_VALUES):
                plain = getattr(value, "text", value)  # of texts in quotes
                yield key_of(override), plain, f"{override.get_key_element()}={text}"


def _is_of(word: str, key: str) -> bool:
    return word.partition("=")[0].lstrip("+") == key


def _first(override: Override) -> str:
    """The word for the first value of a key; '' if it has none."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return "".join(f"{override.get_key_element()}={value}" for value in values_of(override)[:1])


def _composed(words: Sequence[str], sweep: bool) -> DictConfig:
    own = ["hydra.mode=MULTIRUN"] if sweep else []
    place = ["hydra.runtime.output_dir=checked", "hydra.job.num=0", "hydra.job.id=0"]
    return hydra.compose("config", overrides=[*words, *own, *place], return_hydra_config=True)


def _without_hydra(config: DictConfig) -> DictConfig:
    cfg = config.copy()
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    return cfg
