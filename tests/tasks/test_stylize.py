"""The stylize task around a method that only records what it is given: colors, masks, and what is refused."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import get_method
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from nstexp.cli import CONF
from nstexp.config.early import request_of
from nstexp.core.color import chroma, color_moments, luminance, match_color
from nstexp.core.errors import ArgumentError, Stopped, UserError
from nstexp.core.measures import SSIM, ColorMean, Scorer
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.torus import edge_steps
from nstexp.media.images import load_image, save_image
from nstexp.methods.base import Controls, Style
from nstexp.outputs import RunFolder
from nstexp.tasks.color import finish_colors, prepare_colors
from nstexp.tasks.request import PhotoFilter, Request
from nstexp.tasks.stylize import stylize

ROUNDING = 0.5 / 255 + 1e-5  # of the saved picture
STYLES = ["style_1.png", "style_2.png"]


class Recorder:
    """A method that keeps what it was given and answers with `answer(content)`."""

    accepts = frozenset({"masks"})

    def __init__(self, answer: Callable[[Tensor], Tensor] = lambda content: content) -> None:
        self.answer, self.contents, self.given = answer, [], []

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        self.contents.append(content)
        self.given.append(list(styles))
        return self.answer(content)


def image(height: int, width: int, seed: int, low: float = 0.3, high: float = 0.7) -> Tensor:
    """A colored picture (3, H, W) whose values stay away from 0 and 1, so that nothing is clipped by chance."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.rand(3, 3, generator=generator)
    noise = torch.rand(3, height, width, generator=generator)
    levels = (mix / mix.sum(1, keepdim=True) @ noise.flatten(1)).reshape(3, height, width)
    return ((low + (high - low) * levels) * 255).round() / 255


@pytest.fixture(autouse=True)
def inputs(tmp_path, monkeypatch):
    """Two content pictures (40x30, 20x16), two style pictures, and masks for the left and the right of 40x30."""
    monkeypatch.chdir(tmp_path)
    save_image(image(30, 40, 1), "photo.png")
    save_image(image(16, 20, 2), "small.png")
    save_image(image(24, 28, 3, 0.5, 0.9), "style_1.png")
    save_image(image(20, 20, 4, 0.1, 0.5), "style_2.png")
    left = np.zeros((30, 40), dtype=np.uint8)
    left[:, :10] = 255
    Image.fromarray(left).save("left.png")
    Image.fromarray(255 - left).save("right.png")


def run(method: Recorder, content: str | list[str] = "photo.png", style: str | list[str] = "style_1.png", **options):
    """The finished picture (1, 3, H, W), or the folder's path for several contents."""
    path = stylize(method, RunFolder("run"), Request(content, style, **options))
    return load_image(path)[None] if path.suffix else path


def answer(low: float = 0.3, high: float = 0.7) -> Callable[[Tensor], Tensor]:
    """Another picture of the content's size, whatever the content is."""
    return lambda content: image(*content.shape[-2:], 9, low, high)[None]


def photo() -> Tensor:
    return load_image("photo.png")


def style_1() -> Tensor:
    return load_image("style_1.png")


def style_2() -> Tensor:
    return load_image("style_2.png")


# --------------------------------------------------------------------------------------------------------------- none


def test_without_color_the_very_styles_serve_every_content():
    method = Recorder()
    run(method, ["photo.png", "small.png", "photo.png"], STYLES)
    first = method.given[0]
    assert len(method.given) == 3
    assert all(one is other for given in method.given for one, other in zip(given, first, strict=True))
    assert all(style.mask is None for style in first)
    assert torch.equal(first[1].image, style_2())


@pytest.mark.parametrize("color", ["preserve", "luminance", "match"])
@pytest.mark.parametrize("strength", [0, 0.0])
def test_strength_0_is_none(color, strength):
    plain, method = Recorder(answer()), Recorder(answer())
    expected = run(plain, style=STYLES)
    assert torch.equal(run(method, style=STYLES, color=color, color_strength=strength), expected)
    assert torch.equal(method.contents[0], plain.contents[0])
    for given, original in zip(method.given[0], plain.given[0], strict=True):
        assert torch.equal(given.image, original.image)


