"""Learned measures: the same as other libraries', and one sentence where weights are missing."""

import socket
import urllib.error

import pytest
import torch
from core.measures.pictures import picture
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import inception

from nstexp.core.errors import ArgumentError, UserError
from nstexp.core.measures import LPIPS, InceptionFeatures, Scorer, inception_fid
from nstexp.core.resize import resize
from nstexp.media import samples
from nstexp.media.images import load_image

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch, and no network."""
    timeouts = []

    def refuse(*args, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder, timeouts


INCEPTION = "inception_v3_google-0cc3c7bd.pth"


@pytest.fixture(scope="module")
def lpips():
    return LPIPS()


def crop(name: str) -> Tensor:
    """256 x 256 px of a built-in photo."""
    return load_image(samples.find(name))[None, :, :256, 128:384]


# The distances that the package lpips 0.1.4 (net="alex", version="0.1") computes with the weights in single precision:
# python -m pip install lpips, and its trunk set to the arrays that scripts/bundle_lpips.py reads.
PUBLISHED = {"softened": 0.359685, "mirrored": 0.615454, "darker": 0.158258, "another": 0.740056}


@pytest.mark.parametrize("name", PUBLISHED)
def test_lpips_is_that_of_its_authors(lpips, name):
    photo = crop("sample:astronaut")
    changed = {
        "softened": lambda: F.avg_pool2d(photo, 7, 1, 3, count_include_pad=False),
        "mirrored": lambda: photo.flip(-1),
        "darker": lambda: photo / 2,
        "another": lambda: crop("sample:coffee"),
    }[name]()
    assert lpips.between(photo, changed).item() == pytest.approx(PUBLISHED[name], abs=3e-4), "weights in half precision"


def test_lpips_is_that_of_torchmetrics(lpips):
    theirs = _LPIPS(net="alex", pnet_rand=True)
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    trunk = {tuple(name.split(".")): x for name, x in lpips.trunk.state_dict().items()}
    theirs.net.load_state_dict({f"slice{slices[int(n)]}.{n}.{kind}": x for (n, kind), x in trunk.items()})
    a, b = picture(70, 90)[None], picture(70, 90, seed=1)[None]
    wanted = theirs(a, b, normalize=True).item()
    assert wanted > 0.1
    assert lpips.between(a, b).item() == pytest.approx(wanted, rel=1e-3), "its linear layers are in single precision"
    assert lpips.between(a, a).item() == 0
    both = lpips.between(torch.cat([a, a]), torch.cat([b, a]))
    assert both.tolist() == [pytest.approx(wanted, rel=1e-3), 0]


def test_lpips_is_a_measure_of_content(lpips, encoder):
    scorer = Scorer(encoder, {"lpips": lpips})
    result, content = picture(70, 90, seed=1), picture(70, 90)
    wanted = lpips.between(result[None], content[None]).item()
    assert scorer(result, content, [])["lpips"] == pytest.approx(wanted, rel=1e-5)
    assert scorer(content, content, [])["lpips"] == 0
    assert scorer(picture(46, 90), picture(46, 90, seed=1), []) == {}
    assert "lpips" in scorer(picture(47, 90), picture(47, 90, seed=1), [])
    assert "LPIPS 0.1 (lpips_alex.safetensors)" in scorer.described()["lpips"]
    assert scorer.higher_is_better == []


def test_lpips_draws_no_random_numbers():
    before = torch.random.get_rng_state()
    LPIPS()
    assert torch.equal(torch.random.get_rng_state(), before), "measured and unmeasured runs give the same pictures"


def test_weights_that_cannot_be_had_make_one_sentence(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        inception_fid()
    message = str(caught.value)
    assert INCEPTION in message
    assert "~/torch/hub/checkpoints" in message
    assert "leave fid out of the measures" in message
    assert "metrics" not in message, "core knows no keys"
    assert message.count(". ") == 0
    assert "\n" not in message
    assert hub[1] == [10], "a dead connection does not hang"
    assert socket.getdefaulttimeout() is None


def test_files_that_are_something_else_are_refused(hub, lpips, tmp_path):
    (hub[0] / INCEPTION).write_bytes(b"<html>")
    with pytest.raises(UserError, match="loads safely"):
        InceptionFeatures()
    torch.save(lpips.state_dict(), tmp_path / "art.pth")
    with pytest.raises(UserError, match="not weights in torchvision's layout"):
        InceptionFeatures(tmp_path / "art.pth")
    wrong = {"weights": tmp_path / "none.pth", "pixels": "caffe", "side_px": 74}
    for argument, value in wrong.items():
        with pytest.raises(ArgumentError, match=f"^{argument}={value}") as caught:
            inception_fid(**{"weights": tmp_path / "art.pth", argument: value})
        assert caught.value.argument == argument


@pytest.mark.slow
def test_inception_features_are_those_of_torchvision(hub):
    torch.manual_seed(0)
    net = inception.Inception3(aux_logits=False, transform_input=True, init_weights=False).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.mul_(6**0.5)  # He's scale: torch's own lets features die out with depth
    torch.save(net.state_dict(), hub[0] / INCEPTION)
    ours = InceptionFeatures()
    net.fc = nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = picture(120, 100)[None]
    with torch.no_grad():
        wanted = net((resize(x, (299, 299)) - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    found = ours(x)
    assert found.shape == (1, 2048)
    assert found.mean() > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert INCEPTION in ours.identity
    own_size = InceptionFeatures(hub[0] / INCEPTION, side_px=None, pixels="unit")
    net.transform_input = False
    with torch.no_grad():
        torch.testing.assert_close(own_size(x), net(x), rtol=1e-4, atol=1e-5)
    assert "own size, unit pixels" in own_size.identity
