"""task=evaluate: all pairs, every method, one set of measures; and the scripts that print its tables."""

import csv
import json
import random
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from helpers import SCRIPTS, picture, run_folders
from PIL import Image

from nstexp.core.errors import UserError
from nstexp.core.intervals import bootstrap_mean
from nstexp.core.measures import DEFAULT_NAMES
from nstexp.outputs import objective, read_summary
from nstexp.tasks.pairs import chosen_pairs
from nstexp.tasks.scores import differences, mean_rows, mean_scores, score_intervals, table_lines

SMALL = (
    "task=evaluate", "image_px=48", "backbone=random", "backbone@metrics.encoder=random", "logger=none",
    "picture_every_n_steps=0", "precision=fp32",
)  # fmt: skip
GATYS = ("method.max_steps=4", "method.levels=1")
INPUTS = ("content=[photo.png,other.png]", "style=[painting.jpg,second.png]")
MEASURES = set(DEFAULT_NAMES) - {"halo", "lpips"}  # which want larger pictures than these


@pytest.fixture(autouse=True)
def _in_the_folder(folder):
    """Every test here runs in it."""
    picture("other.png", 44, 50, seed=3)
    picture("second.png", 60, 40, seed=4)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_pair_is_scored_beside_the_photo_and_the_painting(nstexp):
    result = nstexp.bare(*SMALL, *GATYS, *INPUTS)
    assert result.code == 0, result.err
    (run,) = run_folders()
    assert result.path == run.resolve() / "scores.csv"
    found = rows(result.path)
    pairs = [(c, s) for s in ("painting", "second") for c in ("photo", "other")]
    assert [(r["content"], r["style"]) for r in found if r["method"] == "gatys"] == pairs
    assert [(r["content"], r["style"]) for r in found if r["method"] == "photo"] == pairs
    for row in found:
        assert {key for key, value in row.items() if value} >= MEASURES
    photos, paintings, made = ([r for r in found if r["method"] == m] for m in ("photo", "painting", "gatys"))
    assert all(float(r["content_loss"]) == 0 and float(r["ssim"]) == pytest.approx(1) for r in photos)
    assert all(float(r["color_mean"]) < 0.01 for r in paintings)
    assert all(float(r["style_gram"]) < float(p["style_gram"]) for r, p in zip(made, photos, strict=True))
    assert [r["new_style"] for r in made] == ["True", "False"] * 2
    assert all(float(r["stylize_seconds"]) > 0 for r in made)
    assert all(Image.open(run / f"{c}_{s}_gatys.png").size for c, s in pairs)
    summary = read_summary(run)
    assert summary.metrics["photo_painting_gatys"]["ssim"] == float(made[0]["ssim"])
    means = {(row["method"], row["measure"]): row for row in rows(run / "means.csv")}
    assert {method for method, _ in means} == {"gatys", "photo", "painting"}
    of_ssim = means["gatys", "ssim"]
    assert [float(of_ssim[end]) for end in ("low", "high")] == summary.intervals["mean of gatys"]["ssim"]
    assert float(of_ssim["low"]) < float(of_ssim["mean"]) < float(of_ssim["high"])
    assert float(means["photo", "ssim"]["difference"]) == pytest.approx(1 - float(of_ssim["mean"]))
    mean = statistics.fmean(float(r["ssim"]) for r in made)
    assert summary.metrics["mean of gatys"]["ssim"] == pytest.approx(mean)
    assert summary.references["other_second_gatys"]["photo"]["content_loss"] == 0
    assert (summary.task, summary.method, summary.status) == ("evaluate", "gatys", "completed")
    width, height = Image.open(run / "grid.png").size
    assert width > 3 * 80 and height > 3 * 44
    assert not (run / "curve.csv").exists()


