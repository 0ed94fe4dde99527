"""Put the sound of a clip into another file: copy the packets, or recode them if the container requires it."""

import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, cast

from nstexp.media.video.source import Source, open_container, packets

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet

COPY = "copy"
IDENTITY = "NSTEXP_IDENTITY"  # tag of partial files; in capitals, because Matroska writes tag names so
ENCODERS = {"webm": "libopus", "avi": "libmp3lame"}  # FFmpeg's name of the container -> encoder; others: AAC
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
    """Muxes the audio streams of `source` into `output`, in step with the video.

    Args:
        source: the clip.
        output: gets one audio stream for each entry of `plan` that is not None. Nothing may be muxed into it before.
        plan: what to do with each audio stream: COPY, the name of an encoder, or None, as `plan_sound` returns it.
        start: packets before this time of the source, in seconds, are left out.
        stop: packets from this time on are left out, too.
        shift: time of the source, in seconds, that becomes 0 in the output.
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
        """Mux all packets that begin before this time of the source, in seconds."""
        while self._next is not None and _begin(self._next) < seconds:
            self._output.mux(self._tracks[self._next.stream_index].feed(self._next, self._shift))
            self._next = next(self._packets, None)

    def finish(self) -> None:
        """Mux the remaining packets and close the source."""
        self.mux_until(math.inf)
        for track in self._tracks.values():
            self._output.mux(track.flush())
        self.close()

    def close(self) -> None:
        """Close the source; packets that were not muxed are dropped."""
        if self._input is not None:
            self._input.close()

    def _wanted(self) -> Iterator["Packet[AudioStream]"]:
        if self._input is None or not self._tracks:
            return
        for packet in packets(self._input, *(self._input.streams[index] for index in self._tracks)):
            if not packet.size:
                continue  # PyAV marks the end of a stream with an empty packet
            if packet.pts is None:
                packet.pts = packet.dts
            if packet.pts is not None and self._start <= packet.pts * packet.time_base < self._stop:
                yield packet


def _begin(packet: "Packet[AudioStream]") -> Fraction:
    """When a packet begins, in seconds of the source."""
    assert packet.pts is not None and packet.time_base is not None  # `Sound` leaves out packets without a time
    return packet.pts * packet.time_base


class _Copy:
    """A track whose packets are copied."""

    def __init__(self, output: "OutputContainer", stream: "AudioStream") -> None:
        self._stream = output.add_stream_from_template(stream, opaque=True)
        self._stream.metadata.update(kept_tags(stream.metadata))

    def feed(self, packet: "Packet[AudioStream]", shift: Fraction) -> list["Packet[AudioStream]"]:
        assert packet.pts is not None
        ticks = rounded(shift / packet.time_base)
        packet.pts -= ticks
        packet.dts = packet.pts if packet.dts is None else packet.dts - ticks
        packet.stream = self._stream
        return [packet]

    def flush(self) -> list["Packet[AudioStream]"]:
        return []


class _Recode:
    """A track that is decoded and encoded again."""

    def __init__(self, output: "OutputContainer", stream: "AudioStream", encoder: str) -> None:
        import av

        # Opus supports five sample rates; only 48 kHz is supported by all encoders in use.
        rate = 48000 if encoder == "libopus" else stream.rate
        self._stream = cast("AudioStream", output.add_stream(encoder, rate=rate, layout=stream.layout.name))
        self._stream.bit_rate = 96000 * max(1, stream.layout.nb_channels)
        self._stream.metadata.update(kept_tags(stream.metadata))
        encoding = self._stream.codec_context
        encoding.open()
        self._resampler = av.AudioResampler(encoding.format, encoding.layout, rate, encoding.frame_size or None)

    def feed(self, packet: "Packet[AudioStream]", shift: Fraction) -> list["Packet[AudioStream]"]:
        import av

        try:
            frames = packet.decode()
        except av.FFmpegError:
            return []
        for frame in frames:
            if frame.pts is not None and frame.time_base is not None:
                frame.pts -= rounded(shift / frame.time_base)
        return [coded for frame in frames for coded in self._encode(frame)]

    def flush(self) -> list["Packet[AudioStream]"]:
        return [*self._encode(None), *self._stream.encode(None)]

    def _encode(self, frame: "AudioFrame | None") -> list["Packet[AudioStream]"]:
        return [coded for part in self._resampler.resample(frame) for coded in self._stream.encode(part)]


def plan_sound(source: Source, format_name: str) -> list[str | None]:
    """Choose COPY, an encoder or None for each audio stream in a container of this format (FFmpeg's name)."""
    if not source.audio:
        return []
    choices = (COPY, ENCODERS.get(format_name, "aac"))
    with open_container(source.path) as container:
        return [
            next((how for how in choices if _works(stream, how, format_name)), None)
            for stream in container.streams.audio
        ]


def _works(stream: "AudioStream", how: str, format_name: str) -> bool:
    """Whether a file of this format can hold this stream, by trying; FFmpeg's lists of codecs promise too much."""
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
    """Tags such as title and language, without those that muxers write themselves."""
    return {key: value for key, value in metadata.items() if key.lower() not in TECHNICAL}


def rounded(value: Fraction) -> int:
    """Round to the nearest integer, halves up; round() would round halves to the even integer."""
    return math.floor(value + Fraction(1, 2))
