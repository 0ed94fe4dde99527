"""The documentation that tests read: its pages, their code blocks, and the commands in those."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)(`{3,}|~{3,}) *([\w.+-]*).*$")
COMMAND = re.compile(r"(?:python -m )?nstexp(?=\s|$)")
SHELL = ("sh", "bash")


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_in(text: str, page: str) -> Iterator[Block]:
    """The fenced blocks of a page's text; an indented block, as in a list or a tab, loses its indentation."""
    indent, fence, language, lines = "", None, "", []
    for line in text.splitlines():
        if fence is None:
            if found := FENCE.match(line):
                indent, fence, language, lines = found[1], found[2], found[3], []
        elif line.strip() == fence:
            yield Block(page, language, "".join(f"{each}\n" for each in lines))
            fence = None
        else:
            lines.append(line.removeprefix(indent))
    assert fence is None, f"{page}: a code block has no end"


def blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks_in(page.read_text(encoding="utf-8"), name_of(page))]


def commands_of(block: Block) -> list[str]:
    """Every `nstexp` or `python -m nstexp` line without its comment; `nstexp.report`, which needs a sweep, is not among
    them. A line that ends with a backslash goes on in the next one.
    """
    lines = [re.split(r"\s+#\s", line)[0].strip() for line in block.text.replace("\\\n", " ").splitlines()]
    return [" ".join(line.split()) for line in lines if COMMAND.match(line.removeprefix("$ "))]


def commands(*languages: str) -> dict[str, list[str]]:
    """Command -> the pages that have it, in blocks of these languages; variables that a page sets are put in."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        variables: dict[str, str] = {}
        for block in blocks_in(page.read_text(encoding="utf-8"), name_of(page)):
            if block.language not in languages:
                continue
            variables |= dict(re.findall(r"^(\w+)=[\"'](.*)[\"']$", block.text, re.MULTILINE))
            for command in commands_of(block):
                for name, value in variables.items():
                    command = command.replace(f"${name}", value)
                found.setdefault(command.removeprefix("$ ").removeprefix("python -m "), []).append(block.page)
    return found
