"""Per-image optimization as a whole, with a random encoder: what must hold whatever the weights."""

from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer

from nstexp.core.errors import Stopped, UserError
from nstexp.core.losses import ContentLoss, GramLoss, IdentityLoss, TotalVariation
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.optim.lbfgs import LBFGS
from nstexp.methods.base import Controls, Style
from nstexp.methods.gatys import Gatys, PictureOptimization

STYLE_LAYERS = ["relu1_1", "relu2_1", "relu3_1"]
OPTIMIZERS = {"lbfgs": LBFGS, "adam": partial(torch.optim.Adam, lr=0.02), "sgd": partial(torch.optim.SGD, lr=1e-3)}


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Random, but smooth enough to have structure at every scale."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return (fine + 0.1 * torch.rand(fine.shape, generator=generator)).clamp(0, 1)


def method(weights=None, terms=None, callbacks=(), encoder=None, **settings) -> Gatys:
    terms = terms or {"content": ContentLoss(["relu3_2"]), "gram": GramLoss(STYLE_LAYERS)}
    trainer = partial(
        Trainer,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    settings = {"max_steps": 12, "init": "content", "optimizer": "lbfgs", "margin_px": 4, **settings}
    losses = LossSet(terms, weights or {"alpha": 1.0, "beta": 1e3})
    return Gatys(encoder or VGG(random_vgg()), losses, trainer, optimizers=OPTIMIZERS, **settings)


def stylize(gatys: Gatys, content=None, style=None, **controls) -> torch.Tensor:
    content = picture(48, 40) if content is None else content
    return gatys.stylize(content, [Style(picture(40, 56, seed=1)[0] if style is None else style)], Controls(**controls))


def loss_of(gatys: Gatys, image: torch.Tensor, content: torch.Tensor, style: torch.Tensor) -> float:
    losses, encoder = gatys.losses, gatys.encoder
    targets = {n: [(1.0, t)] for n, t in losses.targets("content", encoder(content, losses.layers("content"))).items()}
    targets |= {n: [(1.0, t)] for n, t in losses.targets("style", encoder(style, losses.layers("style"))).items()}
    return float(losses(encoder(image, losses.layers()), targets).total)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("init", ["content", "noise", "recolored"])
def test_the_loss_falls(optimizer, init):
    gatys = method(optimizer=optimizer, init=init, levels=1, margin_px=0, max_steps=20, style_resize="none")
    content, style = picture(48, 40), picture(40, 56, seed=1)
    run = PictureOptimization(gatys, content, [Style(style[0])], Controls())
    result = stylize(gatys, content, style[0])
    begun, ended = (loss_of(gatys, image, content, style) for image in (run.start.clamp(0, 1), result))
    assert ended < begun * (0.99 if optimizer == "sgd" else 0.9)


@pytest.mark.parametrize("size", [(48, 40), (47, 61), (33, 130)])
@pytest.mark.parametrize("levels", [1, 3])
def test_the_result_has_exactly_the_contents_size_and_range(size, levels):
    result = stylize(method(max_steps=6, levels=levels), picture(*size))
    assert result.shape == (1, 3, *size)
    assert 0 <= result.min() <= result.max() <= 1


def test_the_same_seed_gives_the_same_bits():
    results = [stylize(method(init="noise", levels=2), seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_best_picture_is_kept_not_the_last():
    gatys = method(optimizer="sgd", levels=1, margin_px=0, max_steps=4, style_resize="none")
    gatys.make_optimizer = partial(torch.optim.SGD, lr=3.0)  # far too large: it can only get worse
    content, style = picture(48, 40), picture(40, 56, seed=1)
    assert torch.allclose(stylize(gatys, content, style[0]), content)


def test_alpha_zero_ignores_the_content_and_beta_zero_the_style():
    style = picture(40, 56, seed=1)[0]
    same = {"init": "noise", "levels": 1, "margin_px": 0}
    only_style = [stylize(method({"alpha": 0.0, "beta": 1e3}, **same), picture(48, 40, s), style) for s in (0, 5)]
    assert torch.equal(*only_style)
    only_content = [
        stylize(method({"alpha": 1.0, "beta": 0.0}, **same), picture(48, 40), picture(40, 56, s)[0]) for s in (1, 6)
    ]
    assert torch.equal(*only_content)


def test_steps_are_counted_in_evaluations_over_all_levels():
    gatys = method(max_steps=30, levels=2, coarse_steps=10)
    seen = []

    def note(module, args, output):
        if args[0].requires_grad:
            seen.append(args[0])

    gatys.encoder.register_forward_hook(note)
    gatys.freeze_share = 0
    stylize(gatys)
    sizes = [tuple(x.shape[-2:]) for x in seen]
    assert sizes == [(28, 24)] * 10 + [(56, 48)] * 20


def test_the_deepest_layer_is_left_out_only_where_it_moves_nothing():
    deep = {"content": ContentLoss(["relu3_2"]), "gram": GramLoss([*STYLE_LAYERS, "relu4_1"])}
    for share, frozen in ((0.0, False), (1e9, True)):
        gatys = method(terms=deep, levels=2, freeze_share=share, max_steps=8)
        run = PictureOptimization(gatys, picture(64, 64), [Style(picture(64, 64, 1)[0])], Controls())
        gatys.trainer().fit(run, [0] * 100)
        assert list(run._frozen) == (["relu4_1"] if frozen else [])
        assert set(run.final_losses()) == {"total", "content", "gram", "gram_trace_ratio"}


@pytest.mark.parametrize(
    ("terms", "weights"),
    [
        ({"content": ContentLoss(["relu3_2"]), "gram": GramLoss(STYLE_LAYERS)}, {"alpha": 1.0, "beta": 1e3}),
        ({"content": ContentLoss(["relu2_2", "relu3_2"]), "gram": GramLoss(STYLE_LAYERS)}, {"alpha": 1.0, "beta": 1.0}),
        ({"content": ContentLoss(["relu2_2"]), "gram": GramLoss(["relu3_1"])}, {"alpha": 1.0, "beta": 1.0}),
    ],
)
def test_a_layer_that_a_term_needs_is_never_left_out(terms, weights):
    """From the photo the content loss begins without a gradient."""
    gatys = method(weights, terms, levels=2, freeze_share=1e9, max_steps=8)
    run = PictureOptimization(gatys, picture(64, 64), [Style(picture(64, 64, 1)[0])], Controls())
    gatys.trainer().fit(run, [0] * 100)
    assert run._frozen == {}


@pytest.mark.parametrize("combine", ["weighted_loss", "mean_gram"])
def test_two_equal_styles_are_one_style(combine):
    content, style = picture(48, 40), picture(40, 56, seed=1)[0]
    one = method(max_steps=4, levels=1).stylize(content, [Style(style)], Controls())
    halves = [Style(style, 0.5), Style(style, 0.5)]
    two = method(max_steps=4, levels=1).stylize(content, halves, Controls(combine=combine))
    assert torch.allclose(one, two, atol=1e-3)


class Poison(TotalVariation):
    """A term that becomes NaN at its fourth evaluation."""

    def __init__(self):
        super().__init__("mean", 1)
        self.calls = 0

    def forward(self, feats, target):
        self.calls += 1
        return super().forward(feats, target) * (float("nan") if self.calls >= 4 else 1)


def test_a_nan_names_the_term_and_the_step_and_keeps_the_last_good_picture():
    terms = {"gram": GramLoss(STYLE_LAYERS), "broken": Poison()}
    gatys = method({"beta": 1e3, "broken": 1.0}, terms, levels=1)
    with pytest.raises(Stopped, match="'broken' became nan at step 4") as stopped:
        stylize(gatys)
    assert not stopped.value.interrupted
    assert stopped.value.image.shape == (1, 3, 48, 40)
    assert stopped.value.image.isfinite().all()


@pytest.mark.parametrize(
    ("content", "style", "message"),
    [
        (picture(7, 40), picture(40, 40), "content: the picture is 40x7 px, but relu3_2 needs at least 8 px"),
        (picture(40, 40), picture(2, 400), "style: at the result's scale the style picture is .* needs at least 8 px"),
    ],
)
def test_pictures_too_small_for_the_deepest_layer_are_refused(content, style, message):
    with pytest.raises(UserError, match=message):
        stylize(method(), content, style[0])


def test_a_picture_too_large_for_the_memory_is_refused_with_a_size_that_fits(monkeypatch):
    monkeypatch.setattr("nstexp.core.runtime.memory.free_bytes", lambda device: 2_000_000)
    with pytest.raises(
        UserError, match=r"^content: a picture of .* px needs about .* GB of memory .* set image_px=\d+ or less"
    ):
        stylize(method(), picture(400, 300))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_steps": 0}, "method.max_steps=0"),
        ({"max_steps": "abc"}, "method.max_steps=abc"),
        ({"levels": 0}, "method.levels=0"),
        ({"margin_px": -1}, "method.margin_px=-1"),
        ({"style_scale": 0}, "method.style_scale=0"),
        ({"style_resize": "stretch"}, "choose one of area, squash, none"),
        ({"optimizer": "newton"}, "choose one of lbfgs, adam, sgd"),
    ],
)
def test_bad_settings_name_their_key(setting, message):
    with pytest.raises(UserError, match=message):
        method(**setting)


def test_strokes_grow_with_style_scale_and_squash_takes_the_results_shape():
    style = picture(100, 50)[0]
    assert method(style_resize="none").style_size(style, (60, 60)) == (100, 50)
    assert method(style_resize="squash").style_size(style, (60, 80)) == (60, 80)
    height, width = method().style_size(style, (60, 60))
    assert (height, width) == (85, 42)  # 3,570 of 3,600 pixels, aspect 2:1
    assert method(style_scale=2).style_size(style, (60, 60)) == (170, 84)


def test_init_adain_starts_from_what_that_method_makes_of_the_whole_canvas():
    class Draft:
        def __init__(self, dtype):
            assert dtype == torch.float32

        def to(self, device):
            return self

        def stylize(self, content, styles, controls):
            self.seen = [tuple(style.image.shape[-2:]) for style in styles]
            with torch.inference_mode():
                return torch.full_like(content, 0.25)

    drafts = []
    gatys = method(init="adain", adain=lambda dtype: drafts.append(Draft(dtype)) or drafts[-1], max_steps=1, levels=1)
    watched = []
    start = gatys.start
    gatys.start = lambda *args: watched.append(start(*args)) or watched[-1]
    result = stylize(gatys)
    assert watched[0].shape == (1, 3, 56, 48) and (watched[0] == 0.25).all()  # the margin is drafted too
    assert drafts[0].seen == [gatys.style_size(picture(40, 56), (48, 40))]
    assert (result - 0.25).abs().mean() < 0.1


def test_a_term_for_training_is_refused():
    with pytest.raises(UserError, match=r"the loss term 'identity' is for training .* leave it out of loss"):
        terms = {"content": ContentLoss(["relu3_2"]), "identity": IdentityLoss([])}
        method(terms=terms, weights={"alpha": 1, "identity": 1})
