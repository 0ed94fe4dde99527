"""Files of tensors. What a file unpacks to is checked before it is unpacked, its numbers before they are used, and
nothing in it is run."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.runtime.memory import free_bytes

# Weights hardly shrink when they are packed: what does, tenfold and more, was not learned.
LARGEST_FACTOR, SMALL_BYTES = 10, 64 * 2**20
LARGEST_NUMBER = 1e9  # of what a network learned; averages in a normalization reach thousands


def read_tensors(path: Path) -> tuple[Any, dict[str, str]]:
    """What is in a .safetensors, .pth, .pt or .ckpt file, on the CPU, and what the first kind says of itself.

    Raises:
        UserError: it would take more memory than there is, or unpacks to far more than its own size.
        Exception: the dozen types that the loaders raise for a damaged or unsafe file.
    """
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        _check_fits(path, size)
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no mapping)
    unpacked = size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    allowed = max(LARGEST_FACTOR * size, SMALL_BYTES)
    if unpacked > allowed:
        raise UserError(
            f"{path}: {size / 1e6:.1f} MB that unpack to {unpacked / 1e6:,.0f} MB are no weights of a network"
        )
    _check_fits(path, unpacked)
    content = torch.load(path, map_location="cpu", weights_only=True)
    values = [value for _, value in named_tensors(content)]
    strange = any(v.layout != torch.strided or v.device.type != "cpu" or v.is_quantized for v in values)
    # One stored number can pose as a tensor of any size.
    if strange or sum(value.numel() * value.element_size() for value in values) > allowed:
        raise UserError(f"{path}: its tensors are not stored as weights of a network are")
    return content, {}


def check_numbers(content: Any, source: str) -> None:
    """Raise a UserError for numbers with which no network makes a picture.

    Args:
        content: tensors in tables and lists.
        source: begins the sentence, such as the file's name.
    """
    for name, value in named_tensors(content):
        if not value.is_floating_point() or value.numel() == 0:
            continue
        low, high = (float(bound) for bound in value.detach().float().aminmax())
        problem = None
        if not (-float("inf") < low and high < float("inf")):  # also where they are NaN
            problem = "has numbers that are not finite"
        elif max(-low, high) > LARGEST_NUMBER:
            problem = f"has a number as large as {max(-low, high):.0e}"
        elif low == high and value.dim() == 4 and value.numel() > 1:  # filters; of offsets and factors all can be equal
            problem = f"is {low:g} throughout"
        if problem:
            raise UserError(f"{source}: the tensor {name} {problem}, so that no picture can be made with this file")


def named_tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in tables and lists, and its name."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping | list | tuple):
        for key, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))


def _check_fits(path: Path, unpacked: int) -> None:
    free = free_bytes(torch.device("cpu"))
    if 2 * unpacked > free:  # once as it is read, and once as the network has it
        raise UserError(
            f"{path}: it holds {unpacked / 1e9:.1f} GB, which takes twice that memory, and {free / 1e9:.1f} GB are free"
        )
