"""The AdaIN decoder: the mirrored encoder, its fast upsampling, its closed-form start and its files."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from nstexp.core.errors import UserError
from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.encoder import CAFFE, EncoderWeights, same_network
from nstexp.core.networks.layers import upsampled_conv
from nstexp.core.networks.model_files import (
    decoder_info,
    encoder_to_sequential,
    load_decoder,
    read_info,
    save_decoder,
    to_sequential,
)
from nstexp.core.networks.pretrained import from_file, random_vgg
from nstexp.core.networks.ridge import fit_decoder
from nstexp.core.networks.vgg import VGG

STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


@pytest.fixture(scope="module")
def encoder():
    return VGG(random_vgg(), pad="reflect")


def info_of(encoder, layer="relu4_1", **more):
    return decoder_info(encoder, layer, **more)


def test_decoder_params():
    full = VGG(random_vgg(width_divisor=1), pad="reflect")
    assert sum(p.numel() for p in Decoder.mirror(full, "relu4_1").parameters()) == 3_505_219


@pytest.mark.parametrize(("layer", "scale"), [(f"relu{block}_1", 2 ** (block - 1)) for block in range(1, 6)])
@pytest.mark.parametrize("depth", [16, 19])
def test_the_decoder_gives_back_the_image_size_from_every_layer(layer, scale, depth):
    encoder = VGG(random_vgg(depth=depth), pad="reflect")
    decoder = Decoder.mirror(encoder, layer)
    assert decoder.scale == scale
    assert len(decoder.names) == sum(1 for name in encoder.conv_names if name <= layer.replace("relu", "conv"))
    image = torch.rand(2, 3, 32, 48)
    assert decoder(encoder(image, [layer])[layer]).shape == image.shape


def test_a_decoder_starts_from_a_relu_layer(encoder):
    with pytest.raises(UserError, match=r"^layer=pool3: a decoder starts from a layer relu.*such as relu4_1"):
        Decoder.mirror(encoder, "pool3")


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 4)])
def test_upsampled_conv_is_upsampling_padding_and_convolution(size):
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64)
    wanted = F.conv2d(F.pad(F.interpolate(x, scale_factor=2), (1, 1, 1, 1), mode="reflect"), weight, bias)
    got = upsampled_conv(x, weight, bias)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    probe = torch.randn_like(got)
    for mine, theirs in zip(
        torch.autograd.grad((got * probe).sum(), (x, weight)),
        torch.autograd.grad((wanted * probe).sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_no_checkerboard():
    """A constant input and a constant kernel give a constant interior."""
    out = upsampled_conv(torch.ones(1, 3, 6, 6), torch.full((2, 3, 3, 3), 0.5), torch.zeros(2))
    assert (out - out[..., :1, :1]).abs().max() < 1e-5


def sequential_decoder():
    """pytorch-AdaIN's decoder written out, for VGG-19 at an eighth of its width."""

    def block(low, high):
        return [nn.ReflectionPad2d(1), nn.Conv2d(low, high, 3), nn.ReLU()]

    up = nn.Upsample(scale_factor=2, mode="nearest")
    quarter = [*block(32, 32), *block(32, 32), *block(32, 32), *block(32, 16)]
    rest = [up, *block(16, 16), *block(16, 8), up, *block(8, 8), *block(8, 3)[:-1]]
    return nn.Sequential(*block(64, 32), up, *quarter, *rest)


def test_a_foreign_decoder_file_gives_the_same_pictures(encoder, tmp_path):
    theirs = sequential_decoder()
    assert [key for key in theirs.state_dict() if key.endswith("weight")] == [
        f"{n}.weight" for n in (1, 5, 8, 11, 14, 18, 21, 25, 28)
    ]
    torch.save(theirs.state_dict(), tmp_path / "decoder.pth")
    ours = load_decoder(tmp_path / "decoder.pth", encoder, "relu4_1")
    features = encoder(torch.rand(1, 3, 32, 40), ["relu4_1"])["relu4_1"]
    torch.testing.assert_close(ours(features), theirs(features), rtol=1e-4, atol=1e-5)
    back = to_sequential(ours)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


