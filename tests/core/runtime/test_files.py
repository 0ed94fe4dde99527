"""Whether a file can be written, before the work and not after it."""

import os
from pathlib import Path

import pytest

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import check_place, try_writing


def test_a_place_that_can_be_written_leaves_nothing_behind(tmp_path):
    check_place(tmp_path / "a.bin", "output")
    check_place(tmp_path / "new" / "folder" / "a.bin", "output")
    try_writing(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_place_for_a_file(tmp_path):
    with pytest.raises(UserError, match=rf"^--out={tmp_path}: this is a folder, add a file name$"):
        check_place(tmp_path, "--out")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=rf"^output=.*a\.bin: the folder {tmp_path}/file is not writable \(Not a dir"):
        check_place(tmp_path / "file" / "a.bin", "output")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody writes")
def test_it_is_found_by_trying_also_for_root():
    assert os.access("/proc", os.R_OK)
    with pytest.raises(UserError, match=r"^output=/proc/a\.bin: the folder /proc is not writable"):
        check_place(Path("/proc/a.bin"), "output")
    with pytest.raises(OSError):
        try_writing(Path("/proc"))
