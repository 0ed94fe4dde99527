"""Refusing work that cannot fit, with a size that can, before the machine starts to swap."""

import contextlib
import ctypes
import gc
from pathlib import Path

import psutil
import torch

from nstexp.core.errors import UserError

# Peak memory of an optimization step over that of the feature maps alone, and per pixel: gradients on their way back,
# Gram products, the optimizer's history of 20 pairs, copies of the picture. Rough, from a few runs at 512 px.
OVER_ACTIVATIONS = 1.5
BYTES_PER_PIXEL = 800

REMEDY = "a longer side of {px} px would fit"


def check_memory(
    activation_bytes: int,
    size: tuple[int, int],
    what: str = "",
    remedy: str = REMEDY,
    device: torch.device | None = None,
) -> None:
    """Fail if optimizing a picture of (height, width) would need more memory than is free.

    Args:
        activation_bytes: what the feature maps of the picture take.
        size: (height, width) of the picture, in px.
        what: the name of the picture, for the error.
        remedy: the advice with which the error ends; `{px}` in it becomes the longer side that would fit.
        device: where the picture goes; None: the GPU if there is one.

    Raises:
        UserError: the picture does not fit.
    """
    needed = OVER_ACTIVATIONS * activation_bytes + BYTES_PER_PIXEL * size[0] * size[1]
    check_fits(needed, size, what, remedy, device)


def check_fits(
    needed: float, size: tuple[int, int], what: str = "", remedy: str = REMEDY, device: torch.device | None = None
) -> None:
    """Fail if `needed` bytes, which a picture of (height, width) takes, are more than is free.

    Args and errors: as for `check_memory`.
    """
    free = free_bytes(device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if needed > free:
        fitting = int(max(size) * (0.9 * free / needed) ** 0.5) // 16 * 16
        raise UserError(
            f"{what}{': ' if what else ''}a picture of {size[1]}x{size[0]} px needs about {needed / 1e9:.1f} GB of "
            f"memory and {free / 1e9:.1f} GB are free: {remedy.format(px=fitting)}"
        )


def release_freed() -> None:
    """Give memory that nothing uses any more back to the system, where the C library can (glibc).

    Between stages that allocate differently this lowers the peak. A Lightning module and its trainer refer to each
    other, and Python looks for such circles by numbers of objects, not by what they hold: the gigabytes of a finished
    picture would stay for many more.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device without swapping, and within what a container may take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min(psutil.virtual_memory().available, *_left_in_groups()))


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes that control groups of Linux, by which containers and clusters limit memory, leave to this process.

    In a container `own` may name a group of the machine's, which is not seen there: then it is the root's.
    """
    found = [2**63]
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            number, kinds, path = line.split(":", 2)
            if number == "0":
                place, limit, used, cache = root, "memory.max", "memory.current", "inactive_file"
            elif kinds == "memory":
                place, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
                cache = "total_inactive_file"
            else:
                continue
            group = place / path.lstrip("/")
            for folder in [group, *(parent for parent in group.parents if parent.is_relative_to(place)), place]:
                with contextlib.suppress(OSError, ValueError, KeyError):  # not there, or "max"
                    kept = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    taken = int((folder / used).read_text()) - int(kept[cache])  # files that are kept give way
                    found.append(int((folder / limit).read_text()) - taken)
    return found
