"""The pictures of an evaluation, which has several photos, paintings and methods in one run."""

import csv
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from nstexp.commands import read_csv
from nstexp.outputs import MEAN_OF
from nstexp.report.texts import unique

LABELS = ("content", "style", "method")
REFERENCES = ("photo", "painting")  # rows of scores.csv with the scores of the unchanged inputs

Triple = tuple[str, str, str]  # the labels of a picture


def is_evaluation(path: Path) -> bool:
    """Whether a run folder is that of an evaluation."""
    return (path / "summary.json").is_file() and (path / "scores.csv").is_file()


def read_labels(path: Path) -> dict[str, dict[str, str | None]]:
    """Picture -> its photo, painting and method, from the scores.csv of a run folder; empty for other runs.

    The means of a method have a method only.
    """
    try:
        rows = read_csv(path / "scores.csv")
    except (OSError, ValueError, csv.Error):
        return {}
    made = [(row.get("content") or "", row.get("style") or "", row.get("method") or "") for row in rows]
    triples = unique(triple for triple in made if triple[2] and triple[2] not in REFERENCES)
    labels: dict[str, dict[str, str | None]] = {
        name: dict(zip(LABELS, triple, strict=True)) for triple, name in _named(triples).items()
    }
    for method in unique(method for *_, method in triples):
        labels[f"{MEAN_OF}{method}"] = {"content": None, "style": None, "method": method}
    return labels


def is_mean(picture: str) -> bool:
    """Whether the numbers under a name are the means of an evaluated method, not those of a picture."""
    return picture.startswith(MEAN_OF)


def _named(triples: Sequence[Triple]) -> dict[Triple, str]:
    """The names under which an evaluation records its pictures: later ones get a number where two would be the same."""
    names: dict[Triple, str] = {}
    taken: set[str] = set()
    for triple in triples:
        name = "_".join(triple)
        candidates = (name if n == 1 else f"{name}_{n}" for n in count(1))
        names[triple] = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(names[triple])
    return names
