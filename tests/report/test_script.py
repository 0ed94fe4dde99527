"""The script of report.html: its modules in Node's runner, and what joins them."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from nstexp.report import overview, page

SCRIPT = Path(page.__file__).parent / "script"
TESTS = Path(__file__).parent / "script"


@pytest.mark.slow
def test_its_modules_do_what_they_say():
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the modules of the page are tried in the browser only")
    done = subprocess.run([node, "--test", str(TESTS / "page.test.mjs")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_every_module_is_in_the_page_after_those_that_it_imports():
    assert {*page.SCRIPTS, *overview.SCRIPTS} == {path.stem for path in SCRIPT.glob("*.mjs")}
    for scripts in (page.SCRIPTS, overview.SCRIPTS):
        for place, name in enumerate(scripts):
            imported = re.findall(r'from "\./(\w+)\.mjs"', (SCRIPT / f"{name}.mjs").read_text(encoding="utf-8"))
            assert set(imported) <= set(scripts[:place]), name


@pytest.mark.parametrize("scripts", [page.SCRIPTS, overview.SCRIPTS])
def test_a_name_means_the_same_in_all_modules(scripts):
    text = page.joined(scripts)
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", text, re.MULTILINE)
    names += [
        name for found in re.findall(r"^const [\[{]([^\]}]+)[\]}] =", text, re.M) for name in re.findall(r"\w+", found)
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert not re.search(r"^(?:import|export) ", text, re.MULTILINE)
    assert "</script" not in text, "it would end the script in the page"


def test_its_modules_are_short():
    longest = max(SCRIPT.glob("*.mjs"), key=lambda path: len(path.read_text().splitlines()))
    assert len(longest.read_text(encoding="utf-8").splitlines()) < 400, longest.name
