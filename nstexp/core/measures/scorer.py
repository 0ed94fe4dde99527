"""What a finished picture is measured by: formulas, and a Scorer that applies them with one network for all methods.

Pictures are RGB in [0, 1]. No measure ranks methods by itself: a style measure is lowest for the method that optimizes
it (Gram matrices: Gatys; means and standard deviations: AdaIN), and a content measure is best for a picture in which
nothing has changed. That is why there are several of each, and `Scorer.references`.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.color import Moments, color_moments, luminance
from nstexp.core.errors import UserError, check_integers
from nstexp.core.losses import ContentLoss, GramLoss, MomentsLoss, SlicedWassersteinLoss
from nstexp.core.networks.encoder import IMAGE, Encoder, Features
from nstexp.core.networks.pretrained import load_tensors, torch_hub_file
from nstexp.core.resize import resize, size_for_longer_side, size_for_pixels
from nstexp.core.runtime.cache import TensorCache, tensor_digest

GRAM_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")  # Gatys et al. 2016
STYLE_LAYERS = GRAM_LAYERS[:4]  # Huang & Belongie 2017
CONTENT_LAYER = "relu4_1"  # Huang & Belongie 2017
STRUCTURE_LAYER = "relu3_1"  # Chung et al. 2024

DEFAULT_NAMES = (
    "style_gram", "style_moments", "style_swd", "content_loss", "cfsd", "ssim", "color_mean", "color_cov",
    "palette_distance",
)  # fmt: skip
SET_NAMES = ("fid", "art_fid")
NAMES = (*DEFAULT_NAMES, "lpips", *SET_NAMES)
HIGHER_IS_BETTER = frozenset({"ssim"})  # of all others less is better

CACHE_BYTES = 384 * 2**20
SSIM_WINDOW_PX, SSIM_SIGMA_PX = 11, 1.5
PALETTE_BINS, PALETTE_PX, PALETTE_SIGMA, PALETTE_EPS = 64, 150, 0.02, 1e-6


# ------------------------------------------------------------------------------------------------ content, two pictures


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of the luminance of two pictures (..., 3, H, W) in [0, 1] -> [-1, 1], 1 for equal ones.

    Wang et al. 2004, Eq. 13: windows of 11x11 px with Gaussian weights (sigma 1.5 px), C1 = 0.01^2, C2 = 0.03^2, biased
    variances; the mean over all windows that lie inside the picture, as the authors' code and scikit-image have it
    (torchmetrics also counts windows that overlap a mirrored border).

    Raises:
        UserError: different sizes, or a side shorter than 11 px, where no window fits.
    """
    if a.shape != b.shape:
        raise UserError(f"ssim: the pictures have different sizes, {tuple(a.shape)} and {tuple(b.shape)}")
    if min(a.shape[-2:]) < SSIM_WINDOW_PX:
        raise UserError(f"ssim: the pictures have {a.shape[-1]}x{a.shape[-2]} px, at least {SSIM_WINDOW_PX} are needed")
    return _ssim(_gray(a), _gray(b))


def _gray(picture: Tensor) -> Tensor:
    """(B, 1, H, W) float64 on the CPU: TF32 convolutions would be coarser than C2."""
    return luminance(picture).cpu().double().reshape(-1, 1, *picture.shape[-2:])


def _ssim(x: Tensor, y: Tensor) -> float:
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mean_x.square()
    var_y = _window_mean(y * y) - mean_y.square()
    cov = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    alike = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return float((alike / ((mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2))).mean())


def _window_mean(x: Tensor) -> Tensor:
    at = torch.arange(SSIM_WINDOW_PX, dtype=x.dtype) - SSIM_WINDOW_PX // 2
    weights = torch.exp(-0.5 * (at / SSIM_SIGMA_PX).square())
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))


