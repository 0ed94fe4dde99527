"""What a user may steer in the per-image optimization: layers and strokes of each style, clamping, steps, records."""

import csv
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from gatys_runs import OPTIMIZERS, STYLE_LAYERS, BecomesNan, gram_distance, make_gatys, optimizations, with_targets
from hydra.core.global_hydra import GlobalHydra
from networks import saved_decoder
from pictures import smooth_picture
from pytorch_lightning import Callback
from torch import Tensor
from torch.nn import functional

import nstexp.cli as cli
from nstexp.core.color import color_moments
from nstexp.core.errors import Stopped, UserError
from nstexp.core.losses import ContentLoss, GramLoss, HistogramLoss, LaplacianLoss, MomentsLoss, TotalVariation
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import resize
from nstexp.media.images import load_image, save_image
from nstexp.methods import canvas as optimize
from nstexp.methods.adain import AdaIN
from nstexp.methods.base import Controls, Style
from nstexp.methods.gatys import Gatys
from nstexp.methods.picture import PictureOptimization
from nstexp.outputs import RunFolder
from nstexp.tasks.color import prepare_colors
from nstexp.tasks.request import Request
from nstexp.tasks.stylize import stylize

BARE = {"levels": 1, "margin_px": 0, "style_resize": "none"}  # the picture is the canvas, the styles are as they are


pytestmark = pytest.mark.usefixtures("one_thread")


CONTENT, ONE = smooth_picture(48, 40), smooth_picture(40, 56, seed=1)[0]
TWO = 1 - 0.5 * smooth_picture(44, 36, seed=2)[0]
FINE = torch.rand(3, 52, 44, generator=torch.Generator().manual_seed(5))  # strokes of one pixel


def finished(gatys: Gatys, styles: Sequence[Style], **controls) -> PictureOptimization:
    """The optimization of the picture, after its last step."""
    return optimizations(gatys, CONTENT, styles, **controls)[-1]


# --------------------------------------------------------------------------------------------------- layers of a style


def test_each_style_counts_at_its_own_layers_only():
    gatys = make_gatys(max_steps=3, **BARE)
    styles = [Style(ONE, 0.3, layers=("conv1_1",)), Style(TWO, 0.9, layers=("relu2_1", "relu3_1"))]
    run = finished(gatys, styles)
    found, best = run.final_losses(), run._best[1]
    each = [gram_distance(gatys.encoder, best, s.image, s.layers) for s in styles]
    assert [found["gram_style1"], found["gram_style2"]] == pytest.approx(each, rel=1e-4)
    assert found["gram"] == pytest.approx(0.3 * each[0] + 0.9 * each[1], rel=1e-4)


@pytest.mark.slow
def test_layers_where_no_style_counts_are_not_computed():
    gatys = make_gatys({"content": ContentLoss(["relu2_2"]), "gram": GramLoss(STYLE_LAYERS)}, max_steps=2, **BARE)
    asked = []
    gatys.encoder.register_forward_hook(lambda module, args, out: asked.append(set(args[1])))
    run = finished(gatys, [Style(ONE, 0.5, layers=("relu1_1",)), Style(TWO, 0.5, layers=("conv1_1", "relu2_1"))])
    assert asked[-1] == {"relu2_2", "relu1_1", "relu2_1"}
    assert run.canvas.size == (48, 40)
    assert set(run.final_losses()) == {"total", "content", "gram", "gram_style1", "gram_style2", "gram_trace_ratio"}


@pytest.mark.slow
def test_statistics_are_averaged_where_several_styles_count():
    gatys = make_gatys(max_steps=2, **BARE)
    styles = [Style(ONE, 3.0, layers=("relu1_1", "relu2_1")), Style(TWO, 1.0, layers=("relu2_1", "relu3_1"))]
    run = finished(gatys, styles, combine="mean_gram")
    ((share, target),) = run._targets.goals["gram"]
    one, two = (gatys.losses.terms["gram"].target(gatys.encoder(image[None], STYLE_LAYERS)) for image in (ONE, TWO))
    assert share == 1
    torch.testing.assert_close(target["relu1_1"], one["relu1_1"])
    torch.testing.assert_close(target["relu2_1"], 0.75 * one["relu2_1"] + 0.25 * two["relu2_1"])
    torch.testing.assert_close(target["relu3_1"], two["relu3_1"])


