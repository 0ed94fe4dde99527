"""Config to objects to task: the only place that builds the pieces of a run, and the last that sees a config object."""

import contextlib
import hashlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from nstexp import callbacks, loggers
from nstexp.core.errors import ArgumentError, Stopped, UserError
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.measures import Scorer
from nstexp.core.runtime.precision import encoder_dtype
from nstexp.outputs import RunFolder

log = logging.getLogger(__name__)
RECORDED_VERSIONS = ("nstexp", "torch", "torchvision", "pytorch-lightning", "hydra-core")
MOST_KEPT = 4
MEASURING = ("encoder", "longer_side_px", "names")  # of the group metrics: all others are measures
T = TypeVar("T")
_KEPT: dict[str, Any] = {}


def run(
    cfg: DictConfig,
    run_dir: Path,
    overrides: list[str],
    choices: dict[str, Any],
    variants: Mapping[str, DictConfig] | None = None,
) -> Path:
    """Do what the configuration says; returns the path of the result.

    Args:
        cfg: the composed configuration.
        run_dir: where to write.
        overrides, choices: what the user set, and the option of every config group, for the record.
        variants: label -> configuration of each method, for a task that takes several.

    Raises:
        UserError: bad input or configuration.
        Stopped: interrupted, or the loss became NaN.
    """
    quiet_lightning()
    started = time.perf_counter()
    folder = RunFolder(run_dir, writes=is_first_process())
    if not folder.writes:
        logging.getLogger("nstexp").setLevel(logging.ERROR)
    summary = folder.summary
    summary.started = datetime.now().astimezone().isoformat(timespec="seconds")
    summary.task, summary.method, summary.overrides = choices.get("task"), choices.get("method"), overrides
    options = {group: option for group, option in choices.items() if not group.startswith("hydra")}
    summary.choices = OmegaConf.to_container(OmegaConf.create(options))
    _reset_peak_memory()
    summary.seed, summary.versions = cfg.seed, {name: version(name) for name in RECORDED_VERSIONS}
    active: list[Logger] = []
    try:
        return _run(cfg, folder, active, variants or {})
    except Stopped as stop:
        summary.status, summary.error = ("interrupted" if stop.interrupted else "failed"), str(stop)
        raise
    except InstantiationException as error:
        cause = _user_error_behind(error) or UserError(" ".join(str(error).split()))
        summary.status, summary.error = "failed", str(cause)
        raise cause from None
    except UserError as error:
        summary.status, summary.error = "failed", str(error)
        raise
    except BaseException as error:
        summary.status, summary.error = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        summary.status = "completed" if summary.status == "running" else summary.status
        summary.seconds = round(time.perf_counter() - started, 3)
        summary.peak_memory_mb = _peak_memory_mb()
        if torch.cuda.is_available():
            summary.peak_gpu_memory_mb = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        _finish(folder, active)


def _run(
    cfg: DictConfig,
    folder: RunFolder,
    active: list[Logger],
    variants: Mapping[str, DictConfig],
) -> Path:
    for config in (cfg, *variants.values()):
        for key in sorted(OmegaConf.missing_keys(config)):
            raise UserError(f"{key} has no value yet: give it one with {key}=...")
    resolved = OmegaConf.to_container(cfg, resolve=True)
    _check_numbers(resolved)
    torch.manual_seed(cfg.seed)
    pieces = _pieces(cfg, folder, active, variants)
    task = instantiate(cfg.task, _convert_="all", _partial_=True)

    folder.write_config(OmegaConf.to_yaml(cfg, resolve=True))
    folder.write_summary()
    log.debug("configuration:\n%s", OmegaConf.to_yaml(cfg, resolve=True))
    summary = folder.summary
    log.info("%s, %s, %s; configuration in %s", summary.encoder, summary.precision, summary.device, folder.path)
    if is_first_process():
        entries = (cfg.logger or {}).values()
        active += [instantiate(entry, save_dir=str(folder.path), _convert_="all") for entry in entries]
    loggers.log_config(active, resolved | {"choices": summary.choices})
    return task(folder=folder, **pieces)


