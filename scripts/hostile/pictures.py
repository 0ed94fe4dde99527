"""Trials of picture files: all formats that users have, damaged files and decompression bombs, generated here."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms

from hostile.trials import (
    INSTANT,
    SMALL,
    Check,
    Outcome,
    Trial,
    both,
    either,
    made,
    memory_below,
    nearer,
    refused,
    size,
)

MOST_MB = 3200.0  # memory for a picture of 169 megapixels: 4 bytes for each color of a pixel, and PyTorch
D50 = (0.9642, 1.0, 0.8249)  # white of ICC profiles, X, Y and Z
# (x, y) of red, green, blue and white, and the exponent: Display P3 (here with gamma 2.2), Adobe RGB 1998, ProPhoto.
WIDE = {
    "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290), 2.2),
    "Adobe RGB": ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), (0.3127, 0.3290), 2.2),
    "ProPhoto RGB": ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585), 1.8),
}


def photo(width: int = 96, height: int = 72, seed: int = 0) -> Image.Image:
    """Create a smooth picture of many colors with some texture, similar to a photo."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    return Image.fromarray(np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def trials() -> Iterator[Trial]:
    """Yield the trials of picture files, most of them as the content."""
    for name, content in ordinary().items():
        yield _photo("pictures", name, content, made())
    for name, (content, check) in special().items():
        yield _photo("pictures", name, content, check)
    for name, content in broken().items():
        yield _photo("broken pictures", name, content, refused(name))
    for name, content in doubtful().items():
        yield _photo("broken pictures", name, content, either(made(flat=True), refused(name)))
    for name, content in bombs().items():
        check = both(either(made(flat=True), refused(name)), memory_below(MOST_MB))
        yield _photo("too large", name, content, check)
    yield from _profiles()
    yield from _masks()
    yield from _folders()
    yield from _transparent()


def _photo(kind: str, name: str, content: bytes | Callable[[Path], object], check: Check) -> Trial:
    def prepare(folder: Path) -> None:
        if callable(content):
            content(folder / name)
        else:
            (folder / name).write_bytes(content)

    return Trial(kind, name, [*INSTANT, f"content={name}"], check, prepare, file=True)


