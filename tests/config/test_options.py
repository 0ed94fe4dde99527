"""Hydra's options may stand anywhere, and a wrong one is a sentence."""

import subprocess
import sys

import pytest

from nstexp.config.options import check, in_front
from nstexp.core.errors import UserError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a=1 b=2", "a=1 b=2"),
        ("a=1 -m b=1,2", "-m a=1 b=1,2"),
        ("a=1 b=1,2 -m", "-m a=1 b=1,2"),
        ("-m a=1,2", "-m a=1,2"),
        ("a=1 --config-dir mine b=2 --multirun", "--config-dir mine --multirun a=1 b=2"),
        ("--cfg job a=1 --resolve", "--cfg job --resolve a=1"),
        ("a=1 a=1 -m ~b", "-m a=1 a=1 ~b"),
        ("", ""),
    ],
)
def test_options_come_to_the_front_and_the_rest_keeps_its_order(words, expected):
    assert in_front(words.split()) == expected.split()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--multirn a=1", "--multirn: there is no such option; did you mean --multirun"),
        ("-x", r"-x: there is no such option .--help"),
        ("--cfg jobb", "argument --cfg/-c: invalid choice: 'jobb'"),
        ("a=1 --config-dir", "argument --config-dir/-cd: expected one argument"),
    ],
)
def test_a_wrong_option_is_one_sentence_without_the_usage(words, sentence, capsys):
    with pytest.raises(UserError, match=sentence):
        in_front(words.split())
    assert capsys.readouterr() == ("", "")


def test_functions_and_tables_are_read_under_python_O_too():
    read = (
        "from nstexp.config.composing import install; install()\n"
        "from hydra.core.override_parser.overrides_parser import OverridesParser\n"
        "parse = OverridesParser.create().parse_override\n"
        "print(list(parse('seed=range(1,4)').sweep_iterator()), parse('my={a:1,b:2}').value())"
    )
    done = subprocess.run([sys.executable, "-O", "-c", read], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[1, 2, 3] {'a': 1, 'b': 2}"


@pytest.mark.parametrize("word", ["--cgf", "--multirn=3", "--nonsense"])
def test_an_option_that_nobody_has_is_refused_by_itself(word):
    with pytest.raises(UserError, match=f"{word.partition('=')[0]}: there is no such option"):
        check(word)


@pytest.mark.parametrize("word", ["--cfg", "--config-dir=x", "-m", "--multi", "a=1"])
def test_options_and_their_beginnings_are_not_refused(word):
    check(word)