def _pieces(
    cfg: DictConfig, folder: RunFolder, active: list[Logger], variants: Mapping[str, DictConfig]
) -> dict[str, Any]:
    """What the task asks for by the names of its arguments, besides what its own configuration gives it."""
    asked = signature(get_method(cfg.task._target_)).parameters
    pieces: dict[str, Any] = {}
    if "active_loggers" in asked:
        pieces["active_loggers"] = active
    if "device" in asked:
        pieces["device"] = _device_of(cfg)
    if "identity" in asked:
        pieces["identity"] = _identity(cfg)
    if "methods" in asked:
        configs = variants or {str(folder.summary.method): cfg}
        folder.summary.method = ",".join(configs)
        pieces["methods"] = {label: _method(config, folder, active) for label, config in configs.items()}
    elif variants:
        raise UserError(f"method=[{','.join(variants)}]: only task=evaluate takes several methods; sweep them with -m")
    else:
        pieces["method"] = _method(cfg, folder, active)
    if "data" in cfg:
        pieces["data"] = instantiate(cfg.data, _convert_="all")
    if "scorer" in asked:
        scorer = pieces["scorer"] = _scorer(cfg.metrics, cfg) if cfg.measure else None
        folder.summary.higher_is_better = scorer.higher_is_better if scorer else None
    return pieces


def _identity(cfg: DictConfig) -> str:
    """The same for all configurations that make the same result, wherever it is written and whatever is logged."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    others = ("run_dir", "output", "logger", "trainer", "metrics", "measure", "objective", "task", "log_every_n_steps")
    made_of = {key: value for key, value in resolved.items() if key not in (*others, "picture_every_n_steps")}
    text = json.dumps(made_of, sort_keys=True, default=str)
    for value in _texts(made_of):  # weights and pictures that the configuration names
        with contextlib.suppress(OSError, ValueError):  # too long for a name, or not allowed in one
            file = Path(value).expanduser()
            text += f" {file.stat().st_size} {file.stat().st_mtime_ns}" if file.is_file() else ""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _texts(value: Any) -> Iterator[str]:
    """Every text in tables and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _method(cfg: DictConfig, folder: RunFolder, active: list[Logger]) -> Any:
    device = _device_of(cfg)
    encoder = _encoder(cfg.backbone, encoder_dtype(cfg.precision, device), device)
    terms = OmegaConf.to_container(cfg.get("loss", OmegaConf.create({})), resolve=True)
    weights = OmegaConf.to_container(cfg.get("weights", OmegaConf.create({})), resolve=True)
    losses = LossSet(instantiate(cfg.get("loss", {}), _convert_="all"), weights, json.dumps(terms, default=str))
    summary = folder.summary
    summary.encoder, summary.device = _with(summary.encoder, encoder.identity), _with(summary.device, str(device))
    summary.precision = _with(summary.precision, str(encoder.dtype).removeprefix("torch."))
    trainer = _trainer_factory(cfg, folder, active)
    return instantiate(cfg.method, encoder=encoder, losses=losses, trainer=trainer, _convert_="all")


def _with(known: str | None, more: str) -> str:
    """A list of what the methods of a run have, for the record."""
    return ", ".join(dict.fromkeys([*(known.split(", ") if known else []), more]))


def _scorer(metrics: DictConfig, cfg: DictConfig) -> Scorer | None:
    """None without measures."""
    device, names = _device_of(cfg), _measure_names(metrics)

    def make() -> Scorer:
        # Not one of a method's: Lightning moves those about.
        encoder = instantiate(metrics.encoder, dtype=encoder_dtype(cfg.precision, device), _convert_="all")
        measures = {name: _measure(name, metrics[name]) for name in names}
        try:
            return Scorer(encoder, measures, metrics.longer_side_px).to(device)
        except ArgumentError as error:
            raise error.under("metrics") from None

    if not names:
        return None
    return _kept(f"scorer {OmegaConf.to_yaml(metrics, resolve=True)} {cfg.precision} {device}", make)


def _measure_names(metrics: DictConfig) -> list[str]:
    """Of the measures of a configuration: all besides the settings of the measuring itself, or those of its `names`."""
    known = [name for name in metrics if name not in MEASURING]
    names = known if metrics.names is None else list(dict.fromkeys(metrics.names))
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"metrics.names: '{unknown[0]}' is not among the measures of this run ({', '.join(known) or 'none'}): "
            f"choose any by the group instead, 'metrics=[{','.join(map(str, names))}]'"
        )
    return names


def _measure(name: str, config: Any) -> Any:
    if not isinstance(config, DictConfig) or "_target_" not in config:
        raise UserError(f"metrics.{name} has settings, but the measure is not in metrics=[...]: add it there")
    try:
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        cause = _user_error_behind(error)
        if isinstance(cause, ArgumentError):
            raise cause.under(f"metrics.{name}") from None
        raise


