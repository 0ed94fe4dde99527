"""Error messages for configurations that do not compose: one or two lines instead of those of Hydra and OmegaConf."""

import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from hydra.errors import CompactHydraException, HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import GrammarParseError, InterpolationKeyError, OmegaConfBaseException

from nstexp.config.keys import CONF, END, how_to_choose, known, nearest, no_such_key, no_such_option
from nstexp.config.moved import moved
from nstexp.core.errors import UserError

# Missing option of a group of Hydra -> how the user asks for it, and the extra of nstexp that installs it.
PLUGINS = {
    ("hydra/sweeper", "optuna"): ("hydra/sweeper=optuna", "optuna"),
    ("hydra/launcher", "submitit_slurm"): ("hydra/launcher=slurm", "slurm"),
}
PAIRS = {"(": ")", "[": "]", "{": "}"}


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turn the errors of Hydra and OmegaConf about a configuration into a UserError with the sentence of `sentence_of`.

    Raises:
        UserError: the configuration is wrong.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if sentence := sentence_of(error):
            raise UserError(sentence) from error
        raise


def sentence_of(error: BaseException) -> str | None:
    """The message for an error in the configuration; None if the error has another cause."""
    if isinstance(error, OverrideParseException):
        return unreadable(str(error.override), error.message)
    if isinstance(error, yaml.YAMLError):
        return _of_yaml(error)
    if isinstance(error, OmegaConfBaseException):
        return _of_value(error)
    if getattr(error, "missing_cfg_file", None) is not None:
        return _of_option(error)
    if isinstance(error, CompactHydraException):
        return _of_composition(error)
    if isinstance(error, UnicodeDecodeError):
        file = _file_of(error)
        return file and f"{file}: this is not UTF-8 text, but YAML files must be"
    if str(error).startswith("Only one of --run"):
        return "give only one of --run, --multirun, --cfg, --info and --shell-completion"
    if re.match(r"Config group override|The --resolve flag|Invalid defaults list", str(error)):
        return _one_line(error)
    return _one_line(error) if isinstance(error, HydraException) else None


def unreadable(word: str, reason: str = "") -> str:
    """The message for a word of the command line that Hydra cannot read; `reason` is Hydra's own message."""
    key, equals, value = word.partition("=")
    if not key.strip("+~"):
        return f"'{word}' names no key: write key=value, such as content=photo.jpg"
    if not equals:
        return f"'{word}' has no value: write key=value, such as content=photo.jpg"
    if (found := re.search(r"Unknown function '(\w+)'\s*Available: (\S+)", reason)) is not None:
        return f"{word}: there is no function {found[1]}, only {found[2].replace(',', ', ')}; a text takes quotes"
    if (problem := _unbalanced(value)) is not None:
        return f"{word}: {problem}"
    if (found := re.search(r"while evaluating .*?: (.+)", reason)) is not None:
        return f"{word}: {found[1]}"
    return f"{word}: the value cannot be read; a text with special characters takes quotes: '{key}=\"{value}\"'"


