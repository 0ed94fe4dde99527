"""A configuration that does not compose is told in one line, with the key, the file or the word to change."""

import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nstexp.config.keys import CONF
from nstexp.config.refusals import sentence_of


def refused(*words: str) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(Exception) as error:
        OmegaConf.to_container(compose("config", ["measure=false", *words]), resolve=True)
    sentence = sentence_of(error.value)
    assert sentence is not None and "\n" not in sentence and "Traceback" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("image_pxx=3", "image_pxx: there is no such key; did you mean image_px?"),
        (
            "method.alpha=3",
            "method.alpha comes with method=adain or method=swift, which this configuration",
        ),
        ("method.max_steps.x=3", "method.max_steps.x: method.max_steps is a value and has no keys"),
        ("~nosuch", "nosuch: there is no such key"),
        ("~loss.gram=3", "~loss.gram: it has another value"),
        ("content", "'content' has no value: write key=value"),
        ("=x", "'=...' names no key"),
        ("loss=[content,gram", "loss=[content,gram: a bracket is not closed, a ] is missing"),
        ("content={a:b", "content={a:b: a bracket is not closed, a } is missing"),
        ("content=${style", "content=${style: a bracket is not closed, a } is missing"),
        ("content=a]", "content=a]: ] closes no bracket"),
        ("content='a", "content='a: a quote is not closed, the last ' is missing"),
        ("content=a=b.jpg", "content=a=b.jpg: the value cannot be read"),
        ("seed=foo(1)", "seed=foo(1): there is no function foo, only bool, choice,"),
        ("seed=1,2", "seed=1,2: several values are a sweep, with -m (nstexp -m seed=1,2), or a list, seed=[1,2]"),
        ("seed=choice(1,2)", "seed=choice(1,2): several values are a sweep, with -m"),
        ("hydra.swep.dir=x", "hydra.swep.dir: Hydra has no such key"),
        ("hydra.job.num=abc", "hydra.job.num=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        ("hydra/launcher=jobliib", "Could not find 'hydra/launcher/jobliib': hydra/launcher=... takes basic, joblib,"),
        (
            "method=gatyss",
            "Could not find 'method/gatyss': method=... takes adain, cin, gatys, swift, texture_net",
        ),
        ("experiment=smoke_gaty", "Could not find 'experiment/smoke_gaty'; did you mean smoke_gatys?"),
        ("content=${nosuch}", "content=${nosuch}: there is no key nosuch"),
        ("content=${stile}", "content=${stile}: there is no key stile; did you mean style?"),
        ("content=${oc.env:NO_SUCH_VARIABLE}", "content=${oc.env:NO_SUCH_VARIABLE}: the environment variable NO_SUCH"),
        ("content=${content}", "content=${content} refers to itself"),
        ("content=${nosuch:1}", "content=${nosuch:1}: there is no resolver named nosuch"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_one_sentence(word, sentence):
    assert refused(word).startswith(sentence)


def test_a_circle_of_references_is_told():
    assert refused("content=${style}", "style=${content}").startswith("content=${style} refers to itself")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"seed:\t1\n\tx: 2\n", "line 2: there is a tab, where YAML takes only spaces"),
        (b"method:\n  max_steps: 3\n init: noise\n", "line 4: the indentation does not match the lines above"),
        (b"seed: 1\nseed: 2\n", "line 3: the key seed is defined twice"),
        (b"loss: [content, gram\nseed: 1\n", "the bracket opened in line 2 is not closed"),
        (b"loss: {a: 1\n", "the bracket opened in line 2 is not closed"),
        (b"content: 'a.jpg\nseed: 1\n", "the quote opened in line 2 is not closed"),
        (b"content: a: b\n", "line 2: mapping values are not allowed here"),
        (b"content: *x\n", "line 2: found undefined alias"),
        (b"content: Z\xfcrich\n", "this is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_yaml_is_named_with_its_line(tmp_path, text, sentence):
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_bytes(b"# @package _global_\n" + text)
    said = refused(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    assert said.startswith(str(file)) and sentence in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "defaults:\n  - override /metod: gatys\n",
            "experiment/mine: metod: there is no such group.*did you mean method",
        ),
        ("defaults:\n  - override /method: gatyss\n", "'method/gatyss': method=... takes .*did you mean gatys"),
        ("loss: [content]\n", "experiment/mine: loss is a table of keys, not a list; .*override /loss"),
        ("layers: {style: {a: 1}}\n", "experiment/mine: layers.style is a list, not a table of keys"),
        ("content: ${a\n", "content"),
        ("content: ${nosuch}\n", r"content=\$\{nosuch\}: there is no key nosuch"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, text, sentence):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
    assert re.search(sentence, refused(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"))


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), ValueError("x"), OSError("x"), RuntimeError("x")])
def test_what_is_no_error_of_a_configuration_stays_one_of_the_program(error):
    assert sentence_of(error) is None
