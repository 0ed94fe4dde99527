"""The pictures of the README: runs the experiments of the deck's figures and shrinks the sheet that each leaves.

    python scripts/make_gallery.py --runs multirun/gallery            all; about 40 minutes on two CPU cores
    python scripts/make_gallery.py --runs multirun/gallery two_styles color_modes

A sweep that already has its grid.png in --runs/<experiment> is not run again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image

EXPERIMENTS = (
    "content_reconstruction",
    "style_reconstruction",
    "first_k_layers",
    "alpha_beta",
    "total_variation",
    "single_styles",
    "two_styles",
    "two_styles_weights",
    "lapstyle_sweep",
    "style_statistics",
    "color_modes",
    "inits",
    "content_layer",
    "adain_alpha",
    "cin_styles",
    "cin_mix",
)
OUT = Path(__file__).parent / "gallery"
WIDTH_PX, QUALITY = 900, 75


def run(experiment: str, folder: Path) -> Path:
    """The sheet of an experiment, made now unless it is there."""
    sheet = folder / "grid.png"
    if not sheet.exists():
        command = [sys.executable, "-m", "nstexp", f"experiment={experiment}", f"hydra.sweep.dir={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=f"of: {', '.join(EXPERIMENTS)}")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the sweeps, one subfolder each")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for experiment in arguments.experiments or EXPERIMENTS:
        sheet = Image.open(run(experiment, arguments.runs.absolute() / experiment)).convert("RGB")
        width = min(WIDTH_PX, sheet.width)
        sheet = sheet.resize((width, round(sheet.height * width / sheet.width)), Image.Resampling.LANCZOS)
        path = arguments.out / f"{experiment}.jpg"
        sheet.save(path, quality=QUALITY, optimize=True)
        print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd[3:])} failed with exit code {error.returncode}")
