"""The bodies of requests: JSON objects, and a limit on their length."""

import json
from typing import Any

from starlette.requests import Request

from nstexp.core.errors import UserError

MOST_JSON_BYTES = 200_000


async def json_object(request: Request) -> dict[str, Any]:
    """The body of a request, a JSON object.

    Raises:
        UserError: it is something else, or too long.
    """
    refuse_longer(request, MOST_JSON_BYTES)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_JSON_BYTES:  # more than it announced
            raise UserError("the request is too long")
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError("the request is no JSON object") from error
    if not isinstance(sent, dict):
        raise UserError("the request is no JSON object")
    return sent


def refuse_longer(request: Request, most_bytes: int) -> None:
    """Refuse a body before it is read.

    Raises:
        UserError: the request announces more bytes, or does not announce how many there are.
    """
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise UserError("the request does not say how long it is")
    if int(length) > most_bytes:
        limit = f"{most_bytes // 2**20} MB" if most_bytes >= 2**20 else f"{most_bytes // 1000} kB"
        raise UserError(f"what the page sends is larger than {limit}, the limit of the studio")
