"""The Scorer: its measures are their formulas, sizes, shares, and what it keeps."""

import math

import numpy as np
import pytest
import torch
import yaml
from core.measures.pictures import picture
from torch import Tensor, nn

from nstexp.cli import CONF
from nstexp.core.errors import ArgumentError, UserError
from nstexp.core.losses import ContentLoss, LaplacianLoss, MomentsLoss, TotalVariation, laplacian_loss
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.transport import directions
from nstexp.core.measures import (
    DEFAULT_NAMES,
    SSIM,
    ColorMean,
    LossMeasure,
    Scorer,
    cfsd,
    color_distance,
    default_measures,
    palette_distance,
    ssim,
    style_gram,
)  # fmt: skip
from nstexp.core.measures import scorer as metrics
from nstexp.core.networks.encoder import IMAGE
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import resize

LARGE = ("lpips", "halo", "weave")  # which want larger pictures than most of these tests have
SEEN = {*DEFAULT_NAMES} - {"halo"}
CONTENT = ("content_loss", "cfsd", "ssim", "edge", "lpips", "halo", "weave")
STYLE = {name for name in DEFAULT_NAMES if name not in CONTENT}
LAYERS = tuple(f"relu{block}_1" for block in range(1, 6))
OF_ENCODER = ("style_gram", "style_moments", "style_swd", "content_loss", "cfsd")

pytestmark = pytest.mark.usefixtures("one_thread")


def matrices(encoder: VGG, x: Tensor, layers) -> dict[str, np.ndarray]:
    """Layer -> (C, HW) in float64."""
    with torch.no_grad():
        feats = encoder(x[None], layers)
    return {name: feats[name][0].flatten(1).double().numpy() for name in layers}


def test_every_measure_of_the_encoder_is_its_formula(encoder, scorer):
    result, content, style = picture(seed=2), picture(), picture(64, 48, seed=1)
    f, p, s = (matrices(encoder, x, LAYERS) for x in (result, content, style))
    grams = moments = swd = 0.0
    for name in LAYERS:
        x, y = f[name], s[name]
        c, n = x.shape
        grams += ((x @ x.T / n - y @ y.T / y.shape[1]) ** 2).sum() / (4 * c**2) / 5
        if name != "relu5_1":
            moments += ((x.mean(1) - y.mean(1)) ** 2).mean()
            moments += ((np.sqrt(x.var(1) + 1e-5) - np.sqrt(y.var(1) + 1e-5)) ** 2).mean()
            onto = directions(c, c, 0).double().numpy()
            swd += ((np.sort(onto.T @ x) - np.sort(onto.T @ y)) ** 2).mean()
    found = scorer(result, content, [(style, 1.0)])
    assert found["style_gram"] == pytest.approx(grams, rel=1e-4)
    assert found["style_moments"] == pytest.approx(moments, rel=1e-4)
    assert found["style_swd"] == pytest.approx(swd, rel=1e-4)
    assert found["content_loss"] == pytest.approx(((f["relu4_1"] - p["relu4_1"]) ** 2).mean(), rel=1e-4)
    f3, p3 = (torch.from_numpy(x["relu3_1"]).view(-1, 12, 16) for x in (f, p))
    assert found["cfsd"] == pytest.approx(cfsd(p3, f3), rel=1e-4)


def test_measures_of_colors_and_pixels_are_their_functions(scorer):
    result, content, style = picture(seed=2), picture(), picture(64, 48, seed=1)
    found = scorer(result, content, [(style, 1.0)])
    assert (found["color_mean"], found["color_cov"]) == pytest.approx(color_distance(result, style))
    assert found["palette_distance"] == pytest.approx(palette_distance(result, style))
    assert found["ssim"] == pytest.approx(ssim(result, content))


