"""What a sweep found: `python -m nstexp.report multirun/nstexp/DATE` reads its run folders and compares them.

`read_sweep` reads a folder into jobs, `table` makes them rows, `write_table` and `draw_grid` write table.csv and
grid.png. Runs that failed or were killed are rows as well, and damaged files never stop the others.
"""

import argparse
import csv
import json
import re
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image, ImageDraw, ImageFont

from nstexp.core.errors import UserError
from nstexp.core.images import find_images, load_image, resize, size_for_longer_side, write_atomically
from nstexp.outputs import Summary, read_summary

NO_RECORD = "no record"  # the status of a run without a readable summary.json
FIRST_COLUMNS, LAST_COLUMNS = ("job", "picture", "status"), ("seconds", "error")
MOST_COLUMNS, MOST_LINES, MOST_CHARACTERS, MOST_ERRORS = 12, 60, 32, 5  # of the comparison on the terminal
ABOUT_PICTURES = ("luminance_mean", "luminance_std", "clipped_share")
INPUTS = ("content", "style")

CELL_PX, INPUT_PX, MOST_INPUTS, WRAP_AT = 256, 60, 3, 6
LEAST_CELL_PX, LARGEST_SIDE_PX = 64, 20_000  # a large sweep gets smaller cells
LABEL_PX, GAP_PX, MARGIN_PX = 200, 8, 20
Color = tuple[int, int, int]
WHITE, DARK, GRAY, RED, PALE = (255, 255, 255), (34, 34, 34), (110, 110, 110), (170, 30, 30), (205, 205, 205)

HELP = """\
Compares the runs of a sweep. A sweep does this by itself at its end; again by hand after one that was killed, or
while it runs. It writes into the sweep's folder:

  table.csv   one row per run and picture: status, the values that vary, every number, seconds, error
  grid.png    the pictures, labeled with the values that vary; the last one that varies is the columns

The main columns go to stderr, the path of grid.png (without pictures, of table.csv) to stdout.

  python -m nstexp -m weights.beta=100,1000 layers=style_first1,style_first3
  python -m nstexp.report multirun/nstexp/DATE
"""


@dataclass
class Job:
    """One run of a sweep.

    number: the job's number, or its place where the folders are not numbered.
    status: summary.json's, or NO_RECORD.
    error: what went wrong, on one line.
    overrides: {key: value} of what the user or the sweeper set; for a config group the option's name.
    config: the composed configuration; empty when it cannot be read.
    metrics: {picture: {name: number}}.
    pictures: {picture: file}, of those that are there.
    """

    number: int
    path: Path
    summary: Summary | None
    status: str
    error: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)

    def text(self, key: str) -> str | None:
        """The value of a key as one would type it; None where nothing says what it was."""
        if key in self.overrides:
            return _as_text(self.overrides[key])
        value = _at(self.config, key)
        return None if value is None or isinstance(value[0], dict) else _as_text(value[0])


def job_folders(folder: Path) -> list[Path]:
    """The run folders in a sweep's folder, by number."""
    found = [
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and (entry.name.isdecimal() or (entry / ".hydra").is_dir() or _has_record(entry))
    ]
    # Odd parts are the digits, so names compare as numbers where they are numbers: 2 before 10.
    parts = {entry: re.split(r"(\d+)", entry.name) for entry in found}
    return sorted(found, key=lambda entry: [int(p) if n % 2 else p for n, p in enumerate(parts[entry])])


