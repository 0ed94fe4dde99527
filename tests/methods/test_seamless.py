"""seamless=true: a circular shift of the input shifts the result, and the edges of a result are like its inside."""

from dataclasses import replace

import pytest
import torch
from gatys_runs import STYLE_LAYERS, make_gatys, optimizations, with_targets
from networks import saved_decoder
from pictures import smooth_picture

from nstexp.core.errors import UserError
from nstexp.core.losses import ContentLoss, GramLoss, LaplacianLoss, TotalVariation, moments
from nstexp.core.networks.generators import Pyramid, Residual
from nstexp.core.networks.model_files import SwiftInfo, save_swift
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.swift import Swift
from nstexp.core.networks.vgg import VGG
from nstexp.core.torus import edge_steps, periodic
from nstexp.methods.adain import AdaIN
from nstexp.methods.base import Controls, Style
from nstexp.methods.feedforward import FeedForward
from nstexp.methods.swift import SwiftMethod

SHIFT = (16, -8)


def shifted(image, by=SHIFT):
    return image.roll(by, (-2, -1))


def tile(height, width, seed=0):
    """A picture (1, 3, H, W) that tiles, in float64."""
    return periodic(smooth_picture(height, width, seed=seed).double())


def all_terms():
    return {
        "content": ContentLoss(["relu3_2"]),
        "gram": GramLoss(STYLE_LAYERS),
        "tv": TotalVariation(),
        "laplacian": LaplacianLoss([4]),
    }


WEIGHTS = {"alpha": 1.0, "beta": 1e3, "tv": 1e-3, "laplacian": 1e-2}


@pytest.fixture(scope="module")
def encoder():
    return VGG(random_vgg(), dtype=torch.float64)


def gradients(encoder, content, start):
    """The gradients of the offsets of an optimization that goes on from `start`."""
    gatys = make_gatys(all_terms(), WEIGHTS, encoder=encoder, pyramid_levels=3, levels=1)
    style = Style(smooth_picture(40, 56, seed=1)[0].double())
    run = with_targets(gatys.optimization(content, [style], Controls(seamless=True)))
    run.image = run._parametrize(start)
    run._evaluate(run.image()).total.backward()
    return [offset.grad for offset in run.image.offsets]


def test_the_gradient_of_a_shifted_picture_is_shifted(encoder):
    content, start = tile(48, 40), tile(48, 40, seed=2)
    plain = gradients(encoder, content, start)
    moved = gradients(encoder, shifted(content), shifted(start))
    for level, (here, there) in enumerate(zip(plain, moved, strict=True)):
        by = tuple(px >> level for px in SHIFT)
        assert here.abs().max() > 0
        torch.testing.assert_close(there, shifted(here, by), atol=1e-9 * float(here.abs().max()), rtol=0)


@pytest.mark.parametrize("size", [(48, 40), (41, 30)])
def test_the_optimization_makes_a_tile_of_the_size_of_the_photo(size):
    content = periodic(smooth_picture(*size))
    gatys = make_gatys(levels=2, max_steps=8, encoder=VGG(random_vgg()))
    style = smooth_picture(40, 56, seed=1)[0]
    made = gatys.stylize(content, [Style(style)], Controls(seamless=True))
    assert made.shape == content.shape
    assert (made - content).abs().mean() > 0.01
    assert edge_steps(made).max() < 1.5


def test_coarse_levels_divide_into_whole_strides():
    gatys = make_gatys(levels=3, max_steps=12)
    run = gatys.optimization(tile(96, 72).float(), [Style(smooth_picture(90, 90)[0])], Controls(seamless=True))
    assert run.canvas.size == (96, 72)
    assert [level.size for level in run.levels] == [(24, 16), (48, 36), (96, 72)]
    assert run.canvas.margins == (0, 0, 0, 0)


