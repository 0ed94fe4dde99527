"""Training data: the same pairs for the same seed and step, no matter who reads them; bad files replaced and named."""

import io
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning
import torch
from PIL import Image
from training_data import PAIR, SMALL, TARS, color_of, damage, noise, numbers_of, pack, same, take

from nstexp.core.errors import ArgumentError, UserError
from nstexp.data import pictures
from nstexp.data.batches import fixed_batches
from nstexp.data.folders import FolderPairs
from nstexp.data.pictures import Cropping, Unusable, center_crop, random_crop
from nstexp.data.shards import ShardPairs
from nstexp.media.images import load_image


def trainer(step: int = 0, accumulate: int = 1, rank: int = 0, ranks: int = 1) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, accumulate_grad_batches=accumulate, global_rank=rank, world_size=ranks)


VARIED = SMALL | {"resize_px": [16, 28], "flip": True}


# ------------------------------------------------------------------------------------------------------------- folders


def test_a_batch_is_two_stacks_of_crops_and_what_was_skipped(folders):
    (batch,) = take(FolderPairs(**folders, **SMALL), 1)
    assert set(batch) == {"content", "style", "skipped"}
    for role in PAIR:
        assert batch[role].shape == (4, 3, 16, 16)
        assert batch[role].dtype == torch.uint8
        assert batch[role].is_contiguous()
    assert batch["skipped"] == []


def test_workers_change_nothing_and_the_seed_everything(folders):
    none, one, two = (take(FolderPairs(**folders, **VARIED | {"workers": w}), 7) for w in (0, 1, 2))
    assert same(none, one)
    assert same(none, two)
    other = take(FolderPairs(**folders, **VARIED, seed=1), 7)
    assert not any(torch.equal(x[role], y[role]) for x, y in zip(none, other, strict=True) for role in PAIR)


