"""Names of files as they can be shown: a terminal obeys what it is sent, and a name can hold its commands."""

import logging
import re

# Control characters but for line ends and tabs, those that turn the direction of writing, and what is no Unicode.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


def printable(text: object, one_line: bool = False) -> str:
    """The text with escapes such as \\x1b in the place of all that does not print.

    Args:
        one_line: whether line ends and tabs are escaped, too.
    """
    shown = _UNPRINTABLE.sub(_escape, str(text))
    return re.sub("[\n\t]", _escape, shown) if one_line else shown


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class PrintableFormatter(logging.Formatter):
    """Messages with the names in them as `printable` shows them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
