"""task=export: the file's pictures are those of `stylize` at any size, and nothing is written that is not so."""

import json
import logging
import re
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from helpers import ROOT, run_folders
from networks import saved_decoder
from torch import Tensor, nn

import nstexp.tasks.export as task
from nstexp.core.errors import UserError
from nstexp.core.networks.generators import Generator, Pyramid, Residual
from nstexp.core.networks.model_files import ModelInfo, save_generator
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG
from nstexp.core.resize import padded_to_multiple
from nstexp.methods.adain import AdaIN
from nstexp.methods.base import Controls, Exportable, Style
from nstexp.methods.export import example_pictures
from nstexp.methods.feedforward import FeedForward
from nstexp.outputs import RunFolder, read_summary
from nstexp.tasks.request import Request

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ["irises", "cypresses", "größe"]
LAYER = "relu3_1"
# Of a picture in [0, 1]. Between two orders of summation there are a few 1e-6.
CLOSE = 5e-5


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def encoder():
    return VGG(random_vgg(), pad="reflect")


def saved(generator: Generator, names: list[str], path: Path) -> Path:
    """A generator with weights as if it were trained: strong enough to show, and other rows for every style."""
    torch.manual_seed(0)
    for name, value in generator.named_parameters():
        nn.init.normal_(value, std=0.05)
        if "gamma" in name or "norm.weight" in name:
            nn.init.uniform_(value, 0.5, 1.5)
    save_generator(generator, ModelInfo(generator.form, generator.settings, names, [""] * len(names)), path)
    return path


@pytest.fixture(scope="module")
def cin(home):
    file = saved(Residual(styles=3, width=0.25, blocks=1), NAMES, home / "cin.safetensors")
    return FeedForward(norm="conditional", model=str(file))


@pytest.fixture(scope="module")
def adain(encoder, home):
    decoder = saved_decoder(encoder, LAYER, home / "decoder.safetensors")
    return AdaIN(encoder, layer=LAYER, decoder=decoder, style_px=None)


@pytest.fixture(scope="module")
def cin_file(cin, home):
    return exported(cin, home / "cin_run", "cin")


@pytest.fixture(scope="module")
def adain_file(adain, home):
    return exported(adain, home / "adain_run", "adain", str(home / "new" / "adain.onnx"))


def exported(method: Exportable, folder: Path, name: str = "cin", output: str | None = None) -> Path:
    """The file that the task writes, in a run whose method has this name."""
    run = RunFolder(folder)
    run.summary.method = name
    return task.export(method, run, Request(None, output=output))


