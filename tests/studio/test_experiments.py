"""The part of the studio for runs and sweeps, asked as the page asks it. Nothing is computed here."""

import doctest
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image
from studio_client import client
from sweep_folders import make_job, make_sweep

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import Claim
from nstexp.ownership import LOCK
from nstexp.studio import launching, watching, wishes
from nstexp.studio.launching import Record
from nstexp.studio.progress import last_message, log_lines, progress_of
from nstexp.studio.wishes import Refused, check_paths, key_of, words_of
from nstexp.sweeps import planning

API = "/api/experiments"
MULTIRUN = """\
hydra:
  runtime: {{cwd: {cwd}}}
  sweeper: {{params: null}}
  overrides:
    hydra: [hydra.mode=MULTIRUN, hydra.sweep.dir=multirun/nstexp/one]
    task: ['weights.beta=1,10,100', 'layers=a,b', logger=none]
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A sweep of six of which four have begun, with a failed one, and two single runs."""
    sweep = tmp_path / "multirun" / "nstexp" / "one"
    for number, (beta, layers) in enumerate([(1, "a"), (1, "b"), (10, "a"), (10, "b")]):
        failed = {"status": "failed", "error": "weights.beta=-1: a weight\nis a number", "metrics": {}}
        overrides = {"weights.beta": beta, "layers": layers, "logger": "none"}
        make_job(
            sweep, number, overrides, () if number == 3 else ("output",),
            started=f"2026-01-02T10:00:0{number}+00:00", method="gatys", task="stylize",
            outputs=[] if number == 3 else [f"/elsewhere/{number}/output.png"], **(failed if number == 3 else {}),
        )  # fmt: skip
    (sweep / "multirun.yaml").write_text(MULTIRUN.format(cwd=tmp_path))
    runs = tmp_path / "runs" / "nstexp"
    made = {"outputs": ["output.png"], "measured_with": {"ssim": "luminance"}, "higher_is_better": ["ssim"]}
    metrics = {"output": {"ssim": 0.25, "total": 3.0}}
    choices = {"layers": "gatys2016"}
    make_job(runs, "early", {"seed": 1}, choices=choices, metrics=metrics, started="2026-01-01T10:00:00+00:00", **made)
    metrics = {"output": {"ssim": 0.75, "total": 4.0}}
    make_job(
        runs, "late", {"seed": 2, "content": "a.png"}, metrics=metrics, started="2026-01-03T10:00:00+00:00", **made
    )
    return tmp_path


@pytest.fixture
def page(folder):
    """A browser's connection to the studio of the folder; without `with`, no process starts that paints."""
    return client(folder)


def listed(page, **query) -> dict:
    answer = page.get(f"{API}/list", params=query)
    assert answer.status_code == 200
    return answer.json()


def one(page, path: str) -> dict:
    answer = page.get(f"{API}/one", params={"path": path})
    assert answer.status_code == 200, answer.text
    return answer.json()


def sentence(answer) -> str:
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


# ------------------------------------------------------------------------------------------------------- what is there


def test_the_list_has_every_sweep_and_run_with_its_state_the_newest_first(page):
    entries = listed(page)["entries"]
    assert [entry["id"] for entry in entries] == ["runs/nstexp/late", "multirun/nstexp/one", "runs/nstexp/early"]
    sweep = entries[1]
    assert sweep["statuses"] == {"completed": 3, "failed": 1}
    assert (sweep["kind"], sweep["waiting"], sweep["status"], sweep["running"]) == ("sweep", 2, "failed", False)
    assert sweep["keys"] == [["weights.beta", 3], ["layers", 2]]
    assert sweep["error"] == "weights.beta=-1: a weight is a number"
    assert sweep["seconds"] == 4 * 1.5
    assert entries[0]["about"] == "seed=2 content=a.png"
    assert entries[0]["statuses"] == {"completed": 1}


def test_a_page_that_knows_the_version_gets_no_list_until_something_changes(page, folder):
    version = listed(page)["version"]
    assert listed(page, known=version) == {"version": version, "same": True}
    make_job(folder / "runs" / "nstexp", "third", {"seed": 3})
    answer = listed(page, known=version, again=1)
    assert answer["version"] != version
    assert "runs/nstexp/third" in {entry["id"] for entry in answer["entries"]}


