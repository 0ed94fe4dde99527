"""report.html: what it is made from, and what it does in a browser (headless Chromium, if there is one)."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import embedded
from PIL import Image
from sweep_folders import make_job, make_repeats, make_sweep

from nstexp import report
from nstexp.core.errors import UserError
from nstexp.report import curves as reading
from nstexp.report.__main__ import main
from nstexp.report.page import page_data

HOSTILE = "</script><img src=x onerror=alert(1)>%{x}&lt;"
HOSTILE_NAME = "<img src=x onerror=alert(2)>#?%41 b"
COMPLETED, RUNNING, FAILED = range(10), 10, 11


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Twelve jobs, beta x layers x seed; one still runs and one failed."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    inputs = {"content": "photo.png", "style": "painting.png"}
    for name in inputs.values():
        Image.new("RGB", (60, 40), (10, 200, 10)).save(folder.parent / name)
    for number, (beta, layers, seed) in enumerate(product((1, 10, 100), ("one", "two"), (1, 2))):
        overrides = {"weights.beta": beta, "layers": layers, "seed": seed}
        numbers = {"total": 50.0 + number, "gram": 2.0 + number % 3, "style_gram": 10.0 - number, "ssim": number / 20}
        path = make_job(
            folder, number, overrides, () if number >= RUNNING else ("output",), (64, 48),
            config={**inputs, "weights": {"beta": beta, "alpha": 1}}, seed=seed, seconds=1.0 + number,
            status={RUNNING: "running", FAILED: "failed"}.get(number, "completed"), encoder="vgg19",
            error="no such file: " + HOSTILE if number == FAILED else None,
            metrics={"output": numbers} if number < RUNNING else {}, peak_memory_mb=900.5,
            versions={"nstexp": "0.2.0" if number == 3 else "0.1.0", "torch": "2.11"},
            outputs=[f"/elsewhere/{number}/output.png"] if number < RUNNING else [],
            references={"output": {"photo": {"style_gram": 30.0}, "painting": {"style_gram": 0.0}}},
            measured_with={"style_gram": "VGG-19, relu1_1", "ssim": "luminance"},
        )  # fmt: skip
        if number < RUNNING:
            (path / "metrics.json").write_text(json.dumps({"output": numbers}))
        if number < FAILED:
            hydra = {"hydra": {"runtime": {"cwd": str(folder.parent), "choices": {"layers": layers}}}}
            (path / ".hydra" / "hydra.yaml").write_text(json.dumps(hydra))
            lines = ["image,step,total,gram,seconds", *(f"output,{s},{100 / s},{9 / s},{s / 10}" for s in range(1, 9))]
            (path / "losses.csv").write_text("\n".join(lines) + "\noutput,9,0.")
    (folder / str(RUNNING) / "images").mkdir()
    for step in (50, 100):
        Image.new("RGB", (64, 48), (9, 9, 9)).save(folder / str(RUNNING) / "images" / f"output_{step:05d}.jpg")
    report.write_report(folder)
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """Two jobs whose every string wants to be markup."""
    folder = tmp_path_factory.mktemp("runs") / "<b>sweep"
    for number, value in enumerate((HOSTILE, "plain")):
        names = (HOSTILE_NAME,)
        path = make_job(
            folder, number, {"note": value}, names, config={"why": {HOSTILE: number}}, error=HOSTILE, status="failed",
            encoder=HOSTILE, measured_with={HOSTILE: HOSTILE}, references={HOSTILE_NAME: {HOSTILE: {HOSTILE: 1.0}}},
        )  # fmt: skip
        (path / "metrics.json").write_text(json.dumps({HOSTILE_NAME: {HOSTILE: 1.0 + number, "total": 2.0}}))
        (path / "losses.csv").write_text(f'image,step,"{HOSTILE}"\n"{HOSTILE_NAME}",1,2\n"{HOSTILE_NAME}",2,1\n')
    report.write_report(folder)
    return folder


def data_of(folder: Path, **options) -> dict:
    return page_data(report.read_sweep(folder), folder, [folder], **options)


# ------------------------------------------------------------------------------------------------ what it is made from


def test_the_page_holds_every_job_with_its_values_numbers_and_cost(sweep):
    data = embedded(sweep)
    assert [axis["key"] for axis in data["axes"]] == ["weights.beta", "layers", "seed"]
    assert data["axes"][0]["values"] == ["1", "10", "100"]
    assert data["statuses"] == {"completed": 10, "running": 1, "failed": 1}
    assert data["runs"][5]["values"] == {"weights.beta": "10", "layers": "one", "seed": "2"}
    cost = [data["runs"][5][name] for name in ("seed", "seconds", "memory_mb", "gpu_memory_mb", "link")]
    assert cost == ["2", 6.0, 900.5, None, "5/"]
    assert data["rows"][5]["numbers"] == {"total": 55.0, "gram": 4.0, "style_gram": 5.0, "ssim": 0.25}
    assert data["seconds"] == sum(range(1, 13))
    assert len(data["rows"]) == 12


def test_a_number_is_marked_by_its_direction_and_only_where_it_compares(sweep, tmp_path):
    better = {number["name"]: number["better"] for number in data_of(sweep)["numbers"]}
    assert better == {"total": None, "gram": "lower", "style_gram": "lower", "ssim": "higher"}
    for number, form in enumerate(("gatys", "keras")):
        make_job(tmp_path, number, {"loss.gram.form": form}, measured_with={"gram2": f"network {number}"})
        (tmp_path / str(number) / "metrics.json").write_text('{"output": {"gram": 1, "gram2": 1, "luminance_mean": 1}}')
    numbers = {number["name"]: number for number in data_of(tmp_path)["numbers"]}
    assert [numbers[name]["better"] for name in ("gram", "gram2", "luminance_mean")] == [None, None, None]
    assert "network 0; network 1" in numbers["gram2"]["title"]


def test_the_record_says_which_measures_are_better_when_higher(tmp_path):
    numbers = {"ssim": 0.5, "mine": 2.0, "disputed": 1.0}
    for number, higher in enumerate((["mine", "disputed"], ["mine"])):
        known = dict.fromkeys(numbers, "as described")
        make_job(tmp_path, number, {"seed": number}, measured_with=known, higher_is_better=higher)
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps({"output": numbers}))
    report.write_report(tmp_path)
    found = {number["name"]: number for number in data_of(tmp_path)["numbers"]}
    assert {name: found[name]["better"] for name in numbers} == {"ssim": "lower", "mine": "higher", "disputed": None}
    assert found["mine"]["title"] == "as described; higher is better"
    assert "do not agree on which direction is better" in found["disputed"]["title"]


def test_why_the_painting_does_not_score_0_is_said_where_it_is_shown(sweep, tmp_path):
    assert data_of(sweep)["reference_note"].startswith("The painting itself is resized to the photo's shape")
    make_job(tmp_path, 0, {"seed": 0}, references={"output": {"photo": {"ssim": 1.0}}})
    assert data_of(tmp_path)["reference_note"] is None


def test_references_are_one_row_where_all_share_them(sweep, tmp_path):
    found = data_of(sweep)["references"]
    assert [(row["kind"], row["numbers"]["style_gram"]) for row in found] == [("photo", 30.0), ("painting", 0.0)]
    assert set(found[0]["values"].values()) == {None}
    for number, (content, seed) in enumerate(product(("a.png", "b.png"), (1, 2))):
        references = {"output": {"photo": {"x": 1.0 if content == "a.png" else 2.0}}}
        make_job(tmp_path, number, {"content": content, "seed": seed}, references=references)
    rows = data_of(tmp_path)["references"]
    assert [(row["values"], row["numbers"]) for row in rows] == [
        ({"content": "a.png", "seed": None}, {"x": 1.0}), ({"content": "b.png", "seed": None}, {"x": 2.0}),
    ]  # fmt: skip


def test_what_was_left_out_is_said(sweep, tmp_path):
    notices = data_of(sweep)["notices"]
    assert notices[0] == "job 10: still running, or killed; the page shows its results so far"
    assert "losses.csv has damaged lines" in notices[1]
    assert notices[2] == "different versions of nstexp: 0.1.0 (jobs 0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11), 0.2.0 (job 3)"
    assert len(notices) == 3
    make_sweep(tmp_path, seed=[1, 2, 3, 4, 5])
    (tmp_path / "0" / "summary.json").unlink()
    (tmp_path / "1" / "summary.json").write_text("{")
    record = json.loads((tmp_path / "2" / "summary.json").read_text()) | {"outputs": ["/moved/2/output.png"]}
    (tmp_path / "2" / "summary.json").write_text(json.dumps(record))
    (tmp_path / "2" / "output.png").unlink()
    (tmp_path / "3" / "output.png").write_bytes(b"\x89PNG")
    (tmp_path / "4" / "config.yaml").write_text("{")
    text = "\n".join(data_of(tmp_path)["notices"])
    assert "job 0: summary.json is missing" in text
    assert "job 1: summary.json cannot be read" in text
    assert "job 2: output.png was made and is no longer there" in text
    assert "job 3: output.png is damaged and is not shown" in text
    assert "job 4: config.yaml is damaged and was left out" in text


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 1), (0.01, 0)])
def test_repeats_that_change_nothing_are_named(tmp_path, chance, expected):
    make_repeats(tmp_path, lambda x, seed: x + chance * seed, seeds=[1, 2], image_px=[8, 16])
    found = [notice for notice in data_of(tmp_path)["notices"] if notice.startswith("seed changes nothing in these")]
    assert len(found) == expected


def test_nothing_is_left_out_of_a_good_sweep(tmp_path):
    make_sweep(tmp_path, seed=[1, 2])
    assert data_of(tmp_path)["notices"] == []


def test_a_run_without_its_picture_shows_the_newest_on_the_way(sweep):
    data = embedded(sweep)
    row = data["rows"][RUNNING]
    assert (row["note"], row["link"]) == ("step 100", "10/images/output_00100.jpg")
    assert row["numbers"]["gram"] == 9 / 8
    assert data["images"][row["image"]]["width"] == 64
    assert data["rows"][FAILED]["image"] is None


def test_curves_are_thinned_and_damaged_lines_left_out(sweep, tmp_path):
    curves = data_of(sweep)["curves"]
    assert len(curves) == 11
    assert (curves[0]["steps"], curves[0]["terms"]["total"][:2]) == (list(range(1, 9)), [100.0, 50.0])
    lines = ["image,step,total,seconds", *(f"output,{step},{step}.123456789,1" for step in range(5000))]
    broken = ["output,x,1,1", "output,5000", "a\0b,1", "output,5001,word,1", "output,5002,nan,1"]
    (tmp_path / "losses.csv").write_text("\n".join([*lines, *broken]))
    (curve,), damaged = reading.read_curves(tmp_path)
    assert len(curve.steps) == reading.MOST_POINTS
    assert (curve.steps[0], curve.steps[-1], curve.terms["total"][-1], damaged) == (0, 5002, None, 4)
    assert curve.terms["total"][1] == pytest.approx(curve.steps[1] + 0.123, abs=1e-2)


def test_inputs_are_found_from_where_the_run_started(sweep):
    data = embedded(sweep)
    assert [(one["kind"], one["name"], one["link"]) for one in data["inputs"]] == [
        ("content", "photo.png", "../photo.png"), ("style", "painting.png", "../painting.png"),
    ]  # fmt: skip


def test_links_survive_every_file_name(hostile):
    (row, _) = embedded(hostile)["rows"]
    assert row["link"] == "0/%3Cimg%20src%3Dx%20onerror%3Dalert%282%29%3E%23%3F%2541%20b.png"


def test_the_data_cannot_leave_its_script(hostile):
    text = (hostile / "report.html").read_text(encoding="utf-8")
    assert "onerror=alert(1)>" not in text and "<b>sweep" not in text
    (script,) = re.findall(r'id="data">(.*?)</script>', text, re.S)
    assert not {*"<>&\u2028\u2029"} & {*script}
    assert embedded(hostile)["runs"][0]["values"]["note"] == HOSTILE


def test_the_page_loads_nothing_from_a_network(sweep):
    text = (sweep / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    head = text.partition('<script type="application/json"')[0]
    assert re.findall(r"https?://", head) == [] == re.findall(r"(?:src|href)=\"(?!#|data:)", head)


def test_numbers_that_are_not_finite_are_valid_json(tmp_path):
    make_job(tmp_path, 0, {"seed": 1})
    (tmp_path / "0" / "metrics.json").write_text('{"output": {"total": NaN, "gram": -Infinity}}')
    report.write_report(tmp_path)
    assert embedded(tmp_path)["rows"][0]["numbers"] == {"total": "NaN", "gram": "-Infinity"}


def test_configurations_are_split_into_what_is_shared_and_what_differs(sweep):
    data = embedded(sweep)
    assert data["config"]["weights.alpha"] == "1"
    assert data["runs"][4]["config"] == {"weights.beta": "10", "seed": "1"}


def test_several_sweeps_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x", "b/x"):
        make_sweep(tmp_path / name, seed=[1, 2])
    make_job(tmp_path, "single", {"seed": 3})
    path, text = report.write_report([tmp_path / "a/x", tmp_path / "b/x", tmp_path / "single"])
    assert path == tmp_path / "comparison" / "report.html"
    data = embedded(path.parent)
    assert data["axes"][0]["key"] == "sweep"
    assert [(run["sweep"], run["job"]) for run in data["runs"]] == [
        ("a/x", 0), ("a/x", 1), ("b/x", 0), ("b/x", 1), ("tmp/single".replace("tmp", tmp_path.name), 0),
    ]  # fmt: skip
    assert (path.parent / data["rows"][2]["link"]).samefile(tmp_path / "b/x/0/output.png")
    assert text.splitlines()[0].split()[:2] == ["sweep", "n"]


def test_a_group_that_one_sweep_did_not_set_has_its_option(tmp_path):
    make_job(tmp_path / "a", 0, {"layers": "two"}, config={"layers": {"style": [1]}})
    path = make_job(tmp_path / "b", 0, {}, config={"layers": {"style": [2]}})
    (path / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {layers: one}}}")
    found = report.read_sweeps([tmp_path / "a", tmp_path / "b"])
    assert [job.text("layers") for job in found] == ["two", "one"]


def test_a_folder_that_cannot_be_written_is_one_sentence_with_the_way_out(sweep, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        main([str(sweep), "--output", str(tmp_path / "file")])
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert "cannot be written" in err and "--output" in err
    with pytest.raises(UserError, match="there is no such folder"):
        report.write_report([sweep, tmp_path / "nowhere"], tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_from_disk_into_another_folder(sweep, tmp_path):
    command = [sys.executable, "-m", "nstexp.report", str(sweep), "--output", str(tmp_path / "new" / "place")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'new' / 'place' / 'report.html'}\n")
    assert {file.name for file in (tmp_path / "new" / "place").iterdir()} == {"report.html", "table.csv", "grid.png"}


def make_painted(folder: Path, count: int, steps: int) -> None:
    """Runs with pictures as hard to compress as strong brush strokes, and loss curves."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 96, 128, 3), dtype=np.uint8)
    for number in range(count):
        path = make_job(folder, number, {"+x": number}, pictures=("output",), color=(0, 0, 0), size=(8, 8))
        Image.fromarray(coarse[number]).resize((512, 384), Image.Resampling.BICUBIC).save(path / "output.png")
        names = ["total", "content", "gram", "tv", "range"]
        rows = [f"output,{s},{','.join(f'{n / s:.6g}' for n in range(1, 6))},{s}" for s in range(1, steps)]
        (path / "losses.csv").write_text("\n".join([f"image,step,{','.join(names)},seconds", *rows]))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "most_bytes", "least_px"), [(12, 2e6, 320), (100, 5e6, 200)])
