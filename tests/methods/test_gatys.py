"""Per-image optimization as a whole, with a random encoder: what must hold whatever the weights."""

from functools import partial

import pytest
import torch
from gatys_runs import OPTIMIZERS, STYLE_LAYERS, BecomesNan, make_gatys, stylized
from pictures import smooth_picture

from nstexp.core.errors import Stopped, UserError
from nstexp.core.losses import ContentLoss, GramLoss, IdentityLoss
from nstexp.core.optim.descent import GradientDescent
from nstexp.methods.base import Controls, Style
from nstexp.methods.gatys import Gatys


def loss_of(gatys: Gatys, image: torch.Tensor, content: torch.Tensor, style: torch.Tensor) -> float:
    losses, encoder = gatys.losses, gatys.encoder
    targets = {n: [(1.0, t)] for n, t in losses.targets("content", encoder(content, losses.layers("content"))).items()}
    targets |= {n: [(1.0, t)] for n, t in losses.targets("style", encoder(style, losses.layers("style"))).items()}
    return float(losses(encoder(image, losses.layers()), targets).total)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("init", ["content", "noise", "recolored"])
def test_the_loss_falls(optimizer, init):
    gatys = make_gatys(optimizer=optimizer, init=init, levels=1, margin_px=0, max_steps=20, style_resize="none")
    content, style = smooth_picture(48, 40), smooth_picture(40, 56, seed=1)
    run = gatys.optimization(content, [Style(style[0])], Controls())
    result = stylized(gatys, content, style[0])
    begun, ended = (loss_of(gatys, image, content, style) for image in (run.start.clamp(0, 1), result))
    assert ended < begun * (0.99 if optimizer == "sgd" else 0.9)


@pytest.mark.parametrize("optimizer", ["lbfgs", "torch_lbfgs", "adam", "limited"])
def test_optimizers_go_on_at_each_level(optimizer):
    """An optimizer that kept the image of the level before would change nothing."""
    others = {"torch_lbfgs": partial(torch.optim.LBFGS, max_iter=1), "limited": partial(GradientDescent, lr=1.0)}
    gatys = make_gatys(optimizers=OPTIMIZERS | others, optimizer=optimizer, levels=2, coarse_steps=6)
    run = gatys.optimization(smooth_picture(64, 64), [Style(smooth_picture(64, 64, 1)[0])], Controls())
    begun = []
    start_level = run._start_level
    run._start_level = lambda level: (start_level(level), begun.append(run.image().detach().clone()))
    gatys.trainer().fit(run, [0] * 100)
    assert len(begun) == 1
    assert float((run.image() - begun[0]).abs().mean()) > 1e-4


def test_decay_of_a_learning_rate_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"method.lr_decay=0.9: method.optimizer=lbfgs has no learning rate"):
        stylized(make_gatys(lr_decay=0.9))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(48, 40), (47, 61), (33, 130)])
