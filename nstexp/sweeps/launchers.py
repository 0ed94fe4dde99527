"""Sweeps on Slurm and Ray: what Hydra's plugins launch is awaited here, so that a job that dies is a failed row of the
report and the others go on.

The plugins give up at the first job that leaves no result, and on a cluster without accounting wait for it for ever.
Hydra admits launchers only from packages of its own namespace, so the plugins' classes get another `launch`.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from omegaconf import OmegaConf, open_dict

from nstexp.console import progress
from nstexp.core.errors import JobFailed
from nstexp.sweeps.slurm import Watcher

log = logging.getLogger(__name__)
LOOK_EVERY_SECONDS = 2.0
# Parameters that all of submitit's executors know; the others want the executor's name before theirs.
COMMON = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
          "stderr_to_stdout")  # fmt: skip
# How jobs end, and what helps.
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
    """Give a plugin's launcher class the `launch` of this module, if there is one.

    Args:
        target: the `_target_` of the launcher.
    """
    module, _, name = target.rpartition(".")
    own = {"SlurmLauncher": _launch_on_slurm, "RayLauncher": _launch_on_ray}.get(name)
    if own is not None and module.startswith("hydra_plugins."):
        with suppress(ImportError):  # the command itself says what is not installed
            getattr(import_module(module), name).launch = own


def _launch_on_slurm(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
    """Submit the jobs as one array and wait for all of them.

    Raises:
        JobFailed: Slurm did not take them.
        KeyboardInterrupt: the jobs go on.
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
        several = [(list(own), "hydra.sweep.dir", n) for n, own in zip(numbers, job_overrides, strict=True)]
        several = [(*own, f"job {own[-1]}", Singleton.get_state()) for own in several]
        jobs = executor.map_array(launcher, *zip(*several, strict=True))
    except (FailedSubmissionError, RuntimeError, OSError, ValueError) as error:
        raise JobFailed(f"Slurm did not take the jobs: {_last_line(error)}") from None
    watcher = Watcher()
    for job in jobs:
        for part in (job, *(job.task(n) for n in range(job.num_tasks))):
            part.watcher = watcher
        watcher.register_job(job.job_id)
    array = jobs[0].job_id.partition("_")[0]
    log.info("%d in Slurm's queue as job %s; what they print is in %s", len(jobs), array, folder / ".submitit")

    def take(number: int) -> JobReturn | None:
        return _slurm_result(jobs[number]) if jobs[number].done() else None

    try:
        return _await(launcher, take, job_overrides, initial_job_idx, lambda: _count(watcher, jobs))
    except KeyboardInterrupt:
        log.info("the jobs go on: `scancel %s` ends them, `python -m nstexp.report %s` reports", array, folder)
        raise


def _launch_on_ray(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
    """Give the jobs to Ray and wait for all of them."""
    import ray

    setup_globals()
    _begin(launcher)
    own = _start_ray(launcher.ray_cfg.init)
    remote = OmegaConf.to_container(launcher.ray_cfg.remote, resolve=True)
    try:
        job = ray.remote(_run_on_ray).options(**remote)
    except (TypeError, ValueError) as error:
        raise JobFailed(f"hydra.launcher.ray.remote: {_last_line(error)}") from None
    if own:
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
            return ray.get(running[number])
        except ray.exceptions.RayTaskError as error:  # before or after nstexp's own part
            return _failed(f"the job failed: {_last_line(error)}")
        except ray.exceptions.RayError as error:
            return _failed(f"its process died ({type(error).__name__}): killed, or out of memory")

    return _await(launcher, take, job_overrides, initial_job_idx, lambda: "")


def _start_ray(settings: Any) -> bool:
    """Start a Ray, or join the cluster that the settings name; whether it is one of its own."""
    from hydra_plugins.hydra_ray_launcher._launcher_util import start_ray

    of_its_own = ("num_cpus", "num_gpus", "include_dashboard")  # what a cluster that is there has decided
    try:
        with open_dict(settings):
            settings.address = settings.get("address") or "local"  # with none Ray would join a cluster that it finds
            own = settings.address == "local"
            for key in [k for k, v in settings.items() if v is None or (not own and k in of_its_own)]:
                del settings[key]
        start_ray(settings)
    except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
        raise JobFailed(f"hydra.launcher.ray.init: Ray does not start ({_last_line(error)})") from None
    return own


def _run_on_ray(folder: str, *job: Any) -> JobReturn:
    """What a process of Ray's does. On a cluster it would work in the folder in which Ray was started."""
    from hydra_plugins.hydra_ray_launcher._launcher_util import _run_job

    os.chdir(folder)
    return _run_job(*job)


def _check_that_ray_has(remote: dict[str, Any], resources: dict[str, float]) -> None:
    """Raise for jobs that want more than a Ray has that does not grow: it would wait for ever."""
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
    """The results of all jobs, under a bar.

    Args:
        take: job -> its result, or None while it has none.
        job_overrides, first: of the jobs; the number of the first.
        others: what the jobs do that have no result yet.
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
    """Of a job, where it may have left no trace."""
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
    """What the first process of a job returned, or why there is nothing."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    part = job.task(0)
    try:
        return part.result()
    except FailedJobError as error:  # before or after nstexp's own part
        return _failed(f"job {job.job_id} failed: {_last_line(error)} (all of it: {part.paths.stderr})")
    except UncompletedJobError:
        state = job.watcher.get_state(job.job_id, mode="force").split()[0]
        reason = ENDS.get(state, f"its process was killed (Slurm says {state})")
        return _failed(f"job {job.job_id} left no result: {reason}; what it printed: {part.paths.stderr}")


def _count(watcher: Watcher, jobs: Sequence[Any]) -> str:
    watcher.say_why_jobs_wait()
    states = [watcher.get_state(job.job_id, mode="cache") for job in jobs]
    return ", ".join(f"{states.count(state)} {state.lower()}" for state in ("RUNNING", "PENDING") if state in states)


def _last_line(error: Exception) -> str:
    """Of what a program or a traceback says, mostly the reason."""
    text = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines()]
    meant = [line for line in lines if line and not line.startswith(("--", "You can check", "- "))]
    return meant[-1] if meant else type(error).__name__
