"""Write an animated GIF from a video file, frame by frame, with one palette per frame."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nstexp.media.video.source import decode, open_container, video_stream

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.filter import Graph
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

UNIT = Fraction(1, 100)  # unit of time in a GIF, in seconds
SHORTEST = 2  # units; browsers show shorter frames for a tenth of a second
LONGEST = 65535  # units; the delay of a frame has 16 bits


def write_gif(video: Path, path: Path, times: Sequence[Fraction], end: Fraction) -> int:
    """Convert a video file to a GIF. Frames less than 1/50 s after the previous one are left out.

    Args:
        video: the file to convert.
        path: the GIF to write.
        times: when each frame of `video` is shown, in seconds.
        end: when the last frame ends, in seconds.

    Returns:
        The number of frames in the GIF.
    """
    import av

    chosen: dict[int, int] = {}  # index of the frame -> when it is shown, in units
    last = -SHORTEST
    for number, time in enumerate(times):
        if round(time / UNIT) - last >= SHORTEST:
            chosen[number] = last = round(time / UNIT)
    final_delay = min(max(SHORTEST, round(end / UNIT) - last), LONGEST)
    options = {"loop": "0", "final_delay": str(final_delay)}
    with (
        open_container(video) as source,
        av.open(str(path.absolute()), "w", "gif", container_options=options) as output,
    ):
        coded = video_stream(source)
        assert coded is not None  # the partial file of a writer always has a video stream
        stream = cast(
            "VideoStream",
            output.add_stream("gif", 100, width=coded.width, height=coded.height, pix_fmt="pal8", time_base=UNIT),
        )
        palettes = _palette_graph(coded)
        for number, frame in enumerate(decode(source, coded)):
            if number not in chosen:
                continue
            frame.pts, frame.time_base = chosen[number], UNIT
            palettes.push(frame)
            _pull(palettes, stream, output)
        palettes.push(None)
        _pull(palettes, stream, output)
        output.mux(stream.encode(None))
    return len(chosen)


def _palette_graph(stream: "VideoStream") -> "Graph":
    """split -> palettegen -> paletteuse; `new=1` makes paletteuse take a new palette for every frame."""
    import av

    graph = av.filter.Graph()
    begin = graph.add_buffer(
        width=stream.width,
        height=stream.height,
        format=stream.pix_fmt,  # type: ignore[arg-type]  # PyAV also takes the name of a format
        time_base=UNIT,
    )
    split, use, sink = graph.add("split"), graph.add("paletteuse", "new=1"), graph.add("buffersink")
    make = graph.add("palettegen", "stats_mode=single")
    begin.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(make, 1, 0)
    make.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def _pull(graph: "Graph", stream: "VideoStream", output: "OutputContainer") -> None:
    """Encode the frames that the graph has ready."""
    import av

    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        output.mux(stream.encode(cast("VideoFrame", frame)))
