"""The keys of configurations: which there are, which option brings them, and what a misspelt one was meant to be.

Known is what the files of `conf` set, and what the functions and classes take that they name as `_target_`. Whoever
needs values of their own, for `${...}`, writes them into a table with a name of its own, such as `my: {sigma: 3}`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from nstexp.config.signatures import parameters
from nstexp.core.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
HYDRAS_OWN = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
WEIGHTS = ("alpha", "beta")  # of all content and all style terms; further ones have the name of their term
LISTS = ("loss", "metrics")  # groups of which several options are chosen
OPTIONAL = {"logger", "experiment"}  # groups without which a run works
# Options that bring files of the user's own, which may have further keys, or that ask about something else.
OWN_FILES = ("-cd", "--config-dir", "-cp", "--config-path", "-cn", "--config-name", "--experimental-rerun")
WORD = re.compile(r"(?P<sign>~|\+{0,2})(?P<key>[A-Za-z_]\w*(?:\.\w+)*)(?:=(?P<value>.*))?", re.DOTALL)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_NAMED, MOST_LISTED = 4, 15  # keys that may be meant; options beside one that may be meant
END = object()  # of a branch of the tree: a value


@dataclass
class Known:
    """What the files of `conf` set.

    tree: nested tables, with END in the place of values.
    owners: path -> the options that set it, such as `method=adain`.
    settings: target -> the keys that some table with that `_target_` has.
    targets: path of a table -> the targets that it has with some option.
    required: paths that every configuration has to have.
    values: paths that some option sets to a value, and not to a table of further keys.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    owners: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, set[str]] = field(default_factory=dict)
    targets: dict[str, set[str]] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    values: set[str] = field(default_factory=set)

    def at(self, path: str) -> Any:
        """The branch at a path; None: there is none."""
        branch: Any = self.tree
        for key in path.split(".") if path else ():
            branch = branch.get(key) if isinstance(branch, dict) else None
        return branch

    def add(self, table: Mapping[str, Any], path: str, option: str) -> None:
        """Take in what a file sets at a path."""
        branch = self.tree
        for key in path.split(".") if path else ():
            branch = _table_at(branch, key)
        self._add(table, branch, path, option)

    def _add(self, table: Mapping[str, Any], branch: dict[str, Any], path: str, option: str) -> None:
        target = table.get("_target_")
        if target:
            self.targets.setdefault(path, set()).add(target)
            self.settings.setdefault(target, set()).update(table)
        for key, value in table.items():
            place = f"{path}.{key}" if path else str(key)
            owners = self.owners.setdefault(place, [])
            if option and option not in owners:
                owners.append(option)
            if isinstance(value, dict) and value:
                self._add(value, _table_at(branch, key), place, option)
            else:
                branch.setdefault(key, END)
                self.values.add(place)

    def paths(self) -> Iterator[str]:
        """Every key, from the root on."""
        yield from self._paths(self.tree, "")

    def _paths(self, branch: Mapping[str, Any], path: str) -> Iterator[str]:
        for key, inner in branch.items():
            place = f"{path}.{key}" if path else key
            yield place
            if isinstance(inner, dict):
                yield from self._paths(inner, place)


