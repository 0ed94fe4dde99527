"""What a method makes is looked at before it is taken for a picture."""

import json
import math

import pytest
import torch

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import finite, json_text
from nstexp.methods.base import Controls, Style
from nstexp.outputs import RunFolder, read_summary
from nstexp.tasks.finish import Finish, redraw

PHOTO, PAINTING = torch.rand(1, 3, 8, 9), torch.rand(3, 10, 7)


class Makes:
    """A method that makes the same of everything."""

    def __init__(self, made: torch.Tensor, optimizes: bool = False) -> None:
        self.made, self.optimizes = made, optimizes

    def stylize(self, content, styles, controls):
        return self.made.expand_as(content).clone()


def made(method: Makes, photo: torch.Tensor = PHOTO, painting: torch.Tensor = PAINTING, color: str = "none"):
    return redraw(method, photo, [Style(painting, 1.0, name="p")], Controls("cat"), Finish(color))


NAN = torch.tensor(float("nan")).where(torch.arange(9) == 4, torch.rand(1, 3, 8, 9))


@pytest.mark.parametrize("color", ["none", "luminance", "match"])
@pytest.mark.parametrize(
    ("picture", "what"),
    [
        (NAN, "has values that are not finite"),
        (torch.full((1, 3, 1, 1), float("inf")), "has values that are not finite"),
        (torch.zeros(1, 3, 1, 1), "is one flat color"),
        (torch.tensor([0.2, 0.5, 0.7]).view(1, 3, 1, 1), "is one flat color"),
        (0.5 + torch.rand(1, 3, 8, 9) / 1e3, "is one flat color"),
        (7 + torch.rand(1, 3, 8, 9), "is one flat color"),
    ],
)
def test_what_is_no_picture_is_refused(color, picture, what):
    with pytest.raises(UserError, match=f"^cat: the result {what}, and is not saved: the weights of method.model"):
        made(Makes(picture), color=color)


def test_of_a_method_that_optimizes_the_settings_are_likely():
    with pytest.raises(UserError, match=r"^cat: the result is one flat color.*weights\.\*.*learning rate"):
        made(Makes(torch.zeros(1, 3, 1, 1), optimizes=True))


def test_one_of_several_pictures_is_enough():
    batch = torch.rand(3, 3, 8, 9)
    batch[1] = 0.4
    with pytest.raises(UserError, match="flat"):
        made(Makes(batch), PHOTO.expand(3, -1, -1, -1))


@pytest.mark.parametrize("flat", ["photo", "painting"])
def test_flat_pictures_may_become_flat(flat):
    inputs = {flat: torch.full_like(PHOTO if flat == "photo" else PAINTING, 0.3)}
    assert made(Makes(torch.zeros(1, 3, 1, 1)), **inputs).max() == 0


def test_dark_pictures_with_little_in_them_are_pictures():
    faint = torch.zeros(1, 3, 8, 9)
    faint[..., 3:] = 1 / 255
    assert torch.equal(made(Makes(faint)), faint)


def test_json_has_no_numbers_that_json_does_not_have(tmp_path):
    folder = RunFolder(tmp_path)
    folder.record_metrics("a", {"loss": math.nan, "tv": -math.inf, "gram": 2.5})
    folder.write_summary()
    for name in ("summary.json", "metrics.json"):
        text = (tmp_path / name).read_text()
        assert json.loads(text, parse_constant=pytest.fail)
        assert '"loss": null' in text and '"tv": null' in text
    assert read_summary(tmp_path).metrics == {"a": {"gram": 2.5}}
    (tmp_path / "summary.json").write_text(json.dumps({"status": "completed", "metrics": {"a": {"loss": math.nan}}}))
    assert math.isnan(read_summary(tmp_path).metrics["a"]["loss"]), "files of before are read"
    assert json_text({"a": [1.0, (math.inf, "x", None, True)]}) == '{"a": [1.0, [null, "x", null, true]]}'
    assert finite(3) == 3
