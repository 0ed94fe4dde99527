"""What Hydra calls by itself: the report at the end of a sweep. torch and PIL are imported when there is something to
report, so that `--help` stays fast."""

import atexit
import os
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepReport(Callback):
    """Writes a sweep's table.csv and grid.png; the path of the grid is the last line on stdout.

    Nothing that goes wrong here changes what becomes of the sweep: it is one sentence on stderr.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the sweep's folder, and report at the end of the process too."""
        if os.environ.get("LOCAL_RANK", "0") in ("", "0"):
            self._folder = Path(config.hydra.sweep.dir).absolute()
            # Hydra leaves out on_multirun_end after a failed job and after Ctrl-C.
            atexit.register(self._report)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report now."""
        atexit.unregister(self._report)
        self._report()

    def _report(self) -> None:
        folder, self._folder = self._folder, None
        if folder is None or not folder.is_dir():
            return
        try:
            from nstexp import report

            # Without a job the sweep was refused, which has been said already.
            if report.job_folders(folder):
                path, text = report.write_report(folder)
                print(text, file=sys.stderr, flush=True)
                print(path, flush=True)
        except KeyboardInterrupt:
            _explain(folder, "interrupted")
        except Exception as error:  # a bug of the report's must not pass for a failure of the sweep
            _explain(folder, str(error) or type(error).__name__)


def _explain(folder: Path, reason: str) -> None:
    print(f"the sweep's report is incomplete ({reason}); again: python -m nstexp.report {folder}", file=sys.stderr)
