"""The command line: Hydra's entry point, and exit codes. torch is imported only inside a job, so that help is fast."""

import contextlib
import errno
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn, cast

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nstexp import interrupts, outputs, streams
from nstexp.commands import errors_on_one_line, print_path, subcommand
from nstexp.config import composing, early, trust
from nstexp.config.build import build, prepared
from nstexp.config.continued import take_over
from nstexp.config.keys import CONF
from nstexp.config.quoting import quoted, resolved_yaml
from nstexp.config.refusals import sentence_of
from nstexp.core.errors import JobFailed, Stopped, UserError
from nstexp.core.secrets import without_secrets
from nstexp.core.text import printable
from nstexp.help import answered
from nstexp.interrupts import EXIT_INTERRUPTED
from nstexp.ownership import Place
from nstexp.processes import alone_unless, is_first_process
from nstexp.sweeps import cluster, hooks, pruning

# Keys that all methods of an evaluation share.
SHARED = (
    *("content", "style", "color", "color_strength", "transparency", "image_px", "max_input_megapixels", "seed"),
    *("photorealism", "photo", "seamless", "protect", "protect_strength", "metrics"),
)
EXIT_BAD_INPUT, EXIT_FAILED = 2, 1


def main() -> None:
    """Run the command line. `nstexp.__main__` is the entry point."""
    with interrupts.heeded():
        _main()


def _main() -> None:
    if command := subcommand(sys.argv[1:]):
        with errors_on_one_line():
            command()
        return
    if answered(sys.argv[1:]):
        return
    try:
        words, trusted = trust.split_words(sys.argv[1:])
        words = early.words_for_hydra(words)
    except UserError as error:
        _leave(str(error), EXIT_BAD_INPUT)
    sys.argv[1:] = one_method(words)
    with trust.trusting(trusted):
        _start()


def _start() -> None:
    """Pass the command to Hydra, and exit with the code that fits its result."""
    command = _refusing(hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_job))
    if "HYDRA_FULL_ERROR" in os.environ:
        try:
            command()
        finally:
            hooks.report_unfinished()
            hooks.release()
        return
    # With this variable Hydra raises errors instead of printing half a traceback, so that messages are chosen here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    interrupted = False
    try:
        command()
    except JobFailed as error:
        _leave(str(error), EXIT_FAILED)
    except UserError as error:
        _leave(str(error), EXIT_BAD_INPUT)
    except BaseException as error:
        interrupted = interrupts.caused(error)
        if isinstance(error, SystemExit):  # the message is printed already
            raise
        if interrupted:
            hooks.record_interrupted()
            sweep = hooks.sweep_under_way()
            _leave(f"interrupted{_how_to_go_on(sweep) if sweep else ''}", EXIT_INTERRUPTED)
        if isinstance(error, Exception) and (sentence := sentence_of(error)):
            _leave(sentence, EXIT_BAD_INPUT)
        _leave(_of_another_kind(error), EXIT_FAILED)
    finally:
        hooks.report_unfinished(interrupted)
        hooks.release()
        del os.environ["HYDRA_FULL_ERROR"]


def _refusing(command: Callable[[], object]) -> Callable[[], None]:
    """Wrap the command so that it raises the error that `hooks.Start` carries out of Hydra."""

    def call() -> None:
        try:
            command()
        except hooks.Refused as refused:
            if isinstance(refused.error, UserError):
                _leave(str(refused), EXIT_BAD_INPUT)
            raise refused.error from None

    return call


def _leave(sentence: str, code: int) -> NoReturn:
    """Print a message and exit."""
    print(printable(without_secrets(sentence)), file=sys.stderr)
    sys.exit(code)


def _of_another_kind(error: BaseException) -> str:
    """The message for an error of the system or of a launcher; other errors are bugs and are raised again."""
    if isinstance(error, OSError):
        what = f"{error.filename or 'the run folder'}: {error.strerror or error}"
        shorter = "; give a shorter run_dir, or in a sweep hydra.sweep.subdir"
        return what + shorter * (error.errno == errno.ENAMETOOLONG)
    if "n_jobs == 0" in str(error):
        return "hydra.launcher.n_jobs=0: give how many jobs run at once, or -1 for as many as there are cores"
    if "Unknown plugin class" in str(error) and "ray" in str(error):
        return "hydra/launcher=ray needs a package that is not installed: pip install 'nstexp[ray]'"
    if type(error).__module__.partition(".")[0] in ("joblib", "ray", "submitit"):
        return f"the launcher lost a job ({type(error).__name__}): killed, or out of memory; fewer at once may help"
    raise error


