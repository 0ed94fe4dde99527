"""Training from the command line, with a random encoder and small pictures: exact resume, processes, what it leaves."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.nn import functional as F

from nstexp.core.networks.model_files import read_info
from nstexp.media.images import load_image, save_image
from nstexp.outputs import read_summary

SETTINGS = [
    "method=adain", "task=train", "backbone=random", "logger=none", "precision=fp32", "trainer.accelerator=cpu",
    "data.crop_px=32", "data.resize_px=40", "data.val_px=32", "data.val_pairs=2", "data.batch_size=4", "data.workers=0",
    "method.max_steps=6", "log_every_n_steps=1", "task.checkpoint_every_n_steps=2", "task.validate_every_n_steps=3",
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are the same to the bit only with as many threads, and the processes started here have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two folders of small pictures, nested as WikiArt is."""
    root = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for kind in ("photos", "paintings/one"):
        for number in range(14):
            coarse = torch.rand(1, 3, 5, 6, generator=generator)
            image = F.interpolate(coarse, size=(40 + 3 * number, 80 - number), mode="bicubic", align_corners=False)
            save_image(image[0], root / kind / f"{number:02d}.png")
    return root


@pytest.fixture
def command(pictures, tmp_path):
    def build(*overrides, run_dir="run"):
        data = [f"data.content={pictures / 'photos'}", f"data.style={pictures / 'paintings'}"]
        return [sys.executable, "-m", "nstexp", *SETTINGS, *data, f"run_dir={tmp_path / run_dir}", *overrides]

    return build


@pytest.fixture
def nstexp(tmp_path, monkeypatch, nstexp):
    """Call the command line in this process; it ends with `code`."""
    monkeypatch.chdir(tmp_path)

    def call(*args, code=0):
        done = nstexp.bare(*args)
        assert done.code == code, done.err
        assert "Traceback" not in done.err
        return Output(done.out, done.err)

    return call