def test_several_methods_bring_their_own_settings(nstexp):
    noise, still = ("'method=gatys'", "'method.init=noise'", "'method.max_steps=6'"), "'method=gatys'"
    methods = f"{{noise: [{','.join(noise)}], still: [{still},'method.max_steps=1']}}"
    one_pair = ("content=photo.png", "style=painting.jpg")
    result = nstexp.bare(*SMALL, *one_pair, "method.levels=1", f"task.methods={methods}")
    assert result.code == 0, result.err
    found = {row["method"]: row for row in rows(result.path)}
    assert list(found) == ["noise", "still", "photo", "painting"]
    # One evaluation of the loss leaves the photo as it is.
    assert float(found["still"]["content_loss"]) < 1e-4 < float(found["noise"]["content_loss"])
    assert read_summary(result.path.parent).method == "noise,still"
    shown = [line.split() for line in result.sentences if line.startswith(("ssim ", "noise "))]
    assert [cells[0] for cells in shown] == ["noise", "ssim"] and shown[1][3] == "1"


def test_a_list_of_methods_on_the_command_line(nstexp):
    """AdaIN needs a decoder of its own network, so its pictures fail; Gatys' are there all the same."""
    args = ("method=[gatys,adain]", "content=photo.png", "style=painting.jpg", "method.max_steps=2")
    result = nstexp.bare(*SMALL, *args)
    assert result.code == 2
    assert re.search(r"1 of 2 pictures failed, the first: photo, painting, adain: .*decoder", result.sentences[-1])
    (run,) = run_folders()
    assert [row["method"] for row in rows(run / "scores.csv")] == ["gatys", "photo", "painting"]
    assert (run / "photo_painting_gatys.png").exists() and (run / "grid.png").exists()
    assert read_summary(run).status == "failed"


def test_the_curve_is_that_of_unfinished_pictures(nstexp):
    args = ("content=photo.png", "style=painting.jpg", "task.curve_every_n_steps=3")
    plain = ("method.max_steps=7", "method.levels=1", "method.optimizer=torch_lbfgs", "method.init=noise")
    result = nstexp.bare(*SMALL, *args, *plain)
    assert result.code == 0, result.err
    curve = rows(result.path.parent / "curve.csv")
    assert [row["step"] for row in curve] == ["1", "3", "6"]
    losses = [float(row["style_gram"]) for row in curve]
    final = float(rows(result.path)[0]["style_gram"])
    assert losses[0] > losses[1] > losses[2] >= final


def test_square_pictures(nstexp):
    result = nstexp.bare(*SMALL, *GATYS, *INPUTS, "task.crop=square")
    assert result.code == 0, result.err
    sizes = {Image.open(path).size for path in result.path.parent.glob("*_gatys.png")}
    assert sizes == {(48, 48)}
    painting = next(row for row in rows(result.path) if row["method"] == "painting")
    assert float(painting["style_gram"]) == 0, "photo and painting have one size, so nothing was resized"


def test_some_of_the_measures(nstexp):
    """By the group, and of the group by names, which the others do not cost anything then."""
    for chosen in (["metrics=[cfsd,ssim]"], ["metrics.names=[cfsd,ssim]"]):
        result = nstexp.bare(*SMALL, *GATYS, *chosen, "content=photo.png", "style=painting.jpg")
        assert result.code == 0, result.err
        assert list(rows(result.path)[0]) == [
            "content",
            "style",
            "method",
            "new_style",
            "stylize_seconds",
            "cfsd",
            "ssim",
        ]
        summary = read_summary(result.path.parent)
        assert list(summary.measured_with) == ["cfsd", "ssim"] and summary.higher_is_better == ["ssim"]


@pytest.mark.parametrize("none", ["metrics.names=[]", "measure=false"])
def test_no_measures_at_all(nstexp, none):
    result = nstexp.bare(*SMALL, *GATYS, none, "content=photo.png", "style=painting.jpg")
    assert result.code == 0, result.err
    assert len(rows(result.path)) == 1
    assert read_summary(result.path.parent).higher_is_better is None


