"""Write animated PNG and WebP files from a video file, frame by frame."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

from nstexp.media.video.pictures import has_alpha
from nstexp.media.video.source import decode, open_container, video_stream

UNIT = Fraction(1, 1000)  # of time, in seconds; WebP has no finer one
LONGEST = 65535  # units; the delay of a frame of a PNG has 16 bits
LONGEST_WEBP = 2**24 - 1  # units


def write_apng(video: Path, path: Path, times: Sequence[Fraction], end: Fraction) -> int:
    """Convert a video file to an animated PNG without loss, which repeats forever; see `write_webp`."""
    final = min(max(1, round((end - times[-1]) / UNIT)), LONGEST)
    options = {"plays": "0", "final_delay": f"{final}/{UNIT.denominator}"}
    return _write(video, path, times, end, ("apng", "apng", "rgba", "rgb24"), options, {"pred": "mixed"})


def write_webp(video: Path, path: Path, times: Sequence[Fraction], end: Fraction) -> int:
    """Convert a video file to an animated WebP that repeats forever, with the colors of quality 95, as for pictures.

    Args:
        video: the file to convert; transparency in it is kept.
        path: the file to write.
        times: when each frame of `video` is shown, in seconds; frames within the same unit of time are left out.
        end: when the last frame ends, in seconds.

    Returns:
        The number of frames in the file.
    """
    form = ("webp", "libwebp_anim", "bgra", "bgra")
    count = _write(video, path, times, end, form, {"loop": "0"}, {"quality": "95"})
    _end_at(path, round(end / UNIT))
    return count


def _end_at(path: Path, end: int) -> None:
    """Set how long the last frame of a WebP file is shown, for which FFmpeg's encoder takes the mean of the others.

    Args:
        end: when it ends, in milliseconds.
    """
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        places: list[int] = []
        durations: list[int] = []
        at = 12  # behind the header of the file
        # Chunks follow one another: a name, the length of the contents, and the contents, up to an even length.
        while at + 8 <= size:
            file.seek(at)
            name, length = file.read(4), int.from_bytes(file.read(4), "little")
            if name == b"ANMF":
                places.append(at + 8 + 12)  # behind the position and the size of the frame
                file.seek(places[-1])
                durations.append(int.from_bytes(file.read(3), "little"))
            at += 8 + length + length % 2
        if places:  # there are none in a file of one frame
            file.seek(places[-1])
            file.write(min(max(1, end - sum(durations[:-1])), LONGEST_WEBP).to_bytes(3, "little"))


def _write(
    video: Path,
    path: Path,
    times: Sequence[Fraction],
    end: Fraction,
    form: tuple[str, str, str, str],
    container_options: Mapping[str, str],
    options: Mapping[str, str],
) -> int:
    """Convert a video file.

    Args:
        form: FFmpeg's names of the format, the encoder, and the pixel formats with and without transparency.
    """
    import av
    from av.video.stream import VideoStream

    name, codec, with_alpha, opaque = form
    count, last = 0, -1
    with (
        open_container(video) as source,
        av.open(str(path.absolute()), "w", name, container_options=dict(container_options)) as output,
    ):
        coded = video_stream(source)
        assert coded is not None and coded.pix_fmt is not None  # the partial file of a writer has a video stream
        layout = with_alpha if has_alpha(coded.pix_fmt) else opaque
        stream = cast(
            VideoStream,
            output.add_stream(
                codec, 1000, dict(options), width=coded.width, height=coded.height, pix_fmt=layout, time_base=UNIT
            ),
        )
        for number, frame in enumerate(decode(source, coded)):
            moment = round(times[number] / UNIT)
            if moment <= last:
                continue
            frame = frame.reformat(format=layout)
            frame.pts, frame.time_base, last, count = moment, UNIT, moment, count + 1
            following = times[number + 1] if number + 1 < len(times) else end
            frame.duration = max(1, round(following / UNIT) - moment)
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return count