class Output(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


@pytest.fixture
def run(command, nstexp):
    return lambda *overrides, run_dir="run", code=0: nstexp(*command(*overrides, run_dir=run_dir)[3:], code=code)


def trace(folder: Path) -> list[tuple[str, ...]]:
    """The losses and learning rates of every step, as written."""
    with (folder / "losses.csv").open(newline="") as file:
        return [tuple(row[k] for k in ("step", "total", "content", "moments", "lr")) for row in csv.DictReader(file)]


def numbers(folder: Path) -> list[list[float]]:
    return [[float(value) for value in row] for row in trace(folder)]


def same_decoder(first: Path, second: Path) -> bool:
    return (first / "decoder.safetensors").read_bytes() == (second / "decoder.safetensors").read_bytes()


def test_a_training_leaves_what_it_says(run, tmp_path):
    done = run()
    folder = tmp_path / "run"
    assert done.stdout.strip().splitlines()[-1] == str(folder / "decoder.safetensors")
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert {p.name for p in (folder / "images").iterdir()} == {"validation_00003.jpg", "validation_00006.jpg"}
    grid = load_image(folder / "images" / "validation_00006.jpg")
    assert grid.shape == (3, 3 * 32, 2 * 32)  # content, style and result below each other, two pairs
    assert [int(row[0]) for row in trace(folder)] == [1, 2, 3, 4, 5, 6]
    with (folder / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["images_per_second"]) > 0 and 0 <= float(row["data_wait"]) <= 1 for row in rows)
    assert float(rows[-1]["lr"]) == pytest.approx(1e-4 / (1 + 5e-5 * 5))
    with (folder / "validation.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "6"]
    info = read_info(folder / "decoder.safetensors")
    assert (info.layer, info.encoder, info.steps) == ("relu4_1", "vgg19-random-0", 6)
    summary = read_summary(folder)
    assert summary.status == "completed" and summary.metrics["train"]["steps"] == 6
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(name.startswith("decoder.") for name in checkpoint["state_dict"])  # the encoder is not in it


def test_a_trained_decoder_stylizes_with_its_own_encoder_only(run, nstexp, pictures, tmp_path):
    ridge = (
        "method.init=ridge",
        "method.init_pictures=4",
    )  # else the result would be of one color after these few steps
    run(*ridge)
    run(*ridge, "data.crop_px=32", "layers=adain_deep", run_dir="deep")
    picture = str(pictures / "photos" / "03.png")

    def stylize(*overrides, code=0):
        inputs = ["method=adain", "logger=none", f"content={picture}", f"style={picture}", "method.style_px=64"]
        return nstexp(*inputs, *overrides, code=code)

    for file in ("run/decoder.safetensors", "run/checkpoints/last.ckpt", "run/checkpoints/best.ckpt"):
        stylize("backbone=random", f"method.decoder={file}", "output=out.png")
    assert load_image(tmp_path / "out.png").shape == load_image(picture).shape
    wrong = stylize("method.decoder=run/decoder.safetensors", code=2)
    assert "trained with the encoder vgg19-random-0" in wrong.stderr
    wrong = stylize("backbone=random", "method.decoder=deep/decoder.safetensors", code=2)
    assert "was trained for relu5_1, and layers.content is relu4_1" in wrong.stderr
    stylize("backbone=random", "layers=adain_deep", "method.decoder=deep/decoder.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        ["method.optimizer=adam", "data.workers=2"],
        ["method.optimizer=muon", "method.schedule=cosine", "method.init=ridge", "method.init_pictures=4",
         "method.styles_per_content=2", "+trainer.accumulate_grad_batches=2",
         "loss=[content,moments,palette,range,identity,tv]"],
    ],
    ids=["adam", "muon"],
)  # fmt: skip
def test_a_killed_training_continues_bit_for_bit(command, run, tmp_path, settings):
    steps = ["method.max_steps=40", *settings]
    run(*steps, run_dir="whole")
    killed = subprocess.Popen(
        command(*steps, run_dir="killed"), cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    losses = tmp_path / "killed" / "losses.csv"
    deadline = time.monotonic() + 120
    while not (losses.exists() and len(losses.read_text().splitlines()) > 5):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    stopped_at = len(losses.read_text().splitlines()) - 1
    assert stopped_at < 40, "it was killed too late to show anything"
    done = run(*steps, run_dir="killed")
    assert "going on at step" in done.stderr
    assert trace(tmp_path / "killed") == trace(tmp_path / "whole")
    assert same_decoder(tmp_path / "killed", tmp_path / "whole")
    assert (tmp_path / "killed" / "validation.csv").read_text() == (tmp_path / "whole" / "validation.csv").read_text()


@pytest.mark.parametrize("processes", [[], ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]], ids=len)
def test_an_interrupted_training_says_how_to_go_on(command, run, tmp_path, processes):
    steps = ["method.max_steps=100000", "task.checkpoint_every_n_steps=100000", "task.validate_every_n_steps=0"]
    process = subprocess.Popen(
        command(*steps, *processes), cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    losses = tmp_path / "run" / "losses.csv"
    while not (losses.exists() and len(losses.read_text().splitlines()) > 3):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    assert f"the same command with run_dir={tmp_path / 'run'} goes on from" in stderr
    assert "Traceback" not in stderr
    done = int(trace(tmp_path / "run")[-1][0])
    run(f"method.max_steps={done + 2}")
    assert int(trace(tmp_path / "run")[-1][0]) == done + 2
    again = run(f"method.max_steps={done + 2}")
    assert "set method.max_steps larger to go on" in again.stderr


def test_two_processes_are_one_with_the_doubled_batch(run, command, tmp_path):
    pairs = ["method.styles_per_content=2"]
    two = command("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", *pairs, run_dir="two")
    done = subprocess.run(two, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "two" / "decoder.safetensors")]  # one of the two speaks
    run("data.batch_size=8", *pairs, run_dir="one")
    torch.testing.assert_close(
        torch.tensor(numbers(tmp_path / "two")), torch.tensor(numbers(tmp_path / "one")), rtol=1e-5, atol=0
    )


def test_accumulated_batches_are_one_larger_batch(run, tmp_path):
    run("data.batch_size=2", "+trainer.accumulate_grad_batches=3", run_dir="parts")
    run("data.batch_size=6", run_dir="whole")
    torch.testing.assert_close(
        torch.tensor(numbers(tmp_path / "parts")), torch.tensor(numbers(tmp_path / "whole")), rtol=1e-5, atol=0
    )


def test_mixed_precision_trains_nearly_the_same(run, tmp_path):
    run(run_dir="full")
    run("+trainer.precision=bf16-mixed", run_dir="mixed")
    run("precision=bf16", run_dir="half")
    for other in ("mixed", "half"):
        torch.testing.assert_close(
            torch.tensor(numbers(tmp_path / other)), torch.tensor(numbers(tmp_path / "full")), rtol=0.05, atol=0.02
        )
        assert trace(tmp_path / other) != trace(tmp_path / "full")


def test_broken_pictures_are_skipped_and_listed(run, pictures, tmp_path):
    import shutil

    photos = tmp_path / "photos"
    shutil.copytree(pictures / "photos", photos)
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.png").write_text("no picture")
    run(f"data.content={photos}", "method.max_steps=12")
    skipped = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert len(skipped) == 2 and any("empty.jpg" in line for line in skipped)


def test_a_training_that_diverges_stops_with_a_sentence(run, tmp_path):
    done = run("method.optimizers.adam.lr=1e30", "method.max_steps=50", code=1)
    last = done.stderr.strip().splitlines()[-1]
    assert "became" in last and "a smaller learning rate such as method.optimizers." in last
    assert read_summary(tmp_path / "run").status == "failed"