def cfsd(content_feats: Tensor, result_feats: Tensor) -> float:
    """Content feature structural distance of two feature maps (C, h, w) of one size -> 0 or larger.

    Chung et al. 2024 (StyleID): with S = softmax over the rows of (F/C)(F/C)^T, how similar every position is to every
    other, the Kullback-Leibler divergence KL(S_content || S_result), summed over the rows, neither averaged over them
    nor divided by h w. It does not see colors or textures that change everywhere alike.

    The softmax makes the value depend on the scale of the features: published values are of torchvision's VGG-19 at
    relu3_1; a VGG of layers with mean activation 1 is in the same range, the plain Caffe one far out of it.

    Rows are taken a block at a time, so that 128x128 positions need about 100 MB, not 4 GB.
    """
    channels = content_feats.shape[0]
    content, result = (f.flatten(1).float() / channels for f in (content_feats, result_feats))  # (C, N)
    rows = max(1, 2**22 // content.shape[1])
    total = 0.0
    for start in range(0, content.shape[1], rows):
        block = slice(start, start + rows)
        log_s = (content[:, block].T @ content).log_softmax(1)  # (rows, N)
        difference = log_s - (result[:, block].T @ result).log_softmax(1)
        total += float(difference.mul_(log_s.exp_()).sum(1).cpu().double().sum())
    return max(0.0, total)


class _CFSD:
    """`cfsd` in the form of a loss term."""

    role, layers = "content", (STRUCTURE_LAYER,)

    def target(self, feats: Features) -> Tensor:
        return feats[STRUCTURE_LAYER]

    def __call__(self, feats: Features, target: Tensor) -> float:
        return cfsd(target[0], feats[STRUCTURE_LAYER][0])


# ---------------------------------------------------------------------------------------------------------------- color


def color_distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Distance of the color means of two pictures (3, H, W) in [0, 1], and Frobenius distance of their covariances.

    The sizes of the pictures may differ.
    """
    return _mean_distance(color_moments(a), color_moments(b)), _cov_distance(color_moments(a), color_moments(b))


def _mean_distance(a: Moments, b: Moments) -> float:
    return float((a[0] - b[0]).norm())


def _cov_distance(a: Moments, b: Moments) -> float:
    return float((a[1] - b[1]).norm())


def palette(picture: Tensor) -> Tensor:
    """Histogram of the log-chroma of a picture (3, H, W) in [0, 1] -> (3, 64, 64) float64, sum 1.

    The RGB-uv histogram of Afifi et al. 2021 (HistoGAN): plane c counts the pixels over u and v, the logarithms of
    channel c over each of the other two, from -3 to 3, weighed by brightness, with an inverse quadratic kernel of width
    0.02. Differs from their code in keeping the aspect when a picture is reduced to 150 px.
    """
    size = tuple(picture.shape[-2:])
    small = resize(picture.float(), size_for_longer_side(size, min(PALETTE_PX, max(size))))
    pixels = small.flatten(1).cpu().double()  # (3, N)
    weight = (pixels.square().sum(0) + PALETTE_EPS).sqrt()
    logs = (pixels + PALETTE_EPS).log()
    planes = [
        (_nearness(logs[c] - logs[u]) * weight) @ _nearness(logs[c] - logs[v]).T
        for c, u, v in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    ]
    histogram = torch.stack(planes)
    return histogram / histogram.sum()


def _nearness(values: Tensor) -> Tensor:
    """(N,) -> (64, N), how much each value counts in each bin."""
    centers = torch.linspace(-3, 3, PALETTE_BINS, dtype=values.dtype)
    return 1 / (1 + ((values - centers[:, None]) / PALETTE_SIGMA).square())


def _hellinger(p: Tensor, q: Tensor) -> float:
    return min(1.0, float((p.sqrt() - q.sqrt()).norm()) / math.sqrt(2))


def palette_distance(a: Tensor, b: Tensor) -> float:
    """Hellinger distance, in [0, 1], of the `palette`s of two pictures (3, H, W) in [0, 1] of any sizes."""
    return _hellinger(palette(a), palette(b))


def luminance_statistics(picture: Tensor) -> dict[str, float]:
    """Mean and standard deviation of the luminance of a picture (..., 3, H, W), and the share of its color values that
    are 0 or 1, or outside."""
    light = luminance(picture)
    return {
        "luminance_mean": float(light.mean()),
        "luminance_std": float(light.std(unbiased=False)),
        "clipped_share": float(((picture <= 0) | (picture >= 1)).float().mean()),
    }


# ------------------------------------------------------------------------------------------------------ set of pictures


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor, eps: float = 0.0) -> float:
    """Squared Frechet distance of two normal distributions with means (D,) and covariances (D, D), 0 or larger.

    Dowson & Landau 1982, as used by Heusel et al. 2017: |mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^1/2), in float64.
    (S1 S2)^1/2 has the trace of the symmetric (S1^1/2 S2 S1^1/2)^1/2, whose eigenvalues are real; what rounding makes
    negative is 0.

    Args:
        eps: added to both diagonals. Codes that take a root of the product need it (1e-6) if a covariance has less than
            full rank; this one does not.
    """
    mean1, cov1, mean2, cov2 = (x.cpu().double() for x in (mean1, cov1, mean2, cov2))
    ridge = eps * torch.eye(len(mean1), dtype=torch.float64)
    cov1, cov2 = cov1 + ridge, cov2 + ridge
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inner = root @ cov2 @ root
    overlap = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    return max(0.0, float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap))


def art_fid(fid: float, lpips: float) -> float:
    """(1 + FID)(1 + LPIPS), 1 or larger: style and content in one number (Wright & Ommer 2022)."""
    return (1 + fid) * (1 + lpips)


# ----------------------------------------------------------------------------------------------------- learned networks


class LPIPS(nn.Module):
    """Learned perceptual distance of two pictures (Zhang et al. 2018), version 0.1 with AlexNet: 0 or larger.

    The trunk has torchvision's ImageNet weights, downloaded once; the learned weights of its channels are a file inside
    the package torchmetrics.

    Raises:
        UserError: the weights of the trunk are not in torch's cache and cannot be downloaded.
    """

    min_side_px = 47  # 2x2 positions at the deepest layer
    relus = (1, 4, 7, 9, 11)  # of torchvision's AlexNet.features

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import alexnet  # slow to import, and needed here only
        from torchvision.models.alexnet import AlexNet_Weights

        file = _weights_of("lpips", AlexNet_Weights.IMAGENET1K_V1.url)
        with torch.device("meta"):  # its classifier, 230 MB, is not needed
            self.trunk = alexnet().features[: self.relus[-1] + 1]
        state = _matching(self.trunk, load_tensors(file), "features.", str(file))
        self.trunk.load_state_dict(state, assign=True)
        linear = load_tensors(_torchmetrics_file("functional/image/lpips_models/alex.pth"))
        for index in range(len(self.relus)):
            self.register_buffer(f"linear{index}", linear[f"lin{index}.model.1.weight"])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.identity = f"AlexNet of torchvision ({file.name}), LPIPS 0.1 of torchmetrics {version('torchmetrics')}"
        self.requires_grad_(False).eval()

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Of pictures (B, 3, H, W) in [0, 1] the maps that are compared, each with vectors of length 1."""
        x, found = (2 * pictures.float() - 1 - self.shift) / self.scale, []
        for index, layer in enumerate(self.trunk):
            x = layer(x)
            if index in self.relus:
                found.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Of two results of `features` -> (B,)."""
        weights = [getattr(self, f"linear{index}") for index in range(len(self.relus))]
        maps = (F.conv2d((x - y).square(), w) for x, y, w in zip(a, b, weights, strict=True))
        return sum(m.mean((1, 2, 3)) for m in maps)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of one size -> (B,)."""
        return self.distance(self.features(a), self.features(b))


