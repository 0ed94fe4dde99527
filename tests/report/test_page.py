"""report.html: what it is made from, and what it does in a browser (headless Chromium, if there is one)."""

import base64
import json
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sweep_folders import make_job, make_sweep

from nstexp import report
from nstexp.core.errors import UserError
from nstexp.report import jobs as reading
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


def embedded(folder: Path) -> dict:
    text = (folder / "report.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


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
    assert text.splitlines()[0].split()[:2] == ["job", "sweep"]


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


@pytest.mark.slow
def test_a_hundred_runs_are_about_ten_megabytes(tmp_path):
    """With pictures as hard to compress as strong brush strokes."""
    coarse = np.random.default_rng(0).integers(0, 256, (100, 96, 128, 3), dtype=np.uint8)
    for number in range(100):
        path = make_job(tmp_path, number, {"seed": number}, pictures=("output",), color=(0, 0, 0), size=(8, 8))
        Image.fromarray(coarse[number]).resize((512, 384), Image.Resampling.BICUBIC).save(path / "output.png")
        lines = ["image,step,total,gram,seconds", *(f"output,{s},{1 / s},{2 / s},{s}" for s in range(1, 300))]
        (path / "losses.csv").write_text("\n".join(lines))
    size = report.write_report(tmp_path)[0].stat().st_size
    assert 6e6 < size < 11e6
    images = embedded(tmp_path)["images"]
    assert len(images) == 100 and min(image["width"] for image in images) > 200


# ----------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: report.html is not tried in a browser")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking",
                 "disable-component-update", "disable-dev-shm-usage"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)
    driver.set_window_size(1400, 1000)
    yield driver
    driver.quit()


class Page:
    """What the tests ask of an open page."""

    def __init__(self, driver, folder: Path) -> None:
        self.driver = driver
        driver.get_log("browser")
        driver.get((folder / "report.html").as_uri())

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


@pytest.fixture
def page(browser, sweep) -> Page:
    return Page(browser, sweep)


def test_runs_without_losses_have_no_chart_of_them(browser, page, tmp_path):
    assert page.js("document.getElementById('curves').closest('figure').checkVisibility()")
    make_job(tmp_path, 0, {"video.stabilize": 0})
    make_job(tmp_path, 1, {"video.stabilize": 0.8})
    report.write_report(tmp_path)
    without = Page(browser, tmp_path)
    assert not without.js("document.getElementById('curves').closest('figure').checkVisibility()")
    assert without.js("document.getElementById('scatter').closest('figure').checkVisibility()")


def test_the_sheet_is_laid_out_by_the_keys_that_vary(page):
    assert page.texts(".grid thead th .axis") == ["seed", "seed"]
    assert page.texts(".grid tbody th .axis") == ["layers", "layers"]
    assert page.shown(".cell") == [0, 1, 2, 3]
    page.choose("weights.beta", "100")
    assert page.shown(".cell") == [8, 9, 10, 11]
    assert "no such file: </script><img" in page.texts(".cell .empty")[0]
    assert "running, step 100" in page.texts(".cell")[2]
    page.choose("rows", "weights.beta")
    assert page.shown(".cell") == [0, 1, 4, 5, 8, 9]
    page.choose("columns", "")
    page.choose("seed", "any")
    assert page.shown(".cell") == [0, 1, 4, 5, 8, 9]
    page.choose("layers", "any")
    assert page.shown(".cell") == list(range(12))
    assert page.texts("#inputs figcaption") == ["contentphoto.png", "stylepainting.png"]
    assert page.errors() == []


def test_the_best_number_in_view_is_marked_by_its_direction(page):
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
    def traces(chart: str) -> list[str]:
        return page.js("document.getElementById(arguments[0]).data.map((t) => t.meta ?? t.text[0])", chart)

    assert len(traces("curves")) == 11
    page.driver.execute_script("const s = document.querySelector('#scatter-controls select');"
                               "s.value = 'style_gram'; s.dispatchEvent(new Event('change'))")  # fmt: skip
    page.filter("beta=1")
    assert [text.partition(":")[0] for text in traces("curves")] == ["job 0", "job 1", "job 2", "job 3"]
    assert [text.partition(":")[0] for text in traces("scatter")] == ["job 0", "job 1", "job 2", "job 3"]
    assert page.js("document.getElementById('curves').layout.yaxis.type") == "log"


def test_groups_of_columns_can_be_hidden(page):
    assert "weights.beta" in page.texts("#table-view thead th")
    page.all("#groups input")[0].click()
    assert "weights.beta" not in page.texts("#table-view thead th")


def test_references_are_the_last_rows(page):
    assert [text for text in page.texts("#table-view tfoot td") if text] == [
        "the photo itself", "30", "the painting itself", "0",
    ]  # fmt: skip


def test_a_cell_opens_the_comparison_and_the_slider_moves(page):
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
    from selenium.webdriver.support.ui import WebDriverWait

    moved = sweep / "0" / "moved.png"
    (sweep / "0" / "output.png").rename(moved)
    try:
        page.all(".cell")[0].click()
        loaded = "[...document.querySelectorAll('#compare-view img')].map((i) => 'full' in i.dataset)"
        WebDriverWait(page.driver, 10).until(lambda _: page.js(loaded)[1])
        assert page.js(loaded) == [False, True]
        assert page.js("document.querySelector('#compare-view .a img').naturalWidth") == 64
    finally:
        moved.rename(sweep / "0" / "output.png")


def test_arrow_keys_move_between_the_cells(page):
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
    page.driver.execute_script("Plotly.Fx.hover('curves', [{curveNumber: 0, pointNumber: 1}])")
    assert HOSTILE in page.js("document.querySelector('#curves .hoverlayer').textContent")
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
    dark_text = page.js("document.getElementById('curves').layout.font.color")
    page.driver.find_element("id", "theme").click()
    assert background() < 150 and page.js("document.getElementById('curves').layout.font.color") != dark_text
    emulate("light")


def test_a_chart_can_be_saved_as_a_picture_and_nothing_is_offered_to_a_server(page):
    code = "Plotly.toImage('curves', {format: 'png'}).then(arguments[0], () => arguments[0](''))"
    assert page.driver.execute_async_script(code).startswith("data:image/png")
    buttons = page.js("[...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)")
    assert len(buttons) == 12 and not [title for title in buttons if "loud" in title]
    assert page.errors() == []


def test_it_prints(page):
    document = page.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert len(base64.b64decode(document)) > 20_000
