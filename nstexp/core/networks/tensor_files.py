"""Files of tensors, read safely: the unpacked size is checked first, no code in the file is run, and unusable numbers
are refused."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.runtime.memory import free_bytes

# Compression hardly shrinks learned weights, so a file that unpacks to more than ten times its size is refused.
LARGEST_FACTOR, SMALL_BYTES = 10, 64 * 2**20
LARGEST_NUMBER = 1e9  # far above learned weights; running averages of a normalization reach thousands


def read_tensors(path: Path) -> tuple[Any, dict[str, str]]:
    """Read a .safetensors, .pth, .pt or .ckpt file.

    Returns:
        The content, with tensors on the CPU, and the metadata of a .safetensors file.

    Raises:
        UserError: too little memory, a file that unpacks to far more than its size, or tensors that are not stored
            plainly.
        Exception: many other types, raised by the loaders for a damaged or unsafe file.
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
            f"{path}: {size / 1e6:.1f} MB that unpack to {unpacked / 1e6:,.0f} MB are not the weights of a network"
        )
    _check_fits(path, unpacked)
    content = torch.load(path, map_location="cpu", weights_only=True)
    values = [value for _, value in named_tensors(content)]
    unusual = any(v.layout != torch.strided or v.device.type != "cpu" or v.is_quantized for v in values)
    # A tensor with strides of 0 stores one number and can have any size.
    if unusual or sum(value.numel() * value.element_size() for value in values) > allowed:
        raise UserError(f"{path}: its tensors are not stored like the weights of a network")
    return content, {}


def check_numbers(content: Any, source: str) -> None:
    """Refuse numbers with which no network can make a picture.

    Args:
        content: tensors in nested mappings and lists.
        source: the start of the error message, such as the name of the file.

    Raises:
        UserError: a tensor with numbers that are not finite or very large, or filters of one number.

    Examples:
        >>> check_numbers({"conv": {"bias": torch.tensor([float("nan")])}}, "a.pth")
        Traceback (most recent call last):
        ...
        nstexp.core.errors.UserError: a.pth: the tensor conv.bias has numbers that are not finite, so that no picture
        can be made with this file
    """
    for name, value in named_tensors(content):
        if not value.is_floating_point() or value.numel() == 0:
            continue
        low, high = (float(bound) for bound in value.detach().float().aminmax())
        problem = None
        if not (-float("inf") < low and high < float("inf")):  # also true for NaN
            problem = "has numbers that are not finite"
        elif max(-low, high) > LARGEST_NUMBER:
            problem = f"has a number as large as {max(-low, high):.0e}"
        elif low == high and value.dim() == 4 and value.numel() > 1:  # filters only: offsets and factors may be equal
            problem = f"is {low:g} throughout"
        if problem:
            raise UserError(f"{source}: the tensor {name} {problem}, so that no picture can be made with this file")


def named_tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, for all tensors in nested mappings and lists.

    Examples:
        >>> [name for name, _ in named_tensors({"conv": [torch.zeros(1), torch.zeros(1)], "steps": 3})]
        ['conv.0', 'conv.1']
    """
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping | list | tuple):
        for key, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))


def _check_fits(path: Path, unpacked: int) -> None:
    free = free_bytes(torch.device("cpu"))
    if 2 * unpacked > free:  # the content of the file, and its copy in the network
        raise UserError(
            f"{path}: it holds {unpacked / 1e9:.1f} GB, which takes twice that memory, and {free / 1e9:.1f} GB are free"
        )
