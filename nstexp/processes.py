"""Which of several processes this is. Lightning has the same answers, but takes seconds to import."""

import os


def is_first_process() -> bool:
    """Whether this is the process that writes, among those that train together."""
    node = int(os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or 0)
    return _rank() == 0 and node == 0


def _rank() -> int:
    """The number of this process, from where Lightning reads it, too."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0
