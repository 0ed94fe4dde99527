"""nstexp: configuration-driven experiments with neural style transfer.

`nstexp.stylize("photo.jpg", "painting.jpg", method="adain")` is the command line without a command line.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "stylize"]


def __getattr__(name: str) -> Any:
    """`stylize` is imported when it is used: a command line that only prints its help needs no torch."""
    if name == "stylize":
        from nstexp.api import stylize

        return stylize
    raise AttributeError(f"module 'nstexp' has no attribute '{name}'")
