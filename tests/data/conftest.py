"""Folders and shards that the tests of training data share."""

from pathlib import Path

import pytest
from PIL import Image
from training_data import color_of, noise, pack


@pytest.fixture
def folders(tmp_path):
    for name, count, offset in (("photos", 11, 0), ("paintings", 9, 100)):
        (tmp_path / name / "deep").mkdir(parents=True)
        for i in range(count):
            noise(offset + i).save(tmp_path / name / ("deep" if i % 2 else ".") / f"{i:02d}.png")
    return {"content": str(tmp_path / "photos"), "style": str(tmp_path / "paintings")}


@pytest.fixture
def plain(tmp_path):
    """Folders of plain pictures whose color is their number."""
    for name, count in (("photos", 24), ("paintings", 18)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (20, 24), color_of(i)).save(tmp_path / name / f"{i:02d}.png")
    return {"content": str(tmp_path / "photos"), "style": str(tmp_path / "paintings")}


@pytest.fixture
def shards(plain, tmp_path):
    """24 photos in 8 shards and 18 paintings in 6."""
    return {
        "content": pack(tmp_path / "content", Path(plain["content"]), 8),
        "style": pack(tmp_path / "style", Path(plain["style"]), 6),
    }