def ordinary() -> dict[str, bytes]:
    """Pictures that must work: file name -> bytes."""
    image = photo()
    wide = np.asarray(image).astype(np.uint16) * 257
    found = {f"{mode}.png": saved(image.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}
    found |= {f"{mode}.tif": saved(image.convert(mode), "TIFF") for mode in ("L", "RGB", "RGBA", "CMYK", "LAB")}
    found |= {f"{mode}.jpg": saved(image.convert(mode), "JPEG", quality=95) for mode in ("L", "RGB", "CMYK")}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found[f"orientation {orientation}.jpg"] = saved(image, "JPEG", exif=exif)
    found |= {
        "gray16.png": cv2.imencode(".png", wide[..., 0])[1].tobytes(),
        "rgb16.png": cv2.imencode(".png", wide)[1].tobytes(),
        "rgb16.tif": cv2.imencode(".tif", wide)[1].tobytes(),
        "palette with a transparent color.png": saved(image.convert("P"), "PNG", transparency=3),
        "progressive.jpg": saved(image, "JPEG", progressive=True),
        "quality1.jpg": saved(image, "JPEG", quality=1),
        "lossless.webp": saved(image, "WEBP", lossless=True),
        "lossy.webp": saved(image, "WEBP"),
        "moving.webp": saved(image, "WEBP", save_all=True, append_images=[photo(seed=1)]),
        "picture.avif": saved(image, "AVIF"),
        "picture.gif": saved(image, "GIF"),
        "moving.gif": saved(image, "GIF", save_all=True, append_images=[photo(seed=1)]),
        "picture.bmp": saved(image, "BMP"),
        "picture.ppm": saved(image, "PPM"),
        "picture.tga": saved(image, "TGA"),
        "picture.jp2": saved(image, "JPEG2000"),
        "lzw.tif": saved(image, "TIFF", compression="tiff_lzw"),
        "pages.tif": saved(image, "TIFF", save_all=True, append_images=[photo(seed=1)]),
        "interlaced.png": saved(image, "PNG", optimize=True),
        "a JPEG named.png": saved(image, "JPEG"),
        "a PNG named.jpg": saved(image, "PNG"),
        "LARGE LETTERS.JPG": saved(image, "JPEG"),
        "odd sizes 37x53.png": saved(photo(37, 53), "PNG"),
    }
    return found


def special() -> dict[str, tuple[bytes, Check]]:
    """Pictures with special expectations: file name -> (bytes, check)."""
    unit = np.asarray(photo(), np.float32) / 255
    return {
        "1x1.png": (saved(Image.new("RGB", (1, 1), "teal"), "PNG"), either(made(flat=True), refused(".png"))),
        "3x300.png": (saved(photo(3, 300), "PNG"), either(made(flat=True), refused(".png"))),
        "600x2.png": (saved(photo(600, 2), "PNG"), either(made(flat=True), refused(".png"))),
        "flat.png": (saved(Image.new("RGB", (64, 64), "gray"), "PNG"), made(flat=True)),
        "black.png": (saved(Image.new("RGB", (64, 64)), "PNG"), made(flat=True)),
        "turned.jpg": (saved(photo(96, 72), "JPEG", exif=_turned()), made(size(48, 64))),
        "float 0 to 1.tif": (cv2.imencode(".tif", unit)[1].tobytes(), either(made(), refused(".tif"))),
        "float to 40000.tif": (cv2.imencode(".tif", unit * 40000)[1].tobytes(), either(made(), refused(".tif"))),
        "32 bits.tif": (saved(Image.fromarray(np.asarray(photo().convert("L"), np.int32) * 9000), "TIFF"),
                        either(made(), refused(".tif"))),
    }  # fmt: skip


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def broken() -> dict[str, bytes]:
    """Files that are not complete pictures: file name -> bytes."""
    image = photo(160, 120)
    files = {form.lower(): saved(image, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")}
    found = {}
    for ending, content in files.items():
        for share in (0.02, 0.5):
            found[f"{share:.0%} of it.{ending}"] = content[: max(4, int(len(content) * share))]
    found |= {
        "90% of it.jpeg": files["jpeg"][: int(len(files["jpeg"]) * 0.9)],
        "90% of it.png": files["png"][: int(len(files["png"]) * 0.9)],
        "empty.png": b"",
        "empty.jpg": b"",
        "text.jpg": b"This is no picture.\n" * 20,
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "zeros.png": bytes(4096),
        "random.png": np.random.default_rng(0).bytes(4096),
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
        "document.pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "raw.cr2": b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(500),
        "phone.heic": struct.pack(">I", 24) + b"ftypheic\x00\x00\x00\x00mif1heic" + bytes(300),
        "modern.jxl": b"\xff\x0a" + bytes(200),
        "layers.psd": b"8BPS" + bytes(200),
        "wrong checksum.png": _wrong_checksum(files["png"]),
        "no pixels.png": b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))
        + _chunk(b"IEND", b""),
        "size 0.png": b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 9, 8, 2, 0, 0, 0))
        + _chunk(b"IEND", b""),
    }  # fmt: skip
    return found


