"""Losses against closed forms, symmetries, and formulas written out once more in float64."""

import math
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from nstexp.core import losses
from nstexp.core.errors import ArgumentError, UserError
from nstexp.core.losses import ContentLoss, GramLoss, OutOfRange, TotalVariation, stats
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks import pretrained
from nstexp.core.networks.encoder import IMAGE
from nstexp.core.networks.vgg import VGG

CONTENT_FORMS = ("mse", "half_sum", "sum")
GRAM_FORMS = ("gatys", "mse_hw", "mse_chw", "keras")
# On [[0, 1], [2, 4]]; without the last row and column one position is left, with dx = 1 and dy = 2.
TV_TABLE = {"jc": 2.5, "sq": 18.0, "mean": 4.5, "keras": 5**1.25, "l1": 8.0, "pystiche": 5.0}

# Worked example: 3 channels, 2 positions. Sums of squares: grams 70, features 18.
F = torch.tensor([[1, 2], [0, 1], [3, 0]], dtype=torch.float64).view(1, 3, 1, 2)
S = torch.tensor([[1, 0], [1, 1], [0, 2]], dtype=torch.float64).view(1, 3, 1, 2)
E_L = 70 / 144
E_L_GRADIENT = torch.tensor([[13, 9], [-5, 1], [18, 4]], dtype=torch.float64) / 36
IMAGE_PX = 8
GRAM_VALUES = {"gatys": E_L, "mse_hw": 4 * E_L, "mse_chw": 4 * E_L / 9, "keras": 70 / (36 * IMAGE_PX**2)}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(seed: int, batch: int = 1) -> dict[str, torch.Tensor]:
    """Image and three layers as an encoder would return them."""
    return {
        IMAGE: rand(batch, 3, 8, 12, seed=seed).sigmoid(),
        "relu1_1": rand(batch, 4, 8, 12, seed=seed + 1).relu(),
        "relu2_1": rand(batch, 6, 4, 6, seed=seed + 2).relu(),
        "relu3_1": rand(batch, 8, 2, 3, seed=seed + 3).relu(),
    }


LAYERS = tuple(features(0))[1:]


# -------------------------------------------------------------------------------------------------------------- grams


@pytest.mark.parametrize("form", GRAM_FORMS)
def test_gram_loss_of_the_worked_example(form):
    value = losses.gram_loss(F, stats.gram(S, "hw"), form, IMAGE_PX)
    assert value.item() == pytest.approx(GRAM_VALUES[form], abs=1e-12)


