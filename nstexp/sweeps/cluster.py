"""Put a job back into the queue of its cluster, with its work saved, when the cluster takes its machine away.

Slurm sends a signal before it ends a job (`--signal=USR2@120`), near the time limit or for a job of higher priority. A
training then finishes its step and writes a checkpoint, and `requeue` puts the job back: with submitit's handler if
submitit started the job, else with `scontrol requeue`. (Lightning's handler for Slurm would save in the middle of a
step, and every process in a different one.)
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

INTERACTIVE = ("bash", "interactive", "zsh", "sh")  # names that Slurm gives to interactive jobs
SECONDS_TO_BE_KILLED = 120
WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))


def in_slurm_job() -> bool:
    """Whether Slurm started this process as a batch job, or as one process of a batch job."""
    return "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def warnings() -> tuple[int, ...]:
    """The signals by which a cluster warns that it will take this process's machine away; () outside of clusters."""
    return WARNINGS if in_slurm_job() else ()


def requeue_when_warned(first: bool) -> None:
    """Make the signals of `warnings` put the job back into the queue at once, until other handlers are installed.

    Args:
        first: whether this process acts for all processes of the job.
    """

    def answer(signum: int, frame: Any) -> None:
        problem = requeue(first)
        sys.exit(problem and f"Slurm ended the job, and it is not back in the queue: {problem}")

    for signum in warnings():
        if signal.getsignal(signum) == signal.SIG_DFL:
            signal.signal(signum, answer)


def requeue(first: bool = True) -> str | None:
    """Put this process's job back into the queue, unless Slurm has ended it for good.

    On success, Slurm or submitit may end this process before the function returns.

    Args:
        first: whether this process acts for all processes of the job; the others wait until they are killed.

    Returns:
        Why the job is not back in the queue; None if it is.
    """
    if not first:
        time.sleep(SECONDS_TO_BE_KILLED)  # a process that exits early may make Slurm kill the first one
        return None
    state = _state()
    if state != "RUNNING":
        return f"Slurm says that it is {state}"
    by_submitit = _submitit_handler()
    try:
        if by_submitit is not None:
            by_submitit(signal.SIGUSR2, None)  # ends this process
        else:
            _scontrol("requeue", job_id())
    except Exception as error:  # scontrol failed, or submitit refused: requeued too often
        return " ".join((getattr(error, "stderr", None) or str(error)).split())
    return None


def job_id() -> str:
    """The id of this job as Slurm's commands expect it, with the index of a job in an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _state() -> str:
    """The state of the job: RUNNING, CANCELLED, TIMEOUT, PREEMPTED (it is requeued by itself) ..."""
    try:
        match = re.search(r"JobState=(\w+)", _scontrol("show", "job", "-o", os.environ["SLURM_JOB_ID"]))
    except (OSError, subprocess.SubprocessError):
        return "RUNNING"  # if it is not, requeueing fails and says so
    return match[1] if match else "RUNNING"


def _scontrol(*args: str) -> str:
    return subprocess.run(["scontrol", *args], capture_output=True, text=True, timeout=60, check=True).stdout


def _submitit_handler() -> Callable[[int, Any], None] | None:
    """The signal handler of submitit, if submitit started this process."""
    handler = signal.getsignal(signal.SIGUSR2)
    module = type(getattr(handler, "__self__", None)).__module__
    return handler if callable(handler) and module.startswith("submitit.") else None
