"""`photorealism` around methods that only record what they are given: for pictures, folders and clips."""

from pathlib import Path

import pytest
import torch
from helpers import picture
from pictures import random_picture, smooth_picture
from torch import Tensor

from nstexp.core.errors import Stopped
from nstexp.core.guided import color_slope, guided_filter
from nstexp.core.measures import color_distance, edge, ssim
from nstexp.core.resize import resize
from nstexp.media.images import load_image, save_image
from nstexp.methods.base import Controls, Style, size_of
from nstexp.outputs import RunFolder
from nstexp.tasks.evaluate import evaluate
from nstexp.tasks.finish import Finish, photographic, redraw
from nstexp.tasks.request import PhotoFilter, Request
from nstexp.tasks.stylize import stylize
from nstexp.tasks.video.task import video
from nstexp.tasks.video_settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread", "folder")
EXACT = PhotoFilter(fit_px=None)


class Strokes:
    """A method that mixes the photo's negative with strokes: the result has little of its structure."""

    accepts = frozenset({"masks"})

    def stylize(self, content: Tensor, styles, controls: Controls) -> Tensor:
        strokes = random_picture(*content.shape[-2:], seed=5)
        return 0.2 + 0.3 * content.flip(1) + 0.4 * strokes


def run(content="photo.png", **options) -> Path:
    return stylize(Strokes(), RunFolder("run"), Request(content, "painting.jpg", **options))


def made(**options) -> Tensor:
    return load_image(run(**options))[None]


def photo() -> Tensor:
    return load_image("photo.png")[None]


def test_0_changes_no_byte():
    before = run().read_bytes()
    assert run(photorealism=0, photo={"radius": 0.5}).read_bytes() == before
    assert run(photorealism=0.01).read_bytes() != before


@pytest.mark.parametrize("settings", [EXACT, PhotoFilter(0.2, 1e-3, "plain", 16)])
def test_1_is_the_guided_filter_of_the_result_and_less_is_a_blend(settings):
    picture = Strokes().stylize(photo(), [], Controls())
    step = 1 if settings.fit_px is None else 3
    slope = color_slope(photo(), picture) if settings.kind == "matched" else None
    wanted = guided_filter(photo(), picture, round(settings.radius * 50), settings.eps, step, slope).clamp(0, 1)
    assert (made(photorealism=1, photo=settings) - wanted).abs().max() < 0.6 / 255
    blend = 0.7 * picture + 0.3 * wanted
    assert (made(photorealism=0.3, photo=settings) - blend).abs().max() < 0.6 / 255


def test_the_result_has_the_structure_of_the_photo_and_the_colors_of_the_picture():
    content = smooth_picture(120, 160)
    picture = Strokes().stylize(content, [], Controls())
    found = [photographic(picture, content, strength, PhotoFilter())[0] for strength in (0.0, 0.5, 1.0)]
    for measure in (ssim, edge):
        values = [measure(x, content[0]) for x in found]
        assert values == sorted(values) and values[-1] > values[0] + 0.3
    assert all(color_distance(x, picture[0])[0] < 0.01 for x in found)


def test_a_gray_photo_and_a_flat_result_are_no_trouble():
    gray = smooth_picture(40, 50).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    for content in (gray, torch.full((1, 3, 40, 50), 0.5)):
        found = photographic(smooth_picture(40, 50, seed=1), content, 1.0, EXACT)
        assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1
    flat = torch.full((1, 3, 40, 50), 0.3)
    assert (photographic(flat, smooth_picture(40, 50), 1.0, EXACT) - 0.3).abs().max() < 1e-3


def test_the_colors_are_finished_first():
    styles = [Style(load_image("painting.jpg"))]
    colors, both = Finish("match"), Finish("match", 1.0, 0.6, EXACT)
    picture = Strokes().stylize(photo(), styles, Controls())
    wanted = photographic(colors(picture, photo(), styles), photo(), 0.6, EXACT)
    assert torch.equal(both(picture, photo(), styles), wanted)


def test_the_guide_is_the_photo_as_given():
    """Not the one without chroma that color=luminance gives to the method."""
    seen = []

    class Sees(Strokes):
        def stylize(self, content, styles, controls):
            seen.append(content)
            return super().stylize(content, styles, controls)

    styles, finish = [Style(load_image("painting.jpg"))], Finish("luminance", 1.0, 1.0, EXACT)
    found = redraw(Sees(), photo(), styles, Controls(), finish)
    assert (seen[0] - photo()).abs().max() > 0.1
    colored = finish.in_colors(Strokes().stylize(seen[0], styles, Controls()), photo(), styles)
    assert torch.equal(found, photographic(colored, photo(), 1.0, EXACT))


