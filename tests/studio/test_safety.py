"""Who may talk to the studio, which files it reads, and how much it takes."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import picture, wait_for
from PIL import Image
from studio_client import HERE, client

from nstexp.core.errors import UserError
from nstexp.studio import paint
from nstexp.studio.safety import COOKIE, TOKEN_COOKIE

WANTED = {"method": "swift", "content": "sample:coffee", "styles": ["met:436535"]}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    with client(tmp_path_factory.mktemp("folder")) as opened:
        yield opened


@pytest.fixture
def stranger(studio):
    """The same server, for another browser."""
    from starlette.testclient import TestClient

    return TestClient(studio.app, base_url=HERE, headers={"origin": HERE})


def send(studio, data: bytes, name: str = "photo.png"):
    return studio.post("/api/paint/uploads", files={"file": (name, data)})


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost:8000", "[::1]:8000", "LOCALHOST"])
def test_names_of_this_machine_are_served(studio, host):
    assert studio.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "[", "0"]
)
def test_other_names_are_refused(studio, host):
    """A site whose name suddenly leads to this machine sends its own name as Host."""
    answer = studio.get("/api/paint/start", headers={"host": host})
    assert answer.status_code == 403
    assert "names of this machine" in answer.json()["error"]
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "http://127.0.0.1:8001", "http://localhost:8000"]
)
def test_requests_of_other_pages_are_refused(studio, origin):
    answer = studio.post("/api/paint/pictures", json=WANTED, headers={"origin": origin})
    assert answer.status_code == 403
    assert "another page" in answer.json()["error"]
    assert studio.get("/api/paint/start").json()["pictures"] == []


def test_request_without_an_origin_is_refused(studio):
    from starlette.testclient import TestClient

    answer = TestClient(studio.app, base_url=HERE).post("/api/paint/preview", json=WANTED)
    assert answer.status_code == 403


def test_every_answer_forbids_other_sites(studio):
    for address in ("/", "/page/studio.css", "/api/paint/start", "/nothing"):
        headers = studio.get(address).headers
        assert "default-src 'self'" in headers["content-security-policy"], address
        assert "frame-ancestors 'none'" in headers["content-security-policy"], address
        assert headers["x-content-type-options"] == "nosniff", address
        assert "access-control-allow-origin" not in headers, address


def test_cookie_of_the_session_cannot_be_read_or_sent_by_others(stranger):
    cookie = stranger.get("/").headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert "set-cookie" not in stranger.get("/").headers


@pytest.mark.parametrize("path", ["../pyproject.toml", "..%2f..%2fcontext.py", "%2e%2e/app.py", "script/../../app.py"])
def test_page_folder_cannot_be_left(studio, path):
    assert studio.get(f"/page/{path}").status_code == 404
    assert studio.get(f"/page/shared/{path}").status_code == 404


@pytest.mark.parametrize(
    "name",
    ["/etc/hostname", "../../secret.png", "upload:../secret.png", "upload:a-0123456789ab.png", "sample:../x", "", 7],
)
@pytest.mark.parametrize("key", ["content", "styles", "masks", "protect"])
def test_no_path_of_the_machine_can_be_named(studio, tmp_path, key, name):
    wanted = {**WANTED, key: name if key == "content" else [name]}
    for address in ("pictures", "preview"):
        answer = studio.post(f"/api/paint/{address}", json=wanted)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]
    assert studio.get("/api/paint/start").json()["pictures"] == []


def test_below_the_folder_only(studio, tmp_path):
    """`Studio.below`, which other parts use for paths from the page."""
    below = studio.app.state.studio.below
    folder = studio.app.state.studio.folder
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "out").symlink_to(tmp_path)
    assert below("runs") == folder / "runs"
    assert below("") == below(str(folder)) == folder
    for path in ("..", "/etc", "runs/../..", "out", "out/x", f"{folder}x", "a\0b"):
        with pytest.raises(UserError, match="not below the folder"):
            below(path)


def test_upload_is_limited_in_bytes(studio, monkeypatch):
    monkeypatch.setattr(paint, "MOST_UPLOAD_BYTES", 2**20)
    answer = send(studio, b"x" * (2**20 + 1))
    assert answer.status_code == 400
    assert answer.json()["error"] == "photo.png: the file is larger than 1 MB, the limit of the studio"
    answer = send(studio, b"x" * (2**20 + 2**17))
    assert "the limit of the studio" in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["paint/preview", "paint/pictures", "clips/preview", "clips/works", "experiments/check"]
)
def test_requests_are_small_objects(studio, path):
    for body, said in (
        (
            b'{"method": "' + b"x" * 300_000 + b'"}',
            "what the page sends is larger than 200 kB, the limit of the studio",
        ),
        (b"[1]", "the request is no JSON object"),
        (b"{", "the request is no JSON object"),
        (b"[" * 100_000, "the request is no JSON object"),
        (iter([b"{}"]), "the request does not say how long it is"),
    ):
        answer = studio.post(f"/api/{path}", content=body)
        assert (answer.status_code, answer.json()["error"]) == (400, said)


def test_uploads_of_a_browser_are_limited_together(studio, monkeypatch):
    data = png(50, 50)
    monkeypatch.setattr(paint, "MOST_SESSION_BYTES", len(data) - 1)
    assert "have reached the limit" in send(studio, data, "last.png").json()["error"]
    assert not list(studio.app.state.studio.folder.rglob("last*"))


def test_upload_is_limited_in_pixels(studio, monkeypatch):
    monkeypatch.setattr(paint, "MOST_MEGAPIXELS", 0.01)
    answer = send(studio, png(200, 100), "big.png")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("big.png: 200x100 px is over the limit of 0.01 megapixels")
    assert not list(studio.app.state.studio.folder.rglob("big*"))


@pytest.mark.parametrize(
    ("data", "name", "sentence"),
    [
        (b"", "empty.png", "empty.png: the file is empty"),
        (b"<svg xmlns='x'/>", "a.png", "a.png: this is a drawing of lines and shapes"),
        (b"%PDF-1.7", "../../a.pdf", "../../a.pdf: this is a PDF document"),
        (png(40, 40)[:60], "cut.png", "cut.png: the image is damaged or truncated"),
    ],
)
def test_file_that_is_no_picture_is_not_kept(studio, data, name, sentence):
    answer = send(studio, data, name)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(sentence)
    folder = studio.app.state.studio.folder
    assert not [each for each in folder.rglob("*") if each.is_file() and each.read_bytes() == data]


@pytest.mark.parametrize(
    "name", ["../../evil.png", "..\\..\\evil.png", "/etc/evil.png", "evil.sh", "\u202egnp.exe", "a" * 300]
)
def test_name_of_an_upload_cannot_leave_the_folder(studio, name):
    home = studio.app.state.studio.sessions.home
    around = home.parent.parent
    before = set(around.rglob("*.*"))
    kept = send(studio, png(30, 20), name).json()
    assert paint.UPLOAD.fullmatch(kept["name"]), kept
    (path,) = home.glob(f"*/uploads/{kept['name'].removeprefix('upload:')}")
    assert path.suffix == ".png" and path.resolve().parent.parent.parent == home
    assert {file.parent.parent.parent for file in set(around.rglob("*.*")) - before} <= {home}  # of one session


def test_session_cannot_use_the_pictures_of_another(studio, stranger, tmp_path):
    kept = send(studio, picture(str(tmp_path / "mine.png"), 40, 30).read_bytes(), "mine.png").json()["name"]
    assert studio.get(f"/api/paint/uploads/{kept}").status_code == 200
    assert stranger.get(f"/api/paint/uploads/{kept}").status_code == 400
    answer = stranger.post("/api/paint/preview", json={**WANTED, "content": kept})
    assert answer.json()["error"] == f"content={kept}: this session has no such picture, upload it again"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "os.system"}, "method=os.system is unknown, choose one of swift, adain, cin, gatys"),
        ({"alpha": 2}, "method.alpha=2: give a number from 0 to 1"),
        ({"alpha": "${oc.env:HOME}"}, "method.alpha=${oc.env:HOME}: give a number"),
        ({"color": "none,preserve"}, "color=none,preserve is unknown"),
        ({"image_px": 10**9}, "image_px=1000000000: give a whole number from 32 to 4096"),
        ({"steps": 10**7, "method": "gatys"}, "method.max_steps=10000000: give a whole number from 1 to 5000"),
        ({"seed": -1}, "seed=-1: give a whole number"),
        ({"styles": []}, "style is empty: choose a painting"),
        ({"styles": ["met:436535"] * 5}, "style: give a list of up to 4 entries"),
        ({"shares": [1, 2]}, "style_weights=[1, 2]: give one number for each painting"),
        ({"styles": ["irises; rm"], "method": "cin"}, "style=irises; rm: the network of method=cin has not learned"),
    ],
)
def test_values_are_checked_before_anything_is_made(studio, change, sentence):
    for address in ("pictures", "preview"):
        answer = studio.post(f"/api/paint/{address}", json={**WANTED, **change})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(sentence)
    assert studio.get("/api/paint/start").json()["pictures"] == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b"[" * 5000, b" " * 70_000])
def test_body_that_is_no_object_is_refused(studio, body):
    answer = studio.post("/api/paint/pictures", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_newer_preview_takes_the_place_of_an_older_one_of_the_same_browser_only(studio):
    """While a picture is made, previews wait: one for each browser."""
    studio.cookies.clear()
    mine, other = ({"cookie": f"{COOKIE}={name}"} for name in ("mine", "other"))
    worker = studio.app.state.studio.worker
    slow = {"method": "gatys", "content": "sample:coffee", "styles": ["met:436535"], "image_px": 64, "steps": 5000}
    picture_id = studio.post("/api/paint/pictures", json=slow, headers=mine).json()["id"]
    address = f"/api/paint/pictures/{picture_id}"
    wait_for(lambda: studio.get(address, headers=mine).json()["step"] > 1)

    def preview(alpha, headers):
        wanted = {**WANTED, "alpha": alpha, "px": 64, "whole_px": 64}
        return pool.submit(studio.post, "/api/paint/preview", json=wanted, headers=headers)

    with ThreadPoolExecutor(4) as pool:
        older = preview(0.2, mine)
        wait_for(lambda: len(worker._waiting) == 1)
        others = preview(0.3, other)
        wait_for(lambda: len(worker._waiting) == 2)
        newer = preview(0.4, mine)
        refused = older.result(30)
        assert (refused.status_code, refused.json()["replaced"]) == (409, True)
        assert not others.done() and not newer.done()
        assert studio.get(address, headers=other).status_code == 400
        assert studio.post(f"{address}/stop", headers=other).status_code == 400
        assert studio.get(address, headers=mine).json()["status"] == "running"
        studio.post(f"{address}/stop", headers=mine)
        first, second = others.result(60), newer.result(60)
    assert (first.status_code, second.status_code) == (200, 200)
    assert "method.alpha%3D0.3" in first.headers["x-command"] and "method.alpha%3D0.4" in second.headers["x-command"]
    assert first.content != second.content
    stopped = studio.get(address, headers=mine).json()
    assert stopped["status"] == "stopped" and 1 < stopped["step"] < 5000
    assert "interrupted" in stopped["error"]


class TestToken:
    """A studio that other machines can reach."""

    TOKEN = "a-secret-that-nobody-guesses"

    @pytest.fixture
    def guarded(self, tmp_path):
        from starlette.testclient import TestClient

        from nstexp.studio.app import make_app

        return TestClient(make_app(tmp_path, token=self.TOKEN), base_url="http://studio:8000")

    @pytest.mark.parametrize("address", ["/", "/page/studio.css", "/api/gallery", "/?token=", "/?token=wrong"])
    def test_nothing_without_it(self, guarded, address):
        answer = guarded.get(address)
        assert answer.status_code == 403
        assert "needs its token" in answer.json()["error"]
        assert self.TOKEN not in answer.text + str(answer.headers)

    def test_moves_from_the_address_into_a_cookie(self, guarded):
        answer = guarded.get(f"/?token={self.TOKEN}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "httponly" in answer.headers["set-cookie"].lower()
        assert guarded.cookies[TOKEN_COOKIE] == self.TOKEN
        assert guarded.get("/").status_code == 200

    def test_does_not_replace_the_origin(self, guarded):
        guarded.cookies.set(TOKEN_COOKIE, self.TOKEN)
        answer = guarded.post("/api/paint/preview", json=WANTED, headers={"origin": "http://evil.example"})
        assert answer.status_code == 403
        assert "another page" in answer.json()["error"]
