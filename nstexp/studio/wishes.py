"""What the form of the page may ask for: plain keys and values, and nothing that names code, or files elsewhere.

The command line obeys whoever sits at it. The page obeys a browser, so that it takes less: no `_target_`, no `${...}`,
no place to write to, no path out of the folder of the studio, and of Hydra's keys only those that people need.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nstexp.config.keys import CONF
from nstexp.config.quoting import PLACES
from nstexp.config.refusals import unreadable
from nstexp.core.errors import UserError
from nstexp.core.text import printable

KEY = re.compile(r"\+?[A-Za-z_]\w*(?:[./]\w+)*(?:@\w+(?:\.\w+)*)?", re.ASCII)
OPTION = re.compile(r"[\w\[\], ]+", re.ASCII)  # an option of a group, a list of them, or several of either
WORD = re.compile(r"[\w.,:+\- ]*", re.ASCII)  # a value for a cluster, which goes into a shell script
SEPARATORS = re.compile(r"[,\[\](){}]|:\s")  # between the names in a list, a table or a function
HYDRAS = {
    "hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler", "hydra.launcher.n_jobs",
    *(f"hydra.sweeper.{name}" for name in ("n_trials", "n_jobs", "max_failure_rate")),
    *(f"hydra.launcher.{name}" for name in (
        "partition", "account", "qos", "constraint", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node",
        "array_parallelism",
    )),
}  # fmt: skip
DIRECTION = "hydra.sweeper.direction"
MOST_WORDS, MOST_LETTERS = 100, 4_000
IN_A_TERMINAL = "type the command in a terminal"


class Refused(UserError):
    """A key or a value that cannot be used.

    Args:
        key: the key in the form; None: no single one is wrong.
        sentence: what is wrong.
    """

    def __init__(self, key: str | None, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


def words_of(rows: Any, folder: Path) -> list[str]:
    """The words of the command line for the rows of the form.

    Args:
        rows: a list of {key, value}; rows without both are left out.
        folder: paths in the values may not lead out of it.

    Raises:
        Refused: a key or a value is not allowed here.
    """
    if not isinstance(rows, list) or len(rows) > MOST_WORDS:
        raise Refused(None, f"give the keys as a list of at most {MOST_WORDS} entries, each with a key and a value")
    words: list[str] = []
    taken: set[str] = set()
    for row in rows:
        key, value = (str(row.get(name) or "").strip() if isinstance(row, Mapping) else "" for name in ("key", "value"))
        if not key and not value:
            continue
        check_word(key, value)
        check_paths(key, [part.strip(" \"'") for part in SEPARATORS.split(value)], folder)
        if key.lstrip("+") in taken:
            raise Refused(key, f"{key} is there twice: put all its values into one line, with commas between them")
        taken.add(key.lstrip("+"))
        words.append(f"{key}={value}")
    return words


def check_word(key: str, value: str) -> None:
    """Check a key and its value.

    Raises:
        Refused: they are not allowed here.
    """
    for text in (key, value):
        if len(text) > MOST_LETTERS or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
            raise Refused(key, f"{printable(key, one_line=True)}: the text is too long, or has a line break in it")
    if not key or not value:
        raise Refused(key, unreadable(key or "="))
    if not KEY.fullmatch(key):
        raise Refused(key, f"{key}: a key consists of letters, digits, _ and dots, such as weights.beta")
    name = key.lstrip("+")
    if any(part.startswith("_") for part in re.split(r"[./@]", name)) or "_target_" in value:
        raise Refused(key, f"{key}: _target_ names code to run, which this page does not take; {IN_A_TERMINAL}")
    if "${" in value:
        raise Refused(key, f"{key}={value}: this page takes no ${{...}}, only plain values; {IN_A_TERMINAL}")
    if name == "trust":
        raise Refused(key, f"trust: this page runs no code of other packages; {IN_A_TERMINAL}")
    if _writes(name):
        raise Refused(key, f"{key}: the studio chooses where results go, below runs/ and multirun/; leave this key out")
    _check_kind(key, name, value)


def _writes(name: str) -> bool:
    """Whether a key says where files are written, or sets what writes them."""
    return bool(PLACES.fullmatch(name)) or name.startswith(("logger.", "trainer.logger", "trainer.callbacks"))


def _check_kind(key: str, name: str, value: str) -> None:
    """Check a value of a group, of Hydra, or of a list of methods, which may be words only."""
    if re.match(r"hydra\b", name):
        if name == DIRECTION:
            ok = re.fullmatch(r"\[?(minimize|maximize)(,\s*(minimize|maximize))*\]?", value) is not None
        elif name in HYDRAS:
            ok = WORD.fullmatch(value) is not None
        else:
            raise Refused(key, f"{key}: of Hydra's keys this page takes only {_listed()}; {IN_A_TERMINAL}")
        if not ok:
            raise Refused(key, f"{key}={value}: give a number or a word")
        return
    of_group = "/" in name or "@" in name or (CONF / name).is_dir() or name == "task.methods"
    if of_group and not OPTION.fullmatch(value):
        raise Refused(key, f"{key}={value}: give the name of an option, or several with commas between them")


def _listed() -> str:
    return "hydra/launcher, hydra.launcher.n_jobs, hydra/sweeper, hydra.sweeper.n_trials and hydra.sweeper.direction"


def check_paths(key: str, values: Any, folder: Path) -> None:
    """Check that no text in the values of a key is a path out of the folder.

    Args:
        key: for the message.
        values: a value, or nested lists and tables of values.
        folder: relative paths begin here.

    Raises:
        Refused: a text is a path out of the folder, an address, or a command.
    """
    root = os.path.realpath(folder)
    for text in _texts(values):
        for name in {text, text.rpartition("=")[2]}:
            if "://" in name or name.lower().startswith("pipe:"):
                raise Refused(key, f"{key}={name}: give a file or a folder below the folder of the studio")
            place = os.path.realpath(os.path.join(root, os.path.expanduser(name)))
            if place != root and not place.startswith(os.path.join(root, "")):
                raise Refused(key, f"{key}={name}: this path is not below the folder of the studio")


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values.replace("\0", "")
    elif isinstance(values, Mapping):
        for name, value in values.items():
            yield from _texts(name)
            yield from _texts(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _texts(value)


def key_of(sentence: str, words: Sequence[str]) -> str | None:
    """The key of the form that a message of the command line is about; None if it names none of them.

    Examples:
        >>> key_of("weights.beta=-1: a weight is a finite number", ["weights=default", "weights.beta=-1"])
        'weights.beta'
        >>> key_of("Could not find 'layers/x'", ["layers=x"])
        'layers'
    """
    keys = sorted({word.partition("=")[0] for word in words}, key=len, reverse=True)
    for pattern in (r"^['~+]*{}(?![\w.])", r"'{}/", r"(?<![\w.]){}="):
        for key in keys:
            if re.search(pattern.format(re.escape(key.lstrip("+"))), sentence):
                return key
    return None