def test_the_painting_keeps_the_padding_of_the_backbone(encoder):
    gatys = make_gatys(encoder=encoder, margin_px=0)
    content, style = tile(48, 40), Style(smooth_picture(40, 56, seed=1)[0].double())
    plain, torus = (
        gatys.optimization(content, [style], Controls(seamless=seamless))
        .maker.at((48, 40))
        .styles[0]
        .statistics["gram"]
        for seamless in (False, True)
    )
    for layer in STYLE_LAYERS:
        torch.testing.assert_close(plain[layer], torus[layer])


def test_a_texture_needs_no_photo_and_follows_no_content():
    gatys = make_gatys(max_steps=10, encoder=VGG(random_vgg()))
    style = Style(smooth_picture(40, 56, seed=1)[0])
    made = [
        gatys.stylize(blank, [style], Controls(seamless=True, texture=True))
        for blank in (torch.full((1, 3, 48, 40), 0.5), torch.full((1, 3, 48, 40), 0.2))
    ]
    assert torch.equal(*made)
    assert edge_steps(made[0]).max() < 1.5
    run = optimizations(gatys, torch.full((1, 3, 48, 40), 0.5), [style], texture=True)[0]
    assert list(run.final_losses()) == ["total", "gram", "gram_trace_ratio"]
    assert run.settings.init == "noise" and run.layers == tuple(STYLE_LAYERS)


def test_a_texture_needs_a_style_term_and_no_start_from_a_photo():
    blank, style = torch.full((1, 3, 48, 40), 0.5), Style(smooth_picture(40, 56, seed=1)[0])
    with pytest.raises(UserError, match=r"content=null: the style terms of the loss make a texture"):
        make_gatys(weights={"alpha": 1.0, "beta": 0}).stylize(blank, [style], Controls(texture=True))
    with pytest.raises(UserError, match=r"method\.init=recolored needs a photo"):
        make_gatys(init="recolored").stylize(blank, [style], Controls(texture=True))


def test_an_encoder_without_circular_padding_is_refused(encoder):
    class Plain:
        def __init__(self):
            self.identity, self.canonical, self.stride = "plain", encoder.canonical, encoder.stride
            self.depth, self.min_side_px = encoder.depth, encoder.min_side_px

    with pytest.raises(UserError, match="seamless=true: plain has no circular padding"):
        make_gatys(encoder=Plain()).stylize(tile(48, 40), [Style(tile(48, 40)[0])], Controls(seamless=True))


# ----------------------------------------------------------------------------------------------------------- networks


def check_shift(method, styles, content, by=SHIFT, atol=1e-5):
    """A shifted photo (B, 3, H, W) gives the shifted result, and the result has no seam; returns the result."""
    made = method.stylize(content, styles, Controls(seamless=True))
    moved = [replace(s, mask=None if s.mask is None else shifted(s.mask, by)) for s in styles]
    again = method.stylize(shifted(content, by), moved, Controls(seamless=True))
    torch.testing.assert_close(again, shifted(made, by), atol=atol, rtol=0)
    plain = method.stylize(content, styles, Controls())
    assert (made - plain).abs().max() > 1e-3, "without it the result is another"
    return made


