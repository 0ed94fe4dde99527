"""Histogram matching, quantiles and random directions against NumPy in float64, and what must hold for any input."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.losses import transport
from nstexp.core.losses.transport import directions, hist_match, quantile, quantiles

# float64 takes torch's sorting, the others integer keys.
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-8 + 1e-5}  # one rounding


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def row(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """One sample and channel."""
    return torch.tensor(values, dtype=dtype).view(1, 1, -1)


def distinct(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Values of both signs, in random order, up to 512 of which no two are equal in any format."""
    order = rand(*shape, seed=seed).argsort(-1).double()
    return ((order - shape[-1] // 2) / 4).to(dtype)


def sorted_reference(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return rand(*shape, seed=seed).to(dtype).sort(-1).values


def matched_by_numpy(values: Tensor, reference: Tensor, weights: np.ndarray | None = None) -> np.ndarray:
    """Row by row; among equal values the one further to the left goes first."""
    values, reference = values.double().numpy(), reference.double().numpy()
    weights = np.ones(values.shape[-1]) if weights is None else weights
    result = np.empty(values.shape)
    for sample, channel in np.ndindex(*values.shape[:2]):
        row_of, wanted = values[sample, channel], reference[sample % len(reference), channel]
        passed = 0.0
        for position in np.lexsort((np.arange(len(row_of)), row_of)):
            share = (passed + weights[position] / 2) / weights.sum()
            passed += weights[position]
            result[sample, channel, position] = np.quantile(wanted, share, method="hazen")
    return result


# ----------------------------------------------------------------------------------------------------------- matching


@pytest.mark.parametrize("tie", ["random", "stable"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_worked_example(dtype, tie):
    matched = hist_match(row(3, 1, 2, 0, dtype=dtype), row(10, 20, 30, 40, dtype=dtype), tie=tie)
    assert matched.dtype == dtype
    assert matched.flatten().tolist() == [40, 20, 30, 10]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sort_match_has_exactly_the_values_of_a_reference_of_the_same_size(dtype):
    reference = sorted_reference(2, 5, 300, dtype=dtype)
    matched = hist_match(rand(2, 5, 300).to(dtype), reference)
    assert torch.equal(matched.sort(-1).values, reference)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("size", [1, 7, 60, 61, 200])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matching_is_numpys(dtype, size, samples):
    values, reference = distinct(2, 3, 60, dtype=dtype), sorted_reference(samples, 3, size, dtype=dtype)
    matched = hist_match(values, reference)
    expected = torch.from_numpy(matched_by_numpy(values, reference))
    torch.testing.assert_close(matched.double(), expected, rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize("mode", ["sort", "bins"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matching_is_monotone(dtype, mode):
    values = distinct(2, 3, 60, dtype=dtype)
    matched = hist_match(values, sorted_reference(1, 3, 45, dtype=dtype), mode)
    assert (matched.gather(-1, values.argsort(-1)).diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matching_twice_is_matching_once(dtype):
    values, reference = rand(2, 3, 60).relu().to(dtype), sorted_reference(2, 3, 60, dtype=dtype)
    once = hist_match(values, reference)
    assert torch.equal(hist_match(once, reference), once)


@pytest.mark.parametrize("tie", ["random", "stable"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_matched_to_themselves_stay(dtype, tie):
    values = rand(2, 3, 60).relu().to(dtype)
    assert torch.equal(hist_match(values, values.sort(-1).values, tie=tie), values)


def test_no_other_assignment_is_closer():
    values, reference = rand(1, 1, 6), sorted_reference(1, 1, 6)
    distance = (values - hist_match(values, reference)).square().sum()
    every = [(values - reference[..., list(order)]).square().sum() for order in itertools.permutations(range(6))]
    assert distance.item() == pytest.approx(min(every).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_of_every_magnitude_keep_their_order(dtype):
    values = row(-torch.inf, -3e38, -2, -1, -1e-30, -0.0, 1e-38, 1, 1.5, 3e38, torch.inf, dtype=dtype)
    shuffled = values[..., [4, 9, 0, 7, 2, 10, 5, 1, 8, 3, 6]]
    ranks = torch.arange(11.0, dtype=dtype).view(1, 1, -1)
    assert hist_match(shuffled, ranks).flatten().tolist() == [4, 9, 0, 7, 2, 10, 5, 1, 8, 3, 6]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs_are_left_alone_and_no_gradient_flows(dtype):
    values, reference = rand(2, 3, 60).to(dtype).requires_grad_(), sorted_reference(2, 3, 60, dtype=dtype)
    copies = values.detach().clone(), reference.clone()
    assert not hist_match(values, reference).requires_grad
    assert torch.equal(values.detach(), copies[0])
    assert torch.equal(reference, copies[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_values_match_as_contiguous_ones(dtype):
    values = rand(60, 2, 3).to(dtype).permute(1, 2, 0)
    reference = sorted_reference(1, 3, 60, dtype=dtype)
    assert torch.equal(hist_match(values, reference), hist_match(values.contiguous(), reference))


@pytest.mark.parametrize("block", [1, 60, 100, 180, 2**18])
@pytest.mark.parametrize("mode", ["sort", "bins"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_blocks_of_channels_change_nothing(monkeypatch, dtype, mode, block):
    values, reference = rand(2, 5, 60).relu().to(dtype), sorted_reference(2, 5, 45, dtype=dtype)
    whole = hist_match(values, reference, mode)
    monkeypatch.setattr(transport, "BLOCK", block)
    assert torch.equal(hist_match(values, reference, mode), whole)


@pytest.mark.parametrize("tie", ["random", "stable"])
def test_rows_too_long_for_the_keys_match_the_same(monkeypatch, tie):
    values, reference = rand(2, 5, 60).relu().float(), sorted_reference(1, 5, 60, dtype=torch.float32)
    by_keys = hist_match(values, reference, tie=tie)
    monkeypatch.setattr(transport, "RANK_BITS", 5)
    assert torch.equal(hist_match(values, reference, tie=tie), by_keys)


# --------------------------------------------------------------------------------------------------------------- ties


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_stable_ties_go_by_position(dtype):
    values = row(1, 0, 1, 0, 0, dtype=dtype)
    assert hist_match(values, row(1, 2, 3, 4, 5, dtype=dtype), tie="stable").flatten().tolist() == [4, 1, 5, 2, 3]
    rectified, reference = rand(2, 3, 60).relu().to(dtype), sorted_reference(2, 3, 45, dtype=dtype)
    expected = torch.from_numpy(matched_by_numpy(rectified, reference))
    found = hist_match(rectified, reference, tie="stable")
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_ties_are_the_same_in_every_call_with_one_seed(dtype):
    values, reference = torch.zeros(1, 2, 50, dtype=dtype), sorted_reference(1, 2, 50, dtype=dtype)
    first, again, other = (hist_match(values, reference, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(other.sort(-1).values, reference)
    assert not torch.equal(first, reference), "that would be the order of the positions"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_random_ties_treat_every_side_of_the_picture_alike(dtype):
    values, reference = torch.zeros(1, 1, 4000, dtype=dtype), torch.linspace(0, 1, 4000, dtype=dtype).view(1, 1, -1)
    slopes = {}
    for tie in ("random", "stable"):
        top, bottom = hist_match(values, reference, tie=tie).double().chunk(2, -1)
        slopes[tie] = float(bottom.mean() - top.mean())
    assert abs(slopes["random"]) < 0.05
    assert slopes["stable"] > 0.45


@pytest.mark.parametrize("mode", ["sort", "bins"])
@pytest.mark.parametrize("tie", ["random", "stable"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_values_are_matched_to_finite_ones(dtype, weighted, tie, mode):
    values, reference = torch.full((1, 2, 30), 0.7, dtype=dtype), sorted_reference(1, 2, 20, dtype=dtype)
    matched = hist_match(values, reference, mode, tie, weights=torch.ones(30) if weighted else None)
    assert matched.isfinite().all()
    assert (matched >= reference[..., :1] - TOLERANCE[torch.float32]).all()
    assert (matched <= reference[..., -1:] + TOLERANCE[torch.float32]).all()


# --------------------------------------------------------------------------------------------------------------- bins


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bins", [2, 16, 256])
def test_bins_error_is_less_than_what_the_map_makes_of_one_bin(bins, dtype):
    values, reference = distinct(2, 3, 400, dtype=dtype), sorted_reference(2, 3, 400, dtype=dtype)
    exact, found = hist_match(values, reference).double(), hist_match(values, reference, "bins", bins=bins).double()
    low, high = values.double().amin(-1, keepdim=True), values.double().amax(-1, keepdim=True)
    bin_of = ((values.double() - low) / (high - low) * bins).floor().clamp(max=bins - 1)
    for sample, channel in np.ndindex(2, 3):
        for number in range(bins):
            inside = bin_of[sample, channel] == number
            if inside.any():
                below = int((bin_of[sample, channel] < number).sum())
                edges = np.array([below, below + int(inside.sum())]) / 400
                width = np.ptp(np.quantile(reference[sample, channel].double().numpy(), edges, method="hazen"))
                off = (exact - found)[sample, channel][inside].abs().max()
                assert off <= width + 2 * TOLERANCE[dtype]


def test_many_bins_are_as_good_as_sorting():
    values, reference = distinct(1, 3, 200), sorted_reference(1, 3, 200)
    few, many = (
        (hist_match(values, reference, "bins", bins=bins) - hist_match(values, reference)).abs().mean()
        for bins in (8, 512)
    )
    assert many < few / 4


# ------------------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("size", [60, 45])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weighted_matching_is_numpys(dtype, size):
    values, reference = distinct(2, 3, 60, dtype=dtype), sorted_reference(1, 3, size, dtype=dtype)
    weights = rand(60, seed=2).relu()
    expected = torch.from_numpy(matched_by_numpy(values, reference, weights.numpy()))
    found = hist_match(values, reference, weights=weights)
    # Shares of the weights are float32.
    torch.testing.assert_close(found.double(), expected, rtol=max(TOLERANCE[dtype], 1e-5), atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_of_0_and_1_match_the_chosen_positions_by_themselves(dtype):
    values, reference = distinct(2, 3, 60, dtype=dtype), sorted_reference(1, 3, 45, dtype=dtype)
    chosen = rand(60, seed=2) > 0.3
    found = hist_match(values, reference, weights=chosen.float())
    alone = hist_match(values[..., chosen], reference)
    torch.testing.assert_close(found[..., chosen], alone, rtol=2 * TOLERANCE[dtype], atol=1e-5)
    assert found.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bins_with_weights_count_the_chosen_positions_only(dtype):
    values, reference = distinct(1, 3, 400, dtype=dtype), sorted_reference(1, 3, 400, dtype=dtype)
    chosen = rand(400, seed=2) > 0.3
    found = hist_match(values, reference, "bins", bins=2000, weights=chosen.float())[..., chosen]
    exact = hist_match(values[..., chosen], reference)
    # A value that is alone in its bin is matched within the quantiles that it covers.
    widest = reference.double().diff(dim=-1).amax() * 2
    assert (found.double() - exact.double()).abs().max() <= widest + TOLERANCE[dtype]


@pytest.mark.parametrize("mode", ["sort", "bins"])
def test_equal_weights_of_any_size_are_no_weights(mode):
    values, reference = rand(2, 3, 60).relu().float(), sorted_reference(1, 3, 45, dtype=torch.float32)
    plain = hist_match(values, reference, mode)
    for weight in (0.25, 1, 7):
        weighted = hist_match(values, reference, mode, weights=torch.full((60,), float(weight)))
        torch.testing.assert_close(weighted, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["sort", "bins"])
def test_weights_that_are_0_everywhere_give_something_finite(mode):
    assert hist_match(rand(1, 2, 30), sorted_reference(1, 2, 30), mode, weights=torch.zeros(30)).isfinite().all()


@pytest.mark.parametrize("setting", [{"mode": "sorted"}, {"tie": "left"}, {"mode": None}], ids=str)
def test_unknown_settings_raise_with_their_key_and_the_known_ones(setting):
    ((key, value),) = setting.items()
    known = {"mode": "sort, bins", "tie": "random, stable"}[key]
    with pytest.raises(UserError, match=f"^{key}={value} is unknown, choose one of {known}$"):
        hist_match(row(1, 2), row(1, 2), **setting)


# ---------------------------------------------------------------------------------------------------------- quantiles


@pytest.mark.parametrize("count", [1, 2, 5, 9, 100])
def test_quantiles_are_numpys(count):
    reference = sorted_reference(2, 3, 9)
    expected = np.quantile(reference.numpy(), (np.arange(count) + 0.5) / count, axis=-1, method="hazen")
    np.testing.assert_allclose(quantiles(reference, count), np.moveaxis(expected, 0, -1), rtol=0, atol=1e-12)


def test_quantiles_of_low_precision_are_float32():
    reference = sorted_reference(2, 3, 9, dtype=torch.bfloat16)
    assert quantiles(reference, 5).dtype == quantiles(reference, 9).dtype == torch.float32
    torch.testing.assert_close(quantiles(reference, 5).double(), quantiles(reference.double(), 5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_quantile_is_numpys(samples):
    reference, share = sorted_reference(samples, 3, 9), torch.linspace(0, 1, 23, dtype=torch.float64)
    found = quantile(reference, share.expand(2, 3, -1))
    expected = np.moveaxis(np.quantile(reference.numpy(), share.numpy(), axis=-1, method="hazen"), 0, -1)
    np.testing.assert_allclose(found, np.broadcast_to(expected, (2, 3, 23)), rtol=0, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- directions


@pytest.mark.parametrize(("channels", "count"), [(1, 1), (1, 4), (8, 3), (8, 8), (8, 20)])
def test_directions_are_unit_vectors_and_orthogonal_as_far_as_possible(channels, count):
    found = directions(channels, count, seed=0).double()
    assert found.shape == (channels, count)
    for frame in found.split(channels, 1):
        torch.testing.assert_close(frame.T @ frame, torch.eye(frame.shape[1]).double(), rtol=0, atol=1e-5)


def test_directions_belong_to_their_seed():
    first, again, other = (directions(8, 12, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.1)
    assert not torch.allclose(first[:, :4], first[:, 8:], atol=0.1), "a second frame is another one"


def test_fewer_directions_are_the_first_of_more():
    assert torch.equal(directions(8, 3, 0), directions(8, 20, 0)[:, :3])
