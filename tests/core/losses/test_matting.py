"""The matting Laplacian as a loss: Levin et al. 2008, Eq. 12, written out in loops, and its closed forms."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.losses import LossSet, MattingLoss, matting, matting_loss, matting_weights
from nstexp.core.networks.encoder import IMAGE, WRAPS

SIZE = (9, 7)
PIXELS = SIZE[0] * SIZE[1]
EPS = 1e-7

pytestmark = pytest.mark.usefixtures("one_thread")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def laplacian(photo: np.ndarray, eps: float = EPS) -> np.ndarray:
    """Equation 12 for a photo (H, W, 3), window by window and pair by pair."""
    height, width, _ = photo.shape
    matrix = np.zeros((height * width,) * 2)
    for row in range(height - 2):
        for column in range(width - 2):
            places = [(y, x) for y in range(row, row + 3) for x in range(column, column + 3)]
            colors = np.array([photo[place] for place in places])
            centered = colors - colors.mean(0)
            inverse = np.linalg.inv(centered.T @ centered / 9 + eps / 9 * np.eye(3))
            for i, a in zip(places, centered, strict=True):
                for j, b in zip(places, centered, strict=True):
                    entry = float(i == j) - (1 + a @ inverse @ b) / 9
                    matrix[i[0] * width + i[1], j[0] * width + j[1]] += entry
    return matrix


def matrix_of(weights: Tensor) -> np.ndarray:
    """The matrix that the weights (1, 12, H, W) stand for, from the gradients 2 L x / N of unit vectors."""
    height, width = weights.shape[-2:]
    units = torch.eye(height * width, dtype=weights.dtype).view(-1, 1, height, width).requires_grad_()
    (gradient,) = torch.autograd.grad(matting_loss(units, weights), units)
    return gradient.flatten(1).numpy() * len(units) * height * width / 2


def smooth(*size: int) -> Tensor:
    """A photo whose colors all lie on one line, as in most windows of a real photo."""
    y, x = torch.linspace(0, 0.4, size[0], dtype=torch.float64)[:, None], torch.linspace(0, 0.3, size[1]).double()
    return (0.2 + y + x)[None, None] * torch.tensor([1.0, 0.7, 0.3], dtype=torch.float64).view(1, 3, 1, 1)


PHOTOS = {
    "noise": lambda: rand(1, 3, *SIZE),
    "flat": lambda: torch.full((1, 3, *SIZE), 0.3, dtype=torch.float64),
    "dark noise": lambda: rand(1, 3, *SIZE) / 255,
}


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("eps", [EPS, 1e-3])
def test_weights_are_the_published_matrix(name, eps):
    photo = PHOTOS[name]()
    expected = laplacian(photo[0].permute(1, 2, 0).numpy(), eps)
    np.testing.assert_allclose(matrix_of(matting_weights(photo, eps)), expected, rtol=1e-6, atol=1e-9)


def test_a_gray_photo_has_the_matrix_of_its_one_channel():
    """A plain inverse of its singular covariance loses most digits; the formula of Sherman and Morrison does not."""
    gray = rand(1, 1, 3, 3)
    d = gray.flatten().numpy() - gray.mean().item()
    expected = np.eye(9) - (1 + 3 * np.outer(d, d) / (3 * (d @ d) / 9 + EPS / 9)) / 9
    np.testing.assert_allclose(matrix_of(matting_weights(gray.expand(-1, 3, -1, -1), EPS)), expected, atol=1e-12)


@pytest.mark.parametrize("photo", [rand(1, 3, *SIZE), smooth(*SIZE)], ids=["noise", "smooth"])
def test_the_matrix_is_symmetric_and_positive_semidefinite_and_its_rows_sum_to_0(photo):
    matrix = matrix_of(matting_weights(photo))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    np.testing.assert_allclose(matrix @ np.ones(PIXELS), 0, atol=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > -1e-10


def test_an_affine_picture_costs_only_the_penalty_of_its_slopes():
    photo = rand(1, 3, *SIZE)
    mix, shift = rand(3, 3, seed=1), rand(3, 1, 1, seed=2)
    affine = torch.einsum("ij,bjhw->bihw", mix, photo) + shift
    windows = (SIZE[0] - 2) * (SIZE[1] - 2)
    for eps in (1e-7, 1e-5):
        cost = matting_loss(affine, matting_weights(photo, eps)).item() * PIXELS
        assert 0 < cost <= eps * windows * mix.square().sum().item() * (1 + 1e-4)
    assert matting_loss(rand(1, 3, *SIZE, seed=3), matting_weights(photo)).item() > 1e-3


def test_the_loss_is_the_residual_of_the_best_affine_function_of_every_window():
    """By least squares, with the penalty as three more equations for the slopes."""
    photo, x, eps, total = rand(1, 3, *SIZE), rand(1, 3, *SIZE, seed=1), 1e-3, 0.0
    for row in range(SIZE[0] - 2):
        for column in range(SIZE[1] - 2):
            colors, values = (t[0, :, row : row + 3, column : column + 3].flatten(1).T.numpy() for t in (photo, x))
            equations = np.vstack([np.c_[colors, np.ones(9)], np.c_[np.sqrt(eps) * np.eye(3), np.zeros(3)]])
            wanted = np.vstack([values, np.zeros((3, 3))])
            solution = np.linalg.lstsq(equations, wanted, rcond=None)[0]
            total += ((equations @ solution - wanted) ** 2).sum()
    assert matting_loss(x, matting_weights(photo, eps)).item() == pytest.approx(total / PIXELS, rel=1e-9)


def test_matting_loss_passes_gradcheck():
    weights = matting_weights(rand(2, 3, 4, 5))
    assert torch.autograd.gradcheck(lambda x: matting_loss(x, weights), rand(2, 3, 4, 5, seed=1).requires_grad_())
    one_for_all = matting_weights(rand(1, 3, 4, 5))
    assert torch.autograd.gradcheck(lambda x: 3 * matting_loss(x, one_for_all), rand(2, 3, 4, 5).requires_grad_())


def test_the_loss_does_not_depend_on_the_size():
    """A picture four times over has nearly four times the windows, and nearly the same mean."""
    photo, x = rand(1, 3, 40, 40), rand(1, 3, 40, 40, seed=1)
    one, four = (matting_loss(b.repeat(1, 1, n, n), matting_weights(a.repeat(1, 1, n, n))) for a, b, n in
                 ((photo, x, 1), (photo, x, 2)))  # fmt: skip
    assert four.item() == pytest.approx(one.item(), rel=0.1)
    assert one.item() > 0.1


@pytest.mark.parametrize("name", ["STRIP_PIXELS", "BLOCK_PIXELS"])
def test_strips_and_blocks_change_nothing(name, monkeypatch):
    photo, x = rand(2, 3, 12, 11), rand(2, 3, 12, 11, seed=1)

    def result() -> tuple[Tensor, Tensor]:
        leaf, weights = x.clone().requires_grad_(), matting_weights(photo)
        return weights, torch.autograd.grad(matting_loss(leaf, weights), leaf)[0]

    whole = result()
    monkeypatch.setattr(matting, name, 50)
    for part, expected in zip(result(), whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-12)


def test_float32_keeps_the_digits_of_a_small_loss():
    """Where the photo is smooth, weights are large and differences of neighbors small."""
    photo = smooth(24, 24) + 0.002 * rand(1, 3, 24, 24)
    x = photo.flip(1) + 0.001 * rand(1, 3, 24, 24, seed=1)
    exact = matting_loss(x, matting_weights(photo)).item()
    single = matting_loss(x.float(), matting_weights(photo).float())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(exact, rel=1e-3)
    assert matting_loss(torch.full((1, 3, 24, 24), 0.7), matting_weights(photo.float())).item() == 0


def test_the_term_reads_the_content_and_knows_its_smallest_picture_and_the_published_weight():
    term = MattingLoss()
    losses = LossSet({"matting": term}, {"matting": 1e4})
    photo, x = rand(1, 3, *SIZE), rand(1, 3, *SIZE, seed=1)
    target = losses.targets("content", {IMAGE: photo})["matting"]
    value = losses({IMAGE: x}, {"matting": [(1.0, target)]})
    assert value.total.item() == pytest.approx(1e4 * matting_loss(x, matting_weights(photo)).item())
    assert losses.min_side_px == 3
    assert losses.describe({IMAGE: (3, *SIZE)}) == [
        f"matting = 1e+04 x mean over pixels of V' L V of 0-1 pixels, or {1e4 / PIXELS:.4g} x sum of V' L V"
    ]


@pytest.mark.parametrize("eps", [0, -1e-7, 2, True, "1e-7"])
def test_a_penalty_out_of_range_is_refused(eps):
    with pytest.raises(UserError, match=r"^eps="):
        MattingLoss(eps)


@pytest.mark.parametrize("shift", [(1, 0), (0, 3), (4, 5)])
def test_on_a_torus_no_window_is_left_out(shift):
    """A shift changes neither the value nor, but for the shift, the gradient. Without the torus it changes both."""
    term, photo, image = MattingLoss(), rand(1, 3, *SIZE), rand(1, 3, *SIZE, seed=1)

    def evaluated(marks: dict[str, Tensor], by: tuple[int, int]) -> tuple[Tensor, Tensor]:
        x = image.roll(by, (-2, -1)).requires_grad_()
        loss = term({IMAGE: x, **marks}, term.target({IMAGE: photo.roll(by, (-2, -1)), **marks}))
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    torus = {WRAPS: torch.ones(())}
    (loss, grad), (moved, grad_moved) = evaluated(torus, (0, 0)), evaluated(torus, shift)
    torch.testing.assert_close(moved, loss)
    torch.testing.assert_close(grad_moved, grad.roll(shift, (-2, -1)))
    assert abs(float(evaluated({}, shift)[0] / evaluated({}, (0, 0))[0]) - 1) > 1e-4


def test_on_a_torus_the_value_is_a_mean_over_the_same_pixels():
    """Four copies beside each other have the same mean."""
    term, marks = MattingLoss(), {WRAPS: torch.ones(())}
    photo, image = rand(1, 3, *SIZE), rand(1, 3, *SIZE, seed=1)
    four = [x.repeat(1, 1, 2, 2) for x in (photo, image)]
    values = [term({IMAGE: x, **marks}, term.target({IMAGE: of, **marks})) for of, x in ((photo, image), four)]
    torch.testing.assert_close(values[0], values[1])
