"""masks=auto and style_masks through the tasks: what methods are given, what is written, and what is refused."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from helpers import picture
from PIL import Image
from torch import Tensor

import nstexp as library
from nstexp.core.errors import Stopped, UserError
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.pixels import to_array
from nstexp.media.flow import Motion
from nstexp.media.images import load_image, save_image
from nstexp.media.learned import LearnedStyle
from nstexp.methods.base import Controls, Style
from nstexp.outputs import RunFolder
from nstexp.tasks import regions
from nstexp.tasks.regions import RegionFinder
from nstexp.tasks.request import Request, is_automatic
from nstexp.tasks.styles import read_styles
from nstexp.tasks.stylize import stylize
from nstexp.tasks.video.regions import SceneRegions
from nstexp.tasks.video.task import video
from nstexp.tasks.video_settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")


class Recorder:
    """A method that keeps what it was given and returns the content."""

    accepts = frozenset({"masks", "style_masks"})

    def __init__(self) -> None:
        self.given: list[list[Style]] = []

    def stylize(self, content: Tensor, styles, controls: Controls) -> Tensor:
        self.given.append(list(styles))
        return content


class Whole(Recorder):
    """A method that knows nothing of parts of style pictures."""

    accepts = frozenset({"masks"})


class Learned(Whole):
    """A method that has learned its styles."""

    styles = MappingProxyType({"one": LearnedStyle(), "two": LearnedStyle()})


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """A random network with few channels in place of the bundled one."""
    network = VGG(random_vgg(), pad="reflect")
    monkeypatch.setattr(regions, "bundled_encoder", lambda: network)


def halves(upper: float, lower: float, seed: int, size=(96, 128)) -> Tensor:
    """A smooth upper half and a rough lower half, (3, H, W)."""
    noise = torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))
    image = torch.full((3, *size), upper) + 0.02 * noise
    rows = size[0] // 2
    image[:, rows:] = lower + 0.6 * (noise[:, rows:] - 0.5)
    return image.clamp(0, 1)


@pytest.fixture(autouse=True)
def inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_image(halves(0.7, 0.4, 1), "photo.png")
    save_image(halves(0.6, 0.5, 2, (64, 96)), "small.png")
    save_image(halves(0.8, 0.3, 3, (128, 96)), "one.png")
    save_image(halves(0.5, 0.6, 4, (96, 96)), "two.png")
    for name, area in (("upper.png", slice(0, 48)), ("all.png", slice(None)), ("none.png", slice(0, 0))):
        mask = np.zeros((128, 96), np.uint8)
        mask[area] = 255
        Image.fromarray(mask).save(name)


def run(method: Recorder, content="photo.png", style="one.png", **options) -> Path:
    return stylize(method, RunFolder("run"), Request(content, style, **options))


# -------------------------------------------------------------------------------------------------------- style_masks


def test_a_style_mask_arrives_as_the_part_of_its_picture():
    method = Recorder()
    run(method, style=["one.png", "one.png"], style_masks=["upper.png", "all.png"], style_weights=[1, 3])
    first, second = method.given[0]
    assert first.part.shape == (128, 96) and first.part[:48].eq(1).all() and first.part[48:].eq(0).all()
    assert second.part is None, "white everywhere is no restriction"
    assert (first.share, second.share) == (1, 3) and first.mask is None


def test_masks_say_where_each_part_goes():
    method = Recorder()
    top = np.zeros((96, 128), np.uint8)
    top[:48] = 255
    Image.fromarray(top).save("top.png")
    Image.fromarray(255 - top).save("bottom.png")
    run(method, style=["one.png"] * 2, style_masks=["upper.png", "all.png"], masks=["bottom.png", "top.png"])
    assert [float(style.mask[:48].mean()) for style in method.given[0]] == pytest.approx([0, 1])
    assert method.given[0][0].part is not None


def test_a_run_does_not_replace_its_style_masks():
    with pytest.raises(UserError, match=r"output: the result would replace the input upper\.png"):
        run(Recorder(), style_masks="upper.png", output="upper.png")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"style_masks": ["upper.png", "all.png"]}, "style_masks has 2 pictures for 1 style pictures: give one each"),
        ({"style_masks": []}, "style_masks is empty"),
        ({"style_masks": "nowhere.png"}, r"style_masks=nowhere\.png: there is no such file"),
        ({"style_masks": "none.png"}, r"style_masks: none\.png is black everywhere, so nothing of its style picture"),
        (
            {"style_masks": "two.png"},
            r"style_masks: two\.png is 96x96 px, but the picture has another aspect ratio, 96x",
        ),
        (
            {"style_masks": "upper.png", "masks": "auto"},
            "style_masks does not work with masks=auto, which finds the parts",
        ),
        ({"masks": "auto:1"}, "masks=auto:1: give 2 to 16 regions, such as masks=auto:4"),
        ({"masks": "auto:17"}, "masks=auto:17: give 2 to 16 regions"),
        ({"masks": "auto:"}, "masks=auto:: give 2 to 16 regions"),
        ({"masks": "auto:two"}, "masks=auto:two: give 2 to 16 regions"),
        ({"masks": ["auto"]}, "masks=auto: there is no such file"),
        (
            {"masks": "auto", "style": ["one.png", "two.png"], "style_weights": [1, 0]},
            "style_weights=.* with masks each",
        ),
    ],
)
def test_a_bad_value_is_one_sentence_before_any_work(options, sentence):
    method = Recorder()
    with pytest.raises(UserError, match=f"^{sentence}") as refused:
        run(method, **options)
    assert "\n" not in str(refused.value)
    assert not method.given and not Path("run").exists()


def test_methods_that_cannot_are_refused():
    with pytest.raises(UserError, match=r"^style_masks does not work with method=Whole: leave it out"):
        run(Whole(), style_masks="upper.png")
    with pytest.raises(UserError, match=r"^masks=auto: method=Whole draws each region in one whole style, so give two"):
        run(Whole(), masks="auto")
    none = Recorder()
    none.accepts = frozenset()
    with pytest.raises(UserError, match=r"^masks does not work with method=Recorder"):
        run(none, masks="auto")
    with pytest.raises(
        UserError, match=r"^masks=auto needs the picture of the style one, which is not on this machine"
    ):
        run(Learned(), style=["one", "two"], masks="auto")


def test_only_a_single_word_is_automatic():
    assert is_automatic("auto") and is_automatic("auto:3")
    assert not any(map(is_automatic, (None, "automatic.png", "./auto", ["auto"], 3)))
    assert Request("a", masks="auto").regions == 4 and Request("a", masks="auto:7").regions == 7
    assert Request("a", masks="m.png").regions is None and Request("a", masks="auto").mask_files is None


# --------------------------------------------------------------------------------------------------------- masks=auto


def test_regions_become_styles_with_masks_and_parts():
    method = Recorder()
    run(method, masks="auto:2")
    styles = method.given[0]
    assert len(styles) == 2 and styles[0].image is styles[1].image
    torch.testing.assert_close(sum(style.mask for style in styles), torch.ones(96, 128))
    upper = [float(style.mask[:48].mean()) for style in styles]
    of_painting = [float(style.part[: len(style.part) // 2].mean()) for style in styles]
    assert max(upper) > 0.8 and min(upper) < 0.2
    assert upper.index(max(upper)) == of_painting.index(max(of_painting)), "upper halves look alike"
    assert sum(style.share for style in styles) == pytest.approx(1)


def test_every_painting_has_its_share_of_every_region():
    method = Recorder()
    run(method, style=["one.png", "two.png"], style_weights=[0.25, 0.75], masks="auto:2")
    styles = method.given[0]
    assert [style.share for style in styles] == pytest.approx([0.125, 0.375] * 2)
    torch.testing.assert_close(sum(style.mask for style in styles), torch.ones(96, 128))
    assert torch.equal(styles[0].mask, styles[1].mask) and not torch.equal(styles[0].image, styles[1].image)


def test_whole_styles_are_dealt_out():
    method = Whole()
    run(method, style=["one.png", "two.png"], masks="auto:3")
    styles = method.given[0]
    assert all(style.part is None for style in styles) and 1 <= len(styles) <= 2
    torch.testing.assert_close(sum(style.mask for style in styles), torch.ones(96, 128))


def test_the_regions_are_shown_in_the_run_folder():
    run(Recorder(), masks="auto:2")
    record = RunFolder("run")
    shown = np.array(Image.open("run/regions.png").convert("RGB")).astype(int)
    assert "regions.png" in record.place.known
    photo = to_array(load_image("photo.png")).astype(int)
    assert np.abs(shown[: photo.shape[0], : photo.shape[1]] - photo).max() <= 1
    below = shown[photo.shape[0] + 8 :, : photo.shape[1]]
    assert (below.max(2) - below.min(2))[: photo.shape[0]].mean() > 20, "in color"
    assert shown.shape[1] > 2 * 90


def test_every_picture_of_a_folder_has_its_own_regions():
    method = Recorder()
    run(method, content=["photo.png", "small.png"], masks="auto:2")
    assert [tuple(given[0].mask.shape) for given in method.given] == [(96, 128), (64, 96)]
    assert {path.name for path in Path("run").glob("*regions.png")} == {"photo_regions.png", "small_regions.png"}


def test_a_file_of_the_name_is_not_replaced():
    Path("run").mkdir()
    Image.new("RGB", (4, 4)).save("run/regions.png")
    method = Recorder()
    with pytest.raises(UserError, match=r"regions\.png was not made by nstexp"):
        run(method, masks="auto")
    assert not method.given


def test_the_seed_decides_and_no_random_state_is_touched():
    found = []
    for seed in (0, 0, 1):
        method = Recorder()
        state = torch.random.get_rng_state()
        run(method, masks="auto:3", seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        found.append(torch.stack([style.mask for style in method.given[0]]))
    assert torch.equal(found[0], found[1])


def test_paintings_are_analyzed_once():
    finder, calls = RegionFinder(2), []
    analyze = finder.features
    finder.features = lambda image: calls.append(tuple(image.shape)) or analyze(image)
    style = Style(load_image("one.png"))
    for name in ("photo.png", "small.png"):
        finder.find(load_image(name), [style])
    assert calls == [(3, 96, 128), (3, 128, 96), (3, 64, 96)]


def test_without_masks_styles_are_given_as_they_are():
    request = Request("photo.png", "one.png")
    styles = read_styles(request, Recorder(), "recorder")
    assert styles.on(load_image("photo.png")) is styles.pictures and styles.regions is None


# -------------------------------------------------------------------------------------------------------- Python API


@pytest.mark.slow
def test_regions_and_parts_work_from_python():
    cheap = {"backbone": "random", "method.max_steps": 6, "precision": "fp32"}
    photo, painting = load_image("photo.png"), load_image("one.png")
    from_files = library.stylize("photo.png", "one.png", masks="auto:2", settings=cheap)
    in_memory = library.stylize(torch.stack([photo, photo]), painting, masks="auto:2", settings=cheap)
    plain = library.stylize(photo, painting, settings=cheap)
    assert np.array_equal(np.array(from_files), to_array(in_memory[1]))
    assert (in_memory[0] - plain).abs().max() > 1e-3
    part = library.stylize("photo.png", "one.png", style_masks="upper.png", settings=cheap)
    assert np.abs(np.array(part).astype(int) - to_array(plain)).max() > 0
    with pytest.raises(UserError, match=r"^style_masks: it needs the pictures in style as files, too"):
        library.stylize(photo, painting, style_masks="upper.png", settings=cheap)


# -------------------------------------------------------------------------------------------------------------- clips


def shifted(number: int) -> np.ndarray:
    wide = halves(0.7, 0.4, 1, (64, 128))
    return to_array(wide[:, :, 2 * number : 2 * number + 96])


@pytest.fixture
def clip() -> str:
    Path("frames").mkdir()
    for number in range(5):
        Image.fromarray(shifted(number)).save(f"frames/{number}.png")
    return "frames"


def make(method: Recorder, clip: str, output: str = "out", settings: Settings | None = None, **options) -> RunFolder:
    folder = RunFolder("run")
    folder.path.mkdir(exist_ok=True)
    request = Request(clip, options.pop("style", "one.png"), masks="auto:2", output=output, **options)
    video(method, folder, request, settings or Settings(), "same", torch.device("cpu"))
    return folder


def test_every_frame_of_a_clip_has_masks_and_the_parts_stay(clip):
    method = Recorder()
    make(method, clip)
    assert len(method.given) == 5 and Path("run/regions.png").is_file()
    for styles in method.given:
        torch.testing.assert_close(sum(style.mask for style in styles), torch.ones(64, 96))
        assert [style.part is first.part for style, first in zip(styles, method.given[0], strict=True)] == [True, True]
    steps = [(a[0].mask - b[0].mask).abs().mean() for a, b in zip(method.given, method.given[1:], strict=False)]
    assert 0 < max(steps) < 0.1


def still(size: tuple[int, int], trust: float, shift: float = 0.0) -> Motion:
    flow = np.zeros((*size, 2), np.float32)
    flow[..., 0] = shift
    return Motion(flow, flow, np.full(size, 255, np.uint8), np.full(size, trust, np.float32), False)


def test_memberships_follow_the_motion_by_the_formula():
    """(1 - k c) f + k c w, with w the previous memberships, moved."""
    finder = RegionFinder(2)
    first, frame = (load_image(name) for name in ("photo.png", "photo.png"))
    frame = frame.flip(2)
    scene = SceneRegions(finder, lambda sheet: None)
    styles = scene.begin(first, [Style(load_image("one.png"))])
    before = scene.before
    scene.follow(frame, None, 0.8, styles)
    fresh = scene.before
    for trust, steadiness in ((1.0, 0.5), (0.25, 0.8), (0.0, 0.8), (1.0, 0.0)):
        scene.before = before
        made = scene.follow(frame, still((96, 128), trust), steadiness, styles)
        torch.testing.assert_close(scene.before, torch.lerp(fresh, before, trust * steadiness), atol=1e-5, rtol=0)
        torch.testing.assert_close(sum(style.mask for style in made), torch.ones(96, 128))
    scene.before = before
    scene.follow(frame, still((96, 128), 1.0, shift=3.0), 1.0, styles)
    torch.testing.assert_close(scene.before[..., :-3], before[..., 3:], atol=1e-4, rtol=0)


def test_colors_of_the_scene_stay_while_masks_move(clip):
    method = Recorder()
    make(method, clip, color="preserve")
    images = [style.image for styles in method.given for style in styles]
    assert images[0] is images[2] is images[-2] and images[1] is images[-1]
    assert not torch.equal(method.given[0][0].mask, method.given[-1][0].mask)


class StopsAt(Recorder):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def stylize(self, content, styles, controls):
        if len(self.given) == self.count:
            raise Stopped("interrupted", interrupted=True)
        super().stylize(content, styles, controls)
        return (content + 0.3 * styles[0].mask).clamp(0, 1)


def test_an_interrupted_clip_goes_on_with_the_same_masks(clip):
    make(StopsAt(9), clip, "whole")
    with pytest.raises(Stopped, match="at frame 3 of 5"):
        make(StopsAt(3), clip)
    make(StopsAt(9), clip)
    for one, other in zip(sorted(Path("whole").glob("*.png")), sorted(Path("out").glob("*.png")), strict=True):
        assert np.array_equal(np.array(Image.open(one)), np.array(Image.open(other)))


def test_a_fade_is_refused(clip):
    picture("painting.png", 40, 40)
    with pytest.raises(UserError, match=r"^video\.fade does not work with masks"):
        make(Recorder(), clip, style=["one.png", "painting.png"], settings=replace(Settings(), fade=[0, 1]))
