"""What every encoder promises (`Encoder`), asked of a VGG and of an EfficientNet-Lite with random weights."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import UserError
from nstexp.core.masks import guides
from nstexp.core.networks.adain_decoder import Decoder
from nstexp.core.networks.efficientnet import EfficientNetLite
from nstexp.core.networks.encoder import IMAGE, Encoder, EncoderWeights, Preprocessing, same_network
from nstexp.core.networks.pretrained import random_efficientnet, random_vgg
from nstexp.core.networks.vgg import VGG

NETWORKS: dict[str, Callable[..., Encoder]] = {
    "vgg": lambda weights=None, **k: VGG(weights or random_vgg(), **{"pool": "avg", **k}),
    "efficientnet": lambda weights=None, **k: EfficientNetLite(weights or random_efficientnet(), **k),
}
WEIGHTS = {"vgg": random_vgg, "efficientnet": random_efficientnet}
PADS = ("zeros", "reflect", "replicate")
# Of each network one layer per stride, and some behind windows of 5 and behind additions.
LAYERS = {
    "vgg": ("relu1_1", "relu1_2", "pool1", "relu2_1", "relu3_3", "relu4_1"),
    "efficientnet": ("stem", "depthwise1_1", "expand2_1", "block2_2", "depthwise3_1", "block3_2", "depthwise4_1"),
}
DEEPEST = {"vgg": "pool5", "efficientnet": "head"}
CASES = [(network, layer) for network, layers in LAYERS.items() for layer in layers]


@pytest.fixture(params=list(NETWORKS))
def network(request) -> str:
    return request.param


@pytest.fixture
def encoder(network) -> Encoder:
    return NETWORKS[network]()


def image(*size: int, batch: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(dtype)


def test_an_encoder_has_all_members(encoder):
    members = [name for name in (*vars(Encoder), *Encoder.__annotations__) if not name.startswith("_")]
    assert len(members) == 17
    assert not [name for name in members if not hasattr(encoder, name)]


# ---------------------------------------------------------------------------------------------------- names and sizes


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("size", [(128, 160), (109, 131)])
def test_every_layer_has_the_shape_that_was_announced(network, size, pad):
    encoder, x = NETWORKS[network](pad=pad), image(*size, batch=2)
    found = encoder(x, encoder.layer_names)
    assert list(found) == [IMAGE, *encoder.layer_names]
    assert found[IMAGE] is x
    for name in encoder.layer_names:
        stride = encoder.stride(name)
        assert stride & (stride - 1) == 0, "a power of 2"
        assert found[name].shape == (2, *encoder.shape(name, size)), name
        assert encoder.shape(name, size)[1:] == (size[0] // stride, size[1] // stride)


def test_layer_names_run_from_the_image_on(encoder):
    names = encoder.layer_names
    for measure in (encoder.depth, encoder.stride, encoder.reach_px):
        values = [measure(name) for name in names]
        assert values == sorted(values)
    assert len({encoder.depth(name) for name in names}) == len(names)
    assert all(encoder.canonical(name) == name for name in names)


@pytest.mark.parametrize("name", ["relu9_9", "block9_1", "image", ""])
def test_unknown_layer_raises_and_lists_the_known_ones(encoder, name):
    known = f"unknown layer '{name}': {encoder.identity} has {encoder.layer_names[0]}, .*{encoder.layer_names[-1]}$"
    asks = (encoder.canonical, encoder.depth, encoder.stride, encoder.reach_px, encoder.fingerprint)
    for ask in (*asks, lambda n: encoder(image(64, 64), [n]), lambda n: encoder.min_side_px([n])):
        with pytest.raises(UserError, match=known):
            ask(name)


@pytest.mark.parametrize("pad", PADS)
def test_min_side_gives_two_positions_at_every_layer(network, pad):
    encoder = NETWORKS[network](pad=pad)
    assert encoder.min_side_px([]) == 1
    for name in encoder.layer_names:
        side = encoder.min_side_px([encoder.layer_names[0], name])
        assert min(encoder(image(side, side), [name])[name].shape[-2:]) >= 2, name
        if pad == "zeros":
            assert min(encoder.shape(name, (side - 1, side - 1))[1:]) < 2, name


# ------------------------------------------------------------------------------------------------ what a position sees


def averaging(network: str, **settings) -> Encoder:
    """Every filter an average, so that no ReLU hides what a position sees and ReLU6 never ends anything."""
    convs = {}
    for name, (weight, bias) in WEIGHTS[network]().convs.items():
        positive = weight.abs() + 0.1
        convs[name] = (positive / positive.sum((1, 2, 3), keepdim=True), bias)
    return NETWORKS[network](EncoderWeights(convs), **settings).double()


def changed(encoder: Encoder, layer: str, size: tuple[int, int], pixels: list[tuple[int, int]]) -> Iterator[Tensor]:
    """For each pixel the positions (N, 2) of a layer whose values are others once the pixel is."""
    x = image(*size, dtype=torch.float64)
    before = encoder(x, [layer])[layer]
    for row, column in pixels:
        other = x.clone()
        other[0, :, row, column] += 0.5
        yield (encoder(other, [layer])[layer] != before).any(1)[0].nonzero()


@pytest.mark.parametrize(("network", "layer"), CASES)
def test_reach_is_how_far_a_pixel_can_be_to_change_a_position(network, layer):
    encoder = averaging(network)
    stride, reach = encoder.stride(layer), encoder.reach_px(layer)
    side = -(-(2 * reach + 4 * stride) // 16) * 16
    middle = side // 2 // stride * stride
    pixels = [(middle + offset, middle + offset) for offset in {0, stride - 1, stride // 2}]
    far = 0
    for pixel, positions in zip(pixels, changed(encoder, layer, (side, side), pixels), strict=True):
        assert len(positions)
        far = max(far, int((positions * stride - torch.tensor(pixel)).abs().max()))
    assert far <= reach
    assert far > reach - stride, "and it is no larger than need be"


@pytest.mark.slow
@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize(("network", "layer"), CASES)
def test_all_seen_are_the_positions_that_no_other_pixel_changes(network, layer, pad):
    encoder, size = averaging(network, pad=pad), (75, 90)
    pixels = [(0, 0), (37, 44), (40, 89), (74, 3)]
    for (row, column), positions in zip(pixels, changed(encoder, layer, size, pixels), strict=True):
        marked = torch.ones(1, 1, *size)
        marked[0, 0, row, column] = 0
        seen = encoder.all_seen(marked, layer)
        assert seen.shape == (1, 1, *encoder.shape(layer, size)[1:])
        assert torch.equal((seen[0, 0] == 0).nonzero(), positions)


@pytest.mark.parametrize("propagation", ["simple", "inside", "all"])
def test_guides_fit_the_layers(network, encoder, propagation):
    size = (64, 96)
    mask = torch.zeros(size)
    mask[:, :56] = 1
    found = guides(mask, encoder, LAYERS[network], propagation)
    for layer in LAYERS[network]:
        assert tuple(found[layer].shape) == encoder.shape(layer, size)[1:]
        assert found[layer][:, 0].min() > 0
    if propagation != "all":
        assert found[LAYERS[network][0]][:, -1].max() == 0


# ---------------------------------------------------------------------------------------------- frozen, and gradients


def test_encoder_is_frozen_and_stays_in_evaluation_mode(encoder):
    parent = nn.Sequential(encoder).train()
    assert parent.training and not encoder.training
    assert not any(module.training for module in encoder.modules())
    assert list(parent.parameters()) == []
    assert not any(buffer.requires_grad for buffer in parent.buffers())
    assert parent.state_dict() == {}, "what is trained with an encoder does not carry its weights"


@pytest.mark.parametrize("pad", PADS)
def test_the_images_gradient_is_right(network, pad):
    encoder = NETWORKS[network](pad=pad).double()
    x = image(24, 24, dtype=torch.float64).requires_grad_()
    layers = LAYERS[network][:4]
    assert torch.autograd.gradcheck(lambda i: [encoder(i, layers)[name] for name in layers], x, fast_mode=True)


def test_gradient_flows_from_every_layer_to_the_image(encoder):
    for name in encoder.layer_names:
        x = image(64, 64).requires_grad_()
        encoder(x, [name])[name].float().square().mean().backward()
        assert x.grad.isfinite().all() and x.grad.abs().sum() > 0, name


def test_what_was_returned_does_not_change_when_deeper_layers_are_asked(encoder):
    together = encoder(image(64, 64), encoder.layer_names)
    for name in encoder.layer_names:
        torch.testing.assert_close(encoder(image(64, 64), [name])[name], together[name])


def test_each_image_of_a_batch_is_encoded_alone(network, encoder):
    x, layer = image(64, 64, batch=3), LAYERS[network][-1]
    for one, expected in zip(x, encoder(x, [layer])[layer], strict=True):
        torch.testing.assert_close(encoder(one[None], [layer])[layer][0], expected)


@pytest.mark.parametrize("pad", PADS)
def test_activation_bytes_are_what_autograd_keeps(network, pad):
    size = (128, 160)
    for dtype, layer in ((torch.float32, LAYERS[network][-1]), (torch.bfloat16, LAYERS[network][-1])):
        encoder = NETWORKS[network](pad=pad, dtype=dtype)
        assert encoder.activation_bytes(size, []) == 0
        announced = encoder.activation_bytes(size, [layer, encoder.layer_names[0]])
        assert announced == encoder.activation_bytes(size, [layer])
        assert announced == pytest.approx(_kept_bytes(encoder, layer, size), rel=0.35)


def _kept_bytes(encoder: Encoder, layer: str, size: tuple[int, int]) -> int:
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        encoder(image(*size).requires_grad_(), [layer])
        own = {buffer.untyped_storage().data_ptr() for buffer in encoder.buffers()}
        return sum(count for pointer, count in kept.items() if pointer not in own)


# -------------------------------------------------------------------------------------------- number formats, identity


def test_dtype_and_device_are_those_of_the_filters(network):
    low = NETWORKS[network](dtype=torch.bfloat16)
    assert low.dtype == torch.bfloat16
    assert NETWORKS[network]().dtype == torch.float32
    assert NETWORKS[network]().double().dtype == torch.float64
    x, layer = image(64, 64).requires_grad_(), LAYERS[network][-1]
    found = low(x, [layer])
    assert found[layer].dtype == torch.bfloat16
    assert found[IMAGE] is x
    found[layer].float().sum().backward()
    assert x.grad.dtype == torch.float32
    assert low.device == torch.device("cpu")
    assert low.to(torch.device("meta")).device == torch.device("meta")


def test_bfloat16_is_close_to_float32(network, encoder):
    low, layers = NETWORKS[network](dtype=torch.bfloat16), LAYERS[network]
    exact, close = (enc(image(64, 64), layers) for enc in (encoder, low))
    for name in layers:
        assert F.cosine_similarity(exact[name].flatten(), close[name].float().flatten(), dim=0) > 0.995, name


def test_bfloat16_sees_steps_finer_than_one_bfloat16(network):
    """Between 0.5 and 1, bfloat16 has steps of 1/256; an optimizer's are smaller."""
    encoder = NETWORKS[network](dtype=torch.bfloat16)
    first = encoder.layer_names[0]
    a, b = (encoder(torch.full((1, 3, 16, 16), level), [first])[first] for level in (0.8990, 0.8999))
    assert not torch.equal(a, b)


