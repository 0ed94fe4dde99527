"""Sweeps that the studio starts: their check is that of the command line, and their processes are real."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, wait_for
from studio_client import client

from nstexp.examining import examine
from nstexp.studio import launching
from nstexp.studio.checking import examined

pytestmark = pytest.mark.slow
API = "/api/experiments"
CHEAP = {
    "backbone": "random", "image_px": "48", "method.max_steps": "30", "logger": "none", "precision": "fp32",
    "picture_every_n_steps": "5", "log_every_n_steps": "1", "measure": "false",
}  # fmt: skip
WRONG = [
    ("weight.beta=1,2", "weight.beta"),
    ("weights.beta=-1", "weights.beta"),
    ("layers=style_first1,nope", "layers"),
    ("content=gone.jpg", "content"),
    ("image_px=0", "image_px"),
    ("method=gatyss", "method"),
    ("method.max_steps=many", "method.max_steps"),
    ("seed=1,(2", "seed"),
    ("hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs"),
]


def rows(**more: str) -> list[dict[str, str]]:
    values = {**CHEAP, **{key.replace("__", "."): value for key, value in more.items()}}
    return [{"key": key, "value": value} for key, value in values.items()]


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads of tests would compete
    with client(tmp_path) as opened:
        opened.folder = tmp_path
        yield opened


def one(page, path: str) -> dict:
    answer = page.get(f"{API}/one", params={"path": path})
    assert answer.status_code == 200, answer.text
    return answer.json()


def states(page, path: str) -> list[str]:
    return [job["status"] for job in one(page, path)["jobs"]]


@pytest.mark.parametrize(("word", "key"), WRONG)
def test_a_wrong_word_gives_the_sentence_of_the_command_line_at_its_key(nstexp, folder, word, key):
    said = nstexp.bare(*(["-m"] if "," in word else []), "logger=none", word)
    assert said.code == 2
    found = examined(["logger=none", word], folder)
    assert found["problems"] == [{"key": key, "sentence": said.sentences[-1]}]


def test_a_value_in_the_middle_of_a_sweep_is_checked_too(folder):
    found = examined(["weights.beta=1,-5,3", "layers=style_first1,style_first2"], folder)
    assert found["problems"] == [
        {"key": "weights.beta", "sentence": "weights.beta=-5: a weight is a finite number, 0 or larger"}
    ]
    found = examined(["content=photo.png,gone.jpg"], folder)
    assert found["problems"][0]["key"] == "content"
    assert "gone.jpg: there is no such file" in found["problems"][0]["sentence"]


def test_jobs_are_those_that_the_command_makes(folder):
    found = examined(["weights.beta=1,10", "content=[photo.png,painting.jpg],photo.png", "seed=range(1,3)"], folder)
    assert (found["problems"], found["sweep"], found["total"]) == ([], True, 8)
    assert found["keys"] == ["weights.beta", "content", "seed"]
    assert found["jobs"][1] == {"weights.beta": "1", "content": "[photo.png,painting.jpg]", "seed": "2"}
    assert found["jobs"][6] == {"weights.beta": "10", "content": "photo.png", "seed": "1"}
    alone = examined(["content=photo.png"], folder)
    assert (alone["problems"], alone["sweep"], alone["total"], alone["jobs"]) == ([], False, 1, [])


def test_an_experiment_that_is_a_sweep_by_itself_is_one(folder):
    sweep, plan = examine(["experiment=two_styles"])
    assert (sweep, plan.total, plan.keys) == (True, 3, ["style_combine"])


def test_a_path_out_of_the_folder_is_refused_however_it_is_written(folder):
    for word in ("content='/etc/passwd'", "content=choice(photo.png,/etc/passwd)", "my={a: {b: /etc/passwd}}"):
        (problem,) = examined([f"+{word}" if word.startswith("my") else word], folder)["problems"]
        assert "this path is not below the folder of the studio" in problem["sentence"], word


def test_a_sweep_fills_its_grid_and_is_stopped_and_continued(page):
    answer = page.post(f"{API}/start", json={"rows": rows(method__max_steps="5,400,6")}).json()
    assert (answer["problems"], answer["total"]) == ([], 3)
    path = answer["id"]
    assert re.fullmatch(r"multirun/nstexp/[\d_-]+", path)
    assert states(page, path) == ["waiting"] * 3
    wait_for(lambda: states(page, path)[0] == "completed" and states(page, path)[1] == "running", 240)
    found = one(page, path)
    assert found["running"] is True
    assert page.get(found["jobs"][0]["picture"]["full"]).status_code == 200
    assert page.post(f"{API}/stop", json={"path": path}).status_code == 200
    wait_for(lambda: not one(page, path)["running"], 60)
    assert states(page, path) == ["completed", "interrupted", "not begun"]
    entry = page.get(f"{API}/list").json()["entries"][0]
    assert (entry["status"], entry["waiting"]) == ("interrupted", 1)
    first = page.folder / path / "0" / "output.png"
    before = (first.stat().st_mtime_ns, first.read_bytes())
    assert page.post(f"{API}/continue", json={"path": path}).status_code == 200
    wait_for(lambda: not one(page, path)["running"], 240)
    assert states(page, path) == ["completed"] * 3
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before, "a finished job is kept"
    found = one(page, path)
    assert (found["status"], found["can"]["continue"], found["fresh"]) == ("completed", False, True)
    again = page.post(f"{API}/report", json={"path": path}).json()
    assert page.get(again["url"]).text.startswith("<!doctype html>")
    log = page.get(f"{API}/log", params={"path": path}).json()["lines"]
    assert any(line.startswith("$ nstexp -m ") for line in log)


def test_a_failed_run_shows_its_sentence_and_a_single_run_its_folder(page):
    (page.folder / "photo.png").write_bytes(b"this is no picture")
    answer = page.post(f"{API}/start", json={"rows": rows(content="photo.png")}).json()
    assert answer["problems"] == []
    path = answer["id"]
    assert path.startswith("runs/nstexp/")
    wait_for(lambda: not one(page, path)["running"], 120)
    found = one(page, path)
    assert found["status"] == "failed"
    assert "photo.png" in found["error"]
    assert "Traceback" not in found["error"]
    assert found["can"]["continue"] is True


def test_a_process_outlives_the_server(tmp_path):
    """The server ends by Ctrl-C while a sweep runs, and another one stops it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = (
        "import sys; from pathlib import Path; from nstexp.studio import launching; folder = Path(sys.argv[1])\n"
        "plan = {'sweep': True, 'total': 2, 'keys': ['seed'], 'jobs': [{'seed': '1'}, {'seed': '2'}]}\n"
        "print(launching.start(folder, sys.argv[2:], plan))"
    )
    words = [f"{key}={value}" for key, value in {**CHEAP, "method.max_steps": "5000", "seed": "1,2"}.items()]
    command = [sys.executable, "-c", program, str(tmp_path), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    place = Path(done.stdout.strip())
    assert launching.is_alive(launching.read_record(place)) is True
    wait_for(lambda: (place / "0" / "losses.csv").exists(), 120)
    with client(tmp_path) as page:
        path = place.relative_to(tmp_path).as_posix()
        assert one(page, path)["can"]["stop"] is True
        assert page.post(f"{API}/stop", json={"path": path}).status_code == 200
        wait_for(lambda: not one(page, path)["running"], 60)
        assert states(page, path) == ["interrupted", "not begun"]
    assert json.loads((place / "0" / "summary.json").read_text())["status"] == "interrupted"
