"""Jobs of a sweep that stop early: the rule against Optuna's, which jobs count, and what a pruned run leaves."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gatys_runs import make_gatys
from pictures import smooth_picture
from sweep_folders import make_job

from nstexp import report
from nstexp.core.errors import ArgumentError, Stopped, UserError
from nstexp.core.measures import Scorer
from nstexp.methods.base import Controls, Style
from nstexp.outputs import RunFolder, read_summary
from nstexp.sweeps.pruning import Pruner, Settings, Sweep, better_ones, objective

INPUTS = {"photos": "photo.png", "paintings": "painting.jpg"}


def finished_job(sweep: Path, number: int, values: dict[int, float], status: str = "completed", **inputs: str) -> Path:
    """A job whose objective `gram` had these values, by step; the last one is its result."""
    metrics = {"output": {"gram": [*values.values()][-1]}}
    path = make_job(sweep, number, {"seed": number}, status=status, metrics=metrics)
    rows = [{"image": "output", **INPUTS, **inputs, "step": step, "gram": value} for step, value in values.items()]
    with (path / "objective.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_pruner(sweep: Path, directions=None, names="gram", better_high=(), **settings) -> Pruner:
    chosen = Settings(**{"every_n_steps": 10, "after_steps": 0, "after_jobs": 1, **settings})
    return Pruner(chosen, Sweep(sweep, names, directions), RunFolder(sweep / "99"), INPUTS, better_high)


def asked(pruner: Pruner, values: dict[int, float], picture: str = "output") -> list[str]:
    """The reasons at the steps with these values."""
    found = (pruner.reason(picture, step, {"gram": value}, dict) for step, value in values.items())
    return [reason for reason in found if reason]


@pytest.mark.parametrize("jobs", [1, 5, 9])
def test_the_rule_is_that_of_optuna(tmp_path, jobs):
    optuna = pytest.importorskip("optuna")
    optuna.logging.disable_default_handler()
    generator = np.random.default_rng(jobs)
    curves = np.sort(generator.uniform(0, 1, (jobs + 12, 4)))[:, ::-1]  # falling, as Optuna takes the best so far
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    for number, curve in enumerate(curves[:jobs]):
        finished_job(tmp_path, number, dict(zip((10, 20, 30, 40), curve, strict=True)))
        trial = study.ask()
        for step, value in enumerate(curve):
            trial.report(value, step)
        study.tell(trial, curve[-1])
    decisions = []
    for curve in curves[jobs:]:
        pruner, trial = make_pruner(tmp_path), study.ask()
        for step, value in enumerate(curve):
            trial.report(value, step)
            stops = bool(asked(pruner, {10 * (step + 1): value}))
            assert stops == trial.should_prune()
            decisions.append(stops)
            if stops:
                break
    assert {*decisions} == {True, False}


@pytest.mark.parametrize(
    ("values", "signs", "expected"),
    [
        ((2.0,), [1], 1),  # 1 is better; 2 is as good
        ((2.0,), [-1], 2),
        ((2.0, 2.0), [1, 1], 1),
        ((2.0, 2.0), [1, -1], 0),
    ],
)
def test_how_many_did_better(values, signs, expected):
    others = [(1.0, 1.0), (2.0, 9.0), (3.0, 1.0), (4.0, 2.0)]
    assert better_ones(values, [other[: len(values)] for other in others], signs) == expected


def test_only_completed_jobs_with_the_same_pictures_count(tmp_path):
    for number in range(3):
        finished_job(tmp_path, number, {10: 1.0})
    for number, status in enumerate(("failed", "running", "pruned", "interrupted"), 3):
        finished_job(tmp_path, number, {10: 9.0}, status)
    finished_job(tmp_path, 7, {10: 9.0}, photos="other.png")
    finished_job(tmp_path, 8, {20: 9.0})  # not at this step
    make_job(tmp_path, 9, {"seed": 9})  # without a look
    (finished_job(tmp_path, 10, {10: 9.0}) / "objective.csv").write_text("image,step\noutput,1")
    assert asked(make_pruner(tmp_path, after_jobs=3), {10: 5.0}) == [
        "pruned at step 10: 3 of 3 completed jobs did better by gram"
    ]
    assert asked(make_pruner(tmp_path, after_jobs=4), {10: 5.0}) == []
    assert asked(make_pruner(tmp_path), {10: 5.0}, "another picture") == []


def test_looks_are_every_few_steps_and_no_job_stops_before_the_first_that_may(tmp_path):
    finished_job(tmp_path, 0, {10: 1.0, 20: 1.0, 30: 1.0})
    pruner = make_pruner(tmp_path, after_steps=15)
    assert asked(pruner, {1: 5.0, 9: 5.0, 11: 5.0, 12: 5.0, 19: 5.0}) == []  # a step may be missing
    assert asked(pruner, {23: 5.0}) == ["pruned at step 23: 1 of 1 completed jobs did better by gram"]
    rows = list(csv.DictReader((tmp_path / "99" / "objective.csv").open()))
    assert [(row["image"], row["photos"], row["step"], row["gram"]) for row in rows] == [
        ("output", "photo.png", "11", "5.0"),
        ("output", "photo.png", "23", "5.0"),
    ]


@pytest.mark.parametrize(("share", "stops"), [(0, True), (0.24, True), (0.25, False), (0.9, False)])
def test_the_share_of_better_jobs(tmp_path, share, stops):
    for number, value in enumerate([1.0, 3.0, 4.0, 5.0]):
        finished_job(tmp_path, number, {10: value})
    assert bool(asked(make_pruner(tmp_path, share=share), {10: 2.0})) == stops


def test_higher_may_be_better(tmp_path):
    finished_job(tmp_path, 0, {10: 1.0})
    assert not asked(make_pruner(tmp_path, ["maximize"]), {10: 2.0})
    assert asked(make_pruner(tmp_path, ["maximize"]), {10: 0.5})
    assert asked(make_pruner(tmp_path, better_high=["gram"]), {10: 0.5})  # a grid has no direction
    assert not asked(make_pruner(tmp_path, ["minimize"], better_high=["gram"]), {10: 0.5})


def test_several_objectives_stop_a_job_that_is_worse_by_all(tmp_path):
    path = finished_job(tmp_path, 0, {10: 1.0})
    lines = "image,photos,paintings,step,gram,ssim", "output,photo.png,painting.jpg,10,1,0.5"
    (path / "objective.csv").write_text("\n".join(lines))
    two = (["minimize", "maximize"], ["gram", "ssim"])
    assert make_pruner(tmp_path, *two).reason("output", 10, {"gram": 2.0}, lambda: {"ssim": 0.6}) is None
    reason = make_pruner(tmp_path, *two).reason("output", 10, {"gram": 2.0}, lambda: {"ssim": 0.4})
    assert reason == "pruned at step 10: 1 of 1 completed jobs did better by gram and ssim"


def test_what_is_only_known_at_the_end_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"^prune: objective=luminance_mean is not known .* known are gram, ssim\. "):
        make_pruner(tmp_path, names="luminance_mean").reason("output", 10, {"gram": 1.0}, lambda: {"ssim": 1.0})
    with pytest.raises(UserError, match=r"^prune\.every_n_steps=10 needs a number to go by: set objective=style_gram"):
        make_pruner(tmp_path, names=None)


@pytest.mark.parametrize("wrong", [{"every_n_steps": -1}, {"after_jobs": 0}, {"share": 1}, {"after_steps": 1.5}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ArgumentError, match=rf"^{next(iter(wrong))}="):
        Settings(**wrong)


def test_a_search_gets_no_good_number_from_a_pruned_job(tmp_path):
    for number, value in enumerate([3.0, 7.0]):
        finished_job(tmp_path, number, {10: value})
    pruned = [finished_job(tmp_path, number, {10: value}, "pruned") for number, value in ((2, 1.0), (3, 8.0))]
    failed = finished_job(tmp_path, 4, {10: 99.0}, "failed")
    assert [objective(path, Sweep(tmp_path, "gram", ["minimize"])) for path in pruned] == [7.0, 8.0]
    assert [objective(path, Sweep(tmp_path, "gram", ["maximize"])) for path in pruned] == [1.0, 3.0]
    assert [objective(path, Sweep(tmp_path, ["gram"], ["minimize"])) for path in pruned] == [[7.0], [8.0]]
    assert objective(failed, Sweep(tmp_path, "gram", ["minimize"])) == 99.0  # as it is
    assert objective(pruned[0], Sweep(tmp_path)) is None


def test_a_scorer_of_some_measures_gives_the_same_numbers():
    network = make_gatys().encoder
    scorer = Scorer(network)
    picture, photo, painting = (smooth_picture(48, 40, seed=seed)[0] for seed in range(3))
    every, some = scorer(picture, photo, [(painting, 1.0)]), scorer.only(["ssim", "style_gram", "gram"])
    assert some(picture, photo, [(painting, 1.0)]) == {name: every[name] for name in ("style_gram", "ssim")}
    assert len(scorer.names) > 2


@pytest.mark.slow
def test_a_method_asks_after_every_step_and_stops_with_its_best_picture():
    seen = []

    def judge(step, losses, picture):
        seen.append((step, losses["total"], picture().shape))
        return "enough" if step >= 5 else None

    gatys = make_gatys(max_steps=20, optimizer="adam", levels=1)
    with pytest.raises(Stopped, match=r"^enough$") as stop:
        gatys.stylize(smooth_picture(48, 40), [Style(smooth_picture(40, 56, seed=1)[0])], Controls(judge=judge))
    assert stop.value.pruned and not stop.value.interrupted
    assert stop.value.image.shape == (1, 3, 48, 40)
    assert [step for step, _, _ in seen] == [1, 2, 3, 4, 5]
    assert all(shape == (1, 3, 48, 40) for _, _, shape in seen)
    assert len({total for _, total, _ in seen}) == 5


@pytest.mark.slow
def test_the_last_step_is_never_stopped():
    steps = []
    gatys = make_gatys(max_steps=4, optimizer="adam", levels=1)
    content, style = smooth_picture(48, 40), Style(smooth_picture(40, 56, seed=1)[0])
    result = gatys.stylize(content, [style], Controls(judge=lambda step, *_: steps.append(step)))
    assert steps == [1, 2, 3]
    assert torch.equal(result, gatys.stylize(content, [style], Controls()))  # looking changes nothing


# ---------------------------------------------------------------------------------------------------- whole sweeps

SWEEP = ("-m", "hydra.sweep.dir=sweep", "metrics=none", "objective=gram", "method.max_steps=6", "method.levels=1")
PRUNE = ("prune.every_n_steps=2", "prune.after_steps=0", "prune.after_jobs=2")
# Without a weight of the style, the photo stays as it is; the last job is as good as the first.
BETAS = "weights.beta=1000,2000,0,1000"


def statuses() -> list[str]:
    return [read_summary(path).status for path in sorted(Path("sweep").glob("[0-9]*"))]


def test_a_bad_job_stops_and_the_sweep_goes_on(nstexp, folder):
    result = nstexp(*SWEEP, *PRUNE, BETAS)
    assert result.code == 0, result.err
    assert statuses() == ["completed", "completed", "pruned", "completed"]
    summary = read_summary("sweep/2")
    assert re.fullmatch(r"pruned at step \d: 2 of 2 completed jobs did better by gram", summary.error)
    assert summary.metrics["output"]["steps"] < 6 == read_summary("sweep/3").metrics["output"]["steps"]
    assert Path("sweep/2/output.png").is_file()
    assert any(line == summary.error for line in result.sentences)
    assert any(line == "job 2: pruned, other jobs did better" for line in result.sentences)
    assert result.path.name == "report.html"
    assert [job.status for job in report.read_sweep("sweep")] == statuses()


def test_a_sweep_with_pruned_jobs_goes_on_where_it_was(nstexp, folder):
    assert nstexp(*SWEEP, *PRUNE, BETAS).code == 0
    before = {path: path.stat().st_mtime_ns for path in Path("sweep").glob("*/output.png")}
    record = json.loads(Path("sweep/3/summary.json").read_text())
    Path("sweep/3/summary.json").write_text(json.dumps(record | {"status": "interrupted"}))
    result = nstexp(*SWEEP, *PRUNE, BETAS)
    assert len([line for line in result.sentences if "finished before" in line]) == 3
    assert [str(path) for path, stamp in before.items() if path.stat().st_mtime_ns != stamp] == ["sweep/3/output.png"]
    assert statuses() == ["completed", "completed", "pruned", "completed"]
    # Without pruning, what was pruned is made, and what was completed stays.
    result = nstexp(*SWEEP, BETAS)
    assert result.code == 0, result.err
    assert len([line for line in result.sentences if "finished before" in line]) == 3
    assert statuses() == ["completed"] * 4
    assert read_summary("sweep/2").error is None


def test_of_several_photos_the_rest_is_left_out(nstexp, folder):
    Path("photos").mkdir()
    for name in ("a.png", "b.png"):
        Path("photos", name).write_bytes(Path("photo.png").read_bytes())
    assert nstexp(*SWEEP, *PRUNE, "weights.beta=1000,2000,0", "content=photos").code == 0
    assert statuses() == ["completed", "completed", "pruned"]
    assert read_summary("sweep/2").error.startswith("a: pruned at step ")
    assert [*read_summary("sweep/2").metrics] == ["a"]


def test_a_search_takes_its_best_from_completed_jobs(nstexp, folder):
    pytest.importorskip("optuna").logging.disable_default_handler()  # it writes to the stderr of the test before
    sampler = ("hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1")
    search = ("hydra/sweeper=optuna", *sampler, "hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=1")
    result = nstexp(*SWEEP, *PRUNE, *search, "weights.beta=tag(log,interval(0.001,1000))")
    assert result.code == 0, result.err
    assert {*statuses()} == {"completed", "pruned"}
    done = [read_summary(path) for path in Path("sweep").glob("[0-9]*")]
    completed = [summary.metrics["output"]["gram"] for summary in done if summary.status == "completed"]
    best = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert best["best_value"] == min(completed)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["objective=null"], r"prune\.every_n_steps=2 needs a number to go by"),
        (["objective=luminance_mean"], r"prune: objective=luminance_mean is not known before a picture is finished"),
        (["prune.after_steps=6"], r"prune\.after_steps=6: no job could stop, since each has 6 steps"),
        (["prune.share=2"], r"prune\.share=2: give a number from 0 to below 1"),
        (["task=evaluate"], r"prune"),
    ],
)
def test_what_cannot_be_pruned_is_one_sentence(nstexp, folder, args, expected):
    result = nstexp(*SWEEP, *PRUNE, "seed=1", *args)
    assert result.code in (1, 2)
    assert any(re.search(expected, line) for line in result.sentences), result.err
    assert "Traceback" not in result.err


def test_a_method_without_steps_is_one_sentence(nstexp, folder):
    inputs = ("method=adain", "logger=none", "content=photo.png", "style=painting.jpg", "hydra.sweep.dir=sweep")
    result = nstexp.bare("-m", *inputs, *PRUNE, "metrics=none", "objective=luminance_mean", "seed=1")
    assert result.code == 1
    wanted = "prune.every_n_steps=2: method=adain makes a picture at once, without steps after which it could stop: "
    assert any(line.startswith(wanted) for line in result.sentences), result.err
    assert not Path("sweep/0/output.png").exists()