@pytest.mark.parametrize("form", GRAM_FORMS)
def test_gram_gradient_is_the_papers_formula(form):
    x = F.clone().requires_grad_()
    losses.gram_loss(x, stats.gram(S, "hw"), form, IMAGE_PX).backward()
    torch.testing.assert_close(x.grad[0, :, 0], E_L_GRADIENT * GRAM_VALUES[form] / E_L, rtol=0, atol=1e-12)
    g, a = F[0, :, 0] @ F[0, :, 0].T, S[0, :, 0] @ S[0, :, 0].T
    torch.testing.assert_close((g - a) @ F[0, :, 0] / (9 * 4), E_L_GRADIENT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", GRAM_FORMS)
def test_gram_loss_passes_gradcheck(form):
    target = stats.gram(rand(2, 3, 3, 2, seed=1), "hw")
    x = rand(2, 3, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: losses.gram_loss(f, target, form, 64), x)


def test_gram_scales_with_the_square_and_its_loss_with_the_fourth_power():
    f, s, c = rand(1, 5, 4, 6), rand(1, 5, 3, 3, seed=1), 3.0
    torch.testing.assert_close(stats.gram(c * f), c**2 * stats.gram(f))
    before, after = (losses.gram_loss(k * f, stats.gram(k * s), "gatys") for k in (1.0, c))
    assert after.item() == pytest.approx(c**4 * before.item(), rel=1e-12)


@pytest.mark.parametrize("form", GRAM_FORMS)
def test_gram_loss_and_gradient_are_zero_at_the_style(form):
    x = rand(1, 5, 4, 6).requires_grad_()
    loss = losses.gram_loss(x, stats.gram(x.detach()), form, 96)
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


def test_gram_loss_compares_pictures_of_different_sizes_per_position():
    small = rand(1, 5, 4, 6)
    assert losses.gram_loss(small.repeat(1, 1, 2, 3), stats.gram(small), "mse_hw").item() < 1e-28


# ------------------------------------------------------------------------------------------------------------ content


@pytest.mark.parametrize(("form", "expected"), [("sum", 18), ("half_sum", 9), ("mse", 3)])
def test_content_forms_of_the_worked_example(form, expected):
    assert losses.content_loss(F, S, form).item() == pytest.approx(expected, abs=1e-12)


def test_content_half_sum_converts_to_mse_by_half_the_number_of_values():
    x, p = rand(1, 5, 4, 6), rand(1, 5, 4, 6, seed=1)
    literal, mean = (losses.content_loss(x, p, form).item() for form in ("half_sum", "mse"))
    assert literal == pytest.approx(5 * 4 * 6 / 2 * mean, rel=1e-12)


def test_content_gradient_is_the_difference_where_the_relu_is_open():
    before = rand(1, 5, 4, 6).requires_grad_()
    p = rand(1, 5, 4, 6, seed=1).relu()
    losses.content_loss(before.relu(), p, "half_sum").backward()
    torch.testing.assert_close(before.grad, (before.detach() - p) * (before.detach() > 0))


@pytest.mark.parametrize("form", CONTENT_FORMS)
def test_content_loss_and_gradient_are_zero_at_the_content(form):
    x = rand(1, 5, 4, 6).requires_grad_()
    loss = losses.content_loss(x, x.detach().clone(), form)
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


def test_content_of_bfloat16_features_sums_in_float32():
    x, p = rand(1, 64, 40, 40).bfloat16(), rand(1, 64, 40, 40, seed=1).bfloat16()
    loss = losses.content_loss(x, p, "sum")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((x.double() - p.double()).square().sum().item(), rel=1e-5)


# -------------------------------------------------------------------------------------------------------------- image


@pytest.mark.parametrize(("form", "expected"), TV_TABLE.items())
def test_total_variation_table(form, expected):
    image = torch.tensor([[0, 1], [2, 4]], dtype=torch.float64).view(1, 1, 2, 2)
    assert losses.total_variation(image, form).item() == pytest.approx(expected, abs=1e-12)
    assert TV_TABLE["keras"] == pytest.approx(7.476744, abs=1e-6)


@pytest.mark.parametrize("form", TV_TABLE)
def test_total_variation_ignores_a_constant_and_grows_with_contrast(form):
    image = rand(2, 3, 5, 7)
    value = losses.total_variation(image, form).item()
    degree = {"keras": 2.5, "l1": 1}.get(form, 2)
    assert losses.total_variation(torch.full_like(image, 0.3), form).item() == 0
    assert losses.total_variation(image + 0.7, form).item() == pytest.approx(value, rel=1e-12)
    assert losses.total_variation(3 * image, form).item() == pytest.approx(3**degree * value, rel=1e-12)


@pytest.mark.parametrize("form", TV_TABLE)
def test_total_variation_passes_gradcheck(form):
    assert torch.autograd.gradcheck(lambda x: losses.total_variation(x, form), rand(2, 3, 4, 5).requires_grad_())


def test_out_of_range_counts_only_what_clipping_takes_away():
    image = torch.tensor([-0.5, 0.0, 0.4, 1.0, 1.25, 0.9], dtype=torch.float64).view(1, 1, 2, 3)
    assert losses.out_of_range(image).item() == pytest.approx((0.25 + 0.0625) / 6, abs=1e-15)


# ------------------------------------------------------------------------------------------------------------ modules

TERMS = {
    **{f"content {form}": lambda form=form: ContentLoss(LAYERS, form) for form in CONTENT_FORMS},
    **{f"gram {form}": lambda form=form: GramLoss(LAYERS, form) for form in GRAM_FORMS},
    **{f"tv {form}": lambda form=form: TotalVariation(form, 255) for form in TV_TABLE},
    "out of range": OutOfRange,
}


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_loss_of_a_batch_is_the_mean_of_single_losses(term):
    x, reference = features(0, batch=3), features(10, batch=3)
    x[IMAGE] = 3 * x[IMAGE] - 1
    singles = [{name: f[i : i + 1] for name, f in x.items()} for i in range(3)]
    references = [{name: f[i : i + 1] for name, f in reference.items()} for i in range(3)]
    loss = term()
    expected = sum(loss(one, loss.target(ref)) for one, ref in zip(singles, references, strict=True)) / 3
    assert expected > 0
    torch.testing.assert_close(loss(x, loss.target(reference)), expected)


@pytest.mark.parametrize("pool", ["max", "avg", "l2"])
@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_gradient_at_a_flat_image_is_finite(term, pool):
    encoder, loss = VGG(pretrained.random_vgg(), pool=pool), term()
    reference = encoder(rand(1, 3, 16, 16).float(), LAYERS)
    image = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    loss(encoder(image, LAYERS), loss.target(reference)).backward()
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("form", CONTENT_FORMS)
def test_content_module_sums_the_function_over_layers(form):
    x, p, term = features(0), features(10), ContentLoss(LAYERS, form)
    torch.testing.assert_close(term(x, term.target(p)), sum(losses.content_loss(x[n], p[n], form) for n in LAYERS))


@pytest.mark.parametrize("form", GRAM_FORMS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gram_module_weighs_the_function_over_layers(form, reduction):
    x, a, factors = features(0), features(10), (1.0, 0.0, 2.5)
    term = GramLoss(LAYERS, form, factors, reduction)
    each = [losses.gram_loss(x[n], stats.gram(a[n]), form, 8 * 12) for n in LAYERS]
    expected = sum(w * loss for w, loss in zip(factors, each, strict=True)) / (3 if reduction == "mean" else 1)
    torch.testing.assert_close(term(x, term.target(a)), expected)


@pytest.mark.parametrize("form", TV_TABLE)
def test_total_variation_module_scales_the_pixels(form):
    x = features(0)
    torch.testing.assert_close(TotalVariation(form, 255)(x, None), losses.total_variation(255 * x[IMAGE], form))
    torch.testing.assert_close(TotalVariation(form, 1)(x, None), losses.total_variation(x[IMAGE], form))


def test_out_of_range_module_measures_on_its_pixel_scale():
    x = {IMAGE: 3 * rand(2, 3, 4, 4)}
    torch.testing.assert_close(OutOfRange(1)(x, None), losses.out_of_range(x[IMAGE]))
    beyond = (255 * x[IMAGE] - (255 * x[IMAGE]).clamp(0, 255)).square().mean()
    torch.testing.assert_close(OutOfRange(255)(x, None), beyond)


def test_out_of_range_pulls_pixels_back_and_leaves_the_others_alone():
    x = torch.tensor([-0.5, 0.4, 1.25], dtype=torch.float64).view(1, 3, 1, 1).requires_grad_()
    losses.out_of_range(x).backward()
    torch.testing.assert_close(x.grad.flatten(), torch.tensor([-1.0, 0, 0.5], dtype=torch.float64) / 3)


def test_another_style_layer_never_lowers_the_sum():
    x, a = features(0), features(10)
    values = [(t := GramLoss(LAYERS[:k]))(x, t.target(a)).item() for k in (1, 2, 3)]
    assert values == sorted(values)
    assert values[0] < values[2]


def test_targets_hold_no_graph():
    x = {name: f.requires_grad_() for name, f in features(0).items()}
    for term in (ContentLoss(LAYERS), GramLoss(LAYERS)):
        assert not any(t.requires_grad for t in term.target(x).values())


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: ContentLoss(LAYERS, "mae"), "form=mae is unknown, choose one of mse, half_sum, sum"),
        (lambda: GramLoss(LAYERS, "gatsy"), "form=gatsy is unknown, choose one of gatys, mse_hw"),
        (lambda: GramLoss(LAYERS, reduction="max"), "reduction=max is unknown, choose one of sum, mean"),
        (lambda: GramLoss(LAYERS, layer_weights=[1, 2]), "layer_weights has 2 numbers for the 3 layers"),
        (lambda: GramLoss(LAYERS, layer_weights=[1, 2, math.nan]), "layer_weights="),
        (lambda: GramLoss(LAYERS, layer_weights=[1, 2, -1]), "layer_weights="),
        (lambda: TotalVariation("l3"), "form=l3 is unknown, choose one of jc, sq, mean"),
    ],
)
def test_a_wrong_setting_raises_with_the_arguments_name(make, key):
    with pytest.raises(ArgumentError, match=f"^{key}"):
        make()


