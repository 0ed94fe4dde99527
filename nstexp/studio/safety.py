"""Who may talk to the server: checks of Host, Origin and token, and the headers of every answer.

A page of any site can send requests to 127.0.0.1 from the user's browser. Two checks keep such pages out. Without a
token the name in `Host` must be one of this machine, so that a site whose name suddenly leads here (DNS rebinding) gets
nothing. Every request that may change something, and every WebSocket, must name this server as its `Origin`, which a
browser sets by itself and a page cannot change.
"""

import hmac
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nstexp.studio.sessions import COOKIE, new_key

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_COOKIE = "nstexp_studio_token"
READING = ("GET", "HEAD")
# A page may load only what this server sends, and other pages may not show it in a frame.
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """The outermost layer of the server: refuses foreign requests, and gives every browser a session.

    Args:
        app: the server behind it.
        token: the secret that a browser must know; None: none, and then only this machine may connect.
    """

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cookies = _cookies(headers)
        problem = self._problem(scope, headers, cookies)
        if problem is not None:
            await _refuse(problem, scope, receive, send)
            return
        if self.token is not None and "token" in _query(scope):
            await self._take_token(scope, receive, send)
            return
        key, new = cookies.get(COOKIE, ""), COOKIE not in cookies
        scope.setdefault("state", {})["session_key"] = key = key or new_key()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer.setdefault(name, value)
                if new:
                    answer.append("set-cookie", f"{COOKIE}={key}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000")
            await send(message)

        await self.app(scope, receive, with_headers)

    def _problem(self, scope: Scope, headers: Headers, cookies: dict[str, str]) -> str | None:
        """Why a request is refused; None if it is not."""
        host = headers.get("host", "")
        if self.token is None and _name_of(host) not in LOOPBACK:
            return "open the studio at the address that it printed; it answers only to the names of this machine"
        if scope["type"] == "websocket" or scope["method"] not in READING:
            origin = urlsplit(headers.get("origin", ""))
            if origin.scheme not in ("http", "https") or origin.netloc != host:
                return "another page sent this request; the studio obeys only its own page"
        if self.token is not None:
            given = _query(scope).get("token", [cookies.get(TOKEN_COOKIE, "")])[0]
            if not hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode()):
                return "this studio needs its token: open the whole address that it printed, with ?token=..."
        return None

    async def _take_token(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Move the token from the address, where others may see it, into a cookie."""
        rest = {name: values for name, values in _query(scope).items() if name != "token"}
        answer: Response = RedirectResponse(scope["path"] + (f"?{urlencode(rest, doseq=True)}" if rest else ""), 303)
        answer.set_cookie(TOKEN_COOKIE, self.token or "", httponly=True, samesite="strict", max_age=31_536_000)
        answer.headers.update(HEADERS)
        await answer(scope, receive, send)


async def _refuse(problem: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # the request to connect
        await send({"type": "websocket.close", "code": 4403, "reason": problem[:120]})
        return
    await JSONResponse({"error": problem}, 403, HEADERS)(scope, receive, send)


def _name_of(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope.get("query_string", b"").decode("ascii", "replace"), keep_blank_values=True)


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except Exception:  # another program's cookie that Python cannot read
        return {}