def test_a_picture_that_is_stopped_early_is_finished_too():
    class Stops(Strokes):
        def stylize(self, content, styles, controls):
            raise Stopped("enough", super().stylize(content, styles, controls))

    with pytest.raises(Stopped) as stop:
        redraw(Stops(), photo(), [Style(load_image("painting.jpg"))], Controls(), Finish(photorealism=1.0, photo=EXACT))
    wanted = photographic(Strokes().stylize(photo(), [], Controls()), photo(), 1.0, EXACT)
    assert torch.equal(stop.value.image, wanted)


def test_every_picture_of_a_folder_has_its_own_photo():
    picture("photos/a.png", 40, 36, seed=3)
    picture("photos/b.png", 33, 44, seed=4)
    folder = run("photos", photorealism=1, photo=EXACT)
    for name in ("a", "b"):
        content = load_image(f"photos/{name}.png")[None]
        wanted = photographic(Strokes().stylize(content, [], Controls()), content, 1.0, EXACT)
        assert (load_image(folder / f"{name}.png")[None] - wanted).abs().max() < 0.6 / 255


def test_an_evaluation_finishes_its_pictures():
    request = Request("photo.png", "painting.jpg", photorealism=1, photo={"fit_px": None})
    evaluate({"strokes": Strokes()}, RunFolder("run"), request, None)
    (path,) = Path("run").glob("photo_painting_strokes.png")
    wanted = photographic(Strokes().stylize(photo(), [], Controls()), photo(), 1.0, EXACT)
    assert (load_image(path)[None] - wanted).abs().max() < 0.6 / 255


@pytest.mark.parametrize("stabilize", [0, 0.8])
def test_every_frame_of_a_clip_has_its_own_photo(stabilize):
    for number in range(3):
        save_image(smooth_picture(48, 64 + 8)[0, :, :, 4 * number :][..., :64], f"frames/{number}.png")
    results = {}
    for strength in (0, 1):
        out, settings = f"out_{strength}", Settings(stabilize=stabilize)
        request = Request("frames", "painting.jpg", output=out, photorealism=strength, photo={"fit_px": None})
        video(Strokes(), RunFolder(f"run_{strength}"), request, settings, "same", torch.device("cpu"))
        results[strength] = [load_image(path)[None] for path in sorted(Path(out).glob("*.png"))]
    assert len(results[0]) == 3
    for number, (plain, finished) in enumerate(zip(results[0], results[1], strict=True)):
        wanted = photographic(plain, load_image(f"frames/{number}.png")[None], 1.0, EXACT)
        assert (finished - wanted).abs().max() < 2 / 255  # the plain frames are rounded


def test_the_command_line_takes_the_settings(nstexp):
    plain = nstexp("image_px=48", "method.init=noise")
    found = nstexp(
        "image_px=48", "method.init=noise", "photorealism=1", "photo.radius=0.2", "photo.eps=1e-3", "photo.kind=plain"
    )
    assert (plain.code, found.code) == (0, 0), found.err
    before, after = (load_image(each.path)[None] for each in (plain, found))
    content = resize(photo(), size_of(before[0]))
    wanted = photographic(before, content, 1.0, PhotoFilter(0.2, 1e-3, "plain"))
    assert (after - wanted).abs().max() < 2 / 255 and (after - before).abs().max() > 0.1
    wrong = nstexp("photorealism=2")
    assert wrong.code == 2 and "photorealism=2: give a number from 0 to 1" in wrong.err
    wrong = nstexp("photorealism=1", "photo.radius=-1")
    assert wrong.code == 2 and "photo.radius=-1: give a number larger than 0" in wrong.err


@pytest.mark.parametrize(("fit_px", "shift"), [(None, (3, 5)), (32, (6, 10)), (16, (12, 20))])
def test_windows_of_a_seamless_result_reach_over_its_edges(fit_px, shift):
    """The shifts are multiples of the cells whose means are fitted."""
    photo, result = random_picture(48, 64, seed=1), random_picture(48, 64, seed=2)
    settings = PhotoFilter(fit_px=fit_px)
    moved = [image.roll(shift, (2, 3)) for image in (result, photo)]
    for seamless in (True, False):
        finish = Finish(photorealism=1.0, photo=settings, seamless=seamless)
        wanted = finish.as_photo(result, photo).roll(shift, (2, 3))
        assert torch.allclose(finish.as_photo(*moved), wanted, atol=1e-5) == seamless
