"""What Hydra calls by itself: the report at the end of a sweep. torch and PIL are imported when there is something to
report, so that `--help` stays fast."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from nstexp.build import build
from nstexp.core.errors import is_whole
from nstexp.sweeps import launchers

DEAD = "its process ended without a word: killed, or out of memory"
EXIT_BAD_INPUT = 2


class SweepReport(Callback):
    """Writes a sweep's report.html, table.csv and grid.png; the path of the first is the last line on stdout.

    The sweep's loggers get one more run, which keeps the report. Nothing that goes wrong here changes what becomes of
    the sweep: it is one sentence on stderr.
    """

    _unreported: "SweepReport | None" = None

    def __init__(self) -> None:
        self._config: DictConfig | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the sweep: Hydra leaves out on_multirun_end after a failed job and after Ctrl-C. And see to it that
        its launcher does not give up at a job that dies.

        Raises:
            SystemExit: the sweep would have no jobs. Of all other errors in a callback Hydra makes warnings.
        """
        for problem in _why_no_jobs(config):
            print(problem, file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        launchers.install(_launcher(config))
        if os.environ.get("LOCAL_RANK", "0") in ("", "0"):
            self._config = config.copy()
            self._config.hydra.sweep.dir = str(Path(config.hydra.sweep.dir).absolute())
            SweepReport._unreported = self

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report now."""
        report_unfinished()

    def _report(self, over: bool) -> None:
        config, self._config = self._config, None
        folder = None if config is None else Path(config.hydra.sweep.dir)
        if folder is None or not folder.is_dir():
            return
        try:
            from nstexp import outputs, report

            if over and "Slurm" not in _launcher(config):
                for job in report.job_folders(folder):
                    if (job / "summary.json").exists():
                        outputs.record_death(job, DEAD)
            # Without a job the sweep was refused, which has been said already.
            if report.job_folders(folder):
                path, text = report.write_report(folder)
                print(text, file=sys.stderr, flush=True)
                _keep(path, folder, config)
                print(path, flush=True)
        except KeyboardInterrupt:
            _explain(folder, "interrupted")
        except Exception as error:  # a bug of the report's must not pass for a failure of the sweep
            _explain(folder, str(error) or type(error).__name__)


def _why_no_jobs(config: DictConfig) -> Iterator[str]:
    """A sentence for each setting by which a sweep has no jobs: a number of them, or a range or pattern that is empty,
    which is shown as it was typed."""
    sweeper = config.hydra.sweeper
    for key in ("max_batch_size", "n_trials", "n_jobs"):
        value = sweeper.get(key)
        if value is not None and not (is_whole(value) and value >= 1):
            yield f"hydra.sweeper.{key}={value}: give a whole number, 1 or larger"
    params = OmegaConf.to_container(sweeper.get("params") or OmegaConf.create({}))
    given = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    last = {override.get_key_element(): override for override in parser.parse_overrides(given)}  # it counts
    for override in last.values():
        if override.is_discrete_sweep() and not any(True for _ in override.sweep_iterator()):
            yield f"{override.input_line} has no values: this sweep has no jobs"


def _launcher(config: DictConfig) -> str:
    return str(OmegaConf.select(config, "hydra.launcher._target_", default=""))


def report_unfinished(over: bool = True) -> None:
    """Report on the sweep of this process, if that has not been done.

    Args:
        over: whether no job of it can be at work any more.
    """
    sweep, SweepReport._unreported = SweepReport._unreported, None
    if sweep is not None:
        sweep._report(over)


def _keep(path: Path, folder: Path, config: DictConfig) -> None:
    """Give the report, and a table of all jobs with their pictures, to the loggers of the sweep."""
    from nstexp import loggers, report

    HydraConfig.instance().set_config(config)  # the loggers' settings ask for the sweep's name
    entries = [entry for entry in (config.logger or {}).values() if OmegaConf.select(entry, "picture") is not None]
    for entry in entries:
        entry.logger.update({"name": f"{folder.name} report", "job_type": "report"})
    jobs = report.read_sweep(folder)
    if not any(job.summary for job in jobs):
        return  # every job was refused
    active = [build(entry, save_dir=str(folder)) for entry in entries]
    if active:
        files = {f"{job.number} {name}": file for job in jobs for name, file in job.pictures.items()}
        rows = {f"{row['job']} {row['picture']}": row for row in report.table(jobs)}
        loggers.log_pictures(active, "sweep", files, rows)
        loggers.log_file(active, path, name=f"report-{folder.name}", kind="report")
        loggers.close(active, "completed")


def _explain(folder: Path, reason: str) -> None:
    print(f"the sweep's report is incomplete ({reason}); again: python -m nstexp.report {folder}", file=sys.stderr)
