"""When W&B is asked and when not, and what its tables get; with stand-ins for W&B."""

import os
import pickle
import socket
import sys
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from nstexp import loggers
from nstexp.config.extras import check_loggers
from nstexp.core.errors import UserError
from nstexp.loggers import online_or_offline, why_offline
from nstexp.run import _final_means

ACCOUNT = SimpleNamespace(base_url="https://wandb.example", api_key="key", mode="online")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No account and no proxy of this machine's."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def reachable(monkeypatch):
    asked = []
    monkeypatch.setattr(
        socket, "create_connection", lambda address, timeout: asked.append(address) or SimpleNamespace(close=int)
    )
    return asked


def test_with_an_account_and_a_server_it_is_online(reachable):
    assert why_offline(ACCOUNT) is None
    assert reachable == [("wandb.example", 443)]


def test_the_account_may_be_in_netrc_for_that_server_only(reachable, tmp_path):
    (tmp_path / "netrc").write_text("machine wandb.example login user password key\n")
    known = SimpleNamespace(base_url="http://wandb.example:8080", api_key=None)
    assert why_offline(known) is None
    assert reachable == [("wandb.example", 8080)]
    assert "no account" in why_offline(SimpleNamespace(base_url="https://other.example", api_key=None))


def test_without_a_server_it_is_offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert why_offline(ACCOUNT) == "wandb.example cannot be reached"
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    assert why_offline(ACCOUNT) is None, "only W&B knows the way through a proxy"


class Run:
    """What `wandb.init` returns, as far as it is used: it notes all that it is told."""

    id = "abc"

    def __init__(self, dir: str, mode: str, **more: object) -> None:
        self.dir, self.mode, self.more = dir, mode, more
        self.told: list[tuple] = []
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.told.append(("config", values)))
        RUNS.append(self)

    def log(self, values: dict) -> None:
        self.told.append(("log", values))

    def define_metric(self, *names: str, **how: object) -> None:
        self.told.append(("metric", *names))

    def log_artifact(self, file: str, name: str, type: str) -> None:
        self.told.append(("file", file, name, type))

    def finish(self, exit_code: int) -> None:
        self.told.append(("finish", exit_code))


RUNS: list[Run] = []
NOBODY = SimpleNamespace(settings=SimpleNamespace(base_url="", api_key=None, mode="online"))
SHOWN = {"picture": lambda file: ("picture", file), "table": dict, "video": lambda file: ("video", file)}


def begin(start=Run, settings=NOBODY, **more: object) -> loggers.WandbRun:
    RUNS.clear()
    return online_or_offline(start, "here", lambda: settings, **SHOWN, **more)


def as_wandb_reads_it() -> SimpleNamespace:
    settings = SimpleNamespace(base_url="", api_key=None, mode=os.environ.get("WANDB_MODE", "online"))
    return SimpleNamespace(settings=settings)


@pytest.mark.parametrize("before", [None, "offline", "dryrun"])
def test_an_offline_run_leaves_the_environment_as_it_was(monkeypatch, before):
    if before:
        monkeypatch.setenv("WANDB_MODE", before)
    begin(settings=as_wandb_reads_it()).finish("completed")
    (run,) = RUNS
    assert (run.dir, run.mode) == ("here", "offline")
    assert os.environ.get("WANDB_MODE") == before


