"""Loss terms as measures, with the layers and forms that papers use to compare methods."""

from collections.abc import Sequence

from nstexp.core.losses import ContentLoss, GramLoss, MomentsLoss, SlicedWassersteinLoss
from nstexp.core.measures.terms import LossMeasure

GRAM_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")  # Gatys et al. 2016
STYLE_LAYERS = GRAM_LAYERS[:4]  # Huang & Belongie 2017
CONTENT_LAYERS = ("relu4_1",)  # Huang & Belongie 2017


def style_gram(layers: Sequence[str] = GRAM_LAYERS) -> LossMeasure:
    """Distance of Gram matrices divided by the number of positions, averaged over layers (`GramLoss`; Gatys et al.
    2016, Eq. 4-5 with w_l = 1 / number of layers)."""
    return LossMeasure(GramLoss(layers, form="gatys", reduction="mean"), "Gatys form, mean of the layers")


def style_moments(layers: Sequence[str] = STYLE_LAYERS) -> LossMeasure:
    """Squared differences of the channels' means and standard deviations, averaged over channels and summed over layers
    (`MomentsLoss`; Huang & Belongie 2017, Fig. 3)."""
    return LossMeasure(MomentsLoss(layers), "mean over channels, sum of the layers")


def style_swd(layers: Sequence[str] = STYLE_LAYERS) -> LossMeasure:
    """Sliced Wasserstein distance of the feature vectors, summed over layers (`SlicedWassersteinLoss`)."""
    return LossMeasure(SlicedWassersteinLoss(layers), "as many fixed directions as channels, sum of the layers")


def content_loss(layers: Sequence[str] = CONTENT_LAYERS) -> LossMeasure:
    """Mean squared error of features, summed over layers (`ContentLoss`; Huang & Belongie 2017)."""
    return LossMeasure(ContentLoss(layers), "mean squared error")
