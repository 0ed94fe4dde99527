"""Pictures that other programs made, for task=evaluate: their files, found by a pattern, their size and their times."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import Formatter

from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.resize import resize
from nstexp.media.listing import list_files
from nstexp.media.paths import READABLE, as_list

FIELDS = ("content", "style", "method")
SECONDS = ("seconds", "stylize_seconds")  # columns of times; the second is that of scores.csv
MOST_NAMED = 3  # names in an error message
ALIKE = 0.02  # largest relative difference of two ratios of width and height that count as equal

Key = tuple[str, str, str]  # method, style, content


@dataclass(frozen=True)
class Given:
    """Where finished pictures are, and how they are named.

    Args:
        results: a folder, a list of folders, which are called by their names, or name -> folder; None: no pictures.
        results_name: the name of each picture without its ending, relative to the folder, with {content} and {style}
            for the names of photo and painting, and {method} for the name of the folder.
        results_seconds: CSV file with the columns content, style and seconds, and method if there are several folders;
            None: no times are known.
    """

    results: str | Sequence[str] | Mapping[str, str] | None = None
    results_name: str = "{content}_{style}"
    results_seconds: str | None = None

    @property
    def folders(self) -> dict[str, Path]:
        """Name -> folder."""
        if isinstance(self.results, Mapping):
            return {str(name): Path(str(folder)).expanduser() for name, folder in self.results.items()}
        return {_name(folder): Path(folder).expanduser() for folder in as_list(self.results)}

    def find(self, pairs: Sequence[tuple[str, str]]) -> dict[Key, Path]:
        """The files of all pictures.

        Args:
            pairs: names of photo and painting of every picture.

        Raises:
            UserError: two folders have one name, the pattern has other fields, there is no such folder, a picture is
                missing, or a name fits two files or two pairs.
        """
        self._check_settings()
        found: dict[Key, Path] = {}
        for method, folder in self.folders.items():
            if not folder.is_dir():
                raise UserError(f"{self._key(method)}: there is no such folder")
            files = [file.relative_to(folder) for file in list_files(folder, READABLE)]
            by_name: dict[str, list[Path]] = {}
            for file in files:
                by_name.setdefault(file.with_suffix("").as_posix(), []).append(file)
            wanted = {(content, style): self._wanted(method, content, style) for content, style in pairs}
            self._check(method, wanted, by_name, files)
            found |= {(method, style, content): folder / by_name[name][0] for (content, style), name in wanted.items()}
        return found

    def seconds(self, pairs: Sequence[tuple[str, str]]) -> dict[Key, float]:
        """The times in seconds that are known, for the pictures of `find`.

        Raises:
            UserError: the file cannot be read, has no time for any picture, or does not say whose times it has.
        """
        if self.results_seconds is None:
            return {}
        key, methods = f"results_seconds={self.results_seconds}", list(self.folders)
        try:
            with Path(self.results_seconds).expanduser().open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise UserError(f"{key}: the file cannot be read ({error.strerror})") from error
        except (UnicodeDecodeError, csv.Error):
            rows = []
        columns = rows[0].keys() if rows else ()
        column = next((name for name in SECONDS if name in columns), None)
        if column is None or not {"content", "style"} <= {*columns}:
            raise UserError(f"{key}: a CSV file with the columns content, style and seconds is needed")
        if len(methods) > 1 and "method" not in columns:
            raise UserError(f"{key}: results has {len(methods)} folders, so a column method has to name them")
        wanted = {(method, style, content) for method in methods for content, style in pairs}
        found = {}
        for number, row in enumerate(rows, 2):
            place = (row.get("method") or methods[0], _stem(row["style"]), _stem(row["content"]))
            if place in wanted and row[column]:
                found[place] = _number(row[column], f"{key}, line {number}: {column}")
        if not found:
            raise UserError(f"{key}: it has no time of any picture of {' or '.join(methods)}")
        return found

    def _check_settings(self) -> None:
        try:
            fields = [field for _, field, _, _ in Formatter().parse(str(self.results_name)) if field is not None]
        except ValueError:  # braces that do not match
            fields = [""]
        if any(field not in FIELDS for field in fields):
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise UserError(f"results_name={self.results_name}: only {known} may stand in braces")
        if not isinstance(self.results, Mapping) and len(self.folders) < len(as_list(self.results)):
            raise UserError("results: two folders have the same name, so write results={one: folder, other: folder}")

    def _key(self, method: str) -> str:
        folder = self.folders[method]
        return f"results.{method}={folder}" if isinstance(self.results, Mapping) else f"results={folder}"

    def _wanted(self, method: str, content: str, style: str) -> str:
        name = str(self.results_name).format(content=content, style=style, method=method)
        return PurePosixPath(_stem(name)).as_posix()

    def _check(
        self, method: str, wanted: Mapping[tuple[str, str], str], there: Mapping[str, list[Path]], files: Sequence[Path]
    ) -> None:
        names, pattern = list(wanted.values()), f"results_name={self.results_name}"
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(
                f"{pattern}: {twice} would be the picture of two pairs: put {{content}} and {{style}} into it"
            )
        missing = [name for name in names if name not in there]
        if missing:
            example = (
                f"the folder has {_some([file.as_posix() for file in files])}" if files else "the folder has no picture"
            )
            raise UserError(
                f"{self._key(method)}: {len(missing)} of {len(names)} pictures are missing, {_some(missing)} "
                f"({pattern}); {example}: set results_name to the pattern of their names, or leave photos or "
                "paintings out"
            )
        for name in names:
            if len(there[name]) > 1:
                one, other = there[name][:2]
                raise UserError(
                    f"{self._key(method)}: {one.name} and {other.name} have the same name, keep one of them"
                )


def fitted(picture: Tensor, size: tuple[int, int]) -> tuple[Tensor, bool]:
    """A picture (3, H, W) in the size of its photo, and whether it had the photo's shape.

    Args:
        picture: RGB in [0, 1].
        size: (height, width) of the photo.
    """
    height, width = picture.shape[-2:]
    ratio = (width / height) / (size[1] / size[0])
    return resize(picture, size), abs(math.log(ratio)) <= max(ALIKE, 1 / min(height, width))  # a side is rounded


def _name(folder: str) -> str:
    return Path(folder).expanduser().resolve().name


def _stem(name: str) -> str:
    """A name without the ending of a picture; other dots belong to the name."""
    return name[: -len(PurePosixPath(name).suffix)] if PurePosixPath(name).suffix.lower() in READABLE else name


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{place} is {text}: a number, 0 or larger, is needed")
    return value
