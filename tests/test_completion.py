"""Completion by the Tab key: what a word can become, and that it does in real shells."""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from helpers import ROOT

from nstexp.commands import COMMANDS
from nstexp.completion.candidates import OPTIONS, candidates
from nstexp.completion.shells import answer, asked, split
from nstexp.config import keys, options
from nstexp.core.errors import UserError
from nstexp.media import samples

NSTEXP = f"{sys.executable} -m nstexp"
CALL = "import sys; sys.argv[0] = 'nstexp'; from nstexp.__main__ import main; main()"  # as the console script does
SECONDS, NO_ANSWER, QUIET = 60.0, 6.0, 0.4


def texts(line: str) -> list[str]:
    """The candidates behind `nstexp `."""
    typed = split(line)
    return [each.text for each in candidates(typed.words, typed.current)]


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "photo.jpg",
        "phone (1).PNG",
        "phase.txt",
        "photos/a.png",
        ".hidden.png",
        "net.safetensors",
        "clip.mp4",
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    return tmp_path


# ------------------------------------------------------------------------------------------------- groups, keys, values


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("method=", ["method=adain", "method=cin", "method=gatys", "method=swift", "method=texture_net"]),
        ("method=a", ["method=adain"]),
        ("-m method=gatys,a", ["method=gatys,adain"]),
        ("meth", ["method.", "method="]),
        ("weights.b", ["weights.beta="]),
        ("weights.beta=", ["weights.beta=1000"]),
        ("method=adain weights.beta=", ["weights.beta=10"]),
        ("loss=[content,gr", ["loss=[content,gram", "loss=[content,gram_hw"]),
        ("loss=[gram,gram", ["loss=[gram,gram_hw"]),
        ("loss=[content,laplacian] weights.l", ["weights.laplacian="]),
        ("weights.l", []),
        ("backbone@metrics.encoder=vgg16", ["backbone@metrics.encoder=vgg16_torchvision"]),
        ("task=video video.fl", ["video.flow="]),
        ("task=video video.flow=d", ["video.flow=dis", "video.flow=dis_fast"]),
        ("video.fl", []),
        ("experiment=smoke_cin data.cr", ["data.crop_px="]),
        ("measure=", ["measure=false", "measure=true"]),
        ("data.flip=", []),
        ("task=train data.flip=", ["data.flip=false", "data.flip=true"]),
        ("method.optimizer=a", ["method.optimizer=adam"]),
        ("color=", ["color=luminance", "color=match", "color=none", "color=preserve"]),
        ("objective=style_g", ["objective=style_gram"]),
        ("+experiment=dem", ["+experiment=demo"]),
        ("~logger", ["~logger", "~logger."]),
        ("~loss.t", ["~loss.tv", "~loss.tv."]),
        ("hydra/sweeper=", ["hydra/sweeper=basic", "hydra/sweeper=optuna"]),
        ("hydra/launcher=j", ["hydra/launcher=joblib"]),
        ("hydra.launcher.n", ["hydra.launcher.n_jobs="]),
        ("--cfg ", ["all", "hydra", "job"]),
        ("--conf", ["--config-dir", "--config-name", "--config-path"]),
        ("style=met:43652", ["style=met:436528"]),
        ("style=m", ["style=met:"]),
        ("style=sample:c", ["style=sample:camera", "style=sample:chelsea", "style=sample:coffee"]),
        ("method=cin style=iri", ["style=irises"]),
        ("method=cin style=[irises,jun", ["style=[irises,jungle"]),
        ("style=iri", []),
        ("samp", ["samples"]),
        ("samples --s", ["--sheet"]),
        ("stud", ["studio"]),
        ("studio --n", ["--no-browser"]),
        ("nothing.of.this=", []),
        ("'method=a", ["method=adain"]),
    ],
)
def test_words_become_what_the_configuration_has(tmp_path, monkeypatch, line, expected):
    monkeypatch.chdir(tmp_path)
    assert texts(line) == expected


def test_every_group_and_key_of_the_default_configuration_is_offered():
    found = texts("")
    assert {f"{key}=" for key in ("method", "loss", "content", "style", "image_px", "seed", "experiment")} <= {*found}
    assert {"samples", "studio", "styles"} <= {*found}
    assert not any("_target_" in text for text in found)
    for key in keys.known().required:
        assert {f"{key}=", f"{key}."} & {*texts(key)}, key


def test_keys_go_by_the_chosen_method():
    assert "method.alpha=" in texts("method=adain method.")
    assert "method.alpha=" not in texts("method.")
    assert "method.init=" in texts("method.")
    assert {"method.alpha=", "method.init="} <= {*texts("method=[gatys,adain] method.")}


def test_options_of_own_folders_are_offered(files):
    Path("mine/loss").mkdir(parents=True)
    Path("mine/loss/my_loss.yaml").touch()
    assert texts("--config-dir mine loss=[content,my") == ["loss=[content,my_loss"]
    assert texts("loss=[content,my") == []
    assert texts("--config-dir ") == ["mine/", "photos/"]


