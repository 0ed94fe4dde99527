"""Checks whether work fits into memory; the error messages suggest a size that fits."""

import contextlib
import ctypes
import gc
from pathlib import Path

import psutil
import torch

from nstexp.core.errors import UserError

# Peak memory of an optimization step: a factor on the memory of the feature maps (for gradients and Gram matrices) and
# bytes per pixel (for the optimizer's history of 50 pairs and copies of the picture). Estimates from runs at 512 px.
OVER_ACTIVATIONS = 1.5
BYTES_PER_PIXEL = 1280

REMEDY = "a longer side of {px} px would fit"


def check_memory(
    activation_bytes: int,
    size: tuple[int, int],
    what: str = "",
    remedy: str = REMEDY,
    device: torch.device | None = None,
) -> None:
    """Check that there is enough free memory to optimize a picture.

    Args:
        activation_bytes: memory of the picture's feature maps, in bytes.
        size: (height, width) of the picture, in px.
        what: name of the picture, for the error message.
        remedy: the end of the error message; `{px}` in it is replaced by the longer side that would fit.
        device: the device of the optimization; None: the GPU if there is one.

    Raises:
        UserError: the picture does not fit.
    """
    check_fits(picture_bytes(activation_bytes, size), size, what, remedy, device)


def picture_bytes(activation_bytes: int, size: tuple[int, int]) -> float:
    """Memory in bytes for optimizing a picture of (height, width) as a whole, given that of its feature maps."""
    return OVER_ACTIVATIONS * activation_bytes + BYTES_PER_PIXEL * size[0] * size[1]


def check_fits(
    needed: float,
    size: tuple[int, int],
    what: str = "",
    remedy: str = REMEDY,
    device: torch.device | None = None,
    free: float | None = None,
) -> None:
    """Check that `needed` bytes, the memory for a picture of (height, width), are free.

    The other arguments and the errors are those of `check_memory`.

    Args:
        free: free memory in bytes; None: that of the device.
    """
    if free is None:
        free = free_bytes(device or usual_device())
    if needed > free:
        fitting = max(16, int(max(size) * (0.9 * free / needed) ** 0.5) // 16 * 16)  # 0 px would be no advice
        raise UserError(
            f"{what}{': ' if what else ''}a picture of {size[1]}x{size[0]} px needs about {needed / 1e9:.1f} GB of "
            f"memory and {free / 1e9:.1f} GB are free: {remedy.format(px=fitting)}"
        )


def usual_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def budget_bytes(memory_gb: float | None, device: torch.device | None = None) -> float:
    """The memory in bytes that a picture may take: what is free, or less if the process may have `memory_gb` only.

    Args:
        memory_gb: memory of the whole process, in 10^9 bytes; None: no limit.
        device: None: the GPU if there is one.
    """
    device = device or usual_device()
    free = free_bytes(device)
    if memory_gb is None:
        return free
    used = torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return max(0.0, min(free, memory_gb * 1e9 - used))


def release_freed() -> None:
    """Return unused memory to the operating system, if the C library supports that (glibc).

    This lowers the peak memory between stages. A Lightning module and its trainer form a reference cycle, which Python
    collects by numbers of objects, not by their memory, so gigabytes of a finished picture could stay for a long time.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, in bytes; for the CPU, without swapping and within the limit of a container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min(int(psutil.virtual_memory().available), *_left_in_groups()))


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes left in the Linux control groups of this process, by which containers and clusters limit memory.

    In a container, the file `process` may name a group that is not visible there; then the root group counts.
    """
    left = [2**63]
    with contextlib.suppress(OSError):
        for line in process.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                base, limit, used, cache = root, "memory.max", "memory.current", "inactive_file"
            elif controllers == "memory":
                base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
                cache = "total_inactive_file"
            else:
                continue
            group = base / path.lstrip("/")
            for folder in [group, *(parent for parent in group.parents if parent.is_relative_to(base)), base]:
                with contextlib.suppress(OSError, ValueError, KeyError):  # no such file, or the limit is "max"
                    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    taken = int((folder / used).read_text()) - int(statistics[cache])  # the cache is freed on demand
                    left.append(int((folder / limit).read_text()) - taken)
    return left
