"""Every value in conf/ has a range: what is no number, choice, flag or list where one is wanted is one sentence with
the key. The keys are read from the files, so that a new one without a check fails here."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from composed import compose, resolve
from omegaconf import OmegaConf

from nstexp.config.build import build, prepared
from nstexp.config.early import check_objects, checked
from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet

TERMS = "ccpl,content,gram,cov,histogram,identity,laplacian,moments,palette,range,swd,temporal,tv"
# Configurations, and of each the tables whose values are tried.
TRIED = {
    (f"loss=[{TERMS}]",): ("loss", "weights", "layers", "method", "trainer"),
    ("method=adain", "task=train"): ("method", "data"),
    ("method=adain", "task=train", "data=shards"): ("data",),
    ("method=cin", "task=train"): ("method", "generator"),
    ("method=texture_net", "generator=pyramid"): ("method", "generator"),
    ("trainer=ddp", "metrics=[default]"): ("trainer", "metrics", "backbone"),
    ("task=video", "content=x"): ("video",),
}
# Texts that are names, of files or of what a run can hold; any text will do.
NAMES = {
    "content", "style", "style_weights", "style_layers", "fine_style", "masks", "output", "run_dir", "objective",
    "protect", "timelapse",
    "style_masks", "init", "decoder", "model", "style_names", "add_style", "resume_from", "codec", "cache_dir",
    "file_lists", "names",
    "layers", "val_content", "val_style", "fine_layers", "layer",
}  # fmt: skip
# Checked where they are used, by what is there: files, names of styles, the pictures of a run.
LATER = {
    "style_weights", "style_layers", "add_style", "style_names", "resume_from", "data.content", "data.style",
    "data.val_content", "data.val_style", "trainer.strategy.broadcast_buffers",
    "trainer.strategy.gradient_as_bucket_view",
}  # fmt: skip
ALSO_TAKES = {
    "content": [[]],  # refused where the files are looked for
    "style": [[]],
    "trainer.max_epochs": [None, -1],
    "trainer.devices": [[1, 2, 3], -1],
    "trainer.accelerator": [{"a": 1}],  # an object
    "metrics.longer_side_px": [None],
    "metrics.names": [[]],  # none at all
    "method.style_px": [None],
    "method.noise": [True],
    "method.optimizers.sgd.max_change": [None],
    "method.optimizers.sgd.max_rise": [None],
    "method.coarse_steps": [[1, 2, 3]],  # refused, but by the number of levels
    "generator.weight_std": [None],
    "video.codec_options": [{"a": 1}],
}
SMALL = ("backbone=random", "backbone@metrics.encoder=random", "logger=none", "measure=true")


def leaves(table: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything in a table, apart from what is told by a `_target_`."""
    for key, value in table.items():
        place = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict):
            yield from leaves(value, place)
        elif key not in ("_target_", "_partial_"):
            yield place, value


@cache
def config(overrides: tuple[str, ...]) -> dict[str, Any]:
    return resolve(compose(*SMALL, *overrides))


def changed(overrides: tuple[str, ...], place: str, value: Any) -> dict[str, Any]:
    """The configuration with another value somewhere; only the table that has it is a copy."""
    root, *inner = place.split(".")
    cfg = {**config(overrides), root: deepcopy(config(overrides)[root])}
    table = cfg
    for key in [root, *inner][:-1]:
        table = table[key]
    table[[root, *inner][-1]] = value
    return cfg


def bad_for(place: str, value: Any) -> list[Any]:
    """What a key with this default does not take."""
    name = place.rpartition(".")[2]
    if isinstance(value, bool):
        bad = ["maybe", 3, None, [], {"a": 1}]
    elif isinstance(value, int | float):
        bad = ["abc", math.nan, True, None, {"a": 1}, -1, [1, 2, 3]]
    elif isinstance(value, list):
        bad = ["abc", 3, True, [], {"a": 1}, [[]]]
    elif isinstance(value, str):
        bad = [True, [], {"a": 1}, *([] if name in NAMES else ["no_such_choice"])]
    else:
        bad = [True, {"a": 1}, *([] if name in NAMES else ["abc", -1, math.nan])]
    return [each for each in bad if each not in ALSO_TAKES.get(place, [])]


def cases() -> Iterator[tuple[tuple[str, ...], str, Any]]:
    seen: set[str] = set()
    for overrides, tables in TRIED.items():
        for place, value in leaves(config(overrides)):
            root = place.partition(".")[0]
            if (
                place not in seen | LATER
                and not place.startswith("method.generator.")
                and (root in tables or "." not in place)
            ):
                seen.add(place)
                yield overrides, place, value


class Encoder:
    """Stands for the network that methods are given: any layer will do."""

    dtype, device = torch.float32, torch.device("cpu")

    def canonical(self, name: str) -> str:
        return name


def make(cfg: dict[str, Any], place: str) -> None:
    """Check a configuration, and build what reads a key."""
    check_early(cfg, place)
    build_part(cfg, place)


def check_early(cfg: dict[str, Any], place: str) -> None:
    """What is checked before anything is built."""
    of_measures = place.startswith("metrics")
    checked({key: value for key, value in cfg.items() if of_measures or key != "metrics"})


def build_part(cfg: dict[str, Any], place: str) -> None:
    """Build what reads a key."""
    root, _, inner = place.partition(".")
    if root in ("loss", "metrics"):
        name = inner.partition(".")[0]
        if inner != name:
            _built({root: {name: {**cfg[root][name], **({"dtype": torch.float32} if name == "encoder" else {})}}})
    elif root == "weights":
        LossSet(_terms(), cfg["weights"])
    elif root in ("method", "generator"):
        _make_method(cfg)
    elif root in ("backbone", "data", "video"):
        _built({root: {**cfg[root], **({"dtype": torch.float32} if root == "backbone" else {})}})


