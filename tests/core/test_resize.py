"""Resizing: results that do not fit into the memory are refused before they are made."""

import pytest
import torch

from nstexp.core import resize as module
from nstexp.core.errors import UserError
from nstexp.core.resize import resize
from nstexp.core.runtime import memory


def test_a_result_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**30)
    picture = torch.rand(3, 30, 40)
    with pytest.raises(UserError, match=r"content: a picture of 8000x6000 px needs about 1\.7 GB .* set image_px=\d+"):
        resize(picture, (6000, 8000), "content", "set image_px={px} or less")
    with pytest.raises(UserError, match=r"^a picture of 8000x6000 px"):
        resize(picture, (6000, 8000))


def test_the_proposed_size_fits(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**30)
    with pytest.raises(UserError) as refused:
        resize(torch.rand(3, 30, 40), (6000, 8000), remedy="{px}")
    px = int(str(refused.value).rpartition(" ")[2])
    assert 4000 < px < 8000
    needed = module.COPIES * 4 * 3 * px * px * 3 // 4
    assert needed < 2**30


def test_small_results_are_not_checked(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert resize(torch.rand(3, 30, 40), (300, 400)).shape == (3, 300, 400)
