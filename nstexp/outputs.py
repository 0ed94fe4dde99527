"""The run folder: which files a run writes, and what they contain. All other code reads runs through this module.

output.png           the result; with several content images, one <name>.png for each
regions.png          masks=auto: the regions of photo and paintings; with several content images, <name>_regions.png
decoder.safetensors  training of AdaIN: the trained decoder
model.safetensors    training of texture_net or cin: the trained network
checkpoints/         from which the same command continues: unfinished.ckpt; training: last.ckpt, and also best.ckpt
validation.csv       training: one row per validation
skipped.txt          training: pictures that could not be used, with the reason
images/              the picture at earlier steps, <name>_<step>.jpg
scores.csv           evaluation: one row per pair and method; grid.png shows all pictures
means.csv            evaluation: the means of the scores with their intervals, one row per method and measure
curve.csv            evaluation: the scores of unfinished pictures
output.mp4           clip (or with another suffix), if no other place was given; output.png: one of its frames
frames.csv           clip: one row per frame
objective.csv        jobs of a sweep with prune.every_n_steps: the objective at each look, one row per picture and look
losses.csv           one row per logged step: image, step, total, every term (unweighted), seconds
metrics.json         {image: its last numbers}
summary.json         the record of the run, see `Summary`
config.yaml          the resolved configuration; a literal ${ is written as \\${
nstexp.log           the log
.hydra/              Hydra's record: composed configuration and overrides
"""

import csv
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import json_text, write_atomically
from nstexp.core.secrets import without_secrets
from nstexp.core.text import printable
from nstexp.ownership import Inputs, Place, is_busy, record_of

if TYPE_CHECKING:  # imported late, because refused commands need neither PIL nor torch
    from PIL import Image
    from torch import Tensor

log = logging.getLogger(__name__)

NO_UNICODE = "backslashreplace"  # on Linux, file names may be invalid Unicode; JSON reads the escape as the same name
MEAN_OF = "mean of "  # prefix of the names under which an evaluation records the means of its methods
# Explains the row or column `painting` wherever its numbers are shown.
WHY_THE_PAINTING_IS_NOT_0 = (
    "The painting itself is resized to the photo's shape before it is measured, but its target keeps the painting's "
    "shape: where the two shapes differ, its style score is not 0. Of several paintings, the one with the largest "
    "share is shown, measured against all of them."
)
# `pruned`: stopped early as a bad job of a sweep, on purpose, so that it is no failure.
Status = Literal["running", "completed", "pruned", "failed", "interrupted"]
GOOD = ("completed", "pruned")  # the statuses of runs that did what they should
OBJECTIVE = "objective.csv"


@dataclass
class Summary:
    """The record of one run. Times in seconds; memory in megabytes: peak resident set, and the peak on a GPU."""

    status: Status = "running"
    error: str | None = None
    task: str | None = None
    method: str | None = None
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)  # config group -> option
    seed: int | None = None
    outputs: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # written by this run and earlier ones, relative to the run folder
    started: str | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    peak_gpu_memory_mb: float | None = None
    encoder: str | None = None
    precision: str | None = None
    device: str | None = None
    threads: int | None = None  # of PyTorch on the CPU; other numbers of threads round differently
    versions: dict[str, str] = field(default_factory=dict)
    # Term -> layer -> its factor in the total loss, see LossSet.coefficients. Some depend on the size of the picture;
    # these belong to the last picture.
    coefficients: dict[str, dict[str, float]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)  # picture -> measure or loss -> value
    # Picture, or mean of a method -> measure -> the ends of its 95 % interval.
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    # Measures for comparison: picture -> "photo" (unchanged content) and "painting" -> measure -> value.
    references: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    # Measure -> the network, weights and layers that compute it.
    measured_with: dict[str, str] = field(default_factory=dict)
    # Measures of which a higher value is better; None in old records, in which only `ssim` is one.
    higher_is_better: list[str] | None = None


