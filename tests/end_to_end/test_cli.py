"""The real command line: what a run leaves, and one sentence for everything that can be wrong with the input."""

import errno
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import SMOKE, Result, picture, run_folders
from PIL import Image

from nstexp.outputs import read_summary

CONTRACT = {".hydra", "config.yaml", "images", "losses.csv", "metrics.json", "nstexp.log", "output.png", "summary.json"}


@pytest.fixture(autouse=True)
def _in_the_folder(folder):
    """Every test here runs in it."""


def run_cli(*args: str) -> Result:
    done = subprocess.run([sys.executable, "-m", "nstexp", *args], capture_output=True, text=True, timeout=120)
    return Result(done.returncode, done.stdout, done.stderr)


def damaged(path: str) -> None:
    whole = picture(path, 64, 64).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])


def test_a_run_leaves_its_picture_and_its_record():
    own_size = ("image_px=null", "precision=fp32")
    result = run_cli("experiment=smoke_gatys", "content=photo.png", "style=painting.jpg", *own_size)
    assert (result.code, result.sentences) == (0, [])
    (run_dir,) = run_folders()
    assert result.path == (run_dir / "output.png").resolve()
    assert Image.open(result.path).size == (50, 37)
    assert {entry.name for entry in run_dir.iterdir()} == CONTRACT
    summary = read_summary(run_dir)
    assert (summary.status, summary.error, summary.task, summary.method) == ("completed", None, "stylize", "gatys")
    assert (summary.encoder, summary.precision, summary.outputs) == ("vgg19-random-0", "float32", [str(result.path)])
    assert "image_px=null" in summary.overrides
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["content"] == "photo.png"
    assert json.loads((run_dir / "metrics.json").read_text())["output"]["steps"] == 4
    steps = [row.split(",")[1] for row in (run_dir / "losses.csv").read_text().splitlines()]
    assert (steps[0], steps[-1]) == ("step", "4")


@pytest.mark.parametrize("size", [(37, 51), (49, 35)])
def test_odd_sizes_stay_exact(nstexp, size):
    picture("odd.png", *size)
    assert Image.open(nstexp("content=odd.png", "image_px=null").path).size == size


def test_image_px_is_the_longer_side(nstexp):
    assert Image.open(nstexp("image_px=61").path).size == (61, 45)


@pytest.mark.parametrize("output", ["new/picture.jpg", "picture.webp"])
def test_output_can_be_a_file(nstexp, output):
    result = nstexp(f"output={output}")
    assert (result.code, result.path) == (0, Path(output))
    assert Image.open(output).size == (48, 36)
    assert (run_folders()[0] / "output.png").exists()


@pytest.mark.parametrize("output", ["new/results", "2024"])
def test_output_can_be_a_folder(nstexp, output):
    result = nstexp(f"output={output}")
    assert (result.code, result.path) == (0, Path(output, "photo.png"))
    assert Image.open(result.path).size == (48, 36)


def test_pictures_of_the_same_name_do_not_replace_each_other(nstexp):
    names = ("in/x/a.jpg", "in/a_3.png", "in/a.jpg", "in/a.png")
    for n, name in enumerate(names):
        picture(name, 48, 32 + n)
    result = nstexp(f"content=[{','.join(names)}]", "output=results")
    assert (result.code, result.path) == (0, Path("results"))
    heights = {path.name: Image.open(path).height for path in Path("results").iterdir()}
    assert sorted(heights.values()) == [32, 33, 34, 35]
    assert heights["a.png"] == 32
    assert heights["a_3.png"] == 33
    assert {path.name for path in run_folders()[0].glob("*.png")} == set(heights)


def test_one_broken_picture_does_not_stop_the_others(nstexp):
    for name in ("in/a.png", "in/c.png"):
        picture(name, 40, 40)
    damaged("in/b.jpg")
    result = nstexp("content=in", "output=results")
    assert result.code == 2
    assert sorted(path.name for path in Path("results").iterdir()) == ["a.png", "c.png"]
    assert result.sentences[-1].startswith("1 of 3 pictures failed, the first: in/b.jpg: the image is damaged")
    assert read_summary(run_folders()[0]).status == "failed"


