"""What several test files share."""

import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import nstexp.cli as cli

SMOKE = ("experiment=smoke_gatys", "method.max_steps=2", "picture_every_n_steps=0", "precision=fp32")
PROGRESS = re.compile(r"\d+%\||; configuration in |^picture \d+ of |^\[sweep\] |^loss: ")


@pytest.fixture(scope="module")
def one_thread():
    """Two threads wait longer for each other than such small pictures take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(path: str, width: int, height: int, seed: int = 0) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return Path(path)


def finish(process: subprocess.Popen, code: int) -> tuple[str, str]:
    """What a command printed that ends with `code`, and without a traceback."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def wait_for(what: Callable[[], object], seconds: float = 90.0) -> object:
    """The first result that counts as true."""
    given_up = time.monotonic() + seconds
    while time.monotonic() < given_up:
        found = what()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError("it did not happen in time")


class Result:
    """Exit code, last line of stdout, and the lines of stderr that are not progress."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.path = Path(out.strip().splitlines()[-1]) if out.strip() else None
        lines = [line.strip() for line in re.split(r"[\r\n]", err.replace("\x1b[A", ""))]
        self.sentences = [line for line in lines if line and not PROGRESS.search(line)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in, with a photo (50x37) and a painting (40x44)."""
    monkeypatch.chdir(tmp_path)
    picture("photo.png", 50, 37, seed=1)
    picture("painting.jpg", 40, 44, seed=2)
    return tmp_path


@pytest.fixture
def nstexp(monkeypatch, capfd):
    """Call the command line in this process, on the smoke experiment with photo.png and painting.jpg."""

    def call(*args: str) -> Result:
        mode = args[:1] if args[:1] == ("-m",) else ()
        inputs = ("content=photo.png", "style=painting.jpg")
        return run_main(*mode, *SMOKE, *inputs, *args[len(mode) :])

    def run_main(*args: str) -> Result:
        capfd.readouterr()
        GlobalHydra.instance().clear()
        monkeypatch.setattr(logging.getLogger(), "handlers", [])  # the last run's hold its closed stderr
        monkeypatch.setattr(sys, "argv", ["nstexp", *args])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        return Result(code, *capfd.readouterr())

    call.bare = run_main
    return call


def run_folders() -> list[Path]:
    return sorted(Path().glob("runs/nstexp/*")) + sorted(Path().glob("multirun/nstexp/*/[0-9]*"))
