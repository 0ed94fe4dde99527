"""Errors name the arguments of what raised them, and never a key of a configuration, which only its reader knows."""

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nstexp.core.errors import (
    ArgumentError,
    UserError,
    choice,
    flag,
    is_number,
    is_whole,
    number,
    under,
    whole,
    wholes,
)
from tests.helpers import ROOT


def said(check, *args, **options) -> str:
    with pytest.raises(ArgumentError) as refused:
        check(*args, **options)
    return str(refused.value)


# -------------------------------------------------------------------------------------------------------------- checks


def test_a_choice_is_one_of_the_known():
    assert choice("form", "b", ("a", "b")) == "b"
    assert choice("depth", 19, iter((16, 19))) == 19
    assert said(choice, "form", "c", ("a", "b")) == "form=c is unknown, choose one of a, b"
    assert said(choice, "form", None, iter("ab")) == "form=None is unknown, choose one of a, b"
    assert said(choice, "form", ["a"], {"a": 1, "b": 2}) == "form=['a'] is unknown, choose one of a, b"


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, float("nan")])
def test_a_whole_number_is_no_truth_and_no_fraction(value):
    assert said(whole, "steps", value) == f"steps={value}: give a whole number, 0 or larger"
    assert said(wholes, 2, bins=3, steps=value) == f"steps={value}: give a whole number, 2 or larger"


def test_whole_numbers_are_given_back():
    assert whole("steps", 0) == 0
    assert whole("steps", 10**30, 5) == 10**30
    wholes(1, one=1, two=2)
    assert is_whole(3) and not is_whole(True) and not is_whole(3.0)


RANGES = {
    "": {},
    ", 0 or larger": {"low": 0},
    ", 0.5 or smaller": {"high": 0.5},
    " from 0 to 1": {"low": 0, "high": 1},
    " from 0 to below 1": {"low": 0, "below": 1},
    " larger than 0": {"above": 0},
    " below 1": {"below": 1},
    " larger than 0 and 1 or smaller": {"above": 0, "high": 1},
    " larger than 0 and below 1": {"above": 0, "below": 1},
}


@pytest.mark.parametrize("words", RANGES)
@pytest.mark.parametrize("value", ["half", None, True, float("nan"), float("inf"), -float("inf")])
def test_a_number_is_finite_and_its_range_is_told(words, value):
    assert said(number, "share", value, **RANGES[words]) == f"share={value}: give a number{words}"
    told = said(number, "share", value, **RANGES[words], example="0.3")
    assert told == f"share={value}: give a number{words}, such as 0.3"


@pytest.mark.parametrize("words", RANGES)
@pytest.mark.parametrize("value", [-1, 0, 0.3, 0.5, 1, 2.5])
def test_a_number_inside_its_range_is_given_back(words, value):
    limits = RANGES[words]
    inside = limits.get("low", value) <= value <= limits.get("high", value)
    inside = inside and ("above" not in limits or value > limits["above"])
    inside = inside and ("below" not in limits or value < limits["below"])
    if inside:
        assert number("share", value, **limits) == value
    else:
        assert said(number, "share", value, **limits) == f"share={value}: give a number{words}"


def test_a_flag_is_a_truth():
    assert flag("bias", True) is True and flag("bias", False) is False
    assert said(flag, "bias", 1) == "bias=1: give true or false"
    assert is_number(0.5) and not is_number(True) and not is_number("1")


# --------------------------------------------------------------------------------------------------- where they belong


def test_an_error_moves_to_where_its_object_is_configured():
    error = ArgumentError("form", "=x is unknown")
    assert isinstance(error, UserError)
    assert str(error) == "form=x is unknown"
    moved = error.under("palette").under("loss")
    assert (str(moved), moved.argument) == ("loss.palette.form=x is unknown", "loss.palette.form")
    assert str(error.under("")) == str(error)


def test_an_error_survives_the_way_to_another_process():
    again = pickle.loads(pickle.dumps(ArgumentError("form", "=x is unknown").under("loss.gram")))
    assert isinstance(again, ArgumentError)
    assert (str(again), again.argument, again.problem) == (
        "loss.gram.form=x is unknown",
        "loss.gram.form",
        "=x is unknown",
    )


def test_a_block_puts_its_place_in_front_of_arguments_alone():
    with pytest.raises(ArgumentError, match=r"^video\.reader=vlc is unknown, choose one of av$"), under("video"):
        choice("reader", "vlc", ("av",))
    with pytest.raises(UserError, match=r"^photo\.png: there is no such file$"), under("video"):
        raise UserError("photo.png: there is no such file")
    with under("video"):
        choice("reader", "av", ("av",))


# ------------------------------------------------------------------------------------------------------------ sentences

GROUPS = {"backbone", "data", "experiment", "generator", "layers", "logger", "loss", "method", "metrics", "task"}
GROUPS |= {"optimization", "trainer", "video", "weights"}
KEYS = {str(key) for key in OmegaConf.load(ROOT / "conf" / "config.yaml")} - {"defaults"}
# `max_input_megapixels` is also what the functions that read pictures call it.
OWN_ARGUMENTS = {"max_input_megapixels"}
WEIGHTS = Path("core/losses/loss_set.py")  # of whose argument `weights` the entries are told as `weights.beta`
SPELLED = re.compile(
    rf"\b(?:{'|'.join(sorted(GROUPS))})\.[a-z_*]"
    rf"|(?<!-)\b(?:{'|'.join(sorted(GROUPS | KEYS - OWN_ARGUMENTS))})="  # not `frame-threads=`, an option of x265
    rf"|\b(?:{'|'.join(sorted(key for key in KEYS - OWN_ARGUMENTS if '_' in key))})\b"
)


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is no docstring; of a formatted one with {} for its values."""
    tree = ast.parse(source)
    documented = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    skipped = {id(node.body[0].value) for node in documented if node.body and isinstance(node.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            skipped |= {id(part) for part in node.values}
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


@pytest.mark.parametrize(
    "text",
    ["loss.gram.form={} is unknown", "choose method=cin", "set image_px smaller", "output={}: full", "in layers.*: x"],
)
def test_keys_of_a_configuration_are_recognized(text):
    assert SPELLED.search(text)


@pytest.mark.parametrize("text", ["form={} is unknown", "the style is {}", "generator.", "choose another method"])
def test_plain_sentences_are_none(text):
    assert not SPELLED.search(text)


def test_strings_are_found_and_docstrings_are_not():
    source = '"""a"""\ndef f(x):\n    """b"""\n    return f"c={x}: d", "e"\n'
    assert list(texts(source)) == [(4, "c={}: d"), (4, "e")]


def test_neither_core_nor_media_spells_a_key_of_a_configuration():
    package = ROOT / "nstexp"
    files = [file for folder in ("core", "media") for file in sorted((package / folder).rglob("*.py"))]
    assert len(files) > 45
    spelled, strings = [], 0
    for file in files:
        name = file.relative_to(package)
        for line, text in texts(file.read_text(encoding="utf-8")):
            strings += 1
            own = re.sub(r"\bweights\.", "", text) if name == WEIGHTS else text
            spelled += [f"{name}:{line}: {text}"] if SPELLED.search(own) else []
    assert strings > 900
    assert not spelled, "\n".join(spelled)
