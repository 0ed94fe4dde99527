"""Measures of sets of pictures: worked numbers, published rows, SciPy's matrix root."""

import numpy as np
import pytest
import torch
from core.measures.pictures import picture
from scipy import linalg
from torch import Tensor, nn

from nstexp.core.errors import ArgumentError
from nstexp.core.measures import (
    FID,
    SSIM,
    ArtFID,
    PooledFeatures,
    Scorer,
    SetScorer,
    art_fid,
    frechet_distance,
    frechet_distances,
    sets,
    vgg_fid,
)
from nstexp.core.resize import resize

pytestmark = pytest.mark.usefixtures("one_thread")


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
    scorer = Scorer(encoder, {"fid": FID(Means())}).of_set()
    assert scorer.compute() == {} and scorer.too_few() == {"fid": 2}
    for x in results:
        scorer.add(x)
    for x in styles:
        scorer.add_style(x)
    rows = [np.stack([Means()(x[None])[0].numpy() for x in xs]).astype(np.float64) for xs in (results, styles)]
    covs = [np.cov(x, rowvar=False) for x in rows]
    gap = rows[0].mean(0) - rows[1].mean(0)
    wanted = gap @ gap + np.trace(covs[0] + covs[1] - 2 * linalg.sqrtm(covs[0] @ covs[1]).real)
    assert scorer.compute() == {"fid": pytest.approx(wanted, rel=1e-6)}
    assert scorer.described() == {"fid": "means, 9 results, 7 paintings"}
    assert scorer.too_few() == {}


def test_art_fid_needs_the_lpips_of_every_result():
    scorer = SetScorer({"art_fid": ArtFID(), "fid": FID(Means())})
    for seed in range(3):
        scorer.add(picture(seed=seed) * 3 - 1, {"lpips": 0.2 * seed, "stylize_seconds": 1.0})
        scorer.add_style((picture(seed=seed) * 3 - 1).clamp(0, 1))
    assert scorer.compute()["fid"] == pytest.approx(0, abs=1e-7)
    assert scorer.compute()["art_fid"] == pytest.approx(1.2, abs=1e-6)
    assert list(scorer.compute()) == ["art_fid", "fid"], "the order they were given in, not that of the work"
    assert scorer.described()["art_fid"] == "(1 + fid)(1 + mean lpips), means, 3 results, 3 paintings"
    scorer.add(picture(seed=5))
    assert set(scorer.compute()) == {"fid"}


def test_a_measure_of_sets_needs_the_others(encoder):
    with pytest.raises(ArgumentError, match="lpips is not among the measures") as caught:
        Scorer(encoder, {"art_fid": ArtFID(), "fid": FID(Means())})
    assert str(caught.value).startswith("art_fid: it needs fid and lpips")


class Brightest:
    """A measure of sets in a few lines: how much brighter the brightest result is than the brightest painting."""

    role = "set"
    higher_is_better = True
    unit = "difference of the largest means"

    def features(self, picture):
        return picture.mean()

    def forward(self, results, styles, known):
        return max(results) - max(styles)


def test_a_class_of_ones_own_is_a_measure_of_sets(encoder):
    scorer = Scorer(encoder, {"ssim": SSIM(), "brightest": Brightest()})
    assert (scorer.names, scorer.set_names, scorer.higher_is_better) == (
        ("ssim",),
        ("brightest",),
        ["ssim", "brightest"],
    )
    first, second = scorer.of_set(), scorer.of_set()
    assert first.compute() == {} and first.too_few() == {"brightest": 1}
    first.add(torch.full((3, 8, 8), 0.75))
    first.add(torch.full((3, 8, 8), 0.25))
    first.add_style(torch.full((3, 8, 8), 0.5))
    assert first.compute() == {"brightest": 0.25}
    assert first.described() == {"brightest": "difference of the largest means, 2 results, 1 paintings"}
    assert second.compute() == {}, "sets do not share their pictures"


# ------------------------------------------------------------------------------------------- sets that were drawn again


