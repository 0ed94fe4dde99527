"""The command under a picture of the studio makes the same bytes; and `nstexp studio` itself."""

import io
import shlex
import signal
import socket
import subprocess
import time
import urllib.request
from importlib import import_module
from urllib.parse import unquote

import numpy as np
import psutil
import pytest
from documents import SHELL, commands
from helpers import picture, wait_for
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from PIL import Image
from studio_client import client, end, serve

from nstexp.config.early import check_values, words_for_hydra
from nstexp.config.keys import CONF
from nstexp.core.errors import UserError
from nstexp.core.pixels import from_array
from nstexp.methods.settings import SwiftSettings
from nstexp.studio import command, painting
from nstexp.studio.command import studio_command
from nstexp.studio.painting import OF_THE_STUDIO, as_jpeg, composed, stoppable
from nstexp.studio.wanted import Wanted
from nstexp.studio.worker import LOST

ATTEMPTS = 400


def upload(studio, path):
    answer = studio.post("/api/paint/uploads", files={"file": (path.name, path.read_bytes())})
    assert answer.status_code == 200, answer.text
    return answer.json()


def finished(studio, wanted):
    """The state of a picture when it is done."""
    state = studio.post("/api/paint/pictures", json=wanted)
    assert state.status_code == 200, state.text
    return finished_state(studio, state.json())


def finished_state(studio, state):
    for _ in range(ATTEMPTS):
        if state["status"] not in ("waiting", "running"):
            return state
        state = studio.get(f"/api/paint/pictures/{state['id']}?after={state['version']}").json()
        time.sleep(0.05)
    raise AssertionError(f"not done: {state}")


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    with client(tmp_path_factory.mktemp("it's, a folder")) as opened:
        yield opened


