"""Names of files on the command line arrive as they were typed, whatever Hydra's grammar would make of them."""

import random
import shlex
from pathlib import Path

import hydra
import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from nstexp.config.keys import CONF
from nstexp.config.quoting import INPUTS, PLACES, in_quotes, quoted, read
from nstexp.core.errors import UserError

NAMES = [
    "photo (1).jpg", "Zürich.jpg", "写真.jpg", "it's.jpg", "#1.jpg", "a[1].jpg", "IMG&2.jpg", "2024_05", "1e3", "1_000",
    "a=b.jpg", "~/x.jpg", "$5.jpg", "50%.jpg", "a:b.jpg", "{x}.jpg", '"quoted".jpg', "'q'.jpg", "back\\slash.jpg",
    "true", "True", "None", "nan", "inf", ".5", "-1", "0x10", "1:30", "-x.jpg", "@x", "a\nb.jpg", "a\tb",
    "\x1b[31m.jpg", "\x1b]0;title\x07.jpg", "😀.jpg", "e\u0301.jpg", "é.jpg", r"C:\Users\x y\p.jpg", "C:\\x\\", "a b",
    "null.jpg", "nullable", "caf\udce9.jpg", "a${b.jpg", "${}.jpg", "$(x).jpg", "a`b`.jpg", "choice(1).jpg",
    "sort(a).png", "[x].jpg", "x]", "[", "(", "a;b", "a|b", "a*b?", "a!b", "+x", "~x", "a\\'b", 'a\\"b', "\\", '"', "'",
    "a\\${", "=", "a==b",
    "http://host/x.jpg?a=1&b=2", "shards/coco-{000000..000117}.tar", "20_24/0.10", "1.", "0", "00012", "1e-3.jpg",
]  # fmt: skip
NASTY = "ab1 0e_.\\\"'${}()[]:=-+~@#&%*?|;<>!`^\n\t\x1bé写\u0301😀\udcff/"


def made_up(number: int, more: str = "") -> list[str]:
    """Names of nasty characters, the same ones every time, without those that mean something: see the tests below."""
    draw = random.Random(number)
    names = ["".join(draw.choice(NASTY + more) for _ in range(draw.randint(1, 10))) for _ in range(number)]
    meant = [name for name in names if name == name.strip() and name.lower() != "null"]
    return [name for name in meant if name[0] not in "'\"[" and not any(f"${{{c}" in name for c in "abe_.é写")]


def values(*words: str, sweep: bool = False) -> list[object]:
    """What a job gets of the last key of the words; several jobs in a sweep."""
    parser = OverridesParser.create()
    overrides = parser.parse_overrides(quoted(words, sweep)[0])
    if sweep:
        jobs = BasicSweeper.split_arguments(overrides, None)[0]
        overrides = parser.parse_overrides([job[-1] for job in jobs])
    given = [OmegaConf.create({"value": override.value()}) for override in overrides]
    return [OmegaConf.to_container(each, resolve=True)["value"] for each in given]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", ["content=", "+style=", "++masks=", "output=", "data.val_style=", "method.init="])
def test_a_name_arrives_as_it_was_typed(prefix, name):
    assert values(prefix + name) == [name]


def test_made_up_names_arrive_as_they_were_typed():
    for name in made_up(1500, more=","):
        assert values(f"output={name}", f"content={name}") == [name, name], name


@pytest.mark.parametrize("name", ["run (1)", "2024", "a=b", "x,y", "写真"])
@pytest.mark.parametrize("key", ["run_dir", "hydra.run.dir", "hydra.sweep.dir"])
def test_folders_for_runs_have_any_name(key, name):
    assert values(f"{key}={name}") == [name]
    assert values(f"{key}=~/{name}") == [str(Path.home() / name)]


