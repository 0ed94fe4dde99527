"""`nstexp samples` and `nstexp styles`: the built-in pictures and the styles of a network, as a list or as a sheet."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nstexp.commands import check_out, print_path
from nstexp.console import progress
from nstexp.core.errors import UserError
from nstexp.core.runtime.files import write_atomically
from nstexp.core.text import printable
from nstexp.media import learned, samples

CELL_PX, PAINTINGS_IN_ROW, STYLES_IN_ROW = 176, 14, 6
MADE_BY = "nstexp"  # key of a text in the PNG files that this module writes, so that it may replace them later

SAMPLES = """\
Lists the pictures that come with nstexp, by the names to type as content=... and style=..., and the styles that the
bundled network of method=cin has learned. With --sheet it draws the pictures instead.

  python -m nstexp samples
  python -m nstexp samples --sheet                 samples.png in this folder; its path is printed
  python -m nstexp samples --sheet pictures.png
"""
STYLES = """\
Lists the styles that a network has learned, by the names to type as style=..., and the pictures that it learned them
from. With --sheet it draws those pictures, as far as they are on this machine.

  python -m nstexp styles                                       of the network that comes with nstexp
  python -m nstexp styles runs/mine/model.safetensors           of one that you have trained
  python -m nstexp styles --sheet                               styles.png in this folder; its path is printed
  python -m nstexp styles runs/mine/model.safetensors --sheet mine.png
"""


def samples_command(words: Sequence[str]) -> None:
    """`nstexp samples`: list the built-in pictures, or draw them with --sheet.

    Args:
        words: the command line behind `samples`.

    Raises:
        UserError: an unknown option, or a sheet that cannot be written.
    """
    given = _parser("samples", SAMPLES).parse_args(list(words))
    listing = samples.listing()
    if given.sheet is None:
        for image in listing:
            print(f"{image.name:24} {image.title}")
        titles = {image.name: image.title for image in listing}
        for name, source in samples.learned_styles().items():
            print(f"{name:24} of method=cin: {titles.get(source, source)}")
        return
    photos = [(image.name, image.title, image.path) for image in listing if image.name.startswith("sample:")]
    paintings = [(image.name, image.title, image.path) for image in listing if image.name.startswith("met:")]
    _write_sheet(given.sheet, "samples", {"Photos": photos, "Paintings": paintings}, PAINTINGS_IN_ROW)


def styles_command(words: Sequence[str]) -> None:
    """`nstexp styles`: list the styles that a network has learned, or draw their pictures with --sheet.

    Args:
        words: the command line behind `styles`.

    Raises:
        UserError: an unknown option, no such network, or a sheet that cannot be written.
    """
    parser = _parser("styles", STYLES)
    parser.add_argument(
        "model", nargs="?", default=learned.BUNDLED, help="file of a training; by default the bundled network"
    )
    given = parser.parse_args(list(words))
    found = learned.styles_of(given.model, "model")
    titles = _titles()
    if given.sheet is None:
        width = max(16, *map(len, found))
        for name, style in found.items():
            shown = f"{style.source}, {titles[style.source]}" if style.source in titles else style.source or "unknown"
            print(printable(f"{name:{width}} {shown}", one_line=True))
        return
    cells = [
        (name, titles.get(style.source, style.source), learned.picture_of(style.source, style.digest))
        for name, style in found.items()
    ]
    _write_sheet(given.sheet, "styles", {"": cells}, STYLES_IN_ROW, [given.model])


def _titles() -> Mapping[str, str]:
    """Titles of the built-in pictures by name; none if their packages are not installed."""
    try:
        return {image.name: image.title for image in samples.listing()}
    except UserError:
        return {}


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    def refuse(message: str) -> NoReturn:
        raise UserError(f"nstexp {command}: {message} (--help tells more)")

    parser = argparse.ArgumentParser(
        prog=f"nstexp {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = refuse  # type: ignore[method-assign]  # one line, in place of the usage and an exit
    parser.add_argument(
        "--sheet", nargs="?", const="", metavar="file", help=f"draw a contact sheet; by default {command}.png"
    )
    return parser


def _write_sheet(
    file: str,
    command: str,
    sections: Mapping[str, Sequence[tuple[str, str, Path | None]]],
    columns: int,
    inputs: Sequence[str | Path] = (),
) -> None:
    """Draw a contact sheet and print its path.

    Args:
        file: the path that the user gave; '': none, and then it is `command`.png in the current folder.
        command: the subcommand.
        sections: heading -> (name, title, picture or None) of its cells.
        columns: how many cells a row has.
        inputs: files that the command reads besides the pictures.

    Raises:
        UserError: the file cannot be written, is one of the inputs, or would replace a file that the user did not name.
    """
    path = Path(file or f"{command}.png").expanduser()
    pictures = [picture for cells in sections.values() for _, _, picture in cells if picture is not None]
    _check(path, command, named=bool(file), inputs=[*pictures, *inputs])
    from PIL.PngImagePlugin import PngInfo

    from nstexp.media import sheet  # with torch, which takes seconds; a wrong command is refused before

    shown = progress(len(pictures), "pictures", "picture", seconds_in_a_log=2.0, delay=2, leave=False)

    def cell(name: str, title: str, picture: Path | None) -> sheet.Cell:
        drawn = None if picture is None else sheet.thumbnail(picture, CELL_PX)
        shown.update(picture is not None)
        return sheet.Cell(drawn, name, title)

    with shown:
        cells = {heading: [cell(*each) for each in entries] for heading, entries in sections.items()}
    image = sheet.contact_sheet(cells, min(columns, max(map(len, cells.values()))), CELL_PX)
    more: dict[str, Any] = {}
    if path.suffix.lower() == ".png":
        more["pnginfo"] = PngInfo()
        more["pnginfo"].add_text(MADE_BY, command)
    write_atomically(path, lambda temporary: image.save(temporary, **more))
    print_path(path)


def _check(path: Path, command: str, named: bool, inputs: Sequence[str | Path]) -> None:
    """Raise a UserError for a place where the sheet may not be written."""
    from nstexp.media.paths import check_writable

    check_writable(path, "--sheet")
    if path.exists() and not named and not _is_ours(path):
        raise UserError(
            f"--sheet: {path} was not made by nstexp and would be replaced, name another file: --sheet NAME.png"
        )
    check_out(path, [each for each in inputs if str(each) != learned.BUNDLED], "--sheet")


def _is_ours(path: Path) -> bool:
    """Whether a PNG file was made by this module."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return MADE_BY in image.info
    except OSError:
        return False
