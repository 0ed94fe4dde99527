"""Trials of other files: networks, clips, shards to train with, and configurations, both correct and damaged."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from safetensors.numpy import load, save

from hostile.pictures import photo, saved
from hostile.trials import INSTANT, SMALL, Check, Outcome, Trial, both, either, made, memory_below, refused
from nstexp.weights import ADAIN_DECODER, LEARNED_STYLES

MOST_MB = 2500.0  # memory for a file that is refused
CLIP = ("task=video", *INSTANT, "video.stabilize=0")
TRAINING = ("experiment=smoke_adain", "data.style=paintings", "data.content=photos")


def trials() -> Iterator[Trial]:
    """Yield the trials of files, each at the place in a command where files of its kind belong."""
    yield from _networks()
    yield from _clips()
    yield from _shards()
    yield from _configurations()


def pictures(folder: Path, count: int = 4) -> None:
    """Create photos and paintings to train with."""
    for name, seed in (("photos", 0), ("paintings", 50)):
        (folder / name).mkdir()
        for number in range(count):
            photo(64, 48, seed + number).save(folder / name / f"{number}.png")


def _networks() -> Iterator[Trial]:
    """Yield trials of weights that are not finite, incomplete, of another network, or that try to run code."""
    decoder, learned = load(ADAIN_DECODER.read_bytes()), LEARNED_STYLES.read_bytes()
    first = max(decoder, key=lambda name: decoder[name].size)

    def changed(change: Callable[[np.ndarray], np.ndarray], every: bool = False) -> bytes:
        tensors = {name: value.copy() for name, value in decoder.items()}
        for name in tensors if every else [first]:
            tensors[name] = change(tensors[name].astype(np.float32))
        return save(tensors, _metadata(ADAIN_DECODER.read_bytes()))

    def with_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
        def change(tensor: np.ndarray) -> np.ndarray:
            tensor.flat[tensor.size // 2] = value
            return tensor

        return change

    whole = ADAIN_DECODER.read_bytes()
    random = np.random.default_rng(0)
    files = {
        "one NaN.safetensors": changed(with_one(np.nan)),
        "one infinity.safetensors": changed(with_one(np.inf)),
        "all NaN.safetensors": changed(lambda tensor: np.full_like(tensor, np.nan), every=True),
        "all zero.safetensors": changed(np.zeros_like, every=True),
        "all one.safetensors": changed(np.ones_like, every=True),
        "too large.safetensors": changed(lambda tensor: tensor * 1e30, every=True),
        "half of it.safetensors": whole[: len(whole) // 2],
        "noise behind the header.safetensors": whole[: len(whole) - 2**20] + random.bytes(2**20),
        "noise.safetensors": random.bytes(5000),
        "empty.safetensors": b"",
        "a header of exabytes.safetensors": struct.pack("<Q", 2**62) + b"{}",
        "a tensor of exabytes.safetensors": _header(
            {"a": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}
        ),
        "of another network.safetensors": learned,
        "some other tensors.safetensors": save({"weight": np.ones((3, 3), np.float32)}),
        "pickle.pth": pickle.dumps(_Runs()),
        "pickle in a zip.pth": _zip({"archive/data.pkl": pickle.dumps(_Runs()), "archive/version": b"3\n"}),
        "a gigabyte.pth": lambda: _zip({"archive/data.pkl": bytes(2**30), "archive/version": b"3\n"}),
        "text.pth": b"This is no network.\n",
        "empty.pth": b"",
        "page.ckpt": b"<html>404</html>",
    }
    for name, content in files.items():

        def prepare(folder: Path, name=name, content=content) -> None:
            photo().save(folder / "photo.png")
            (folder / name).write_bytes(content() if callable(content) else content)

        check = both(refused("decoder"), memory_below(MOST_MB), _ran_nothing)
        words = ["method=adain", *SMALL, "content=photo.png", f"method.decoder={name}"]
        yield Trial("networks", f"decoder {name}", words, check, prepare, file=True)

    bad = load(learned)
    for name in bad:
        if bad[name].dtype.kind == "f":
            bad[name] = np.full_like(bad[name], np.nan)
    other = {
        "NaN.safetensors": save(bad, _metadata(learned)),
        "half.safetensors": learned[: len(learned) // 2],
        "decoder.safetensors": whole,
        "pickle.ckpt": pickle.dumps(_Runs()),
    }
    for name, content in other.items():

        def prepare(folder: Path, name=name, content=content) -> None:
            photo().save(folder / "photo.png")
            (folder / name).write_bytes(content)

        words = ["method=cin", *SMALL, "content=photo.png", f"method.model={name}"]
        yield Trial("networks", f"model {name}", words, both(refused("model"), _ran_nothing), prepare, file=True)
        words = ["experiment=smoke_gatys", "content=photo.png", "backbone=vgg_file", f"backbone.weights.path={name}"]
        yield Trial("networks", f"backbone {name}", words, both(refused("path"), _ran_nothing), prepare, file=True)


class _Runs:
    """Its pickle creates a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("ran", "w")