def test_the_numbers_are_those_of_figure_3(encoder):
    """Huang & Belongie 2017 as a loss set of a method computes it, every picture in its own size."""
    result, content, style = picture(seed=2), picture(), picture(80, 96, seed=1)
    losses = LossSet({"content": ContentLoss(["relu4_1"]), "style": MomentsLoss(LAYERS[:4])}, {"alpha": 1, "beta": 1})
    with torch.no_grad():
        feats = [encoder(x[None], LAYERS[:4]) for x in (result, content, style)]
        targets = losses.targets("content", feats[1]) | losses.targets("style", feats[2])
        wanted = losses(feats[0], {name: [(1.0, target)] for name, target in targets.items()}).numbers()
    found = Scorer(encoder, longer_side_px=None)(result, content, [(style, 1.0)])
    assert found["style_moments"] == pytest.approx(wanted["style"], rel=1e-6)
    assert found["content_loss"] == pytest.approx(wanted["content"], rel=1e-6)
    assert (found["color_mean"], found["color_cov"]) == pytest.approx(color_distance(result, style), rel=1e-9)


def test_doing_nothing_and_giving_the_painting_are_seen(scorer):
    content, style = picture(), picture(seed=1)
    rows = scorer.references(content, [(picture(seed=3), 0.3), (style, 0.7)])
    assert set(rows) == {"photo", "painting"}
    assert set(rows["photo"]) == SEEN
    assert (rows["photo"]["content_loss"], rows["photo"]["cfsd"]) == (0, 0)
    assert rows["photo"]["ssim"] == pytest.approx(1, abs=1e-12)
    assert all(rows["photo"][name] > 1e-3 for name in STYLE)
    alone = scorer.references(content, [(style, 0.7)])["painting"]
    assert all(alone[name] == pytest.approx(0, abs=1e-9) for name in STYLE)
    assert alone["content_loss"] > 1e-3
    # With both, what is left is the share of the other one.
    other = scorer(style, content, [(picture(seed=3), 1.0)])
    assert rows["painting"]["style_gram"] == pytest.approx(0.3 * other["style_gram"], rel=1e-5)


def test_a_painting_of_another_size_is_brought_to_the_size_of_the_photo(scorer):
    content, style = picture(), resize(picture(seed=1), (96, 128))
    painting = scorer.references(content, [(style, 1.0)])["painting"]
    assert all(painting[name] == pytest.approx(0, abs=1e-9) for name in STYLE)
    assert painting["ssim"] == pytest.approx(ssim(resize(style, (48, 64)), content), abs=1e-9)
    assert scorer.references(content, []).keys() == {"photo"}


def test_several_styles_are_weighed_by_their_shares(scorer):
    result, content, a, b = picture(seed=4), picture(), picture(seed=1), picture(40, 40, seed=2)
    alone = [scorer(result, content, [(style, 1.0)]) for style in (a, b)]
    both = scorer(result, content, [(a, 3), (b, 1)])
    for name in SEEN:
        wanted = 0.75 * alone[0][name] + 0.25 * alone[1][name] if name in STYLE else alone[0][name]
        assert both[name] == pytest.approx(wanted, rel=1e-6)
    assert scorer(result, content, [(a, 2), (b, 0)]) == pytest.approx(alone[0])


@pytest.mark.parametrize("shares", [(0.0, 0.0), (1.0, -0.5), (math.nan, 1.0)])
def test_shares_that_are_none_are_refused(scorer, shares):
    with pytest.raises(UserError, match="shares"):
        scorer(picture(), picture(), [(picture(seed=1), shares[0]), (picture(seed=2), shares[1])])


def test_the_result_is_measured_as_it_is_saved(scorer):
    result, content, styles = 2 * picture(seed=2) - 0.5, picture(), [(picture(seed=1), 1.0)]
    assert scorer(result, content, styles) == scorer(result.clamp(0, 1), content, styles)


def test_a_larger_picture_is_measured_in_the_size_asked_for(encoder):
    result, content, style = (picture(96, 128, seed=s) for s in range(3))
    found = Scorer(encoder, longer_side_px=64)(result, content, [(style, 1.0)])
    small = [resize(x, (48, 64)) for x in (result, content, style)]
    assert found == pytest.approx(Scorer(encoder, longer_side_px=None)(small[0], small[1], [(small[2], 1.0)]))
    own = Scorer(encoder, longer_side_px=None)(result, content, [(style, 1.0)])
    assert found["style_gram"] != pytest.approx(own["style_gram"], rel=1e-3)
    assert Scorer(encoder, longer_side_px=128)(result, content, [(style, 1.0)]) == own


