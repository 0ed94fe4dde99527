"""Loss terms, the statistics that they compare, and `LossSet`, which weighs them."""

from nstexp.core.losses.style import *  # noqa: F403
