"""Wait for the jobs of sweeps on Slurm and Ray, so that a job that dies becomes a failed row in the report.

Hydra's plugins stop at the first job without a result, and wait forever for it on a cluster without accounting. Hydra
accepts launchers only from packages in its own namespace, so their classes get another `launch` method here.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from omegaconf import OmegaConf, open_dict

from nstexp.console import progress
from nstexp.core.errors import JobFailed
from nstexp.sweeps.slurm import Watcher

log = logging.getLogger(__name__)
LOOK_EVERY_SECONDS = 2.0
# Parameters that all executors of submitit share; other names need the executor's name as a prefix.
COMMON = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
          "stderr_to_stdout")  # fmt: skip
# State of a job that ended without a result -> the reason, and the setting that may help.
ENDS = {
    "OUT_OF_MEMORY": "out of memory: hydra.launcher.mem_gb=... asks for more",
    "TIMEOUT": "out of time: hydra.launcher.timeout_min=... asks for more",
    "NODE_FAIL": "its machine failed",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted, and not put back into the queue",
}


class JobDied(JobFailed):
    """A job left no result."""


def install(target: str) -> None:
    """Replace the `launch` method of a launcher class by one of this module, if there is one for it.

    Args:
        target: the `_target_` of the launcher.
    """
    module, _, name = target.rpartition(".")
    launch = {"SlurmLauncher": _launch_on_slurm, "RayLauncher": _launch_on_ray}.get(name)
    if launch is not None and module.startswith("hydra_plugins."):
        with suppress(ImportError):  # the command itself reports missing packages
            getattr(import_module(module), name).launch = launch


def _launch_on_slurm(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
    """Submit the jobs as one array and wait for all of them.

    Raises:
        JobFailed: Slurm refused the jobs.
        KeyboardInterrupt: the user stopped waiting; the jobs continue.
    """
    import submitit
    from submitit.core.utils import FailedSubmissionError

    folder = _begin(launcher)
    params = dict(launcher.params)
    place, turns = params.pop("submitit_folder"), params.pop("max_num_timeout")
    try:
        executor = submitit.AutoExecutor(folder=place, cluster="slurm", slurm_max_num_timeout=turns)
        executor.update_parameters(**{k if k in COMMON else f"slurm_{k}": v for k, v in params.items()})
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        common = [(list(words), "hydra.sweep.dir", n) for n, words in zip(numbers, job_overrides, strict=True)]
        arguments = [(*job, f"job {job[-1]}", Singleton.get_state()) for job in common]
        jobs = executor.map_array(launcher, *zip(*arguments, strict=True))
    except (FailedSubmissionError, RuntimeError, OSError, ValueError) as error:
        raise JobFailed(f"Slurm did not accept the jobs: {_last_line(error)}") from None
    watcher = Watcher()
    for job in jobs:
        for part in (job, *(job.task(n) for n in range(job.num_tasks))):
            part.watcher = cast(Any, watcher)  # it has the methods of submitit's watchers
        watcher.register_job(job.job_id)
    array = jobs[0].job_id.partition("_")[0]
    log.info("%d jobs in Slurm's queue as job %s; their output is in %s", len(jobs), array, folder / ".submitit")

    def take(number: int) -> JobReturn | None:
        return _slurm_result(jobs[number]) if jobs[number].done() else None

    try:
        return _await(launcher, take, job_overrides, initial_job_idx, lambda: _count(watcher, jobs))
    except KeyboardInterrupt:
        log.info("the jobs continue: `scancel %s` ends them, `python -m nstexp.report %s` reports", array, folder)
        raise


def _launch_on_ray(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
    """Submit the jobs to Ray and wait for all of them.

    Raises:
        JobFailed: Ray cannot be started, or cannot run the jobs.
    """
    import ray

    setup_globals()
    _begin(launcher)
    is_new = _start_ray(launcher.ray_cfg.init)
    remote = cast("dict[str, Any]", OmegaConf.to_container(launcher.ray_cfg.remote, resolve=True))
    try:
        job = ray.remote(_run_on_ray).options(**remote)
    except (TypeError, ValueError) as error:
        raise JobFailed(f"hydra.launcher.ray.remote: {_last_line(error)}") from None
    if is_new:
        _check_that_ray_has(remote, ray.cluster_resources())
    running, state = [], Singleton.get_state()
    for number, overrides in enumerate(job_overrides, initial_job_idx):
        config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = f"job {number}", number
        running.append(job.remote(os.getcwd(), launcher.hydra_context, config, launcher.task_function, state))

    def take(number: int) -> JobReturn | None:
        if not ray.wait([running[number]], timeout=0)[0]:
            return None
        try:
            return cast(JobReturn, ray.get(running[number]))
        except ray.exceptions.RayTaskError as error:  # raised outside of nstexp's code
            return _failed(f"the job failed: {_last_line(error)}")
        except ray.exceptions.RayError as error:
            return _failed(f"its process died ({type(error).__name__}): killed, or out of memory")

    return _await(launcher, take, job_overrides, initial_job_idx, lambda: "")


def _start_ray(settings: Any) -> bool:
    """Start a new Ray, or join the cluster that the settings name. Returns whether it is a new one."""
    from hydra_plugins.hydra_ray_launcher._launcher_util import start_ray

    for_new_only = ("num_cpus", "num_gpus", "include_dashboard")  # settings that an existing cluster already has
    try:
        with open_dict(settings):
            settings.address = settings.get("address") or "local"  # without an address, Ray joins any cluster it finds
            is_new = bool(settings.address == "local")
            for key in [k for k, v in settings.items() if v is None or (not is_new and k in for_new_only)]:
                del settings[key]
        start_ray(settings)
    except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
        raise JobFailed(f"hydra.launcher.ray.init: Ray does not start ({_last_line(error)})") from None
    return is_new


def _run_on_ray(folder: str, *job: Any) -> JobReturn:
    """Run a job in a process of Ray, in this command's folder. On a cluster, Ray would use the folder it started in."""
    from hydra_plugins.hydra_ray_launcher._launcher_util import _run_job

    os.chdir(folder)
    return cast(JobReturn, _run_job(*job))


