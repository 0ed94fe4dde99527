"""Which style applies where: gray pictures in, weights that sum to 1 at every pixel out, and guides for features."""

import logging
from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from nstexp.core.errors import choice
from nstexp.core.names import Propagation
from nstexp.core.networks.encoder import IMAGE, Encoder
from nstexp.core.resize import resize

log = logging.getLogger(__name__)


def guides(
    mask: Tensor, encoder: Encoder, layers: Sequence[str], propagation: Propagation = "simple"
) -> dict[str, Tensor]:
    """What a region's mask becomes at each layer (Gatys et al. 2017, section 4): the factor T of the features there.

    Their mean square is 1, so that the Gram matrix of the features times T is that of the region alone. A layer at
    which nothing is left of the region is missing.

    Args:
        mask: (H, W) in [0, 1], of the image's size.
        encoder: knows what a position sees of the image.
        layers: names; `image` itself is always among the results.
        propagation: `simple` resizes the mask, and keeps its grays. The others take it as black and white, divided at
            1/2, and ask what a position sees: `inside` keeps those that see the region only (at a layer where there are
            none it does as `simple`), `all` those that see anything of it.

    Returns:
        Layer name -> (h, w).

    Raises:
        ArgumentError: unknown propagation.
    """
    choice("propagation", propagation, get_args(Propagation))
    sizes = {name: encoder.shape(name, tuple(mask.shape[-2:]))[1:] for name in layers}
    simple = {name: resize(mask[None, None].float(), size)[0, 0] for name, size in sizes.items()}
    found = simple
    if propagation != "simple":
        region = (mask if propagation == "inside" else 1 - mask)[None, None] >= 0.5
        # A position stays if all that it sees is in the region: its complement grows by what the position reaches.
        seen = {name: encoder.all_seen(region.float(), name)[0, 0] for name in layers}
        found = {name: kept if propagation == "inside" else 1 - kept for name, kept in seen.items()}
        found = {name: kept if kept.any() else simple[name] for name, kept in found.items()}
    found = {IMAGE: mask.float(), **found}
    return {name: t / t.square().mean().sqrt() for name, t in found.items() if float(t.max()) > 1e-3}
