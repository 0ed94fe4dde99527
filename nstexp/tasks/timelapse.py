"""A clip of how a picture is made, for methods that work in steps (`Controls.watch`)."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nstexp.core.errors import ArgumentError, UserError, number, text, under
from nstexp.core.runtime.files import check_place

if TYPE_CHECKING:  # torch is slow to import, and a wrong value should be refused before that
    from torch import Tensor

    from nstexp.media.video import Writer

log = logging.getLogger(__name__)
SUFFIX = ".mp4"  # of the clips in a folder


@dataclass(frozen=True)
class Settings:
    """The settings of a time-lapse: the config table `lapse`.

    Args:
        seconds: duration from the first step to the last one.
        fps: frames per second.
        ease: frame k of n shows the step at the share (k / n)^ease of the work: 1 shows all steps equally long, and
            larger numbers show the first steps longer, in which the picture changes most.
        hold_seconds: how long the finished picture is shown at the end.
        quality: CRF of the video encoder, lower is better.

    Raises:
        ArgumentError: a value out of its range.
    """

    seconds: float = 8
    fps: float = 25
    ease: float = 2
    hold_seconds: float = 1
    quality: float = 18

    def __post_init__(self) -> None:
        number("seconds", self.seconds, above=0, high=3600)
        number("fps", self.fps, 1, 240)
        number("ease", self.ease, 0.1, 10)
        number("hold_seconds", self.hold_seconds, 0, 3600)
        number("quality", self.quality, 0, 255)

    @property
    def frames(self) -> int:
        """Number of frames before the finished picture."""
        return max(1, round(self.seconds * self.fps))

    @property
    def held(self) -> int:
        """Number of frames that show the finished picture."""
        return max(1, round(self.hold_seconds * self.fps))

    def steps(self, last: int) -> list[float]:
        """The step that each frame shows, from 1 to `last`, ascending; between two steps the frame blends them.

        Examples:
            >>> Settings(seconds=5, fps=1, ease=2).steps(17)
            [1.0, 2.0, 5.0, 10.0, 17.0]
        """
        most = max(1, self.frames - 1)
        return [1 + (last - 1) * (frame / most) ** self.ease for frame in range(self.frames)]


@dataclass(frozen=True)
class Plan:
    """The clip of one picture.

    Args:
        path: the file of the clip.
        settings: see `Settings`.
        last_step: the number of the last step.
    """

    path: Path
    settings: Settings
    last_step: int

    def begin(self, content: Path, size: tuple[int, int], finish: "Callable[[Tensor], Tensor]") -> "Timelapse":
        """Start to write the clip; the arguments are those of `Timelapse`."""
        return Timelapse(self, content, size, finish)


def planned(
    output: str | None, settings: Settings, contents: Sequence[Path | None], names: Sequence[str], last_step: int | None
) -> list[Plan | None]:
    """The clip of every content picture, from the value of the key `timelapse`.

    Args:
        output: a file for one content picture, or a folder (no suffix), in which the clips get the pictures' names;
            None: no clips.
        settings: of all clips.
        contents: the content pictures; None for a texture, which has none.
        names: their names in the run folder.
        last_step: see `Stylizer.steps`.

    Raises:
        ArgumentError: the method does not work in steps, or `output` is no name of a clip.
        UserError: no clip can be written there.
    """
    from nstexp.media.video import CONTAINERS

    if output is None:
        return [None] * len(contents)
    text("timelapse", output, f"making{SUFFIX}")
    if last_step is None:
        problem = "this method makes a picture at once, without steps that a clip could show: leave timelapse out"
        raise ArgumentError("timelapse", f"={output}: {problem}, or take method=gatys")
    target = Path(output).expanduser()
    if not target.suffix:
        stems = [contents[0].stem] if len(contents) == 1 and contents[0] is not None else names
        paths = [target / f"{stem}{SUFFIX}" for stem in stems]
    elif target.suffix.lower() not in CONTAINERS:
        problem = f"cannot write '{target.suffix}' files, use one of {', '.join(CONTAINERS)}, or the name of a folder"
        raise ArgumentError("timelapse", f"={output}: {problem}")
    elif len(contents) > 1:
        raise ArgumentError("timelapse", f"={output}: is one clip for {len(contents)} content pictures: give a folder")
    else:
        paths = [target]
    for path in paths:
        check_place(path, "timelapse")
    return [Plan(path, settings, last_step) for path in paths]


@dataclass
class _Moment:
    """The picture at a step. It is finished only if a frame shows it, since that may take longer than the step."""

    step: int
    picture: "Tensor"
    finish: "Callable[[Tensor], Tensor]"

    @cached_property
    def shown(self) -> "Tensor":
        return self.finish(self.picture)


class Timelapse:
    """Writes a clip while a picture is made. Only two pictures are in memory, and frames go to the disk at once.

    It is a context manager: a clip that was not ended leaves no file, and an earlier clip of its name stays.

    Args:
        plan: the clip.
        content: a file from which the picture is made, and which is not replaced.
        size: (height, width) of the picture in pixels.
        finish: turns a picture of the method, RGB (1, 3, H, W) in [0, 1], into the one to show, of the same shape.

    Attributes:
        seconds: the time that the clip has taken so far.

    Raises:
        UserError: the clip cannot be written there.
    """

    def __init__(self, plan: Plan, content: Path, size: tuple[int, int], finish: "Callable[[Tensor], Tensor]") -> None:
        from nstexp.media.video import Encoding, made_source, open_writer

        settings = plan.settings
        self._finish, self._steps = finish, settings.steps(plan.last_step)
        self._count = settings.frames + settings.held
        source = made_source(content, size, self._count, Fraction(settings.fps).limit_denominator(1001))
        encoding = Encoding(quality=settings.quality)
        identity = f"{os.getpid()} {time.time_ns()}"  # no clip continues an earlier one, as no picture does
        with under("lapse"):
            self._writer: Writer = open_writer(
                plan.path, source, size, range(self._count), encoding, identity, key="timelapse"
            )
        self._before: _Moment | None = None
        self._written, self._ended = 0, False
        self._error: UserError | None = None
        self.seconds = 0.0

    def __enter__(self) -> "Timelapse":
        return self

    def __exit__(self, *error: Any) -> None:
        if not self._ended and (partial := self._writer.keep()):
            with suppress(OSError):
                partial.unlink()

    def watch(self, step: int, picture: "Tensor") -> None:
        """Add the frames that show steps up to this one; for `Controls.watch`.

        An error is kept for `end`, because the picture should be finished even if the clip cannot be written.
        """
        begun = time.perf_counter()
        moment, before = _Moment(step, picture, self._finish), self._before
        try:
            while self._error is None and self._written < len(self._steps):
                wanted = self._steps[self._written]
                if wanted > step:
                    break
                if before is None or wanted >= step:
                    self._add(moment.shown)
                else:
                    share = (wanted - before.step) / (step - before.step)
                    self._add(before.shown.lerp(moment.shown, share))
        except UserError as error:
            self._error = error
            log.error("%s", error)
        self._before = moment
        self.seconds += time.perf_counter() - begun

    def end(self, picture: "Tensor") -> Path:
        """Add the finished picture, RGB (1, 3, H, W) as shown, to the end of the clip, and complete it.

        Raises:
            UserError: the clip cannot be written.
        """
        if self._error is not None:
            raise self._error
        for _ in range(self._written, self._count):
            self._add(picture)
        path = self._writer.finish()
        self._ended = True
        return path

    def _add(self, picture: "Tensor") -> None:
        from nstexp.core.pixels import to_array
        from nstexp.media.video import Frame

        self._writer.add(Frame(self._written, to_array(picture[0])))
        self._written += 1