@pytest.mark.parametrize("color", ["preserve", "luminance", "match"])
def test_a_little_strength_changes_little(color):
    expected = run(Recorder(), style=STYLES)
    method = Recorder()
    assert (run(method, style=STYLES, color=color, color_strength=0.01) - expected).abs().max() < 3 / 255
    assert (method.contents[0] - photo()).abs().max() < 3 / 255
    assert (method.given[0][0].image - style_1()).abs().max() < 3 / 255


# ----------------------------------------------------------------------------------------------------------- preserve


def test_preserve_gives_every_style_the_contents_colors():
    method = Recorder(answer())
    result = run(method, style=STYLES, style_weights=[3, 1], color="preserve")
    assert torch.equal(method.contents[0][0], photo())
    for given, original in zip(method.given[0], (style_1(), style_2()), strict=True):
        assert torch.equal(given.image, match_color(original[None], [photo()], [1.0])[0].clamp(0, 1))
        mean, cov = color_moments(given.image)
        wanted_mean, wanted_cov = color_moments(photo())
        assert torch.allclose(mean, wanted_mean, atol=1e-3)
        assert torch.allclose(cov, wanted_cov, atol=1e-3)
        assert not torch.allclose(color_moments(original)[0], wanted_mean, atol=0.05)
    assert [style.share for style in method.given[0]] == [3, 1]
    assert torch.allclose(result, answer()(photo()), atol=ROUNDING)


def test_preserve_half_is_halfway():
    method = Recorder()
    run(method, color="preserve", color_strength=0.5)
    recolored = match_color(style_1()[None], [photo()], [1.0])[0]
    assert torch.allclose(method.given[0][0].image, (style_1() + recolored) / 2, atol=1e-6)


def test_preserve_follows_each_content():
    method = Recorder()
    run(method, ["photo.png", "small.png"], color="preserve")
    for (given,), content in zip(method.given, method.contents, strict=True):
        assert torch.allclose(color_moments(given.image)[0], color_moments(content)[0], atol=1e-3)
    assert not torch.equal(method.given[0][0].image, method.given[1][0].image)


# ---------------------------------------------------------------------------------------------------------- luminance


def test_luminance_shows_the_method_gray_pictures_of_one_mean():
    method = Recorder()
    run(method, style=STYLES, color="luminance")
    content_mean = float(luminance(photo()).mean())
    (content,) = method.contents
    assert content.shape == (1, 3, 30, 40)
    assert torch.allclose(content, luminance(photo()).expand(3, -1, -1)[None], atol=1e-6)
    for given, original in zip(method.given[0], (style_1(), style_2()), strict=True):
        assert given.image.shape == original.shape
        assert (given.image.amax(0) - given.image.amin(0)).max() == 0
        assert float(given.image[0].mean()) == pytest.approx(content_mean, abs=1e-3)
        assert float(luminance(original).mean()) != pytest.approx(content_mean, abs=0.05)
        # The mean only: light and dark keep their distance.
        assert float(given.image[0].std()) == pytest.approx(float(luminance(original).std()), rel=0.02)


def test_lum_only_the_chroma_of_the_result_is_the_contents():
    result = run(Recorder(answer()), color="luminance")
    made = answer()(photo())
    assert torch.allclose(chroma(result), chroma(photo()[None]), atol=2 * ROUNDING)
    assert torch.allclose(luminance(result), luminance(made), atol=ROUNDING)
    assert (chroma(made) - chroma(photo()[None])).abs().max() > 0.05


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_a_gray_content_stays_gray(strength):
    save_image(luminance(photo()).expand(3, -1, -1), "gray.png")
    result = run(Recorder(), "gray.png", color="luminance", color_strength=strength)
    assert (result.amax(1) - result.amin(1)).max() == 0
    assert result.std() > 0.02


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
def test_what_a_method_leaves_alone_keeps_its_colors_at_any_strength(strength):
    method = Recorder()
    result = run(method, color="luminance", color_strength=strength)
    assert torch.allclose(result, photo()[None], atol=ROUNDING)
    assert torch.allclose(chroma(method.contents[0]), (1 - strength) * chroma(photo()[None]), atol=1e-6)
    assert torch.allclose(chroma(method.given[0][0].image), (1 - strength) * chroma(style_1()), atol=1e-6)


