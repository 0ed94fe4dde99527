"""Print the table of seconds per picture, from the folder of a sweep of experiment=speed_table.

    python -m nstexp experiment=speed_table
    python scripts/speed_table.py multirun/nstexp/DATE

One line per method, one column per size; in brackets the time with a painting that the method has not seen before (for
AdaIN: including its encoding). Times are medians over the pictures; nothing else should run on the machine. The table
goes to stdout as Markdown.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import yaml

from nstexp import streams
from nstexp.commands import read_csv, table_head

Seconds = dict[tuple[str, int], tuple[float, float]]  # (method, side in pixels) -> seconds, seconds with a new painting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a sweep over image_px with task=evaluate")
    folder = parser.parse_args().sweep
    try:
        found: Seconds = {}
        for job in sorted(folder.glob("*/scores.csv")):
            found |= seconds(read_csv(job), _side_px(job.parent))
        if not found:
            raise ValueError("no finished job has a scores.csv")
        print(table(found))
    except (OSError, KeyError, ValueError) as error:
        print(f"{folder}: not a sweep of experiment=speed_table ({error})", file=sys.stderr)
        sys.exit(2)


def seconds(scores: list[Mapping[str, str]], side_px: int) -> Seconds:
    """Medians over the rows of one job."""
    found: Seconds = {}
    for method in dict.fromkeys(row["method"] for row in scores if row["new_style"]):
        of = {
            new: [float(r["stylize_seconds"]) for r in scores if r["method"] == method and r["new_style"] == new]
            for new in ("False", "True")
        }
        found[method, side_px] = median(of["False"] or of["True"]), median(of["True"])
    return found


def table(found: Seconds) -> str:
    """The times as a Markdown table, with the speed relative to the slowest method."""
    sizes = sorted({px for _, px in found})
    lines = [table_head("method", *(f"{px} px" for px in sizes))]
    slowest = {px: max(times[0] for (_, side), times in found.items() if side == px) for px in sizes}
    for method in dict.fromkeys(method for method, _ in found):
        cells = []
        for px in sizes:
            known, new = found.get((method, px), (None, None))
            ratio = "" if known in (None, slowest[px]) else f", {slowest[px] / known:.0f} times as fast"
            cells.append("" if known is None else f"{known:.3g} ({new:.3g}){ratio}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _side_px(job: Path) -> int:
    return int(yaml.safe_load((job / "config.yaml").read_text(encoding="utf-8"))["image_px"])


if __name__ == "__main__":
    streams.prepare()
    main()