def _job(cfg: DictConfig) -> float | list[float] | None:
    """Run one job; returns the objective of a search, if there is one."""
    streams.prepare()
    # Also here, because processes of a parallel sweep run this function instead of main.
    with interrupts.heeded(), alone_unless(hooks.several_processes(cfg)):
        return _one_job(cfg)


def _one_job(cfg: DictConfig) -> float | list[float] | None:
    hydra_cfg: Any = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    sweep = hydra_cfg.mode == RunMode.MULTIRUN
    place, first = None if sweep else hooks.taken(run_dir), True
    try:
        first = is_first_process()
        if first:
            outputs.hide_secrets(run_dir / str(hydra_cfg.output_subdir))
            if sweep:
                outputs.hide_secrets(Path(hydra_cfg.sweep.dir))
        cluster.requeue_when_warned(first)
        if sweep:
            check_sweep(cfg, hydra_cfg, _overrides(hydra_cfg))
        elif place is None:
            hooks.check_run(cfg, hydra_cfg)
        if place is None:
            place = hooks.place_of(cfg, run_dir, hydra_cfg)
            if first:
                place.take("hydra.sweep.dir" if sweep else "run_dir")
        around = _sweep_around(cfg, hydra_cfg) if sweep else None
        _work(cfg, hydra_cfg, place, around)
        if not first:
            return None
        return outputs.objective(run_dir, cfg.objective) if around is None else pruning.objective(run_dir, around)
    except (UserError, Stopped) as error:
        _end(error, hydra_cfg, place, sweep, first)
    except BaseException as error:
        if not interrupts.caused(error) or isinstance(error, SystemExit):
            raise
        if first:
            if place is not None:
                place.release()
            outputs.record_death(run_dir, "interrupted", _overrides(hydra_cfg), "interrupted")
        _end(Stopped("interrupted", interrupted=True), hydra_cfg, None, sweep, first)
    finally:
        if place is not None:
            place.release()


def _sweep_around(cfg: DictConfig, hydra_cfg: DictConfig) -> pruning.Sweep:
    """What a job needs to know of its sweep."""
    given = hydra_cfg.sweeper.get("direction")  # of Optuna: a word, a member of an enumeration, or a list of these
    directions = None if given is None else list(given) if OmegaConf.is_list(given) else [given]
    names = None if directions is None else [str(getattr(direction, "name", direction)) for direction in directions]
    objective = cfg.objective if cfg.objective is None or isinstance(cfg.objective, str) else list(cfg.objective)
    return pruning.Sweep(Path(hydra_cfg.sweep.dir).absolute(), objective, names)


def _work(cfg: DictConfig, hydra_cfg: DictConfig, place: Place, sweep: pruning.Sweep | None) -> None:
    """Compute the result, unless an earlier run of this job completed, and print its path."""
    overrides = _overrides(hydra_cfg)
    cfg = take_over(cfg, hydra_cfg.runtime.choices, overrides)
    finished = None if sweep is None else outputs.finished(place.path, resolved_yaml(cfg))
    if finished is not None:
        logging.getLogger(__name__).info("finished before: %s", place.path)
        _print_result(finished)
        return
    _warm_up(cfg)
    from nstexp import run  # it imports torch, which takes seconds

    interrupts.check()
    variants = _variants(cfg, overrides)
    for variant in variants.values():
        place.inputs.add_config(early.plain_table(variant, resolve=True))
    run.run(cfg, place.path, overrides, dict(hydra_cfg.runtime.choices), variants, _print_result, place, sweep)


def _overrides(hydra_cfg: DictConfig) -> list[str]:
    """The overrides as typed for Hydra, with unresolved ${...}, because Hydra resolves them when they are composed."""
    return cast("list[str]", OmegaConf.to_container(hydra_cfg.overrides.task, resolve=False))


def _warm_up(cfg: DictConfig) -> None:
    """Let loggers prepare their runs while torch is imported; W&B needs this time to start."""
    for entry in (prepared(cfg).get("logger") or {}).values():
        if "setup" in entry:
            Thread(target=_quietly, args=(build(entry.setup),), daemon=True).start()


