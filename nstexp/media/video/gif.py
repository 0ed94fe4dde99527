"""Animated GIF from a video file, frame by frame, each with a palette of its own."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from nstexp.media.video.source import decode, open_container, video_stream

UNIT = Fraction(1, 100)  # of time in a GIF, in seconds
SHORTEST = 2  # of these; browsers show what is shorter for a tenth of a second
LONGEST = 65535  # what a GIF has room for


def write_gif(video: Path, path: Path, times: Sequence[Fraction], end: Fraction) -> int:
    """Convert `video`, whose frames are shown at `times` until `end` in seconds; how many frames the GIF has.

    A frame less than 1/50 s behind the one before is left out.
    """
    import av

    chosen: dict[int, int] = {}  # number of the frame: when it is shown
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
        stream = output.add_stream("gif", 100, width=coded.width, height=coded.height, pix_fmt="pal8", time_base=UNIT)
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


def _palette_graph(stream):
    """split -> palettegen -> paletteuse, which forgets each palette after one frame."""
    import av

    graph = av.filter.Graph()
    begin = graph.add_buffer(width=stream.width, height=stream.height, format=stream.pix_fmt, time_base=UNIT)
    split, use, sink = graph.add("split"), graph.add("paletteuse", "new=1"), graph.add("buffersink")
    make = graph.add("palettegen", "stats_mode=single")
    begin.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(make, 1, 0)
    make.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def _pull(graph, stream, output) -> None:
    import av

    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        output.mux(stream.encode(frame))
