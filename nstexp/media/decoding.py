"""Open image files with Pillow, and explain in one clause why a file cannot be read: its kind, size or damage."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from nstexp.core.runtime.memory import free_bytes

with suppress(ImportError):  # without it, damage in JPEG files that Pillow does not report is not noticed
    import simplejpeg

BYTES_PER_PIXEL = 24  # peak while reading: the decoder's buffer, Pillow's copy, and 32-bit floats
SHARE_OF_MEMORY = 0.5  # part of the free memory that reading one picture may use; stylizing it needs the other half
MOST_METADATA = 16 * 2**20  # bytes that one text or profile inside a picture may unpack to
RAW = "a camera's raw file: develop it in a photo program and use the picture that the program makes"
VIDEO = "a video, not a picture"
DRAWING = "a drawing of lines and shapes, not of pixels: export it as PNG"
OTHER_KINDS = {  # first bytes of a file -> what the file is
    b"%PDF": "a PDF document: export its page as PNG",
    b"%!PS": DRAWING,
    b"\xc5\xd0\xd3\xc6": DRAWING,
    b"\xff\x0a": "a JPEG XL picture, which cannot be read: save it as PNG or JPEG",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture, which cannot be read: save it as PNG or JPEG",
    b"v/1\x01": "an OpenEXR picture of floating-point numbers, which cannot be read: save it as PNG or 8-bit TIFF",
    b"#?RADIANCE": "a Radiance picture of floating-point numbers, which cannot be read: save it as PNG or 8-bit TIFF",
    b"gimp xcf": "a project of GIMP: export it as PNG",
    b"FUJIFILMCCD-RAW": RAW,
    b"IIRO": RAW,
    b"IIRS": RAW,
    b"MMOR": RAW,
    b"IIU\0": RAW,
    b"\x1aE\xdf\xa3": VIDEO,
    b"PK\x03\x04": "a ZIP archive: unpack it first",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
AVIF_BRANDS = {b"avif", b"avis"}
IMAGE_BRANDS = {b"mif1", b"msf1"}
ICON = b"\0\0\1\0"
LARGEST_ICON = 2**22  # pixels; Pillow decodes the picture inside an icon before its size is known
REDUCED, DNG_VERSION, BITS, SAMPLES, SAMPLE_FORMAT = 254, 50706, 258, 277, 339  # TIFF tags
# Warnings of libjpeg after which a part of the picture is gray or in the wrong place.
DAMAGE = re.compile(r"Corrupt JPEG data|Premature end|Inconsistent progression|Unsupported marker")
HARMLESS = re.compile(r"extraneous bytes before marker 0xd9")  # padding before the end marker, which some cameras write


class Unreadable(Exception):
    """A picture cannot be read. The message is a clause to put behind the file's name."""


@contextmanager
def decoding(source: str | Path | bytes, max_megapixels: float, remedy: str = "") -> Iterator[ImageFile.ImageFile]:
    """Open an image file for decoding; errors raised inside the `with` block become `Unreadable`.

    The kind and the size of the picture are checked from its header before anything is decoded.

    Args:
        source: a path, or the bytes of a file.
        max_megapixels: limit on width times height; may be infinite. The free memory is a separate limit.
        remedy: how the user can raise that limit, appended to the message.

    Raises:
        Unreadable: the file cannot be read; the original exception is its cause.
    """
    try:
        start = _checked_start(source)
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with _limits(LARGEST_ICON if start[:4] == ICON else None), Image.open(file) as image:
            _check_size(image.size, max_megapixels, remedy)
            if image.format == "TIFF" and (image.tag_v2.get(REDUCED) == 1 or DNG_VERSION in image.tag_v2):
                raise Unreadable(f"this is {RAW}")
            with _limits(image.width * image.height):
                yield image
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(_unidentified(source)) from error
    except MemoryError as error:
        raise Unreadable("there is not enough memory to read it") from error
    except Exception as error:  # each decoder of Pillow raises its own exception types for damaged files
        raise Unreadable(_reason(error)) from error


def upright(image: Image.Image) -> None:
    """Decode a picture in place and rotate it as its EXIF orientation says."""
    ImageOps.exif_transpose(image, in_place=True)


def damage(image: ImageFile.ImageFile) -> str:
    """A warning of libjpeg that Pillow does not report, for a JPEG file that Pillow has opened.

    Returns:
        The warning if the picture is complete nevertheless; "" for an intact file and for other formats.

    Raises:
        Unreadable: a part of the picture is lost.
    """
    if image.format not in ("JPEG", "MPO") or "simplejpeg" not in globals() or image.fp is None:
        return ""
    image.fp.seek(0)  # Pillow seeks by itself before it decodes
    try:
        # Decoding at an eighth of the size reads every bit in a tenth of the time that full decoding takes.
        simplejpeg.decode_jpeg(image.fp.read(), "Gray", min_height=1, min_width=1, strict=True)
    except ValueError as error:
        if HARMLESS.search(str(error)):
            return str(error)
        if DAMAGE.search(str(error)):
            raise Unreadable(f"the image is damaged or truncated ({error})") from error
    return ""