@pytest.mark.quick
def test_without_measures_only_time_is_taken(nstexp):
    result = nstexp.bare(*SMALL[:3], *SMALL[4:], *GATYS, "metrics=none", "content=photo.png", "style=painting.jpg")
    assert result.code == 0, result.err
    (row,) = rows(result.path)
    assert set(row) == {"content", "style", "method", "new_style", "stylize_seconds"}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["task.crop=round"], "task.crop=round is unknown, choose one of none, square"),
        (["task.crop=square", "image_px=null"], "task.crop=square needs a side: set image_px, such as image_px=512"),
        (["task.curve_every_n_steps=-1"], "task.curve_every_n_steps=-1: give a whole number, 0 or larger"),
        (["task.methods={photo: ['method=gatys']}"], "task.methods: 'photo' cannot be the name of a method"),
        (["task.methods={a/b: ['method=gatys']}"], "task.methods: 'a/b' cannot be the name of a method"),
        (["task.methods={a: ['method=gatys','seed=3']}"], "task.methods, a: seed=... is the same for all methods"),
        (
            ["image_px=null", "task.methods={a: ['method=gatys','image_px=32']}"],
            "task.methods, a: image_px=... is the same for all methods",
        ),
        (["task.curve_every_n_steps=5", "measure=false"], "task.curve_every_n_steps needs measures"),
        (
            ["experiment=adain_fig3", "method=[gatys,adain]"],
            "method=[gatys,adain]: the experiment has a table of methods already, task.methods; leave "
            "method=[gatys,adain] out, or leave the experiment out and write task=evaluate method=[gatys,adain]",
        ),
        (
            ["method=[gatys,gtays]"],
            "Could not find 'method/gtays': method=... takes adain, cin, gatys, swift, texture_net",
        ),
        (
            ["metrics.names=[ssim,fid]"],
            "metrics.names: fid is not among the measures of this run: metrics=[default,fid]",
        ),
        (["+metrics._target_=nstexp.core.my.Scorer"], "metrics._target_: every measure needs its own _target_"),
        (["metrics.longer_side_px=0"], "metrics.longer_side_px=0: give a whole number, 1 or larger"),
        (["metrics.cfsd.layer=relu9_1"], "metrics.cfsd: unknown layer 'relu9_1': vgg19-random-0 has "),
        (["metrics=[ssim,fid]", "metrics.fid.weights=no.pth"], "metrics.fid.weights=no.pth: there is no such file"),
        (["metrics=[ssim,fid]", "metrics.fid.side_px=74"], "metrics.fid.side_px=74: give a whole number, 75 or"),
        (
            ["+metrics.fid.side_px=75"],
            "metrics.fid has settings, but metrics=[...] does not list this measure: add it there",
        ),
        (["content=nowhere"], "content=nowhere: there is no such file"),
    ],
)
def test_bad_input_is_one_sentence(nstexp, args, expected):
    result = nstexp.bare(*SMALL, "content=photo.png", "style=painting.jpg", *args)
    assert (result.code, result.out) == (2, "")
    assert len(result.sentences) == 1 and expected in result.sentences[0]
    assert run_folders() == []


def test_several_methods_are_for_evaluations(nstexp):
    result = nstexp("method=[gatys,adain]")
    assert result.code == 2
    assert "only task=evaluate takes several methods" in result.sentences[-1]


def test_means_are_over_pairs_and_times_are_medians():
    table = [
        {"method": "photo", "ssim": 1.0},
        *({"method": "a", "ssim": s, "stylize_seconds": t, "new_style": new}
          for s, t, new in [(0.2, 9.0, True), (0.4, 1.0, False), (0.6, 3.0, False), (0.8, 2.0, False)]),
    ]  # fmt: skip
    means = mean_scores(table)
    assert list(means) == ["a", "photo"]
    wanted = {"pairs": 4, "ssim": 0.5, "seconds_per_picture": 2.0, "seconds_with_new_style": 9.0}
    assert means["a"] == pytest.approx(wanted)
    head, pairs, ssim, *_ = table_lines(means)
    assert pairs.split() == ["pairs", "4", "1"]
    assert head.split() == ["a", "photo"]
    assert ssim.split() == ["ssim", "0.5", "1"]


