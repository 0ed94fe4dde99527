"""Lists of the files below a folder: kept for large ones, used while nothing has changed, and never wrong."""

import json
import logging
import os
from pathlib import Path

import pytest

from nstexp.media import listing
from nstexp.media.listing import digest_of_names, is_input, list_files


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of six pictures, last changed an hour ago, large enough for a list."""
    monkeypatch.setattr(listing, "LEAST_FILES", 3)
    folder = tmp_path / "pictures"
    for name in ("a/1.jpg", "a/b/2.JPG", "a-b/3.png", "4.webp", "b/.5.jpg", "b/6.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "a/notes.txt").touch()
    (folder / ".jpg").touch()
    (folder / "b/folder.jpg").mkdir()
    age(folder)
    return folder


def age(folder: Path, seconds: float = 3600) -> None:
    for each in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        then = each.stat().st_mtime - seconds
        os.utime(each, (then, then))


def find(folder: Path, lists: Path | None = None) -> list[str]:
    return [str(path.relative_to(folder)) for path in list_files(folder, (".jpg", ".png", ".webp"), lists)]


EVERY = ["4.webp", "a/1.jpg", "a/b/2.JPG", "a-b/3.png", "b/6.jpg"]


def test_files_are_found_by_their_suffix_and_sorted_by_folder(pictures, tmp_path):
    (tmp_path / "elsewhere.jpg").touch()
    assert find(pictures) == EVERY
    (pictures / "7.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (pictures / "8.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (pictures / "again").symlink_to(pictures / "a")
    os.mkfifo(pictures / "9.jpg")
    assert find(pictures) == ["4.webp", "7.jpg", *EVERY[1:]]


@pytest.mark.parametrize(
    "name",
    [
        "._1.jpg",
        ".trash/1.jpg",
        "__MACOSX/a/._1.jpg",
        "a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
        ".ipynb_checkpoints/1-checkpoint.jpg",
        "$RECYCLE.BIN/1.jpg",
        "a/.writing-1.png",
    ],
)
def test_what_systems_leave_beside_pictures_is_no_input(pictures, name):
    (pictures / name).parent.mkdir(parents=True, exist_ok=True)
    (pictures / name).touch()
    assert find(pictures) == EVERY
    assert not is_input(name)


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store", "__macosx/1.jpg", "a\\.b.jpg"])
def test_names_that_are_no_inputs(name):
    assert not is_input(name)


@pytest.mark.parametrize("name", ["1.jpg", "./1.jpg", "../a/1.jpg", "a.b/c..d.jpg", "_MACOSX.jpg", "@home/1.jpg"])
def test_names_that_are_inputs(name):
    assert is_input(name)


def test_what_the_user_names_is_an_input_whatever_its_name(tmp_path):
    (tmp_path / ".photos").mkdir()
    (tmp_path / ".photos" / "1.jpg").touch()
    assert find(tmp_path / ".photos") == ["1.jpg"]


def test_the_second_time_no_folder_is_searched(pictures, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    assert find(pictures, tmp_path / "lists") == EVERY
    (kept,) = (tmp_path / "lists").glob("*.json")
    assert f"{pictures}: 5 files, listed in {kept} for later runs" in caplog.text
    looked = []
    stat = os.stat
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} is searched"))
    monkeypatch.setattr(os, "stat", lambda path, **how: looked.append(str(path)) or stat(path, **how))
    assert find(pictures, tmp_path / "lists") == EVERY
    assert f"{pictures}: 5 files, as listed in {kept}" in caplog.text
    assert not [path for path in looked if path.endswith((".JPG", ".png", ".webp")) or path.endswith("1.jpg")]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / "a/b/0.jpg").touch(), [*EVERY[:2], "a/b/0.jpg", *EVERY[2:]]),
        (lambda folder: (folder / "b/6.jpg").unlink(), EVERY[:-1]),
        (lambda folder: (folder / "4.webp").rename(folder / "9.webp"), ["9.webp", *EVERY[1:]]),
        (lambda folder: ((folder / "b/c").mkdir(), (folder / "b/c/7.png").touch()), [*EVERY, "b/c/7.png"]),
        (lambda folder: (folder / "a-b").rename(folder.parent / "away"), [n for n in EVERY if n != "a-b/3.png"]),
    ],
)
def test_what_comes_goes_or_is_renamed_is_noticed(pictures, tmp_path, change, expected):
    assert find(pictures, tmp_path / "lists") == EVERY
    change(pictures)
    assert find(pictures, tmp_path / "lists") == expected


def test_files_with_other_content_are_the_same_list(pictures, tmp_path, monkeypatch):
    find(pictures, tmp_path / "lists")
    (pictures / "4.webp").write_bytes(b"other")
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} is searched"))
    assert find(pictures, tmp_path / "lists") == EVERY


def test_a_folder_changed_just_now_or_in_the_future_or_a_small_one_has_no_list(pictures, tmp_path, monkeypatch):
    for seconds in (-3600, -3600):  # now, and in an hour
        age(pictures, seconds)
        assert find(pictures, tmp_path / "lists") == EVERY
    age(pictures, 7200)
    monkeypatch.setattr(listing, "LEAST_FILES", 7)
    assert find(pictures, tmp_path / "lists") == EVERY
    assert not list((tmp_path / "lists").glob("*.json"))


@pytest.mark.parametrize("damage", ["", "[]", '{"folders": {}}', "files"])
def test_a_damaged_list_is_made_anew(pictures, tmp_path, caplog, damage):
    find(pictures, tmp_path / "lists")
    (kept,) = (tmp_path / "lists").glob("*.json")
    whole = kept.read_text()
    if damage == "files":  # as by a hand that meant well
        damage = json.dumps(json.loads(whole) | {"files": EVERY[:-1]})
    kept.write_text(damage)
    assert find(pictures, tmp_path / "lists") == EVERY
    assert f"{kept}: the list of files cannot be used (" in caplog.text
    assert kept.read_text() == whole


def test_lists_are_of_one_folder_and_its_suffixes(pictures, tmp_path):
    lists = tmp_path / "lists"
    assert find(pictures, lists) == EVERY
    assert find(pictures / "a", lists) == ["1.jpg", "b/2.JPG"]
    assert [path.name for path in list_files(pictures, (".png",), lists)] == ["3.png"]
    (tmp_path / "link").symlink_to(pictures)
    assert list_files(tmp_path / "link", (".png",), lists) == [tmp_path / "link/a-b/3.png"]


def test_a_place_that_cannot_be_written_costs_the_list_only(pictures, tmp_path, caplog):
    (tmp_path / "file").touch()
    assert find(pictures, tmp_path / "file" / "lists") == EVERY
    assert "the list of files is not kept: " in caplog.text


def test_a_folder_that_cannot_be_read_is_left_out_and_the_list_not_kept(pictures, tmp_path, monkeypatch, caplog):
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("a-b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)  # root may read everything
    assert find(pictures, tmp_path / "lists") == [name for name in EVERY if name != "a-b/3.png"]
    assert f"{pictures}/a-b: the folder cannot be read (Permission denied) and is left out" in caplog.text
    assert not list((tmp_path / "lists").glob("*.json"))


def test_names_of_any_bytes_survive_the_list(pictures, tmp_path):
    os.close(os.open(os.fsencode(pictures) + b"/\xff\xfe.jpg", os.O_CREAT))
    age(pictures)
    assert list_files(pictures, (".jpg",), tmp_path / "lists") == list_files(pictures, (".jpg",), tmp_path / "lists")
    assert len(list((tmp_path / "lists").glob("*.json"))) == 1


def test_the_digest_is_of_names_and_their_order():
    assert digest_of_names(["a", "b"]) == digest_of_names([Path("elsewhere/a"), Path("b")])
    assert len({digest_of_names(names) for names in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], [])}) == 5
