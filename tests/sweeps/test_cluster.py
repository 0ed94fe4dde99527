"""What clusters ask of nstexp, with stand-ins for Slurm's commands. The real thing: tests/sweeps/test_slurm.py."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import SMOKE

from nstexp.outputs import RunFolder, read_summary, record_death
from nstexp.sweeps import cluster, slurm

LISTING = """\
JobId=12 ArrayJobId=12 ArrayTaskId=3-5,7%2 JobName=nstexp JobState=PENDING Reason=Resources
JobId=14 ArrayJobId=12 ArrayTaskId=1 JobName=nstexp JobState=RUNNING Reason=None
JobId=13 ArrayJobId=12 ArrayTaskId=0 JobName=nstexp JobState=OUT_OF_MEMORY Reason=OutOfMemory
JobId=20 JobName=nstexp JobState=CANCELLED Reason=None
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Make commands of Slurm's that print a text and end with a code; what they were called with is in NAME.log."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def make(name: str, text: str = "", code: int = 0, error: str = "") -> Path:
        (folder / f"{name}.out").write_text(text)
        (folder / f"{name}.err").write_text(error)
        script = f'#!/bin/sh\necho "$@" >> {folder}/{name}.log\ncat {folder}/{name}.out\ncat {folder}/{name}.err >&2\n'
        (folder / name).write_text(f"{script}exit {code}\n")
        (folder / name).chmod(stat.S_IRWXU)
        return folder / f"{name}.log"

    return make


@pytest.fixture
def in_job(monkeypatch):
    """As if Slurm had started this process."""
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setenv("SLURM_JOB_NAME", "nstexp")
    handlers = {number: signal.getsignal(number) for number in cluster.WARNINGS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_states_of_arrays_and_single_jobs():
    found = slurm.controller_states(LISTING)
    assert found == {
        "12_0": "OUT_OF_MEMORY", "12_1": "RUNNING", "12_3": "PENDING", "12_4": "PENDING", "12_5": "PENDING",
        "12_7": "PENDING", "20": "CANCELLED",
    }  # fmt: skip


def test_without_accounting_the_controller_is_asked(commands):
    pytest.importorskip("submitit")
    commands("sacct", code=1, error="Slurm accounting storage is disabled\n")
    asked = commands("scontrol", LISTING)
    watcher = slurm.Watcher()
    for job in ("12_0", "12_1", "12_3", "12_9", "20"):
        watcher.register_job(job)
    done = [watcher.is_done(job) for job in ("12_0", "12_1", "12_3", "12_9", "20")]
    assert done == [True, False, False, True, True], "who is not listed has been forgotten"
    assert watcher.get_state("12_9") == "GONE"
    assert asked.read_text().splitlines() == ["show job -o 12", "show job -o 20"], "once for all"


@pytest.mark.slow
def test_a_controller_that_does_not_answer_ends_no_job(commands):
    pytest.importorskip("submitit")
    commands("sacct", code=1, error="Slurm accounting storage is disabled\n")
    commands("scontrol", code=1, error="slurm_load_jobs error: Unable to contact slurm controller\n")
    watcher = slurm.Watcher()
    watcher.register_job("12_0")
    assert not watcher.is_done("12_0")
    commands("scontrol", code=1, error="slurm_load_jobs error: Invalid job id specified\n")
    time.sleep(1.1)
    assert watcher.is_done("12_0", mode="force")


@pytest.mark.slow
def test_accounts_go_first_and_their_absence_is_not_a_hiccup(commands):
    pytest.importorskip("submitit")
    commands("sacct", "JobID|State|NodeList\n12_0|COMPLETED|n1\n12_0.batch|COMPLETED|n1\n12_[1-2%2]|PENDING|\n")
    asked = commands("scontrol", LISTING)
    watcher = slurm.Watcher()
    for job in ("12_0", "12_1"):
        watcher.register_job(job)
    assert [watcher.is_done(job) for job in ("12_0", "12_1")] == [True, False]
    commands("sacct", code=1, error="sacct: error: slurm_persist_conn_open: failed to connect\n")
    time.sleep(1.1)
    assert watcher.get_state("12_1", mode="force") == "PENDING"
    assert not asked.exists()


def test_a_preempted_job_may_come_back(commands, monkeypatch):
    pytest.importorskip("submitit")
    commands("sacct", "JobID|State|NodeList\n20|PREEMPTED|n1\n")
    watcher = slurm.Watcher()
    watcher.register_job("20")
    assert not watcher.is_done("20")
    monkeypatch.setattr(slurm, "SECONDS_TO_COME_BACK", -1)
    assert watcher.is_done("20"), "not for ever"


def test_a_job_goes_back_into_the_queue(in_job, commands, monkeypatch):
    asked = commands("scontrol", "JobId=14 JobState=RUNNING Reason=None")
    assert cluster.requeue() is None
    assert asked.read_text().splitlines() == ["show job -o 14", "requeue 14"]
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert cluster.requeue() is None
    assert asked.read_text().splitlines()[-1] == "requeue 12_1"


def test_a_cancelled_job_does_not(in_job, commands):
    asked = commands("scontrol", "JobId=14 JobState=CANCELLED Reason=None")
    assert cluster.requeue() == "Slurm says that it is CANCELLED"
    assert asked.read_text().splitlines() == ["show job -o 14"]


def test_why_a_job_cannot_go_back_is_said(in_job, commands):
    commands("scontrol", code=1, error="Requested operation is presently disabled for job 14\n")
    assert cluster.requeue() == "Requested operation is presently disabled for job 14"


def test_only_a_batch_job_listens_to_its_cluster(in_job, monkeypatch):
    assert cluster.warnings() == (signal.SIGUSR1, signal.SIGUSR2)
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    assert cluster.warnings() == ()
    monkeypatch.delenv("SLURM_JOB_ID")
    assert cluster.warnings() == ()


def test_a_warning_before_the_work_begins_puts_the_job_back_at_once(in_job, commands):
    asked = commands("scontrol", "JobId=14 JobState=RUNNING Reason=None")
    cluster.requeue_when_warned(first=True)
    with pytest.raises(SystemExit) as end:
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(1)
    assert not end.value.code
    assert asked.read_text().splitlines()[-1] == "requeue 14"


def test_a_dead_run_is_recorded_unless_it_has_said_its_own_end(tmp_path):
    record_death(tmp_path / "3", "killed", ["weights.beta=1"])
    assert read_summary(tmp_path / "3").status == "failed"
    assert read_summary(tmp_path / "3").overrides == ["weights.beta=1"]
    for status, left in (("running", "failed"), ("completed", "completed"), ("interrupted", "interrupted")):
        folder = RunFolder(tmp_path / status)
        folder.path.mkdir()
        folder.summary.status, folder.summary.seed = status, 7
        folder.write_summary()
        record_death(folder.path, "killed")
        assert (read_summary(folder.path).status, read_summary(folder.path).seed) == (left, 7)


def test_a_launcher_without_m_is_refused(nstexp, folder):
    result = nstexp("hydra/launcher=joblib")
    assert result.code == 2
    assert result.sentences == ["hydra/launcher=... is for sweeps: python -m nstexp -m ..., also for a single job"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": None}),
        (("trainer.accelerator=gpu",), {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 1}),
        (
            ("trainer=ddp", "trainer.num_nodes=4", "trainer.devices=8", "trainer.accelerator=gpu"),
            {"nodes": 4, "tasks_per_node": 8, "gpus_per_node": 8},
        ),
        (("trainer=ddp", "trainer.devices=2", "hydra.launcher.nodes=3"), {"nodes": 3, "tasks_per_node": 2}),
    ],
)
def test_slurm_starts_a_process_per_device(args, expected):
    pytest.importorskip("submitit")
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from nstexp.cli import CONF

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", ["hydra/launcher=slurm", *args], return_hydra_config=True)
    for key, value in expected.items():
        assert composed.hydra.launcher[key] == value


