"""grid.png: a labeled contact sheet of a sweep's pictures."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

from nstexp.core.runtime.files import write_atomically
from nstexp.media import sheet
from nstexp.media.learned import LearnedStyle
from nstexp.media.sheet import GAP_PX, GRAY, PALE, RED, beside, blank, padded, stacked, thumbnail
from nstexp.report.inputs import INPUTS, input_files, learned_by
from nstexp.report.job import Job, varying
from nstexp.report.texts import shortened, unique

CELL_PX, INPUT_PX, WRAP_AT = 256, 60, 6
LEAST_CELL_PX, LARGEST_SIDE_PX = 64, 20_000  # large sweeps get smaller cells
LABEL_PX, MARGIN_PX = 200, 20

Pairs = tuple[tuple[str, str], ...]  # the (key, value) pairs of a label


def draw_grid(jobs: Sequence[Job], path: Path) -> bool:
    """Write a labeled contact sheet of the pictures.

    With one varying key the pictures are a row, which is wrapped. With two or more, the last key's values are the
    columns, and the combinations of the others are the rows. Several content pictures are blocks below each other.

    Returns:
        True; or False if no job has a picture, and then no file is written.

    Raises:
        UserError: the file cannot be written.
    """
    names = unique(name for job in jobs for name in job.pictures)
    if not names:
        return False
    rows = _arrange(jobs)
    most = max(len(names) * len(rows), *(len(row.cells) for row in rows))
    px = max(LEAST_CELL_PX, min(CELL_PX, LARGEST_SIDE_PX // most))
    thumbnails = {file: thumbnail(file, px) for job in jobs for file in job.pictures.values()}
    drawing = _Sheet(rows, thumbnails, _constant_inputs(jobs), px, _common_origin(jobs), _common_styles(jobs))
    blocks = [drawing.block(name, titled=len(names) > 1) for name in names]
    image = stacked(blocks, gap=3 * GAP_PX)
    image = padded(image, image.width + 2 * MARGIN_PX, image.height + 2 * MARGIN_PX, 0.5, 0.5)
    write_atomically(path, lambda temporary: image.save(temporary))
    return True


@dataclass
class _Row:
    """One row of pictures: the label at its left, the labels above its cells (None: no labels), and the cells."""

    label: Pairs
    headings: list[Pairs] | None
    cells: list[Job | None]


def _arrange(jobs: Sequence[Job]) -> list[_Row]:
    """Arrange the jobs in rows; jobs without a value for every varying key come last."""
    keys = varying(jobs)
    known = [job for job in jobs if all(job.text(key) is not None for key in keys)]
    rest = [job for job in jobs if any(job.text(key) is None for key in keys)]
    rows = _crossed(known, keys) if len(keys) > 1 else None
    return [*(rows or _wrapped(known, keys)), *_wrapped(rest, [])]


def _crossed(jobs: Sequence[Job], keys: Sequence[str]) -> list[_Row] | None:
    """Rows with the last key's values as columns, and the combinations of the other keys as rows.

    None if two jobs would share a cell, or most cells would be empty.
    """
    cells = {(_pairs(job, keys[:-1]), _pairs(job, keys[-1:])): job for job in jobs}
    labels, columns = unique(row for row, _ in cells), unique(column for _, column in cells)
    if len(cells) < len(jobs) or len(labels) * len(columns) > 2 * len(jobs):
        return None
    rows = [_Row(label, None, [cells.get((label, column)) for column in columns]) for label in labels]
    rows[0].headings = columns
    return rows


def _wrapped(jobs: Sequence[Job], keys: Sequence[str]) -> list[_Row]:
    """Rows of up to WRAP_AT jobs, with labels above the cells."""
    labels = [_pairs(job, keys) or (("job", str(job.number)),) for job in jobs]
    starts = range(0, len(jobs), WRAP_AT)
    return [_Row((), labels[n : n + WRAP_AT], list(jobs[n : n + WRAP_AT])) for n in starts]


def _pairs(job: Job, keys: Sequence[str]) -> Pairs:
    return tuple((key, job.text(key) or "") for key in keys)


def _constant_inputs(jobs: Sequence[Job]) -> Pairs:
    """Content and style, if they are the same in all jobs."""
    texts = {key: {text for job in jobs if (text := job.text(key)) is not None} for key in INPUTS}
    return tuple((key, values.pop()) for key, values in texts.items() if len(values) == 1)


def _common_origin(jobs: Sequence[Job]) -> Path | None:
    """`Job.origin`, if it is the same in all jobs."""
    origins = {job.origin for job in jobs}
    return origins.pop() if len(origins) == 1 else None


def _common_styles(jobs: Sequence[Job]) -> dict[str, LearnedStyle]:
    """The learned styles of all jobs, without names that mean different pictures in different jobs."""
    found: dict[str, set[LearnedStyle]] = {}
    for job in jobs:
        for name, source in learned_by(job).items():
            found.setdefault(name, set()).add(source)
    return {name: sources.pop() for name, sources in found.items() if len(sources) == 1}


class _Sheet:
    """Draws the rows once per content picture, as blocks with equal column widths.

    Args:
        rows: the result of `_arrange`.
        thumbnails: file -> picture, or None if it is damaged.
        inputs: content and style, if they are the same for all jobs; otherwise they are in the labels.
        px: longest side of a thumbnail.
        origin: the folder to which relative paths of inputs refer.
        learned: name -> source of the styles that networks have learned.
    """

    def __init__(
        self,
        rows: Sequence[_Row],
        thumbnails: Mapping[Path, Image.Image | None],
        inputs: Pairs,
        px: int,
        origin: Path | None,
        learned: Mapping[str, LearnedStyle],
    ) -> None:
        self.rows, self.thumbnails, self.inputs, self.origin = rows, thumbnails, inputs, origin
        self.learned = learned
        self.width = max([px // 2, *(image.width for image in thumbnails.values() if image is not None)])
        self._input = cache(lambda file: thumbnail(file, INPUT_PX))

    def block(self, name: str, titled: bool) -> Image.Image:
        """The pictures of all jobs for one content picture; `titled` adds its name."""
        parts = [sheet.words(name, size=20)] if titled else []
        if self.inputs:
            parts.append(beside([self._label((pair,), name, LABEL_PX) for pair in self.inputs], gap=3 * GAP_PX))
        labels = [self._label(row.label, name, LABEL_PX) for row in self.rows]
        left = max(label.width for label in labels) if any(row.label for row in self.rows) else 0
        for row, label in zip(self.rows, labels, strict=True):
            if row.headings is not None:
                headings = [self._label(pairs, name, self.width, centered=True) for pairs in row.headings]
                parts.append(self._line(blank(1, 1), headings, left, y=1))
            parts.append(self._line(label, self._cells(row, name), left, y=0))
        return stacked(parts, gap=GAP_PX)

    def _line(self, label: Image.Image, images: Sequence[Image.Image], left: int, y: float) -> Image.Image:
        """A label of width `left`, and images in columns, aligned to the top (y = 0) or bottom (y = 1) of the line."""
        height = max(image.height for image in (label, *images))
        parts = [padded(image, self.width, height, 0.5, y) for image in images]
        return beside([padded(label, left, height, 0, 0.5), *parts] if left else parts)

    def _cells(self, row: _Row, name: str) -> list[Image.Image]:
        """The cells of a row for one content picture."""
        files = [job.pictures.get(name) if job else None for job in row.cells]
        pictures = [self.thumbnails[file] if file else None for file in files]
        height = max((image.height for image in pictures if image is not None), default=self.width * 3 // 4)
        return [
            self._cell(job, picture, height) if job and (file or job.status != "completed") else blank(1, 1)
            for job, file, picture in zip(row.cells, files, pictures, strict=True)
        ]

    def _cell(self, job: Job, picture: Image.Image | None, height: int) -> Image.Image:
        """A picture; or for a job that is not completed, its status and error."""
        if picture is not None and job.status == "completed":
            return picture
        status = sheet.words("damaged" if job.status == "completed" else job.status, color=RED)
        if picture is not None:
            return stacked([picture, status], x=0.5)
        error = textwrap.shorten(job.error or "", 100, placeholder="...")
        reason = sheet.words(error, self.width - 2 * GAP_PX, size=11, color=GRAY, centered=True)
        text = stacked([status, reason], x=0.5)
        box = padded(text, self.width, max(height, text.height + 2 * GAP_PX), 0.5, 0.5)
        ImageDraw.Draw(box).rectangle((0, 0, box.width - 1, box.height - 1), outline=PALE)
        return box

    def _label(self, pairs: Pairs, name: str, width: int, centered: bool = False) -> Image.Image:
        """A line per pair; below `content` and `style`, thumbnails of the input pictures, as many as fit."""
        parts = []
        for pair in pairs:
            files = input_files(*pair, name, self.origin, self.learned)
            pictures = [image for file in files if (image := self._input(file)) is not None]
            parts.append(sheet.words(_named(pair), width, centered=centered))
            parts += [beside(pictures[: (width + GAP_PX) // (INPUT_PX + GAP_PX)])] if pictures else []
        return stacked(parts, gap=GAP_PX // 2, x=0.5 if centered else 0)


def _named(pair: tuple[str, str]) -> str:
    """A label such as `weights.beta=100`; lists without brackets and commas."""
    key, value = pair
    if value.startswith("["):
        value = value.strip("[]").replace(",", " ")
    return f"{key} {value}" if key == "job" else f"{key}={shortened(value, 44)}"