def _quietly(call: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):  # reported when the logger starts
        call()


def _print_result(path: Path) -> None:
    if is_first_process():
        print_path(path)


def _end(error: UserError | Stopped, hydra_cfg: DictConfig, place: Place | None, sweep: bool, first: bool) -> NoReturn:
    """Print why a job ended, and exit with the code that fits.

    Args:
        error: the reason.
        hydra_cfg: Hydra's configuration.
        place: the run folder, if it is locked.
        sweep: whether the job belongs to a sweep.
        first: whether this process acts for all processes of the job.
    """
    if isinstance(error, Stopped) and error.requeue:
        _requeue(error, first, sweep)
    if isinstance(error, Stopped) and not first:
        sys.exit(0)  # with another code, Lightning would kill the first process, which still writes
    interrupted = isinstance(error, Stopped) and error.interrupted
    if sweep and not interrupted:
        raise JobFailed(str(error)) from None
    if isinstance(error, UserError) and first and place is not None and not place.begun:
        place.undo()  # a run that was refused before its first step leaves nothing
    code = EXIT_BAD_INPUT if isinstance(error, UserError) else EXIT_FAILED
    hint = _how_to_go_on(hydra_cfg) if sweep else ""
    _leave(f"{error}{hint}", EXIT_INTERRUPTED if interrupted else code)


def _requeue(error: Stopped, first: bool, sweep: bool) -> NoReturn:
    """Put a job whose machine is taken away back into the queue of its cluster."""
    logging.getLogger(__name__).warning("%s", error)  # printed first, because requeueing may end this process
    problem = cluster.requeue(first)
    if problem is None:
        _leave("this job is back in the queue", EXIT_INTERRUPTED)
    if sweep:
        raise JobFailed(f"{error}. This job is not back in the queue: {problem}") from None
    _leave(f"this job is not back in the queue: {problem}", EXIT_INTERRUPTED)


def check_sweep(cfg: DictConfig, hydra_cfg: DictConfig, overrides: list[str]) -> None:
    """Raise a UserError for settings that cannot work with several jobs."""
    for key in ("output", "timelapse"):
        if cfg.get(key) is not None:
            raise UserError(f"{key}=... in a sweep would be written by every job: leave it out, each has a run folder")
    if any(override.startswith("run_dir=") for override in overrides):
        raise UserError("run_dir=... would be one folder for all jobs of a sweep: set hydra.sweep.dir=... instead")
    _check_processes(cfg, hydra_cfg)
    if _searches(hydra_cfg) and cfg.objective is None:
        raise UserError("a search needs a number to go by: objective=style_gram or objective=[style_gram,content_loss]")


def _check_processes(cfg: DictConfig, hydra_cfg: DictConfig) -> None:
    """Raise a UserError if a job needs another number of processes than the launcher starts."""
    launcher = hydra_cfg.launcher
    together = hooks.several_processes(cfg)
    if "SlurmLauncher" not in str(launcher.get("_target_")):
        if not together:
            return
        raise UserError(
            "trainer=ddp starts this command again for every device, as does any trainer with several devices, and in "
            "a sweep each copy would run the whole sweep: let Slurm start the processes (hydra/launcher=slurm), use "
            "one device per job (trainer.devices=1 trainer=default), or start the jobs one by one without -m"
        )
    started = (launcher.nodes, launcher.tasks_per_node)
    if not together:
        if started != (1, 1):
            raise UserError(
                f"Slurm starts {started[1]} processes on each of {started[0]} machines for every job, but a job is one "
                "process: set hydra.launcher.nodes=1 hydra.launcher.tasks_per_node=1, or use trainer=ddp to train with "
                "several processes"
            )
        return
    if started != (cfg.trainer.get("num_nodes", 1), cfg.trainer.devices):
        raise UserError(
            f"Slurm starts {started[1]} processes on each of {started[0]} machines, but the training has "
            f"trainer.num_nodes={cfg.trainer.get('num_nodes', 1)} trainer.devices={cfg.trainer.devices}: set "
            "hydra.launcher.nodes and hydra.launcher.tasks_per_node to these numbers"
        )


def _searches(hydra_cfg: DictConfig) -> bool:
    """Whether the sweeper chooses values by earlier results instead of listing all jobs at the start."""
    return "optuna" in str(hydra_cfg.sweeper.get("_target_"))


