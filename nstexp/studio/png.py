"""Texts in PNG files, added without touching the pixels."""

import struct
import zlib
from collections.abc import Mapping

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = len(SIGNATURE) + 25  # the first chunk, IHDR, has 13 bytes of data and 12 bytes around them


def with_texts(data: bytes, texts: Mapping[str, str]) -> bytes:
    """A PNG file with texts behind its header, as the chunks iTXt; all other bytes stay.

    Args:
        data: the bytes of a PNG file.
        texts: keyword (1 to 79 letters of Latin-1) -> text.

    Raises:
        ValueError: the bytes are no PNG file.
    """
    if not data.startswith(SIGNATURE) or data[12:16] != b"IHDR":
        raise ValueError("not a PNG file")
    chunks = b"".join(_chunk(keyword, text) for keyword, text in texts.items())
    return data[:HEADER_END] + chunks + data[HEADER_END:]


def _chunk(keyword: str, text: str) -> bytes:
    # Behind the keyword: not compressed, no language, no translated keyword.
    body = b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8", "replace")
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
