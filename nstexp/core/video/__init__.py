"""Video in and out: exact frames and times, the sound untouched, interrupted work goes on where it stopped."""

from nstexp.core.video.encoder import Encoding
from nstexp.core.video.source import READERS, Colors, Frame, Source, open_source, read_frames
from nstexp.core.video.writer import CONTAINERS, Writer, open_writer

__all__ = [
    "CONTAINERS",
    "READERS",
    "Colors",
    "Encoding",
    "Frame",
    "Source",
    "Writer",
    "open_source",
    "open_writer",
    "read_frames",
]