# ----------------------------------------------------------------------------------------------------------- LossSet


def loss_set(**weights) -> LossSet:
    return LossSet(
        {"content": ContentLoss(["relu3_1"]), "gram": GramLoss(LAYERS), "tv": TotalVariation("mean", 1)}, weights
    )


def targets_of(losses_: LossSet, content, *styles) -> dict:
    """Equal shares of several styles."""
    found = {name: [(1.0, t)] for name, t in losses_.targets("content", content).items()}
    for style in styles:
        for name, t in losses_.targets("style", style).items():
            found.setdefault(name, []).append((1 / len(styles), t))
    return found


def test_alpha_and_beta_weigh_their_roles():
    x, set_ = features(0), loss_set(alpha=2, beta=30, tv=0.5)
    values = set_(x, targets_of(set_, features(10), features(20)))
    content, gram, tv = (values.terms[name] for name in ("content", "gram", "tv"))
    assert content.item() == losses.content_loss(x["relu3_1"], features(10)["relu3_1"]).item()
    assert tv.item() == losses.total_variation(x[IMAGE], "mean").item()
    torch.testing.assert_close(values.total, 2 * content + 30 * gram + 0.5 * tv)


def test_a_terms_own_key_wins_over_its_role():
    assert loss_set(alpha=1, beta=2, gram=7, tv=0).weights == {"content": 1, "gram": 7, "tv": 0}