def _built(tables: dict[str, Any]) -> dict[str, Any]:
    config = prepared(OmegaConf.create(tables, flags={"allow_objects": True}))
    return {root: build(config[root]) for root in tables}


@cache
def _terms() -> dict[str, torch.nn.Module]:
    return _built({"loss": config((f"loss=[{TERMS}]",))["loss"]})["loss"]


def _make_method(cfg: dict[str, Any]) -> None:
    table = cfg["method"] if "generator" not in cfg else {**cfg["method"], "generator": cfg["generator"]}
    given = {} if "generator" in cfg else {"encoder": Encoder()}
    part = prepared(OmegaConf.create({"method": table})).method
    settings = build(part, losses=_NoTerms(), trainer=None, **given).settings
    for optimizer in settings.optimizers.values():
        optimizer([torch.nn.Parameter(torch.zeros(3, 3))])
    for schedule in getattr(settings, "schedules", {}).values():
        schedule(3)
    if getattr(settings, "generator", None) is not None:
        settings.generator(norm="instance", styles=1, noise_channels=0)


class _NoTerms:
    def has(self, role: str) -> bool:
        return False


OF_OBJECTS = [
    case
    for case in cases()
    if case[1].partition(".")[0] in ("loss", "weights", "backbone", "generator", "data", "video", "metrics")
    and case[1] not in ("metrics.names", "metrics.longer_side_px")  # of no object
]
# Lists that depend on others, and a number of GB, with sentences of their own.
LEFT_TO_CLASSES = {"layer_weights", "pool_weights", "pool_px", "resize_px", "cache_gb"}


def test_there_are_many_keys():
    places = [place for _, place, _ in cases()]
    assert len(places) > 130 and {"seed", "method.noise_std", "method.optimizers.adam.lr", "video.fps"} <= set(places)


@pytest.mark.parametrize(("overrides", "place", "value"), [pytest.param(*case, id=case[1]) for case in cases()])
def test_a_value_that_its_key_does_not_take_is_one_sentence_with_the_key(overrides, place, value):
    for bad in bad_for(place, value):
        with pytest.raises(UserError) as refused:
            make(changed(overrides, place, bad), place)
            pytest.fail(f"{place}={bad} is taken in silence")
        sentence = str(refused.value)
        assert place.rpartition(".")[2] in sentence and "\n" not in sentence, sentence
        assert "TypeError" not in sentence and "Error in call" not in sentence, sentence


def refusal(check: Callable[..., None], *given: Any) -> str | None:
    """What a check says, if anything."""
    try:
        check(*given)
    except UserError as error:
        return str(error).removeprefix("method.")  # here the generator's settings are put into the method's
    return None


@pytest.mark.parametrize(("overrides", "place", "value"), [pytest.param(*case, id=case[1]) for case in OF_OBJECTS])
def test_what_is_refused_before_torch_is_imported_is_refused_with_the_sentence_of_the_class(overrides, place, value):
    for bad in bad_for(place, value):
        cfg = changed(overrides, place, bad)
        early = refusal(check_objects, cfg, cfg, "") or refusal(check_early, cfg, place)
        assert early in (None, refusal(build_part, cfg, place))


def test_most_wrong_values_are_refused_before_torch_is_imported():
    def is_left(overrides: tuple[str, ...], place: str, value: Any) -> bool:
        tried = (changed(overrides, place, bad) for bad in bad_for(place, value))
        return not any(refusal(check_objects, cfg, cfg, "") or refusal(check_early, cfg, place) for cfg in tried)

    left = {case[1] for case in OF_OBJECTS if is_left(*case)}
    assert {place.rpartition(".")[2] for place in left} == LEFT_TO_CLASSES


@pytest.mark.parametrize("overrides", TRIED)
def test_no_preset_is_refused(overrides):
    assert refusal(check_objects, config(overrides), config(overrides), "") is None


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("image_px", 1_000_000),
        ("image_px", 0),
        ("method.style_scale", 1e9),
        ("method.style_scale", 0),
        ("method.margin_px", 100_000),
        ("method.noise_std", 1e9),
        ("method.lr_decay", 1.5),
        ("method.pyramid_gain", 0),
        ("method.freeze_share", 1.5),
        ("method.levels", 1000),
        ("method.optimizers.lbfgs.history_size", 0),
        ("method.optimizers.adam.lr", 0),
        ("method.optimizers.sgd.lr", math.inf),
        ("loss.tv.pixel_scale", 0),
        ("seed", 2**63),
        ("run_dir", ""),
        ("layers.style", []),
        ("layers.content", []),
        ("trainer.devices", 0),
        ("metrics.longer_side_px", 10**9),
    ],
)
def test_numbers_end_where_nothing_good_comes_of_them(override, value):
    with pytest.raises(UserError, match=override.rpartition(".")[2]):
        make(changed((f"loss=[{TERMS}]",), override, value), override)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["ssmi"], "metrics.names: there is no measure ssmi; did you mean ssim?"),
        (["fid"], r"metrics.names: fid is not among the measures of this run: metrics=\[default,fid\]"),
        ("ssim", r"metrics.names=ssim: give a list of names, such as \[style_gram\]"),
    ],
)
def test_a_misspelt_measure_is_told_the_one_that_was_meant(names, sentence):
    with pytest.raises(UserError, match=sentence):
        make(changed((f"loss=[{TERMS}]",), "metrics.names", names), "metrics.names")