def test_a_painting_is_measured_with_as_many_pixels_as_the_result(scorer):
    result, content, style = picture(seed=2), picture(), picture(160, 120, seed=1)
    assert scorer(result, content, [(style, 1.0)]) == scorer(result, content, [(resize(style, (64, 48)), 1.0)])


def test_the_photo_is_brought_to_the_size_of_the_result(scorer):
    result, content = picture(48, 64, seed=2), picture(50, 66)
    assert scorer(result, content, []) == scorer(result, resize(content, (48, 64)), [])


@pytest.mark.parametrize(
    ("side", "missing"),
    [(64, set()), (46, {"halo", "lpips"}), (32, {"halo", "lpips"}), (31, {"style_gram", *LARGE}),
     (15, {"style_gram", "style_moments", "style_swd", "content_loss", *LARGE}),
     (11, {*OF_ENCODER[:4], "edge", *LARGE}), (10, {*OF_ENCODER[:4], "ssim", "edge", *LARGE}),
     (7, {*OF_ENCODER, "ssim", "edge", *LARGE}), (1, {*OF_ENCODER, "ssim", "edge", *LARGE})],
)  # fmt: skip
def test_measures_that_a_picture_is_too_small_for_are_left_out(scorer, side, missing):
    x = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    found = scorer(x, 1 - x, [(x.flip(1), 1.0)])
    assert set(found) == {*DEFAULT_NAMES} - missing
    assert all(math.isfinite(value) for value in found.values())


def test_measures_that_one_of_the_paintings_is_too_small_for_are_left_out(encoder):
    styles = [(picture(seed=1), 0.5), (picture(8, 8, seed=2), 0.5)]
    found = Scorer(encoder, longer_side_px=None)(picture(seed=3), picture(), styles)
    assert set(found) == SEEN - {"style_gram", "style_moments", "style_swd"}


def test_without_photo_or_painting_its_measures_are_left_out(scorer):
    assert set(scorer(picture(), None, [(picture(seed=1), 1.0)])) == STYLE
    assert set(scorer(picture(), picture(seed=1), [])) == SEEN - STYLE


def test_a_low_precision_encoder_gives_nearly_the_same(scorer):
    args = picture(seed=2), picture(), [(picture(seed=1), 1.0)]
    low = Scorer(VGG(random_vgg(), pad="reflect", dtype=torch.bfloat16))
    assert low(*args) == pytest.approx(scorer(*args), rel=0.05)
    assert "bfloat16" in low.described()["style_gram"]


class Counting(VGG):
    calls = 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return super().forward(*args, **kwargs)


def test_what_is_known_of_a_picture_is_not_computed_again():
    encoder = Counting(random_vgg())
    scorer = Scorer(encoder)
    content, styles = picture(), [(picture(seed=1), 0.5), (picture(seed=2), 0.5)]
    first = scorer(picture(seed=3), content, styles)
    assert encoder.calls == 4, "each picture once"
    again = scorer(picture(seed=3), content, styles)
    assert encoder.calls == 5
    assert again == first == Scorer(encoder)(picture(seed=3), content, styles)
    scorer(picture(40, 40, seed=3), content, styles)
    assert encoder.calls == 5 + 4 + 4, "statistics depend on the size"
    scorer(picture(40, 40, seed=3), content, [(styles[0][0], 0.5), (picture(seed=4), 0)])
    assert encoder.calls == 13 + 1, "a painting without a share is not looked at"


def test_a_picture_that_was_changed_is_measured_anew(scorer):
    result, content, style = picture(seed=3), picture(), picture(seed=1)
    scorer(result, content, [(style, 1.0)])
    style.copy_(picture(seed=5))
    content.mul_(0.5)
    wanted = scorer(result, content.clone(), [(style.clone(), 1.0)])
    assert scorer(result, content, [(style, 1.0)]) == wanted
    with torch.inference_mode():
        frozen = style + 0
    assert scorer(result, content, [(frozen, 1.0)]) == wanted


def test_what_is_kept_is_bounded(encoder, monkeypatch):
    monkeypatch.setattr(metrics, "CACHE_BYTES", 2**20)
    small = Scorer(encoder)
    for seed in range(4):
        small(picture(seed=3), picture(), [(picture(seed=seed), 1.0)])
    swd = 4 * sum(c * 48 * 64 / 4**i for i, c in enumerate((8, 16, 32, 64)))
    assert swd < small._memory._results.currsize <= 2**20, "sorted projections are the largest part"


