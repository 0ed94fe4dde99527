"""A trained method as one ONNX file, for programs that have no PyTorch."""

import io
import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nstexp.core.errors import UserError, number
from nstexp.core.runtime.files import check_place, json_text, write_atomically
from nstexp.methods.base import Export, Exportable
from nstexp.outputs import RunFolder, say_replaced
from nstexp.tasks.request import Request

log = logging.getLogger(__name__)

OPSET = 18  # the oldest that PyTorch writes without a conversion; runtimes have known it since the end of 2022
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OUTPUT = "output"


def export(method: Exportable, folder: RunFolder, request: Request, tolerance: float = 1e-3) -> Path:
    """Write the method as an ONNX file, after comparing what it makes with what PyTorch makes; returns its path.

    Args:
        method: what is exported.
        folder: where the run writes; without `request.output` also the file.
        request: `output` is the file, whose name ends in .onnx.
        tolerance: largest difference of a pixel, on the [0, 1] scale, that is accepted.

    Raises:
        UserError: a method that is no network, a missing package, bad settings, or too large a difference.
    """
    name = folder.summary.method
    if not isinstance(method, Exportable):
        raise UserError(f"task=export: method={name} has nothing to export")
    number("task.tolerance", tolerance, above=0, example="1e-3")
    _check_packages()
    target = _target(request.output, folder)
    exported = method.exportable()
    _check_precision(exported)
    exported.module.to("cpu")
    log.info("exporting method=%s: PyTorch takes a while to trace it ...", name)
    begun = time.perf_counter()
    model = to_onnx(exported, name)
    seconds = time.perf_counter() - begun
    difference = largest_difference(model, exported)
    if not difference <= tolerance:  # which is also said of NaN
        raise UserError(
            f"task=export: pictures of the ONNX file differ from PyTorch's by {difference:.2g} on the [0, 1] scale, "
            f"more than task.tolerance={tolerance}, so it is not written"
        )
    if request.output is None:
        folder.claim(target.name)
    write_atomically(target, lambda temporary: temporary.write_bytes(model))
    folder.summary.outputs.append(str(target))
    numbers = {
        "max_difference": difference,
        "max_difference_gray_levels": 255 * difference,
        "export_seconds": round(seconds, 3),
        "file_mb": round(len(model) / 1e6, 3),
    }
    folder.record_metrics("export", numbers)
    log.info(
        "%.1f MB in %.0f s; onnxruntime differs from PyTorch by %.4f of 255 gray levels at most (%.1e on the [0, 1] "
        "scale), at %d other sizes",
        len(model) / 1e6,
        seconds,
        255 * difference,
        difference,
        len(exported.checks),
    )
    return target


def to_onnx(exported: Export, name: str) -> bytes:
    """The file's content.

    Args:
        name: the method's.

    Raises:
        UserError: PyTorch cannot export the network.
    """
    import onnx

    dynamic = torch.export.Dim.DYNAMIC
    shapes = {
        name: {axis: dynamic(min=exported.smallest_side if axis > 1 else 1) for axis in axes}
        for name, axes in exported.axes.items()
    }
    try:
        with _quiet():
            program = torch.onnx.export(
                exported.module,
                (),
                kwargs=dict(exported.inputs),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(exported.inputs),
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
                custom_translation_table={torch.ops.aten.var_mean.correction: _var_mean},
            )
            model = program.model_proto
    except (torch.onnx.OnnxExporterError, ImportError) as error:  # the latter of an onnxscript that is too old
        raise UserError(
            f"task=export: PyTorch {torch.__version__} cannot export this network with onnxscript "
            f"{version('onnxscript')} ({_last_line(error)}); another version of either may"
        ) from error
    _tidy(model, exported, name)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def largest_difference(model: bytes, exported: Export) -> float:
    """Of all pixels of the pictures that onnxruntime and PyTorch make of `exported.checks`, on the [0, 1] scale.

    Raises:
        UserError: onnxruntime cannot run the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # it would say on stderr what its exceptions say, too
    with torch.inference_mode():
        wanted = [exported.module(**inputs) for inputs in exported.checks]
    arrays = [{name: value.numpy() for name, value in inputs.items()} for inputs in exported.checks]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        made = [torch.from_numpy(session.run([OUTPUT], inputs)[0]) for inputs in arrays]
    except Exception as error:  # onnxruntime's have no ancestor of their own
        raise UserError(
            f"task=export: onnxruntime {onnxruntime.__version__} cannot run the network ({_last_line(error)}), so it "
            "is not written"
        ) from error
    pairs = list(zip(made, wanted, strict=True))
    if any(one.shape != other.shape for one, other in pairs):
        return math.inf
    return float(torch.stack([(one - other).abs().max() for one, other in pairs]).max())  # NaN, if there is one


def _check_packages() -> None:
    missing = []
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UserError(f"task=export needs {', '.join(missing)}: pip install 'nstexp[export]'")


def _check_precision(exported: Export) -> None:
    tensors = [*exported.module.parameters(), *exported.module.buffers()]
    for dtype in {tensor.dtype for tensor in tensors if tensor.is_floating_point()} - {torch.float32}:
        raise UserError(f"precision: task=export writes float32, and this network is in {dtype}: set precision=fp32")


def _target(output: str | None, folder: RunFolder) -> Path:
    """Where the file goes, if it can be written there."""
    if output is None:
        folder.check("model.onnx")
        return folder.path / "model.onnx"
    path = Path(str(output)).expanduser()
    if path.suffix.lower() != ".onnx":
        raise UserError(f"output={output}: the name of an exported file ends in .onnx, such as output=model.onnx")
    check_place(path, "output")
    say_replaced(output, [path])
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own reports: they are about operators, and stdout is for the result's path."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _var_mean(x: Any, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Any:
    """`torch.var_mean` as four operators. The exporter's own way has fourteen, half of them about shapes."""
    from onnxscript import opset18 as op

    if correction != 0 or not keepdim:
        raise NotImplementedError(f"var_mean with correction={correction}, keepdim={keepdim}")
    axes = op.Constant(value_ints=list(dim))
    mean = op.ReduceMean(x, axes, keepdims=1)
    centered = op.Sub(x, mean)
    return op.ReduceMean(op.Mul(centered, centered), axes, keepdims=1), mean


def _tidy(model: Any, exported: Export, name: str) -> None:
    """Names of axes as the method has them, metadata, and none of the exporter's notes on where operators are from."""
    import onnx

    graph = model.graph
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    del graph.value_info[:]  # optional, and in terms of the exporter's names of axes
    del graph.metadata_props[:]
    axes = {**exported.axes, OUTPUT: exported.axes["content"]}
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        for axis, called in axes[value.name].items():
            value.type.tensor_type.shape.dim[axis].dim_param = called
    metadata = {
        "method": name,
        "pictures": "RGB, from 0 to 1, NCHW",
        "inputs": json_text(exported.described, ensure_ascii=False),
        "output": "the pictures in the style, (batch, 3, height, width)",
        "smallest_side_px": str(exported.smallest_side),
        "made_with": f"nstexp {version('nstexp')}, PyTorch {torch.__version__}",
        **exported.metadata,
    }
    onnx.helper.set_model_props(model, metadata)


def _last_line(error: BaseException) -> str:
    """What an error says in the end, in one line: those of exporters begin with advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
