"""The sheet of an evaluation, of pictures of one color each."""

from itertools import product

import numpy as np
import pytest
from PIL import Image
from sweep_folders import COLORS

from nstexp.tasks.sheet import evaluation_sheet


def plain(color: tuple[int, int, int], size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, color)


def where(sheet: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a color, which is one rectangle in the sheet."""
    y, x = np.nonzero((np.asarray(sheet) == color).all(-1))
    box = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
    assert len(x) == (box[2] - box[0]) * (box[3] - box[1]), f"{color} is there more than once"
    return box


def sheet_of(photos: int, paintings: int, methods: int):
    """The sheet, and the colors of its photos, paintings and results."""
    colors = iter([color for color in COLORS if len({*color}) > 1])  # the words are gray
    of_photos = {f"photo{n}": next(colors) for n in range(photos)}
    of_paintings = {f"painting{n}": next(colors) for n in range(paintings)}
    labels = [f"method{n}" for n in range(methods)]
    made = {key: next(colors) for key in product(labels, of_paintings, of_photos)}
    sheet = evaluation_sheet(
        {name: plain(color, (50, 40)) for name, color in of_photos.items()},
        {name: plain(color, (150, 300)) for name, color in of_paintings.items()},
        labels,
        {key: plain(color, (100, 80)) for key, color in made.items()},
    )
    return sheet, of_photos, of_paintings, made


@pytest.mark.parametrize(("photos", "paintings", "methods"), [(3, 2, 3), (2, 3, 1), (3, 1, 2), (1, 2, 3)])
def test_every_painting_is_there_once_and_as_large_as_the_results(photos, paintings, methods):
    sheet, of_photos, of_paintings, made = sheet_of(photos, paintings, methods)
    for color in of_paintings.values():
        left, top, right, bottom = where(sheet, color)
        assert (right - left, bottom - top) == (50, 100)
    for color in made.values():
        left, top, right, bottom = where(sheet, color)
        assert (right - left, bottom - top) == (100, 80)
    for color in of_photos.values():
        assert (np.asarray(sheet) == color).all(-1).sum() % (100 * 80) == 0


def test_results_are_right_of_their_painting_and_below_their_photo():
    sheet, of_photos, of_paintings, made = sheet_of(3, 2, 3)
    for (_, painting, photo), color in made.items():
        left, top, right, _ = where(sheet, color)
        above, beside = where(sheet, of_photos[photo]), where(sheet, of_paintings[painting])
        assert (left, right) == (above[0], above[2]) and above[3] < top
        assert beside[2] < left
    rows = {
        method: {where(sheet, color)[1] for (m, _, _), color in made.items() if m == method} for method, _, _ in made
    }
    assert [len(tops) for tops in rows.values()] == [2, 2, 2], "a row for each method and painting"


def test_of_one_photo_the_methods_are_the_columns():
    sheet, _, of_paintings, made = sheet_of(1, 3, 4)
    for painting in of_paintings:
        boxes = [where(sheet, color) for (_, own, _), color in made.items() if own == painting]
        assert len({top for _, top, _, _ in boxes}) == 1
        assert [left for left, *_ in boxes] == sorted({left for left, *_ in boxes})


def test_many_paintings_of_one_photo_make_no_strip():
    sheet, _, of_paintings, made = sheet_of(1, 11, 1)
    assert 0.6 < sheet.width / sheet.height < 2.4
    for painting, color in of_paintings.items():
        assert where(sheet, made["method0", painting, "photo0"])[0] > where(sheet, color)[2]


def test_what_is_missing_stays_empty():
    photo, painting = plain(COLORS[0], (50, 40)), plain(COLORS[1], (50, 40))
    made = {("a", "x", "one"): plain(COLORS[2], (50, 40))}
    sheet = evaluation_sheet({"one": photo, "two": photo}, {"x": painting, "y": painting}, ["a", "b"], made)
    assert where(sheet, COLORS[2])
