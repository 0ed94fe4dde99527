"""Measures of finished pictures: worked numbers, other libraries, NumPy in float64, pictures whose measure is known."""

import math
import socket
import urllib.error

import numpy as np
import pytest
import torch
from scipy import linalg
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import alexnet, inception

from nstexp.core.color import luminance
from nstexp.core.errors import UserError
from nstexp.core.losses import ContentLoss, MomentsLoss
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.transport import directions
from nstexp.core.measures import scorer as metrics
from nstexp.core.measures.scorer import (
    DEFAULT_NAMES,
    HIGHER_IS_BETTER,
    LPIPS,
    NAMES,
    InceptionFeatures,
    Scorer,
    SetScorer,
    art_fid,
    cfsd,
    color_distance,
    frechet_distance,
    luminance_statistics,
    palette,
    palette_distance,
    ssim,
)
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import resize

pytestmark = pytest.mark.usefixtures("one_thread")

STYLE = {name for name in DEFAULT_NAMES if name not in ("content_loss", "cfsd", "ssim")}
LAYERS = tuple(f"relu{block}_1" for block in range(1, 6))
OF_ENCODER = ("style_gram", "style_moments", "style_swd", "content_loss", "cfsd")


def picture(height: int = 48, width: int = 64, seed: int = 0) -> Tensor:
    """Smooth shapes and some noise, (3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(3, 5, 5, generator=generator)
    return (0.9 * resize(coarse, (height, width)) + 0.1 * torch.rand(3, height, width, generator=generator)).clamp(0, 1)


def constant(*rgb: float, size: tuple[int, int] = (4, 6)) -> Tensor:
    return torch.tensor(rgb).view(3, 1, 1).expand(3, *size).clone()


@pytest.fixture(scope="module")
def encoder():
    return VGG(random_vgg(), pad="reflect")


@pytest.fixture(scope="module")
def scorer(encoder):
    return Scorer(encoder)


# ----------------------------------------------------------------------------------------------------- content formulas


@pytest.mark.parametrize("size", [(11, 11), (12, 40), (48, 64)])
def test_ssim_is_that_of_scikit_image(size):
    a, b = picture(*size), picture(*size, seed=1)
    gray = [luminance(x)[0].double().numpy() for x in (a, b)]
    wanted = structural_similarity(
        *gray, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, win_size=11
    )
    assert ssim(a, b) == pytest.approx(wanted, abs=1e-9)
    assert ssim(b, a) == pytest.approx(wanted, abs=1e-12)
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_ssim_of_constant_pictures_is_the_luminance_term():
    a, b = constant(0.2, 0.2, 0.2, size=(16, 16)), constant(0.7, 0.7, 0.7, size=(16, 16))
    assert ssim(a, b) == pytest.approx((2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4), abs=1e-6)


def test_ssim_says_which_pictures_it_cannot_compare():
    with pytest.raises(UserError, match="20x10 px, at least 11"):
        ssim(picture(10, 20), picture(10, 20))
    with pytest.raises(UserError, match="different sizes"):
        ssim(picture(20, 20), picture(20, 21))


def test_cfsd_of_the_worked_example():
    content = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 1, 2)
    assert cfsd(content, torch.zeros(2, 1, 2)) == pytest.approx(0.0155038, abs=1e-7)
    assert cfsd(content, content) == 0


@pytest.mark.parametrize("size", [(3, 4), (48, 48)])  # one block of rows, and two
def test_cfsd_is_the_formula(size):
    content, result = (torch.randn(5, *size, generator=torch.Generator().manual_seed(s)) * 3 for s in (0, 1))
    rows = []
    for features in (content, result):
        f = features.flatten(1).double().numpy() / 5
        s = np.exp(f.T @ f)
        rows.append(s / s.sum(1, keepdims=True))
    wanted = (rows[0] * np.log(rows[0] / rows[1])).sum()
    assert cfsd(content, result) == pytest.approx(wanted, rel=1e-5)
    assert cfsd(result, content) != pytest.approx(wanted, rel=1e-3), "a divergence has a direction"


def test_cfsd_takes_a_block_of_rows_at_a_time():
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel()) if isinstance(out, Tensor) else largest
            return out

    features = torch.randn(2, 64, 64)
    with Sizes():
        cfsd(features, -features)
    assert 64**2 < largest <= 2**22 < 64**4


# ----------------------------------------------------------------------------------------------------------- color


def test_color_distance_of_known_pictures():
    a, b = constant(0.2, 0.5, 0.1), constant(0.5, 0.1, 0.1)
    mean, cov = color_distance(a, b)
    assert (mean, cov) == (pytest.approx(0.5), pytest.approx(0, abs=1e-9))
    x, y = picture(), picture(30, 20, seed=1)
    covs = [np.cov(p.flatten(1).double().numpy(), bias=True) for p in (x, y)]
    assert color_distance(x, y)[1] == pytest.approx(np.linalg.norm(covs[0] - covs[1]), rel=1e-9)


def uv_histogram(pixels: np.ndarray) -> np.ndarray:
    """(N, 3) -> (3, 64, 64), one pixel and bin at a time."""
    bins = np.linspace(-3, 3, 64)
    histogram = np.zeros((3, 64, 64))
    for pixel in pixels:
        logs, weight = np.log(pixel + 1e-6), np.sqrt((pixel**2).sum() + 1e-6)
        for c, (u, v) in enumerate(((1, 2), (0, 2), (0, 1))):
            near_u = 1 / (1 + ((logs[c] - logs[u] - bins) / 0.02) ** 2)
            near_v = 1 / (1 + ((logs[c] - logs[v] - bins) / 0.02) ** 2)
            histogram[c] += weight * np.outer(near_u, near_v)
    return histogram / histogram.sum()


def test_palette_is_the_histogram():
    x, y = picture(7, 9), picture(5, 8, seed=1)
    histograms = [uv_histogram(p.flatten(1).T.double().numpy()) for p in (x, y)]
    np.testing.assert_allclose(palette(x).numpy(), histograms[0], rtol=1e-9)
    wanted = np.sqrt(1 - np.sqrt(histograms[0] * histograms[1]).sum())
    assert palette_distance(x, y) == pytest.approx(wanted, abs=1e-9)
    assert palette_distance(y, x) == pytest.approx(wanted, abs=1e-9)


def test_palette_distance_is_between_0_and_1():
    red, blue = constant(0.9, 0.1, 0.1), constant(0.1, 0.1, 0.9)
    assert palette_distance(red, red) == 0
    assert 0.9 < palette_distance(red, blue) <= 1
    assert palette_distance(constant(0, 0, 0), constant(1, 1, 1)) < 0.01, "a gray has no color"


def test_palette_knows_no_size():
    x = picture(40, 60)
    assert palette_distance(x, x.repeat_interleave(2, 1).repeat_interleave(2, 2)) < 1e-6
    assert palette_distance(constant(0.9, 0.2, 0.1, size=(400, 300)), constant(0.9, 0.2, 0.1)) < 1e-3


def test_luminance_statistics_of_a_known_picture():
    gray = constant(0.4, 0.4, 0.4, size=(2, 2))
    gray[:, 0] = 1
    found = luminance_statistics(gray)
    assert found == {
        "luminance_mean": pytest.approx(0.7),
        "luminance_std": pytest.approx(0.3),
        "clipped_share": pytest.approx(0.5),
    }


# ---------------------------------------------------------------------------------------------------------------- sets


def normal(dimensions: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(dimensions, rank, generator=generator, dtype=torch.float64)
    return torch.randn(dimensions, generator=generator, dtype=torch.float64), factor @ factor.T


def test_frechet_distance_of_the_worked_example():
    mean1, cov1 = torch.tensor([0.0]), torch.tensor([[2.0]])
    mean2, cov2 = torch.tensor([1.0]), torch.tensor([[8.0]])
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(3, abs=1e-12)


def test_frechet_distance_is_that_of_a_matrix_root():
    (m1, c1), (m2, c2) = normal(12, 20, seed=0), normal(12, 20, seed=1)
    root = linalg.sqrtm(c1.numpy() @ c2.numpy()).real
    wanted = float((m1 - m2).square().sum() + c1.trace() + c2.trace()) - 2 * np.trace(root)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(wanted, rel=1e-9)


def test_frechet_distance_of_covariances_without_full_rank():
    (m1, c1), (m2, c2) = normal(30, 4, seed=0), normal(30, 4, seed=1)
    assert frechet_distance(m1, c1, m1, c1) == pytest.approx(0, abs=1e-5)
    ridge = 1e-6 * np.eye(30)
    root = linalg.sqrtm((c1.numpy() + ridge) @ (c2.numpy() + ridge)).real
    wanted = float((m1 - m2).square().sum() + (c1 + c2).trace()) + 60e-6 - 2 * np.trace(root)
    assert frechet_distance(m1, c1, m2, c2, eps=1e-6) == pytest.approx(wanted, rel=1e-7)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize(
    ("fid", "lpips", "wanted"), [(18.242, 0.6076, 30.933), (18.131, 0.5055, 28.801), (20.903, 0.8931, 41.464)]
)
def test_art_fid_of_published_rows(fid, lpips, wanted):
    assert art_fid(fid, lpips) == pytest.approx(wanted, abs=0.002)


# -------------------------------------------------------------------------------------------------------------- Scorer


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
    assert set(rows["photo"]) == set(DEFAULT_NAMES)
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
    for name in DEFAULT_NAMES:
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
    [(32, set()), (31, {"style_gram"}), (15, {"style_gram", "style_moments", "style_swd", "content_loss"}),
     (10, {*OF_ENCODER[:4], "ssim"}), (7, {*OF_ENCODER, "ssim"}), (1, {*OF_ENCODER, "ssim"})],
)  # fmt: skip
def test_measures_that_a_picture_is_too_small_for_are_left_out(scorer, side, missing):
    x = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    found = scorer(x, 1 - x, [(x.flip(1), 1.0)])
    assert set(found) == set(DEFAULT_NAMES) - missing
    assert all(math.isfinite(value) for value in found.values())


def test_measures_that_one_of_the_paintings_is_too_small_for_are_left_out(encoder):
    styles = [(picture(seed=1), 0.5), (picture(8, 8, seed=2), 0.5)]
    found = Scorer(encoder, longer_side_px=None)(picture(seed=3), picture(), styles)
    assert set(found) == set(DEFAULT_NAMES) - {"style_gram", "style_moments", "style_swd"}


def test_without_photo_or_painting_its_measures_are_left_out(scorer):
    assert set(scorer(picture(), None, [(picture(seed=1), 1.0)])) == STYLE
    assert set(scorer(picture(), picture(seed=1), [])) == set(DEFAULT_NAMES) - STYLE


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


def test_names_choose_the_measures(encoder):
    counting = Counting(random_vgg())
    scorer = Scorer(counting, ["ssim", "color_mean", "fid"], fid=torch.nn.Identity)
    found = scorer(picture(seed=2), picture(), [(picture(seed=1), 1.0)])
    assert list(found) == ["ssim", "color_mean"]
    assert counting.calls == 0
    assert scorer.set_names == ("fid",) and scorer.of_set() is not None
    assert Scorer(encoder, ["palette_distance"]).of_set() is None
    with pytest.raises(UserError, match=r"metrics.names: 'ssmi' is unknown, choose from .*ssim"):
        Scorer(encoder, ["ssmi"])
    with pytest.raises(UserError, match="longer_side_px"):
        Scorer(encoder, longer_side_px=0)
    assert set(NAMES) >= HIGHER_IS_BETTER == {"ssim"}


def test_what_computes_a_measure_is_told(scorer):
    said = scorer.described()
    assert set(said) == set(DEFAULT_NAMES) == set(scorer.names)
    assert all(said[name].startswith("vgg19-random-0 (") for name in OF_ENCODER)
    assert "relu1_1 ... relu5_1, Gatys form" in said["style_gram"]
    assert "relu3_1, Kullback" in said["cfsd"]
    assert all("512 px" in text for text in said.values())


# ------------------------------------------------------------------------------------------------------------- learned


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch, and no network."""
    timeouts = []

    def refuse(*args, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder, timeouts


@pytest.fixture(scope="module")
def alexnet_state():
    with torch.device("meta"):
        trunk = alexnet().features
    generator = torch.Generator().manual_seed(0)
    shapes = {f"features.{name}": x.shape for name, x in trunk.state_dict().items()}
    return {
        name: torch.randn(shape, generator=generator) * (2 / max(1, math.prod(shape[1:]))) ** 0.5 * (len(shape) > 1)
        for name, shape in shapes.items()
    }


ALEXNET, INCEPTION = "alexnet-owt-7be5be79.pth", "inception_v3_google-0cc3c7bd.pth"


def test_lpips_is_that_of_torchmetrics(hub, alexnet_state):
    torch.save(alexnet_state, hub[0] / ALEXNET)
    ours, theirs = LPIPS(), _LPIPS(net="alex", pnet_rand=True)
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    theirs.net.load_state_dict(
        {
            f"slice{slices[int(name.split('.')[1])]}.{name.removeprefix('features.')}": x
            for name, x in alexnet_state.items()
        }
    )
    a, b = picture(70, 90)[None], picture(70, 90, seed=1)[None]
    wanted = theirs(a, b, normalize=True).item()
    assert wanted > 1e-3
    assert ours(a, b).item() == pytest.approx(wanted, rel=1e-5)
    assert ours(a, a).item() == 0


def test_lpips_is_a_measure_of_content(hub, alexnet_state, encoder):
    torch.save(alexnet_state, hub[0] / ALEXNET)
    scorer = Scorer(encoder, ["lpips"])
    result, content = picture(70, 90, seed=1), picture(70, 90)
    wanted = scorer.learned["lpips"](result[None], content[None]).item()
    assert scorer(result, content, [])["lpips"] == pytest.approx(wanted, rel=1e-5)
    assert scorer(content, content, [])["lpips"] == 0
    assert scorer(picture(46, 90), picture(46, 90, seed=1), []) == {}
    assert "lpips" in scorer(picture(47, 90), picture(47, 90, seed=1), [])
    assert ALEXNET in scorer.described()["lpips"]
    shared = Scorer(encoder, ["art_fid", "ssim"], learned=scorer.learned, fid=torch.nn.Identity)
    assert shared.names == ("ssim", "lpips"), "art_fid needs it"


@pytest.mark.parametrize(("name", "file"), [("lpips", ALEXNET), ("fid", INCEPTION)])
def test_weights_that_cannot_be_had_make_one_sentence(hub, encoder, monkeypatch, tmp_path, name, file):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        Scorer(encoder, ["ssim", "lpips"]) if name == "lpips" else InceptionFeatures()
    message = str(caught.value)
    assert file in message
    assert "~/torch/hub/checkpoints" in message
    assert f"leave {name} out of metrics.names" in message
    assert message.count(". ") == 0
    assert "\n" not in message
    assert hub[1] == [10], "a dead connection does not hang"
    assert socket.getdefaulttimeout() is None


def test_files_that_are_something_else_are_refused(hub, alexnet_state, tmp_path):
    (hub[0] / ALEXNET).write_bytes(b"<html>")
    with pytest.raises(UserError, match="loads safely"):
        LPIPS()
    torch.save({**alexnet_state, "features.0.weight": torch.zeros(64, 3, 7, 7)}, hub[0] / ALEXNET)
    with pytest.raises(UserError, match=r"1 of 10 tensors .* features.0.weight"):
        LPIPS()
    torch.save(alexnet_state, tmp_path / "art.pth")
    with pytest.raises(UserError, match="not weights in torchvision's layout"):
        InceptionFeatures(tmp_path / "art.pth")
    with pytest.raises(UserError, match="there is no such file"):
        InceptionFeatures(tmp_path / "none.pth")
    with pytest.raises(UserError, match="pixels=caffe"):
        InceptionFeatures(tmp_path / "art.pth", pixels="caffe")


def test_inception_features_are_those_of_torchvision(hub):
    torch.manual_seed(0)
    net = inception.Inception3(aux_logits=False, transform_input=True, init_weights=False).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.mul_(6**0.5)  # He's scale: torch's own lets features die out with depth
    torch.save(net.state_dict(), hub[0] / INCEPTION)
    ours = InceptionFeatures()
    net.fc = nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = picture(120, 100)[None]
    with torch.no_grad():
        wanted = net((resize(x, (299, 299)) - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    found = ours(x)
    assert found.shape == (1, 2048)
    assert found.mean() > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert INCEPTION in ours.identity
    own_size = InceptionFeatures(hub[0] / INCEPTION, side_px=None, pixels="unit")
    net.transform_input = False
    with torch.no_grad():
        torch.testing.assert_close(own_size(x), net(x), rtol=1e-4, atol=1e-5)
    assert "own size, unit pixels" in own_size.identity


class Means(nn.Module):
    """Four numbers of a picture, in place of a network."""

    identity = "means"

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.cat([pictures.mean((2, 3)), pictures.std((1, 2, 3))[:, None]], 1)


def test_fid_of_two_sets(encoder):
    results, styles = [picture(seed=s) for s in range(9)], [picture(30, 20, seed=s) for s in range(20, 27)]
    scorer = SetScorer(Means())
    assert scorer.compute() == {}
    for x in results:
        scorer.add(x)
    for x in styles:
        scorer.add_style(x)
    rows = [np.stack([Means()(x[None])[0].numpy() for x in xs]).astype(np.float64) for xs in (results, styles)]
    covs = [np.cov(x, rowvar=False) for x in rows]
    gap = rows[0].mean(0) - rows[1].mean(0)
    wanted = gap @ gap + np.trace(covs[0] + covs[1] - 2 * linalg.sqrtm(covs[0] @ covs[1]).real)
    assert scorer.compute() == {"fid": pytest.approx(wanted, rel=1e-6)}
    assert "9 results, 7 paintings" in scorer.described()["fid"]


def test_art_fid_needs_the_lpips_of_every_result():
    scorer = SetScorer(Means())
    for seed in range(3):
        scorer.add(picture(seed=seed) * 3 - 1, lpips=0.2 * seed)
        scorer.add_style((picture(seed=seed) * 3 - 1).clamp(0, 1))
    assert scorer.compute()["fid"] == pytest.approx(0, abs=1e-7)
    assert scorer.compute()["art_fid"] == pytest.approx(1.2, abs=1e-6)
    scorer.add(picture(seed=5))
    assert set(scorer.compute()) == {"fid"}
