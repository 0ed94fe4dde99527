"""What all parts of the studio share: the folder, the worker and the sessions."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from nstexp.core.errors import UserError
from nstexp.core.text import printable
from nstexp.studio.sessions import Session, Sessions
from nstexp.studio.worker import Worker

Handler = Callable[["Studio", Request], Awaitable[Response]]


@dataclass(frozen=True)
class Studio:
    """The state of the server.

    Args:
        folder: the folder that the user named, absolute; all paths are confined to it.
        worker: the process that computes, with its queue.
        sessions: one for each browser.
    """

    folder: Path
    worker: Worker
    sessions: Sessions

    def session(self, connection: HTTPConnection) -> Session:
        """The session of the browser that sent a request or opened a WebSocket."""
        return self.sessions.of(connection.scope["state"]["session_key"])

    def below(self, path: str) -> Path:
        """The absolute path of a file or a folder below `folder`; links are followed first.

        Args:
            path: relative to `folder`, or absolute.

        Raises:
            UserError: the path leads out of `folder`.
        """
        root = self.folder.resolve()
        try:
            found = (root / path).resolve()
        except (OSError, ValueError, RuntimeError):  # a zero byte, a circle of links, a name that is too long
            found = root.parent
        if found != root and root not in found.parents:
            raise UserError(f"{printable(path, one_line=True)}: this path is not below the folder of the studio")
        return found


def routes_below(studio: Studio, part: str) -> Callable[..., Route]:
    """A function (path, handler, HTTP method) that makes a route of one part of the studio.

    Args:
        part: the first name of its paths, below /api.
    """

    def at(path: str, handler: Handler, method: str = "GET") -> Route:
        return Route(f"/api/{part}/{path}", partial(handler, studio), methods=[method])

    return at