BAD = {
    "no data": (["data.content=nowhere"], "data.content=nowhere: there is no such file"),
    "crop": (["data.crop_px=64"], "data.resize_px=40: a picture resized to 40 px has no crop of data.crop_px=64 px"),
    "small": (["data.crop_px=8"], "data.crop_px=8: the losses and their layers need 16 px or more"),
    "batch": (["data.batch_size=13"], "12 pictures for training are fewer than one batch of data.batch_size=13"),
    "group": (["method.styles_per_content=3"], "method.styles_per_content=3 does not divide data.batch_size=4"),
    "layers": (["layers.content=[relu3_1,relu4_1]"], "AdaIN exchanges statistics at one layer"),
    "steps": (["task.checkpoint_every_n_steps=0"], "task.checkpoint_every_n_steps=0: give a whole number, 1 or larger"),
    "method": (["method=gatys"], "task=train: method=gatys has nothing to train"),
    "init": (["method.init=nowhere.pth"], "method.init=nowhere.pth: there is no such file"),
    "optimizer": (["method.optimizer=sgdd"], "method.optimizer=sgdd is unknown, choose one of adam, muon"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence_and_leaves_nothing(run, tmp_path, name):
    overrides, sentence = BAD[name]
    done = run(*overrides, code=2)
    assert sentence in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_encoder_or_damaged_is_refused(run, tmp_path):
    run()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    done = run("backbone.weights.seed=1", "method.max_steps=9", code=2)
    assert "belongs to a training with the encoder vgg19-random-0 at relu4_1" in done.stderr.splitlines()[-1]
    last.write_bytes(last.read_bytes()[:5000])
    done = run("method.max_steps=9", code=2)
    assert f"{last}: not a checkpoint of this training" in done.stderr.splitlines()[-1]


def test_another_optimizer_is_refused_and_another_rate_is_taken(run, tmp_path):
    run()
    done = run("method.optimizer=muon", "method.max_steps=9", code=2)
    assert "was trained with another method.optimizer" in done.stderr.splitlines()[-1]
    run("method.optimizers.adam.lr=1e-3", "method.max_steps=7")
    assert float(trace(tmp_path / "run")[-1][-1]) == pytest.approx(1e-3 / (1 + 5e-5 * 6))


def test_a_resumed_run_remembers_the_best_validation(run, tmp_path):
    """The last checkpoint is written before the validation at its step."""
    same = ["task.checkpoint_every_n_steps=3", "task.validate_every_n_steps=3"]
    run(*same, "method.max_steps=3")
    best = (tmp_path / "run" / "checkpoints" / "best.ckpt").read_bytes()
    table = tmp_path / "run" / "validation.csv"
    header, row = table.read_text().splitlines()
    table.write_text("\n".join([header, ",".join(["3", "0.001", *row.split(",")[2:]])]) + "\n")
    run(*same, "method.max_steps=6")
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").read_bytes() == best


def test_an_alias_of_the_layer_is_the_layer(run, tmp_path):
    run("layers.content=[conv4_1]")
    assert read_info(tmp_path / "run" / "decoder.safetensors").layer == "relu4_1"


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    from nstexp.core.errors import UserError
    from nstexp.outputs import RunFolder

    folder = RunFolder(tmp_path)
    with folder.new_checkpoint("last") as path:
        path.write_text("good")
    sentence = r"cannot be written \(No space left on device\); the previous one is still good"
    with pytest.raises(UserError, match=sentence), folder.new_checkpoint("last") as path:
        path.write_text("half")
        raise OSError(28, "No space left on device")
    assert folder.last_checkpoint.read_text() == "good"
    assert [p.name for p in folder.last_checkpoint.parent.iterdir()] == ["last.ckpt"]


def test_ddp_in_a_sweep_is_refused(command, nstexp):
    call = command("trainer=ddp", "trainer.devices=2", "weights.beta=1,10")[3:]
    done = nstexp("-m", *(part for part in call if "run_dir" not in part), code=1)
    assert "trainer=ddp starts this command again for every device" in done.stderr


def test_a_sweep_over_weights_and_layers(command, nstexp, tmp_path):
    call = [part for part in command("weights.beta=1,10", "layers=adain2017,adain_deep")[3:] if "run_dir" not in part]
    nstexp("-m", *call, "data.crop_px=32", "method.max_steps=2")
    infos = [read_info(path) for path in sorted(tmp_path.glob("multirun/nstexp/*/*/decoder.safetensors"))]
    assert sorted(info.layer for info in infos) == ["relu4_1", "relu4_1", "relu5_1", "relu5_1"]
