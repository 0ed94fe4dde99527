"""The run folder's contract: which files a run leaves, and what is in them. Everything else reads runs through this.

output.png           the picture; with several content images one <name>.png each
decoder.safetensors  of a training of AdaIN: what it made
model.safetensors    of a training of texture_net or cin: what it made
checkpoints/         of a training: last.ckpt, from which the same command goes on, and best.ckpt
validation.csv       of a training: one row per validation
skipped.txt          of a training: pictures that could not be used, with the reason
images/              the picture while it was made, <name>_<step>.jpg
scores.csv           of an evaluation: one row per pair and method; grid.png: all its pictures
curve.csv            of an evaluation: the scores of unfinished pictures
output.mp4           of a clip, or with its own ending, where no other place was given; output.png: a frame of it
frames.csv           of a clip: one row per frame
losses.csv           one row per logged step: image, step, total, every term (unweighted), seconds
metrics.json         {image: its last numbers}
summary.json         one record of the run: see `Summary`
config.yaml          the resolved configuration; a ${ in a name is \\${ there
nstexp.log           what was logged
.hydra/              Hydra's own record: composed config and overrides
"""

import csv
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import json_text, write_atomically
from nstexp.core.secrets import without_secrets
from nstexp.core.text import printable
from nstexp.ownership import Inputs, Place, is_busy, record_of

if TYPE_CHECKING:  # a refused command leaves its folder before torch is imported
    from PIL import Image
    from torch import Tensor

log = logging.getLogger(__name__)

NO_UNICODE = "backslashreplace"  # a file's name can be none, on Linux; in JSON the escape reads as that name again
MEAN_OF = "mean of "  # begins the names under which an evaluation records the means of its methods
# Of the row or column `painting`, where its numbers are shown.
WHY_THE_PAINTING_IS_NOT_0 = (
    "The painting itself is stretched to the photo's shape before it is measured, and its goal is its own shape: where "
    "the two shapes differ, its style does not score 0. Of several paintings it is the one with the largest share, "
    "measured against all of them."
)
Status = Literal["running", "completed", "failed", "interrupted"]


