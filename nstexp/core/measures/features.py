"""Measures that are loss terms at the layers and in the form that papers compare by."""

from collections.abc import Sequence

from nstexp.core.losses import ContentLoss, GramLoss, MomentsLoss, SlicedWassersteinLoss
from nstexp.core.measures.terms import LossMeasure

GRAM_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")  # Gatys et al. 2016
STYLE_LAYERS = GRAM_LAYERS[:4]  # Huang & Belongie 2017
CONTENT_LAYERS = ("relu4_1",)  # Huang & Belongie 2017


def style_gram(layers: Sequence[str] = GRAM_LAYERS) -> LossMeasure:
    """Gram matrices per position, w_l = 1 / number of layers: Gatys et al. 2016, Eq. 4-5 (`GramLoss`)."""
    return LossMeasure(GramLoss(layers, form="gatys", reduction="mean"), "Gatys form, mean of the layers")


def style_moments(layers: Sequence[str] = STYLE_LAYERS) -> LossMeasure:
    """Squared differences of the channels' means plus those of their standard deviations, mean over channels, summed
    over layers: Huang & Belongie 2017, Fig. 3 (`MomentsLoss`)."""
    return LossMeasure(MomentsLoss(layers), "mean over channels, sum of the layers")


def style_swd(layers: Sequence[str] = STYLE_LAYERS) -> LossMeasure:
    """Sliced Wasserstein distance of the feature vectors, summed over layers (`SlicedWassersteinLoss`)."""
    return LossMeasure(SlicedWassersteinLoss(layers), "as many fixed directions as channels, sum of the layers")


def content_loss(layers: Sequence[str] = CONTENT_LAYERS) -> LossMeasure:
    """Mean squared error of features, summed over layers: Huang & Belongie 2017 (`ContentLoss`)."""
    return LossMeasure(ContentLoss(layers), "mean squared error")
