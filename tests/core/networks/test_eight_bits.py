"""Weights in 8 bits: the error of a value is at most half a step of its row."""

import torch

from nstexp.core.networks.eight_bits import packed, unpacked


def test_values_come_back_to_half_a_step():
    torch.manual_seed(0)
    state = {"kernel": torch.randn(4, 3, 3, 3) * torch.tensor([1e-3, 1.0, 10.0, 0.0]).view(4, 1, 1, 1)}
    found = unpacked(packed(state))["kernel"]
    steps = state["kernel"].flatten(1).abs().amax(1) / 127
    error = (found - state["kernel"]).flatten(1).abs().amax(1)
    assert (error <= steps / 2 + 1e-9).all()
    assert error[1] > 0  # it is rounded


def test_vectors_keep_every_bit_and_the_rest_is_a_quarter():
    torch.manual_seed(0)
    state = {"bias": torch.randn(64), "matrix": torch.randn(64, 128)}
    small = packed(state)
    assert torch.equal(unpacked(small)["bias"], state["bias"])
    assert small["matrix"].dtype == torch.int8 and small["matrix"].shape == (64, 128)
    assert set(unpacked(small)) == set(state)


def test_what_is_not_packed_stays():
    state = {"matrix": torch.eye(3)}
    assert torch.equal(unpacked(state)["matrix"], state["matrix"])
