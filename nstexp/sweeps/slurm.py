"""States of Slurm jobs, from Slurm's accounting, or from its controller if the cluster keeps no accounts."""

import logging
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)
# Slurm's states of jobs that have not ended, and of jobs that it may requeue by itself.
WAITING = ("PENDING", "RUNNING", "UNKNOWN", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SUSPENDED", "STOPPED",
           "COMPLETING", "CONFIGURING", "RESIZING", "STAGE_OUT", "SIGNALING", "READY")  # fmt: skip
TRANSIENT = ("PREEMPTED", "NODE_FAIL")
SECONDS_TO_COME_BACK = 300.0  # how long a job in one of TRANSIENT may take to return to the queue
# Reasons why jobs wait: those that need no message, and advice for those where waiting does not help.
USUAL_REASONS = ("None", "Priority", "Resources", "BeginTime", "JobArrayTaskLimit", "Dependency", "Cleaning")
REASONS = {
    "PartitionTimeLimit": ", hydra.launcher.timeout_min exceeds the limit of the partition; cancel them with scancel",
    "PartitionNodeLimit": ", hydra.launcher.nodes exceeds the limit of the partition; cancel them with scancel",
    "BadConstraints": ", no machine meets the settings of hydra.launcher; cancel them with scancel",
}
SECONDS_BETWEEN_REASONS = 10.0


class Watcher:
    """Looks up the states of jobs in Slurm's accounting, or else asks its controller.

    It has the methods of submitit's watchers.
    """

    def __init__(self) -> None:
        from submitit.slurm.slurm import SlurmInfoWatcher

        self._accounting = SlurmInfoWatcher(delay_s=60)
        self._ids: dict[str, None] = {}
        self._states: dict[str, str] = {}
        self._since: dict[str, float] = {}  # when a job was first seen in one of TRANSIENT
        self._looked = self._asked_why = float("-inf")  # monotonic time of the last look-up
        self._reasons = set(USUAL_REASONS)  # reasons that need no further message
        self._without_accounting = False

    def register_job(self, job_id: str) -> None:
        """Look up this job from now on."""
        self._ids[job_id] = None

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether the job has ended, successfully or not."""
        state = self.get_state(job_id, mode).split()[0]
        if state in TRANSIENT:
            since = self._since.setdefault(job_id, time.monotonic())
            return time.monotonic() - since > SECONDS_TO_COME_BACK
        self._since.pop(job_id, None)
        return state not in WAITING

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        """Slurm's state of a job; GONE if Slurm no longer knows it.

        Args:
            job_id: id of the job, with the index if it belongs to an array.
            mode: how old the answer may be: "standard" 10 s, "force" 1 s, "cache" any age.
        """
        longest = {"standard": 10.0, "force": 1.0, "cache": float("inf")}[mode]
        if time.monotonic() - self._looked > longest:
            self._look()
            self._looked = time.monotonic()
        return self._states.get(job_id) or "UNKNOWN"

    def get_info(self, job_id: str, mode: str = "standard") -> dict[str, str]:
        """Id and state of a job, in the form of submitit's watchers."""
        return {"JobID": job_id, "State": self.get_state(job_id, mode)}

    def say_why_jobs_wait(self) -> None:
        """Warn why Slurm does not start jobs, once for every reason besides a normal queue."""
        if "PENDING" not in self._states.values() or time.monotonic() - self._asked_why < SECONDS_BETWEEN_REASONS:
            return
        self._asked_why = time.monotonic()
        arrays = ",".join(dict.fromkeys(job_id.partition("_")[0] for job_id in self._ids))
        command = ["squeue", "-h", "-t", "PENDING", "-o", "%r", "-j", arrays]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            for reason in dict.fromkeys(done.stdout.split()):
                if reason not in self._reasons:
                    log.warning("Slurm does not start jobs: %s%s", reason, REASONS.get(reason, ""))
                self._reasons.add(reason)

    def _look(self) -> None:
        """Refresh the states of all registered jobs."""
        arrays = list(dict.fromkeys(job_id.partition("_")[0] for job_id in self._ids))
        if not self._without_accounting:
            command = ["sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", ",".join(arrays)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            except FileNotFoundError:
                self._without_accounting = True
            except (OSError, subprocess.SubprocessError):
                return  # try again later
            else:
                self._read_accounts(done)
        if self._without_accounting:
            for array in arrays:
                self._ask_controller(array)

    def _read_accounts(self, done: subprocess.CompletedProcess[str]) -> None:
        if done.returncode == 0:
            known = self._accounting.read_info(done.stdout)
            self._states |= {job_id: info["State"] for job_id, info in known.items() if info.get("State")}
        elif "disabled" in done.stderr:
            self._without_accounting = True
            log.info("this cluster keeps no accounts of jobs; its controller is asked instead")

    def _ask_controller(self, array: str) -> None:
        """Refresh the states of the jobs of an array from `scontrol`."""
        command = ["scontrol", "show", "job", "-o", array]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return
        if done.returncode and "Invalid job id" not in done.stderr:
            return  # the controller does not answer
        known = controller_states(done.stdout)
        for job_id in self._ids:
            if job_id.partition("_")[0] == array and job_id not in known:
                self._states[job_id] = "GONE"  # it ended, and the controller has dropped its record
        self._states |= known


def controller_states(listing: str) -> dict[str, str]:
    """Parse the lines of `scontrol show job -o`: job id, or `array_index`, -> state."""
    states: dict[str, str] = {}
    for line in listing.splitlines():
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "JobId" not in values:
            continue
        for number in _indices(values["ArrayTaskId"]) if "ArrayTaskId" in values else [None]:
            job_id = values["JobId"] if number is None else f"{values['ArrayJobId']}_{number}"
            states[job_id] = values.get("JobState", "UNKNOWN")
    return states


def _indices(text: str) -> list[int]:
    """The indices of the waiting jobs of an array, from a text such as 1-3,7%2."""
    indices: list[int] = []
    for part in text.partition("%")[0].split(","):
        low, _, high = part.partition("-")
        if low.isdecimal():
            indices += range(int(low), int(high.partition(":")[0] or low) + 1)
    return indices


def cancel_jobs(sweep: Path, cwd: Path) -> str | None:
    """End the jobs of a sweep that are in Slurm's queue, as `scancel` does.

    The names of the jobs are read from the folder of the sweep. Others may write there, so only jobs that Slurm knows
    with the folder of the command are ended.

    Args:
        sweep: the folder of the sweep.
        cwd: the folder in which its command was started.

    Returns:
        Why the jobs are not ended, as a part of a sentence; None: they are, or there are none.
    """
    entries = (sweep / ".submitit").glob("[0-9]*_*")
    arrays = {match[1] for entry in entries if (match := re.match(r"(\d+)_", entry.name))}
    try:
        listed = _slurm("squeue", "-h", "-r", "-o", "%F\t%Z")
        queued = {array for array, _, place in (line.partition("\t") for line in listed.splitlines())
                  if array in arrays and Path(place).resolve() == cwd.resolve()}  # fmt: skip
        if queued:
            _slurm("scancel", *sorted(queued))
    except FileNotFoundError:
        return "Slurm's commands are not on this machine"
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None)
        said = said.strip() if isinstance(said, str) else ""  # bytes, or nothing, after a command that took too long
        return (said or str(error)).splitlines()[-1]
    return None


def _slurm(*command: str) -> str:
    """What a command of Slurm's prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
