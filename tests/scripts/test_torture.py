"""The script that tries hostile input notices what is wrong: a check that lets everything pass would count nothing."""

import sys

import pytest
from helpers import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

from hostile import commands, ends, files, pictures
from hostile.trials import Trial, attempt, both, either, made, memory_below, nearer, refused

PICTURE = "from PIL import Image; Image.effect_noise((8, 8), 90).save('made.png')"


def told(shell, check, **more):
    """What is wrong with a command line of bash that is tried."""
    return attempt(Trial("test", "test", [], check, shell=shell, **more))[1]


def test_there_are_as_many_trials_as_promised():
    tried = [*pictures.trials(), *files.trials(), *commands.trials()]
    assert len([trial for trial in tried if trial.file]) >= 150
    assert len([trial for trial in tried if not trial.file]) >= 200
    moments = {kind: sum(len(e.moments) for e in ends.endings() if e.kind == kind) for kind in ("interrupts", "kills")}
    assert moments["interrupts"] >= 24 and moments["kills"] >= 20


def test_no_two_trials_have_one_name():
    names = [(trial.kind, trial.name) for trial in [*pictures.trials(), *files.trials(), *commands.trials()]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("shell", "wrong"),
    [
        ("echo 'image_px=0 is too small' >&2; exit 2", None),
        ("echo 'image_px=0 is too small' >&2; exit 0", "exit code 0"),
        ("echo 'image_px=0 is too small' >&2; kill -9 $$", "exit code -9"),
        ("echo 'it is too small' >&2; exit 2", "'image_px' is not named"),
        ("exit 2", "0 lines"),
        ("yes image_px | head -4 >&2; exit 2", "4 lines"),
        ("echo image_px >&2; mkdir -p runs/nstexp; exit 2", "runs is left behind"),
        ("echo image_px >&2; echo 'Traceback (most recent call last)' >&2; exit 2", "a traceback"),
    ],
)
def test_what_is_not_refused_properly_is_wrong(shell, wrong):
    found = told(shell, refused("image_px"))
    assert found is None if wrong is None else wrong in found


@pytest.mark.parametrize(
    ("shell", "wrong"),
    [
        (f'"{sys.executable}" -c "{PICTURE}"; echo made.png', None),
        (f'"{sys.executable}" -c "{PICTURE}"; echo made.png; exit 1', "exit code 1"),
        (f'"{sys.executable}" -c "{PICTURE}"', "is not an existing file"),
        ("echo made.png", "is not an existing file"),
        (f'"{sys.executable}" -c "{PICTURE.replace("90", "0")}"; echo made.png', "of one color"),
    ],
)
def test_what_is_not_made_properly_is_wrong(shell, wrong):
    found = told(shell, made())
    assert found is None if wrong is None else wrong in found


@pytest.mark.parametrize(
    ("shell", "wrong"),
    [("true", None), ("rm mine.txt", "gone"), ("echo x >> mine.txt", "changed"), ("rm -r folder", "gone")],
)
def test_no_file_of_the_users_may_change(shell, wrong):
    def prepare(folder):
        (folder / "mine.txt").write_text("mine")
        (folder / "folder").mkdir()

    found = told(shell, lambda outcome: None, prepare=prepare)
    assert found is None if wrong is None else wrong in found
    if wrong == "changed":
        assert told(shell, lambda outcome: None, prepare=prepare, may_change=["mine.txt"]) is None


def test_checks_combine():
    shell = "echo no >&2; exit 2"
    assert told(shell, either(made(), refused())) is None
    assert "exit code 2" in told(shell, either(made(), refused("yes")))
    assert told(shell, both(refused(), memory_below(1e6))) is None
    assert "MB of memory" in told(shell, both(refused(), memory_below(0.001)))


def test_pictures_that_differ_are_noticed():
    for color, wrong in (("'#848484'", None), ("'#a0a0a0'", "differ by 32.0 of 255, c by 40.0")):
        gray = {"a": color, "b": "'#808080'", "c": "'#a8a8a8'"}
        save = "; ".join(f"Image.new('RGB', (8, 8), {value}).save('out/{name}.png')" for name, value in gray.items())
        shell = f'mkdir out; "{sys.executable}" -c "from PIL import Image; {save}"; echo out'
        found = told(shell, made(nearer("a", "b", "c")))
        assert found is None if wrong is None else wrong in found
