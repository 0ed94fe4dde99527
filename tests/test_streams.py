"""Whatever is wrong with stdout and stderr, the work is done and its exit code stays; messages have their own lines."""

import os
import pty
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from helpers import ROOT, SMOKE

from nstexp.outputs import read_summary

WORK = """
import os, sys
from nstexp import streams
from nstexp.console import bar
streams.prepare()
streams.prepare()
for number in bar(range(3), unit="step"):
    print("Zürich 写真 \\udcff", number, file=sys.stderr)
for number in range(20000):
    print("Zürich 写真 \\udcff", number)
sys.stdout.flush()
with open("work.txt", "w") as file:
    file.write("done")
sys.exit(7)
"""
NSTEXP = f"{sys.executable} -m nstexp"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["bash", "-c", command], env=env, capture_output=True, timeout=200)


REDIRECTIONS = [
    "",
    "| true",
    "| head -1",
    ">&-",
    "2>&-",
    "<&- >&- 2>&-",
    "2>&1 | head -1",
    "> /dev/full",
    "2> /dev/full",
]


@pytest.mark.parametrize(
    ("encoding", "redirection"),
    [*((e, "") for e in ("utf-8", "ascii", "cp1252", "cp932", "utf-16")), *(("ascii", r) for r in REDIRECTIONS)],
)
def test_the_work_is_done_with_its_own_exit_code(tmp_path, monkeypatch, encoding, redirection):
    monkeypatch.chdir(tmp_path)
    Path("work.py").write_text(WORK)
    done = shell(f"{sys.executable} work.py {redirection}; exit ${{PIPESTATUS[0]}}", PYTHONIOENCODING=encoding)
    assert done.returncode == 7, done.stderr
    assert b"Error" not in done.stderr and b"Traceback" not in done.stderr
    assert Path("work.txt").read_text() == "done"  # and nothing of what was printed
    if encoding == "ascii" and not redirection:
        assert done.stdout.splitlines()[-1] == rb"Z\xfcrich \u5199\u771f \udcff 19999"


def test_without_a_console_there_is_no_bar(tmp_path, monkeypatch):
    """As in a program with windows, which has no streams at all."""
    code = "import sys; sys.stderr = None; from nstexp.console import *; list(bar([1])); progress(1, 'a', 'b')"
    assert shell(f'{sys.executable} -c "{code}"').returncode == 0


def test_messages_begin_on_a_line_of_their_own():
    code = (
        "import sys, warnings\nfrom nstexp import streams\nfrom nstexp.console import progress\nstreams.prepare()\n"
        "shown = progress(3, 'a', 'step')\nprint('message', file=sys.stderr)\nshown.update()\nshown.refresh()\n"
        "warnings.warn('mine')\nshown.close()\nprint('end', file=sys.stderr)"
    )
    err = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stderr
    lines = err.split("\n")
    assert "message" in lines and "end" in lines
    assert [line for line in lines if "mine" in line and line.startswith("<string>")]
    assert [line for line in lines if "1/3" in line]


def test_at_a_terminal_the_bar_makes_room():
    code = (
        "import sys\nfrom nstexp import streams\nfrom nstexp.console import progress\nstreams.prepare()\n"
        "shown = progress(3, 'a', 'step')\nprint('message', file=sys.stderr)\nshown.close()"
    )
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=theirs, timeout=60, check=True)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        seen += part
        if not part:
            break
    os.close(ours)
    assert b"\r\x1b[Jmessage\r\n" in seen


@pytest.mark.parametrize(
    ("file", "shown", "logged"),
    [
        (str(ROOT / "nstexp" / "core" / "networks" / "pretrained.py"), "3 filters never fire\n", False),
        (warnings.__file__, "", True),
        (subprocess.__file__.replace("subprocess.py", "site-packages/torch/x.py"), "", True),
        (subprocess.__file__.replace("subprocess.py", "site-packages/hydra/x.py"), "3 filters never fire\n", False),
        ("/home/me/my_loss.py", "/home/me/my_loss.py:5: UserWarning: 3 filters\n  never fire\n", False),
    ],
)
def test_warnings_of_libraries_are_for_the_log(capsys, caplog, file, shown, logged):
    from nstexp.streams import _show_warning

    caplog.set_level("DEBUG", "py.warnings")
    _show_warning(UserWarning("3 filters\n  never fire"), UserWarning, file, 5)
    assert capsys.readouterr().err == shown
    assert bool(caplog.records) == logged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [("samples", 0), ("--help", 0), ("--cfg job", 0), ("content=写真.jpg", 2), ("nothing=1", 2)],
)
@pytest.mark.parametrize("redirection", ["| true", "| head -1", ">&-", "2>&-", "2>&1 | true", "> /dev/full"])
def test_short_answers(folder, arguments, code, redirection):
    done = shell(f"{NSTEXP} {arguments} {redirection}; exit ${{PIPESTATUS[0]}}", PYTHONIOENCODING="ascii")
    assert done.returncode == code
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["| true", ">&-", "2>&-", "2>&1 | head -1", ">&- 2>&- <&-", "2> /dev/full"])
def test_a_run_and_a_sweep(folder, redirection):
    inputs = " ".join((*SMOKE, "content=Zürich.png", "style=painting.jpg", "metrics=none"))
    Path("photo.png").rename("Zürich.png")
    more = "weights.beta=1,2 hydra.sweep.dir=sweep"
    for arguments in (inputs, f"-m {inputs} {more}"):
        arguments = arguments.replace("content=Zürich.png", "'content=\"Zürich.png\"'")
        done = shell(f"{NSTEXP} {arguments} {redirection}; exit ${{PIPESTATUS[0]}}", PYTHONIOENCODING="ascii")
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
    (run,) = Path("runs/nstexp").iterdir()
    assert [read_summary(made).status for made in (run, Path("sweep/0"), Path("sweep/1"))] == ["completed"] * 3
    assert Path("sweep/report.html").exists()
    assert "Zürich.png" in (run / "config.yaml").read_text(encoding="utf-8")
