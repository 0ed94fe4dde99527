"""Every key in conf/ has a meaning in plain words, and the page of the reference is what the comments say now."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from helpers import ROOT, SCRIPTS

from nstexp.config.keys import CONF
from nstexp.config.reference import Reference, first_sentence, reference

FILES = sorted(CONF.rglob("*.yaml"))
PAGE = ROOT / "docs" / "reference" / "configuration.md"


def names_in(table: Any) -> Iterator[str]:
    """The keys of a table and of the tables in it, in their order, as PyYAML reads them."""
    for name, value in table.items() if isinstance(table, dict) else ():
        yield name
        yield from names_in(value)


def without_meaning(known: Reference) -> list[str]:
    """The keys that no comment explains."""
    found = [(option, key) for option in known.options.values() for key in known.keys(option)]
    return [f"{option.group}/{option.name}: {key.path}" for option, key in found if len(key.text) < 4]


def test_every_file_and_every_key_is_read():
    known, total = reference(), 0
    assert len(FILES) > 120
    assert len(known.options) == len(FILES)
    for file in FILES:
        group = file.parent.relative_to(CONF).as_posix()
        option = known.options["" if group == "." else group, file.stem]
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        content.pop("defaults", None)
        names = list(names_in(content))
        assert [key.path[-len(name) :] for key, name in zip(option.keys, names, strict=True)] == names, file
        total += len(names)
    assert total > 1100


def test_every_key_has_a_meaning():
    assert without_meaning(reference()) == []


@pytest.mark.parametrize(
    ("file", "line", "key"),
    [
        ("config.yaml", "image_px: null", "image_px"),
        ("method/gatys.yaml", "  levels: 3", "method.levels"),
        ("loss/gram.yaml", "  reduction: sum", "loss.gram.reduction"),
        ("loss/tv.yaml", "  tv: 0", "weights.tv"),
        ("trainer/ddp.yaml", "num_nodes: 1", "trainer.num_nodes"),
        ("hydra/launcher/ray.yaml", "    num_gpus: 0", "hydra.launcher.ray.remote.num_gpus"),
        ("backbone/vgg19.yaml", "tap: post", "backbone.tap"),
        ("optimization/default.yaml", "compile: false", "method.compile"),
    ],
)
def test_a_key_without_a_comment_is_found(tmp_path, file, line, key):
    shutil.copytree(CONF, tmp_path / "conf")
    place = tmp_path / "conf" / file
    text, count = re.subn(rf"^{re.escape(line)}\s+#.*$", line, place.read_text(encoding="utf-8"), flags=re.M)
    assert count == 1
    place.write_text(text, encoding="utf-8")
    assert key in {missing.partition(": ")[2] for missing in without_meaning(Reference(tmp_path / "conf"))}


def test_experiments_say_what_their_keys_mean_from_the_options_that_they_choose():
    known = reference()
    keys = {key.path: key.text for key in known.keys(known.options["experiment", "adain2017"])}
    assert keys["method.max_steps"] == "training only: number of optimizer steps"
    assert keys["data.crop_px"].startswith("side of the random crops in pixels")
    assert keys["weights.beta"].endswith("Here: as in the authors' released decoder; 0.01 keeps more of the photo")
    keys = {key.path: key.text for key in known.keys(known.options["experiment", "alpha_beta"])}
    assert keys["hydra.sweeper.params.method.init"].startswith("values of the sweep. Start: content, recolored")


MADE = """\
# @package _global_
# What it is. More of it.
#   python -m nstexp made=1
defaults:
  - other
first: 1
# Above the key,
# in two lines.
second: "a # b"    # behind # it
table:  # of keys
  inner: [1,
          2]  # behind a list
  # Only sometimes:
  third: ${a.b}  # under a heading
  # Above, and
  fourth: null  # behind
last: >-  # a long text
  one
  two
items:  # a list
  - x  # an item
"""


def test_comments_belong_to_their_keys(tmp_path):
    for name, text in {"config": "a: 1  # one\n", "group/made": MADE, "group/other": "{}\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    made = Reference(tmp_path).options["group", "made"]
    assert (made.about, made.summary, made.commands) == (
        "What it is. More of it.",
        "What it is",
        ("python -m nstexp made=1",),
    )
    assert made.defaults == (("group", "other"),)
    assert [(key.path, key.value, key.text) for key in made.keys] == [
        ("first", "1", ""),
        ("second", '"a # b"', "Above the key, in two lines. behind # it"),
        ("table", "", "of keys"),
        ("table.inner", "[1, 2]", "behind a list"),
        ("table.third", "${a.b}", "only sometimes: under a heading"),
        ("table.fourth", "null", "only sometimes: above, and behind"),
        ("last", "one two", "a long text"),
        ("items", "[x]", "a list"),
    ]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One"),
        ("One (Gatys et al. 2016, Fig. 3). Two.", "One (Gatys et al. 2016, Fig. 3)"),
        ("As conf/a.yaml says, e.g. here.", "As conf/a.yaml says, e.g. here"),
        ("A `key`. `Other`.", "A `key`"),
        ("", ""),
    ],
)
def test_the_first_sentence_ends_where_a_reader_ends_it(text, first):
    assert first_sentence(text) == first


def test_the_page_is_what_the_comments_say():
    done = subprocess.run(
        [sys.executable, SCRIPTS / "make_reference.py", "--check"], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_has_every_option_and_every_key():
    parts = re.split(r"^##+ .*$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    anchors = re.findall(r"^##+ .*$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    sections = {heading: text for heading, text in zip(anchors, parts[1:], strict=True)}
    for (group, name), option in reference().options.items():
        heading = f"### `{option.choice}` {{ #{re.sub(r'[^a-z0-9_]+', '-', f'{group}-{name}')} }}"
        section = sections[heading if group else "## Keys of every command"]
        for key in option.keys:
            if not key.is_table:
                assert f"\n| `{key.path}` |" in section, (group, name, key.path)


def pages_of_python() -> str:
    return (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["losses", "measures"])
def test_the_python_page_has_every_public_class_and_function(package):
    import importlib

    module = importlib.import_module(f"nstexp.core.{package}")
    wanted = {name for name in module.__all__ if getattr(getattr(module, name), "__doc__", None)}
    callables = {
        name for name in wanted if callable(getattr(module, name)) and hasattr(getattr(module, name), "__module__")
    }
    own = {name for name in callables if str(getattr(module, name).__module__).startswith("nstexp.")}
    assert len(own) > 25
    text = pages_of_python()
    assert [name for name in sorted(own) if not re.search(rf"^::: nstexp\.core\.{package}\.{name}$", text, re.M)] == []
