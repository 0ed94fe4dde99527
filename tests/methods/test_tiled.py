"""Losses by tiles against losses of whole pictures, in float64."""

import logging
from dataclasses import replace

import pytest
import torch
from gatys_runs import make_gatys, optimizations, stylized
from pictures import smooth_picture

from nstexp.core import VGG, random_vgg
from nstexp.core.errors import ArgumentError, UserError
from nstexp.core.losses import (
    ContentLoss,
    CovarianceLoss,
    GramLoss,
    HistogramLoss,
    LaplacianLoss,
    LossSet,
    MomentsLoss,
    TotalVariation,
)
from nstexp.core.masks import guides
from nstexp.core.names import IMAGE
from nstexp.methods.base import Style
from nstexp.methods.targets import energy
from nstexp.methods.tiled import TiledLosses
from nstexp.methods.tiling import PAIR_BYTES, Plan, Tiling

LAYERS = ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]
PLANS = [
    Plan(),
    Plan(tile_px=48),
    Plan(("pool2",), 40, last_whole=True),
    Plan(("pool2",), 40),
    Plan(("pool1", "pool3"), 32),
    Plan(("pool1", "pool2"), 64, last_whole=True),
]
TERMS = {
    "gram": GramLoss(LAYERS),
    "keras": GramLoss(LAYERS[:2], form="keras"),
    "moments": MomentsLoss([IMAGE, *LAYERS], unbiased=True),
    "cov": CovarianceLoss(LAYERS[1:3], layer_weights=[0.5, 2]),
    "content": ContentLoss(["relu3_2", "relu1_2"]),
    "half_sum": ContentLoss(["relu2_2"], form="half_sum"),
    "laplacian": LaplacianLoss(),
    "tv": TotalVariation(),
}
WEIGHTS = {
    "alpha": 1.0, "gram": 1e3, "keras": 10.0, "moments": 1.0, "cov": 1e3, "half_sum": 1e-3, "laplacian": 1e-3,
    "tv": 1e-2,
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> VGG:
    return VGG(random_vgg(), pool="avg", dtype=torch.float64)


def picture(height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, height // 4, width // 4, generator=generator, dtype=torch.float64)
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear")


def loss_set(**weights: float) -> LossSet:
    return LossSet(TERMS, {**WEIGHTS, **weights})


def goals_of(losses: LossSet, encoder: VGG, masks: bool = False) -> dict:
    """Goals from whole pictures: the photo, and two styles, each in its half with `masks`."""
    with torch.no_grad():
        content = losses.targets("content", encoder(picture(101, 134, 1), losses.layers("content")))
        goals = {name: [(1.0, target)] for name, target in content.items()}
        for number in (2, 3):
            styles = losses.targets("style", encoder(picture(90, 120, number), losses.layers("style")))
            half = torch.zeros(101, 134)
            half[:, slice(0, 60) if number == 2 else slice(50, 134)] = 1
            of_region = (guides(half, encoder, [*losses.layers("style")]),) if masks else ()
            for name, target in styles.items():
                goals.setdefault(name, []).append((0.3 if number == 2 else 0.7, target, *of_region))
    return goals


def whole(losses: LossSet, encoder: VGG, image: torch.Tensor, goals: dict):
    image = image.clone().requires_grad_()
    values = losses(encoder(image, losses.layers()), goals)
    values.total.backward()
    return values.numbers(), image.grad


def tiled(losses: LossSet, encoder: VGG, image: torch.Tensor, goals: dict, plan: Plan, **options):
    image = image.clone().requires_grad_()
    values = TiledLosses(encoder, losses, plan).values(image, goals, **options)
    values.total.backward()
    return values.numbers(), image.grad


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("masks", [False, True], ids=["everywhere", "regions"])
def test_losses_and_gradient_are_those_of_the_whole_picture(encoder, plan, masks):
    losses, image = loss_set(), picture(101, 134, 0)
    goals = goals_of(losses, encoder, masks)
    (expected, gradient), (found, by_tiles) = (
        whole(losses, encoder, image, goals),
        tiled(losses, encoder, image, goals, plan),
    )
    assert found == pytest.approx(expected, rel=1e-6)  # `numbers` are float32
    torch.testing.assert_close(by_tiles, gradient, rtol=1e-7, atol=1e-9 * float(gradient.abs().max()))
    assert float(gradient.abs().max()) > 0


def test_with_max_pooling_and_values_before_the_relu(encoder):
    other = VGG(random_vgg(), pool="max", pad="reflect", tap="pre", dtype=torch.float64)
    terms = {"gram": GramLoss(["conv1_1", "relu3_1"]), "content": ContentLoss(["conv2_2"])}
    losses, image = LossSet(terms, {"alpha": 1.0, "beta": 1e3}), picture(101, 134, 0)
    goals = goals_of(losses, other)
    expected, gradient = whole(losses, other, image, goals)
    found, by_tiles = tiled(losses, other, image, goals, Plan(("pool2",), 48))
    assert found == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(by_tiles, gradient, rtol=1e-7, atol=1e-9 * float(gradient.abs().max()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precision_stays_within_its_rounding(dtype, tolerance):
    encoder = VGG(random_vgg(), dtype=dtype)
    terms = {"gram": GramLoss(LAYERS), "content": ContentLoss(["relu3_2"])}
    losses, image = LossSet(terms, {"alpha": 1.0, "beta": 1e3}), picture(101, 134, 0).float()
    with torch.no_grad():
        photo, style = (encoder(picture(101, 134, seed).float(), losses.layers()) for seed in (1, 2))
        goals = {**losses.targets("content", photo), **losses.targets("style", style)}
    goals = {name: [(1.0, target)] for name, target in goals.items()}
    expected, gradient = whole(losses, encoder, image, goals)
    found, by_tiles = tiled(losses, encoder, image, goals, Plan(("pool2",), 48, last_whole=True))
    assert found == pytest.approx(expected, rel=tolerance)
    assert float((by_tiles - gradient).norm() / gradient.norm()) < tolerance


def test_a_term_of_weight_0_is_measured_and_has_no_gradient(encoder):
    losses, image = loss_set(gram=0, tv=0), picture(101, 134, 0)
    goals = goals_of(losses, encoder)
    expected, gradient = whole(losses, encoder, image, goals)
    found, by_tiles = tiled(losses, encoder, image, goals, Plan(("pool2",), 48))
    assert found == pytest.approx(expected, rel=1e-6) and found["gram"] > 0
    torch.testing.assert_close(by_tiles, gradient, rtol=1e-7, atol=1e-9 * float(gradient.abs().max()))


def test_frozen_layers_keep_their_sums_and_have_no_gradient(encoder):
    losses, image, other = loss_set(), picture(101, 134, 0), picture(101, 134, 7)
    goals = goals_of(losses, encoder)
    tiles = TiledLosses(encoder, losses, Plan(("pool2",), 48))
    frozen = tiles.sums_of_layer(other, goals, "relu4_1")
    found, by_tiles = tiled(losses, encoder, image, goals, tiles.plan, frozen=frozen)
    feats = encoder(other, ["relu4_1"])
    leaf = image.clone().requires_grad_()
    expected = losses(encoder(leaf, losses.layers()) | {"relu4_1": feats["relu4_1"].detach()}, goals)
    expected.total.backward()
    assert found == pytest.approx(expected.numbers(), rel=1e-6)
    torch.testing.assert_close(by_tiles, leaf.grad, rtol=1e-7, atol=1e-9 * float(leaf.grad.abs().max()))


@pytest.mark.parametrize("masks", [False, True], ids=["everywhere", "part"])
def test_targets_are_those_of_the_whole_picture(encoder, masks):
    losses, reference = loss_set(), picture(101, 134, 4)
    layers = losses.layers("style")
    part = torch.zeros(101, 134)
    part[30:, :70] = 1
    of_part = guides(part, encoder, layers) if masks else None
    tiles = TiledLosses(encoder, losses, Plan(("pool2",), 48))
    found, energies = tiles.targets("style", reference, layers, of_part)
    with torch.no_grad():
        feats = encoder(reference, layers)
        expected = losses.targets("style", feats, of_part)
        seen = feats if of_part is None else {name: feats[name] * of_part[name] for name in layers}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9, check_dtype=False)
    assert energies == pytest.approx({name: energy(seen[name]) for name in layers}, rel=1e-5)
    maps, _ = tiles.targets("content", reference, losses.layers("content"))
    whole_maps = losses.targets("content", encoder(reference, losses.layers("content")))
    torch.testing.assert_close(maps, whole_maps, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------------- the method


def results(**settings) -> list:
    """Picture and final losses of an optimization with two styles, a frozen layer and three levels."""
    styles = [Style(smooth_picture(80, 96, seed=1)[0], 0.4), Style(smooth_picture(96, 64, seed=2)[0], 0.6)]
    terms = {"content": ContentLoss(["relu3_2"]), "gram": GramLoss(LAYERS), "tv": TotalVariation()}
    weights = {"alpha": 1.0, "beta": 1e3, "tv": 1e-3}
    gatys = make_gatys(terms, weights, coarse_steps=4, max_steps=12, freeze_share=1.0, **settings)
    (run,) = optimizations(gatys, smooth_picture(112, 150), styles)
    return [run, run.best_picture(), run.final_losses()]


def test_a_picture_in_tiles_is_the_picture(caplog):
    _, expected, losses = results(tile_px=None)
    with caplog.at_level(logging.INFO):
        run, found, by_tiles = results(tile_px=64)
    assert "are computed in tiles of 64 px" in caplog.text
    assert run._frozen_sums and run._tiles is not None
    assert float((found - expected).abs().max()) < 2e-3  # steps of an optimization add up rounding
    assert by_tiles == pytest.approx(losses, rel=1e-3)


def test_tiles_are_chosen_by_the_memory():
    whole_picture, *_ = results()
    assert whole_picture._tiles is None
    gatys = make_gatys({"content": ContentLoss(["relu3_2"]), "gram": GramLoss(LAYERS)})
    encoder, layers, size = gatys.encoder, gatys.losses.layers(), (3072, 4096)
    plans = list(Tiling._plans(encoder, layers, 1024))
    both = ("pool2", "pool3")
    expected = [(("pool2",), True, 1024), (both, True, 1024), (both, False, 1024), (both, False, 512)]
    assert [(plan.cuts, plan.last_whole, plan.tile_px) for plan in plans] == expected
    needs = [Tiling.needed(encoder, layers, size, plan) for plan in plans]
    assert needs == sorted(needs, reverse=True)
    for plan, need in zip(plans, needs, strict=True):
        free = need + 5.01 * PAIR_BYTES * size[0] * size[1]
        assert Tiling("auto", free).plan(encoder, layers, size) == replace(plan, pairs=5)
    assert Tiling("auto", 1e12).plan(encoder, layers, size) is None
    assert Tiling(None, needs[0]).plan(encoder, layers, size) is None
    message = r"content: a picture of 4096x3072 px needs about .* GB .* 2\.0 GB are free: set image_px=\d+ or less"
    with pytest.raises(UserError, match=message):
        Tiling("auto", 2e9).check(encoder, layers, size, "content", "set image_px={px} or less")


def test_lbfgs_keeps_as_many_pairs_as_fit(monkeypatch, caplog):
    plan = Tiling.plan
    monkeypatch.setattr(Tiling, "plan", lambda *a: (p := plan(*a)) and replace(p, pairs=6))
    with caplog.at_level(logging.INFO):
        run, *_ = results(tile_px=64)
    assert "L-BFGS keeps 6 of 50 earlier steps" in caplog.text
    assert run.trainer.optimizers[0].history_size == 6


@pytest.mark.parametrize(
    ("settings", "controls", "message"),
    [
        ({}, {"seamless": True}, r"method\.tile_px=64: seamless=true needs the whole picture"),
        ({"terms": "histogram"}, {}, r"method\.tile_px=64: the loss term 'histogram' needs whole feature maps"),
    ],
)
def test_what_cannot_be_done_in_tiles_is_refused(settings, controls, message):
    terms = {"gram": GramLoss(LAYERS)}
    terms |= {"histogram": HistogramLoss(LAYERS[:1])} if settings else {}
    gatys = make_gatys(terms, {"beta": 1.0}, tile_px=64)
    with pytest.raises(UserError, match=message):
        stylized(gatys, **controls)


def test_too_little_memory_is_refused_with_both_ways_out():
    message = r"needs about .* and 0\.0 GB are free: set image_px=\d+ or less, or method\.memory_gb larger"
    with pytest.raises(UserError, match=message):
        stylized(make_gatys(memory_gb=0.01))


@pytest.mark.parametrize("wrong", [{"tile_px": "large"}, {"tile_px": 8}, {"memory_gb": 0}, {"memory_gb": "much"}])
def test_wrong_settings_are_refused_by_name(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        make_gatys(**wrong)
