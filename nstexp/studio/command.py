"""`nstexp studio`: check the command line, and start the server. Imports no torch, so that the page opens at once."""

import argparse
import contextlib
import ipaddress
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from nstexp.core.errors import UserError
from nstexp.core.text import printable

STUDIO = """\
Opens a page in the browser to paint with: drop a photo, choose paintings, move the sliders. The page shows the command
of every picture. Everything stays on this machine. Ctrl-C ends it.

  python -m nstexp studio                          for this folder: pictures are written to studio/ in it
  python -m nstexp studio runs/                    for another folder, whose runs and sweeps the page lists
  python -m nstexp studio --no-browser --port 8000
  python -m nstexp studio --host 0.0.0.0           also for other machines, which need the token in the printed address
"""
PACKAGES = ("starlette", "uvicorn", "multipart", "websockets")  # of the extra `studio`, by the names to import
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def studio_command(words: Sequence[str]) -> None:
    """`nstexp studio`: serve the page until Ctrl-C.

    Args:
        words: the command line behind `studio`.

    Raises:
        UserError: an unknown option, no such folder, an address that cannot be used, or packages that are missing.
    """
    given = _parser().parse_args(list(words))
    folder = Path(given.folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"studio {printable(given.folder, one_line=True)}: there is no such folder")
    if not (given.port.isdecimal() and int(given.port) <= 65_535):
        raise UserError(
            f"--port {printable(given.port, one_line=True)}: give a number from 1 to 65535, or 0 for a free one"
        )
    if given.token is not None and len(given.token) < 8:
        raise UserError("--token: give 8 letters or more, or leave it out for one that is made")
    if any(find_spec(name) is None for name in PACKAGES):
        raise UserError("nstexp studio needs packages that are not installed: pip install 'nstexp[studio]'")
    local = given.host in LOOPBACK
    token = given.token or (None if local else secrets.token_urlsafe(16))
    _serve(folder, given.host, int(given.port), token, given.browser)


def _parser() -> argparse.ArgumentParser:
    def refuse(message: str) -> NoReturn:
        raise UserError(f"nstexp studio: {message} (--help tells more)")

    parser = argparse.ArgumentParser(
        prog="nstexp studio", description=STUDIO, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = refuse  # type: ignore[method-assign]  # one line, in place of the usage and an exit
    parser.add_argument("folder", nargs="?", default=".", help="the folder to work in; by default the current one")
    parser.add_argument("--port", default="0", metavar="number", help="by default a free one")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="address", help="by default 127.0.0.1, this machine only"
    )
    parser.add_argument("--token", metavar="text", help="the secret that browsers need; with --host, one is made")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="open no browser")
    return parser


def _serve(folder: Path, host: str, port: int, token: str | None, browser: bool) -> None:
    import uvicorn

    from nstexp.studio.app import make_app

    listener = _listener(host, port)
    address = _address(host, listener.getsockname()[1], token)
    settings = uvicorn.Config(
        make_app(folder, token=token),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        proxy_headers=False,
    )
    print(f"the studio is at {address} (Ctrl-C ends it)", file=sys.stderr)
    print(address, flush=True)
    if browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # the usual end, and no failure
        uvicorn.Server(settings).run([listener])


def _listener(host: str, port: int) -> socket.socket:
    """A socket at the address, bound before the address is printed, so that the printed one is right.

    Raises:
        UserError: the address is not one of this machine, or the port is taken.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)  # a browser that is faster than the server waits
        return listener
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: the studio cannot listen there ({error.strerror})") from error


def _address(host: str, port: int, token: str | None) -> str:
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    name = socket.gethostname() if everywhere else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
