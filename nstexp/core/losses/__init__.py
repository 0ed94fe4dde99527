"""Loss terms, the statistics that they compare, and `LossSet`, which computes the weighted sum.

A term works on features (layer name -> (B, C, H, W)) and does not know the encoder; the image itself is the feature
`image`. `target` computes the statistic to match from a reference picture's features, and `forward` compares the
current features with it. The result of `forward` is unweighted: only `LossSet` multiplies by weights.
"""

from nstexp.core.losses.content import ContentLoss, IdentityLoss, LaplacianLoss, content_loss, laplacian, laplacian_loss
from nstexp.core.losses.diversity import julesz
from nstexp.core.losses.image import (
    OutOfRange,
    TemporalLoss,
    TotalVariation,
    out_of_range,
    temporal_loss,
    total_variation,
)
from nstexp.core.losses.loss_set import LossSet, LossValues
from nstexp.core.losses.palette import ChromaHistogramLoss, chroma_histogram, chroma_histogram_loss
from nstexp.core.losses.stats import Moments, adain, affine, gram, moments, region_moments, shift
from nstexp.core.losses.style import (
    CovarianceLoss,
    GramLoss,
    HistogramLoss,
    MomentsLoss,
    SlicedWassersteinLoss,
    covariance,
    covariance_loss,
    gram_loss,
    histogram_loss,
    moments_loss,
    sliced_wasserstein_loss,
)
from nstexp.core.losses.terms import Guides, LossTerm, Role, Shapes
from nstexp.core.names import Combine

__all__ = [
    "ChromaHistogramLoss",
    "Combine",
    "ContentLoss",
    "CovarianceLoss",
    "GramLoss",
    "Guides",
    "HistogramLoss",
    "IdentityLoss",
    "LaplacianLoss",
    "LossSet",
    "LossTerm",
    "LossValues",
    "Moments",
    "MomentsLoss",
    "OutOfRange",
    "Role",
    "Shapes",
    "SlicedWassersteinLoss",
    "TemporalLoss",
    "TotalVariation",
    "adain",
    "affine",
    "chroma_histogram",
    "chroma_histogram_loss",
    "content_loss",
    "covariance",
    "covariance_loss",
    "gram",
    "gram_loss",
    "histogram_loss",
    "julesz",
    "laplacian",
    "laplacian_loss",
    "moments",
    "moments_loss",
    "out_of_range",
    "region_moments",
    "shift",
    "sliced_wasserstein_loss",
    "temporal_loss",
    "total_variation",
]
