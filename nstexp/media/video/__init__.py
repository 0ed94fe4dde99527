"""Video in and out: exact frames and times, the sound untouched, interrupted work goes on where it stopped."""

from nstexp.media.video.encoder import Encoding
from nstexp.media.video.pictures import Colors
from nstexp.media.video.reading import read_frames
from nstexp.media.video.source import Frame, Source, open_source
from nstexp.media.video.writer import CONTAINERS, Writer, open_writer

__all__ = [
    "CONTAINERS",
    "Colors",
    "Encoding",
    "Frame",
    "Source",
    "Writer",
    "open_source",
    "open_writer",
    "read_frames",
]
