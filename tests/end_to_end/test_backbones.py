"""The command line with a backbone that is no VGG: what works with it, and what says in a sentence that it does not."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")
LITE = ("backbone=efficientnet_lite0", "layers=efficientnet")


def losses(folder) -> list[float]:
    """The style loss of every step."""
    with (folder / "losses.csv").open(encoding="utf-8") as file:
        return [float(row["gram"]) for row in csv.DictReader(file) if row["gram"]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gatys_makes_a_picture(folder, nstexp, precision):
    style = ("loss.gram.form=mse_hw", "weights.beta=100000", "method.max_steps=12")
    result = nstexp(*LITE, *style, f"precision={precision}")
    assert result.code == 0, result.err
    assert result.sentences == []
    photo, made = (Image.open(file).convert("RGB") for file in ("photo.png", result.path))
    assert made.size == (48, 36)
    assert 2 < np.abs(np.asarray(made, float) - np.asarray(photo.resize(made.size), float)).mean() < 100
    found = losses(result.path.parent)
    assert len(found) >= 6 and min(found) < 0.5 * found[0]
    summary = json.loads((result.path.parent / "summary.json").read_text(encoding="utf-8"))
    assert summary["encoder"] == "efficientnet-lite0"
    assert summary["precision"] == {"fp32": "float32", "bf16": "bfloat16"}[precision]


@pytest.mark.parametrize("guide", ["simple", "inside", "all"])
def test_masks_and_measures_work(folder, nstexp, guide):
    mask = np.zeros((37, 50), dtype=np.uint8)
    mask[:, :25] = 255
    for name, each in (("left.png", mask), ("right.png", 255 - mask)):
        Image.fromarray(each).save(name)
    regions = ("style=[painting.jpg,photo.png]", "masks=[left.png,right.png]", f"method.guide={guide}")
    own = ("measure=true", "backbone@metrics.encoder=efficientnet_lite0", "metrics.names=[ssim,color_mean]")
    result = nstexp(*LITE, *regions, *own)
    assert result.code == 0, result.err
    numbers = json.loads((result.path.parent / "metrics.json").read_text(encoding="utf-8"))["output"]
    assert numbers["gram"] > 0
    assert {"ssim", "color_mean"} <= set(numbers)


REFUSED = {
    "method=adain layers.content=[expand4_1]": "efficientnet-lite0 has no decoder, because a decoder mirrors",
    "method=adain layers=adain2017": "unknown layer 'relu4_1': efficientnet-lite0 has stem, .*, head$",
    "layers=gatys2016": "unknown layer 'relu4_2': efficientnet-lite0 has stem, .*, head$",
    "measure=true backbone@metrics.encoder=efficientnet_lite0": "unknown layer 'relu1_1': efficientnet-lite0 has stem",
}


@pytest.mark.parametrize("args", REFUSED)
def test_what_needs_a_vgg_says_so(folder, nstexp, args):
    inputs = ("content=photo.png", "style=painting.jpg", "image_px=48", "logger=none")
    result = nstexp.bare(*LITE, *inputs, *args.split())
    assert result.code == 2
    assert re.search(REFUSED[args], result.sentences[-1]), result.err
    assert not list(folder.glob("runs/nstexp/*/output.png"))