def test_layers_are_listed_once_and_by_role():
    set_ = loss_set(alpha=1, beta=1, tv=0)
    assert set_.layers() == ("relu3_1", "relu1_1", "relu2_1")
    assert set_.layers("content") == ("relu3_1",)
    assert set_.layers("style") == LAYERS
    assert set_.layers("image") == ()


def test_weight_zero_logs_but_gives_no_gradient():
    set_ = loss_set(alpha=1, beta=0, tv=0)
    x = {name: f.requires_grad_() for name, f in features(0).items()}
    values = set_(x, targets_of(set_, features(10), features(20)))
    assert values.terms["gram"] > 0
    assert values.terms["tv"] > 0
    assert not values.terms["gram"].requires_grad, "a graph costs memory"
    assert values.total.item() == values.terms["content"].item()
    values.total.backward()
    assert x["relu3_1"].grad.any()
    assert x["relu1_1"].grad is None
    assert x[IMAGE].grad is None


def test_weight_zero_keeps_nan_out_of_the_total():
    set_, x = loss_set(alpha=1, beta=0, tv=0), features(0)
    x["relu1_1"][0, 0, 0, 0] = math.nan
    values = set_(x, targets_of(set_, features(10), features(20)))
    assert torch.isfinite(values.total)
    assert torch.isnan(values.terms["gram"])


def test_several_targets_are_weighed_by_their_shares():
    set_, x = loss_set(alpha=1, beta=1, tv=0), features(0)
    first, second = (targets_of(set_, features(10), features(seed))["gram"][0][1] for seed in (20, 30))
    content = targets_of(set_, features(10))
    single = [set_(x, content | {"gram": [(1.0, t)]}).terms["gram"] for t in (first, second)]
    both = set_(x, content | {"gram": [(0.7, first), (0.3, second)]}).terms["gram"]
    torch.testing.assert_close(both, 0.7 * single[0] + 0.3 * single[1])


@pytest.mark.parametrize(
    ("weights", "key"),
    [
        ({"alpha": 1, "tv": 0}, "'gram' has no weight: set weights.beta"),
        ({"beta": 1, "tv": 0}, "'content' has no weight: set weights.alpha"),
        ({"alpha": 1, "beta": 1}, "'tv' has no weight: set weights.tv"),
        ({"alpha": 1, "beta": 1, "tv": 0, "tvv": 1}, "weights.tvv multiplies nothing"),
        ({"alpha": -1, "beta": 1, "tv": 0}, "weights.alpha=-1"),
        ({"alpha": 1, "beta": math.nan, "tv": 0}, "weights.beta=nan"),
        ({"alpha": 1, "beta": math.inf, "tv": 0}, "weights.beta=inf"),
        ({"alpha": 1, "beta": 1, "tv": True}, "weights.tv=True"),
        ({"alpha": 1, "beta": "1", "tv": 0}, "weights.beta=1 is not a number"),
        ({"alpha": None, "beta": 1, "tv": 0}, "weights.alpha=None"),
    ],
)
def test_bad_weights_raise_with_their_key(weights, key):
    with pytest.raises(UserError, match=key):
        loss_set(**weights)


def test_a_set_without_terms_raises():
    with pytest.raises(UserError, match="there is no loss term: choose at least one"):
        LossSet({}, {"alpha": 1})


# ----------------------------------------------------------------------------------------------- moments and identity


def moments_term(**settings):
    from nstexp.core.losses import MomentsLoss

    return MomentsLoss(["a"], eps=0.0, **settings)


def test_moments_loss_worked_example():
    """One channel, c = 1..4 against s = 10, 14, 10, 14: 90.25 of the means and 0.7778640 of the deviations."""
    content = {"a": torch.tensor([1.0, 2, 3, 4], dtype=torch.float64).view(1, 1, 2, 2)}
    style = {"a": torch.tensor([10.0, 14, 10, 14], dtype=torch.float64).view(1, 1, 2, 2)}
    term = moments_term()
    assert float(term(content, term.target(style))) == pytest.approx(90.25 + 0.7778640, abs=1e-6)