def test_shifted_luminance_is_clipped():
    save_image(torch.full((3, 30, 40), 0.9), "bright.png")
    method = Recorder()
    run(method, "bright.png", color="luminance")
    assert method.given[0][0].image.max() == 1


# -------------------------------------------------------------------------------------------------------------- match


def test_match_gives_the_picture_the_styles_colors():
    method = Recorder(answer())
    result = run(method, style=STYLES, style_weights=[3, 1], color="match")
    assert torch.equal(method.contents[0][0], photo())
    assert torch.equal(method.given[0][0].image, style_1())
    means, covs = zip(*(color_moments(style) for style in (style_1(), style_2())), strict=True)
    mean, cov = color_moments(result)
    assert torch.allclose(mean, 0.75 * means[0] + 0.25 * means[1], atol=2e-3)
    assert torch.allclose(cov, 0.75 * covs[0] + 0.25 * covs[1], atol=1e-3)


def test_match_blends_by_strength():
    found = {s: run(Recorder(answer()), color="match", color_strength=s) for s in (0, 0.25, 1)}
    assert torch.allclose(found[0.25], 0.75 * found[0] + 0.25 * found[1], atol=2 * ROUNDING)
    assert (found[1] - found[0]).abs().max() > 0.1


def test_match_keeps_the_styles_for_every_content():
    method = Recorder()
    run(method, ["photo.png", "small.png"], color="match")
    assert method.given[0][0] is method.given[1][0]


@pytest.mark.parametrize("color", ["preserve", "luminance", "match"])
def test_pictures_without_color_or_contrast_come_through(color):
    save_image(torch.full((3, 30, 40), 0.5), "flat.png")
    for content, style in (("flat.png", "style_1.png"), ("photo.png", "flat.png"), ("flat.png", "flat.png")):
        method = Recorder()
        result = run(method, content, style, color=color)
        assert method.given[0][0].image.isfinite().all()
        wanted = style_1() if (color, style) == ("match", "style_1.png") else load_image(content)
        wanted = load_image(style) if color == "match" else wanted
        assert torch.allclose(color_moments(result)[0], color_moments(wanted)[0], atol=3e-3)


@pytest.mark.parametrize("color", ["luminance", "match"])
def test_the_picture_of_a_stopped_run_gets_its_colors_too(color):
    def stop(content: Tensor) -> Tensor:
        raise Stopped("interrupted at step 3", answer()(content), interrupted=True)

    expected = run(Recorder(answer()), color=color)
    Path("run/output.png").unlink()
    with pytest.raises(Stopped, match=r"the best picture so far is run/output\.png"):
        run(Recorder(stop), color=color)
    assert torch.equal(load_image("run/output.png")[None], expected)


def test_a_stop_before_the_first_picture_is_told():
    def stop(content: Tensor) -> Tensor:
        raise Stopped("interrupted at step 0", None, interrupted=True)

    with pytest.raises(Stopped, match="there is no picture yet"):
        run(Recorder(stop), color="match")


