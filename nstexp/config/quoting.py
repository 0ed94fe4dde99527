"""Quote file names on the command line before Hydra reads them.

Hydra's grammar for values (numbers, lists, sweeps, functions) would otherwise misread `photo (1).jpg`, `2024_05` or
`it's.jpg`.

Not changed are null, values in quotes for Hydra (content='"a,b.jpg"'), and ${...}. A key for several names takes
[a.jpg,b.jpg]; in a sweep, a.jpg,b.jpg and choice(a.jpg,b.jpg) and glob(*.jpg) are one run for each file. If a file has
such a name itself, this file is meant, unless the files in the list or the sweep exist as well: then an error asks the
user to say which is meant. Imports no torch.
"""

import glob
import os
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse

from nstexp.core.errors import UserError
from nstexp.media import samples
from nstexp.media.paths import is_there
from nstexp.outputs import each_text

# Keys whose values name inputs, one or several, or a word such as `bundled`.
INPUTS = re.compile(
    r"content|style|fine_style|(style_)?masks|protect|results|results_seconds|resume_from|add_style|style_names|data\.(val_)?(content|style)"
    r"|method\.(init|decoder|model)|(backbone|metrics\.encoder)(\.weights)+\.(path|means)|metrics\.(?!encoder)\w+\.weights"
)
# Keys whose value is a file or folder to write to.
PLACES = re.compile(
    r"output|timelapse|run_dir|hydra\.run\.dir|hydra\.sweep\.(dir|subdir)|data\.(cache_dir|file_lists)|trainer\.default_root_dir"
)
PATTERN = "results_name"  # a key whose value holds braces, which Hydra would read as a table
BOX = re.compile(r"\[[\d.,\s]+\]")  # four numbers among the values of `protect`, which Hydra reads as it stands
RUN_FOLDERS = ("run_dir", "hydra.run.dir", "hydra.sweep.dir")
WORD = re.compile(r"(\+{0,2})([\w.]+)( *)=(.*)", re.DOTALL)
IN_QUOTES = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*(?=,|\Z)""", re.DOTALL)
CALL = re.compile(r"\s*(choice|glob|range|interval|shuffle|sort|tag|str|int|float|bool)\s*\((.*)\)\s*", re.DOTALL)
PLAIN = re.compile(r"[\w./:@%+$?|*{}-]+", re.ASCII)  # texts that Hydra can read without quotes
INTERPOLATION = re.compile(r"\$\{\.*[A-Za-z_]")  # how an interpolation begins
UNTIL_COMMA = re.compile(r"(?:\$\{\.*[A-Za-z_](?:[^{}]|\{[^{}]*\})*\}|[^,])*")


MOST_COMMAS = 5  # most commas in the name of a file in a list


@dataclass(frozen=True)
class Reading:
    """One interpretation of a value: its text for Hydra, and the names in it; None if only Hydra can tell them."""

    text: str
    names: list[str] | None


def quoted(words: Sequence[str], sweep: bool = False) -> tuple[list[str], dict[str, list[str] | None]]:
    """Quote the words for Hydra.

    Args:
        words: as the user typed them, after the shell has split and unquoted them.
        sweep: whether a comma separates runs.

    Returns:
        The words for Hydra, and the names in the value of each key of INPUTS; the last value if a key is repeated.

    Raises:
        UserError: a value is ambiguous.
    """
    found: list[str] = []
    names: dict[str, list[str] | None] = {}
    for word in words:
        match = WORD.fullmatch(word)
        key = match[2] if match else ""
        if match and key == PATTERN and match[4].strip() and not _in_quotes(match[4]):
            word = f"{match[1]}{key}={in_quotes(match[4].strip())}"
        elif match and (INPUTS.fullmatch(key) or PLACES.fullmatch(key)):
            value = match[4].lstrip() if match[3] else match[4]
            if (key == "protect" and BOX.search(value)) or (key == "results" and value.lstrip().startswith("{")):
                found.append(word)
                continue
            reading = _place(key, value) if PLACES.fullmatch(key) else read(key, value, sweep)
            if INPUTS.fullmatch(key):
                names[key] = reading.names
            word = f"{match[1]}{key}={reading.text}"
        found.append(word)
    return found, names


def read(key: str, value: str, sweep: bool = False) -> Reading:
    """Interpret the value of a key of INPUTS.

    Args:
        key: for the error message.
        value: as the user typed it.
        sweep: whether a comma separates runs.

    Raises:
        UserError: the value is ambiguous.
    """
    if value.strip().lower() in ("", "null"):
        return Reading(value, [])
    several = _in_quotes(value) or (_lists(value) if sweep else None) or _listed(value) or _called(value)
    several = several or (_runs(value) if sweep else None)
    if several is None and not exists(value):
        runs = _runs(value)
        if runs is not None and runs.names and all(map(exists, runs.names)):
            raise UserError(
                f"{key}={value}: there is no file of this name; write {_typed(key, _as_list(runs.names))} for all "
                "of them, or add -m for one run for each"
            )
        value = value.strip() if exists(value.strip()) else value
    if several is None:
        return _name(value)
    if not exists(value):
        return several
    if not several.names or not all(map(exists, several.names)):
        return _name(value)
    if _in_quotes(value):
        other = several.names[0]
    else:
        other = _as_list(several.names) if value.startswith("[") else ",".join(map(in_quotes, several.names))
    raise UserError(
        f"{key}={value} can mean two things: write {_typed(key, in_quotes(value))} for the file of this name, "
        f"or {_typed(key, other)}"
    )


def exists(name: str) -> bool:
    """Whether a built-in picture, a file or a folder of this name exists."""
    if is_there(name):
        return True
    with suppress(UserError):
        return samples.is_builtin(name) and samples.find(name).is_file()
    return False


def in_quotes(name: str) -> str:
    """Quote a text, so that Hydra reads exactly this text and OmegaConf resolves nothing in it."""
    return QuotedString(escaped(name), Quote.double).with_quotes()


def escaped(text: str) -> str:
    r"""Escape ${ as \${, so that OmegaConf resolves the result to this text."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def resolved_yaml(cfg: DictConfig) -> str:
    """A configuration without interpolations, as YAML that can be composed again: a literal ${ is escaped."""
    return OmegaConf.to_yaml(OmegaConf.create(each_text(escaped, OmegaConf.to_container(cfg, resolve=True))))


def _place(key: str, value: str) -> Reading:
    """Interpret the value of a key of PLACES."""
    if value.strip().lower() in ("", "null"):
        return Reading(value, [])
    if already := _in_quotes(value):
        return already
    what = "the folder that the run writes to" if key in RUN_FOLDERS else "one file or folder"
    if "," in value and _listed(value):
        quoted_value = _typed(key, in_quotes(value))
        raise UserError(f"{key}: give {what}, not a list; if that is its name, write {quoted_value}")
    if key not in RUN_FOLDERS:
        return _one(value)
    if any("${" in part for part in _parts(value)[::2]):
        raise UserError(f"{key}={value}: the name of a folder for runs cannot hold ${{")  # Hydra would resolve it again
    # Hydra creates these folders, and does not expand ~.
    return _one(str(Path(value).expanduser()) if value.startswith("~") else value)


def _name(value: str) -> Reading:
    """Interpret a value as the name of one input."""
    if value.startswith("~") and not exists(value) and os.path.lexists(value):
        value = os.path.abspath(value)  # a file whose name begins with ~, not somebody's home
    if exists(value):
        return Reading(_text([value]), [value])
    other = _parsed(value) if "\\" in value else None
    if isinstance(other, str) and exists(other):  # escaped with backslashes for Hydra
        return Reading(value, [other])
    return _one(value)


def _one(value: str) -> Reading:
    """Interpret a value as one name, with or without ${...} in it."""
    parts = _parts(value)
    return Reading(_text(parts), [value] if len(parts) == 1 else None)


def _text(parts: Sequence[str]) -> str:
    """Join the parts of a name, as `_parts` returns them, into a text for Hydra."""
    text = "".join(
        part if place % 2 else escaped(part) + (_last_backslashes(part) if place < len(parts) - 1 else "")
        for place, part in enumerate(parts)
    )
    plain = PLAIN.fullmatch(text) and _parsed(text) == "".join(parts)
    return text if plain else QuotedString(text, Quote.double).with_quotes()


def _last_backslashes(text: str) -> str:
    return text[len(text.rstrip("\\")) :]


def _parts(value: str) -> list[str]:
    """Cut a value before and after each ${...} that OmegaConf can read, so that every second part is one."""
    parts, begin, start = [], 0, value.find("${")
    while start >= 0:
        end = _end_of_interpolation(value, start)
        if end is not None:
            parts += [value[begin:start], value[start:end]]
            begin = end
        start = value.find("${", end or start + 1)
    return [*parts, value[begin:]]


def _end_of_interpolation(value: str, start: int) -> int | None:
    """Index behind the ${...} that begins at `start`; None if OmegaConf cannot read it."""
    depth = 0
    if not INTERPOLATION.match(value, start):
        return None
    for brace in re.finditer(r"[{}]", value[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            end = start + brace.end()
            try:
                parse(value[start:end])
            except GrammarParseError:
                return None
            return end
    return None


def _in_quotes(value: str) -> Reading | None:
    """Interpret a value that the user has quoted for Hydra."""
    value = value.strip()
    parsed = _parsed(value) if IN_QUOTES.fullmatch(value) else None
    if not isinstance(parsed, QuotedString):
        return None
    return Reading(value, None if "${" in parsed.text else [parsed.text])


def _listed(value: str) -> Reading | None:
    """Interpret a value as a list: [a.jpg,b.jpg]."""
    value = value.strip()
    if not (value.startswith("[") and value.endswith("]")):
        return None
    return _joined(_split(value[1:-1]), lambda texts: f"[{','.join(texts)}]")


def _lists(value: str) -> Reading | None:
    """Interpret a value as several runs, the first with a list: [a.jpg],[b.jpg]."""
    return _runs(value) if value.startswith("[") and _first(value).rstrip().endswith("]") else None


def _called(value: str) -> Reading | None:
    """Interpret a value as a function of Hydra; only choice() and glob() hold names."""
    match = CALL.fullmatch(value)
    if match is None:
        return None
    if match[1] == "choice":  # Hydra's choice() loses the quotes of its arguments
        return _joined(_split(match[2]), ",".join)
    if match[1] == "glob" and "=" not in match[2]:  # Hydra's glob() is for options of config groups only
        patterns = [_name_of(piece) for piece in _split(match[2])]
        files = sorted({file for pattern in patterns for file in glob.glob(str(Path(pattern).expanduser()))})
        return _joined(files, ",".join) if files else None
    return Reading(value, None)


def _runs(value: str) -> Reading | None:
    """Interpret a value as one run for each name: a.jpg,b.jpg."""
    pieces = _split(value)
    return _joined(pieces, ",".join) if len(pieces) > 1 else None


def _joined(pieces: list[str], join: Callable[[list[str]], str]) -> Reading | None:
    """Join the interpretations of several values; None if one of them is empty."""
    if not all(pieces):
        return None
    readings = [_in_quotes(piece) or _listed(piece) or _null(piece) or _name(piece) for piece in pieces]
    known = all(reading.names is not None for reading in readings)
    names = [name for reading in readings for name in reading.names or []] if known else None
    return Reading(join([reading.text for reading in readings]), names)


def _null(value: str) -> Reading | None:
    return Reading(value, []) if value.lower() == "null" else None


def _split(text: str) -> list[str]:
    """Split at commas that are not inside quotes, brackets, ${...} or the name of an existing file."""
    pieces: list[str] = []
    rest: str | None = text
    while rest is not None:
        blank = len(rest) - len(rest.lstrip())
        end = blank + len(_first(rest[blank:]))
        pieces.append(rest[:end])
        rest = rest[end + 1 :] if end < len(rest) else None
    found: list[str] = []
    while pieces:
        lengths = range(1, 1 if exists(pieces[0].strip()) else min(len(pieces), MOST_COMMAS + 1))
        more = next((n for n in lengths if exists(",".join(pieces[: n + 1]).strip())), 0)
        found.append(",".join(pieces[: more + 1]).strip())
        pieces = pieces[more + 1 :]
    return [] if found == [""] else found


def _first(text: str) -> str:
    """The text before the first comma that separates values."""
    if match := IN_QUOTES.match(text):
        return match[0]
    if re.match(r"\[|\w+\(", text):
        ends = [text[: match.end()] for match in re.finditer(r"[\])]\s*(?=,|\Z)", text)]
        balanced = [end for end in ends if end.count("[") == end.count("]") and end.count("(") == end.count(")")]
        if balanced:
            return balanced[0]
    until_comma = UNTIL_COMMA.match(text)
    return until_comma[0] if until_comma else ""


def _name_of(piece: str) -> str:
    reading = _in_quotes(piece)
    return reading.names[0] if reading and reading.names else piece


def _as_list(names: Sequence[str]) -> str:
    return f"[{','.join(map(in_quotes, names))}]"


def _typed(key: str, text: str) -> str:
    """key=text as the user must type it at a shell."""
    return shlex.quote(f"{key}={text}")


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _parsed(text: str) -> object:
    """The value that Hydra reads from a text, quoted strings as QuotedString; None if Hydra cannot read it."""
    try:
        return _parser().parse_override(f"key={text}")._value
    except HydraException:
        return None
