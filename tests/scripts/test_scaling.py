"""The arithmetic of larger machines, worked by hand; and that the measuring script runs."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from helpers import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

from plan_scaling import Machine, expected_largest

# 10 ms of work, 1 ms of overhead, 5 ms of decoding; 10 MB of gradients.
MACHINE = Machine(
    pairs_per_second=800,
    batch=8,
    overhead_s=1e-3,
    jitter=0,
    gradient_bytes=10e6,
    per_node=4,
    inside=100e9,
    between=10e9,
    latency_s=0,
    cores=8,
    decode=400,
    picture_bytes=50e3,
)


def run(name: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / name, *map(str, args)], capture_output=True, text=True, timeout=300, check=False
    )


def test_one_device_exchanges_nothing():
    assert MACHINE.exchange_s(1) == 0
    assert MACHINE.step_s(1) == pytest.approx(11e-3)
    assert MACHINE.rate(1) == pytest.approx(8 / 11e-3)


@pytest.mark.parametrize(
    ("devices", "exchange_s"),
    [
        (2, 1e-4),  # 2 x 1/2 x 10 MB / 100 GB/s
        (4, 1.5e-4),
        (8, 1.5e-4 + 1e-3),  # and between two nodes 2 x 1/2 x 10 MB / 10 GB/s
        (32, 1.5e-4 + 1.75e-3),
    ],
)
def test_gradients_go_round_inside_the_nodes_and_between_them(devices, exchange_s):
    assert MACHINE.exchange_s(devices) == pytest.approx(exchange_s)
    assert MACHINE.step_s(devices) == pytest.approx(11e-3 + exchange_s)


def test_every_message_costs_its_latency():
    late = replace(MACHINE, latency_s=1e-5)
    assert late.exchange_s(32) - MACHINE.exchange_s(32) == pytest.approx((2 * 3 + 2 * 7) * 1e-5)


def test_the_slowest_device_is_waited_for():
    uneven = replace(MACHINE, jitter=0.1)
    assert uneven.work_s(1) == MACHINE.work_s(1)
    assert uneven.work_s(8) == pytest.approx(10e-3 * (1 + 0.1 * 1.424), rel=2e-3)
    exact = {2: 0.5642, 8: 1.4236, 64: 2.3469}  # of tables
    assert all(expected_largest(count) == pytest.approx(value, rel=0.05) for count, value in exact.items())


def test_decoding_is_the_limit_where_there_are_too_few_cores():
    starved = replace(MACHINE, cores=1)
    assert starved.data_s == pytest.approx(40e-3)
    assert [starved.step_s(count) for count in (1, 64)] == [pytest.approx(40e-3)] * 2
    assert starved.rate(64) == pytest.approx(64 * starved.rate(1))


def test_the_plan_is_a_table_of_the_devices_asked_for():
    plan = run("plan_scaling.py", "--pairs-per-second", 800, "--overhead-ms", 0, "--jitter", 0, "--devices", 1, 16)
    assert plan.returncode == 0, plan.stderr
    rows = [line.split("|")[1:-1] for line in plan.stdout.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows[1:]] == ["1", "16"]
    alone = dict(zip((cell.strip() for cell in rows[0]), (cell.strip() for cell in rows[1]), strict=True))
    assert alone["a step, ms"] == "10.0"
    assert alone["pairs/s"] == "800"
    assert alone["1.28 M pairs, h"] == alone["160,000 steps, h"] == "0.444"
    assert "17 GB of pictures; 1,280,000 pairs are 10.8 epochs of COCO" in plan.stdout


def test_what_was_measured_is_planned_with_and_checked(tmp_path):
    measured = {
        "train": {"pairs_per_second": {"1": 4.0, "2": 7.5}, "batch": 2, "crop_px": 128},
        "data": {"shards": {"pictures_per_second": 500, "kilobytes": 10}},
        "gradients": {"parameters": 1e6, "seconds": {"2": 0.02}},
        "work": {"256": 100},
    }
    (tmp_path / "scaling.json").write_text(json.dumps(measured))
    check = run("plan_scaling.py", "--measured", tmp_path / "scaling.json", "--check", "--jitter", 0)
    assert check.stdout.splitlines()[2:] == ["| 1 | 4.00 | 4.00 |", "| 2 | 7.69 | 7.50 |"]  # 4 pairs in 0.52 s
    plan = run("plan_scaling.py", "--measured", tmp_path / "scaling.json", "--tflops", 100, "--share", 0.5)
    assert "one device: 500 pairs/s while it computes" in plan.stdout
    assert "2 GB of pictures" in plan.stdout
    measured["train"] |= {"accelerator": "gpu", "pairs_per_second": {"1": 400.0, "2": 790.0}, "crop_px": 256}
    (tmp_path / "gpu.json").write_text(json.dumps(measured))
    plan = run("plan_scaling.py", "--measured", tmp_path / "gpu.json", "--devices", 1)
    assert "one device: 400 pairs/s while it computes" in plan.stdout
    assert "| 1 | 20.0 |" in plan.stdout  # 8 pairs, the overhead is in the rate


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    for name, flags in (("nowhere.json", ()), ("other.json", ()), ("other.json", ("--check",))):
        refused = run("plan_scaling.py", "--measured", tmp_path / name, *flags)
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1
        assert "this file was not written by benchmark_scaling.py --output" in refused.stderr


@pytest.mark.slow
def test_the_benchmark_measures_what_the_plan_wants(tmp_path):
    measured = tmp_path / "scaling.json"
    made = run("benchmark_scaling.py", "--parts", "work", "gradients", "--output", measured)
    assert made.returncode == 0, made.stderr
    found = json.loads(measured.read_text())
    assert found["gradients"]["parameters"] == 3_505_219
    assert found["work"]["256"] == pytest.approx(4 * found["work"]["128"], rel=0.02)
    assert run("plan_scaling.py", "--measured", measured).returncode == 0