def _ran_nothing(outcome: Outcome) -> str | None:
    """Check that no code in a file was run."""
    return "the file's code ran" if "ran" in outcome.after else None


def _metadata(content: bytes) -> dict[str, str]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


def _header(header: dict[str, Any]) -> bytes:
    """A safetensors file with this header and 100 bytes of data."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(100)


def _zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def clip(
    path: Path, count: int = 4, size: tuple[int, int] = (64, 48), codec: str = "libx264", **settings: object
) -> None:
    """Write a clip of moving stripes.

    Args:
        path: the file to write; its suffix decides the container.
        count: number of frames.
        size: (width, height) in pixels.
        codec: FFmpeg's name of the encoder.
        settings: attributes of the codec's context, such as color_trc.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 25, width=size[0], height=size[1])
        stream.pix_fmt = str(settings.pop("pix_fmt", "yuv420p"))
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for frame in _frames(count, size):
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))


def _frames(count: int, size: tuple[int, int]) -> list[Image.Image]:
    image = photo(size[0] + 4 * count, size[1])
    return [image.crop((4 * number, 0, 4 * number + size[0], size[1])) for number in range(count)]


def _turned(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a clip with a display matrix, given as the signs of its first four numbers."""
    clip(path)
    content = bytearray(path.read_bytes())
    track = content.index(b"tkhd")
    place = track + 4 + 4 + 20 + 8 + 8  # after version, times, track number, duration, layer and volume
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        content[place + offset : place + offset + 4] = struct.pack(">i", value * 65536)
    path.write_bytes(content)


def _clips() -> Iterator[Trial]:
    for number, matrix in enumerate([(1, 0, 0, 1), (-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1),
                                     (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0), (0, -1, 1, 0)]):  # fmt: skip
        upright = matrix[0] != 0
        check = made(_clip_of(4, (64, 48) if upright else (48, 64)))
        yield _clip_trial(f"orientation {number + 1}.mp4", lambda path, m=matrix: _turned(path, m), check)

    wide = {"pix_fmt": "yuv420p10le", "color_primaries": 9, "colorspace": 9}
    moving = _frames(4, (64, 48))
    alive = made(_clip_of(4))
    for name, make, check in [
        ("plain.mp4", clip, alive),
        ("plain.mkv", clip, alive),
        ("plain.mov", clip, alive),
        ("plain.ts", clip, alive),
        ("plain.webm", lambda path: clip(path, codec="libvpx-vp9"), alive),
        ("odd size.mkv", lambda path: clip(path, size=(63, 47), codec="ffv1"), made(_clip_of(4))),
        ("one frame.mp4", lambda path: clip(path, 1), made(_clip_of(1))),
        ("PQ.mp4", lambda path: clip(path, color_trc=16, **wide), either(alive, refused("PQ.mp4"))),
        ("HLG.mp4", lambda path: clip(path, color_trc=18, **wide), either(alive, refused("HLG.mp4"))),
        ("moving.gif", lambda path: moving[0].save(path, save_all=True, append_images=moving[1:]), alive),
        ("moving.webp", lambda path: moving[0].save(path, save_all=True, append_images=moving[1:]), alive),
        ("moving.png", lambda path: moving[0].save(path, save_all=True, append_images=moving[1:]), alive),
        ("moving.avif", lambda path: moving[0].save(path, save_all=True, append_images=moving[1:]), alive),
        ("two sizes.ts", _two_sizes, either(made(), refused("two sizes.ts"))),
        ("half of it.mp4", lambda path: _cut(path, 0.5), refused("half of it.mp4")),
        ("half of it.ts", lambda path: _cut(path, 0.5), either(made(), refused("half of it.ts"))),
        ("empty.mp4", lambda path: path.write_bytes(b""), refused("empty.mp4")),
        ("text.mp4", lambda path: path.write_bytes(b"no clip" * 99), refused("text.mp4")),
        ("only sound.mp4", _sound, refused("only sound.mp4")),
        ("no frames.mkv", lambda path: clip(path, 0), refused("no frames.mkv")),
    ]:
        yield _clip_trial(name, make, check)


def _clip_trial(name: str, make: Callable[[Path], object], check: Check) -> Trial:
    words = [*CLIP, f"content={name}"]
    return Trial("clips", name, words, check, lambda folder: make(folder / name), file=True)


def _clip_of(count: int, of: tuple[int, int] | None = None) -> Check:
    """A check that the result has this many frames, and is upright or flat like `of`, (width, height)."""

    def check(outcome: Outcome) -> str | None:
        with av.open(str(outcome.result)) as container:
            frames = list(container.decode(video=0))
        if len(frames) != count:
            return f"{len(frames)} frames"
        wide = frames[0].width > frames[0].height
        return f"{frames[0].width} x {frames[0].height}" if of and wide != (of[0] > of[1]) else None

    return check


def _two_sizes(path: Path) -> None:
    other = path.with_name("other.ts")
    clip(path)
    clip(other, size=(48, 96))
    path.write_bytes(path.read_bytes() + other.read_bytes())
    other.unlink()


def _cut(path: Path, share: float) -> None:
    clip(path, 60)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", 48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _tar(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _shards() -> Iterator[Trial]:
    good = {f"{number}.png": saved(photo(64, 48, number), "PNG") for number in range(6)}
    outside = {f"../{name}": content for name, content in good.items()} | {"写真 (1).png": good["0.png"]}
    skipped = made(lambda outcome: None if any(n.endswith("skipped.txt") for n in outcome.new) else "no skipped.txt")
    for name, content, check in [
        ("good.tar", _tar(good), made()),
        ("good.tar.gz", gzip.compress(_tar(good)), made()),
        ("names.tar", _tar(outside), made()),
        ("hidden.tar", _tar(good | {"__MACOSX/._0.png": b"x", "._1.png": b"x", ".DS_Store": b"x"}), made()),
        ("a text in it.tar", _tar(good | {"6.png": b"This is no picture."}), skipped),
        ("a gigabyte in it.tar.gz", lambda: gzip.compress(_tar(good | {"6.png": bytes(2**30)}), 1), skipped),
        ("half.tar", _tar(good)[: len(_tar(good)) // 2], either(made(), refused("data.content", leaves=("runs",)))),
        ("empty.tar", b"", refused(leaves=("runs",))),
        ("noise.tar", np.random.default_rng(0).bytes(20000), refused(leaves=("runs",))),
        ("text.tar.gz", b"no archive" * 99, refused(leaves=("runs",))),
        ("no pictures.tar", _tar({"a.txt": b"a", "b.json": b"{}"}), refused(leaves=("runs",))),
    ]:  # fmt: skip

        def prepare(folder: Path, name=name, content=content) -> None:
            photo(seed=9).save(folder / "painting.png")
            (folder / "style.tar").write_bytes(_tar(good))
            (folder / name).write_bytes(content() if callable(content) else content)

        words = ["experiment=smoke_adain", "data=shards", f"data.content={name}", "data.style=style.tar",
                 "data.workers=0", "data.batch_size=2", "data.crop_px=32", "data.resize_px=40", "data.val_pairs=0",
                 "data.shuffle_buffer=4"]  # fmt: skip
        yield Trial("shards", name, words, both(check, memory_below(MOST_MB)), prepare, file=True)


def _configurations() -> Iterator[Trial]:
    """Yield trials of a user's YAML file in `--config-dir mine`, chosen with experiment=own."""
    head = b"# @package _global_\n"
    for name, content, check in [
        ("good", head + b"image_px: 48\n", made()),
        ("a byte order mark", b"\xef\xbb\xbf" + head + b"image_px: 48\n", made()),
        ("lines of Windows", head.replace(b"\n", b"\r\n") + b"image_px: 48\r\n", made()),
        ("a table of its own", head + b"mine: {side: 48}\nimage_px: ${mine.side}\n", made()),
        ("a tab", head + b"method:\n\tmax_steps: 3\n", refused("own.yaml")),
        ("unclosed bracket", head + b"loss: [content, gram\n", refused("own.yaml")),
        ("unclosed quote", head + b'content: "photo.png\n', refused("own.yaml")),
        ("a key twice", head + b"seed: 1\nseed: 2\n", refused("seed")),
        ("Latin-1", head + "content: Zürich.png\n".encode("latin-1"), refused("own.yaml")),
        ("a list", b"- 1\n- 2\n", refused("own")),
        ("a sentence", b"just some words\n", refused("@package")),
        ("a misspelt key", head + b"image_pxx: 48\n", refused("image_px")),
        ("a misspelt key of a table", head + b"method: {max_step: 3}\n", refused("max_step")),
        ("a misspelt group", head + b"defaults: [{override /metod: adain}]\n", refused("metod")),
        ("a misspelt option", head + b"defaults: [{override /method: adian}]\n", refused("adain")),
        ("around in a circle", head + b"content: ${style}\nstyle: ${content}\n", refused("content")),
        ("points nowhere", head + b"content: ${nowhere}\n", refused("nowhere")),
        ("a resolver that is not there", head + b"seed: '${eval:1+1}'\n", refused("eval")),
        ("a wrong type", head + b"image_px: {a: 1}\n", refused("image_px")),
        ("a target that runs code", head + b"task: {_target_: os.system, command: touch ran}\n", refused("trust")),
        ("a target in a table", head + b"logger: {x: {_target_: subprocess.call, args: [touch, ran]}}\n",
         refused("trust")),
        ("torch.load", head + b"generator: {_target_: torch.load, f: x.pth, weights_only: false}\n", refused("trust")),
        ("torch.hub.load", head + b"backbone: {_target_: torch.hub.load, repo_or_dir: ., source: local, model: x}\n",
         refused("trust")),
        ("numpy.load", head + b"backbone: {_target_: numpy.load, file: x.npy, allow_pickle: true}\n", refused("trust")),
        ("pl_load", head + b"backbone: {_target_: lightning_fabric.utilities.cloud_io._load, path_or_url: x}\n",
         refused("trust")),
        ("through an allowed package", head + b"backbone: {_target_: nstexp.run.os.system, command: touch ran}\n",
         refused("trust")),
        ("a callback of Hydra", head + b"hydra: {callbacks: {x: {_target_: os.system, command: touch ran}}}\n",
         refused("trust")),
        ("trusts itself", head + b"trust: [os]\ntask: {_target_: os.system, command: touch ran}\n", refused("trust")),
    ]:  # fmt: skip

        def prepare(folder: Path, content=content) -> None:
            (folder / "mine" / "experiment").mkdir(parents=True)
            (folder / "mine" / "experiment" / "own.yaml").write_bytes(content)
            photo().save(folder / "photo.png")
            (folder / "x.pth").write_bytes(pickle.dumps(_Runs()))

        words = ["--config-dir", "mine", "experiment=[smoke_gatys,own]"]
        yield Trial("configurations", name, words, both(_ran_nothing, check), prepare, file=True)
