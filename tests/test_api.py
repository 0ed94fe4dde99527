"""nstexp from Python: the pixels of the command line, in the form in which the content was given."""

import re
import subprocess
import sys
from pathlib import Path

import documents
import numpy as np
import pytest
import torch
from helpers import picture
from PIL import Image

import nstexp as library
from nstexp import api
from nstexp.core.errors import UserError
from nstexp.core.networks.generators import Residual
from nstexp.core.networks.model_files import ModelInfo, save_generator
from nstexp.media.images import load_image

CHEAP = {"backbone": "random", "method.max_steps": 3, "precision": "fp32"}


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("gatys", CHEAP | {"layers": "style_first2"}, ["layers=style_first2", "method.max_steps=3"]),
        ("gatys", CHEAP | {"loss": ["content", "gram"]}, ["loss=[content,gram]", "method.max_steps=3"]),
        ("adain", {"precision": "fp32", "method.alpha": 0.5}, ["method.alpha=0.5", "method=adain"]),
    ],
)
def test_the_pixels_are_those_of_the_command_line(folder, nstexp, method, more, words):
    made = library.stylize("photo.png", "painting.jpg", method=method, image_px=48, seed=3, settings=more)
    backbone = ["backbone=random"] if method == "gatys" else []
    inputs = ["content=photo.png", "style=painting.jpg", "image_px=48", "seed=3", "logger=none", "precision=fp32"]
    result = nstexp.bare(*inputs, *backbone, *words)
    assert result.code == 0, result.err
    assert np.array_equal(np.array(made), np.array(Image.open(result.path)))
    assert sorted(path.name for path in Path().iterdir()) == ["painting.jpg", "photo.png", "runs"], (
        "no folder of its own"
    )


def test_threads_hold_for_the_call_only(folder, monkeypatch):
    before, seen, real = torch.get_num_threads(), [], api._stylized
    monkeypatch.setattr(api, "_stylized", lambda *given: seen.append(torch.get_num_threads()) or real(*given))
    library.stylize("photo.png", "painting.jpg", method="swift", image_px=48, settings={"threads": before + 1})
    assert seen == [before + 1] and torch.get_num_threads() == before


@pytest.mark.slow
def test_a_result_has_the_form_of_the_content(folder):
    picture("photos/a.png", 40, 36, seed=3)
    picture("photos/b.png", 36, 40, seed=4)
    pixels, tensor = np.array(Image.open("photo.png").convert("RGB")), load_image("photo.png")
    for content, kind, shape in (
        (Image.open("photo.png"), Image.Image, None),
        (Path("photo.png"), Image.Image, None),
        (pixels, np.ndarray, (37, 50, 3)),
        (np.stack([pixels, pixels]), np.ndarray, (2, 37, 50, 3)),
        (tensor, torch.Tensor, (3, 37, 50)),
        (torch.stack([tensor] * 3), torch.Tensor, (3, 3, 37, 50)),
    ):
        made = library.stylize(content, method="cin", settings={"precision": "fp32"})
        assert isinstance(made, kind)
        assert shape is None or made.shape == shape
        first = made if shape is None else made.reshape(-1, *shape[-3:])[0]
        if isinstance(first, torch.Tensor):
            first = (first * 255).round().byte().permute(1, 2, 0).numpy()
        expected = library.stylize("photo.png", method="cin", settings={"precision": "fp32"})
        assert np.abs(np.array(first).astype(int) - np.array(expected).astype(int)).max() <= 1
    assert [each.size for each in library.stylize("photos", method="cin", image_px=32)] == [(32, 29), (29, 32)]
    assert len(library.stylize(["photo.png"], method="cin")) == 1