def test_a_subcommand_that_explains_things_gets_groups_options_and_keys(monkeypatch):
    monkeypatch.setitem(COMMANDS, "explain", "nowhere:explain")
    assert texts("explain method=a") == ["method=adain"]
    assert texts("explain weights.b") == ["weights.beta"]
    assert "method" in texts("explain m")


def test_hydras_options_are_all_offered():
    long = {option for option in options._known() if option.startswith("--")}
    assert long - {"--run"} == {option for option in OPTIONS if option.startswith("--")}


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("content=ph", ["content=phone (1).PNG", "content=photo.jpg", "content=photos/"]),
        ("content=photos/", ["content=photos/a.png"]),
        ("content=./photo.", ["content=./photo.jpg"]),
        ("content=[photo.jpg,pho", ["content=[photo.jpg,phone (1).PNG", "content=[photo.jpg,photos/"]),
        ("content=phone\\ ", ["content=phone (1).PNG"]),
        ("'content=phone ", ["content=phone (1).PNG"]),
        ("content=.h", ["content=.hidden.png"]),
        ("content=c", ["content=clip.mp4"]),
        ("content=sam", ["content=sample:"]),
        ("method.model=", ["method.model=bundled", "method.model=net.safetensors", "method.model=photos/"]),
        ("run_dir=", ["run_dir=photos/"]),
        ("output=pha", ["output=phase.txt"]),
        ("seed=./ph", ["seed=./phase.txt", "seed=./phone (1).PNG", "seed=./photo.jpg", "seed=./photos/"]),
        ("photo.jpg ./pho", ["./phone (1).PNG", "./photo.jpg", "./photos/"]),
        ("styles ne", ["net.safetensors"]),
        ("styles net.safetensors --sheet pho", ["phone (1).PNG", "photo.jpg", "photos/"]),
        ("content=gone/", []),
    ],
)
def test_names_of_files_are_offered_where_a_file_is_meant(files, line, expected):
    assert texts(line) == expected


def test_a_terminal_gets_no_commands_from_names(files):
    for name in ("pz\x1b[31m.png", "pz\n.png", "pzz.png"):
        Path(name).touch()
    assert texts("content=pz") == ["content=pzz.png"]


