"""What a job does when its cluster takes the machine away: it goes back into the queue, with its work saved.

Slurm warns with a signal before it ends a job (`--signal=USR2@120`): near its time limit, or for a job of higher
priority. A training finishes its step, writes a checkpoint, and then `requeue` puts the job back, by submitit's own
handler where submitit started it, else by `scontrol requeue`. (Lightning's handler for SLURM saves in the middle of a
step, and every process in another one.)
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

INTERACTIVE = ("bash", "interactive", "zsh", "sh")  # Slurm's names for jobs in which a person types
SECONDS_TO_BE_KILLED = 120
WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))


def in_slurm_job() -> bool:
    """Whether Slurm started this process as (a part of) a batch job."""
    return "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def warnings() -> tuple[int, ...]:
    """The signals by which a cluster announces that it takes this process's machine away."""
    return WARNINGS if in_slurm_job() else ()


def requeue_when_warned(first: bool) -> None:
    """Until something else answers to them, the signals of `warnings` put the job back into the queue at once.

    Args:
        first: whether this is the process that speaks for all of the job's.
    """

    def answer(signum: int, frame: Any) -> None:
        problem = requeue(first)
        sys.exit(problem and f"the job was to end, and is not back in the queue: {problem}")

    for signum in warnings():
        if signal.getsignal(signum) == signal.SIG_DFL:
            signal.signal(signum, answer)


def requeue(first: bool = True) -> str | None:
    """Put this process's job back into the queue, where Slurm has not ended it for good.

    Returns only if that was impossible or not wanted, or in the very moment before Slurm ends the process.

    Args:
        first: whether this is the process that speaks for all of the job's; the others wait to be ended.

    Returns:
        Why the job is not back in the queue; None if it is.
    """
    if not first:
        time.sleep(SECONDS_TO_BE_KILLED)  # whoever leaves early may take the first process along
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
    except Exception as error:  # of the command, or submitit's own: too many times
        return " ".join((getattr(error, "stderr", None) or str(error)).split())
    return None


def job_id() -> str:
    """As Slurm's commands want it, of an array with its index."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _state() -> str:
    """RUNNING, or what Slurm did with the job: CANCELLED, TIMEOUT, PREEMPTED (then it comes back by itself) ..."""
    try:
        found = re.search(r"JobState=(\w+)", _scontrol("show", "job", "-o", os.environ["SLURM_JOB_ID"]))
    except (OSError, subprocess.SubprocessError):
        return "RUNNING"  # the attempt will tell
    return found[1] if found else "RUNNING"


def _scontrol(*args: str) -> str:
    return subprocess.run(["scontrol", *args], capture_output=True, text=True, timeout=60, check=True).stdout


def _submitit_handler() -> Callable[[int, Any], None] | None:
    """What submitit does when it is warned, if it started this process."""
    handler = signal.getsignal(signal.SIGUSR2)
    of = type(getattr(handler, "__self__", None)).__module__
    return handler if of.startswith("submitit.") else None
