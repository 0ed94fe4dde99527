"""Turn folders of pictures into WebDataset shards: tar files of about a thousand resized JPEGs each.

COCO (flat), WikiArt (a folder per style) or painter-by-numbers (flat):

    python scripts/prepare_data.py --images coco/train2017 --out shards/coco
    python scripts/prepare_data.py --images wikiart --out shards/wikiart --jobs 8
    python scripts/prepare_data.py --images train_1 train_2 --out shards/pbn --side 256 --per-shard 2000

Train on the shards (the last line that this script prints is the pattern; quote it for the shell and for Hydra):

    python -m nstexp task=train method=adain data=shards 'data.content="shards/coco/coco-{000000..000117}.tar"' \\
        data.style=shards/wikiart

If the command was stopped, or a shard was deleted, give the same command again: it creates the missing shards. The
first run lists the pictures in random order in OUT/manifest.json; picture n of the list is n.jpg in the shards.
Pictures that cannot be read are left out and listed in OUT/skipped.txt. Pictures smaller than --side keep their size.
"""

import argparse
import glob
import io
import json
import os
import random
import signal
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from nstexp import streams
from nstexp.commands import errors_on_one_line, print_path
from nstexp.core.errors import UserError
from nstexp.core.runtime.files import write_atomically
from nstexp.core.text import printable
from nstexp.data.pictures import Unusable, open_rgb, resized
from nstexp.media.paths import find_images

SETTINGS = ("images", "side", "quality", "per_shard", "max_megapixels")  # options that change the shards


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_on_one_line("interrupted: the same command continues from here"):
        print_path(prepare(args))


