"""Partial video files: what is read of a file that an interrupted writer has left."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nstexp.core.errors import UserError
from nstexp.media.video.sound import IDENTITY
from nstexp.media.video.source import open_container, packets, video_stream

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream


def only_stream(container: "InputContainer") -> "VideoStream":
    """The video stream of a partial file."""
    stream = video_stream(container)
    assert stream is not None  # every partial file has one
    return stream


def position_of(packet: "Packet[VideoStream]") -> int:
    """The position in `frames` that an encoded packet belongs to."""
    assert packet.pts is not None  # the encoder numbers every frame
    return packet.pts


def nonempty(container: "InputContainer") -> "Iterator[Packet[VideoStream]]":
    return (packet for packet in packets(container, only_stream(container)) if packet.size)


def as_encoded(container: "InputContainer") -> "Iterator[Packet[VideoStream]]":
    """Packets in the form in which an encoder returns them; Matroska stores H.264 and its successors differently."""
    import av

    codec = only_stream(container).codec_context.name
    if codec not in ("h264", "hevc", "vvc"):
        yield from nonempty(container)
        return
    start_codes = av.BitStreamFilterContext(f"{codec}_mp4toannexb", only_stream(container))
    for packet in nonempty(container):
        yield from start_codes.filter(packet)


def header_of(stream: "VideoStream") -> tuple[Any, ...]:
    """Properties of a stream that must be equal for the packets of two encoders to form one stream."""
    context = stream.codec_context
    return context.name, context.width, context.height, context.extradata


def is_ours(partial: Path) -> bool:
    """Whether a file was left by a writer; a file that does not open was left before its first frame."""
    try:
        with open_container(partial) as container:
            return IDENTITY in container.metadata
    except UserError:
        return True