def test_the_page_is_small(tmp_path, count, most_bytes, least_px):
    make_painted(tmp_path, count, steps=500)
    assert report.write_report(tmp_path)[0].stat().st_size < most_bytes
    images = embedded(tmp_path)["images"]
    assert len(images) == count and min(image["width"] for image in images) >= least_px
    assert {len(curve["steps"]) for curve in embedded(tmp_path)["curves"]} <= {200, 155}


# ----------------------------------------------------------------------------------------------------- in a browser


class Page:
    """What the tests ask of an open page."""

    def __init__(self, driver, folder: Path, state: str = "") -> None:
        self.driver = driver
        driver.get_log("browser")
        driver.get("about:blank")
        driver.get((folder / "report.html").as_uri() + state)

    def js(self, code: str, *values):
        return self.driver.execute_script(f"return {code}", *values)

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return self.js("[...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def shown(self, selector: str = "#table-view tbody tr") -> list[int]:
        """The numbers of the rows in a part of the page."""
        code = "[...document.querySelectorAll(arguments[0])].map((e) => Number(e.dataset.row))"
        return self.js(code, selector)

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def filter(self, text: str) -> list[int]:
        box = self.driver.find_element("id", "filter")
        box.clear()
        box.send_keys(text)
        return sorted(self.shown())

    def choose(self, control: str, value: str) -> None:
        select = self.driver.find_element("css selector", f'[data-control="{control}"] select')
        self.driver.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))", select, value
        )

    def errors(self) -> list[dict]:
        return [entry for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def waiting(page: Page):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page.driver, 10)


