"""The tables behind Fig. 3 of Huang & Belongie 2017, from a run folder of experiment=adain_fig3.

    python -m nstexp experiment=adain_fig3 content=photos/ style=paintings/
    python scripts/fig3_table.py runs/nstexp/DATE

First, for every painting, what AdaIN's pictures score (means over the photos). Then Gatys' losses by iteration (means
over all pairs) beside AdaIN's, and on how many pairs AdaIN's style loss is no higher than Gatys' at each iteration;
without curve.csv (task=evaluate method=adain alone) the first table only.
Style loss is style_moments, content loss content_loss: see `nstexp.core.metrics.Scorer`. All pictures are clipped to
[0, 1] first. The tables go to stdout, as Markdown.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean

Row = Mapping[str, str]
STYLE, CONTENT = "style_moments", "content_loss"
MOST_COLUMNS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder of task=evaluate with the method `adain`")
    folder = parser.parse_args().run
    try:
        scores = _read(folder / "scores.csv")
        lines = list(by_painting(scores))
        if (folder / "curve.csv").exists():
            lines += ["", *by_iteration(scores, _read(folder / "curve.csv"))]
        print("\n".join(lines))
    except (OSError, KeyError, ValueError) as error:
        print(f"{folder}: not a finished run of experiment=adain_fig3 ({error})", file=sys.stderr)
        sys.exit(2)


def by_painting(scores: list[Row]) -> Iterator[str]:
    """A line for each painting and one for all."""
    heads = "style loss: photo", "AdaIN", "content loss", "color mean: photo", "AdaIN", "covariance: photo", "AdaIN"
    yield f"| painting | {' | '.join(heads)} |"
    yield "|---" * 8 + "|"
    columns = [("photo", STYLE), ("adain", STYLE), ("adain", CONTENT)]
    columns += [(method, key) for key in ("color_mean", "color_cov") for method in ("photo", "adain")]
    for painting in [*dict.fromkeys(row["style"] for row in scores), None]:
        own = [row for row in scores if painting in (None, row["style"])]
        cells = (f"{_mean(own, key, method):.3f}" for method, key in columns)
        yield f"| {painting or '**all**'} | {' | '.join(cells)} |"


def by_iteration(scores: list[Row], curve: list[Row]) -> Iterator[str]:
    """Gatys' losses against the iteration, and how AdaIN's compare."""
    steps = sorted({int(row["step"]) for row in curve})
    steps = steps[:: -(-len(steps) // MOST_COLUMNS)]
    lines = dict.fromkeys(row["method"] for row in curve)
    yield f"| | {' | '.join(map(str, steps))} | AdaIN |"
    yield "|---" * (len(steps) + 2) + "|"
    adain = {(row["content"], row["style"]): float(row[STYLE]) for row in scores if row["method"] == "adain"}
    for method in lines:
        for name, key in (("style loss", STYLE), ("content loss", CONTENT)):
            cells = [_mean([row for row in curve if int(row["step"]) == step], key, method) for step in steps]
            shown = (f"{cell:.3f}" for cell in (*cells, _mean(scores, key, "adain")))
            yield f"| {method}, {name} | {' | '.join(shown)} |"
        beaten = [
            sum(adain[row["content"], row["style"]] <= float(row[STYLE]) for row in curve
                if row["method"] == method and int(row["step"]) == step)
            for step in steps
        ]  # fmt: skip
        yield f"| {method}, pairs where AdaIN's is no higher | {' | '.join(map(str, beaten))} | of {len(adain)} |"


def _mean(rows: Iterable[Row], key: str, method: str) -> float:
    return fmean(float(row[key]) for row in rows if row["method"] == method)


def _read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
