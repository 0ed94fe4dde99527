"""Pictures and shards to train with, and what is drawn from them."""

import tarfile
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

SMALL = {"batch_size": 4, "crop_px": 16, "resize_px": 16, "val_pairs": 2, "val_px": 16, "workers": 0}
TARS = SMALL | {"val_pairs": 0, "shuffle_buffer": 4}
PAIR = ("content", "style")


def noise(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def color_of(number: int) -> tuple[int, int, int]:
    return number % 8 * 32, number // 8 % 8 * 32, number // 64 * 32


def numbers_of(crops: torch.Tensor) -> list[int]:
    """Which plain pictures the crops are of."""
    assert (crops == crops[:, :, :1, :1]).all()
    return [int(r // 32 + g // 32 * 8 + b // 32 * 64) for r, g, b in crops[:, :, 0, 0].tolist()]


def take(data, count: int, at: SimpleNamespace | None = None) -> list[dict]:
    data.trainer = at
    return list(islice(data.train_dataloader(), count))


def same(a: list[dict], b: list[dict]) -> bool:
    return len(a) == len(b) and all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in PAIR)


def pack(target: Path, source: Path, shards: int) -> str:
    """Tar files of the pictures of a folder, dealt in turn."""
    target.mkdir(parents=True)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for index in range(shards):
        with tarfile.open(target / f"part-{index:03d}.tar", "w") as tar:
            for path in files[index::shards]:
                tar.add(path, path.name)
    return str(target)


def damage(tar: Path) -> None:
    """Ends within its last picture."""
    with tarfile.open(tar) as file:
        last = file.getmembers()[-1]
    tar.write_bytes(tar.read_bytes()[: last.offset_data + last.size // 2])