def test_references_are_computed_once():
    encoder = Counting(random_vgg())
    scorer, content, styles = Scorer(encoder), picture(), [(picture(seed=1), 1.0)]
    first = scorer.references(content, styles)
    calls = encoder.calls
    assert scorer.references(content.clone(), [(styles[0][0].clone(), 1.0)]) == first
    assert encoder.calls == calls
    assert scorer.references(content, [(picture(seed=2), 1.0)]) != first


def test_the_painting_scores_0_where_it_has_the_photos_shape(encoder):
    """Elsewhere it is stretched to the photo's, and its goal is not: what the reports say of it."""
    scorer = Scorer(encoder, {"style_gram": style_gram()})
    painting = picture(seed=1)
    alike, wider = picture(), torch.cat([picture(), picture()], dim=-1)
    at = {
        name: scorer.references(photo, [(painting, 1.0)])["painting"]
        for name, photo in {"a": alike, "w": wider}.items()
    }
    assert at["a"]["style_gram"] == pytest.approx(0, abs=1e-9)
    assert at["w"]["style_gram"] > 1e-4


def test_measures_are_chosen(encoder):
    counting = Counting(random_vgg())
    scorer = Scorer(counting, {"ssim": SSIM(), "color_mean": ColorMean()})
    found = scorer(picture(seed=2), picture(), [(picture(seed=1), 1.0)])
    assert list(found) == ["ssim", "color_mean"]
    assert counting.calls == 0
    assert scorer.higher_is_better == ["ssim"]
    assert scorer.of_set() is None and scorer.set_names == ()
    with pytest.raises(ArgumentError, match="longer_side_px=0: give a whole number, 1 or larger"):
        Scorer(encoder, longer_side_px=0)


def test_the_command_line_measures_by_default_what_a_notebook_does():
    """A file of each measure, with the layers that the function has on its own, in the same order."""
    files = yaml.safe_load((CONF / "metrics" / "default.yaml").read_text(encoding="utf-8"))["defaults"]
    assert tuple(files) == DEFAULT_NAMES
    for name, measure in default_measures().items():
        (settings,) = yaml.safe_load((CONF / "metrics" / f"{name}.yaml").read_text(encoding="utf-8")).values()
        given = settings.get("layers", [settings["layer"]] if "layer" in settings else [])
        assert tuple(given) == tuple(measure.layers)


def test_what_computes_a_measure_is_told(scorer):
    said = scorer.described()
    assert set(said) == {*DEFAULT_NAMES} == set(scorer.names)
    assert all(said[name].startswith("vgg19-random-0 (") for name in OF_ENCODER)
    assert "relu1_1 ... relu5_1, Gatys form" in said["style_gram"]
    assert "relu3_1, Kullback" in said["cfsd"]
    assert all("512 px" in text for text in said.values())


def test_layers_are_named_unless_they_are_the_usual_ones(encoder):
    layers = {"usual": LAYERS[:3], "one": ["relu2_1"], "others": ["relu1_1", "relu3_1"]}
    said = Scorer(encoder, {name: style_gram(own) for name, own in layers.items()}).described()
    found = {name: text.split("), ")[1].split(", Gatys")[0] for name, text in said.items()}
    assert found == {"usual": "relu1_1 ... relu3_1", "one": "relu2_1", "others": "relu1_1 + relu3_1"}


# ----------------------------------------------------------------------------------------------- measures from outside


class Share:
    """A measure of the least: no module, no base, and nothing but what is asked for."""

    role = "style"
    layers = ("relu2_1",)

    def target(self, feats):
        return feats["relu2_1"].mean()

    def forward(self, feats, target):
        return feats["relu2_1"].mean() / target


