"""Networks that learned their styles: what trains them, how they are asked for a style, and their command lines."""

import csv
import logging
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
import torch
from helpers import picture
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from networks import TransformerNet
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import nstexp.cli as cli
from nstexp.cli import CONF
from nstexp.config.build import build, prepared
from nstexp.core.errors import UserError
from nstexp.core.losses import julesz
from nstexp.core.losses.loss_set import LossSet, LossValues
from nstexp.core.networks.generators import Generator, Pyramid, Residual
from nstexp.core.networks.layers import InstanceNorm
from nstexp.core.networks.model_files import ModelInfo, load_generator, save_generator, state_of
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.data.batches import Fixed
from nstexp.media.images import load_image, save_image
from nstexp.methods.base import Controls, Style
from nstexp.methods.feedforward import FeedForward
from nstexp.methods.feedforward_training import GeneratorTraining, balanced
from nstexp.methods.training import Sources
from nstexp.outputs import RunFolder, read_summary
from nstexp.tasks.request import Request
from nstexp.tasks.stylize import stylize
from nstexp.weights import ADAIN_DECODER as DECODER

pytestmark = pytest.mark.usefixtures("one_thread")

REFUSED = {"identity": "is for method=adain", "temporal": "is for clips with method=gatys"}
OTHER_FORMS = {"gram_hw"}  # of terms that have a file of their own
TERMS = sorted({file.stem for file in (CONF / "loss").glob("*.yaml")} - set(REFUSED) - OTHER_FORMS)
NET = ("generator.width=0.25", "generator.blocks=1")
RUN = ("backbone=random", "logger=none", "precision=fp32", "trainer.accelerator=cpu")
TRAIN = (
    "task=train", *RUN, "data.content=photos", "data.crop_px=32", "data.resize_px=40", "data.val_px=32",
    "data.val_pairs=2", "data.batch_size=3", "data.workers=0", "method.max_steps=3", "log_every_n_steps=1",
    "method.style_px=64", "method.optimizer=adam", "method.optimizers.adam.lr=0.01", "method.schedule=constant",
    "task.validate_every_n_steps=3",
)  # fmt: skip
NAMES = ["moon", "sea", "sun"]


# ------------------------------------------------------------------------------------------------ pictures and networks


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a photo, photos, paintings, and networks that were trained for a few steps: cin, texture, bn."""
    root = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        picture("photo.png", 50, 37, seed=1)
        for number in range(8):
            picture(f"photos/{number}.png", 44 + 3 * number, 60 - number, seed=10 + number)
        for number, name in enumerate(NAMES):
            picture(f"paintings/{name}.jpg", 70 + number, 66, seed=20 + number)
        picture("new/star.jpg", 80, 70, seed=30)
        trained(patch, "method=cin", "style=paintings", "run_dir=cin")
        trained(patch, "method=texture_net", "style=paintings/sun.jpg", "run_dir=texture")
    return root


def trained(patch: pytest.MonkeyPatch, *args: str) -> None:
    GlobalHydra.instance().clear()
    patch.setattr(logging.getLogger(), "handlers", [])
    patch.setattr(sys, "argv", ["nstexp", *TRAIN, *NET, *args])
    cli.main()


@pytest.fixture
def run(home, tmp_path, monkeypatch, nstexp):
    """Call the command line in that folder; results are in tmp_path."""
    monkeypatch.chdir(home)

    def call(*args: str, into: str = "run", code: int = 0):
        done = nstexp.bare(*args, f"run_dir={tmp_path / into}")
        assert done.code == code, done.err
        assert "Traceback" not in done.err
        return done

    return call


@pytest.fixture
def train(run):
    """Train with small networks; (key=value) of the same key replace those of TRAIN."""

    def call(method: str, *args: str, into: str = "run", code: int = 0):
        own = {arg.partition("=")[0] for arg in args}
        given = [arg for arg in (*TRAIN, *NET) if arg.partition("=")[0] not in own]
        return run(*given, f"method={method}", *(arg for arg in args if arg != "data.content="), into=into, code=code)

    return call


NO_CONTENT = "data.content="  # of `train`: leave that argument out


@pytest.fixture
def draw(run):
    """The picture that the command line makes of photo.png."""

    def call(method: str, model: str | Path, *args: str) -> Tensor:
        given = (f"method={method}", f"method.model={model}", "content=photo.png")
        return load_image(run(*RUN, *given, *args, into="drawn").path)

    return call


def drawn(model: str | Path, *names: str) -> Tensor:
    """The same with a network of many styles, but for rounding and for the time that a command takes."""
    method = FeedForward(norm="conditional", model=str(model))
    return method.stylize(load_image("photo.png")[None], [Style(None, name=name) for name in names], Controls())[0]


@cache
def encoder() -> VGG:
    return VGG(random_vgg(), pad="reflect")


@cache
def composed(*groups: str) -> DictConfig:
    small = NET if "method=adain" not in groups else ()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = hydra.compose("config", ["task=train", "backbone=random", *small, *groups])
    OmegaConf.set_struct(cfg, False)
    return cfg


def configuration(*overrides: str) -> DictConfig:
    """Values are merged, which is faster than to compose anew."""
    values = [override.removeprefix("+") for override in overrides if "." in override.partition("=")[0]]
    groups = [override for override in overrides if "." not in override.partition("=")[0]]
    return OmegaConf.merge(composed(*groups), OmegaConf.from_dotlist(values))


def method(*overrides: str, weights: dict[str, float] | None = None, double: bool = False) -> FeedForward:
    """Of a training, as run.py makes it."""
    cfg = configuration(*overrides)
    losses = LossSet(
        instantiate(cfg.loss, _convert_="all"), weights or OmegaConf.to_container(cfg.weights, resolve=True)
    )
    own = VGG(random_vgg(), pad="reflect", dtype=torch.float64) if double else encoder()
    given = {"encoder": own} if "method=adain" in overrides else {"make_encoder": lambda: own}
    return build(prepared(cfg).method, **given, losses=losses, trainer=None)


def begun(module: GeneratorTraining, step: int = 0, accumulate: int = 1, rank: int = 0, ranks: int = 1):
    """The training with a stand-in for Lightning's trainer."""
    module._trainer = SimpleNamespace(
        global_step=step, accumulate_grad_batches=accumulate, global_rank=rank, world_size=ranks
    )
    if not module._targets:
        module.on_fit_start()
    return module


def training(*overrides: str, style: object = "paintings", double: bool = False, **weights) -> GeneratorTraining:
    """One that has begun; numbers are those of its losses."""
    torch.manual_seed(0)
    own = method("method.style_px=64", "method.optimizer=adam", *overrides, weights=weights or None, double=double)
    module = own.training_module(Sources(style=style))
    for norm in module.generator.norms:  # styles that differ, as those that were trained
        for block in (*norm.gamma, *norm.beta):
            block.data += 0.3 * torch.randn(block.shape)
    return begun(module.double() if double else module)


