"""The photos and paintings of a run, found from the values of `content` and `style` in its configuration."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from nstexp.core.errors import UserError
from nstexp.media.learned import BUNDLED, LearnedStyle, picture_of, styles_of
from nstexp.media.paths import find_images
from nstexp.media.samples import is_builtin
from nstexp.report.job import Job, at
from nstexp.report.texts import items_of

INPUTS = ("content", "style")
MOST_INPUTS = 3  # a value of `content` or `style` with more pictures is shown without pictures


def input_files(
    key: str, value: str, name: str, origin: Path | None = None, learned: Mapping[str, LearnedStyle] | None = None
) -> list[Path]:
    """The input pictures that belong to one result, see `inputs_of`.

    Args:
        key: one of INPUTS; other keys have no files.
        value: the value of the key, from `Job.text`.
        name: the name of the result.
        origin: the folder to which relative paths refer.
        learned: the styles that `style` can name, see `learned_by`.
    """
    return inputs_of(find_inputs(key, value, origin, learned), key, name)


def find_inputs(
    key: str, value: str, origin: Path | None, learned: Mapping[str, LearnedStyle] | None = None
) -> list[Path]:
    """All pictures that a value of `content` or `style` names; empty if they no longer exist.

    Args: as for `input_files`.
    """
    if key not in INPUTS or not value:
        return []
    learned = learned if learned and key == "style" else {}
    try:
        return [path for spec in _specs(value, learned) for path in _pictures_of(spec, key, origin, learned)]
    except (UserError, OSError, ValueError):  # files that were moved, or a name that no file can have
        return []


def learned_names(value: str, origin: Path | None, learned: Mapping[str, LearnedStyle]) -> dict[Path, str]:
    """The pictures of the learned styles that a value of `style` names, and these names; arguments as `find_inputs`."""
    files = {
        spec: picture_of(learned[spec].source, learned[spec].digest, origin)
        for spec in _specs(value, learned)
        if spec in learned
    }
    return {file: spec for spec, file in files.items() if file is not None}


def _specs(value: str, learned: Mapping[str, LearnedStyle]) -> list[str]:
    """The words of a value; of a style that was not given, the first one, which the network then takes."""
    return [next(iter(learned))] if learned and value == "null" else items_of(value)


def _pictures_of(spec: str, key: str, origin: Path | None, learned: Mapping[str, LearnedStyle]) -> list[Path]:
    """The pictures of one word: a file, a folder, a built-in name, or a learned style, whose picture may be gone."""
    if spec not in learned:
        return find_images(_from(spec, origin), key)
    found = picture_of(learned[spec].source, learned[spec].digest, origin)
    if found is None:
        raise UserError(f"{key}={spec}: its picture is not on this machine")
    return [found]


def learned_by(job: Job) -> dict[str, LearnedStyle]:
    """The styles that the network of a job has learned, by name; none if it takes any picture, or is gone, or if the
    job trained it."""
    model, task = at(job.config, "method.model"), str((at(job.config, "task._target_") or ("",))[0])
    if model is None or not isinstance(model[0], str) or task.endswith(".train"):
        return {}
    return _learned_in(model[0] if model[0] == BUNDLED else _from(model[0], job.origin))


@cache
def _learned_in(model: str) -> dict[str, LearnedStyle]:
    try:
        return styles_of(model)
    except (UserError, OSError):
        return {}


def inputs_of(files: Sequence[Path], key: str, name: str) -> list[Path]:
    """The files that belong to one result: of several contents the file with the name of the result; otherwise all
    files, or none if there are more than MOST_INPUTS."""
    if key == "content" and len(files) > 1:
        return [file for file in files if file.stem == name][:1]
    return list(files) if len(files) <= MOST_INPUTS else []


def _from(spec: str, origin: Path | None) -> str:
    """A path of the configuration, relative to `origin`; absolute paths and built-in names stay as they are."""
    if origin is None or is_builtin(spec) or spec.startswith("~"):
        return spec
    return os.path.join(origin, spec)
