"""Measures of sets of pictures: worked numbers, published rows, SciPy's matrix root."""

import numpy as np
import pytest
import torch
from core.measures.pictures import picture
from scipy import linalg
from torch import Tensor, nn

from nstexp.core.errors import ArgumentError
from nstexp.core.measures import FID, SSIM, ArtFID, Scorer, SetScorer, art_fid, frechet_distance

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