def test_a_batch_of_frames_is_colored_like_one():
    frames, style = torch.stack([image(12, 10, seed) for seed in (5, 6)]), [Style(style_1())]
    for color in ("preserve", "luminance", "match"):
        given, _ = prepare_colors(color, 1.0, frames, style)
        result = finish_colors(color, 1.0, given, frames, style)
        assert result.shape == frames.shape
        if color == "luminance":
            assert torch.allclose(result, frames, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- masks

MASKS = ["left.png", "right.png"]


def test_masks_arrive_at_the_contents_size_beside_the_same_pictures():
    save_image(image(60, 80, 5), "large.png")
    method = Recorder()
    run(method, ["photo.png", "large.png"], STYLES, masks=MASKS, style_weights=[3, 1])
    for content, styles in zip(method.contents, method.given, strict=True):
        assert [tuple(style.mask.shape) for style in styles] == [tuple(content.shape[-2:])] * 2
        assert torch.allclose(styles[0].mask + styles[1].mask, torch.ones(content.shape[-2:]))
        assert float(styles[0].mask.mean()) == pytest.approx(0.25, abs=0.02)
        assert [style.share for style in styles] == [3, 1]
    assert all(a.image is b.image for a, b in zip(*method.given, strict=True))
    assert method.given[0][0].mask[:, :10].eq(1).all()
    assert method.given[0][0].mask[:, 10:].eq(0).all()


def test_masks_follow_image_px():
    method = Recorder()
    result = run(method, style=STYLES, masks=MASKS, image_px=20)
    assert result.shape == (1, 3, 15, 20)
    assert all(style.mask.shape == (15, 20) for style in method.given[0])


def test_match_with_masks_goes_by_region():
    made = answer()(photo()[None])
    made[..., :10] *= 0.5
    result = run(Recorder(lambda content: made), style=STYLES, masks=MASKS, color="match")
    for part, style in ((result[..., :10], style_1()), (result[..., 10:], style_2())):
        for found, wanted in zip(color_moments(part), color_moments(style), strict=True):
            assert torch.allclose(found, wanted, atol=2e-3)


def test_match_mixes_overlapping_masks_by_share():
    styles = [Style(style_1(), 3.0, torch.full((30, 40), 0.5)), Style(style_2(), 1.0, torch.full((30, 40), 0.5))]
    result = finish_colors("match", 1.0, photo()[None], photo()[None], styles)
    wanted = 0.75 * color_moments(style_1())[0] + 0.25 * color_moments(style_2())[0]
    assert torch.allclose(color_moments(result)[0], wanted, atol=1e-3)


@pytest.mark.parametrize("masks", [(None, None), (torch.ones(30, 40), torch.ones(30, 40))])
@pytest.mark.parametrize("color", ["luminance", "match"])
def test_a_picture_of_another_type_takes_the_contents(color, masks):
    styles = [Style(style, mask=mask) for style, mask in zip((style_1(), style_2()), masks, strict=True)]
    made = answer()(photo()[None])
    result = finish_colors(color, 0.5, made.double(), photo()[None], styles)
    assert result.dtype == torch.float32
    assert torch.equal(result, finish_colors(color, 0.5, made, photo()[None], styles))


def test_preserve_and_luminance_with_masks_go_by_region():
    halves = (photo()[..., :10], photo()[..., 10:] * 0.5)
    save_image(torch.cat(halves, 2), "halves.png")
    for color in ("preserve", "luminance"):
        method = Recorder()
        run(method, "halves.png", STYLES, masks=MASKS, color=color)
        for given, half in zip(method.given[0], halves, strict=True):
            measure = color_moments if color == "preserve" else lambda x: [luminance(x).mean()]
            assert torch.allclose(measure(given.image)[0], measure(half)[0], atol=5e-3)
            assert given.mask.shape == (30, 40)


@pytest.mark.parametrize("color", ["preserve", "luminance", "match"])
def test_a_style_that_applies_nowhere_does_no_harm(color):
    for name, value in {"white": 255, "black": 0}.items():
        Image.new("L", (40, 30), value).save(f"{name}.png")
    alone = run(Recorder(answer()), color=color)
    method = Recorder(answer())
    both = run(method, style=STYLES, masks=["white.png", "black.png"], color=color)
    assert torch.allclose(both, alone, atol=ROUNDING)
    assert all(style.image.isfinite().all() for style in method.given[0])


def test_a_mask_that_fits_one_content_only_does_not_stop_the_others():
    method = Recorder()
    save_image(image(40, 30, 5), "upright.png")
    with pytest.raises(
        UserError,
        match=r"1 of 2 pictures failed, the first: masks: left\.png is 40x30 px, .* has another aspect",
    ):
        run(method, ["upright.png", "photo.png"], STYLES, masks=MASKS)
    assert [tuple(content.shape[-2:]) for content in method.contents] == [(30, 40)]
    assert Path("run/photo.png").exists()


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"color": "lum"}, "color=lum is unknown, choose one of none, preserve, luminance, match"),
        ({"color": None}, "color=None is unknown"),
        ({"color_strength": 1.5}, "color_strength=1.5: give a number from 0 to 1"),
        ({"color_strength": -0.1}, "color_strength=-0.1: give a number from 0 to 1"),
        ({"color_strength": float("nan")}, "color_strength=nan: give a number"),
        ({"color_strength": "high"}, "color_strength=high: give a number"),
        ({"color_strength": True}, "color_strength=True: give a number"),
        ({"photorealism": 1.5}, "photorealism=1.5: give a number from 0 to 1"),
        ({"photorealism": True}, "photorealism=True: give a number"),
        ({"photo": {"radius": 0}}, "photo.radius=0: give a number larger than 0 and 1 or smaller"),
        ({"photo": {"eps": 0}}, "photo.eps=0: give a number from 1e-09 to 1000"),
        ({"photo": {"kind": "soft"}}, "photo.kind=soft is unknown, choose one of matched, plain"),
        ({"photo": {"fit_px": 8}}, "photo.fit_px=8: give a whole number, 16 or larger"),
        ({"photo": {"size": 8}}, "photo.size: there is no such setting, choose one of radius, eps, kind, fit_px"),
        ({"photo": 3}, "photo=3: give single values, such as photo.radius=0.08"),
        ({"masks": "left.png"}, "masks has 1 pictures for 2 style pictures"),
        ({"masks": [*MASKS, "left.png"]}, "masks has 3 pictures for 2 style pictures"),
        ({"masks": []}, "masks is empty"),
        ({"masks": ["left.png", "nowhere.png"]}, "masks=nowhere.png: there is no such file"),
        ({"masks": MASKS, "style_weights": [1, 0]}, "style_weights=.* with masks each is larger than 0"),
        ({"masks": MASKS, "output": "left.png"}, "output: the result would replace the input left.png"),
        ({"masks": ["left.png", "left.png"]}, "masks: 75 % of the picture is black in every mask"),
        ({"masks": ["left.png", "style_1.png"]}, "masks: style_1.png is 28x24 px, but the picture has another aspect"),
    ],
)
def test_a_bad_value_is_one_sentence_before_any_work(options, sentence):
    method = Recorder()
    with pytest.raises(UserError, match=sentence) as refused:
        run(method, style=STYLES, **options)
    assert "\n" not in str(refused.value)
    assert method.contents == []
    assert not Path("run").exists()


