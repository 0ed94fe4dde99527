"""Names for results."""

from pathlib import Path

from nstexp.media.paths import unique_names


def test_names_are_numbered_where_they_are_the_same():
    paths = [Path(name) for name in ("x/a.jpg", "y/a.png", "a_2.png", "b")]
    assert unique_names(paths) == ["a", "a_2", "a_2_2", "b"]
    assert unique_names([Path("a.jpg")], taken=["a"]) == ["a_2"]


def test_very_long_names_leave_room_for_more_behind_them():
    long = [Path("写" * 80 + end) for end in ("1.jpg", "2.jpg")]
    assert unique_names(long) == ["写" * 66, "写" * 66 + "_2"]
    assert unique_names([Path("a" * 200 + ".jpg")]) == ["a" * 200]
