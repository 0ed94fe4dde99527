"""What a sweep leaves: its jobs as rows, table.csv, the contact sheet, and Hydra's call at the end.

report.html has tests of its own, in test_page.py.
"""

import csv
import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import picture
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from PIL import Image
from sweep_folders import COLORS, make_job, make_repeats, make_sweep

from nstexp import report
from nstexp.config.quoting import resolved_yaml
from nstexp.core.errors import UserError
from nstexp.media import sheet
from nstexp.outputs import RunFolder
from nstexp.report import grid, tables
from nstexp.report.__main__ import main
from nstexp.report.inputs import find_inputs
from nstexp.sweeps.hooks import SweepReport, report_unfinished


def read_table(folder: Path, means: bool = False) -> list[dict[str, str]]:
    """The rows of table.csv that are means of several pictures, or those that are not."""
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if (row["status"] == "mean") == means]


def middles(grid: Path, colors: list[tuple[int, int, int]]) -> list[tuple[float, float]]:
    """(x, y) of the middle of each color's pixels."""
    pixels = np.asarray(Image.open(grid).convert("RGB"))
    found = []
    for color in colors:
        y, x = np.nonzero((pixels == color).all(-1))
        assert len(x), f"{color} is not in the picture"
        found.append((float(x.mean()), float(y.mean())))
    return found


@pytest.fixture
def words(monkeypatch) -> list[str]:
    """The texts that are drawn."""
    drawn: list[str] = []
    draw = sheet.words

    def record(text, *args, **options):
        drawn.append(text)
        return draw(text, *args, **options)

    monkeypatch.setattr(sheet, "words", record)
    return drawn