@pytest.mark.slow
def test_a_term_with_no_layer_left_is_refused_unless_it_is_logged_only():
    terms = {"gram": GramLoss(STYLE_LAYERS), "histogram": HistogramLoss(["relu3_1"])}
    style = Style(ONE, layers=("relu1_1",))
    with pytest.raises(UserError, match=r"^style_layers: the loss term 'histogram' has none of these layers"):
        finished(make_gatys(terms, {"beta": 1.0}, max_steps=2, **BARE), [style])
    run = finished(make_gatys(terms, {"beta": 1.0, "histogram": 0.0}, max_steps=2, **BARE), [style])
    assert run.final_losses()["histogram"] == 0
    assert run.final_losses()["gram"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "style", "settings"),
    [
        ((100, 100), Style(ONE), {"style_scale": 0.5}),
        ((128, 128), Style(smooth_picture(30, 200)[0]), {}),
        ((48, 40), Style(ONE, layers=("relu1_1",)), {}),
        ((48, 48), Style(ONE, fine=FINE), {}),
    ],
    ids=["fine strokes", "elongated", "shallow", "with strokes"],
)
def test_coarse_levels_at_which_a_style_would_vanish_are_left_out(content, style, settings):
    terms = {"content": ContentLoss(["relu3_2"]), "gram": GramLoss([*STYLE_LAYERS, "relu4_1", "relu5_1"])}
    gatys = make_gatys(terms, levels=4, coarse_steps=2, fine_steps=2, max_steps=9, **settings)
    assert gatys.stylize(smooth_picture(*content), [style], Controls()).shape[-2:] == content


@pytest.mark.slow
def test_strokes_are_made_once_for_pictures_of_one_size():
    gatys, style = make_gatys(fine_steps=2, max_steps=2, **BARE), Style(ONE, fine=FINE)
    made = [len(optimizations(gatys, CONTENT, [style])) for _ in range(2)]
    assert made == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["weighted_loss", "mean_gram"])
def test_the_other_methods_start_takes_styles_with_layers_of_their_own(tmp_path, combine):
    encoder = VGG(random_vgg(), pad="reflect")
    file = saved_decoder(encoder, "relu4_1", tmp_path / "decoder.safetensors")
    gatys = make_gatys(
        init="adain",
        adain=lambda dtype: AdaIN(VGG(random_vgg(), pad="reflect"), layer="relu4_1", decoder=file),
        max_steps=2,
        levels=1,
    )
    styles = [Style(ONE, 0.5, layers=("relu1_1",)), Style(TWO, 0.5, layers=("relu2_1",))]
    assert gatys.stylize(CONTENT, styles, Controls(combine=combine)).shape == CONTENT.shape


# --------------------------------------------------------------------------------------------------------- fine strokes


@pytest.mark.slow
def test_fine_strokes_give_the_style_the_shallow_statistics_of_another_picture():
    gatys = make_gatys(fine_steps=60)
    mixed = gatys._with_fine_strokes(Style(ONE, 0.7, fine=FINE), (48, 40), Controls())
    size = gatys.settings.style_size(ONE, (48, 40))
    assert (mixed.share, mixed.fine, tuple(mixed.image.shape[-2:])) == (0.7, None, size)
    coarse, fine = resize(ONE[None], size), resize(FINE[None], gatys.settings.style_size(FINE, (48, 40)))
    layers = gatys.settings.fine_layers
    before, after = (gram_distance(gatys.encoder, image, fine[0], layers) for image in (coarse, mixed.image[None]))
    assert after < 0.2 * before
    # What is large stays where it was.
    layouts = [functional.avg_pool2d(image.mean(1, keepdim=True), 8).flatten() for image in (coarse, mixed.image[None])]
    assert torch.corrcoef(torch.stack(layouts))[0, 1] > 0.6


@pytest.mark.slow
def test_the_result_gets_the_strokes_of_the_fine_picture():
    settings = {"weights": {"alpha": 0.0, "beta": 1e3}, "max_steps": 40, "fine_steps": 60, **BARE}
    found = {}
    for name, style in {"plain": Style(ONE), "fine": Style(ONE, fine=FINE)}.items():
        gatys = make_gatys(**settings)
        result = gatys.stylize(CONTENT, [style], Controls())
        found[name] = gram_distance(gatys.encoder, result, FINE, ["relu1_1"])
    assert found["fine"] < 0.4 * found["plain"]


@pytest.mark.slow
def test_only_the_fine_layers_and_the_style_terms_make_the_strokes():
    terms = {
        "content": ContentLoss(["relu3_2"]),
        "laplacian": LaplacianLoss([4]),
        "gram": GramLoss(STYLE_LAYERS),
        "tv": TotalVariation("mean", 1),
    }
    weights = {"alpha": 1.0, "beta": 1e3, "laplacian": 1.0, "tv": 0.5}
    gatys = make_gatys(terms, weights, fine_layers=["conv1_1"], fine_steps=3)
    first, second = optimizations(gatys, CONTENT, [Style(ONE, fine=FINE)], log_prefix="photo/")
    assert set(first.final_losses()) == {"total", "gram", "tv", "gram_trace_ratio"}
    assert first.layers == ("relu1_1",)
    assert (first.recorded, second.recorded) == (False, True)
    assert (first.steps_done, second.steps_done) == (3, 12)


