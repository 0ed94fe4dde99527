"""What tests of the studio share."""

import os
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import ROOT

HERE = "http://127.0.0.1:8000"


def client(folder: Path, **options: Any) -> Any:
    """A client of a studio in a folder; it sends the Origin that the page would send. Use it in a `with` block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Starlette asks for another HTTP client than the usual one
        from starlette.testclient import TestClient

    from nstexp.studio.app import make_app

    return TestClient(make_app(folder, **options), base_url=HERE, headers={"origin": HERE})


@dataclass(frozen=True)
class Served:
    """A running `nstexp studio`: the address that it printed, its folder, and its process."""

    address: str
    folder: Path
    process: subprocess.Popen


def serve(folder: Path, *words: str) -> Served:
    """Start `nstexp studio` in a folder, with further words of the command line."""
    command = [sys.executable, "-m", "nstexp", "studio", str(folder), "--no-browser", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # threads of tests would compete
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("http://"), process.stderr and process.stderr.read()
    return Served(address, folder, process)


def end(served: Served) -> int:
    """End a studio with Ctrl-C; returns its exit code."""
    served.process.send_signal(signal.SIGINT)
    try:
        served.process.communicate(timeout=30)
    finally:
        served.process.kill()
    return served.process.returncode