def scored(method: str, values: dict[tuple[str, str], float]) -> list[dict]:
    return [{"content": c, "style": s, "method": method, "ssim": value} for (c, s), value in values.items()]


PAIRS = {(f"c{n}", f"s{m}"): 0.1 * n + 0.01 * m for n in range(5) for m in range(4)}


def test_means_have_intervals_for_other_photos_and_paintings():
    table = scored("a", PAIRS)
    low, high = score_intervals(table)["a"]["ssim"]
    photos = [0.1 * n + 0.015 for n in range(5)]
    assert (low, high) == pytest.approx(bootstrap_mean(photos), abs=0.05), "photos make the difference"
    assert "seconds" not in score_intervals(table)["a"]
    assert score_intervals(table[:1])["a"] == {}, "one pair says nothing of others"
    lines = list(table_lines(mean_scores(table), score_intervals(table)))
    assert lines[2].split() == ["ssim", "0.215", f"({low:.3g}", "to", f"{high:.3g})"]


def test_methods_are_compared_pair_by_pair():
    """A method that is always a little better is better, although photos differ much more than the methods."""
    noise = random.Random(0)
    better = {pair: value + 0.02 + 0.001 * noise.random() for pair, value in PAIRS.items()}
    table = scored("a", PAIRS) + scored("b", better) + scored("photo", dict.fromkeys(list(PAIRS)[:2], 1.0))
    mean, (low, high) = differences(table)["b"]["ssim"]
    assert 0.02 < low < mean < high < 0.021
    assert differences(table)["photo"]["ssim"][0] == pytest.approx(1 - 0.005), "of the pairs that both have"
    assert differences(scored("a", PAIRS)) == {}
    means, intervals = mean_scores(table), score_intervals(table)
    of_a, of_b, _ = mean_rows(means, intervals, differences(table))
    assert (of_a["method"], of_a["measure"], of_a["pairs"], of_a["low"]) == ("a", "ssim", 20, intervals["a"]["ssim"][0])
    assert "difference" not in of_a
    assert (of_b["difference"], of_b["difference_low"], of_b["difference_high"]) == (mean, low, high)


@pytest.mark.parametrize(("photos", "paintings", "count"), [(20, 40, 80), (3, 5, 4), (4, 6, 24), (1, 3, 2), (6, 4, 13)])
def test_pairs_are_chosen_evenly_and_always_the_same(photos, paintings, count):
    contents, styles = ([f"{kind}{n}" for n in range(k)] for kind, k in (("c", photos), ("s", paintings)))
    found = chosen_pairs(contents, styles, count)
    assert len(set(found)) == count
    assert found == chosen_pairs(contents, styles, count)
    for names, place in ((contents, 0), (styles, 1)):
        often = [sum(pair[place] == name for pair in found) for name in names]
        assert max(often) - min(often) <= 1
    if count < photos * paintings:
        assert set(found) < set(chosen_pairs(contents, styles, count + 1)), "more of them include fewer"
    assert found != chosen_pairs(contents, styles, None)[:count] or photos == 1 or count == photos * paintings


