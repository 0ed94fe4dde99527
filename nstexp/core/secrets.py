"""Passwords and tokens in addresses: they are used, and never shown or written."""

import logging
import re
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
HIDDEN = "***"
# `https://user:password@host/...`, and what follows a question mark: of a signed address that is the signature.
USER = re.compile(r"(?<=://)[^\s/'\"<>]*@")
QUERY = re.compile(r"(://[^\s'\"<>?]*\?)(?!\*\*\*)[^\s'\"<>]+")


def without_secrets(value: T) -> T:
    """A text, or tables and lists of texts, with `***` for the user, the password and the query of every address."""
    if isinstance(value, str):
        return QUERY.sub(rf"\1{HIDDEN}", USER.sub(f"{HIDDEN}@", value)) if "://" in value else value
    if isinstance(value, Mapping):
        return {key: without_secrets(each) for key, each in value.items()}
    return [without_secrets(each) for each in value] if isinstance(value, list | tuple) else value


class WithoutSecrets(logging.Filter):
    """Of a log's handlers: what they write goes through `without_secrets`."""

    def filter(self, record: logging.LogRecord) -> bool:
        shown: Any = record.getMessage()
        if (cleaned := without_secrets(shown)) != shown:
            record.msg, record.args = cleaned, None
        return True
