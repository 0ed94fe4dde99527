"""What several test files share: pictures, commands and their results."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
SMOKE = ("experiment=smoke_gatys", "method.max_steps=2", "picture_every_n_steps=0", "precision=fp32")
PROGRESS = re.compile(r"\d+%\||; configuration in |^picture \d+ of |^\[sweep\] |^loss: ")


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


def run_folders() -> list[Path]:
    return sorted(Path().glob("runs/nstexp/*")) + sorted(Path().glob("multirun/nstexp/*/[0-9]*"))


def embedded(folder: Path) -> dict:
    """The data in a folder's report.html, from which its script makes the page."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)