@pytest.mark.parametrize("levels", [1, 3])
def test_the_result_has_exactly_the_contents_size_and_range(size, levels):
    result = stylized(make_gatys(max_steps=6, levels=levels), smooth_picture(*size))
    assert result.shape == (1, 3, *size)
    assert 0 <= result.min() <= result.max() <= 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits():
    results = [stylized(make_gatys(init="noise", levels=2), seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_best_picture_is_kept_not_the_last():
    too_fast = {"sgd": partial(torch.optim.SGD, lr=3.0)}  # it can only get worse
    settings = {"levels": 1, "margin_px": 0, "max_steps": 4, "style_resize": "none"}
    gatys = make_gatys(optimizer="sgd", optimizers=too_fast, **settings)
    content, style = smooth_picture(48, 40), smooth_picture(40, 56, seed=1)
    assert torch.allclose(stylized(gatys, content, style[0]), content)


@pytest.mark.slow
def test_alpha_zero_ignores_the_content_and_beta_zero_the_style():
    style = smooth_picture(40, 56, seed=1)[0]
    same = {"init": "noise", "levels": 1, "margin_px": 0}
    no_alpha, no_beta = {"alpha": 0.0, "beta": 1e3}, {"alpha": 1.0, "beta": 0.0}
    only_style = [stylized(make_gatys(weights=no_alpha, **same), smooth_picture(48, 40, s), style) for s in (0, 5)]
    assert torch.equal(*only_style)
    styles = [smooth_picture(40, 56, s)[0] for s in (1, 6)]
    only_content = [stylized(make_gatys(weights=no_beta, **same), smooth_picture(48, 40), style) for style in styles]
    assert torch.equal(*only_content)


def test_steps_are_counted_in_evaluations_over_all_levels():
    gatys = make_gatys(max_steps=30, levels=2, coarse_steps=10, freeze_share=0)
    seen = []

    def note(module, args, output):
        if args[0].requires_grad:
            seen.append(args[0])

    gatys.encoder.register_forward_hook(note)
    stylized(gatys)
    sizes = [tuple(x.shape[-2:]) for x in seen]
    assert sizes == [(28, 24)] * 10 + [(56, 48)] * 20


@pytest.mark.slow
def test_the_deepest_layer_is_left_out_only_where_it_moves_nothing():
    deep = {"content": ContentLoss(["relu3_2"]), "gram": GramLoss([*STYLE_LAYERS, "relu4_1"])}
    for share, frozen in ((0.0, False), (1.0, True)):
        gatys = make_gatys(terms=deep, levels=2, freeze_share=share, max_steps=8)
        run = gatys.optimization(smooth_picture(64, 64), [Style(smooth_picture(64, 64, 1)[0])], Controls())
        gatys.trainer().fit(run, [0] * 100)
        assert list(run._frozen) == (["relu4_1"] if frozen else [])
        assert set(run.final_losses()) == {"total", "content", "gram", "gram_trace_ratio"}


@pytest.mark.slow
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
    gatys = make_gatys(terms, weights, levels=2, freeze_share=1, max_steps=8)
    run = gatys.optimization(smooth_picture(64, 64), [Style(smooth_picture(64, 64, 1)[0])], Controls())
    gatys.trainer().fit(run, [0] * 100)
    assert run._frozen == {}


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["weighted_loss", "mean_gram"])
def test_two_equal_styles_are_one_style(combine):
    content, style = smooth_picture(48, 40), smooth_picture(40, 56, seed=1)[0]
    one = make_gatys(max_steps=4, levels=1).stylize(content, [Style(style)], Controls())
    halves = [Style(style, 0.5), Style(style, 0.5)]
    two = make_gatys(max_steps=4, levels=1).stylize(content, halves, Controls(combine=combine))
    assert torch.allclose(one, two, atol=1e-3)


@pytest.mark.slow
def test_a_nan_names_the_term_and_the_step_and_keeps_the_last_good_picture():
    terms = {"gram": GramLoss(STYLE_LAYERS), "broken": BecomesNan(4)}
    gatys = make_gatys(terms, {"beta": 1e3, "broken": 1.0}, levels=1)
    with pytest.raises(Stopped, match="'broken' became nan at step 4") as stopped:
        stylized(gatys)
    assert not stopped.value.interrupted
    assert stopped.value.image.shape == (1, 3, 48, 40)
    assert stopped.value.image.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "style_size", "message"),
    [
        ((7, 40), (40, 40), "content: the picture is 40x7 px, but relu3_2 needs at least 8 px"),
        (
            (40, 40),
            (2, 400),
            "style: the style picture is .* px when resized for the result, but .* needs at least 8 px",
        ),
    ],
)
def test_pictures_too_small_for_the_deepest_layer_are_refused(size, style_size, message):
    with pytest.raises(UserError, match=message):
        stylized(make_gatys(), smooth_picture(*size), smooth_picture(*style_size)[0])


@pytest.mark.slow
def test_a_picture_too_large_for_the_memory_is_refused_with_a_size_that_fits(monkeypatch):
    monkeypatch.setattr("nstexp.core.runtime.memory.free_bytes", lambda device: 2_000_000)
    sentence = r"^content: a picture of .* px needs about .* GB of memory .* set image_px=\d+ or less"
    with pytest.raises(UserError, match=sentence):
        stylized(make_gatys(), smooth_picture(400, 300))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_steps": 0}, r"^max_steps=0"),
        ({"max_steps": "abc"}, r"^max_steps=abc"),
        ({"levels": 0}, r"^levels=0"),
        ({"margin_px": -1}, r"^margin_px=-1"),
        ({"style_scale": 0}, r"^style_scale=0"),
        ({"style_resize": "stretch"}, r"^style_resize=stretch is unknown, choose one of area, squash, none"),
        ({"optimizer": "newton"}, r"^optimizer=newton is unknown, choose one of lbfgs, adam, sgd"),
    ],
)
def test_bad_settings_name_their_key(setting, message):
    with pytest.raises(UserError, match=message):
        make_gatys(**setting)


def test_strokes_grow_with_style_scale_and_squash_takes_the_results_shape():
    style = smooth_picture(100, 50)[0]
    assert make_gatys(style_resize="none").settings.style_size(style, (60, 60)) == (100, 50)
    assert make_gatys(style_resize="squash").settings.style_size(style, (60, 80)) == (60, 80)
    height, width = make_gatys().settings.style_size(style, (60, 60))
    assert (height, width) == (85, 42)  # 3,570 of 3,600 pixels, aspect 2:1
    assert make_gatys(style_scale=2).settings.style_size(style, (60, 60)) == (170, 84)


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
    gatys = make_gatys(
        init="adain", adain=lambda dtype: drafts.append(Draft(dtype)) or drafts[-1], max_steps=1, levels=1
    )
    watched = []
    start = gatys.start
    gatys.start = lambda *args: watched.append(start(*args)) or watched[-1]
    result = stylized(gatys)
    assert watched[0].shape == (1, 3, 56, 48) and (watched[0] == 0.25).all()  # the margin is drafted too
    assert drafts[0].seen == [gatys.settings.style_size(smooth_picture(40, 56), (48, 40))]
    assert (result - 0.25).abs().mean() < 0.1


def test_a_term_for_training_is_refused():
    with pytest.raises(UserError, match=r"the loss term 'identity' is for training .* leave it out of loss"):
        terms = {"content": ContentLoss(["relu3_2"]), "identity": IdentityLoss(["relu3_2"])}
        make_gatys(terms=terms, weights={"alpha": 1, "identity": 1})
