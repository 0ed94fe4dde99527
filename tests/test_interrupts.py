"""Ctrl-C and its relatives: what a signal does, and what a command leaves wherever one comes."""

import os
import pkgutil
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from gatys_runs import make_gatys
from helpers import SMOKE, picture, run_folders, wait_for
from pictures import smooth_picture
from pytorch_lightning import Callback

from nstexp import interrupts, run
from nstexp.callbacks import StopOnInterrupt
from nstexp.core.errors import Stopped
from nstexp.methods.base import Controls, Style
from nstexp.methods.picture import PictureOptimization
from nstexp.outputs import read_summary
from nstexp.tasks import stylize

TEST_NETWORK = "backbone@metrics.encoder=random"


def press(*args, **more) -> None:
    os.kill(os.getpid(), signal.SIGINT)


# ------------------------------------------------------------------------------------------------------------ the parts


@pytest.mark.parametrize("signum", interrupts.ENDINGS)
def test_every_way_to_end_a_command_raises_keyboard_interrupt(signum):
    before = [signal.getsignal(number) for number in interrupts.ENDINGS]
    with pytest.raises(KeyboardInterrupt), interrupts.heeded(), interrupts.heeded():
        assert not interrupts.asked()
        os.kill(os.getpid(), signum)
    assert [signal.getsignal(number) for number in interrupts.ENDINGS] == before
    with interrupts.heeded():
        interrupts.check()  # the time before does not count


