"""Help in the terminal: one screen for everything, from the comments in conf/, before torch and Hydra are imported."""

import re
import subprocess
import sys

import pytest
from helpers import ROOT

from nstexp import help as help_
from nstexp.config.reference import reference
from nstexp.core.errors import UserError
from nstexp.help import LINES, TOPICS, WIDTH, answered, keys_of, overview, screen, topics

NAMES = [topic.name for topic in TOPICS]


def assert_fits(text: str) -> None:
    lines = text.splitlines()
    assert 5 < len(lines) <= LINES
    assert [line for line in lines if len(line) > WIDTH] == []


def test_the_first_screen_says_what_there_is():
    text = overview()
    assert_fits(text)
    assert "$" not in text, "Hydra puts values in the place of words that begin with it"
    listed = re.search(r"help TOPIC\n(.*?)\n  Help|help TOPIC\n(.*?)\nHelp", text, re.S)
    assert re.findall(r"\w+", listed[1] or listed[2]) == NAMES
    assert len(re.findall(r"^  python -m nstexp", text, re.M)) == 6
    roots = {name for row in re.findall(r"^  ([a-z][a-z_., ]*?)(?:=\S+)? {2,}", text, re.M) for name in row.split(", ")}
    assert {"content", "style", "output", "image_px", "method", "task"} <= roots
    known = reference()
    assert [name for name in roots if name not in known.groups and not known.having(name)] == []


@pytest.mark.parametrize("topic", TOPICS, ids=NAMES)
def test_a_topic_is_one_screen_with_its_options_and_keys(topic):
    text, known = screen(topic.name), reference()
    assert_fits(text)
    assert text.startswith(f"{topic.name}: ")
    for group in topic.groups:
        for option in known.in_group(group):
            assert re.search(rf"\b{option.name}\b", text), option.name
    listed = [key.path for key in keys_of(topic, known)]
    for wanted in topic.keys:
        assert [path for path in listed if path == wanted or path.startswith(wanted)], wanted
    assert all(f"\n  {path}=" in text for path in listed)


def test_the_list_of_topics_is_one_screen():
    assert_fits(topics())
    assert re.findall(r"^  (\w+) ", topics(), re.M) == NAMES


def test_every_group_and_every_key_of_all_commands_is_in_a_topic():
    known = reference()
    of_topics = {group for topic in TOPICS for group in topic.groups}
    assert [group for group in known.groups if group not in of_topics and not group.startswith("hydra/")] == []
    assert "hydra/launcher" in of_topics
    explained = {key.path for topic in TOPICS for key in keys_of(topic, known)}
    assert [key.path for key in known.root.keys if not key.is_table and key.path not in explained] == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("loss", r"\Alosses: "),
        ("metrics", r"\Ameasures: "),
        ("sweep", r"\Asweeps: "),
        ("hydra/launcher", r"\Asweeps: "),
        ("weights", r"\n  weights\.alpha=1 "),
        ("weights", r"\n  weights\.laplacian=100 "),
        ("method.max_steps", r"\Amethod\.max_steps\n[\s\S]*default: 200 with method=gatys"),
        (
            "method.max_steps",
            r"default: 160000 with method=adain; 4000 with method=cin; 40000 with method=swift; 4000 with\s+method=tex",
        ),
        ("method.max_steps=500", r"\Amethod\.max_steps\n"),
        ("++weights.beta", r"\Aweights\.beta\n[\s\S]*1000 with weights=default"),
        ("max_steps", r"\Amethod\.max_steps\n"),
        ("image_px", r"\Aimage_px\n  longer side of the result in pixels[\s\S]*\n  default: null$"),
        ("content", r"\Acontent\n  the photos to redraw"),
        ("method.optimizers.sgd", r"method\.optimizers\.sgd\.max_change\n"),
        ("method=gatys", r"\n  method\.levels=3  coarse-to-fine levels"),
        ("loss=tv", r"\Aloss=\[\.\.\.,tv\]: Total variation[\s\S]*python -m nstexp weights.tv=0.01"),
        ("risser2017", r"\Aexperiment=risser2017: "),
        ("experiment=two_styles", r"idea 2"),
    ],
)
def test_keys_options_and_other_names_of_topics_are_explained(word, expected):
    text = screen(word)
    assert re.search(expected, text), text
    assert max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("lossess", r"help lossess: there is no such topic, key or option; did you mean losses or .*\?"),
        ("method.max_stepz", r".* did you mean method\.max_steps or .*\?"),
        ("loss=gramm", r"help loss=gramm: .* did you mean loss=gram or .*\?"),
        ("zzzz", r"help zzzz: there is no such topic, key or option; the topics are pictures, .*, experiments"),
    ],
)
def test_an_unknown_word_is_one_sentence_with_the_nearest(capsys, word, sentence):
    with pytest.raises(UserError, match=f"^{sentence}$"):
        screen(word)
    with pytest.raises(SystemExit) as end:
        answered(["help", word])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(f"{sentence}\n", err)


@pytest.mark.parametrize(
    ("words", "is_help"),
    [
        (["help"], True),
        (["help", "losses", "weights.beta"], True),
        (["--help"], True),
        (["method=adain", "-h"], True),
        (["-m", "weights.beta=1,2", "--help"], True),
        (["samples", "--help"], False),
        (["studio", "--help"], False),
        ([], False),
        (["content=help"], False),
        (["photo.jpg", "painting.jpg"], False),
        (["--hydra-help"], False),
    ],
)
def test_only_a_question_is_answered(capsys, words, is_help):
    assert answered(words) == is_help
    assert bool(capsys.readouterr().out) == is_help


@pytest.mark.parametrize("word", ["losses", "method.max_steps", "method=gatys"])
def test_no_answer_waits_for_torch_or_hydra(word):
    code = (
        "import sys, nstexp.__main__ as main; sys.argv[1:] = ['help', '{}']; sys.exit = lambda code: None; main.main()"
    )
    code = f"{code.format(word)}; print({{'torch', 'hydra', 'omegaconf'}} & {{*sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.rstrip(), done.stderr) == (screen(word), "set()\n")


def test_the_text_of_hydra_is_the_same(nstexp):
    """An abbreviation of --help is Hydra's to answer."""
    assert help_.answered(["--hel"]) is False
    result = nstexp.bare("--hel")
    assert (result.code, result.out.strip()) == (0, overview().strip())
