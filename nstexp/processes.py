"""Tell whether several processes work together, and which of them this one is.

Launchers such as torchrun and srun set environment variables, which also remain in shells and job scripts. The
configuration therefore decides whether a process works alone. Lightning reads the same variables, but takes seconds to
import.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nstexp.core.errors import UserError

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in the order in which Lightning reads them
NODES = ("NODE_RANK", "GROUP_RANK")
# Variables that make Lightning or PyTorch treat a process as one of several. Slurm's other variables identify the job,
# and are set for a process that works alone, too.
MARKS = (*RANKS, *NODES, "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_NPROCS",
         "SLURM_NTASKS_PER_NODE", "SLURM_LOCALID", "SLURM_NODEID", "JSM_NAMESPACE_SIZE",
         "JSM_NAMESPACE_LOCAL_RANK")  # fmt: skip


def is_first_process() -> bool:
    """Whether this is the process that writes, among those that train together.

    Raises:
        UserError: an environment variable for the number of this process holds something else.
    """
    return _number(RANKS) == 0 and _number(NODES) == 0


def local_rank() -> int:
    """The number of this process among those on its machine."""
    return _number(("LOCAL_RANK", "SLURM_LOCALID"))


def work_together(trainer: Mapping[str, Any]) -> bool:
    """Whether a configuration of Lightning's trainer may be for several processes."""
    devices, strategy = trainer.get("devices"), trainer.get("strategy") or "auto"
    one_device = len(devices) == 1 if isinstance(devices, Sequence) and not isinstance(devices, str) else devices == 1
    one_machine = trainer.get("num_nodes") in (None, 1)
    return not (one_device and one_machine and isinstance(strategy, str) and strategy in ("auto", "single_device"))


@contextmanager
def alone_unless(together: bool) -> Iterator[None]:
    """Unless processes work together, hide the variables that mark this one as one of several."""
    hidden = {} if together else {name: os.environ.pop(name) for name in MARKS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _number(names: Sequence[str]) -> int:
    """The number in the first of these environment variables that is set; 0 if none is."""
    for name in names:
        if (text := os.environ.get(name)) is not None:
            if not (text.isascii() and text.isdecimal()):
                raise UserError(f"the environment variable {name}={text} is not the number of a process: unset {name}")
            return int(text)
    return 0