def test_what_others_answer_to_stays_theirs(monkeypatch):
    """As a cluster's launcher answers to SIGTERM."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *args: heard.append(args[0]))
    try:
        with interrupts.heeded():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_destructor_does_not_swallow_it():
    class Slow:
        def __del__(self):
            press()

    with pytest.raises(KeyboardInterrupt), interrupts.heeded():
        thing = Slow()
        del thing
        time.sleep(10)


def test_what_somebody_else_swallowed_is_noticed():
    with pytest.raises(KeyboardInterrupt), interrupts.heeded():
        with suppress(KeyboardInterrupt):
            press()
        assert interrupts.caused(RuntimeError("a worker is missed"))
        interrupts.check()
    assert not interrupts.caused(RuntimeError("later"))


def test_what_is_held_is_finished():
    done = []
    with interrupts.heeded():
        with interrupts.held() as hold:
            press()
            done.append(hold.asked)
        with interrupts.held() as undisturbed:
            done.append(undisturbed.asked)
    assert done == [True, False]


@pytest.mark.parametrize("signum", interrupts.ENDINGS)
def test_before_there_is_anything_to_keep_one_line_is_all(signum):
    code = f"from os import *; from nstexp.interrupts import *; leave_at_once(130, 'gone'); kill(getpid(), {signum:d})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "gone\n")


# ----------------------------------------------------------------------------------------------------------- a picture


class Interrupts(Callback):
    """Presses Ctrl-C behind an iteration of the optimizer."""

    def __init__(self, iteration: int, times: int = 1) -> None:
        self.iteration, self.times = iteration, times

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx + 1 == self.iteration:
            for _ in range(self.times):
                press()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("iteration", range(1, 12))
def test_a_picture_is_kept_at_every_step_also_where_it_becomes_finer(iteration, times):
    """Iterations 4 and 8 are the changes of the level."""
    made = []
    stop = [Interrupts(iteration, times), StopOnInterrupt()]
    gatys = make_gatys(callbacks=stop, optimizer="adam", levels=3, coarse_steps=3, max_steps=10)
    inner = gatys.optimization
    gatys.optimization = lambda *args: made.append(inner(*args)) or made[-1]
    content = smooth_picture(48, 40)
    with interrupts.heeded(), pytest.raises(Stopped, match="interrupted at step") as stopped:
        gatys.stylize(content, [Style(smooth_picture(40, 56, seed=1)[0])], Controls())
    assert stopped.value.interrupted
    assert stopped.value.image.shape == content.shape
    (work,) = made
    assert work.steps_done == iteration - (iteration >= 4) - (iteration >= 8)
    if iteration in (4, 8):  # nothing has been evaluated at the new size: it is the coarser level's, enlarged
        assert torch.equal(stopped.value.image, work.picture())
        assert not torch.allclose(stopped.value.image, content, atol=1e-3)


# ----------------------------------------------------------------------------------------------------------- a command

PLACES = {
    "torch is there": ("nstexp.run.run", "^interrupted$"),
    "the parts are built": ("nstexp.run._pieces", "^interrupted$"),
    "the loggers begin": ("nstexp.loggers.log_config", "^interrupted$"),
    "the photo is read": ("nstexp.tasks.stylize.load_with_alpha", "output: interrupted; there is no picture yet"),
    "the painting is read": ("nstexp.tasks.styles.load_image", "^interrupted$"),
    "the trainer is built": ("pytorch_lightning.Trainer", "output: interrupted; there is no picture yet"),
    "the targets are made": ("nstexp.methods.picture.TargetMaker.at", "output: interrupted at step .* best picture"),
    "the losses are summed up": (
        "nstexp.methods.picture.PictureOptimization.final_losses",
        "interrupted at step .* best picture",
    ),
    "colors are put right": ("nstexp.tasks.finish.finish_colors", "output: interrupted at the end; the best picture"),
    "the picture is saved": ("nstexp.outputs.RunFolder.save_picture", "output: interrupted at the end; the picture is"),
    "it is recorded": ("nstexp.outputs.RunFolder.record_metrics", "output: interrupted at step .* best picture"),
    "the loggers end": ("nstexp.loggers.close", r"interrupted at the end: .*output\.png is complete, but a logger"),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACES)
def test_wherever_it_comes_there_is_a_record_and_one_line(nstexp, folder, monkeypatch, where):
    place, sentence = PLACES[where]
    inner = pkgutil.resolve_name(place)

    def pressed(*args, **more):
        press()
        return inner(*args, **more)

    monkeypatch.setattr(place, pressed)
    result = nstexp("picture_every_n_steps=0", "logger=csv")
    assert result.code == 130
    assert "Traceback" not in result.err
    assert re.search(sentence, result.sentences[-1]), result.err
    (made,) = run_folders()
    assert read_summary(made).status == "interrupted"
    assert (made / "output.png").exists() == ("no picture" not in sentence and "^" not in sentence)
    assert not list(made.rglob(".writing*"))


@pytest.mark.slow
def test_the_record_has_the_last_step_also_of_one_that_is_in_a_hurry(nstexp, folder, monkeypatch):
    step = nstexp_step(monkeypatch, at=7, times=2)
    result = nstexp("method.max_steps=20", "log_every_n_steps=5", "method.optimizer=adam")
    assert result.code == 130
    (made,) = run_folders()
    assert int((made / "losses.csv").read_text().splitlines()[-1].split(",")[1]) == step
    assert read_summary(made).metrics["output"]["steps"] == step
    kept = f"the best picture so far is {made.absolute() / 'output.png'}"
    assert result.sentences[-1] == f"output: interrupted at step {step}; {kept}"


def nstexp_step(monkeypatch, at: int, times: int) -> int:
    """Have Ctrl-C pressed in the evaluation behind step `at`."""
    inner = PictureOptimization._evaluate

    def evaluate(self, image):
        for _ in range(times * (self.steps_done == at)):
            press()
        return inner(self, image)

    monkeypatch.setattr(PictureOptimization, "_evaluate", evaluate)
    return at if times > 1 else at + 1


@pytest.mark.slow
def test_a_folder_of_photos_says_what_is_done(nstexp, folder, monkeypatch):
    for name in ("a", "b", "c"):
        picture(f"in/{name}.png", 40, 40)
    inner, read = stylize.load_with_alpha, []
    monkeypatch.setattr(
        stylize,
        "load_with_alpha",
        lambda path, *args: (read.append(path), len(read) == 3 and press(), inner(path, *args))[2],
    )
    result = nstexp("content=in", "output=results")
    assert (result.code, sorted(os.listdir("results"))) == (130, ["a.png", "b.png"])
    assert result.sentences[-1] == "2 of 3 pictures are done; c: interrupted; there is no picture yet"


@pytest.mark.slow
def test_a_sweep_stops_and_says_how_to_go_on(nstexp, folder, monkeypatch):
    sweep = ("-m", "hydra.sweep.dir=sweep", TEST_NETWORK, "metrics=none", "weights.beta=1,2,3")
    inner, called = run.run, []
    monkeypatch.setattr(run, "run", lambda *args: (called.append(1), len(called) == 2 and press(), inner(*args))[2])
    result = nstexp(*sweep)
    assert result.code == 130
    assert "Traceback" not in result.err
    hint = "the same command with hydra.sweep.dir=sweep continues; finished jobs are kept"
    place = result.sentences.index("interrupted")
    assert result.sentences[place + 1] == hint
    assert [read_summary(Path("sweep", n)).status for n in "01"] == ["completed", "interrupted"]
    assert not Path("sweep/2").exists()
    assert Path("sweep/report.html").exists()
    assert nstexp(*sweep).code == 0
    assert [read_summary(Path("sweep", n)).status for n in "012"] == ["completed"] * 3
    assert len(called) == 4  # the first job was not made again


@pytest.mark.slow
def test_a_sweep_whose_report_is_interrupted_says_how_to_get_it(nstexp, folder, monkeypatch):
    monkeypatch.setattr("nstexp.report.write_report", press)
    result = nstexp("-m", "hydra.sweep.dir=sweep", "metrics=none", "weights.beta=1")
    assert result.code == 130
    again = f"to write it again: python -m nstexp.report {Path('sweep').absolute()}"
    assert result.sentences[-1] == f"the sweep's report is incomplete (interrupted); {again}"


@pytest.mark.slow
@pytest.mark.parametrize("signum", interrupts.ENDINGS)
@pytest.mark.parametrize("begun", [False, True])
def test_the_real_command_before_and_while_it_loads(folder, begun, signum):
    inputs = ("content=photo.png", "style=painting.jpg")
    command = [sys.executable, "-m", "nstexp", *SMOKE, *inputs, "method.max_steps=100000"]
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    if begun:
        wait_for(lambda: list(Path().glob("runs/nstexp/*/.hydra/overrides.yaml")))
    else:
        wait_for(lambda: _answers(process.pid, signal.SIGTERM))  # Python itself answers to Ctrl-C
    process.send_signal(signum)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert err.splitlines()[-1:] == ["interrupted"]
    assert "Traceback" not in err
    assert [read_summary(made).status for made in run_folders()] == ["interrupted"] * begun


def _answers(pid: int, signum: int) -> bool:
    """Whether a process has an answer of its own to a signal."""
    caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return bool(int(caught, 16) >> (signum - 1) & 1)
