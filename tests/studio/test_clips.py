"""Clips: uploads within limits, three redrawn frames, and the video command in the background."""

import io
import json
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

pytest.importorskip("starlette", reason="the extra studio is not installed")
pytest.importorskip("httpx", reason="httpx, which the client of these tests needs, is not installed")
from starlette.testclient import TestClient

from nstexp.media.video import Encoding, made_source, open_source, open_writer
from nstexp.media.video.source import Frame
from nstexp.studio import clips
from nstexp.studio.app import make_app

HOST = "http://127.0.0.1:8000"
ORIGIN = {"origin": HOST}
STYLE = "met:436535"
FRAMES = 6


def make_clip(path: Path, frames: int = FRAMES, size: tuple[int, int] = (48, 64)) -> Path:
    """A clip (height, width) of a bright square that moves over a gradient, at 8 frames a second."""
    source = made_source(Path(__file__), size, frames, Fraction(8))  # no file is replaced that a clip is made from
    writer = open_writer(path, source, size, range(frames), Encoding(), "")
    for number in range(frames):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[:, :, 1] = np.linspace(30, 200, size[1], dtype=np.uint8)
        pixels[10:30, 4 * number : 4 * number + 16] = 250
        writer.add(Frame(number, pixels))
    writer.finish()
    return path


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "a clip (1).mp4")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        with TestClient(make_app(folder), base_url=HOST, headers=ORIGIN) as found:
            found.folder = folder
            yield found


def upload(client, file: Path, name: str | None = None):
    return client.post("/api/clips/uploads", params={"name": name or file.name}, content=file.read_bytes())


@pytest.fixture(scope="module")
def clip(client, clip_file) -> dict:
    answer = upload(client, clip_file)
    assert answer.status_code == 200, answer.text
    return answer.json()


def sent(clip: dict, **more) -> dict:
    return {"clip": clip["name"], "styles": [STYLE], **more}


def finished(client, work: dict, seconds: float = 120) -> dict:
    deadline = time.monotonic() + seconds
    while work["status"] == "running" and time.monotonic() < deadline:
        time.sleep(0.3)
        work = client.get(f"/api/clips/works/{work['id']}").json()
    return work


@pytest.mark.slow
def test_an_upload_is_kept_and_described(client, clip, clip_file):
    about = {key: clip[key] for key in ("title", "width", "height", "frames", "fps", "seconds", "sound", "stills")}
    assert about == {
        "title": "a clip (1).mp4", "width": 64, "height": 48, "frames": 6, "fps": 8.0, "seconds": 0.75, "sound": False,
        "stills": [0, 3, 5],
    }  # fmt: skip
    (kept,) = client.folder.glob("studio/*/clips/a-clip-1-*.mp4")
    assert kept.read_bytes() == clip_file.read_bytes()
    still = client.get(f"/api/clips/uploads/{clip['name']}/1")
    pixels = np.asarray(Image.open(io.BytesIO(still.content)))
    assert pixels.shape == (48, 64, 3) and pixels[20, 20].min() > 200 > pixels[20, 4, 0], "the square has moved"
    assert client.get(f"/api/clips/uploads/{clip['name']}/3").json()["error"].startswith("still=3: give a whole number")
    assert [each["name"] for each in client.get("/api/clips/start").json()["clips"]] == [clip["name"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.mp4", b"\0\1\2 no clip" * 40, "content=x.mp4: this is not a video file"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "list.mp4: this is a text, not a clip"),
        ("empty.mp4", b"", "content=empty.mp4: the file is empty"),
        ("../../evil.mp4", b"\0\1", "content=../../evil.mp4: this is not a video file"),
    ],
)
def test_what_is_no_clip_is_refused_and_nothing_is_kept(client, name, content, sentence):
    before = sorted(client.folder.rglob("*"))
    answer = client.post("/api/clips/uploads", params={"name": name}, content=content)
    assert answer.status_code == 400 and answer.json()["error"].startswith(sentence), answer.text
    assert [path for path in client.folder.rglob("*") if path.is_file() and path not in before] == []


