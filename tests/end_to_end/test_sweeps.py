"""Sweeps: what their jobs share, how they go on after an interruption, and the launchers and sweepers for them."""

import gc
import json
import re
import signal
import struct
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import wandb
import yaml
from helpers import SMOKE, picture, run_folders
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from wandb.proto import wandb_internal_pb2

from nstexp.core.measures import DEFAULT_NAMES
from nstexp.core.networks.vgg import VGG
from nstexp.methods.gatys import PictureOptimization
from nstexp.outputs import read_summary
from nstexp.report import read_sweep

SWEEP = ("hydra.sweep.dir=sweep", "metrics=none")
ENOUGH = ("method.init=noise", "method.max_steps=12", "weights.alpha=100")  # that settings show in the pictures
TEST_NETWORK = "backbone@metrics.encoder=random"


@pytest.fixture(autouse=True)
def _in_the_folder(folder):
    """Every test here runs in it."""


@pytest.fixture
def forwards(monkeypatch):
    """The (height, width) and deepest layer of everything that is encoded without a gradient."""
    seen = []
    forward = VGG.forward

    def spy(self, image, layers):
        if not image.requires_grad and image.grad_fn is None:
            seen.append((tuple(image.shape[-2:]), tuple(layers)))
        return forward(self, image, layers)

    monkeypatch.setattr(VGG, "forward", spy)
    return seen


def pictures() -> list[bytes]:
    return [(run / "output.png").read_bytes() for run in sorted(Path("sweep").glob("[0-9]*"))]


def test_jobs_share_the_encoder_and_the_targets(nstexp, forwards, monkeypatch):
    built = []
    init = VGG.__init__
    monkeypatch.setattr(VGG, "__init__", lambda self, *args, **kwargs: built.append(1) or init(self, *args, **kwargs))
    own = (*ENOUGH, "backbone.weights.seed=7", "method.levels=1", "method.margin_px=0")
    assert nstexp("-m", *SWEEP, *own, "weights.tv=0,1,100").code == 0
    assert len(built) == 1
    # The content's and the style's once; and of every job the losses of its best picture.
    assert len(forwards) == 2 + 3
    assert len(set(pictures())) == 3


def test_a_job_makes_what_it_makes_alone(nstexp):
    own = (*ENOUGH, "backbone.weights.seed=8", "metrics=none")
    assert nstexp("-m", "hydra.sweep.dir=sweep", *own, "weights.beta=1,10").code == 0
    alone = nstexp(*own, "weights.beta=10")
    assert alone.path.read_bytes() == pictures()[1]


@pytest.mark.parametrize("change", ["style=photo.png", "loss.gram.form=mse_hw", "layers.style=[relu1_1]"])
def test_other_settings_have_other_targets(nstexp, forwards, change):
    key, _, value = change.partition("=")
    before = {"style": "painting.jpg", "loss.gram.form": "gatys", "layers.style": "[relu2_1]"}[key]
    assert nstexp("-m", *SWEEP, *ENOUGH, "backbone.weights.seed=9", f"{key}={before},{value}").code == 0
    first, second = pictures()
    assert first != second
    alone = nstexp("metrics=none", *ENOUGH, "backbone.weights.seed=9", change)
    assert alone.path.read_bytes() == second


def test_the_same_sweep_goes_on(nstexp):
    command = ("-m", *SWEEP, "weights.beta=1,2,3")
    assert nstexp(*command).code == 0
    stamps = [path.stat().st_mtime_ns for path in sorted(Path("sweep").glob("*/output.png"))]
    record = json.loads(Path("sweep/1/summary.json").read_text())
    Path("sweep/1/summary.json").write_text(json.dumps(record | {"status": "interrupted"}))
    Path("sweep/2/output.png").unlink()
    result = nstexp(*command)
    assert result.code == 0
    assert [line for line in result.sentences if "finished before" in line] == [
        f"finished before: {Path('sweep/0').resolve()}"
    ]
    again = [path.stat().st_mtime_ns for path in sorted(Path("sweep").glob("*/output.png"))]
    assert [new == old for new, old in zip(again, stamps, strict=True)] == [True, False, False]
    assert [read_summary(run).status for run in sorted(Path("sweep").glob("[0-9]"))] == ["completed"] * 3