@pytest.mark.parametrize(("n", "m", "dimensions"), [(40, 30, 6), (7, 9, 20), (12, 5, 8)])
def test_distances_of_repeated_vectors_are_those_of_their_moments(n, m, dimensions):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(count, dimensions, generator=generator, dtype=torch.float64) for count in (n, m))
    counts = [torch.randint(0, 4, (3, count), generator=generator) for count in (n, m)]
    for times in counts:
        times[0] = 1
    found = frechet_distances(x, y + 0.5, *counts)
    for distance, x_times, y_times in zip(found, *counts, strict=True):
        a, b = x.repeat_interleave(x_times, 0), (y + 0.5).repeat_interleave(y_times, 0)
        wanted = frechet_distance(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
        assert float(distance) == pytest.approx(wanted, rel=1e-5), "roots of numbers that are nearly 0"


class Pixels(nn.Module):
    """The pixels of a tiny picture as its features, with a known distribution."""

    identity = "pixels"

    def __init__(self):
        super().__init__()
        self.register_buffer("device_of", torch.zeros(()))

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.flatten(1)


def drawn(count: int, mean: float, std: float, seed: int) -> Tensor:
    """Pictures (count, 3, 1, 1) with normal pixels, far from 0 and 1."""
    noise = torch.randn(count, 3, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + std * noise


def scored(results: Tensor, styles: Tensor, **more) -> SetScorer:
    scorer = SetScorer({"fid": FID(Pixels())})
    for x in results:
        scorer.add(x, **more)
    for x in styles:
        scorer.add_style(x)
    return scorer


def test_the_distance_of_normal_features_is_the_known_one():
    """3 (0.45 - 0.55)^2 for the means, and 3 (0.03 - 0.06)^2 for the deviations."""
    scorer = scored(drawn(4000, 0.45, 0.03, seed=0), drawn(4000, 0.55, 0.06, seed=1))
    assert scorer.compute()["fid"] == pytest.approx(3 * 0.1**2 + 3 * 0.03**2, rel=0.03)


@pytest.mark.slow
def test_intervals_of_sets_contain_what_other_pictures_would_give(monkeypatch):
    monkeypatch.setattr(sets, "DRAWS", 150)
    scorers = [scored(drawn(24, 0.45, 0.03, 2 * n), drawn(16, 0.5, 0.05, 2 * n + 1)) for n in range(120)]
    mean = np.mean([scorer.compute()["fid"] for scorer in scorers])
    intervals = [scorer.intervals()["fid"] for scorer in scorers]
    assert 0.9 <= np.mean([low <= mean <= high for low, high in intervals]) <= 1
    others = [scorer.compute()["fid"] for scorer in scorers]
    widths = [high - low for low, high in intervals]
    assert np.mean(widths) < 6 * np.std(others), "1.96 deviations to each side are enough"
    assert scorers[0].intervals() == scorers[0].intervals()


def test_pairs_are_drawn_by_photo_and_painting():
    """Results that depend on the painting alone: other photos would change nothing, other paintings much."""
    paintings = drawn(6, 0.5, 0.05, seed=0)
    scorer = SetScorer({"fid": FID(Pixels())})
    for name, painting in enumerate(paintings):
        scorer.add_style(painting, str(name))
    one, both = scorer.intervals(), SetScorer({"fid": FID(Pixels())})
    assert one == {}, "no results yet"
    for number, painting in enumerate(paintings):
        both.add_style(painting, str(number))
        for photo in range(8):
            scorer.add(painting * 0.8, pair=(f"photo {photo}", None))
            both.add(painting * 0.8, pair=(f"photo {photo}", str(number)))
    assert both.compute() == scorer.compute()
    moved = torch.stack([painting * 0.8 for painting in paintings]).flatten(1)
    counts = torch.ones(1, 6)
    assert both.compute()["fid"] == pytest.approx(
        float(frechet_distances(moved, paintings.flatten(1), 8 * counts, counts)), rel=1e-6
    )
    low, high = both.intervals()["fid"]
    assert low < both.compute()["fid"] < high
    loose = scorer.intervals()["fid"]
    assert loose[1] - loose[0] > 1.5 * (high - low), "results that do not follow their paintings lie further apart"


def test_two_photos_and_two_paintings_have_no_interval():
    scorer = SetScorer({"fid": FID(Pixels())})
    for number, painting in enumerate(drawn(2, 0.5, 0.05, seed=0)):
        scorer.add_style(painting, str(number))
        for photo in "ab":
            scorer.add(painting * 0.9, pair=(photo, str(number)))
    assert set(scorer.compute()) == {"fid"} and scorer.intervals() == {}


def test_a_picture_that_comes_again_is_computed_once(monkeypatch):
    calls, network = [], Pixels()
    monkeypatch.setattr(network, "forward", lambda x: calls.append(1) or x.flatten(1))
    scorer = SetScorer({"fid": FID(network)})
    for _ in range(3):
        scorer.add(torch.full((3, 1, 1), 0.5))
    assert (len(calls), len(scorer.results)) == (1, 3)


def test_features_of_vgg_are_the_means_of_a_layer(encoder):
    network, x = PooledFeatures(encoder, "conv3_1", side_px=40), picture(80, 20)
    with torch.no_grad():
        wanted = encoder(resize(x, (80, 20))[None], ["relu3_1"])["relu3_1"].mean((2, 3))
    torch.testing.assert_close(network(x[None]), wanted)
    scorer = Scorer(encoder, {"fid_vgg": vgg_fid(encoder)}).of_set()
    for seed in range(3):
        scorer.add(picture(seed=seed))
        scorer.add_style(picture(seed=seed))
    assert scorer.compute() == {"fid_vgg": pytest.approx(0, abs=1e-6)}
    assert "mean activations of relu5_1, as many pixels as 256x256, 3 results, 3" in scorer.described()["fid_vgg"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"layer": "relu9_1"}, "^layer: unknown layer 'relu9_1'"),
        ({"side_px": 31}, "^side_px=31: give a whole number, 32"),
    ],
)
def test_settings_that_cannot_be_are_refused(encoder, arguments, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        vgg_fid(encoder, **arguments)
