"""Folders of sweeps as runs leave them, of pictures of one color each."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

from omegaconf import OmegaConf
from PIL import Image

from nstexp.outputs import Summary

COLORS = [(int(r), int(g), int(b)) for r, g, b in product((20, 120, 220), repeat=3)]


def make_job(
    folder: Path,
    number: int | str,
    overrides: dict[str, object],
    pictures: tuple[str, ...] = ("output",),
    size: tuple[int, int] = (40, 30),
    color: tuple[int, int, int] | None = None,
    config: dict[str, object] | None = None,
    **summary: object,
) -> Path:
    """A run folder as outputs.RunFolder leaves it; a picture is of one color, its job's."""
    path = folder / str(number)
    (path / ".hydra").mkdir(parents=True)
    place = int(number) if str(number).isdecimal() else 0
    metrics = {name: {"total": place + 0.5, "gram": 2.0, "luminance_mean": 0.25} for name in pictures}
    record = Summary(**{"status": "completed", "seconds": 1.5, "metrics": metrics, **summary})
    lines = [f"{key}={value}" for key, value in overrides.items()]
    composed = OmegaConf.create({"loss": {"gram": {"form": "gatys"}}, **(config or {})})
    for key, value in overrides.items():
        if key not in ("layers", "experiment"):
            OmegaConf.update(composed, key.lstrip("+"), value)
    OmegaConf.save(OmegaConf.create(lines), path / ".hydra" / "overrides.yaml")
    OmegaConf.save(composed, path / ".hydra" / "config.yaml")
    OmegaConf.save(composed, path / "config.yaml")
    (path / "summary.json").write_text(json.dumps(asdict(record)))
    if metrics:
        (path / "metrics.json").write_text(json.dumps(metrics))
    for name in pictures:
        Image.new("RGB", size, color or COLORS[place]).save(path / f"{name}.png")
    return path


def make_sweep(folder: Path, **values: list[object]) -> Path:
    """A whole sweep, the last key fastest; `__` in a name stands for the dot."""
    keys = [key.replace("__", ".") for key in values]
    for number, combination in enumerate(product(*values.values())):
        make_job(folder, number, dict(zip(keys, combination, strict=True)))
    (folder / "multirun.yaml").touch()
    return folder


def make_repeats(
    folder: Path,
    measure: Callable[..., float],
    photos: Sequence[str] = (),
    seeds: Sequence[int] = (),
    **values: Sequence[object],
) -> Path:
    """A sweep over keys, photos and seeds, without pictures, whose number `style_gram` is given by a function of the
    values; `__` in a name stands for the dot."""
    given = {**values, **({"content": photos} if photos else {}), **({"seed": seeds} if seeds else {})}
    keys = [key.replace("__", ".") for key in given]
    for number, combination in enumerate(product(*given.values())):
        score = measure(*combination)
        numbers = {"output": {"style_gram": score, "ssim": 1 - score / 100}}
        described = {"style_gram": "VGG-19", "ssim": "luminance"}
        make_job(
            folder, number, dict(zip(keys, combination, strict=True)), (), metrics=numbers, measured_with=described,
            higher_is_better=["ssim"],
        )  # fmt: skip
    (folder / "multirun.yaml").touch()
    return folder
