"""An optimization that ends at any step and goes on from its state makes the same picture as one that does not end."""

import io
from functools import partial
from typing import Any

import pytest
import torch
from gatys_runs import OPTIMIZERS, make_gatys, stylized
from pictures import smooth_picture

from nstexp.core.losses import ContentLoss, GramLoss
from nstexp.core.optim.descent import GradientDescent
from nstexp.core.optim.lbfgs import LBFGS
from nstexp.methods.tiling import Plan, Tiling

ALL = {
    **OPTIMIZERS,
    "torch_lbfgs": partial(torch.optim.LBFGS, max_iter=1, history_size=5),
    "limited": partial(GradientDescent, lr=1.0),
}


class Ended(Exception):
    """As if the process had been killed."""


class Kept:
    """Keeps a state after each step as a file would, and ends the run after one of them."""

    seconds_before = 0.0

    def __init__(self, end_at: int | None = None) -> None:
        self.end_at, self.files, self.loads = end_at, [], 0

    def load(self) -> dict[str, Any] | None:
        self.loads += 1
        return torch.load(io.BytesIO(self.files[-1]), weights_only=True) if self.files else None

    def due(self) -> bool:
        return True

    def keep(self, state: Any) -> None:
        file = io.BytesIO()
        torch.save(dict(state), file)
        self.files.append(file.getvalue())
        if self.end_at is not None and state["steps_done"] >= self.end_at:
            self.end_at = None
            raise Ended


@pytest.mark.parametrize("end_at", [1, 5, 9])
@pytest.mark.parametrize("optimizer", ALL)
def test_picture_that_goes_on_is_the_same(optimizer, end_at):
    settings: dict[str, Any] = {
        "optimizers": ALL, "optimizer": optimizer, "levels": 2, "coarse_steps": 4,
        "lr_decay": 1.0 if optimizer == "lbfgs" else 0.9,
    }  # fmt: skip
    content, style = smooth_picture(48, 40), smooth_picture(40, 56, seed=1)[0]
    expected = stylized(make_gatys(**settings), content, style)
    kept = Kept(end_at)
    with pytest.raises(Ended):
        stylized(make_gatys(**settings), content, style, unfinished=kept)
    begun = len(kept.files)
    assert torch.equal(stylized(make_gatys(**settings), content, style, unfinished=kept), expected)
    assert kept.loads == 2 and len(kept.files) > begun
    assert not torch.equal(stylized(make_gatys(**settings, init="noise"), content, style), expected)


def test_picture_in_tiles_with_a_frozen_layer_goes_on():
    settings: dict[str, Any] = {"levels": 2, "coarse_steps": 4, "tile_px": 64, "freeze_share": 1.0}
    terms = {"content": ContentLoss(["relu3_2"]), "gram": GramLoss(["relu1_1", "relu2_1", "relu3_1", "relu4_1"])}
    content = smooth_picture(96, 80)
    expected = stylized(make_gatys(terms, **settings), content)
    kept = Kept(8)
    with pytest.raises(Ended):
        stylized(make_gatys(terms, **settings), content, unfinished=kept)
    state = torch.load(io.BytesIO(kept.files[-1]), weights_only=True)
    assert state["level"] == 1 and any(plan and plan["tile_px"] == 64 for plan in state["tiles"].values())
    assert state["frozen_layer"] is not None
    assert torch.equal(stylized(make_gatys(terms, **settings), content, unfinished=kept), expected)


def test_tiles_stay_as_they_were(monkeypatch):
    """Less memory at the second start must not change the rounding."""
    content = smooth_picture(96, 80)
    expected = stylized(make_gatys(levels=1, tile_px=64), content)
    kept = Kept(6)
    with pytest.raises(Ended):
        stylized(make_gatys(levels=1, tile_px=64), content, unfinished=kept)
    monkeypatch.setattr(Tiling, "plan", lambda *_: Plan(("pool1",), 32, pairs=5))
    assert torch.equal(stylized(make_gatys(levels=1, tile_px=64), content, unfinished=kept), expected)


def test_memory_of_lbfgs_survives_without_copies():
    p = torch.nn.Parameter(torch.tensor([3.0, -2.0, 0.5]))
    optimizer = LBFGS([p])
    assert optimizer.state_dict()["state"] == {}
    for _ in range(4):
        optimizer.step(partial(_quadratic, p))
    state = optimizer.state_dict()
    other = torch.nn.Parameter(p.detach().clone())
    again = LBFGS([other], history_size=2)
    again.load_state_dict(state)
    pairs = again.state["memory"].pairs
    assert [rho for *_, rho in pairs] == [rho for *_, rho in state["state"]["memory"]["pairs"]][-2:]
    assert pairs[0][0].data_ptr() == state["state"]["memory"]["pairs"][-2][0].data_ptr()


def _quadratic(p: torch.nn.Parameter) -> torch.Tensor:
    p.grad = None
    loss = (torch.tensor([1.0, 4.0, 9.0]) * p.square()).sum()
    loss.backward()
    return loss
