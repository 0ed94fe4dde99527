"""Jobs of the worker for single frames: of a webcam, and of clips."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import write_atomically
from nstexp.media.video import open_source, read_frames
from nstexp.studio import painting
from nstexp.studio.painting import Tell

PLACES = (0.1, 0.5, 0.9)  # of the frames that stand for a clip, as shares of its length


def webcam(payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Redraw a frame of a webcam.

    The frame is read like every other picture, from a file, which is deleted at once.

    Args:
        payload: `jpeg`, the bytes of the frame; `path`, of the file; `preview`, see `painting.preview`.

    Returns:
        See `painting.preview`.

    Raises:
        UserError: the bytes are no picture, or as the command line.
    """
    path, wanted = Path(payload["path"]), payload["preview"]
    request = {**wanted["request"], "content": str(path)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload["jpeg"])
        return painting.preview({**wanted, "request": request}, tell)
    except UserError as error:
        raise UserError(str(error).replace(str(path), "the frame of the camera")) from error
    except OSError as error:
        raise UserError(f"the folder of the studio cannot be written ({error.strerror})") from error
    finally:
        path.unlink(missing_ok=True)


def clip(payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Read what a clip holds, as the command line would, and write three of its frames for the page.

    Args:
        payload: `path`; `stills`, a folder for 0.png, 1.png and 2.png; `max_megapixels` of a frame; `max_frames`.

    Returns:
        width, height (as shown, in pixels), frames, seconds, fps, sound (whether it has some), and stills: the indices
        of the three frames.

    Raises:
        UserError: it is no clip that can be read, or too long.
    """
    source = open_source(payload["path"], "content", max_input_megapixels=payload["max_megapixels"])
    count, (height, width) = len(source), source.size
    if count > payload["max_frames"]:
        raise UserError(
            f"content={payload['path']}: the clip has {count:,} frames, and this page takes {payload['max_frames']:,}; "
            "cut it, or use the command line"
        )
    indices = [min(count - 1, int(place * count)) for place in PLACES]
    for number, index in enumerate(indices):
        frame = next(iter(read_frames(source, range(index, index + 1))), None)
        if frame is None:
            raise UserError(f"content={payload['path']}: frame {index} cannot be decoded")
        _write(Image.fromarray(frame.pixels), Path(payload["stills"]) / f"{number}.png")
    return {
        "width": width,
        "height": height,
        "frames": count,
        "seconds": round(source.seconds, 3),
        "fps": round(float(source.rate), 3),
        "sound": bool(source.audio),
        "stills": indices,
    }


def _write(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG", compress_level=1))
