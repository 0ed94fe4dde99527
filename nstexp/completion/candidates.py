"""Completes a word of the command line: groups and their options, keys and their values, names of files."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import yaml

from nstexp.commands import COMMANDS
from nstexp.config import keys
from nstexp.core.errors import UserError
from nstexp.core.names import Combine, FlowName, Norm, Precision, Propagation, Reader
from nstexp.media import samples
from nstexp.media.listing import is_input
from nstexp.media.paths import CLIPS, READABLE, WRITABLE
from nstexp.tasks.request import Color

ASSIGNED = re.compile(r"(?P<sign>~|\+{0,2})(?P<key>[A-Za-z_][\w./]*(?:@[\w.]+)?)=(?P<value>.*)", re.DOTALL)
STARTED = re.compile(r"(?P<sign>~|\+{0,2})(?P<key>[\w./@]*)", re.DOTALL)  # a key that is not complete
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
NETWORKS = (".safetensors", ".ckpt", ".pth", ".pt")
PICTURES = READABLE + CLIPS
# The last part of a key -> the endings of the files that its value can name; (): folders only; None: any file.
FILES: dict[str, tuple[str, ...] | None] = {
    "content": PICTURES, "style": PICTURES, "fine_style": READABLE, "masks": READABLE, "style_masks": READABLE,
    "protect": READABLE, "add_style": READABLE, "val_content": READABLE, "val_style": READABLE, "init": READABLE,
    "output": None, "results": (), "results_seconds": (".csv",), "run_dir": (), "dir": (), "timelapse": CLIPS,
    "resume_from": NETWORKS, "model": NETWORKS, "decoder": NETWORKS, "path": NETWORKS, "means": NETWORKS,
}  # fmt: skip
WITH_BUILTINS = ("content", "style", "fine_style")  # keys whose value can be a built-in picture
WITH_BUNDLED = ("model", "decoder", "resume_from")  # keys whose value can be `bundled`
CHOICES: dict[str, Sequence[str]] = {
    "measure": ("true", "false"),
    "seamless": ("true", "false"),
    "precision": get_args(Precision),
    "threads": ("auto",),
    "color": get_args(Color),
    "style_combine": get_args(Combine),
    "transparency": ("keep", "white", "black", "gray"),
    "task.crop": ("none", "square"),
    "video.flow": get_args(FlowName),
    "video.reader": get_args(Reader),
    "method.guide": get_args(Propagation),
    "method.norm": get_args(Norm),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
}
OF_TABLES = {
    "method.optimizer": "method.optimizers",
    "method.schedule": "method.schedules",
}  # value: a key of the table
OF_HYDRA = ("hydra.launcher.n_jobs=", "hydra.run.dir=", "hydra.sweep.dir=", "hydra.sweep.subdir=")
HYDRA_GROUPS = {"hydra/launcher": ("basic",), "hydra/sweeper": ("basic",)}  # group -> options that Hydra itself has
PLUGINS = {"hydra/sweeper": {"optuna": "hydra_plugins.hydra_optuna_sweeper"}}  # options of installed packages
OPTION_VALUES = {
    ("--cfg", "-c"): ("all", "hydra", "job"),
    ("--info", "-i"): ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    ("--shell-completion", "-sc"): ("install=bash", "install=zsh", "uninstall=bash", "uninstall=zsh"),
}
FOLDER_OPTIONS = ("--config-dir", "-cd", "--config-path", "-cp", "--experimental-rerun")
OPTIONS = (
    "--cfg", "--config-dir", "--config-name", "--config-path", "--experimental-rerun", "--help", "--hydra-help",
    "--info", "--multirun", "--package", "--resolve", "--shell-completion", "--version", "-m",
)  # fmt: skip
MOST_PASSES = 3  # defaults lists that lead to further defaults lists
NOTHING = object()


@dataclass(frozen=True)
class Candidate:
    """A possible completion of the word at the cursor.

    Args:
        text: the whole word, without quotes.
        complete: whether the word is finished, so that a space can follow.
    """

    text: str
    complete: bool = False


def candidates(words: Sequence[str], current: str) -> list[Candidate]:
    """Complete the word at the cursor; the candidates are in alphabetical order.

    Args:
        words: the words between the program's name and the cursor, without quotes.
        current: the part of the word that is in front of the cursor; '': a new word begins.
    """
    found = {each.text: each for each in _candidates(list(words), current) if each.text.startswith(current)}
    # A terminal would obey control characters in names of files and styles.
    return [found[text] for text in sorted(found) if not CONTROL.search(text)]


def _candidates(words: list[str], current: str) -> Iterator[Candidate]:
    if words and words[0] in COMMANDS:
        yield from _of_subcommand(words[0], words[1:], current)
        return
    before = words[-1] if words else ""
    for options, values in OPTION_VALUES.items():
        if before in options:
            yield from (Candidate(value, complete=True) for value in values)
            return
    if before in FOLDER_OPTIONS:
        yield from _files(current, ())
    elif current.startswith("-"):
        yield from (Candidate(option, complete=True) for option in OPTIONS)
    elif assigned := ASSIGNED.fullmatch(current):
        yield from _values(Setup(words), assigned["sign"], assigned["key"], assigned["value"])
    else:
        if not words:
            yield from (Candidate(command, complete=True) for command in COMMANDS)
        if started := STARTED.fullmatch(current):
            yield from _keys(Setup(words), started["sign"], started["key"])
        if current:  # photo.jpg painting.jpg need no key
            yield from _files(current, PICTURES)


def _of_subcommand(command: str, words: Sequence[str], current: str) -> Iterator[Candidate]:
    if command in ("samples", "styles"):
        if words[-1:] == ["--sheet"]:
            yield from _files(current, WRITABLE)
        elif command == "styles" and not current.startswith("-"):
            yield from _files(current, NETWORKS)
        if current.startswith("-") or not current:
            yield from (Candidate(option, complete=True) for option in ("--sheet", "--help"))
    elif command == "report":
        yield from _files(current, ())
        if current.startswith("-") or not current:
            options = ("--output", "--repeats", "--baseline", "--index", "--clip", "--seconds", "--help")
            yield from (Candidate(option, complete=True) for option in options)
    elif command == "studio":
        yield from _files(current, ())
        if current.startswith("-") or not current:
            of_studio = ("--port", "--host", "--token", "--no-browser", "--help")
            yield from (Candidate(option, complete=True) for option in of_studio)
    else:  # a question about a group, an option or a key
        setup = Setup(words)
        for group in setup.all_groups:
            yield Candidate(group, complete=True)
            yield from (Candidate(f"{group}={option}", complete=True) for option in setup.options_of(group))
        yield from (Candidate(path, complete=True) for path in keys.known().paths() if not _is_internal(path))


# --------------------------------------------------------------------------------------------------- what is set so far


@dataclass
class Setup:
    """The choices that the words before the cursor make, as far as completion needs them.

    Nothing is composed. The defaults lists are followed in a simple way, which is exact enough to leave out the keys of
    options that are not chosen.

    Args:
        words: the words before the cursor.
        typed: group -> options that the words name.
        chosen: `group` or `group@place` -> options, by the words or by default.
    """

    words: Sequence[str]
    typed: dict[str, list[str]] = field(default_factory=dict)
    chosen: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for match in filter(None, map(ASSIGNED.fullmatch, self.words)):
            if match["key"].partition("@")[0] in self.all_groups and match["sign"] != "~":
                self.typed[match["key"]] = re.findall(r"[\w-]+", match["value"])
        self._take("", "config")
        for name in self.typed.get("experiment", []):
            self._take("experiment", name)
        self.chosen |= self.typed
        done: set[tuple[str, str]] = set()
        for _ in range(MOST_PASSES):
            for group, option in [(group, option) for group, options in self.chosen.items() for option in options]:
                if (group, option) not in done and group != "experiment":
                    done.add((group, option))
                    self._take(group.partition("@")[0], option)

    def _take(self, group: str, option: str, depth: int = 0) -> None:
        """Follow the defaults list of a file; what the command line says stays."""
        for entry in self.table(group, option).get("defaults") or []:
            if isinstance(entry, str) and entry != "_self_" and depth < MOST_PASSES:
                self._take(group, entry, depth + 1)
            elif isinstance(entry, Mapping):
                for key, value in entry.items():
                    name = re.sub(r"^(optional |override )+", "", str(key)).lstrip("/")
                    if name not in self.typed and not name.startswith("hydra"):
                        listed = value if isinstance(value, list) else [value]
                        self.chosen[name] = [str(each) for each in listed if each is not None]

    @cached_property
    def folders(self) -> list[Path]:
        """Where options are: the folder of nstexp, and those of --config-dir."""
        pairs = zip(self.words, self.words[1:], strict=False)
        own = [Path(folder).expanduser() for option, folder in pairs if option in ("--config-dir", "-cd")]
        own += [Path(word.partition("=")[2]).expanduser() for word in self.words if word.startswith("--config-dir=")]
        return [keys.CONF, *own]

    @cached_property
    def all_groups(self) -> list[str]:
        """The names of all groups, those of Hydra last."""
        found = {entry.name for folder in self.folders if folder.is_dir() for entry in folder.iterdir()}
        names = [name for name in sorted(found - {"hydra"}) if self.options_of(name)]
        return [*names, *HYDRA_GROUPS]

    def options_of(self, group: str) -> list[str]:
        """The options of a group, also of one that is put elsewhere by `group@place`."""
        group = group.partition("@")[0]
        found = {file.stem for folder in self.folders for file in (folder / group).glob("*.yaml")}
        found |= {*HYDRA_GROUPS.get(group, ())}
        found |= {name for name, package in PLUGINS.get(group, {}).items() if _is_installed(package)}
        return sorted(found)

    def is_chosen(self, path: str) -> bool:
        """Whether a key, or any key of a table, exists with the options that are chosen."""
        known = keys.known()
        branch, owners = known.at(path), known.owners.get(path, [])
        if isinstance(branch, dict):
            return any(self.is_chosen(f"{path}.{name}") for name in branch if name not in keys.HYDRAS_OWN)
        return path in known.required or not owners or any(map(self._has, owners))

    def _has(self, owner: str) -> bool:
        group, _, option = owner.partition("=")
        option = option.removeprefix("[...,").removesuffix("]")
        return any(option in options for key, options in self.chosen.items() if key.partition("@")[0] == group)

    def table(self, group: str, option: str) -> dict[str, Any]:
        """The content of an option's file; empty if there is none."""
        for folder in self.folders:
            try:
                content = yaml.load((folder / group / f"{option}.yaml").read_text(encoding="utf-8"), keys.LOADER)
            except (OSError, ValueError, yaml.YAMLError):
                continue
            if isinstance(content, dict):
                return content
        return {}

    def default(self, path: str) -> Any:
        """The value that a key has without the words; NOTHING if no chosen file sets it."""
        value = _at(self.table("", "config"), path)
        for key, options in self.chosen.items():
            group, _, package = key.partition("@")
            place = f"{package or group}."
            for option in options:
                table = self.table(group, option)
                for found in (
                    _at(table, path),
                    _at(table, path.removeprefix(place)) if path.startswith(place) else NOTHING,
                ):
                    value = value if found is NOTHING else found
        return value