@pytest.mark.parametrize("key", ["run_dir", "output", "hydra.sweep.dir"])
def test_a_list_is_no_place(key):
    with pytest.raises(UserError) as refused:
        quoted([f"{key}=[a,b]"])
    (form,) = [word for word in shlex.split(str(refused.value)) if word.startswith(f"{key}=")]
    assert values(form) == ["[a,b]"]
    assert values(f"{key}=[a]") == ["[a]"]


def test_a_plain_word_stays_as_it_is():
    words = ["content=photo.jpg", "style=met:436535", "output=out/a-1.png", "weights.beta=1e3", "loss=[a,b]", "seed=1"]
    assert quoted(words)[0] == words


def test_null_and_nothing_keep_their_meaning():
    assert values("content=null") == values("output=NULL") == values("masks=null") == [None]
    assert quoted(["content=", "output="])[0] == ["content=", "output="]


@pytest.mark.parametrize("name", ["a.jpg", "a b,c.jpg", "it's (1).jpg", "null", "1e3"])
def test_what_is_quoted_for_hydra_stays_quoted(name):
    assert values(f"content={in_quotes(name)}", f"output={in_quotes(name)}") == [name, name]
    assert values(f"content='{name}'" if "'" not in name else f'content="{name}"') == [name]


def test_quoting_twice_changes_nothing():
    """Lightning starts the command once more for every process."""
    for name in [*NAMES, *made_up(300)]:
        once = quoted([f"content={name}", f"output={name}"])[0]
        assert quoted(once)[0] == once


def test_lists_hold_such_names():
    names = [name for name in [*NAMES, *made_up(400)] if not name.startswith(("[", '"', "'"))]
    assert values(f"content=[{','.join(names)}]") == [names]
    assert values("content=[photo (1).jpg, b.jpg ]") == [["photo (1).jpg", "b.jpg"]]
    assert values('style=["a,b.jpg",c.jpg]', "style=[]") == [["a,b.jpg", "c.jpg"], []]
    assert values("content=[[a (1).jpg,b],c]") == [[["a (1).jpg", "b"], "c"]]


def test_sweeps_hold_such_names():
    names = [name for name in [*NAMES, *made_up(400)] if not name.startswith(("[", '"', "'"))]
    assert values(f"content={','.join(names)}", sweep=True) == names
    assert values(f"style=choice({','.join(names)})", sweep=True) == names
    assert values("content=[a (1).jpg,b],[c]", sweep=True) == [["a (1).jpg", "b"], ["c"]]
    assert values('content="a,b.jpg",c (1).jpg,null', sweep=True) == ["a,b.jpg", "c (1).jpg", None]
    assert values("content=range(2020,2023)", sweep=True) == [2020, 2021, 2022]


def test_interpolations_are_resolved_and_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setenv("PLACE", "somewhere (x)")
    assert values("content=${oc.env:PLACE}/photo (1).jpg") == ["somewhere (x)/photo (1).jpg"]
    assert values("output=C:\\${oc.env:PLACE}\\a b") == ["C:\\somewhere (x)\\a b"]
    assert values("content=[${oc.env:PLACE}/#1.jpg,${oc.env:NOT_SET,'a,b'}]") == [["somewhere (x)/#1.jpg", "a,b"]]
    assert values("content=${oc.env:PLACE}/a b,${oc.env:NOT_SET,c}", sweep=True) == ["somewhere (x)/a b", "c"]
    assert read("content", "${oc.env:PLACE}/x").names is None
    monkeypatch.chdir(tmp_path)
    Path("${oc.env:PLACE}.jpg").touch()
    assert values("content=${oc.env:PLACE}.jpg") == ["${oc.env:PLACE}.jpg"]


