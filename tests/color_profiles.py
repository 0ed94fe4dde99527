"""ICC profiles made from nothing, and what colors mean in them by the definitions alone."""

import struct
from dataclasses import dataclass

import numpy as np

D50, D65 = (0.3457, 0.3585), (0.3127, 0.3290)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Space:
    """An RGB space by its primaries (x, y of red, green and blue), its white, and its curve: a gamma, or sRGB's."""

    primaries: tuple[tuple[float, float], ...]
    white: tuple[float, float] = D65
    gamma: float | None = None

    @property
    def matrix(self) -> np.ndarray:
        """Linear RGB -> XYZ under its own white."""
        columns = np.stack([xyz(x, y) for x, y in self.primaries], axis=1)
        return columns * np.linalg.solve(columns, xyz(*self.white))

    def linear(self, values: np.ndarray) -> np.ndarray:
        if self.gamma is not None:
            return values**self.gamma
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)

    def profile(self) -> bytes:
        """Version 2 of ICC.1: a matrix under D50, and one curve for all channels."""
        colorants = adaptation(self.white, D50) @ self.matrix
        curve = self.linear(np.linspace(0, 1, 1024))
        tags = {
            b"desc": described(b"made by a test"),
            b"cprt": b"text\0\0\0\0none\0",
            b"wtpt": xyz_tag(xyz(*D50)),
            **{name: xyz_tag(colorants[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
            **{name: curve_tag(curve) for name in (b"rTRC", b"gTRC", b"bTRC")},
        }
        return packed(b"RGB ", tags)


SRGB = Space(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)))
DISPLAY_P3 = Space(((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)))
ADOBE_RGB = Space(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), gamma=563 / 256)
PROPHOTO = Space(((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), D50, gamma=1.8)
SPACES = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB, "ProPhoto": PROPHOTO}


def in_srgb(values: np.ndarray, space: Space) -> np.ndarray:
    """The 8-bit sRGB values (..., 3) of 8-bit values in a space, not rounded; what sRGB has no place for is clipped."""
    to_srgb = np.linalg.inv(SRGB.matrix) @ adaptation(space.white, D65) @ space.matrix
    linear = np.clip(space.linear(values / 255) @ to_srgb.T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def gray_profile(gamma: float) -> bytes:
    tags = {b"desc": described(b"gray"), b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz_tag(xyz(*D50))}
    return packed(b"GRAY", {**tags, b"kTRC": curve_tag(np.linspace(0, 1, 1024) ** gamma)})


def xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1, (1 - x - y) / y])


def adaptation(white: tuple[float, float], to: tuple[float, float]) -> np.ndarray:
    """Bradford's: XYZ under one white -> under another."""
    cones = (BRADFORD @ xyz(*to)) / (BRADFORD @ xyz(*white))
    return np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD


def packed(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    size = at + len(body)
    header = struct.pack(">I4s4s4s4s4s12s4s", size, b"none", b"\x02\x10\0\0", b"mntr", space, b"XYZ ", b"", b"acsp")
    header = header.ljust(68, b"\0") + b"".join(map(fixed, xyz(*D50)))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def fixed(number: float) -> bytes:
    return struct.pack(">i", round(number * 65536))


def xyz_tag(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))


def curve_tag(values: np.ndarray) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + (values * 65535).round().astype(">u2").tobytes()


def described(text: bytes) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(4 + 4 + 2 + 1 + 67)
