"""Which of several processes this is, and whether there are several.

Launchers such as torchrun and srun say it in environment variables, which stay behind in shells and job scripts: what
works alone is told so by its own configuration, and not by them. Lightning reads the same variables, but takes seconds
to import.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nstexp.core.errors import UserError

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in the order in which Lightning looks
NODES = ("NODE_RANK", "GROUP_RANK")
# By all of these Lightning or PyTorch takes a process for one of several. What else there is of Slurm's says which job
# this is, which is true also of a process that works alone.
MARKS = (*RANKS, *NODES, "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_NPROCS",
         "SLURM_NTASKS_PER_NODE", "SLURM_LOCALID", "SLURM_NODEID", "JSM_NAMESPACE_SIZE",
         "JSM_NAMESPACE_LOCAL_RANK")  # fmt: skip


def is_first_process() -> bool:
    """Whether this is the process that writes, among those that train together.

    Raises:
        UserError: a variable that should number this process does not.
    """
    return _number(RANKS) == 0 and _number(NODES) == 0


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return _number(("LOCAL_RANK", "SLURM_LOCALID"))


def work_together(trainer: Mapping[str, Any]) -> bool:
    """Whether a configuration of Lightning's trainer may be one for several processes."""
    devices, strategy = trainer.get("devices"), trainer.get("strategy") or "auto"
    one_device = len(devices) == 1 if isinstance(devices, Sequence) and not isinstance(devices, str) else devices == 1
    one_machine = trainer.get("num_nodes") in (None, 1)
    return not (one_device and one_machine and isinstance(strategy, str) and strategy in ("auto", "single_device"))


@contextmanager
def alone_unless(together: bool) -> Iterator[None]:
    """Inside, nothing says of a process that works alone that it is one of several."""
    hidden = {} if together else {name: os.environ.pop(name) for name in MARKS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _number(names: Sequence[str]) -> int:
    """The number in the first of some environment variables that there is; 0 without any."""
    for name in names:
        if (text := os.environ.get(name)) is not None:
            if not (text.isascii() and text.isdecimal()):
                raise UserError(f"{name}={text}, of the environment, is not the number of a process: unset {name}")
            return int(text)
    return 0
