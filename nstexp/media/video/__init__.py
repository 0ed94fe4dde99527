"""Read and write video: exact frames and times, unchanged sound, and interrupted work that continues later."""

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
