"""scripts/benchmark.py: the table, the comparison with the last call, and that every part runs."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT

from nstexp.core.errors import UserError

SCRIPT = ROOT / "scripts/benchmark.py"
PARTS = ("gatys", "swift", "train", "video", "startup", "sweep", "large", "deck")


def test_table_has_shares_ratios_and_the_last_call(script):
    rows = [
        script.Row("3x3 convolutions, bfloat16", 200.0, "GFLOP/s", dtype="bfloat16"),
        script.Row("a step", 0.5, "s", gflop=50.0, dtype="bfloat16"),
        script.Row("training", 4.0, "pictures/s", gflop=10.0, dtype="bfloat16"),
        script.Row("a picture", 20.0, "ms", gflop=1.0, dtype="float32", ratio=0.25, to="another program"),
    ]
    _, _, *lines = script.table(rows, {"a step": 1.0}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[1] == ["a step", "0.5 s", "50%", "", "", "1", "0.50"]
    assert cells[2][1:3] == ["4 pictures/s", "20%"]
    assert cells[3] == ["a picture", "20 ms", "", "0.25", "another program", "", ""]  # no peak of float32 is known


def test_last_file_is_compared(script, tmp_path):
    assert script._last(tmp_path / "none") == {}
    for name, value in (("2026-01-01", 1.0), ("2026-01-02", 2.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": [{"name": "a step", "value": value}]}))
    assert script._last(tmp_path) == {"a step": 2.0}
    (tmp_path / "zzz.json").write_text("{}")
    with pytest.raises(UserError, match=r"zzz\.json is no file of this script"):
        script._last(tmp_path)


def test_seconds_of_rates_and_times(script):
    assert script.Row("a", 4.0, "frames/s").seconds == 0.25
    assert script.Row("a", 4.0, "ms").seconds == 0.004
    assert script.Row("a", 4.0, "s").seconds == 4.0


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs(script, part, tmp_path):
    command = [sys.executable, SCRIPT, "--quick", "--parts", part, "--store", tmp_path / "store"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {*PARTS, "peak"} == set(script.PARTS)
    (file,) = (tmp_path / "store").iterdir()
    found = json.loads(file.read_text())
    rows = [script.Row(**row) for row in found["rows"]]
    assert len(rows) > 2 and all(row.value > 0 for row in rows)
    assert all(f"| {row.name} |" in done.stdout for row in rows)
    assert found["threads"] >= 1 and "torch" in found