def batch(count: int = 4, seed: int = 0, px: int = 32) -> Tensor:
    """uint8 (B, 3, px, px)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    return F.interpolate(coarse, size=(px, px), mode="bicubic").clamp(0, 1).mul(255).byte()


@pytest.fixture
def in_home(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


# ------------------------------------------------------------------------------------------------------- what trains it


def test_terms_are_all_or_refused():
    assert len(TERMS) == 13


@pytest.mark.slow
@pytest.mark.usefixtures("in_home")
@pytest.mark.parametrize("name", REFUSED)
def test_terms_of_other_methods_are_refused(name):
    with pytest.raises(UserError, match=rf"'{name}' {REFUSED[name]}: leave it out of loss"):
        training("method=cin", f"loss=[content,gram,{name}]")


def weights_of(name: str) -> dict[str, float]:
    """Of this term alone; a set of none but image terms is refused, so content has too small a weight for any step."""
    role = instantiate(configuration("method=cin", chosen(name)).loss[name], _convert_="all").role
    return {"alpha": 1e-30 if role == "image" else 0.0, "gram": 0.0, name: 1.0}


def chosen(name: str) -> str:
    return f"loss=[{','.join(dict.fromkeys(('content', 'gram', name)))}]"


@pytest.mark.slow
@pytest.mark.usefixtures("in_home")
@pytest.mark.parametrize("name", TERMS)
def test_every_loss_term_trains_a_generator(name):
    # At its output nothing keeps pixels in range.
    module = training("method=cin", "generator=ulyanov2017", chosen(name), "method.balance=false", **weights_of(name))
    optimizer = module.configure_optimizers()["optimizer"]
    before = {key: value.detach().clone() for key, value in module.generator.named_parameters()}
    outputs = module.training_step({"content": batch(6)}, 0)
    outputs["loss"].backward()
    optimizer.step()
    values = outputs["values"].numbers()
    assert 0 < values[name] < float("inf")
    assert values["total"] == pytest.approx(values[name], rel=1e-5)
    assert outputs["count"] == 6
    after = dict(module.generator.named_parameters())
    assert all(value.isfinite().all() for value in after.values())
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    # A convolution's bias has no effect before a normalization.
    assert moved >= {key for key in before if not key.endswith(".bias")}
    assert all((after[key] != before[key]).any(1).all() for key in moved if ".gamma." in key), "all three styles"


@pytest.mark.slow
@pytest.mark.usefixtures("in_home")
@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("name", TERMS)
def test_every_picture_has_the_target_of_its_photo_and_style(name, draws):
    """A batch is the mean of its pictures, each by itself."""
    more = ("+method.diversity=1", "generator=ulyanov2017") if draws == 2 else ("generator=ulyanov2017",)
    module = training("method=cin", chosen(name), *more, double=True, **weights_of(name))
    content, which = batch().double() / 255, [0, 1, 1, 2]
    noise = torch.rand(8, 3, 32, 32, dtype=torch.float64) if draws == 2 else None
    together, pictures = module.evaluate(content, which, noise, draws)
    assert len(pictures) == 4 * draws
    alone = []
    for i in range(4 * draws):
        own = content[[i // draws]], [which[i // draws]], None if noise is None else noise[[i]]
        values, result = module.evaluate(*own)
        torch.testing.assert_close(result[0], pictures[i])
        alone.append(values)
    terms = [values.terms[name].item() for values in alone]
    assert together.terms[name].item() == pytest.approx(sum(terms) / len(terms), rel=1e-6)
    assert len({round(value, 9) for value in terms}) == len(terms)
    total = together.total - (together.terms["diversity"] if draws == 2 else 0)
    assert total.item() == pytest.approx(sum(values.total.item() for values in alone) / len(alone), rel=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("in_home")
def test_the_total_weighs_every_style_by_its_factor():
    module = training("method=cin", double=True)
    content = batch(3).double() / 255
    assert len({round(factor, 6) for factor in module._factors}) == 3
    values = module.evaluate(content, [0, 1, 2])[0]
    grams = [module.evaluate(content[[i]], [i])[0].terms["gram"].item() for i in range(3)]
    wanted = sum(factor * value for factor, value in zip(module._factors, grams, strict=True)) / 3
    assert values.terms["gram"].item() == pytest.approx(sum(grams) / 3)
    assert values.total.item() == pytest.approx(values.terms["content"].item() + 10 * wanted)


@pytest.mark.usefixtures("in_home")
def test_pictures_of_one_photo_are_compared_for_diversity():
    module = training("method=texture_net", "method.diversity=0.7", "method.noise_draws=3", style="paintings/sun.jpg")
    content, noise = batch(2).float() / 255, torch.rand(6, 3, 32, 32)
    values, pictures = module.evaluate(content, [0, 0], noise, 3)
    flat = pictures.detach().flatten(1)
    wanted = (julesz(flat[:3], per_dim=True) + julesz(flat[3:], per_dim=True)) / 2
    assert values.terms["diversity"].item() == pytest.approx(wanted.item())
    others = values.terms["content"] + 10 * values.terms["gram"]
    assert values.total.item() == pytest.approx((others + 0.7 * wanted).item())
    outputs = begun(module).training_step({"content": batch(2)}, 0)
    assert outputs["count"] == 6, "pictures, of two photos"


# --------------------------------------------------------------------------------------------- which style, which noise


def styles_drawn(module: GeneratorTraining, batches: int, size: int, **trainer) -> list[list[int]]:
    """The styles of so many batches."""
    found = []

    def note(content, which, *more):
        found.append(list(which))
        return LossValues(torch.zeros(()), {}), content

    module.evaluate = note
    accumulate = trainer.get("accumulate", 1)
    for number in range(batches):
        begun(module, step=number // accumulate, **trainer)
        module.training_step({"content": batch(size)}, number % (2 * accumulate))  # as in epochs of two steps
    del module.evaluate
    assert all(which == sorted(which) for which in found)
    return found


@pytest.mark.usefixtures("in_home")
def test_every_style_has_its_turn_equally_often():
    module = training("method=cin")
    order = [module._style_of(number) for number in range(3 * 40)]
    rounds = [tuple(order[i : i + 3]) for i in range(0, 120, 3)]
    assert all(sorted(each) == [0, 1, 2] for each in rounds)
    assert len(set(rounds)) == 6, "in every order"
    again = training("method=cin")
    assert [again._style_of(number) for number in range(120)] == order
    module.seed = 1
    assert [module._style_of(number) for number in range(120)] != order
    drawn = styles_drawn(module, batches=6, size=4)
    assert Counter(style for which in drawn for style in which) == {0: 8, 1: 8, 2: 8}


@pytest.mark.usefixtures("in_home")
def test_parts_of_a_batch_and_processes_have_the_styles_of_the_whole():
    module = training("method=cin")
    whole = styles_drawn(module, batches=3, size=4)
    parts = styles_drawn(module, batches=6, size=2, accumulate=2)
    assert [sorted(a + b) for a, b in zip(parts[::2], parts[1::2], strict=True)] == whole
    first, second = (styles_drawn(module, batches=3, size=2, rank=rank, ranks=2) for rank in (0, 1))
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == whole
    assert first != second


def noise_drawn(module: GeneratorTraining, number: int, size: int, **trainer) -> Tensor | None:
    """The noise of one batch."""
    seen = []

    def note(content, which, noise, *more):
        seen.append(noise)
        return LossValues(torch.zeros(()), {}), content

    module.evaluate = note
    accumulate = trainer.get("accumulate", 1)
    begun(module, step=number // accumulate, **trainer)
    module.training_step({"content": batch(size)}, number % accumulate)
    del module.evaluate
    return seen[-1]


@pytest.mark.usefixtures("in_home")
@pytest.mark.parametrize("draws", [1, 3])
def test_every_sample_has_noise_of_its_own(draws):
    """Whatever batch and process it is in."""
    more = ("method.noise=true",) if draws == 1 else ("method.diversity=1", f"method.noise_draws={draws}")
    module = training("method=texture_net", *more, style="paintings/sun.jpg")
    first, second = (noise_drawn(module, number, size=4) for number in (0, 1))
    assert first.shape == (4 * draws, 3, 32, 32)
    assert len({round(each.sum().item(), 3) for each in (*first, *second)}) == 8 * draws
    assert first.min() >= 0 and first.max() <= 1 and abs(first.mean() - 0.5) < 0.02
    assert torch.equal(noise_drawn(module, 0, size=4), first)
    parts = [noise_drawn(module, number, size=2, accumulate=2) for number in range(4)]
    assert torch.equal(torch.cat(parts), torch.cat([first, second]))
    ranks = [noise_drawn(module, number, size=2, rank=rank, ranks=2) for number in (0, 1) for rank in (0, 1)]
    assert torch.equal(torch.cat(ranks), torch.cat([first, second]))
    module.seed = 1
    assert not torch.equal(noise_drawn(module, 0, size=4), first)


@pytest.mark.usefixtures("in_home")
def test_a_network_without_noise_gets_none():
    assert noise_drawn(training("method=texture_net", style="paintings/sun.jpg"), 0, size=2) is None


@pytest.mark.usefixtures("in_home")
@pytest.mark.parametrize(("styles", "sizes"), [(3, (4, 2)), (3, (2,)), (3, (1,)), (1, (3,)), (3, (2, 1))])
def test_validation_covers_every_style(styles, sizes):
    module = training("method=cin", style=[f"paintings/{name}.jpg" for name in NAMES[:styles]])
    batches = [{"content": batch(size, seed=10 + number)} for number, size in enumerate(sizes)]
    module._trainer.val_dataloaders = Fixed(batches)
    seen, evaluate = [], module.evaluate

    def note(content, which, *more):
        seen.extend(which)
        return evaluate(content, which, *more)

    module.evaluate = note
    photos = []
    with torch.no_grad():
        for number, each in enumerate(batches):
            shown = module.validation_step(each, number)["pictures"]
            assert shown.shape[1:] == (3, 3, 32, 32)
            assert shown.min() >= 0 and shown.max() <= 1
            photos += [each["content"].float() / 255]
            for row in shown:
                assert any(torch.equal(row[0], photo) for photo in photos[-1])
    assert set(seen) == set(range(styles))
    assert len(seen) == sum(sizes) * -(-styles // sum(sizes))
    assert max(Counter(seen).values()) - min(Counter(seen).values()) <= 1


@pytest.mark.usefixtures("in_home")
def test_validation_shows_each_picture_beside_its_painting():
    module = training("method=cin")
    module._trainer.val_dataloaders = Fixed([{"content": batch(3)}])
    with torch.no_grad():
        shown = module.validation_step({"content": batch(3)}, 0)["pictures"]
    for number, (photo, painting, result) in enumerate(shown):
        own = load_image(f"paintings/{NAMES[number]}.jpg")  # 66 px high, the shorter side
        assert (F.avg_pool2d(painting, 8) - F.adaptive_avg_pool2d(own[:, :, 2:68], 4)).abs().max() < 0.1
        with torch.no_grad():
            torch.testing.assert_close(result, module.generator(photo[None], torch.tensor([number]))[0].clamp(0, 1))


# -------------------------------------------------------------------------------------------------------------- balance


@pytest.mark.usefixtures("in_home")
def test_balance_gives_quiet_paintings_as_much_weight(tmp_path):
    loud = load_image("paintings/sun.jpg")
    save_image(0.5 + 0.8 * (loud - 0.5), tmp_path / "quiet.png")
    module = training("method=cin", style=["paintings/sun.jpg", str(tmp_path / "quiet.png"), "paintings/sea.jpg"])
    factors = module._factors
    assert sum(factors) == pytest.approx(3)
    assert factors[1] > factors[0] > 0
    gray = module.encoder(torch.full((1, 3, 64, 64), 0.5), module.losses.layers("style"))
    weighed = [
        factor * float(module.losses(gray, target, ("style",)).total)
        for factor, target in zip(factors, module._targets, strict=True)
    ]
    assert weighed == pytest.approx([weighed[0]] * 3)
    assert balanced(module.encoder, module.losses, module._targets[:1], torch.device("cpu")) == [1]
    assert training("method=cin", "method.balance=false")._factors == [1, 1, 1]


@pytest.mark.usefixtures("in_home")
def test_a_painting_of_nothing_does_not_take_all_the_weight(tmp_path):
    """Its style loss at a gray picture is 0."""
    Image.new("RGB", (80, 80), (128, 128, 128)).save(tmp_path / "gray.png")
    style = ["paintings/sun.jpg", str(tmp_path / "gray.png"), "paintings/sea.jpg"]
    factors = training("method=cin", style=style)._factors
    assert sum(factors) == pytest.approx(3)
    assert min(factors) > 0.05


# --------------------------------------------------------------------------------------------------------- more styles


@pytest.mark.usefixtures("in_home")
def test_a_style_is_added_by_its_own_rows_alone():
    own = method("method=cin", "method.style_px=64")
    start, info = load_generator(Path("cin/model.safetensors"))
    module = own.training_module(Sources(resume_from="cin/model.safetensors", add_style=["new/star.jpg", "photo.png"]))
    assert (module.first, len(module.styles)) == (3, 2)
    assert module.info().names == [*info.names, "star", "photo"]
    assert module.info().settings["styles"] == 5
    norms = module.generator.norms
    wanted = [block for norm in norms for block in (norm.gamma[1], norm.beta[1])]
    assert {id(p) for p in module.trained} == {id(block) for block in wanted}
    for norm, before in zip(norms, start.norms, strict=True):
        for table, known in ((norm.gamma, before.gamma[0]), (norm.beta, before.beta[0])):
            assert torch.equal(table[0], known)
            torch.testing.assert_close(table[1], known.mean(0).expand(2, -1))
    before = {name: value.clone() for name, value in module.generator.state_dict().items()}
    begun(module)
    optimizer = module.configure_optimizers()["optimizer"]
    module.training_step({"content": batch()}, 0)["loss"].backward()
    optimizer.step()
    after = module.generator.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("gamma.1", "beta.1"))}


@pytest.mark.usefixtures("in_home")
def test_added_styles_are_trained_with_their_own_pictures():
    own = method("method=cin", "method.style_px=64")
    module = own.training_module(Sources(resume_from="cin/model.safetensors", add_style=["new/star.jpg"]))
    begun(module)
    assert len(module._targets) == len(module._factors) == 1
    content = batch(2).float() / 255
    module.evaluate(content, [0, 0])[0].total.backward()
    gradients = [norm.beta[1].grad for norm in module.generator.norms]
    assert all(gradient.abs().sum() > 0 for gradient in gradients[-3:])
    assert styles_drawn(module, batches=2, size=3) == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("file", ["model.safetensors", "checkpoints/last.ckpt"])
def test_added_styles_leave_the_others_as_they_were(train, home, file):
    """To the bit: the numbers in the file and the pictures. Photos are those of the training before."""
    done = train("cin", f"resume_from=cin/{file}", "add_style=new", "style_names=polaris", NO_CONTENT)
    assert "data.content=photos, as in the training before" in done.err
    new, info = load_generator(done.path)
    old, known = load_generator(home / "cin" / "model.safetensors")
    assert info.names == [*known.names, "polaris"]
    assert info.sources[:3] == known.sources and "star" in info.sources[3] + "star.jpg"
    assert (info.content, info.steps, info.encoder) == ("photos", 3, known.encoder)
    changed = 0
    for name, value in state_of(old).items():
        now = state_of(new)[name]
        if name.endswith((".gamma.0", ".beta.0")):
            assert now.shape == (4, value.shape[1])
            changed += int(not torch.equal(now[3], value.mean(0)))
            now = now[:3]
        assert torch.equal(now, value), name
    assert changed == 2 * len(old.norms)
    for names in (["moon"], ["sea"], ["sun"], ["sun", "moon"]):
        assert torch.equal(drawn("cin/model.safetensors", *names), drawn(done.path, *names))
    assert (drawn(done.path, "polaris") - drawn(done.path, "sun")).abs().max() > 1e-3


def test_a_network_with_added_styles_learns_another(train, tmp_path):
    first = train("cin", "resume_from=cin/checkpoints/last.ckpt", "add_style=new", NO_CONTENT, into="first")
    last = first.path.parent / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)["state_dict"]
    assert state["generator.last.norm.gamma.1"].shape == (1, 3), "there the rows are in two blocks"
    second = train("cin", f"resume_from={last}", "add_style=[new,photo.png]", NO_CONTENT, into="second")
    info = load_generator(second.path)[1]
    assert info.names == [*NAMES, "star", "star_2", "photo"]


# ---------------------------------------------------------------------------------------------------- the command line


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(folder: Path) -> list[list[float]]:
    """All losses of every step, as written."""
    timed = ("image", "images_per_second", "data_wait")
    return [[float(value) for key, value in row.items() if key not in timed] for row in rows(folder / "losses.csv")]


def test_a_training_leaves_what_it_says(home):
    folder = home / "cin"
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(name.startswith("generator.") for name in checkpoint["state_dict"])  # the encoder is not in it
    net, info = load_generator(folder / "model.safetensors")
    assert (info.form, info.names, info.steps) == ("residual", NAMES, 3)
    assert info.sources == [f"paintings/{name}.jpg" for name in NAMES]
    assert info.encoder.startswith("vgg19-random-0") and info.content == "photos"
    again, known = load_generator(folder / "checkpoints" / "last.ckpt")
    assert known == info
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), net.parameters(), strict=True))
    losses = rows(folder / "losses.csv")
    assert [row["step"] for row in losses] == ["1", "2", "3"]
    assert all(0 < float(row[key]) < float("inf") for row in losses for key in ("total", "content", "gram"))
    assert [row["step"] for row in rows(folder / "validation.csv")] == ["3"]
    # Photo, painting and result below each other; two photos, and two more times those for three styles.
    assert Image.open(folder / "images" / "validation_00003.jpg").size == (4 * 32, 3 * 32)
    summary = read_summary(folder)
    assert (summary.status, summary.method, summary.task) == ("completed", "cin", "train")
    assert summary.metrics["train"]["steps"] == 3 and summary.metrics["train"]["gram"] > 0
    assert summary.outputs == [str(folder / "model.safetensors")]


NETWORKS = {
    "instance": [],
    "batch": ["method.norm=batch"],
    "diversity": ["method.diversity=1", "method.optimizer=muon", "method.schedule=cosine"],
    "pyramid": ["generator=pyramid", "generator.channels=2", "generator.scales=3"],
    "johnson2016": ["generator=johnson2016", "generator.width=0.125", "generator.blocks=5"],
    "ulyanov2017": ["generator=ulyanov2017", "method.norm=batch"],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_one_style_is_trained_and_used(run, draw, tmp_path, name):
    given = (*TRAIN, *(NET if name not in ("pyramid", "johnson2016") else ()), *NETWORKS[name])
    done = run(*given, "method=texture_net", "style=paintings/sun.jpg")
    assert done.path == tmp_path / "run" / "model.safetensors"
    info = load_generator(done.path)[1]
    assert (info.names, info.sources) == (["sun"], ["paintings/sun.jpg"])
    assert info.settings["noise_channels"] == (3 if name == "diversity" else 0)
    losses = rows(tmp_path / "run" / "losses.csv")
    assert ("diversity" in losses[0]) == (name == "diversity")
    first, other = (draw("texture_net", done.path, f"seed={seed}") for seed in (1, 2))
    assert first.shape == (3, 37, 50)
    assert first.std() > 0
    assert torch.equal(first, other) == (name != "diversity")


@pytest.mark.parametrize(
    "given",
    [
        ["method=cin", "style=paintings"],
        ["method=cin", "style=paintings", "method.optimizer=muon", "method.schedule=cosine", "data.flip=true"],
        ["method=cin", "style=paintings", "+trainer.accumulate_grad_batches=2"],
        ["method=texture_net", "style=paintings/sun.jpg", "method.diversity=1", "+trainer.accumulate_grad_batches=2"],
        ["method=texture_net", "style=paintings/sun.jpg", "method.norm=batch"],
        ["method=cin", "resume_from=cin/model.safetensors", "add_style=[new,photo.png]"],
    ],
    ids=["cin", "muon", "accumulated", "noise", "batch", "added"],
)
def test_an_interrupted_training_continues_bit_for_bit(run, tmp_path, monkeypatch, given):
    steps = (*TRAIN, *NET, "method.max_steps=7", "task.checkpoint_every_n_steps=100")
    run(*steps, *given, into="whole")
    step = GeneratorTraining.training_step

    def until(self, batch, batch_idx):
        if self.trainer.global_step == 3:  # with accumulated batches in the middle of a step
            self.interrupted = True
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(GeneratorTraining, "training_step", until)
        stopped = run(*steps, *given, into="parts", code=130)
    assert "interrupted at step 4" in stopped.sentences[-1]
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    again = run(*steps, *given, into="parts")
    assert "going on at step 4 of 7" in again.err
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert (whole / "validation.csv").read_text() == (parts / "validation.csv").read_text()
    assert numbers(whole) == numbers(parts) and len(numbers(whole)) == 7


@pytest.mark.parametrize(
    ("method", "given"),
    [("cin", ["style=paintings"]), ("texture_net", ["style=paintings/sun.jpg", "method.diversity=1"])],
    ids=["styles", "noise"],
)
def test_accumulated_batches_are_one_larger_batch(train, tmp_path, method, given):
    train(method, *given, "data.batch_size=2", "+trainer.accumulate_grad_batches=2", into="parts")
    train(method, *given, "data.batch_size=4", into="whole")
    parts, whole = (torch.tensor(numbers(tmp_path / name)) for name in ("parts", "whole"))
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=0)


def test_resume_from_starts_with_those_weights(train, home, tmp_path):
    """With a rate of next to nothing they stay."""
    more = ("style=paintings", "method.optimizers.adam.lr=1e-30", "method.max_steps=1")
    for number, file in enumerate(("model.safetensors", "checkpoints/last.ckpt")):
        done = train("cin", *more, f"resume_from=cin/{file}", NO_CONTENT, into=str(number))
        assert "data.content=photos, as in the training before" in done.err
        net, info = load_generator(done.path)
        old = load_generator(home / "cin" / "model.safetensors")[0]
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), old.parameters(), strict=True))
        assert (info.steps, info.names) == (1, NAMES)


def test_resume_from_takes_a_network_of_pytorch_examples(train, tmp_path):
    """The settings that its file does not name are the defaults."""
    torch.manual_seed(0)
    net = TransformerNet()
    torch.save(net.state_dict(), tmp_path / "mosaic.pth")
    ends = ("generator.space=bytes", "generator.last_norm=false", "generator.output=linear")
    given = ("generator.width=1", "generator.blocks=5", "generator.bias=true", "generator.weight_std=null", *ends)
    more = ("method.optimizers.adam.lr=1e-30", "method.max_steps=1", "task.validate_every_n_steps=0")
    done = train("texture_net", "style=paintings/sun.jpg", f"resume_from={tmp_path}/mosaic.pth", *given, *more)
    own = load_generator(done.path)[0].state_dict()
    assert torch.equal(own["last.weight"], net.deconv3.conv2d.weight)


def test_styles_have_the_names_that_they_are_given(train):
    done = train("cin", "style=[paintings/sun.jpg,met:436535,paintings/sea.jpg]", "style_names=[a,b b,1890]")
    info = load_generator(done.path)[1]
    assert info.names == ["a", "b b", "1890"]
    assert info.sources == ["paintings/sun.jpg", "met:436535", "paintings/sea.jpg"]


def test_a_folder_of_one_painting_is_that_painting(train, draw, home):
    """And not whatever is in the folder later."""
    done = train("cin", "style=[new,paintings/sun.jpg]", "style_names=[polaris,sun]")
    polaris = draw("cin", done.path, "style=polaris")
    assert torch.equal(draw("cin", done.path, "style=new/star.jpg"), polaris)
    later = picture("new/a.jpg", 64, 64, seed=31)
    try:
        assert torch.equal(draw("cin", done.path, "style=new/star.jpg"), polaris)
        assert torch.equal(draw("cin", done.path, "style=polaris"), polaris)
    finally:
        later.unlink()


@pytest.mark.parametrize("method", ["cin", "texture_net"])
def test_another_loss_term_takes_the_place_of_gram(train, method, tmp_path):
    train(method, "style=paintings/sun.jpg", "loss=[content,moments,tv]", "weights.tv=1e-4", "method.max_steps=1")
    (row,) = rows(tmp_path / "run" / "losses.csv")
    assert {"content", "moments", "tv"} < set(row) and "gram" not in row


def test_noise_without_diversity_is_worth_a_warning(train):
    done = train("texture_net", "style=paintings/sun.jpg", "method.noise=true", "method.max_steps=1")
    assert "method.noise=true without method.diversity: the network will learn to ignore the noise" in done.sentences
    assert load_generator(done.path)[1].settings["noise_channels"] == 3
    quiet = train("texture_net", "style=paintings/sun.jpg", "method.diversity=1", "method.max_steps=1", into="quiet")
    assert "learn to ignore" not in quiet.err


ADD = ("add_style=new/star.jpg", "resume_from=cin/model.safetensors")
ALL, ONE = "style=paintings", "style=paintings/sun.jpg"
BAD_COMMANDS = {
    "no style": ("cin", [], "style has no value yet: give the pictures to learn, such as style=painting.jpg"),
    "no photos": ("cin", [ALL, NO_CONTENT], "data.content has no value yet: give it one with data.content=photos/"),
    "pairs": (
        "cin",
        [ALL, "data.style=paintings"],
        "data.style: this method does not train on pairs, its style pictures are",
    ),
    "several": ("texture_net", [ALL], "style has 3 pictures, and this network learns one: method=cin learns many"),
    "names": ("cin", [ALL, "style_names=[a,b]"], "style_names=['a', 'b']: give 3 different names, not taken"),
    "number for a name": ("cin", [ALL, "style_names=1890"], "give 3 different names"),
    "diversity": ("texture_net", [ONE, "method.noise=false", "method.diversity=1"], "needs a network with noise"),
    "width": ("texture_net", [ONE, "generator.width=wide"], "generator.width=wide"),
    "temporal": ("cin", [ALL, "loss=[content,gram,temporal]"], "'temporal' is for clips"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_a_bad_training_gets_one_sentence_and_leaves_nothing(train, tmp_path, name):
    method, overrides, sentence = BAD_COMMANDS[name]
    done = train(method, *overrides, code=2)
    assert sentence in done.sentences[-1]
    assert not (tmp_path / "run").exists()


BAD_SETTINGS = {
    "no such style": ("cin", ["style=nowhere"], "style=nowhere: there is no such file"),
    "empty": ("cin", ["style=[]"], "style is empty: give at least one image"),
    "names equal": ("cin", [ALL, "style_names=[a,b,a]"], "give 3 different names, not taken"),
    "name taken": ("cin", [*ADD, "style_names=[sea]"], "style_names=['sea']: give 1 different names, not taken"),
    "names for one": ("cin", [ALL, "style_names=a"], "style_names=['a']: give 3 different names"),
    "add to nothing": ("cin", [ADD[0]], "add_style needs resume_from=..., the network that is to learn another style"),
    "add and style": ("cin", [*ADD, ALL], "add_style: the network has its styles already, leave style out"),
    "add to one": ("texture_net", ADD, "add_style is for method=cin, whose networks learn many styles"),
    "add to adain": ("adain", ADD, "add_style is for method=cin: a decoder of AdaIN takes any style as it is"),
    "add to a network of one": (
        "cin", [ADD[0], "resume_from=texture/model.safetensors"], "has learned a single style, and add_style needs",
    ),
    "resume from nothing": ("cin", [ALL, "resume_from=no.ckpt"], "resume_from=no.ckpt: there is no such file"),
    "resume from another": (
        "cin", [ALL, "resume_from=texture/model.safetensors"],
        "resume_from=texture/model.safetensors is a network of method=texture_net",
    ),
    "resume from other blocks": (
        "cin", [ALL, "resume_from=cin/model.safetensors", "generator.blocks=2"],
        "resume_from=cin/model.safetensors has another generator: blocks 1 there and 2 here",
    ),
    "resume from a picture": ("cin", [ALL, "resume_from=photo.png"], "not a file that loads safely"),
    "one draw": (
        "texture_net", [ONE, "method.noise_draws=1", "method.diversity=1"], "compares several results of each photo",
    ),
    "no draws": ("texture_net", [ONE, "method.noise_draws=0"], "method.noise_draws=0: give a whole number, 1 or"),
    "diversity": ("texture_net", [ONE, "method.diversity=-1"], "method.diversity=-1: a weight is a finite number"),
    "true diversity": ("texture_net", [ONE, "method.diversity=true"], "method.diversity=True: a weight is a finite"),
    "noise": ("texture_net", [ONE, "method.noise=2"], "method.noise=2: give true, false, or null"),
    "norm": ("texture_net", [ONE, "method.norm=layer"], "method.norm=layer is unknown"),
    "padding": ("texture_net", [ONE, "generator.start_pad_px=16"], "generator.start_pad_px=16: give 0, or 8"),
    "style_px": ("cin", [ALL, "method.style_px=8"], "method.style_px=8: give a whole number, 64 or"),
    "optimizer": ("cin", [ALL, "method.optimizer=sgd"], "method.optimizer=sgd is unknown, choose one of adam, muon"),
    "schedule": ("cin", [ALL, "method.schedule=step"], "method.schedule=step is unknown, choose one of"),
    "steps": ("cin", [ALL, "method.max_steps=0"], "method.max_steps=0: give a whole number, 1 or larger"),
    "tiny picture": (
        "cin", ["style=[photo.png,tiny.png]", "method.style_px=null"],
        "tiny.png: the style layers need a picture of 16 px or more on the shorter side",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("in_home")
@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_of_a_training_are_one_sentence(name):
    kind, overrides, sentence = BAD_SETTINGS[name]
    picture("tiny.png", 12, 12)
    keys = ("style", "resume_from", "add_style", "style_names")
    sources = [override for override in overrides if override.partition("=")[0] in keys]
    values = OmegaConf.to_container(OmegaConf.from_dotlist(sources))
    with pytest.raises(UserError) as error:
        made = method(f"method={kind}", *(each for each in overrides if each not in sources))
        made.training_module(Sources(**values))
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["crop_px", "val_px"])
def test_pictures_that_the_network_cannot_halve_often_enough(run, tmp_path, key):
    """Before the training, and not at its first validation."""
    sizes = ("data.resize_px=64", f"data.{key}=40")
    done = run(*TRAIN, *sizes, "method=texture_net", "generator=pyramid", ONE, code=2)
    assert f"data.{key}=40" in done.sentences[-1] and "32" in done.sentences[-1]
    assert not (tmp_path / "run").exists()


def test_adain_needs_pairs(run):
    done = run(*TRAIN, "method=adain", code=2)
    assert "data.style has no value yet: give it one with data.style=paintings/" in done.sentences[-1]


BAD_CHECKPOINTS = {
    "styles": (["style=[paintings/sun.jpg,photo.png]"], "the styles moon, sea, sun, but this run has sun, photo"),
    "generator": (["style=paintings", "generator.width=0.5"], "another generator (width 0.25 there and 0.5 here)"),
    "encoder": (["style=paintings", "backbone.weights.seed=1"], "the encoder vgg19-random-0"),
    "optimizer": (["style=paintings", "method.optimizer=muon"], "was trained with another method.optimizer"),
    "added": ([*ADD], "the styles moon, sea, sun, but this run has moon, sea, sun, star"),
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_run_folder_of_another_training_is_refused(train, home, tmp_path, name):
    overrides, sentence = BAD_CHECKPOINTS[name]
    own = tmp_path / "run" / "checkpoints"
    own.mkdir(parents=True)
    (own / "last.ckpt").write_bytes((home / "cin" / "checkpoints" / "last.ckpt").read_bytes())
    done = train("cin", *overrides, "method.max_steps=9", code=2)
    assert sentence in done.sentences[-1]
    assert (own / "last.ckpt").read_bytes() == (home / "cin" / "checkpoints" / "last.ckpt").read_bytes()


def test_a_run_folder_of_another_method_is_refused(train, run, tmp_path):
    adain = ("method=adain", "data.style=photos", "method.max_steps=1", "method.style_px=64")
    run(*TRAIN, *adain)
    done = train("cin", "style=paintings", code=2)
    assert "belongs to a training of another method: choose another run_dir" in done.sentences[-1]
    train("cin", "style=paintings", into="cin")
    done = run(*TRAIN, *adain, into="cin", code=2)
    assert "belongs to a training of another method: choose another run_dir" in done.sentences[-1]


# ------------------------------------------------------------------------------------------------------------ stylizing


class Network:
    """A network whose styles differ much, in a file, and FeedForward around it."""

    def __init__(self, net: Generator, names: list[str], sources: list[str], path: Path) -> None:
        self.net, self.path = net.requires_grad_(False).eval(), path
        for module in net.modules():
            if isinstance(module, InstanceNorm):
                module.gamma[0].copy_(1 + 0.5 * torch.randn(module.gamma[0].shape))
                module.beta[0].copy_(0.5 * torch.randn(module.beta[0].shape))
        save_generator(net, ModelInfo(net.form, net.settings, names, sources), path)
        norm = "conditional" if net.settings["norm"] == "conditional" else "instance"
        self.method = FeedForward(norm=norm, model=str(path))

    def drawn(self, *styles: Style, content: Tensor | None = None, seed: int = 0) -> Tensor:
        return self.method.stylize(photo() if content is None else content, list(styles), Controls(seed=seed))


def photo(h: int = 40, w: int = 48, count: int = 1, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(h, w), mode="bicubic").clamp(0, 1)


SOURCES = ["paintings/sun.jpg", "met:436535", ""]
A, B, C = (Style(None, name=name) for name in ("a", "b", "c"))


@pytest.fixture
def many(in_home, tmp_path) -> Network:
    torch.manual_seed(0)
    net = Residual(width=0.125, blocks=1, styles=3, weight_std=0.2)
    return Network(net, ["a", "b", "c"], SOURCES, tmp_path / "m.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(37, 50), (33, 64), (8, 8), (5, 90), (1, 1), (2, 33), (64, 32)])
@pytest.mark.parametrize("form", ["residual", "pyramid", "start_pad"])
def test_pictures_of_any_size_come_back_in_their_own(tmp_path, form, size):
    torch.manual_seed(0)
    nets = {
        "residual": lambda: Residual("instance", width=0.125, blocks=1),
        "pyramid": lambda: Pyramid(channels=2),
        "start_pad": lambda: Residual("instance", width=0.125, blocks=1, start_pad_px=8, up="transposed"),
    }
    network = Network(nets[form](), ["a"], [""], tmp_path / "m.safetensors")
    made = network.drawn(A, content=photo(*size))
    assert made.shape == (1, 3, *size)
    assert made.isfinite().all() and made.min() >= 0 and made.max() <= 1


def test_a_picture_is_padded_and_cropped_back(many):
    content = photo(38, 45)
    padded = F.pad(content, (0, 3, 0, 2), mode="reflect")
    wanted = many.net(padded, torch.tensor([1]))[..., :38, :45].clamp(0, 1)
    assert torch.equal(many.drawn(B, content=content), wanted)


def test_shares_count_by_their_ratio(many):
    half = many.net(photo(), torch.tensor([[0.25, 0, 0.75]])).clamp(0, 1)
    for factor in (1, 20):
        mix = many.drawn(Style(None, 0.25 * factor, name="a"), Style(None, 0.75 * factor, name="c"))
        torch.testing.assert_close(mix, half)
    assert (half - many.drawn(A)).abs().max() > 1e-3
    swapped = many.drawn(Style(None, 3.0, name="c"), Style(None, 1.0, name="a"))
    torch.testing.assert_close(swapped, half)
    assert torch.equal(many.drawn(Style(None, 1.0, name="b"), Style(None, 0.0, name="a")), many.drawn(B))
    twice = many.drawn(Style(None, 0.3, name="b"), Style(None, 0.7, name="b"))
    torch.testing.assert_close(twice, many.drawn(B))


def test_masks_place_the_styles(many):
    content, left = photo(38, 45), torch.zeros(38, 45)
    left[:, :20] = 1
    ones = torch.ones(38, 45)
    whole = many.drawn(Style(None, mask=ones, name="b"), Style(None, mask=0 * ones, name="a"), content=content)
    assert torch.equal(whole, many.drawn(B, content=content))
    made = many.drawn(Style(None, mask=left, name="b"), Style(None, mask=1 - left, name="a"), content=content)
    mix = torch.zeros(1, 3, 38, 45)
    mix[0, 1], mix[0, 0] = left, 1 - left
    reflected = (0, 3, 0, 2)
    padded = F.pad(content, reflected, mode="reflect")
    wanted = many.net(padded, F.pad(mix, reflected, mode="reflect"))[..., :38, :45].clamp(0, 1)
    torch.testing.assert_close(made, wanted)
    weighed = many.drawn(
        Style(None, 3.0, mask=0.5 * ones, name="b"), Style(None, 1.0, mask=0.5 * ones, name="a"), content=content
    )
    plain = many.drawn(Style(None, 3.0, name="b"), Style(None, 1.0, name="a"), content=content)
    torch.testing.assert_close(weighed, plain)


def test_several_pictures_at_once_are_each_by_itself(many):
    content = photo(count=3)
    for styles in ([A], [A, C]):
        together = many.drawn(*styles, content=content)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], many.drawn(*styles, content=content[i : i + 1]))


def test_noise_is_that_of_the_seed_for_every_picture(tmp_path):
    torch.manual_seed(0)
    net = Residual("instance", noise_channels=3, width=0.125, blocks=1, weight_std=0.2)
    network = Network(net, ["a"], [""], tmp_path / "m.safetensors")
    content = photo(count=1).expand(2, -1, -1, -1)
    made = network.drawn(A, content=content, seed=1)
    torch.testing.assert_close(made[0], made[1])
    assert torch.equal(network.drawn(A, content=content, seed=1), made)
    assert (network.drawn(A, content=content, seed=2) - made).abs().max() > 1e-3


def test_no_random_number_is_taken_from_the_global_state(many):
    many.drawn(A)  # the network is loaded
    before = torch.get_rng_state()
    many.drawn(A)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def redraw(many, tmp_path):
    """The task with that network: the finished picture (3, H, W)."""

    def call(style, **options) -> Tensor:
        folder = RunFolder(tmp_path / "run")
        folder.summary.method = "cin"
        return load_image(stylize(many.method, folder, Request("photo.png", style, **options)))

    call.plain = lambda number: many.net(
        F.pad(load_image("photo.png")[None], (0, 2, 0, 3), mode="reflect"), torch.tensor([number])
    )[0, :, :37, :50].clamp(0, 1)
    return call


def same(a: Tensor, b: Tensor) -> bool:
    """But for rounding to 8 bits."""
    return bool((a - b).abs().max() <= 0.51 / 255)


@pytest.mark.parametrize(
    ("style", "number"),
    [
        (None, 0),
        ("a", 0),
        ("c", 2),
        (["c"], 2),
        ("paintings/sun.jpg", 0),
        ("met:436535", 1),
        (["met:436535"], 1),
    ],
)
def test_a_style_by_its_name_or_its_picture(redraw, style, number):
    assert same(redraw(style), redraw.plain(number))
    assert not same(redraw(style), redraw.plain((number + 1) % 3))


def test_the_first_style_is_taken_and_named(redraw, run, caplog):
    with caplog.at_level(logging.INFO, "nstexp"):
        redraw(None)
    assert "style=a, the first of a, b, c" in caplog.messages
    done = run(*RUN, "method=cin", "method.model=cin/model.safetensors", "content=photo.png")
    assert "style=moon, the first of moon, sea, sun" in done.sentences
    done = run(*RUN, "method=texture_net", "method.model=texture/model.safetensors", "content=photo.png")
    assert "the first of" not in done.err


def test_a_picture_is_known_by_what_is_in_it(train, draw, tmp_path):
    """Two paintings called x.png were learned as x and x_2; a copy of one has another name."""
    files = [picture(str(tmp_path / folder / "x.png"), 70, 66, seed=seed) for seed, folder in enumerate(("one", "two"))]
    done = train("cin", f"style=[{files[0]},{files[1]}]", "method.max_steps=6")
    assert load_generator(done.path)[1].names == ["x", "x_2"]
    one, two = (draw("cin", done.path, f"style={name}") for name in ("x", "x_2"))
    assert not torch.equal(one, two)
    assert torch.equal(draw("cin", done.path, f"style={files[0]}"), one)
    assert torch.equal(draw("cin", done.path, f"style={files[1]}"), two)
    copy = tmp_path / "copy.png"
    copy.write_bytes(files[1].read_bytes())
    files[1].unlink()
    assert torch.equal(draw("cin", done.path, f"style={copy}"), two)


def test_another_picture_of_the_same_name_is_another_picture(redraw, tmp_path):
    picture(str(tmp_path / "others" / "sun.jpg"), 40, 40)
    with pytest.raises(UserError, match=r"style=.*sun\.jpg: the network has learned a, b, c"):
        redraw(str(tmp_path / "others" / "sun.jpg"))


@pytest.mark.parametrize("given", ["style=436528", "style=[436528]", "style='436528'"])
def test_a_name_of_digits(train, draw, given):
    """As the command line reads it, a number; a painting of the Met is called so."""
    done = train("cin", "style=[paintings/sun.jpg,met:436528]", "method.max_steps=1")
    assert load_generator(done.path)[1].names == ["sun", "436528"]
    assert torch.equal(draw("cin", done.path, given), draw("cin", done.path, "style=met:436528"))


def test_weights_and_masks_of_named_styles(redraw, many):
    mix = redraw(["a", "c"], style_weights=[1, 3])
    content = F.pad(load_image("photo.png")[None], (0, 2, 0, 3), mode="reflect")
    wanted = many.net(content, torch.tensor([[0.25, 0, 0.75]]))[0, :, :37, :50].clamp(0, 1)
    assert same(mix, wanted)
    left = Image.new("L", (50, 37))
    left.paste(255, (0, 0, 20, 37))
    left.save("left.png")
    Image.eval(left, lambda level: 255 - level).save("right.png")
    placed = redraw(["a", "c"], masks=["left.png", "right.png"])
    mask = torch.zeros(1, 3, 37, 50)
    mask[:, 0, :, :20], mask[:, 2, :, 20:] = 1, 1
    wanted = many.net(content, F.pad(mask, (0, 2, 0, 3), mode="reflect"))[0, :, :37, :50].clamp(0, 1)
    assert same(placed, wanted)
    swapped = redraw(["c", "a"], masks=["right.png", "left.png"])
    assert same(placed, swapped)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"style": "nobody"}, r"style=nobody: the network has learned a, b, c"),
        ({"style": ["a", "nobody"]}, r"style=nobody: the network has learned a, b, c"),
        ({"style": "photo.png"}, r"style=photo.png: the network has learned a, b, c"),
        ({"style": []}, r"style is empty: the network has learned a, b, c"),
        ({"style": "met:nobody"}, r"met:nobody: no built-in image has this name"),
        ({"style": ["a", "b"], "style_weights": [1]}, r"style_weights has 1 numbers for 2 style pictures"),
        (
            {"style": ["a", "b"], "style_combine": "mean_gram"},
            r"^style_combine=mean_gram does not work with method=cin: a network mixes its styles by style_weights",
        ),
        (
            {"style": "a", "style_layers": [["relu1_1"]]},
            r"^style_layers does not work with method=cin: the styles of a trained network are fixed",
        ),
        (
            {"style": "a", "fine_style": "paintings/sea.jpg"},
            r"^fine_style does not work with method=cin: the styles of a trained network are fixed",
        ),
        ({"style": "a", "color": "preserve"}, r"this network has learned its styles already: use color=luminance"),
        ({"style": "c", "color": "match"}, r"color=match needs the picture of the style c, which is not on this"),
    ],
)
def test_what_a_trained_network_cannot_do_is_said(redraw, options, sentence):
    with pytest.raises(UserError, match=sentence):
        redraw(**options)


def test_colors_that_it_can(redraw):
    from nstexp.core.color import chroma

    plain = redraw("a")
    kept = redraw("a", color="luminance")
    assert (chroma(kept) - chroma(load_image("photo.png"))).abs().mean() < 0.02
    matched = redraw("a", color="match")
    painting = load_image("paintings/sun.jpg")
    assert (matched.mean((1, 2)) - painting.mean((1, 2))).abs().max() < 0.05
    assert not same(matched, plain) and not same(kept, plain)


@pytest.mark.parametrize("method", ["texture_net", "cin"])
def test_an_untrained_network_takes_the_time_of_a_trained_one(draw, method):
    """With any style, for tables of speed."""
    for style in ("style=paintings/sun.jpg", "style=met:436535"):
        made = draw(method, "untrained", style, *NET)
        assert made.shape == (3, 37, 50) and made.isfinite().all()


def test_several_photos_keep_their_sizes(run, tmp_path):
    done = run(*RUN, "method=cin", "method.model=cin/model.safetensors", "content=photos", "style=sea")
    sizes = {path.stem: Image.open(path).size for path in (tmp_path / "run").glob("*.png")}
    assert sizes == {str(number): (44 + 3 * number, 60 - number) for number in range(8)}
    assert done.path == tmp_path / "run"


BAD_MODELS = {
    "none": ("texture_net", [], "method.model has no value yet: give the file that task=train wrote"),
    "many under one": ("texture_net", ["method.model=cin/model.safetensors"], "use it with method=cin"),
    "one under many": ("cin", ["method.model=texture/model.safetensors"], "use it with method=texture_net"),
    "decoder": (
        "cin", [f"method.model={DECODER}"],
        "not the file of a generator",
    ),
    "generator as decoder": (
        "adain", ["method.decoder=cin/model.safetensors", "style=paintings/sun.jpg"], "its layers are not those of",
    ),
    "checkpoint as decoder": (
        "adain", ["method.decoder=cin/checkpoints/last.ckpt", "style=paintings/sun.jpg"],
        "not the file of an AdaIN decoder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_file_of_another_method_is_refused(run, name):
    method, overrides, sentence = BAD_MODELS[name]
    done = run(*RUN, f"method={method}", "content=photo.png", *overrides, code=2)
    assert sentence in done.sentences[-1]


# ----------------------------------------------------------------------------------------------------- clips and scores


def test_a_clip_in_a_learned_style(run, tmp_path):
    for number in range(3):
        picture(str(tmp_path / "frames" / f"{number}.png"), 46, 38, seed=number)
    clip = ("task=video", *RUN, "method=cin", "method.model=cin/model.safetensors", f"content={tmp_path}/frames")
    run(*clip, "style=sea", "video.stabilize=0", f"output={tmp_path}/out")
    frames = sorted((tmp_path / "out").glob("*.png"))
    assert len(frames) == 3
    one = (*RUN, "method=cin", "method.model=cin/model.safetensors", f"content={tmp_path}/frames/1.png")
    still = run(*one, "style=sea", into="still")
    assert same(load_image(frames[1]), load_image(still.path))
    run(*clip, "style=[sea,sun]", "video.fade=[0,1]", "video.batch=2", f"output={tmp_path}/faded")
    faded = [load_image(path) for path in sorted((tmp_path / "faded").glob("*.png"))]
    assert (faded[0] - load_image(frames[0])).abs().mean() < (faded[2] - load_image(frames[2])).abs().mean()
    done = run(*clip, "color=preserve", into="refused", code=2)
    assert "use color=luminance" in done.sentences[-1]


SCORED = ("task=evaluate", *RUN, "image_px=48", "backbone@metrics.encoder=random", "content=photo.png")


def test_learned_styles_are_scored_by_their_names(run, tmp_path):
    done = run(*SCORED, "method=cin", "method.model=cin/model.safetensors", "style=[sun,moon]")
    found = [row for row in rows(done.path) if row["method"] == "cin"]
    assert [row["style"] for row in found] == ["sun", "moon"]
    assert all(float(row["style_gram"]) > 0 for row in found)
    pictures = [load_image(tmp_path / "run" / f"photo_{name}_cin.png") for name in ("sun", "moon")]
    assert not same(*pictures)


def test_learned_styles_beside_adain(run, tmp_path):
    """Whose style pictures are files: those that the network has learned have their names."""
    run(*TRAIN, "method=adain", "data.style=photos", "method.max_steps=1", into="adain")
    adain = f"adain: ['method.decoder={tmp_path}/adain/decoder.safetensors']"
    methods = f"task.methods={{{adain}, cin: ['method.model=cin/model.safetensors']}}"
    done = run(*SCORED, methods, "style=[paintings/sun.jpg,paintings/sea.jpg]")
    found = [(row["style"], row["method"]) for row in rows(done.path) if row["method"] in ("adain", "cin")]
    assert found == [(style, method) for style in ("sun", "sea") for method in ("adain", "cin")]
    alone = run(*SCORED, "method=cin", "method.model=cin/model.safetensors", "style=sea", into="alone")
    assert same(load_image(tmp_path / "run" / "photo_sea_cin.png"), load_image(alone.path.parent / "photo_sea_cin.png"))
    done = run(*SCORED, methods, "style=[paintings/sun.jpg,photo.png]", into="unknown", code=2)
    assert "1 of 4 pictures failed, the first: photo, photo, cin: style=photo: the network has learned" in done.err


def test_a_style_whose_picture_is_gone(run, tmp_path, home):
    """It can be drawn; measures of style need the picture."""
    net, info = load_generator(home / "cin" / "model.safetensors")
    info.sources = ["gone/moon.jpg", "", "paintings/sun.jpg"]
    save_generator(net, info, tmp_path / "m.safetensors")
    model = (f"method.model={tmp_path}/m.safetensors", "method=cin")
    done = run(*RUN, *model, "content=photo.png", "style=moon", "measure=true", "backbone@metrics.encoder=random")
    metrics = read_summary(done.path.parent).metrics["output"]
    assert "ssim" in metrics and "style_gram" not in metrics
    for style in ("moon", "sea"):
        done = run(*SCORED, *model, f"style={style}", into=style, code=2)
        assert f"style={style}: its picture, which the measures compare with, is not on this" in done.sentences[-1]
