"""protect=...: more of the photo in faces, boxes and masks, and nothing else changed."""

import logging

import numpy as np
import pytest
import torch
from pictures import smooth_picture
from PIL import Image

from nstexp.core.color import luminance
from nstexp.core.errors import ArgumentError, UserError
from nstexp.core.masks import soft_box
from nstexp.core.measures.structure import ssim
from nstexp.media import faces
from nstexp.media.images import load_image, save_image
from nstexp.media.samples import find
from nstexp.outputs import RunFolder
from nstexp.tasks import protect
from nstexp.tasks.finish import Finish
from nstexp.tasks.protect import Protection
from nstexp.tasks.request import Request
from nstexp.tasks.stylize import stylize

PHOTO, PICTURE = smooth_picture(80, 100), smooth_picture(80, 100, seed=1) ** 2
BOX = (slice(None), slice(None), slice(24, 48), slice(30, 60))  # [0.3, 0.3, 0.6, 0.6]


def finished(picture=PICTURE, photo=PHOTO, **options):
    return Finish.of(Request("photo.png", **options))(picture, photo, [])


@pytest.fixture
def one_face(monkeypatch):
    """A face at BOX, without the package that finds faces."""
    monkeypatch.setattr(protect, "is_installed", lambda: True)
    monkeypatch.setattr(protect, "find_faces", lambda photo: [(30.0, 24.0, 60.0, 48.0)])


# ---------------------------------------------------------------------------------------------------------- soft box


def test_a_soft_box_is_1_inside_and_falls_to_0_around_it():
    mask = soft_box((80, 100), (30, 24, 60, 48), feather=0.4)
    assert mask[24:48, 30:60].min() == 1
    reach = 0.4 * (30 + 24) / 2
    rows, columns = torch.meshgrid(torch.arange(80) + 0.5, torch.arange(100) + 0.5, indexing="ij")
    outside = torch.hypot((columns - 45).abs().sub(15).clamp(min=0), (rows - 36).abs().sub(12).clamp(min=0))
    assert mask[outside >= reach].max() == 0
    assert mask[outside < 0.95 * reach].min() > 0
    assert mask[36].diff().abs().max() < 2 / reach, "no step"


def test_a_box_may_reach_beyond_the_picture():
    assert soft_box((20, 20), (-10, -10, 30, 30), 0.4).min() == 1
    assert soft_box((20, 20), (50, 50, 52, 52), 0.4).max() == 0


# ------------------------------------------------------------------------------------------------------------- blend


@pytest.mark.usefixtures("one_face")
@pytest.mark.parametrize("where", ["faces", [0.3, 0.3, 0.6, 0.6]])
def test_the_difference_to_the_photo_is_at_most_half_there_and_nothing_else_changes(where):
    made = finished(protect=where)
    before, after = ((luminance(x) - luminance(PHOTO))[BOX].abs().mean() for x in (PICTURE, made))
    assert after < before / 2
    first, second = (1 - ssim(x[BOX], PHOTO[BOX]) for x in (PICTURE, made))
    assert second < first / 2
    far = torch.ones(80, 100, dtype=torch.bool)
    far[12:60, 18:72] = False
    assert torch.equal(made[..., far], PICTURE[..., far])
    assert made.min() >= 0 and made.max() <= 1


def test_the_place_takes_the_colors_of_the_picture():
    picture = PICTURE * torch.tensor([0.2, 1, 0.2]).view(3, 1, 1)
    made = finished(picture, protect=[0.3, 0.3, 0.6, 0.6], protect_strength=1)
    red, green, blue = made[BOX].mean((0, 2, 3))
    assert green > red + 0.1 and green > blue + 0.1
    torch.testing.assert_close(luminance(made[BOX]), luminance(PHOTO[BOX]), atol=0.08, rtol=0)


def test_strength_0_and_null_change_nothing():
    assert finished(protect=[0, 0, 1, 1], protect_strength=0) is PICTURE
    assert finished() is PICTURE
    weak, strong = (finished(protect=[0, 0, 1, 1], protect_strength=s) for s in (0.3, 0.9))
    weak, strong = ((luminance(x) - luminance(PHOTO)).abs().mean() for x in (weak, strong))
    assert strong < weak / 2


@pytest.mark.usefixtures("one_face")
def test_several_places_at_once(tmp_path):
    mask = torch.zeros(3, 40, 50)
    mask[:, :10] = 1
    save_image(mask, tmp_path / "m.png")
    alone = [Protection.of(Request("p", protect=x)).mask(PHOTO[0]) for x in ("faces", str(tmp_path / "m.png"))]
    both = Protection.of(Request("p", protect=["faces", str(tmp_path / "m.png"), [0.9, 0.9, 1, 1]])).mask(PHOTO[0])
    assert torch.equal(both[:60], torch.maximum(*alone)[:60])
    assert alone[1][:18].min() > 0.99 and alone[1][24:].max() == 0
    assert both[-1, -1] == 1