def test_the_seed_decides_the_bytes(nstexp):
    def content(seed: int) -> bytes:
        return nstexp("method.init=noise", f"seed={seed}").path.read_bytes()

    assert content(1) == content(1)
    assert content(1) != content(2)


def make_bad_inputs() -> None:
    Path("empty").mkdir()
    Path("empty/readme.txt").write_text("no picture")
    Path("text.jpg").write_text("hello")
    Path("zero.png").touch()
    damaged("cut.jpg")
    picture("dot.png", 1, 1)
    picture("line.png", 20000, 2)
    picture("two/a.png", 40, 40)
    picture("two/b.png", 40, 40)
    Path("file").write_text("in the way")


BAD_INPUTS = {
    "content=nowhere.jpg": "content=nowhere.jpg: there is no such file, folder or built-in image",
    "content=empty": "content=empty: the folder holds no image",
    "content=[]": "content is empty",
    "content=": "content is empty",
    "content=text.jpg": "text.jpg: this is not an image file",
    "content=cut.jpg": "cut.jpg: the image is damaged or truncated",
    "content=zero.png": "zero.png: the file is empty",
    "content=dot.png image_px=null": "1x1 px, but relu5_1 needs at least 32 px",
    "content=line.png image_px=null": "20000x2 px, but relu5_1 needs at least 32 px",
    "image_px=20": "20x15 px, but relu5_1 needs at least 32 px .* image_px",
    "color=lum": "color=lum is unknown, choose one of none, preserve, luminance, match",
    "color_strength=2": "color_strength=2: give a number from 0 to 1",
    "masks=nowhere.png": "masks=nowhere.png: there is no such file",
    "masks=[photo.png,photo.png]": "masks has 2 pictures for 1 style pictures",
    "image_px=0": "image_px=0: the longer side is a whole number",
    "image_px=12.5": "image_px=12.5: the longer side is a whole number",
    "max_input_megapixels=0.001": "painting.jpg: 40x44 px is over the limit of 0.001 meg.*max_input_megapixels=",
    "max_input_megapixels=many": "max_input_megapixels=many: the limit is a number",
    "style=[]": "style is empty",
    "style=[painting.jpg,text.jpg]": "text.jpg: this is not an image file",
    "style_weights=[1,2]": "style_weights has 2 numbers for 1 style",
    "style_weights=[nan]": r"style_weights=\[nan\]: each is a finite number",
    "style_weights=[0]": "style_weights=.* not all are 0",
    "style_weights=1": "style_weights=1: give a list",
    "style_combine=blend": "style_combine=blend is unknown, choose one of weighted_loss, mean_gram, sum_gram",
    "layers.style=[relu9_9]": "unknown layer 'relu9_9': vgg19-random-0 has relu1_1, relu1_2, pool1, .*relu5_4",
    "layers.content=[conv]": "unknown layer 'conv': vgg19-random-0 has relu1_1",
    "weights.beta=-1": "weights.beta=-1: a weight is a finite number, 0 or larger",
    "weights.alpha=nan": "weights.alpha=nan: a weight is a finite number",
    "weights.beta=high": "weights.beta=high is not a number",
    "+weights.foo=1": "weights.foo multiplies nothing: the terms are content, gram",
    "precision=fp17": "precision=fp17 is unknown, choose one of auto, fp32, bf16",
    "method.optimizer=newton": "method.optimizer=newton is unknown, choose one of lbfgs, torch_lbfgs, adam, sgd",
    "method.init=zeros": "method.init=zeros is neither content, .* nor a picture: zeros: there is no such file",
    "method.max_steps=0": "method.max_steps=0",
    "loss.gram.form=gramm": "loss.gram.form=gramm is unknown, choose one of",
    "backbone.pool=median": "backbone.pool=median is unknown, choose one of max, avg, l2",
    "output=": "output is empty",
    "output=out.xyz": "output=out.xyz: cannot write '.xyz' files, use one of .png",
    "output=file": "output=file/photo.png: the folder file is not writable",
    "output=file/out.png": "output=file/out.png: the folder file is not writable",
    "output=/proc/out.png": "output=/proc/out.png: the folder /proc is not writable",
    "output=.": "output: the result would replace the input photo.png",
    "output=painting.jpg": "output: the result would replace the input painting.jpg",
    "content=two output=out.png": "output=out.png is one file for 2 content pictures: give a folder",
}


