"""What is kept, what is dropped, and that equal pictures have one name."""

import torch

from nstexp.core.runtime.cache import TensorCache, tensor_digest


def floats(count: int) -> torch.Tensor:
    return torch.zeros(count)


def test_a_result_is_made_once():
    cache, made = TensorCache(1000), []
    first = cache.get("a", lambda: made.append(1) or floats(10))
    assert cache.get("a", lambda: made.append(1) or floats(10)) is first
    assert len(made) == 1


def test_the_one_used_longest_ago_is_dropped_first():
    cache, made = TensorCache(100), []

    def get(key: str) -> None:
        cache.get(key, lambda: made.append(key) or {"x": [floats(5)], "y": (floats(5), 1.0)})  # 40 bytes

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"]


def test_what_is_too_large_is_never_kept_and_drops_nothing():
    cache, made = TensorCache(100), []
    cache.get("small", lambda: floats(5))
    for _ in range(2):
        cache.get("large", lambda: made.append(1) or floats(26))
    assert len(made) == 2
    assert cache.get("small", lambda: made.append(1)) is not None
    assert len(made) == 2


def test_clear_forgets():
    cache = TensorCache(100)
    for _ in range(3):
        cache.get("a", lambda: floats(20))
        cache.clear()
    assert cache.get("a", lambda: "new") == "new"


def test_a_digest_is_that_of_the_values_the_shape_and_the_type():
    image = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert (
        tensor_digest(image)
        == tensor_digest(image.clone())
        == tensor_digest(image.permute(0, 2, 1).contiguous().permute(0, 2, 1))
    )
    changed = image.clone()
    changed[2, 3, 5] += 1e-6
    others = [changed, image.reshape(3, 6, 4), image.double(), image.view(torch.int32)]
    assert len({tensor_digest(other) for other in [image, *others]}) == 5