def test_every_field_of_a_request_comes_from_the_key_of_its_name():
    """And none has another default there, but for what only the command line has: pictures that come with nstexp."""
    config = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    options = {field.name: field.default for field in fields(Request)}
    config["photo"] = PhotoFilter(**config["photo"])
    differing = {name for name, default in options.items() if config[name] != default}
    config["photo"] = asdict(config["photo"])
    assert differing == {"content", "style"}
    given = {
        name: f"{name} of the user" for name in ("content", "style", "output", "masks", "style_masks", "fine_style")
    }
    given |= {"style_weights": [1, 2], "style_combine": "mean_gram", "style_layers": [["relu1_1"]], "seed": 7}
    given |= {"color": "match", "color_strength": 0.5, "image_px": 9, "max_input_megapixels": 3}
    given |= {"transparency": "black", "photorealism": 0.25, "photo": PhotoFilter(0.1, 0.02, "plain", None)}
    given |= {"seamless": True, "texture_px": 96, "protect": "face.png", "protect_strength": 0.3}
    assert set(given) == set(options)
    request = request_of(OmegaConf.create(config | given | {"photo": asdict(given["photo"])}))
    assert {name: getattr(request, name) for name in options} == given
    assert type(request.style_layers) is list and type(request.style_layers[0]) is list