def halves(height, width):
    left = torch.zeros(height, width)
    left[:, : width // 2] = 1
    return left, 1 - left


@pytest.mark.parametrize("masked", [False, True])
def test_adain_on_a_torus(tmp_path, masked):
    plain = VGG(random_vgg(), pad="reflect")
    method = AdaIN(
        plain, layer="relu3_1", decoder=saved_decoder(plain, "relu3_1", tmp_path / "d.safetensors"), style_px=None
    )
    masks = halves(48, 40) if masked else (None, None)
    styles = [Style(smooth_picture(48, 56, seed=n)[0], mask=mask) for n, mask in enumerate(masks, 1)]
    made = check_shift(method, styles, tile(48, 40).float())
    in_tiles = AdaIN(plain, layer="relu3_1", decoder=method.settings.decoder, style_px=None, tile_px=64)
    torch.testing.assert_close(
        in_tiles.stylize(tile(48, 40).float(), styles, Controls(seamless=True)), made, atol=1e-5, rtol=0
    )


def test_statistics_on_a_torus_are_those_of_one_period(tmp_path):
    plain = VGG(random_vgg(), dtype=torch.float64)
    method = AdaIN(plain, layer="relu3_1", decoder=saved_decoder(plain, "relu3_1", tmp_path / "d.safetensors"))
    content = tile(48, 40)
    one, four = (method._encode_on_torus(x) for x in (content, content.repeat(1, 1, 2, 2)))
    for here, there in zip(moments(one), moments(four), strict=True):
        torch.testing.assert_close(here, there)
    torch.testing.assert_close(one, plain.on_torus()(content, ["relu3_1"])["relu3_1"])


@pytest.mark.parametrize("masked", [False, True])
def test_swift_on_a_torus(tmp_path, masked):
    torch.manual_seed(0)
    network = Swift(widths=(8, 16, 16), groups=(8, 16, 16), experts=2)
    save_swift(network, SwiftInfo(network.settings), tmp_path / "s.safetensors")
    masks = halves(48, 40) if masked else (None, None)
    styles = [Style(smooth_picture(48, 56, seed=n)[0], mask=mask) for n, mask in enumerate(masks, 1)]
    # Curves follow from a grid of pixels, which are others after a shift.
    settings = {"model": str(tmp_path / "s.safetensors"), "style_px": None, "tones": 0.0}
    made = check_shift(SwiftMethod(**settings), styles, tile(48, 40).float(), atol=1e-4)
    large = tile(40, 320).float()
    if not masked:
        assert edge_steps(made).max() < 1.5
        toned = SwiftMethod(**{**settings, "tones": 1.0}).stylize(tile(48, 40).float(), styles, Controls(seamless=True))
        assert edge_steps(toned).max() < 1.5
        whole, tiled = (
            SwiftMethod(**settings, tile_px=px).stylize(large, styles, Controls(seamless=True)) for px in (2048, 256)
        )
        torch.testing.assert_close(whole, tiled, atol=1e-5, rtol=0)


NETWORKS = {
    "dumoulin2016": (Residual, {"width": 0.25, "blocks": 1, "weight_std": None}),
    "johnson2016": (Residual, {
        "width": 0.25, "blocks": 1, "weight_std": None, "pad": "zeros", "start_pad_px": 8, "up": "transposed",
        "output": "tanh", "space": "caffe",
    }),
    "zeros": (Residual, {"width": 0.25, "blocks": 1, "weight_std": None, "pad": "zeros", "last_kernel": 3}),
    "pyramid": (Pyramid, {"scales": 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_generators_on_a_torus(name):
    torch.manual_seed(0)
    kind, settings = NETWORKS[name]
    network = kind(norm="conditional", styles=2, **settings).double().eval()
    content, mix = tile(48, 40), torch.stack(halves(48, 40))[None].double()
    with torch.no_grad():
        for weights in (torch.tensor([1]), mix):
            made = network(content, weights, wraps=True)
            by = (network.multiple, -2 * network.multiple)
            moved = weights if weights is not mix else shifted(mix, by)
            torch.testing.assert_close(network(shifted(content, by), moved, wraps=True), shifted(made, by))
        # Twice the period beside each other has the same statistics.
        once, twice = network(content, wraps=True), network(content.repeat(1, 1, 2, 1), wraps=True)
        torch.testing.assert_close(twice, once.repeat(1, 1, 2, 1))
        assert (once - network(content)).abs().max() > 1e-3


def test_the_bundled_network_makes_tiles_of_any_size():
    method = FeedForward(model="bundled", norm="conditional")
    name = next(iter(method.styles))
    content = smooth_picture(62, 45)
    made = method.stylize(periodic(content), [Style(None, name=name)], Controls(seamless=True))
    assert made.shape == content.shape
    assert edge_steps(made).max() < 1.5
    assert edge_steps(method.stylize(content, [Style(None, name=name)], Controls())).max() > 2
