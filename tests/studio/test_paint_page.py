"""The part Paint in a browser."""

import base64
import io
import shlex

import numpy as np
import pytest
from helpers import picture, wait_for
from PIL import Image

WAIT_S = 60.0
DROP = """
const [data, name, target] = arguments;
const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
const files = new DataTransfer();
files.items.add(new File([bytes], name));
const place = document.querySelector(target);
for (const kind of ["dragenter", "dragover", "drop"]) {
  place.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
}
"""
MOVE = """
const [label, value] = arguments;
const rows = [...document.querySelectorAll("#part-paint .slider")];
const row = rows.find((one) => !one.hidden && one.innerText.includes(label));
const input = row.querySelector("input");
input.value = value;
input.dispatchEvent(new Event("input", { bubbles: true }));
return row.querySelector("output").textContent;
"""


class Page:
    """The page of the studio, as the tests use it."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address

    def open(self):
        """Open the page as a browser that was never here."""
        self.browser.get("about:blank")
        self.browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.browser.get(self.address)
        self.wait("return document.querySelector('.paint-panel') !== null")

    def run(self, script, *args):
        return self.browser.execute_script(script, *args)

    def wait(self, script, *args):
        return wait_for(lambda: self.run(script, *args), WAIT_S)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def click(self, words, selector="button, label, a"):
        """Click the first visible element with these words."""
        self.run(
            "const all = [...document.querySelectorAll(arguments[1])].filter((one) => one.offsetParent !== null);"
            "all.find((one) => one.textContent.includes(arguments[0])).click()",
            words,
            selector,
        )

    def drop(self, path, target=".stage"):
        self.run(DROP, base64.b64encode(path.read_bytes()).decode(), path.name, target)

    def move(self, label, value):
        return self.run(MOVE, label, value)

    def pick(self, title):
        """Choose a painting by its title in the open gallery."""
        self.run(
            "const search = document.querySelector('dialog.gallery input[type=search]'); search.value = arguments[0];"
            "search.dispatchEvent(new Event('input'));",
            title,
        )
        self.run("document.querySelector('.gallery-item').click()")

    def result(self, words="", after=""):
        """The address of the finished picture on the stage, when its command holds `words` and it is not `after`."""
        return self.wait(
            "const picture = document.querySelector('.stage-picture'), source = picture?.getAttribute('src') ?? '';"
            "const fits = document.querySelector('.command-text')?.textContent.includes(arguments[0]);"
            "return fits && source.endsWith('/image') && source !== arguments[1] && picture.complete ? source : null",
            words,
            after,
        )

    def pixels(self, address):
        """A picture of the server as an array, read in the page."""
        data = self.browser.execute_async_script(
            "const done = arguments[1], reader = new FileReader(); reader.onload = () => done(reader.result);"
            "fetch(arguments[0]).then((answer) => answer.blob()).then((blob) => reader.readAsDataURL(blob))",
            address,
        )
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))

    def messages(self):
        return self.run("return [...document.querySelectorAll('#messages > div span')].map((one) => one.textContent)")

    def errors(self):
        """What the browser complains about, except answers that refuse something on purpose."""
        return [line["message"] for line in self.browser.get_log("browser") if " 400 " not in line["message"]]


@pytest.fixture
def page(browser, served):
    page = Page(browser, served.address)
    page.open()
    page.errors()
    return page


def test_drop_choose_move_and_see_another_picture(page, tmp_path):
    page.result("sample:coffee")  # the page begins with a picture
    page.drop(picture(str(tmp_path / "my photo.png"), 96, 64, seed=1))
    dropped = page.result("my-photo-")
    assert page.pixels(dropped).shape == (64, 96, 3)
    assert "my photo.png, 96 x 64" in page.text(".paint-panel")
    command = shlex.split(page.text(".command-text"))
    assert command[:2] == ["nstexp", "method=swift"] and "my-photo-" in command[2]

    page.run("document.querySelector('.panel-thumb').click()")
    page.pick("Irises")
    painted = page.result(after=dropped)
    assert "Irises" in page.text(".panel-styles")

    assert page.move("Amount of style", 0.3) == "30 %"
    moved = page.result(after=painted)
    assert "method.alpha=0.3" in page.text(".command-text")
    strong, weak = (page.pixels(each).astype(float) for each in (painted, moved))
    photo = np.asarray(Image.open(tmp_path / "my photo.png")).astype(float)
    # method.alpha mixes the photo and the painted picture, so that the distance from the photo is 30 % of the whole.
    assert np.abs(weak - photo).mean() == pytest.approx(0.3 * np.abs(strong - photo).mean(), rel=0.05)
    assert len(page.run("return [...document.querySelectorAll('.strip-picture')]")) == 4
    assert page.errors() == []


def test_two_paintings_mix_and_masks(page, tmp_path):
    page.drop(picture(str(tmp_path / "photo.png"), 80, 80, seed=3))
    before = page.result("photo-")
    page.click("Add a painting")
    page.pick("Whalers")
    mixed = page.result(after=before)
    page.move("Mix", 0.25)
    uneven = page.result(after=mixed)
    assert "style_weights=[0.75,0.25]" in page.text(".command-text")
    page.click("Brush: where each painting goes")
    page.run("[...document.querySelectorAll('.brush-tool')].find((one) => one.textContent.startsWith('2')).click()")
    page.run(
        "const canvas = document.querySelector('.brush-canvas'); const box = canvas.getBoundingClientRect();"
        "canvas.setPointerCapture = () => {};"
        "for (const [kind, x, y] of [['down', 0.2, 0.5], ['move', 0.8, 0.5], ['up', 0.8, 0.5]]) canvas.dispatchEvent("
        "new PointerEvent(`pointer${kind}`, { clientX: box.left + x * box.width, clientY: box.top + y * box.height }))"
    )
    masked = page.result(after=uneven)
    command = page.text(".command-text")
    assert "masks=[" in command and "style_weights" not in command
    a, b = page.pixels(mixed), page.pixels(masked)
    assert a.shape == b.shape == (80, 80, 3) and (a != b).any()
    page.run("document.querySelector('.panel-remove').click()")
    page.result(after=masked)
    assert "masks=" not in page.text(".command-text")
    assert page.errors() == []


def test_methods_get_their_paintings_back(page, tmp_path):
    page.result()
    page.drop(picture(str(tmp_path / "own.png"), 90, 90, seed=9), "[data-drop=painting]")
    own = page.result("own-")
    assert "own.png" in page.text(".panel-styles")
    page.click("Learned styles")
    learned = page.result("method=cin", after=own)
    assert "style=[cypresses," in page.text(".command-text")  # the first one is also a learned style
    page.click("Swift")
    page.result("method=swift", after=learned)
    assert "own.png" in page.text(".panel-styles")
    assert page.errors() == []


def test_gatys_grows_and_stops(page, tmp_path):
    page.drop(picture(str(tmp_path / "photo.png"), 64, 48, seed=4))
    fast = page.result("photo-")
    page.click("Gatys")
    page.move("Steps", 1000)
    page.click("Paint", ".paint-button")
    step = "const words = document.querySelector('.paint-status').textContent.match(/Step (\\d+) of 1000/);"
    first = page.wait(f"{step} return words && Number(words[1])")
    assert page.wait(f"{step} return words && Number(words[1]) > {first}")
    assert page.wait("return /now\\?step=\\d+$/.test(document.querySelector('.stage-picture').src)")
    page.browser.refresh()  # the picture goes on meanwhile, and the page finds it again
    page.wait("return document.querySelector('.paint-panel') !== null")
    assert page.wait(f"{step} return words && Number(words[1])") > first
    points = "return (document.querySelector('.paint-curve polyline').getAttribute('points') ?? '').split(' ').length"
    assert page.wait(f"{points} > 2")
    page.click("Stop and keep this")
    stopped = page.result(after=fast)
    assert "stopped at step" in page.text(".command-note")
    assert page.pixels(stopped).shape == (48, 64, 3)
    assert "method=gatys" in page.text(".command-text") and "method.max_steps=1000" in page.text(".command-text")
    assert page.errors() == []


def test_compare_with_a_divider(page):
    result = page.result()
    page.run(
        "const list = document.querySelector('.stage-compare'); list.value = 'photo';"
        "list.dispatchEvent(new Event('change'))"
    )
    shown = "return document.querySelector('.stage-other').getAttribute('src')"
    assert page.wait(shown).startswith("/api/gallery/view/sample")
    page.run(
        "const range = document.querySelector('.stage-divider'); range.value = 20;"
        "range.dispatchEvent(new Event('input'))"
    )
    clip = page.run("return getComputedStyle(document.querySelector('.stage-other')).clipPath")
    assert "80%" in clip  # of the other picture's width are cut off
    assert page.result() == result


def test_wrong_file_leaves_everything_as_it_is(page, tmp_path, served):
    before = page.result()
    wrong = tmp_path / "notes.png"
    wrong.write_text("no picture at all")
    page.drop(wrong)
    sentence = page.wait("return document.querySelector('#messages .bad span')?.textContent")
    assert sentence == "notes.png: this is not an image file"
    assert page.result() == before
    assert not list(served.folder.rglob("notes*"))


def test_two_sessions_do_not_mix(page, tmp_path):
    page.drop(picture(str(tmp_path / "secret.png"), 64, 64, seed=5))
    mine = page.result("secret-")
    upload = page.run("return document.querySelector('.panel-photo').getAttribute('src')")
    page.open()
    page.result()
    status = (
        "const done = arguments[1];fetch(arguments[0], { cache: 'no-store' }).then((answer) => done(answer.status))"
    )
    assert "secret" not in page.text("#part-paint")
    assert page.browser.execute_async_script(status, mine) == 400
    assert page.browser.execute_async_script(status, upload) == 400
    assert len(page.run("return [...document.querySelectorAll('.strip-picture')]")) == 1


def test_reload_finds_the_pictures_again(page, tmp_path):
    page.drop(picture(str(tmp_path / "again.png"), 64, 48, seed=6))
    made = page.result("again-")
    page.browser.refresh()
    assert page.result() == made
    assert "again.png, 64 x 48" in page.text(".paint-panel")


def test_nothing_is_loaded_from_elsewhere(browser, served):
    """The browser asks no other host; a rule of the page would also stop it."""
    page = Page(browser, served.address)
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["https://*", "ws://*", "wss://*"]})
    try:
        page.open()
        page.result()
        page.click("Add a painting")
        loaded = page.run("return performance.getEntriesByType('resource').map((each) => each.name)")
        assert len(loaded) > 15
        assert [each for each in loaded if not each.startswith((served.address, "blob:" + served.address))] == []
        refused = (
            "const done = arguments[0]; fetch('https://example.org/').then(() => done('sent'), (e) => done(e.name))"
        )
        assert browser.execute_async_script(refused) == "TypeError"
    finally:
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def test_every_control_has_a_name_and_words_have_contrast(page):
    page.result()
    page.click("Gatys")
    nameless = page.run(
        "const name = (one) => one.getAttribute('aria-label') || one.labels?.[0]?.textContent || one.textContent;"
        "return [...document.querySelectorAll('button, input, select, a')].filter((one) => !name(one)?.trim())"
        ".map((one) => one.outerHTML)"
    )
    assert nameless == []
    for scheme in ("light", "dark"):
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}  # colors change at once
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for words in (".hint", ".stage-about", "button.main", "button.quiet", ".command-text", "[role=tab]", "output"):
            assert contrast(page, words) >= 4.5, (scheme, words)
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(page, selector):
    """The ratio of the luminances of words and of what is behind them, by the rules of WCAG 2."""
    ink, paper = page.run(
        "const one = [...document.querySelectorAll(arguments[0])].find((each) => each.offsetParent !== null);"
        "let behind = one; const clear = (each) => getComputedStyle(each).backgroundColor === 'rgba(0, 0, 0, 0)';"
        "while (clear(behind)) behind = behind.parentElement;"
        "return [getComputedStyle(one).color, getComputedStyle(behind).backgroundColor].map((color) =>"
        "color.match(/[\\d.]+/g).slice(0, 3).map(Number))",
        selector,
    )
    lights = []
    for color in (ink, paper):
        linear = [(c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in color]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)


def test_phone_shows_everything_without_scrolling_sideways(page):
    page.result()
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert page.run("return innerWidth") == 400
        assert page.wait("return document.documentElement.scrollWidth <= 400")
        width = "return Math.round(document.querySelector('.stage-frame').getBoundingClientRect().width)"
        assert page.wait(f"{width} === 400")
        page.run("scrollTo(0, 1e6)")
        top = page.wait("return Math.round(document.querySelector('.stage').getBoundingClientRect().top) + 1")
        assert top == 1  # the picture stays in view above the sliders
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_copy_puts_the_command_into_the_clipboard(page):
    page.result()
    page.browser.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"origin": page.address.rstrip("/"), "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    page.run("document.querySelector('.command-copy').click()")
    page.wait("return document.querySelector('.command-copy').textContent === 'Copied'")
    copied = page.browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert (
        copied == page.text(".command-text") == "nstexp method=swift content=sample:coffee style=met:436535 logger=none"
    )