def test_moments_loss_sums_or_averages_the_channels_and_averages_the_batch():
    torch.manual_seed(0)
    x, y = ({"a": torch.randn(3, 5, 4, 4, dtype=torch.float64)} for _ in range(2))
    mean, total = moments_term(), moments_term(style_reduction="sum")
    assert float(total(x, total.target(y))) == pytest.approx(5 * float(mean(x, mean.target(y))))
    singles = [float(mean({"a": x["a"][i : i + 1]}, mean.target({"a": y["a"][i : i + 1]}))) for i in range(3)]
    assert float(mean(x, mean.target(y))) == pytest.approx(sum(singles) / 3)


def test_moments_loss_is_zero_at_the_style_and_where_positions_are_shuffled():
    torch.manual_seed(0)
    y = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    shuffled = y.flatten(2)[..., torch.randperm(12)].view_as(y).requires_grad_()
    term = moments_term()
    loss = term({"a": shuffled}, term.target({"a": y}))
    loss.backward()
    assert float(loss.detach()) < 1e-25 and shuffled.grad.abs().max() < 1e-12


def test_the_image_is_a_layer_without_the_encoder():
    from nstexp.core.losses import MomentsLoss

    terms = {"palette": MomentsLoss(["image"]), "content": ContentLoss(["relu1_1"])}
    losses = LossSet(terms, {"alpha": 1, "palette": 3})
    assert losses.layers() == ("relu1_1",) and losses.layers("style") == ()
    image, other = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 6, 6)
    targets = {name: [(1.0, t)] for name, t in losses.targets("style", {"image": other}).items()}
    values = losses({"image": image}, targets, ("style",))
    wanted = (image.mean((2, 3)) - other.mean((2, 3))).square().mean()
    wanted += (image.std((2, 3), correction=0) - other.std((2, 3), correction=0)).square().mean()
    assert float(values.total) == pytest.approx(3 * float(wanted), rel=1e-3)
    assert set(values.terms) == {"palette"}


def test_identity_weighs_pixels_and_features():
    from nstexp.core.losses import IdentityLoss

    term = IdentityLoss(["relu1_1"], pixels=10)
    made = {"image": torch.zeros(1, 3, 2, 2), "relu1_1": torch.zeros(1, 4, 2, 2)}
    given = {"image": torch.full((1, 3, 2, 2), 0.5), "relu1_1": torch.full((1, 4, 2, 2), 2.0)}
    assert float(term(made, term.target(given))) == pytest.approx(10 * 0.25 + 4)


def test_loss_values_add_up():
    from nstexp.core.losses.loss_set import LossValues

    first = LossValues(torch.tensor(2.0), {"a": torch.tensor(1.0)})
    both = first + LossValues(torch.tensor(3.0), {"b": torch.tensor(4.0)})
    assert both.numbers() == {"total": 5.0, "a": 1.0, "b": 4.0}


# ----------------------------------------------------------------------------------------------------------- defaults

CONF = Path(__file__).parents[3] / "conf" / "loss"
VARIANTS = {"gram_hw", "palette"}  # files that change a setting of a term which has a file of its own


def configured() -> dict[str, dict[str, Any]]:
    """File in conf/loss -> the settings of its term."""
    found = {}
    for file in sorted(CONF.glob("*.yaml")):
        content = OmegaConf.to_container(OmegaConf.load(file))
        (found[file.stem],) = content.get("loss", {k: v for k, v in content.items() if k != "defaults"}).values()
    return found


@pytest.mark.parametrize("name", sorted({file.stem for file in CONF.glob("*.yaml")} - VARIANTS))
def test_a_term_means_the_same_in_a_notebook_and_on_the_command_line(name):
    settings = configured()[name]
    parameters = signature(get_class(settings.pop("_target_"))).parameters
    assert settings.keys() == parameters.keys()
    for argument, value in settings.items():
        told_elsewhere = isinstance(value, str) and value.startswith("${")
        if not told_elsewhere and parameters[argument].default is not Parameter.empty:
            default = parameters[argument].default
            assert (list(default) if isinstance(default, tuple) else default) == value, argument


def test_there_are_terms_to_compare():
    assert len(configured().keys() - VARIANTS) >= 11
    assert total_variation_defaults() == ("jc", 255)


def total_variation_defaults() -> tuple[str, float]:
    term, x = TotalVariation(), {IMAGE: rand(1, 3, 4, 5)}
    torch.testing.assert_close(term(x, None), losses.total_variation(255 * x[IMAGE]))
    return term.form, term.pixel_scale
