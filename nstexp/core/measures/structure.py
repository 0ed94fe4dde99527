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
    rows = max(1, 2**22 // content.shape[1])  # in blocks: the whole S takes 1 GB for 128x128 positions
    total = 0.0
    for start in range(0, content.shape[1], rows):
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