def test_global_random_state_is_neither_used_nor_changed(folders):
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = take(FolderPairs(**folders, **VARIED), 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    torch.manual_seed(2)
    assert same(first, take(FolderPairs(**folders, **VARIED), 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_resumes_at_its_step(folders, workers):
    whole = take(FolderPairs(**folders, **VARIED), 8)
    assert same(whole[5:], take(FolderPairs(**folders, **VARIED | {"workers": workers}), 3, trainer(step=5)))
    assert same(whole[6:], take(FolderPairs(**folders, **VARIED), 2, trainer(step=3, accumulate=2)))


def test_two_processes_see_together_what_one_sees(folders):
    whole = take(FolderPairs(**folders, **VARIED | {"batch_size": 4}), 5)
    halves = [take(FolderPairs(**folders, **VARIED | {"batch_size": 2}), 5, trainer(rank=r, ranks=2)) for r in (0, 1)]
    joined = [{k: torch.cat([a[k], b[k]]) for k in PAIR} for a, b in zip(*halves, strict=True)]
    assert same(whole, joined)
    assert not same(halves[0], halves[1])


def test_every_picture_comes_once_an_epoch_in_pairs_that_change(plain):
    batches = take(FolderPairs(**plain, **SMALL | {"val_pairs": 0, "batch_size": 6}), 12)
    content = [n for batch in batches for n in numbers_of(batch["content"])]
    style = [n for batch in batches for n in numbers_of(batch["style"])]
    epochs = [content[i : i + 24] for i in range(0, 72, 24)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(sorted(style[i : i + 18]) == list(range(18)) for i in range(0, 72, 18))
    assert len(set(zip(content, style, strict=True))) > 60


def test_crops_of_one_picture_differ_in_place_size_and_mirroring(tmp_path):
    wide = np.zeros((32, 64, 3), dtype=np.uint8)
    wide[..., 0], wide[..., 1] = np.arange(64) * 4, np.arange(32)[:, None] * 8
    Image.fromarray(wide).save(tmp_path / "a.png")
    how = Cropping(16, [16, 32], "short_side", True, 200)
    crops = torch.stack([random_crop(str(tmp_path / "a.png"), np.random.default_rng(i), how) for i in range(300)])
    red, green = crops[:, 0].float(), crops[:, 1].float()
    slope = (red[:, :, -1] - red[:, :, 0]).mean(1)
    assert 0.4 < (slope < 0).float().mean() < 0.6
    widths = slope.abs() / 4 * 16 / 15  # source pixels under the window: 16 to 32
    assert widths.min() < 17.5
    assert widths.max() > 29
    assert abs(widths.log2().mean() - 4.5) < 0.1  # log-uniform
    assert red.mean((1, 2)).min() < 45
    assert red.mean((1, 2)).max() > 205
    assert green.mean((1, 2)).min() < 80
    assert green.mean((1, 2)).max() > 170


def test_the_window_is_the_crop_of_the_picture_resized_as_a_whole():
    picture, buffer = noise(3, (90, 61)), io.BytesIO()
    picture.save(buffer, "PNG")
    whole = np.asarray(picture.resize((round(90 * 40 / 61), 40), Image.Resampling.BICUBIC))
    how = Cropping(24, 40, "short_side", False, 200)
    found = random_crop(buffer.getvalue(), np.random.default_rng(5), how).permute(1, 2, 0).numpy().astype(int)
    distance = [
        np.abs(found - whole[y : y + 24, x : x + 24]).max() for y in range(17) for x in range(whole.shape[1] - 23)
    ]
    assert min(distance) <= 1


def test_the_short_side_keeps_the_aspect_and_squash_does_not(tmp_path):
    disc = np.full((64, 128, 3), 255, dtype=np.uint8)
    y, x = np.mgrid[:64, :128]
    disc[(y - 32) ** 2 + (x - 64) ** 2 < 20**2] = 0
    Image.fromarray(disc).save(tmp_path / "a.png")

    def extent(crop):
        dark = crop[0] < 128
        return int(dark.any(0).sum()), int(dark.any(1).sum())

    assert extent(center_crop(str(tmp_path / "a.png"), 64, 200)) == pytest.approx((39, 39), abs=2)
    squashed = random_crop(str(tmp_path / "a.png"), np.random.default_rng(0), Cropping(64, 64, "squash", False, 200))
    assert extent(squashed) == pytest.approx((20, 39), abs=2)


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1), (3, 2)])
def test_thin_and_tiny_pictures_give_crops_too(tmp_path, size):
    Image.new("RGB", size, (9, 99, 199)).save(tmp_path / "a.png")
    for seed in range(5):
        crop = random_crop(
            str(tmp_path / "a.png"), np.random.default_rng(seed), Cropping(16, 24, "short_side", True, 200)
        )
        assert (crop == torch.tensor([9, 99, 199], dtype=torch.uint8).view(3, 1, 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("orientation", [0, 9, 1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_a_jpeg_decoded_at_a_fraction_is_close_to_the_full_decode(tmp_path, orientation, reduction):
    y, x = np.mgrid[:403, :611] / 403
    waves = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y - x), np.sin(5 * x * y)], -1) * 100 + 128
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    side = 403 // reduction // 8 * 8
    decoded, _ = pictures.open_rgb(str(tmp_path / "a.jpg"), 200, lambda size: pictures.resized(size, side))
    assert min(decoded.size) == -(-403 // reduction)
    full = load_image(tmp_path / "a.jpg")
    small = torch.nn.functional.interpolate(
        full[None], size=pictures.resized(full.shape[:0:-1], side)[::-1], mode="bicubic", antialias=True
    )[0]
    left = (small.shape[2] - side + 1) // 2
    top = (small.shape[1] - side + 1) // 2
    expected = small[:, top : top + side, left : left + side] * 255
    difference = (center_crop(str(tmp_path / "a.jpg"), side, 200).float() - expected).abs()
    assert difference.mean() < 1.5
    assert difference.max() < 12


@pytest.mark.parametrize("mode", ["gray", "cmyk", "16 bit", "palette", "alpha", "1 bit", "float"])
def test_every_mode_looks_as_it_does_elsewhere(tmp_path, mode):
    rgb = noise(1, (24, 24))
    path = tmp_path / ("a.tif" if mode in ("cmyk", "float") else "a.png")
    alpha = Image.fromarray(np.random.default_rng(2).integers(0, 256, (24, 24), dtype=np.uint8))
    made = {
        "gray": lambda: rgb.convert("L"),
        "cmyk": lambda: rgb.convert("CMYK"),
        "16 bit": lambda: Image.fromarray(np.random.default_rng(2).integers(0, 65536, (24, 24), dtype=np.uint16)),
        "palette": lambda: rgb.quantize(16),
        "alpha": lambda: Image.merge("RGBA", [*rgb.split(), alpha]),
        "1 bit": lambda: rgb.convert("1"),
        "float": lambda: Image.fromarray(np.random.default_rng(2).random((24, 24), dtype=np.float32)),
    }
    made[mode]().save(path)
    expected = (load_image(path) * 255).round().to(torch.uint8)
    assert torch.equal(center_crop(str(path), 24, 200), expected)
    assert torch.equal(center_crop(path.read_bytes(), 24, 200), expected)


def header_only(path: Path, width: int, height: int) -> None:
    chunks = [
        (b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])),
        (b"IDAT", b""),
        (b"IEND", b""),
    ]
    body = b"".join(
        len(d).to_bytes(4, "big") + kind + d + zlib.crc32(kind + d).to_bytes(4, "big") for kind, d in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be used, and a part of the reason."""
    noise(7).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:900])
    noise(7).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:900])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("hello")
    header_only(folder / "giant.png", 40000, 30000)
    return {
        "cut.jpg": "damaged or truncated",
        "cut.png": "damaged or truncated",
        "empty.jpg": "the file is empty",
        "text.jpg": "not an image file",
        "giant.png": "40000x30000 px is over the limit of 200 megapixels",
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_replaced_by_others_and_named(folders, workers):
    bad = bad_files(Path(folders["content"]))
    settings = SMALL | {"val_pairs": 0, "workers": workers}
    batches = take(FolderPairs(**folders, **settings), 4)  # 16 draws of 16 pictures: every one has its turn
    reports = [line for batch in batches for line in batch["skipped"]]
    for name, reason in bad.items():
        assert any(line.startswith(f"{folders['content']}/{name}: ") and reason in line for line in reports), name
    assert all(batch["content"].shape == (4, 3, 16, 16) for batch in batches)
    assert {Path(line.split(": ")[0]).name for line in reports} == set(bad)
    again = take(FolderPairs(**folders, **SMALL | {"val_pairs": 0}), 2, trainer(step=2))
    assert same(batches[2:], again)
    assert [batch["skipped"] for batch in batches[2:]] == [batch["skipped"] for batch in again]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_of_nothing_but_bad_files_ends_in_one_sentence(folders, tmp_path, workers):
    (tmp_path / "bad").mkdir()
    bad_files(tmp_path / "bad")
    data = FolderPairs(folders["content"], str(tmp_path / "bad"), **SMALL | {"val_pairs": 0, "workers": workers})
    with pytest.raises(
        UserError, match=r"^data\.style: none of 100 pictures in a row can be used, .*bad/\w+\."
    ) as error:
        take(data, 1)
    assert "\n" not in str(error.value)


def test_validation_pictures_are_fixed_spread_and_not_trained_on(plain):
    data = FolderPairs(**plain, **SMALL | {"val_pairs": 6})
    batches = list(data.val_dataloader())
    assert [len(batch["content"]) for batch in batches] == [4, 2]
    held = {role: [n for batch in batches for n in numbers_of(batch[role])] for role in PAIR}
    assert held["content"] == [2, 6, 10, 14, 18, 22]
    assert held["style"] == [1, 4, 7, 10, 13, 16]
    assert same(batches, list(data.val_dataloader()))
    assert len(data.val_dataloader()) == 2
    trained = take(data, 30)
    for role, count in (("content", 24), ("style", 18)):
        seen = {n for batch in trained for n in numbers_of(batch[role])}
        assert seen == set(range(count)) - set(held[role])
    data.trainer = trainer(rank=1, ranks=2)
    assert same(batches, list(data.val_dataloader()))


def test_validation_pictures_of_ones_own(plain, tmp_path, caplog):
    for name, number in (("x", 200), ("y", 201)):
        Image.new("RGB", (20, 20), color_of(number)).save(tmp_path / f"{name}.png")
    own = [str(tmp_path / "x.png"), str(tmp_path / "y.png")]
    data = FolderPairs(**plain, **SMALL | {"val_pairs": 3}, val_content=own)
    with caplog.at_level("INFO"):
        (batch,) = data.val_dataloader()
    assert caplog.messages == ["24 content and 15 style pictures for training, 3 pairs for validation"]
    assert numbers_of(batch["content"]) == [200, 201, 200]
    assert numbers_of(batch["style"]) == [3, 9, 15]
    assert len(FolderPairs(**plain, **SMALL | {"val_pairs": 0}).val_dataloader()) == 0


def test_an_unreadable_validation_picture_costs_its_pair(plain):
    Path(plain["content"], "06.png").write_bytes(b"x")
    (batch,) = FolderPairs(**plain, **SMALL).val_dataloader()
    assert numbers_of(batch["style"]) == [13]
    assert batch["skipped"] == [f"{plain['content']}/06.png: this is not an image file"]
    Path(plain["style"], "13.png").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"^data\.val_pairs: no pair of validation pictures can be read, such as .*06\.png"
    ):
        FolderPairs(**plain, **SMALL).val_dataloader()


@pytest.mark.parametrize("module", [FolderPairs, ShardPairs])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"crop_px": 20}, "crop_px=20: give a positive multiple of 8"),
        ({"crop_px": 0}, "crop_px=0: give a positive multiple of 8"),
        ({"val_px": 12.0}, "val_px=12.0: give a positive multiple of 8"),
        ({"resize_px": 8}, "resize_px=8: a picture resized to 8 px has no crop of data.crop_px=16 px"),
        ({"resize_px": [12, 40]}, r"resize_px=\[12, 40\]: a picture resized to 12 px has no crop of .*=16 px"),
        ({"resize_px": [40, 20]}, r"resize_px=\[40, 20\]: give one side in px, or the range"),
        ({"resize_px": []}, r"resize_px=\[\]: give one side"),
        ({"resize_px": "big"}, "resize_px=big: give one side"),
        ({"resize": "crop"}, "resize=crop is unknown, choose one of short_side, squash"),
        ({"flip": "yes"}, "flip=yes: give true or false"),
        ({"batch_size": 0}, "batch_size=0: give a whole number, 1 or larger"),
        ({"batch_size": True}, "batch_size=True: give a whole number"),
        ({"workers": -1}, "workers=-1: give a whole number, 0 or larger"),
        ({"seed": -1}, "seed=-1: give a whole number, 0 or larger"),
        ({"val_pairs": 1.5}, "val_pairs=1.5: give a whole number, 0 or larger"),
        ({"max_megapixels": 0}, "max_megapixels=0: give a number larger than 0"),
    ],
)
def test_a_bad_value_is_refused_at_once_by_the_arguments_name(module, change, sentence):
    with pytest.raises(ArgumentError, match=f"^{sentence}") as error:
        module("a", "b", **SMALL | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"content": "nowhere"}, "data.content=nowhere: there is no such file"),
        ({"content": []}, "data.content is empty"),
        ({"style": []}, "data.style is empty"),
        ({"val_style": "nowhere"}, "data.val_style=nowhere: there is no such file"),
        ({"val_pairs": 9, "batch_size": 1}, "data.val_pairs=9: data.style has only 9 pictures"),
        ({"batch_size": 8}, "data.style: 7 pictures for training are fewer than one batch of data.batch_size=8"),
    ],
)
def test_what_is_missing_is_named_with_its_key(folders, change, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        FolderPairs(**SMALL | folders | change).setup("fit")


# ------------------------------------------------------------------------------------------------ photos by themselves


@pytest.mark.parametrize("kind", ["folders", "shards"])
def test_without_style_there_are_photos_only_and_they_are_the_same(folders, tmp_path, caplog, kind):
    where = folders if kind == "folders" else {role: pack(tmp_path / role, Path(folders[role]), 2) for role in PAIR}
    make = FolderPairs if kind == "folders" else ShardPairs
    alone, pairs = make(where["content"], **VARIED), make(**where, **VARIED)
    with caplog.at_level("INFO"):
        alone.setup("fit")
    what, trained = ("pictures", 9) if kind == "folders" else ("shards", 2)
    assert caplog.messages == [f"{trained} content {what} for training, 2 pictures for validation"]
    for one, two in zip(take(alone, 5), take(pairs, 5), strict=True):
        assert set(one) == {"content", "skipped"}
        assert torch.equal(one["content"], two["content"])
    (one,), (two,) = alone.val_dataloader(), pairs.val_dataloader()
    assert set(one) == {"content", "skipped"}
    assert torch.equal(one["content"], two["content"])


@pytest.mark.parametrize("make", [FolderPairs, ShardPairs])
def test_what_a_training_expects_of_its_data(make, folders, caplog):
    both, alone, none = make("photos", "paintings", **SMALL), make("photos", **SMALL), make(**SMALL)
    both.expect(min_side_px=16, multiple=8, pairs=True)
    alone.expect(min_side_px=16, multiple=8, pairs=False, content="others")
    assert alone.specs["content"][0] == "photos", "what the user names goes first"
    with caplog.at_level("INFO"):
        none.expect(min_side_px=16, multiple=8, pairs=False, content="before")
    assert none.specs["content"][0] == "before"
    assert caplog.messages == ["data.content=before, as in the training before"]
    large = make("a", "b", **SMALL | {"crop_px": 32, "resize_px": 32})
    for data, min_side_px, multiple, pairs, sentence in (
        (both, 24, 8, True, "data.crop_px=16: the losses and their layers need 24 px or more"),
        (large, 24, 8, True, "data.val_px=16: the losses and their layers need 24 px or more"),
        (both, 1, 32, True, "data.crop_px=16: this generator needs a multiple of 32 px"),
        (large, 1, 32, True, "data.val_px=16: this generator needs a multiple of 32 px"),
        (both, 1, 8, False, "data.style: this method does not train on pairs, its style pictures are style="),
        (alone, 1, 8, True, "data.style has no value yet: give it one with data.style="),
        (make(None, "b", **SMALL), 1, 8, True, "data.content has no value yet: give it one with data.content="),
    ):
        with pytest.raises(UserError, match=f"^{sentence}"):
            data.expect(min_side_px=min_side_px, multiple=multiple, pairs=pairs)


def test_photos_of_the_training_before_keep_the_pictures_for_validation(plain, tmp_path):
    Image.new("RGB", (20, 20), color_of(200)).save(tmp_path / "x.png")
    data = FolderPairs(**SMALL, val_content=str(tmp_path / "x.png"))
    data.expect(min_side_px=16, multiple=8, pairs=False, content=plain["content"])
    (batch,) = data.val_dataloader()
    assert numbers_of(batch["content"]) == [200]
    assert {n for each in take(data, 12) for n in numbers_of(each["content"])} == set(range(24))


def test_fixed_batches_of_any_roles(tmp_path):
    for number in range(5):
        Image.new("RGB", (20, 24), color_of(number)).save(tmp_path / f"{number}.png")

    def sources(*numbers: int) -> list[tuple[str, str]]:
        return [(f"picture {number}", str(tmp_path / f"{number}.png")) for number in numbers]

    made = list(fixed_batches({"content": sources(0, 1, 2, 3, 4)}, 16, 200))
    assert [numbers_of(batch["content"]) for batch in made] == [[0, 1, 2, 3], [4]]
    assert [set(batch) for batch in made] == [{"content", "skipped"}] * 2
    (made,) = fixed_batches({"a": sources(0, 1, 2), "b": sources(3), "c": sources(4, 0)}, 16, 200)
    assert {role: numbers_of(made[role]) for role in "abc"} == {"a": [0, 1, 2], "b": [3, 3, 3], "c": [4, 0, 4]}
    assert len(fixed_batches({"a": sources(0), "b": []}, 16, 200)) == 0


class Recorder(pytorch_lightning.LightningModule):
    """Trains nothing and notes what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append({role: batch[role].clone() for role in PAIR})
        return self.weight.square().sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(len(batch["content"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Writer(Recorder):
    """Of each process."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        torch.save(self.seen, self.folder / f"seen-{self.global_rank}.pt")


QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def fit(data, folder: Path, max_steps: int, checkpoint: Path | None = None, **settings) -> tuple[Recorder, Path]:
    module = Recorder()
    lightning = pytorch_lightning.Trainer(
        accelerator="cpu", max_steps=max_steps, max_epochs=-1, default_root_dir=folder, **QUIET, **settings
    )
    lightning.fit(module, datamodule=data, ckpt_path=checkpoint)
    lightning.save_checkpoint(folder / "stopped.ckpt")
    return module, folder / "stopped.ckpt"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["folders", "shards"])
def test_lightning_stops_resumes_and_starts_shorter_epochs_with_the_same_stream(folders, tmp_path, kind):
    def data():
        if kind == "folders":
            return FolderPairs(**folders, **VARIED | {"workers": 2})
        return ShardPairs(*shard_folders, **VARIED | {"workers": 2}, shuffle_buffer=3)

    shard_folders = [pack(tmp_path / role, Path(folders[role]), 2) for role in PAIR]
    whole, _ = fit(data(), tmp_path, 9)
    assert len(whole.seen) == 9
    first, checkpoint = fit(data(), tmp_path, 4)
    second, _ = fit(data(), tmp_path, 9, checkpoint)
    assert same(whole.seen, first.seen + second.seen)
    epochs, _ = fit(data(), tmp_path, 9, limit_train_batches=4)
    assert same(whole.seen, epochs.seen)
    assert epochs.validated == [2, 2, 2]  # the check at the beginning, and two full epochs


# -------------------------------------------------------------------------------------------------------------- shards


def test_shards_give_the_same_kind_of_batch(shards):
    (batch,) = take(ShardPairs(**shards, **TARS), 1)
    assert set(batch) == {"content", "style", "skipped"}
    assert batch["content"].shape == batch["style"].shape == (4, 3, 16, 16)
    assert batch["content"].dtype == torch.uint8


@pytest.mark.slow
def test_an_epoch_over_two_processes_of_two_workers_has_every_picture_once(shards):
    settings = TARS | {"workers": 2, "batch_size": 6}
    per_rank = [take(ShardPairs(**shards, **settings), 6, trainer(rank=rank, ranks=2)) for rank in (0, 1)]
    for epoch in range(3):  # of 24 photos: one batch of each of the 4 readers
        chosen = [batch for batches in per_rank for batch in batches[2 * epoch : 2 * epoch + 2]]
        assert sorted(n for batch in chosen for n in numbers_of(batch["content"])) == list(range(24))
    orders = {tuple(numbers_of(batch["content"])) for batches in per_rank for batch in batches}
    assert len(orders) == 12
    alone = take(ShardPairs(**shards, **TARS | {"batch_size": 6}), 12)
    for role, count in (("content", 24), ("style", 18)):
        seen = Counter(n for batch in alone for n in numbers_of(batch[role]))
        assert seen == {n: 72 // count for n in range(count)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_two_real_processes_of_two_workers_see_every_picture_once_an_epoch(shards, tmp_path):
    data = ShardPairs(**shards, **TARS | {"workers": 2, "batch_size": 6}, cache_dir=str(tmp_path / "copies"))
    lightning = pytorch_lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_spawn", use_distributed_sampler=False, max_steps=6, max_epochs=-1,
        default_root_dir=tmp_path, **QUIET,
    )  # fmt: skip
    lightning.fit(Writer(tmp_path), datamodule=data)
    per_rank = [torch.load(tmp_path / f"seen-{rank}.pt") for rank in (0, 1)]
    for epoch in range(3):
        chosen = [batch for batches in per_rank for batch in batches[2 * epoch : 2 * epoch + 2]]
        assert sorted(n for batch in chosen for n in numbers_of(batch["content"])) == list(range(24))
    assert len(list((tmp_path / "copies").glob("*.tar"))) == 8 + 6


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "step"), [(0, 4), (1, 15), (2, 1), (2, 15), (3, 4)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_shards_resume_at_their_step(shards, tmp_path, workers, step):
    damage(Path(shards["content"]) / "part-003.tar")
    add_bad_member(Path(shards["style"]) / "part-002.tar")
    settings = TARS | {"workers": workers, "resize_px": [16, 20], "flip": True}
    at = trainer(step=step, rank=1, ranks=2)
    whole = take(ShardPairs(**shards, **settings), step + 5, trainer(rank=1, ranks=2))
    assert same(whole[step:], take(ShardPairs(**shards, **settings), 5, at))
    assert not same(whole[step:], whole[:5])


def test_skipping_decodes_nothing_and_does_not_read_known_epochs_again(shards, monkeypatch):
    from nstexp.data import shards as module

    whole = take(ShardPairs(**shards, **TARS), 62)
    decoded, opened = [], []
    decode, read = module.random_crop, module.members
    monkeypatch.setattr(module, "random_crop", lambda *args: decoded.append(1) or decode(*args))
    monkeypatch.setattr(module, "members", lambda shard, *rest: opened.append(shard) or read(shard, *rest))
    assert same(whole[60:], take(ShardPairs(**shards, **TARS), 2, trainer(step=60)))
    assert len(decoded) == 16
    assert len(opened) <= 3 * (8 + 6)  # of 10 and 13 epochs: the first for the lengths, then the one to go on with


def add_bad_member(tar: Path) -> None:
    with tarfile.open(tar, "a") as file:
        entry = tarfile.TarInfo("bad.jpg")
        entry.size = 5
        file.addfile(entry, io.BytesIO(b"hello"))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_members_and_damaged_shards_are_replaced_and_named(shards, workers):
    tars = sorted(Path(shards["content"]).iterdir())
    add_bad_member(tars[1])
    damage(tars[2])
    tars[4].write_text("no tar file")
    batches = take(ShardPairs(**shards, **TARS | {"workers": workers}), 12)
    reports = {line for batch in batches for line in batch["skipped"]}
    assert len(reports) == 3
    assert f"{tars[1]}/bad.jpg: this is not an image file" in reports
    for tar in (tars[2], tars[4]):
        assert any(line.startswith(f"{tar}: the shard is damaged or cannot be read (") for line in reports)
    seen = {n for batch in batches for n in numbers_of(batch["content"])}
    assert seen == set(range(24)) - {2 + 16, 4, 12, 20}


def test_what_a_mac_packs_beside_pictures_is_none(shards):
    whole = take(ShardPairs(**shards, **TARS), 12)
    folder = Path(shards["content"])
    for name in (".DS_Store", "._part-000.tar", "__MACOSX/._part-000.tar"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of a Mac")
    for tar in folder.glob("part-*.tar"):
        with tarfile.open(tar, "a") as file:
            for name in ("._00.png", "./__MACOSX/00.png", "a/.hidden.jpg"):
                entry = tarfile.TarInfo(name)
                entry.size = 5
                file.addfile(entry, io.BytesIO(b"hello"))
    again = take(ShardPairs(**shards, **TARS), 12)
    assert same(whole, again)
    assert not any(batch["skipped"] for batch in again)


@pytest.mark.parametrize("workers", [0, 1])
def test_shards_without_any_picture_end_in_one_sentence(shards, tmp_path, workers):
    (tmp_path / "none").mkdir()
    for name in ("a.tar", "b.tar"):
        (tmp_path / "none" / name).write_text("no tar file")
    data = ShardPairs(shards["content"], str(tmp_path / "none"), **TARS | {"workers": workers})
    with pytest.raises(
        UserError, match=r"^data\.style: no picture in any shard; .*\.tar: the shard is damaged"
    ) as error:
        take(data, 1)
    assert "\n" not in str(error.value)


def test_the_first_pictures_of_the_first_shard_are_for_validation_only(shards):
    data = ShardPairs(**shards, **TARS | {"val_pairs": 2})
    (batch,) = data.val_dataloader()
    assert numbers_of(batch["content"]) == [0, 8]
    assert numbers_of(batch["style"]) == [0, 6]
    assert same([batch], list(data.val_dataloader()))
    trained = take(data, 22)
    assert {n for b in trained for n in numbers_of(b["content"])} == set(range(24)) - {0, 8}
    assert {n for b in trained for n in numbers_of(b["style"])} == set(range(18)) - {0, 6}


def test_validation_pictures_beside_shards(shards, plain):
    data = ShardPairs(**shards, **TARS | {"val_pairs": 3}, val_content=plain["content"], val_style=plain["style"])
    (batch,) = data.val_dataloader()
    assert batch["content"].shape == (3, 3, 16, 16)
    assert {n for b in take(data, 6) for n in numbers_of(b["content"])} == set(range(24))


def test_shards_are_found_by_pattern_folder_file_list_and_address(shards, tmp_path):
    from nstexp.data.shards import find_shards

    folder = Path(shards["content"])
    every = [str(folder / f"part-{i:03d}.tar") for i in range(8)]
    (folder / ".writing-x.tar").touch()
    assert find_shards(str(folder), "data.content") == every
    assert find_shards(f"{folder}/part-{{000..007}}.tar", "data.content") == every
    assert find_shards([every[3], f"{folder}/part-00{{0,2}}.tar"], "data.content") == [every[3], every[0], every[2]]
    assert find_shards("https://host/a-{08..10}.tar", "k") == [f"https://host/a-{i}.tar" for i in ("08", "09", "10")]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"content": ""}, "data.content is empty"),
        ({"content": "EMPTY"}, "data.content=.*: the folder holds no shard"),
        ({"content": "no-{0..3}.tar"}, "data.content=no-.*: 4 of 4 shards are not there, the first is no-0.tar"),
        ({"content": "no-{0..3.tar"}, "data.content=no-.*: not a pattern of shards|data.content=no-.*: 1 of 1 shards"),
        ({"workers": 4}, r"data.style: 6 shards are fewer than 8 readers \(2 processes times 4 workers\)"),
        ({"val_pairs": 3}, "data.val_pairs=3: the first shard of data.content has only 3 pictures"),
        ({"shuffle_buffer": 0}, "shuffle_buffer=0: give a whole number, 1 or larger"),
    ],
)
def test_what_is_wrong_with_shards_is_one_sentence(shards, tmp_path, change, sentence):
    (tmp_path / "empty").mkdir()
    if change.get("content") == "EMPTY":
        change = {"content": str(tmp_path / "empty")}
    with pytest.raises(UserError, match=f"^({sentence})") as error:
        take(ShardPairs(**shards | TARS | change), 1, trainer(ranks=2))
    assert "\n" not in str(error.value)


def test_unusable_says_why_without_a_path(tmp_path):
    with pytest.raises(Unusable, match=r"^there is no such file$"):
        center_crop(str(tmp_path / "a.png"), 16, 200)
    with pytest.raises(Unusable, match=r"^the file is empty$"):
        center_crop(b"", 16, 200)
