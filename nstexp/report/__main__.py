"""The command `python -m nstexp.report`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nstexp import streams
from nstexp.commands import errors_on_one_line, print_path
from nstexp.core.errors import UserError
from nstexp.core.text import printable
from nstexp.report import read_sweeps, write_report
from nstexp.report.clip import write_clip
from nstexp.report.overview import needs_index, write_index

HELP = """\
Compares the runs of a sweep, or of several sweeps. Every sweep ends with this report; call it by hand for a sweep that
was killed or still runs. It writes into the sweep's folder (for several sweeps, into ./comparison):

  report.html  one page that works without a network: contact sheet, table, loss curves, comparison of pictures
  table.csv    one row per run and picture: status, the values that vary, every number, seconds, error
  grid.png     the pictures, labeled with the values that vary; the values of the last varying key are the columns

The main columns of the table are printed to stderr, and the path of report.html to stdout.

  python -m nstexp -m weights.beta=100,1000 layers=style_first1,style_first3
  python -m nstexp.report multirun/nstexp/DATE
  python -m nstexp.report multirun/nstexp/DATE multirun/nstexp/OTHER --output comparison
  python -m nstexp.report multirun/nstexp/DATE --repeats seed content --baseline weights.beta=100
  python -m nstexp.report multirun/nstexp/DATE --clip weights.mp4

Pictures that differ only in the keys of --repeats, or in photo and painting, are compared by their means, with 95 %
intervals. For folders that contain sweeps and runs, it writes index.html, a list of all of them with links:

  python -m nstexp.report multirun/ runs/

`python -m nstexp report` is the same command.
"""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `python -m nstexp.report`."""
    parser = argparse.ArgumentParser(
        prog="python -m nstexp.report", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="folder",
        help="the folder of a sweep, such as multirun/nstexp/2026-01-31_12-00-00-000000; among several folders, also "
        "the folder of a single run",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the folder to write into; by default the sweep's, ./comparison for several, or ./overview for the index "
        "of several folders",
    )
    parser.add_argument(
        "--index",
        action="store_true",
        help="write an index of all sweeps and runs below the folders; for folders with sweeps in them it does so "
        "without this word",
    )
    parser.add_argument(
        "--clip",
        type=Path,
        help="write only this clip, such as sweep.mp4: one picture after another, with the values that vary below it",
    )
    parser.add_argument(
        "--repeats",
        nargs="*",
        metavar="KEY",
        help="keys whose values only repeat a setting, so that means over them are compared; by default report.repeats "
        "of the runs, which is seed unless set",
    )
    parser.add_argument(
        "--baseline",
        nargs="+",
        metavar="KEY=VALUE",
        help="values that the others are compared with; by default the first value of each key",
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="how long the clip shows each picture (default: 1)")
    given = parser.parse_args(args)
    with errors_on_one_line():
        if given.clip is not None:
            print_path(write_clip(read_sweeps(given.folders), given.clip, given.seconds))
            return
        baseline = None if given.baseline is None else dict(map(_pair, given.baseline))
        if given.index or needs_index(given.folders):
            print_path(write_index(given.folders, given.output))
            return
        path, text = write_report(given.folders, given.output, given.repeats, baseline)
    print(printable(text), file=sys.stderr, flush=True)
    print_path(path)


def _pair(word: str) -> tuple[str, str]:
    """The key and the value of a word of --baseline."""
    key, equals, value = word.partition("=")
    if not key or not equals:
        raise UserError(f"--baseline {word}: give a key and one of its values, such as weights.beta=100")
    return key, value


if __name__ == "__main__":
    streams.prepare()
    main()
