"""Work that cannot fit is refused, with the name and the advice that the caller gives."""

from collections import namedtuple

import psutil
import pytest
import torch

from nstexp.core.errors import UserError
from nstexp.core.runtime import memory
from nstexp.core.runtime.memory import check_fits, check_memory, free_bytes

CPU = torch.device("cpu")


@pytest.fixture
def with_free(monkeypatch):
    return lambda number: monkeypatch.setattr(memory, "free_bytes", lambda device: number)


def test_what_fits_passes(with_free):
    with_free(1000)
    check_fits(1000, (10, 10), device=CPU)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((), "a picture of 640x400 px needs about 4.0 GB of memory and 1.0 GB are free: "
             "a longer side of 288 px would fit"),
        (("content", "set image_px={px} or less"), "content: a picture of 640x400 px needs about 4.0 GB of memory and "
                                                   "1.0 GB are free: set image_px=288 or less"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_a_size_that_does(with_free, names, sentence):
    with_free(1e9)
    with pytest.raises(UserError) as error:
        check_fits(4e9, (400, 640), *names, device=CPU)
    assert str(error.value) == sentence
    check_fits(4e9 * (288 / 640) ** 2, (180, 288), device=CPU)


def test_an_optimization_needs_more_than_its_feature_maps(with_free):
    with_free(1.4e6)
    check_fits(1e6, (100, 100), device=CPU)
    with pytest.raises(UserError, match=r"^style: a picture of 100x100 px .* take less$"):
        check_memory(1_000_000, (100, 100), "style", "take less", CPU)


def test_free_memory_is_what_the_system_calls_available(monkeypatch):
    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().total
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("Memory", "available")(123))
    assert free_bytes(CPU) == 123


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_counts(tmp_path, version):
    names = {
        1: ("memory/a/b", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "7:memory:/a/b"),
        2: ("a/b", "memory.max", "memory.current", "inactive_file", "0::/a/b"),
    }
    place, limit, used, cache, own = names[version]
    (tmp_path / "own").write_text(f"5:cpu:/a\n{own}\n")
    (tmp_path / place).mkdir(parents=True)
    assert min(memory._left_in_groups(tmp_path, tmp_path / "own")) == 2**63
    for folder, most in ((tmp_path / place, "max"), ((tmp_path / place).parent, "1000")):
        (folder / limit).write_text(f"{most}\n")
        (folder / used).write_text("700\n")
        (folder / "memory.stat").write_text(f"anon 3\n{cache} 200\n")
    assert min(memory._left_in_groups(tmp_path, tmp_path / "own")) == 500
    assert memory._left_in_groups(tmp_path, tmp_path / "nowhere") == [2**63]
