"""Styles by regions: guides against brute-force receptive fields, guided terms, and whole runs with masks."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from gatys_runs import STYLE_LAYERS, gram_distance, make_gatys, optimizations, with_targets
from networks import saved_decoder
from pictures import smooth_picture
from torch import Tensor
from torch.nn import functional

from nstexp.core.errors import UserError
from nstexp.core.losses import (
    ContentLoss,
    CovarianceLoss,
    GramLoss,
    HistogramLoss,
    MomentsLoss,
    SlicedWassersteinLoss,
)
from nstexp.core.losses.stats import gram
from nstexp.core.masks import guides
from nstexp.core.networks.encoder import IMAGE, EncoderWeights
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import resize
from nstexp.methods.adain import AdaIN
from nstexp.methods.base import Controls, Style
from nstexp.methods.targets import TargetMaker

LAYERS = ("relu1_1", "relu1_2", "relu2_1", "pool2", "relu3_1", "relu3_2", "relu4_1")


pytestmark = pytest.mark.usefixtures("one_thread")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def counting_encoder(pad: str = "zeros") -> VGG:
    """All weights 1: a position is larger than 0 exactly where it sees something that is."""
    names = [f"conv{block}_{i}" for block, count in enumerate((2, 2, 4, 4), 1) for i in range(1, count + 1)]
    convs = {name: (torch.ones(1, 3 if name == "conv1_1" else 1, 3, 3), torch.zeros(1)) for name in names}
    return VGG(EncoderWeights(convs), pool="avg", pad=pad).double()


def who_sees(encoder: VGG, size: tuple[int, int], layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Layer -> whether (pixel, row, column of the layer) sees the pixel: one impulse for each."""
    impulses = torch.eye(size[0] * size[1], dtype=torch.float64).view(-1, 1, *size).expand(-1, 3, -1, -1)
    found = encoder(impulses, layers)
    return {name: (found[name][:, 0] > 0).numpy() for name in layers}


def blob(height: int, width: int, seed: int = 0) -> Tensor:
    """A region of some width, with an uneven border."""
    coarse = rand(1, 1, 4, 4, seed=seed)
    return (functional.interpolate(coarse, size=(height, width), mode="bicubic")[0, 0] > 0).float()


