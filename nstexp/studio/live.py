"""The part Webcam: frames of a camera come and go through one WebSocket, `/api/live`.

The page sends settings as JSON texts and frames as JPEG. The server keeps only the newest frame of each page: while the
worker redraws one, a newer frame takes the place of the one that waits. A slow machine shows fewer frames, but none
late.

A frame has its number in front, four bytes, and the answer has the same number, so that the page knows how old it is.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from nstexp.core.errors import UserError, whole
from nstexp.studio.context import Studio
from nstexp.studio.paint import file_of
from nstexp.studio.sessions import Session
from nstexp.studio.wanted import Wanted
from nstexp.studio.worker import Replaced

MOST_FRAME_BYTES, MOST_TEXT_BYTES = 2**21, 2**14
FRAME_PX = (64, 768)  # the range of a frame's longer side
NUMBER_BYTES = 4
FRAME = "the frame of the camera"
KEYS = ("styles", "shares", "alpha", "stroke", "color", "color_strength", "seed")


@dataclass
class Stream:
    """What one page shows.

    Args:
        preview: what to make of a frame, see `Wanted.preview`; None until the page has chosen a painting.
        newest: number and bytes of the frame that waits.
        dropped: how many frames a newer one has replaced.
        waiting: set while there is something to do.
    """

    preview: dict[str, Any] | None = None
    newest: tuple[bytes, bytes] | None = None
    dropped: int = 0
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, frame: bytes) -> None:
        """Keep a frame in the place of the one that waits.

        Raises:
            UserError: it has too many bytes, or none.
        """
        if not NUMBER_BYTES < len(frame) <= MOST_FRAME_BYTES:
            raise UserError(f"{FRAME} has {len(frame):,} bytes; give up to {MOST_FRAME_BYTES:,}")
        self.dropped += self.newest is not None
        self.newest = frame[:NUMBER_BYTES], frame[NUMBER_BYTES:]
        self.waiting.set()

    def set(self, text: str, session: Session) -> None:
        """Take settings from the page; they count from the next frame on.

        Raises:
            UserError: as the command line; the earlier settings then stay.
        """
        try:
            sent = json.loads(text) if len(text) <= MOST_TEXT_BYTES else None
        except (ValueError, RecursionError):
            sent = None
        if not isinstance(sent, Mapping):
            raise UserError("the settings of the webcam are no JSON object, or too long")

        def find(key: str, name: str) -> str:
            return FRAME if key == "content" else file_of(session, key, name)

        known = {key: sent[key] for key in KEYS if key in sent}
        px = whole("px", sent.get("px", 256), *FRAME_PX)
        self.preview = Wanted.of({"method": "swift", "content": FRAME, **known}, find).preview(px, px, of_clip=True)

    async def next(self) -> tuple[bytes, bytes]:
        """The newest frame, as soon as there are one and a painting."""
        while True:
            await self.waiting.wait()
            self.waiting.clear()
            if self.newest is not None and self.preview is not None:
                frame, self.newest = self.newest, None
                return frame


def routes(studio: Studio) -> list[BaseRoute]:
    """The route of the part Webcam."""
    return [WebSocketRoute("/api/live", partial(_live, studio))]


async def _live(studio: Studio, socket: WebSocket) -> None:
    session, stream = studio.session(socket), Stream()
    await socket.accept()
    painter = asyncio.create_task(_paint(studio, session, socket, stream))
    try:
        await _listen(session, socket, stream)
    finally:
        painter.cancel()
        with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):  # RuntimeError: the socket is closed
            await painter


async def _listen(session: Session, socket: WebSocket, stream: Stream) -> None:
    """Take what the page sends, until it goes."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        try:
            if message.get("bytes") is not None:
                stream.put(message["bytes"])
            else:
                stream.set(message.get("text") or "", session)
                stream.waiting.set()
        except UserError as error:
            await _say(socket, {"error": str(error)})


async def _paint(studio: Studio, session: Session, socket: WebSocket, stream: Stream) -> None:
    """Redraw the newest frame, again and again, in front of all pictures that wait."""
    while True:
        number, jpeg = await stream.next()
        path = session.folder / f"webcam-{id(stream):x}.jpg"
        payload = {"jpeg": jpeg, "path": str(path), "preview": stream.preview}
        try:
            made = await studio.worker.ask("frames:webcam", payload, replaces=f"live {path}", first=True)
        except Replaced:
            continue
        except UserError as error:
            await _say(socket, {"error": str(error)})
            continue
        await _say(socket, {"seconds": made["seconds"], "dropped": stream.dropped})
        await socket.send_bytes(number + made["jpeg"])


async def _say(socket: WebSocket, message: Mapping[str, Any]) -> None:
    await socket.send_text(json.dumps(message))
