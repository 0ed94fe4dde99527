"""The keys of the configuration with their meaning, read from the comments of the files in `conf`.

A comment at the end of a key's line, or in the lines directly above it, is the meaning of the key. The comment at the
top of a file says what the option is; its lines that begin with `#   python` are commands. A comment line that ends
with a colon is a heading: it applies to the keys below it, up to the end of their table.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import yaml

from nstexp.config.keys import CONF, LISTS, LOADER

COMMAND = re.compile(r"# {3,}(?=(?:python|pip|HYDRA_|nstexp) ?)")
SMALL = {"false", "mse", "none", "nstexp", "null", "true"}  # words that keep their small letter
# What Hydra reads in any table means the same everywhere.
OF_HYDRA = {
    "_target_": "the class or function that is built from this table; its arguments are the other keys",
    "_partial_": "true: the arguments here are kept, and the code that uses the object adds the rest",
    "hydra.sweeper": "how the values of a sweep are chosen",
    "hydra.sweeper.params": "the values of the sweep: key, then its values with commas between them",
}


@dataclass(frozen=True)
class Key:
    """A key of a file.

    path: where the key stands in a composed configuration, such as `method.max_steps`.
    value: as it is written in the file; empty for a table.
    text: the meaning from the file's comments; empty if they do not say.
    is_table: whether the key holds further keys.
    """

    path: str
    value: str
    text: str
    is_table: bool = False


@dataclass(frozen=True)
class Option:
    """A file of `conf`.

    group: its folder, such as `method` or `hydra/launcher`; empty for `config.yaml`.
    name: such as `gatys`.
    about: the comment at the top of the file, without its commands.
    commands: the commands in that comment.
    defaults: (group, option) of the entries of its defaults list.
    keys: in the order of the file.
    """

    group: str
    name: str
    about: str
    commands: tuple[str, ...]
    defaults: tuple[tuple[str, str], ...]
    keys: tuple[Key, ...]

    @property
    def is_listed(self) -> bool:
        """Whether the option is chosen in a list, beside others of its group."""
        return self.group in LISTS

    @property
    def choice(self) -> str:
        """The words that choose the option on the command line, such as `method=gatys`."""
        in_list = self.is_listed and self.name not in ("none", "default")
        return f"{self.group}={f'[...,{self.name}]' if in_list else self.name}"

    @property
    def summary(self) -> str:
        """First sentence of `about`."""
        return first_sentence(self.about)


class Reference:
    """All files of a folder such as `conf`, with the meaning of every key."""

    def __init__(self, conf: Path = CONF) -> None:
        texts = {file: file.read_text(encoding="utf-8") for file in sorted(conf.rglob("*.yaml"))}
        nodes = {file: yaml.compose(text, Loader=LOADER) for file, text in texts.items()}
        places = _places(nodes.values())
        found = [_option(file.relative_to(conf), texts[file], nodes[file], places) for file in texts]
        self.options = {(option.group, option.name): option for option in found}

    @cached_property
    def groups(self) -> list[str]:
        """Names of the groups, without that of `config.yaml`."""
        return sorted({group for group, _ in self.options if group})

    @property
    def root(self) -> Option:
        """`config.yaml`."""
        return self.options["", "config"]

    @cached_property
    def root_keys(self) -> set[str]:
        """Keys at the top level of `config.yaml`."""
        return {key.path for key in self.root.keys}

    def in_group(self, group: str) -> list[Option]:
        """The options of a group, by name."""
        return [option for option in self.options.values() if option.group == group]

    def in_order(self) -> list[Option]:
        """`config.yaml`, the options that it chooses, and then all others but the experiments."""
        chosen = [self.root, *(self.options[entry] for entry in self.root.defaults if entry in self.options)]
        others = [option for option in self.options.values() if option.group != "experiment"]
        return list(dict.fromkeys([*chosen, *others]))

    def keys(self, option: Option) -> list[Key]:
        """The keys of an option, with their meaning where any comment or rule gives one."""
        return [replace(key, text=self.meaning(option, key)) for key in option.keys]

    def meaning(self, option: Option, key: Key) -> str:
        """Meaning of a key: the file's own comment; else that of an option that the file builds on.

        An experiment gives other values to keys of other files, so that a comment in it is a note on the value.

        Returns:
            The text; empty if nothing says it.
        """
        if key.text and option.group != "experiment":
            return key.text
        inherited = self._inherited(option, key)
        return f"{inherited.rstrip('.')}. Here: {key.text}" if inherited and key.text else inherited or key.text

    def _inherited(self, option: Option, key: Key) -> str:
        name = key.path.rpartition(".")[2]
        swept = key.path.removeprefix("hydra.sweeper.params.")
        for other in self._built_on(option):
            if text := next((known.text for known in other.keys if known.path == swept and known.text), ""):
                return f"values of the sweep. {capitalized(text)}" if swept != key.path else text
        if key.is_table and key.path.replace(".", "/") in {*self.groups, "hydra", "video"}:
            return "settings of this group"
        if swept != key.path:
            return f"values of the sweep. {capitalized(self.of_path(swept))}"
        return OF_HYDRA.get(name) or OF_HYDRA.get(key.path, "")

    def of_path(self, path: str) -> str:
        """Meaning of a key in the first option that has it; of a group, that it chooses an option."""
        if path in self.groups:
            return f"options of the group {path}"
        for option in self.options.values():
            for key in option.keys:
                if key.path == path and option.group != "experiment" and key.text:
                    return key.text
        return ""

    def having(self, path: str, by_end: bool = False) -> list[tuple[Option, Key]]:
        """The options that set a key, apart from experiments, and the key with its meaning.

        Args:
            path: the whole path of the key; of a table, the keys in it come along.
            by_end: `path` may also be the end of a path, such as `max_steps`.
        """
        found = []
        for option in self.in_order():
            for key in self.keys(option):
                within = f"{key.path}.".startswith(f"{path}.") or (by_end and f".{path}." in f".{key.path}.")
                if within and not key.path.rpartition(".")[2].startswith("_"):
                    found.append((option, key))
        return found

    def _built_on(self, option: Option) -> Iterator[Option]:
        """Options in the defaults list, and what these build on; an experiment also builds on `config.yaml`."""
        waiting = list(option.defaults)
        if option.group == "experiment":
            taken = {group for group, _ in waiting}
            waiting += [("", "config"), *(entry for entry in self.root.defaults if entry[0] not in taken)]
        seen = {(option.group, option.name)}
        for entry in waiting:  # grows meanwhile
            if entry in self.options and entry not in seen:
                seen.add(entry)
                yield self.options[entry]
                waiting += self.options[entry].defaults if entry != ("", "config") else ()


@cache
def reference() -> Reference:
    """Of the files that come with nstexp."""
    return Reference()


def capitalized(text: str) -> str:
    """The text with a capital letter, unless it begins with a name or a value such as `true`."""
    word = re.match(r"[a-z]+(?=[ ,;:])", text)
    return text if word is None or word[0] in SMALL else text[:1].upper() + text[1:]


def first_sentence(text: str) -> str:
    """Up to the first period that ends a sentence, without the period."""
    found = re.match(r"(.*?(?:\)(?=\. )|[^.\s]{2}[\]\"'`]?(?=\. [A-Z`'])))", text)
    return found[1] if found else text.rstrip(".")


# ---------------------------------------------------------------------------------------------------------- one file


def _option(file: Path, text: str, node: yaml.Node | None, places: dict[str, str]) -> Option:
    lines = text.splitlines()
    head = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    about, commands, package = [], [], None
    for line in lines[:head]:
        if line.startswith("# @package "):
            package = line.split()[-1]
        elif COMMAND.match(line):
            commands.append(line.lstrip("# "))
        else:
            about.append(line.lstrip("# "))
    group = "" if file.parent == Path() else file.parent.as_posix()
    place = places.get(group, group.replace("/", ".")) if package is None else package.replace("_global_", "")
    keys = tuple(_keys(node, lines, head, place)) if isinstance(node, yaml.MappingNode) else ()
    return Option(group, file.stem, " ".join(about), tuple(commands), tuple(_defaults(node, group)), keys)


def _keys(node: yaml.MappingNode, lines: Sequence[str], head: int, place: str) -> Iterator[Key]:
    """The keys of a table and of the tables in it, in the order of the file."""
    heading = ""
    for name, value in node.value:
        if name.value == "defaults" and name.start_mark.column == 0:
            continue
        above = _above(lines, head, name.start_mark.line, name.start_mark.column)
        if above.endswith(":"):
            heading, above = above[:-1].lower(), ""
        text = " ".join(filter(None, [above, _behind(lines, name, value)]))
        path = f"{place}.{name.value}" if place else name.value
        is_table = isinstance(value, yaml.MappingNode) and bool(value.value)
        if heading and text:
            text = f"{heading}: {text[:1].lower()}{text[1:]}"
        yield Key(path, "" if is_table else _shown(lines, value), text, is_table)
        if is_table:
            yield from _keys(value, lines, head, path)


def _above(lines: Sequence[str], head: int, line: int, column: int) -> str:
    """The comment in the lines directly above a key, at the key's indentation."""
    first = line
    while first > head and lines[first - 1].startswith(" " * column + "#"):
        first -= 1
    return " ".join(each.lstrip("# ") for each in lines[first:line])


