"""report.html: a single file with all data of the report, which opens from disk.

`page_data` turns jobs into plain lists and dictionaries. `write_page` inserts these, the style sheet and the script
into page.html. The script is written as modules, in script/, and joined here. It creates every element from the data as
text and never as markup, so that a configuration or a file name cannot inject HTML.
"""

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from nstexp.core.runtime.files import write_atomically
from nstexp.report.design import Design
from nstexp.report.job import Job
from nstexp.report.page.data import page_data
from nstexp.report.page.json_values import as_json

__all__ = ["NOTES", "SCRIPTS", "joined", "page_data", "read_notes", "write_page"]

# The modules of the script, each after those that it imports.
SCRIPTS = (
    "text", "dom", "address", "exporting", "model", "filter", "pareto", "scales", "svg", "keyboard", "chart",
    "parallel", "notes", "sheet", "compare", "table", "curves", "scatter", "together", "effects", "search",
    "configuration", "head", "main",
)  # fmt: skip
NOTES = re.compile(r'<script type="application/json" id="notes">(.*?)</script>', re.DOTALL)
MODULE_LINE = re.compile(r"^import [^;]*;\n|^export (?=async|function|const|let|class)", re.MULTILINE)


def write_page(jobs: Sequence[Job], path: Path, folders: Sequence[Path] = (), design: Design | None = None) -> None:
    """Write report.html. The notes in an earlier page of this name are kept.

    Args:
        jobs: the jobs of the report.
        path: the file.
        folders: the folders of the sweeps, for the title.
        design: of the jobs; None: that of `design_of`.

    Raises:
        UserError: the file cannot be written.
    """
    data = page_data(jobs, path.parent, folders, design)
    parts = {
        "title": html.escape(data["title"]),
        "style": resource("page.css"),
        "notes": as_json(read_notes(path)),
        "data": as_json(data),
        "script": joined(SCRIPTS),
    }
    write_filled(path, "page.html", parts)


def write_filled(path: Path, template: str, parts: Mapping[str, str]) -> None:
    """Write a template of this package with its parts, which stand as {{name}} in it."""
    pieces = re.split(r"\{\{(\w+)\}\}", resource(template))
    text = "".join(parts[piece] if n % 2 else piece for n, piece in enumerate(pieces))
    # On Linux, a file name may not be valid Unicode.
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", errors="xmlcharrefreplace"))


def read_notes(path: Path) -> dict[str, Any]:
    """The notes in a page that the page itself has saved: run -> text; empty without such a page."""
    try:
        found = NOTES.search(path.read_text(encoding="utf-8", errors="replace"))
        notes = json.loads(found[1]) if found else {}
    except (OSError, ValueError):
        return {}
    return {str(run): str(text) for run, text in notes.items()} if isinstance(notes, dict) else {}


def joined(names: Sequence[str]) -> str:
    """The modules of a script as one script, without the lines that only modules have."""
    modules = [MODULE_LINE.sub("", resource(f"script/{name}.mjs")) for name in names]
    return '(() => {\n"use strict";\n' + "\n".join(modules) + "})();\n"


def resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