def test_a_sweep_shows_its_runs_by_their_values_and_those_that_have_not_begun(page):
    found = one(page, "multirun/nstexp/one")
    assert [axis["key"] for axis in found["axes"]] == ["weights.beta", "layers"]
    assert found["axes"][0]["values"] == ["1", "10", "100"]
    jobs = {job["name"]: job for job in found["jobs"]}
    assert jobs["1"]["values"] == {"weights.beta": "1", "layers": "b"}
    assert jobs["3"]["error"] == "weights.beta=-1: a weight is a number"
    assert jobs["3"]["picture"] is None
    assert [(name, jobs[name]["status"], jobs[name]["values"]) for name in ("4", "5")] == [
        ("4", "not begun", {"weights.beta": "100", "layers": "a"}),
        ("5", "not begun", {"weights.beta": "100", "layers": "b"}),
    ]
    assert found["can"] == {"stop": False, "continue": True, "report": True}
    assert {"key": "weights.beta", "value": "1,10,100"} in found["rows"]
    assert "hydra.sweep.dir" not in {row["key"] for row in found["rows"]}
    assert found["command"].startswith("nstexp -m hydra.sweep.dir=multirun/nstexp/one weights.beta=1,10,100")


def test_a_run_that_works_is_told_from_one_that_was_killed(page, folder, monkeypatch):
    path = make_job(folder / "runs" / "nstexp", "now", {"seed": 9}, (), status="running", metrics={})
    (path / "losses.csv").write_text("image,step,total,seconds\noutput,10,5.5,1.0\noutput,30,4.5,3.0\noutput,40,4")
    (path / "config.yaml").write_text("method: {max_steps: 120}")
    claim = Claim(path / LOCK, "busy")
    state = one(page, "runs/nstexp/now")
    assert state["running"] is True
    assert state["jobs"][0]["status"] == "running"
    assert state["jobs"][0]["progress"] == {"step": 30, "seconds": 3.0, "loss": 4.5, "picture": "output", "of": 120}
    assert state["progress"] == 0.25
    for file in path.rglob("*"):
        os.utime(file, (1, 1))
    os.utime(path, (1, 1))
    assert one(page, "runs/nstexp/now")["running"] is True, "it is quiet, but holds its lock"
    assert (path / LOCK).exists(), "the lock was tried, and left as it was"
    claim.release()
    (path / LOCK).touch()  # a process that was killed leaves it
    monkeypatch.setattr(watching, "ASK_EVERY_S", -1.0)
    for file in (path, *path.rglob("*")):
        os.utime(file, (1, 1))
    state = one(page, "runs/nstexp/now")
    assert state["running"] is False
    assert (state["jobs"][0]["status"], state["error"]) == ("lost", watching.LOST)


def test_the_newest_picture_of_a_run_is_shown_until_there_is_a_result(page, folder):
    path = make_job(folder / "runs" / "nstexp", "now", {"seed": 9}, (), status="running", metrics={})
    (path / "images").mkdir()
    for age, step in ((50, 10), (20, 20)):
        file = path / "images" / f"output_{step:05d}.jpg"
        Image.new("RGB", (64, 48), (9, 9, 9)).save(file)
        os.utime(file, (time.time() - age, time.time() - age))
    assert "images/output_00020.jpg" in one(page, "runs/nstexp/now")["jobs"][0]["picture"]["url"]


def test_a_thousand_runs_are_read_once(tmp_path, monkeypatch):
    for number in range(1000):
        path = tmp_path / "runs" / str(number % 7) / f"run{number}"
        path.mkdir(parents=True)
        record = {"status": "completed", "overrides": [f"seed={number}"], "outputs": [], "error": None}
        (path / "summary.json").write_text(json.dumps(record))
    monkeypatch.setattr(watching, "YOUNG_NS", 0)  # else what was made just now is read again
    monkeypatch.setattr(watching, "LEAST_S", -1.0)
    watcher = watching.Watcher(tmp_path)
    first = watcher.all()
    assert len(first["entries"]) == 1000
    read = []
    monkeypatch.setattr(watching, "read_run", lambda path: read.append(path) or watching.Run(path))
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scandir(path))
    assert watcher.all()["version"] == first["version"]
    assert (read, [path for path in scanned if Path(path).name != "images"]) == ([], [])
    changed = tmp_path / "runs" / "3" / "run3"
    (changed / "new.json").write_text("{}")
    os.replace(changed / "new.json", changed / "summary.json")
    watcher.all()
    assert read == [changed]