@pytest.fixture
def page(browser, sweep) -> Page:
    return Page(browser, sweep)


@pytest.fixture
def unfolded(browser, sweep) -> Page:
    """The page with a cell for each seed."""
    return Page(browser, sweep, "#rows=layers&columns=seed&pick.weights.beta=1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A full grid of 3 x 2 settings on two photos with two seeds; beta lowers style_gram, layers change nothing."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    noise = iter(np.random.default_rng(0).uniform(-0.1, 0.1, 24))
    combinations = product((1, 10, 100), ("one", "two"), ("a.png", "b.png"), (1, 2))
    for number, (beta, layers, photo, seed) in enumerate(combinations):
        values = {"weights.beta": beta, "layers": layers, "content": photo, "seed": seed}
        score = 5 - len(str(beta)) + 3 * (photo == "b.png") + next(noise)
        numbers = {"output": {"style_gram": score, "ssim": 0.5 - score / 20, "total": 1.0 + number}}
        described = {"style_gram": "VGG-19", "ssim": "luminance"}
        path = make_job(folder, number, values, ("output",), metrics=numbers, measured_with=described)
        (path / "metrics.json").write_text(json.dumps(numbers))
        lines = ["image,step,total,seconds", *(f"output,{s},{(1 + number) / s},{s / 10}" for s in range(1, 9))]
        (path / "losses.csv").write_text("\n".join(lines))
    report.write_report(folder)
    return folder


def test_runs_without_losses_have_no_chart_of_them(browser, page, tmp_path):
    assert page.js("document.getElementById('curves').closest('figure').checkVisibility()")
    make_job(tmp_path, 0, {"video.stabilize": 0})
    make_job(tmp_path, 1, {"video.stabilize": 0.8})
    report.write_report(tmp_path)
    without = Page(browser, tmp_path)
    assert not without.js("document.getElementById('curves').closest('figure').checkVisibility()")
    assert without.js("document.getElementById('scatter').closest('figure').checkVisibility()")


def test_the_sheet_is_laid_out_by_the_keys_that_vary(page):
    assert page.texts(".grid thead th .axis") == ["layers", "layers"]
    assert page.texts(".grid tbody th .axis") == ["weights.beta"] * 3
    assert page.shown(".cell") == [0, 2, 4, 6, 8, 10], "one cell for both seeds"
    page.choose("columns", "seed")
    assert page.shown(".cell") == [0, 1, 4, 5, 8, 9], "of the first layers"
    page.choose("rows", "layers")
    page.choose("weights.beta", "100")
    assert page.shown(".cell") == [8, 9, 10, 11]
    assert "no such file: </script><img" in page.texts(".cell .empty")[0]
    assert "running, step 100" in page.texts(".cell")[2]
    page.choose("rows", "weights.beta")
    page.choose("columns", "")
    page.choose("seed", "any")
    assert page.shown(".cell") == [0, 1, 4, 5, 8, 9]
    page.choose("layers", "any")
    assert page.shown(".cell") == list(range(12))
    assert page.texts("#inputs figcaption") == ["contentphoto.png", "stylepainting.png"]
    assert page.errors() == []


def test_a_cell_turns_over_its_seeds_and_has_their_mean(page):
    assert page.texts(".cell .number")[0] == "9.5 (4.9 to 14.1)"
    assert page.texts(".folded .cell span")[1] == "mean of 2 seeds"
    assert page.texts(".flip span")[0] == "1/2 seed 1"
    page.driver.execute_script("document.querySelector('.cell').focus()")
    page.press("]")
    assert page.shown(".cell") == [1, 2, 4, 6, 8, 10] and page.texts(".flip span")[0] == "2/2 seed 2"
    page.press("[")
    assert page.js("document.activeElement.dataset.row") == "0"
    page.all(".flip button")[3].click()
    assert page.shown(".cell") == [0, 3, 4, 6, 8, 10]
    assert page.errors() == []


def test_the_best_number_in_view_is_marked_by_its_direction(unfolded):
    page = unfolded
    page.choose("number", "ssim")
    assert page.shown(".cell.best") == [3]
    page.choose("number", "style_gram")
    assert page.shown(".cell.best") == [3]
    page.choose("weights.beta", "10")
    assert page.shown(".cell.best") == [7]
    page.choose("number", "gram")
    assert page.shown(".cell.best") == [6]
    page.choose("number", "total")
    assert page.shown(".cell.best") == [] and page.texts(".cell .number") == ["54", "55", "56", "57"]


def test_of_folded_cells_the_best_mean_is_marked(browser, whole):
    page = Page(browser, whole)
    assert {index // 8 for index in page.shown(".cell.best")} == {2}, "beta 100, on the first photo"
    page.choose("content", "mean")
    assert {index // 8 for index in page.shown(".cell.best")} == {2}, "beta 100, over both photos"
    assert page.texts(".cell.best .number")[0].endswith("best") and "mean of 2 photos" in page.texts(".cell")[0]


def test_the_table_sorts_by_mouse_and_keyboard_with_missing_numbers_last(page):
    def header():
        return page.driver.find_element("css selector", '[data-column="style_gram"]')

    header().click()
    assert page.shown() == [*reversed(COMPLETED), RUNNING, FAILED]
    assert page.js("document.querySelector('[aria-sort=ascending]').textContent").startswith("style_gram")
    page.press("\ue007")
    assert page.shown() == [*COMPLETED, RUNNING, FAILED]
    assert page.js("document.querySelector('[aria-sort=descending]') !== null")
    page.press("\ue007")
    assert page.shown() == list(range(12)) and not page.all("[aria-sort=descending]")


def test_the_filter(page):
    for text, rows in {
        "two": [2, 3, 6, 7, 10, 11],
        "seed=1 beta=10": [4, 6],
        "style_gram<2.5": [8, 9],
        "ssim>=0.45": [9],
        "gram>2 gram<=3 seed!=1": [1, 7],
        "status=failed": [FAILED],
        '"no such file"': [FAILED],
        "nothing<5": [],
        "running": [RUNNING],
    }.items():
        assert page.filter(text) == rows, text
        assert page.texts("#filter-count")[0].startswith(f"{len(rows)} of 12 rows")
        assert ("no column has the name" in page.texts("#filter-count")[0]) == (text == "nothing<5")


def test_the_filter_holds_for_the_charts(page):
    def points(chart: str) -> list[str]:
        code = "document.querySelector(arguments[0] + ' svg').series.map((s) => s.points[0]?.title.split(':')[0])"
        return page.js(code, f"#{chart}")

    for box in page.all("#curve-controls input, #scatter-controls input"):
        if "means" in box.find_element("xpath", "..").text:
            box.click()
    assert len(points("curves")) == 11
    page.filter("beta=1")
    assert points("curves") == ["job 0", "job 1", "job 2", "job 3"]
    indices = page.js("document.querySelector('#scatter svg').series.flatMap((s) => s.points).map((p) => p.index)")
    assert sorted(index for index in indices if index is not None) == [0, 1, 2, 3]
    assert page.js("document.querySelector('#curves svg').scales.y.has(0)") is False, "the scale is logarithmic"


def test_curves_of_pairs_and_seeds_are_a_mean_with_a_band(browser, whole):
    page = Page(browser, whole, "#curve.log=off")
    bands = page.js("[...document.querySelectorAll('#curves .series')].map((g) => g.querySelector('.band') !== null)")
    assert bands == [True] * 6
    last = page.js("document.querySelector('#curves svg').series[0].points.at(-1)")
    assert (last["x"], last["n"]) == (8, 4) and last["y"] == pytest.approx(2.5 / 8)
    assert last["low"] < last["y"] < last["high"]
    assert last["title"].startswith("weights.beta=1, layers=one\nsteps 8: 0.3125, mean of 4, 95 %")


def test_groups_of_columns_can_be_hidden(page):
    assert "weights.beta" in page.texts("#table-view thead th")
    page.all("#groups input")[0].click()
    assert "weights.beta" not in page.texts("#table-view thead th")


def test_references_are_the_last_rows(page):
    assert [text for text in page.texts("#table-view tfoot td") if text] == [
        "the photo itself", "30", "the painting itself", "0",
    ]  # fmt: skip


def test_a_cell_opens_the_comparison_and_the_slider_moves(unfolded):
    page = unfolded
    page.all(".cell")[1].click()
    assert page.js("document.getElementById('compare').open")
    assert page.js("document.getElementById('compare-a').value") == "row 1"
    assert page.js("document.getElementById('compare-b').value") == "row 2"
    clip = "getComputedStyle(document.querySelector('#compare-view .a')).clipPath"
    before = page.js(clip)
    assert "50%" in before
    page.press("\ue012" * 4)
    assert page.js(clip) == "inset(0px 52% 0px 0px)"
    lines = page.js("[...document.querySelectorAll('#compare-config tbody tr')].map((r) => r.innerText.split('\\t'))")
    assert lines == [["layers", "one", "two"], ["seed", "2", "1"]]
    assert page.texts("#compare-numbers tbody tr")[0] == "total5152"
    page.press("\ue00c")
    assert not page.js("document.getElementById('compare').open")
    page.all(".cell")[3].click()
    values = page.js("['a', 'b'].map((s) => document.getElementById('compare-' + s).value)")
    assert values == ["row 3", "row 1"]


def test_the_full_picture_replaces_the_thumbnail_if_it_is_there(page, sweep):
    moved = sweep / "0" / "moved.png"
    (sweep / "0" / "output.png").rename(moved)
    try:
        page.all(".cell")[0].click()
        loaded = "[...document.querySelectorAll('#compare-view img')].map((i) => 'full' in i.dataset)"
        waiting(page).until(lambda _: page.js(loaded)[1])
        assert page.js(loaded) == [False, True]
        assert page.js("document.querySelector('#compare-view .a img').naturalWidth") == 64
    finally:
        moved.rename(sweep / "0" / "output.png")


def test_arrow_keys_move_between_the_cells(unfolded):
    page = unfolded
    focused = "Number(document.activeElement.dataset.row)"
    assert page.js("document.querySelectorAll('.cell[tabindex=\"0\"]').length") == 1
    page.driver.execute_script("document.querySelector('.cell').focus()")
    for key, row in (("\ue014", 1), ("\ue015", 3), ("\ue012", 2), ("\ue013", 0), ("\ue010", 3), ("\ue011", 0)):
        page.press(key)
        assert page.js(focused) == row
    page.press("\ue007")
    assert page.js("document.getElementById('compare').open")


def test_what_configs_and_names_contain_stays_text(browser, hostile):
    page = Page(browser, hostile)
    for cell in page.all(".cell"):
        cell.click()
        page.press("\ue00c")
    assert page.js("[...document.images].filter((i) => i.getAttribute('src') === 'x').length") == 0
    assert any(HOSTILE in text for text in page.texts("#table-view tbody td"))
    assert page.texts("#title") == ["<b>sweep"] and page.js("document.title") == "<b>sweep"
    assert HOSTILE in page.js("document.querySelector('#curves svg').textContent")
    assert HOSTILE in page.js("document.querySelector('#curves svg').series[0].points[0].title")
    drawn = page.js("document.querySelectorAll('.chart img, .chart a[href], .chart script').length")
    assert drawn == 0 and page.errors() == []


def test_the_page_has_no_horizontal_scroll_on_a_phone(page):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.driver.refresh()
        assert page.js("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        page.all(".cell")[0].click()
        assert page.js("document.getElementById('compare').scrollWidth") <= 390
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_is_the_system_s_or_chosen(page):
    def background() -> int:
        return sum(map(int, re.findall(r"\d+", page.js("getComputedStyle(document.body).backgroundColor"))[:3]))

    def emulate(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    emulate("dark")
    assert background() < 150
    page.driver.find_element("id", "theme").click()
    assert background() > 600
    color = "document.querySelector('#curves svg text').getAttribute('fill')"
    dark_text = page.js(color)
    page.driver.find_element("id", "theme").click()
    assert background() < 150 and page.js(color) != dark_text
    emulate("light")


def saved(page: Page, click: str, count: int = 1) -> list[str]:
    """The texts of the files that a click saves."""
    page.driver.execute_script(
        "window.saved = []; URL.createObjectURL = (blob) => { window.saved.push(blob); return '#'; };"
        "document.querySelector(arguments[0]).click()", click,
    )  # fmt: skip
    code = "const end = arguments[0]; Promise.all(window.saved.map((b) => b.text())).then(end)"
    found = page.driver.execute_async_script(code)
    assert len(found) == count
    return found


@pytest.mark.parametrize("chart", ["curves", "scatter", "parallel", "shares", "differences", "main-0"])
def test_a_chart_is_saved_as_an_svg_file_that_stands_alone(browser, whole, chart):
    page = Page(browser, whole)
    (text,) = saved(page, f"#{chart} .save")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and len(list(root.iter())) > 10
    assert "var(" not in text and "rgb(255, 255, 255)" not in text.partition("</title>")[0]
    assert page.errors() == []


TABLES = ("table-export", "comparisons-title", "means-title", "shares-title", "front-head")


@pytest.mark.parametrize("place", TABLES)
def test_a_table_is_saved_as_csv_markdown_and_latex(browser, whole, place):
    page = Page(browser, whole)
    forms = [saved(page, f"#{place} .export button:nth-child({n})")[0] for n in (1, 2, 3)]
    lines = list(csv.reader(io.StringIO(forms[0])))
    assert len({len(line) for line in lines}) == 1 and len(lines) > 1
    assert forms[1].startswith("| ") and forms[1].count("\n") == len(lines) + 1
    assert forms[2].count("\\\\\n") == len(lines) and "\\toprule" in forms[2]


def test_the_state_is_in_the_address(page, browser, sweep):
    page.choose("columns", "seed")
    page.choose("number", "ssim")
    page.filter("layers=one")
    page.all("#table-view [data-column='total']")[0].click()
    page.all("#groups details summary")[0].click()
    page.all("#groups details input")[2].click()
    page.all(".cell")[1].click()
    address = page.js("location.href")
    page.driver.get("about:blank")
    page.driver.get(address)
    assert page.texts(".grid thead th .axis") == ["seed", "seed"]
    assert page.js("document.querySelector('[data-control=number] select').value") == "ssim"
    assert page.js("document.getElementById('compare').open")
    assert page.js("['a', 'b'].map((s) => document.getElementById('compare-' + s).value)") == ["row 1", "row 4"]
    assert sorted(page.shown()) == [0, 1, 4, 5, 8, 9]
    assert page.js("document.querySelector('[aria-sort=ascending]').textContent").startswith("total")
    assert "weights.beta" not in page.texts("#table-view thead th")
    page.press("\ue00c")
    page.all('nav a[href="#table"]')[0].click()
    assert page.js("location.hash").startswith("#") and "columns=seed" in page.js("location.hash")


def test_comparisons_are_sentences_with_a_chosen_baseline(page):
    (first, _) = page.texts("#sentences li")
    assert first == "weights.beta 10 against 1: style_gram -4.0, 95 % -4.0 to -4.0, 2 seeds"
    page.choose("baseline", "100")
    assert [text.partition(":")[0] for text in page.texts("#sentences li")] == [
        "weights.beta 1 against 100", "weights.beta 10 against 100",
    ]  # fmt: skip
    page.choose("key", "layers")
    assert page.texts("#sentences li")[0].startswith("layers two against one: style_gram -2")
    page.choose("measure", "ssim")
    assert "layers two against one: ssim +0.1" in page.texts("#sentences li")[0]
    assert page.texts("#comparisons-note")[0].startswith("Higher is better. Averaged over weights.beta.")
    assert page.errors() == []


def test_effects_have_shares_and_a_mean_for_each_value(browser, whole):
    page = Page(browser, whole)
    lines = page.js("[...document.querySelectorAll('#shares-view tbody tr')].map((r) => r.innerText.split('\\t'))")
    assert [line[0] for line in lines] == [
        "weights.beta", "layers", "weights.beta \u00d7 layers", "differs between photos", "seeds",
    ]  # fmt: skip
    assert float(lines[0][1].split()[0]) > 95 and [line[-1] for line in lines[1:3]] == ["not larger than chance"] * 2
    assert page.texts("#mains figcaption") == ["weights.beta", "layers"]
    points = page.js("document.querySelector('#main-0 svg').series[0].points.map((p) => [p.x, p.y, p.low, p.high])")
    assert [x for x, *_ in points] == ["1", "10", "100"]
    assert [y for _, y, *_ in points] == pytest.approx([5.5, 4.5, 3.5], abs=0.1)
    split = page.driver.find_element("css selector", "#effects-controls label:nth-child(2) select")
    split.send_keys("layers")
    names = page.js("document.querySelector('#main-0 svg').series.map((s) => s.name)")
    assert names == ["one", "two"] and "split=layers" in page.js("location.hash") and page.errors() == []


def test_the_front_is_marked_and_listed(page):
    assert page.all("#scatter .front") and page.texts("#front-list li")
    page.all("#front-list button")[0].click()
    assert page.js("document.getElementById('compare').open")


def test_runs_that_are_not_completed_are_no_part_of_the_front(browser, sweep):
    page = Page(browser, sweep, "#x=total&y=gram&points=all")
    points = page.js("document.querySelector('#scatter svg').series.flatMap((s) => s.points)")
    early = [point for point in points if point["index"] == RUNNING]
    assert [(point["x"], point["y"]) for point in early] == [(12.5, 1.125)], "it would beat all others"
    assert [text.partition(":")[0] for text in page.texts("#front-list li")] == ["job 0"]
    assert "Without the 1 picture of runs that are not completed." in page.texts("#front-head")[0]


def test_the_keyboard_walks_through_the_points_of_a_chart(browser, sweep):
    page = Page(browser, sweep, "#x=style_gram&y=ssim&points=all")
    page.driver.execute_script("document.querySelector('#scatter svg').focus({ focusVisible: true })")
    spoken = "document.querySelector('#scatter .spoken').textContent"
    assert page.js(spoken) == "1 of 10: job 9: weights.beta=100, layers=one, seed=2, style_gram 1, ssim 0.4500"
    page.press("\ue014", "\ue014")
    assert page.js(spoken).startswith("3 of 10: job 7")
    assert page.js("document.querySelector('#scatter .tip').hidden") is False and page.all("#scatter .mark")
    page.press("\ue010")
    assert page.js(spoken).startswith("10 of 10: job 0")
    page.press("\ue013")
    assert page.js(spoken).startswith("9 of 10: job 1"), "the next one above"
    page.press("\ue007")
    assert page.js("document.getElementById('compare').open")
    assert page.js("document.getElementById('compare-a').value") == "row 1"
    page.press("\ue00c")
    assert page.js("document.activeElement.closest('.chart').id") == "scatter"
    page.press("\ue00c")
    assert not page.all("#scatter .mark") and page.errors() == []


def test_the_keyboard_changes_between_curves_and_between_parallel_lines(page):
    page.driver.execute_script("document.querySelector('#curves svg').focus({ focusVisible: true })")
    spoken = "document.querySelector('#curves .spoken').textContent"
    first = page.js(spoken)
    page.press("\ue014")
    assert first.startswith("1 of 8:") and "steps 1:" in first
    assert page.js(spoken).startswith("2 of 8:") and "steps 2:" in page.js(spoken)
    page.driver.execute_script("document.querySelector('#parallel svg').focus({ focusVisible: true })")
    assert page.js("document.querySelector('#parallel .spoken').textContent").startswith("1 of 5: weights.beta=")
    page.press("\ue014")
    assert page.js("document.querySelectorAll('#parallel .marked').length") == 1
    assert page.js("document.querySelector('#parallel .marked title').textContent").startswith("weights.beta=")
    label = page.js("document.querySelector('#parallel svg').getAttribute('aria-label')")
    assert label.endswith("5 lines; arrow keys move between them, Enter compares the picture")


def test_one_slider_shows_all_pictures_at_a_step(browser, tmp_path):
    for number in range(2):
        path = make_job(tmp_path, number, {"+x": number})
        (path / "images").mkdir()
        for step in (0, 50, 100):
            Image.new("RGB", (40, 30), (step, 0, 0)).save(path / "images" / f"output_{step:05d}.jpg")
    (tmp_path / "1" / "images" / "output_00050.jpg").unlink()
    report.write_report(tmp_path)
    page = Page(browser, tmp_path)
    sources = "[...document.querySelectorAll('.cell img')].map((i) => i.getAttribute('src').slice(0, 30))"
    page.driver.find_element("id", "step").send_keys("\ue012\ue012")
    assert page.js(sources) == ["0/images/output_00050.jpg", "1/images/output_00000.jpg"]
    assert page.texts("#sheet-controls output") == ["step 50"] and "step=50" in page.js("location.hash")
    page.driver.find_element("id", "step").send_keys("\ue010")
    assert all(source.startswith("data:image/webp") for source in page.js(sources))
    shutil.rmtree(tmp_path / "0" / "images")
    page = Page(browser, tmp_path)
    page.driver.find_element("id", "step").send_keys("\ue012")
    waiting(page).until(lambda _: page.js(sources)[0].startswith("data:"))


def test_notes_are_kept_in_the_file_of_the_page(browser, tmp_path):
    make_sweep(tmp_path, x=[1, 2])
    report.write_report(tmp_path)
    page = Page(browser, tmp_path)
    page.driver.execute_script("localStorage.clear()")
    page.driver.refresh()
    assert not page.driver.find_element("id", "notes-bar").is_displayed()
    page.all(".cell")[1].click()
    page.driver.find_element("id", "compare-note").send_keys("too <b>dark</script>")
    page.press("\ue00c")
    assert page.texts("#table-view tbody tr:nth-child(2) td:last-child") == ["too <b>dark</script>"]
    page.driver.refresh()
    assert page.texts("#notes-bar")[0].startswith("1 note not in the file yet")
    (text,) = saved(page, "#notes-bar button")
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    page = Page(browser, tmp_path)
    assert page.filter("dark") == [1] and not page.driver.find_element("id", "notes-bar").is_displayed()
    report.write_report(tmp_path)
    page = Page(browser, tmp_path)
    assert page.filter("dark") == [1] and page.errors() == []


def test_of_a_long_table_the_rows_in_view_are_in_the_page(browser, tmp_path):
    for number in range(400):
        make_job(tmp_path, number, {"+x": number}, pictures=(), metrics={"output": {"total": 1.0 + number}})
    report.write_report(tmp_path)
    page = Page(browser, tmp_path)
    shown = page.shown("#table-view tbody tr:not(.gap)")
    assert shown[0] == 0 and len(shown) < 60
    page.driver.execute_script("document.getElementById('table-view').scrollTop = 1e9")
    waiting(page).until(lambda _: 399 in page.shown("#table-view tbody tr:not(.gap)"))
    assert len(page.shown("#table-view tbody tr:not(.gap)")) < 60
    assert page.filter("x=123") == [123]
    page.driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    page.driver.find_element("id", "filter").clear()
    page.driver.find_element("id", "filter").send_keys("x>=0")
    assert len(page.shown()) == 400, "paper has all rows"
    page.driver.execute_script("dispatchEvent(new Event('afterprint'))")


def test_an_evaluation_is_laid_out_by_photo_painting_and_method(browser, tmp_path):
    numbers, lines = {}, ["content,style,method,style_gram"]
    for content, style, method in product(("a", "b"), ("p", "q", "r"), ("adain", "gatys")):
        numbers[f"{content}_{style}_{method}"] = {"style_gram": len(numbers) + 1.0}
        lines.append(f"{content},{style},{method},1")
    path = make_job(
        tmp_path, 0, {}, tuple(numbers), metrics={**numbers, "mean of adain": {"style_gram": 6.0, "fid": 9.0}}
    )
    (path / "metrics.json").write_text(json.dumps({**numbers, "mean of adain": {"style_gram": 6.0, "fid": 9.0}}))
    (path / "scores.csv").write_text("\n".join(lines))
    page = Page(browser, report.write_report(tmp_path)[0].parent)
    assert page.texts(".grid thead th .axis") == ["method"] * 2 and page.texts(".grid tbody th .axis") == ["style"] * 3
    assert page.js("document.querySelectorAll('.cell').length") == 6
    page.choose("content", "mean")
    assert page.texts(".flip span")[0] == "1/2 content a"
    assert "mean" in page.texts("#table-view tbody tr:last-child td")[2]
    assert page.texts("#sentences li")[0].startswith("method gatys against adain: style_gram +1")
    assert page.errors() == []


def test_it_prints(page):
    document = page.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert len(base64.b64decode(document)) > 20_000
