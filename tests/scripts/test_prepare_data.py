"""Shards from folders: what is in them, what a second run does, and one sentence for what is wrong."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import SCRIPTS
from PIL import Image

from nstexp.data.shards import ShardPairs, find_shards

SCRIPT = SCRIPTS / "prepare_data.py"


@pytest.fixture
def pictures(tmp_path):
    """22 usable files at two depths, and three that are not."""
    y, x = np.mgrid[:60, :90]
    for i in range(20):
        folder = tmp_path / "in" / ("cubism" if i % 2 else "rococo")
        folder.mkdir(parents=True, exist_ok=True)
        waves = np.stack([x * 2, y * 4, np.full_like(x, i * 10)], -1).astype(np.uint8)
        Image.fromarray(waves).save(folder / f"a.b {i}.jpg", quality=95)
    Image.new("RGB", (20, 30), "red").save(tmp_path / "in" / "small.png")
    Image.new("L", (30, 300), 100).save(tmp_path / "in" / "long.png")
    (tmp_path / "in" / "empty.jpg").touch()
    (tmp_path / "in" / "text.jpg").write_text("hello")
    Image.new("RGB", (1100, 1000)).save(tmp_path / "in" / "giant.png")
    return tmp_path / "in"


def contents(folder: Path) -> dict[str, Image.Image]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.name not in found
                found[member.name] = Image.open(io.BytesIO(tar.extractfile(member).read()))
    return found


def test_a_run_makes_shards_a_second_one_what_is_missing(pictures, tmp_path, run):
    out = tmp_path / "shards" / "art"
    command = ("--images", pictures, "--out", out, "--side", 32, "--per-shard", 5, "--jobs", 2, "--max-megapixels", 1)
    done = run(*command)
    pattern = done.out.splitlines()[-1]
    assert pattern == f"{out}/art-{{000000..000004}}.tar"
    assert "22 pictures in 5 shards, 5 of them new" in done.err
    assert "25/25" in done.err
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [f"art-{i:06d}.tar" for i in range(5)] + ["manifest.json", "skipped.txt"]
    )

    images = contents(out)
    assert len(images) == 22
    assert all(image.format == "JPEG" and image.mode == "RGB" for image in images.values())
    sizes = sorted(image.size for image in images.values())
    assert sizes == [(20, 30), (30, 300)] + [(48, 32)] * 20
    blues = sorted(float(np.asarray(image)[..., 2].mean()) for image in images.values() if image.size == (48, 32))
    assert np.abs(np.array(blues) - np.arange(20) * 10).max() < 4  # each picture once

    skipped = dict(line.split("\t") for line in (out / "skipped.txt").read_text().splitlines())
    assert {Path(path).name for path in skipped} == {"empty.jpg", "text.jpg", "giant.png"}
    assert skipped[str(pictures / "giant.png")] == "1100x1000 px is over the limit of 1 megapixels"

    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    (out / "art-000002.tar").unlink()
    (out / ".writing-old.tar").write_bytes(b"half")
    Image.new("RGB", (90, 60), "blue").save(pictures / "new.png")  # not in the manifest
    done = run(*command)
    assert "1 of them new" in done.err
    assert done.out.splitlines()[-1] == pattern
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert {name: data for name, (data, _) in after.items()} == {name: data for name, (data, _) in before.items()}
    assert {name for name in after if after[name][1] != before[name][1]} == {"art-000002.tar", "skipped.txt"}

    assert len(find_shards(pattern, "data.content")) == 5
    data = ShardPairs(pattern, str(out), batch_size=4, crop_px=16, resize_px=32, workers=0, val_pairs=2)
    assert next(iter(data.train_dataloader()))["content"].shape == (4, 3, 16, 16)

    refused = run(*command[:-6], "--per-shard", 6, "--jobs", 2, "--max-megapixels", 1, expect=2)
    assert "was made with --per-shard 5, not 6: choose another --out" in refused.err
    assert refused.out == ""


def test_files_and_folders_have_any_name(tmp_path, run):
    names = ["a\tb.png", "a\nb.png", "it's (1).png", os.fsdecode(b"caf\xe9.png")]
    (tmp_path / "in [x]").mkdir()
    for name in names:
        (tmp_path / "in [x]" / name).write_text("no picture")
    Image.new("RGB", (40, 30)).save(tmp_path / "in [x]" / "good.png")
    command = ("--images", tmp_path / "in [x]", "--out", tmp_path / "out [1]", "--side", 32, "--jobs", 1)
    for _ in range(2):
        assert run(*command).out.splitlines()[-1] == str(tmp_path / "out [1]" / "out [1]-000000.tar")
        lines = (tmp_path / "out [1]" / "skipped.txt").read_text().splitlines()
        assert len(lines) == len(names)
        assert all(line.count("\t") == 1 for line in lines)
    assert len(contents(tmp_path / "out [1]")) == 1
    assert find_shards(str(tmp_path / "out [1]"), "data.content") == [str(tmp_path / "out [1]" / "out [1]-000000.tar")]


def test_a_run_stopped_in_the_middle_goes_on(pictures, tmp_path, script, run, monkeypatch):
    write, out = script.write_shard, tmp_path / "art"

    def stop_at_the_third(path, *args):
        if path.name == "art-000002.tar":
            raise KeyboardInterrupt
        write(path, *args)

    monkeypatch.setattr(script, "write_shard", stop_at_the_third)
    command = ["--images", str(pictures), "--out", str(out), "--side", "32", "--per-shard", "5", "--jobs", "1"]
    assert run(*command, expect=130).err.splitlines()[-1] == "interrupted: the same command continues from here"
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["art-000000.tar", "art-000001.tar"]
    monkeypatch.setattr(script, "write_shard", write)
    run(*command)
    assert len(contents(out)) == 23
    assert len((out / "skipped.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["mine-000003.tar", "skipped.txt", "manifest.json"])
def test_files_of_others_stay(pictures, tmp_path, run, name):
    (tmp_path / "mine").mkdir()
    for other in (name, ".writing-a.md"):
        (tmp_path / "mine" / other).write_text("the user's")
    done = run("--images", pictures, "--out", tmp_path / "mine", expect=2)
    assert f"{tmp_path / 'mine' / name}" in done.err
    assert {path.name: path.read_text() for path in (tmp_path / "mine").iterdir()} == {
        name: "the user's",
        ".writing-a.md": "the user's",
    }


@pytest.mark.slow
def test_help_teaches_by_examples():
    text = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    for part in ("coco/train2017", "wikiart", "--per-shard", "skipped.txt", "data=shards", "same command again"):
        assert part in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--images", "nowhere"], "--images=nowhere: there is no such file"),
        (["--side", 4], "--side 4: give a whole number from 8 to 65535"),
        (["--quality", 100], "--quality 100: give a whole number from 1 to 95"),
        (["--out", "IN/small.png"], "small.png: this is a file, give a folder"),
        (["--images", "IN/empty.jpg", "IN/text.jpg"], "--images: none of 2 pictures can be read, see "),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(pictures, tmp_path, run, options, sentence):
    options = [str(option).replace("IN", str(pictures)) for option in options]
    defaults = {"--images": [pictures], "--out": [tmp_path / "out"]}
    given = [part for key, values in defaults.items() if key not in options for part in (key, *values)]
    done = run(*given, *options, "--jobs", 1, expect=2)
    assert sentence in done.err.splitlines()[-1]
    assert done.out == ""
