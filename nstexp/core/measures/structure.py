"""Measures of structure: similarity of the picture to the photo, apart from colors and textures."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.color import luminance
from nstexp.core.errors import UserError, text
from nstexp.core.measures.terms import PictureRole
from nstexp.core.networks.encoder import IMAGE, Features

SSIM_WINDOW_PX, SSIM_SIGMA_PX = 11, 1.5
CFSD_LAYER = "relu3_1"  # Chung et al. 2024
BLOCK = 2**22  # similarities that are computed at once: all of 128x128 positions take 1 GB
LARGEST_EXPONENT = 30.0  # similarities below it have exponentials that can be added up


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of the luminance of two pictures -> [-1, 1], 1 for equal pictures.

    Wang et al. 2004, Eq. 13: windows of 11x11 px with Gaussian weights (sigma 1.5 px), C1 = 0.01^2, C2 = 0.03^2, biased
    variances. The value is the mean over the windows inside the picture, as in the authors' code and scikit-image;
    torchmetrics adds windows that overlap a mirrored border.

    Args:
        a, b: (..., 3, H, W) in [0, 1], of equal size.

    Raises:
        UserError: different sizes, or a side shorter than the 11 px of a window.

    Examples:
        >>> picture = torch.rand(3, 16, 16)
        >>> round(ssim(picture, picture), 6)
        1.0
    """
    if a.shape != b.shape:
        raise UserError(f"ssim: the pictures have different sizes, {tuple(a.shape)} and {tuple(b.shape)}")
    if min(a.shape[-2:]) < SSIM_WINDOW_PX:
        raise UserError(f"ssim: the pictures have {a.shape[-1]}x{a.shape[-2]} px, at least {SSIM_WINDOW_PX} are needed")
    return _ssim(_gray(a), _gray(b))


def _gray(picture: Tensor) -> Tensor:
    """Luminance (B, 1, H, W), float64 on the CPU, because the rounding errors of TF32 convolutions exceed C2."""
    return luminance(picture).cpu().double().reshape(-1, 1, *picture.shape[-2:])


def _ssim(x: Tensor, y: Tensor) -> float:
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mean_x.square()
    var_y = _window_mean(y * y) - mean_y.square()
    cov = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return float((similarity / ((mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2))).mean())


def _window_mean(x: Tensor) -> Tensor:
    offsets = torch.arange(SSIM_WINDOW_PX, dtype=x.dtype) - SSIM_WINDOW_PX // 2
    weights = torch.exp(-0.5 * (offsets / SSIM_SIGMA_PX).square())
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))


class SSIM:
    """`ssim` of the picture and the photo."""

    role: PictureRole = "content"
    layers = ()
    unit = f"luminance, Gaussian windows of {SSIM_WINDOW_PX} px inside the picture"
    higher_is_better = True
    min_side_px = SSIM_WINDOW_PX

    def target(self, feats: Features) -> Tensor:
        return _gray(feats[IMAGE])

    def forward(self, feats: Features, target: Tensor) -> float:
        return _ssim(_gray(feats[IMAGE]), target)


def edge(picture: Tensor, photo: Tensor) -> float:
    """Agreement of the luminance gradients of two pictures -> [-1, 1], 1 where one is a brighter or softer other.

    The scalar product of both gradient fields, divided by their norms. Luminance is smoothed by the Gaussian window of
    `ssim` first. Strokes that follow no edge of the photo count as gradients without agreement; edges of reversed
    contrast count negative. 0 if a picture is flat. Penney et al. 1998 call the mean of the two derivatives' parts
    gradient correlation.

    Args:
        picture, photo: (..., 3, H, W) in [0, 1], of equal size, at least 12 px on each side.

    Examples:
        >>> photo = torch.rand(3, 16, 16)
        >>> round(edge(0.5 * photo + 0.2, photo), 4), round(edge(1 - photo, photo), 4)
        (1.0, -1.0)
    """
    return _agreement(_gradients(_gray(picture)), _gradients(_gray(photo)))


def _gradients(light: Tensor) -> Tensor:
    """Both derivatives of the smoothed luminance (B, 1, H, W), inside the picture -> (2, B, 1, h, w)."""
    return torch.stack(torch.gradient(_window_mean(light), dim=(2, 3)))


def _agreement(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))


class Edge:
    """`edge` of the picture and the photo."""

    role: PictureRole = "content"
    layers = ()
    unit = "correlation of luminance gradients"
    higher_is_better = True
    min_side_px = SSIM_WINDOW_PX + 1

    def target(self, feats: Features) -> Tensor:
        return _gradients(_gray(feats[IMAGE]))

    def forward(self, feats: Features, target: Tensor) -> float:
        return _agreement(_gradients(_gray(feats[IMAGE])), target)