@pytest.mark.usefixtures("one_face")
def test_every_picture_of_a_batch_has_its_own_faces(monkeypatch):
    monkeypatch.setattr(protect, "find_faces", lambda photo: [] if photo.mean() < 0.3 else [(30.0, 24.0, 60.0, 48.0)])
    photos = torch.cat([0.3 * PHOTO, PHOTO])
    made = finished(torch.cat([PICTURE] * 2), photos, protect="faces")
    assert torch.equal(made[:1], PICTURE)
    assert torch.equal(made[1:], finished(protect="faces"))


# ------------------------------------------------------------------------------------------------------ task, messages


class Negative:
    """Answers with the negative of the photo."""

    def stylize(self, content, styles, controls):
        return 1 - content


@pytest.mark.usefixtures("one_face")
def test_a_picture_without_faces_is_made_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    save_image(PHOTO[0], "photo.png")
    request = Request("photo.png", "photo.png", protect="faces")
    made = load_image(stylize(Negative(), RunFolder("run"), request))
    assert (made - (1 - load_image("photo.png")))[BOX[1:]].abs().max() > 0.05
    assert "1 face is protected" in caplog.text
    monkeypatch.setattr(protect, "find_faces", lambda photo: [])
    made = load_image(stylize(Negative(), RunFolder("other"), request))
    torch.testing.assert_close(made, 1 - load_image("photo.png"), atol=1e-6, rtol=0)
    assert "protect=faces: there is no face in the picture" in caplog.text


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([10, 20, 200, 300], "a box is left, top, right and bottom edge, as shares"),
        ([0.6, 0.1, 0.3, 0.5], "a box is left, top, right and bottom edge, as shares"),
        ([0.1, 0.2, 0.3], "give faces, a mask such as mask.png, or a box"),
        ([["faces"]], "give faces, a mask such as mask.png, or a box"),
        (3, "give faces, a mask such as mask.png, or a box"),
        ("", "give faces, a mask such as mask.png, or a box"),
    ],
)
def test_what_cannot_be_protected(value, problem):
    with pytest.raises(ArgumentError, match=rf"^protect=.*: {problem}"):
        Request("photo.png", protect=value)


def test_a_box_alone_or_in_a_list():
    box = [0.3, 0.1, 0.6, 0.5]
    assert Request("p", protect=box).protected == Request("p", protect=[box]).protected == [box]
    assert Request("p", protect=["faces", "m.png", box]).protecting_files == ["m.png"]


def test_a_missing_package_or_file_is_said_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(protect, "is_installed", lambda: False)
    with pytest.raises(UserError, match=r"protect=faces needs a package .* pip install 'nstexp\[faces\]'"):
        Finish.of(Request("p", protect="faces"))
    with pytest.raises(UserError, match=r"protect=.*none\.png: there is no such file"):
        Finish.of(Request("p", protect=str(tmp_path / "none.png")))
    Image.fromarray(np.zeros((10, 90), np.uint8)).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match=r"^protect: .*wide\.png is 90x10 px, but the picture has another aspect ratio"):
        finished(protect=str(tmp_path / "wide.png"))


# -------------------------------------------------------------------------------------------------------- real faces


def test_the_face_of_the_astronaut_is_found():
    pytest.importorskip("facenet_pytorch")
    photo = load_image(find("sample:astronaut"))
    (box,) = faces.find_faces(photo)
    assert box == pytest.approx((181, 62, 268, 172), abs=6)
    assert faces.find_faces(load_image(find("sample:coffee"))) == []
    assert faces.find_faces(torch.rand(3, 12, 40)) == []


def test_small_pictures_have_no_faces(monkeypatch):
    monkeypatch.setattr(faces, "_detector", lambda: pytest.fail("it needs 20 px"))
    assert faces.find_faces(torch.rand(3, 12, 40)) == []


def test_unsure_faces_are_left_out_and_boxes_are_in_pixels_of_the_picture(monkeypatch):
    class Detector:
        def detect(self, pixels):
            assert pixels.shape == (384, 768, 3)
            return np.array([[10, 20, 30, 40], [50, 60, 70, 80]], dtype=object), [0.99, 0.9]

    monkeypatch.setattr(faces, "_detector", Detector)
    assert faces.find_faces(torch.rand(3, 768, 1536)) == [(20.0, 40.0, 60.0, 80.0)]
