"""Pretrained networks that compare pictures: LPIPS by human perception, Inception v3 by content."""

import hashlib
from collections.abc import Mapping, Sequence
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
from nstexp.weights import LPIPS_ALEX

Pixels = Literal["symmetric", "unit"]


class LPIPS(nn.Module):
    """Learned perceptual distance to the photo, 0 or larger (Zhang et al. 2018; version 0.1 with AlexNet).

    The features are the outputs of AlexNet's five ReLUs, normalized to unit length over the channels. The distance is
    their squared difference, weighted by a learned weight for each channel, averaged over the positions and summed over
    the layers. The weights are stored in half precision in `nstexp/weights/lpips_alex.safetensors`; the distance is
    computed in single precision.
    """

    role: PictureRole = "content"
    layers = ()
    min_side_px = 47  # 2x2 positions at the deepest layer
    identity = f"AlexNet of torchvision and linear layers of LPIPS 0.1 ({LPIPS_ALEX.name})"
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):  # draws no random numbers, which would change those of the run
            self.trunk = _alexnet()
        convolutions = [layer for layer in self.trunk if isinstance(layer, nn.Conv2d)]
        self.linear = nn.ParameterList(torch.empty(1, layer.out_channels, 1, 1) for layer in convolutions)
        state = {name: x.float() for name, x in load_tensors(LPIPS_ALEX).items()}
        self.load_state_dict(state, assign=True)
        # On pixels in [-1, 1], from the means and standard deviations of ImageNet.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] -> maps (B, C, h, w) of five layers, normalized to unit length over C."""
        x: Tensor = (2 * pictures.float() - 1 - self.shift) / self.scale
        maps = []
        for layer in self.trunk:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        return maps

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Distance of two results of `features` -> (B,)."""
        maps = (F.conv2d((x - y).square(), weight) for x, y, weight in zip(a, b, self.linear, strict=True))
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
            url = Inception_V3_Weights.IMAGENET1K_V1.url
            file = torch_hub_file(url, "the measure fid", "leave fid out of the measures")
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


def _alexnet() -> nn.Sequential:
    """The convolutions of torchvision's AlexNet (Krizhevsky 2014) up to the last ReLU, with its names of layers."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


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
