"""Pretrained networks that compare pictures: LPIPS by human perception, Inception v3 by content."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import ArgumentError, UserError, choice, whole
from nstexp.core.measures.terms import PictureRole
from nstexp.core.networks.encoder import IMAGE, Features
from nstexp.core.networks.pretrained import load_tensors, torch_hub_file
from nstexp.core.resize import resize

Pixels = Literal["symmetric", "unit"]


class LPIPS(nn.Module):
    """Learned perceptual distance to the photo, 0 or larger (Zhang et al. 2018; version 0.1 with AlexNet).

    The AlexNet has torchvision's ImageNet weights, downloaded once; the learned channel weights are a file of the
    package torchmetrics.

    Raises:
        UserError: the weights of AlexNet are not in torch's cache and cannot be downloaded.
    """

    role: PictureRole = "content"
    layers = ()
    min_side_px = 47  # 2x2 positions at the deepest layer
    relus = (1, 4, 7, 9, 11)  # indices in torchvision's AlexNet.features
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import alexnet  # imported here because it is slow
        from torchvision.models.alexnet import AlexNet_Weights

        file = _weights_of("lpips", AlexNet_Weights.IMAGENET1K_V1.url)
        with torch.device("meta"):  # no memory for the unused classifier, 230 MB
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
        """Pictures (B, 3, H, W) in [0, 1] -> maps (B, C, h, w) of five layers, normalized to unit length over C."""
        x: Tensor = (2 * pictures.float() - 1 - self.shift) / self.scale
        maps = []
        for index, layer in enumerate(self.trunk):
            x = layer(x)
            if index in self.relus:
                maps.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return maps

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Distance of two results of `features` -> (B,)."""
        weights = [getattr(self, f"linear{index}") for index in range(len(self.relus))]
        maps = (F.conv2d((x - y).square(), w) for x, y, w in zip(a, b, weights, strict=True))
        return cast(Tensor, sum(m.mean((1, 2, 3)) for m in maps))

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of pictures (B, 3, H, W) in [0, 1] of equal size -> (B,)."""
        return self.distance(self.features(a), self.features(b))

    def target(self, feats: Features) -> list[Tensor]:
        return self.features(feats[IMAGE])

    def forward(self, feats: Features, target: Sequence[Tensor]) -> Tensor:
        return self.distance(self.features(feats[IMAGE]), target).mean()


class InceptionFeatures(nn.Module):
    """Inception v3 up to its last pooling, for `FID`: 2048 numbers per picture.

    Published FIDs use a TensorFlow network with other weights than torchvision's ImageNet weights; values of the two
    cannot be compared.

    Args:
        weights: file of a state dict in torchvision's layout (.pth, .pt or .safetensors); its classifiers are ignored.
            None: torchvision's weights, downloaded once.
        side_px: pictures are resized to a square of this side, 75 or larger; None keeps their size.
        pixels: pixel range that the network expects: `symmetric`, [-1, 1], as torchvision's, or `unit`, [0, 1].

    Raises:
        UserError: missing weights, or weights of another network.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        side_px: int | None = 299,
        pixels: Pixels = "symmetric",
    ) -> None:
        super().__init__()
        from torchvision.models import inception
        from torchvision.models.inception import Inception_V3_Weights

        if side_px is not None:
            whole("side_px", side_px, 75)
        choice("pixels", pixels, get_args(Pixels))
        if weights is None:
            file = _weights_of("fid", Inception_V3_Weights.IMAGENET1K_V1.url)
        else:
            file = Path(weights).expanduser()
        if not file.is_file():
            raise ArgumentError("weights", f"={weights}: there is no such file")
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
        return cast(Tensor, self.net(2 * pictures - 1 if self.pixels == "symmetric" else pictures))


def _torchmetrics_file(name: str) -> Path:
    """A file of the package torchmetrics, without its slow import."""
    spec = find_spec("torchmetrics")
    assert spec is not None and spec.submodule_search_locations, "torchmetrics is a dependency of nstexp"
    return Path(spec.submodule_search_locations[0]) / name


def _weights_of(measure: str, url: str) -> Path:
    return torch_hub_file(url, f"the measure {measure}", f"leave {measure} out of the measures")


def _matching(net: nn.Module, state: Mapping[str, Tensor], prefix: str, source: str) -> dict[str, Tensor]:
    """The entries of a state dict that belong to `net`, without `prefix` and as float32.

    Raises:
        UserError: an entry is missing or has another shape.
    """
    shapes = {name: x.shape for name, x in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    wrong = [name for name, shape in shapes.items() if getattr(state.get(prefix + name), "shape", None) != shape]
    if wrong:
        raise UserError(
            f"{source}: not weights in torchvision's layout of this network ({len(wrong)} of {len(shapes)} tensors are "
            f"missing or of another size, such as {prefix}{wrong[0]})"
        )
    return {name: state[prefix + name].float() for name in shapes}