def _table_at(branch: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(branch.get(key), dict):
        branch[key] = {}
    return branch[key]


@cache
def known() -> Known:
    """What can be set, apart from experiments and from what Hydra has."""
    found = Known()
    texts = {file: file.read_text(encoding="utf-8") for file in sorted(CONF.rglob("*.yaml"))}
    contents = {file: yaml.load(text, LOADER) or {} for file, text in texts.items()}
    places = _places(contents)
    for file, content in contents.items():
        group = file.parent.relative_to(CONF).as_posix()
        own = {key: value for key, value in content.items() if key != "defaults"}
        if group == ".":
            found.add(own, "", "")
            found.required += _leaves(own)
            defaults = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
            groups = [key.partition("@") for entry in defaults for key in entry if "override" not in key]
            for name, _, package in groups:
                found.add({}, package or name, "")
                found.required += [package or name] if name not in OPTIONAL else []
        elif group != "experiment" and not group.startswith("hydra"):
            option = f"{group}=[...,{file.stem}]" if group in LISTS else f"{group}={file.stem}"
            for place in [""] if "@package _global_" in texts[file][:80] else places.get(group, [group]):
                found.add(own, place, option)
    found.tree.pop("experiment", None)
    return found


def _places(contents: Mapping[Path, Any]) -> dict[str, list[str]]:
    """Of the groups that are put elsewhere, by `group@place` in a defaults list: where their options stand."""
    found: dict[str, list[str]] = {}
    for content in contents.values():
        entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
        for key in (key.removeprefix("override ").strip("/") for entry in entries for key in entry):
            group, _, package = key.partition("@")
            places = found.setdefault(group, [])
            if (package or group) not in places:
                places.append(package or group)
    return found


def _leaves(table: Mapping[str, Any], path: str = "") -> list[str]:
    found = []
    for key, value in table.items():
        place = f"{path}.{key}" if path else key
        found += _leaves(value, place) if isinstance(value, dict) else [place]
    return found


# ------------------------------------------------------------------------------------------------------ what is refused


def check_words(words: Sequence[str]) -> None:
    """Raise a UserError for a key of the command line that no configuration has, before one is composed.

    Only what is plain is refused here: nothing if files of the user's own take part. `check` sees the rest.
    """
    if any(word.partition("=")[0] in OWN_FILES or "hydra.searchpath" in word or "_target_" in word for word in words):
        return
    parts = [found for found in map(WORD.fullmatch, words) if found and ("=" in found[0] or found["sign"] == "~")]
    referred = {name for word in words for name in _references(word)}
    for found in parts:
        sign, key, value = found["sign"], found["key"], found["value"] or ""
        if (CONF / key).is_dir() and not sign and "=" in found[0]:
            _check_option(key, value)
        elif key.startswith("hydra.") or key in referred:
            continue
        elif sign == "~":
            _check_deleted(key)
        elif known().at(key) is None and not _may_be_new(key, value, sign):
            raise no_such_key(key)


def _check_option(group: str, value: str) -> None:
    options = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    if value in ("", "null") or re.fullmatch(r"[\d.+-]+", value):
        raise UserError(f"{group}={value}: give an option of this group: {', '.join(options)}")
    if re.fullmatch(r"[\w,\[\]]+", value):  # an option, a list of them, or several of either for a sweep
        for option in re.findall(r"\w+", value):
            if option not in options:
                raise UserError(no_such_option(group, option, options))


def _check_deleted(key: str) -> None:
    if key in known().required:
        raise UserError(f"~{key}: {key} can be given another value, but not be left out")
    if known().at(key) is None:
        raise no_such_key(key)


def _may_be_new(key: str, value: str, sign: str) -> bool:
    """Whether a key that no file sets can be meant."""
    root, _, _ = key.partition(".")
    if not sign:
        return known().at(key.rpartition(".")[0]) is END  # a key inside a value; Hydra says what is wrong
    if known().at(root) is None:
        return (key != root or value.startswith("{")) and _is_free(root)
    parent, _, name = key.rpartition(".")
    targets = known().targets.get(parent)
    if parent == "weights":
        return True  # of a term of the user's own, which may come with the command line
    return not targets or any((taken := parameters(each)) is None or name in taken for each in targets)


def check(config: Mapping[str, Any]) -> None:
    """Raise a UserError for a key of a composed configuration that nothing reads, and for one that is missing.

    Args:
        config: as plain tables and lists, with `${...}` as it was written.
    """
    _check_tables(config, known().tree, "")
    for path in known().required:
        if _value_at(config, path) is END:
            raise UserError(f"{path} has been left out: it can be given another value, but has to be there")
    if config.get("experiment"):
        raise UserError(
            f"experiment.{next(iter(config['experiment']))}: nothing reads this key; a file of this group begins with "
            "the line `# @package _global_`, and its keys are those of the whole configuration"
        )
    several = _value_at(config, "task.methods")
    if several not in (END, None) and not _takes(str(_value_at(config, "task._target_")), "methods"):
        raise UserError(f"method=[{','.join(several)}]: only task=evaluate takes several methods; sweep them with -m")
    for key in config["weights"]:
        if key not in {*WEIGHTS, *config["loss"]}:
            raise _no_such_weight(str(key), config)
    referred = set(_references_in(config))
    for path in _unread(config, known().tree, ""):
        table = path.rpartition(".")[0]
        whole = "" if _value_at(config, f"{table}._target_") is not END else table  # an object does not take any key
        if not any(name in (path, whole) or name.startswith(f"{path}.") for name in referred):
            raise no_such_key(path, config)


def _check_tables(table: Mapping[str, Any], branch: Mapping[str, Any], path: str) -> None:
    """Raise a UserError for a value in the place of a table of settings."""
    for key, inner in branch.items():
        place, value = f"{path}.{key}" if path else key, table.get(key, END)
        if isinstance(value, Mapping) and isinstance(inner, dict):
            _check_tables(value, inner, place)
        elif isinstance(inner, dict) and value is not END and not _is_value(value, place):
            inside = [name for name in inner if name not in HYDRAS_OWN]
            advice = f": set its keys, such as {place}.{inside[0]}=..." if inside else ""
            shown = "null" if value is None else value
            raise UserError(f"{place}={shown}: this is a table of settings{advice}{how_to_choose(place)}")


def how_to_choose(place: str) -> str:
    """What to add about a value that was probably meant as an option of a group; of other keys nothing."""
    is_group = (CONF / place).is_dir()
    return f"; a file chooses an option of this group with `defaults: [override /{place}: ...]`" if is_group else ""


def _is_value(value: Any, place: str) -> bool:
    """Whether a place that has a table with some option can have a value."""
    return place in known().values or (value is None and place in OPTIONAL) or "${" in str(value)


def _value_at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key, END) if isinstance(config, Mapping) else END
    return config