@pytest.mark.parametrize("args", BAD_INPUTS)
def test_bad_input_is_one_sentence_and_leaves_nothing(nstexp, args):
    make_bad_inputs()
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    result = nstexp(*args.split())
    assert result.code == 2
    assert result.out == ""
    assert len(result.sentences) == 1, result.err
    assert re.search(BAD_INPUTS[args], result.sentences[0])
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()} == before
    assert run_folders() == []


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("contnet=a.jpg", "contnet: there is no such key; did you mean content?"),
        ("method.steps=3", "method.steps: there is no such key; did you mean method."),
        ("backbone=vgg1000", "Could not find 'backbone/vgg1000': backbone=... takes"),
        ("loss=[content,gramm]", "Could not find 'loss/gramm': loss=... takes ccpl, chroma, content, cov, gram,"),
        ("experiment=nothing", "Could not find 'experiment/nothing'"),
        ("content=${nosuch}", "content=${nosuch}: there is no key nosuch"),
        ("~content", "~content: content can be given another value, but cannot be left out"),
        ("+weights.betta=3", "weights.betta: there is no such key; did you mean weights.beta?"),
        ("image_px=1000000", "image_px=1000000: the longer side is a whole number of pixels, from 1 to 65535"),
        ("measure=maybe", "measure=maybe: give true or false"),
        ("run_dir=", "run_dir=: give the folder that the run writes to"),
        ("hydra.run.dir=", "hydra.run.dir=: give the folder that the run writes to"),
        ("run_dir=[a,b]", "run_dir: give the folder that the run writes to"),
        ("run_dir=${nosuch}", "run_dir: Interpolation key 'nosuch' not found; give the folder"),
        ("--multirn", "--multirn: there is no such option; did you mean --multirun?"),
        ("content=a=b.jpg", "content=a=b.jpg: there is no such file"),
        ("weights.beta=a=b", "weights.beta=a=b: the value cannot be read"),
    ],
)
def test_what_does_not_compose_is_named_without_a_traceback(nstexp, args, sentence):
    result = nstexp(args)
    assert (result.code, result.out, run_folders()) == (2, "", [])
    assert sentence in result.sentences[0] and len(result.sentences) == 1
    assert "Traceback" not in result.err


def test_without_any_weight_there_is_nothing_to_optimize(nstexp):
    result = nstexp("weights.alpha=0", "weights.beta=0")
    assert result.code == 2
    assert "Traceback" not in result.err
    assert len(result.sentences) == 1
    assert "weights." in result.sentences[0]


def test_a_folder_with_other_files_is_never_removed(nstexp):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    assert nstexp("content=nowhere.jpg", "hydra.run.dir=mine").code == 2
    assert Path("mine/notes.txt").read_text() == "keep"


def test_a_wrong_objective_costs_no_picture(nstexp):
    result = nstexp("objective=typo", "log_every_n_steps=1000000")
    assert result.code == 2
    assert (
        "objective=typo is not among the numbers that this run recorded: clipped_share, content, gram"
        in result.sentences[-1]
    )
    (run,) = run_folders()
    assert (run / "output.png").exists() and read_summary(run).status == "completed"