def test_jobs_are_read_by_number_with_values_and_pictures(tmp_path):
    for number in (10, 2, 0):
        make_job(tmp_path, number, {"weights.beta": 100.0 * number, "layers": "style_first1", "+a.b": [1, "x"]})
    (tmp_path / "wandb").mkdir()
    jobs = report.read_sweep(tmp_path)
    assert [job.number for job in jobs] == [0, 2, 10]
    assert jobs[1].overrides == {"weights.beta": 200.0, "layers": "style_first1", "a.b": [1, "x"]}
    assert jobs[1].pictures == {"output": tmp_path / "2" / "output.png"}
    assert jobs[1].summary.seconds == 1.5
    assert [jobs[1].text(key) for key in ("weights.beta", "a.b", "loss.gram.form", "loss.gram")] == [
        "200", "[1,x]", "gatys", None,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a,b.png", "[x].png", '"q".png', "it's.png", "${seed}.png", "\\x.png", "a=b (1).png"])
def test_inputs_of_any_name_are_found(tmp_path, name):
    picture(str(tmp_path / name), 8, 8)
    picture(str(tmp_path / "c.png"), 8, 8)
    written = name.replace("${", "\\${")  # as config.yaml has it
    make_job(tmp_path, 0, {"content": [written, "c.png"], "style": written})
    (job,) = report.read_sweep(tmp_path)
    assert find_inputs("content", job.text("content"), tmp_path) == [tmp_path / name, tmp_path / "c.png"]
    assert find_inputs("style", job.text("style"), tmp_path) == [tmp_path / name]


def test_names_that_are_no_unicode_are_read(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    run = RunFolder(tmp_path / "0")
    run.summary.outputs, run.summary.status = [f"out/{name}"], "completed"
    run.record_metrics(Path(name).stem, {"total": 1.0})
    run.append_losses({"image": Path(name).stem, "step": 1, "total": 1.0, "seconds": 1})
    run.write_config(resolved_yaml(OmegaConf.create({"content": name, "loss": {}})))
    run.write_skipped([f"{name}: damaged"])
    run.write_summary()
    (job,) = report.read_sweep(tmp_path)
    assert (job.config["content"], [*job.metrics], job.problems) == (name, [Path(name).stem], [])
    report.write_report(tmp_path)


def test_folders_with_other_names_are_jobs_too(tmp_path):
    for name in ("beta=10", "beta=9", "beta=100"):
        make_job(tmp_path, name, {"weights.beta": int(name[5:])})
    assert [(job.number, job.text("weights.beta")) for job in report.read_sweep(tmp_path)] == [
        (0, "9"), (1, "10"), (2, "100"),
    ]  # fmt: skip


def test_varying_keys_keep_the_order_of_the_overrides(tmp_path):
    make_sweep(tmp_path, weights__beta=[1, 2], image_px=[48], layers=["style_first1", "style_first2"], seed=[7, 8])
    assert report.varying(report.read_sweep(tmp_path)) == ["weights.beta", "layers", "seed"]


def test_what_only_follows_from_an_override_does_not_vary(tmp_path):
    for number, name in enumerate(("style_first1", "style_first2")):
        make_job(tmp_path, number, {"layers": name}, config={"layers": {"style": [name]}, "task": {"x": number}})
    jobs = report.read_sweep(tmp_path)
    assert report.varying(jobs) == ["layers"]
    assert [job.text("layers") for job in jobs] == ["style_first1", "style_first2"]


def test_a_job_without_the_override_has_the_composed_value(tmp_path):
    make_job(tmp_path, 0, {}, config={"weights": {"beta": 1000}})
    make_job(tmp_path, 1, {"weights.beta": 10})
    jobs = report.read_sweep(tmp_path)
    assert report.varying(jobs) == ["weights.beta"]
    assert [job.text("weights.beta") for job in jobs] == ["1000", "10"]


def test_an_unreadable_job_makes_nothing_vary(tmp_path):
    make_sweep(tmp_path, seed=[1, 1])
    (tmp_path / "2").mkdir()
    assert report.varying(report.read_sweep(tmp_path)) == []


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", '{"status": "compl'),
        ("summary.json", ""),
        ("summary.json", "[1, 2]"),
        ("summary.json", '{"stat": "completed"}'),
        ("summary.json", b"\xff\xfe\x00"),
        ("summary.json", None),
    ],
)
def test_a_job_without_a_readable_summary_is_a_row_that_says_so(tmp_path, file, content):
    make_sweep(tmp_path, seed=[1, 2])
    path = tmp_path / "1" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    row = report.table(report.read_sweep(tmp_path))[1]
    assert (row["status"], row["seed"], row["total"], row["seconds"]) == ("no record", "2", 1.5, None)
    assert row["error"].startswith("summary.json ")
    assert report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{", "[", "3", "null", "{a: [", "\x00", '{"output": 3, "b": {"total": "x"}}'])
@pytest.mark.parametrize("file", ["config.yaml", ".hydra/config.yaml", ".hydra/overrides.yaml", "metrics.json"])
def test_damaged_files_never_raise(tmp_path, file, content):
    make_sweep(tmp_path, seed=[1, 2])
    (tmp_path / "1" / file).write_text(content)
    report.write_report(tmp_path)
    assert [row["status"] for row in read_table(tmp_path)][:2] == ["completed", "completed"]


def test_a_summary_with_values_of_other_kinds_never_raises(tmp_path):
    make_job(tmp_path, 0, {"seed": 1}, pictures=())
    record = {"status": None, "error": ["a", 1], "seconds": "long", "metrics": [1], "overrides": 5, "outputs": None}
    (tmp_path / "0" / "summary.json").write_text(json.dumps(record))
    (tmp_path / "0" / ".hydra" / "overrides.yaml").unlink()
    report.write_report(tmp_path)
    (row,) = read_table(tmp_path)
    assert (row["seconds"], row["error"]) == ("long", "['a', 1]")


def test_the_table_has_one_row_per_job_and_picture(tmp_path):
    make_job(tmp_path, 0, {"image_px": 48, "weights.beta": 1}, pictures=("a", "b"))
    make_job(tmp_path, 1, {"image_px": 48, "weights.beta": 2}, pictures=("a", "b"), status="interrupted")
    make_job(tmp_path, 2, {"image_px": 48, "weights.beta": 3}, (), status="failed", error="no\n such file", seconds=2)
    (tmp_path / "1" / "metrics.json").write_text('{"a": {"total": 9, "extra": 0.1}, "b": {"total": NaN}}')
    report.write_table(report.read_sweep(tmp_path), tmp_path / "table.csv")
    rows = read_table(tmp_path)
    assert list(rows[0])[:10] == [
        "job", "picture", "status", "weights.beta", "total", "gram", "luminance_mean", "extra", "seconds", "error",
    ]  # fmt: skip
    assert [[*row.values()][:10] for row in rows] == [
        ["0", "a", "completed", "1", "0.5", "2.0", "0.25", "", "1.5", ""],
        ["0", "b", "completed", "1", "0.5", "2.0", "0.25", "", "1.5", ""],
        ["1", "a", "interrupted", "2", "9", "", "", "0.1", "1.5", ""],
        ["1", "b", "interrupted", "2", "nan", "", "", "", "1.5", ""],
        ["2", "", "failed", "3", "", "", "", "", "2", "no such file"],
    ]
    assert not list(tmp_path.glob(".writing-*"))


@pytest.fixture
def repeated(tmp_path) -> Path:
    """Two betas, six photos, three seeds; beta 10 is 0.5 lower, give or take 0.1."""
    noise = iter(np.random.default_rng(0).uniform(-0.1, 0.1, 36))
    photos = [f"{name}.png" for name in "abcdef"]

    def measure(beta: int, photo: str, seed: int) -> float:
        return 1 + photos.index(photo) - 0.5 * (beta == 10) + next(noise)

    return make_repeats(tmp_path / "sweep", measure, photos, [1, 2, 3], weights__beta=[1, 10])


def test_the_last_rows_of_the_table_are_means_of_settings(repeated):
    report.write_report(repeated)
    assert len(read_table(repeated)) == 36
    rows = read_table(repeated, means=True)
    assert [(row["weights.beta"], row["n"], row["seed"]) for row in rows] == [("1", "6", ""), ("10", "6", "")]
    values = [float(row["style_gram"]) for row in read_table(repeated) if row["weights.beta"] == "10"]
    assert float(rows[1]["style_gram"]) == pytest.approx(np.mean(values))
    low, sd, high = (float(rows[1][f"style_gram_{name}"]) for name in ("low", "sd", "high"))
    of_photos = np.reshape(values, (6, 3)).mean(1)
    assert sd == pytest.approx(of_photos.std(ddof=1)) and low < of_photos.mean() < high


def test_a_sweep_without_repeats_has_no_means(tmp_path):
    make_sweep(tmp_path, weights__beta=[1, 2], layers=["one", "two"])
    report.write_report(tmp_path)
    assert read_table(tmp_path, means=True) == [] and "total_sd" not in read_table(tmp_path)[0]


def test_the_terminal_shows_means_and_says_what_differs(repeated, capsys):
    main([str(repeated)])
    head, first, second, *sentences = capsys.readouterr().err.splitlines()
    assert head.split() == ["weights.beta", "n", "style_gram", "ssim"]
    assert re.fullmatch(r" *1  6  3\.51 \(\d\.\d\d to \d\.\d\d\)  0\.9.*", first) and second.split()[:2] == ["10", "6"]
    assert re.fullmatch(
        r"weights.beta 10 against 1: style_gram -0\.\d+, 95 % -0\.\d+ to -0\.\d+, 6 photos \(Wilcoxon p = 0.031\)",
        sentences[0],
    )
    assert sentences[1].startswith("weights.beta 10 against 1: ssim +0.00")


def test_repeats_and_baseline_can_be_named(repeated, capsys):
    main([str(repeated), "--repeats", "seed", "content", "--baseline", "weights.beta=10"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split()[:3] == ["weights.beta", "n", "style_gram"] and lines[1].split()[:2] == ["1", "18"]
    assert lines[3].startswith("weights.beta 1 against 10: style_gram +0.5") and "18 repeats" in lines[3]
    main([str(repeated), "--repeats"])
    assert capsys.readouterr().err.splitlines()[0].split()[:3] == ["weights.beta", "seed", "n"]
    for words, reason in {
        ("--repeats", "sed"): "--repeats sed: the runs do not differ in this key",
        ("--baseline", "weights.beta"): "--baseline weights.beta: give a key and one of its values",
        ("--baseline", "weights.beta=3"): "--baseline weights.beta=3: no run has this value, only 1, 10",
    }.items():
        with pytest.raises(SystemExit) as end:
            main([str(repeated), *words])
        assert end.value.code == 2 and reason in capsys.readouterr().err


def test_a_loss_called_like_a_varying_key_has_its_own_column(tmp_path):
    for number, content in enumerate(("a.jpg", "b.jpg")):
        make_job(tmp_path, number, {"content": content})
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps({"output": {"total": 1, "content": 0.5}}))
    row = report.table(report.read_sweep(tmp_path))[1]
    assert (row["content"], row["metrics.content"]) == ("b.jpg", 0.5)


def test_the_numbers_of_a_killed_job_are_those_it_had(tmp_path):
    make_sweep(tmp_path, seed=[1, 2])
    (tmp_path / "1" / "summary.json").write_text('{"status": "running"}')
    row = report.table(report.read_sweep(tmp_path))[1]
    assert (row["status"], row["total"]) == ("running", 1.5)
    assert "was killed" in row["error"]


def test_the_comparison_is_aligned_and_says_what_went_wrong(tmp_path):
    make_sweep(tmp_path, weights__beta=[1, 1000], seed=[3])
    for number in (2, 3):
        make_job(tmp_path, number, {"weights.beta": number, "seed": 3}, (), status="failed", error="no such file")
    head, *rows, reason = comparison_of(tmp_path).splitlines()
    assert head.split() == ["job", "status", "weights.beta", "total"], "all others are the same in all rows"
    assert rows[1].split() == ["1", "completed", "1000", "1.5"]
    assert rows[2].split() == ["2", "failed", "2", "-"]
    assert {len(line) for line in (head, *rows)} == {len(head)}
    assert reason == "job 2, 3: no such file"


TERMS = [f"term{n}" for n in range(9)]


def make_wide_sweep(folder: Path, **numbers: float) -> None:
    for job in range(5):
        make_job(
            folder, job, {"seed": job, "style": f"/long/{'way/' * 9}{job}.jpg"}, config={"loss": {t: {} for t in TERMS}}
        )
        found = {"total": 1.0, **dict.fromkeys(TERMS, 2.0), "steps": 4, **dict.fromkeys(tables.ABOUT_PICTURES, 0.5)}
        found |= {name: value * job for name, value in numbers.items()}
        (folder / str(job) / "metrics.json").write_text(json.dumps({"output": found}))


def test_of_numbers_the_comparison_has_those_that_vary(tmp_path):
    make_wide_sweep(tmp_path, term7=1.0, luminance_std=0.01, steps=1)
    assert comparison_of(tmp_path).splitlines()[0].split() == ["job", "seed", "style", "term7", "luminance_std"]


def test_where_all_numbers_are_the_same_the_main_ones_are_shown(tmp_path):
    make_wide_sweep(tmp_path)
    assert comparison_of(tmp_path, 100).splitlines()[0].split()[:6] == [
        "job",
        "seed",
        "style",
        "total",
        "term0",
        "term1",
    ]


@pytest.mark.parametrize("width", [25, 40, 60, 80, 120, 200])
def test_the_comparison_is_no_wider_than_the_terminal(tmp_path, monkeypatch, width):
    make_wide_sweep(tmp_path, total=1.0, **{term: 1e-7 for term in TERMS})
    monkeypatch.setenv("COLUMNS", str(width))
    lines = comparison_of(tmp_path).splitlines()
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines[0]) <= width
    assert lines[0].split()[:2] == ["job", "seed"]
    assert [line.split()[1] for line in lines[1:]] == ["0", "1", "2", "3", "4"]
    assert len({line.split()[2] for line in lines}) == 6, "what is left of the paths tells them apart"
    assert ("term8" in lines[0]) == (width >= 120)


def test_keys_without_room_are_named_below(tmp_path):
    for job in range(2):
        make_job(tmp_path, job, {f"weights.some_term_{n}": job for n in range(20)})
    *lines, last = comparison_of(tmp_path, 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert last.startswith("... and ") and last.endswith("weights.some_term_19 in table.csv")


def test_wide_characters_take_two_columns(tmp_path):
    for job, style in enumerate(["写真.jpg", "photo-of-a-cat.jpg"]):
        make_job(tmp_path, job, {"style": style})
    _, first, second = comparison_of(tmp_path).splitlines()
    assert len(first) + 2 == len(second)


def test_the_comparison_has_a_limit_of_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_LINES", 3)
    make_wide_sweep(tmp_path)
    assert comparison_of(tmp_path).splitlines()[4:] == ["... and 2 more rows in table.csv"]


@pytest.mark.parametrize(
    "subdirs", [["a/0", "a/1"], ["seed=0,x=a b/0", "seed=1/deep/er"], ["x", "x/y"], ["0", "b/1"], ["1/3", "2/4"]]
)
def test_runs_are_found_at_any_depth(tmp_path, subdirs):
    for number, subdir in enumerate(subdirs):
        make_job(tmp_path, subdir, {"seed": number})
        hydra = {"hydra": {"job": {"num": number}}}
        (tmp_path / subdir / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
    jobs = report.read_sweep(tmp_path)
    assert [(job.number, job.name, job.text("seed")) for job in jobs] == [
        (number, subdir, str(number)) for number, subdir in enumerate(subdirs)
    ]
    path, _ = report.write_report(tmp_path)
    assert path.exists() and (tmp_path / "grid.png").exists()


def test_numbers_that_two_runs_share_are_made_anew(tmp_path):
    for number, subdir in enumerate(["a/0", "b/0"]):
        make_job(tmp_path, subdir, {"seed": number})
        (tmp_path / subdir / ".hydra" / "hydra.yaml").write_text("hydra: {job: {num: 0}}")
    assert [job.number for job in report.read_sweep(tmp_path)] == [0, 1]


def test_runs_of_a_sweep_inside_are_its_own(tmp_path):
    make_job(tmp_path, "a/0", {"seed": 0})
    make_job(tmp_path, "other/0", {"seed": 1})
    (tmp_path / "other" / "multirun.yaml").touch()
    assert [job.name for job in report.read_sweep(tmp_path)] == ["a/0"]


def test_one_varying_key_is_a_row_wrapped_at_six(tmp_path, words):
    make_sweep(tmp_path, seed=list(range(8)))
    assert report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    at = middles(tmp_path / "grid.png", COLORS[:8])
    assert len({y for _, y in at[:6]}) == len({y for _, y in at[6:]}) == 1
    assert at[6][1] > at[0][1]
    assert [x for x, _ in at[:6]] == sorted({x for x, _ in at})
    assert [x for x, _ in at[6:]] == [x for x, _ in at[:2]]
    assert words == [f"seed={n}" for n in range(8)]


def test_the_comparison_begins_with_what_is_searched_for(tmp_path):
    numbers = {"total": 1.0, "gram": 2.0, "ssim": 0.5, "style_gram": 3.0, "cfsd": 4.0}
    for number, sought in enumerate(["cfsd", ["ssim", "cfsd"]]):
        folder = tmp_path / str(number)
        for job in range(2):
            path = make_job(folder, job, {"seed": job}, config={"objective": sought})
            (path / "metrics.json").write_text(json.dumps({"output": numbers}))
        columns = comparison_of(folder).splitlines()[0].split()
        assert columns[2:] == [*([sought] if number == 0 else sought), "total", "gram", "style_gram",
                               *([] if number else ["ssim"]), "seconds"]  # fmt: skip


def comparison_of(folder: Path, width: int | None = None) -> str:
    return report.comparison(report.read_sweep(folder), width)


def test_two_varying_keys_are_rows_and_columns(tmp_path, words):
    make_sweep(tmp_path, weights__beta=[1, 10], seed=[5, 6, 7])
    report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    at = middles(tmp_path / "grid.png", COLORS[:6])
    assert [x for x, _ in at[:3]] == [x for x, _ in at[3:]] == sorted({x for x, _ in at})
    assert len({y for _, y in at[:3]}) == len({y for _, y in at[3:]}) == 1
    assert at[3][1] > at[0][1]
    assert sorted(words) == sorted(["weights.beta=1", "weights.beta=10", "seed=5", "seed=6", "seed=7"])


def test_of_three_varying_keys_the_last_is_the_columns(tmp_path, words):
    make_sweep(tmp_path, weights__beta=[1, 10], layers=["a", "b"], seed=[5, 6])
    report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    at = middles(tmp_path / "grid.png", COLORS[:8])
    assert len({x for x, _ in at[::2]}) == len({x for x, _ in at[1::2]}) == 1
    assert at[1][0] > at[0][0]
    assert [y for _, y in at[::2]] == sorted({y for _, y in at})
    assert [y for _, y in at[::2]] == [y for _, y in at[1::2]]
    assert sorted(words) == sorted(
        [*["weights.beta=1", "weights.beta=10", "layers=a", "layers=b"] * 2, "seed=5", "seed=6"]
    )


def test_jobs_that_fill_no_rectangle_are_listed(tmp_path, words):
    for number in range(4):
        make_job(tmp_path, number, {"weights.beta": number, "seed": number})
    report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    at = middles(tmp_path / "grid.png", COLORS[:4])
    assert [x for x, _ in at] == sorted({x for x, _ in at})
    assert words[:4] == ["weights.beta=0", "seed=0", "weights.beta=1", "seed=1"]


def test_jobs_that_would_share_a_cell_are_listed(tmp_path):
    for number, (beta, seed) in enumerate([(1, 5), (1, 6), (2, 5), (2, 6), (2, 6)]):
        make_job(tmp_path, number, {"weights.beta": beta, "seed": seed})
    report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    assert len({x for x, _ in middles(tmp_path / "grid.png", COLORS[:5])}) == 5


def test_jobs_with_the_same_values_are_all_there(tmp_path, words):
    make_sweep(tmp_path, seed=[1, 1, 1])
    report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    assert len({x for x, _ in middles(tmp_path / "grid.png", COLORS[:3])}) == 3
    assert words == ["job 0", "job 1", "job 2"]


def test_several_pictures_are_blocks(tmp_path, words):
    for number in range(2):
        make_job(tmp_path, number, {"seed": number}, pictures=("cat", "dog"))
        Image.new("RGB", (30, 40), COLORS[10 + number]).save(tmp_path / str(number) / "dog.png")
    report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    cats, dogs = middles(tmp_path / "grid.png", COLORS[:2]), middles(tmp_path / "grid.png", COLORS[10:12])
    assert cats[0][1] == cats[1][1] < dogs[0][1] == dogs[1][1]
    assert [x for x, _ in cats] == [x for x, _ in dogs]
    assert words == ["cat", "seed=0", "seed=1", "dog", "seed=0", "seed=1"]


def test_a_failed_job_is_a_cell_with_its_status(tmp_path, words):
    make_sweep(tmp_path, seed=[0, 1])
    make_job(tmp_path, 2, {"seed": 2}, (), status="failed", error="no such file")
    make_job(tmp_path, 3, {"seed": 3}, status="interrupted")
    report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    assert words[4:] == ["failed", "no such file", "interrupted"]
    at = middles(tmp_path / "grid.png", [COLORS[0], COLORS[1], sheet.PALE, COLORS[3]])
    assert [x for x, _ in at] == sorted(x for x, _ in at)


def test_a_damaged_picture_is_a_cell_that_says_so(tmp_path, words):
    make_sweep(tmp_path, seed=[0, 1])
    path = tmp_path / "1" / "output.png"
    path.write_bytes(path.read_bytes()[:50])
    report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    assert "damaged" in words
    middles(tmp_path / "grid.png", COLORS[:1])


def test_pictures_are_scaled_down_never_up(tmp_path):
    make_job(tmp_path, 0, {"seed": 0}, size=(1024, 512))
    make_job(tmp_path, 1, {"seed": 1}, size=(512, 1024))
    make_job(tmp_path, 2, {"seed": 2}, size=(20, 30))
    report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    counts = [int((pixels == color).all(-1).sum()) for color in COLORS[:3]]
    assert counts == [256 * 128, 128 * 256, 20 * 30]
    assert (pixels[0] == 255).all()


def test_content_and_style_are_shown_once_where_they_are_the_same(tmp_path, words):
    content, style = (200, 10, 10), (10, 10, 200)
    Image.new("RGB", (90, 60), content).save(tmp_path / "photo.png")
    Image.new("RGB", (90, 60), style).save(tmp_path / "painting.png")
    sweep = tmp_path / "sweep"
    for number in range(3):
        inputs = {"content": str(tmp_path / "photo.png"), "style": str(tmp_path / "painting.png")}
        make_job(sweep, number, {"seed": number}, config=inputs)
    report.draw_grid(report.read_sweep(sweep), sweep / "grid.png")
    pixels = np.asarray(Image.open(sweep / "grid.png"))
    assert [(pixels == color).all(-1).sum() for color in (content, style)] == [60 * 40, 60 * 40]
    assert len([text for text in words if text.startswith(("content=", "style="))]) == 2
    (at,) = middles(sweep / "grid.png", [content])
    assert at[1] < middles(sweep / "grid.png", COLORS[:1])[0][1]


def test_varying_styles_are_shown_above_their_columns(tmp_path):
    styles = [(200, 10, 10), (10, 10, 200)]
    for number, color in enumerate(styles):
        Image.new("RGB", (60, 60), color).save(tmp_path / f"painting{number}.png")
        make_job(tmp_path / "sweep", number, {"style": str(tmp_path / f"painting{number}.png")})
    report.draw_grid(report.read_sweep(tmp_path / "sweep"), tmp_path / "grid.png")
    above, below = middles(tmp_path / "grid.png", styles), middles(tmp_path / "grid.png", COLORS[:2])
    assert [x for x, _ in above] == [x for x, _ in below]
    assert all(top < bottom for (_, top), (_, bottom) in zip(above, below, strict=True))


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        (("weights.beta", "100"), "weights.beta=100"),
        (("layers.style", "[relu1_1,relu2_1]"), "layers.style=relu1_1 relu2_1"),
        (("content", "photos/" + "x" * 60 + "_01.jpg"), "content=photos/xxxxxxxxxxxxx...xxxxxxxxxxxxxx_01.jpg"),
    ],
)
def test_labels_are_short(pair, text):
    assert grid._named(pair) == text


def test_labels_are_broken_where_a_reader_would(tmp_path):
    assert sheet.wrap("method.init=content", 500, 14) == ["method.init=content"]
    assert sheet.wrap("layers.content=relu1_1 relu2_1", 130, 14) == ["layers.content=", "relu1_1 relu2_1"]
    assert sheet.wrap("method.optimizers.lbfgs.lr=0.01", 130, 14) == ["method.optimizers.", "lbfgs.lr=0.01"]
    lines = sheet.wrap("x" * 100, 130, 14)
    assert "".join(lines) == "x" * 100
    assert all(sheet.length(line) <= 130 for line in lines)


def test_letters_that_the_font_lacks_are_drawn_without_accents():
    assert sheet.words("café") == sheet.words("cafe")
    assert sheet.words("日") == sheet.words("?")


def test_a_large_sweep_gets_smaller_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "LARGEST_SIDE_PX", 300)
    for number in range(2):
        make_job(tmp_path, number, {"seed": number}, size=(256, 256))
    report.draw_grid(report.read_sweep(tmp_path), tmp_path / "grid.png")
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (pixels == COLORS[0]).all(-1).sum() == 150 * 150


def test_a_sweep_of_trainings_has_a_table_and_no_grid(tmp_path):
    for number in range(2):
        path = make_job(tmp_path, number, {"seed": number}, pictures=("train",))
        (path / "train.png").unlink()
    assert report.write_report(tmp_path)[0] == tmp_path / "report.html"
    assert [row["total"] for row in read_table(tmp_path)] == ["0.5", "1.5"]
    assert not (tmp_path / "grid.png").exists()


def test_from_disk_the_path_is_on_stdout_and_the_comparison_on_stderr(tmp_path, capsys):
    make_sweep(tmp_path, seed=[1, 2])
    main([str(tmp_path)])
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'report.html'}\n"
    assert err.splitlines()[0].split()[:2] == ["job", "seed"]
    assert Image.open(tmp_path / "grid.png").mode == "RGB"


@pytest.mark.parametrize("name", ["report.html", "table.csv", "grid.png"])
def test_a_report_replaces_an_earlier_one_and_no_other_file(tmp_path, name):
    sweeps = [make_sweep(tmp_path / "one", seed=[1]), make_sweep(tmp_path / "two", seed=[2])]
    path = report.write_report(sweeps, tmp_path / "new")[0]
    assert report.write_report(sweeps, tmp_path / "new")[0] == path
    assert report.write_report(sweeps[0]) and report.write_report(sweeps[0])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("job of the user's")
    with pytest.raises(UserError, match=f"{name} was not made by nstexp; name another folder with --output"):
        report.write_report(sweeps, tmp_path / "mine")
    assert (tmp_path / "mine" / name).read_text() == "job of the user's"


def test_a_wrong_folder_is_one_sentence(tmp_path, capsys):
    make_sweep(tmp_path / "nstexp" / "2026-01-31", seed=[1])
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    wrong = {
        "nowhere": "nowhere: there is no such folder",
        "file": "file: there is no such folder",
        "empty": "no runs in this folder: give the folder of a sweep",
        "nstexp/2026-01-31/0": f"it is itself one run; give the sweep's folder, {tmp_path / 'nstexp' / '2026-01-31'}",
    }
    for name, sentence in wrong.items():
        with pytest.raises(SystemExit) as end:
            main([str(tmp_path / name)])
        out, err = capsys.readouterr()
        assert (end.value.code, out, err.count("\n")) == (2, "", 1)
        assert sentence in err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "python -m nstexp.report multirun/nstexp/DATE" in capsys.readouterr().out


@pytest.fixture
def hook(tmp_path, monkeypatch):
    """Hydra's calls at the start and, if it comes to that, the end of a sweep in tmp_path."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setattr(SweepReport, "_unreported", None)
    config = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf), "logger": {}})
    config.hydra.sweep.dir = str(tmp_path)

    def call(ends: bool = True) -> None:
        callback = SweepReport()
        callback.on_multirun_start(config, config_name="config")
        if ends:
            callback.on_multirun_end(config, config_name="config")

    return call


def test_the_hook_reports_once_and_ends_with_the_path(tmp_path, hook, capsys):
    make_sweep(tmp_path, seed=[1, 2])
    hook()
    report_unfinished()
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert len(read_table(tmp_path)) == 2


def test_a_sweep_that_never_ends_is_reported_with_the_process(tmp_path, hook, capsys):
    make_sweep(tmp_path, seed=[1, 2])
    hook(ends=False)
    assert not (tmp_path / "grid.png").exists()
    report_unfinished()
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"


@pytest.mark.parametrize("rank", ["0", "", "1", "abc"])
def test_what_a_launcher_has_left_in_the_shell_hinders_no_report(tmp_path, hook, monkeypatch, rank):
    monkeypatch.setenv("LOCAL_RANK", rank)
    make_sweep(tmp_path, seed=[1, 2])
    hook()
    assert (tmp_path / "grid.png").exists()


def test_a_sweep_without_a_job_is_not_reported(hook, capsys):
    hook()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [UserError("grid.png: cannot be written"), ValueError("a\tbug"), KeyError()])
def test_what_goes_wrong_is_one_sentence_and_nothing_more(tmp_path, hook, monkeypatch, capsys, error):
    def fail(*args):
        raise error

    make_sweep(tmp_path, seed=[1, 2])
    monkeypatch.setattr(report, "draw_grid", fail)
    hook()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("the sweep's report is incomplete (")
    assert str(tmp_path) in err.splitlines()[-1]
    assert len(read_table(tmp_path)) == 2


def test_the_hook_needs_neither_torch_nor_pil():
    code = "import sys, nstexp.sweeps.hooks; sys.exit(bool({'torch', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_real_sweep(tmp_path, fails):
    """From the command line, with values that an experiment file sweeps; also when a job fails."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "betas.yaml").write_text(
        "# @package _global_\ndefaults: [smoke_gatys]\nhydra: {sweeper: {params: {weights.beta: '1,1000'}}}\n"
    )
    contents = "sample:coffee,nowhere.jpg" if fails else "sample:coffee,sample:chelsea"
    command = [sys.executable, "-m", "nstexp", "-m", "--config-dir", "conf", "experiment=betas", f"content={contents}"]
    env = {key: value for key, value in os.environ.items() if key != "LOCAL_RANK"}
    env["COLUMNS"] = "200"  # the table has as many numbers as fit, and a run that takes longer needs more digits
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == (1 if fails else 0), done.stderr
    assert "Traceback" not in done.stderr
    (sweep,) = (tmp_path / "multirun" / "nstexp").iterdir()
    assert done.stdout.splitlines()[-1] == str(sweep / "report.html")
    assert Image.open(sweep / "grid.png").width > 200
    rows = read_table(sweep)
    assert [(row["weights.beta"], row["content"]) for row in rows] == list(product(("1", "1000"), contents.split(",")))
    assert [row["status"] for row in rows] == ["completed", "failed" if fails else "completed"] * 2
    assert float(rows[0]["gram"]) > 0
    assert rows[0]["metrics.content"]
    assert ("nowhere.jpg: there is no such file" in rows[1]["error"]) == fails
    words = [line.split() for line in done.stderr.splitlines()]
    if fails:
        (head,) = [line for line in words if line[:2] == ["job", "status"]]
        assert {"weights.beta", "content", "total", "gram"} <= {*head}
    else:
        (head,) = [line for line in words if line[:2] == ["weights.beta", "n"]]
        assert {"total", "gram", "style_gram"} <= {*head}
        assert any("weights.beta 1000 against 1: style_gram" in line for line in done.stderr.splitlines())
        assert [(row["weights.beta"], row["n"]) for row in read_table(sweep, means=True)] == [("1", "2"), ("1000", "2")]
