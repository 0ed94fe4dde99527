"""The W&B workspace of a sweep: that it asks for what runs really log, and what becomes of bad input.

No server is asked: what would be sent is compared with offline runs, read back.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
import yaml
from helpers import SCRIPTS

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed: pip install 'nstexp[workspaces]'")

SCRIPT = SCRIPTS / "wandb_workspace.py"
SWEEP = (
    "backbone=random image_px=64 method.max_steps=12 method.levels=1 picture_every_n_steps=5 log_every_n_steps=4 "
    "metrics.names=[style_gram,content_loss,ssim] layers=style_first1,style_first2 weights.beta=1,10"
)
MEASURES = ["style_gram", "content_loss", "ssim"]

pytestmark = pytest.mark.slow  # a real sweep, and W&B


@pytest.fixture
def no_network(monkeypatch):
    # The real one speaks to a process of its own on this machine, through a socket.
    monkeypatch.setattr("wandb.setup", lambda: SimpleNamespace(settings=wandb.Settings()))

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("wandb.Api", refuse)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """A real sweep of four runs, logged offline."""
    folder = tmp_path_factory.mktemp("sweeps") / "2026-01-31_12-00-00"
    # Also where whoever runs the tests has an account.
    environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nstexp", "-m", *SWEEP.split(), f"hydra.sweep.dir={folder}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def logged(sweep) -> list[dict]:
    """What W&B has of each run."""
    return [_read_back(sweep / str(number)) for number in range(4)]


def _read_back(folder: Path) -> dict:
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")

    def inspect(*options: str) -> str:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", str(file), "--json", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            pytest.skip(f"this version of wandb cannot read an offline run back: {done.stderr.strip()[-200:]}")
        return done.stdout

    records = [json.loads(line) for line in inspect().splitlines()]
    start = next(record["run"] for record in records if "run" in record)
    found = json.loads(inspect("--summary"))
    history = {key for record in records if "history" in record for key in record["history"]["item"]}
    return {
        "group": start["run_group"],
        "job_type": start["job_type"],
        "project": found["project"],
        "config": found["config"],
        "summary": found["summary"],
        "history": history,
    }


def _panels(spec: dict) -> dict[str, list[dict]]:
    """{section: its panels}."""
    return {s["name"]: s["panels"] for s in spec["spec"]["section"]["panelBankConfig"]["sections"]}


def _of_kind(panels: list[dict], kind: str) -> list[dict]:
    return [panel["config"] for panel in panels if panel["viewType"] == kind]


def _tables(panels: list[dict]) -> list[str]:
    """The keys of the tables among the panels."""
    queries = [config["panel2Config"]["exp"]["fromOp"]["inputs"] for config in _of_kind(panels, "Weave")]
    return [query["key"]["val"] for query in queries]


def _asked_of(spec: dict) -> set[str]:
    """Every key that the panels, columns and the order name: `history:`, `summary:`, `config:` or `run:` before it."""
    found = set()
    for panel in (panel for panels in _panels(spec).values() for panel in panels):
        config = panel["config"]
        match panel["viewType"]:
            case "Run History Line Plot":
                found |= {f"history:{key}" for key in (config["xAxis"], *config["metrics"])} | {*config["legendFields"]}
            case "Scatter Plot":
                found |= {config["xAxis"], config["yAxis"]}
            case "Bar Chart":
                found |= {f"summary:{key}" for key in config["metrics"]}
            case "Parallel Coordinates Plot":
                found |= {column["accessor"] for column in config["columns"]}
            case "Media Browser":
                found |= {f"summary:{key}" for key in config["mediaKeys"]}
            case "Weave":
                found |= {f"summary:{key}" for key in _tables([panel])}
            case kind:
                assert kind == "Run Comparer", kind
    (runs,) = spec["spec"]["section"]["runSets"]
    found |= {*runs["runFeed"]["columnOrder"]}
    found |= {f"{key['key']['section']}:{key['key']['name']}" for key in runs["sort"]["keys"]}
    return found | {f"{key['section']}:{key['name']}" for key in runs["grouping"]}


def _has(run: dict, key: str) -> bool:
    section, name = key.split(":", 1)
    if section == "config":
        top, value, *rest = name.split(".")
        assert value == "value"  # the server keeps each top-level entry in a table of its own
        found = run["config"][top]
        for part in rest:
            found = found[part]
        return not isinstance(found, dict)
    if section == "run":
        return name in ("displayName", "jobType")
    return name in run[section]


def make_job(
    folder: Path, number: int, overrides: dict, config: dict, metrics: dict, curve: str = "", **summary
) -> Path:
    """A run folder without pictures."""
    path = folder / str(number)
    (path / ".hydra").mkdir(parents=True)
    logger = {"wandb": {"logger": {"project": "paint", "group": folder.name}}}
    (path / "config.yaml").write_text(yaml.safe_dump({"logger": logger, **config}))
    (path / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"{k}={v}" for k, v in overrides.items()]))
    record = {"status": "completed", "task": "stylize", "metrics": metrics, **summary}
    (path / "summary.json").write_text(json.dumps(record))
    (path / "metrics.json").write_text(json.dumps(metrics))
    if curve:
        (path / "losses.csv").write_text(curve)
    return path


@pytest.fixture
def spec(run, sweep, no_network) -> dict:
    return json.loads(run(sweep, "--entity", "me", "--dry-run").out)["workspace"]


def test_every_key_is_logged_by_every_run(spec, logged):
    asked = _asked_of(spec)
    assert {f"history:loss/{term}" for term in ("total", "content", "gram", "tv", "range")} <= asked
    assert {f"summary:final/{name}" for name in MEASURES} <= asked
    assert {"summary:result", "summary:picture", "summary:results", "config:weights.value.beta"} <= asked
    for run in logged:
        assert [key for key in sorted(asked) if not _has(run, key)] == []


def test_only_the_sweeps_runs_are_shown(spec, sweep, logged):
    (runs,) = spec["spec"]["section"]["runSets"]
    group, kind = runs["filters"]["filters"]
    assert (group["key"], group["op"], group["value"]) == ({"section": "run", "name": "group"}, "=", sweep.name)
    assert (kind["key"], kind["op"], kind["value"]) == ({"section": "run", "name": "jobType"}, "!=", "report")
    assert kind["connector"] == "AND"
    own = _read_back(sweep)
    assert {run["group"] for run in [*logged, own]} == {sweep.name}
    assert own["job_type"] == "report" and {run["job_type"] for run in logged} == {"gatys"}
    assert (spec["entity"], spec["project"]) == ("me", own["project"])


def test_runs_stand_in_the_order_of_what_varies(spec):
    (runs,) = spec["spec"]["section"]["runSets"]
    stored = [key["key"]["name"] for key in runs["sort"]["keys"]]
    # A config group leaves no name in W&B's configuration: its settings that differ stand for it.
    assert stored == ["layers.value.style", "weights.value.beta"]
    assert all(key["ascending"] for key in runs["sort"]["keys"])
    columns = ["run:displayName", *(f"config:{name}" for name in stored)]
    assert runs["runFeed"]["columnOrder"][:3] == columns
    assert runs["grouping"] == []
    line = _of_kind(_panels(spec)["Losses"], "Run History Line Plot")[0]
    assert line["legendFields"] == columns
    (axes,) = _of_kind(_panels(spec)["Measures"], "Parallel Coordinates Plot")
    assert [column["accessor"] for column in axes["columns"]] == [
        *columns[1:],
        *(f"summary:final/{name}" for name in MEASURES),
    ]


def test_panels(spec):
    panels = _panels(spec)
    assert list(panels) == ["Pictures", "Losses", "Measures", "Runs compared"]
    results, unfinished = _of_kind(panels["Pictures"], "Media Browser")
    assert (results["mediaKeys"], unfinished["mediaKeys"]) == (["result"], ["picture"])
    assert results["columnCount"] == 2  # the last setting that varies is the columns
    assert _tables(panels["Pictures"]) == ["results"]
    lines = _of_kind(panels["Losses"], "Run History Line Plot")
    assert [line["chartTitle"] for line in lines] == ["total", "content", "gram", "tv", "range"]
    assert all(line["yLogScale"] and line["xAxis"] == "trainer/global_step" for line in lines)
    (trade,) = _of_kind(panels["Measures"], "Scatter Plot")
    assert (trade["xAxis"], trade["yAxis"]) == ("summary:final/content_loss", "summary:final/style_gram")
    assert [bar["metrics"] for bar in _of_kind(panels["Measures"], "Bar Chart")] == [[f"final/{n}"] for n in MEASURES]
    assert [panel["viewType"] for panel in panels["Runs compared"]] == ["Run Comparer"]


def test_report_has_the_same_panels_and_the_table_of_all_runs(run, spec, sweep, no_network):
    blocks = json.loads(run(sweep, "--entity", "me", "--report", "--dry-run").out)["report"]
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    assert "layers.style, weights.beta" in json.dumps(blocks[0])

    def kinds(panels):
        return [(panel["viewType"], panel["config"].get("chartTitle")) for panel in panels]

    *same, last = [grid["panelBankSectionConfig"]["panels"] for grid in grids]
    assert [kinds(panels) for panels in same] == [kinds(panels) for panels in _panels(spec).values()]
    assert _tables(last) == ["sweep"]
    assert "sweep" in _read_back(sweep)["summary"]
    *runs, own = [grid["runSets"][0] for grid in grids]
    expected = spec["spec"]["section"]["runSets"][0]
    assert all(found["filters"] == expected["filters"] and found["sort"] == expected["sort"] for found in runs)
    assert [(f["key"]["name"], f["op"], f["value"]) for f in own["filters"]["filters"]] == [
        ("group", "=", sweep.name),
        ("jobType", "=", "report"),
    ]
    for panels in (*same, last):
        places = [(p["layout"]["x"], p["layout"]["y"]) for p in panels]
        assert len(set(places)) == len(places)


def test_several_pictures_have_keys_of_their_own(script, tmp_path):
    curve = "image,step,total,gram,seconds\na,1,2.0,1.0,0.1\nb,1,2.0,1.0,0.1\n"
    for number, beta in enumerate((1, 10)):
        metrics = {name: {"total": 2.0, "style_gram": 1.0, "content_loss": 2.0} for name in "ab"}
        known = {"style_gram": "x", "content_loss": "y"}
        config = {"weights": {"beta": beta}}
        make_job(tmp_path, number, {"weights.beta": beta}, config, metrics, curve, measured_with=known)
    found = script.read(tmp_path)
    assert found.losses == {"total": ["a/loss/total", "b/loss/total"], "gram": ["a/loss/gram", "b/loss/gram"]}
    assert found.results == ["a/result", "b/result"]
    assert found.measures["style_gram"] == ["a/final/style_gram", "b/final/style_gram"]
    panels = _panels(script.described(found, "me", "p", False)["workspace"])
    titles = [plot["chartTitle"] for plot in _of_kind(panels["Measures"], "Scatter Plot")]
    assert titles == [f"{name}/style_gram against content_loss" for name in "ab"]


def test_a_training_has_its_validation(script, tmp_path):
    curve = "image,step,total,style,lr,images_per_second,data_wait\ntrain,1,2.0,1.0,0.1,3,0\n"
    for number, rate in enumerate((0.1, 0.2)):
        metrics = {"train": {"total": 2.0, "style": 1.0}}
        path = make_job(tmp_path, number, {"method.lr": rate}, {"method": {"lr": rate}}, metrics, curve, task="train")
        (path / "validation.csv").write_text("step,total,style\n1,2.0,1.0\n")
        (path / "images").mkdir()
        (path / "images" / "validation_000001.jpg").touch()
    found = script.read(tmp_path)
    assert found.losses == {"total": ["loss/total"], "style": ["loss/style"]}
    assert found.curves == {"total": ["validation/total"], "style": ["validation/style"]}
    assert (found.results, found.pictures) == ([], ["validation/pictures"])
    assert found.measures == {"total": ["final/total"], "style": ["final/style"]}


def test_methods_are_told_apart_by_job_type_and_seeds_are_one_group(script, tmp_path):
    jobs = [(method, seed) for method in ("gatys", "adain") for seed in (0, 1)]
    for number, (method, seed) in enumerate(jobs):
        overrides, config = {"method": method, "seed": seed}, {"method": {"_target_": method}, "seed": seed}
        make_job(tmp_path, number, overrides, config, {"output": {"total": 1.0}})
    found = script.read(tmp_path)
    assert found.varied == ("method", "seed")
    spec = script.described(found, "me", "p", False)["workspace"]
    (runs,) = spec["spec"]["section"]["runSets"]
    assert runs["grouping"] == [{"section": "run", "name": "jobType"}]
    assert [key["key"]["name"] for key in runs["sort"]["keys"]] == ["jobType", "seed.value"]
    assert {"Losses", "Pictures"}.isdisjoint(_panels(spec))  # nothing was drawn step by step


@pytest.mark.parametrize(
    ("key", "values", "paths"),
    [
        ("image_px", (64, 128), ["image_px"]),
        ("task.crop", ("none", "square"), ["task.crop"]),
        ("backbone@metrics.encoder", ("a", "b"), ["metrics.encoder.pool"]),
        ("experiment", ("a", "b"), ["image_px", "task.crop", "metrics.encoder.pool"]),
    ],
)
def test_where_wandb_has_a_setting(script, tmp_path, key, values, paths):
    for number, (value, pool) in enumerate(zip(values, ("max", "avg"), strict=True)):
        config = {"image_px": 64 * (number + 1), "task": {"crop": ("none", "square")[number]}, "run_dir": str(number)}
        config["metrics"] = {"encoder": {"pool": pool, "pad": "zeros"}}
        make_job(tmp_path, number, {key: value}, config, {})
    found = script.read(tmp_path).varied
    # A setting of the task repeats one of the top level, unless it was set itself.
    assert found == tuple(path for path in paths if key != "experiment" or path != "task.crop")


def test_a_run_that_failed_leaves_nothing_out(script, tmp_path):
    make_job(tmp_path, 0, {"seed": 0}, {"seed": 0}, {"output": {"total": 1.0}})
    make_job(tmp_path, 1, {"seed": 1}, {"seed": 1}, {}, status="failed", error="no")
    (tmp_path / "2").mkdir()
    found = script.read(tmp_path)
    assert found.runs == 3 and found.measures == {"total": ["final/total"]}


def test_bad_input_is_one_sentence(run, tmp_path, no_network):
    def sentence(*args) -> str:
        written = run(*args, expect=2)
        assert written.out == "" and written.err.count("\n") == 1
        return written.err

    assert "there is no such folder" in sentence(tmp_path / "none", "--entity", "me")
    assert "no runs in this folder" in sentence(tmp_path, "--entity", "me")
    named = tmp_path / "beta=1"
    make_job(named, 0, {}, {}, {})
    assert "in its name, beta=1" in sentence(named, "--entity", "me", "--dry-run")
    make_job(tmp_path / "csv", 0, {}, {"logger": {"csv": {"name": "csv"}}}, {})
    assert "start them with logger=wandb" in sentence(tmp_path / "csv", "--entity", "me", "--dry-run")
    make_job(tmp_path / "good", 0, {}, {}, {})
    assert "--entity 'me/it'" in sentence(tmp_path / "good", "--entity", "me/it", "--dry-run")
    assert "--project ''" in sentence(tmp_path / "good", "--entity", "me", "--project", "", "--dry-run")


def test_a_missing_library_is_one_sentence(tmp_path):
    code = (
        "import runpy, sys; sys.modules['wandb_workspaces'] = None; "
        f"sys.argv = ['x', {str(tmp_path)!r}, '--entity', 'me', '--dry-run']; "
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "wandb-workspaces is not installed: pip install 'nstexp[workspaces]'\n"


def test_without_an_account_nobody_is_asked(run, tmp_path, monkeypatch, no_network):
    make_job(tmp_path, 0, {}, {}, {})
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    written = run(tmp_path, "--entity", "me", expect=2)
    assert "`wandb login`" in written.err and "--dry-run" in written.err and written.err.count("\n") == 1


class Server:
    """W&B's Python client, as far as the library uses it; `sent` are the views, by their names."""

    def __init__(self, runs: int = 4) -> None:
        self.found, self.asked, self.sent = runs, [], {}
        self.app_url = "https://wandb.example"
        self._service_api = self

    def runs(self, path, filters, per_page):
        self.asked.append((path, filters))
        return [None] * self.found

    def projects(self, entity):
        return []

    def create_project(self, project, entity):
        pass

    def execute_graphql(self, query, variables=None):
        if "spec" not in variables:
            return {"project": {"internalId": "7"}}
        self.sent[variables["displayName"]] = json.loads(variables["spec"])
        project = {"name": variables["projectName"], "entityName": variables["entityName"]}
        view = {"id": "VmlldzoxMjM0", "name": variables["name"], "displayName": variables["displayName"]}
        more = {"description": "", "project": project, "spec": variables["spec"], "createdAt": None, "updatedAt": None}
        return {"upsertView": {"view": {**view, **more}, "inserted": True}}