def test_a_logger_that_fails_at_the_end_costs_no_record(nstexp, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("the server is gone")

    monkeypatch.setattr("nstexp.loggers.log_pictures", fail)
    result = nstexp("logger=csv")
    assert result.code == 0
    assert result.sentences == ["a logger failed at the end (RuntimeError: the server is gone)"]
    assert read_summary(run_folders()[0]).status == "completed"


def test_a_full_disk_is_one_sentence_and_the_record_says_so(nstexp, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    result = nstexp("output=out.png")
    assert (result.code, result.out) == (2, "")
    assert re.fullmatch(r"\S*output.png: cannot be written \(no space left on the disk\)", result.sentences[0])
    assert read_summary(run_folders()[0]).status == "failed"
    left = {path.name for path in Path().rglob("*.png")} | {path.name for path in Path().rglob(".writing-*")}
    assert left == {"photo.png"}


def test_a_sweep_makes_one_run_folder_each(nstexp):
    result = nstexp("-m", "weights.beta=1,2")
    assert result.code == 0
    assert [read_summary(run).status for run in run_folders()] == ["completed", "completed"]
    betas = [yaml.safe_load((run / "config.yaml").read_text())["weights"]["beta"] for run in run_folders()]
    assert betas == [1, 2]
    assert result.path == run_folders()[0].parent.resolve() / "report.html"
    assert all((result.path.parent / name).exists() for name in ("report.html", "table.csv", "grid.png"))


def test_a_failing_job_of_a_sweep_does_not_stop_the_others(nstexp):
    result = nstexp("-m", "content=nowhere.jpg,photo.png")
    assert result.code != 0
    assert [read_summary(run).status for run in run_folders()] == ["failed", "completed"]
    assert "nowhere.jpg: there is no such file" in result.err
    assert "Traceback" not in result.err


def test_one_run_folder_for_a_sweep_is_refused(nstexp):
    result = nstexp("-m", "run_dir=here", "weights.beta=1,2")
    assert result.code != 0
    assert "set hydra.sweep.dir=... instead" in result.err
    assert not Path("here").exists()


def test_output_in_a_sweep_is_refused(nstexp):
    result = nstexp("-m", "output=out.png", "weights.beta=1,2")
    assert result.code != 0
    assert "output=... in a sweep would be written by every job" in result.err
    assert not Path("out.png").exists()
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["samples"], r"^sample:astronaut +Eileen Collins[\s\S]*^met:436535 +Wheat Field with Cypresses"),
        (["--help"], r"python -m nstexp content=photo.jpg style=painting.jpg"),
        (["experiment=smoke_gatys", "--cfg", "job", "--resolve"], r"^content: sample:astronaut$"),
        (["--info", "defaults"], r"backbone/vgg19"),
    ],
)
def test_questions_are_answered_without_a_run(nstexp, args, expected):
    result = nstexp.bare(*args)
    assert (result.code, result.err, run_folders()) == (0, "", [])
    assert re.search(expected, result.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("logger", "files"),
    [
        ("csv", ["csv/metrics.csv", "csv/hparams.yaml"]),
        ("[csv,tensorboard]", ["csv/metrics.csv", "tensorboard/events.out.tfevents.*"]),
    ],
)
def test_loggers_write_into_the_run_folder(nstexp, logger, files):
    result = nstexp(f"logger={logger}")
    assert (result.code, result.sentences) == (0, [])
    for pattern in files:
        found = list(run_folders()[0].glob(pattern))
        assert found
        assert all(file.stat().st_size > 0 for file in found)
    header = (run_folders()[0] / "csv/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"loss/total", "loss/gram", "final/clipped_share"} <= set(header)


def test_bad_input_leaves_no_folder_when_a_logger_has_begun(nstexp):
    result = nstexp("logger=[csv,tensorboard]", "content=nowhere.jpg")
    assert (result.code, run_folders()) == (2, [])


def test_wandb_works_offline_without_asking(nstexp, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    result = nstexp("logger=wandb")
    assert result.code == 0, result.err
    assert result.path.exists()
    assert "W&B logs offline: WANDB_MODE=offline" in result.sentences[0]
    (log,) = run_folders()[0].glob("wandb/offline-run-*/*.wandb")
    assert log.stat().st_size > 0


def test_ctrl_c_keeps_the_best_picture():
    args = (*SMOKE, "content=photo.png", "style=painting.jpg", "method.max_steps=1000000", "output=kept.png")
    command = [sys.executable, "-m", "nstexp", *args]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 100
        while not [log for log in Path().glob("runs/nstexp/*/losses.csv") if log.read_text().count("\n") > 2]:
            assert run.poll() is None
            assert time.monotonic() < deadline, "the first step never came"
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        result = Result(0, *run.communicate(timeout=60))
    finally:
        run.kill()
    assert run.returncode == 130
    assert re.fullmatch(r"output: interrupted at step \d+; the best picture so far is kept.png", result.sentences[-1])
    assert "Traceback" not in result.err
    assert Image.open("kept.png").size == (48, 36)
    assert read_summary(run_folders()[0]).status == "interrupted"
