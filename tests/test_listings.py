"""`nstexp samples` and `nstexp styles`: lists, contact sheets, and which files a sheet may replace."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import picture
from PIL import Image
from safetensors.torch import save_file
from sweep_folders import COLORS

from nstexp import listings
from nstexp.commands import COMMANDS, subcommand
from nstexp.core.errors import UserError
from nstexp.core.runtime.files import file_digest
from nstexp.media import samples, sheet
from nstexp.weights import ADAIN_DECODER


def has_color(file: Path, color: tuple[int, int, int]) -> bool:
    return bool((np.asarray(Image.open(file).convert("RGB")) == color).all(-1).any())


def one_color(path: str, color: tuple[int, int, int], size: tuple[int, int] = (60, 40)) -> Path:
    Image.new("RGB", size, color).save(path)
    return Path(path).resolve()


def make_network(path: str, names: list[str], sources: list[str], digests: list[str]) -> Path:
    """A file with the description of a network and without its layers."""
    info = {"form": "residual", "settings": {}, "names": names, "sources": sources, "digests": digests}
    save_file({"x": torch.zeros(1)}, path, {"generator": json.dumps(info)})
    return Path(path)


@pytest.fixture
def drawn(monkeypatch) -> list[str]:
    """The texts that are drawn."""
    texts: list[str] = []
    draw = sheet.words
    monkeypatch.setattr(sheet, "words", lambda text, *args, **more: texts.append(text) or draw(text, *args, **more))
    return texts


@pytest.fixture
def few(tmp_path, monkeypatch):
    """One photo and two paintings in place of all built-in pictures, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    found = [
        samples.Builtin("sample:a", one_color("a.png", COLORS[0]), "A photo"),
        samples.Builtin("met:1", one_color("b.png", COLORS[5], (40, 60)), "M\u00e4da 1912\u201313, Gustav Klimt"),
        samples.Builtin("met:2", one_color("c.png", COLORS[9], (600, 400)), "Irises, Vincent van Gogh"),
    ]
    monkeypatch.setattr(samples, "listing", lambda: found)
    Path("here").mkdir()
    monkeypatch.chdir("here")
    return found


def test_the_list_has_every_picture_and_every_learned_style(capsys):
    listings.samples_command([])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [image.name for image in samples.listing()] + list(samples.learned_styles())
    assert {*samples.names()} == {image.name for image in samples.listing()}


def test_the_sheet_shows_all_pictures_with_their_names(few, drawn, capsys):
    listings.samples_command(["--sheet"])
    out, err = capsys.readouterr()
    assert (out, err) == ("samples.png\n", "")
    assert all(has_color(Path("samples.png"), color) for color in (COLORS[0], COLORS[5], COLORS[9]))
    assert {"Photos", "Paintings", "sample:a", "met:1", "met:2", "Irises, Vincent van Gogh"} <= {*drawn}
    assert not any("?" in text for text in drawn)


def test_a_sheet_of_all_built_in_pictures_is_readable(tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "thumbnail", lambda file, px: Image.new("RGB", (px, px)))
    listings.samples_command(["--sheet", str(tmp_path / "all.png")])
    width, height = Image.open(tmp_path / "all.png").size
    assert 0.5 < width / height < 2
    assert max(width, height) < 5000


def test_the_sheet_goes_where_the_user_says(few, capsys):
    listings.samples_command(["--sheet", "new/pictures.jpg"])
    assert capsys.readouterr() == ("new/pictures.jpg\n", "")
    assert Image.open("new/pictures.jpg").format == "JPEG"


def test_a_file_that_the_user_names_is_replaced_and_not_silently(few, capsys):
    picture("mine.png", 20, 20)
    listings.samples_command(["--sheet", "mine.png"])
    assert capsys.readouterr() == ("mine.png\n", "--sheet mine.png: the file that is there will be replaced\n")
    assert Image.open("mine.png").size != (20, 20)


def test_a_file_that_the_user_does_not_name_is_kept(few):
    before = picture("samples.png", 20, 20).read_bytes()
    with pytest.raises(UserError, match=r"samples\.png was not made by nstexp and would be replaced"):
        listings.samples_command(["--sheet"])
    assert Path("samples.png").read_bytes() == before