def test_folders_without_runs_are_left_alone_and_links_are_not_followed(tmp_path):
    make_sweep(tmp_path / "multirun" / "one", seed=[1, 2])
    make_sweep(tmp_path / ".hidden" / "two", seed=[1])
    make_sweep(tmp_path / "studio" / "session" / "three", seed=[1])
    (tmp_path / "link").symlink_to(tmp_path / "multirun")
    found = watching.Watcher(tmp_path).all()
    assert [entry["id"] for entry in found["entries"]] == ["multirun/one"]


def test_values_are_shown_as_a_person_writes_them(tmp_path):
    path = make_job(tmp_path, "one", {"seed": 1})
    record = json.loads((path / "summary.json").read_text())
    record["overrides"] = [
        r"style=met\:436535",
        'content="photo (1).jpg"',
        "+my.x=a",
        "~loss.tv",
        "output=https://u:p@h/",
    ]
    (path / "summary.json").write_text(json.dumps(record))
    shown = {"style": "met:436535", "content": "photo (1).jpg", "my.x": "a", "output": "https://***@h/"}
    assert watching.read_run(path).overrides == shown


def test_damaged_records_are_shown_as_what_they_are(tmp_path):
    make_sweep(tmp_path / "one", seed=[1, 2, 3])
    (tmp_path / "one" / "0" / "summary.json").write_text("{")
    (tmp_path / "one" / "1" / "summary.json").write_text('["a"]')
    (tmp_path / "one" / "2" / "summary.json").write_text('{"status": "completed", "metrics": 3, "overrides": 4}')
    watcher = watching.Watcher(tmp_path)
    assert watcher.all()["entries"][0]["statuses"] == {"no record": 2, "completed": 1}
    jobs = watcher.one(tmp_path / "one")["jobs"]
    assert [job["values"] for job in jobs] == [{"seed": "1"}, {"seed": "2"}, {"seed": "3"}]
    assert jobs[0]["error"] == watching.NOT_BEGUN


# --------------------------------------------------------------------------------------------------------------- files


def test_thumbnails_are_small_and_kept_by_the_browser(page):
    (job, *_) = one(page, "multirun/nstexp/one")["jobs"]
    answer = page.get(job["picture"]["url"] + "&px=16")
    assert answer.headers["content-type"] == "image/webp"
    assert "immutable" in answer.headers["cache-control"]
    from io import BytesIO

    assert Image.open(BytesIO(answer.content)).size == (16, 12)
    full = page.get(job["picture"]["full"])
    assert full.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(full.content)).size == (40, 30)


def test_only_files_of_runs_below_the_folder_are_sent(page, folder):
    outside = folder.parent / "outside.png"
    Image.new("RGB", (4, 4)).save(outside)
    (folder / "studio" / "abc").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "studio" / "abc" / "upload.png")
    (folder / "link.png").symlink_to(outside)
    (folder / "page.html").write_text("<script>alert(1)</script>")
    (folder / "code.py").write_text("1")
    for path in ("%2e%2e/outside.png", "link.png", f"/{outside}"):
        assert "not below the folder" in sentence(page.get(f"{API}/files/{path}"))
        assert "not below the folder" in sentence(page.get(f"{API}/thumbs/{path}"))
    assert "belongs to the studio" in sentence(page.get(f"{API}/files/studio/abc/upload.png"))
    assert "belongs to the studio" in sentence(page.get(f"{API}/one", params={"path": "studio/abc"}))
    for path in ("page.html", "code.py"):
        assert "pictures, tables, logs and reports only" in sentence(page.get(f"{API}/files/{path}"))
    (folder / ".secret").mkdir()
    (folder / ".secret" / "keys.json").write_text("{}")
    for path in (".secret/keys.json", "multirun/nstexp/one/0/.hydra/config.yaml"):
        assert "hidden files" in sentence(page.get(f"{API}/files/{path}"))
    assert page.get(f"{API}/files/gone.png").status_code == 404
    assert page.get(f"{API}/thumbs/code.py").status_code == 404