@pytest.fixture
def server(monkeypatch):
    made = Server()
    # The settings of this process may come from an earlier test, or say "offline".
    monkeypatch.setattr("wandb.setup", lambda: SimpleNamespace(settings=wandb.Settings(mode="online")))
    monkeypatch.setattr("wandb.Api", lambda *args, **kwargs: made)
    monkeypatch.setattr("nstexp.loggers.why_offline", lambda settings: None)
    return made


def test_what_is_saved_is_what_the_dry_run_shows(run, spec, sweep, server):
    shown = json.loads(run(sweep, "--entity", "me", "--project", "paint", "--report", "--dry-run").out)
    assert server.sent == {}
    urls = run(sweep, "--entity", "me", "--project", "paint", "--report").out.splitlines()
    assert len(urls) == 2 and all(url.startswith("https://wandb.example/me/paint") for url in urls)
    assert server.asked == [("me/paint", {"group": sweep.name})]
    view, report = server.sent[f"sweep {sweep.name}"], server.sent[f"Sweep {sweep.name}"]

    def same(value):
        """Without the numbers that every object gets anew, the project that only the server knows, and nothings."""
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if k not in ("id", "__id__", "ref", "project") and v is not None}
            return {k: same(v) for k, v in kept.items()}
        return [same(item) for item in value] if isinstance(value, list) else value

    assert same(view) == same(shown["workspace"]["spec"])
    blocks = same(report["blocks"])
    assert blocks[0] == blocks[-1] == {"type": "paragraph", "children": [{"text": ""}]}  # the library's
    assert blocks[1:-1] == same(shown["report"])


def test_what_the_server_refuses_is_one_sentence(run, tmp_path, server, monkeypatch):
    import wandb

    make_job(tmp_path, 0, {}, {}, {})
    server.found = 0
    written = run(tmp_path, "--entity", "me", expect=2)
    assert "me/paint has no runs in the group" in written.err
    assert f"wandb sync --entity me {tmp_path}/*/wandb/offline-run-*" in written.err
    for error, hint in (
        (wandb.errors.AuthenticationError("no\nkey"), "(no key): wandb login --relogin"),
        (wandb.errors.CommError("not found"), "W&B refused me/paint (not found); if the runs are not synced yet"),
        (ValueError(), "(ValueError)"),
    ):

        def refuse(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(server, "runs", refuse)
        written = run(tmp_path, "--entity", "me", expect=2)
        assert hint in written.err and written.err.count("\n") == 1 and written.out == ""
