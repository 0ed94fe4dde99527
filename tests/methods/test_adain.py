"""Stylizing with AdaIN: the controls, odd sizes, tiles, and what is computed only once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import saved_decoder
from torch.nn import functional as F

from nstexp.core.errors import UserError
from nstexp.core.losses import ContentLoss, MomentsLoss
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.stats import moments
from nstexp.core.networks.model_files import load_decoder, read_info
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.runtime.cache import TensorCache
from nstexp.methods.adain import AdaIN, bundled_adain
from nstexp.methods.adain_training import DecoderTraining
from nstexp.methods.base import Controls, Style
from nstexp.methods.settings import AdaINSettings
from nstexp.methods.training import Sources
from nstexp.weights import ADAIN_DECODER

LAYER = "relu4_1"


def noise(h, w, seed=0, batch=None):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch or 1, 3, max(2, h // 8), max(2, w // 8), generator=generator)
    image = F.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=False).clamp(0, 1)
    return image if batch else image[0]


@pytest.fixture(scope="module")
def encoder():
    return VGG(random_vgg(), pad="reflect")


@pytest.fixture(scope="module")
def decoder_file(encoder, tmp_path_factory):
    return saved_decoder(encoder, LAYER, tmp_path_factory.mktemp("decoder") / "d.safetensors")


@pytest.fixture
def adain(encoder, decoder_file):
    encoder.memory = TensorCache(2**20)  # no painting is known from another test
    return lambda **settings: AdaIN(encoder, **{"layer": LAYER, "decoder": decoder_file, "style_px": None, **settings})


A, B = Style(noise(48, 56, 1)), Style(noise(40, 64, 2))
CONTENT = noise(64, 48, 3)[None]
CONTROLS = Controls()


def test_alpha0_is_the_decoded_content(adain):
    method = adain(alpha=0)
    method._prepare()
    plain = method.decode(method.encode(CONTENT)).clamp(0, 1)
    torch.testing.assert_close(method.stylize(CONTENT, [A], CONTROLS), plain)
    assert (adain(alpha=1).stylize(CONTENT, [A], CONTROLS) - plain).abs().max() > 1e-4


def test_alpha_is_linear_in_the_features(adain, monkeypatch):
    seen = {}
    for alpha in (0, 0.25, 1):
        method = adain(alpha=alpha)
        monkeypatch.setattr(method, "decode", lambda f, a=alpha: seen.setdefault(a, f)[:, :3].repeat(1, 1, 8, 8))
        method.stylize(CONTENT, [A], CONTROLS)
    torch.testing.assert_close(seen[0.25], 0.25 * seen[1] + 0.75 * seen[0])


def test_alpha1_has_the_statistics_of_the_style(adain, encoder, monkeypatch):
    method = adain()
    seen = []
    monkeypatch.setattr(method, "decode", lambda f: seen.append(f) or torch.zeros(1, 3, 64, 48))
    method.stylize(CONTENT, [A], CONTROLS)
    mean, std = moments(seen[0])
    wanted_mean, wanted_std = moments(encoder(A.image[None], [LAYER])[LAYER])
    torch.testing.assert_close(mean, wanted_mean, rtol=0, atol=1e-4)
    alive = moments(encoder(CONTENT, [LAYER])[LAYER])[1] > 0.1  # a dead channel keeps its one value
    torch.testing.assert_close(std[alive], wanted_std[alive], rtol=1e-2, atol=0)


def test_interpolation(adain):
    only_a = adain().stylize(CONTENT, [A], CONTROLS)
    onehot = adain().stylize(CONTENT, [replace(A, share=1.0), replace(B, share=0.0)], CONTROLS)
    torch.testing.assert_close(onehot, only_a)
    twice = adain().stylize(CONTENT, [replace(A, share=0.3), replace(A, share=0.9)], CONTROLS)
    torch.testing.assert_close(twice, only_a)
    half = adain().stylize(CONTENT, [replace(A, share=0.5), replace(B, share=0.5)], CONTROLS)
    scaled = adain().stylize(CONTENT, [replace(A, share=7.0), replace(B, share=7.0)], CONTROLS)
    torch.testing.assert_close(half, scaled)
    assert (half - only_a).abs().max() > 1e-4


def test_masks(adain):
    whole = torch.ones(64, 48)
    plain = adain().stylize(CONTENT, [A], CONTROLS)
    masked = adain().stylize(CONTENT, [replace(A, mask=whole), replace(B, mask=0 * whole)], CONTROLS)
    torch.testing.assert_close(masked, plain, rtol=0, atol=1e-4)


def test_mask_partition(adain, encoder, monkeypatch):
    """Each region has the statistics of its own style; the content's are taken inside it."""
    method = adain()
    seen = []
    monkeypatch.setattr(method, "decode", lambda f: seen.append(f) or torch.zeros(1, 3, 64, 48))
    top = torch.zeros(64, 48)
    top[:32] = 1
    method.stylize(CONTENT, [replace(A, mask=top), replace(B, mask=1 - top)], CONTROLS)
    own = encoder(CONTENT, [LAYER])[LAYER]
    for part, before, style in ((seen[0][..., :4, :], own[..., :4, :], A), (seen[0][..., 4:, :], own[..., 4:, :], B)):
        mean, std = moments(encoder(style.image[None], [LAYER])[LAYER])
        torch.testing.assert_close(moments(part)[0], mean, rtol=0, atol=1e-4)
        alive = moments(before)[1] > 0.1
        torch.testing.assert_close(moments(part)[1][alive], std[alive], rtol=1e-2, atol=0)


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (33, 64), (50, 41), (16, 200)])
def test_any_size_comes_back_exactly(adain, size):
    result = adain().stylize(noise(*size)[None], [A], CONTROLS)
    assert result.shape == (1, 3, *size)
    assert result.isfinite().all() and result.min() >= 0 and result.max() <= 1