WANTED = {
    "swift": {"method": "swift", "alpha": 0.7, "color": "luminance", "photorealism": 0.2},
    "cin": {"method": "cin", "styles": ["irises", "cypresses"], "shares": [1, 3]},
    "gatys": {"method": "gatys", "steps": 5, "stroke": 1.5, "beta": 300, "seed": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", WANTED)
def test_command_makes_the_same_bytes(studio, nstexp, tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    photo = upload(studio, picture("my photo.png", 80, 60, seed=1))
    painting = upload(studio, picture("painting.jpg", 70, 90, seed=2))
    assert (photo["width"], photo["height"]) == (80, 60)
    wanted = {"content": photo["name"], "styles": [painting["name"]], "image_px": 64, **WANTED[method]}
    state = finished(studio, wanted)
    assert state["status"] == "completed", state
    assert (state["width"], state["height"]) == (64, 48)
    words = shlex.split(state["command"])
    assert words[0] == "nstexp"
    result = nstexp.bare(*words[1:], "run_dir=run")
    assert result.code == 0, result.err
    made = studio.get(f"/api/paint/pictures/{state['id']}/image").content
    assert made == (tmp_path / "run" / "output.png").read_bytes()
    assert made != (tmp_path / "my photo.png").read_bytes()
    if method == "gatys":
        steps, losses = zip(*state["losses"], strict=True)
        assert steps[-1] == 5 and list(steps) == sorted(steps)
        assert all(loss > 0 for loss in losses)


@pytest.mark.parametrize(
    "more",
    [
        {"alpha": 0.8, "styles": ["met:436535", "met:437854"], "shares": [1, 2], "color": "luminance"},
        {"method": "cin", "styles": ["irises"], "photorealism": 0.5, "color": "match", "color_strength": 0.5},
    ],
)
def test_preview_shows_the_pixels_of_the_command(studio, more):
    """The shorter way of previews computes the same picture; only JPEG changes it."""
    wanted = {"method": "swift", "content": "sample:coffee", "image_px": 128, **more}
    state = finished(studio, wanted)
    whole = Image.open(io.BytesIO(studio.get(f"/api/paint/pictures/{state['id']}/image").content)).convert("RGB")
    answer = studio.post("/api/paint/preview", json={**wanted, "px": 128, "whole_px": 128})
    assert answer.headers["content-type"] == "image/jpeg"
    assert unquote(answer.headers["x-command"]) == state["command"]
    assert answer.content == as_jpeg(from_array(np.asarray(whole)))


@pytest.mark.parametrize(("method", "reader"), [("swift", "load_swift"), ("adain", "load_decoder")])
def test_a_move_of_a_slider_does_not_read_the_network_again(method, reader, monkeypatch):
    module = import_module(f"nstexp.methods.{method}")
    read, calls = getattr(module, reader), []
    monkeypatch.setattr(module, reader, lambda *words: calls.append(words) or read(*words))
    monkeypatch.setattr(painting, "_METHODS", {})
    request = {"content": "sample:coffee", "style": ["met:436535"], "image_px": 64}
    pictures = []
    for alpha in (0.5, 1.0, None, 0.5):
        settings = {"style_px": 64} if alpha is None else {"style_px": 64, "alpha": alpha}
        wanted = {"method": method, "settings": settings, "request": request, "shares": []}
        pictures.append(painting.preview(wanted, lambda value: None)["jpeg"])
    assert len(calls) == 1
    assert pictures[0] == pictures[3] != pictures[1] == pictures[2]


def test_download_holds_the_command_and_the_same_pixels(studio):
    state = finished(studio, {"method": "swift", "content": "sample:coffee", "styles": ["met:436535"], "image_px": 64})
    plain = studio.get(f"/api/paint/pictures/{state['id']}/download")
    with_command = studio.get(f"/api/paint/pictures/{state['id']}/download?record=1")
    assert plain.headers["content-disposition"].startswith('attachment; filename="coffee-swift-')
    assert plain.content == studio.get(f"/api/paint/pictures/{state['id']}/image").content
    image = Image.open(io.BytesIO(with_command.content))
    image.load()
    assert image.text["nstexp command"] == state["command"]
    assert image.tobytes() == Image.open(io.BytesIO(plain.content)).tobytes()


def test_same_command_gives_the_same_picture_of_the_history(studio):
    wanted = {"method": "swift", "content": "sample:coffee", "styles": ["met:436535"], "image_px": 64}
    assert finished(studio, wanted)["id"] == finished(studio, {**wanted, "alpha": 1.0})["id"]
    assert finished(studio, {**wanted, "alpha": 0.5})["id"] != finished(studio, wanted)["id"]


def test_picture_that_fails_has_the_sentence_of_the_command_line(studio, tmp_path, nstexp, monkeypatch):
    monkeypatch.chdir(tmp_path)
    thin = upload(studio, picture(str(tmp_path / "thin.png"), 400, 8))["name"]
    wanted = {"method": "swift", "content": thin, "styles": ["met:436535"]}
    state = finished(studio, wanted)
    assert (state["status"], state["error"][:30]) == ("failed", "content: the picture is 400x8 ")
    preview = studio.post("/api/paint/preview", json={**wanted, "px": 400, "whole_px": 400})
    assert (preview.status_code, preview.json()["error"]) == (400, state["error"])
    result = nstexp.bare(*shlex.split(state["command"])[1:])
    assert result.sentences[-1] == state["error"]


def test_picture_is_removed_from_the_strip_only(studio):
    state = finished(studio, {"method": "swift", "content": "sample:rocket", "styles": ["met:436535"], "image_px": 64})
    (folder,) = studio.app.state.studio.folder.rglob(f"pictures/{state['id']}")
    assert (folder / "output.png").is_file()
    assert studio.post(f"/api/paint/pictures/{state['id']}/remove").status_code == 200
    assert studio.get(f"/api/paint/pictures/{state['id']}").status_code == 400
    assert (folder / "output.png").is_file()


def test_process_that_dies_is_replaced(studio):
    """The picture in work is lost with a sentence, and the next one is made."""
    begun = studio.post(
        "/api/paint/pictures",
        json={"method": "gatys", "content": "sample:coffee", "styles": ["met:436535"], "image_px": 64, "steps": 5000},
    ).json()
    while studio.get(f"/api/paint/pictures/{begun['id']}").json()["status"] == "waiting":
        time.sleep(0.05)
    studio.app.state.studio.worker._process.kill()
    state = finished_state(studio, begun)
    assert (state["status"], state["error"]) == ("failed", LOST)
    after = finished(studio, {"method": "swift", "content": "sample:camera", "styles": ["met:436535"], "image_px": 64})
    assert after["status"] == "completed"


# ---------------------------------------------------------------------------------------------- words of a command


def wanted_of(**sent):
    return Wanted.of({"method": "swift", "content": "a.png", "styles": ["b.png"], **sent}, lambda key, name: name)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({}, "method=swift content=a.png style=b.png logger=none"),
        ({"alpha": 1.0, "color_strength": 0.4, "beta": 5}, "method=swift content=a.png style=b.png logger=none"),
        ({"stroke": 0.5, "alpha": 0.123456}, "... method.alpha=0.1235 method.style_scale=0.5 logger=none"),
        ({"method": "adain", "stroke": 0.5}, "... method.style_px=256 logger=none"),
        ({"method": "adain", "stroke": 0.125}, "... method.style_px=64 logger=none"),
        ({"styles": ["b", "c"], "shares": [1, 1]}, "method=swift content=a.png style=[b,c] logger=none"),
        ({"styles": ["b", "c"], "shares": [0.5, 1]}, "... style=[b,c] style_weights=[0.5,1] logger=none"),
        ({"styles": ["b", "c"], "masks": ["m", "n"]}, "... style=[b,c] masks=[m,n] logger=none"),
        ({"masks": ["m"]}, "method=swift content=a.png style=b.png logger=none"),
        ({"content": "it's (1).png", "styles": ["2"]}, 'method=swift content="it\'s (1).png" style="2" logger=none'),
        ({"color": "match", "color_strength": 0.5}, "... color=match color_strength=0.5 logger=none"),
        ({"protect": ["faces", "k"], "protect_strength": 1}, "... protect=[faces,k] protect_strength=1 logger=none"),
        ({"method": "gatys", "beta": 10, "steps": 7, "alpha": 0}, "... weights.beta=10 method.max_steps=7 logger=none"),
        ({"method": "cin", "styles": ["irises"], "stroke": 2}, "method=cin content=a.png style=irises logger=none"),
        ({"image_px": 512, "seed": 4, "photorealism": 0.25}, "... photorealism=0.25 image_px=512 seed=4 logger=none"),
    ],
)  # fmt: skip
def test_words_name_what_is_not_at_its_default(sent, words):
    made = " ".join(wanted_of(**sent).words())
    assert made.endswith(words.removeprefix("...")) if words.startswith("...") else made == words


@pytest.mark.parametrize(
    "words",
    [
        [
            "method=swift",
            "content=sample:coffee",
            "style=[met:436535,met:437854]",
            "style_weights=[0.5,1]",
            "logger=none",
        ],
        ["method=gatys", "method.max_steps=7", "weights.beta=10", "method.style_scale=1.5", "seed=3", "logger=none"],
        [
            "method=cin",
            "style=irises",
            "photorealism=0.25",
            "protect=[faces]",
            'run_dir="/tmp/it\'s, here"',
            "logger=none",
        ],
        ["method=adain", "method.style_px=256", "image_px=64", *OF_THE_STUDIO, "logger=none"],
    ],
)
def test_configuration_is_the_one_that_hydra_composes(words):
    """The worker applies the values of a command to a configuration that it keeps."""
    for _ in range(2):  # the second time, the kept one
        cfg, choices = composed(words)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            expected = compose("config", words_for_hydra(words), return_hydra_config=True)
        assert choices == expected.hydra.runtime.choices
        with open_dict(expected):
            del expected["hydra"]
        assert OmegaConf.to_yaml(cfg) == OmegaConf.to_yaml(expected)


@pytest.mark.parametrize(("words", "sentence"), [(["method=swift", "method.alfa=1"], "alfa"), (["color=x"], "color=x")])
def test_wrong_words_are_refused_as_by_the_command_line(words, sentence):
    with pytest.raises(UserError, match=sentence):
        check_values(composed([*words, "logger=none"])[0])


def test_strokes_of_a_preview_are_as_large_beside_the_photo():
    payload = wanted_of(method="adain", stroke=2).preview(256, 1024)
    assert payload["settings"] == {"alpha": 1.0, "style_px": 256}  # a quarter of 2 x 512
    settings = wanted_of(stroke=2).preview(256, 1024)["settings"]
    assert settings == {"alpha": 1.0, "style_px": 128, "style_scale": 2}
    assert wanted_of(stroke=2).preview(256, 1024, of_clip=True)["settings"] == {**settings, "tones": 0.0}
    preview = SwiftSettings(style_px=128, style_scale=2).style_size((600, 900), 256 * 192)
    whole = SwiftSettings(style_scale=2).style_size((600, 900), 1024 * 768)
    assert (4 * preview[0], 4 * preview[1]) == whole
    assert payload["request"]["image_px"] == 256
    assert wanted_of().preview(256, 100)["request"]["image_px"] == 100
    with pytest.raises(UserError, match="method=gatys takes minutes"):
        wanted_of(method="gatys").preview(256, 512)


def test_error_of_a_library_after_a_stop_counts_as_a_stop():
    with pytest.raises(KeyboardInterrupt), stoppable():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("a library is confused") from None
    with pytest.raises(ValueError, match="a mistake"), stoppable():
        raise ValueError("a mistake")


# ------------------------------------------------------------------------------------------------- nstexp studio


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "studio nowhere: there is no such folder"),
        (["--prot", "1"], "nstexp studio: unrecognized arguments: --prot (--help tells more)"),
        (["--port", "x"], "--port x: give a number from 1 to 65535, or 0 for a free one"),
        (["--port", "70000"], "--port 70000: give a number from 1 to 65535, or 0 for a free one"),
        (["--token", "short"], "--token: give 8 letters or more, or leave it out for one that is made"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 --port 0: the studio cannot listen there "),
    ],
)
def test_wrong_command_is_one_sentence(tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        studio_command(words)
    assert str(refused.value).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'nstexp\[studio\]'"):
        studio_command([str(tmp_path)])


def test_documented_commands_are_read():
    documented = [line for line in commands(*SHELL) if line.startswith("nstexp studio")]
    assert len(documented) >= 3
    for line in documented:
        assert command._parser().parse_args(shlex.split(line)[2:]).folder


@pytest.mark.parametrize(
    ("host", "token", "address"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:80/"),
        ("::1", None, "http://[::1]:80/"),
        ("10.1.2.3", "abc", "http://10.1.2.3:80/?token=abc"),
        ("0.0.0.0", "abc", f"http://{socket.gethostname()}:80/?token=abc"),
    ],
)
def test_address_can_be_opened(host, token, address):
    assert command._address(host, 80, token) == address


@pytest.mark.parametrize(
    ("host", "made"), [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True)]
)
def test_other_machines_need_a_token(tmp_path, monkeypatch, host, made):
    given = []
    monkeypatch.setattr(command, "_serve", lambda *args: given.append(args))
    studio_command([str(tmp_path), "--host", host])
    token = given[0][3]
    assert (token is not None) == made
    assert not made or len(token) >= 16


@pytest.mark.slow
def test_server_needs_no_torch_and_ends_with_ctrl_c(tmp_path):
    served = serve(tmp_path)
    page = urllib.request.urlopen(served.address, timeout=20).read().decode()
    assert "nstexp studio" in page
    listed = subprocess.run(["/bin/cat", f"/proc/{served.process.pid}/maps"], capture_output=True, text=True).stdout
    assert "libtorch" not in listed and "python" in listed
    assert end(served) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_worker_ends_when_the_server_is_killed(tmp_path):
    served = serve(tmp_path)
    try:
        children = wait_for(lambda: psutil.Process(served.process.pid).children(recursive=True))
        served.process.kill()
        _, alive = psutil.wait_procs(children, timeout=40)
        assert alive == []
    finally:
        served.process.kill()
        served.process.communicate()
