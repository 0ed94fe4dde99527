"""The contrastive coherence preserving loss against its definition, pair by pair."""

import math

import pytest
import torch
from torch import Tensor

from nstexp.core.errors import ArgumentError
from nstexp.core.losses import CoherenceLoss, ContentLoss, LossSet, coherence_loss, coherence_target, neighbor_pairs
from nstexp.core.losses.coherence import differences
from nstexp.core.networks.encoder import IMAGE

LAYERS = ("relu2_1", "relu3_1")


def features(seed: int = 0, batch: int = 1) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        IMAGE: torch.rand(batch, 3, 48, 40, generator=random),
        "relu2_1": torch.randn(batch, 64, 24, 20, generator=random).relu(),
        "relu3_1": torch.randn(batch, 128, 12, 10, generator=random).relu(),
    }


def noisy(feats: dict[str, Tensor], amount: float, seed: int = 7) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: x + amount * torch.randn(x.shape, generator=random) for name, x in feats.items()}


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 3), (24, 20), (9, 200)])
def test_pairs_are_different_neighbors_in_the_map(size):
    here, there = neighbor_pairs(*size)
    rows, columns = (
        torch.stack([indices // size[1] for indices in (here, there)]),
        torch.stack([indices % size[1] for indices in (here, there)]),
    )
    assert ((rows >= 0) & (rows < size[0])).all()
    steps = torch.stack([rows[1] - rows[0], columns[1] - columns[0]]).abs()
    assert (steps.amax(0) == 1).all()
    assert len(set(zip(here.tolist(), there.tolist(), strict=True))) == len(here)
    count, used = size[0] * size[1], len(set(here.tolist()))
    assert 55 <= used <= 64 if count > 64 else used == (count if count > 1 else 0)


def test_positions_are_spread_over_the_map_and_depend_on_the_seed_alone():
    here, there = neighbor_pairs(64, 48, 64, 3)
    quarters = {(int(i) // 48 // 16, int(i) % 48 // 12) for i in here}
    assert len(quarters) == 16, "every sixteenth of the map has a position"
    neighbor_pairs.cache_clear()
    assert torch.equal(neighbor_pairs(64, 48, 64, 3)[1], there)
    assert not torch.equal(neighbor_pairs(64, 48, 64, 4)[0], here)


def test_loss_is_the_cross_entropy_of_every_pair():
    x, reference = (features(seed)["relu2_1"][:, :, :3, :4].double() for seed in (0, 1))
    value = coherence_loss(differences(x), coherence_target(differences(reference)), 0.2)
    wanted, weights = [], []
    pairs = list(zip(*neighbor_pairs(3, 4), strict=True))
    vectors = [[f[0].flatten(1)[:, b] - f[0].flatten(1)[:, a] for a, b in pairs] for f in (x, reference)]
    lengths = torch.stack([v.norm() for v in vectors[1]])
    shortest = 0.03 * lengths.square().mean().sqrt()
    units = [[v / (v.norm() ** 2 + shortest**2).sqrt() for v in vs] for vs in vectors]
    for i, found in enumerate(units[0]):
        logits = [float(found @ other) / 0.2 for other in units[1]]
        wanted.append(math.log(sum(math.exp(logit - logits[i]) for logit in logits)))
        weights.append(float(units[1][i].norm() ** 2))
    expected = sum(w * loss for w, loss in zip(weights, wanted, strict=True)) / sum(weights)
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_loss_is_near_0_at_the_photo_and_grows_with_noise():
    term, photo = CoherenceLoss(LAYERS), features()
    target = term.target(photo)
    values = [term(noisy(photo, amount), target).item() for amount in (0, 0.2, 0.5, 1, 2, 8)]
    assert values[0] < 0.05
    assert values == sorted(values)
    assert values[-1] > 4


def test_scale_and_offset_of_the_features_do_not_count():
    term, photo = CoherenceLoss(LAYERS), features()
    target = term.target(photo)
    other = {name: 3 * x + 1 for name, x in photo.items()}
    assert term(other, target).item() == pytest.approx(term(photo, target).item(), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_value_and_gradient_are_those_of_float64(dtype):
    term = CoherenceLoss(LAYERS)
    photo = {name: x.to(dtype) for name, x in features(0, 2).items()}
    made = {name: x.to(dtype).requires_grad_() for name, x in noisy(photo, 0.7).items()}
    exact = {name: x.detach().double().requires_grad_() for name, x in made.items()}
    value = term(made, term.target(photo))
    expected = term(exact, term.target({name: x.double() for name, x in photo.items()}))
    value.backward()
    expected.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    for name in LAYERS:
        error = made[name].grad.double() - exact[name].grad
        assert 0 < made[name].grad.norm() < float("inf")
        assert error.norm() < 0.01 * exact[name].grad.norm(), name


def test_gradcheck():
    random = torch.Generator().manual_seed(0)
    x, target = (torch.rand(2, 3, 3, 3, dtype=torch.float64, generator=random) for _ in range(2))
    wanted = coherence_target(differences(target))
    assert torch.autograd.gradcheck(lambda f: coherence_loss(differences(f), wanted), x.requires_grad_())


def test_flat_places_of_the_photo_do_not_count():
    photo = features()["relu2_1"][:, :, :4, :8]
    flat = photo.clone()
    flat[..., 4:] = 1.0
    target = coherence_target(differences(flat))
    here, there = neighbor_pairs(4, 8)
    plain = ((here % 8 >= 4) & (there % 8 >= 4)).nonzero()[:, 0]
    changed = differences(flat)
    other = changed.clone()
    other[..., plain] = torch.randn(1, 64, len(plain), generator=torch.Generator().manual_seed(0))
    assert len(plain) > 20
    assert coherence_loss(other, target).item() == pytest.approx(coherence_loss(changed, target).item(), abs=1e-6)


def test_a_flat_photo_and_a_map_of_one_position_give_0_with_a_gradient():
    for x in (torch.ones(1, 4, 6, 6), torch.ones(1, 4, 1, 1)):
        made = torch.rand_like(x).requires_grad_()
        value = coherence_loss(differences(made), coherence_target(differences(x)))
        value.backward()
        assert value.item() == 0
        assert made.grad.abs().max() == 0


def test_term_has_the_role_of_content_and_its_own_weight():
    term = CoherenceLoss(LAYERS)
    assert term.role == "content"
    assert not list(term.parameters())
    losses = LossSet({"content": ContentLoss(["relu4_1"]), "ccpl": term}, {"alpha": 1, "ccpl": 5})
    assert losses.layers("content") == ("relu4_1", *LAYERS)
    assert losses.weights == {"content": 1, "ccpl": 5}


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"samples": 0}, "samples"), ({"temperature": 0}, "temperature"), ({"seed": "x"}, "seed")],
)
def test_settings_that_cannot_be_meant_are_refused(settings, name):
    with pytest.raises(ArgumentError) as raised:
        CoherenceLoss(LAYERS, **settings)
    assert str(raised.value).startswith(name)