def _behind(lines: Sequence[str], name: yaml.Node, value: yaml.Node) -> str:
    """The comment at the end of a key's line, or of the line on which its value ends."""
    flow = isinstance(value, yaml.ScalarNode) and value.style not in ("|", ">")
    flow = flow or (isinstance(value, yaml.CollectionNode) and value.flow_style)
    mark = value.end_mark if flow else name.end_mark
    found = re.match(r"[^#]*?\s#\s*(.*)", lines[mark.line][mark.column :])
    return found[1].strip() if found else ""


def _shown(lines: Sequence[str], value: yaml.Node) -> str:
    """A value as it stands in the file, on one line."""
    if isinstance(value, yaml.SequenceNode) and not value.flow_style:
        return f"[{', '.join(str(item.value) for item in value.value)}]"
    if isinstance(value, yaml.ScalarNode) and value.style in ("|", ">"):
        return " ".join(value.value.split())
    start, end = value.start_mark, value.end_mark
    text = "\n".join(lines[start.line : end.line + 1])
    cut = len(lines[end.line]) - end.column
    return " ".join(text[start.column : len(text) - cut].split())


# ----------------------------------------------------------------------------------------------------- defaults lists


def _entries(node: yaml.Node | None) -> Iterator[tuple[str, list[str]]]:
    """(group, options) of a defaults list; an entry without a group has an empty one."""
    tables = node.value if isinstance(node, yaml.MappingNode) else ()
    for entry in next((value.value for name, value in tables if name.value == "defaults"), ()):
        if isinstance(entry, yaml.MappingNode):
            for group, options in entry.value:
                several = options.value if isinstance(options, yaml.SequenceNode) else [options]
                yield group.value.removeprefix("override ").strip("/"), [each.value for each in several]
        else:
            yield "", [entry.value]


def _defaults(node: yaml.Node | None, group: str) -> Iterator[tuple[str, str]]:
    for name, options in _entries(node):
        yield from ((name.partition("@")[0] or group, option) for option in options if option != "_self_")


def _places(nodes: Iterable[yaml.Node | None]) -> dict[str, str]:
    """Group -> table of the configuration, for a group that a defaults list puts into another table only."""
    found: dict[str, set[str]] = {}
    for node in nodes:
        for name, _ in _entries(node):
            group, _, package = name.partition("@")
            if group:
                found.setdefault(group, set()).add(package or group.replace("/", "."))
    return {group: next(iter(packages)) for group, packages in found.items() if len(packages) == 1}
