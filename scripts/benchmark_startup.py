"""Measure how long whole commands take, compared with `import torch` alone: the wait of a user for one picture.

    python scripts/benchmark_startup.py
    python scripts/benchmark_startup.py --repeat 5 --image-px 1024

Every command runs once to fill the disk cache, then `--repeat` times in turn with the others, each time in a new
process. Ratios are those of the medians. Nothing else should run on the machine. The table goes to stdout as Markdown.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tqdm import tqdm

from nstexp import streams
from nstexp.commands import errors_on_one_line, table_head
from nstexp.core.errors import UserError

IMPORT = "import torch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each command (default: 3)")
    parser.add_argument(
        "--image-px", type=int, default=512, help="longer side of the pictures in pixels (default: 512)"
    )
    args = parser.parse_args()
    with errors_on_one_line(), tempfile.TemporaryDirectory() as folder:
        print(table(seconds(commands(args.image_px), args.repeat, Path(folder))))


def commands(image_px: int) -> dict[str, list[str]]:
    """Name of a command -> arguments for the Python interpreter."""
    nstexp = ["-m", "nstexp", "content=sample:astronaut", f"image_px={image_px}"]
    return {
        IMPORT: ["-c", "import torch"],
        "method=cin, logger=none": [*nstexp, "method=cin", "logger=none"],
        "method=cin, W&B offline": [*nstexp, "method=cin"],
        "method=adain, logger=none": [*nstexp, "method=adain", "logger=none"],
        "method=adain, W&B offline": [*nstexp, "method=adain"],
        "a missing file": [*nstexp, "content=nowhere.jpg"],
        "a misspelt key": [*nstexp, "image_pxx=3"],
        "a misspelt value": [*nstexp, "color=lumniance"],
        "--help": ["-m", "nstexp", "--help"],
        "help losses": ["-m", "nstexp", "help", "losses"],
    }


def seconds(wanted: dict[str, list[str]], repeat: int, folder: Path) -> dict[str, list[float]]:
    """Wall times of all runs except the first, by the name of the command."""
    found: dict[str, list[float]] = {name: [] for name in wanted}
    rounds = [(number, name) for number in range(repeat + 1) for name in wanted]
    for number, name in tqdm(rounds, unit="command", file=sys.stderr):
        took = _run(wanted[name], folder, fails=name.startswith("a mis"))
        if number:
            found[name].append(took)
    return found


def _run(arguments: list[str], folder: Path, fails: bool) -> float:
    env = {**os.environ, "WANDB_MODE": "offline"}
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    took = time.perf_counter() - begun
    if (done.returncode != 0) != fails:
        raise UserError(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return took


def table(found: dict[str, list[float]]) -> str:
    """One line per command: median and range of its seconds, and the ratio to `import torch`."""
    unit = median(found[IMPORT])
    lines = [
        f"| {name} | {median(times):.2f} | {min(times):.2f} to {max(times):.2f} | {median(times) / unit:.2f} |"
        for name, times in found.items()
    ]
    return "\n".join([table_head("command", "seconds", "range", "ratio"), *lines])


if __name__ == "__main__":
    streams.prepare()
    main()
