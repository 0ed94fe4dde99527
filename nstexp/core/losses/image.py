"""Loss terms on pixels: smoothness, range, and consistency from frame to frame."""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from nstexp.core.errors import choice, number
from nstexp.core.losses.terms import LARGEST_SCALE, Role
from nstexp.core.networks.encoder import BEFORE, IMAGE, TRUST, WRAPS, Features

TVForm = Literal["jc", "sq", "mean", "keras", "l1", "pystiche"]


def total_variation(x: Tensor, form: TVForm = "jc", wraps: bool = False) -> Tensor:
    """Total variation of an image (B, C, H, W) -> scalar, averaged over the batch.

    dx and dy are the differences of neighboring pixels. With `wraps`, opposite edges meet: the last column has the
    first as its neighbor, the last row the first row, and no row or column is left out. Six definitions are in use:

    * jc: half the sum of dx^2 + dy^2 without the last row and column (neural-style, which writes its gradient; the
      default);
    * sq: sum of dx^2 plus sum of dy^2 (AdaIN-style);
    * mean: half the mean of dx^2 plus half the mean of dy^2 (Magenta), independent of the image's size;
    * keras: sum of (dx^2 + dy^2)^1.25 without the last row and column (the Keras example);
    * l1: sum of |dx| plus sum of |dy| (neural-style-pt);
    * pystiche: sum of dx^2 + dy^2 without the last row and column.

    Examples:
        >>> image = torch.tensor([[[[0.0, 1.0], [2.0, 0.0]]]])  # dx: 1, -2; dy: 2, -1
        >>> [total_variation(image, form).item() for form in ("jc", "sq", "mean", "l1", "pystiche")]
        [2.5, 10.0, 2.5, 6.0, 5.0]
    """
    if wraps:
        dx, dy = x.roll(-1, -1) - x, x.roll(-1, -2) - x
    else:
        dx, dy = x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]
    if form == "mean":
        return dx.square().mean() / 2 + dy.square().mean() / 2
    if form == "sq":
        total = dx.square().sum() + dy.square().sum()
    elif form == "l1":
        total = dx.abs().sum() + dy.abs().sum()
    else:
        squares = dx.square() + dy.square() if wraps else dx[..., :-1, :].square() + dy[..., :, :-1].square()
        total = squares.pow(1.25).sum() if form == "keras" else squares.sum() * (0.5 if form == "jc" else 1)
    return total / x.shape[0]


class TotalVariation(nn.Module):
    """`total_variation` of the image.

    Args:
        form: see `total_variation`.
        pixel_scale: factor on the pixels before the loss; 255 is the scale of code that works on 0-255 images.
    """

    role: Role = "image"
    layers: Sequence[str] = ()

    def __init__(self, form: TVForm = "jc", pixel_scale: float = 255.0) -> None:
        super().__init__()
        self.form = choice("form", form, get_args(TVForm))
        self.pixel_scale = number("pixel_scale", pixel_scale, above=0, high=LARGEST_SCALE)
        self.unit = f"total variation ({form}) of 0-{pixel_scale:g} pixels"

    def target(self, feats: Features) -> None:
        return None

    def forward(self, feats: Features, target: None) -> Tensor:
        return total_variation(feats[IMAGE] * self.pixel_scale, self.form, WRAPS in feats)


def out_of_range(x: Tensor) -> Tensor:
    """Mean squared distance of pixels (B, 3, H, W) to the interval [0, 1] -> scalar.

    Examples:
        >>> out_of_range(torch.tensor([-1.0, 0.5, 3.0, 1.0])).item()
        1.25
    """
    return (x - x.detach().clamp(0, 1)).square().mean()


class OutOfRange(nn.Module):
    """`out_of_range` of the image. Saving clips a picture to its range, which undoes part of the optimization; with a
    small weight on this term, the saved picture is as good as the one in memory.

    Args:
        pixel_scale: factor on the distance; 255 measures it in gray levels.
    """

    role: Role = "image"
    layers: Sequence[str] = ()

    def __init__(self, pixel_scale: float = 255.0) -> None:
        super().__init__()
        self.pixel_scale = number("pixel_scale", pixel_scale, above=0, high=LARGEST_SCALE)
        self.unit = f"mean squared distance of 0-{pixel_scale:g} pixels to their range"

    def target(self, feats: Features) -> None:
        return None

    def forward(self, feats: Features, target: None) -> Tensor:
        return out_of_range(feats[IMAGE]) * self.pixel_scale**2


def temporal_loss(x: Tensor, before: Tensor, trust: Tensor) -> Tensor:
    """Mean of c (x - w)^2 over all values of x (Ruder et al. 2016, Eq. 7) -> scalar.

    Args:
        x: the current frame, (B, 3, H, W).
        before: w, the previous stylized frame, warped to the current one; same shape.
        trust: c, (B, 1, H, W) in [0, 1]; 1 where the warp is valid, 0 where it is not.

    Examples:
        >>> x, before, trust = torch.tensor([1.0, 5.0]), torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0])
        >>> temporal_loss(x, before, trust).item()
        2.0
    """
    return (trust * (x - before).square()).mean()


class TemporalLoss(nn.Module):
    """`temporal_loss` of a frame of a clip; 0 for a still picture and for the first frame of a scene.

    Args:
        pixel_scale: factor on the pixels before the loss; 255 is the scale of the paper's code.
    """

    role: Role = "before"
    layers: Sequence[str] = ()

    def __init__(self, pixel_scale: float = 255.0) -> None:
        super().__init__()
        self.pixel_scale = number("pixel_scale", pixel_scale, above=0, high=LARGEST_SCALE)
        self.unit = f"mean squared difference of 0-{pixel_scale:g} pixels to the frame before"

    def target(self, feats: Features) -> tuple[Tensor, Tensor]:
        return feats[BEFORE], feats[TRUST]

    def forward(self, feats: Features, target: tuple[Tensor, Tensor] | None) -> Tensor:
        if target is None:
            return feats[IMAGE].new_zeros(())
        return temporal_loss(feats[IMAGE], *target) * self.pixel_scale**2
