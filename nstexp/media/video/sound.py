"""The sound of a clip on its way into another file: packets copied as they are, or recoded where that file must."""

import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from nstexp.media.video.source import Source, open_container, packets

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet

COPY = "copy"
IDENTITY = "NSTEXP_IDENTITY"  # tag of a partial file; Matroska writes the names of tags in capitals
ENCODERS = {"webm": "libopus", "avi": "libmp3lame"}  # by FFmpeg's name of the container; elsewhere AAC
TECHNICAL = {
    IDENTITY.lower(),
    "duration",
    "encoder",
    "handler_name",
    "vendor_id",
    "major_brand",
    "minor_version",
    "compatible_brands",
}


class Sound:
    """Audio streams of `source`, muxed into `output` in step with its video.

    Args:
        source: the clip.
        output: gets one audio stream for each entry of `plan` that is not None; nothing may be muxed into it before.
        plan: what to do with each audio stream: COPY, an encoder's name, or None, as `plan_sound` returns it.
        start: packets before this time of the source, in seconds, are left out.
        stop: those from here on also.
        shift: seconds of the source that are 0 in the output.
    """

    def __init__(
        self,
        source: Source,
        output: "OutputContainer",
        plan: Sequence[str | None],
        start: Fraction | float,
        stop: Fraction | float,
        shift: Fraction,
    ) -> None:
        self._output, self._start, self._stop, self._shift = output, start, stop, shift
        self._input = open_container(source.path) if any(plan) else None
        self._tracks: dict[int, _Copy | _Recode] = {}
        for stream, how in zip(self._input.streams.audio if self._input else (), plan, strict=False):
            if how is not None:
                self._tracks[stream.index] = _Copy(output, stream) if how == COPY else _Recode(output, stream, how)
        self._packets = self._wanted()
        self._next = next(self._packets, None)

    def mux_until(self, seconds: Fraction | float) -> None:
        """Mux what begins before this time of the source."""
        while self._next is not None and self._next.pts * self._next.time_base < seconds:
            self._output.mux(self._tracks[self._next.stream_index].feed(self._next, self._shift))
            self._next = next(self._packets, None)

    def finish(self) -> None:
        """Mux the rest and close the source."""
        self.mux_until(math.inf)
        for track in self._tracks.values():
            self._output.mux(track.flush())
        self.close()

    def close(self) -> None:
        if self._input is not None:
            self._input.close()

    def _wanted(self) -> Iterator["Packet"]:
        if self._input is None or not self._tracks:
            return
        for packet in packets(self._input, *(self._input.streams[index] for index in self._tracks)):
            if not packet.size:
                continue  # PyAV's mark for the end of a stream
            if packet.pts is None:
                packet.pts = packet.dts
            if packet.pts is not None and self._start <= packet.pts * packet.time_base < self._stop:
                yield packet


class _Copy:
    def __init__(self, output: "OutputContainer", stream: "AudioStream") -> None:
        self._stream = output.add_stream_from_template(stream, opaque=True)
        self._stream.metadata.update(kept_tags(stream.metadata))

    def feed(self, packet: "Packet", shift: Fraction) -> list["Packet"]:
        ticks = rounded(shift / packet.time_base)
        packet.pts -= ticks
        packet.dts = packet.pts if packet.dts is None else packet.dts - ticks
        packet.stream = self._stream
        return [packet]

    def flush(self) -> list["Packet"]:
        return []


class _Recode:
    def __init__(self, output: "OutputContainer", stream: "AudioStream", encoder: str) -> None:
        import av

        # Opus knows five rates; 48 kHz is the one that every encoder here takes.
        rate = 48000 if encoder == "libopus" else stream.rate
        self._stream = output.add_stream(encoder, rate=rate, layout=stream.layout.name)
        self._stream.bit_rate = 96000 * max(1, stream.layout.nb_channels)
        self._stream.metadata.update(kept_tags(stream.metadata))
        encoding = self._stream.codec_context
        encoding.open()
        self._resampler = av.AudioResampler(encoding.format, encoding.layout, rate, encoding.frame_size or None)

    def feed(self, packet: "Packet", shift: Fraction) -> list["Packet"]:
        import av

        try:
            frames = packet.decode()
        except av.FFmpegError:
            return []
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= rounded(shift / frame.time_base)
        return [coded for frame in frames for coded in self._encode(frame)]

    def flush(self) -> list["Packet"]:
        return [*self._encode(None), *self._stream.encode(None)]

    def _encode(self, frame) -> list["Packet"]:
        return [coded for part in self._resampler.resample(frame) for coded in self._stream.encode(part)]


def plan_sound(source: Source, format_name: str) -> list[str | None]:
    """What becomes of each audio stream in a container of this format (FFmpeg's name): COPY, an encoder, or None."""
    if not source.audio:
        return []
    choices = (COPY, ENCODERS.get(format_name, "aac"))
    with open_container(source.path) as container:
        return [
            next((how for how in choices if _works(stream, how, format_name)), None)
            for stream in container.streams.audio
        ]


def _works(stream: "AudioStream", how: str, format_name: str) -> bool:
    """Whether a file of this format can begin with this stream; the lists of FFmpeg alone promise too much."""
    import av

    if stream.codec_context is None:
        return False
    try:
        with av.open(io.BytesIO(), "w", format=format_name) as trial:
            _Copy(trial, stream) if how == COPY else _Recode(trial, stream, how)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def kept_tags(metadata: dict[str, str]) -> dict[str, str]:
    """Tags such as title and language, without those that a muxer writes by itself."""
    return {key: value for key, value in metadata.items() if key.lower() not in TECHNICAL}


def rounded(value: Fraction) -> int:
    """To the nearest integer, halves up: the same fraction is always rounded the same way, unlike with round()."""
    return math.floor(value + Fraction(1, 2))
