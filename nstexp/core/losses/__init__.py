"""Loss terms, the statistics that they compare, and `LossSet`, which computes the weighted sum.

A term works on features (layer name -> (B, C, H, W)) and does not know the encoder; the image itself is the feature
`image`. `target` computes the statistic to match from a reference picture's features, and `forward` compares the
current features with it. The result of `forward` is unweighted: only `LossSet` multiplies by weights.
"""

from nstexp.core.losses.coherence import CoherenceLoss, coherence_loss, coherence_target, neighbor_pairs
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
from nstexp.core.losses.matting import MattingLoss, matting_loss, matting_weights
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
    "CoherenceLoss",
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
    "MattingLoss",
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
    "coherence_loss",
    "coherence_target",
    "content_loss",
    "covariance",
    "covariance_loss",
    "gram",
    "gram_loss",
    "histogram_loss",
    "julesz",
    "laplacian",
    "laplacian_loss",
    "matting_loss",
    "matting_weights",
    "moments",
    "moments_loss",
    "neighbor_pairs",
    "out_of_range",
    "region_moments",
    "shift",
    "sliced_wasserstein_loss",
    "temporal_loss",
    "total_variation",
]
