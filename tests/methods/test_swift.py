"""method=swift: tiles, masks, mixing, clips, files, export and training."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from nstexp.core.errors import ArgumentError, UserError
from nstexp.core.losses import ContentLoss, LossSet, MomentsLoss
from nstexp.core.networks.model_files import SwiftInfo, load_swift, save_swift
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.swift import Swift
from nstexp.core.networks.vgg import VGG
from nstexp.core.tones import tones
from nstexp.methods.base import Clip, Controls, Style
from nstexp.methods.export import SwiftGraph
from nstexp.methods.settings import SwiftSettings
from nstexp.methods.swift import SwiftMethod
from nstexp.methods.swift_training import SwiftTraining, recolored_at_random
from nstexp.methods.training import Sources
from nstexp.weights import SWIFT

SMALL = {"widths": (8, 16, 16), "groups": (8, 16, 16), "experts": 2}


def smooth(h: int, w: int, seed: int) -> torch.Tensor:
    coarse = torch.rand(1, 3, max(2, h // 8), max(2, w // 8), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(h, w), mode="bicubic").clamp(0, 1)[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    network, path = Swift(**SMALL), tmp_path_factory.mktemp("swift") / "model.safetensors"
    save_swift(network, SwiftInfo(network.settings), path)
    return str(path)


@pytest.fixture
def swift(model):
    return lambda **settings: SwiftMethod(**{"model": model, "style_px": None, **settings})


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


A, B = Style(smooth(48, 64, 1)), Style(0.4 * smooth(64, 56, 2))
CONTENT = smooth(61, 83, 3)[None]
CONTROLS = Controls()


def test_the_result_has_the_size_of_the_photo_and_its_range(swift):
    result = swift().stylize(CONTENT, [A], CONTROLS)
    assert result.shape == CONTENT.shape and result.min() >= 0 and result.max() <= 1
    assert (result - CONTENT).abs().mean() > 0.02


def test_alpha_mixes_pixels(swift):
    whole = swift().stylize(CONTENT, [A], CONTROLS)
    assert torch.equal(swift(alpha=0.0).stylize(CONTENT, [A], CONTROLS), CONTENT)
    half = swift(alpha=0.5).stylize(CONTENT, [A], CONTROLS)
    torch.testing.assert_close(half, (CONTENT + whole) / 2)


def test_tiles_change_nothing(swift):
    large = smooth(600, 530, 4)[None]
    torch.testing.assert_close(
        swift(tile_px=256).stylize(large, [A], CONTROLS), swift().stylize(large, [A], CONTROLS), atol=1e-5, rtol=0
    )


def test_tiles_change_nothing_where_masks_are(swift):
    large, left = smooth(300, 530, 4)[None], torch.zeros(300, 530)
    left[:, :300] = 1
    styles = [Style(A.image, mask=left), Style(B.image, mask=1 - left)]
    torch.testing.assert_close(
        swift(tile_px=256).stylize(large, styles, CONTROLS), swift().stylize(large, styles, CONTROLS), atol=1e-5, rtol=0
    )


def test_a_mask_of_ones_is_no_mask(swift):
    masked = swift().stylize(CONTENT, [Style(A.image, mask=torch.ones(61, 83))], CONTROLS)
    torch.testing.assert_close(masked, swift().stylize(CONTENT, [A], CONTROLS), atol=1e-3, rtol=0)


def test_each_region_has_its_style_and_its_own_statistics(swift):
    photo = torch.cat([smooth(64, 64, 5), smooth(64, 64, 6)], -1)[None]
    left = torch.zeros(64, 128)
    left[:, :64] = 1
    result = swift().stylize(photo, [Style(A.image, mask=left), Style(B.image, mask=1 - left)], CONTROLS)
    alone = swift().stylize(photo[..., :64], [A], CONTROLS)
    assert (result[..., :64] - alone).abs().mean() < 0.02  # the frame of the other region differs
    swapped = swift().stylize(photo, [Style(B.image, mask=left), Style(A.image, mask=1 - left)], CONTROLS)
    assert (result - swapped).abs().mean() > 0.05


def test_only_the_ratio_of_shares_counts(swift):
    first = swift().stylize(CONTENT, [Style(A.image, 1), Style(B.image, 3)], CONTROLS)
    same = swift().stylize(CONTENT, [Style(A.image, 0.25), Style(B.image, 0.75)], CONTROLS)
    torch.testing.assert_close(first, same, atol=1e-5, rtol=0)
    only = swift().stylize(CONTENT, [Style(A.image, 0), Style(B.image, 1)], CONTROLS)
    torch.testing.assert_close(only, swift().stylize(CONTENT, [B], CONTROLS), atol=1e-4, rtol=0)
    assert (first - only).abs().mean() > 1e-3


def test_a_batch_is_its_pictures(swift):
    batch = torch.cat([CONTENT, CONTENT.flip(-1) ** 2])
    together = swift().stylize(batch, [A], CONTROLS)
    for number in range(2):
        alone = swift().stylize(batch[number : number + 1], [A], CONTROLS)
        torch.testing.assert_close(together[number : number + 1], alone, atol=1e-5, rtol=0)


def test_a_clip_is_steadied_through_its_statistics(swift):
    method, frames = swift(tones=0), torch.cat([CONTENT, 0.5 * CONTENT])
    alone = method.stylize(frames[1:], [A], CONTROLS)
    clip = Clip(steadiness=0.9)
    steady = torch.cat([method.stylize(frame[None], [A], Controls(clip=clip)) for frame in frames])
    torch.testing.assert_close(steady[:1], method.stylize(frames[:1], [A], CONTROLS))
    assert steady[1].mean() < alone.mean() - 0.01  # the darker frame is not brightened at once
    at_once = method.stylize(frames, [A], Controls(clip=Clip(steadiness=0.9)))
    torch.testing.assert_close(at_once, steady, atol=1e-5, rtol=0)


def test_channels_get_the_distribution_of_the_painting(swift):
    painting = Style(smooth(61, 83, 9) ** 2)  # as many pixels as the photo, so that it is not resized
    wanted = tones(F.pad(painting.image[None], (0, 5, 0, 3), mode="replicate"))
    off, half, on = (
        (tones(swift(tones=strength).stylize(CONTENT, [painting], CONTROLS)) - wanted).abs().mean()
        for strength in (0.0, 0.5, 1.0)
    )
    assert on < 0.6 * half < 0.6 * off


@pytest.mark.parametrize("masked", [False, True])
def test_frames_drawn_at_the_same_time_are_those_drawn_in_turn(swift, two_threads, masked):
    frames = torch.stack([smooth(61, 83, seed) for seed in (3, 4, 5)])
    mask = torch.linspace(0, 1, 83).expand(61, 83)
    styles = [replace(A, mask=mask), replace(B, mask=1 - mask)] if masked else [A, B]
    method, clip = swift(), Clip(steadiness=0.8)
    together = method.stylize(frames, styles, Controls(clip=Clip(steadiness=0.8)))
    in_turn = torch.cat([method.stylize(frame[None], styles, Controls(clip=clip)) for frame in frames])
    torch.testing.assert_close(together, in_turn, atol=1e-5, rtol=0)
    assert torch.get_num_threads() == 2


def test_as_many_frames_are_drawn_at_once_as_there_are_threads_and_memory(swift, two_threads, monkeypatch):
    monkeypatch.setattr("nstexp.methods.swift.free_bytes", lambda device: 1e10)
    assert swift().frames_at_once((720, 1280)) == 2
    assert swift(tile_px=1024).frames_at_once((720, 1280)) == 1
    assert swift(device="meta").frames_at_once((720, 1280)) == 1
    monkeypatch.setattr("nstexp.methods.swift.free_bytes", lambda device: 1.5e9)
    assert swift().frames_at_once((720, 1280)) == 1
    assert swift().frames_at_once((360, 640)) == 2


def test_clips_stay_as_the_network_draws_them(swift):
    frame = swift().stylize(CONTENT, [A], Controls(clip=Clip()))
    torch.testing.assert_close(frame, swift(tones=0).stylize(CONTENT, [A], CONTROLS))


def test_styles_are_read_once(swift, monkeypatch):
    method, reads = swift(), []
    network = method.network()
    read = network.style
    monkeypatch.setattr(network, "style", lambda *args: reads.append(1) or read(*args))
    for _ in range(3):
        method.stylize(CONTENT, [A, B], CONTROLS)
    assert len(reads) == 2


def test_a_photo_is_read_once_and_filters_are_made_once_for_a_style(swift, monkeypatch):
    calls = {"levels": 0, "filters": 0}
    for name in calls:
        made = getattr(Swift, name)

        def counted(self, *args, name=name, made=made, **more):
            calls[name] += 1
            return made(self, *args, **more)

        monkeypatch.setattr(Swift, name, counted)
    method = swift()
    method.stylize(CONTENT, [A], CONTROLS)
    assert calls == {"levels": 2, "filters": 1}, "the painting and the photo"
    first = method.stylize(CONTENT, [A], CONTROLS)
    assert calls == {"levels": 3, "filters": 1}
    other = method.stylize(CONTENT, [B], CONTROLS)
    assert calls["filters"] == 2 and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "photo", "expected"),
    [
        ({}, (300, 400), (300, 400)),  # as many pixels as the photo
        ({}, (400, 300), (300, 400)),
        ({"style_scale": 2}, (300, 400), (600, 800)),
        ({}, (1500, 2000), (512, 683)),  # no longer than `style_px`
        ({"style_px": 256}, (1500, 2000), (256, 341)),
        ({"style_px": 256, "style_scale": 2}, (1500, 2000), (512, 683)),
        ({"style_px": None}, (1500, 2000), (1500, 2000)),
        ({}, (20, 20), (64, 85)),  # larger than a tiny photo
        ({"style_scale": 0.5}, (20, 20), (32, 43)),
    ],
)
def test_a_painting_is_read_at_a_size_that_fits_the_photo(settings, photo, expected):
    height, width = SwiftSettings(**settings).style_size((600, 800), photo[0] * photo[1])
    assert abs(height - expected[0]) <= 1 and abs(width - expected[1]) <= 1


def test_a_painting_is_read_again_for_a_photo_of_another_size(swift):
    method = swift()
    first = method.stylize(CONTENT, [A], CONTROLS)
    smaller = CONTENT[..., :40, :40]
    assert torch.equal(method.stylize(smaller, [A], CONTROLS), swift().stylize(smaller, [A], CONTROLS))
    assert torch.equal(method.stylize(CONTENT, [A], CONTROLS), first)


def test_pictures_that_are_too_small(swift):
    with pytest.raises(UserError, match=r"content: .*83x12 px.*at least 17.*image_px"):
        swift().stylize(CONTENT[..., :12, :], [A], CONTROLS)
    with pytest.raises(UserError, match=r"style: .*method\.style_scale"):
        swift(style_scale=1 / 16).stylize(CONTENT, [A], CONTROLS)
    assert swift().stylize(CONTENT, [Style(A.image[:, :10])], CONTROLS).isfinite().all(), "a painting is enlarged"
    assert swift().stylize(CONTENT[..., :17, :17], [A], CONTROLS).isfinite().all()


def test_the_bundled_network_is_small_and_keeps_a_gray_painting_gray():
    bundled, file = SwiftMethod(), SWIFT.stat().st_size
    assert file < 2e6
    gray = Style(A.image.mean(0, keepdim=True).expand(3, -1, -1))
    result = bundled.stylize(CONTENT, [gray], CONTROLS)
    spread = (result - result.mean(1, keepdim=True)).abs().mean()
    assert spread < 0.02 < (CONTENT - CONTENT.mean(1, keepdim=True)).abs().mean()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": 2}, "alpha"),
        ({"tones": -0.1}, "tones"),
        ({"style_scale": 0}, "style_scale"),
        ({"style_px": 7}, "style_px"),
        ({"widths": [24, 48]}, "three whole numbers"),
        ({"widths": [20, 48, 96]}, "20 channels are no multiple of 8"),
        ({"groups": [8, 16, 0]}, "groups"),
        ({"recolor": -1}, "recolor"),
        ({"tile_px": 8}, "tile_px"),
        ({"model": []}, "model"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ArgumentError, match=words):
        SwiftSettings(**settings)


# ------------------------------------------------------------------------------------------------------------- files


def test_a_file_in_8_bits_is_a_quarter_and_gives_nearly_the_same_picture(tmp_path, swift, model):
    network, info = load_swift(tmp_path / model)
    small = tmp_path / "small.safetensors"
    save_swift(network, info, small, small=True)
    assert small.stat().st_size < 0.35 * (tmp_path / model).stat().st_size
    difference = swift(model=str(small)).stylize(CONTENT, [A], CONTROLS) - swift().stylize(CONTENT, [A], CONTROLS)
    assert 0 < difference.abs().mean() < 2 / 255


def test_files_of_something_else(tmp_path, swift, model):
    from safetensors.torch import load_file, save_file

    with pytest.raises(UserError, match="there is no such file"):
        swift(model=str(tmp_path / "nothing.safetensors")).network()
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(UserError, match="not the file of a Swift network"):
        swift(model=str(other)).network()
    tensors = load_file(model)
    info = json.dumps({"settings": {"widths": [8, 16, 24], "groups": [8, 16, 8], "experts": 2}})
    save_file(tensors, other, {"swift": info})
    with pytest.raises(UserError, match="its layers are not those"):
        swift(model=str(other)).network()
    save_file(
        {**tensors, "code.bias": tensors["code.bias"] * torch.nan}, other, {"swift": json.dumps({"settings": SMALL})}
    )
    with pytest.raises(UserError, match=r"other\.safetensors"):
        swift(model=str(other)).network()


# ------------------------------------------------------------------------------------------------------------ export


@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_the_graph_gives_the_picture_of_the_method(swift, strength):
    method, photo = swift(tones=strength), smooth(75, 98, 3)[None]
    graph = SwiftGraph(method.network(), 17, strength)
    painting = Style(smooth(98, 75, 5))  # as many pixels as the photo, so that the method does not resize it
    with torch.inference_mode():
        found = graph(photo, painting.image[None], torch.tensor(1.0))
    torch.testing.assert_close(found, method.stylize(photo, [painting], CONTROLS), atol=1e-4, rtol=0)


# ---------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def training():
    def make(**settings):
        torch.manual_seed(0)
        encoder = VGG(random_vgg(), pad="reflect")
        terms = {"content": ContentLoss(["relu2_1"]), "moments": MomentsLoss(["relu1_1", "relu2_1"])}
        losses = LossSet(terms, {"alpha": 1, "beta": 10})
        return SwiftTraining(encoder, losses, SwiftSettings(**{**SMALL, **settings}), seed=1)

    return make


def test_a_batch_pairs_photos_and_paintings(training):
    module = training()
    content, style = (
        torch.stack([smooth(32, 32, s) for s in range(4)]),
        torch.stack([smooth(32, 32, s) for s in (5, 6, 7, 8)]),
    )
    values, result = module.evaluate(content, style, 2)
    assert result.shape == (8, 3, 32, 32) and values.total.requires_grad
    kept = module.swift.style(style[1:2])
    torch.testing.assert_close(result[2:4], module.swift(content[:2], kept))  # both photos of the group, in its style
    alone, _ = module.evaluate(content, style)
    assert set(alone.terms) == {"content", "moments"}


def test_losses_are_means_over_the_pairs(training):
    module = training()
    content, style = (
        torch.stack([smooth(32, 32, s) for s in range(2)]),
        torch.stack([smooth(32, 32, s) for s in (5, 6)]),
    )
    both, _ = module.evaluate(content, style)
    each = [module.evaluate(content[n : n + 1], style[n : n + 1])[0] for n in range(2)]
    torch.testing.assert_close(both.total, (each[0].total + each[1].total) / 2)


def test_steps_lower_the_loss(training):
    module = training()
    content, style = (
        torch.stack([smooth(32, 32, s) for s in range(2)]),
        torch.stack([smooth(32, 32, s) for s in (5, 6)]),
    )
    optimizer = torch.optim.Adam(module.swift.parameters(), lr=2e-3)
    totals = []
    for _ in range(15):
        values, _ = module.evaluate(content, style, 2)
        optimizer.zero_grad()
        values.total.backward()
        optimizer.step()
        totals.append(float(values.total.detach()))
    assert totals[-1] < 0.9 * totals[0]


def test_balance_gives_quiet_paintings_more_weight(training):
    module = training()
    module.on_fit_start()
    loud, quiet = smooth(32, 32, 5)[None], 0.5 + 0.02 * (smooth(32, 32, 6)[None] - 0.5)

    def factor(painting):
        targets = module.losses.targets("style", module.encoder(painting, module.losses.layers("style")))
        return module._factor({name: [(1.0, target)] for name, target in targets.items()})

    assert factor(loud) == 1  # the first is the usual one
    assert 1 < factor(quiet) <= 4


def test_random_colors_are_drawn_for_each_painting():
    paintings = torch.stack([smooth(16, 16, 1)] * 200)
    changed = recolored_at_random(paintings, 0.5, torch.Generator().manual_seed(0))
    same = (changed == paintings).flatten(1).all(1)
    assert 80 < same.sum() < 130  # half of them; some permutations change nothing
    gray = (changed - changed.mean(1, keepdim=True)).flatten(1).abs().amax(1) < 1e-6
    assert 8 < gray.sum() < 40
    assert changed.min() >= 0 and changed.max() <= 1
    assert recolored_at_random(paintings, 0.0, torch.Generator()) is paintings


def test_an_interruption_does_not_change_the_number_of_a_batch(training):
    def number(step, batch_idx, rank=0, world=1, accumulated=1):
        module = training()
        module._trainer = SimpleNamespace(
            global_step=step, world_size=world, global_rank=rank, accumulate_grad_batches=accumulated
        )
        return module.batch_number(batch_idx)

    assert number(7, 7) == number(7, 0) == 7  # a training that goes on counts its batches from 0 again
    assert [number(step, batch, accumulated=2) for step, batch in ((0, 0), (0, 1), (1, 2), (1, 3))] == [0, 1, 2, 3]
    assert {number(step, step, rank, 2) for step in range(3) for rank in range(2)} == set(range(6))


def test_it_refuses_what_it_has_no_use_for(swift):
    with pytest.raises(UserError, match=r"add_style is for method=cin"):
        swift().training_module(Sources(add_style="x.jpg"))
    with pytest.raises(UserError, match=r"style_names is for method=cin"):
        swift().training_module(Sources(style_names=["x"]))