def test_a_batch_is_its_pictures_one_by_one(adain):
    batch = noise(48, 40, 5, batch=3)
    together = adain().stylize(batch, [A], CONTROLS)
    for picture, result in zip(batch, together, strict=True):
        torch.testing.assert_close(adain().stylize(picture[None], [A], CONTROLS)[0], result, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(200, 136), (130, 333)])
@pytest.mark.parametrize("masked", [False, True])
def test_tiled_equals_untiled(adain, size, masked):
    content = noise(*size, seed=7)[None]
    styles = [A]
    if masked:
        ramp = torch.linspace(0, 1, size[1]).expand(size)
        styles = [replace(A, mask=ramp), replace(B, mask=1 - ramp)]
    whole = adain(tile_px=4096).stylize(content, styles, CONTROLS)
    tiled = adain(tile_px=64).stylize(content, styles, CONTROLS)
    assert (whole - tiled).abs().max() < 1 / 255 / 4


def test_tiles_see_no_more_than_a_margin_more(adain, encoder, monkeypatch):
    sizes = []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda x, layers: sizes.append(x.shape[-2:]) or forward(x, layers))
    adain(tile_px=64).stylize(noise(400, 400)[None], [A], CONTROLS)
    margin = encoder.reach_px(LAYER) + 8
    assert len(sizes) == 1 + 49
    assert max(max(size) for size in sizes) <= 64 + 2 * margin


def test_reach_px_is_how_far_a_pixel_matters(encoder):
    reach = encoder.reach_px(LAYER)
    image = noise(256, 256, 9)[None]
    changed = image.clone()
    changed[..., 128, 128] = 1 - changed[..., 128, 128].round()
    difference = (encoder(image, [LAYER])[LAYER] - encoder(changed, [LAYER])[LAYER]).abs().amax((0, 1))
    rows = difference.amax(1).nonzero().flatten() * 8
    assert rows.min() + 7 + reach >= 128 and rows.max() - reach <= 128
    assert len(rows) > 3


def test_a_style_is_encoded_once_per_run(adain, encoder, monkeypatch):
    calls = []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda x, layers: calls.append(tuple(x.shape[-2:])) or forward(x, layers))
    method = adain()
    for seed in range(3):
        method.stylize(noise(32, 32, seed)[None], [replace(A, mask=None), B], CONTROLS)
    assert calls.count((48, 56)) == calls.count((40, 64)) == 1
    assert calls.count((32, 32)) == 3
    again = replace(A, mask=None, image=A.image.clone())  # another run of the same process
    adain_again = AdaIN(encoder, layer=LAYER, decoder=method.settings.decoder, style_px=None)
    adain_again.stylize(noise(32, 32)[None], [again, B], CONTROLS)
    assert calls.count((48, 56)) == calls.count((40, 64)) == 1