class RunFolder:
    """Writes the files of one run. Every file appears complete or not at all; losses.csv grows by whole rows.

    Only files that earlier runs wrote in the folder are replaced. Methods that write a file raise a UserError if
    another file has its name.

    Args:
        path: the folder.
        writes: False in all but one of several processes that train together; then nothing is written.
        place: the same folder, if it is locked for this run.
    """

    def __init__(self, path: str | Path, writes: bool = True, place: Place | None = None) -> None:
        self.path = Path(path)
        self.writes = writes
        self.place = place or Place(path)
        self.summary = Summary()
        self._columns: dict[str, list[str]] = {}

    @property
    def inputs(self) -> Inputs:
        """The files that the run reads; tasks add those that they find."""
        return self.place.inputs

    def check(self, *names: str) -> None:
        """Raise a UserError if one of these files may not be written, so that a run fails before the work."""
        if self.writes:
            self.place.check(*names)

    def check_losses(self, *pictures: str) -> None:
        """Like `check`, for the files that are written while pictures of these names are optimized."""
        earlier = self.path.glob("images/*.jpg")
        images = (f"images/{path.name}" for path in earlier if path.stem.rpartition("_")[0] in pictures)
        self.check("losses.csv", *images)

    def claim(self, name: str, work: bool = True) -> Path:
        """The path of a file to write; the file is recorded as written by this run before it exists.

        Args:
            name: relative to the folder, with `/`.
            work: False for files that a refused run leaves, too.

        Raises:
            UserError: the file exists and no run of nstexp wrote it, or it is an input or read-only.
        """
        if self.writes and name not in self.place.made:
            self.place.check(name)
            self.place.made.add(name)
            self.place.begun |= work
            if name != "summary.json":
                self.write_summary()
        return self.path / name

    def write_config(self, text: str) -> None:
        """Write config.yaml."""
        self._write("config.yaml", text, work=False)

    def write_summary(self) -> None:
        """Write summary.json."""
        self.claim("summary.json", work=False)
        self.summary.files = sorted(self.place.known | self.place.made)
        self._write("summary.json", _json(asdict(self.summary)), work=False)

    def save_picture(self, image: "Tensor", file_name: str) -> Path:
        """Write a finished picture (3, H, W) in [0, 1] into the run folder; returns its path."""
        from nstexp.media.images import save_image

        path = self.claim(file_name)
        save_image(image, path)
        return path

    def write_rows(self, file_name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a CSV file with all columns that occur in the rows."""
        if self.writes:
            write_csv(self.claim(file_name), rows)

    def save_sheet(self, image: "Image.Image", file_name: str) -> None:
        """Write a contact sheet of several pictures."""
        write_atomically(self.claim(file_name), lambda temporary: image.save(temporary))

    def save_progress(self, image: "Tensor", name: str, step: int) -> None:
        """Write the picture (3, H, W) in [0, 1] as it is at a step."""
        self.save_picture(image, f"images/{name}_{step:05d}.jpg")

    def append_losses(self, row: Mapping[str, Any]) -> None:
        """Append a row to losses.csv; the first row fixes the columns."""
        self._append("losses.csv", row)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if not self.writes:
            return
        new = name not in self._columns
        columns = self._columns.setdefault(name, list(row))
        path = self.claim(name)
        try:
            with path.open("w" if new else "a", newline="", encoding="utf-8", errors=NO_UNICODE) as file:
                writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
                if new:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error

    def continue_losses(self, step: int, picture: str | None = None, finished: Collection[str] = ()) -> None:
        """Keep the rows of losses.csv and validation.csv up to a step; a resumed run appends to them.

        Args:
            step: the last step to keep.
            picture: the picture whose steps are meant; None: there is only one.
            finished: pictures of which all rows are kept.
        """

        def is_kept(row: Mapping[str, str]) -> bool:
            if row.get("image") in finished:
                return True
            return int(row["step"]) <= step and (picture is None or row.get("image") == picture)

        for name in ("losses.csv", "validation.csv"):
            if not self.writes or not (self.path / name).exists():
                continue
            path = self.claim(name)
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                # A row that was cut off while it was written has no value in its last column.
                rows = [row for row in reader if None not in row.values() and is_kept(row)]
                columns = list(reader.fieldnames or [])
            if not rows:
                path.unlink()
                continue
            text = [columns, *([row[c] for c in columns] for row in rows)]

            def write(temporary: Path, text: list[list[str]] = text) -> None:
                with temporary.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows(text)

            write_atomically(path, write)
            self._columns[name] = columns

    def read_validation(self) -> list[dict[str, str]]:
        """The rows of validation.csv."""
        path = self.path / "validation.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def append_objective(self, row: Mapping[str, Any]) -> None:
        """Append a row to objective.csv; the first row fixes the columns."""
        self._append(OBJECTIVE, row)

    def record_pruned(self, reason: str) -> None:
        """Record that the run stopped early on purpose, and why."""
        self.summary.status, self.summary.error = "pruned", reason

    def begin_frames(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Start frames.csv with the rows of an earlier, interrupted run; further rows are appended."""
        if rows:
            self.write_rows("frames.csv", rows)
            self._columns["frames.csv"] = list(rows[0])

    def append_frame(self, row: Mapping[str, Any]) -> None:
        """Append a row to frames.csv; the first row fixes the columns."""
        self._append("frames.csv", row)

    def append_validation(self, row: Mapping[str, Any]) -> None:
        """Append a row to validation.csv; the first row fixes the columns."""
        self._append("validation.csv", row)

    def read_skipped(self) -> list[str]:
        """The lines of skipped.txt."""
        path = self.path / "skipped.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def write_skipped(self, lines: Iterable[str]) -> None:
        """Write skipped.txt, one picture a line, with the reason."""
        self._write("skipped.txt", "".join(f"{printable(line, one_line=True)}\n" for line in lines))

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint from which a training continues; it may not exist yet."""
        return self.path / "checkpoints" / "last.ckpt"

    def remove_checkpoint(self, name: str) -> None:
        """Remove checkpoints/<name>.ckpt if a run of nstexp wrote it, and its folder if nothing else is in it."""
        file = f"checkpoints/{name}.ckpt"
        if self.writes and file in self.place.known | self.place.made:
            with suppress(OSError):
                (self.path / file).unlink(missing_ok=True)
                (self.path / file).parent.rmdir()
            self.place.made.discard(file)
            self.place.known.discard(file)

    @contextmanager
    def new_checkpoint(self, name: str) -> Iterator[Path]:
        """Yield a temporary path for a checkpoint; it becomes checkpoints/<name>.ckpt when it is complete.

        Raises:
            UserError: the disk is full or not writable; the previous checkpoint is kept.
        """
        path = self.claim(f"checkpoints/{name}.ckpt")
        temporary = path.with_name(f".writing-{name}.ckpt")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if self.writes:
                os.replace(temporary, path)
        except OSError as error:
            reason = error.strerror or str(error)
            older = "the previous one is still good" if path.exists() else "there is no earlier one"
            raise UserError(f"{path}: the checkpoint cannot be written ({reason}); {older}") from error
        finally:
            if self.writes:
                temporary.unlink(missing_ok=True)

    def record_metrics(self, name: str, numbers: Mapping[str, float]) -> None:
        """Record the last numbers of one picture in metrics.json and in the summary."""
        self.summary.metrics.setdefault(name, {}).update(numbers)
        self._write("metrics.json", _json(self.summary.metrics))

    def record_references(
        self, name: str, rows: Mapping[str, Mapping[str, float]], measured_with: Mapping[str, str]
    ) -> None:
        """Record the measures of a picture's photo and painting in the summary, and the networks that compute them."""
        self.summary.references[name] = {row: dict(numbers) for row, numbers in rows.items()}
        self.summary.measured_with.update(measured_with)

    def pictures(self) -> dict[str, Path]:
        """Name -> file of the pictures that have numbers."""
        files = {name: self.path / f"{name}.png" for name in self.summary.metrics}
        return {name: file for name, file in files.items() if file.is_file()}

    def _write(self, file_name: str, text: str, work: bool = True) -> None:
        if not self.writes:
            return
        text = without_secrets(text)
        write_atomically(self.claim(file_name, work), lambda p: p.write_text(text, encoding="utf-8", errors=NO_UNICODE))


def _json(content: Any) -> str:
    return json_text(content, indent=2, ensure_ascii=False) + "\n"


def say_replaced(value: str, files: Sequence[Path], key: str = "output") -> None:
    """Log, before the work, which existing files will be replaced.

    Args:
        value: the value of the key, as it was typed.
        files: that will be written.
        key: the config key that names the files.
    """
    there = [file for file in files if file.is_file() or (file.is_dir() and any(file.iterdir()))]
    if there:
        kind = "folder" if there[0].is_dir() else "file"
        which = f"the existing {kind}" if len(files) == 1 else f"{len(there)} of {len(files)} files exist and"
        log.info("%s=%s: %s will be replaced", key, value, which)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file with all columns that occur; the file appears complete or not at all.

    Text that is not valid Unicode, as file names may be on Linux, is escaped.

    Raises:
        UserError: the file cannot be written.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors=NO_UNICODE) as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def read_summary(folder: str | Path) -> Summary:
    """Read the record of a run folder; fields that only another version of nstexp knows are left out.

    Raises:
        FileNotFoundError: the folder holds no summary.json.
        ValueError: the file is damaged.
    """
    record = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
    if not isinstance(record, dict) or "status" not in record:
        raise ValueError("not the record of a run")
    known = {f.name for f in fields(Summary)}
    if isinstance(metrics := record.get("metrics"), dict):  # null stands for a number that was not finite
        record["metrics"] = {
            name: {key: value for key, value in numbers.items() if value is not None}
            for name, numbers in metrics.items()
        }
    return Summary(**{key: value for key, value in record.items() if key in known})