@dataclass
class Summary:
    """The record of one run. Times in seconds, memory in megabytes (peak resident set; on a GPU its own peak too)."""

    status: Status = "running"
    error: str | None = None
    task: str | None = None
    method: str | None = None
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)  # of every config group
    seed: int | None = None
    outputs: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # that this run and earlier ones have made in the run folder
    started: str | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    peak_gpu_memory_mb: float | None = None
    encoder: str | None = None
    precision: str | None = None
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    # Term -> layer -> its factor in the total, in units that other codes share: see LossSet.coefficients. Some depend
    # on the picture's size; these are of the last picture.
    coefficients: dict[str, dict[str, float]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    # The same measures of what no method made: picture -> "photo" (nothing was done) and "painting" -> its numbers.
    references: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    # Measure -> the network, weights and layers behind it.
    measured_with: dict[str, str] = field(default_factory=dict)
    # The measures of which more is better; None: not recorded, and then only `ssim` is one.
    higher_is_better: list[str] | None = None


class RunFolder:
    """Writes the files of one run; every file appears complete or not at all (losses.csv grows by whole rows).

    Only what earlier runs have made in the folder is replaced: whatever writes a file raises a UserError where another
    one has its name.

    Args:
        path: the folder.
        writes: False in all but one of several processes that train together: nothing is written then.
        place: the same folder, where it was taken for this run.
    """

    def __init__(self, path: str | Path, writes: bool = True, place: Place | None = None) -> None:
        self.path = Path(path)
        self.writes = writes
        self.place = place or Place(path)
        self.summary = Summary()
        self._columns: dict[str, list[str]] = {}

    @property
    def inputs(self) -> Inputs:
        """What the run reads; tasks add the files that they find."""
        return self.place.inputs

    def check(self, *names: str) -> None:
        """Fail before the work, not after it: raise a UserError if one of these files may not be written."""
        if self.writes:
            self.place.check(*names)

    def check_losses(self, *pictures: str) -> None:
        """The same for what is written while pictures of these names are made step by step."""
        found = self.path.glob("images/*.jpg")
        self.check("losses.csv", *(f"images/{path.name}" for path in found if path.stem.rpartition("_")[0] in pictures))

    def claim(self, name: str, work: bool = True) -> Path:
        """The path of a file that is to be written, which is recorded as the run's own before it is there.

        Args:
            name: relative to the folder, with `/`.
            work: False of what a run leaves that was refused.

        Raises:
            UserError: a file has that name that no run of nstexp has made, or that is an input or read-only.
        """
        if self.writes and name not in self.place.made:
            self.place.check(name)
            self.place.made.add(name)
            self.place.begun |= work
            if name != "summary.json":
                self.write_summary()
        return self.path / name

    def write_config(self, text: str) -> None:
        self._write("config.yaml", text, work=False)

    def write_summary(self) -> None:
        self.claim("summary.json", work=False)
        self.summary.files = sorted(self.place.known | self.place.made)
        self._write("summary.json", _json(asdict(self.summary)), work=False)

    def save_picture(self, image: "Tensor", file_name: str) -> Path:
        """The final picture (3, H, W) in [0, 1], inside the run folder."""
        from nstexp.media.images import save_image

        path = self.claim(file_name)
        save_image(image, path)
        return path

    def write_rows(self, file_name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A CSV file with the columns that any row has."""
        if self.writes:
            write_csv(self.claim(file_name), rows)

    def save_sheet(self, image: "Image.Image", file_name: str) -> None:
        """A contact sheet of several pictures."""
        write_atomically(self.claim(file_name), lambda temporary: image.save(temporary))

    def save_progress(self, image: "Tensor", name: str, step: int) -> None:
        """The picture (3, H, W) as it is at a step."""
        self.save_picture(image, f"images/{name}_{step:05d}.jpg")

    def append_losses(self, row: Mapping[str, Any]) -> None:
        """One row of losses.csv; the first row fixes the columns."""
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

    def continue_losses(self, step: int) -> None:
        """Keep the rows of losses.csv and validation.csv up to a step; a resumed run writes on behind them."""
        for name in ("losses.csv", "validation.csv"):
            if not self.writes or not (self.path / name).exists():
                continue
            path = self.claim(name)
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                # A row that was cut off in the middle of writing has no value in its last column.
                rows = [row for row in reader if None not in row.values() and int(row["step"]) <= step]
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

    def begin_frames(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """frames.csv with the rows of an earlier, interrupted run; others are written behind them."""
        if rows:
            self.write_rows("frames.csv", rows)
            self._columns["frames.csv"] = list(rows[0])

    def append_frame(self, row: Mapping[str, Any]) -> None:
        """One row of frames.csv; the first row fixes the columns."""
        self._append("frames.csv", row)

    def append_validation(self, row: Mapping[str, Any]) -> None:
        """One row of validation.csv."""
        self._append("validation.csv", row)

    def read_skipped(self) -> list[str]:
        """The lines of skipped.txt."""
        path = self.path / "skipped.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def write_skipped(self, lines: Iterable[str]) -> None:
        """skipped.txt: one picture a line, with the reason."""
        self._write("skipped.txt", "".join(f"{printable(line, one_line=True)}\n" for line in lines))

    @property
    def last_checkpoint(self) -> Path:
        """Where a training goes on from; it may not exist yet."""
        return self.path / "checkpoints" / "last.ckpt"

    @contextmanager
    def new_checkpoint(self, name: str) -> Iterator[Path]:
        """A name to write a checkpoint under; it becomes checkpoints/<name>.ckpt when it is complete.

        Raises:
            UserError: the disk is full or not writable; the checkpoint before is untouched.
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
            older = "the one before is still good" if path.exists() else "there is no earlier one"
            raise UserError(f"{path}: the checkpoint cannot be written ({reason}); {older}") from error
        finally:
            if self.writes:
                temporary.unlink(missing_ok=True)

    def record_metrics(self, name: str, numbers: Mapping[str, float]) -> None:
        """The last numbers of one picture, into metrics.json and the summary."""
        self.summary.metrics.setdefault(name, {}).update(numbers)
        self._write("metrics.json", _json(self.summary.metrics))

    def record_references(
        self, name: str, rows: Mapping[str, Mapping[str, float]], measured_with: Mapping[str, str]
    ) -> None:
        """The measures of one picture's photo and painting, into the summary, and what computes them."""
        self.summary.references[name] = {row: dict(numbers) for row, numbers in rows.items()}
        self.summary.measured_with.update(measured_with)

    def pictures(self) -> dict[str, Path]:
        """{name: file} of the pictures that have numbers."""
        files = {name: self.path / f"{name}.png" for name in self.summary.metrics}
        return {name: file for name, file in files.items() if file.is_file()}

    def _write(self, file_name: str, text: str, work: bool = True) -> None:
        if not self.writes:
            return
        text = without_secrets(text)
        write_atomically(self.claim(file_name, work), lambda p: p.write_text(text, encoding="utf-8", errors=NO_UNICODE))


def _json(content: Any) -> str:
    return json_text(content, indent=2, ensure_ascii=False) + "\n"


def say_replaced(output: str, files: Sequence[Path]) -> None:
    """Say before the work which files the user's `output`, as it was typed, will replace."""
    there = [file for file in files if file.is_file() or (file.is_dir() and any(file.iterdir()))]
    if there:
        kind = "folder" if there[0].is_dir() else "file"
        which = f"the {kind} that is there" if len(files) == 1 else f"{len(there)} of {len(files)} files are there and"
        log.info("output=%s: %s will be replaced", output, which)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a CSV file with the columns that any of them has; complete or not at all. What is no valid Unicode, as a
    file's name can be on Linux, is written as an escape.

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
    """The record of a run folder.

    What another version of nstexp recorded besides is left out.

    Raises:
        FileNotFoundError: the folder holds no summary.json.
        ValueError: it is damaged.
    """
    record = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
    if not isinstance(record, dict) or "status" not in record:
        raise ValueError("no record of a run")
    known = {f.name for f in fields(Summary)}
    if isinstance(metrics := record.get("metrics"), dict):  # null: a number that was not finite
        record["metrics"] = {
            name: {key: value for key, value in own.items() if value is not None} for name, own in metrics.items()
        }
    return Summary(**{key: value for key, value in record.items() if key in known})


def unescaped(config: Any) -> Any:
    r"""What config.yaml holds, read as plain YAML. There a ${ that is no reference is \${, for composing it."""
    return each_text(lambda text: re.sub(r"(\\*)\\\$\{", lambda match: match[1][::2] + "${", text), config)


def each_text(change: Callable[[str], str], values: Any) -> Any:
    """The same tables and lists, with every text in them changed."""
    if isinstance(values, dict):
        return {key: each_text(change, value) for key, value in values.items()}
    if isinstance(values, list):
        return [each_text(change, value) for value in values]
    return change(values) if isinstance(values, str) else values


def finished(run_dir: Path, config: str) -> Path | None:
    """The result of a run that completed in this folder before, with this configuration; None: there is none.

    Args:
        run_dir: the folder.
        config: the resolved configuration, as YAML.

    Raises:
        UserError: one completed with another configuration.
    """
    try:
        summary = read_summary(run_dir)
        before = yaml.safe_load(without_secrets((run_dir / "config.yaml").read_text(encoding="utf-8")))
        now = yaml.safe_load(without_secrets(config))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    outputs = [run_dir / Path(output).name for output in summary.outputs]  # the sweep may have been moved
    if summary.status != "completed" or not isinstance(before, dict) or not outputs:
        return None
    if not all(output.exists() for output in outputs):
        return None
    # Where it was logged changes no result.
    changed = sorted(key for key in {*before, *now} - {"run_dir", "logger"} if before.get(key) != now.get(key))
    if changed:
        raise UserError(
            f"{run_dir} holds a finished run with another {changed[0]}=...: give this sweep another hydra.sweep.dir "
            "or remove that folder"
        )
    return outputs[0] if len(outputs) == 1 else run_dir


def objective(run_dir: Path, names: str | Sequence[str] | None) -> float | list[float] | None:
    """What a search goes by: of each name the number that the run recorded, the mean over its pictures.

    Raises:
        UserError: there is no such number.
    """
    if names is None:
        return None
    several = not isinstance(names, str)
    metrics = read_summary(run_dir).metrics
    means = {name: own for name, own in metrics.items() if name.startswith(MEAN_OF)}
    if len(means) > 1:
        raise UserError(f"objective={names}: this evaluation has {len(means)} methods, search with one at a time")
    metrics = (means or metrics).values()
    found = []
    for name in names if several else [names]:
        numbers = [own[name] for own in metrics if name in own]
        if not numbers:
            known = ", ".join(sorted({key for own in metrics for key in own}))
            raise UserError(f"objective={name} is not among what this run recorded: {known}")
        found.append(sum(numbers) / len(numbers))
    return found if several else found[0]


def record_death(run_dir: Path, error: str, overrides: Sequence[str] = (), status: Status = "failed") -> None:
    """Record that the process of a run that was not finished is gone, for the reports.

    Args:
        run_dir: its folder, which may not be there yet.
        error: what is known of it.
        overrides: the run's, for a run without a record.

    Raises:
        UserError: the folder is not writable.
    """
    if is_busy(run_dir) or ((run_dir / "summary.json").exists() and record_of(run_dir) is None):
        return  # another process has taken it up, or it is not a run's
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
    """Take the passwords in addresses out of what Hydra has written of a command or a sweep."""
    for path in (folder / f"{name}.yaml" for name in ("config", "hydra", "overrides", "multirun")):
        with suppress(OSError, UserError, UnicodeError):
            before = path.read_text(encoding="utf-8")
            if (text := without_secrets(before)) != before:
                write_atomically(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