def test_another_sweep_in_the_same_folder_is_refused(nstexp):
    assert nstexp("-m", *SWEEP, "weights.beta=1,2").code == 0
    before = pictures()
    result = nstexp("-m", *SWEEP, "weights.beta=1,3")
    assert result.code == 1
    assert any(re.search(r"sweep/1 holds a finished run with another weights=", line) for line in result.sentences)
    assert pictures() == before
    assert yaml.safe_load(Path("sweep/1/config.yaml").read_text())["weights"]["beta"] == 2


def test_what_was_refused_does_not_relabel_what_is_there(nstexp):
    assert nstexp("-m", *SWEEP, "layers=style_first1,style_first3").code == 0
    assert nstexp("-m", *SWEEP, "layers=style_first3,style_first5").code == 1
    assert [job.overrides["layers"] for job in read_sweep("sweep")] == ["style_first1", "style_first3"]


def test_a_sweep_that_was_moved_goes_on(nstexp):
    assert nstexp("-m", *SWEEP, "weights.beta=1,2").code == 0
    Path("sweep").rename("elsewhere")
    result = nstexp("-m", "hydra.sweep.dir=elsewhere", "metrics=none", "weights.beta=1,2")
    assert len([line for line in result.sentences if "finished before" in line]) == 2


def test_an_objective_is_searched(nstexp):
    pytest.importorskip("optuna").logging.disable_default_handler()  # it writes to the stderr of the test before
    args = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "objective=gram")
    result = nstexp("-m", *SWEEP, *ENOUGH, *args, "+hydra.sweeper.sampler.seed=1", "weights.beta=interval(1,100)")
    assert result.code == 0, result.err
    best = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    found = [read_summary(Path("sweep", str(n))).metrics["output"]["gram"] for n in range(3)]
    assert best["best_value"] == min(found)
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ["objective=nothing"],
            r"objective=nothing is not among the numbers that this run recorded: clipped_share, content, gram",
        ),
        ([], r"a search needs a number to go by: objective=style_gram"),
    ],
)
def test_a_search_without_a_number_is_one_sentence(nstexp, args, expected):
    pytest.importorskip("optuna").logging.disable_default_handler()  # it writes to the stderr of the test before
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "weights.beta=interval(1,100)")
    result = nstexp("-m", *SWEEP, *search, *args)
    assert result.code == 1
    assert re.search(expected, result.err)
    assert "Traceback" not in result.err


def test_a_sweeper_that_is_not_installed_is_one_sentence(nstexp, monkeypatch):
    plugins = Plugins.instance()
    found = {kind: [p for p in known if "optuna" not in p.__module__.lower()] for kind, known in
             plugins.plugin_type_to_subclass_list.items()}  # fmt: skip
    monkeypatch.setattr(plugins, "plugin_type_to_subclass_list", found)
    store = ConfigStore.instance()
    sweepers = {name: node for name, node in store.repo["hydra"]["sweeper"].items() if "optuna" not in name}
    monkeypatch.setitem(store.repo["hydra"], "sweeper", sweepers)
    result = nstexp("-m", *SWEEP, "hydra/sweeper=optuna", "objective=gram")
    assert result.code == 2
    assert "pip install 'nstexp[optuna]'" in result.sentences[-1]
    result = nstexp("-m", *SWEEP, "hydra/launcher=jobli")
    assert len(result.sentences) == 1
    told, _, options = result.sentences[0].partition(" takes ")
    assert told == "Could not find 'hydra/launcher/jobli': hydra/launcher=..."
    assert {"basic", "joblib", "ray", "slurm"} <= {*options.split(", ")}