def test_an_exported_encoder_read_back_gives_the_same_features(tmp_path):
    full = random_vgg(width_divisor=1)
    first = VGG(EncoderWeights(full.convs, CAFFE, "caffe"), pad="reflect")
    state = encoder_to_sequential(first)
    assert state["0.weight"].shape == (3, 3, 1, 1)
    assert list(state)[2:6] == ["2.weight", "2.bias", "5.weight", "5.bias"]
    torch.save(state, tmp_path / "vgg_normalised.pth")
    second = VGG(from_file(str(tmp_path / "vgg_normalised.pth"), "none"), pad="reflect")
    image = torch.rand(1, 3, 32, 32)
    for mine, theirs in zip(first(image, STYLE).values(), second(image, STYLE).values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_fit_decoder_inverts_far_better_than_chance(encoder):
    torch.manual_seed(0)
    pictures = F.interpolate(torch.rand(24, 3, 5, 5), size=(32, 32), mode="bicubic", align_corners=False).clamp(0, 1)
    train, unseen = pictures[:16], pictures[16:]
    decoder = Decoder.mirror(encoder, "relu2_1")

    def error():
        with torch.no_grad():
            return float((decoder(encoder(unseen, ["relu2_1"])["relu2_1"]) - unseen).square().mean())

    before, seen = error(), []
    fit_decoder(decoder, encoder, "relu2_1", train, progress=lambda names: (seen.append(n) or n for n in names))
    assert seen == list(decoder.names)
    flat = float((unseen - unseen.mean((2, 3), keepdim=True)).square().mean())
    assert error() < 0.3 * flat < before


def test_fit_decoder_is_the_same_twice(encoder):
    pictures = torch.rand(4, 3, 32, 32)
    first, second = Decoder.mirror(encoder, "relu2_1"), Decoder.mirror(encoder, "relu2_1")
    for decoder in (first, second):
        fit_decoder(decoder, encoder, "relu2_1", pictures, positions=500)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_saved_decoder_comes_back(encoder, tmp_path, dtype):
    decoder = Decoder.mirror(encoder, "relu4_1")
    path = tmp_path / "d.safetensors"
    save_decoder(decoder, info_of(encoder, steps=7), path, dtype)
    loaded = load_decoder(path, encoder, "conv4_1")
    assert not any(p.requires_grad for p in loaded.parameters())
    for mine, theirs in zip(decoder.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3 if dtype == torch.float16 else 0, atol=1e-6)
    assert read_info(path).steps == 7
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["info"])["encoder"] == "vgg19-random-0"


def test_a_decoder_of_another_encoder_is_refused(encoder, tmp_path):
    path = tmp_path / "d.safetensors"
    save_decoder(Decoder.mirror(encoder, "relu4_1"), info_of(encoder), path)
    other = VGG(random_vgg(seed=1), pad="reflect")
    with pytest.raises(UserError, match=r"with the encoder vgg19-random-0 .*, and the backbone is vgg19-random-1"):
        load_decoder(path, other, "relu4_1")
    with pytest.raises(
        UserError, match=r"^path=.* was trained for relu4_1, and layer is relu3_1: set layer to relu4_1"
    ):
        load_decoder(path, encoder, "relu3_1")
    with pytest.raises(UserError, match=r"^--decoder=.* for relu4_1, and --layer is relu3_1: set --layer to relu4_1"):
        load_decoder(path, encoder, "relu3_1", "--decoder", "--layer")


@pytest.mark.parametrize("setting", [{"pool": "avg"}, {"pad": "zeros"}])
def test_the_same_filters_with_other_settings_are_another_encoder(encoder, tmp_path, setting):
    path = tmp_path / "d.safetensors"
    save_decoder(Decoder.mirror(encoder, "relu4_1"), info_of(encoder), path)
    other = VGG(random_vgg(), **{"pad": "reflect", **setting})
    with pytest.raises(UserError, match=r"\(max pooling, reflect padding\), and the backbone is .*pooling"):
        load_decoder(path, other, "relu4_1")


def test_the_same_encoder_in_another_precision_is_no_other(encoder, tmp_path):
    path = tmp_path / "d.safetensors"
    save_decoder(Decoder.mirror(encoder, "relu4_1"), info_of(encoder), path)
    load_decoder(path, VGG(random_vgg(), pad="reflect", dtype=torch.bfloat16), "relu4_1")


def test_a_fingerprint_sees_preprocessing_scale_and_the_order_of_channels():
    weights = random_vgg()
    base = VGG(weights).fingerprint("relu4_1")

    def changed(preprocessing=weights.preprocessing, **convs):
        return VGG(EncoderWeights({**weights.convs, **convs}, preprocessing, "x")).fingerprint("relu4_1")

    weight, bias = weights.convs["conv3_2"]
    assert same_network(base, changed())
    assert not same_network(base, changed(CAFFE))
    assert not same_network(base, changed(conv3_2=(weight * 1.05, bias)))
    assert not same_network(base, changed(conv3_2=(weight.flip(1), bias)))
    assert same_network(base, changed(conv5_1=(weights.convs["conv5_1"][0] * 2, weights.convs["conv5_1"][1])))
    assert not same_network(base, VGG(weights).fingerprint("relu3_1"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no such file"),
        (b"", "not a decoder file that loads safely"),
        (b"\x80\x04nonsense", "not a decoder file that loads safely"),
        ({"1.weight": torch.zeros(2, 2, 3, 3), "1.bias": torch.zeros(2)}, "are not those of a decoder for relu4_1"),
        ({"epoch": 3}, "not the file of an AdaIN decoder"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors"])
def test_bad_decoder_files_get_a_sentence(encoder, tmp_path, content, sentence, suffix):
    path = tmp_path / f"d{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
        if suffix == ".safetensors":
            sentence = "not a decoder file that loads safely"
    with pytest.raises(UserError, match=sentence) as error:
        load_decoder(path, encoder, "relu4_1")
    assert str(error.value).startswith(f"path={path}")