def doubtful() -> dict[str, bytes]:
    """Damaged files that a decoder may or may not notice; a message or a picture is right, a traceback never."""
    image = photo(160, 120)
    found = {}
    for seed, form in enumerate(("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")):
        content = bytearray(saved(image, form))
        random = np.random.default_rng(seed)
        for place in random.integers(len(content) // 3, len(content), 12):
            content[place] = int(random.integers(256))
        found[f"some wrong bytes.{form.lower()}"] = bytes(content)
    found["behind it a text.jpg"] = saved(image, "JPEG") + b"a text" * 100
    return found


def bombs() -> dict[str, bytes | Callable[[Path], object]]:
    """Small files that unpack to gigabytes of memory."""
    return {
        "169 megapixels, 1 bit.png": lambda path: path.write_bytes(_png(13000, 13000, 1, 0)),
        "400 megapixels, gray.png": lambda path: path.write_bytes(_png(20000, 20000, 8, 0)),
        "3600 megapixels.png": b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b""),
        "a text of a gigabyte.png": lambda path: path.write_bytes(_with_gigabyte(b"zTXt", b"Comment\x00\x00")),
        "a profile of a gigabyte.png": lambda path: path.write_bytes(_with_gigabyte(b"iCCP", b"p\x00\x00")),
        "65535x65535.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
        + b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\x00;",
        "60000x60000.bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
        "99999x99999.ppm": b"P6 99999 99999 255\n" + bytes(100),
        "150 megapixels.jpg": lambda path: Image.new("L", (15000, 10000), 99).save(path, quality=30),
        "16383x16383.webp": b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
        + (16382).to_bytes(3, "little") * 2 + bytes(78),
    }  # fmt: skip


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(width: int, height: int, bits: int, color: int) -> bytes:
    """A black PNG file of this size."""
    row = 1 + -(-width * bits // 8)
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", _deflated(row * height)) + _chunk(b"IEND", b"")


def _with_gigabyte(chunk: bytes, head: bytes) -> bytes:
    """A PNG file whose second chunk unpacks to a gigabyte."""
    content = saved(photo(), "PNG")
    return content[:33] + _chunk(chunk, head + _deflated(2**30)) + content[33:]


def _deflated(count: int) -> bytes:
    """This many zeros, compressed without ever being in memory together."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(2**20)) for _ in range(count // 2**20)]
    return b"".join([*parts, packer.compress(bytes(count % 2**20)), packer.flush()])


def _wrong_checksum(content: bytes) -> bytes:
    place = content.index(b"IDAT") + 40
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def _fixed_point(value: float) -> bytes:
    """A number in the format of ICC profiles, a multiple of 1/65536."""
    return struct.pack(">i", round(value * 65536))


def _place(values: Iterable[float]) -> bytes:
    """X, Y and Z as a tag of an ICC profile."""
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed_point, values))


def profile(red: tuple, green: tuple, blue: tuple, white: tuple, gamma: float) -> bytes:
    """An ICC profile (version 2) with three primaries and one exponent.

    Args:
        red, green, blue, white: (x, y) of CIE 1931.
        gamma: exponent from stored values to light.
    """

    def xyz(x: float, y: float) -> np.ndarray:
        return np.array([x / y, 1.0, (1 - x - y) / y])

    primaries = np.stack([xyz(*color) for color in (red, green, blue)], axis=1)
    primaries = primaries * np.linalg.solve(primaries, xyz(*white))
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])  # Bradford
    gain = (cone @ np.array(D50)) / (cone @ xyz(*white))
    columns = (np.linalg.inv(cone) @ np.diag(gain) @ cone @ primaries).T
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78)
    tags = {b"desc": text + bytes(-len(text) % 4), b"wtpt": _place(D50), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_place, columns), strict=True))
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I", start + len(body)) + b"\0\0\0\0\x02\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp"
    head += bytes(28) + b"".join(map(_fixed_point, D50))
    return head + bytes(128 - len(head)) + table + body


def _profiles() -> Iterator[Trial]:
    """Yield trials with one picture in three forms: in a wide color space with its profile, in sRGB, and in the wide
    space without a profile. The results of the first two must agree."""
    for name, space in WIDE.items():
        for form, options in {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True},
                              "TIFF": {}}.items():  # fmt: skip

            def prepare(folder: Path, space=space, form=form, options=options) -> None:
                icc = profile(*space)
                wide = ImageCms.ImageCmsProfile(io.BytesIO(icc))
                image = photo()
                converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), wide, renderingIntent=1)
                (folder / f"wide.{form.lower()}").write_bytes(saved(converted, form, icc_profile=icc, **options))
                converted.save(folder / "untagged.png", icc_profile=None)
                image.save(folder / "plain.png")

            words = [*INSTANT, f"content=[wide.{form.lower()},plain.png,untagged.png]"]
            check = made(nearer("wide", "plain", "untagged"))
            yield Trial("color profiles", f"{name}, {form}", words, check, prepare, file=True)

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, content in {
        "sRGB.png": saved(photo(), "PNG", icc_profile=icc),
        "profile of noise.png": saved(photo(), "PNG", icc_profile=np.random.default_rng(0).bytes(300)),
        "empty profile.jpg": saved(photo(), "JPEG", icc_profile=b"\0" * 128),
        "profile of RGB in gray.png": saved(photo().convert("L"), "PNG", icc_profile=icc),
        "profile of RGB in CMYK.jpg": saved(photo().convert("CMYK"), "JPEG", icc_profile=icc),
    }.items():
        yield _photo("color profiles", name, content, made())


def _masks() -> Iterator[Trial]:
    """Yield trials of masks of all kinds, for two paintings."""
    half = Image.fromarray(np.repeat([[255] * 48 + [0] * 48], 72, 0).astype(np.uint8))
    masks: dict[str, tuple[Image.Image, Check]] = {
        "its size": (half, made()),
        "half its size": (half.resize((48, 36)), made()),
        "two percent wider": (half.resize((98, 72)), made()),
        "RGB": (half.convert("RGB"), made()),
        "transparent": (half.convert("RGBA"), made()),
        "1 bit": (half.convert("1"), made()),
        "palette": (half.convert("P"), made()),
        "another aspect": (half.resize((96, 40)), refused("masks")),
        "black": (Image.new("L", (96, 72)), refused("masks")),
    }
    for name, (mask, check) in masks.items():

        def prepare(folder: Path, mask=mask, name=name) -> None:
            photo().save(folder / "photo.png")
            photo(seed=2).save(folder / "one.png")
            photo(seed=3).save(folder / "two.png")
            mask.save(folder / "mask.png")
            Image.new("L", (96, 72), 0 if "black" in name else 128).save(folder / "rest.png")

        words = ["method=adain", *SMALL, "content=photo.png", "style=[one.png,two.png]", "masks=[mask.png,rest.png]"]
        yield Trial("masks", name, words, check, prepare, file=True)


def _folders() -> Iterator[Trial]:
    """Yield trials of folders with files of cameras, systems or archives; only the two pictures must be used."""

    def only_two(outcome: Outcome) -> str | None:
        assert outcome.result is not None
        files = sorted(path.name for path in outcome.result.glob("*.png"))
        return None if files == ["one.png", "two.png"] else f"the results are {files}"

    def with_entry(name: str, content: bytes | None) -> Callable[[Path], object]:
        def prepare(folder: Path) -> None:
            (folder / "photos").mkdir()
            photo().save(folder / "photos" / "one.jpg")
            photo(seed=1).save(folder / "photos" / "two.jpg")
            path = folder / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(saved(photo(seed=2), "JPEG") if content is None else content)

        return prepare

    for name in (".hidden.jpg", "._one.jpg", "__MACOSX/._one.jpg", "__MACOSX/three.jpg", "@eaDir/one.jpg",
                 ".ipynb_checkpoints/one-checkpoint.jpg", ".Trashes/three.jpg"):  # fmt: skip
        words = [*INSTANT, "content=photos"]
        yield Trial("folders", name, words, made(only_two), with_entry(name, None), file=True)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt", "catalogue.xmp"):
        words = [*INSTANT, "content=photos"]
        yield Trial("folders", name, words, made(only_two), with_entry(name, b"no picture"), file=True)


def _transparent() -> Iterator[Trial]:
    """Yield trials of a cut-out photo, which must keep its transparency if the output format supports it."""
    ring = np.zeros((72, 96), np.uint8)
    ring[16:56, 16:80] = 255

    def kept(outcome: Outcome) -> str | None:
        assert outcome.result is not None
        with Image.open(outcome.result) as image:
            if "A" not in image.getbands():
                return "the transparency is lost"
            low, high = image.getchannel("A").getextrema()
            return None if (low, high) == (0, 255) else f"alpha from {low} to {high}"

    def lost(outcome: Outcome) -> str | None:
        assert outcome.result is not None
        with Image.open(outcome.result) as image:
            return "it is still transparent" if "A" in image.getbands() else None

    def prepare(folder: Path) -> None:
        image = photo()
        image.putalpha(Image.fromarray(ring))
        image.save(folder / "cut.png")

    for words, check in (((), kept), (("transparency=keep",), kept), (("transparency=white",), lost)):
        command = [*INSTANT, "content=cut.png", *words]
        yield Trial("pictures", f"cut-out {' '.join(words)}", command, made(check), prepare, file=True)