def test_only_a_sweep_that_ran_is_kept_by_its_loggers(nstexp, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert nstexp("-m", *SWEEP, "weights.beta=1,2", "output=x.png", "logger=wandb").code == 1
    assert not list(Path("sweep").glob("wandb/offline-run-*"))
    assert nstexp("-m", *SWEEP, "weights.beta=1,2", "logger=wandb").code == 0
    assert len(list(Path("sweep").glob("wandb/offline-run-*"))) == 1
    assert len(list(Path("sweep").glob("[01]/wandb/offline-run-*"))) == 2


def wandb_records(file: Path) -> list[wandb_internal_pb2.Record]:
    """What W&B wrote of an offline run: a log of LevelDB's form, blocks of 32 kB after a header of 7 bytes."""
    data, at, text, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        text, at = text + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # a whole one, or the last part of one
            found.append(wandb_internal_pb2.Record.FromString(text))
            text = b""
    return found


def test_in_wandb_jobs_are_runs_of_their_own_with_the_environments_names(nstexp, monkeypatch):
    environment = {"MODE": "offline", "PROJECT": "mine", "RUN_GROUP": "all", "RUN_ID": "base", "TAGS": "a,b"}
    for name, value in environment.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # W&B reads the environment once per process, and an earlier test may have made it do so
    sweep = ("-m", *SWEEP, "logger=wandb", "style=painting.jpg,missing.jpg", "logger.wandb.logger.job_type=own")
    assert nstexp(*sweep).code == 1
    wandb.teardown()
    found = {}
    for file in Path("sweep").glob("**/*.wandb"):
        records = wandb_records(file)
        told = [r.run for r in records if r.WhichOneof("record_type") == "run"]  # later ones hold what has changed
        (run,) = {run.run_id: run for run in reversed(told)}.values()
        (end,) = (r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit")
        found[run.run_id] = end
        assert (run.project, run.run_group) == ("mine", "all")
        assert {tag for run in told for tag in run.tags} == {"a", "b"}
        assert run.job_type == ("report" if run.run_id == "base-report" else "own")
    assert found == {"base-0": 0, "base-1": 1, "base-report": 0}


def test_tensorboard_compares_the_runs_by_their_final_numbers(nstexp):
    assert nstexp("-m", *SWEEP, "logger=tensorboard", "weights.beta=1,2").code == 0
    for number, beta in enumerate((1, 2)):
        events = EventAccumulator(f"sweep/{number}/tensorboard").Reload()
        content = {tag: data.plugin_data.content for tag, data in events.summary_metadata.items()}
        read = plugin_data_pb2.HParamsPluginData.FromString
        shown = [info.name.tag for info in read(content["_hparams_/experiment"]).experiment.metric_infos]
        assert {"final/total", "final/gram", "seconds"} <= {*shown}
        assert "hp_metric" not in shown
        settings = read(content["_hparams_/session_start_info"]).session_start_info.hparams
        assert settings["weights/beta"].number_value == beta
        recorded = read_summary(Path("sweep", str(number))).metrics["output"]["total"]
        assert events.Scalars("final/total")[-1].value == pytest.approx(recorded)
        assert yaml.safe_load(Path(f"sweep/{number}/tensorboard/hparams.yaml").read_text())["weights"]["beta"] == beta


def test_two_jobs_at_once(tmp_path):
    args = (*SMOKE, "content=photo.png", "style=painting.jpg", *SWEEP, "logger=none")
    sweep = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "weights.beta=1,2,-3")
    command = [sys.executable, "-m", "nstexp", "-m", *args, *sweep]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert [read_summary(Path("sweep", str(n))).status for n in range(3)] == ["completed", "completed", "failed"]
    assert "weights.beta=-3: a weight is a finite number" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == str(Path("sweep/report.html").resolve())


def test_pictures_of_a_sweep_are_measured_and_those_of_a_run_are_not(nstexp):
    assert nstexp("-m", "hydra.sweep.dir=sweep", TEST_NETWORK, "weights.beta=1").code == 0
    summary = read_summary(Path("sweep/0"))
    names = set(DEFAULT_NAMES) - {"halo", "lpips"}  # which want larger pictures than this one
    assert names <= set(summary.metrics["output"])
    assert summary.references["output"]["photo"]["ssim"] == pytest.approx(1)
    assert "vgg19-random" in summary.measured_with["style_gram"]
    assert nstexp(TEST_NETWORK).code == 0
    assert not names & set(read_summary(run_folders()[0]).metrics["output"])


def test_measures_are_by_one_network_whatever_was_optimized_with(nstexp):
    sweep = ("-m", "hydra.sweep.dir=sweep", TEST_NETWORK, "method.max_steps=1")
    assert nstexp(*sweep, "weights.alpha=1e6", "layers.style=[relu1_1],[relu3_1]").code == 0
    first, second = (read_summary(Path("sweep", n)) for n in "01")
    assert first.references == second.references
    assert first.measured_with == second.measured_with


def test_a_finished_picture_is_forgotten_and_signals_are_as_before(nstexp, monkeypatch):
    """What each picture leaves would add up in a folder of photos, and in a sweep."""
    made = []
    init = PictureOptimization.__init__
    monkeypatch.setattr(
        PictureOptimization, "__init__", lambda self, *a, **k: made.append(weakref.ref(self)) or init(self, *a, **k)
    )
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in signals]
    picture("photos/a.png", 50, 40)
    picture("photos/b.png", 50, 40, seed=3)
    assert nstexp("-m", *SWEEP, "content=photos", "weights.beta=1,2").code == 0
    gc.collect()
    assert [ref() for ref in made] == [None] * 4
    assert [signal.getsignal(number) for number in signals] == handlers


