"""Keys that nothing reads are refused, with the key that was meant; tables of the user's own are free."""

import re

import pytest
from composed import compose, text_of
from omegaconf import OmegaConf

from nstexp.config import keys
from nstexp.config.keys import check, check_words, known, no_such_key
from nstexp.config.trust import trusting
from nstexp.core.errors import UserError

MISSPELT = {
    "image_pxx=3": "image_pxx: there is no such key; did you mean image_px?",
    "++image_pxx=3": "image_pxx: there is no such key; did you mean image_px?",
    "+style_weigths=[1]": "style_weigths: there is no such key; did you mean style_weights?",
    "weights.betta=3": "weights.betta: there is no such key; did you mean weights.beta?",
    "metod=gatys": "metod: there is no such key; did you mean method?",
    "beta=3": "beta: there is no such key; did you mean weights.beta?",
    "max_steps=7": "max_steps: there is no such key; did you mean method.max_steps?",
    "methd.max_steps=7": "methd.max_steps: there is no such key; did you mean method.max_steps?",
    "+methd.x=3": "methd.x: there is no such key; did you mean method?",
    "metrics.nmes=[a]": "metrics.nmes: there is no such key; did you mean metrics.names?",
    "vide.fps=3": "vide.fps: there is no such key; did you mean lapse.fps or video.fps?",
    "+method.optimizers.lbfgs.histroy=5": "did you mean method.optimizers.lbfgs.history_size?",
    "+trainer.acelerator=cpu": "trainer.acelerator: there is no such key; did you mean trainer.accelerator?",
    "+trainer.gradient_clip=1": "did you mean trainer.gradient_clip_val?",
    "+task.foo=1": "task.foo: there is no such key",
    "+generator.widht=2": "generator.widht: there is no such key; did you mean generator.width?",
    "+foo=1": r"foo: there is no such key .* a new table, such as \+my.foo=",
    "~content": "~content: content can be given another value, but cannot be left out",
    "~contnet": "contnet: there is no such key; did you mean content?",
    "~metrics.names": "metrics.names can be given another value",
    "method=gatyss": "'method/gatyss': method=... takes adain, .*; did you mean gatys?",
    "loss=[content,gramm]": "'loss/gramm': loss=... takes ccpl, chroma, content, .*; did you mean gram?",
    "experiment=smoke_gaty": "Could not find 'experiment/smoke_gaty'; did you mean smoke_gatys",
    "method=gatys,adian": "'method/adian': method=... takes adain, .*; did you mean adain?",
    "loss=[content,gram],[content,gramm]": "'loss/gramm': loss=... takes ccpl, chroma, content, .*; did you mean gram?",
    "method=": "method=: give an option of this group: adain, cin",
    "weights=5": "weights=5: give an option of this group: adain2017",
}
FINE = (
    "image_px=3", "++image_px=3", "+my.sigma=3", "+my={sigma: 3}", "+my.deep.table.key=[1]", "~loss.gram",
    "weights.tv=3", "+trainer.max_time=00:01:00", "+method.optimizers.lbfgs.max_evals=3", "method=adain",
    "loss=[content,gram]", "backbone@metrics.encoder=vgg19", "hydra.sweep.dir=x", "+hydra.job.env_set.A=b",
    "method.alpha=1", "video.fps=3",
    "+logger.wandb.logger.entity=me", "photo.jpg", "content=image_pxx=3", "weights.histogram=3", "data.content=x",
    "+video.codec_options.preset=slow", "experiment=[demo,inits]", "method=[gatys,adain]", "+weights.mine=3",
)  # fmt: skip


@pytest.mark.parametrize("word", MISSPELT)
def test_a_key_or_option_that_nothing_has_is_refused_before_anything_is_composed(word):
    with pytest.raises(UserError, match=MISSPELT[word]):
        check_words(["image_px=64", word])


@pytest.mark.parametrize("word", FINE)
def test_what_may_be_meant_is_left_to_the_configuration(word):
    check_words([word])


def test_no_command_of_the_documentation_is_refused():
    commands = re.findall(r"python -m nstexp ([^`\n#]*)", text_of(keys.CONF))
    assert len(commands) > 150
    for command in commands:
        if "experiment=NAME" not in command and not command.startswith("-sc "):  # which a shell reads
            check_words(command.replace("'", "").split())


def test_values_that_something_refers_to_may_stand_at_the_top():
    check_words(["+sigma=3", "weights.beta=${sigma}"])
    with pytest.raises(UserError, match=r"^sigma: there is no such key"):
        check_words(["+sigma=3", "weights.beta=3"])


@pytest.mark.parametrize("more", ["--config-dir", "hydra.searchpath=[file:///x]", "loss.gram._target_=my.Gram"])
def test_with_files_of_ones_own_nothing_is_judged_by_the_known_ones(more):
    check_words([more, "x", "method.optimizers.mine.lr=3"])


# --------------------------------------------------------------------------------------------- of a whole configuration