def test_style_px_is_the_shorter_side(adain, encoder, monkeypatch):
    calls = []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda x, layers: calls.append(tuple(x.shape[-2:])) or forward(x, layers))
    adain(style_px=80).stylize(CONTENT, [B], CONTROLS)
    assert (80, 128) in calls


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"alpha": 1.5}, r"^alpha=1\.5: give a number from 0 to 1"),
        ({"alpha": "much"}, r"^alpha=much"),
        ({"tile_px": 8}, r"^tile_px=8"),
        ({"style_px": 0}, r"^style_px=0"),
        ({"max_steps": 0}, r"^max_steps=0"),
        ({"optimizer": "sgd9", "optimizers": {"adam": None}}, r"^optimizer=sgd9 is unknown, choose one of adam"),
        ({"schedule": "x", "schedules": {"constant": None}}, r"^schedule=x is unknown, choose one of constant"),
        ({"layer": "relu9_9"}, r"unknown layer 'relu9_9'"),
    ],
)
def test_bad_settings_are_named(encoder, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        AdaIN(encoder, **{"layer": LAYER, **settings})


def test_pictures_too_small_for_the_layer_are_named(adain):
    with pytest.raises(UserError, match=r"content: the picture is 9x12 px, but relu4_1 needs at least 16 px"):
        adain().stylize(noise(12, 9)[None], [A], CONTROLS)
    with pytest.raises(UserError, match=r"style: .* set method\.style_px larger"):
        adain().stylize(CONTENT, [Style(noise(12, 12))], CONTROLS)


# ---------------------------------------------------------------------------------------------------- bundled decoder


@pytest.fixture(scope="module")
def bundled():
    return bundled_adain(torch.float32)


def test_the_bundled_decoder_is_small_and_says_what_it_is():
    assert ADAIN_DECODER.stat().st_size < 7.5e6
    info = read_info(ADAIN_DECODER)
    assert info.layer == "relu4_1" and info.steps > 0


@pytest.mark.slow
def test_the_bundled_decoder_stylizes(bundled):
    """Style statistics move from the content's toward the style's; the layout stays the content's."""
    from nstexp.core.resize import resize, size_for_shorter_side
    from nstexp.media.images import load_image
    from nstexp.media.samples import find

    content, style = (load_image(find(name)) for name in ("sample:coffee", "met:436535"))
    content, style = (resize(i, size_for_shorter_side(tuple(i.shape[-2:]), 192)) for i in (content, style))
    result = bundled.stylize(content[None], [Style(style)], CONTROLS)
    layers = ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]

    def statistics(image):
        return [torch.cat(moments(f), 1) for name, f in bundled.encoder(image, layers).items() if name in layers]

    goal, before, after = (statistics(i) for i in (style[None], content[None], result))
    distance = [
        [float((a - g).square().mean()) for a, g in zip(statistic, goal, strict=True)] for statistic in (before, after)
    ]
    assert sum(distance[1]) < 0.3 * sum(distance[0])
    luminance = [i.mean(1).flatten() for i in (content[None], result)]
    assert torch.corrcoef(torch.stack(luminance))[0, 1] > 0.3


def losses_at(layer: str) -> LossSet:
    return LossSet({"content": ContentLoss([layer]), "moments": MomentsLoss(["relu1_1"])}, {"alpha": 1, "beta": 10})


def test_a_training_starts_from_the_decoder_that_it_is_given(encoder, decoder_file):
    method = AdaIN(encoder, losses_at(LAYER), layer=LAYER, init="ridge")
    wanted = load_decoder(Path(decoder_file), encoder, LAYER).state_dict()
    module = method.training_module(Sources(resume_from=decoder_file))
    assert module.init_pictures == 0
    assert not all(torch.equal(value, wanted[name]) for name, value in module.decoder.state_dict().items())
    module.start(None)
    assert all(torch.equal(value, wanted[name]) for name, value in module.decoder.state_dict().items())
    assert method.training_module(Sources()).init_pictures == 64


@pytest.mark.parametrize("key", ["resume_from", "method.init"])
def test_a_decoder_that_is_not_there_is_named_with_its_key(encoder, key):
    method = AdaIN(encoder, losses_at(LAYER), layer=LAYER, init="nowhere.pth" if key == "method.init" else "default")
    module = method.training_module(Sources(resume_from="nowhere.pth" if key == "resume_from" else None))
    with pytest.raises(UserError, match=rf"^{key}=nowhere\.pth: there is no such file"):
        module.start(None)


def test_training_needs_one_content_layer(encoder):
    losses = losses_at("relu3_1")
    with pytest.raises(UserError, match=r"layers\.content=\['relu3_1'\]: AdaIN exchanges statistics at one layer"):
        DecoderTraining(encoder, losses, AdaINSettings(layer=LAYER), "default")