@pytest.mark.slow
def test_styles_may_be_in_memory_with_shares(folder):
    files = library.stylize("photo.png", ["painting.jpg", "photo.png"], method="adain", style_weights=[0.25, 0.75])
    images = [load_image(name) for name in ("painting.jpg", "photo.png")]
    memory = library.stylize("photo.png", images, method="adain", style_weights=[0.25, 0.75])
    assert np.array_equal(np.array(files), np.array(memory))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"image_px": 0}, "image_px=0: the longer side is a whole number of pixels, from 1 to 65535"),
        ({"color": "x"}, "color=x is unknown, choose one of none, preserve, luminance, match"),
        ({"style": "nope.png"}, "style=nope.png: there is no such file, folder or built-in image"),
        ({"settings": {"method.alfa": 1}}, "settings: method.alfa: there is no such key; did you mean method.alpha?"),
        ({"settings": {"method.alpha": 2}}, "method.alpha=2: give a number from 0 to 1"),
        ({"colour": "match"}, "colour: there is no such argument; put other keys into settings={...}"),
        ({"style_layers": [["relu1_1"]]}, "style_layers"),
        ({"style_weights": [1, 2]}, "style_weights has 2 numbers for 1 style pictures"),
        ({"style": torch.rand(3, 40, 40), "masks": "photo.png"}, "masks: it needs the pictures in style as files, too"),
        ({"content": torch.rand(4, 40, 40)}, "content: a picture must have three colors"),
        ({"style": torch.rand(4, 40, 40)}, "style: a picture must have three colors"),
        ({"content": torch.zeros(3, 40, 40, dtype=torch.uint8)}, "content: a tensor must hold numbers from 0 to 1"),
        ({"content": np.zeros((40, 40, 3))}, "content: an array must hold bytes (uint8), but this one is float64"),
        ({"method": "adian"}, "Could not find 'method/adian': method=... takes adain, cin, gatys, swift, texture_net"),
        ({"settings": {"layers": "nope"}}, "Could not find 'layers/nope': layers=... takes"),
        ({"settings": {"log_every_n_steps": 0}}, "log_every_n_steps=0: give a whole number, 1 or larger"),
    ],
)
def test_what_cannot_work_is_one_sentence(folder, arguments, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        library.stylize(**{"content": "photo.png", "style": "painting.jpg", "method": "adain", **arguments})


def test_several_styles_in_one_array_are_several_styles(folder):
    images = [np.array(Image.open(name).convert("RGB").resize((40, 40))) for name in ("painting.jpg", "photo.png")]
    together = library.stylize("photo.png", np.stack(images), method="adain", style_weights=[0.25, 0.75])
    apart = library.stylize("photo.png", images, method="adain", style_weights=[0.25, 0.75])
    assert np.array_equal(np.array(together), np.array(apart))


def test_a_network_whose_file_was_written_again_is_loaded_again(folder):
    torch.manual_seed(0)
    network = Residual(norm="instance", width=0.125, blocks=1)
    info = ModelInfo(network.form, network.settings, ["painting"], [""])
    settings = {"method.model": "net.safetensors", "precision": "fp32"}
    made = []
    for scale in (1.0, 1.0, 3.0):
        with torch.no_grad():
            network.last.norm.gamma[0].mul_(scale)
        if scale > 1 or not made:
            save_generator(network, info, Path("net.safetensors"))
        made.append(np.array(library.stylize("photo.png", method="texture_net", settings=settings)).astype(int))
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_the_random_numbers_of_the_caller_stay_as_they_are(folder):
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    library.stylize("photo.png", method="cin")
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.slow
def test_a_trained_network_needs_no_lightning():
    code = (
        "import sys, nstexp; nstexp.stylize('sample:astronaut', method='cin', image_px=32);"
        "sys.exit('pytorch_lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=240).returncode == 0


def examples() -> dict[str, list[str]]:
    """Python blocks that begin with `import nstexp` -> the pages that have them."""
    found: dict[str, list[str]] = {}
    for block in documents.blocks():
        if block.language == "python" and block.text.startswith("import nstexp"):
            found.setdefault(block.text, []).append(block.page)
    return found


def test_the_readme_and_the_page_about_python_have_examples():
    pages = {page for named in examples().values() for page in named}
    assert {"README.md", "docs/use/python.md"} <= pages


@pytest.mark.slow
@pytest.mark.parametrize("block", examples(), ids=lambda block: ",".join(examples()[block]))
def test_a_documented_example_runs(folder, block):
    """At a tiny size and in two steps."""
    for name in ("photo", "other"):
        picture(f"{name}.jpg", 60, 50, seed=1)
        picture(f"photos/{name}.jpg", 60, 50, seed=1)
    block, sizes = re.subn(r"image_px=\d+", "image_px=48", block)
    block, _ = re.subn(r'"method.max_steps": \d+', '"method.max_steps": 2', block)
    exec(block, {})
    if sizes and "stylized.png" in block:
        assert Image.open("stylized.png").size == (48, 40)


def test_a_cut_out_picture_comes_back_cut_out(folder):
    photo = Image.open("photo.png").convert("RGB")
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save("cut.png")
    for content in (photo, "cut.png"):
        made = library.stylize(content, "painting.jpg", method="adain")
        assert made.mode == "RGBA"
        assert np.array_equal(np.array(made.getchannel("A")), np.array(photo.getchannel("A")))
        assert library.stylize(content, "painting.jpg", method="adain", transparency="black").mode == "RGB"