class InceptionFeatures(nn.Module):
    """Inception v3 up to its last pooling: pictures of any size -> 2048 numbers each, for `SetScorer`.

    torchvision's network, with its ImageNet weights, is not the TensorFlow network of published FIDs: values do not
    compare with those.

    Args:
        weights: a state dict in torchvision's layout (.pth, .pt or .safetensors), whose classifiers are ignored; None:
            torchvision's own, downloaded once.
        side_px: pictures are resized to a square of this side; None keeps their size.
        pixels: what the network expects: `symmetric`, [-1, 1], as torchvision's, or `unit`, [0, 1].

    Raises:
        UserError: no weights, or not those of this network.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        side_px: int | None = 299,
        pixels: Literal["symmetric", "unit"] = "symmetric",
    ) -> None:
        super().__init__()
        from torchvision.models import inception
        from torchvision.models.inception import Inception_V3_Weights

        if side_px is not None:
            check_integers("metrics.fid", 75, side_px=side_px)
        if pixels not in ("symmetric", "unit"):
            raise UserError(f"metrics.fid.pixels={pixels} is unknown, choose one of symmetric, unit")
        if weights is None:
            file = _weights_of("fid", Inception_V3_Weights.IMAGENET1K_V1.url)
        else:
            file = Path(weights).expanduser()
        if not file.is_file():
            raise UserError(f"metrics.fid.weights={weights}: there is no such file")
        self.net = inception.Inception3(aux_logits=False, transform_input=False, init_weights=False)
        self.net.fc = nn.Identity()
        self.net.load_state_dict(_matching(self.net, load_tensors(file), "", str(file)), strict=False)
        self.side_px, self.pixels = side_px, pixels
        digest = "" if weights is None else f" {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
        size = "own size" if side_px is None else f"{side_px} px"
        self.identity = f"Inception v3 of torchvision ({file.name}{digest}), {size}, {pixels} pixels"
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 2048)."""
        if self.side_px is not None:
            pictures = resize(pictures, (self.side_px, self.side_px))
        return self.net(2 * pictures - 1 if self.pixels == "symmetric" else pictures)