def _how_to_go_on(hydra_cfg: DictConfig) -> str:
    """A line that says how to continue an interrupted sweep; '' for a search."""
    if _searches(hydra_cfg):
        return ""  # a search would choose other values
    folder = shlex.quote(f"hydra.sweep.dir={hydra_cfg.sweep.dir}")
    return f"\nthe same command with {folder} continues; finished jobs are kept"


def _variants(cfg: DictConfig, overrides: list[str]) -> dict[str, DictConfig]:
    """The configuration of each method in `task.methods`: `cfg` composed again with the overrides of the method.

    task.methods is a list of methods, or label -> overrides. The label is the method unless the overrides choose
    another. An override may also be a list of overrides, so that a file can name overrides that several methods share.
    With `results`, a method that the command line chooses is one of several, since it is not needed.
    """
    task = early.plain_table(cfg.task)
    chosen = [override.partition("=")[2] for override in overrides if override.startswith("method=")]
    wanted: Any = task.get("methods") or (chosen[-1:] if cfg.get("results") else {})
    wanted = [wanted] if isinstance(wanted, str) else wanted
    wanted = wanted if isinstance(wanted, dict) else {name: [] for name in wanted}
    shared = {key: value for key, value in early.plain_table(cfg, resolve=True).items() if key in SHARED}
    variants: dict[str, DictConfig] = {}
    for label, given in wanted.items():
        entries = [given] if isinstance(given, str) else given or []
        words = [word for entry in entries for word in ([entry] if isinstance(entry, str) else entry)]
        method = [] if any(word.startswith("method=") for word in words) else [f"method={label}"]
        common = [override for override in overrides if not override.startswith(("method=", "++task.methods"))]
        try:
            variants[str(label)] = compose("config", [*common, *method, *quoted(outputs.unescaped(words))[0]])
        except Exception as error:
            if sentence := sentence_of(error):
                raise UserError(f"task.methods, {label}: {sentence}") from None
            raise
        for key, value in early.plain_table(variants[str(label)], resolve=True).items():
            needless = key == "style" and None in (value, shared[key])  # the network has learned its styles
            if key in shared and value != shared[key] and not needless:
                raise UserError(f"task.methods, {label}: {key}=... is the same for all methods, sweep it with -m")
    return variants


def one_method(args: list[str]) -> list[str]:
    """Replace `method=[a,b]` by what Hydra can compose: the first method, and the list for the task.

    Each method has its own layers, losses and weights, so that they cannot share one configuration.
    """
    several = [re.fullmatch(r"method=\[(.+)\]", arg) for arg in args]
    replaced = []
    for arg, match in zip(args, several, strict=True):
        names = match[1].replace(" ", "").split(",") if match else []
        replaced += [f"method={names[0]}", f"++task.methods=[{','.join(names)}]"] if match else [arg]
    return replaced


def _in_sweep() -> bool:
    """Whether this is a job of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _sweep_name() -> str | None:
    """Name of the sweep's folder, by which loggers group runs; None outside of sweeps."""
    return Path(HydraConfig.get().sweep.dir).name if _in_sweep() else None


def _slurm_gpus(*, _root_: Any) -> Any:
    """Number of GPUs per machine to request from Slurm; None for other accelerators."""
    trainer = _root_.trainer
    return trainer.devices if trainer.get("accelerator") in ("gpu", "cuda") else None


def _job_name() -> str | None:
    """Name of a job that is unique among all sweeps; None outside of sweeps."""
    return f"{_sweep_name()} {HydraConfig.get().job.num}" if _in_sweep() else None


def _job_number() -> int | None:
    """Number of a job in its sweep; None outside of sweeps."""
    return HydraConfig.get().job.num if _in_sweep() else None


def _env_or(name: str, default: Any) -> Any:
    """The value of an environment variable, or the default if it is not set or empty."""
    return os.environ.get(name) or default


# At import instead of in main, because processes of a launcher import this module and run _job.
composing.install()
RESOLVERS: dict[str, Callable[..., Any]] = {
    "sweep_name": _sweep_name,
    "job_name": _job_name,
    "job_number": _job_number,
    "in_sweep": _in_sweep,
    "slurm_gpus": _slurm_gpus,
    "env_or": _env_or,
}
for _name, _resolver in RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _resolver, replace=True)
# Hydra warns when a preset has the name of a plugin's own options; here this is intended.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
