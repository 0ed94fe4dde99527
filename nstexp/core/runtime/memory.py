"""Refusing work that cannot fit, with a size that can, before the machine starts to swap."""

import contextlib
import ctypes
import gc
import os

import torch

from nstexp.core.errors import UserError

# Peak memory of an optimization step over that of the feature maps alone, and per pixel: gradients on their way back,
# Gram products, the optimizer's history of 20 pairs, copies of the picture. Rough, from a few runs at 512 px.
OVER_ACTIVATIONS = 1.5
BYTES_PER_PIXEL = 800


def check_memory(
    activation_bytes: int, size: tuple[int, int], key: str = "content", device: torch.device | None = None
) -> None:
    """Fail if optimizing a picture of (height, width) would need more memory than is free.

    Raises:
        UserError: names the picture, by its config key, and the size that would fit.
    """
    check_fits(OVER_ACTIVATIONS * activation_bytes + BYTES_PER_PIXEL * size[0] * size[1], size, key, device)


def check_fits(needed: float, size: tuple[int, int], key: str = "content", device: torch.device | None = None) -> None:
    """Fail if `needed` bytes, which a picture of (height, width) takes, are more than is free.

    Raises:
        UserError: names the picture, by its config key, and the size that would fit.
    """
    free = free_bytes(device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if free is not None and needed > free:
        fitting = int(max(size) * (0.9 * free / needed) ** 0.5) // 16 * 16
        raise UserError(
            f"{key}: a picture of {size[1]}x{size[0]} px needs about {needed / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free: set image_px={fitting} or less"
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


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):  # Windows
            return None