def write(path: Path, table: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in table for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(table)


def script(name: str, *args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / name), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_table_of_seconds():
    for number, (px, factor) in enumerate([(512, 4), (256, 1)]):
        times = [("gatys", True, 22), ("gatys", False, 20), ("adain", True, 0.2), ("adain", False, 0.1)]
        table = [{"method": m, "new_style": new, "stylize_seconds": factor * t} for m, new, t in times]
        write(Path(f"sweep/{number}/scores.csv"), table)
        Path(f"sweep/{number}/config.yaml").write_text(yaml.safe_dump({"image_px": px}))
    done = script("speed_table.py", "sweep")
    assert done.stdout.splitlines() == [
        "| method | 256 px | 512 px |",
        "|---|---|---|",
        "| gatys | 20 (22) | 80 (88) |",
        "| adain | 0.1 (0.2), 200 times as fast | 0.4 (0.8), 200 times as fast |",
    ]
    failed = script("speed_table.py", "nowhere")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "nowhere: not a sweep of experiment=speed_table" in failed.stderr and "Traceback" not in failed.stderr


def test_the_table_of_losses_by_iteration():
    def numbers(style: float, content: float) -> dict[str, float]:
        return {"style_moments": style, "content_loss": content, "color_mean": 0.1, "color_cov": 0.2}

    pairs = [("c1", "s1", 1.0), ("c2", "s1", 3.0)]
    scores = [{"content": c, "style": s, "method": m, **numbers(own, 2)} for c, s, adain in pairs
              for m, own in (("adain", adain), ("photo", 9.0))]  # fmt: skip
    curve = [{"content": c, "style": s, "method": "gatys", "step": step, **numbers(8 / step, 0.1 * step)}
             for c, s, _ in pairs for step in (1, 2, 4)]  # fmt: skip
    write(Path("run/scores.csv"), scores)
    write(Path("run/curve.csv"), curve)
    lines = script("fig3_table.py", "run").stdout.splitlines()
    # Gatys' mean style loss is as low as the method's at the last iteration.
    assert lines[2] == "| s1 | 9.000 | 2.000 | 2.000 | 0.100 | 0.100 | 0.200 | 0.200 | 4 |"
    assert lines[3] == "| **all** | 9.000 | 2.000 | 2.000 | 0.100 | 0.100 | 0.200 | 0.200 | 4 |"
    assert lines[-5] == "| | 1 | 2 | 4 | adain |"
    assert lines[-3:] == [
        "| gatys, style loss | 8.000 | 4.000 | 2.000 | 2.000 |",
        "| gatys, content loss | 0.100 | 0.200 | 0.400 | 2.000 |",
        "| gatys, pairs where adain's is no higher | 2 | 2 | 1 | of 2 |",
    ]
    write(Path("run/curve.csv"), [row for row in curve if row["step"] < 4])
    assert script("fig3_table.py", "run").stdout.splitlines()[2].endswith("| after 2 |")
    Path("run/curve.csv").unlink()
    alone = script("fig3_table.py", "run").stdout.splitlines()
    assert len(alone) == 4 and alone[2] == "| s1 | 9.000 | 2.000 | 2.000 | 0.100 | 0.100 | 0.200 | 0.200 |"
    other = script("fig3_table.py", "run", "--method", "photo", "--style-loss", "color_mean").stdout.splitlines()
    assert other[2] == "| s1 | 0.100 | 0.100 | 2.000 | 0.100 | 0.100 | 0.200 | 0.200 |"
    missing = script("fig3_table.py", "run", "--method", "cin")
    assert missing.returncode == 2 and "it has no pictures of the method cin" in missing.stderr
    failed = script("fig3_table.py", "nowhere")
    assert failed.returncode == 2 and "not a finished run of experiment=adain_fig3" in failed.stderr


def test_measures_of_the_whole_set(nstexp, tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    torch.save(net.state_dict(), "inception.pth")
    args = ("metrics=[ssim,fid]", "metrics.fid.weights=inception.pth", "metrics.fid.side_px=75")
    result = nstexp.bare(*SMALL, *GATYS, *INPUTS, *args)
    assert result.code == 0, result.err
    summary = read_summary(result.path.parent)
    assert summary.metrics["mean of gatys"]["fid"] > 0
    assert "inception.pth" in summary.measured_with["fid"] and "4 results, 2 paintings" in summary.measured_with["fid"]
    (line,) = [line.split() for line in result.sentences if line.startswith("fid ")]
    assert float(line[1]) == pytest.approx(summary.metrics["mean of gatys"]["fid"], rel=1e-3)
    assert float(line[2]) > 0 and line[3] == "-", "the photos', and none of the paintings"


def test_a_set_that_is_too_small_is_told(nstexp):
    net = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    torch.save(net.state_dict(), "inception.pth")
    args = ("metrics=[ssim,fid]", "metrics.fid.weights=inception.pth", "metrics.fid.side_px=75")
    result = nstexp.bare(*SMALL, *GATYS, "content=photo.png", "style=painting.jpg", *args)
    assert result.code == 0, result.err
    assert "fid needs 2 or more results and paintings" in result.err
    assert "fid" not in read_summary(result.path.parent).metrics["mean of gatys"]


def test_missing_weights_are_one_sentence(nstexp, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", "hub")
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no network")))
    result = nstexp.bare(*SMALL, "content=photo.png", "style=painting.jpg", "metrics=[fid]")
    assert (result.code, run_folders()) == (2, [])
    assert "leave" in result.sentences[-1] and "fid" in result.sentences[-1] and "hub" in result.sentences[-1]


def test_a_fast_method_is_timed_twice_and_recorded_once(nstexp):
    """What it makes for the clock is not in the losses, and the style is new to the clock, too."""
    result = nstexp.bare(*SMALL, *GATYS, "content=[photo.png,other.png]", "style=painting.jpg", "log_every_n_steps=1")
    assert result.code == 0, result.err
    run = result.path.parent
    steps = [(row["image"], row["step"]) for row in rows(run / "losses.csv")]
    assert len(steps) == len(set(steps))
    assert {name for name, _ in steps} == {"photo_painting_gatys", "other_painting_gatys"}
    alone = nstexp.bare(*SMALL, *GATYS, "content=photo.png", "style=painting.jpg")
    first, again = (read_summary(folder).metrics["photo_painting_gatys"] for folder in (run, alone.path.parent))
    assert first["total"] == again["total"]


def test_a_run_that_made_something_stays_when_a_picture_fails(nstexp):
    picture("tall.png", 3, 60, seed=5)
    result = nstexp.bare(*SMALL, *GATYS, "content=[photo.png,tall.png]", "style=painting.jpg")
    assert result.code == 2
    (run,) = run_folders()
    assert rows(run / "scores.csv")[0]["method"] == "gatys"
    assert (run / "photo_painting_gatys.png").exists()
    assert "1 of 2 pictures failed, the first: tall, painting, gatys" in result.sentences[-1]


def test_names_that_would_be_the_same_are_numbered(nstexp):
    for name in ("a.png", "a_b.png", "b_c.png", "c.png"):
        picture(name, 40, 40)
    result = nstexp.bare(*SMALL, *GATYS, "content=[a.png,a_b.png]", "style=[b_c.png,c.png]", "measure=false")
    assert result.code == 0, result.err
    assert len(list(result.path.parent.glob("a_*gatys*.png"))) == 4


def test_a_search_over_evaluations_goes_by_the_mean_of_one_method(nstexp, tmp_path):
    result = nstexp.bare(*SMALL, *GATYS, *INPUTS, "objective=ssim")
    assert result.code == 0, result.err
    metrics = read_summary(result.path.parent).metrics
    assert objective(result.path.parent, "ssim") == metrics["mean of gatys"]["ssim"]
    (result.path.parent / "summary.json").write_text(
        json.dumps({"status": "completed", "metrics": {"mean of a": {"ssim": 1}, "mean of b": {"ssim": 0}}})
    )
    with pytest.raises(UserError, match="this evaluation has 2 methods, search with one at a time"):
        objective(result.path.parent, "ssim")
