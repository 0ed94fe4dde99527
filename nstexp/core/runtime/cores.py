"""The processor's cores: how many threads PyTorch uses, how these wait for each other, and pages of memory."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from nstexp.core.errors import ArgumentError, is_whole

MOST = 1024
GIVEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables by which users set the threads
# Environment variables by which users say how threads wait.
OF_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
# Measured with two threads on two cores: two optimizations at once took 2.5 times as long as one after the other with
# the default of GNU's OpenMP (at least 300,000), and 0.95 times as long with 1,000. One alone takes 3 % longer.
TURNS = "1000"
# PyTorch asks Linux for pages of 2 MB. A step of Gatys' method at 1024 px took 0.82 to 0.91 of the time, and at 512 px
# as much as before.
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def prepare_for_torch() -> None:
    """Set environment variables that PyTorch and its libraries read on import, unless the user has set them.

    Threads: PyTorch divides each convolution among its threads, and a thread that is done waits for the others. By
    default it keeps its core busy while it waits. If another process needs that core, the thread it waits for does not
    get it, and both processes become several times slower. With `TURNS`, GNU's OpenMP, which PyTorch uses on Linux,
    lets a waiting thread sleep soon.

    Memory: with large pages, the system hands out the feature maps of a large picture faster.
    """
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in OF_WAITING):
        os.environ["GOMP_SPINCOUNT"] = TURNS
    os.environ.setdefault(LARGE_PAGES, "1")


def usable_cores(environment: Mapping[str, str] = os.environ) -> int:
    """The cores that this process may use: by its affinity, the quota of its container, and its job of Slurm.

    Args:
        environment: environment variables.
    """
    from joblib import cpu_count  # imported late, because it takes a fifth of a second

    cores = int(cpu_count())
    of_slurm = environment.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(cores, int(of_slurm))) if of_slurm.isdecimal() else cores


def check_threads(argument: str, threads: Any) -> int | Literal["auto"]:
    """Check that a value is `auto` or a number of threads.

    Examples:
        >>> check_threads("threads", 2)
        2
        >>> check_threads("threads", 0)
        Traceback (most recent call last):
        ...
        nstexp.core.errors.ArgumentError: threads=0: give a whole number from 1 to 1024, or auto
    """
    if threads == "auto":
        return "auto"
    if is_whole(threads) and 1 <= threads <= MOST:
        return int(threads)
    raise ArgumentError(argument, f"={threads}: give a whole number from 1 to {MOST}, or auto")


@contextmanager
def using_threads(threads: int | Literal["auto"]) -> Iterator[int]:
    """Use this many threads in PyTorch on the CPU, and as many as before afterwards.

    Args:
        threads: from 1 to 1024; `auto`: what the environment variable OMP_NUM_THREADS or MKL_NUM_THREADS says, else
            PyTorch's choice, but no more than `usable_cores`. PyTorch counts the cores of the whole machine, even in a
            container that may use two of them.

    Yields:
        The number of threads.

    Raises:
        ArgumentError: a value that is neither.

    Examples:
        >>> import torch
        >>> with using_threads(1) as count:
        ...     print(count, torch.get_num_threads())
        1 1
    """
    import torch  # imported late, because wrong values are refused without it

    before = torch.get_num_threads()
    asked = check_threads("threads", threads)
    if asked != "auto":
        count = asked
    else:
        count = before if any(os.environ.get(name) for name in GIVEN) else min(before, usable_cores())
    if count != before:
        torch.set_num_threads(count)
    try:
        yield count
    finally:
        if count != before:
            torch.set_num_threads(before)
