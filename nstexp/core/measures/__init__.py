"""Measures of finished pictures, and `Scorer`, which applies them.

Pictures are RGB in [0, 1]. No single measure ranks methods: a style measure is lowest for the method that optimizes it
(Gram matrices: Gatys; means and standard deviations: AdaIN), and a content measure is best for the unchanged photo.
Therefore there are several measures of style and of content, and `Scorer.references` for comparison.

A measure resembles a loss term: a class with a role, layers, `target` and `forward` (see `Measure`; `SetMeasure` is for
measures of many pictures together), which a YAML file of the config group metrics names.
"""

from nstexp.core.measures.color import (
    ColorCovariance,
    ColorMean,
    PaletteDistance,
    color_distance,
    luminance_statistics,
    palette,
    palette_distance,
)
from nstexp.core.measures.faults import Chroma, Halo, Weave, chroma_distance, chroma_values, halo, weave
from nstexp.core.measures.features import content_loss, style_gram, style_moments, style_swd
from nstexp.core.measures.learned import LPIPS, InceptionFeatures
from nstexp.core.measures.scorer import DEFAULT_NAMES, Scorer, default_measures
from nstexp.core.measures.sets import (
    FID,
    ArtFID,
    PooledFeatures,
    SetScorer,
    art_fid,
    frechet_distance,
    frechet_distances,
    inception_fid,
    vgg_fid,
)
from nstexp.core.measures.structure import CFSD, SSIM, Edge, cfsd, edge, ssim
from nstexp.core.measures.terms import LossMeasure, Measure, SetMeasure, about

__all__ = [
    "CFSD",
    "DEFAULT_NAMES",
    "FID",
    "LPIPS",
    "SSIM",
    "ArtFID",
    "Chroma",
    "ColorCovariance",
    "ColorMean",
    "Edge",
    "Halo",
    "InceptionFeatures",
    "LossMeasure",
    "Measure",
    "PaletteDistance",
    "PooledFeatures",
    "Scorer",
    "SetMeasure",
    "SetScorer",
    "Weave",
    "about",
    "art_fid",
    "cfsd",
    "chroma_distance",
    "chroma_values",
    "color_distance",
    "content_loss",
    "default_measures",
    "edge",
    "frechet_distance",
    "frechet_distances",
    "halo",
    "inception_fid",
    "luminance_statistics",
    "palette",
    "palette_distance",
    "ssim",
    "style_gram",
    "style_moments",
    "style_swd",
    "vgg_fid",
    "weave",
]
