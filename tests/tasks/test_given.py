"""Pictures of other programs in task=evaluate: found by their names, brought to size, scored like those of a method."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import picture, run_folders
from PIL import Image

from nstexp.core.errors import UserError
from nstexp.outputs import read_summary
from nstexp.tasks.given import Given, fitted

SMALL = (
    "task=evaluate", "image_px=48", "backbone@metrics.encoder=random", "logger=none", "precision=fp32",
    "content=[photo.png,other.png]", "style=[painting.jpg,second.png]", "metrics=[ssim,color_mean]",
)  # fmt: skip
PAIRS = [(content, style) for style in ("painting", "second") for content in ("photo", "other")]


@pytest.fixture(autouse=True)
def _in_the_folder(folder):
    picture("other.png", 44, 50, seed=3)
    picture("second.png", 60, 40, seed=4)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def made_by_others(folder: str, name: str = "{content}_{style}.png", size: int = 48) -> None:
    """The photos themselves, as another program might have made them: 48 px on the longer side."""
    for content, style in PAIRS:
        file = Path(folder, name.format(content=content, style=style))
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(f"{content}.png").convert("RGB")
        scale = size / max(image.size)
        image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS).save(file)


def times(path: str, text: str) -> str:
    Path(path).write_text(text)
    return path


def test_they_enter_the_table_the_sheet_and_the_summary(nstexp):
    made_by_others("theirs")
    made_by_others("blurred", size=5)
    seconds = times("times.csv", "content,style,method,seconds\nphoto.png,painting.jpg,theirs,1.5\n"
                    "other,second,theirs,0.5\nother,second,blurred,2\nelsewhere,second,theirs,9\n")  # fmt: skip
    result = nstexp.bare(*SMALL, "results=[theirs,blurred]", f"results_seconds={seconds}")
    assert result.code == 0, result.err
    found = rows(result.path)
    assert [(r["content"], r["style"]) for r in found if r["method"] == "theirs"] == PAIRS
    assert {r["method"] for r in found} == {"theirs", "blurred", "photo", "painting"}, "nothing was stylized"
    ssim = {m: [float(r["ssim"]) for r in found if r["method"] == m] for m in ("theirs", "blurred", "photo")}
    assert all(value > 0.95 for value in ssim["theirs"]), "the photos, resized by another program"
    assert all(low < high for low, high in zip(ssim["blurred"], ssim["theirs"], strict=True))
    run = result.path.parent
    summary = read_summary(run)
    assert summary.method == "theirs,blurred"
    assert summary.metrics["mean of theirs"]["seconds_per_picture"] == pytest.approx(1.0)
    assert summary.metrics["mean of blurred"]["seconds_per_picture"] == 2
    assert summary.metrics["photo_painting_theirs"]["ssim"] == ssim["theirs"][0]
    assert summary.references["photo_painting_theirs"]["photo"]["ssim"] == pytest.approx(1)
    compared = {row["method"]: row for row in rows(run / "means.csv") if row["measure"] == "ssim"}
    assert float(compared["blurred"]["difference_high"]) < 0
    width, height = Image.open(run / "grid.png").size
    assert width > 3 * 80 and height > 4 * 30
    assert not list(run.glob("*_theirs*")), "the pictures stay where they are"
    assert "blurred: 4 pictures were resized to the sizes of their photos, the first: photo_painting.png" in result.err
    assert "stretched" not in result.err


def test_they_are_scored_beside_a_method(nstexp):
    made_by_others("theirs", "{style}/{content}-out.png")
    args = ("results={others: theirs}", "results_name={style}/{content}-out", "method=swift")
    result = nstexp.bare(*SMALL, *args)
    assert result.code == 0, result.err
    assert {r["method"] for r in rows(result.path)} == {"others", "swift", "photo", "painting"}
    (head,) = [line for line in result.sentences if line.startswith("swift ")]
    assert head.split() == ["swift", "others", "photo", "painting"]
    again = nstexp.bare(*SMALL, f"results={{swift: {result.path.parent}}}", "results_name={content}_{style}_{method}",
                        f"results_seconds={result.path}")  # fmt: skip
    assert again.code == 0, again.err
    first, second = (
        {(r["content"], r["style"]): r for r in rows(path) if r["method"] == "swift"}
        for path in (result.path, again.path)
    )
    assert first.keys() == second.keys()
    for pair, row in first.items():
        assert float(row["ssim"]) == pytest.approx(float(second[pair]["ssim"]), abs=0.005), "of 8-bit pixels now"
        assert row["stylize_seconds"] == second[pair]["stylize_seconds"]


def test_pairs_can_be_fewer(nstexp):
    made_by_others("theirs")
    result = nstexp.bare(*SMALL, "results=theirs", "task.pairs=2")
    assert result.code == 0, result.err
    found = [(r["content"], r["style"]) for r in rows(result.path) if r["method"] == "theirs"]
    assert len(found) == 2 and len({c for c, _ in found}) == len({s for _, s in found}) == 2


def test_another_shape_is_stretched_and_told(nstexp):
    made_by_others("theirs")
    square = Image.open("theirs/photo_painting.png").resize((40, 40))
    square.save("theirs/photo_painting.png")
    result = nstexp.bare(*SMALL, "results=theirs")
    assert result.code == 0, result.err
    assert "theirs: 1 pictures do not have the shape of their photos and were stretched" in result.err
    assert "photo_painting.png; for a program that cuts photos to squares, set task.crop=square" in result.err


@pytest.mark.parametrize(
    ("size", "alike"), [((30, 40), True), ((60, 80), True), ((61, 80), True), ((30, 43), False), ((40, 40), False)]
)
def test_a_picture_gets_the_size_of_its_photo(size, alike):
    x = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    found, same = fitted(x, (30, 40))
    assert found.shape == (3, 30, 40) and same is alike
    assert float(found.mean()) == pytest.approx(float(x.mean()), abs=0.05)
    if size == (30, 40):
        assert torch.equal(found, x)


def test_names_may_have_dots_and_endings():
    made_by_others("theirs", "v1.5_{content}.{style}.webp")
    for pattern in ("v1.5_{content}.{style}", "v1.5_{content}.{style}.png"):
        found = Given("theirs", pattern).find(PAIRS)
        assert found["theirs", "second", "other"] == Path("theirs/v1.5_other.second.webp")
        assert len(found) == 4
    assert Given({"ours": "theirs"}, "v1.5_{content}.{style}").find(PAIRS[:1]).keys() == {("ours", "painting", "photo")}
    assert Given(None).find(PAIRS) == {} == Given(None).seconds(PAIRS)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["results=nowhere"], "results=nowhere: there is no such folder"),
        (["results={a: nowhere}"], "results.a=nowhere: there is no such folder"),
        (["results=photo.png"], "results=photo.png: there is no such folder"),
        (["results=[theirs,theirs]"], "results: two folders have the same name, so write results={one: folder, "),
        (["results={photo: theirs}"], "results: 'photo' cannot be the name of a method"),
        (["results={a b: theirs}"], "results: 'a b' cannot be the name of a method"),
        (["results={swift: theirs}", "method=swift"], "results: 'swift' is also the name of a method"),
        (["results=theirs", "results_name={content}-{style}"],
         "results=theirs: 4 of 4 pictures are missing, photo-painting, other-painting, photo-second, ... "
         "(results_name={content}-{style}); the folder has other_painting.png, other_second.png, photo_painting.png, "
         "...: set results_name to the pattern of their names, or leave photos or paintings out"),
        (["results={a: empty}"], "results.a=empty: 4 of 4 pictures are missing, photo_painting, other_painting, "
         "photo_second, ... (results_name={content}_{style}); the folder has no picture: set results_name"),
        (["results=theirs", "results_name={photo}"],
         "results_name={photo}: only {content}, {style}, {method} may stand in braces"),
        (["results=theirs", "results_name={content"],
         "results_name={content: only {content}, {style}, {method} may stand in braces"),
        (["results=theirs", "results_name={style}"],
         "results_name={style}: painting would be the picture of two pairs: put {content} and {style} into it"),
        (["results=theirs", "results_seconds=nix.csv"], "results_seconds=nix.csv: the file cannot be read (No"),
        (["results=theirs", "results_seconds=photo.png"],
         "results_seconds=photo.png: a CSV file with the columns content, style and seconds is needed"),
        (["results=theirs", "results_seconds=bad.csv"], "results_seconds=bad.csv, line 2: seconds is -1: a number"),
        (["results=theirs", "results_seconds=far.csv"],
         "results_seconds=far.csv: it has no time of any picture of theirs"),
        (["results={a: theirs, b: theirs}", "results_seconds=bad.csv"],
         "results_seconds=bad.csv: results has 2 folders, so a column method has to name them"),
        (["results=theirs", "task.pairs=5"], "task.pairs=5: there are 4 pairs of photo and painting"),
        (["results=theirs", "task.pairs=0"], "task.pairs=0: give a whole number, 1 or larger"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(nstexp, args, sentence):
    made_by_others("theirs")
    Path("empty").mkdir()
    times("bad.csv", "content,style,seconds\nphoto,painting,-1\n")
    times("far.csv", "content,style,seconds\nelsewhere,painting,1\n")
    before = {path: path.stat().st_mtime_ns for path in Path("theirs").iterdir()}
    result = nstexp.bare(*SMALL, *args)
    assert (result.code, result.out) == (2, "")
    assert len(result.sentences) == 1 and result.sentences[0].startswith(sentence)
    assert run_folders() == []
    assert {path: path.stat().st_mtime_ns for path in Path("theirs").iterdir()} == before


def test_two_files_of_one_name_are_told():
    made_by_others("theirs")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("theirs/photo_second.jpg")
    with pytest.raises(UserError, match=r"results=theirs: photo_second.jpg and photo_second.png have the same name"):
        Given("theirs").find(PAIRS)


def test_a_picture_that_cannot_be_read_leaves_the_others(nstexp):
    made_by_others("theirs")
    Path("theirs/other_painting.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = nstexp.bare(*SMALL, "results=theirs")
    assert result.code == 2
    (run,) = run_folders()
    assert [r["content"] for r in rows(run / "scores.csv") if r["method"] == "theirs"] == ["photo", "photo", "other"]
    assert "1 of 4 pictures failed, the first: other, painting, theirs" in result.sentences[-1]
