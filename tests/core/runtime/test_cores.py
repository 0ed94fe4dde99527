"""The number of threads, and how they wait."""

import os
import subprocess
import sys

import joblib
import pytest
import torch
from helpers import ROOT

from nstexp.core.errors import ArgumentError
from nstexp.core.runtime import cores


def test_cores_of_a_container_and_of_slurm_count(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    assert cores.usable_cores({}) == 4
    assert cores.usable_cores({"SLURM_CPUS_PER_TASK": "3"}) == 3
    assert cores.usable_cores({"SLURM_CPUS_PER_TASK": "64"}) == 4
    assert cores.usable_cores({"SLURM_CPUS_PER_TASK": "0"}) == 1
    assert cores.usable_cores({"SLURM_CPUS_PER_TASK": "many"}) == 4


def test_threads_are_used_and_restored(monkeypatch):
    before = torch.get_num_threads()
    for name in cores.GIVEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: before)
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(cores, "usable_cores", lambda: before + 7)
    with cores.using_threads("auto") as count:
        assert count == before and not set_to  # never more than PyTorch's choice
    with cores.using_threads(before + 3) as count:
        assert count == before + 3 and set_to == [before + 3]
    assert set_to == [before + 3, before]
    with pytest.raises(ValueError, match="work"), cores.using_threads(before + 1):
        raise ValueError("work")
    assert set_to[-1] == before


def test_automatic_threads_are_no_more_than_the_cores(monkeypatch):
    for name in cores.GIVEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    with cores.using_threads("auto") as count:
        assert count == 2
    assert set_to == [2, 64]
    monkeypatch.setenv("OMP_NUM_THREADS", "64")  # the user's choice
    with cores.using_threads("auto") as count:
        assert count == 64


@pytest.mark.parametrize("bad", [0, -1, 1025, 2.5, True, None, "two", [1]])
def test_other_values_are_refused(bad):
    with pytest.raises(ArgumentError, match="whole number from 1 to 1024, or auto"), cores.using_threads(bad):
        pass


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"OMP_WAIT_POLICY": "active"}, None), ({"GOMP_SPINCOUNT": "5", cores.LARGE_PAGES: "0"}, "5")],
)
def test_how_threads_wait_is_set_unless_the_user_has_said_it(given, expected):
    environment = {key: value for key, value in os.environ.items() if key not in (*cores.OF_WAITING, cores.LARGE_PAGES)}
    code = "import os; from nstexp.core.runtime import cores; cores.prepare_for_torch(); "
    code += "print(os.environ.get('GOMP_SPINCOUNT'), os.environ[cores.LARGE_PAGES])"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | given | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == [str(expected), given.get(cores.LARGE_PAGES, "1")], run.stderr


def test_nothing_is_set_when_it_would_have_no_effect(monkeypatch):
    for name in cores.OF_WAITING:
        monkeypatch.delenv(name, raising=False)
    cores.prepare_for_torch()  # PyTorch is imported here
    assert "GOMP_SPINCOUNT" not in os.environ