def _at(table: Mapping[str, Any], path: str) -> Any:
    value: Any = table
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return NOTHING
        value = value[part]
    return value


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _is_internal(path: str) -> bool:
    return path.rpartition(".")[2] in keys.HYDRAS_OWN


# ------------------------------------------------------------------------------------------------------ keys and values


def _keys(setup: Setup, sign: str, started: str) -> Iterator[Candidate]:
    """The groups and keys that begin with the typed text, up to the next dot."""
    parent, dot, _ = started.rpartition(".")
    if sign != "~" and not dot:
        groups = setup.all_groups if sign or started.startswith("hydra") else [*setup.chosen, "experiment"]
        groups = [group for group in groups if not group.startswith("hydra") or started.startswith("h")]
        yield from (Candidate(f"{sign}{group}=") for group in groups)
    if not sign and "hydra".startswith(started[:5]) and started:
        yield from (Candidate(f"{group}=") for group in HYDRA_GROUPS)
        yield from map(Candidate, OF_HYDRA)
    branch = keys.known().at(parent)
    for name, inner in branch.items() if isinstance(branch, dict) else ():
        path = f"{parent}{dot}{name}"
        if not _is_internal(path) and setup.is_chosen(path):
            if sign == "~":
                yield Candidate(f"~{path}", complete=True)
            if isinstance(inner, dict):
                yield Candidate(f"{sign}{path}.")
            elif sign != "~":
                yield Candidate(f"{sign}{path}=")
    if parent == "weights":
        terms = keys.known().at("loss") or {}
        yield from (Candidate(f"{sign}weights.{term}=") for term in terms if setup.is_chosen(f"loss.{term}"))


