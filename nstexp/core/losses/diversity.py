"""How alike several pictures of one kind are, for generators that take noise."""

import math

import torch
from torch import Tensor

from nstexp.core.errors import UserError


def julesz(pictures: Tensor, squared: bool = False, eps: float = 1e-6, per_dim: bool = False) -> Tensor:
    """How alike several pictures of one kind are -> scalar; less is more diverse.

    Ulyanov et al. 2017, section 3: the negative entropy of what a generator makes of noise, by the estimate of
    Kozachenko and Leonenko, -(D / N) sum_i ln(distance of picture i to its nearest neighbor). Twice the distances are
    D ln 2 less.

    Args:
        pictures: (N, D), or (groups, N, D): each compared with its own group only, and the mean over the groups.
        squared: of the distances, as the authors' code.
        eps: shortest distance, so that equal pictures have a finite value and gradient.
        per_dim: without the factor D, so that the value does not depend on the pictures' size.

    Raises:
        UserError: one picture, which has no neighbor.
    """
    count, dim = pictures.shape[-2:]
    if count < 2:
        raise UserError("the diversity term compares pictures: it needs 2 or more of a kind")
    kind = torch.promote_types(pictures.dtype, torch.float32)
    x = pictures.to(kind)
    # Not by matrix products, in which distances of pictures much alike would be lost to rounding.
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    own = torch.eye(count, dtype=torch.bool, device=x.device)
    nearest = distance.masked_fill(own, math.inf).min(-1).values.clamp(min=eps)
    log_distance = nearest.log() * (2 if squared else 1)
    return -log_distance.mean() * (1 if per_dim else dim)
