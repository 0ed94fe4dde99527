"""grid.png: a labeled contact sheet of a sweep's pictures."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

from nstexp.core.runtime.files import write_atomically
from nstexp.media import sheet
from nstexp.media.learned import Source
from nstexp.media.sheet import GAP_PX, GRAY, PALE, RED, beside, blank, padded, stacked, thumbnail
from nstexp.report.jobs import INPUTS, Job, input_files, learned_by, shortened, unique, varying

CELL_PX, INPUT_PX, WRAP_AT = 256, 60, 6
LEAST_CELL_PX, LARGEST_SIDE_PX = 64, 20_000  # a large sweep gets smaller cells
LABEL_PX, MARGIN_PX = 200, 20

Pairs = tuple[tuple[str, str], ...]  # (key, value) of every key that a label names


def draw_grid(jobs: Sequence[Job], path: Path) -> bool:
    """A labeled contact sheet of the pictures; False, and no file, when no job has one.

    Two varying keys are rows and columns; one is a row, wrapped; of more, the last one is the columns. Several
    content pictures are blocks below each other.

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
    """One line of pictures: its own label, the labels above its cells (if it has any), and the cells."""

    label: Pairs
    headings: list[Pairs] | None
    cells: list[Job | None]


def _arrange(jobs: Sequence[Job]) -> list[_Row]:
    """Which job goes where; jobs that do not say what they varied go last."""
    keys = varying(jobs)
    known = [job for job in jobs if all(job.text(key) is not None for key in keys)]
    rest = [job for job in jobs if any(job.text(key) is None for key in keys)]
    rows = _crossed(known, keys) if len(keys) > 1 else None
    return [*(rows or _wrapped(known, keys)), *_wrapped(rest, [])]


def _crossed(jobs: Sequence[Job], keys: Sequence[str]) -> list[_Row] | None:
    """The last key as columns, combinations of the others as rows; None if two jobs would share a cell or most cells
    would be empty."""
    cells = {(_pairs(job, keys[:-1]), _pairs(job, keys[-1:])): job for job in jobs}
    labels, columns = unique(row for row, _ in cells), unique(column for _, column in cells)
    if len(cells) < len(jobs) or len(labels) * len(columns) > 2 * len(jobs):
        return None
    rows = [_Row(label, None, [cells.get((label, column)) for column in columns]) for label in labels]
    rows[0].headings = columns
    return rows


def _wrapped(jobs: Sequence[Job], keys: Sequence[str]) -> list[_Row]:
    labels = [_pairs(job, keys) or (("job", str(job.number)),) for job in jobs]
    starts = range(0, len(jobs), WRAP_AT)
    return [_Row((), labels[n : n + WRAP_AT], list(jobs[n : n + WRAP_AT])) for n in starts]


def _pairs(job: Job, keys: Sequence[str]) -> Pairs:
    return tuple((key, job.text(key) or "") for key in keys)


def _constant_inputs(jobs: Sequence[Job]) -> Pairs:
    """Content and style, where all jobs have the same."""
    texts = {key: {job.text(key) for job in jobs} - {None} for key in INPUTS}
    return tuple((key, values.pop()) for key, values in texts.items() if len(values) == 1)


def _common_origin(jobs: Sequence[Job]) -> Path | None:
    origins = {job.origin for job in jobs}
    return origins.pop() if len(origins) == 1 else None


def _common_styles(jobs: Sequence[Job]) -> dict[str, Source]:
    """The learned styles of all jobs, without names that mean different pictures in different jobs."""
    found: dict[str, set[Source]] = {}
    for job in jobs:
        for name, source in learned_by(job).items():
            found.setdefault(name, set()).add(source)
    return {name: sources.pop() for name, sources in found.items() if len(sources) == 1}


class _Sheet:
    """Draws the rows, once for every content picture; all blocks have the same column widths.

    Args:
        rows: as `_arrange` makes them.
        thumbnails: {file: picture, or None if it is damaged}.
        inputs: those of INPUTS that are the same for all jobs; those that vary are in the labels.
        px: longer side of a thumbnail at most.
        origin: where relative paths of inputs start.
        learned: name -> source of the styles that networks have learned.
    """

    def __init__(
        self,
        rows: Sequence[_Row],
        thumbnails: Mapping[Path, Image.Image | None],
        inputs: Pairs,
        px: int,
        origin: Path | None,
        learned: Mapping[str, Source],
    ) -> None:
        self.rows, self.thumbnails, self.inputs, self.origin = rows, thumbnails, inputs, origin
        self.learned = learned
        self.width = max([px // 2, *(image.width for image in thumbnails.values() if image is not None)])
        self._input = cache(lambda file: thumbnail(file, INPUT_PX))

    def block(self, name: str, titled: bool) -> Image.Image:
        """All jobs' pictures of one content picture."""
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
        """Images in their columns, at the top (y = 0) or the bottom (1) of the line, behind a label of `left` px."""
        height = max(image.height for image in (label, *images))
        parts = [padded(image, self.width, height, 0.5, y) for image in images]
        return beside([padded(label, left, height, 0, 0.5), *parts] if left else parts)

    def _cells(self, row: _Row, name: str) -> list[Image.Image]:
        files = [job.pictures.get(name) if job else None for job in row.cells]
        pictures = [self.thumbnails[file] if file else None for file in files]
        height = max((image.height for image in pictures if image is not None), default=self.width * 3 // 4)
        return [
            self._cell(job, picture, height) if job and (file or job.status != "completed") else blank(1, 1)
            for job, file, picture in zip(row.cells, files, pictures, strict=True)
        ]

    def _cell(self, job: Job, picture: Image.Image | None, height: int) -> Image.Image:
        if picture is not None and job.status == "completed":
            return picture
        status = sheet.words("damaged" if job.status == "completed" else job.status, color=RED)
        if picture is not None:
            return stacked([picture, status], x=0.5)
        reason = textwrap.shorten(job.error or "", 100, placeholder="...")
        reason = sheet.words(reason, self.width - 2 * GAP_PX, size=11, color=GRAY, centered=True)
        text = stacked([status, reason], x=0.5)
        box = padded(text, self.width, max(height, text.height + 2 * GAP_PX), 0.5, 0.5)
        ImageDraw.Draw(box).rectangle((0, 0, box.width - 1, box.height - 1), outline=PALE)
        return box

    def _label(self, pairs: Pairs, name: str, width: int, centered: bool = False) -> Image.Image:
        """A line for each pair, with the input pictures themselves below `content` and `style`, as many as fit."""
        parts = []
        for pair in pairs:
            files = input_files(*pair, name, self.origin, self.learned)
            pictures = [image for file in files if (image := self._input(file)) is not None]
            parts.append(sheet.words(_named(pair), width, centered=centered))
            parts += [beside(pictures[: (width + GAP_PX) // (INPUT_PX + GAP_PX)])] if pictures else []
        return stacked(parts, gap=GAP_PX // 2, x=0.5 if centered else 0)


def _named(pair: tuple[str, str]) -> str:
    """`weights.beta=100`; of a list only the items."""
    key, value = pair
    if value.startswith("["):
        value = value.strip("[]").replace(",", " ")
    return f"{key} {value}" if key == "job" else f"{key}={shortened(value, 44)}"
