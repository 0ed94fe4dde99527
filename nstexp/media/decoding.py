"""Image files as Pillow decodes them, and why they cannot be: what they are, their size, the memory, damage."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from nstexp.core.runtime.memory import free_bytes

with suppress(ImportError):  # where there is no wheel of it, damage that Pillow's decoder conceals stays unseen
    import simplejpeg

BYTES_PER_PIXEL = 24  # at the peak of reading: the decoder's own copy, Pillow's, and 32-bit floats
SHARE_OF_MEMORY = 0.5  # for one picture; the work on it needs the other half
MOST_METADATA = 16 * 2**20  # bytes that one text or profile inside a picture may unpack to
RAW = "a camera's raw file: develop it in a photo program and take the picture that makes"
VIDEO = "a video, not a picture"
DRAWING = "a drawing of lines and shapes, not of pixels: export it as PNG"
OTHER_KINDS = {  # how files begin -> what they are
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
LARGEST_ICON = 2**22  # pixels; Pillow decodes the picture inside an icon before it tells its size
REDUCED, DNG_VERSION, BITS, SAMPLES, SAMPLE_FORMAT = 254, 50706, 258, 277, 339  # tags of TIFF
# A JPEG with these is decoded as far as it goes, and the rest is gray or belongs elsewhere.
DAMAGE = re.compile(r"Corrupt JPEG data|Premature end|Inconsistent progression|Unsupported marker")
HARMLESS = re.compile(r"extraneous bytes before marker 0xd9")  # of the end: some cameras fill up there


class Unreadable(Exception):
    """Why a picture cannot be read: a clause that follows its name."""


@contextmanager
def decoding(source: str | Path | bytes, max_megapixels: float, remedy: str = "") -> Iterator[Image.Image]:
    """Open an image file for decoding; what is wrong with it, also while it is decoded inside, becomes `Unreadable`.

    Nothing is decoded before its header says that it is a picture of a size that may be and fits into the memory.

    Args:
        source: a path, or the bytes of a file.
        max_megapixels: limit on width times height; may be infinite. Memory is a limit of its own.
        remedy: how to raise that limit, for the reason.

    Raises:
        Unreadable: it cannot be read. Its cause is the error behind it.
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
    except Exception as error:  # every decoder of Pillow has errors of its own for a damaged file
        raise Unreadable(_reason(error)) from error


def upright(image: Image.Image) -> None:
    """Decode a picture, and turn it as its EXIF orientation says."""
    ImageOps.exif_transpose(image, in_place=True)


def damage(image: Image.Image) -> str:
    """What the decoder of JPEG has to say about a file that Pillow has opened, and Pillow does not pass on.

    Of other formats, and of a file that is whole: nothing.

    Raises:
        Unreadable: a part of the picture is lost.
    """
    if image.format not in ("JPEG", "MPO") or "simplejpeg" not in globals() or image.fp is None:
        return ""
    image.fp.seek(0)  # Pillow looks for its place again
    try:
        # At an eighth of the size this takes a tenth of the time of the decoding itself, and reads every bit.
        simplejpeg.decode_jpeg(image.fp.read(), "Gray", min_height=1, min_width=1, strict=True)
    except ValueError as error:
        if HARMLESS.search(str(error)):
            return str(error)
        if DAMAGE.search(str(error)):
            raise Unreadable(f"the image is damaged or truncated ({error})") from error
    return ""


def _checked_start(source: str | Path | bytes) -> bytes:
    """How a file begins; `Unreadable` says what it is, if Pillow would not know, or not take it for what it is."""
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
    """What a file of the family of MP4 is by its brands; None: a picture that Pillow reads."""
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
    """What a file is that no decoder of Pillow takes."""
    start = source[:4096] if isinstance(source, bytes) else b""
    if not start:
        with open(source, "rb") as file:
            start = file.read(8)
    if start[:4] not in (b"II*\0", b"MM\0*"):
        return "this is not an image file"
    with suppress(Exception):  # a damaged one
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
    if isinstance(error, OSError) and error.errno is not None:  # decoders raise OSError too, but without a number
        return reason or f"the file cannot be read ({text})"
    if "alloc" in text.lower():  # PyTorch's and libraries' own words
        return f"there is not enough memory to read it ({text[:80]})"
    return f"the image is damaged or truncated ({text})"


@contextmanager
def _limits(pixels: int | None) -> Iterator[None]:
    """Pillow refuses images over 179 megapixels by itself, whatever limit the user has set, and texts over 1 MB.

    Args:
        pixels: for pictures inside the picture, such as those of an icon; None: no limit.
    """
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = pixels, MOST_METADATA
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = before