def test_a_report_runs_without_the_rights_of_the_page(page, folder):
    (folder / "multirun" / "nstexp" / "one" / "report.html").write_text("<script>1</script>")
    answer = page.get(f"{API}/files/multirun/nstexp/one/report.html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in policy
    assert answer.headers["content-type"].startswith("text/html")


def test_the_log_shows_the_last_state_of_a_bar_and_messages(tmp_path, page, folder):
    log = folder / "multirun" / "nstexp" / "one" / launching.LOG
    log.write_bytes(b"$ nstexp -m\n[sweep] #0\na:  0%|  | 0/9\ra: 50%|# | 4/9\r\x1b[Aa: 99%|##| 8/9\nno such file\n\n")
    answer = page.get(f"{API}/log", params={"path": "multirun/nstexp/one"}).json()
    assert answer == {"name": launching.LOG, "lines": ["$ nstexp -m", "[sweep] #0", "a: 99%|##| 8/9", "no such file"]}
    assert last_message(log) == "no such file"
    run = tmp_path / "nstexp.log"
    run.write_text(
        "  key: value\n2026-01-01 10:00:00,1 DEBUG a: configuration:\nseed: 3\n2026-01-01 10:00:01,1 INFO b: c\n"
    )
    assert log_lines(run) == ["2026-01-01 10:00:01,1 INFO b: c"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("image,step,total,seconds\n", {}),
        ("image,step,total,seconds\na,3,nan,1\n", {"step": 3, "seconds": 1.0, "loss": None, "picture": "a"}),
        ("image,step,total,seconds\na,3,2,1\na,4,", {"step": 3, "seconds": 1.0, "loss": 2.0, "picture": "a"}),
        ("step,total\nword,1\n", {}),
    ],
)
def test_progress_is_read_from_whole_rows(tmp_path, text, found):
    (tmp_path / "losses.csv").write_text(text)
    assert progress_of(tmp_path) == found


# ------------------------------------------------------------------------------------------------------------- compare


def test_runs_of_different_sweeps_are_compared(page):
    paths = ["runs/nstexp/early", "runs/nstexp/late", "multirun/nstexp/one/0"]
    found = page.post(f"{API}/compare", json={"paths": paths}).json()
    keys = dict(found["keys"])
    assert keys["seed"] == ["1", "2", None]
    assert keys["weights.beta"] == [None, None, "1"]
    assert "logger" not in keys
    assert keys["layers"] == ["gatys2016", None, "a"]
    measures = {measure["name"]: measure for measure in found["measures"]}
    assert measures["ssim"]["better"] == "higher"
    assert measures["total"]["better"] is None
    assert [run["metrics"]["output"].get("ssim") for run in found["runs"]] == [0.25, 0.75, None]
    assert all(run["pictures"]["output"]["url"].startswith(f"{API}/thumbs/") for run in found["runs"])


def test_a_comparison_needs_runs_that_are_there(page):
    assert sentence(page.post(f"{API}/compare", json={"paths": ["runs/nstexp/early"]})).startswith("choose from 2")
    assert "no such folder" in sentence(page.post(f"{API}/compare", json={"paths": ["runs/nstexp/early", "gone"]}))
    assert "there is no run" in sentence(page.post(f"{API}/compare", json={"paths": ["runs/nstexp/early", "runs"]}))
    assert "JSON" in sentence(page.post(f"{API}/compare", content="["))


# ---------------------------------------------------------------------------------------------------------------- form

REFUSED = [
    ("method._target_", "os.system", "names code to run"),
    ("my", "{_target_: os.system}", "names code to run"),
    ("content", "${oc.env:HOME}", "no ${...}"),
    ("seed", "${now:%S}", "no ${...}"),
    ("trust", "[my_package]", "runs no code"),
    ("output", "x.png", "chooses where results go"),
    ("timelapse", "x.mp4", "chooses where results go"),
    ("run_dir", "/tmp/x", "chooses where results go"),
    ("hydra.sweep.dir", "x", "chooses where results go"),
    ("hydra.run.dir", "x", "chooses where results go"),
    ("logger.wandb.logger.project", "x", "chooses where results go"),
    ("trainer.default_root_dir", "/tmp", "chooses where results go"),
    ("hydra.launcher.setup", "[rm]", "of Hydra's keys this page takes only"),
    ("hydra.job.env_set", "{A: b}", "of Hydra's keys this page takes only"),
    ("hydra.searchpath", "[file:///tmp]", "of Hydra's keys this page takes only"),
    ("hydra/job_logging", "x", "of Hydra's keys this page takes only"),
    ("hydra.launcher.partition", "gpu;rm", "give a number or a word"),
    ("experiment", "../../../tmp/evil", "give the name of an option"),
    ("+experiment", "/tmp/evil", "give the name of an option"),
    ("backbone@metrics.encoder", "../x", "give the name of an option"),
    ("task.methods", "{a: [content=/etc/passwd]}", "give the name of an option"),
    ("content", "/etc/passwd", "not below the folder of the studio"),
    ("content", "a.jpg,../b.jpg", "not below the folder of the studio"),
    ("style", "[a.jpg,~/b.jpg]", "not below the folder of the studio"),
    ("results", "{a: /etc}", "not below the folder of the studio"),
    ("data.content", "pipe:cat x", "below the folder of the studio"),
    ("data.content", "https://host/x", "below the folder of the studio"),
    ("content", "a\nb", "line break"),
    ("-m", "1", "a key consists of letters"),
    ("--config-dir", "/tmp", "a key consists of letters"),
    ("~loss", "x", "a key consists of letters"),
    ("seed", "", "has no value"),
    ("", "3", "names no key"),
]


