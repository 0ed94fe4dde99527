"""What names of files look like where they are shown."""

import logging

import pytest

from nstexp.core.text import PrintableFormatter, printable


@pytest.mark.parametrize("text", ["photo (1).jpg", "Zürich 写真 e\u0301 😀 👨\u200d👩\u200d👧", "a\tb\nc", "\\x1b"])
def test_what_prints_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07.jpg", "\\x1b]0;title\\x07.jpg"),
        ("a\rb\x7f\x9b1m", "a\\rb\\x7f\\x9b1m"),
        ("caf\udce9", "caf\\udce9"),
        ("gpj.\u202ecod", "gpj.\\u202ecod"),
    ],
)
def test_commands_to_a_terminal_are_shown_and_not_sent(text, shown):
    assert printable(text) == shown
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s: done", (text,), None)
    assert PrintableFormatter("%(message)s").format(record) == f"{shown}: done"


def test_on_one_line_there_are_no_line_ends():
    assert printable("a\nb\tc", one_line=True) == "a\\nb\\tc"
