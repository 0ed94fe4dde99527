"""The part Experiments in a browser: what a person sees and presses."""

import json

import pytest
from helpers import wait_for
from studio_client import end, serve
from sweep_folders import make_job, make_sweep

pytestmark = pytest.mark.slow
WAIT_S = 150.0  # a job imports torch, while other tests run
CHEAP = {
    "backbone": "random", "image_px": "48", "method.max_steps": "5", "logger": "none", "precision": "fp32",
    "log_every_n_steps": "1", "picture_every_n_steps": "5", "measure": "false",
}  # fmt: skip
NAMELESS = """
const named = (one) => one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.[0]?.textContent
  || one.querySelector("img[alt]")?.alt
  || document.getElementById(one.getAttribute("aria-labelledby") ?? "")?.textContent;
return [...document.querySelectorAll("#part-experiments :is(button, a, input, select, progress, [tabindex='0'])")]
  .filter((one) => one.offsetParent !== null && !named(one)).map((one) => one.outerHTML.slice(0, 120));
"""


class Page:
    """The part of the page, as the tests use it."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address

    def open(self, place=""):
        self.browser.get("about:blank")
        self.browser.get(f"{self.address}#experiments{place}")
        self.wait("return document.querySelector('.exp-count p')?.textContent")

    def run(self, script, *args):
        return self.browser.execute_script(script, *args)

    def wait(self, script, *args):
        return wait_for(lambda: self.run(script, *args), WAIT_S)

    def texts(self, selector):
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter((one) => one.offsetParent !== null)"
            ".map((one) => one.textContent.trim())"
        )
        return self.run(script, selector)

    def press(self, words, within="#part-experiments"):
        """Press the first visible button or link with these words."""
        self.wait(
            "const all = [...document.querySelectorAll(`${arguments[1]} :is(button, a)`)];"
            "const one = all.find((each) => each.offsetParent !== null && each.textContent.trim() === arguments[0]);"
            "const can = Boolean(one && !one.disabled); if (can) one.click(); return can",
            words,
            within,
        )

    def states(self):
        return self.run("return [...document.querySelectorAll('.exp-cell')].map((cell) => cell.dataset.status)")

    def fill(self, rows):
        """Put rows into the form, which remembers them for the address of the page."""
        self.open()
        self.run("sessionStorage.setItem('nstexp studio form', arguments[0])", json.dumps(rows))
        self.open("/new")

    def type(self, key, value):
        """Change the value of a key in the form, as typing does."""
        self.run(
            "const rows = [...document.querySelectorAll('.exp-row')];"
            "const row = rows.find((one) => one.querySelector('input').value === arguments[0]);"
            "const field = row.querySelectorAll('input')[1]; field.value = arguments[1];"
            "field.dispatchEvent(new Event('input', { bubbles: true }))",
            key,
            value,
        )

    def errors(self):
        return [line["message"] for line in self.browser.get_log("browser") if " 400 " not in line["message"]]


def rows(**more):
    values = {**CHEAP, **{key.replace("__", "."): value for key, value in more.items()}}
    return [{"key": key, "value": value} for key, value in values.items()]


@pytest.fixture(scope="module")
def folder(served):
    """The folder of the studio, with a sweep in which a run failed."""
    made = {"measured_with": {"ssim": "luminance"}, "higher_is_better": ["ssim"], "method": "gatys", "task": "stylize"}
    for number, (beta, layers) in enumerate([(1, "a"), (1, "b"), (10, "a"), (10, "b")]):
        failed = {"status": "failed", "error": "weights.beta=-1: a weight is a number", "metrics": {}}
        more = failed if number == 3 else {"metrics": {"output": {"ssim": 0.1 * (number + 1)}}}
        files = () if number == 3 else ("output",)
        overrides = {"weights.beta": beta, "layers": layers}
        make_job(
            served.folder / "old", number, overrides, files, outputs=[f"{name}.png" for name in files], **made, **more
        )
    (served.folder / "old" / "multirun.yaml").touch()
    make_job(served.folder, "alone", {"seed": 3}, outputs=["output.png"], metrics={"output": {"ssim": 0.9}}, **made)
    return served.folder


@pytest.fixture
def page(browser, served, folder):
    return Page(browser, served.address)


def test_a_failed_run_shows_its_sentence(page):
    page.open()
    page.wait("return document.querySelectorAll('.exp-items a').length === 2")
    assert "weights.beta=-1: a weight is a number" in page.texts(".exp-items .exp-error")
    page.open("/run/old")
    page.wait("return document.querySelectorAll('.exp-cell').length === 4")
    assert page.states() == ["completed", "completed", "completed", "failed"]
    assert page.texts(".exp-cell[data-status=failed] .exp-error") == ["weights.beta=-1: a weight is a number"]
    assert page.texts(".exp-grid tbody th") == ["1", "10"]
    assert page.texts(".exp-grid thead th") == ["a", "b"]
    page.run("document.querySelector('.exp-cell[data-status=failed] button').click()")
    assert "weights.beta=-1: a weight is a number" in page.texts("dialog[open] .exp-problem")
    page.press("Close", "dialog[open]")
    assert page.errors() == []


def test_the_search_finds_words_statuses_and_kinds(page):
    page.open()
    page.wait("return document.querySelectorAll('.exp-items a').length === 2")
    script = (
        "const field = document.querySelector('.exp-filters input'); field.value = arguments[0];"
        "field.dispatchEvent(new Event('input')); return document.querySelectorAll('.exp-items a').length"
    )
    assert [page.run(script, words) for words in ("seed=3", "layers", "failed", "gatys", "nothing")] == [1, 1, 1, 2, 0]


def test_runs_of_different_sweeps_are_compared(page):
    page.run("sessionStorage.clear()")
    page.open("/run/old")
    page.wait("return document.querySelectorAll('.exp-cell').length === 4")
    page.run("document.querySelector('input[data-run=\"old/1\"]').click()")
    page.open("/run/alone")
    page.wait("return document.querySelector('input[data-run=alone]')")
    assert page.texts(".exp-tray span") == ["1 run chosen; choose another to compare"]
    page.run("document.querySelector('input[data-run=alone]').click()")
    page.press("Compare")
    page.wait("return document.querySelectorAll('.exp-figures img').length === 2")
    table = page.run(
        "return [...document.querySelectorAll('.exp-compare table tr')].map((row) =>"
        "[...row.children].map((cell) => cell.textContent.trim()))"
    )
    assert ["weights.beta", "1", "not set"] in table
    assert ["seed", "not set", "3"] in table
    assert ["ssim higher is better", "0.2000", "0.9000 (best)"] in table
    page.wait("return [...document.querySelectorAll('.exp-compare img')].every((one) => one.naturalWidth === 40)")
    before = page.run("return getComputedStyle(document.querySelector('.exp-over')).clipPath")
    page.run(
        "const range = document.querySelector('.exp-slider input'); range.value = 90;"
        "range.dispatchEvent(new Event('input'))"
    )
    assert page.run("return getComputedStyle(document.querySelector('.exp-over')).clipPath") != before
    assert page.errors() == []


def test_a_sweep_is_started_watched_stopped_and_continued(page):
    page.fill(rows(method__max_steps="5,600,-3"))
    page.wait("return document.querySelector('.exp-row .exp-problem:not([hidden])')")
    assert page.texts(".exp-row .exp-problem") == ["method.max_steps=-3: give a whole number, 1 or larger"]
    wrong = page.run("return [...document.querySelectorAll('[aria-invalid=true]')].map((one) => one.value).join('=')")
    assert wrong == "method.max_steps=5,600,-3"
    page.press("Start")
    page.wait("return document.activeElement.value === '5,600,-3'")
    page.type("method.max_steps", "5,600,6")
    page.wait("return document.querySelector('.exp-result p')?.textContent.startsWith('A sweep of 3 runs')")
    (command,) = page.texts(".exp-result code")
    assert command.startswith("nstexp -m backbone=random")
    page.press("Start")
    page.wait("return location.hash.startsWith('#experiments/run/multirun')")
    page.wait("return document.querySelectorAll('.exp-cell').length === 3")
    assert "method.max_steps=600" in page.texts(".exp-values div")
    page.wait(
        "const states = [...document.querySelectorAll('.exp-cell')].map((cell) => cell.dataset.status);"
        "return states[0] === 'completed' && states[1] === 'running'"
    )
    assert page.states()[2] == "waiting"
    assert page.run("return document.querySelector('.exp-done progress').value") >= 0.33
    page.press("Stop", ".exp-actions")
    page.wait("return document.querySelector('.exp-actions [data-name=Continue]')")
    assert page.states() == ["completed", "interrupted", "not begun"]
    page.press("Continue", ".exp-actions")
    page.wait("return [...document.querySelectorAll('.exp-cell')].every((cell) => cell.dataset.status === 'completed')")
    page.wait("return document.querySelector('.exp-actions [data-name=Stop]') === null")
    assert "3 completed" in page.texts(".exp-detail header .exp-status")
    assert page.errors() == []


def test_everything_has_a_name_and_fits_a_phone(page):
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        for place in ("", "/run/old", "/compare/old%2F0,old%2F1", "/new"):
            page.open(place)
            page.wait("return document.querySelector('.exp-cell, .exp-figures img, .exp-row, .exp-items a')")
            assert page.run(NAMELESS) == []
            assert page.run("return document.documentElement.scrollWidth") <= 400
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_page_asks_rarely_while_nothing_runs_and_never_in_another_tab(page):
    page.open()
    page.run(
        "window.asked = []; const send = window.fetch;"
        "window.fetch = (url, ...rest) => { window.asked.push(String(url)); return send(url, ...rest); }"
    )
    page.run("document.querySelector('#tab-paint').click()")
    page.wait("return !document.querySelector('#part-paint').hidden")
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert [url for url in page.run("return window.asked") if "experiments" in url] == []
    page.run("document.querySelector('#tab-experiments').click()")
    page.wait("return window.asked.some((url) => url.includes('/api/experiments/list?known='))")


def test_a_thousand_runs_are_usable(browser, tmp_path):
    for number in range(1000):
        path = tmp_path / "runs" / f"run{number:04d}"
        path.mkdir(parents=True)
        status = "failed" if number == 500 else "completed"
        record = {"status": status, "overrides": [f"seed={number}"], "outputs": [], "error": None, "method": "gatys"}
        (path / "summary.json").write_text(json.dumps(record))
    make_sweep(tmp_path / "multirun" / "one", seed=[1, 2])
    studio = serve(tmp_path)
    try:
        page = Page(browser, studio.address)
        page.open()
        page.wait("return document.querySelectorAll('.exp-items a').length === 1001")
        assert page.texts(".exp-count p") == ["1001 entries"]
        page.run(
            "const field = document.querySelector('.exp-filters input'); field.value = 'seed=500';"
            "field.dispatchEvent(new Event('input'))"
        )
        assert page.texts(".exp-items strong") == ["run0500"]
        page.run("document.querySelector('.exp-items a').click()")
        page.wait("return document.querySelector('.exp-detail h2').textContent === 'run0500'")
        assert page.run("return document.querySelectorAll('[aria-current=page]').length") == 1
        assert page.errors() == []
    finally:
        assert end(studio) in (0, 130)
