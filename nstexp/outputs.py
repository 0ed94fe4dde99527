"""The run folder's contract: which files a run leaves, and what is in them. Everything else reads runs through this.

    output.png           the picture; with several content images one <name>.png each
    images/              the picture while it was made, <name>_<step>.jpg
    losses.csv           one row per logged step: image, step, total, every term (unweighted), seconds
    metrics.json         {image: its last numbers}
    summary.json         one record of the run: see `Summary`
    config.yaml          the resolved configuration
    nstexp.log           what was logged
    .hydra/              Hydra's own record: composed config and overrides
"""

import csv
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.images import save_image, write_atomically

Status = Literal["running", "completed", "failed", "interrupted"]


@dataclass
class Summary:
    """The record of one run. Times in seconds, memory in megabytes (peak resident set; on a GPU its own peak too)."""

    status: Status = "running"
    error: str | None = None
    task: str | None = None
    method: str | None = None
    overrides: list[str] = field(default_factory=list)
    seed: int | None = None
    outputs: list[str] = field(default_factory=list)
    started: str | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    peak_gpu_memory_mb: float | None = None
    encoder: str | None = None
    precision: str | None = None
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


class RunFolder:
    """Writes the files of one run; every file appears complete or not at all (losses.csv grows by whole rows)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.summary = Summary()
        self._columns: list[str] | None = None

    def write_config(self, text: str) -> None:
        write_atomically(self.path / "config.yaml", lambda p: p.write_text(text, encoding="utf-8"))

    def write_summary(self) -> None:
        self._write_json("summary.json", asdict(self.summary))

    def save_picture(self, image: Tensor, file_name: str) -> Path:
        """The final picture (3, H, W) in [0, 1], inside the run folder."""
        path = self.path / file_name
        save_image(image, path)
        return path

    def save_progress(self, image: Tensor, name: str, step: int) -> None:
        """The picture (3, H, W) as it is at a step."""
        save_image(image, self.path / "images" / f"{name}_{step:05d}.jpg")

    def append_losses(self, row: Mapping[str, Any]) -> None:
        """One row of losses.csv; the first row fixes the columns."""
        new = self._columns is None
        self._columns = self._columns or list(row)
        path = self.path / "losses.csv"
        try:
            with path.open("w" if new else "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns)
                if new:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error

    def record_metrics(self, name: str, numbers: Mapping[str, float]) -> None:
        """The last numbers of one picture, into metrics.json and the summary."""
        self.summary.metrics.setdefault(name, {}).update(numbers)
        self._write_json("metrics.json", self.summary.metrics)

    def _write_json(self, file_name: str, content: Any) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / file_name, lambda p: p.write_text(text, encoding="utf-8"))


def read_summary(folder: str | Path) -> Summary:
    """The record of a run folder.

    Raises:
        FileNotFoundError: the folder holds no summary.json.
    """
    record = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
    return Summary(**record)


def is_unused(run_dir: Path) -> bool:
    """Whether nothing but Hydra's record and the log is in the folder: it was made for this run."""
    return {entry.name for entry in run_dir.iterdir()} <= {".hydra", "nstexp.log"}


def discard_unbegun(run_dir: Path) -> None:
    """Remove the folder of a run that was refused before its first step. Only for folders made for this run."""
    if not (run_dir / "losses.csv").exists():
        logging.shutdown()  # nstexp.log is open
        shutil.rmtree(run_dir, ignore_errors=True)
