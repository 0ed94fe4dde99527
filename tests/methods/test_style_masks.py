"""The part of a style picture that counts: terms, optimization, AdaIN, Swift and colors, against the cut-out part."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from gatys_runs import STYLE_LAYERS, make_gatys, optimizations
from networks import saved_decoder
from pictures import smooth_picture
from torch import Tensor

from nstexp.core.color import color_moments
from nstexp.core.errors import UserError
from nstexp.core.losses import (
    ChromaHistogramLoss,
    CovarianceLoss,
    GramLoss,
    HistogramLoss,
    MomentsLoss,
    SlicedWassersteinLoss,
)
from nstexp.core.losses.transport import quantiles, sorted_values
from nstexp.core.masks import guides
from nstexp.core.networks.encoder import IMAGE
from nstexp.core.networks.model_files import SwiftInfo, save_swift
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.swift import Swift
from nstexp.core.networks.vgg import VGG
from nstexp.core.runtime.cache import TensorCache
from nstexp.methods.adain import AdaIN
from nstexp.methods.base import Controls, Style, Stylizer
from nstexp.methods.swift import SwiftMethod
from nstexp.tasks.color import finish_colors, prepare_colors

pytestmark = pytest.mark.usefixtures("one_thread")
CONTENT = smooth_picture(48, 64)
CONTROLS = Controls()


def painting() -> Tensor:
    """A dark left half and a light, colorful right half, (3, 48, 64)."""
    left, right = 0.4 * smooth_picture(48, 32, seed=1)[0], 1 - 0.6 * smooth_picture(48, 32, seed=2)[0]
    return torch.cat([left, right], 2)


def half(side: str = "left", height: int = 48, width: int = 64) -> Tensor:
    mask = torch.zeros(height, width)
    mask[:, : width // 2] = 1
    return mask if side == "left" else 1 - mask


def halves_of(image: Tensor) -> tuple[Tensor, Tensor]:
    left, right = image.chunk(2, -1)
    return left.contiguous(), right.contiguous()


# -------------------------------------------------------------------------------------------------------------- terms

TERMS = {
    **{f"gram {f}": partial(GramLoss, form=f) for f in ("gatys", "mse_chw", "keras")},
    "moments": MomentsLoss,
    "cov": CovarianceLoss,
    "histogram": HistogramLoss,
    "swd": SlicedWassersteinLoss,
}


@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_the_target_of_a_half_is_that_of_the_half_cut_out(make):
    generator = torch.Generator().manual_seed(0)
    style = torch.randn(1, 5, 8, 12, generator=generator, dtype=torch.float64)
    guide = half(height=8, width=12).double() * 2**0.5
    x = {IMAGE: torch.rand(1, 3, 6, 7), "a": torch.randn(1, 5, 6, 7, generator=generator, dtype=torch.float64)}
    term = make(["a"])
    of_half = term(x, term.target({"a": style}, {"a": guide}))
    cut, whole = term(x, term.target({"a": halves_of(style)[0]})), term(x, term.target({"a": style}))
    exact = make not in (HistogramLoss, SlicedWassersteinLoss)  # quantiles between twice as many values differ a little
    assert of_half.item() == pytest.approx(cut.item(), rel=1e-5 if exact else 0.1)
    assert abs(of_half.item() - cut.item()) < 0.5 * abs(whole.item() - cut.item())


@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_the_target_of_a_white_guide_is_that_of_the_whole(make):
    style = {"a": torch.rand(1, 4, 8, 6, generator=torch.Generator().manual_seed(0))}
    term = make(["a"])
    whole, white = term.target(style)["a"], term.target(style, {"a": torch.ones(8, 6)})["a"]
    pairs = zip(white, whole, strict=True) if isinstance(whole, tuple) else [(white, whole)]
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_hues_of_a_half_are_those_of_the_half_cut_out():
    term, image = ChromaHistogramLoss(), painting()[None]
    found = term.target({IMAGE: image}, {IMAGE: half() * 2**0.5})[IMAGE]
    torch.testing.assert_close(found, term.target({IMAGE: halves_of(image)[0]})[IMAGE], atol=1e-6, rtol=1e-4)


def test_weighted_values_have_the_quantiles_of_repeated_values():
    """A weight of 3 stands for three equal values."""
    values = torch.rand(2, 3, 40, generator=torch.Generator().manual_seed(0))
    times = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(1))
    found = sorted_values(values, times.float())
    repeated = values.repeat_interleave(times, -1).sort(-1).values
    middles = ((torch.arange(40) + 0.5) / 40 * repeated.shape[-1]).floor().long()
    assert torch.equal(found, repeated[..., middles])
    assert torch.equal(sorted_values(values, torch.ones(40)), values.sort(-1).values)
    assert torch.equal(quantiles(found, 40), found)


# ------------------------------------------------------------------------------------------------------- optimization


def test_targets_are_those_of_the_part():
    """At one size and without a margin, the Gram target is that of the guided features."""
    encoder = VGG(random_vgg())
    style = Style(painting(), part=half())
    gatys = make_gatys(encoder=encoder, levels=1, max_steps=1, margin_px=0, style_resize="none")
    (found,) = optimizations(gatys, CONTENT, [style])[-1].maker.at((48, 64)).styles
    factors = guides(half(), encoder, STYLE_LAYERS)
    feats = encoder(style.image[None], STYLE_LAYERS)
    for layer in STYLE_LAYERS:
        x = (feats[layer] * factors[layer])[0].flatten(1)
        torch.testing.assert_close(found.statistics["gram"][layer][0], x @ x.T / x.shape[1])
        assert found.energy[layer] == pytest.approx(float(x.square().sum(0).mean()), rel=1e-4)


@pytest.mark.parametrize("guide", ["simple", "inside", "all"])
def test_parts_make_other_pictures_and_white_makes_the_same(guide):
    gatys = make_gatys(max_steps=3, levels=1, guide=guide)
    plain, white, left, right = (
        gatys.stylize(CONTENT, [Style(painting(), part=part)], CONTROLS)
        for part in (None, torch.ones(48, 64), half(), half("right"))
    )
    torch.testing.assert_close(white, plain, atol=2e-3, rtol=0)
    assert left.mean() < plain.mean() - 0.01 and right.mean() > plain.mean() + 0.01
    assert torch.equal(left, gatys.stylize(CONTENT, [Style(painting(), part=half())], CONTROLS))


def test_parts_of_one_picture_go_to_regions():
    gatys = make_gatys({"gram": GramLoss(STYLE_LAYERS)}, {"beta": 1e4}, max_steps=25, levels=1, init="gray")
    image = painting()
    swapped = [Style(image, mask=half(one), part=half(other)) for one, other in (("left", "right"), ("right", "left"))]
    result = gatys.stylize(CONTENT, swapped, CONTROLS)
    assert result[..., :28].mean() > result[..., 36:].mean() + 0.1


def test_the_recolored_start_takes_the_colors_of_the_part():
    gatys = make_gatys(init="recolored", max_steps=1, levels=1, margin_px=0)
    start = optimizations(gatys, CONTENT, [Style(painting(), part=half())])[-1].start
    wanted = color_moments(halves_of(painting())[0])[0].float()
    torch.testing.assert_close(start.mean((0, 2, 3)), wanted, atol=0.02, rtol=0)


class NoGuides(GramLoss):
    def target(self, feats):
        return super().target(feats)


def test_a_term_that_reads_whole_pictures_is_refused():
    gatys = make_gatys({"gram": NoGuides(STYLE_LAYERS)}, {"beta": 1.0})
    gatys.stylize(CONTENT, [Style(painting())], CONTROLS)
    with pytest.raises(
        UserError, match=r"^style_masks, or masks=auto: the loss term 'gram' reads whole style pictures"
    ):
        gatys.stylize(CONTENT, [Style(painting(), part=half())], CONTROLS)


# ------------------------------------------------------------------------------------------------------ AdaIN, Swift


@pytest.fixture(scope="module")
def decoder_file(tmp_path_factory) -> str:
    encoder = VGG(random_vgg(), pad="reflect")
    return saved_decoder(encoder, "relu2_1", tmp_path_factory.mktemp("decoder") / "d.safetensors")


@pytest.fixture
def adain(decoder_file) -> AdaIN:
    encoder = VGG(random_vgg(), pad="reflect")
    encoder.memory = TensorCache(2**20)
    return AdaIN(encoder, layer="relu2_1", decoder=decoder_file, style_px=None)


@pytest.fixture(scope="module")
def swift(tmp_path_factory) -> SwiftMethod:
    torch.manual_seed(0)
    network, path = Swift((8, 16, 16), (8, 16, 16), 2), tmp_path_factory.mktemp("swift") / "model.safetensors"
    save_swift(network, SwiftInfo(network.settings), path)
    return SwiftMethod(model=str(path), style_px=None)


def test_moments_of_a_half_are_those_of_its_features(adain):
    features = adain.encode(painting()[None])
    mean, std = adain._style_moments(Style(painting(), part=half()), {})
    alone = halves_of(features)[0]
    torch.testing.assert_close(mean, alone.mean((2, 3), keepdim=True), atol=1e-5, rtol=1e-4)
    variance = alone.var((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(std, (variance + adain.settings.eps).sqrt(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("size", [(48, 64), (96, 128), (30, 40)])
def test_a_part_may_have_another_size_than_the_picture(adain, size):
    one, other = (
        adain._style_moments(Style(painting(), part=half(height=h, width=w)), {}) for h, w in ((48, 64), size)
    )
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["adain", "swift"])
def test_white_is_none_and_halves_differ(name, request):
    method: Stylizer = request.getfixturevalue(name)
    image = painting()
    plain, white, left, right = (
        method.stylize(CONTENT, [Style(image, part=part)], CONTROLS)
        for part in (None, torch.ones(48, 64), half(), half("right"))
    )
    torch.testing.assert_close(white, plain, atol=1e-4, rtol=0)
    assert (left - right).abs().mean() > 1e-3 and (left - plain).abs().mean() > 1e-3


@pytest.mark.parametrize("name", ["adain", "swift"])
def test_two_parts_of_one_picture_are_mixed_and_masked_like_two_pictures(name, request):
    method: Stylizer = request.getfixturevalue(name)
    image, copy = painting(), painting()
    left, right = Style(image, part=half()), Style(image, part=half("right"))
    for styles in (
        [left, right],
        [replace(left, mask=half()), replace(right, mask=half("right"))],
    ):
        apart = [styles[0], replace(styles[1], image=copy)]
        assert torch.equal(method.stylize(CONTENT, styles, CONTROLS), method.stylize(CONTENT, apart, CONTROLS))
    alone = method.stylize(CONTENT, [left], CONTROLS)
    assert (method.stylize(CONTENT, [left, right], CONTROLS) - alone).abs().mean() > 1e-3


def test_a_picture_is_encoded_once_for_all_its_parts(adain, monkeypatch):
    image, encode, sizes = painting(), adain.encode, []
    monkeypatch.setattr(adain, "encode", lambda picture: sizes.append(tuple(picture.shape)) or encode(picture))
    styles = [Style(image, part=half(side)) for side in ("left", "right")]
    for _ in range(2):
        adain.stylize(CONTENT, styles, CONTROLS)
    assert len(sizes) == 3  # the painting once, and the photo twice


def test_colors_of_swift_are_those_of_the_half_cut_out(swift):
    image = painting().repeat_interleave(2, 1).repeat_interleave(2, 2)
    part, cut_out = Style(image, part=half(height=96, width=128)), Style(halves_of(image)[0])
    half_kept, cut = swift._style(part, 96 * 128), swift._style(cut_out, 96 * 64)
    torch.testing.assert_close(half_kept.color_mean, cut.color_mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(half_kept.color_root, cut.color_root, atol=1e-4, rtol=1e-3)


# ------------------------------------------------------------------------------------------------------------- colors


def test_match_takes_the_colors_of_the_half_cut_out():
    image = painting()
    part, cut = Style(image, part=half()), Style(halves_of(image)[0])
    mask = torch.rand(48, 64, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"mask": torch.ones(48, 64)}, {"mask": mask}):
        found, expected = (
            finish_colors("match", 1.0, CONTENT, CONTENT, [replace(style, **options)]) for style in (part, cut)
        )
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_preserve_and_luminance_recolor_the_half_like_the_half_cut_out():
    image = painting()
    for color in ("preserve", "luminance"):
        (part,), (cut,) = (
            prepare_colors(color, 1.0, CONTENT, [style])[1]
            for style in (Style(image, part=half()), Style(halves_of(image)[0]))
        )
        torch.testing.assert_close(halves_of(part.image)[0], cut.image, atol=1e-4, rtol=0)
        assert part.part is not None


def test_the_part_says_nothing_of_fine_strokes():
    strokes = smooth_picture(30, 20, seed=5)[0]
    styles = [Style(painting(), fine=strokes, part=part) for part in (None, half())]
    one, other = (prepare_colors("preserve", 1.0, CONTENT, [style])[1][0].fine for style in styles)
    assert torch.equal(one, other)
