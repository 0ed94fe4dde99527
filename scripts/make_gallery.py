"""Make the pictures of the documentation, into docs/gallery.

    python scripts/make_gallery.py --runs multirun/gallery            all; about 40 minutes on two CPU cores
    python scripts/make_gallery.py --runs multirun/gallery two_styles color_modes
    python scripts/make_gallery.py --runs multirun/gallery print     a picture of 4096 px, which is not among `all`

`demo` is one photo by several methods, side by side. `print` is a large picture beside a part of it at full size; it
takes 40 minutes, and the same command goes on after an interruption. Every other name is an experiment whose sweep
leaves a sheet, grid.png, which is shrunk. A run that already has its picture in --runs/<name> is not repeated.
report.webp is a screenshot of a sweep's report.html; noise.webp joins two pairs of pictures of one texture_net with
other seeds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageOps

from nstexp.media.paths import find_images

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
OUT = Path(__file__).parents[1] / "docs/gallery"
WIDTH_PX, QUALITY = 900, 80

# Content and style of experiment=demo, then one picture for each of these, in rows of three.
DEMO = ("sample:coffee", "met:436535")
DEMO_RUNS = {
    "gatys": ["experiment=demo"],
    "swift": ["experiment=demo", "method=swift"],
    "adain": ["experiment=demo", "method=adain"],
    "irises": ["method=cin", "content=sample:coffee", "style=irises", "image_px=512"],
}
TILE_PX, GAP_PX = (296, 197), 6

PRINT = ("experiment=print", "content=sample:rocket", "style=met:436535", "method.memory_gb=9")
PART = (1880, 1560)  # left and top of the part at full size
PART_PX = (420, 380)


def nstexp(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "nstexp", *words], check=True, stdout=subprocess.DEVNULL)


def sheet(experiment: str, folder: Path) -> Image.Image:
    """The sheet of an experiment, at most WIDTH_PX wide."""
    file = folder / "grid.png"
    if not file.exists():
        nstexp(f"experiment={experiment}", f"hydra.sweep.dir={folder}")
    image = Image.open(file).convert("RGB")
    width = min(WIDTH_PX, image.width)
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def demo(folder: Path) -> Image.Image:
    """The photo, the painting and the results of DEMO_RUNS as tiles on white, three in a row."""
    files = [path for name in DEMO for path in find_images(name, "demo")]
    for name, words in DEMO_RUNS.items():
        files.append(folder / name / "output.png")
        if not files[-1].exists():
            nstexp(*words, f"run_dir={folder / name}")
    rows = -(-len(files) // 3)
    width, height = TILE_PX
    page = Image.new("RGB", (3 * width + 2 * GAP_PX, rows * height + (rows - 1) * GAP_PX), "white")
    for n, file in enumerate(files):
        tile = ImageOps.fit(Image.open(file).convert("RGB"), TILE_PX, Image.Resampling.LANCZOS)
        page.paste(tile, (n % 3 * (width + GAP_PX), n // 3 * (height + GAP_PX)))
    return page


def printed(folder: Path) -> Image.Image:
    """The result of PRINT, and a part of it at full size, as high."""
    file = folder / "output.png"
    if not file.exists():
        nstexp(*PRINT, f"run_dir={folder}")
    image = Image.open(file).convert("RGB")
    width, height = PART_PX
    left, top = PART
    whole = image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (whole.width + GAP_PX + width, height), "white")
    page.paste(whole, (0, 0))
    page.paste(image.crop((left, top, left + width, top + height)), (whole.width + GAP_PX, 0))
    return page


def main() -> None:
    names = ("demo", *EXPERIMENTS)
    makers = {"demo": demo, "print": printed}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}, print")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs, one subfolder each")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or names:
        folder = arguments.runs.absolute() / name
        picture = makers[name](folder) if name in makers else sheet(name, folder)
        path = arguments.out / f"{name}.webp"
        picture.save(path, quality=QUALITY, method=6)
        print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd[3:])} failed with exit code {error.returncode}")
