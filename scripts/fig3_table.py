"""Print the tables behind Fig. 3 of Huang & Belongie 2017, from a run folder of experiment=adain_fig3 or cin_fig3.

    python -m nstexp experiment=adain_fig3 content=photos/ style=paintings/
    python scripts/fig3_table.py runs/nstexp/DATE
    python scripts/fig3_table.py runs/nstexp/DATE --method cin --style-loss style_gram

The first table lists, for every painting, the scores of the method's pictures (means over the photos), and the first
iteration at which Gatys' mean style loss is not higher, for the first kind of curve in curve.csv. The second table
lists Gatys' losses by iteration (means over all pairs) beside those of the method, and for how many pairs the style
loss of the method is not higher. Without curve.csv (task=evaluate with one method) only the first table is printed.
The style loss is style_moments by default, the content loss content_loss: see `Scorer`. All pictures are clipped to
[0, 1] first. The tables go to stdout as Markdown.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean

from nstexp import streams
from nstexp.commands import read_csv, table_head

Row = Mapping[str, str]
CONTENT = "content_loss"
MOST_COLUMNS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of task=evaluate")
    parser.add_argument("--method", default="adain", help="method to compare with Gatys (default: adain)")
    parser.add_argument("--style-loss", default="style_moments", help="column of scores.csv (default: style_moments)")
    args = parser.parse_args()
    try:
        scores = read_csv(args.run / "scores.csv")
        curve = read_csv(args.run / "curve.csv") if (args.run / "curve.csv").exists() else []
        if not any(row["method"] == args.method for row in scores):
            raise ValueError(f"it has no pictures of the method {args.method}")
        lines = list(by_painting(scores, curve, args.method, args.style_loss))
        if curve:
            lines += ["", *by_iteration(scores, curve, args.method, args.style_loss)]
        print("\n".join(lines))
    except (OSError, KeyError, ValueError) as error:
        print(f"{args.run}: not a finished run of experiment=adain_fig3 or cin_fig3 ({error})", file=sys.stderr)
        sys.exit(2)


def by_painting(scores: list[Row], curve: list[Row], method: str, style: str) -> Iterator[str]:
    """Yield a line for each painting, and one for all."""
    heads = ["style loss: photo", method, "content loss", "color mean: photo", method, "covariance: photo", method]
    heads += ["Gatys reaches the style loss at"] if curve else []
    yield table_head("painting", *heads)
    columns = [("photo", style), (method, style), (method, CONTENT)]
    columns += [(kind, key) for key in ("color_mean", "color_cov") for kind in ("photo", method)]
    for painting in [*dict.fromkeys(row["style"] for row in scores), None]:
        rows = [row for row in scores if painting in (None, row["style"])]
        cells = [f"{_mean(rows, key, kind):.3f}" for kind, key in columns]
        if curve:
            cells.append(crossing(rows, [row for row in curve if painting in (None, row["style"])], method, style))
        yield f"| {painting or '**all**'} | {' | '.join(cells)} |"


def crossing(scores: list[Row], curve: list[Row], method: str, style: str) -> str:
    """The first iteration in the curve at which Gatys' mean style loss is not higher than that of the method."""
    first = curve[0]["method"] if curve else ""
    pairs = {(row["content"], row["style"]) for row in curve}
    goal = _mean([row for row in scores if (row["content"], row["style"]) in pairs], style, method)
    steps = sorted({int(row["step"]) for row in curve if row["method"] == first})
    for step in steps:
        if _mean([row for row in curve if int(row["step"]) == step], style, first) <= goal:
            return str(step)
    return f"after {steps[-1]}" if steps else ""


def by_iteration(scores: list[Row], curve: list[Row], method: str, style: str) -> Iterator[str]:
    """Yield Gatys' losses by iteration, and how those of the method compare."""
    steps = sorted({int(row["step"]) for row in curve})
    steps = steps[:: -(-len(steps) // MOST_COLUMNS)]
    yield table_head("", *steps, method)
    losses = {(row["content"], row["style"]): float(row[style]) for row in scores if row["method"] == method}
    for kind in dict.fromkeys(row["method"] for row in curve):
        for name, key in (("style loss", style), ("content loss", CONTENT)):
            cells = [_mean([row for row in curve if int(row["step"]) == step], key, kind) for step in steps]
            shown = (f"{cell:.3f}" for cell in (*cells, _mean(scores, key, method)))
            yield f"| {kind}, {name} | {' | '.join(shown)} |"
        beaten = [
            sum(losses[row["content"], row["style"]] <= float(row[style]) for row in curve
                if row["method"] == kind and int(row["step"]) == step)
            for step in steps
        ]  # fmt: skip
        yield f"| {kind}, pairs where {method}'s is no higher | {' | '.join(map(str, beaten))} | of {len(losses)} |"


def _mean(rows: Iterable[Row], key: str, method: str) -> float:
    return fmean(float(row[key]) for row in rows if row["method"] == method)


if __name__ == "__main__":
    streams.prepare()
    main()