def _values(setup: Setup, sign: str, key: str, value: str) -> Iterator[Candidate]:
    """Complete the value of a key; in a list, or in several values for a sweep, the last of them."""
    head = value[: max(value.rfind("["), value.rfind(",")) + 1]
    given = {each.strip() for each in re.split(r"[\[,]", head)}
    start, last = f"{sign}{key}={head}", value[len(head) :]
    in_list = head.startswith("[")
    for found in _single_values(setup, key, last):
        if found.text not in given:
            yield Candidate(f"{start}{found.text}", found.complete and not in_list)


def _single_values(setup: Setup, key: str, started: str) -> Iterator[Candidate]:
    name = key.rpartition(".")[2]
    if key.partition("@")[0] in setup.all_groups:
        yield from _complete(setup.options_of(key))
        return
    if key == "style" and {"cin"} & {*setup.chosen.get("method", [])}:
        yield from _complete(_learned_styles(setup))
    if key in CHOICES:
        yield from _complete(CHOICES[key])
    elif key in OF_TABLES:
        table = keys.known().at(OF_TABLES[key]) or {}
        yield from _complete(name for name in table if setup.is_chosen(f"{OF_TABLES[key]}.{name}"))
    elif key in ("objective", "metrics.names"):
        yield from _complete(option for option in setup.options_of("metrics") if option not in ("default", "none"))
    elif name in FILES or re.match(r"[.~/]", started):
        if name in WITH_BUNDLED:
            yield from _complete(["bundled"])
        if name in WITH_BUILTINS:
            yield from _builtins(started)
        yield from _files(started, FILES.get(name))
    else:
        value = setup.default(key)
        if isinstance(value, bool):
            yield from _complete(["true", "false"])
        elif value is not NOTHING and (text := _as_typed(value)) is not None:
            yield from _complete([text])


