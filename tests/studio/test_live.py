"""The webcam: settings and frames through one WebSocket, the newest frame only, and the page with a camera."""

import asyncio
import io
import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra studio is not installed")
pytest.importorskip("httpx", reason="httpx, which the client of these tests needs, is not installed")
from starlette.testclient import TestClient

from nstexp.core.errors import UserError
from nstexp.studio.app import make_app
from nstexp.studio.live import FRAME, MOST_FRAME_BYTES, Stream
from nstexp.studio.sessions import Session

HOST = "http://127.0.0.1:8000"
ORIGIN = {"origin": HOST, "host": "127.0.0.1:8000"}
STYLE = "met:436535"


def frame(number: int, value: int = 90, size: tuple[int, int] = (64, 48)) -> bytes:
    """A frame as the page sends it: its number, and a JPEG with a gradient of this brightness."""
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, size[0], dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return struct.pack(">I", number) + file.getvalue()


def settings(**values) -> str:
    return json.dumps({"styles": [STYLE], "px": 64, **values})


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with TestClient(make_app(tmp_path_factory.mktemp("live")), base_url=HOST) as found:
        yield found


def answer(socket) -> tuple[int, np.ndarray, dict]:
    """The next redrawn frame: its number, its pixels, and what was said before it."""
    said = json.loads(socket.receive_text())
    data = socket.receive_bytes()
    return struct.unpack(">I", data[:4])[0], np.asarray(Image.open(io.BytesIO(data[4:]))).astype(int), said


@pytest.mark.slow
def test_frames_come_back_redrawn_and_settings_change_at_any_moment(client):
    with client.websocket_connect("/api/live", headers=ORIGIN) as socket:
        socket.send_text(settings(alpha=0))
        socket.send_bytes(frame(7))
        number, plain, said = answer(socket)
        assert (number, plain.shape, said["dropped"]) == (7, (48, 64, 3), 0) and said["seconds"] > 0
        socket.send_text(settings(alpha=1))
        socket.send_bytes(frame(8))
        number, whole, _ = answer(socket)
        assert number == 8 and abs(whole - plain).mean() > 8, "more style is another picture"
        socket.send_text(settings(alpha=1, styles=["met:435802"]))
        socket.send_bytes(frame(9))
        _, other, _ = answer(socket)
        assert abs(other - whole).mean() > 4, "another painting is another picture"
        socket.send_bytes(frame(10))
        assert (answer(socket)[1] == other).all(), "the same frame, the same picture"
    assert list(client.app.state.studio.folder.rglob("webcam*")) == [], "no frame is kept"


@pytest.mark.slow
def test_of_many_frames_at_once_the_newest_is_shown_and_others_are_left_out(client):
    with client.websocket_connect("/api/live", headers=ORIGIN) as socket:
        socket.send_text(settings())
        for number in range(1, 31):
            socket.send_bytes(frame(number, value=3 * number))
        numbers, dropped = [], 0
        while not numbers or numbers[-1] != 30:
            number, _, said = answer(socket)
            numbers.append(number)
            dropped = said["dropped"]
    assert numbers == sorted(numbers) and len(numbers) + dropped == 30
    assert dropped >= 20, "frames wait for nothing"


@pytest.mark.slow
def test_two_pages_at_once_do_not_mix_their_frames(client):
    with (
        client.websocket_connect("/api/live", headers=ORIGIN) as one,
        client.websocket_connect("/api/live", headers=ORIGIN) as two,
    ):
        one.send_text(settings(alpha=0))
        two.send_text(settings(alpha=0))
        bright, dark = [], []
        for number in range(4):
            one.send_bytes(frame(number, value=230))
            two.send_bytes(frame(100 + number, value=20))
            bright.append(answer(one))
            dark.append(answer(two))
    assert [number for number, *_ in bright] == [0, 1, 2, 3] and [number for number, *_ in dark] == [100, 101, 102, 103]
    assert min(pixels[:, :, 1:].mean() for _, pixels, _ in bright) > 60 + max(
        pixels[:, :, 1:].mean() for _, pixels, _ in dark
    )


@pytest.mark.slow
def test_what_is_wrong_is_one_sentence_and_the_stream_goes_on(client):
    wrong = [
        (settings(alpha=2), "method.alpha=2: give a number from 0 to 1"),
        (settings(px=4000), "px=4000: give a whole number"),
        (settings(styles=["/etc/passwd"]), "style=/etc/passwd: this session has no such picture"),
        ("[1]", "the settings of the webcam are no JSON object"),
        ("{" * 20_000, "the settings of the webcam are no JSON object, or too long"),
    ]
    with client.websocket_connect("/api/live", headers=ORIGIN) as socket:
        for text, sentence in wrong:
            socket.send_text(text)
            assert json.loads(socket.receive_text())["error"].startswith(sentence)
        socket.send_bytes(b"abc")
        assert json.loads(socket.receive_text())["error"].startswith(f"{FRAME} has 3 bytes")
        socket.send_bytes(b"\0" * (MOST_FRAME_BYTES + 1))
        assert "give up to 2,097,152" in json.loads(socket.receive_text())["error"]
        socket.send_text(settings())
        socket.send_bytes(b"\0\0\0\1no picture")
        error = json.loads(socket.receive_text())["error"]
        assert error.startswith(f"content={FRAME}") or FRAME in error
        assert "webcam-" not in error, "the path of the server's file is nobody's business"
        socket.send_bytes(frame(3))
        assert answer(socket)[0] == 3