class Runtime:
    """An exported file in onnxruntime."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.metadata = self.session.get_modelmeta().custom_metadata_map
        self.inputs = {entry.name: entry.shape for entry in self.session.get_inputs()}
        self.outputs = {entry.name: entry.shape for entry in self.session.get_outputs()}

    def __call__(self, **inputs: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


def pictures(batch: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    return example_pictures(batch, 3, size, seed)


def assert_same(made: Tensor, wanted: Tensor) -> None:
    assert made.shape == wanted.shape
    assert wanted.std() > 0.01, "a flat picture would agree with any other"
    torch.testing.assert_close(made, wanted, rtol=0, atol=CLOSE)


# ----------------------------------------------------------------------------------------------------------------- cin


@pytest.mark.parametrize("size", [(5, 5), (7, 30), (64, 48), (97, 51), (130, 6)])
def test_cin_at_any_size(cin, cin_file, size):
    run = Runtime(cin_file)
    content = pictures(2, size)
    for number, name in enumerate(NAMES):
        made = run(content=content, style_weights=torch.eye(3)[[number]])
        assert_same(made, cin.stylize(content, [Style(None, name=name)], Controls()))


def test_cin_mixes_styles_by_the_ratio_of_their_weights(cin, cin_file):
    run = Runtime(cin_file)
    content = pictures(1, (41, 50))
    styles = [Style(None, share, name=name) for name, share in zip(NAMES, (0.2, 0.5, 0.3), strict=True)]
    wanted = cin.stylize(content, styles, Controls())
    for factor in (1, 10):
        assert_same(run(content=content, style_weights=factor * torch.tensor([[0.2, 0.5, 0.3]])), wanted)
    alone = run(content=content, style_weights=torch.eye(3)[:1])
    assert (alone - wanted).abs().max() > 100 * CLOSE


def test_cin_can_give_every_picture_weights_of_its_own(cin_file):
    run = Runtime(cin_file)
    content = pictures(3, (24, 33))
    weights = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0.2, 0.3, 0.5]])
    together = run(content=content, style_weights=weights)
    for picture, own, result in zip(content, weights, together, strict=True):
        assert_same(result[None], run(content=picture[None], style_weights=own[None]))


@pytest.mark.parametrize(
    ("batch", "rows", "size"), [(3, 2, (24, 24)), (1, 1, (4, 30)), (1, 1, (30, 3))], ids=["rows", "low", "narrow"]
)
def test_what_the_file_is_not_for_is_an_error_of_the_runtime(cin_file, batch, rows, size):
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        Runtime(cin_file)(content=pictures(batch, size), style_weights=torch.ones(rows, 3))


def test_cin_says_what_it_is(cin_file):
    run = Runtime(cin_file)
    picture = ["batch", 3, "height", "width"]
    assert run.inputs == {"content": picture, "style_weights": ["style_batch", 3]}
    assert run.outputs == {"output": picture}
    assert run.metadata["method"] == "cin"
    assert json.loads(run.metadata["styles"]) == NAMES
    assert run.metadata["pictures"] == "RGB, from 0 to 1, NCHW"
    assert run.metadata["smallest_side_px"] == "5"
    assert set(json.loads(run.metadata["inputs"])) == set(run.inputs)


def test_the_file_is_whole_and_names_nothing_of_this_machine(cin_file):
    assert {path.name for path in cin_file.parent.iterdir()} == {"model.onnx", "metrics.json", "summary.json"}
    model = onnx.load(cin_file, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not [entry.name for entry in model.graph.initializer if entry.data_location == onnx.TensorProto.EXTERNAL]
    assert not [node.name for node in model.graph.node if node.metadata_props or node.doc_string]
    for folder in (ROOT, Path(torch.__file__).parents[1]):
        assert str(folder).encode() not in cin_file.read_bytes()


def test_no_shape_depends_on_values(cin_file):
    """Which many runtimes refuse."""
    kinds = {node.op_type for node in onnx.load(cin_file).graph.node}
    assert "Conv" in kinds and not kinds & {"NonZero", "Compress", "Unique", "If", "Loop"}


def test_the_run_records_how_close_it_is(cin, cin_file):
    numbers = json.loads((cin_file.parent / "metrics.json").read_text())["export"]
    assert set(numbers) == {"max_difference", "max_difference_gray_levels", "export_seconds", "file_mb"}
    assert 0 < numbers["max_difference"] < CLOSE
    assert numbers["max_difference_gray_levels"] == pytest.approx(255 * numbers["max_difference"])
    assert numbers["file_mb"] == pytest.approx(cin_file.stat().st_size / 1e6, abs=1e-3)


# --------------------------------------------------------------------------------------------------------- texture nets


@pytest.mark.slow
def test_a_pyramid_takes_noise(home):
    generator = Pyramid(scales=3, channels=4, noise_channels=3)
    file = saved(generator, ["painting"], home / "pyramid.safetensors")
    method = FeedForward(model=str(file))
    run = Runtime(exported(method, home / "pyramid_run", "texture_net"))
    assert run.inputs["noise"] == ["batch", 3, "height", "width"]
    assert (run.metadata["method"], run.metadata["styles"]) == ("texture_net", '["painting"]')
    controls = Controls(seed=7)
    noise = generator.make_noise(1, (60, 48), torch.Generator().manual_seed(7))  # what `stylize` draws
    content = pictures(1, (60, 48))
    wanted = method.stylize(content, [Style(None, name="painting")], controls)
    assert_same(run(content=content, noise=noise), wanted)
    assert (run(content=content, noise=1 - noise) - wanted).abs().max() > 100 * CLOSE
    for height, width in ((5, 61), (47, 38)):
        content, noise = pictures(2, (height, width)), torch.rand(2, 3, height, width)
        padded = (padded_to_multiple(each, generator.multiple) for each in (content, noise))
        wanted = method._network()[0](next(padded), None, next(padded))[..., :height, :width].clamp(0, 1)
        assert_same(run(content=content, noise=noise), wanted)


@pytest.mark.slow
def test_a_network_with_other_padding_other_upsampling_and_batch_normalization(home):
    settings = {"pad": "zeros", "start_pad_px": 8, "up": "transposed", "output": "tanh", "space": "caffe"}
    generator = Residual("batch", width=0.25, blocks=1, **settings)
    file = saved(generator, ["painting"], home / "johnson.safetensors")
    method = FeedForward(norm="batch", model=str(file))
    run = Runtime(exported(method, home / "johnson_run", "texture_net"))
    assert set(run.inputs) == {"content"}
    for size in ((9, 9), (32, 43), (61, 50)):
        content = pictures(2, size)
        assert_same(run(content=content), method.stylize(content, [Style(None, name="painting")], Controls()))


# --------------------------------------------------------------------------------------------------------------- AdaIN


@pytest.mark.parametrize(
    ("size", "style_size", "alpha"),
    [((64, 48), (64, 48), 1.0), ((8, 8), (51, 90), 1.0), ((33, 77), (8, 9), 0.5), ((50, 41), (30, 22), 0.0)],
)
def test_adain_at_any_size(adain, adain_file, size, style_size, alpha, monkeypatch):
    content, style = pictures(2, size), pictures(1, style_size, 5)
    made = Runtime(adain_file)(content=content, style=style, alpha=torch.tensor(alpha))
    monkeypatch.setattr(adain, "settings", replace(adain.settings, alpha=alpha))
    wanted = adain.stylize(content, [Style(style[0])], Controls())
    assert made.shape == wanted.shape
    torch.testing.assert_close(made, wanted, rtol=0, atol=2e-6)  # random decoders make faint pictures


def test_adain_obeys_the_style_and_alpha(adain_file):
    run = Runtime(adain_file)
    content, style, other = pictures(1, (40, 56)), pictures(1, (48, 32), 5), pictures(1, (24, 61), 6) ** 3
    whole = run(content=content, style=style, alpha=torch.tensor(1.0))
    for style_, alpha in ((other, 1.0), (style, 0.5)):
        assert (run(content=content, style=style_, alpha=torch.tensor(alpha)) - whole).abs().max() > 2e-5


def test_adain_can_give_every_picture_a_style_of_its_own(adain_file):
    run = Runtime(adain_file)
    content, styles, alpha = pictures(3, (40, 27)), pictures(3, (31, 64), 5), torch.tensor(1.0)
    together = run(content=content, style=styles, alpha=alpha)
    for photo, style, result in zip(content, styles, together, strict=True):
        alone = run(content=photo[None], style=style[None], alpha=alpha)
        torch.testing.assert_close(result[None], alone, rtol=0, atol=2e-6)


def test_adain_says_what_it_is(adain_file):
    run = Runtime(adain_file)
    assert run.inputs == {
        "content": ["batch", 3, "height", "width"],
        "style": ["style_batch", 3, "style_height", "style_width"],
        "alpha": [],
    }
    assert run.metadata["method"] == "adain" and "styles" not in run.metadata
    assert run.metadata["smallest_side_px"] == "8"


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command_line_writes_one_file_and_prints_where(nstexp, folder, cin):
    shutil.copy(cin.settings.model, "cin.safetensors")
    before = {path.name for path in folder.iterdir()}
    result = nstexp.bare("task=export", "method=cin", "method.model=cin.safetensors", "backbone=random", "logger=none",
                         "output=new/cin.onnx")  # fmt: skip
    assert (result.code, result.path) == (0, Path("new/cin.onnx"))
    first, last = result.sentences
    assert first == "exporting method=cin: PyTorch takes a while to trace it ..."
    assert re.fullmatch(r"\d\.\d MB in \d+ s; onnxruntime differs .* of 255 gray levels at most .*, at 3 .*", last)
    assert {path.name for path in folder.iterdir()} == before | {"new", "runs"}
    assert [path.name for path in Path("new").iterdir()] == ["cin.onnx"]
    (run_dir,) = run_folders()
    files = {".hydra", "config.yaml", "metrics.json", "nstexp.log", "summary.json"}
    assert {path.name for path in run_dir.iterdir()} == files
    summary = read_summary(run_dir)
    assert (summary.status, summary.precision, summary.outputs) == ("completed", "float32", ["new/cin.onnx"])
    assert Runtime(Path("new/cin.onnx"))(content=pictures(1, (32, 20)), style_weights=torch.ones(1, 3)).std() > 0.01


TEXTURE_NET = "method=texture_net method.model=cin.safetensors"
REFUSED = {
    "method=gatys": "task=export: method=gatys has nothing to export$",
    "method=texture_net": r"method\.model has no value yet",
    TEXTURE_NET: r"method\.model=cin\.safetensors has conditional normalization: use it with method=cin",
    "method=adain": r"method\.decoder=.* was trained with the encoder",
    "method=cin output=net.pt": r"output=net\.pt: the name of an exported file ends in \.onnx, such as output=model",
    "method=cin output=folder.onnx": r"output=folder\.onnx: this is a folder, add a file name",
    "method=cin output=painting.jpg/net.onnx": r"output=painting\.jpg/net\.onnx: the folder .* is not writable",
    "method=cin task.tolerance=0": r"task\.tolerance=0: give a number larger than 0",
    "method=cin task.tolerance=null": r"task\.tolerance=None: give a number larger than 0",
    "method=adain method.decoder=decoder.safetensors layers.content=[relu3_1] precision=bf16": (
        r"precision: task=export writes float32, and this network is in torch\.bfloat16: set precision=fp32"
    ),
}


@pytest.mark.parametrize("args", REFUSED, ids=lambda args: args[:60])
def test_refusals_are_one_sentence_and_leave_nothing(nstexp, folder, cin, adain, args):
    Path("folder.onnx").mkdir()
    shutil.copy(cin.settings.model, "cin.safetensors")
    shutil.copy(adain.settings.decoder, "decoder.safetensors")
    before = sorted(folder.rglob("*"))
    model = ["method.model=cin.safetensors"] if "method=cin" in args else []
    result = nstexp.bare("task=export", "backbone=random", "backbone.pad=reflect", "logger=none", *model, *args.split())
    assert result.code == 2
    assert result.path is None
    assert re.match(REFUSED[args], result.sentences[-1]), result.sentences
    assert [path for path in sorted(folder.rglob("*")) if "runs" not in path.parts] == before
    assert not run_folders()


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def ready_made(cin_file, monkeypatch):
    """Takes the file that was exported before for what is exported now."""
    monkeypatch.setattr(task, "to_onnx", lambda exported, name: cin_file.read_bytes())


@pytest.fixture
def exports_nothing(tmp_path):
    """Exporting raises a UserError, and leaves nothing, neither in the run folder nor at the output."""

    def refuses(method, sentence: str) -> None:
        run_dir, output = RunFolder(tmp_path / "run"), tmp_path / "out" / "net.onnx"
        with pytest.raises(UserError, match=sentence) as raised:
            task.export(method, run_dir, Request(None, output=str(output)))
        assert "\n" not in str(raised.value)
        assert not list(tmp_path.rglob("*"))
        assert not run_dir.summary.outputs and not run_dir.summary.metrics

    return refuses


def changed(cin: FeedForward, change) -> FeedForward:
    """The method with a changed network."""
    method = FeedForward(norm="conditional", model=cin.settings.model)
    with torch.no_grad():
        change(method._network()[0])
    return method


def test_a_file_that_makes_other_pictures_is_not_written(cin, ready_made, exports_nothing, tmp_path):
    sentence = r"^task=export: pictures of the ONNX file differ from PyTorch's by 0\.\d+ .* task\.tolerance=0\.001, so"
    exports_nothing(changed(cin, lambda network: network.last.norm.beta[0][1].add_(0.1)), sentence)
    exports_nothing(changed(cin, lambda network: network.last.norm.beta[0].fill_(torch.nan)), r" by nan on ")
    assert exported(changed(cin, lambda network: None), tmp_path / "run").is_file(), "nothing was changed"


def test_every_style_is_compared(cin, ready_made, exports_nothing):
    for row in range(3):
        moved = changed(cin, lambda network, row=row: network.last.norm.beta[0][row].add_(0.1))
        exports_nothing(moved, "pictures of the ONNX file differ")


def test_a_file_that_makes_pictures_of_another_size_is_not_written(cin, ready_made, exports_nothing, monkeypatch):
    exportable = cin.exportable

    class Smaller(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, **inputs: Tensor) -> Tensor:
            return self.module(**inputs)[..., 1:]

    monkeypatch.setattr(cin, "exportable", lambda: replace(exportable(), module=Smaller(exportable().module)))
    exports_nothing(cin, "differ from PyTorch's by inf")


def test_what_onnxruntime_cannot_run_is_not_written(cin, exports_nothing, monkeypatch):
    monkeypatch.setattr(task, "to_onnx", lambda exported, name: b"no model")
    exports_nothing(cin, r"^task=export: onnxruntime [\d.]+ cannot run the network \(.*\), so it is not written$")


@pytest.mark.parametrize("kind", [torch.onnx.OnnxExporterError, ImportError])
def test_what_pytorch_cannot_export_is_a_sentence(cin, exports_nothing, monkeypatch, kind):
    def fail(*args, **kwargs):
        raise kind("first advice\n\nno decomposition for aten::x")

    monkeypatch.setattr(torch.onnx, "export", fail)
    exports_nothing(cin, r"^task=export: PyTorch .* cannot export this network .* \(no decomposition for aten::x\)")


@pytest.mark.parametrize("missing", [["onnx"], ["onnxscript"], ["onnxruntime"], ["onnx", "onnxscript", "onnxruntime"]])
def test_missing_packages_are_named(cin, exports_nothing, monkeypatch, missing):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    exports_nothing(cin, rf"^task=export needs {', '.join(missing)}: pip install 'nstexp\[export\]'$")


def test_a_full_disk_leaves_nothing(cin, ready_made, monkeypatch, tmp_path):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    output = tmp_path / "net.onnx"
    output.write_text("the file before")
    with pytest.raises(UserError, match=r"net\.onnx: cannot be written \(no space left on the disk\)"):
        exported(cin, tmp_path / "run", "cin", str(output))
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert output.read_text() == "the file before"


@pytest.mark.filterwarnings("error")
def test_the_exporters_own_words_are_kept_back(capsys, caplog):
    logger = logging.getLogger("onnxscript")
    before = logger.level
    with task._quiet():
        print("[torch.onnx] Obtain model graph")
        logger.warning("Applied 3 of general pattern rewrite rules.")
        warnings.warn("# The axis name: batch will not be used", stacklevel=1)
    assert capsys.readouterr() == ("", "") and not caplog.records
    assert logger.level == before