@pytest.mark.parametrize(("key", "value", "why"), REFUSED)
def test_the_form_refuses_code_other_places_and_the_keys_of_hydra(page, folder, key, value, why):
    before = sorted(folder.rglob("*"))
    rows = [{"key": key, "value": value}]
    for question in ("check", "start"):
        answer = page.post(f"{API}/{question}", json={"rows": rows}).json()
        (problem,) = answer["problems"]
        assert why in problem["sentence"]
        assert problem["key"] == key
        assert answer["command"] is None
    assert sorted(folder.rglob("*")) == before


def test_links_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(Refused, match=r"link/x\.jpg: this path is not below"):
        check_paths("content", "link/x.jpg", tmp_path / "in")
    check_paths("content", ["sample:astronaut", "photos/a.jpg", 3, None], tmp_path / "in")


def test_rows_become_words(tmp_path):
    rows = [{"key": " seed ", "value": "1,2"}, {"key": "", "value": ""}, {"key": "+my.x", "value": "[a,b]"}]
    assert words_of(rows, tmp_path) == ["seed=1,2", "+my.x=[a,b]"]
    with pytest.raises(Refused, match="seed is there twice"):
        words_of([{"key": "seed", "value": "1"}, {"key": "seed", "value": "2"}], tmp_path)
    with pytest.raises(Refused, match="list of at most"):
        words_of("seed=1", tmp_path)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("weights.beta=-1: a weight is a finite number", "weights.beta"),
        ("weight.beta: there is no such key; did you mean weights.beta?", "weight.beta"),
        ("Could not find 'layers/x': layers=... takes a, b", "layers"),
        ("the launcher lost a job", None),
    ],
)
def test_a_sentence_of_the_command_line_is_shown_at_its_key(text, key):
    assert key_of(text, ["weights=default", "weights.beta=-1", "weight.beta=3", "layers=x"]) == key


@pytest.mark.parametrize("module", [planning, wishes])
def test_the_examples_in_the_docstrings_are_right(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_form_suggests_what_it_takes_and_explains_keys(page):
    found = page.get(f"{API}/keys").json()
    assert {"weights.beta", "image_px", "method.max_steps", "hydra.launcher.n_jobs"} <= {*found["keys"]}
    assert "adain" in found["groups"]["method"]
    assert not {"output", "run_dir", "hydra.sweep.dir"} & {*found["keys"]}
    assert not [key for key in found["keys"] if "_target_" in key]
    assert "weight of the style terms" in page.get(f"{API}/key", params={"name": "weights.beta"}).json()["text"]
    assert page.get(f"{API}/key", params={"name": "../x"}).json() == {"text": ""}


# ----------------------------------------------------------------------------------------------- processes and records


def sleeper(*words: str) -> subprocess.Popen:
    """A process that does nothing, as the first of its group, with words in its command."""
    # Where the tests themselves run in the background of a shell, SIGINT would be ignored.
    heeding = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL)"
    program = f"{heeding}; print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program, *words], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def put(place: Path, **fields) -> Record:
    record = Record(**{"words": ["seed=1,2"], "sweep": True, "cwd": str(place.parents[2]), **fields})
    place.mkdir(parents=True, exist_ok=True)
    (place / launching.RECORD).write_text(json.dumps(asdict(record)))
    return record


@pytest.fixture
def going(folder):
    """A sweep whose process runs, as a studio records it, and the process."""
    place = folder / "multirun" / "nstexp" / "two"
    process = sleeper("hydra.sweep.dir=multirun/nstexp/two")
    host, started = socket.gethostname(), launching.identity(process.pid)
    put(place, host=host, pid=process.pid, started=started, total=2, keys=["seed"], jobs=[{"seed": "1"}, {"seed": "2"}])
    yield place, process
    process.kill()
    process.wait()


