"""Removal of passwords and tokens in addresses, before text is shown or written."""

import logging
import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

T = TypeVar("T")
HIDDEN = "***"
# `https://user:password@host/...`, and the query after a question mark, which can contain a signature.
USER = re.compile(r"(?<=://)[^\s/'\"<>]*@")
QUERY = re.compile(r"(://[^\s'\"<>?]*\?)(?!\*\*\*)[^\s'\"<>]+")


def without_secrets(value: T) -> T:
    """Replace user, password and query of addresses by `***`, in a text or in nested mappings, lists and tuples.

    Tuples become lists.

    Examples:
        >>> without_secrets(["https://me:secret@host/a.png", "https://host/a.png?key=1"])
        ['https://***@host/a.png', 'https://host/a.png?***']
    """
    cleaned: Any = value
    if isinstance(value, str):
        cleaned = QUERY.sub(rf"\1{HIDDEN}", USER.sub(f"{HIDDEN}@", value)) if "://" in value else value
    elif isinstance(value, Mapping):
        cleaned = {key: without_secrets(entry) for key, entry in value.items()}
    elif isinstance(value, list | tuple):
        cleaned = [without_secrets(entry) for entry in value]
    return cast(T, cleaned)


class WithoutSecrets(logging.Filter):
    """A filter for log handlers that applies `without_secrets` to messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if (cleaned := without_secrets(message)) != message:
            record.msg, record.args = cleaned, None
        return True