def test_an_older_sheet_of_the_same_name_is_replaced(few, capsys):
    for _ in range(2):
        listings.samples_command(["--sheet"])
    assert capsys.readouterr().out == "samples.png\n" * 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--sheet", "a.xyz"], "--sheet=a.xyz: cannot write '.xyz' files"),
        (["--sheet", "../a.png"], "--sheet: the result would replace the input ../a.png"),
        (["--sheet", "folder.png"], "--sheet=folder.png: this is a folder"),
        (["--shet"], "nstexp samples: unrecognized arguments: --shet"),
        (["chelsea"], "nstexp samples: unrecognized arguments: chelsea"),
    ],
)
def test_a_sheet_that_cannot_be_written_is_refused_in_one_sentence(few, words, sentence):
    Path("folder.png").mkdir()
    with pytest.raises(UserError) as refused:
        listings.samples_command(words)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_slow_drawing_shows_its_progress(few, monkeypatch, capsys):
    draw = sheet.thumbnail
    monkeypatch.setattr(sheet, "thumbnail", lambda *args: time.sleep(1.2) or draw(*args))
    listings.samples_command(["--sheet"])
    assert "pictures:" in capsys.readouterr().err


def test_the_styles_of_the_bundled_network_are_listed_with_their_paintings(capsys):
    listings.styles_command([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(samples.learned_styles()) == 16
    assert lines[0].split() == ["irises", "met:436528,", "Irises,", "Vincent", "van", "Gogh,", "1890"]


def test_the_styles_of_a_trained_network_are_drawn_where_their_pictures_are(tmp_path, monkeypatch, drawn, capsys):
    monkeypatch.chdir(tmp_path)
    here, changed = one_color("here.png", COLORS[3]), one_color("changed.png", COLORS[4])
    names, sources = ["one", "two", "three", "four"], ["here.png", "changed.png", "gone/three.png", ""]
    make_network("mine.safetensors", names, sources, [file_digest(here), "0123456789abcdef", "", ""])
    listings.styles_command(["mine.safetensors"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [[*pair] for pair in zip(names, [*sources[:3], "unknown"], strict=True)]
    listings.styles_command(["mine.safetensors", "--sheet", "mine.png"])
    assert capsys.readouterr().out == "mine.png\n"
    assert has_color(Path("mine.png"), COLORS[3])
    assert not has_color(Path("mine.png"), COLORS[4]), f"{changed} is another picture now"
    assert drawn.count("not on this machine") == 3
    assert {*names} <= {*drawn}


def test_a_sheet_never_replaces_its_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_network("mine.safetensors", ["one"], [""], [""]).rename("mine.png")
    monkeypatch.setattr(listings.learned, "styles_of", lambda *args: {"one": listings.learned.LearnedStyle()})
    with pytest.raises(UserError, match="would replace the input"):
        listings.styles_command(["mine.png", "--sheet", "mine.png"])


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("gone.safetensors", "model=gone.safetensors: there is no such file"),
        ("damaged.safetensors", "model=damaged.safetensors: "),
        (str(ADAIN_DECODER), f"model={ADAIN_DECODER}: not the file of a generator"),
    ],
)
def test_a_file_without_learned_styles_is_refused_in_one_sentence(tmp_path, monkeypatch, model, sentence):
    monkeypatch.chdir(tmp_path)
    Path("damaged.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError) as refused:
        listings.styles_command([model])
    assert str(refused.value).startswith(sentence)


@pytest.mark.quick
@pytest.mark.parametrize("command", ["samples", "styles"])
def test_a_wrong_word_ends_a_subcommand_with_one_line(nstexp, command):
    result = nstexp.bare(command, "--no-such-option")
    assert result.code == 2
    assert len(result.sentences) == 1
    assert result.sentences[0].startswith(f"nstexp {command}: ")


def test_every_subcommand_can_be_called(capsys):
    for word in COMMANDS:
        with pytest.raises(SystemExit) as end:
            subcommand([word, "--help"])()
        assert end.value.code == 0
        assert word in capsys.readouterr().out
    assert subcommand(["content=photo.jpg"]) is None
    assert subcommand([]) is None


def test_letters_without_a_sign_in_the_font_are_written_with_others():
    assert sheet.words("1912\u201313 \u2018M\u00e4da\u2019 \u00d8") == sheet.words("1912-13 'Mada' O")


def test_cells_stand_in_rows(drawn):
    cells = [sheet.Cell(Image.new("RGB", (50, 30), COLORS[n]), f"name{n}", "a title " * 20) for n in range(3)]
    image = np.asarray(sheet.contact_sheet({"": cells}, 2, 50))
    places = [np.argwhere((image == COLORS[n]).all(-1)).min(0) for n in range(3)]
    assert places[0][0] == places[1][0] < places[2][0]
    assert places[0][1] == places[2][1] < places[1][1]
    assert sum(text.endswith("...") for text in drawn) == 3, "long titles are cut"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["samples"], ["styles"], ["styles", "--sheet", "a.xyz"]])
def test_lists_and_refusals_need_no_torch(tmp_path, words):
    command = [sys.executable, "-X", "importtime", "-m", "nstexp", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == (2 if "--sheet" in words else 0)
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