def test_a_file_with_such_a_name_is_meant_where_nothing_else_can_be(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = ["a,b.jpg", "[x]", "choice(c)", '"q"', " spaces "]
    for name in names:
        Path(name).touch()
    assert values(*(f"content={name}" for name in names)) == names
    assert values("content=a,b.jpg", sweep=True) == ["a,b.jpg"]
    assert values("content=[c.jpg,a,b.jpg]") == [["c.jpg", "a,b.jpg"]]
    Path("plain.jpg").touch()
    assert values("content= plain.jpg", "content = plain.jpg") == ["plain.jpg", "plain.jpg"]
    Path("white space.jpg").touch()
    assert values("content=white\\ space.jpg") == ["white space.jpg"]


@pytest.mark.parametrize(
    ("value", "sweep", "files", "meanings"),
    [
        ("a,b.jpg", True, ["a,b.jpg", "a", "b.jpg"], {"a,b.jpg", ("a", "b.jpg")}),
        ("[x]", False, ["[x]", "x"], {"[x]", ("x",)}),
        ('"q"', False, ['"q"', "q"], {'"q"', "q"}),
        ("a.jpg,b.jpg", False, ["a.jpg", "b.jpg"], {("a.jpg", "b.jpg")}),
    ],
)
def test_where_two_things_can_be_meant_the_sentence_has_both_to_type(
    value, sweep, files, meanings, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    for file in files:
        Path(file).touch()
    with pytest.raises(UserError) as refused:
        quoted([f"content={value}"], sweep)
    forms = [word for word in shlex.split(str(refused.value).partition("write ")[2]) if word.startswith("content=")]
    found = [values(form, sweep=sweep) for form in forms]
    found = [each[0] if len(each) == 1 else each for each in found]
    assert {tuple(each) if isinstance(each, list) else each for each in found} == meanings


def test_glob_in_a_sweep_is_one_run_for_each_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("b (1).jpg", "a.jpg", "c.png"):
        Path(name).touch()
    assert values("content=glob(*.jpg)", sweep=True) == ["a.jpg", "b (1).jpg"]


def composed(*words: str) -> DictConfig:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra.compose("config", overrides=quoted(words)[0])


def test_a_whole_configuration_holds_them():
    names = [name for name in NAMES if not name.startswith(("[", '"', "'"))]
    cfg = composed(f"content=[{','.join(names)}]", "style=1e3", "output=a=b (1).png", "masks=true")
    assert OmegaConf.to_container(cfg.content, resolve=True) == names
    assert (cfg.style, cfg.output, cfg.masks) == ("1e3", "a=b (1).png", "true")


def paths_in(config: dict, place: str = "") -> list[str]:
    """The keys of values that can only be files or folders."""
    found = []
    for key, value in config.items():
        here = f"{place}.{key}" if place else key
        if isinstance(value, dict):
            found += paths_in(value, here)
        elif key in ("path", "means", "model", "decoder", "resume_from", "add_style", "output", "run_dir", "cache_dir"):
            found.append(here)
        elif key in ("content", "style", "val_content", "val_style", "masks", "fine_style", "file_lists"):
            found += [here] if not place.startswith("layers") else []
    return [key for key in found if not key.startswith(("task.", "generator."))]


@pytest.mark.parametrize(
    "words",
    [
        [
            "backbone=vgg_file",
            "backbone.weights.path=x",
            "backbone@metrics.encoder=vgg_file",
            "metrics.encoder.weights.path=x",
        ],
        ["method=adain", "task=train", "data=shards"],
        ["method=cin", "task=train"],
        ["method=texture_net", "metrics=[default,fid]", "backbone=vgg19_normalized"],
    ],
)
def test_no_key_that_takes_a_file_is_forgotten(words):
    found = paths_in(OmegaConf.to_container(composed(*words)))
    assert len(found) >= 8
    assert [key for key in found if not (INPUTS.fullmatch(key) or PLACES.fullmatch(key))] == []


def test_a_file_whose_name_begins_with_a_tilde_is_no_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~mine.jpg").touch()
    _, names = quoted(["content=~mine.jpg"], sweep=False)
    assert names["content"] == [str(tmp_path / "~mine.jpg")]
