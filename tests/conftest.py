"""Fixtures that several test files share."""

import logging
import shutil
import sys

import pytest
import torch
from helpers import SMOKE, Result, picture
from hydra.core.global_hydra import GlobalHydra

import nstexp.cli as cli

RUN_COMMANDS_OR_EXPORT = {"nstexp", "cin_file", "adain_file"}  # fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Markers that follow from what a test does; more of them are at the tests themselves."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker("browser")
        long = RUN_COMMANDS_OR_EXPORT & set(item.fixturenames) or "end_to_end" in item.path.parts
        if long and not item.get_closest_marker("quick"):
            item.add_marker("slow")


@pytest.fixture(scope="module")
def one_thread():
    """Two threads wait longer for each other than such small pictures take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in, with a photo (50x37) and a painting (40x44)."""
    monkeypatch.chdir(tmp_path)
    picture("photo.png", 50, 37, seed=1)
    picture("painting.jpg", 40, 44, seed=2)
    return tmp_path


@pytest.fixture
def nstexp(monkeypatch, capfd):
    """Call the command line in this process, on the smoke experiment with photo.png and painting.jpg."""

    def call(*args: str) -> Result:
        mode = args[:1] if args[:1] == ("-m",) else ()
        inputs = ("content=photo.png", "style=painting.jpg")
        return run_main(*mode, *SMOKE, *inputs, *args[len(mode) :])

    def run_main(*args: str) -> Result:
        capfd.readouterr()
        GlobalHydra.instance().clear()
        monkeypatch.setattr(logging.getLogger(), "handlers", [])  # the last run's hold its closed stderr
        monkeypatch.setattr(sys, "argv", ["nstexp", *args])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        return Result(code, *capfd.readouterr())

    call.bare = run_main
    return call


@pytest.fixture(scope="module")
def browser(request):
    """Chromium; a module with a camera in its tests lists further flags in `BROWSER_FLAGS`."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: pages are not tried in a browser")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    flags = ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update",
             "disable-dev-shm-usage", *getattr(request.module, "BROWSER_FLAGS", ()))  # fmt: skip
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)
    driver.set_window_size(1400, 1000)
    yield driver
    driver.quit()