def test_a_name_of_before_that_hydra_itself_builds_is_told_the_new_one(nstexp):
    result = nstexp("-m", *SWEEP, "weights.beta=1,2", "hydra.callbacks.nstexp._target_=nstexp.hooks.SweepReport")
    assert result.code == 2
    wanted = "nstexp.hooks.SweepReport is now nstexp.sweeps.hooks.SweepReport: change this _target_"
    assert wanted in result.sentences


@pytest.mark.parametrize(
    ("args", "key"),
    [
        (["weights.beta=range(0,0)"], "weights.beta=range(0,0)"),
        (["weights.alpha=1,2", "weights.beta=range(5, 1)"], "weights.beta=range(5, 1)"),
        (["weights.beta=range(3,3)", "hydra.sweeper.max_batch_size=2"], "weights.beta=range(3,3)"),
        (["layers=glob(nothing_*)"], "layers=glob(nothing_*)"),
        (["weights.beta=1,2", "hydra.sweeper.max_batch_size=0"], "hydra.sweeper.max_batch_size=0"),
    ],
)
def test_a_sweep_without_jobs_is_refused(nstexp, args, key):
    result = nstexp("-m", *SWEEP, *args)
    assert result.code == 2
    assert len(result.sentences) == 1 and key in result.sentences[0]
    assert not Path("sweep").exists()


def test_only_the_last_value_of_a_key_counts(nstexp):
    assert nstexp("-m", *SWEEP, "weights.beta=range(0,0)", "weights.beta=1").code == 0


def test_trainings_at_once_have_processes_that_read(tmp_path):
    for n in range(4):
        picture(f"photos/{n}.png", 60, 50, seed=n)
    command = [sys.executable, "-m", "nstexp", "-m", "experiment=smoke_adain", "hydra.sweep.dir=sweep"]
    data = ("data.content=photos", "data.style=photos", "data.workers=1", "method.max_steps=2", "seed=1,2")
    sweep = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = subprocess.run([*command, *data, *sweep], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [read_summary(Path("sweep", n)).status for n in "01"] == ["completed", "completed"]
