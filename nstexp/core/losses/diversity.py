"""The diversity term: it trains generators that take noise to make different pictures from different noise."""

import math

import torch
from torch import Tensor

from nstexp.core.errors import UserError


def julesz(pictures: Tensor, squared: bool = False, eps: float = 1e-6, per_dim: bool = False) -> Tensor:
    """Similarity of several generated pictures -> scalar; a smaller value means more diverse pictures.

    Ulyanov et al. 2017, section 3: the negative entropy of a generator's output, estimated after Kozachenko and
    Leonenko as -(D / N) sum_i ln(distance of picture i to its nearest neighbor). Doubling all distances lowers the
    value by D ln 2.

    Args:
        pictures: (N, D), or (groups, N, D); pictures are compared within their group, and groups are averaged.
        squared: use squared distances, as the authors' code does.
        eps: lower bound of a distance, so that equal pictures have a finite value and gradient.
        per_dim: leave out the factor D, so that the value does not depend on the size of the pictures.

    Raises:
        UserError: fewer than two pictures.

    Examples:
        >>> round(julesz(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).item(), 4)  # -2 ln 5
        -3.2189
    """
    count, dim = pictures.shape[-2:]
    if count < 2:
        raise UserError("the diversity term compares pictures: it needs 2 or more pictures of each style")
    x = pictures.to(torch.promote_types(pictures.dtype, torch.float32))
    # Without matrix products: their rounding would hide the distances of similar pictures.
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    diagonal = torch.eye(count, dtype=torch.bool, device=x.device)
    nearest = distance.masked_fill(diagonal, math.inf).min(-1).values.clamp(min=eps)
    log_distance = nearest.log() * (2 if squared else 1)
    return -log_distance.mean() * (1 if per_dim else dim)