OFF = [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true"), ("WANDB_DISABLED", "1")]


@pytest.mark.parametrize("name, value", OFF)
def test_where_it_is_off_nothing_starts_and_nothing_is_to_be_synced(monkeypatch, caplog, name, value):
    monkeypatch.setenv(name, value)
    with caplog.at_level("INFO"):
        run = begin(settings=as_wandb_reads_it())
        run.log_metrics({"loss": 1.0})
        run.finish("completed")
    assert not RUNS
    assert [record.message for record in caplog.records] == [f"W&B is off: {name}={value}"]


@pytest.mark.parametrize("mode", ["", "foo"])
def test_a_mode_that_there_is_not_is_one_sentence(monkeypatch, caplog, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    begin().finish("completed")
    assert not RUNS
    (record,) = caplog.records
    assert record.message.startswith(f"WANDB_MODE={mode}: nothing is sent to W&B; use one of online, offline, disabled")


def test_false_does_not_disable_it(monkeypatch):
    monkeypatch.setenv("WANDB_DISABLED", "false")
    begin().finish("completed")
    assert len(RUNS) == 1


@pytest.mark.parametrize("mode, expected", [("disabled", []), ("offline", ["offline"])])
def test_the_mode_of_the_configuration_comes_first(monkeypatch, reachable, mode, expected):
    monkeypatch.setenv("WANDB_MODE", "online")
    start = partial(Run)
    start.settings = {"mode": mode}
    begin(start, SimpleNamespace(settings=ACCOUNT)).finish("failed")
    assert [run.mode for run in RUNS] == expected


def test_the_folder_is_the_one_of_the_environment(monkeypatch, caplog):
    monkeypatch.setenv("WANDB_DIR", "there")
    with caplog.at_level("INFO"):
        begin().finish("completed")
    assert [run.dir for run in RUNS] == ["there"]
    assert "wandb sync there/wandb/" in caplog.text


@pytest.mark.parametrize("number, ids", [(None, [{}]), (0, [{"id": "mine-0"}]), ("report", [{"id": "mine-report"}])])
def test_jobs_of_a_sweep_do_not_share_an_id(monkeypatch, number, ids):
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    begin(number=number).finish("completed")
    assert [run.more for run in RUNS] == ids


def test_with_an_account_the_run_is_online(reachable):
    begin(settings=SimpleNamespace(settings=ACCOUNT)).finish("completed")
    assert [run.mode for run in RUNS] == ["online"]


def test_a_refused_run_goes_offline(reachable, caplog):
    def refuse(dir: str, mode: str) -> Run:
        if mode == "online":
            raise RuntimeError("no")
        return Run(dir, mode)

    with caplog.at_level("INFO"):
        begin(refuse, SimpleNamespace(settings=ACCOUNT)).finish("completed")
    assert [run.mode for run in RUNS] == ["offline"]
    assert "wandb.example refused the run (RuntimeError)" in caplog.text


def test_the_run_is_told_everything_in_order_and_nobody_waits_for_its_start():
    may_start = threading.Event()

    def slowly(dir: str, mode: str) -> Run:
        may_start.wait(10)
        return Run(dir, mode)

    run = begin(slowly)
    run.log_hyperparams({"seed": 0})
    run.log_metrics({"loss": 2.0}, step=7)
    run.log_metrics({"seconds": 1.0})
    run.log_image("picture", ["pixels"], step=7)
    run.log_video("clip", ["clip.mp4"])
    run.log_file("report.html", "report of (1)", "kind")
    assert not RUNS, "all of this came back before the run had started"
    may_start.set()
    run.finish("failed")
    assert RUNS[0].told == [
        ("metric", "trainer/global_step"),
        ("metric", "*"),
        ("config", {"seed": 0}),
        ("log", {"loss": 2.0, "trainer/global_step": 7}),
        ("log", {"seconds": 1.0}),
        ("log", {"picture": [("picture", "pixels")], "trainer/global_step": 7}),
        ("log", {"clip": [("video", "clip.mp4")]}),
        ("file", "report.html", "report-of--1-", "kind"),
        ("finish", 1),
    ]


def test_what_it_refuses_is_one_warning_and_the_run_goes_on(caplog):
    class Full(Run):
        def log(self, values: dict) -> None:
            raise OSError("the disk is full")

    run = begin(Full)
    for step in range(3):
        run.log_metrics({"loss": 1.0}, step=step)
    run.finish("completed")
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warned == ["W&B failed (OSError: the disk is full): nothing more is sent to it"]


def start(dir: str = "here", mode: str = "offline", **more: object) -> Run:
    return Run(dir, mode, **more)


def test_another_process_of_a_training_goes_on_in_the_same_run():
    RUNS.clear()
    first = loggers.WandbRun(start, "here", str, dict, str)
    second = pickle.loads(pickle.dumps(first))
    second.log_metrics({"loss": 1.0}, step=1)
    for run in (first, second):
        run.finish("completed")
    assert [run.more for run in RUNS] == [{}, {"id": "abc", "resume": "allow"}]
    assert ("log", {"loss": 1.0, "trainer/global_step": 1}) in RUNS[1].told


def test_a_table_has_every_column_once_and_empty_cells(tmp_path):
    run = begin()
    files = {"a": tmp_path / "a.png", "b": tmp_path / "b.png"}
    numbers = {"a": {"picture": "output", "ssim": 0.5}, "b": {"total": 2.0}, "mean": {"ssim": 1.0}}
    loggers.log_pictures([SimpleNamespace(), run], "results", files, numbers)
    run.finish("completed")
    ((_, values),) = (told for told in RUNS[0].told if told[0] == "log")
    assert values["results"]["columns"] == ["name", "picture", "ssim", "total"]
    assert values["results"]["data"] == [
        ["a", ("picture", str(files["a"])), 0.5, None],
        ["b", ("picture", str(files["b"])), None, 2.0],
    ]


@pytest.mark.parametrize("name, install", [("tensorboard", "'nstexp[tensorboard]'"), ("mlflow", "mlflow")])
def test_a_logger_that_is_not_installed_is_one_sentence_with_what_to_install(monkeypatch, name, install):
    targets = {"tensorboard": "TensorBoardLogger", "mlflow": "MLFlowLogger"}
    for package in ("tensorboard", "tensorboardX", "mlflow", "mlflow_skinny"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as error:
        check_loggers({name: {"_target_": f"pytorch_lightning.loggers.{targets[name]}"}})
    assert str(error.value) == f"logger={name} needs a package that is not installed: pip install {install}"
    check_loggers({"csv": {"_target_": "pytorch_lightning.loggers.CSVLogger"}})
    check_loggers(None)


def test_the_final_numbers_of_a_run_are_means_over_its_pictures():
    pictures = {"a": {"ssim": 0.5, "total": 1.0}, "b": {"ssim": 0.7}}
    assert _final_means(pictures) == {"final/ssim": pytest.approx(0.6), "final/total": 1.0}
    one = {**pictures, "mean of adain": {"ssim": 0.6}}
    assert _final_means(one) == {"final/ssim": 0.6}
    two = {**one, "mean of gatys": {"ssim": 0.4}}
    assert _final_means(two) == {"adain/final/ssim": 0.6, "gatys/final/ssim": 0.4}
    assert _final_means({}) == {}
