"""The command `python -m nstexp.report`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nstexp import streams
from nstexp.commands import errors_on_one_line, print_path
from nstexp.core.text import printable
from nstexp.report import write_report

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
        "--output", type=Path, help="the folder to write into; by default the sweep's, or ./comparison for several"
    )
    given = parser.parse_args(args)
    with errors_on_one_line():
        path, text = write_report(given.folders, given.output)
    print(printable(text), file=sys.stderr, flush=True)
    print_path(path)


if __name__ == "__main__":
    streams.prepare()
    main()
