"""Which process this is, and that what works alone does not take itself for one of several."""

import os
import subprocess
import sys

import pytest
from helpers import SMOKE, run_folders

import nstexp as package
from nstexp.core.errors import UserError
from nstexp.outputs import read_summary
from nstexp.processes import MARKS, alone_unless, is_first_process, local_rank, work_together

LEFTOVERS = [
    {"SLURM_NTASKS": "8"},
    {"SLURM_PROCID": "3"},
    {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1", "SLURM_JOB_ID": "7", "SLURM_LOCALID": "1"},
    {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere", "MASTER_PORT": "x"},
    {"RANK": "", "NODE_RANK": "-", "WORLD_SIZE": "many"},
    {"GROUP_RANK": "1", "TORCHELASTIC_RUN_ID": "none", "RANK": "1"},
    {"JSM_NAMESPACE_RANK": "abc", "JSM_NAMESPACE_SIZE": "4", "LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "none"},
]


@pytest.fixture(params=LEFTOVERS, ids=" ".join)
def leftover(request, monkeypatch):
    for name in MARKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)
    return request.param


def test_alone_nothing_of_it_is_seen_and_all_of_it_comes_back(leftover):
    before = dict(os.environ)
    with alone_unless(False):
        assert is_first_process() and local_rank() == 0
        assert not set(os.environ) & set(MARKS)
    assert dict(os.environ) == before
    with alone_unless(True):
        assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("variables", "first", "local"),
    [
        ({}, True, 0),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True, 0),
        ({"RANK": "5", "LOCAL_RANK": "1", "GROUP_RANK": "1"}, False, 1),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False, 0),
        ({"SLURM_PROCID": "2", "SLURM_LOCALID": "2"}, False, 2),
    ],
)
def test_together_one_of_all_is_the_first(monkeypatch, variables, first, local):
    for name in MARKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (is_first_process(), local_rank()) == (first, local)


@pytest.mark.parametrize(
    ("trainer", "together"),
    [
        ({"devices": 1}, False),
        ({"devices": 1, "num_nodes": 1, "strategy": "auto"}, False),
        ({"devices": [3], "strategy": None}, False),
        ({"devices": 2}, True),
        ({"devices": [0, 1]}, True),
        ({"devices": "auto"}, True),
        ({"devices": 1, "num_nodes": 2}, True),
        ({"devices": 1, "strategy": "ddp"}, True),
        ({"devices": "auto", "strategy": {"_target_": "pytorch_lightning.strategies.DDPStrategy"}}, True),
    ],
)
def test_the_trainers_settings_say_whether_there_are_several(trainer, together):
    assert work_together(trainer) == together


@pytest.mark.parametrize("text", ["", "abc", "-1", "1.0", "²"])
def test_together_a_number_that_is_none_is_one_sentence(monkeypatch, text):
    monkeypatch.setenv("RANK", text)
    with pytest.raises(UserError, match=f"^the environment variable RANK={text} is not the number .* unset RANK"):
        is_first_process()


@pytest.mark.slow
def test_a_run_ignores_what_is_left_over(nstexp, folder, leftover):
    result = nstexp("logger=csv")
    assert result.code == 0, result.err
    assert result.path.exists()
    (run,) = run_folders()
    assert read_summary(run).status == "completed"
    assert (run / "csv" / "metrics.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("variables", [LEFTOVERS[2], LEFTOVERS[4]])
def test_so_does_a_sweep_from_the_shell_where_lightning_looks_while_it_is_imported(folder, variables):
    inputs = ("content=photo.png", "style=painting.jpg", "metrics=none", "hydra.sweep.dir=sweep", "weights.beta=1,2")
    command = [sys.executable, "-m", "nstexp", "-m", *SMOKE, *inputs, "logger=csv"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = ["sweep/0/output.png", "sweep/1/output.png", "sweep/report.html"]
    assert [os.path.relpath(line) for line in done.stdout.splitlines()] == lines
    assert (folder / "sweep" / "1" / "csv" / "metrics.csv").exists()


@pytest.mark.slow
def test_so_does_the_function(folder, leftover):
    picture = package.stylize(
        "photo.png", "painting.jpg", settings={"backbone": "random", "method.max_steps": 1, "method.levels": 1}
    )
    assert picture.size == (50, 37)


@pytest.mark.slow
def test_several_processes_with_a_number_that_is_none_are_refused(nstexp, folder, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "x")
    result = nstexp("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert result.code == 2
    assert result.sentences == [
        "the environment variable LOCAL_RANK=x is not the number of a process: unset LOCAL_RANK"
    ]
    assert run_folders() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("trainer=ddp",), "trainer=ddp starts this command again for every device"),
        (("trainer.devices=2", "trainer.accelerator=cpu"), "trainer=ddp starts this command again for every"),
    ],
)
def test_a_sweep_whose_jobs_would_start_it_again_is_refused(nstexp, folder, args, sentence):
    result = nstexp("-m", "hydra.sweep.dir=sweep", "weights.beta=1,2", *args)
    assert result.code == 1
    assert any(sentence in line for line in result.sentences)