def _encoder(backbone: DictConfig, dtype: torch.dtype | None, device: torch.device) -> Any:
    key = f"encoder {OmegaConf.to_yaml(backbone, resolve=True)} {dtype}"
    return _kept(key, lambda: instantiate(backbone, dtype=dtype, _convert_="all")).to(device)


def _kept(key: str, make: Callable[[], T]) -> T:
    """What the jobs of a sweep in one process share, by all settings that it is made of; the last few of them."""
    if key not in _KEPT:
        while len(_KEPT) >= MOST_KEPT:
            del _KEPT[next(iter(_KEPT))]
        _KEPT[key] = make()
    _KEPT[key] = _KEPT.pop(key)  # the last one used
    return _KEPT[key]


def _trainer_factory(cfg: DictConfig, folder: RunFolder, active: list[Logger]) -> Callable[..., Trainer]:
    """Each picture, and each training, gets a fresh trainer with the run's loggers and callbacks."""
    settings = instantiate(cfg.trainer, _partial_=True, _convert_="all")

    def of_pictures() -> list[Callback]:
        return [
            callbacks.LossLog(folder, cfg.log_every_n_steps),  # before the bar: it says a few lines at the start
            callbacks.ProgressBar(),
            callbacks.PicturePanels(folder, cfg.picture_every_n_steps),
            callbacks.StopOnInterrupt(),
        ]

    def make(callbacks: Sequence[Callback] | None = None, **more: Any) -> Trainer:
        watchers = of_pictures() if callbacks is None else list(callbacks)
        try:
            return settings(logger=active or False, default_root_dir=str(folder.path), callbacks=watchers, **more)
        except (MisconfigurationException, ValueError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error

    return make


def _check_numbers(resolved: dict[str, Any]) -> None:
    """The top-level numbers that nobody else looks at before the work starts."""
    for key, smallest in {"seed": 0, "log_every_n_steps": 1, "picture_every_n_steps": 0}.items():
        value = resolved[key]
        if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value < 2**63:
            raise UserError(f"{key}={value}: give a whole number, {smallest} or larger")


def _device_of(cfg: DictConfig) -> torch.device:
    trainer = OmegaConf.to_container(cfg.trainer, resolve=True)
    return _device(trainer.get("accelerator", "auto"), trainer.get("devices"))


def _device(accelerator: str, devices: Any) -> torch.device:
    """The device Lightning will choose for this process."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
        local %= torch.cuda.device_count()  # a cluster may show each process its own device only
        return torch.device("cuda", devices[local] if isinstance(devices, list) else local)
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _finish(folder: RunFolder, active: list[Logger]) -> None:
    """Leave a complete record, also of a run that failed: in a sweep it is a row of the comparison."""
    with contextlib.suppress(UserError):  # a full disk has been reported already
        folder.write_summary()
    metrics = folder.summary.metrics
    try:
        for name, numbers in metrics.items():
            prefix = "" if len(metrics) == 1 else f"{name}/"
            loggers.log_numbers(active, {f"{prefix}final/{key}": value for key, value in numbers.items()})
        loggers.log_numbers(active, {"seconds": folder.summary.seconds})
        loggers.log_pictures(active, "results", folder.pictures(), metrics)
        loggers.close(active, folder.summary.status)
    except Exception as error:  # of whatever logger: the pictures and the record are there
        log.warning("a logger failed at the end (%s: %s)", type(error).__name__, " ".join(str(error).split()))


def _user_error_behind(error: BaseException | None) -> UserError | None:
    """instantiate() wraps what a constructor raises; the user wants the sentence inside."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _reset_peak_memory() -> None:
    """Begin to measure anew, where the system can: jobs of a sweep share a process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float | None:
    with contextlib.suppress(OSError, ValueError, StopIteration):  # Linux: what was reset
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def is_first_process() -> bool:
    """Whether this is the process that writes, among those that train together."""
    node = int(os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or 0)
    return rank_zero_only.rank in (None, 0) and node == 0


def quiet_lightning() -> None:
    """Lightning's banners and tips would drown the lines that matter to the user."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    topics = "across ranks is zero", "broadcast_buffers", "many workers", "eval mode", "isinstance.treespec", "srun"
    for topic in topics:
        warnings.filterwarnings("ignore", message=f".*{topic}.*")