def test_what_one_server_started_another_one_shows_and_stops(page, folder, going):
    place, process = going
    second = client(folder)
    for each in (page, second):
        state = one(each, "multirun/nstexp/two")
        assert (state["running"], state["can"]["stop"], state["can"]["continue"]) == (True, True, False)
        assert [(job["status"], job["values"]) for job in state["jobs"]] == [
            ("waiting", {"seed": "1"}), ("waiting", {"seed": "2"}),
        ]  # fmt: skip
    assert listed(second)["running"] is True
    assert "still runs" in sentence(second.post(f"{API}/continue", json={"path": "multirun/nstexp/two"}))
    answer = second.post(f"{API}/stop", json={"path": "multirun/nstexp/two"})
    assert answer.json()["sentence"] == "two stops at the end of its step"
    assert process.wait(10) == -signal.SIGINT
    assert launching.read_record(place).stopping is not None
    state = one(page, "multirun/nstexp/two")
    assert (state["running"], state["status"], state["can"]["stop"]) == (False, "failed", False)
    assert "does not run any more" in sentence(page.post(f"{API}/stop", json={"path": "multirun/nstexp/two"}))


def test_a_number_that_another_process_has_now_is_never_signaled(going):
    place, process = going
    record = launching.read_record(place)
    put(place, host=record.host, pid=process.pid, started="earlier")
    assert launching.is_alive(launching.read_record(place)) is False
    with pytest.raises(UserError, match="does not run any more"):
        launching.stop(place)
    # A record that somebody else wrote into a shared folder names a process of another program.
    elsewhere = place.parent / "three"
    put(elsewhere, host=record.host, pid=process.pid, started=record.started)
    with pytest.raises(UserError, match="is another program: nothing was stopped"):
        launching.stop(elsewhere)
    assert process.poll() is None


def test_a_process_of_another_machine_is_left_alone(page, going):
    place, process = going
    record = launching.read_record(place)
    put(place, host="elsewhere", pid=process.pid, started=record.started)
    assert launching.is_alive(launching.read_record(place)) is None
    assert one(page, "multirun/nstexp/two")["can"]["stop"] is False
    said = sentence(page.post(f"{API}/stop", json={"path": "multirun/nstexp/two"}))
    assert said == "two was started on elsewhere: stop it in a studio on that machine"
    assert process.poll() is None


def test_a_sweep_of_a_terminal_has_no_process_to_stop(page):
    said = sentence(page.post(f"{API}/stop", json={"path": "multirun/nstexp/one"}))
    assert said == "one was not started from this page: press Ctrl-C where it was started"


def test_damaged_records_stop_nothing(tmp_path):
    for text in ("", "{", "[]", '{"words": "a", "sweep": true, "cwd": ""}', '{"words": [1], "sweep": true, "cwd": ""}'):
        (tmp_path / launching.RECORD).write_text(text)
        assert launching.read_record(tmp_path) is None
    assert launching.identity(2**22 + 1) is None


def test_words_in_a_record_are_checked_like_those_of_the_form(page, folder):
    place = folder / "multirun" / "nstexp" / "two"
    put(place, words=["method._target_=os.system"])
    said = sentence(page.post(f"{API}/continue", json={"path": "multirun/nstexp/two"}))
    assert "names code to run" in said
    put(place, words=["hydra/sweeper=optuna", "seed=1,2"])
    assert "is a search" in sentence(page.post(f"{API}/continue", json={"path": "multirun/nstexp/two"}))
    put(place, cwd="/elsewhere")
    said = sentence(page.post(f"{API}/continue", json={"path": "multirun/nstexp/two"}))
    assert said == "two was started in /elsewhere, where its paths begin: continue it there in a terminal"


def test_a_process_that_ended_before_its_first_run_shows_its_last_words(page, folder):
    place = folder / "multirun" / "nstexp" / "two"
    put(place, total=2)
    (place / launching.LOG).write_text("$ nstexp -m seed=1,2\nhydra/launcher=ray needs a package\n")
    entry = next(entry for entry in listed(page)["entries"] if entry["id"] == "multirun/nstexp/two")
    assert (entry["status"], entry["error"]) == ("failed", "hydra/launcher=ray needs a package")


def test_the_page_of_another_site_can_start_nothing(page):
    for name in ("start", "stop", "continue", "report", "check", "compare"):
        assert page.post(f"{API}/{name}", json={}, headers={"origin": "http://evil.example"}).status_code == 403
