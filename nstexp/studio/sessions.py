"""Sessions: every browser has its own folder, so that two browsers do not mix their pictures."""

import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COOKIE = "nstexp_studio"
HOME = "studio"  # the folder below the user's that holds everything the studio writes


@dataclass
class Session:
    """One browser.

    Args:
        id: a name for folders and logs, from which the cookie cannot be found.
        folder: holds what the browser uploads and makes; it exists once something is written.
        parts: what the parts of the studio remember about the browser, by the name of the part.
    """

    id: str
    folder: Path
    parts: dict[str, Any] = field(default_factory=dict)


class Sessions:
    """All sessions of a server. A browser that comes back finds its folder again, since its cookie names it.

    Args:
        folder: the folder that the user named.
    """

    def __init__(self, folder: Path) -> None:
        self.home = folder / HOME
        self._known: dict[str, Session] = {}

    def of(self, key: str) -> Session:
        """The session of a cookie's value."""
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        if name not in self._known:
            self._known[name] = Session(name, self.home / name)
        return self._known[name]


def new_key() -> str:
    """A value for the cookie that nobody can guess."""
    return secrets.token_urlsafe(24)
