"""Print a table of evaluations as papers have it, from run folders of experiment=styleid or any task=evaluate.

    python -m nstexp experiment=styleid content=photos/ style=paintings/
    python -m nstexp experiment=styleid content=photos/ style=paintings/ method=[gatys] task.pairs=80
    python scripts/styleid_table.py runs/nstexp/FIRST runs/nstexp/SECOND

One line per method, with the number of pairs; columns are the means of measures, with 95 % intervals for other photos
and paintings, and the seconds per picture. Each run adds its methods. The last two lines are the photo and the painting
themselves, from the first run. The table goes to stdout as Markdown.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nstexp import streams
from nstexp.commands import read_csv, table_head

MEASURES = ("lpips", "cfsd", "fid_vgg", "style_gram", "style_swd", "ssim", "color_cov", "seconds_per_picture")
REFERENCES = {"photo": "the photo itself", "painting": "the painting itself"}

Row = Mapping[str, str]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with task=evaluate")
    parser.add_argument("--measures", nargs="+", default=MEASURES, help="columns, by the names of the measures")
    args = parser.parse_args(words)
    found: dict[str, dict[str, Row]] = {}
    for run in args.runs:
        try:
            add(found, read_csv(run / "means.csv"))
        except (OSError, KeyError) as error:
            print(f"{run}: not a finished run with task=evaluate ({error})", file=sys.stderr)
            sys.exit(2)
    print(table(found, args.measures))


def add(found: dict[str, dict[str, Row]], rows: Sequence[Row]) -> None:
    """Add the methods of one run: label -> measure -> its row. Labels that are there already are numbered."""
    taken = set(found)
    names: dict[str, str] = {}
    for row in rows:
        label = row["method"]
        if label not in names:
            known = [name for name in taken if name == label or name.startswith(f"{label} (run ")]
            names[label] = f"{label} (run {len(known) + 1})" if known else label
        if label not in REFERENCES or label not in taken:
            found.setdefault(names[label], {})[row["measure"]] = row


def table(found: Mapping[str, Mapping[str, Row]], measures: Sequence[str]) -> str:
    """The means as a Markdown table; measures that no run has are left out."""
    columns = [name for name in measures if any(name in rows for rows in found.values())]
    lines = [table_head("method", "pairs", *(f"`{name}`" for name in columns))]
    for label in sorted(found, key=lambda label: list(REFERENCES).index(label) + 1 if label in REFERENCES else 0):
        cells = [_cell(found[label].get(name)) for name in columns]
        pairs = next(iter(found[label].values()))["pairs"]
        lines.append(f"| {' | '.join([REFERENCES.get(label, label), pairs, *cells])} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    ends = f" ({float(row['low']):.3g} to {float(row['high']):.3g})" if row["low"] and row["low"] != row["high"] else ""
    return f"{float(row['mean']):.3g}{ends}"


if __name__ == "__main__":
    streams.prepare()
    main()