def test_a_home_folder_is_understood_and_stays_as_it_was_typed(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    assert texts("content=~/photo") == ["content=~/photo.jpg", "content=~/photos/"]


def test_a_missing_package_of_pictures_only_leaves_out_its_names(monkeypatch):
    monkeypatch.setattr(samples, "find_spec", lambda name: None)
    assert texts("style=met:43652") == []


@pytest.mark.parametrize(
    ("line", "words", "current", "quote"),
    [
        ("nstexp a=1 b=", ["nstexp", "a=1"], "b=", ""),
        ("nstexp a=1 ", ["nstexp", "a=1"], "", ""),
        ("nstexp 'a b' \"c 'd", ["nstexp", "a b"], "c 'd", '"'),
        ("nstexp a\\ b\\'c", ["nstexp"], "a b'c", ""),
        ("nstexp '' a", ["nstexp", ""], "a", ""),
        ("", [], "", ""),
    ],
)
def test_a_line_is_parted_as_a_shell_does(line, words, current, quote):
    typed = split(line)
    assert (typed.words, typed.current, typed.quote) == (words, current, quote)


# --------------------------------------------------------------------------------------------------------- the commands


def test_only_commands_about_completion_are_answered_without_hydra():
    assert asked(["-sc", "install=bash"]) and asked(["--shell-completion", "query=zsh"])
    assert not asked([]) and not asked(["content=-sc"])


@pytest.mark.parametrize("words", [["-sc"], ["-sc", "install=fish"], ["-sc", "install=bash", "method=adain"]])
def test_a_wrong_word_is_refused_in_one_sentence(words):
    with pytest.raises(UserError, match=r"^-sc: give one of install=bash, install=zsh, [^\n]*$"):
        answer(words)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize("what", ["install", "uninstall"])
def test_scripts_are_for_the_program_that_prints_them(monkeypatch, shell, what):
    for argv, names in ((["/bin/nstexp"], {"nstexp"}), (["/x/nstexp/__main__.py"], {"python", "python3"})):
        monkeypatch.setattr(sys, "argv", argv)
        assert names <= {*answer(["-sc", f"{what}={shell}"]).split()}


def query(line: str, shell: str = "bash", **more: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nstexp", "-sc", f"query={shell}"],
        env={**os.environ, "COMP_LINE": line, **more}, capture_output=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0
    heavy = re.findall(rb"\| +(torch|hydra|omegaconf|numpy|PIL)$", done.stderr, re.MULTILINE)
    assert not heavy, "an answer is quick because it imports little"
    return done.stdout


def test_an_answer_is_quick_and_has_one_candidate_a_line(files):
    assert query("nstexp method=a") == b"method=adain \n"
    assert query("nstexp weights.b and more", COMP_POINT="16") == b"weights.beta=\n"
    assert query("python -m nstexp content=photo.", "zsh") == b"content=photo.jpg \n"
    assert query("nstexp nothing.of.this=") == b""
    Path(os.fsdecode(b"green\xe9.png")).touch()
    assert query("nstexp content=green") == b"content=green\xe9.png \n"


def test_bash_gets_the_part_of_a_word_that_it_replaces(files):
    breaks = " \t\n\"'@><=;|&(:"
    assert query("nstexp style=met:43652", COMP_BREAKS=breaks) == b"436528 \n"
    assert query("nstexp backbone@m", COMP_BREAKS=breaks) == b"@metrics.encoder=\n"
    assert query("nstexp content=phone", COMP_BREAKS=breaks) == b"phone\\ \\(1\\).PNG \n"
    assert query("nstexp 'content=phone", COMP_BREAKS=breaks) == b"content=phone (1).PNG\n"


# ---------------------------------------------------------------------------------------------------------- real shells


class Shell:
    """An interactive shell at a terminal, in which `nstexp` and `python` only print their arguments.

    Args:
        command: the shell with options that keep the user's settings out.
        install: the line that switches completion on.
    """

    def __init__(self, command: list[str], install: str) -> None:
        self.seen = b""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            more = {"PS1": "$ ", "TERM": "xterm", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
            os.execvpe(command[0], command, {**os.environ, **more})
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.run(install)
        self.run("show() { printf 'AR''GS'; printf '<%s>' \"$@\"; printf 'E''ND'; }")
        self.run('nstexp() { show "$@"; }; python() { show "$@"; }')

    def run(self, line: str) -> None:
        self._send(f"{line}; echo RE''ADY\n")
        self._read("READY")

    def args(self, line: str) -> list[str]:
        """The arguments that a line has after Tab (`\\t`) was pressed in it."""
        for part in filter(None, re.split("(\t)", line)):
            self._send(part)
            self._settle()
        self._send("\n")
        shown = self._read("END")
        return re.findall("<(.*?)>", shown[shown.rindex("ARGS") :], re.DOTALL)

    def listed(self, line: str, last: str) -> str:
        """What is listed below a line, until `last` has come."""
        for part in (line, "\t", "\t"):
            self._send(part)
            self._settle()
        shown = self._read(last)
        self._send("\x15")
        return shown

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)

    def _send(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def _settle(self) -> None:
        """Wait until the shell has answered what was sent, or has nothing to say."""
        waiting = NO_ANSWER
        while select.select([self.terminal], [], [], waiting)[0]:
            self.seen += os.read(self.terminal, 65536)
            waiting = QUIET

    def _read(self, until: str) -> str:
        shown, given_up, self.seen = self.seen, time.monotonic() + SECONDS, b""
        while until.encode() not in shown:
            assert time.monotonic() < given_up, shown
            ready, _, _ = select.select([self.terminal], [], [], 1)
            if ready:
                shown += os.read(self.terminal, 65536)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", shown.decode())


def start(name: str, program: str) -> Shell:
    if name == "zsh" and shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    command = {"bash": ["bash", "--noprofile", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}[name]
    return Shell(command, f'eval "$({program} -sc install={name})"')


@pytest.fixture(scope="module", params=["bash", "zsh"])
def shell(request):
    opened = start(request.param, f'{sys.executable} -c "{CALL}"')
    opened.name = request.param
    yield opened
    opened.close()


@pytest.fixture
def in_files(shell, files):
    shell.run(f"cd '{files}'")
    return shell


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nstexp method=ad\t", ["method=adain"]),
        ("nstexp weights.b\t5", ["weights.beta=5"]),
        ("nstexp method=ad\tweights.b\t5", ["method=adain", "weights.beta=5"]),
        ("nstexp image\t512 style=met:43652\t", ["image_px=512", "style=met:436528"]),
        ("nstexp backbone@m\tvgg16\t", ["backbone@metrics.encoder=vgg16_torchvision"]),
        ("nstexp 'loss=[content,lap\t", ["loss=[content,laplacian"]),
        ("nstexp content=photo.\t", ["content=photo.jpg"]),
        ("nstexp content=phone\t", ["content=phone (1).PNG"]),
        ("nstexp content=photos\t\t", ["content=photos/a.png"]),
        ("nstexp samp\t--sh\t", ["samples", "--sheet"]),
        ("nstexp styles ne\t", ["styles", "net.safetensors"]),
    ],
)
def test_tab_completes_words_in_a_shell(in_files, line, expected):
    if line.endswith("lap\t") and in_files.name == "zsh":
        line += "'"  # bash closes an open quote
    assert in_files.args(line) == expected


@pytest.mark.slow
def test_tab_lists_the_options_of_a_group_in_a_shell(in_files):
    shown = in_files.listed("nstexp method=", "texture_net")
    assert all(method in shown for method in ("adain", "cin", "gatys", "texture_net"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_tab_completes_words_behind_python_m_nstexp(files, name):
    opened = start(name, NSTEXP)
    try:
        opened.run(f"cd '{files}'")
        assert opened.args("python -m nstexp method=ad\t") == ["-m", "nstexp", "method=adain"]
        assert opened.args("python pha\t") == ["phase.txt"]
        opened.run(f'eval "$({NSTEXP} -sc uninstall={name})"')
        assert opened.args("python -m nstexp method=ad\t") == ["-m", "nstexp", "method=ad"]
    finally:
        opened.close()