def read_sweep(folder: str | Path) -> list[Job]:
    """The jobs of a sweep, by number.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    jobs = [_read_job(path, place) for place, path in enumerate(job_folders(folder))]
    if not jobs:
        raise UserError(f"{folder}: no runs in this folder{_nearby(folder)}")
    return jobs


def varying(jobs: Sequence[Job]) -> list[str]:
    """The overridden keys whose values differ between jobs, in the order of the overrides: the last varies fastest."""
    keys = _unique(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.text(key) for job in jobs} - {None}) > 1]


def table(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """One row per job and picture, all with the same columns; a job without numbers is one row.

    The columns are FIRST_COLUMNS, the varying keys, every number that any job has, LAST_COLUMNS. A number that is
    called like another column (the loss term `content` in a sweep over `content`) gets the prefix `metrics.`.
    """
    keys = varying(jobs)
    taken = {*FIRST_COLUMNS, *keys, *LAST_COLUMNS}
    numbers = {n: f"metrics.{n}" if n in taken else n for n in _number_names(jobs)}
    rows = []
    for job in jobs:
        for picture in job.metrics or {"": {}}:
            row: dict[str, Any] = {"job": job.number, "picture": picture, "status": job.status}
            row |= {key: job.text(key) for key in keys}
            row |= {column: job.metrics.get(picture, {}).get(name) for name, column in numbers.items()}
            row |= {"seconds": job.summary and job.summary.seconds, "error": job.error}
            rows.append(row)
    return rows


def write_table(jobs: Sequence[Job], path: Path) -> None:
    """`table` as a CSV file.

    Raises:
        UserError: the file cannot be written.
    """
    rows = table(jobs)

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def comparison(jobs: Sequence[Job]) -> str:
    """The main columns of the table, aligned for a terminal, and what went wrong."""
    rows = table(jobs)
    columns = _main_columns(jobs, rows)
    lines = [columns, *([_for_terminal(row[column]) for column in columns] for row in rows[:MOST_LINES])]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    text = ["  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)) for line in lines]
    if len(rows) > MOST_LINES:
        text.append(f"... and {len(rows) - MOST_LINES} more rows in table.csv")
    return "\n".join([*text, *_errors(jobs)])


def draw_grid(jobs: Sequence[Job], path: Path) -> bool:
    """A labeled contact sheet of the pictures; False, and no file, when no job has one.

    Two varying keys are rows and columns; one is a row, wrapped; of more, the last one is the columns. Several
    content pictures are blocks below each other.

    Raises:
        UserError: the file cannot be written.
    """
    names = _unique(name for job in jobs for name in job.pictures)
    if not names:
        return False
    rows = _arrange(jobs)
    most = max(len(names) * len(rows), *(len(row.cells) for row in rows))
    px = max(LEAST_CELL_PX, min(CELL_PX, LARGEST_SIDE_PX // most))
    thumbnails = {file: _thumbnail(file, px) for job in jobs for file in job.pictures.values()}
    sheet = _Sheet(rows, thumbnails, _constant_inputs(jobs), px)
    blocks = [sheet.block(name, titled=len(names) > 1) for name in names]
    image = _stacked(blocks, gap=3 * GAP_PX)
    image = _padded(image, image.width + 2 * MARGIN_PX, image.height + 2 * MARGIN_PX, 0.5, 0.5)
    write_atomically(path, lambda temporary: image.save(temporary))
    return True


def write_report(folder: str | Path) -> tuple[Path, str]:
    """Write table.csv and grid.png into a sweep's folder.

    Returns the path of grid.png, or of table.csv when there are no pictures, and the `comparison`.

    Raises:
        UserError: no such folder, no runs in it, or it cannot be written.
    """
    folder = Path(folder).expanduser().absolute()
    jobs = read_sweep(folder)
    write_table(jobs, folder / "table.csv")
    name = "grid.png" if draw_grid(jobs, folder / "grid.png") else "table.csv"
    return folder / name, comparison(jobs)


def _read_job(path: Path, place: int) -> Job:
    summary, problem = _read_record(path)
    overrides = _read(path / ".hydra" / "overrides.yaml", list) or (summary.overrides if summary else [])
    config = _read(path / "config.yaml", dict) or _read(path / ".hydra" / "config.yaml", dict) or {}
    # metrics.json grows while a run works; a run that was killed has numbers only there.
    metrics = _numbers(_read(path / "metrics.json", dict) or (summary.metrics if summary else {}))
    status, error = (NO_RECORD, problem) if summary is None else (str(summary.status), summary.error)
    if status == "running":
        error = "no end is recorded: it still runs, or was killed"
    files = {name: path / f"{name}.png" for name in metrics}
    return Job(
        number=int(path.name) if path.name.isdecimal() else place,
        path=path,
        summary=summary,
        status=status,
        error=" ".join(str(error).split()) if error else None,
        overrides=_parsed(overrides, config),
        config=config,
        metrics=metrics,
        pictures={name: file for name, file in files.items() if file.is_file()},
    )


def _read_record(path: Path) -> tuple[Summary | None, str | None]:
    try:
        return read_summary(path), None
    except FileNotFoundError:
        return None, "summary.json is missing: the run was refused or killed before its first step"
    except (OSError, ValueError, TypeError) as error:
        return None, f"summary.json cannot be read ({error})"


def _read(path: Path, kind: type) -> Any:
    """The content of a YAML or JSON file; None when it is missing, damaged or of another kind."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, kind) else None


