"""The styles that a trained network has learned: their names, and the pictures that they were learned from.

Nothing here imports torch, unless a network comes in another format than .safetensors.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import file_digest
from nstexp.media import samples
from nstexp.media.paths import find_images
from nstexp.weights import LEARNED_STYLES

BUNDLED = "bundled"  # the value of method.model that means the network of nstexp


@dataclass(frozen=True)
class LearnedStyle:
    """A style that a network has learned.

    Args:
        source: the style picture's file or built-in name, as it was given to the training; '' if unknown.
        digest: the digest of that file, see `files.file_digest`; '' if unknown.
    """

    source: str = ""
    digest: str = ""


def styles_of(model: str | Path, key: str = "model") -> dict[str, LearnedStyle]:
    """The styles of a trained network: name -> `LearnedStyle`, in the order of the network.

    Args:
        model: `bundled`, or the file of a training: .safetensors, .ckpt, or one of fast_neural_style.
        key: the name that the user knows the file by, for error messages.

    Raises:
        UserError: there is no such file, or it holds no network of method=cin or method=texture_net.
    """
    path = LEARNED_STYLES if model == BUNDLED else Path(model).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        try:
            record = samples.generator_record(path)
            names, sources = list(map(str, record["names"])), list(map(str, record["sources"]))
            digests = list(map(str, record.get("digests") or [""] * len(names)))
            return {name: LearnedStyle(*each) for name, *each in zip(names, sources, digests, strict=True)}
        except (OSError, ValueError, KeyError, TypeError):
            pass  # `load_generator` says what is wrong with the file
    from nstexp.core.networks.model_files import load_generator

    info = load_generator(path, key)[1]
    digests = info.digests or [""] * len(info.names)
    return {name: LearnedStyle(*each) for name, *each in zip(info.names, info.sources, digests, strict=True)}


def picture_of(source: str, digest: str = "", folder: Path | None = None) -> Path | None:
    """The file that a style was learned from, if it is on this machine and has not changed.

    Args:
        source: the path or built-in name that the training was given; '': unknown.
        digest: of the file at the time of the training; '': unknown, and then any file of this name is taken.
        folder: where a relative path starts; None: in the current folder.
    """
    if not source:
        return None
    if folder is not None and not samples.is_builtin(source) and not source.startswith("~"):
        source = os.path.join(folder, source)
    try:
        path = find_images(source, "style")[0]
        return path if digest in ("", file_digest(path)) else None
    except (UserError, OSError, ValueError):
        return None
