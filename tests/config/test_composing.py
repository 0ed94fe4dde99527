"""What Hydra composes is looked at before Hydra makes anything of it; each case is a whole command."""

import sys
from pathlib import Path

import pytest


def files(text: str, path: str = "my_conf/experiment/theirs.yaml") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(f"# @package _global_\ndefaults: [smoke_gatys]\n{text}")


CASES = {
    "a loss": ("loss: {gram: {_target_: os.system, command: touch pwned}}", "loss.gram._target_"),
    "in a list": ("mine: [{a: [{_target_: os.system}]}]", "mine[0].a[0]._target_"),
    "a callback": ("hydra: {callbacks: {x: {_target_: os.system, command: touch pwned}}}", "callbacks.x._target_"),
    "a callback in other words": (
        "a: \"${oc.decode:'{x: {_target_: os.system}}'}\"\nhydra: {callbacks: '${a}'}",
        "hydra.callbacks.x._target_",
    ),
    "a callback's name": ("a: os.system\nhydra: {callbacks: {x: {_target_: '${a}'}}}", "hydra.callbacks.x._target_"),
    "the log": ("hydra: {job_logging: {handlers: {file: {class: os.system, command: touch pwned}}}}", "file.class"),
    "the log's maker": ("hydra: {hydra_logging: {handlers: {console: {(): torch.hub.load}}}}", "console.()"),
    "the log's module": (
        "hydra: {job_logging: {handlers: {console: {stream: 'ext://my_evil.stream'}}}}",
        "hydra.job_logging.handlers.console.stream",
    ),
    "a launcher": ("hydra: {launcher: {_target_: my_evil.Launcher}}", "hydra.launcher._target_"),
    "a sweeper": ("hydra: {sweeper: {_target_: my_evil.Sweeper}}", "hydra.sweeper._target_"),
    "the environment": ("hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}", "hydra.job.env_set.LD_PRELOAD"),
    "its own trust": ("trust: [os]\nmine: {_target_: os.system, command: touch pwned}", "trust"),
    "a variant's trust": (
        "defaults: [smoke_gatys, override /task: evaluate]\n"
        "task: {methods: {gatys: ['+trust=[os]', '+mine={_target_:os.system}']}}",
        "trust",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "key"), CASES.values(), ids=CASES)
@pytest.mark.slow
def test_a_strangers_file_runs_nothing(folder, nstexp, text, key):
    files(text)
    if text.startswith("defaults"):
        Path("my_conf/experiment/theirs.yaml").write_text(f"# @package _global_\n{text}")
    result = nstexp.bare("--config-dir", "my_conf", "experiment=theirs", "content=photo.png", "style=painting.jpg")
    assert result.code == 2, result.err
    (sentence,) = result.sentences
    assert key in sentence and "trust" in sentence
    assert not Path("pwned").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- 1\n- 2\n", "theirs.yaml: a configuration file must be a table of keys, not a list"),
        ("seed: 3\n", "theirs.yaml: a file of this group must begin with the line `# @package _global_`"),
        ("some words\n", "theirs.yaml: a file of this group must begin with the line `# @package _global_`"),
        ("# @package _global_\nmethod: adain\n", "`defaults: [override /method: ...]`"),
    ],
)
def test_a_file_whose_keys_come_to_nothing_is_named(folder, nstexp, text, sentence):
    files("")
    Path("my_conf/experiment/theirs.yaml").write_text(text)
    result = nstexp.bare("--config-dir", "my_conf", "experiment=theirs", "content=photo.png", "style=painting.jpg")
    assert result.code == 2 and len(result.sentences) == 1
    assert sentence in result.sentences[0]


@pytest.mark.slow
def test_a_byte_order_mark_is_no_part_of_the_first_line(folder, nstexp):
    files("")
    text = "# @package _global_\ndefaults: [smoke_gatys]\nrun_dir: marked\n"
    Path("my_conf/experiment/theirs.yaml").write_text(text, encoding="utf-8-sig")
    words = ("--config-dir", "my_conf", "experiment=theirs", "content=photo.png", "style=painting.jpg")
    assert nstexp.bare(*words).code == 0
    assert Path("marked/output.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("params", ["{trust: '[os]'}", "{+trust: '[os]'}", "{+mine._target_: 'os.system,os.getcwd'}"])
def test_nor_in_a_sweep_of_its_own(folder, nstexp, params):
    files(f"hydra: {{sweeper: {{params: {params}}}}}\nloss: {{gram: {{_target_: os.getcwd}}}}")
    result = nstexp.bare("-m", "--config-dir", "my_conf", "experiment=theirs", "content=photo.png")
    assert result.code == 2, result.err
    assert "'trust=[" in result.err


@pytest.mark.slow
def test_a_file_of_its_own_to_begin_with_has_no_package_imported(folder, nstexp, monkeypatch):
    files("hydra: {searchpath: ['pkg://my_evil']}", "my_conf/theirs.yaml")
    Path("my_evil").mkdir()
    Path("my_evil/__init__.py").write_text("open('pwned', 'w')\n")
    monkeypatch.syspath_prepend(folder)
    result = nstexp.bare("--config-dir", "my_conf", "--config-name", "theirs")
    assert result.code == 2, result.err
    assert "hydra.searchpath=pkg://my_evil is not" in result.err and "'trust=[my_evil]'" in result.err
    assert not Path("pwned").exists()


@pytest.mark.slow
def test_what_is_typed_counts(folder, nstexp):
    result = nstexp("+hydra.job.env_set.MY_SETTING=1", "hydra.job_logging.handlers.console.stream=ext://sys.stdout")
    assert result.code == 0, result.err


@pytest.mark.slow
def test_one_word_is_all_it_takes(folder, nstexp, monkeypatch):
    files("loss: {gram: {_target_: my_terms.Mine}}")
    Path("my_terms.py").write_text("from nstexp.core.losses import GramLoss\nclass Mine(GramLoss): pass\n")
    monkeypatch.syspath_prepend(folder)
    command = ("--config-dir", "my_conf", "experiment=theirs", "content=photo.png", "style=painting.jpg", "image_px=48")
    refused = nstexp.bare(*command)
    assert refused.code == 2 and not list(Path().glob("runs/nstexp/*"))
    assert refused.sentences[0].endswith("add 'trust=[my_terms]' to the command")
    done = nstexp.bare(*command, "trust=[my_terms]", "method.max_steps=1")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("words", "times"), [(["seed=-1"], 1), (["experiment=demo", "seed=-1"], 2), (["hydra.mode=RUN", "seed=-1"], 2)]
)
def test_a_configuration_is_composed_twice_only_where_a_file_can_make_it_a_sweep(words, times, monkeypatch, tmp_path):
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    import nstexp.cli as cli
    from nstexp.config import early

    monkeypatch.chdir(tmp_path)
    composed, impl = [], ConfigLoaderImpl._load_configuration_impl
    monkeypatch.setattr(
        ConfigLoaderImpl, "_load_configuration_impl", lambda *a, **k: composed.append(1) or impl(*a, **k)
    )
    monkeypatch.setattr(early, "words_for_hydra", list)
    monkeypatch.setattr(sys, "argv", ["nstexp", *words])
    with pytest.raises(SystemExit):
        cli.main()
    assert len(composed) == times
