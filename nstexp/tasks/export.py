"""`task=export`: write a trained method as one ONNX file, for programs without PyTorch."""

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

OPSET = 18  # the oldest version that PyTorch writes without a conversion; runtimes support it since the end of 2022
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OUTPUT = "output"


def export(method: Exportable, folder: RunFolder, request: Request, tolerance: float = 1e-3) -> Path:
    """Write the method as an ONNX file, if its results agree with those of PyTorch; returns the file's path.

    Args:
        method: the method to export.
        folder: the run folder. It also gets the file, if `request.output` is None.
        request: `output` is the file, whose name ends in .onnx.
        tolerance: the largest accepted difference of a pixel value, on the [0, 1] scale.

    Raises:
        UserError: a method without a network, a missing package, invalid settings, or too large a difference.
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
    model = to_onnx(exported, str(name))
    seconds = time.perf_counter() - begun
    difference = largest_difference(model, exported)
    if not difference <= tolerance:  # NaN is refused, too
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
    """The content of the ONNX file.

    Args:
        name: the method's name, for the file's metadata.

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
            assert program is not None  # with dynamo=True
            model = program.model_proto
    except (torch.onnx.OnnxExporterError, ImportError) as error:  # ImportError: onnxscript is too old
        raise UserError(
            f"task=export: PyTorch {torch.__version__} cannot export this network with onnxscript "
            f"{version('onnxscript')} ({_last_line(error)}); another version of either may work"
        ) from error
    _tidy(model, exported, name)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def largest_difference(model: bytes, exported: Export) -> float:
    """The largest difference between the results of onnxruntime and PyTorch for `exported.checks`.

    Returns:
        The largest absolute difference of a pixel value, on the [0, 1] scale; NaN if a result contains NaN; infinity if
        a result has another shape.

    Raises:
        UserError: onnxruntime cannot run the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # fatal only: its exceptions contain the same messages
    with torch.inference_mode():
        by_pytorch = [exported.module(**inputs) for inputs in exported.checks]
    arrays = [{name: value.numpy() for name, value in inputs.items()} for inputs in exported.checks]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        by_onnx = [torch.from_numpy(session.run([OUTPUT], inputs)[0]) for inputs in arrays]
    except Exception as error:  # the exceptions of onnxruntime have no common base class
        raise UserError(
            f"task=export: onnxruntime {onnxruntime.__version__} cannot run the network ({_last_line(error)}), so it "
            "is not written"
        ) from error
    pairs = list(zip(by_onnx, by_pytorch, strict=True))
    if any(one.shape != other.shape for one, other in pairs):
        return math.inf
    return float(torch.stack([(one - other).abs().max() for one, other in pairs]).max())


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
    """The path of the ONNX file.

    Raises:
        UserError: no file can be written there, or its name does not end in .onnx.
    """
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
    """Silence the exporter: its messages are about operators, and stdout is reserved for the result's path."""
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
    """`torch.var_mean` as four operators. PyTorch's translation has fourteen, half of them about shapes."""
    from onnxscript import opset18 as op

    if correction != 0 or not keepdim:
        raise NotImplementedError(f"var_mean with correction={correction}, keepdim={keepdim}")
    axes: Any = op.Constant(value_ints=list(dim))
    mean = op.ReduceMean(x, axes, keepdims=1)
    centered = op.Sub(x, mean)
    return op.ReduceMean(op.Mul(centered, centered), axes, keepdims=1), mean


def _tidy(model: Any, exported: Export, name: str) -> None:
    """Set the axes' names and the metadata, and remove the exporter's notes on the origin of operators."""
    import onnx

    graph = model.graph
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    del graph.value_info[:]  # optional, and it contains the exporter's names of axes
    del graph.metadata_props[:]
    axes = {**exported.axes, OUTPUT: exported.axes["content"]}
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        for axis, axis_name in axes[value.name].items():
            value.type.tensor_type.shape.dim[axis].dim_param = axis_name
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
    """The last line of an error message, since the messages of exporters begin with general advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