def _complete(texts: Iterable[str]) -> Iterator[Candidate]:
    return (Candidate(text, complete=True) for text in texts)


def _as_typed(value: Any) -> str | None:
    """A number, a word or a list of these as text for the command line; None for any other value."""
    if isinstance(value, list):
        items = [_as_typed(each) for each in value]
        return None if None in items else f"[{','.join(map(str, items))}]"
    if value is None or isinstance(value, dict) or "${" in str(value) or value == "???":
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _builtins(started: str) -> Iterator[Candidate]:
    """Names of built-in pictures; until a prefix is typed only the prefixes, because there are many names."""
    if ":" not in started:
        yield from (Candidate(f"{prefix}:") for prefix in samples.PREFIXES)
        return
    try:
        yield from _complete(samples.names())
    except (UserError, OSError):  # a package that is not installed, or is damaged
        return


def _learned_styles(setup: Setup) -> list[str]:
    """The styles of the network that the words name, or of the bundled one."""
    from nstexp.media.learned import BUNDLED, styles_of

    models = [word.partition("=")[2] for word in setup.words if word.startswith("method.model=")]
    model = models[-1] if models else BUNDLED
    if model != BUNDLED and not model.endswith(".safetensors"):
        return []  # reading it would need torch, which takes seconds
    try:
        return list(styles_of(model))
    except (UserError, OSError):
        return []


def _files(started: str, endings: tuple[str, ...] | None) -> Iterator[Candidate]:
    """Files and folders whose paths begin with the typed text.

    Args:
        started: the path as far as it was typed; `~` is understood and stays as it is.
        endings: those of the files; (): folders only; None: all files.
    """
    folder, slash, name = started.rpartition("/")
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder + slash) or "."), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return
    for entry in entries:
        if not entry.name.startswith(name) or not (is_input(entry.name) or name.startswith(".")):
            continue
        if entry.is_dir():
            yield Candidate(f"{folder}{slash}{entry.name}/")
        elif endings is None or Path(entry.name).suffix.lower() in endings:
            yield Candidate(f"{folder}{slash}{entry.name}", complete=True)