def cfsd(content_feats: Tensor, result_feats: Tensor) -> float:
    """Content feature structural distance of two feature maps -> 0 or larger (Chung et al. 2024, StyleID).

    S = softmax of the rows of (F/C)(F/C)^T contains the similarity of every position to every other position. The
    distance is the Kullback-Leibler divergence KL(S_content || S_result), summed over the rows and not divided by h w.
    It ignores changes of color and texture that are the same everywhere.

    The softmax makes the value depend on the scale of the features. Published values use torchvision's VGG-19 at
    relu3_1; a VGG normalized to a mean activation of 1 gives values in the same range, the plain Caffe VGG does not.

    Args:
        content_feats, result_feats: (C, h, w), of equal size.

    Examples:
        >>> feats = torch.rand(4, 3, 3)
        >>> cfsd(feats, feats)
        0.0
    """
    channels = content_feats.shape[0]
    content, result = (f.flatten(1).float() / channels for f in (content_feats, result_feats))  # (C, N)
    if torch.equal(content, result):
        return 0.0
    largest = max(float(f.square().sum(0).max()) for f in (content, result))  # no similarity is larger
    if largest >= LARGEST_EXPONENT:
        return _divergence_by_rows(content, result)
    if content_feats.dtype == result_feats.dtype == torch.bfloat16:
        return _divergence(content_feats.flatten(1), result_feats.flatten(1), 1 / channels**2)
    return _divergence(content, result)


def _divergence(content: Tensor, result: Tensor, scale: float = 1.0) -> float:
    """The divergence, from vectors (C, N) whose scaled scalar products are small enough for their exponentials.

    With u the difference of two similarities and p the softmax of the content's, the divergence of a row is
    E[u] + log(1 + E[exp(-u) - 1]) under p, which is exact for small u, where differences of two log-softmax are not.
    Similarities are symmetric, so the part right of the diagonal is enough: it also counts for the rows below.

    Features in bfloat16 are multiplied as they are, which takes less than half of the time on a CPU with such
    instructions. Each product is then rounded by up to 0.4 % of itself, and because the errors of the many products
    are independent, they add about 1e-4 of the divergence, far less than the rounding of the features does.
    """
    count = content.shape[1]
    content_rows, result_rows = content.T.contiguous(), result.T.contiguous()
    sums = torch.zeros(3, count, dtype=torch.float64)  # by row, of exp(a), u exp(a) and (exp(-u) - 1) exp(a)
    rows = max(1, BLOCK // count)
    for start in range(0, count, rows):
        end = min(start + rows, count)
        a = (content_rows[start:end] @ content[:, start:]).float()  # (rows, N - start)
        u = a - result_rows[start:end] @ result[:, start:]
        if scale != 1:
            a.mul_(scale)
            u.mul_(scale)
        change = torch.expm1(-u)
        p = a.exp_()
        for total, part in zip(sums, (p, u.mul_(p), change.mul_(p)), strict=True):
            total[start:end] += part.sum(1).cpu()
            total[end:] += part[:, end - start :].sum(0).cpu()
    softmax, mean, change_mean = sums
    return max(0.0, float((mean / softmax + torch.log1p(change_mean / softmax)).sum()))


def _divergence_by_rows(content: Tensor, result: Tensor) -> float:
    """The divergence, from vectors (C, N) of any size."""
    count = content.shape[1]
    rows = max(1, BLOCK // count)
    total = 0.0
    for start in range(0, count, rows):
        block = slice(start, start + rows)
        log_s = (content[:, block].T @ content).log_softmax(1)  # (rows, N)
        difference = log_s - (result[:, block].T @ result).log_softmax(1)
        total += float(difference.mul_(log_s.exp_()).sum(1).cpu().double().sum())
    return max(0.0, total)


class CFSD:
    """`cfsd` of the photo and the picture.

    Args:
        layer: the layer of the features; the paper uses relu3_1.
    """

    role: PictureRole = "content"
    unit = "Kullback-Leibler divergence summed over rows"

    def __init__(self, layer: str = CFSD_LAYER) -> None:
        self.layers = (str(text("layer", layer, CFSD_LAYER)),)

    def target(self, feats: Features) -> Tensor:
        return feats[self.layers[0]]

    def forward(self, feats: Features, target: Tensor) -> float:
        return cfsd(target[0], feats[self.layers[0]][0])