@pytest.mark.slow
def test_a_killed_process_of_joblib_is_a_failed_row(folder):
    """And one sentence."""
    slow = ("method.max_steps=100000", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep")
    inputs = ("content=photo.png", "style=painting.jpg", "logger=none", "metrics=none")
    command = [sys.executable, "-m", "nstexp", "-m", *SMOKE, *inputs, *slow, "weights.beta=1,2"]
    pipe = subprocess.PIPE
    sweep = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    given_up = time.monotonic() + 90
    while not all((folder / "sweep" / n / "losses.csv").exists() for n in "01"):
        assert time.monotonic() < given_up and sweep.poll() is None
        time.sleep(0.2)
    os.kill(_worker_of(sweep.pid), signal.SIGKILL)
    _, err = sweep.communicate(timeout=90)
    assert sweep.returncode == 1
    assert "Traceback" not in err
    assert "the launcher lost a job (TerminatedWorkerError): killed, or out of memory" in err
    jobs = [read_summary(folder / "sweep" / n) for n in "01"]
    assert "failed" in [job.status for job in jobs]
    assert any("its process ended without a message" in str(job.error) for job in jobs)
    assert "its process ended without a message" in err
    assert "is validated against" not in err


def _worker_of(parent: int) -> int:
    """A process of the parent's that computes: joblib's others hold less memory."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "status").read_text()
        except OSError:
            continue
        if f"\nPPid:\t{parent}\n" in status:
            found[int(entry.name)] = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) if "VmRSS" in status else 0
    return max(found, key=found.get)