def _unread(table: Mapping[str, Any], branch: Mapping[str, Any], path: str) -> Iterator[str]:
    """Paths of keys that nothing reads, of a table that is known."""
    target = table.get("_target_")
    for key, value in table.items():
        place, inner = f"{path}.{key}" if path else str(key), branch.get(key)
        if target is not None:
            readable = _takes(str(target), str(key))
        else:
            readable = _readable(value, inner, branch, str(key), path)
        if not readable:
            yield place
        elif isinstance(value, Mapping) and (isinstance(inner, dict) or "_target_" in value):
            yield from _unread(value, inner if isinstance(inner, dict) else {}, place)


def _is_free(table: str) -> bool:
    """Whether a table at the top level can be the user's own, which one that is named nearly as a known one is not."""
    return _near(table, known().tree) is None and not _elsewhere(table, table)


def _takes(target: str, key: str) -> bool:
    if key in HYDRAS_OWN or key in known().settings.get(target, ()):
        return True
    taken = parameters(target)
    return taken is None or key in taken


def _readable(value: Any, inner: Any, branch: Mapping[str, Any], key: str, path: str) -> bool:
    """Whether a key of a table without a `_target_` is known, or can be something of the user's own."""
    if inner is not None:
        return True
    if not path:
        return isinstance(value, Mapping) and _is_free(key)
    if path == "weights":
        return True  # those of the terms are checked by themselves
    if isinstance(value, Mapping):
        return "_target_" in value or not value
    return not branch


def _references(text: str) -> list[str]:
    return re.findall(r"\$\{(?:oc\.select:)?([\w.]+)", text)


def _references_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _references(value)
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _references_in(part)


# --------------------------------------------------------------------------------------------------------- what is said


def no_such_key(key: str, config: Mapping[str, Any] | None = None) -> UserError:
    """What to say of a key that a configuration has not.

    Args:
        key: from the root on.
        config: the configuration, as plain tables; None: there is none yet.
    """
    owners = known().owners.get(key)
    if owners and key not in known().required:
        return UserError(f"{key} comes with {_one_of(owners)}, which this configuration has not")
    parent, _, name = key.rpartition(".")
    table = _value_at(config, parent) if config and parent else {}
    target = table.get("_target_") if isinstance(table, Mapping) else None
    targets = [target] if target else known().targets.get(parent, ())
    branch = known().at(parent)
    siblings = {*(branch if isinstance(branch, dict) else ()), *(table if isinstance(table, Mapping) else ())}
    siblings |= {each for target in targets for each in parameters(target) or ()}
    siblings -= {*HYDRAS_OWN, name}
    for found in (
        get_close_matches(name, siblings, 1, 0.8),
        [*_elsewhere(name, key), *(each for each in sorted(siblings) if name in each.split("_"))],
        get_close_matches(name, siblings, 1, 0.6),
    ):
        if found:
            inside = f"{parent}." if parent else ""
            return UserError(_meant(key, [each if "." in each else f"{inside}{each}" for each in found]))
    return UserError(_meant(key, get_close_matches(key, list(known().paths()), 1, 0.75)))


def _elsewhere(name: str, besides: str) -> list[str]:
    """Keys of the same name in other tables."""
    return [path for path in known().paths() if path.rpartition(".")[2] == name and path != besides]


def no_such_option(group: str, option: str, options: Sequence[str]) -> str:
    """What to say of an option that a group has not."""
    near = nearest(option, options)
    listed = f": {group}=... takes {', '.join(sorted({*options}))}" if not (near and len(options) > MOST_LISTED) else ""
    return f"Could not find '{group}/{option}'{listed if options else ''}{near}"


def _no_such_weight(key: str, config: Mapping[str, Any]) -> UserError:
    """What to say of a weight that no term has."""
    terms = list(config["loss"])
    if known().owners.get(f"weights.{key}") or _near(key, [*WEIGHTS, *terms]):
        return no_such_key(f"weights.{key}", config)
    return UserError(
        f"weights.{key} multiplies nothing: the terms are {', '.join(terms)}; correct the key or choose the term too"
    )


def _meant(key: str, suggestions: Sequence[str]) -> str:
    if suggestions:
        return f"{key}: there is no such key; did you mean {' or '.join(suggestions[:MOST_NAMED])}?"
    hint = "" if "." in key else f"; values of your own go into a table of your own, such as +my.{key}=..."
    return f"{key}: there is no such key (`python -m nstexp --cfg job` shows all){hint}"


def _one_of(options: Sequence[str]) -> str:
    return " or ".join(options[:MOST_NAMED]) + (" ..." if len(options) > MOST_NAMED else "")


def _near(name: str, names: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(name, list(names), 1, 0.6)), None)


def nearest(name: str, names: Sequence[str]) -> str:
    """`; did you mean ...?` if a name is nearly one of others, else nothing."""
    near = _near(name, names)
    return f"; did you mean {near}?" if near else ""
