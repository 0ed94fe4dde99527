"""Text that is safe to print: names of files may contain control sequences, which a terminal would obey."""

import logging
import re

# Control characters except line ends and tabs, characters that change the direction of writing, and invalid Unicode.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)

_ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")  # what Hydra escapes in a text without quotes


def printable(text: object, one_line: bool = False) -> str:
    r"""Replace unprintable characters by escapes such as \x1b.

    Args:
        text: converted by `str`.
        one_line: replace line ends and tabs, too.

    Examples:
        >>> print(printable("a\x1b[2J b"))
        a\x1b[2J b
        >>> print(printable("two\nlines", one_line=True))
        two\nlines
    """
    shown = _UNPRINTABLE.sub(_escape, str(text))
    return re.sub("[\n\t]", _escape, shown) if one_line else shown


def unquoted(text: str) -> str:
    r"""A value of the command line as a person writes it, without the quotes and escapes that Hydra needs.

    Examples:
        >>> unquoted('"photo (1).jpg"'), unquoted("a"), unquoted(r'"say \"a\""'), unquoted(r"met\:436535")
        ('photo (1).jpg', 'a', 'say "a"', 'met:436535')
    """
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1].replace(f"\\{text[0]}", text[0])
    return _ESCAPED.sub(r"\1", text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class PrintableFormatter(logging.Formatter):
    """A log formatter whose messages are `printable`."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
