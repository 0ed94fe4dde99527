"""The real thing: a Slurm of two nodes on this machine, started here. `make test-cluster` asks for it."""

import csv
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import ROOT, SMOKE, embedded, finish, picture, wait_for
from torch.nn import functional as F

from nstexp.media.images import save_image
from nstexp.outputs import read_summary
from nstexp.studio import launching

TRAINING = (
    "method=adain", "task=train", "backbone=random", "logger=none", "precision=fp32", "trainer.accelerator=cpu",
    "data.content=photos", "data.style=paintings", "data.crop_px=32", "data.resize_px=40", "data.val_px=32",
    "data.val_pairs=2", "data.batch_size=4", "data.workers=0", "log_every_n_steps=1", "task.validate_every_n_steps=0",
    "task.checkpoint_every_n_steps=100000",
)  # fmt: skip
PICTURES = (*SMOKE, "content=photo.png", "style=painting.jpg", "logger=none", "metrics=none")
LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.partition=main", "hydra.launcher.cpus_per_task=1")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        os.environ.get("NSTEXP_TEST_SLURM") != "1", reason="starts a Slurm of its own: `make test-cluster` runs these"
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The cluster's environment variables; every process computes with one thread."""
    spec = importlib.util.spec_from_file_location("local_slurm", ROOT / "scripts" / "local_slurm.py")
    local_slurm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(local_slurm)
    folder = tmp_path_factory.mktemp("slurm")
    variables = {**os.environ, **local_slurm.start(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    yield variables
    local_slurm.stop(folder)


@pytest.fixture
def place(tmp_path, slurm):
    """A folder with pictures for either task; what is left in the queue is cancelled."""
    generator = torch.Generator().manual_seed(0)
    for kind in ("photos", "paintings"):
        for number in range(14):
            coarse = torch.rand(1, 3, 5, 6, generator=generator)
            image = F.interpolate(coarse, size=(40 + 3 * number, 80 - number), mode="bicubic", align_corners=False)
            save_image(image[0].clamp(0, 1), tmp_path / kind / f"{number:02d}.png")
    picture(str(tmp_path / "photo.png"), 50, 37, seed=1)
    picture(str(tmp_path / "painting.jpg"), 40, 44, seed=2)
    yield tmp_path
    subprocess.run(["scancel", "--state=PENDING", "-n", "nstexp,nstexp-train"], env=slurm)
    subprocess.run(["scancel", "-n", "nstexp,nstexp-train"], env=slurm)


@pytest.fixture
def start(place, slurm):
    """Start a command of nstexp's in the folder."""

    def call(*args: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "nstexp", *args]
        pipe = subprocess.PIPE
        # Who runs the tests in the background has Ctrl-C ignored, and children inherit that.
        heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(command, cwd=place, env=slurm, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed)

    return call


@pytest.fixture
def nstexp(start):
    """Run a command of nstexp's in the folder; it ends with `code`."""

    def call(*args: str, code: int = 0) -> tuple[str, str]:
        return finish(start(*args), code)

    return call


@pytest.fixture
def scontrol(slurm):
    """What one of Slurm's commands prints."""

    def call(*command: str) -> str:
        return subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=60, check=True).stdout

    return call


def steps_of(run: Path) -> int:
    """The last step that a training has recorded."""
    try:
        with (run / "losses.csv").open() as file:
            return max((int(row["step"]) for row in csv.DictReader(file) if row["step"]), default=0)
    except (OSError, ValueError, TypeError):
        return 0


def process_of(folder: Path, number: str) -> int:
    """Of a job of the array that was submitted in a folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            python = (entry / "cmdline").read_bytes().startswith(sys.executable.encode())
            if not python or (entry / "cwd").resolve() != folder.resolve():
                continue
        except OSError:  # ended meanwhile
            continue
        if f"SLURM_ARRAY_TASK_ID={number}".encode() in variables:
            return int(entry.name)
    raise AssertionError("no such process")


def warn(scontrol, run: Path, sent: str, after: int) -> None:
    """Send a signal to the only job once its training has passed a step, and let it start again without a pause."""
    wait_for(lambda: steps_of(run) > after)
    job = scontrol("squeue", "-h", "-o", "%F").split()[0]
    scontrol("scancel", "--signal", sent, job)
    wait_for(lambda: "PENDING" in scontrol("squeue", "-h", "-o", "%T"))
    time.sleep(2.5)  # the nodes take a start within the second of the end for one of the job that was ended
    scontrol("scontrol", "update", f"JobId={job}", "StartTime=now")


def test_a_sweep_is_an_array_and_ends_in_a_report(nstexp, place):
    out, err = nstexp("-m", *PICTURES, *LAUNCHER, "hydra.sweep.dir=sweep", "weights.beta=1,10,-3", code=1)
    assert [read_summary(place / "sweep" / n).status for n in "012"] == ["completed", "completed", "failed"]
    assert "weights.beta=-3: a weight is a finite number, 0 or larger" in err
    assert out.splitlines()[-1] == str(place / "sweep" / "report.html")
    page = embedded(place / "sweep")
    assert page["statuses"] == {"completed": 2, "failed": 1} and len(page["images"]) >= 2
    submission = next((place / "sweep" / ".submitit").glob(".submission_file_*.sh")).read_text()
    assert "#SBATCH --array=0-2%3" in submission and "#SBATCH --partition=main" in submission
    # The same command goes on, which here is to do the last one again.
    _, err = nstexp("-m", *PICTURES, *LAUNCHER, "hydra.sweep.dir=sweep", "weights.beta=1,10,100")
    assert [read_summary(place / "sweep" / n).status for n in "012"] == ["completed"] * 3


def test_stop_in_the_studio_ends_the_jobs_and_those_alone(nstexp, start, place, scontrol, slurm, monkeypatch):
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place)
    scontrol("sbatch", "--output=/dev/null", "--begin=now+1hour", "--wrap", "true")  # somebody's, from the same folder
    kept = scontrol("squeue", "-h", "-o", "%F").split()
    slow = ("method.max_steps=3000", "image_px=64", "hydra.launcher.array_parallelism=1", "weights.beta=1,2")
    plan = {"sweep": True, "total": 2, "keys": ["weights.beta"], "jobs": []}
    sweep = launching.start(place, [*PICTURES, *slow, *LAUNCHER], plan)
    wait_for(lambda: (sweep / "0" / "losses.csv").exists())
    assert launching.stop(sweep).endswith(
        "and its jobs on Slurm stop; Continue makes those again that are not finished"
    )
    wait_for(lambda: scontrol("squeue", "-h", "-o", "%F").split() == kept)
    wait_for(lambda: read_summary(sweep / "0").status == "interrupted")
    wait_for(lambda: not launching.is_alive(launching.read_record(sweep)))
    scontrol("scancel", *kept)


def test_a_job_that_is_killed_is_a_failed_row_and_the_others_go_on(start, place):
    slow = ("method.max_steps=1500", "image_px=64", "hydra.launcher.array_parallelism=2")
    sweep = start("-m", *PICTURES, *slow, *LAUNCHER, "hydra.sweep.dir=sweep", "weights.beta=1,2,3")
    wait_for(lambda: (place / "sweep" / "1" / "losses.csv").exists())
    os.kill(process_of(place, "1"), signal.SIGKILL)  # as the kernel does when memory runs out
    _, err = finish(sweep, 1)
    jobs = [read_summary(place / "sweep" / n) for n in "012"]
    assert [job.status for job in jobs] == ["completed", "failed", "completed"]
    assert re.search(r"job \d+_1 left no result: .*; its output: .*_1/.*_log\.err", jobs[1].error)
    with (place / "sweep" / "table.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["completed", "failed", "completed"]
    assert jobs[1].error in " ".join(err.split())


def test_jobs_outlive_the_command_that_waits_for_them(start, place, scontrol):
    slow = ("method.max_steps=1500", "image_px=64")
    sweep = start("-m", *PICTURES, *slow, *LAUNCHER, "hydra.sweep.dir=sweep", "weights.beta=1,2")
    wait_for(lambda: (place / "sweep" / "1" / "losses.csv").exists())
    sweep.send_signal(signal.SIGINT)
    _, err = finish(sweep, 130)
    assert re.search(r"the jobs continue: `scancel \d+` ends them, `python -m nstexp.report .*sweep` reports", err)
    wait_for(lambda: [read_summary(place / "sweep" / n).status for n in "01"] == ["completed"] * 2)


def test_two_nodes_train_together_as_two_processes_here_do(nstexp, place):
    """And write one record: the second process has none of its own."""
    together = (*TRAINING, "method.max_steps=6", "trainer=ddp")
    nstexp(*together, "trainer.devices=2", "run_dir=here")
    two_nodes = ("trainer.num_nodes=2", "trainer.devices=1", "hydra.sweep.dir=sweep")
    nstexp("-m", *together, *LAUNCHER, *two_nodes)
    run = place / "sweep" / "0"
    assert (run / "decoder.safetensors").read_bytes() == (place / "here" / "decoder.safetensors").read_bytes()
    assert (run / "losses.csv").read_text().count("\n") == 1 + 6
    assert read_summary(run).status == "completed"
    printed = sorted((place / "sweep" / ".submitit").glob("*/*_log.err"))
    assert len(printed) == 2
    assert ["configuration in" in file.read_text() for file in printed] == [True, False]


def test_a_training_preempted_twice_makes_what_one_without_makes(start, nstexp, place, scontrol):
    training = (*TRAINING, "method.max_steps=300")
    nstexp(*training, "run_dir=alone")
    sweep = start("-m", *training, *LAUNCHER, "hydra.sweep.dir=sweep")
    run = place / "sweep" / "0"
    warn(scontrol, run, "USR2", after=30)
    first = steps_of(run)
    warn(scontrol, run, "USR2", after=first + 30)
    assert 30 < first < steps_of(run) < 300
    finish(sweep, 0)
    assert (run / "decoder.safetensors").read_bytes() == (place / "alone" / "decoder.safetensors").read_bytes()
    assert [int(line.split(",")[1]) for line in (run / "losses.csv").read_text().splitlines()[1:]] == [*range(1, 301)]


def test_a_script_of_ones_own_goes_back_into_the_queue_too(nstexp, place, scontrol, slurm):
    """By either signal; two processes on two nodes."""
    together = (*TRAINING, "method.max_steps=300")
    nstexp(*together, "trainer=ddp", "trainer.devices=2", "run_dir=here")
    script = str(ROOT / "scripts" / "slurm_train.sh")
    flags = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=20", f"--chdir={place}")
    exported = f"--export=ALL,PYTHON={sys.executable}"
    scontrol("sbatch", exported, *flags, script, *together, "run_dir=run")
    warn(scontrol, place / "run", "USR2", after=20)
    warn(scontrol, place / "run", "TERM", after=steps_of(place / "run") + 20)
    wait_for(lambda: read_summary(place / "run").status == "completed")
    log = next(place.glob("nstexp-train-*.log")).read_text()
    assert (place / "run" / "decoder.safetensors").read_bytes() == (place / "here" / "decoder.safetensors").read_bytes()
    assert log.count("warned that this machine is taken away at step") == 2
    assert "Traceback" not in log


def test_a_cancelled_training_keeps_its_checkpoint_and_does_not_come_back(start, place, scontrol):
    sweep = start("-m", *TRAINING, *LAUNCHER, "method.max_steps=100000", "hydra.sweep.dir=sweep")
    run = place / "sweep" / "0"
    wait_for(lambda: steps_of(run) > 20)
    scontrol("scancel", scontrol("squeue", "-h", "-o", "%F").split()[0])
    _, err = finish(sweep, 1)
    assert "cancelled" in err
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert read_summary(run).status == "interrupted"
    assert not scontrol("squeue", "-h")


def test_what_slurm_refuses_is_one_sentence(nstexp):
    _, err = nstexp("-m", *PICTURES, *LAUNCHER, "hydra.launcher.partition=nowhere", "weights.beta=1,2", code=1)
    assert re.search("Slurm did not accept the jobs: .*Invalid partition", err.strip().splitlines()[-1])


def test_what_slurm_never_starts_is_said(start, scontrol):
    sweep = start("-m", *PICTURES, *LAUNCHER, "hydra.launcher.timeout_min=2000", "weights.beta=1,2")
    time.sleep(1)
    wait_for(lambda: "PENDING" in scontrol("squeue", "-h", "-o", "%T"))
    time.sleep(15)  # Slurm's first reason is none, and the command asks every ten seconds
    scontrol("scancel", scontrol("squeue", "-h", "-o", "%F").split()[0])
    _, err = finish(sweep, 1)
    assert "Slurm does not start jobs: PartitionTimeLimit, hydra.launcher.timeout_min exceeds the limit" in err


def test_slurm_is_installed():
    """Where these tests are asked for they are not to pass for want of a cluster."""
    assert shutil.which("sbatch") and shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin")