# -------------------------------------------------------------------------------------------------------- transparency


@pytest.fixture
def cut_out() -> Tensor:
    """40x30: opaque on the left, transparent on the right, between them half; its opacity (30, 40)."""
    opacity = torch.cat([torch.ones(30, 15), torch.full((30, 10), 102 / 255), torch.zeros(30, 15)], dim=1)
    save_image(torch.cat([image(30, 40, 1), opacity[None]]), "cut.png")
    return opacity


def alpha_of(path: str | Path) -> Tensor:
    with Image.open(path) as written:
        assert written.mode == "RGBA"
        return torch.from_numpy(np.array(written.getchannel("A"))).float() / 255


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_a_cut_out_photo_gives_a_cut_out_result(cut_out, suffix):
    method = Recorder(lambda content: content / 2)
    run(method, "cut.png", output=f"out{suffix}")
    assert torch.equal(alpha_of("run/output.png"), cut_out)
    assert torch.equal(alpha_of(f"out{suffix}"), cut_out)
    (seen,) = method.contents
    assert torch.equal(seen[0], load_image("cut.png"))
    assert seen[..., 25:].eq(1).all()  # white
    with Image.open("run/output.png") as written:
        colors = torch.from_numpy(np.array(written.convert("RGB"))).permute(2, 0, 1) / 255
    assert (colors - seen[0] / 2).abs().max() < ROUNDING


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_formats_without_transparency_show_it_as_white(cut_out, suffix):
    run(Recorder(lambda content: content / 2), "cut.png", output=f"out{suffix}")
    found = load_image(f"out{suffix}")
    assert (found - load_image("run/output.png")).abs().mean() < 0.01
    assert found[..., 33:].min() > 0.95


@pytest.mark.parametrize(("color", "level"), [("white", 1.0), ("black", 0.0), ("gray", 128 / 255), ("#336699", None)])
def test_a_color_behind_it_makes_an_opaque_result(cut_out, color, level):
    method = Recorder()
    run(method, "cut.png", transparency=color)
    with Image.open("run/output.png") as written:
        assert written.mode == "RGB"
    behind = torch.tensor([0x33, 0x66, 0x99]) / 255 if level is None else torch.full((3,), level)
    assert torch.allclose(method.contents[0][0, :, :, 25:], behind.view(3, 1, 1), atol=1e-6)
    mixed = method.contents[0][0, :, 5, 20] - 0.6 * behind
    assert torch.allclose(mixed, 0.4 * image(30, 40, 1)[:, 5, 20], atol=1.5 / 255)


def test_transparency_has_the_size_of_the_result(cut_out):
    run(Recorder(), "cut.png", image_px=20)
    found = alpha_of("run/output.png")
    assert found.shape == (15, 20)
    assert (found[:, :6] == 1).all() and (found[:, 14:] == 0).all()


def test_in_a_folder_each_result_has_its_own(cut_out):
    Path("several").mkdir()
    Path("cut.png").rename("several/cut.png")
    Path("photo.png").rename("several/whole.png")
    save_image(torch.cat([image(16, 20, 2), torch.ones(1, 16, 20)]), "several/opaque.png")
    run(Recorder(), "several")
    assert torch.equal(alpha_of("run/cut.png"), cut_out)
    assert [Image.open(f"run/{name}.png").mode for name in ("whole", "opaque")] == ["RGB", "RGB"]


def test_an_interrupted_result_is_cut_out_too(cut_out):
    def stopped(content: Tensor) -> Tensor:
        raise Stopped("interrupted", content / 2, True)

    with pytest.raises(Stopped):
        run(Recorder(stopped), "cut.png")
    assert torch.equal(alpha_of("run/output.png"), cut_out)


@pytest.mark.parametrize("value", ["none", "", "#12", 3, None, True, "#11223344", "Keep"])
def test_what_is_no_color_is_refused(value):
    with pytest.raises(UserError, match=f"^transparency={value}: give keep, or a color such as white"):
        Request("photo.png", transparency=value)