def plain(*overrides: str) -> dict:
    cfg = compose(*overrides)
    return {key: value for key, value in OmegaConf.to_container(cfg).items() if key != "hydra"}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("+weights.betta=3", "weights.betta: there is no such key; did you mean weights.beta?"),
        ("+weights.foo=3", "weights.foo multiplies nothing: the terms are content, gram, tv, range"),
        (
            "+weights.histogram=3",
            r"weights.histogram comes with loss=\[...,histogram\], which this configuration does not have",
        ),
        (
            "+method.alpha=1",
            "method.alpha comes with method=adain or method=swift, which this configuration",
        ),
        ("+loss.gram.from=gatys", "loss.gram.from: there is no such key; did you mean loss.gram.form?"),
        ("+layers.styl=[relu1_1]", "layers.styl: there is no such key; did you mean layers.style?"),
        ("+metrics.longer_side=3", "metrics.longer_side: there is no such key; did you mean metrics.longer_side_px?"),
        ("+method.optimizers.lbfgs.histroy=5", "did you mean method.optimizers.lbfgs.history_size?"),
        ("+backbone.weights.sede=1", "backbone.weights.sede: there is no such key"),
        ("+trainer.acelerator=cpu", "did you mean trainer.accelerator?"),
        ("+task.foo=1", "task.foo: there is no such key"),
        ("+metrics.ssim.a=1", "metrics.ssim.a: there is no such key"),
        ("method=texture_net +generator.widht=2", "did you mean generator.width?"),
        ("method=adain task=train +data.batchsize=2", "did you mean data.batch_size?"),
        ("task=video +video.fpss=2", "did you mean video.fps?"),
        ("+methd={init: noise}", "methd: there is no such key; did you mean method?"),
        ("+gram={form: gatys}", "gram: there is no such key; did you mean loss.gram"),
        ("++image_pxx=3", "image_pxx: there is no such key; did you mean image_px?"),
        ("~content", "content has been left out: it can be given another value, but must be there"),
        ("~trainer", "trainer has been left out"),
        ("~metrics.encoder", "metrics.encoder has been left out"),
        (
            "+experiment={image_px: 3}",
            "experiment.image_px: nothing reads this key; .* must begin with the line `# @package",
        ),
        ("++task.methods=[gatys,adain]", r"method=\[gatys,adain\]: only task=evaluate takes several methods"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(overrides, sentence):
    config = plain(*([overrides] if "{" in overrides else overrides.split()))
    with pytest.raises(UserError, match=sentence):
        check(config)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("method", "method=3: this is a table of settings: .* `defaults: .override /method: ....`"),
        ("weights", "weights=3: this is a table of settings: set its keys"),
        ("metrics", "metrics=3: this is a table of settings: set its keys"),
        ("metrics.ssim", "metrics.ssim=3: this is a table of settings$"),
        ("loss.content", "loss.content=3: this is a table of settings: set its keys, such as loss.content.layers="),
        ("method.optimizers.lbfgs", "method.optimizers.lbfgs=3: this is a table of settings"),
    ],
)
def test_a_value_in_the_place_of_a_table_is_refused(path, sentence):
    config = OmegaConf.create(plain())
    OmegaConf.update(config, path, 3, merge=False)
    with pytest.raises(UserError, match=sentence):
        check(OmegaConf.to_container(config))


@pytest.mark.parametrize(
    "overrides",
    [
        ["+my.sigma=3", "weights.beta=${my.sigma}"],
        ["+my={anything: [1, {goes: here}]}"],
        ["+sigma=3", "weights.beta=${sigma}"],
        ["+layers.deep=[relu4_1]", "loss.gram.layers=${layers.deep}"],
        ["+loss.mine={_target_: mine.Term, whatever: 1}", "+weights.mine=3"],
        ["+method.optimizers.mine={_partial_: true, _target_: mine.Optimizer, lr: 3}"],
        ["+logger.wandb.logger.entity=me", "+trainer.max_time=00:01:00"],
        ["~loss.gram", "~logger"],
        ["method=adain", "task=train"],
        ["task=video", "video.codec_options={preset: slow}"],
        ["task=evaluate", "++task.methods=[gatys,adain]"],
    ],
)
def test_what_something_reads_is_fine_and_so_is_a_table_of_ones_own(overrides):
    with trusting(["mine"]):
        check(plain(*overrides))


def test_the_known_keys_are_those_of_the_files():
    paths = set(known().paths())
    assert {"content", "weights.beta", "metrics.encoder.pool", "method.schedules.cosine.warmup", "video.fps"} <= paths
    assert known().owners["weights.histogram"] == ["loss=[...,histogram]"]
    assert "experiment" not in paths and not any(path.startswith("hydra") for path in paths)


def test_only_what_is_meant_is_suggested():
    assert str(no_such_key("quite_something_else")).startswith("quite_something_else: there is no such key (`python")
    assert keys.nearest("adin", ["adain", "cin"]) == "; did you mean adain?"
    assert keys.nearest("zzz", ["adain", "cin"]) == ""
