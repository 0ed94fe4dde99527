"""The keys of configurations: which exist, which option brings a key, and which key a misspelled one was meant to be.

Known keys are those in the files of `conf`, and the arguments of the functions and classes that these files name as
`_target_`. Users who need other values for `${...}` put them into a new table, such as `my: {sigma: 3}`.
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
WEIGHTS = ("alpha", "beta")  # weights of all content terms and all style terms; others have the name of their term
LISTS = ("loss", "metrics")  # groups of which several options can be chosen
OPTIONAL = {"logger", "experiment"}  # groups that a run does not need
# Options that add files of the user, which may have further keys, or that do not start a run.
OWN_FILES = ("-cd", "--config-dir", "-cp", "--config-path", "-cn", "--config-name", "--experimental-rerun")
WORD = re.compile(r"(?P<sign>~|\+{0,2})(?P<key>[A-Za-z_]\w*(?:\.\w+)*)(?:=(?P<value>.*))?", re.DOTALL)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_NAMED, MOST_LISTED = 4, 20  # most keys in a suggestion; most options that are listed beside a suggestion
END = object()  # marks a value in the tree of keys


@dataclass
class Known:
    """The keys that the files of `conf` set.

    tree: nested tables, with END in the place of values.
    owners: path of a key -> the options that set it, such as `method=adain`.
    settings: target -> the keys of all tables with this `_target_`.
    targets: path of a table -> the targets that it can have.
    required: paths that every configuration must have.
    values: paths that some option sets to a value instead of a table.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    owners: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, set[str]] = field(default_factory=dict)
    targets: dict[str, set[str]] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    values: set[str] = field(default_factory=set)

    def at(self, path: str) -> Any:
        """The branch of the tree at a path; END for a value, None if there is none."""
        branch: Any = self.tree
        for key in path.split(".") if path else ():
            branch = branch.get(key) if isinstance(branch, dict) else None
        return branch

    def add(self, table: Mapping[str, Any], path: str, option: str) -> None:
        """Add the keys that a file sets at a path.

        Args:
            table: the content of the file.
            path: where the file is put in the configuration.
            option: that brings the file, such as `method=adain`.
        """
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
        """Yield the full path of every key."""
        yield from self._paths(self.tree, "")

    def _paths(self, branch: Mapping[str, Any], path: str) -> Iterator[str]:
        for key, inner in branch.items():
            place = f"{path}.{key}" if path else key
            yield place
            if isinstance(inner, dict):
                yield from self._paths(inner, place)


def _table_at(branch: dict[str, Any], key: str) -> dict[str, Any]:
    table = branch.get(key)
    if not isinstance(table, dict):
        table = branch[key] = {}
    return table


@cache
def known() -> Known:
    """All keys that can be set, except those of experiments and of Hydra."""
    found = Known()
    texts = {file: file.read_text(encoding="utf-8") for file in sorted(CONF.rglob("*.yaml"))}
    contents = {file: yaml.load(text, LOADER) or {} for file, text in texts.items()}
    places = _places(contents)
    for file, content in contents.items():
        group = file.parent.relative_to(CONF).as_posix()
        settings = {key: value for key, value in content.items() if key != "defaults"}
        if group == ".":
            found.add(settings, "", "")
            found.required += _leaves(settings)
            defaults = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
            groups = [key.partition("@") for entry in defaults for key in entry if "override" not in key]
            for name, _, package in groups:
                found.add({}, package or name, "")
                found.required += [package or name] if name not in OPTIONAL else []
        elif group != "experiment" and not group.startswith("hydra"):
            option = f"{group}=[...,{file.stem}]" if group in LISTS else f"{group}={file.stem}"
            for place in [""] if "@package _global_" in texts[file][:80] else places.get(group, [group]):
                found.add(settings, place, option)
    found.tree.pop("experiment", None)
    return found


def _places(contents: Mapping[Path, Any]) -> dict[str, list[str]]:
    """Group -> paths of its options in the configuration, for groups that a defaults list mentions."""
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

    Only certain mistakes are refused here, and none if files of the user take part. `check` examines the rest.
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
        raise UserError(f"~{key}: {key} can be given another value, but cannot be left out")
    if known().at(key) is None:
        raise no_such_key(key)


def _may_be_new(key: str, value: str, sign: str) -> bool:
    """Whether a key that no file sets may be intended."""
    root, _, _ = key.partition(".")
    if not sign:
        return known().at(key.rpartition(".")[0]) is END  # a key inside a value; Hydra says what is wrong
    if known().at(root) is None:
        return (key != root or value.startswith("{")) and _is_free(root)
    parent, _, name = key.rpartition(".")
    targets = known().targets.get(parent)
    if parent == "weights":
        return True  # the weight of a loss term that the user may add
    return not targets or any((taken := parameters(target)) is None or name in taken for target in targets)


