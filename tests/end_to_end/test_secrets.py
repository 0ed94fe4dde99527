"""A password in an address leaves no trace in what a run writes and prints."""

from pathlib import Path

import pytest

ADDRESS = "https://me:hush@host/a.tar?sig=hush2"


def traces(folder: str) -> list[str]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if b"hush" in path.read_bytes()]


@pytest.mark.parametrize("logger", ["csv", "wandb"])
def test_a_run_keeps_no_password(folder, nstexp, monkeypatch, logger):
    monkeypatch.setenv("WANDB_MODE", "offline")
    result = nstexp(f"+my.address='{ADDRESS}'", f"logger={logger}", "run_dir=here", "hydra.verbose=true")
    assert result.code == 0, result.err
    assert traces("here") == [] and "hush" not in result.err + result.out
    assert "https://***@host/a.tar?***" in Path("here/config.yaml").read_text()


def test_nor_does_a_sweep_and_it_goes_on(folder, nstexp):
    command = ("-m", f"+my.address='{ADDRESS}'", "seed=1,2", "hydra.sweep.dir=here")
    assert nstexp(*command).code == 0
    assert traces("here") == []
    again = nstexp(*command)
    assert again.code == 0 and again.err.count("finished before: ") == 2


def test_nor_does_a_refused_training(folder, nstexp):
    shards = "http://me:hush@127.0.0.1:9/a-{0..1}.tar?sig=hush2"
    command = (
        "experiment=smoke_adain",
        "data=shards",
        f"data.content='{shards}'",
        f"data.style='{shards}'",
        "data.retries=0",
    )
    result = nstexp.bare(*command, "run_dir=here")
    assert result.code == 2, result.err
    assert "hush" not in result.err and "data.content: http://***@127.0.0.1:9/a-0.tar?***: the shard" in result.err