@pytest.mark.slow
def test_other_pages_cannot_open_the_socket(client):
    from starlette.websockets import WebSocketDisconnect

    with (
        pytest.raises(WebSocketDisconnect) as refused,
        client.websocket_connect("/api/live", headers={**ORIGIN, "origin": "http://evil.example"}),
    ):
        pass
    assert refused.value.code == 4403


def test_only_the_newest_frame_waits(tmp_path):
    async def watch() -> tuple[list[int], int]:
        stream, seen = Stream(), []
        stream.put(frame(1))
        waiter = asyncio.create_task(stream.next())
        await asyncio.sleep(0)
        assert not waiter.done(), "no painting is chosen"
        stream.set(settings(), Session("x", tmp_path))
        stream.waiting.set()
        seen.append(struct.unpack(">I", (await waiter)[0])[0])
        for number in range(2, 30):
            stream.put(frame(number))
        seen.append(struct.unpack(">I", (await stream.next())[0])[0])
        return seen, stream.dropped

    assert asyncio.run(watch()) == ([1, 29], 27)


def test_wrong_settings_leave_the_earlier_ones(tmp_path):
    stream, session = Stream(), Session("x", tmp_path)
    stream.set(settings(alpha=0.25), session)
    with pytest.raises(UserError, match=r"^color=pink is unknown"):
        stream.set(settings(color="pink"), session)
    assert stream.preview["settings"]["alpha"] == 0.25 and stream.preview["request"]["content"] == FRAME


# ------------------------------------------------------------------------------------------------- in a browser


BROWSER_FLAGS = ("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream")  # a moving test picture


def wait(driver, condition: str, seconds: float = 40):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, seconds).until(lambda _: driver.execute_script(f"return {condition}"))


AVERAGE = """(() => {
  const canvas = document.querySelector('.live-result');
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const sums = [0, 0, 0];
  for (let n = 0; n < data.length; n++) if (n % 4 < 3) sums[n % 4] += data[n];
  return sums.map((sum) => sum / (data.length / 4));
})()"""


def colors(driver) -> np.ndarray:
    """The mean color of the redrawn camera."""
    return np.array(driver.execute_script(f"return {AVERAGE}"))


@pytest.mark.browser
@pytest.mark.slow
def test_the_camera_is_redrawn_and_follows_the_slider(browser, served):
    browser.get(f"{served.address}#webcam")
    wait(browser, "document.querySelector('.live-painting img')?.naturalWidth > 0")
    button = browser.find_element("css selector", ".live-left button.main")
    assert button.text == "Start the camera"
    button.click()
    wait(browser, "document.querySelector('.live-numbers').textContent.includes('pictures a second')")
    before = colors(browser)
    assert before.sum() > 30
    text = browser.execute_script("return document.querySelector('.live-numbers').textContent")
    assert " ms behind the camera" in text
    browser.execute_script(
        "const s = document.querySelector('.live-slider input'); s.value = 0; s.dispatchEvent(new Event('input'))"
    )
    deadline = time.monotonic() + 20
    while abs(colors(browser) - before).max() < 8 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert abs(colors(browser) - before).max() >= 8, "without style the camera's own colors are back"
    assert browser.execute_script("return document.querySelector('.live-camera').srcObject !== null")
    browser.execute_script("location.hash = 'paint'")
    wait(browser, "document.querySelector('.live-camera').srcObject === null"), "a camera that nobody sees is off"
    browser.execute_script("location.hash = 'webcam'")
    wait(browser, "document.querySelector('.live-left button.main').textContent === 'Start the camera'")
    bad = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert bad == []


@pytest.mark.browser
@pytest.mark.slow
def test_a_refused_camera_is_a_sentence(browser, served):
    browser.get(f"{served.address}#webcam")
    wait(browser, "document.querySelector('.live-painting img')?.naturalWidth > 0")
    browser.execute_script(
        "const refusal = new DOMException('Permission denied', 'NotAllowedError');"
        "navigator.mediaDevices.getUserMedia = () => Promise.reject(refusal)"
    )
    browser.find_element("css selector", ".live-left button.main").click()
    wait(browser, "document.querySelector('#messages .bad')")
    text = browser.execute_script("return document.querySelector('#messages .bad').textContent")
    assert "The camera cannot be used: Permission denied" in text
    assert Path(served.folder).is_dir()
