"""Callbacks of Hydra: checks before it creates a folder, and the report at the end of a sweep.

torch and PIL are imported only when there is something to report, so that `--help` stays fast.
"""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from nstexp.commands import print_path
from nstexp.config import early
from nstexp.config.build import build
from nstexp.config.extras import check_loggers
from nstexp.config.quoting import quoted
from nstexp.core.errors import UserError, is_whole
from nstexp.core.runtime.files import check_place
from nstexp.core.text import printable
from nstexp.interrupts import EXIT_INTERRUPTED
from nstexp.ownership import Inputs, Place, record_of
from nstexp.processes import alone_unless, is_first_process, work_together
from nstexp.sweeps import launchers

DEAD = "its process ended without a message: killed, or out of memory"


class Refused(BaseException):
    """Carries an error out of a callback; Hydra turns any Exception there into a warning and continues.

    Args:
        error: the error to raise once Hydra has been left.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Start(Callback):
    """Refuses a wrong command before Hydra creates its folder, and locks the folder against other runs."""

    _taken: ClassVar[list[Place]] = []  # folders that this process has locked

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the command, and lock the run folder."""
        self._try(_place_of_run, config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check that the sweep has jobs, and lock its folder."""
        self._try(_place_of_sweep, config)

    def _try(self, take: Callable[[DictConfig], Place], config: DictConfig) -> None:
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(
            config.copy()
        )  # a copy, because Hydra makes it read-only; interpolations need it
        try:
            with alone_unless(several_processes(config)):
                if is_first_process():
                    Start._taken.append(take(config))
        except Exception as error:
            raise Refused(error) from error
        finally:
            HydraConfig.instance().cfg = before


def several_processes(cfg: DictConfig) -> bool:
    """Whether a configuration may be for several processes that work together."""
    return work_together(early.plain_table(cfg.trainer) if OmegaConf.is_dict(cfg.get("trainer")) else {})


def taken(folder: Path) -> Place | None:
    """The locked folder of a run of this process; None if `Start` has not locked it."""
    return next((place for place in Start._taken if place.path == folder), None)


def record_interrupted() -> None:
    """Record a run as interrupted whose folder Hydra has created, but which has not begun."""
    from nstexp import outputs

    for place in Start._taken:
        if (place.path / ".hydra").is_dir():  # a sweep's folder has none
            place.release()
            outputs.record_death(place.path, "interrupted", status="interrupted")


def release() -> None:
    """Unlock the folders that this process has locked."""
    while Start._taken:
        Start._taken.pop().release()


def check_run(cfg: DictConfig, config: DictConfig) -> None:
    """Check a command that is not a sweep.

    Args:
        cfg: nstexp's configuration.
        config: Hydra's configuration.

    Raises:
        UserError: the command cannot work.
    """
    if config.runtime.choices.get("hydra/launcher") not in (None, "basic"):
        raise UserError("hydra/launcher=... is for sweeps: python -m nstexp -m ..., also for a single job")
    early.check(cfg)  # not in sweeps, where a refused job becomes a row of the report


def place_of(cfg: DictConfig, folder: Path, config: DictConfig) -> Place:
    """The folder of a run, not yet locked.

    Args:
        cfg: nstexp's configuration.
        folder: the run folder.
        config: Hydra's configuration.
    """
    inputs = Inputs()
    inputs.add_config(early.plain_table(cfg, resolve=True))
    return Place(folder, inputs, config.output_subdir)


def _place_of_run(config: DictConfig) -> Place:
    # First, and from this object, because the time in the name of the folder is resolved only once.
    folder = Path(os.path.abspath(str(OmegaConf.select(config, "hydra.run.dir"))))
    cfg = config.copy()
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    check_run(cfg, config.hydra)
    place = place_of(cfg, folder, config.hydra)
    output = Path(os.path.expanduser(str(cfg.output or "")))
    if output.suffix and not os.path.isdir(output):  # else the task checks which files it writes
        check_place(output, "output")
        place.inputs.protect([output], "output")
    named = any(word.startswith("hydra.run.dir=") for word in config.hydra.overrides.hydra)
    place.take("hydra.run.dir" if named else "run_dir")
    return place


def _place_of_sweep(config: DictConfig) -> Place:
    _quote_params(config)
    for problem in why_no_jobs(config):
        raise UserError(problem)
    place = Place(os.path.abspath(str(config.hydra.sweep.dir)))
    place.take_for_sweep()
    storage = OmegaConf.select(config, "hydra.sweeper.storage", default=None)
    if isinstance(storage, str) and "optuna" in str(config.hydra.sweeper.get("_target_")) and "redis" not in storage:
        from nstexp.sweeps.storage import make_storage

        try:
            make_storage(storage)
        except UserError:
            place.release()
            raise
    return place


def _quote_params(config: DictConfig) -> None:
    """Quote file names in the parameters of a sweep from a YAML file, as on the command line."""
    params = config.hydra.sweeper.get("params")
    with read_write(config), open_dict(config):
        for key, value in early.plain_table(params).items() if params else ():
            (word,), _ = quoted([f"{key}={value}"], sweep=True)
            if word != f"{key}={value}":
                params[key] = word.partition("=")[2]


class SweepReport(Callback):
    """Writes report.html, table.csv and grid.png of a sweep, and prints the path of the report as the last line.

    The loggers of the sweep get one more run, which stores the report. Errors here never change the exit code of the
    sweep; they are one line on stderr.
    """

    _unreported: "SweepReport | None" = None  # the running sweep of this process

    def __init__(self) -> None:
        self._config: DictConfig | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the sweep, because Hydra skips on_multirun_end after a failed job and after Ctrl-C.

        Also replace the launcher's method that would stop at a job that dies.
        """
        launchers.install(_launcher(config))
        self._config = config.copy()
        self._config.hydra.sweep.dir = str(Path(config.hydra.sweep.dir).absolute())
        SweepReport._unreported = self

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report."""
        report_unfinished()

    def _report(self, interrupted: bool) -> None:
        config, self._config = self._config, None
        folder = None if config is None else Path(config.hydra.sweep.dir)
        if config is None or folder is None or not folder.is_dir():
            return
        try:
            from nstexp import outputs, report

            if "Slurm" not in _launcher(config):  # on Slurm the jobs continue after Ctrl-C
                for job in report.job_folders(folder):
                    if interrupted:
                        outputs.record_death(job, "interrupted", status="interrupted")
                    elif record_of(job):
                        outputs.record_death(job, DEAD)
            if not (folder / "multirun.yaml").exists():  # it marks a sweep's folder, and Optuna does not write it
                OmegaConf.save(config, folder / "multirun.yaml")
            # A sweep without a job was refused, which has been reported already.
            if report.job_folders(folder):
                path, text = report.write_report(folder)
                print(printable(text), file=sys.stderr, flush=True)
                _keep(path, folder, config)
                print_path(path)
        except KeyboardInterrupt:
            _explain(folder, "interrupted")
            sys.exit(EXIT_INTERRUPTED)
        except Exception as error:  # a bug in the report is not a failure of the sweep
            # After Ctrl-C, modules may be half imported and fail in any way.
            _explain(folder, "interrupted" if interrupted else str(error) or type(error).__name__)


def why_no_jobs(config: DictConfig) -> Iterator[str]:
    """Yield a message for each setting that leaves a sweep without jobs, or without jobs that can work.

    These are wrong numbers of jobs, empty ranges and patterns (shown as typed), and missing packages of loggers.
    """
    sweeper = OmegaConf.select(config, "hydra.sweeper", default=OmegaConf.create({}))
    for key in ("max_batch_size", "n_trials", "n_jobs"):
        value = sweeper.get(key)
        if value is not None and not (is_whole(value) and value >= 1):
            yield f"hydra.sweeper.{key}={value}: give a whole number, 1 or larger"
    params = early.plain_table(sweeper.get("params") or OmegaConf.create({}))
    typed = cast("list[str]", OmegaConf.to_container(config.hydra.overrides.task))  # with unresolved ${...}
    given = [*(f"{key}={value}" for key, value in params.items()), *typed]
    main = GlobalHydra.instance()
    parser = OverridesParser.create(main.config_loader() if main.is_initialized() else None)
    last = {
        override.get_key_element(): override for override in parser.parse_overrides(given)
    }  # the last value of a key is used
    for override in last.values():
        if override.is_discrete_sweep() and not any(True for _ in override.sweep_iterator()):
            yield f"{override.input_line} has no values, so this sweep has no jobs"
    try:
        check_loggers(config.get("logger"))
    except UserError as error:
        yield str(error)


def _launcher(config: DictConfig) -> str:
    return str(OmegaConf.select(config, "hydra.launcher._target_", default=""))


def sweep_under_way() -> DictConfig | None:
    """Hydra's configuration of the running sweep of this process; None after its report, or without a sweep."""
    sweep = SweepReport._unreported
    return None if sweep is None or sweep._config is None else sweep._config.hydra


def report_unfinished(interrupted: bool = False) -> None:
    """Write the report on the sweep of this process, unless it is written already.

    Args:
        interrupted: whether Ctrl-C stopped the sweep; unfinished jobs are then recorded as interrupted.
    """
    sweep, SweepReport._unreported = SweepReport._unreported, None
    if sweep is not None:
        sweep._report(interrupted)


def _keep(path: Path, folder: Path, config: DictConfig) -> None:
    """Send the report, and a table of all jobs with their pictures, to the loggers of the sweep."""
    from nstexp import loggers, report

    HydraConfig.instance().set_config(config)  # settings of the loggers contain the name of the sweep
    entries = [entry for entry in (config.logger or {}).values() if OmegaConf.select(entry, "picture") is not None]
    for entry in entries:
        entry.logger.update({"name": f"{folder.name} report", "job_type": "report"})
        OmegaConf.update(entry, "number", "report", force_add=True)
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
    """Print why the report is incomplete, and how to write it later."""
    again = f"python -m nstexp.report {shlex.quote(str(folder))}"
    print(printable(f"the sweep's report is incomplete ({reason}); to write it again: {again}"), file=sys.stderr)
