"""Files of weights: nothing unpacks to more than weights are, and no number is used that no network has."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nstexp.core.errors import UserError
from nstexp.core.networks import tensor_files
from nstexp.core.networks.pretrained import from_file, load_tensors, random_vgg, save_weights
from nstexp.core.networks.tensor_files import check_numbers, read_tensors


def saved(folder: Path, suffix: str, **changed: torch.Tensor) -> Path:
    state = {"a.weight": torch.randn(4, 3, 3, 3), "a.bias": torch.zeros(4), "norm": torch.ones(4)} | changed
    path = folder / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    return path


def deflated(path: Path) -> Path:
    """The same archive, packed as small as it can be."""
    packed = path.with_name(f"packed-{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return packed


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_good_files_are_read(tmp_path, suffix):
    state = load_tensors(saved(tmp_path, suffix))
    assert set(state) == {"a.weight", "a.bias", "norm"}


KERNEL = torch.randn(4, 3, 3, 3)
BROKEN = {
    "nan": (KERNEL.index_fill(0, torch.tensor(2), float("nan")), "has numbers that are not finite"),
    "one nan": (KERNEL.clone().index_put_((torch.tensor(0),) * 4, torch.tensor(float("nan"))), "not finite"),
    "infinite": (KERNEL.index_fill(0, torch.tensor(2), float("-inf")), "has numbers that are not finite"),
    "garbage": (torch.frombuffer(bytearray(range(256)) * 27, dtype=torch.float32).reshape(64, 3, 3, 3), "a.weight has"),
    "zeros": (torch.zeros(4, 3, 3, 3), "is 0 throughout"),
    "constant": (torch.full((4, 3, 3, 3), 0.5), "is 0.5 throughout"),
    "large": (KERNEL * 1e12, "has a number as large as"),
    "half": (torch.full((4, 3, 3, 3), float("inf"), dtype=torch.float16), "not finite"),
    "bfloat16": (torch.full((4, 3, 3, 3), float("nan"), dtype=torch.bfloat16), "not finite"),
    "double": (torch.full((4, 3, 3, 3), 1e300, dtype=torch.float64), "a.weight has"),
}


@pytest.mark.parametrize(("kernel", "problem"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_numbers_that_no_network_has_are_refused(tmp_path, suffix, kernel, problem):
    path = saved(tmp_path, suffix, **{"a.weight": kernel})
    with pytest.raises(UserError) as refused:
        load_tensors(path)
    assert str(refused.value).startswith(f"{path}: the tensor a.weight ")
    assert problem in str(refused.value)


def test_a_broken_bias_counts_and_flat_ones_do_not(tmp_path):
    with pytest.raises(UserError, match=r"the tensor a\.bias has numbers that are not finite"):
        load_tensors(saved(tmp_path, ".pth", **{"a.bias": torch.tensor([0.0, float("nan")])}))
    check_numbers({"bias": torch.zeros(3), "gamma": torch.ones(2, 3), "steps": torch.tensor(7), "none": []}, "x")


def test_an_encoder_that_is_broken_is_refused_with_its_file(tmp_path):
    weights = random_vgg(width_divisor=1, depth=16).convs
    convs = {name: pair for name, pair in weights.items() if name.startswith(("conv1", "conv2"))}
    save_weights(convs, tmp_path / "good.safetensors")
    assert from_file(str(tmp_path / "good.safetensors")).convs
    save_weights(
        convs | {"conv2_1": (convs["conv2_1"][0] * float("nan"), convs["conv2_1"][1])}, tmp_path / "bad.safetensors"
    )
    with pytest.raises(
        UserError, match=r"bad\.safetensors: the tensor conv2_1\.weight has numbers that are not finite"
    ):
        from_file(str(tmp_path / "bad.safetensors"))


def test_what_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = deflated(saved(tmp_path, ".pth", big=torch.zeros(40_000_000)))
    assert path.stat().st_size < 1e6
    monkeypatch.setattr(torch, "load", lambda *args, **more: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match=r"packed-weights\.pth: 0\.\d MB that unpack to 160 MB are not the weights"):
        load_tensors(path)


def test_a_number_that_poses_as_many_is_refused(tmp_path):
    path = tmp_path / "views.pth"
    torch.save({"a": torch.randn(1).expand(10_000_000_000)}, path)
    with pytest.raises(UserError, match=r"views\.pth: its tensors are not stored like the weights"):
        load_tensors(path)


@pytest.mark.parametrize("made", [torch.ones(3, 3).to_sparse(), torch.empty(10, device="meta")])
def test_tensors_of_other_kinds_are_refused(tmp_path, made):
    torch.save({"a": made}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd\.pth: "):
        load_tensors(tmp_path / "odd.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_more_than_the_memory_is_refused(tmp_path, suffix, monkeypatch):
    path = saved(tmp_path, suffix)
    monkeypatch.setattr(tensor_files, "free_bytes", lambda device: path.stat().st_size // 8)
    with pytest.raises(UserError, match=r"GB, which takes twice that memory, and .* GB are free"):
        load_tensors(path)


def test_a_header_that_lies_is_refused(tmp_path):
    path = saved(tmp_path, ".safetensors")
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"shape":[4,3,3,3]', b'"shape":[4,3,9,9]'))
    with pytest.raises(UserError, match="not a file of tensors that loads safely"):
        load_tensors(path)


class Runs:
    def __reduce__(self):
        return open, ("pwned", "w")


@pytest.mark.parametrize("legacy", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    if legacy:
        path.write_bytes(pickle.dumps({"a": Runs()}))
    else:
        torch.save({"a": Runs()}, path)
    with pytest.raises(UserError, match="loads safely"):
        load_tensors(path)
    with pytest.raises(Exception, match=r".+"):
        read_tensors(path)
    assert not Path("pwned").exists()