def unescaped(config: Any) -> Any:
    r"""Undo the escapes in config.yaml when it is read as plain YAML: a literal ${ is written as \${ there."""
    return each_text(lambda text: re.sub(r"(\\*)\\\$\{", lambda match: match[1][::2] + "${", text), config)


def each_text(change: Callable[[str], str], values: Any) -> Any:
    """Copy nested tables and lists, and apply `change` to every text in them."""
    if isinstance(values, dict):
        return {key: each_text(change, value) for key, value in values.items()}
    if isinstance(values, list):
        return [each_text(change, value) for value in values]
    return change(values) if isinstance(values, str) else values


def finished(run_dir: Path, config: str) -> Path | None:
    """The result of an earlier run that completed in this folder with the same configuration; None if there is none.

    A run that was pruned counts as complete for a command that would prune it by the same settings.

    Args:
        run_dir: the folder.
        config: the resolved configuration, as YAML.

    Raises:
        UserError: a run with another configuration completed in this folder.
    """
    try:
        summary = read_summary(run_dir)
        before = yaml.safe_load(without_secrets((run_dir / "config.yaml").read_text(encoding="utf-8")))
        now = yaml.safe_load(without_secrets(config))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    outputs = [run_dir / Path(output).name for output in summary.outputs]  # the sweep may have been moved
    if summary.status not in GOOD or not isinstance(before, dict) or not outputs:
        return None
    if not all(output.exists() for output in outputs):
        return None
    # `logger` does not change results, and neither does `prune` those of a run that was not pruned.
    others = {*before, *now} - {"run_dir", "logger", "prune"}
    changed = sorted(key for key in others if before.get(key) != now.get(key))
    if summary.status == "pruned" and not changed and before.get("prune") != now.get("prune"):
        return None
    if changed:
        raise UserError(
            f"{run_dir} holds a finished run with another {changed[0]}=...: give this sweep another hydra.sweep.dir "
            "or remove that folder"
        )
    return outputs[0] if len(outputs) == 1 else run_dir


