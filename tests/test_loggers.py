"""When W&B is asked and when not, and what its tables get; with stand-ins for W&B."""

import os
import socket
from types import SimpleNamespace

import pytest

from nstexp import loggers
from nstexp.loggers import online_or_offline, why_offline

ACCOUNT = SimpleNamespace(base_url="https://wandb.example", api_key="key")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No account and no proxy of this machine's."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
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


class Made:
    """A logger that, as Lightning's, sets the environment when an offline run starts."""

    def __init__(self, save_dir: str, offline: bool, mode: str | None = None) -> None:
        self.offline, self.mode = offline, mode

    @property
    def experiment(self):
        if self.offline:
            os.environ["WANDB_MODE"] = "dryrun"
        return self


@pytest.mark.parametrize("before", [None, "offline", "disabled"])
def test_an_offline_run_leaves_the_environment_as_it_was(monkeypatch, before):
    if before:
        monkeypatch.setenv("WANDB_MODE", before)
    nobody = SimpleNamespace(settings=SimpleNamespace(base_url="", api_key=None))
    built = online_or_offline(Made, "here", lambda: nobody)
    assert built.offline and built.mode == ("disabled" if before == "disabled" else "offline")
    assert os.environ.get("WANDB_MODE") == before


def test_a_refused_run_goes_offline(reachable, caplog):
    class Refused(Made):
        def __init__(self, save_dir: str, offline: bool, mode: str | None = None) -> None:
            if not offline:
                raise RuntimeError("no")
            super().__init__(save_dir, offline, mode)

    with caplog.at_level("INFO"):
        built = online_or_offline(Refused, "here", lambda: SimpleNamespace(settings=ACCOUNT))
    assert built.offline
    assert "wandb.example refused the run (RuntimeError)" in caplog.text


def test_a_table_has_every_column_once_and_empty_cells(tmp_path):
    told = {}
    logger = SimpleNamespace(as_picture=lambda file: ("shown", file), log_table=lambda key, **table: told.update(table))
    plain = SimpleNamespace()
    files = {"a": tmp_path / "a.png", "b": tmp_path / "b.png"}
    numbers = {"a": {"picture": "output", "ssim": 0.5}, "b": {"total": 2.0}, "mean": {"ssim": 1.0}}
    loggers.log_pictures([plain, logger], "results", files, numbers)
    assert told["columns"] == ["name", "picture", "ssim", "total"]
    assert told["data"] == [
        ["a", ("shown", str(files["a"])), 0.5, None],
        ["b", ("shown", str(files["b"])), None, 2.0],
    ]
