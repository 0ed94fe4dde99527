"""How much stylized clips flicker: warping errors of finished files, beside that of the clip they were made of.

    python scripts/warping_table.py clip.mp4 plain=out_0.mp4 steady=out_08.mp4
    python scripts/warping_table.py clip.mp4 steady=out_08.mp4 --flow farneback

The motion is measured in the clip itself. `farneback` is another algorithm than those that can steady a clip, so that
a clip is not judged by the very flow that steadied it. `of the excess`: (error - the clip's own) over the same of the
first file named.
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
    parser.add_argument("clip", type=Path)
    parser.add_argument("results", nargs="+", metavar="name=file")
    parser.add_argument("--flow", default="dis", choices=["dis", "dis_fast", "raft", "farneback"])
    parser.add_argument("--start", type=float, help="of the part that the results are of, in seconds")
    parser.add_argument("--end", type=float)
    args = parser.parse_args()
    results = dict(result.split("=", 1) for result in args.results)
    clips = {name: open_source(Path(file)) for name, file in results.items()}
    size = next(iter(clips.values())).size
    own = open_source(args.clip)
    part = own.between(args.start, args.end, "--")
    for name, clip in clips.items():
        if len(clip) != len(part):
            raise SystemExit(
                f"{name} has {len(clip)} frames, the clip {len(part)}: --start and --end as for the result"
            )
    estimator = MotionEstimator("dis" if args.flow == "farneback" else args.flow, size)
    if args.flow == "farneback":
        estimator.flow = _farneback()
    flicker = {name: Flicker() for name in ["the clip itself", *results]}
    before: list[np.ndarray] = []
    frames = [read_frames(own, part), *(read_frames(clip, range(len(clip))) for clip in clips.values())]
    for now in _pictures(frames, size):
        if before:
            motion = estimator(before[0], now[0])
            for measure, a, b in zip(flicker.values(), before, now, strict=True):
                if not motion.cut:
                    measure.add(a, b, motion)
        before = now
    if not all(measure.errors for measure in flicker.values()):
        raise SystemExit("no two frames that follow each other show the same")
    of_clip, of_first = (list(flicker.values())[n].mean() for n in (0, 1))
    print(table_head(f"{args.clip.name}, {args.flow}", "warping error", "of the excess"))
    for name, measure in flicker.items():
        print(f"| {name} | {measure.mean():.5f} | {(measure.mean() - of_clip) / (of_first - of_clip):.2f} |")


def _pictures(clips: list[Iterator], size: tuple[int, int]) -> Iterator[list[np.ndarray]]:
    """Frames of all clips that are shown together, at one size."""
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