def test_a_class_of_ones_own_is_a_measure(encoder):
    scorer = Scorer(encoder, {"share": Share()})
    x, content, a, b = (picture(seed=s) for s in range(4))
    means = [float(encoder(p[None], ["relu2_1"])["relu2_1"].mean()) for p in (x, a, b)]
    found = scorer(x, content, [(a, 0.25), (b, 0.75)])
    assert found == {"share": pytest.approx(0.25 * means[0] / means[1] + 0.75 * means[0] / means[2], rel=1e-5)}
    assert scorer(picture(3, 9), content, [(a, 1.0)]) == {}, "two positions at relu2_1 need 4 px"
    assert scorer.described()["share"].endswith("), relu2_1, Share, longer side at most 512 px")
    assert scorer.higher_is_better == []


def test_a_loss_term_is_a_measure(encoder):
    terms = {"edges": LaplacianLoss(), "palette": MomentsLoss([IMAGE]), "rough": TotalVariation()}
    counting = Counting(random_vgg())
    scorer = Scorer(counting, terms)
    x, content, style = (picture(seed=s) for s in range(3))
    found = scorer(x, content, [(style, 1.0)])
    assert found["edges"] == pytest.approx(float(laplacian_loss(255 * x[None], LaplacianLoss().target(
        {IMAGE: content[None]})[0], 4)), rel=1e-5)  # fmt: skip
    pair = [p.flatten(1) for p in (x, style)]
    (m1, m2), (s1, s2) = [p.mean(1) for p in pair], [(p.var(1, correction=0) + 1e-5).sqrt() for p in pair]
    assert found["palette"] == pytest.approx(float(((m1 - m2) ** 2 + (s1 - s2) ** 2).mean()), rel=1e-4)
    assert found["rough"] == pytest.approx(float(TotalVariation()({IMAGE: x[None]}, None)), rel=1e-6)
    assert counting.calls == 0, "none of them reads a feature"
    assert scorer(picture(11, 30), content, []).keys() == {"rough"}, "edges need 12 px"
    assert "mean square of the Laplacian" in scorer.described()["edges"]
    renamed = Scorer(encoder, {"edges": LossMeasure(LaplacianLoss(), "edges that are left", higher_is_better=True)})
    assert renamed(x, content, [])["edges"] == found["edges"]
    assert renamed.described()["edges"] == "no network, edges that are left, longer side at most 512 px"
    assert renamed.higher_is_better == ["edges"]
    assert renamed(picture(11, 30), content, []) == {}


class Learned(nn.Module):
    """A measure with a network of its own."""

    role, layers, identity, higher_is_better = "content", (), "my network", True

    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 2, 3).requires_grad_(False)

    def target(self, feats):
        return self.net(feats[IMAGE])

    def forward(self, feats, target):
        return (self.net(feats[IMAGE]) - target).square().mean()


def test_a_measure_can_bring_its_own_network(encoder):
    measure = Learned()
    scorer = Scorer(encoder, {"mine": measure}).to("cpu")
    x, content = picture(seed=1), picture()
    found = scorer(x, content, [])["mine"]
    assert found == pytest.approx(float((measure.net(x[None]) - measure.net(content[None])).square().mean()), rel=1e-5)
    assert scorer.described() == {"mine": "my network, longer side at most 512 px"}
    assert scorer.higher_is_better == ["mine"]
    scorer.to("meta")
    assert measure.net.weight.device.type == "meta"
    encoder_again = Scorer(VGG(random_vgg(), pad="reflect"), {"mine": Learned()})
    assert encoder_again.encoder.device.type == "cpu"


def changed(**attributes) -> Share:
    measure = Share()
    for name, value in attributes.items():
        setattr(measure, name, value)
    return measure


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: 1, "mine: this is not a measure"),
        (nn.Identity, "mine: this is not a measure"),
        (lambda: changed(role="identity"), "mine.role=identity is unknown, choose one of content, style, image, set"),
        (lambda: changed(target=None), "mine: a measure of the role style needs a method target"),
        (lambda: changed(role="set"), "mine: a measure of the role set needs a method features"),
        (lambda: changed(layers=["relu9_1"]), "mine: unknown layer 'relu9_1': vgg19-random-0 has "),
    ],
)
def test_what_is_no_measure_is_refused(encoder, measure, message):
    with pytest.raises(ArgumentError) as caught:
        Scorer(encoder, {"ssim": SSIM(), "mine": measure()})
    assert str(caught.value).startswith(message)