@pytest.mark.slow
def test_strokes_keep_the_mask_the_layers_and_the_share():
    left = torch.zeros(48, 40)
    left[:, :20] = 1
    styles = [
        Style(ONE, 0.6, left, layers=("relu1_1", "relu2_1"), fine=FINE),
        Style(TWO, 0.4, 1 - left, layers=("relu3_1",)),
    ]
    run = finished(make_gatys(fine_steps=2, max_steps=2, **BARE), styles)
    for used, given in zip(run.styles, styles, strict=True):
        assert (used.share, used.layers, used.fine) == (given.share, given.layers, None)
        assert torch.equal(used.mask, given.mask)
    assert torch.equal(run.styles[1].image, TWO)
    assert not torch.equal(run.styles[0].image, ONE)


@pytest.mark.slow
@pytest.mark.parametrize("style_scale", [1.0, 2.0])
@pytest.mark.parametrize("style_resize", ["area", "squash", "none"])
def test_strokes_do_not_change_the_size_of_the_style(style_resize, style_scale):
    gatys = make_gatys(style_resize=style_resize, style_scale=style_scale, fine_steps=1, max_steps=1)
    sizes = []
    for style in (Style(ONE), Style(ONE, fine=FINE)):
        run = finished(gatys, [style])
        sizes.append(run.settings.style_size(run.styles[0].image, (48, 40)))
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_strokes_are_made_with_a_list_of_coarse_steps_too():
    gatys = make_gatys(levels=3, coarse_steps=[3, 2], fine_steps=4)
    strokes, run = optimizations(gatys, CONTENT, [Style(ONE, fine=FINE)])
    assert (strokes.steps_done, run.steps_done) == (4, 12)
    assert (len(strokes.levels), len(run.levels)) == (1, 3)


@pytest.mark.slow
def test_strokes_that_fail_are_told_and_leave_no_picture():
    terms = {"gram": GramLoss(STYLE_LAYERS), "broken": BecomesNan(2)}
    gatys = make_gatys(terms, {"beta": 1e3, "broken": 1.0}, levels=1)
    with pytest.raises(Stopped, match="'broken' became nan at step 2 of the fine strokes") as stopped:
        gatys.stylize(CONTENT, [Style(ONE, fine=FINE)], Controls())
    assert stopped.value.image is None
    assert not stopped.value.interrupted


@pytest.mark.parametrize("color", ["preserve", "luminance"])
def test_fine_pictures_are_recolored_as_their_styles_are(color):
    (style,) = prepare_colors(color, 1.0, CONTENT, [Style(ONE, fine=0.5 * TWO)])[1]
    if color == "luminance":
        assert (style.fine.amax(0) - style.fine.amin(0)).max() < 1e-6
    assert not torch.allclose(color_moments(0.5 * TWO)[0], color_moments(CONTENT)[0], atol=0.05)
    content = color_moments(CONTENT)[0] if color == "preserve" else None
    for image in (style.image, style.fine):
        if content is not None:
            assert torch.allclose(color_moments(image)[0], content, atol=0.02)
    (untouched,) = prepare_colors("match", 1.0, CONTENT, [Style(ONE, fine=TWO)])[1]
    assert untouched.fine is TWO


# ----------------------------------------------------------------------------------------------- from files to styles


