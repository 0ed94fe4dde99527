"""Write docs/reference/configuration.md: every config group, its options and all keys, from the comments in conf/.

python scripts/make_reference.py            # writes the page
python scripts/make_reference.py --check    # exit code 1 if the page is not what the comments give
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from nstexp.config.reference import OF_HYDRA, Key, Option, Reference, capitalized
from nstexp.help import TOPICS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "configuration.md"
INTRODUCTION = """\
# Configuration

<!-- Made by scripts/make_reference.py from the comments in conf/. Change those, and run the script. -->

A run is a configuration: [keys that every command has](#keys-of-every-command), and groups with options to choose from.

- `key=value` on the command line sets a key: `python -m nstexp image_px=512 weights.beta=100`.
- `group=option` chooses an option: `python -m nstexp method=adain`. Several options of the groups `loss` and `metrics`
  are chosen as a list: `'loss=[content,gram]'`.
- `-m` and values with commas between them make a sweep: `python -m nstexp -m weights.beta=1,10,100`.
- `python -m nstexp --cfg job --resolve` prints the whole configuration of a command, without running it.
- `python -m nstexp help method.max_steps` explains a key in the terminal, and `python -m nstexp help losses` a topic.

The value `${name}` stands for the value of another key, `null` for no value, and `???` for a value that the command has
to give. Two keys mean the same in every table:
"""
ROOT = """\
## Keys of every command

These keys stand at the top level, in `conf/config.yaml`.
"""
# Groups without a topic: what Hydra and Python's logging read.
INTERNALS = {
    "hydra/output": "Folders of runs and sweeps.",
    "hydra/callbacks": "Code that Hydra calls before and after runs.",
    "hydra/job_logging": "Messages of a run.",
    "hydra/hydra_logging": "Messages of a sweep.",
    "hydra/help": "The text of `--help`.",
}
LONGEST = 100  # characters of a default on the page


def page(known: Reference) -> str:
    """The whole page as Markdown."""
    return "\n".join(_lines(known)).rstrip() + "\n"


def _lines(known: Reference) -> Iterator[str]:
    yield INTRODUCTION
    yield from _table([Key(name, "", OF_HYDRA[name]) for name in ("_target_", "_partial_")], "")
    yield ""
    yield ROOT
    yield from _table([key for key in known.keys(known.root) if not key.is_table])
    for topic in TOPICS:
        for group in topic.groups:
            yield from _group(known, group, topic.name.capitalize(), topic.title)
    for group, title in INTERNALS.items():
        yield from _group(known, group, f"Internals: {group}", title)


def _group(known: Reference, group: str, heading: str, title: str) -> Iterator[str]:
    yield from ("", f"## {heading}", "", _text(title), "")
    default = {name for chosen, name in known.root.defaults if chosen == group}
    options = known.in_group(group)
    yield from ("| Option | Description |", "|---|---|")
    for option in options:
        mark = " (default)" if option.name in default else ""
        yield f"| [`{option.name}`](#{_anchor(option)}){mark} | {_text(option.summary)} |"
    for option in options:
        yield from _option(known, option)


def _option(known: Reference, option: Option) -> Iterator[str]:
    yield from ("", f"### `{option.choice}` {{ #{_anchor(option)} }}", "", _text(option.about), "")
    if option.commands:
        yield from ("```bash", *option.commands, "```", "")
    based = [f"`{group}={name}`" for group, name in option.defaults if (group, name) in known.options]
    if based:
        yield from (f"Builds on {', '.join(dict.fromkeys(based))}.", "")
    keys = [key for key in known.keys(option) if not _is_plain_table(key)]
    yield from _table(keys, "Value" if option.group == "experiment" else "Default")


def _is_plain_table(key: Key) -> bool:
    """Whether a key is the table of a group, about which the section says everything."""
    return key.is_table and (key.text == "settings of this group" or key.path.startswith("hydra.sweeper"))


def _table(keys: list[Key], column: str = "Default") -> Iterator[str]:
    """The keys as rows.

    Args:
        column: name of the column with the values; empty: there is no such column.
    """
    if keys:
        yield from (f"| Key | {column} | Meaning |", "|---|---|---|") if column else ("| Key | Meaning |", "|---|---|")
    for key in keys:
        value = key.value if len(key.value) <= LONGEST else f"{key.value[: LONGEST - 3]}..."
        shown = f" {_code(value)} |" if value else " |"
        yield f"| {_code(key.path)} |{shown if column else ''} {_text(key.text)} |"


def _anchor(option: Option) -> str:
    return re.sub(r"\W+", "-", f"{option.group}-{option.name}")


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _text(text: str) -> str:
    """Plain text as Markdown: capitalized, and without accidental markup outside of backticks."""
    parts = re.split(r"(`[^`]*`)", capitalized(text))
    escaped = [
        part if part.startswith("`") else re.sub(r"([*<>|\\]|(?<!\w)_|_(?!\w))", r"\\\1", part) for part in parts
    ]
    return "".join(escaped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is not up to date")
    arguments = parser.parse_args()
    made = page(Reference())
    if not arguments.check:
        PAGE.write_text(made, encoding="utf-8")
        print(PAGE)
    elif made != PAGE.read_text(encoding="utf-8"):
        sys.exit(f"{PAGE}: not up to date; run python scripts/make_reference.py")


if __name__ == "__main__":
    main()
