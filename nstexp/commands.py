"""What the commands have in common: errors on one line, a result's path, CSV files in, Markdown tables out."""

import csv
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import check_place
from nstexp.core.text import printable
from nstexp.ownership import Inputs


@contextmanager
def errors_on_one_line(interrupted: str = "interrupted") -> Iterator[None]:
    """What the user can mend ends the process with exit code 2 and one line on stderr; Ctrl-C ends it with 130.

    Args:
        interrupted: the line after Ctrl-C.
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
    """Fail before the work starts where a command's result cannot be written, and say what it will replace.

    Args:
        path: of the result.
        inputs: what the command reads.
        option: that names the path.

    Raises:
        UserError: no file can be written there, or it is one of the inputs.
    """
    check_place(path, option)
    read = Inputs()
    read.add(map(Path, inputs))
    read.protect([path], option)
    if path.exists():
        print(printable(f"{option} {path}: the file that is there will be replaced"), file=sys.stderr)


def print_path(path: str | Path) -> None:
    """The last line on stdout, byte for byte the name of the file; without what a terminal would obey, if it is one."""
    if sys.stdout.isatty():
        print(printable(path, one_line=True), flush=True)
        return
    try:
        str(path).encode(sys.stdout.encoding or "utf-8")
        print(path, flush=True)
    except UnicodeEncodeError:  # a character that the encoding of stdout does not have
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")
        sys.stdout.buffer.flush()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by the names in its first line.

    Raises:
        OSError: it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table_head(*columns: object) -> str:
    """The two lines above the rows of a Markdown table; a column may have no name."""
    names = "".join(f" {name} |" if name != "" else " |" for name in columns)
    return f"|{names}\n{'|---' * len(columns)}|"