class Recorder:
    """A method that keeps the styles it was given."""

    accepts = frozenset({"layers", "fine", "combine", "masks"})

    def __init__(self) -> None:
        self.given: list[Style] = []

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        self.given, self.controls = list(styles), controls
        return content


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Pictures photo, one, two and fine."""
    monkeypatch.chdir(tmp_path)
    for name, image in {"photo": CONTENT[0], "one": ONE, "two": TWO, "fine": FINE}.items():
        save_image(image, f"{name}.png")


def recorded(style: str | list[str], **options) -> Recorder:
    recorder = Recorder()
    stylize(recorder, RunFolder("run"), Request("photo.png", style, **options))
    return recorder


@pytest.mark.usefixtures("files")
def test_style_layers_go_to_the_styles_in_their_order():
    recorder = recorded(["one.png", "two.png"], style_layers=[["relu1_1"], ["conv2_1", "relu3_1"]])
    assert [style.layers for style in recorder.given] == [("relu1_1",), ("conv2_1", "relu3_1")]
    assert [style.layers for style in recorded("one.png").given] == [None]


@pytest.mark.usefixtures("files")
def test_one_fine_picture_is_for_all_and_several_are_for_one_each():
    two = ["one.png", "two.png"]
    fine = load_image("fine.png")
    assert [style.fine for style in recorded(two).given] == [None, None]
    assert all(torch.equal(style.fine, fine) for style in recorded(two, fine_style="fine.png").given)
    first, second = recorded(two, fine_style=["two.png", "fine.png"]).given
    assert torch.equal(first.fine, load_image("two.png"))
    assert torch.equal(second.fine, fine)
    assert torch.equal(first.image, load_image("one.png"))


@pytest.mark.usefixtures("files")
def test_the_way_to_combine_reaches_the_method():
    for combine in ("weighted_loss", "mean_gram", "sum_gram"):
        assert recorded(["one.png", "two.png"], style_combine=combine).controls.combine == combine


TWO_STYLES = ["one.png", "two.png"]
REFUSED_FILES = {
    "one style, sum_gram": ("one.png", {"style_combine": "sum_gram"}, "style_combine=sum_gram needs two or more pic"),
    "one style, mean_gram": ("one.png", {"style_combine": "mean_gram"}, "style_combine=mean_gram needs two or more"),
    "unknown combination": (TWO_STYLES, {"style_combine": "sum"}, "style_combine=sum is unknown, choose one of"),
    "too few lists": (TWO_STYLES, {"style_layers": [["relu1_1"]]}, "style_layers has 1 lists for 2 style pictures"),
    "too many lists": ("one.png", {"style_layers": [["relu1_1"]] * 2}, "style_layers has 2 lists for 1 style pictures"),
    "no lists": (TWO_STYLES, {"style_layers": ["relu1_1", "relu2_1"]}, "style_layers=['relu1_1', 'relu2_1']: give one"),
    "one name": ("one.png", {"style_layers": "relu1_1"}, "style_layers=relu1_1: give one list of layers per style"),
    "an empty list": (TWO_STYLES, {"style_layers": [["relu1_1"], []]}, "style_layers=[['relu1_1'], []]: give one list"),
    "nothing": (TWO_STYLES, {"style_layers": []}, "style_layers=[]: give one list of layers per style picture"),
    "a number": ("one.png", {"style_layers": 3}, "style_layers=3: give one list of layers per style picture"),
    "three fine": (TWO_STYLES, {"fine_style": ["one.png"] * 3}, "fine_style has 3 pictures for 2 style pictures"),
    "two fine": ("one.png", {"fine_style": TWO_STYLES}, "fine_style has 2 pictures for 1 style pictures"),
    "no fine": ("one.png", {"fine_style": []}, "fine_style is empty"),
    "missing fine": ("one.png", {"fine_style": "nowhere.png"}, "fine_style=nowhere.png: there is no such file"),
    "fine is output": ("one.png", {"fine_style": "two.png", "output": "two.png"}, "output: the result would replace"),
}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("case", REFUSED_FILES)
def test_bad_input_is_one_sentence_that_names_its_key(case):
    style, options, message = REFUSED_FILES[case]
    with pytest.raises(UserError) as refused:
        recorded(style, **options)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert not Path("run").exists()


# ------------------------------------------------------------------------------------------------------------ refusals


class WithoutBlend(GramLoss):
    blend = property()  # as in a term that never had one


class WithoutGuides(GramLoss):
    def forward(self, feats, target):
        return super().forward(feats, target)


MASKED = [Style(ONE, mask=torch.ones(48, 40)), Style(TWO, mask=torch.zeros(48, 40))]
REFUSED_SETTINGS = {
    "project with lbfgs": ({"clamp": "project"}, "clamp=project does not work with L-BFGS"),
    "unknown clamp": ({"clamp": "always"}, "clamp=always is unknown, choose one of on_save, project"),
    "normalized with lbfgs": ({"normalize_gradients": True}, "normalize_gradients=true does not work with L-BFGS"),
    "unknown guide": ({"guide": "outside"}, "guide=outside is unknown, choose one of simple, inside, all"),
    "no fine steps": ({"fine_steps": 0}, "fine_steps=0: give a whole number, 1 or larger"),
    "too few numbers": (
        {"levels": 3, "coarse_steps": [4]},
        "coarse_steps=[4] has 1 numbers, but method.levels=3 needs 2",
    ),
    "too many numbers": (
        {"levels": 1, "coarse_steps": [4]},
        "coarse_steps=[4] has 1 numbers, but method.levels=1 needs 0",
    ),
    "no steps left": ({"levels": 3, "coarse_steps": [6, 6]}, "coarse_steps=[6, 6] leaves no steps for full size"),
    "a negative number": ({"levels": 3, "coarse_steps": [6, -1]}, "coarse_steps[1]=-1: give a whole number"),
    "a fraction": ({"levels": 2, "coarse_steps": [1.5]}, "coarse_steps[0]=1.5: give a whole number"),
    "one fraction": ({"coarse_steps": 1.5}, "coarse_steps=1.5"),
    "one truth": ({"coarse_steps": True}, "coarse_steps=True: give a whole number, 0 or larger"),
    "none at all": ({"coarse_steps": None}, "coarse_steps=None"),
}


@pytest.mark.parametrize("case", REFUSED_SETTINGS)
def test_a_bad_setting_is_one_sentence_that_names_its_key(case):
    settings, message = REFUSED_SETTINGS[case]
    with pytest.raises(UserError) as refused:
        make_gatys(**settings)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


NOT_WITH_MASKS = "does not work with masks: leave style_combine out"
REFUSED_STYLES = {
    "no style layer": ([Style(ONE, layers=("relu4_1",))], {}, {}, "style_layers=['relu4_1']: give some of"),
    "unknown layer": ([Style(ONE, layers=("relu9_9",))], {}, {}, "style_layers"),
    "masks, sum_gram": (MASKED, {}, {"combine": "sum_gram"}, f"style_combine=sum_gram {NOT_WITH_MASKS}"),
    "masks, mean_gram": (MASKED, {}, {"combine": "mean_gram"}, f"style_combine=mean_gram {NOT_WITH_MASKS}"),
    "masks, no guides": (
        MASKED,
        {"terms": {"own": WithoutGuides(STYLE_LAYERS)}, "weights": {"beta": 1}},
        {},
        "masks=...: the loss term 'own' does not work with masks",
    ),
    "mean_gram, no blend": (
        [Style(ONE), Style(TWO)],
        {"terms": {"own": WithoutBlend(STYLE_LAYERS)}, "weights": {"beta": 1}},
        {"combine": "mean_gram"},
        "style_combine=mean_gram: the loss term 'own' knows only style_combine=weighted_loss",
    ),
    "fine layers elsewhere": (
        [Style(ONE, fine=TWO)],
        {"fine_layers": ["relu1_1", "relu4_1"]},
        {},
        "method.fine_layers=['relu1_1', 'relu4_1']: give some of the style layers relu1_1, relu2_1, relu3_1",
    ),
    "no fine layers": ([Style(ONE, fine=TWO)], {"fine_layers": []}, {}, "fine_layers=[]: give a list of names"),
    "unknown fine layer": ([Style(ONE, fine=TWO)], {"fine_layers": ["relu9_9"]}, {}, "method.fine_layers"),
    "fine, no style weight": ([Style(ONE, fine=TWO)], {"weights": {"alpha": 1.0, "beta": 0.0}}, {}, "fine_style"),
    "fine too small": ([Style(ONE, fine=torch.rand(3, 2, 900))], {}, {}, "fine_style"),
    "too small for a Laplacian": (
        [Style(ONE)],
        {"terms": {"laplacian": LaplacianLoss([4, 16])}, "weights": {"laplacian": 1}},
        {},
        "content: the picture is 40x48 px, but a loss needs 48 px on the shorter side",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED_STYLES)
def test_styles_that_do_not_fit_are_refused_in_one_sentence_with_the_key(case):
    styles, settings, controls, message = REFUSED_STYLES[case]
    with pytest.raises(UserError) as refused:
        make_gatys(**settings).stylize(CONTENT, styles, Controls(**controls))
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_term_without_blend_or_guides_works_with_one_style_and_with_weighted_losses():
    for term in (WithoutBlend, WithoutGuides):
        gatys = make_gatys({"own": term(STYLE_LAYERS)}, {"beta": 1}, max_steps=1, levels=1)
        for styles in ([Style(ONE)], [Style(ONE, 0.5), Style(TWO, 0.5)]):
            assert gatys.stylize(CONTENT, styles, Controls()).isfinite().all()


AT_ONE_LAYER = "AdaIN exchanges statistics at one layer; use method=gatys for it"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("options", "key", "reason"),
    [
        ({"style_layers": [["relu1_1"]]}, "style_layers", AT_ONE_LAYER),
        ({"fine_style": "fine.png"}, "fine_style", AT_ONE_LAYER),
        (
            {"style_combine": "mean_gram"},
            "style_combine=mean_gram",
            "AdaIN averages by style_weights; use method=gatys for it",
        ),
    ],
)
def test_what_another_method_does_not_take_is_refused_before_the_work(options, key, reason):
    folder = RunFolder("run")
    folder.summary.method = "adain"
    adain = AdaIN(VGG(random_vgg(), pad="reflect"), layer="relu4_1")
    with pytest.raises(UserError) as refused:
        stylize(adain, folder, Request("photo.png", "one.png", **options))
    assert str(refused.value) == f"{key} does not work with method=adain: {reason}"
    assert not Path("run").exists()


class TakesPicturesOnly:
    """A method from outside, which says nothing of what it takes."""

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        return content


@pytest.mark.usefixtures("files")
def test_a_method_that_says_nothing_takes_pictures_and_shares_only():
    folder, both = RunFolder("run"), ["one.png", "two.png"]
    for key, value in {"style_layers": [["relu1_1"]] * 2, "fine_style": "fine.png", "masks": both}.items():
        wanted = f"^{key} does not work with method=TakesPicturesOnly: leave it out, or choose another method$"
        with pytest.raises(UserError, match=wanted):
            stylize(TakesPicturesOnly(), folder, Request("photo.png", both, **{key: value}))
    assert stylize(TakesPicturesOnly(), folder, Request("photo.png", both, style_weights=[1, 3])).is_file()


# ------------------------------------------------------------------------------------------------------------ clamping


class Watch(Callback):
    """Keeps the smallest and the largest value of the image after every step."""

    def __init__(self):
        self.ranges: list[tuple[float, float]] = []

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        image = pl_module.image()
        self.ranges.append((float(image.min()), float(image.max())))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_project_keeps_every_image_in_its_range(optimizer):
    """A loud start and two levels; without the projection the image leaves its range at once."""
    settings = {"init": "noise", "noise_std": 1.0, "levels": 2, "optimizer": optimizer, "max_steps": 10}
    found = {}
    for clamp in ("on_save", "project"):
        watch = Watch()
        result = make_gatys(callbacks=[watch], clamp=clamp, **settings).stylize(CONTENT, [Style(ONE)], Controls())
        found[clamp] = watch.ranges
        assert 0 <= result.min() <= result.max() <= 1
    assert len(found["project"]) >= 10
    assert all(low >= -1e-6 and high <= 1 + 1e-6 for low, high in found["project"])
    assert all(low < -1e-3 and high > 1 + 1e-3 for low, high in found["on_save"])


@pytest.mark.parametrize("size", [(64, 64), (37, 51)])
def test_a_pyramid_is_clamped_and_what_is_in_range_stays(size):
    start = 3 * smooth_picture(*size) - 1
    image = optimize.PyramidImage(start, levels=4)
    with torch.no_grad():
        for number, offset in enumerate(image.offsets):
            offset += 0.2 * torch.randn(offset.shape, generator=torch.Generator().manual_seed(number))
    before = image().detach()
    coarse = [offset.detach().clone() for offset in image.offsets[1:]]
    image.clamp_()
    assert before.min() < -0.1 and before.max() > 1.1
    torch.testing.assert_close(image(), before.clamp(0, 1), rtol=0, atol=1e-6)
    assert all(torch.equal(offset, kept) for offset, kept in zip(image.offsets[1:], coarse, strict=True))


# ------------------------------------------------------------------------------------------------ normalized gradients


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_normalized_gradients_lower_the_losses(optimizer):
    settings = {"optimizer": optimizer, "normalize_gradients": True, "init": "noise", "max_steps": 40, **BARE}
    optimizers = OPTIMIZERS | {"sgd": partial(torch.optim.SGD, lr=1.0)}
    gatys = make_gatys(weights={"alpha": 1.0, "beta": 2.0}, optimizers=optimizers, **settings)
    run = with_targets(gatys.optimization(CONTENT, [Style(ONE)], Controls()))
    with torch.no_grad():
        before = run._evaluate(run.start).numbers()
    after = finished(gatys, [Style(ONE)]).final_losses()
    assert after["content"] < 0.9 * before["content"]
    assert after["gram"] < 0.5 * before["gram"]
    assert after["total"] == pytest.approx(after["content"] + 2 * after["gram"], rel=1e-5)


def test_normalized_gradients_keep_the_newest_picture():
    """The total may rise while every term does what its weight says."""
    settings = {"optimizer": "adam", "normalize_gradients": True, "max_steps": 12, **BARE}
    history = []
    gatys = make_gatys(weights={"alpha": 1.0, "beta": 20.0}, **settings)
    run = gatys.optimization(CONTENT, [Style(ONE)], Controls())
    keep = run._keep
    run._keep = lambda image, values: (history.append(image.detach().clone()), keep(image, values))
    gatys.trainer().fit(run, [0] * 100)
    assert len(history) == 12
    assert torch.equal(run.best_picture(), history[-1].clamp(0, 1))


@pytest.mark.slow
def test_normalized_gradients_give_each_layer_its_own_weight():
    changes = []
    for weights in ([1, 1, 1], [1, 1, 100]):
        terms = {"content": ContentLoss(["relu3_2"]), "gram": GramLoss(STYLE_LAYERS, layer_weights=weights)}
        settings = {"optimizer": "adam", "normalize_gradients": True, "max_steps": 3, **BARE}
        gatys = make_gatys(terms, {"alpha": 1.0, "beta": 1.0}, **settings)
        changes.append(finished(gatys, [Style(ONE)]).best_picture())
    assert not torch.allclose(changes[0], changes[1], atol=1e-3)


def test_normalized_gradients_make_the_weights_forget_the_size_of_a_loss():
    """Two forms of the same loss that differ by a factor of 4."""
    found = []
    for normalize in (True, False):
        pair = []
        for form in ("gatys", "mse_hw"):
            terms = {"content": ContentLoss(["relu3_2"]), "gram": GramLoss(STYLE_LAYERS, form)}
            settings = {"optimizer": "adam", "normalize_gradients": normalize, "init": "noise", **BARE}
            gatys = make_gatys(terms, {"alpha": 1.0, "beta": 1.0}, **settings)
            run = with_targets(gatys.optimization(CONTENT, [Style(ONE)], Controls()))
            pair.append(run._image_gradient(run.start))
        found.append(float((pair[0] - pair[1]).norm() / pair[0].norm()))
    assert found[0] < 1e-4 < 0.1 < found[1]


# -------------------------------------------------------------------------------------------------------------- levels


def sizes_seen(gatys: Gatys) -> list[tuple[int, int]]:
    """Size of the image at every evaluation."""
    seen = []

    def note(module, args, output):
        if args[0].requires_grad:
            seen.append(tuple(args[0].shape[-2:]))

    gatys.settings = replace(gatys.settings, freeze_share=0)
    gatys.encoder.register_forward_hook(note)
    gatys.stylize(CONTENT, [Style(ONE)], Controls())
    return seen


@pytest.mark.slow
def test_a_list_gives_each_coarser_level_its_own_steps():
    seen = sizes_seen(make_gatys(levels=3, coarse_steps=[5, 2], max_steps=10))
    assert seen == [(14, 12)] * 5 + [(28, 24)] * 2 + [(56, 48)] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("coarse_steps", "expected"),
    [([0, 3], [(28, 24)] * 3 + [(56, 48)] * 7), ([3, 0], [(14, 12)] * 3 + [(56, 48)] * 7), ([0, 0], [(56, 48)] * 10)],
)
def test_a_level_without_steps_is_left_out(coarse_steps, expected):
    assert sizes_seen(make_gatys(levels=3, coarse_steps=coarse_steps, max_steps=10)) == expected


def test_levels_too_small_for_the_encoder_take_the_first_numbers_with_them():
    levels = optimize.schedule((128, 96), levels=4, coarse_steps=[50, 30, 20], max_steps=200, min_side_px=32)
    assert [(level.size, level.last_step) for level in levels] == [((64, 48), 20), ((128, 96), 200)]
    levels = optimize.schedule((128, 96), levels=3, coarse_steps=[30, 20], max_steps=60, min_side_px=8)
    assert [(level.size, level.last_step) for level in levels] == [((32, 24), 30), ((64, 48), 50), ((128, 96), 60)]


@pytest.mark.slow
def test_a_loss_with_a_smallest_picture_leaves_smaller_levels_out():
    terms = {"laplacian": LaplacianLoss([4]), "gram": GramLoss(["relu1_1"])}
    gatys = make_gatys(terms, {"beta": 1e3, "laplacian": 0.01}, levels=3, coarse_steps=2, margin_px=0)
    run = finished(gatys, [Style(ONE)])
    assert [level.size for level in run.levels] == [(24, 20), (48, 40)], "the next has sides below 12 px"
    assert run.encoder.min_side_px(run.layers) < 10


# ------------------------------------------------------------------------------------------------------------- records


@pytest.mark.slow
def test_one_style_has_no_losses_of_its_own_and_its_energy_is_compared():
    gatys = make_gatys(max_steps=6, **BARE)
    run = finished(gatys, [Style(ONE, 0.4)])
    found = run.final_losses()
    assert set(found) == {"total", "content", "gram", "gram_trace_ratio"}
    ratios = []
    for layer in STYLE_LAYERS:
        energies = []
        for image in (run._best[1], ONE[None]):
            f = gatys.encoder(image, [layer])[layer][0].flatten(1).double().numpy()
            energies.append((f**2).sum() / f.shape[1])
        ratios.append(energies[0] / energies[1])
    assert found["gram_trace_ratio"] == pytest.approx(sum(ratios) / 3, rel=1e-5)


@pytest.mark.slow
def test_an_encoder_of_double_precision_is_recorded_too():
    gatys = make_gatys(max_steps=1, **BARE)
    gatys.encoder = gatys.encoder.double()
    assert set(finished(gatys, [Style(ONE)]).final_losses()) == {"total", "content", "gram", "gram_trace_ratio"}


@pytest.mark.slow
def test_the_energy_of_several_styles_is_averaged_by_their_shares():
    gatys = make_gatys(max_steps=2, **BARE)
    found = {}
    for shares in ((3.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
        run = finished(gatys, [Style(ONE, shares[0]), Style(TWO, shares[1])], combine="mean_gram")
        feats = gatys.encoder(run._best[1], STYLE_LAYERS)
        of_styles = [gatys.encoder(style[None], STYLE_LAYERS) for style in (ONE, TWO)]
        expected = 0.0
        for layer in STYLE_LAYERS:
            own, *parts = (float(f[layer].double().square().sum(1).mean()) for f in (feats, *of_styles))
            mixed = sum(share * part for share, part in zip(shares, parts, strict=True)) / sum(shares)
            expected += own / mixed / 3
        found[shares] = run.final_losses()["gram_trace_ratio"]
        assert found[shares] == pytest.approx(expected, rel=1e-4)
    assert found[1.0, 0.0] != pytest.approx(found[0.0, 1.0], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["weighted_loss", "mean_gram", "sum_gram"])
def test_every_style_term_is_told_against_each_style_alone(combine):
    terms = {
        "content": ContentLoss(["relu3_2"]),
        "gram": GramLoss(STYLE_LAYERS),
        "palette": MomentsLoss(["image"]),
        "tv": TotalVariation("mean", 1),
    }
    gatys = make_gatys(terms, {"alpha": 1.0, "beta": 1e3, "palette": 1.0, "tv": 0.0}, max_steps=3, **BARE)
    run = finished(gatys, [Style(ONE, 0.3), Style(TWO, 0.7)], combine=combine)
    found = run.final_losses()
    alone = {f"{name}_style{number}" for name in ("gram", "palette") for number in (1, 2)}
    assert set(found) == {"total", *terms, "gram_trace_ratio"} | alone
    each = [gram_distance(gatys.encoder, run._best[1], image, STYLE_LAYERS) for image in (ONE, TWO)]
    assert [found["gram_style1"], found["gram_style2"]] == pytest.approx(each, rel=1e-4)
    if combine == "weighted_loss":
        assert found["gram"] == pytest.approx(0.3 * each[0] + 0.7 * each[1], rel=1e-4)
        both = 0.3 * found["palette_style1"] + 0.7 * found["palette_style2"]
        assert found["palette"] == pytest.approx(both, rel=1e-4)


@pytest.mark.slow
def test_summed_gram_matrices_are_twice_the_mean_and_ask_for_more_energy():
    gatys = make_gatys(weights={"alpha": 0.0, "beta": 1e3}, max_steps=60, **BARE)
    styles = [Style(ONE, 0.5), Style(TWO, 0.5)]
    runs = {combine: finished(gatys, styles, combine=combine) for combine in ("mean_gram", "sum_gram")}
    (mean,), (total,) = (runs[combine]._targets.goals["gram"] for combine in ("mean_gram", "sum_gram"))
    parts = [gatys.losses.terms["gram"].target(gatys.encoder(image[None], STYLE_LAYERS)) for image in (ONE, TWO)]
    for layer in STYLE_LAYERS:
        torch.testing.assert_close(total[1][layer], parts[0][layer] + parts[1][layer])
        torch.testing.assert_close(total[1][layer], 2 * mean[1][layer])
    ratios = [runs[combine].final_losses()["gram_trace_ratio"] for combine in ("mean_gram", "sum_gram")]
    assert ratios[0] == pytest.approx(1, abs=0.3)
    assert ratios[1] > 1.3 * ratios[0]


# -------------------------------------------------------------------------------------------------------- command line


@pytest.mark.slow
@pytest.mark.usefixtures("files")
def test_everything_together_from_the_command_line(monkeypatch, capfd):
    """The record holds the picture's numbers and nothing of what only prepared it."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    overrides = [
        "experiment=smoke_gatys", "precision=fp32", "content=photo.png", "style=[one.png,two.png]",
        "style_combine=sum_gram", "style_layers=[[relu1_1,relu2_1],[relu2_1,relu3_1]]", "fine_style=fine.png",
        "loss=[content,gram,cov,swd,histogram,laplacian,range]", "method.fine_steps=2", "method.max_steps=5",
        "method.levels=2", "method.coarse_steps=[2]", "method.optimizer=adam", "method.clamp=project",
        "method.normalize_gradients=true", "picture_every_n_steps=1", "trainer.accelerator=cpu", "run_dir=out",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["nstexp", *overrides])
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, capfd.readouterr().err
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert set(metrics) == {"output"}
    style_terms = ("gram", "cov", "swd", "histogram")
    assert {f"{name}_style{n}" for name in style_terms for n in (1, 2)} <= set(metrics["output"])
    assert metrics["output"]["steps"] == 5
    with Path("out/losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["step"]) for row in rows] == [("output", str(step)) for step in (1, 2, 3, 4, 5)]
    assert all(float(row[name]) >= 0 for row in rows for name in (*style_terms, "content", "laplacian", "range"))
    assert all(path.name.startswith("output_") for path in Path("out/images").iterdir())
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["coefficients"] == {}  # with normalized gradients the weights are no factors
    terms = {"content", "gram", "cov", "swd", "histogram", "laplacian", "range"}
    assert terms <= set(summary["metrics"]["output"])
    assert "Traceback" not in capfd.readouterr().err