@pytest.mark.parametrize("task", ["stylize", "video", "evaluate", "train", "export"])
def test_a_task_gets_what_is_asked_for_as_one_request(task):
    """And not line by line, where one could be forgotten."""
    config = yaml.safe_load((CONF / f"task/{task}.yaml").read_text(encoding="utf-8"))
    own = config.get("task", config)
    assert not set(own) & {field.name for field in fields(Request)}
    assert "request" in inspect.signature(get_method(own["_target_"])).parameters


# ------------------------------------------------------------------------------------------------ tiles and textures


class Tiling(Recorder):
    accepts = frozenset({"masks", "seamless", "texture"})

    def stylize(self, content, styles, controls):
        self.controls = controls
        return super().stylize(content, styles, controls)


def test_a_seamless_result_begins_with_a_photo_whose_edges_meet():
    save_image(0.8 * torch.linspace(0, 1, 40) + 0.2 * photo(), "photo.png")
    method = Tiling()
    result = run(method, seamless=True)
    assert method.controls.seamless and not method.controls.texture
    assert edge_steps(photo()[None])[1] > 8 > 2 > edge_steps(method.contents[0])[1]
    assert torch.allclose(result, method.contents[0], atol=1 / 255)
    plain = Tiling()
    run(plain)
    assert torch.equal(plain.contents[0], photo()[None]) and not plain.controls.seamless


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ({}, (512, 512)),
        ({"texture_px": 48}, (48, 48)),
        ({"texture_px": [64, 16]}, (16, 64)),
        ({"image_px": 32}, (32, 32)),
        ({"texture_px": [64, 16], "image_px": 32}, (8, 32)),
    ],
)
def test_without_content_there_is_a_texture_of_the_size_asked_for(sizes, size):
    method = Tiling(answer())
    result = run(method, None, **sizes)
    assert method.controls.texture
    assert result.shape[-2:] == size
    assert method.contents[0].unique().tolist() == [0.5]
    assert Path("run/output.png").exists()


def test_a_texture_in_a_folder_has_a_name():
    stylize(Tiling(answer()), RunFolder("run"), Request(None, "style_1.png", texture_px=32, output="out"))
    assert Path("out/texture.png").exists()


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        (Recorder, {"content": None}, "content=null: method=Recorder redraws photos, so give one"),
        (Recorder, {"seamless": True}, "seamless=true does not work with method=Recorder"),
        (Tiling, {"texture_px": 64}, "texture_px is the size of a texture, which content=null makes"),
        (Tiling, {"content": None, "color": "luminance"}, "color=luminance takes the colors of a photo"),
        (Tiling, {"content": None, "color": "preserve"}, "color=preserve takes the colors of a photo"),
        (Tiling, {"content": None, "photorealism": 0.5}, "photorealism makes a result like its photo"),
        (Tiling, {"content": None, "masks": "auto"}, "masks=auto looks for regions in a photo"),
    ],
)
def test_what_tiles_and_textures_cannot_be_made_of(method, options, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        run(method(answer()), **{"content": "photo.png", **options})
    assert not Path("run/output.png").exists()


@pytest.mark.parametrize("value", [0, [64], [64, 64, 64], "large", [64, 0.5], True, [], 70_000])
def test_sizes_of_textures_are_whole_pixels(value):
    with pytest.raises(ArgumentError, match=r"^texture_px=.*: give the side of a square in pixels"):
        Request(None, texture_px=value)


def test_measures_of_content_are_left_out_without_a_photo():
    scorer = Scorer(VGG(random_vgg()), {"ssim": SSIM(), "color_mean": ColorMean()})
    folder = RunFolder("run")
    stylize(Tiling(answer()), folder, Request(None, "style_1.png", texture_px=32), scorer)
    assert {"color_mean"} <= folder.summary.metrics["output"].keys()
    assert "ssim" not in folder.summary.metrics["output"]
