"""Ending the jobs of a sweep on Slurm, with commands that stand for Slurm's; test_slurm.py does it with Slurm."""

from pathlib import Path

import pytest

from nstexp.sweeps.slurm import cancel_jobs


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Write a command of Slurm's as a shell script; `cancelled.txt` has what scancel gets."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")  # before Slurm, where there is one

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    write("scancel", f'echo "$@" > {tmp_path}/cancelled.txt')
    return write


@pytest.fixture
def sweep(tmp_path) -> Path:
    for name in ("12_0", "12_1", "13_submission.sh", "%A_log.out"):
        (tmp_path / "sweep" / ".submitit" / name).mkdir(parents=True)
    return tmp_path / "sweep"


def test_only_jobs_of_the_sweep_that_were_started_in_its_folder_are_ended(commands, sweep, tmp_path):
    commands("squeue", f"printf '12\\t{tmp_path}\\n12\\t{tmp_path}\\n13\\t/elsewhere\\n99\\t{tmp_path}\\n'")
    assert cancel_jobs(sweep, tmp_path) is None
    assert (tmp_path / "cancelled.txt").read_text() == "12\n"


def test_nothing_is_ended_when_nothing_is_queued(commands, sweep, tmp_path):
    commands("squeue", "true")
    assert cancel_jobs(sweep, tmp_path) is None
    assert not (tmp_path / "cancelled.txt").exists()


@pytest.mark.parametrize("script", ["echo 'slurm_load_jobs error: no controller' >&2; exit 1", "exit 1"])
def test_a_command_that_fails_is_told(commands, sweep, tmp_path, script):
    commands("squeue", script)
    problem = cancel_jobs(sweep, tmp_path)
    assert problem is not None
    assert "no controller" in problem or "exit status 1" in problem


def test_a_machine_without_slurm_is_told(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cancel_jobs(sweep, tmp_path) == "Slurm's commands are not on this machine"