def test_fingerprint_tells_networks_apart_and_not_number_formats(network, encoder):
    layer, weights = LAYERS[network][-1], WEIGHTS[network]()
    base = encoder.fingerprint(layer)
    assert same_network(base, NETWORKS[network](dtype=torch.bfloat16).fingerprint(layer))
    assert same_network(base, NETWORKS[network](pad="reflect").fingerprint(layer)), "settings are no weights"
    gray = EncoderWeights(weights.convs, Preprocessing(scale=2.0), "x")
    first = next(iter(weights.convs))
    turned = {first: (weights.convs[first][0].flip(0), weights.convs[first][1])}
    mixed = EncoderWeights({**weights.convs, **turned}, weights.preprocessing, "x")
    for other in (WEIGHTS[network](seed=1), gray, mixed):
        assert not same_network(base, NETWORKS[network](other).fingerprint(layer))
    prints = [encoder.fingerprint(name) for name in LAYERS[network] if not name.startswith("pool")]
    assert all(not same_network(a, b) for i, a in enumerate(prints) for b in prints[:i])
    others = [NETWORKS[name]() for name in NETWORKS if name != network]
    assert not any(same_network(base, e.fingerprint(name)) for e in others for name in e.layer_names)


@pytest.mark.parametrize(
    ("network", "settings", "described"),
    [
        ("vgg", "avg pooling, reflect padding", "vgg19-random-0 (avg pooling, reflect padding, post ReLU, bfloat16)"),
        ("efficientnet", "reflect padding", "efficientnet-lite0-random-0 (reflect padding, bfloat16)"),
    ],
)
def test_texts_for_the_record(network, settings, described):
    encoder = NETWORKS[network](pad="reflect", dtype=torch.bfloat16)
    assert encoder.identity == described.partition(" ")[0]
    assert (encoder.settings, encoder.described) == (settings, described)


def test_memory_keeps_what_is_made_of_features(encoder):
    made = [encoder.memory.get("key", lambda: torch.zeros(2)) for _ in range(2)]
    assert made[0] is made[1]


@pytest.mark.parametrize("pad", ["wrap", None])
def test_unknown_padding_raises_with_its_name(network, pad):
    with pytest.raises(UserError, match=f"^pad={pad} is unknown, choose one of zeros, reflect, replicate, circular$"):
        NETWORKS[network](pad=pad)


def test_only_a_vgg_has_a_decoder():
    sentence = "encoder: efficientnet-lite0-random-0 has no decoder, because a decoder mirrors"
    with pytest.raises(UserError, match=sentence):
        Decoder.mirror(NETWORKS["efficientnet"](), "expand4_1")
    assert Decoder.mirror(NETWORKS["vgg"](), "relu3_1").scale == 4