def _checked_start(source: str | Path | bytes) -> bytes:
    """The first bytes of a file; `Unreadable` if it is of a kind that Pillow does not recognize or misidentifies."""
    if isinstance(source, bytes):
        start = source[:4096]
    else:
        with open(source, "rb") as file:
            start = file.read(4096)
    if not start:
        raise Unreadable("the file is empty")
    kind = next((kind for begins, kind in OTHER_KINDS.items() if start.startswith(begins)), None)
    if start[4:8] == b"ftyp":
        kind = _kind_of_media(start)
    elif start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        kind = VIDEO
    elif start[:4] == b"II*\0" and start[8:10] == b"CR":
        kind = RAW
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        kind = DRAWING if b"<svg" in start.lower() else "a web page or another text, not an image file"
    if kind is not None:
        raise Unreadable(f"this is {kind}")
    return start


def _kind_of_media(start: bytes) -> str | None:
    """Name the kind of an MP4-like file by its brands; None if it is a picture that Pillow can read."""
    length = min(int.from_bytes(start[:4], "big"), len(start))
    main, brands = start[8:12], {start[at : at + 4] for at in range(16, length, 4)}
    if main in AVIF_BRANDS or (main in IMAGE_BRANDS and brands & AVIF_BRANDS):
        return None
    if main in HEIF_BRANDS or (main in IMAGE_BRANDS and brands & HEIF_BRANDS):
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            return "a HEIC picture, and those need one more package: pip install pillow-heif (or save it as JPEG)"
        register_heif_opener()
        return None
    return RAW if main == b"crx " else None if main in IMAGE_BRANDS else VIDEO


def _check_size(size: tuple[int, int], max_megapixels: float, remedy: str) -> None:
    width, height = size
    if width * height > max_megapixels * 1e6:
        raise Unreadable(f"{width}x{height} px is over the limit of {max_megapixels:g} megapixels{remedy}")
    needed, free = BYTES_PER_PIXEL * width * height, free_bytes(torch.device("cpu"))
    if needed > SHARE_OF_MEMORY * free and needed > 2**28:
        raise Unreadable(
            f"reading {width}x{height} px needs up to {needed / 1e9:.1f} GB of memory, and of the {free / 1e9:.1f} GB "
            "that are free one picture gets half: give a smaller one"
        )


def _unidentified(source: str | Path | bytes) -> str:
    """Describe a file that no decoder of Pillow accepts."""
    start = source[:4096] if isinstance(source, bytes) else b""
    if not start:
        with open(source, "rb") as file:
            start = file.read(8)
    if start[:4] not in (b"II*\0", b"MM\0*"):
        return "this is not an image file"
    with suppress(Exception):  # the directory of the TIFF is damaged
        with open(source, "rb") if not isinstance(source, bytes) else io.BytesIO(source) as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        kind = {1: "whole", 2: "signed whole", 3: "floating-point"}.get(tags.get(SAMPLE_FORMAT, (1,))[0], "unusual")
        return (
            f"this is a TIFF of {tags.get(BITS, (1,))[0]}-bit {kind} numbers, {tags.get(SAMPLES, 1)} a pixel, which "
            "cannot be read: save it with 8 or 16 bits"
        )
    return "this is a TIFF of a kind that cannot be read: save it as PNG, or with 8 or 16 bits"


def _reason(error: Exception) -> str:
    known = {
        FileNotFoundError: "there is no such file",
        IsADirectoryError: "this is a folder, not an image file",
        PermissionError: "no permission to read the file",
    }
    reason = next((reason for kind, reason in known.items() if isinstance(error, kind)), None)
    text = " ".join(str(error).split()) or type(error).__name__
    if "Decompressed data too large" in text:
        text = f"a text or color profile in it unpacks to more than {MOST_METADATA // 2**20} MB"
    if isinstance(error, OSError) and error.errno is not None:  # decoders also raise OSError, but without errno
        return reason or f"the file cannot be read ({text})"
    if "alloc" in text.lower():  # memory errors of PyTorch and of image libraries
        return f"there is not enough memory to read it ({text[:80]})"
    return f"the image is damaged or truncated ({text})"


@contextmanager
def _limits(pixels: int | None) -> Iterator[None]:
    """Replace the limits of Pillow, which refuses 179 megapixels and texts of 1 MB whatever limit the user has set.

    Args:
        pixels: limit for pictures inside the file, such as those of an icon; None: no limit.
    """
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = pixels, MOST_METADATA
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = before