def _torchmetrics_file(name: str) -> Path:
    return Path(next(iter(find_spec("torchmetrics").submodule_search_locations))) / name


def _weights_of(measure: str, url: str) -> Path:
    return torch_hub_file(url, f"the measure {measure}", f"leave {measure} out of metrics.names")


def _matching(net: nn.Module, state: Mapping[str, Tensor], prefix: str, source: str) -> dict[str, Tensor]:
    """The entries of a state dict that belong to `net`, without `prefix`."""
    wanted = {name: x.shape for name, x in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    wrong = [name for name, shape in wanted.items() if getattr(state.get(prefix + name), "shape", None) != shape]
    if wrong:
        raise UserError(
            f"{source}: not weights in torchvision's layout of this network ({len(wrong)} of {len(wanted)} tensors are "
            f"missing or of another size, such as {prefix}{wrong[0]})"
        )
    return {name: state[prefix + name].float() for name in wanted}


# --------------------------------------------------------------------------------------------------------------- scorer


@dataclass(frozen=True)
class Measure:
    """One measure of a picture against the photo or a painting.

    Args:
        role: against which of the two.
        form: what is computed, for the record.
        of: features of the photo or painting (and the picture itself, under `image`) -> what is kept of it.
        distance: features of the result, and that -> a number.
        layers: features that it reads.
        min_side_px: shortest side that it can be computed for, apart from what the layers need.
    """

    role: Literal["content", "style"]
    form: str
    of: Callable[[Features], Any]
    distance: Callable[[Features, Any], Tensor | float]
    layers: tuple[str, ...] = ()
    min_side_px: int = 1


class Scorer:
    """Measures finished pictures by one and the same network, whatever was optimized with which.

    Measures of style (against every painting alone, then the mean by the paintings' shares) and of content:
        style_gram: Gatys et al. 2016, Eq. 4-5, per position, relu1_1 ... relu5_1, w_l = 1/5 (`GramLoss`).
        style_moments: Huang & Belongie 2017, Fig. 3: squared differences of the channels' means plus those of their
            standard deviations, mean over channels, summed over relu1_1 ... relu4_1 (`MomentsLoss`).
        style_swd: sliced Wasserstein distance, summed over relu1_1 ... relu4_1, fixed directions
            (`SlicedWassersteinLoss`).
        color_mean, color_cov, palette: see `color_distance` and `palette_distance`.
        content_loss: mean squared error at relu4_1, Huang & Belongie 2017.
        cfsd: see `cfsd`, at relu3_1. ssim, lpips: see `ssim` and `LPIPS`.
    fid and art_fid are of sets of pictures: `of_set` computes them; art_fid makes this class compute lpips.

    A measure that a picture is too small for is left out of the result: ssim needs 11 px, lpips 47, one of the encoder
    two positions at each side of its deepest layer (relu5_1: 32 px). The statistics of the last photos and paintings
    are kept, up to 384 MB: the same pictures given again cost nothing again.

    Args:
        encoder: the measuring network.
        names: of the measures; None: all that need no download.
        longer_side_px: larger pictures are reduced to this longer side before they are measured, and paintings are
            resized to as many pixels as the result has, since a style's statistics depend on its scale; None: every
            picture is measured in its own size.
        learned: name -> network, to share one that is loaded already; None: `LPIPS` is loaded if it is asked for.
        fid: makes the network of fid and art_fid, if one of them is asked for.

    Raises:
        UserError: an unknown name, a size that is no whole number, missing weights, or a measure of layers that the
            encoder has not.
    """

    def __init__(
        self,
        encoder: Encoder,
        names: Sequence[str] | None = None,
        longer_side_px: int | None = 512,
        learned: Mapping[str, nn.Module] | None = None,
        fid: Callable[[], nn.Module] = InceptionFeatures,
    ) -> None:
        names = DEFAULT_NAMES if names is None else tuple(dict.fromkeys(names))
        unknown = [name for name in names if name not in NAMES]
        if unknown:
            raise UserError(f"metrics.names: '{unknown[0]}' is unknown, choose from {', '.join(NAMES)}")
        if longer_side_px is not None:
            check_integers("metrics", 1, longer_side_px=longer_side_px)
        if "art_fid" in names and "lpips" not in names:
            names = (*names, "lpips")
        self.encoder, self.longer_side_px = encoder, longer_side_px
        self.learned = dict(learned or {})
        if "lpips" in names and "lpips" not in self.learned:
            self.learned["lpips"] = LPIPS()
        self.set_names = tuple(name for name in names if name in SET_NAMES)
        self._of_sets = fid() if self.set_names else None
        measures = {**_encoder_measures(), **_color_measures(), **_picture_measures()}
        measures |= {name: _learned_measure(network) for name, network in self.learned.items()}
        self.measures: dict[str, Measure] = {name: measures[name] for name in names if name not in SET_NAMES}
        for measure in self.measures.values():
            encoder.min_side_px(measure.layers)  # a layer that the network lacks raises here, not after the work
        self._memory = TensorCache(CACHE_BYTES)

    @property
    def names(self) -> tuple[str, ...]:
        """The measures of a picture, in the order in which they are returned."""
        return tuple(self.measures)

    def to(self, device: torch.device | str) -> "Scorer":
        """Move the networks."""
        for network in filter(None, (self.encoder, *self.learned.values(), self._of_sets)):
            network.to(device)
        self._memory.clear()
        return self

    @torch.no_grad()
    def __call__(
        self, result: Tensor, content: Tensor | None, styles: Sequence[tuple[Tensor, float]]
    ) -> dict[str, float]:
        """All measures of one result that can be computed, by name.

        Args:
            result: (3, H, W), clipped to [0, 1] as it is when it is saved.
            content: the photo, (3, H, W) in [0, 1], resized to the result's size; None: no measures of content.
            styles: (painting (3, H, W) in [0, 1], share); shares need not sum to 1; empty: no measures of style.

        Raises:
            UserError: shares that are negative, not finite or all 0.
        """
        styles = _shares(styles)
        size = self._size(result)
        sizes = [self._style_size(style, size) for style, _ in styles]
        wanted = {
            name: measure
            for name, measure in self.measures.items()
            if all(self._possible(measure, s) for s in ([size] if measure.role == "content" else [size, *sizes]))
            and (content is not None if measure.role == "content" else styles)
        }
        of_content = {} if content is None else self._kept("content", content, size, wanted)
        of_styles = [self._kept("style", style, s, wanted) for (style, _), s in zip(styles, sizes, strict=True)]
        feats = self._features(result.clamp(0, 1), size, wanted.values())
        values = {}
        for name, measure in wanted.items():
            goals = [(1.0, of_content)]
            if measure.role == "style":
                goals = [(share, kept) for (_, share), kept in zip(styles, of_styles, strict=True)]
            values[name] = sum(share * float(measure.distance(feats, kept[name])) for share, kept in goals)
        return values

    def references(self, content: Tensor, styles: Sequence[tuple[Tensor, float]]) -> dict[str, dict[str, float]]:
        """The same measures of two pictures nobody had to make, beside which those of a result can be read.

        Returns:
            `photo`: of the photo itself, which shows what a measure gives for doing nothing; `painting`: of the
            painting with the largest share (the first of equal ones), resized to the photo's size whatever its aspect.
        """

        def make() -> dict[str, dict[str, float]]:
            rows = {"photo": self(content, content, styles)}
            if styles:
                painting = max(styles, key=lambda style: style[1])[0]
                rows["painting"] = self(resize(painting, self._size(content)), content, styles)
            return rows

        key = ("references", tensor_digest(content), *((tensor_digest(style), share) for style, share in styles))
        return self._memory.get(key, make)

    def described(self) -> dict[str, str]:
        """Measure -> what computes it: network and weights, layers, form, and the size of the pictures."""
        network = self.encoder.described
        px = "own size" if self.longer_side_px is None else f"longer side at most {self.longer_side_px} px"
        said = {}
        for name, measure in self.measures.items():
            by = self.learned[name].identity if name in self.learned else network if measure.layers else "no network"
            layers = f"{measure.layers[0]} ... {measure.layers[-1]}" if measure.layers[1:] else "".join(measure.layers)
            said[name] = ", ".join(part for part in (by, layers, measure.form, px) if part)
        return said

    def of_set(self) -> "SetScorer | None":
        """For the measures of a set of pictures, one set; None if there are none among the names."""
        return None if self._of_sets is None else SetScorer(self._of_sets)

    def _size(self, picture: Tensor) -> tuple[int, int]:
        """The size in which a result is measured."""
        size = tuple(picture.shape[-2:])
        px = self.longer_side_px
        return size if px is None or max(size) <= px else size_for_longer_side(size, px)

    def _style_size(self, style: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        own = tuple(style.shape[-2:])
        return own if self.longer_side_px is None else size_for_pixels(own, size[0] * size[1])

    def _possible(self, measure: Measure, size: tuple[int, int]) -> bool:
        return min(size) >= max(measure.min_side_px, self.encoder.min_side_px(measure.layers))

    def _features(self, picture: Tensor, size: tuple[int, int], measures: Sequence[Measure]) -> Features:
        layers = tuple(dict.fromkeys(layer for measure in measures for layer in measure.layers))
        # Where no network is asked for, the pictures stay where they are.
        picture = resize(picture.float().to(self.encoder.device), size)
        return self.encoder(picture[None], layers) if layers else {IMAGE: picture[None]}

    def _kept(self, role: str, picture: Tensor, size: tuple[int, int], wanted: Mapping[str, Measure]) -> dict[str, Any]:
        """Name -> what measures of a role keep of the photo or a painting."""
        own = {name: measure for name, measure in wanted.items() if measure.role == role}

        def make() -> dict[str, Any]:
            feats = self._features(picture, size, own.values())
            return {name: measure.of(feats) for name, measure in own.items()}

        return self._memory.get((tensor_digest(picture), size, *own), make) if own else {}


def _encoder_measures() -> dict[str, Measure]:
    terms = {
        "style_gram": (GramLoss(GRAM_LAYERS, form="gatys", reduction="mean"), "Gatys form, mean of the layers"),
        "style_moments": (MomentsLoss(STYLE_LAYERS), "mean over channels, sum of the layers"),
        "style_swd": (SlicedWassersteinLoss(STYLE_LAYERS), "as many fixed directions as channels, sum of the layers"),
        "content_loss": (ContentLoss([CONTENT_LAYER]), "mean squared error"),
        "cfsd": (_CFSD(), "Kullback-Leibler divergence summed over rows"),
    }
    return {name: Measure(t.role, form, t.target, t, tuple(t.layers)) for name, (t, form) in terms.items()}


def _color_measures() -> dict[str, Measure]:
    def moments(feats: Features) -> Moments:
        return color_moments(feats[IMAGE])

    def histogram(feats: Features) -> Tensor:
        return palette(feats[IMAGE][0])

    return {
        "color_mean": Measure("style", "distance of RGB means", moments, lambda x, y: _mean_distance(moments(x), y)),
        "color_cov": Measure(
            "style", "Frobenius distance of RGB covariances", moments, lambda x, y: _cov_distance(moments(x), y)
        ),
        "palette_distance": Measure(
            "style",
            f"Hellinger distance of RGB-uv histograms, {PALETTE_BINS} bins, {PALETTE_PX} px",
            histogram,
            lambda x, y: _hellinger(histogram(x), y),
        ),
    }


def _picture_measures() -> dict[str, Measure]:
    def gray(feats: Features) -> Tensor:
        return _gray(feats[IMAGE])

    form = f"luminance, Gaussian windows of {SSIM_WINDOW_PX} px inside the picture"
    return {"ssim": Measure("content", form, gray, lambda x, y: _ssim(gray(x), y), min_side_px=SSIM_WINDOW_PX)}


def _learned_measure(network: nn.Module) -> Measure:
    def of(feats: Features) -> Any:
        return network.features(feats[IMAGE])

    def distance(feats: Features, target: Any) -> Tensor:
        return network.distance(of(feats), target)

    return Measure("content", "", of, distance, min_side_px=network.min_side_px)


def _shares(styles: Sequence[tuple[Tensor, float]]) -> list[tuple[Tensor, float]]:
    """Shares that sum to 1, without paintings that have none."""
    shares = [float(share) for _, share in styles]
    if any(not math.isfinite(share) or share < 0 for share in shares) or (styles and not sum(shares)):
        raise UserError(f"the shares of the styles are {shares}: finite numbers, 0 or larger, not all 0")
    return [(style, share / sum(shares)) for (style, _), share in zip(styles, shares, strict=True) if share]


# ----------------------------------------------------------------------------------------------------------- set scorer


class SetScorer:
    """FID of the results of a whole run against its paintings, and ArtFID, which counts the content as well.

    FID (Heusel et al. 2017) compares normal distributions of features, here over two sets of pictures. With fewer
    pictures than features (2048) the covariances have less than full rank, and the fewer there are the larger is the
    value: compare runs with equal numbers of pictures only.

    Args:
        network: pictures (B, 3, H, W) in [0, 1] -> (B, D); has an `identity`.
    """

    def __init__(self, network: InceptionFeatures) -> None:
        self.network = network
        self.results: list[Tensor] = []
        self.styles: list[Tensor] = []
        self.lpips: list[float] = []

    def add(self, result: Tensor, lpips: float | None = None) -> None:
        """Count a result (3, H, W), clipped to [0, 1], and its `lpips`, without which there is no art_fid."""
        self.results.append(self._features(result))
        if lpips is not None:
            self.lpips.append(float(lpips))

    def add_style(self, style: Tensor) -> None:
        """Count a painting (3, H, W)."""
        self.styles.append(self._features(style))

    def compute(self) -> dict[str, float]:
        """`fid` and, if every result came with its lpips, `art_fid`; empty with fewer than two pictures in a set."""
        if min(len(self.results), len(self.styles)) < 2:
            return {}
        fid = frechet_distance(*_set_moments(self.results), *_set_moments(self.styles))
        if len(self.lpips) < len(self.results):
            return {"fid": fid}
        return {"fid": fid, "art_fid": art_fid(fid, sum(self.lpips) / len(self.lpips))}

    def described(self) -> dict[str, str]:
        """Measure -> what computes it, with the numbers of pictures."""
        count = f"{len(self.results)} results, {len(self.styles)} paintings"
        fid = f"{self.network.identity}, {count}"
        return {"fid": fid, "art_fid": f"(1 + fid)(1 + mean lpips), {fid}"}

    def _features(self, picture: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        return self.network(picture.float().clamp(0, 1)[None].to(device))[0].double().cpu()


def _set_moments(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of vectors (D,)."""
    matrix = torch.stack(list(rows))
    return matrix.mean(0), matrix.T.cov()