def _check_that_ray_has(remote: dict[str, Any], resources: dict[str, float]) -> None:
    """Raise JobFailed for jobs that need more than a fixed Ray has, because they would wait forever."""
    for key, name in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        if (remote.get(key) or 0) > resources.get(name, 0):
            has = f"this Ray has {resources.get(name, 0):g}, so that no job would ever start"
            raise JobFailed(f"hydra.launcher.ray.remote.{key}={remote[key]}: {has}")


def _begin(launcher: Any) -> Path:
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    folder = Path(str(launcher.config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _await(
    launcher: Any,
    take: Callable[[int], JobReturn | None],
    job_overrides: Sequence[Sequence[str]],
    first: int,
    others: Callable[[], str],
) -> list[JobReturn]:
    """Wait for all jobs with a progress bar, and return their results in order.

    Args:
        launcher: of Hydra's plugin.
        take: number of a job -> its result, or None while it has none.
        job_overrides: the overrides of each job.
        first: the number of the first job.
        others: describes the states of the jobs without a result, for the bar.
    """
    from nstexp.outputs import record_death

    results: dict[int, JobReturn] = {}
    with progress(len(job_overrides), "jobs", "job", seconds_in_a_log=30.0) as bar:
        while len(results) < len(job_overrides):
            for number in [n for n in range(len(job_overrides)) if n not in results]:
                found = take(number)
                if found is None:
                    continue
                results[number] = found
                bar.update()
                if found.status == JobStatus.FAILED and isinstance(found._return_value, JobDied):
                    overrides = filter_overrides(job_overrides[number])
                    found.overrides = overrides
                    folder = _run_folder(launcher, job_overrides[number], first + number)
                    record_death(folder, str(found._return_value), overrides)
            if len(results) < len(job_overrides):
                bar.set_postfix_str(others(), refresh=False)
                bar.update(0)
                time.sleep(LOOK_EVERY_SECONDS)
    return [results[number] for number in range(len(job_overrides))]


def _run_folder(launcher: Any, overrides: Sequence[str], number: int) -> Path:
    """The run folder of a job, also of a job that has not created it."""
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id, config.hydra.job.num = f"job {number}", number
    HydraConfig.instance().set_config(config)  # for ${hydra:job.num}
    return Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir))


def _failed(reason: str) -> JobReturn:
    result = JobReturn()
    result.status, result.return_value = JobStatus.FAILED, JobDied(reason)
    return result


def _slurm_result(job: Any) -> JobReturn:
    """The result of the first process of a job, or a failed result with the reason."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    part = job.task(0)
    try:
        return cast(JobReturn, part.result())
    except FailedJobError as error:  # raised outside of nstexp's code
        return _failed(f"job {job.job_id} failed: {_last_line(error)} (full output: {part.paths.stderr})")
    except UncompletedJobError:
        state = job.watcher.get_state(job.job_id, mode="force").split()[0]
        reason = ENDS.get(state, f"its process was killed (Slurm says {state})")
        return _failed(f"job {job.job_id} left no result: {reason}; its output: {part.paths.stderr}")


def _count(watcher: Watcher, jobs: Sequence[Any]) -> str:
    """The numbers of running and waiting jobs, for the progress bar."""
    watcher.say_why_jobs_wait()
    states = [watcher.get_state(job.job_id, mode="cache") for job in jobs]
    return ", ".join(f"{states.count(state)} {state.lower()}" for state in ("RUNNING", "PENDING") if state in states)


def _last_line(error: Exception) -> str:
    """The last line of a traceback or of a program's output, which mostly holds the reason."""
    text = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines()]
    useful = [line for line in lines if line and not line.startswith(("--", "You can check", "- "))]
    return useful[-1] if useful else type(error).__name__