def objective(run_dir: Path, names: str | Sequence[str] | None) -> float | list[float] | None:
    """The number or numbers that a search optimizes: for each name, the mean of what the run recorded.

    Args:
        run_dir: the run folder.
        names: of recorded numbers; None: there is no search.

    Returns:
        A number for one name, a list for a list of names.

    Raises:
        UserError: the run recorded no such number.
    """
    if names is None:
        return None
    wanted = [names] if isinstance(names, str) else list(names)
    metrics = read_summary(run_dir).metrics
    means = {name: numbers for name, numbers in metrics.items() if name.startswith(MEAN_OF)}
    if len(means) > 1:
        raise UserError(f"objective={names}: this evaluation has {len(means)} methods, search with one at a time")
    rows = list((means or metrics).values())
    objectives: list[float] = []
    for name in wanted:
        values = [numbers[name] for numbers in rows if name in numbers]
        if not values:
            known = ", ".join(sorted({key for numbers in rows for key in numbers}))
            raise UserError(f"objective={name} is not among the numbers that this run recorded: {known}")
        objectives.append(sum(values) / len(values))
    return objectives[0] if isinstance(names, str) else objectives


def record_death(run_dir: Path, error: str, overrides: Sequence[str] = (), status: Status = "failed") -> None:
    """Record that the process of an unfinished run has ended, for the reports.

    Args:
        run_dir: its folder, which may not exist yet.
        error: the reason, as far as it is known.
        overrides: of the run; used if the run has no record yet.
        status: how the run ended.

    Raises:
        UserError: the folder is not writable.
    """
    if is_busy(run_dir) or ((run_dir / "summary.json").exists() and record_of(run_dir) is None):
        return  # another process works in it, or it is not a run folder
    folder = RunFolder(run_dir)
    try:
        folder.summary = read_summary(run_dir)
    except (OSError, ValueError, TypeError):
        folder.summary = Summary(overrides=list(overrides))
    if folder.summary.status == "running":
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.summary.status, folder.summary.error = status, error
        folder.write_summary()


def hide_secrets(folder: Path) -> None:
    """Remove passwords in addresses from the files that Hydra wrote about a command or a sweep."""
    for path in (folder / f"{name}.yaml" for name in ("config", "hydra", "overrides", "multirun")):
        with suppress(OSError, UserError, UnicodeError):
            before = path.read_text(encoding="utf-8")
            if (text := without_secrets(before)) != before:
                write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))