def _unbalanced(text: str) -> str | None:
    """Describe the brackets or quotes in a text that do not match; None if all match."""
    closing: list[str] = []
    quote = ""
    for character in re.sub(r"\\.", "", text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in PAIRS:
            closing.append(PAIRS[character])
        elif character in PAIRS.values() and (not closing or closing.pop() != character):
            return f"{character} closes no bracket"
    if quote:
        return f"a quote is not closed, the last {quote} is missing"
    return f"a bracket is not closed, a {closing[-1]} is missing" if closing else None


def _of_composition(error: BaseException) -> str:
    text = str(error)
    if (found := re.search(r"Error locating target '([\w.]+)'", text)) and moved(found[1]) != found[1]:
        return f"{found[1]} is now {moved(found[1])}: change this _target_"
    if isinstance(error, InstantiationException):
        return _one_line(error)
    place = f"{found[1]}: " if (found := re.match(r"In '([^']+)': ", text)) and found[1] != "config" else ""
    if found := re.search(r"Could not override '([^']*)'|Could not delete from config\. '(.+)' does not exist", text):
        return place + _of_key(found[1] or found[2] or "", error)
    if found := re.search(r"Ambiguous value for argument '(.+)'\n1\.", text):
        key, _, value = found[1].partition("=")
        return f"{found[1]}: several values are a sweep, with -m (nstexp -m {found[1]}), or a list, {key}=[{value}]"
    if found := re.search(r"Sweep parameters '(.+)' requires --multirun", text):
        return f"{found[1]}: several values are a sweep, with -m (nstexp -m '{found[1]}')"
    if found := re.search(r"An item is already at '(.+)'", text):
        return f"+{found[1]}: this key exists already, leave the + out"
    if found := re.search(r"The value of '(.+?)' is .* and not", text, re.DOTALL):
        return f"~{found[1]}: it has another value; write ~{found[1]}, without a value"
    if "Cannot merge DictConfig with ListConfig" in text:
        return f"{place}{_list_for_table(error)}"
    if found := re.match(r"Error merging override (.+)", text):
        methods = re.match(r"\+\+task\.methods=\[(.+)\]$", found[1])
        if methods and "Cannot merge DictConfig with ListConfig" in str(error.__cause__):
            return _methods_of_experiment(methods[1])
        return f"{found[1]}: {_first_line(error.__cause__ or error)}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return place + _of_value(error.__cause__)
    return place + _one_line(re.sub(r"^In '[^']+': ", "", text))


def _methods_of_experiment(names: str) -> str:
    """The message for `method=[a,b]`, which stands for a list in task.methods, where an experiment has a table."""
    return (
        f"method=[{names}]: the experiment has a table of methods already, task.methods; leave method=[{names}] out, "
        f"or leave the experiment out and write task=evaluate method=[{names}]"
    )


def _list_for_table(error: BaseException) -> str:
    """The message if a file has a list where earlier files have a table, or a table where they have a list."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        composed, loaded = frame.f_locals.get("cfg"), getattr(frame.f_locals.get("loaded"), "config", None)
        if isinstance(composed, DictConfig) and isinstance(loaded, DictConfig):
            found = next(_other_kind(composed, loaded, ""), None)
            if found is not None:
                return found
    return "a list stands in the place of a table of keys, or a table in the place of a list"


def _other_kind(composed: DictConfig, loaded: DictConfig, path: str) -> Iterator[str]:
    """Yield a message for each key that is a table in one configuration and a list in the other."""
    keys: Iterable[Any] = loaded
    for key in keys:
        here, new = (config._get_node(key) if key in config else None for config in (composed, loaded))
        place = f"{path}.{key}" if path else str(key)
        if isinstance(here, DictConfig) and isinstance(new, DictConfig):
            yield from _other_kind(here, new, place)
        elif isinstance(here, DictConfig) and isinstance(new, ListConfig):
            yield f"{place} is a table of keys, not a list{how_to_choose(place)}"
        elif isinstance(here, ListConfig) and isinstance(new, DictConfig):
            yield f"{place} is a list, not a table of keys"


def _of_key(key: str, error: BaseException) -> str:
    """The message for a key, or a group, that cannot be set."""
    if not key:
        return unreadable("=...")
    if "No match in the defaults list" in str(error):
        groups = sorted(path.name for path in CONF.iterdir() if path.is_dir())
        named = key.partition("@")[0].strip("/")
        return f"{key or '='}: there is no such group of options{nearest(named, groups)}"
    if key.startswith("hydra"):
        return f"{key}: Hydra has no such key (`python -m nstexp --cfg hydra` shows all)"
    parent = key.rpartition(".")[0]
    if known().at(parent) is END:
        return f"{key}: {parent} is a value and has no keys"
    return str(no_such_key(key))


def _of_option(error: Any) -> str:
    """The message for an option that its group does not have."""
    place = str(error.missing_cfg_file)
    group, _, option = place.rpartition("/")
    if (group, option) in PLUGINS:
        key, extra = PLUGINS[group, option]
        return f"{key} needs a package that is not installed: pip install 'nstexp[{extra}]'"
    known_options = [path.stem for path in (CONF / group).glob("*.yaml")] if group else []
    known_options += error.options or []  # options of Hydra's groups; None if a list of options was given
    if not group:
        return f"{place}: there is no such configuration file"
    return no_such_option(group, option, known_options)


def _of_value(error: Any) -> str:
    """The message for a value that refers to something that does not exist, or that its key does not accept."""
    key, value = error.full_key or "", _raw(error)
    if key == "hydra.run.dir":
        reason = _first_line(error)
        told = f"{reason}; " if "not found" in reason else ""
        return f"run_dir: {told}give the folder that the run writes to, such as runs/mine"
    said = f"{key}={value}" if value is not None else str(key)
    reason = _first_line(error)
    if isinstance(error, GrammarParseError):
        return f"{said}: {_unbalanced(str(value)) or reason}"
    if isinstance(error, InterpolationKeyError) and (found := re.search(r"Interpolation key '(.+)' not found", reason)):
        return f"{said}: there is no key {found[1]}{nearest(found[1], list(known().paths()))}"
    if found := re.search(r"Environment variable '(.+)' not found", reason):
        return f"{said}: the environment variable {found[1]} is not set"
    if "Recursive interpolation" in reason or "RecursionError" in reason:
        return f"{said} refers to itself, directly or through other keys"
    if found := re.search(r"Unsupported interpolation type (\w+)", reason):
        return f"{said}: there is no resolver named {found[1]}"
    return f"{said}: {reason}"


def _raw(error: Any) -> Any:
    """A value as it is written."""
    try:
        return error.parent_node._get_node(error.key)._value()
    except Exception:  # the attributes of an error depend on its kind
        return None


def _of_yaml(error: yaml.YAMLError) -> str:
    """The message for a YAML file that cannot be read: which file, which line, and why."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or ""
    opened = getattr(error, "context_mark", None)
    if mark is None:
        name, reason = getattr(error, "name", "a YAML file"), getattr(error, "reason", _one_line(error))
        return f"{name}: {reason}"
    place, context = f"{mark.name}, line {mark.line + 1}", getattr(error, "context", None) or ""
    if "\\t" in problem:
        return f"{place}: there is a tab, where YAML takes only spaces"
    if found := re.match(r"found duplicate key (.+)", problem):
        return f"{place}: the key {found[1]} is defined twice"
    if "flow" in context and opened is not None:
        return f"{place}: the bracket opened in line {opened.line + 1} is not closed"
    if "quoted scalar" in context and opened is not None:
        return f"{place}: the quote opened in line {opened.line + 1} is not closed"
    if "block" in problem or "block" in context:
        return f"{place}: the indentation does not match the lines above"
    return f"{place}: {problem}"


def _file_of(error: BaseException) -> str | None:
    """The configuration file that was being read when an error occurred; the error itself does not say."""
    paths = [frame.f_locals.get("full_path") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((str(path) for path in reversed(paths) if path), None)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _one_line(error: object) -> str:
    return " ".join(re.sub(r"See https://hydra\.cc\S* for details", "", str(error)).split())