def _numbers(metrics: Any) -> dict[str, dict[str, float]]:
    if not isinstance(metrics, dict):
        return {}
    return {
        name: {key: value for key, value in numbers.items() if _is_number(value)}
        for name, numbers in metrics.items()
        if isinstance(numbers, dict)
    }


def _parsed(overrides: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """{key: value}. The text of an override keeps quotes and number formats, so the composed value is taken, except of
    a config group, where it is a whole table and the text is the option's name."""
    parsed = {}
    for override in overrides if isinstance(overrides, list) else []:
        key, equals, text = str(override).partition("=")
        key = key.lstrip("+")
        if equals and not key.startswith("~"):
            value = _at(config, key)
            parsed[key] = text if value is None or isinstance(value[0], dict) else value[0]
    return parsed


def _at(config: Mapping[str, Any], key: str) -> tuple[Any] | None:
    """The value at a dotted key, in a tuple, because null is a value; None when there is no such key."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return (value,)


def _has_record(path: Path) -> bool:
    return (path / "summary.json").is_file()


def _nearby(folder: Path) -> str:
    """The end of the sentence that this folder holds no runs: which one may have been meant."""
    if _has_record(folder):
        return f": it is itself one run; give the sweep's folder, {folder.parent}"
    sweeps = sorted(entry for entry in folder.iterdir() if entry.is_dir() and job_folders(entry))
    return f"; did you mean {sweeps[-1]}?" if sweeps else ": give the folder of a sweep, such as multirun/nstexp/DATE"


def _as_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list):
        return f"[{','.join(_as_text(item) for item in value)}]"
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _number_names(jobs: Sequence[Job]) -> list[str]:
    return _unique(name for job in jobs for numbers in job.metrics.values() for name in numbers)


def _main_columns(jobs: Sequence[Job], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of the table that fit a terminal: with many varying keys the last loss terms are left out."""
    several = len({row["picture"] for row in rows} - {""}) > 1
    troubled = {job.status for job in jobs} != {"completed"}
    keys = varying(jobs)
    head = ["job", *(["picture"] if several else []), *(["status"] if troubled else []), *keys]
    tail = [name for name in ABOUT_PICTURES if name in rows[0]] + ["seconds"]
    terms = _unique(term for job in jobs for term in _losses(job.config))
    middle = ["total", *(f"metrics.{term}" if term in keys else term for term in terms)]
    middle = [name for name in middle if name in rows[0]]
    return [*head, *middle[: max(1, MOST_COLUMNS - len(head) - len(tail))], *tail]


def _errors(jobs: Sequence[Job]) -> list[str]:
    """A line for each reason, with the jobs that ended so; many reasons are only counted."""
    reasons = _unique(job.error for job in jobs if job.error)
    lines = []
    for reason in reasons[:MOST_ERRORS]:
        numbers = [str(job.number) for job in jobs if job.error == reason]
        lines.append(f"job {_shortened(', '.join(numbers), MOST_CHARACTERS)}: {reason}")
    if len(reasons) > MOST_ERRORS:
        lines.append(f"... and {len(reasons) - MOST_ERRORS} more errors in table.csv")
    return lines


def _losses(config: Mapping[str, Any]) -> Iterable[str]:
    terms = config.get("loss")
    return terms if isinstance(terms, Mapping) else ()


def _for_terminal(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else _shortened(str(value), MOST_CHARACTERS)


def _shortened(text: str, most: int) -> str:
    """With the middle left out: what differs is mostly at the ends."""
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[len(text) - (most - most // 2 - 1) :]}"


Pairs = tuple[tuple[str, str], ...]  # (key, value) of every key that a label names


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
    labels, columns = _unique(row for row, _ in cells), _unique(column for _, column in cells)
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


class _Sheet:
    """Draws the rows, once for every content picture; all blocks have the same column widths.

    Args:
        rows: as `_arrange` makes them.
        thumbnails: {file: picture, or None if it is damaged}.
        inputs: those of INPUTS that are the same for all jobs; those that vary are in the labels.
        px: longer side of a thumbnail at most.
    """

    def __init__(
        self, rows: Sequence[_Row], thumbnails: Mapping[Path, Image.Image | None], inputs: Pairs, px: int
    ) -> None:
        self.rows, self.thumbnails, self.inputs = rows, thumbnails, inputs
        self.width = max([px // 2, *(image.width for image in thumbnails.values() if image is not None)])
        self._input = cache(lambda file: _thumbnail(file, INPUT_PX))

    def block(self, name: str, titled: bool) -> Image.Image:
        """All jobs' pictures of one content picture."""
        parts = [_words(name, size=20)] if titled else []
        if self.inputs:
            parts.append(_beside([self._label((pair,), name, LABEL_PX) for pair in self.inputs], gap=3 * GAP_PX))
        labels = [self._label(row.label, name, LABEL_PX) for row in self.rows]
        left = max(label.width for label in labels) if any(row.label for row in self.rows) else 0
        for row, label in zip(self.rows, labels, strict=True):
            if row.headings is not None:
                headings = [self._label(pairs, name, self.width, centered=True) for pairs in row.headings]
                parts.append(self._line(_blank(1, 1), headings, left, y=1))
            parts.append(self._line(label, self._cells(row, name), left, y=0))
        return _stacked(parts, gap=GAP_PX)

    def _line(self, label: Image.Image, images: Sequence[Image.Image], left: int, y: float) -> Image.Image:
        """Images in their columns, at the top (y = 0) or the bottom (1) of the line, behind a label of `left` px."""
        height = max(image.height for image in (label, *images))
        parts = [_padded(image, self.width, height, 0.5, y) for image in images]
        return _beside([_padded(label, left, height, 0, 0.5), *parts] if left else parts)

    def _cells(self, row: _Row, name: str) -> list[Image.Image]:
        files = [job.pictures.get(name) if job else None for job in row.cells]
        pictures = [self.thumbnails[file] if file else None for file in files]
        height = max((image.height for image in pictures if image is not None), default=self.width * 3 // 4)
        return [
            self._cell(job, picture, height) if job and (file or job.status != "completed") else _blank(1, 1)
            for job, file, picture in zip(row.cells, files, pictures, strict=True)
        ]

    def _cell(self, job: Job, picture: Image.Image | None, height: int) -> Image.Image:
        if picture is not None and job.status == "completed":
            return picture
        status = _words("damaged" if job.status == "completed" else job.status, color=RED)
        if picture is not None:
            return _stacked([picture, status], x=0.5)
        reason = textwrap.shorten(job.error or "", 100, placeholder="...")
        reason = _words(reason, self.width - 2 * GAP_PX, size=11, color=GRAY, centered=True)
        text = _stacked([status, reason], x=0.5)
        box = _padded(text, self.width, max(height, text.height + 2 * GAP_PX), 0.5, 0.5)
        ImageDraw.Draw(box).rectangle((0, 0, box.width - 1, box.height - 1), outline=PALE)
        return box

    def _label(self, pairs: Pairs, name: str, width: int, centered: bool = False) -> Image.Image:
        """A line for each pair, with the input pictures themselves below `content` and `style`, as many as fit."""
        parts = []
        for pair in pairs:
            pictures = [image for file in _input_files(*pair, name) if (image := self._input(file)) is not None]
            parts.append(_words(_named(pair), width, centered=centered))
            parts += [_beside(pictures[: (width + GAP_PX) // (INPUT_PX + GAP_PX)])] if pictures else []
        return _stacked(parts, gap=GAP_PX // 2, x=0.5 if centered else 0)


def _named(pair: tuple[str, str]) -> str:
    """`weights.beta=100`; of a list only the items."""
    key, value = pair
    if value.startswith("["):
        value = value.strip("[]").replace(",", " ")
    return f"{key} {value}" if key == "job" else f"{key}={_shortened(value, 44)}"


def _input_files(key: str, value: str, name: str) -> list[Path]:
    """The few pictures that a value of INPUTS means; of several contents the one that is called like the block."""
    if key not in INPUTS:
        return []
    try:
        files = find_images(value.strip("[]").split(","), key)
    except UserError:  # run from elsewhere, or moved since
        return []
    if key == "content" and len(files) > 1:
        return [file for file in files if file.stem == name][:1]
    return files if len(files) <= MOST_INPUTS else []


def _thumbnail(file: Path, px: int) -> Image.Image | None:
    """At most `px` on the longer side; None for what cannot be read."""
    try:
        image = load_image(file, max_megapixels=float("inf"))
    except UserError:
        return None
    size = tuple(image.shape[-2:])
    image = resize(image, size_for_longer_side(size, min(px, max(size))))
    return Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def _words(
    text: str, width: int | None = None, size: int = 14, color: Color = DARK, centered: bool = False
) -> Image.Image:
    """Text as a picture of its own size, wrapped at `width` pixels."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = plain.encode("ascii", "replace").decode()  # the default font has hardly more
    lines = _wrap(plain, width, size) if width else [plain]
    image = _blank(max(_length(line, size) for line in lines), round(1.3 * size) * len(lines))
    for n, line in enumerate(lines):
        x = (image.width - _length(line, size)) // 2 if centered else 0
        ImageDraw.Draw(image).text((x, round(1.3 * size) * n), line, color, _font(size))
    return image


def _wrap(text: str, width: int, size: int) -> list[str]:
    """Lines of at most `width` pixels, broken behind `=`, `/`, spaces and dots before letters; else anywhere."""
    lines = [""]
    for piece in re.split(r"(?<=[=/ ])|(?<=\.)(?=[A-Za-z])", text):
        if _length(lines[-1] + piece.rstrip(), size) > width and lines[-1]:
            lines.append("")
        for letter in piece:
            if _length(lines[-1] + letter, size) > width and lines[-1] and letter != " ":
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines]


def _length(text: str, size: int = 14) -> int:
    return ceil(_font(size).getlength(text))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (max(1, width), max(1, height)), WHITE)


def _padded(image: Image.Image, width: int, height: int, x: float, y: float) -> Image.Image:
    """In a larger box, at x and y from 0 (left, top) to 1 (right, bottom)."""
    box = _blank(width, height)
    box.paste(image, (round(x * (width - image.width)), round(y * (height - image.height))))
    return box


def _beside(images: Sequence[Image.Image], gap: int = GAP_PX) -> Image.Image:
    """In a row, aligned at the top."""
    row = _blank(sum(image.width + gap for image in images) - gap, max(image.height for image in images))
    x = 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + gap
    return row


def _stacked(images: Sequence[Image.Image], gap: int = 0, x: float = 0) -> Image.Image:
    """Below each other, at x from 0 (left) to 1 (right)."""
    width = max((image.width for image in images), default=1)
    column = _blank(width, sum(image.height + gap for image in images) - gap)
    y = 0
    for image in images:
        column.paste(image, (round(x * (width - image.width)), y))
        y += image.height + gap
    return column


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `python -m nstexp.report`."""
    parser = argparse.ArgumentParser(
        prog="python -m nstexp.report", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="a sweep's folder, such as multirun/nstexp/2026-01-31_12-00-00-000000")
    try:
        path, text = write_report(parser.parse_args(args).folder)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(text, file=sys.stderr, flush=True)
    print(path)


if __name__ == "__main__":
    main()
