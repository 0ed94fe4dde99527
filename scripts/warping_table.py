"""Print how much stylized clips flicker: the warping error of each file, and of the clip that they were made from.

    python scripts/warping_table.py clip.mp4 plain=out_0.mp4 steady=out_08.mp4
    python scripts/warping_table.py clip.mp4 steady=out_08.mp4 --flow farneback

Motion is measured in the original clip. `farneback` is an algorithm that cannot stabilize clips in nstexp, so that a
clip is not judged by the flow that stabilized it. Column "of the excess": (error - error of the original clip), divided
by the same difference of the first result.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from nstexp import streams
from nstexp.commands import table_head
from nstexp.media.flow import Flicker, Flow, MotionEstimator
from nstexp.media.video import open_source, read_frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, help="the original clip")
    parser.add_argument("results", nargs="+", metavar="name=file", help="stylized clips, with names for the table")
    parser.add_argument("--flow", default="dis", choices=["dis", "dis_fast", "raft", "farneback"], help="optical flow")
    parser.add_argument("--start", type=float, help="start of the part that was stylized, in seconds")
    parser.add_argument("--end", type=float, help="end of the part that was stylized, in seconds")
    args = parser.parse_args()
    results = dict(result.split("=", 1) for result in args.results)
    clips = {name: open_source(Path(file)) for name, file in results.items()}
    size = next(iter(clips.values())).size
    original = open_source(args.clip)
    part = original.between(args.start, args.end, "--")
    for name, clip in clips.items():
        if len(clip) != len(part):
            raise SystemExit(
                f"{name} has {len(clip)} frames, but the clip has {len(part)}: give --start and --end of the result"
            )
    estimator = MotionEstimator("dis" if args.flow == "farneback" else args.flow, size)
    if args.flow == "farneback":
        estimator.flow = _farneback()
    flicker = {name: Flicker() for name in ["the clip itself", *results]}
    before: list[np.ndarray] = []
    frames = [read_frames(original, part), *(read_frames(clip, range(len(clip))) for clip in clips.values())]
    for now in _pictures(frames, size):
        if before:
            motion = estimator(before[0], now[0])
            for measure, a, b in zip(flicker.values(), before, now, strict=True):
                if not motion.cut:
                    measure.add(a, b, motion)
        before = now
    if not all(measure.errors for measure in flicker.values()):
        raise SystemExit("no two successive frames show the same scene")
    of_clip, of_first = (list(flicker.values())[n].mean() for n in (0, 1))
    print(table_head(f"{args.clip.name}, {args.flow}", "warping error", "of the excess"))
    for name, measure in flicker.items():
        print(f"| {name} | {measure.mean():.5f} | {(measure.mean() - of_clip) / (of_first - of_clip):.2f} |")


def _pictures(clips: list[Iterator], size: tuple[int, int]) -> Iterator[list[np.ndarray]]:
    """Yield the frames of all clips that belong together, scaled to one size."""
    for frames in zip(*clips, strict=True):
        yield [
            frame.pixels
            if frame.pixels.shape[:2] == size
            else cv2.resize(frame.pixels, size[::-1], interpolation=cv2.INTER_AREA)
            for frame in frames
        ]


def _farneback() -> Flow:
    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        pair = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
        return cv2.calcOpticalFlowFarneback(*pair, None, 0.5, 4, 15, 3, 7, 1.5, 0)

    return flow


if __name__ == "__main__":
    streams.prepare()
    main()