@pytest.mark.slow
def test_limits_of_bytes_frames_and_pixels(client, clip_file, monkeypatch):
    monkeypatch.setattr(clips, "MOST_FRAMES", 5)
    assert "the clip has 6 frames, and this page takes 5" in upload(client, clip_file).json()["error"]
    monkeypatch.setattr(clips, "MOST_MEGAPIXELS", 0.001)
    assert "64x48 px is over the limit of 0.001" in upload(client, clip_file).json()["error"]
    monkeypatch.setattr(clips, "MOST_BYTES", 100)
    assert "the file is larger than 0 MB" in upload(client, clip_file).json()["error"]
    monkeypatch.setattr(clips, "MOST_SESSION_BYTES", 100)
    monkeypatch.setattr(clips, "MOST_BYTES", 10**9)
    assert "remove one first" in upload(client, clip_file).json()["error"]


@pytest.mark.slow
def test_three_frames_are_redrawn_with_the_settings(client, clip):
    def preview(**more) -> np.ndarray:
        answer = client.post("/api/clips/preview", json=sent(clip, px=64, **more))
        assert answer.status_code == 200, answer.text
        return np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)

    first, last, plain = preview(still=0), preview(still=2), preview(still=0, alpha=0)
    assert first.shape == last.shape == (48, 64, 3)
    assert abs(first - last).mean() > 1 and abs(first - plain).mean() > 5
    wrong = client.post("/api/clips/preview", json=sent(clip, still=0, alpha=3))
    assert wrong.json()["error"] == "method.alpha=3: give a number from 0 to 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"method": "gatys"}, "method=gatys is unknown, choose one of swift, adain, cin"),
        ({"start": 5}, "video.start=5: give a number from 0 to 0.749"),
        ({"start": 0.5, "end": 0.25}, "video.end=0.25: must be after video.start=0.5"),
        ({"stabilize": 1}, "video.stabilize=1: give a number from 0 to 0.99"),
        ({"clip": "clip:../x.mp4"}, "content=clip:../x.mp4: this session has no such clip"),
        ({"clip": 3}, "content=3: this session has no such clip"),
        ({"styles": ["/etc/passwd"]}, "style=/etc/passwd: this session has no such picture, upload it again"),
    ],
)
def test_a_wrong_wish_starts_nothing(client, clip, more, sentence):
    answer = client.post("/api/clips/works", json={**sent(clip), **more})
    assert answer.status_code == 400 and answer.json()["error"] == sentence
    assert not (client.folder / "runs").exists() or not list((client.folder / "runs").rglob("studio.json"))


@pytest.mark.slow
def test_the_clip_is_redrawn_by_the_command_that_is_shown(client, clip):
    work = client.post("/api/clips/works", json=sent(clip, image_px=48, end=0.5, stabilize=0)).json()
    assert (work["status"], work["frames"]) == ("running", 4)
    words = work["command"].split()
    assert words[:3] == ["nstexp", "task=video", "method=swift"] and "video.end=0.5" in words
    again = client.post("/api/clips/works", json=sent(clip))
    assert again.json()["error"].startswith("a clip of yours is being redrawn")
    assert client.get(f"/api/clips/works/{work['id']}/result").json()["error"] == "this clip is not done"
    done = finished(client, work)
    assert (done["status"], done["done"], done["error"]) == ("completed", 4, None), done
    answer = client.get(f"/api/clips/works/{work['id']}/result?download=1")
    assert 'filename="a-clip-1-redrawn.mp4"' in answer.headers["content-disposition"]
    made = client.folder / work["folder"] / "output.mp4"
    assert answer.content == made.read_bytes() and done["bytes"] == len(answer.content)
    source = open_source(made)
    assert (len(source), source.size) == (4, (36, 48))
    with TestClient(make_app(client.folder), base_url=HOST, headers=ORIGIN, cookies=client.cookies) as later:
        assert [each["id"] for each in later.get("/api/clips/start").json()["works"]] == [work["id"]], (
            "it is remembered"
        )
    with TestClient(client.app, base_url=HOST, headers=ORIGIN) as other:
        assert other.get("/api/clips/start").json()["works"] == [], "another browser does not see it"
        assert other.get(f"/api/clips/works/{work['id']}").json()["error"] == "this session has no such clip"
        assert other.post("/api/clips/preview", json=sent(clip, still=0)).status_code == 400


