"""Helpers that all commands share: the table of subcommands, errors on one line, paths on stdout, CSV and Markdown.

Nothing here imports torch or Hydra, so that a subcommand answers at once.
"""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import check_place
from nstexp.core.text import printable
from nstexp.ownership import Inputs

# The commands besides an experiment: first word -> the function, as `module:name`, that gets the words behind it.
COMMANDS = {
    "samples": "nstexp.listings:samples_command",
    "styles": "nstexp.listings:styles_command",
    "report": "nstexp.report.__main__:main",
    "studio": "nstexp.studio.command:studio_command",
}


def subcommand(words: Sequence[str]) -> Callable[[], None] | None:
    """The subcommand that a command line calls, ready to run; None if it is an experiment.

    Args:
        words: the command line behind `nstexp`.
    """
    place = COMMANDS.get(words[0]) if words else None
    if place is None:
        return None
    module, _, name = place.partition(":")

    def run() -> None:
        getattr(import_module(module), name)(list(words[1:]))

    return run


@contextmanager
def errors_on_one_line(interrupted: str = "interrupted") -> Iterator[None]:
    """Print an error that the user can mend as one line on stderr, and exit with code 2; Ctrl-C exits with code 130.

    Other errors keep their traceback.

    Args:
        interrupted: the line that is printed after Ctrl-C.

    Raises:
        SystemExit: after a UserError, an OSError or Ctrl-C.
    """
    try:
        yield
    except (UserError, OSError) as error:
        print(printable(error), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)


def check_out(path: Path, inputs: Iterable[str | Path], option: str = "--out") -> None:
    """Check before the work starts that a result can be written, and say on stderr if it will replace a file.

    Args:
        path: the file that the command will write.
        inputs: files that the command reads.
        option: the command-line option that names `path`, for messages.

    Raises:
        UserError: no file can be written at `path`, or `path` is one of the inputs.
    """
    check_place(path, option)
    read = Inputs()
    read.add(map(Path, inputs))
    read.protect([path], option)
    if path.exists():
        print(printable(f"{option} {path}: the file that is there will be replaced"), file=sys.stderr)


def print_path(path: str | Path) -> None:
    """Print a file's name as the last line on stdout.

    A pipe or a file gets the exact bytes of the name. A terminal gets escapes in place of control characters, because
    it would obey those.
    """
    if sys.stdout.isatty():
        print(printable(path, one_line=True), flush=True)
        return
    try:
        str(path).encode(sys.stdout.encoding or "utf-8")
        print(path, flush=True)
    except UnicodeEncodeError:  # the encoding of stdout lacks a character of the name
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")
        sys.stdout.buffer.flush()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file as dictionaries; the keys are the column names in its first line.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table_head(*columns: object) -> str:
    """The two lines above the rows of a Markdown table; the name of a column may be empty."""
    names = "".join(f" {name} |" if name != "" else " |" for name in columns)
    return f"|{names}\n{'|---' * len(columns)}|"