def check(config: Mapping[str, Any]) -> None:
    """Check that all keys of a composed configuration are read, and that none is missing.

    Args:
        config: as plain tables and lists, with unresolved `${...}`.

    Raises:
        UserError: nothing reads a key, or a required key is missing.
    """
    _check_tables(config, known().tree, "")
    for path in known().required:
        if _value_at(config, path) is END:
            raise UserError(f"{path} has been left out: it can be given another value, but must be there")
    if config.get("experiment"):
        raise UserError(
            f"experiment.{next(iter(config['experiment']))}: nothing reads this key; a file of this group must begin "
            "with the line `# @package _global_`, and its keys are those of the whole configuration"
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
        whole = "" if _value_at(config, f"{table}._target_") is not END else table  # a class accepts only its arguments
        if not any(name in (path, whole) or name.startswith(f"{path}.") for name in referred):
            raise no_such_key(path, config)


def _check_tables(table: Mapping[str, Any], branch: Mapping[str, Any], path: str) -> None:
    """Raise a UserError for a value that stands in the place of a table of settings."""
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
    """An addition to a message, for a value that was probably meant as an option of a group; '' for other keys."""
    is_group = (CONF / place).is_dir()
    return f"; a file chooses an option of this group with `defaults: [override /{place}: ...]`" if is_group else ""


def _is_value(value: Any, place: str) -> bool:
    """Whether a key that some option sets to a table may have this value."""
    return place in known().values or (value is None and place in OPTIONAL) or "${" in str(value)


def _value_at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key, END) if isinstance(config, Mapping) else END
    return config


def _unread(table: Mapping[str, Any], branch: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield the paths of keys in a known table that nothing reads."""
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
    """Whether a table at the top level can be a new one of the user: its name is not similar to a known name."""
    return _near(table, known().tree) is None and not _elsewhere(table, table)


def _takes(target: str, key: str) -> bool:
    if key in HYDRAS_OWN or key in known().settings.get(target, ()):
        return True
    taken = parameters(target)
    return taken is None or key in taken


def _readable(value: Any, inner: Any, branch: Mapping[str, Any], key: str, path: str) -> bool:
    """Whether a key of a table without a `_target_` is known, or can be a new one of the user."""
    if inner is not None:
        return True
    if not path:
        return isinstance(value, Mapping) and _is_free(key)
    if path == "weights":
        return True  # `check` compares them with the loss terms
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


# ------------------------------------------------------------------------------------------------------------- messages


def no_such_key(key: str, config: Mapping[str, Any] | None = None) -> UserError:
    """The error for a key that a configuration does not have.

    Args:
        key: full path of the key.
        config: the configuration, as plain tables; None if it is not composed yet.
    """
    owners = known().owners.get(key)
    if owners and key not in known().required:
        return UserError(f"{key} comes with {_one_of(owners)}, which this configuration does not have")
    parent, _, name = key.rpartition(".")
    table = _value_at(config, parent) if config and parent else {}
    target = table.get("_target_") if isinstance(table, Mapping) else None
    targets = [target] if target else known().targets.get(parent, ())
    branch = known().at(parent)
    siblings = {*(branch if isinstance(branch, dict) else ()), *(table if isinstance(table, Mapping) else ())}
    siblings |= {parameter for target in targets for parameter in parameters(target) or ()}
    siblings -= {*HYDRAS_OWN, name}
    for found in (
        get_close_matches(name, siblings, 1, 0.8),
        [*_elsewhere(name, key), *(sibling for sibling in sorted(siblings) if name in sibling.split("_"))],
        get_close_matches(name, siblings, 1, 0.6),
    ):
        if found:
            inside = f"{parent}." if parent else ""
            return UserError(_meant(key, [match if "." in match else f"{inside}{match}" for match in found]))
    return UserError(_meant(key, get_close_matches(key, list(known().paths()), 1, 0.75)))


def _elsewhere(name: str, besides: str) -> list[str]:
    """Paths of keys with the same last part in other tables."""
    return [path for path in known().paths() if path.rpartition(".")[2] == name and path != besides]


def no_such_option(group: str, option: str, options: Sequence[str]) -> str:
    """The message for an option that its group does not have."""
    near = nearest(option, options)
    listed = f": {group}=... takes {', '.join(sorted({*options}))}" if not (near and len(options) > MOST_LISTED) else ""
    return f"Could not find '{group}/{option}'{listed if options else ''}{near}"


def _no_such_weight(key: str, config: Mapping[str, Any]) -> UserError:
    """The error for a weight without a loss term."""
    terms = list(config["loss"])
    if known().owners.get(f"weights.{key}") or _near(key, [*WEIGHTS, *terms]):
        return no_such_key(f"weights.{key}", config)
    return UserError(
        f"weights.{key} multiplies nothing: the terms are {', '.join(terms)}; correct the key or choose the term too"
    )


def _meant(key: str, suggestions: Sequence[str]) -> str:
    if suggestions:
        return f"{key}: there is no such key; did you mean {' or '.join(suggestions[:MOST_NAMED])}?"
    hint = "" if "." in key else f"; put your own values into a new table, such as +my.{key}=..."
    return f"{key}: there is no such key (`python -m nstexp --cfg job` shows all){hint}"


def _one_of(options: Sequence[str]) -> str:
    return " or ".join(options[:MOST_NAMED]) + (" ..." if len(options) > MOST_NAMED else "")


def _near(name: str, names: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(name, list(names), 1, 0.6)), None)


def nearest(name: str, names: Sequence[str]) -> str:
    """`; did you mean ...?` if a name is similar to one of others, else ''."""
    near = _near(name, names)
    return f"; did you mean {near}?" if near else ""
