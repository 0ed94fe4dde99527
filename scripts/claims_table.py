"""Say of the claims of the deck which hold, from the folders of sweeps over pairs of photo and painting.

    python -m nstexp experiment=pairs_alpha_beta      # and pairs_layers, pairs_total_variation, pairs_two_styles
    python scripts/claims_table.py multirun/nstexp/DATE multirun/nstexp/OTHER ...

A table goes to stdout as Markdown, with one line per claim. A claim has one or several parts, such as one for each
step from a weight to the next. Of each part the line gives the paired difference with its 95 % interval: the mean over
the seeds of each pair of photo and painting is one number, and the interval is that of the mean over the pairs. A part
holds if its whole interval is on the side of the claim. A claim holds if all of its parts do, and holds partly if some
do. If none does, it does not hold if a whole interval is on the other side; else it is not decided. Failed and pruned
runs are left out.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Literal

from nstexp import report
from nstexp.commands import errors_on_one_line, table_head
from nstexp.core.errors import UserError
from nstexp.core.intervals import bootstrap_mean

LEAST_PAIRS = 2  # for an interval
Numbers = dict[str, float]
Pair = tuple[str, str]  # photo, painting
Cells = dict[str, dict[Pair, list[Numbers]]]  # value of the key -> pair -> numbers of its seeds


@dataclass(frozen=True)
class Claim:
    """A claim about how a number changes from one value of a key to another.

    Args:
        text: the claim.
        number: name of the number.
        steps: (value before, value after) of the key, for each part.
        low, high: the part holds if its interval is above `low` and below `high`.
        change: `difference`; `ratio`, as a share of the number before, averaged over the pairs by their logarithms; or
            `value` for a claim about one setting, whose step has no value before.
    """

    text: str
    number: str
    steps: Sequence[tuple[str, str]]
    low: float = -math.inf
    high: float = math.inf
    change: Literal["difference", "ratio", "value"] = "difference"


def rising(values: Sequence[str]) -> list[tuple[str, str]]:
    """The steps from each value to the next."""
    return list(pairwise(values))


ALPHAS = rising(["1", "10", "100", "1000"])
LAYERS = rising([f"style_first{n}" for n in range(1, 6)])
WEIGHTS = ["0", "0.01", "0.1", "1"]
SUM_OR_LOSSES, MEAN_OR_LOSSES = ("weighted_loss", "sum_gram"), ("weighted_loss", "mean_gram")
CLAIMS: dict[str, list[Claim]] = {  # the key that a sweep varies -> the claims about it
    "weights.alpha": [
        Claim("A larger alpha keeps more of the photo", "content_loss", ALPHAS, high=0, change="ratio"),
        Claim("A larger alpha costs style", "style_gram", ALPHAS, low=0, change="ratio"),
    ],
    "layers": [
        Claim("More style layers bring more of the style", "style_gram", LAYERS, high=0, change="ratio"),
        Claim("More style layers make the picture smoother", "tv", LAYERS, high=0, change="ratio"),
    ],
    "weights.tv": [
        Claim("Total variation smooths the picture", "tv", rising(WEIGHTS), high=0, change="ratio"),
        Claim(
            "It costs less than 10 % in style",
            "style_gram",
            [(WEIGHTS[0], weight) for weight in WEIGHTS[1:]],
            high=0.1,
            change="ratio",
        ),
    ],
    "style_combine": [
        Claim(
            "Adding Gram matrices gives a lighter picture than adding losses", "luminance_mean", [SUM_OR_LOSSES], low=0
        ),
        Claim("It gives a stronger one: more contrast", "luminance_std", [SUM_OR_LOSSES], low=0),
        Claim("It gives a stronger one: more energy", "gram_trace_ratio", [SUM_OR_LOSSES], low=0),
        Claim(
            "Adding losses gives a weak picture: less than 90 % of the paintings' energy",
            "gram_trace_ratio",
            [("", "weighted_loss")],
            high=0.9,
            change="value",
        ),
        Claim(
            "Adding losses is the same as averaging Gram matrices: energy within 5 %",
            "gram_trace_ratio",
            [MEAN_OR_LOSSES],
            low=-0.05,
            high=0.05,
            change="ratio",
        ),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+", help="folders of sweeps of experiment=pairs_...")
    for folder in parser.parse_args().sweeps:
        print(table(folder), end="\n\n")


def table(folder: Path) -> str:
    """The lines about one sweep, below a line that says what it consists of.

    Raises:
        UserError: the sweep varies none of the keys of `CLAIMS`, or has too few pairs.
    """
    jobs = report.read_sweep(folder)
    done = [job for job in jobs if job.status == "completed"]
    key = next((key for key in report.varying(jobs) if key in CLAIMS), None)
    if key is None:
        raise UserError(f"{folder}: none of {', '.join(CLAIMS)} varies in this sweep")
    cells: Cells = {}
    for job in done:
        pair = str(job.text("content")), str(job.text("style"))
        for numbers in job.metrics.values():
            cells.setdefault(str(job.text(key)), {}).setdefault(pair, []).append(numbers)
    pairs = {pair for found in cells.values() for pair in found}
    if len(pairs) < LEAST_PAIRS:
        raise UserError(f"{folder}: {len(pairs)} completed pair, but an interval needs {LEAST_PAIRS} or more")
    seeds = sorted({len(found) for of_pairs in cells.values() for found in of_pairs.values()})
    about = [f"{len(done)} runs", f"{len(pairs)} pairs", f"seeds of each {'/'.join(map(str, seeds))}"]
    about += [f"{name} {'/'.join(sorted({str(job.text(k)) for job in done}))}" for name, k in SHOWN.items()]
    about += [f"{len(jobs) - len(done)} runs not completed"] if len(jobs) > len(done) else []
    lines = [f"`{key}`: {', '.join(about)}.", "", table_head("claim", "", "change, 95 % interval")]
    return "\n".join([*lines, *(line(claim, cells) for claim in CLAIMS[key])])


SHOWN = {"longer side in px": "image_px", "steps": "method.max_steps", "start": "method.init"}


def line(claim: Claim, cells: Cells) -> str:
    """A line of the table."""
    parts = [part for step in claim.steps if (part := _part(claim, *step, cells)) is not None]
    if not parts:
        return f"| {claim.text} (`{claim.number}`) | no numbers | |"
    sides = [side for _, side in parts]
    verdict = "does not hold" if -1 in sides else "not decided"
    if 1 in sides:
        verdict = "holds" if sides == [1] * len(claim.steps) else "holds partly"
    return f"| {claim.text} (`{claim.number}`) | {verdict} | {'<br>'.join(text for text, _ in parts)} |"


def _part(claim: Claim, before: str, after: str, cells: Cells) -> tuple[str, int] | None:
    """The text of one part, and 1 if it holds, -1 if the opposite holds, else 0; None without two pairs."""
    firsts, lasts = (_means(cells.get(value, {}), claim.number) for value in (before or after, after))
    pairs = [pair for pair in lasts if pair in firsts]
    if len(pairs) < LEAST_PAIRS:
        return None
    if claim.change == "ratio":
        changes = [math.log(lasts[pair] / firsts[pair]) for pair in pairs]
    else:
        changes = [lasts[pair] - (firsts[pair] if claim.change == "difference" else 0) for pair in pairs]
    ends = [mean(changes), *bootstrap_mean(changes)]
    if claim.change == "ratio":
        ends = [math.expm1(end) for end in ends]
    _, low, high = ends
    opposite = high < claim.low or low > claim.high
    middle, *interval = (f"{100 * end:+.3g} %" if claim.change == "ratio" else f"{end:+.3g}" for end in ends)
    named = f"{before} to {after}" if before else after
    return f"{named}: {middle} ({' to '.join(interval)})", -opposite or int(claim.low < low and high < claim.high)


def _means(found: dict[Pair, list[Numbers]], number: str) -> dict[Pair, float]:
    """Pair -> mean over its seeds, for pairs with the number in every run."""
    return {
        pair: mean(numbers[number] for numbers in seeds)
        for pair, seeds in found.items()
        if all(number in numbers for numbers in seeds)
    }


if __name__ == "__main__":
    with errors_on_one_line():
        main()