def halves(height: int, width: int) -> tuple[Tensor, Tensor]:
    left = torch.zeros(height, width)
    left[:, : width // 2] = 1
    return left, 1 - left


@pytest.fixture(scope="module")
def encoder() -> VGG:
    return VGG(random_vgg())


# ------------------------------------------------------------------------------------------------------------- guides


@pytest.mark.parametrize("propagation", ["simple", "inside", "all"])
@pytest.mark.parametrize("size", [(48, 64), (41, 53)])
def test_guide_norm(encoder, propagation, size):
    for mask in (blob(*size), blob(*size, seed=3), rand(*size).sigmoid().float(), torch.ones(size)):
        found = guides(mask, encoder, LAYERS, propagation)
        assert set(found) == {IMAGE, *LAYERS}
        for name, guide in found.items():
            expected = size if name == IMAGE else encoder.shape(name, size)[1:]
            assert tuple(guide.shape) == tuple(expected)
            assert guide.square().mean().item() == pytest.approx(1, rel=1e-5)
            assert guide.min() >= 0


@pytest.mark.parametrize("propagation", ["simple", "inside", "all"])
def test_half_a_picture_counts_with_the_root_of_2(encoder, propagation):
    mask = torch.tensor([1.0, 1, 0, 0]).expand(4, 4)
    if propagation != "simple":  # as far from the border as conv1_1 sees
        mask = torch.tensor([[1.0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]][propagation == "all"]).expand(6, 6)
    guide = guides(mask, encoder, ["relu1_1"], propagation)["relu1_1"]
    kept = {"simple": [1, 1, 0, 0], "inside": [1, 1, 0, 0, 0, 0], "all": [1, 1, 1, 0, 0, 0]}[propagation]
    expected = torch.tensor(kept) * {"simple": 1.4142136, "inside": 3**0.5, "all": 2**0.5}[propagation]
    torch.testing.assert_close(guide, expected.expand_as(guide))


@pytest.mark.slow
@pytest.mark.parametrize("pad", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("size", [(24, 32), (25, 29)])
@pytest.mark.parametrize("propagation", ["inside", "all"])
def test_guides_are_the_positions_that_see_only_or_any_of_the_region(propagation, size, pad):
    """Each pixel is lit once, and what it reaches is looked at."""
    encoder = counting_encoder(pad)
    sees = who_sees(encoder, size, LAYERS)
    for seed in (0, 1, 2):
        region = blob(*size, seed=seed)
        found = guides(region, encoder, LAYERS, propagation)
        for name in LAYERS:
            inside, outside = (sees[name][side.flatten().numpy()].any(0) for side in (region == 1, region == 0))
            kept = inside & ~outside if propagation == "inside" else inside
            if kept.any():
                assert np.array_equal(found[name].numpy() > 0, kept), name
                assert np.allclose(found[name].numpy()[kept], kept.mean() ** -0.5, atol=1e-5)
            else:
                assert torch.equal(found[name], guides(region, encoder, [name])[name]), "as simple"
    assert found["relu1_2"].eq(0).any() and found["relu1_2"].gt(0).any()


def test_all_seen_takes_marked_pixels_for_each_layer():
    encoder, region = counting_encoder(), blob(24, 32)
    sees = who_sees(encoder, (24, 32), LAYERS)
    for name in LAYERS:
        expected = ~sees[name][(region == 0).flatten().numpy()].any(0)
        assert np.array_equal(encoder.all_seen(region[None, None], name)[0, 0].numpy() == 1, expected)
        assert encoder.all_seen(torch.ones(1, 1, 24, 32), name).eq(1).all(), "what lies outside does not count"


def test_simple_guides_are_the_mask_resized_with_its_grays(encoder):
    ramp = torch.linspace(0, 1, 64).expand(48, 64)
    found = guides(ramp, encoder, ["relu1_1", "relu3_1"])
    for guide, step in ((found["relu1_1"], 1), (found["relu3_1"], 4)):
        expected = ramp.view(48, -1, step).mean(-1)[:: 48 // guide.shape[0]]
        expected = expected / expected.square().mean().sqrt()
        torch.testing.assert_close(guide[:, 2:-2], expected[:, 2:-2], rtol=0.01, atol=0.01)


def test_grays_are_divided_at_one_half(encoder):
    for level, white in ((0.4, False), (0.6, True)):
        mask = torch.full((32, 32), 1 - level)
        mask[:, :16] = level
        for propagation in ("inside", "all"):
            found = guides(mask, encoder, ["relu1_1"], propagation)["relu1_1"]
            assert (found[:, 4] > 0).all() == white
            assert (found[:, -4] > 0).all() != white


@pytest.mark.parametrize("propagation", ["simple", "inside", "all"])
def test_a_mask_that_is_black_everywhere_guides_no_layer(encoder, propagation):
    assert guides(torch.zeros(32, 32), encoder, LAYERS, propagation) == {}


@pytest.mark.parametrize("propagation", ["simple", "inside", "all"])
def test_a_region_too_small_to_see_by_itself_is_kept(encoder, propagation):
    mask = torch.zeros(64, 64)
    mask[20:26, 30:36] = 1
    found = guides(mask, encoder, ["relu4_1"], propagation)["relu4_1"]
    assert found.isfinite().all()
    assert found[2, 4] == found.max()
    assert found[7, 0] == 0


def test_an_unknown_propagation_is_named(encoder):
    with pytest.raises(UserError, match=r"^propagation=outside is unknown, choose one of simple, inside, all$"):
        guides(torch.ones(8, 8), encoder, ["relu1_1"], "outside")


# ------------------------------------------------------------------------------------------------------- guided terms

TERMS = {
    **{f"gram {f}": partial(GramLoss, form=f) for f in ("gatys", "mse_hw", "mse_chw", "keras")},
    "moments": MomentsLoss,
    "cov": CovarianceLoss,
    "histogram": HistogramLoss,
    "histogram sum": partial(HistogramLoss, reduction="sum"),
    "swd": SlicedWassersteinLoss,
}


@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_a_guided_term_is_the_term_of_its_region_alone(make):
    """The left two thirds, cut out and with a hard guide."""
    x, style = {IMAGE: rand(2, 3, 12, 18), "a": rand(2, 5, 12, 18).relu()}, {"a": rand(1, 5, 7, 9, seed=1).relu()}
    left = torch.zeros(12, 18)
    left[:, :12] = 1
    guide = left / left.square().mean().sqrt()
    term = make(["a"])
    target = term.target(style)
    whole = term(x, target, {IMAGE: guide, "a": guide})
    alone = term({name: f[..., :12] for name, f in x.items()}, target)
    summed = isinstance(term, HistogramLoss) and term.reduction == "sum"
    factor = 18 / 12 if summed else 1  # the mean over the region times all positions
    assert whole.item() == pytest.approx(factor * alone.item(), rel=1e-5)
    assert whole.item() != pytest.approx(term(x, target).item(), rel=1e-3)


@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_disjoint_regions_do_not_touch_each_other(encoder, make):
    """At relu1_1 a position sees one pixel beyond its own."""
    image = smooth_picture(32, 40).requires_grad_()
    term = make(["relu1_1"])
    target = term.target(encoder(smooth_picture(24, 24, seed=1), ["relu1_1"]))
    seen = (slice(0, 21), slice(19, 40))
    unseen = (slice(21, 40), slice(0, 19))
    for mask, inside, outside in zip(halves(32, 40), seen, unseen, strict=True):
        loss = term(encoder(image, ["relu1_1"]), target, guides(mask, encoder, ["relu1_1"]))
        (gradient,) = torch.autograd.grad(loss, image)
        assert not gradient[..., outside].any()
        assert gradient[..., inside].abs().sum((0, 1)).gt(0).float().mean() > 0.9


@pytest.mark.parametrize("make", [GramLoss, HistogramLoss])
def test_with_guide_inside_no_layer_reaches_beyond_its_region(encoder, make):
    image, (left, _) = smooth_picture(48, 64).requires_grad_(), halves(48, 64)
    for layer in ("relu1_2", "relu2_1", "relu3_1"):
        term = make([layer])
        target = term.target(encoder(smooth_picture(32, 32, seed=1), [layer]))
        reached = {}
        for propagation in ("simple", "inside", "all"):
            loss = term(encoder(image, [layer]), target, guides(left, encoder, [layer], propagation))
            columns = torch.autograd.grad(loss, image)[0].abs().amax((0, 1, 2)).nonzero().flatten()
            reached[propagation] = int(columns.max())
        assert 24 < reached["inside"] <= 31 < reached["simple"] < reached["all"]


def test_guided_gram_matrices_are_those_of_the_region(encoder):
    """Gatys et al. 2017, Eq. 5, for a soft guide: positions count by its square."""
    x = encoder(smooth_picture(32, 40), ["relu2_1"])["relu2_1"].double()
    guide = guides(rand(32, 40).sigmoid().float(), encoder, ["relu2_1"])["relu2_1"].double()
    f, t = x[0].flatten(1).numpy(), guide.flatten().numpy()
    expected = sum(t[k] ** 2 * np.outer(f[:, k], f[:, k]) for k in range(f.shape[1])) / f.shape[1]
    np.testing.assert_allclose(gram(x * guide)[0], expected, rtol=1e-9)


# --------------------------------------------------------------------------------------------------------- whole runs


def two_styles(size: tuple[int, int], shares: tuple[float, float] = (0.5, 0.5)) -> list[Style]:
    """A dark and a light picture, for the left and the right half."""
    dark, light = 0.5 * smooth_picture(40, 56, seed=1)[0], 1 - 0.5 * smooth_picture(44, 36, seed=2)[0]
    return [Style(image, share, mask) for image, share, mask in zip((dark, light), shares, halves(*size), strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["simple", "inside", "all"])
def test_each_half_becomes_like_its_own_style(encoder, guide):
    content, styles = smooth_picture(48, 48), two_styles((48, 48))
    gatys = make_gatys(weights={"alpha": 0.01, "beta": 1e3}, max_steps=40, levels=1, guide=guide)
    result = gatys.stylize(content, styles, Controls())
    assert result.shape == content.shape
    for own, other, part in zip(styles, styles[::-1], (slice(0, 24), slice(24, 48)), strict=True):
        before, after = (gram_distance(encoder, image[..., part], own.image) for image in (content, result))
        assert after < 0.2 * before
        assert after < 0.2 * gram_distance(encoder, result[..., part], other.image)


GUIDED_TERMS = {
    "gram": lambda: GramLoss(STYLE_LAYERS),
    "histogram": lambda: HistogramLoss(STYLE_LAYERS, tie="stable"),
    "moments": lambda: MomentsLoss(STYLE_LAYERS),
}


def guided_value(name: str, f: np.ndarray, t: np.ndarray, s: np.ndarray) -> float:
    """One layer's loss of features (C, N) with a guide (N,) against those of a style (C, M)."""
    weights = t**2 / (t**2).sum()
    if name == "gram":
        return ((f * t @ (f * t).T / f.shape[1] - s @ s.T / s.shape[1]) ** 2).mean() / len(f) ** 2
    if name == "moments":
        mean = f @ weights
        std, to_std = np.sqrt((f - mean[:, None]) ** 2 @ weights + 1e-5), np.sqrt(s.var(1) + 1e-5)
        return ((mean - s.mean(1)) ** 2 + (std - to_std) ** 2).mean()
    total = 0.0
    for values, wanted in zip(f, s, strict=True):
        order = np.argsort(values, kind="stable")
        share = (np.cumsum(weights[order]) - weights[order] / 2).clip(0, 1)
        total += ((values[order] - np.quantile(wanted, share, method="hazen")) ** 2 * weights[order]).sum()
    return total / len(f)


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDED_TERMS)
@pytest.mark.parametrize("soft", [False, True])
def test_the_losses_of_two_styles_are_the_guided_formula(name, soft):
    """No margin and one size, so that the picture is the canvas."""
    content = smooth_picture(48, 40)
    styles = two_styles((48, 40), shares=(0.3, 0.9))
    if soft:
        ramp = torch.linspace(0, 1, 40).expand(48, 40)
        styles = [Style(s.image, s.share, mask) for s, mask in zip(styles, (ramp, 1 - ramp), strict=True)]
    terms = {"content": ContentLoss(["relu3_2"]), name: GUIDED_TERMS[name]()}
    gatys = make_gatys(terms, {"alpha": 1.0, "beta": 50.0}, margin_px=0, levels=1, max_steps=4, style_resize="none")
    run = optimizations(gatys, content, styles)[-1]
    found, best = run.final_losses(), run._best[1]

    def matrices(image: Tensor) -> dict[str, np.ndarray]:
        return {n: f[0].flatten(1).double().numpy() for n, f in gatys.encoder(image, STYLE_LAYERS).items()}

    each = []
    for style in styles:
        value = 0.0
        for layer in STYLE_LAYERS:
            guide = resize(style.mask[None], gatys.encoder.shape(layer, (48, 40))[1:]).double().flatten()
            guide = guide / guide.square().mean().sqrt()
            value += guided_value(name, matrices(best)[layer], guide.numpy(), matrices(style.image[None])[layer])
        each.append(value)
    assert [found[f"{name}_style{n}"] for n in (1, 2)] == pytest.approx(each, rel=1e-4)
    assert found[name] == pytest.approx(0.3 * each[0] + 0.9 * each[1], rel=1e-4)
    now, before = (gatys.encoder(image, ["relu3_2"])["relu3_2"] for image in (best, content))
    expected = (now - before).square().mean().item() + 50 * found[name]
    assert found["total"] == pytest.approx(expected, rel=1e-4)


def test_what_one_half_should_look_like_does_not_move_the_other():
    content, styles = smooth_picture(32, 40), two_styles((32, 40))
    other = [styles[0], Style(smooth_picture(30, 30, seed=7)[0], styles[1].share, styles[1].mask)]
    gatys = make_gatys({"gram": GramLoss(["relu1_1"])}, {"beta": 1.0}, margin_px=0, levels=1, freeze_share=0)
    gradients = []
    for pair in (styles, other):
        run = with_targets(gatys.optimization(content, pair, Controls()))
        gradients.append(run._image_gradient(content))
    torch.testing.assert_close(gradients[0][..., :19], gradients[1][..., :19])
    assert not torch.allclose(gradients[0][..., 21:], gradients[1][..., 21:])


@pytest.mark.slow
def test_a_style_that_applies_everywhere_is_a_style_without_a_mask():
    content, (one, other) = smooth_picture(48, 40), two_styles((48, 40), shares=(1.0, 1.0))
    plain = make_gatys(max_steps=4, levels=2).stylize(content, [Style(one.image)], Controls())
    everywhere = Style(one.image, mask=torch.ones(48, 40))
    nowhere = Style(other.image, mask=torch.zeros(48, 40))
    for styles in ([everywhere], [everywhere, nowhere], [nowhere, everywhere]):
        masked = make_gatys(max_steps=4, levels=2).stylize(content, styles, Controls())
        torch.testing.assert_close(masked, plain, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["simple", "inside", "all"])
@pytest.mark.parametrize("size", [(47, 61), (33, 130)])
def test_masks_follow_the_margin_and_every_level(guide, size):
    gatys = make_gatys(max_steps=9, levels=3, coarse_steps=3, margin_px=5, guide=guide)
    sizes, normal = [], []
    make = TargetMaker._guides

    def watch(maker: TargetMaker, style: Style, level: tuple[int, int]):
        (found,) = make(maker, style, level)
        assert tuple(found[IMAGE].shape) == level
        sizes.append(level)
        for name in STYLE_LAYERS:
            assert tuple(found[name].shape) == maker.encoder.shape(name, level)[1:]
        normal.extend(float(guide.square().mean()) for guide in found.values())
        return (found,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TargetMaker, "_guides", watch)
        run = optimizations(gatys, smooth_picture(*size), two_styles(size))[-1]
    assert [level.size for level in run.levels] == list(dict.fromkeys(sizes))
    assert len(run.levels) > 1
    assert normal == pytest.approx([1.0] * len(normal), rel=1e-5)
    left, top = run.canvas.margins[0], run.canvas.margins[2]
    for style, original in zip(run.styles, two_styles(size), strict=True):
        assert style.mask.shape == run.canvas.size
        assert torch.equal(style.mask[top : top + size[0], left : left + size[1]], original.mask)
        assert torch.equal(style.mask[:, left - 1], style.mask[:, left + 1]), "reflected"
    assert run.best_picture().shape == (1, 3, *size)


@pytest.mark.slow
def test_the_start_of_the_other_method_goes_by_the_same_regions(tmp_path):
    encoder = VGG(random_vgg(), pad="reflect")
    file = saved_decoder(encoder, "relu4_1", tmp_path / "decoder.safetensors")

    def adain(dtype: torch.dtype) -> AdaIN:
        assert dtype == torch.float32
        return AdaIN(VGG(random_vgg(), pad="reflect"), layer="relu4_1", decoder=file, style_px=None)

    content, styles = smooth_picture(48, 64), two_styles((48, 64))
    gatys = make_gatys(init="adain", adain=adain, max_steps=2, levels=1, margin_px=8, style_resize="none")
    run = optimizations(gatys, content, styles)[-1]
    expected = adain(torch.float32).stylize(run.canvas.content, run.styles, Controls())
    torch.testing.assert_close(run.start, expected)
    assert run.styles[0].mask.shape == run.canvas.size
    plain = [Style(style.image, style.share) for style in run.styles]
    assert (run.start - adain(torch.float32).stylize(run.canvas.content, plain, Controls())).abs().max() > 1e-4
