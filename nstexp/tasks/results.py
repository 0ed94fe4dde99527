"""The rows, pictures and scores of an evaluation, and the files that it leaves."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from nstexp.core.measures import Scorer, SetScorer
from nstexp.media.sheet import miniature, thumbnail
from nstexp.outputs import MEAN_OF, WHY_THE_PAINTING_IS_NOT_0, RunFolder
from nstexp.tasks.given import Key
from nstexp.tasks.scores import differences, mean_rows, mean_scores, score_intervals, table_lines
from nstexp.tasks.sheet import cell_px, evaluation_sheet

log = logging.getLogger(__name__)

CELL_PX = 256  # longer side of a picture in the sheet, where there are few
WRITE_S = 5.0  # seconds between two saves of the tables, which grow with every picture


@dataclass(frozen=True)
class Picture:
    """An input picture: its name, and RGB (3, H, W) in [0, 1]."""

    name: str
    image: Tensor


class Results:
    """The results of one evaluation so far.

    Args:
        folder: the run folder.
        scorer: the measures; None: no measures.
        labels: the methods and the folders of finished pictures, in the order of the work.
        given: the finished pictures of other programs.
    """

    def __init__(
        self, folder: RunFolder, scorer: Scorer | None, labels: Sequence[str], given: Mapping[Key, Path]
    ) -> None:
        self.folder, self.scorer, self.labels, self.given = folder, scorer, labels, given
        self.rows: list[dict[str, Any]] = []
        self.curve: list[dict[str, Any]] = []
        self._files: dict[Key, Path] = {}
        self._names: dict[Key, str] = {}  # names of the pictures in the record
        self._taken: set[str] = set()
        self._resized: dict[str, list[str]] = {}  # label -> given pictures of another size, and of another shape
        self._stretched: dict[str, list[str]] = {}
        self._styles: dict[str, Image.Image] = {}  # thumbnails
        self._sets: dict[str, SetScorer] = {}
        if scorer is not None:
            for label in (*labels, "photo"):
                if (scores := scorer.of_set()) is not None:
                    self._sets[label] = scores
        self._written = 0.0

    def name(self, key: Key) -> str:
        """The name of a picture; a number is appended if underscores in its parts lead to a name that is taken."""
        if key not in self._names:
            label, style, content = key
            name = f"{content}_{style}_{label}"
            candidates = (name if n == 1 else f"{name}_{n}" for n in count(1))
            self._names[key] = next(candidate for candidate in candidates if candidate not in self._taken)
            self._taken.add(self._names[key])
        return self._names[key]

    def file(self, key: Key) -> Path:
        """The file of a picture, which may not exist yet."""
        return self.given.get(key, self.folder.path / f"{self.name(key)}.png")

    def add_style(self, style: Picture) -> None:
        """A painting, before its pictures."""
        self._styles[style.name] = miniature(style.image, CELL_PX)
        for scores in self._sets.values():
            scores.add_style(style.image, style.name)

    def add(
        self,
        label: str,
        picture: Tensor,
        content: Picture,
        style: Picture,
        seconds: float | None = None,
        new_style: bool | None = None,
        size: tuple[bool, bool] = (False, False),
    ) -> dict[str, Any]:
        """Score a finished picture, which is in its file, and record the scores.

        Args:
            label: its method.
            picture: (3, H, W).
            content: its photo.
            style: its painting.
            seconds: for making it; None: unknown.
            new_style: whether the method sees the painting for the first time; None: unknown.
            size: whether a given picture was resized, and whether it was stretched.

        Returns:
            What `add_known` needs.
        """
        key = (label, style.name, content.name)
        numbers = {} if seconds is None else {"stylize_seconds": round(seconds, 4)}
        if self.scorer is not None:
            numbers |= self.scorer(picture, content.image, [(style.image, 1.0)])
        if label in self._sets:
            self._sets[label].add(picture, numbers, (content.name, style.name))
        row: dict[str, Any] = {"content": content.name, "style": style.name, "method": label}
        curve = [entry for entry in self.curve if row.items() <= entry.items()]
        row |= numbers if new_style is None else {"new_style": new_style, **numbers}
        self.folder.record_metrics(self.name(key), numbers)
        self._add_row(key, row, size)
        features = self._sets[label].results[-1] if label in self._sets else {}
        return {"row": row, "curve": curve, "size": list(size), "features": features}

    def add_known(self, key: Key, known: Mapping[str, Any]) -> None:
        """A picture that an earlier run made and scored.

        Args:
            key: the picture.
            known: what `add` returned.
        """
        label, style, content = key
        self.curve += known["curve"]
        self._add_row(key, known["row"], known["size"])
        if label in self._sets:
            self._sets[label].add_known(known["features"], known["row"], (content, style))

    def _add_row(self, key: Key, row: dict[str, Any], size: Sequence[bool]) -> None:
        self._files[key] = self.file(key)
        for noted, pictures in zip(size, (self._resized, self._stretched), strict=True):
            if noted:
                pictures.setdefault(key[0], []).append(self.given[key].name)
        self.rows.append(row)
        self._write()

    def add_references(
        self, content: Picture, style: Picture, references: Mapping[str, Mapping[str, float]] | None = None
    ) -> None:
        """Add rows for the unchanged photo and painting. They show whether a measure rewards doing nothing, or copying
        the painting.

        Args:
            content: the photo.
            style: the painting.
            references: the scores by `photo` and `painting`, if they are known; None: they are computed.
        """
        if self.scorer is None:
            return
        references = references or self.scorer.references(content.image, [(style.image, 1.0)])
        if "photo" in self._sets:
            self._sets["photo"].add(content.image, references["photo"], (content.name, style.name))
        for label, numbers in references.items():
            self.rows.append({"content": content.name, "style": style.name, "method": label, **numbers})
        for label in self.labels:
            if (key := (label, style.name, content.name)) in self._files:
                self.folder.record_references(self.name(key), references, self.scorer.described())
        self._write()

    def _write(self, pause_s: float = WRITE_S) -> None:
        """Write the rows so far, unless they were written less than `pause_s` seconds ago."""
        if self.rows and time.monotonic() - self._written >= pause_s:
            self.folder.write_rows("scores.csv", self.rows)
            if self.curve:
                self.folder.write_rows("curve.csv", self.curve)
            self._written = time.monotonic()

    def finish(self, contents: Sequence[Picture]) -> None:
        """Record and log the means, and draw the sheet with all pictures."""
        self._write(pause_s=0)
        self._log_sizes()
        means, intervals = mean_scores(self.rows), score_intervals(self.rows)
        for label, scores in self._sets.items():
            means.setdefault(label, {}).update(scores.compute())
            intervals.setdefault(label, {}).update(scores.intervals())
            self.folder.summary.measured_with |= scores.described()
        for name, least in min((scores.too_few() for scores in self._sets.values()), key=len, default={}).items():
            log.warning("metrics: %s needs %d or more results and paintings, and is left out", name, least)
        for label in self.labels:
            if label in means:
                self.folder.record_metrics(f"{MEAN_OF}{label}", means[label])
                self.folder.summary.intervals[f"{MEAN_OF}{label}"] = intervals[label]
        if self.rows:
            self.folder.summary.outputs = [str(self.folder.path / "scores.csv")]
            self.folder.write_rows("means.csv", mean_rows(means, intervals, differences(self.rows)))
        for line in table_lines(means, intervals):
            log.info("%s", line)
        if "painting" in means:
            log.info("%s", WHY_THE_PAINTING_IS_NOT_0)
        if self._files:
            self._draw(contents)

    def _log_sizes(self) -> None:
        """Say which given pictures did not have the size of their photos."""
        for label, names in self._resized.items():
            log.info(
                "%s: %d pictures were resized to the sizes of their photos, the first: %s", label, len(names), names[0]
            )
        for label, names in self._stretched.items():
            log.warning(
                "%s: %d pictures do not have the shape of their photos and were stretched to it, the first: %s; for a "
                "program that cuts photos to squares, set task.crop=square",
                *(label, len(names), names[0]),
            )

    def _draw(self, contents: Sequence[Picture]) -> None:
        px = cell_px(len(contents) + 1, len(self._styles) * len(self.labels) + 1, CELL_PX)
        photos = {photo.name: miniature(photo.image, px) for photo in contents}
        made = {key: image for key, file in self._files.items() if (image := thumbnail(file, px)) is not None}
        for key in made.keys() & self.given.keys():  # as they were measured
            made[key] = made[key].resize(photos[key[2]].size, Image.Resampling.LANCZOS)
        self.folder.save_sheet(evaluation_sheet(photos, self._styles, self.labels, made), "grid.png")
