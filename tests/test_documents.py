"""README.md and the pages: links lead to files, pictures have a description, and every code block is read."""

import re

import documents
import pytest
from helpers import ROOT

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


NAMES = [documents.name_of(page) for page in documents.PAGES]


def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^( *)(`{3,}).*?^\1\2$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S | re.M)


def links_of(page: str) -> list[tuple[str, str, str]]:
    """(`!` of a picture, text, target) of every link outside of code blocks."""
    return LINK.findall(prose(page))


@pytest.mark.parametrize("page", NAMES)
def test_no_command_is_in_a_block_that_is_only_indented(page):
    """`documents.blocks` reads fenced blocks, and the commands of others would not be run."""
    assert re.findall(r"^(?: {4,}|\t).*\bnstexp .*=.*", prose(page), re.MULTILINE) == []


@pytest.mark.parametrize("page", NAMES)
def test_pictures_exist_and_have_a_description(page):
    for _, text, target in [link for link in links_of(page) if link[0]]:
        assert (ROOT / page).parent.joinpath(target).is_file(), target
        assert len(text.split()) >= 3, f"{target}: say what to look at"


def test_links_of_the_readme_lead_to_pages():
    """mkdocs checks those of the pages."""
    targets = [target.partition("#")[0] for _, _, target in links_of("README.md") if target.startswith("docs/")]
    assert len(targets) > 30
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_blocks_and_their_commands_are_read():
    shell = "```sh\nnstexp a=1  # why\npython -m nstexp \\\n  b='x #1' \nnstexp.report x\n```\n"
    in_a_list = "- x\n\n  ```python\n  import y\n  ```\n"
    blocks = list(documents.blocks_in(shell + in_a_list, "x.md"))
    assert [(block.language, block.text) for block in blocks][1] == ("python", "import y\n")
    assert documents.commands_of(blocks[0]) == ["nstexp a=1", "python -m nstexp b='x #1'"]
    with pytest.raises(AssertionError, match="has no end"):
        list(documents.blocks_in("```sh\nnstexp\n", "x.md"))
