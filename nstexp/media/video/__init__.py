"""Read and write video: exact frames and times, unchanged sound, and interrupted work that continues later."""

from nstexp.media.video.encoder import Encoding
from nstexp.media.video.pictures import Colors
from nstexp.media.video.reading import is_transparent, read_frames
from nstexp.media.video.source import Frame, Source, made_source, open_source
from nstexp.media.video.writer import CONTAINERS, SUFFIXES, Writer, keeps_transparency, open_writer

__all__ = [
    "CONTAINERS",
    "SUFFIXES",
    "Colors",
    "Encoding",
    "Frame",
    "Source",
    "Writer",
    "is_transparent",
    "keeps_transparency",
    "made_source",
    "open_source",
    "open_writer",
    "read_frames",
]