@pytest.mark.slow
def test_a_clip_is_stopped_and_goes_on(client, tmp_path):
    frames = 900  # the fastest machine needs seconds for them: it has to be stopped on the way
    clip = upload(client, make_clip(tmp_path / "long.mp4", frames)).json()
    work = client.post("/api/clips/works", json=sent(clip, image_px=64)).json()
    deadline = time.monotonic() + 90
    while work["done"] < 2 and work["status"] == "running" and time.monotonic() < deadline:
        time.sleep(0.2)
        work = client.get(f"/api/clips/works/{work['id']}").json()
    assert 2 <= work["done"] < frames, work
    assert client.post(f"/api/clips/uploads/{clip['name']}/remove").json()["error"].endswith("stop that first")
    assert client.post(f"/api/clips/works/{work['id']}/stop").json()["stopping"] in (True, False)
    stopped = finished(client, client.get(f"/api/clips/works/{work['id']}").json())
    assert stopped["status"] == "stopped" and stopped["done"] < frames
    assert client.get(f"/api/clips/works/{work['id']}/poster").headers["content-type"] == "image/png"
    going = client.post(f"/api/clips/works/{work['id']}/continue").json()
    assert going["status"] == "running"
    log = client.folder / work["folder"] / "studio.log"
    done = finished(client, going)
    assert (done["status"], done["done"]) == ("completed", frames), log.read_text()[-2000:]
    assert len(open_source(client.folder / work["folder"] / "output.mp4")) == frames
    assert client.post(f"/api/clips/uploads/{clip['name']}/remove").json() == {}
    assert clip["name"] not in json.dumps(client.get("/api/clips/start").json()["clips"])


# ------------------------------------------------------------------------------------------------- in a browser


def wait(driver, condition: str, seconds: float = 60):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, seconds).until(lambda _: driver.execute_script(f"return {condition}"))


@pytest.mark.browser
@pytest.mark.slow
def test_a_clip_is_dropped_previewed_and_redrawn_in_the_page(browser, served, clip_file):
    browser.get(f"{served.address}#clip")
    wait(browser, "document.querySelector('.live-painting img')?.naturalWidth > 0")
    browser.find_element("id", "clip-file").send_keys(str(clip_file))
    wait(browser, "document.querySelectorAll('.clips-after:not([hidden])').length === 3")
    assert "64 x 48, 6 frames, 0.75 s at 8 a second" in browser.find_element("id", "part-clip").text
    before = browser.execute_script("return document.querySelector('.clips-after').src")
    slider = "document.querySelector('#part-clip .live-slider input')"
    browser.execute_script(f"{slider}.value = 0.2; {slider}.dispatchEvent(new Event('input'))")
    wait(browser, f"document.querySelector('.clips-after').src !== '{before}'")
    browser.find_element("css selector", "#part-clip button.main").click()
    wait(browser, "document.querySelector('.clips-work h3')?.textContent.endsWith('is being redrawn')")
    assert "method.alpha=0.2" in browser.execute_script("return document.querySelector('.clips-work code').textContent")
    wait(browser, "document.querySelector('.clips-work h3').textContent.endsWith('is done')", 120)
    wait(browser, "document.querySelector('.clips-video video').readyState >= 1")
    assert browser.execute_script("return document.querySelector('.clips-video video').videoWidth") == 64
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    browser.get("about:blank")
    browser.get(f"{served.address}#clip")
    wait(browser, "document.querySelector('.clips-work h3')?.textContent.endsWith('is done')")


@pytest.mark.browser
@pytest.mark.slow
def test_a_wrong_file_is_one_sentence_in_the_page(browser, served, tmp_path):
    (tmp_path / "notes.mp4").write_text("no clip")
    browser.get(f"{served.address}#clip")
    wait(browser, "document.querySelector('.live-painting img')?.naturalWidth > 0")
    browser.find_element("id", "clip-file").send_keys(str(tmp_path / "notes.mp4"))
    wait(browser, "document.querySelector('#messages .bad')")
    assert "notes.mp4: this is a text, not a clip" in browser.find_element("id", "messages").text