def parser() -> argparse.ArgumentParser:
    """The options of this script."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--images", required=True, nargs="+", help="folders of pictures, searched recursively")
    result.add_argument("--out", required=True, type=Path, help="folder for the shards; its name is their prefix")
    result.add_argument("--side", type=int, default=512, help="shorter side in pixels; larger pictures shrink (512)")
    result.add_argument("--quality", type=int, default=90, help="JPEG quality, 1 to 95 (90)")
    result.add_argument("--per-shard", type=int, default=1000, help="approximate number of pictures in a shard (1000)")
    result.add_argument("--max-megapixels", type=float, default=200, help="leave out larger files (200)")
    result.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of processes (one per CPU core)")
    return result


def prepare(args: argparse.Namespace) -> str:
    """Create the missing shards; returns the pattern of all shards.

    Raises:
        UserError: an option is wrong, no picture can be read, or the folder belongs to other work.
    """
    _check(args)
    files = manifest(args)
    shards = max(1, round(len(files) / args.per_shard))
    prefix = args.out.resolve().name
    paths = [args.out / f"{prefix}-{index:06d}.tar" for index in range(shards)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    for leftover in args.out.glob(".writing-*"):
        if leftover.suffix in (".tar", ".json", ".txt"):
            leftover.unlink()
    skipped = _read_skipped(args.out)
    encode = partial(encode_picture, side_px=args.side, quality=args.quality, max_megapixels=args.max_megapixels)
    chosen = {index: range(index, len(files), shards) for index in missing}
    bar = tqdm(total=sum(map(len, chosen.values())), unit="picture", disable=not missing)
    with bar, ProcessPoolExecutor(args.jobs, initializer=_ignore_interrupt) as pool:
        try:
            for index, numbers in chosen.items():
                write_shard(paths[index], numbers, files, pool, encode, skipped, bar)
        except BrokenProcessPool as error:
            raise UserError(
                "a process died, perhaps out of memory: give the same command again, with fewer --jobs"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    print(f"{len(files) - len(skipped)} pictures in {shards} shards, {len(missing)} of them new", file=sys.stderr)
    if skipped:
        print(printable(f"{len(skipped)} pictures were left out, see {args.out / 'skipped.txt'}"), file=sys.stderr)
    if len(skipped) == len(files):
        raise UserError(f"--images: none of {len(files)} pictures can be read, see {args.out / 'skipped.txt'}")
    name = f"{prefix}-{{000000..{shards - 1:06d}}}.tar" if shards > 1 else f"{prefix}-000000.tar"
    return str(args.out / name)


def manifest(args: argparse.Namespace) -> list[str]:
    """The list of pictures: written by the first run, read by later ones."""
    path = args.out / "manifest.json"
    settings = {key: getattr(args, key) for key in SETTINGS}
    settings["images"] = [str(Path(folder).resolve()) for folder in args.images]
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            files: list[str] = known["files"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: this manifest was not written by this script, choose another --out") from error
        for key, value in settings.items():
            if known.get(key) != value:
                option = f"--{key.replace('_', '-')}"
                raise UserError(f"{path} was made with {option} {known.get(key)}, not {value}: choose another --out")
        return files
    for other in (args.out / "skipped.txt", *args.out.glob(f"{glob.escape(args.out.resolve().name)}-*.tar")):
        if other.exists():  # an earlier run of this script would have left its list
            raise UserError(f"--out {args.out}: {other} was not made by this script, choose another --out")
    files = [str(file.resolve()) for file in find_images(args.images, "--images")]
    random.Random(0).shuffle(files)  # folders are often sorted by subject, but shards must be mixed
    text = json.dumps({**settings, "files": files}, indent=1)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return files


def write_shard(
    path: Path,
    numbers: Sequence[int],
    files: Sequence[str],
    pool: ProcessPoolExecutor,
    encode: partial,
    skipped: dict[str, str],
    bar: tqdm,
) -> None:
    """Write one tar file, complete or not at all; unreadable pictures go to `skipped` and to skipped.txt."""
    report = path.parent / "skipped.txt"
    results = pool.map(encode, [files[number] for number in numbers], chunksize=4)

    def usable() -> Iterator[tuple[int, bytes]]:
        for number, (data, reason) in zip(numbers, results, strict=True):
            bar.update()
            name = printable(files[number], one_line=True)
            skipped.pop(name, None)
            if data:
                yield number, data
            else:
                skipped[name] = reason

    def write(temporary: Path) -> None:
        with tarfile.open(temporary, "w") as tar:
            for number, data in usable():
                entry = tarfile.TarInfo(
                    f"{number:08d}.jpg"
                )  # without time and owner, so that the bytes are always the same
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        lines = "".join(f"{file}\t{reason}\n" for file, reason in sorted(skipped.items()))
        if skipped or report.exists():
            write_atomically(report, lambda file: file.write_text(lines, encoding="utf-8"))

    write_atomically(path, write)


def encode_picture(path: str, side_px: int, quality: int, max_megapixels: float) -> tuple[bytes, str]:
    """Encode a picture as JPEG: (bytes, ""), or (b"", reason) if it cannot be used."""

    def target(size: tuple[int, int]) -> tuple[int, int]:
        return resized(size, side_px) if min(size) > side_px else size

    try:
        image, box = open_rgb(path, max_megapixels, target)
        size = target((round(box[2] - box[0]), round(box[3] - box[1])))
        image = image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return buffer.getvalue(), ""
    except Unusable as reason:
        return b"", " ".join(str(reason).split())
    except (OSError, ValueError) as error:  # a side is longer than 65535 px
        return b"", f"cannot be written as JPEG ({error})"


def _check(args: argparse.Namespace) -> None:
    """Raise a UserError for options that are out of range."""
    for option, low, high in (("side", 8, 65535), ("quality", 1, 95), ("per_shard", 1, 10**9), ("jobs", 1, 1024)):
        value = getattr(args, option)
        if not low <= value <= high:
            raise UserError(f"--{option.replace('_', '-')} {value}: give a whole number from {low} to {high}")
    if not args.max_megapixels > 0:
        raise UserError(f"--max-megapixels {args.max_megapixels:g}: give a number larger than 0")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out}: this is a file, give a folder")


def _read_skipped(folder: Path) -> dict[str, str]:
    path = folder / "skipped.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C


if __name__ == "__main__":
    streams.prepare()
    main()
