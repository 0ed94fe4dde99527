"""Learned measures: the same as other libraries', and one sentence where weights are missing."""

import math
import socket
import urllib.error

import pytest
import torch
from core.measures.pictures import picture
from torch import nn
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import alexnet, inception

from nstexp.core.errors import ArgumentError, UserError
from nstexp.core.measures import LPIPS, InceptionFeatures, Scorer, inception_fid
from nstexp.core.resize import resize

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


@pytest.fixture(scope="module")
def alexnet_state():
    with torch.device("meta"):
        trunk = alexnet().features
    generator = torch.Generator().manual_seed(0)
    shapes = {f"features.{name}": x.shape for name, x in trunk.state_dict().items()}
    return {
        name: torch.randn(shape, generator=generator) * (2 / max(1, math.prod(shape[1:]))) ** 0.5 * (len(shape) > 1)
        for name, shape in shapes.items()
    }


ALEXNET, INCEPTION = "alexnet-owt-7be5be79.pth", "inception_v3_google-0cc3c7bd.pth"


def test_lpips_is_that_of_torchmetrics(hub, alexnet_state):
    torch.save(alexnet_state, hub[0] / ALEXNET)
    ours, theirs = LPIPS(), _LPIPS(net="alex", pnet_rand=True)
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    theirs.net.load_state_dict(
        {
            f"slice{slices[int(name.split('.')[1])]}.{name.removeprefix('features.')}": x
            for name, x in alexnet_state.items()
        }
    )
    a, b = picture(70, 90)[None], picture(70, 90, seed=1)[None]
    wanted = theirs(a, b, normalize=True).item()
    assert wanted > 1e-3
    assert ours.between(a, b).item() == pytest.approx(wanted, rel=1e-5)
    assert ours.between(a, a).item() == 0
    both = ours.between(torch.cat([a, a]), torch.cat([b, a]))
    assert both.tolist() == [pytest.approx(wanted, rel=1e-5), 0]


def test_lpips_is_a_measure_of_content(hub, alexnet_state, encoder):
    torch.save(alexnet_state, hub[0] / ALEXNET)
    lpips = LPIPS()
    scorer = Scorer(encoder, {"lpips": lpips})
    result, content = picture(70, 90, seed=1), picture(70, 90)
    wanted = lpips.between(result[None], content[None]).item()
    assert scorer(result, content, [])["lpips"] == pytest.approx(wanted, rel=1e-5)
    assert scorer(content, content, [])["lpips"] == 0
    assert scorer(picture(46, 90), picture(46, 90, seed=1), []) == {}
    assert "lpips" in scorer(picture(47, 90), picture(47, 90, seed=1), [])
    assert ALEXNET in scorer.described()["lpips"]


@pytest.mark.parametrize(("name", "file"), [("lpips", ALEXNET), ("fid", INCEPTION)])
def test_weights_that_cannot_be_had_make_one_sentence(hub, monkeypatch, tmp_path, name, file):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        LPIPS() if name == "lpips" else inception_fid()
    message = str(caught.value)
    assert file in message
    assert "~/torch/hub/checkpoints" in message
    assert f"leave {name} out of the measures" in message
    assert "metrics" not in message.replace("torchmetrics", ""), "core knows no keys"
    assert message.count(". ") == 0
    assert "\n" not in message
    assert hub[1] == [10], "a dead connection does not hang"
    assert socket.getdefaulttimeout() is None


def test_files_that_are_something_else_are_refused(hub, alexnet_state, tmp_path):
    (hub[0] / ALEXNET).write_bytes(b"<html>")
    with pytest.raises(UserError, match="loads safely"):
        LPIPS()
    torch.save({**alexnet_state, "features.0.weight": torch.randn(64, 3, 7, 7)}, hub[0] / ALEXNET)
    with pytest.raises(UserError, match=r"1 of 10 tensors .* features.0.weight"):
        LPIPS()
    torch.save(alexnet_state, tmp_path / "art.pth")
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
