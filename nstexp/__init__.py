"""nstexp: configuration-driven experiments with neural style transfer.

`nstexp.stylize("photo.jpg", "painting.jpg", method="swift")` does in Python what the command line does.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "stylize"]


def __getattr__(name: str) -> Any:
    """Import `stylize` on first use, because a command that only prints its help does not need torch."""
    if name == "stylize":
        from nstexp.api import stylize

        return stylize
    raise AttributeError(f"module 'nstexp' has no attribute '{name}'")
