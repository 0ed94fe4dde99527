"""Words without a key: pictures get one, everything else is told how to write it."""

import shlex
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from nstexp.config.bare_words import WITH_VALUE, with_keys
from nstexp.config.keys import known
from nstexp.core.errors import UserError

KNOWN = frozenset(known().tree)


@pytest.fixture(autouse=True)
def _with_files(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("photo (1).jpg", "photo.jpg", "b.jpg", "painting.jpg", "a=b.jpg", "seed=3", "-x.jpg"):
        Path(name).touch()
    Path("photos").mkdir()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("photo.jpg painting.jpg", "content=photo.jpg style=painting.jpg"),
        ("'photo (1).jpg' a=b.jpg", "'content=photo (1).jpg' style=a=b.jpg"),
        ("photos painting.jpg image_px=64", "content=photos style=painting.jpg image_px=64"),
        ("photos/ met:436535", "content=photos/ style=met:436535"),
        ("method=cin photo.jpg irises", "method=cin content=photo.jpg style=irises"),
        ("-m photo.jpg weights.beta=1,2", "-m content=photo.jpg weights.beta=1,2"),
        ("content=b.jpg painting.jpg", "content=b.jpg style=painting.jpg"),
        ("style=b.jpg photo.jpg", "style=b.jpg content=photo.jpg"),
        ("gone.jpg", "content=gone.jpg"),
        ("photo.jpg --config-dir photos --cfg job", "content=photo.jpg --config-dir photos --cfg job"),
        ("seed=3 ~hydra.callbacks.nstexp +a.b=1", "seed=3 ~hydra.callbacks.nstexp +a.b=1"),
        (
            "'content = photo (1).jpg' ' weights.beta=3' 'seed  = a =b'",
            "'content=photo (1).jpg' weights.beta=3 'seed=a =b'",
        ),
        ("'content= photo.jpg'", "'content= photo.jpg'"),
        ("--info defaults --resolve --multirun", "--info defaults --resolve --multirun"),
    ],
)
def test_pictures_get_a_key(words, expected):
    assert with_keys(shlex.split(words), KNOWN) == shlex.split(expected)


@pytest.mark.parametrize(
    ("words", "to_type"),
    [
        ("photo.jpg b.jpg painting.jpg", "'content=[photo.jpg,b.jpg]' style=painting.jpg"),
        ("'photo (1).jpg' b.jpg painting.jpg", "'content=[photo (1).jpg,b.jpg]' style=painting.jpg"),
        ("content = photo.jpg", "content=photo.jpg"),
        ("content =photo.jpg", "content=photo.jpg"),
        ("content= 'photo (1).jpg'", "'content=photo (1).jpg'"),
        ("content photo.jpg", "content=photo.jpg"),
        ("content: photo.jpg", "content=photo.jpg"),
        ("method.max_steps 30", "method.max_steps=30"),
        ("method.max_steps = 30", "method.max_steps=30"),
        ("--content photo.jpg", "content=photo.jpg"),
        ("--content=photo.jpg", "content=photo.jpg"),
        ("-content=photo.jpg", "content=photo.jpg"),
        ("--image-px 64", "image_px=64"),
        ("-x.jpg", "content=-x.jpg"),
        ("nonsense", "content=photo.jpg style=painting.jpg"),
        ("content=b.jpg photo.jpg painting.jpg", "content=... style=..."),
    ],
)
def test_what_is_not_clear_is_told_what_to_write(words, to_type):
    with pytest.raises(UserError) as refused:
        with_keys(shlex.split(words), KNOWN)
    assert to_type in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_whole_folder_in_the_place_of_one_picture_is_told_so_in_a_few_words():
    with pytest.raises(UserError) as refused:
        with_keys([f"{n}.jpg" for n in range(1000)], KNOWN)
    assert "content=FOLDER style=999.jpg" in str(refused.value)
    assert len(str(refused.value)) < 250


def test_the_options_with_a_value_are_those_of_hydra():
    actions = [action for action in get_args_parser()._actions if action.option_strings and action.nargs != 0]
    assert set(WITH_VALUE) == {flag for action in actions for flag in action.option_strings}
