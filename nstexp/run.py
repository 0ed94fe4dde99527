"""Build the parts of a run from its configuration, and run the task. Code below this module sees no config objects."""

import contextlib
import hashlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from cachetools import LRUCache
from omegaconf import DictConfig, OmegaConf

from nstexp import interrupts, loggers
from nstexp.config import trust
from nstexp.config.build import build, prepared
from nstexp.config.early import check_layers, check_values, measure_names, plain_table, request_of
from nstexp.config.quoting import resolved_yaml
from nstexp.core.errors import Stopped, UserError, under
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.measures import Scorer
from nstexp.core.runtime.cores import using_threads
from nstexp.core.runtime.precision import encoder_dtype
from nstexp.outputs import MEAN_OF, RunFolder, Summary
from nstexp.ownership import Place, texts
from nstexp.processes import is_first_process, local_rank
from nstexp.sweeps.pruning import Sweep

if TYPE_CHECKING:  # Lightning takes seconds to import, and not every method needs it
    from pytorch_lightning import Callback, Trainer
    from pytorch_lightning.loggers import Logger

log = logging.getLogger(__name__)
RECORDED_VERSIONS = ("nstexp", "torch", "torchvision", "pytorch-lightning", "hydra-core")
MOST_KEPT = 4  # objects that the runs of a process share
T = TypeVar("T")
_KEPT: LRUCache[str, Any] = LRUCache(MOST_KEPT)


def run(
    cfg: DictConfig,
    run_dir: Path,
    overrides: list[str],
    choices: dict[str, Any],
    variants: Mapping[str, DictConfig] | None = None,
    announce: Callable[[Path], None] = lambda path: None,
    place: Place | None = None,
    sweep: Sweep | None = None,
) -> Path:
    """Run the task of a configuration.

    Args:
        cfg: the composed configuration.
        run_dir: the folder to write to.
        overrides: what the user set, for the record.
        choices: config group -> option, for the record.
        variants: label -> configuration of each method, for a task that takes several methods.
        announce: called with the path of the result as soon as all files are written; loggers may take longer.
        place: `run_dir`, locked for this run.
        sweep: the sweep that the run belongs to; None: none.

    Returns:
        The path of the result.

    Raises:
        UserError: bad input or configuration.
        Stopped: interrupted, or the loss became NaN.
    """
    quiet_warnings()
    folder = RunFolder(run_dir, is_first_process(), place)
    if not folder.writes:
        logging.getLogger("nstexp").setLevel(logging.ERROR)
    summary = folder.summary
    summary.task, summary.method, summary.overrides = choices.get("task"), choices.get("method"), overrides
    options = {group: option for group, option in choices.items() if not group.startswith("hydra")}
    summary.choices = plain_table(OmegaConf.create(options))
    summary.seed, summary.versions = cfg.seed, {name: version(name) for name in RECORDED_VERSIONS}
    active: list[Logger] = []
    try:
        with _recorded(folder):
            for config in (cfg, *(variants or {}).values()):
                check_values(config)
            with using_threads(cfg.threads) as summary.threads:
                result = _run(cfg, folder, active, variants or {}, sweep)
            announce(result)
            interrupts.check()
    except BaseException:
        _close(cfg, folder, active)
        raise
    if not _close(cfg, folder, active):
        summary.status = "interrupted"
        summary.error = f"interrupted at the end: {result} is complete, but a logger may lack parts of the run"
        folder.write_summary()
        raise Stopped(summary.error, interrupted=True)
    return result


@contextlib.contextmanager
def _recorded(folder: RunFolder) -> Iterator[None]:
    """Write a complete record, also if the run fails, because in a sweep it is a row of the comparison."""
    started, summary = time.perf_counter(), folder.summary
    summary.started = datetime.now().astimezone().isoformat(timespec="seconds")
    _reset_peak_memory()
    try:
        yield
    except Stopped as stop:
        summary.status, summary.error = ("interrupted" if stop.interrupted else "failed"), str(stop)
        raise
    except UserError as error:
        summary.status, summary.error = "failed", str(error)
        raise
    except BaseException as error:
        if interrupts.caused(error):
            summary.status, summary.error = "interrupted", "interrupted"
            raise Stopped("interrupted", interrupted=True) from None
        summary.status, summary.error = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        summary.status = "completed" if summary.status == "running" else summary.status
        summary.seconds = round(time.perf_counter() - started, 3)
        summary.peak_memory_mb = _peak_memory_mb()
        if torch.cuda.is_available():
            summary.peak_gpu_memory_mb = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        with contextlib.suppress(UserError):  # a full disk has been reported already
            folder.write_summary()


def _run(
    cfg: DictConfig,
    folder: RunFolder,
    active: "list[Logger]",
    variants: Mapping[str, DictConfig],
    sweep: Sweep | None,
) -> Path:
    resolved = plain_table(cfg, resolve=True)
    torch.manual_seed(cfg.seed)
    parts = Parts(prepared(cfg), folder, active)
    asked = signature(trust.located(cfg.task._target_, "task._target_")).parameters
    task = build(parts.cfg.task, _partial_=True)
    pieces = _pieces(parts, asked, variants, sweep)

    text = resolved_yaml(cfg)
    folder.write_config(text)
    folder.write_summary()
    log.debug("configuration:\n%s", text)
    summary = folder.summary
    about = ", ".join(filter(None, (summary.encoder, summary.precision, summary.device))) or "no method"
    log.info("%s; configuration in %s", about, folder.path)
    if is_first_process():
        _claim_logs(parts.cfg.logger, folder)
        active += [build(entry, save_dir=str(folder.path)) for entry in (parts.cfg.logger or {}).values()]
    loggers.log_config(active, resolved | {"choices": summary.choices})
    interrupts.check()
    return cast(Path, task(folder=folder, **pieces))


def _claim_logs(entries: DictConfig | None, folder: RunFolder) -> None:
    """Check that Lightning's CSV logger, which replaces existing files, replaces only files of nstexp."""
    for entry in (entries or {}).values():
        if str(entry.get("_target_")).endswith(".CSVLogger"):
            names = (str(entry.get("name") or ""), str(entry.get("version") or ""))
            for file in ("metrics.csv", "hparams.yaml"):
                folder.claim("/".join(filter(None, (*names, file))), work=False)


def _pieces(
    parts: "Parts", asked: Mapping[str, Any], variants: Mapping[str, DictConfig], sweep: Sweep | None
) -> dict[str, Any]:
    """Build the objects that the task's arguments ask for by name, except those in its own configuration."""
    cfg, summary = parts.cfg, parts.folder.summary
    offered: dict[str, Callable[[], Any]] = {
        "request": lambda: request_of(cfg),
        "active_loggers": lambda: parts.active,
        "device": lambda: parts.device,
        "identity": lambda: " ".join([identity(cfg), *(f"{label} {identity(c)}" for label, c in variants.items())]),
        "log_every_n_steps": lambda: cfg.log_every_n_steps,
        "measure": lambda: cfg.measure,
        "sweep": lambda: sweep,
        "prune": lambda: build(parts.cfg.prune),
        "data": lambda: build(cfg.data),
        "scorer": lambda: _scorer(parts) if cfg.measure else None,
    }
    pieces = {name: make() for name, make in offered.items() if name in asked and name not in cfg.task}
    if "methods" in asked:
        others = {label: Parts(prepared(config), parts.folder, parts.active) for label, config in variants.items()}
        if not others and not cfg.get("results"):  # finished pictures alone need no method
            others = {str(summary.method): parts}
        summary.method = ",".join(others)
        return pieces | {"methods": {label: part.method() for label, part in others.items()}}
    if variants:
        raise UserError(f"method=[{','.join(variants)}]: only task=evaluate takes several methods; sweep them with -m")
    return pieces | {"method": parts.method()}


@dataclass
class Parts:
    """Builds the parts of a run from its configuration, each on first use.

    Args:
        cfg: the configuration, `prepared`.
        folder: the run folder.
        active: the loggers of the run, which may be added later.
    """

    cfg: DictConfig
    folder: RunFolder
    active: "list[Logger]"

    @property
    def summary(self) -> Summary:
        """The record of the run."""
        return self.folder.summary

    @cached_property
    def device(self) -> torch.device:
        """The device on which this process computes."""
        trainer = plain_table(self.cfg.trainer, resolve=True)
        return _device(trainer.get("accelerator", "auto"), trainer.get("devices"))

    @property
    def dtype(self) -> torch.dtype:
        """Number type of features and networks."""
        return encoder_dtype(self.cfg.precision, self.device)

    def encoder(self) -> Any:
        """The feature network, shared by all runs of this process with the same settings."""
        backbone = self.cfg.backbone
        key = f"encoder {identity(backbone)} {self.dtype}"
        encoder = kept(key, lambda: build(backbone, dtype=self.dtype)).to(self.device)
        self.summary.encoder = _with(self.summary.encoder, encoder.identity)
        return encoder

    def losses(self) -> LossSet:
        """The loss terms and their weights.

        Raises:
            UserError: there is no term, or settings belong to a term that is not chosen.
        """
        terms, weights = (self.cfg.get(key) or OmegaConf.create({}) for key in ("loss", "weights"))
        if not terms:
            raise UserError("loss is empty: name at least one term, such as 'loss=[content,gram]'")
        tables: Mapping[Any, Any] = terms
        for name, term in tables.items():
            if "_target_" not in term:
                raise UserError(f"loss.{name} has settings, but loss=[...] does not list this term: add it there")
        settings = json.dumps(plain_table(terms, resolve=True), default=str)
        return LossSet(build(terms), plain_table(weights, resolve=True), settings)

    def method(self) -> Any:
        """Build the method with the parts that its arguments ask for by name.

        A method that asks for `make_encoder` gets a function instead of the encoder, and calls it if it needs one.
        """
        offered: dict[str, Callable[[], Any]] = {
            "encoder": self.encoder,
            "losses": self.losses,
            "trainer": lambda: _trainer_factory(self.cfg, self.folder, self.active),
            "make_encoder": lambda: self.encoder,
            "device": lambda: self.device,
            "dtype": lambda: self.dtype,
        }
        asked = signature(trust.located(self.cfg.method._target_, "method._target_")).parameters
        always = ("losses", "trainer") if "make_encoder" in asked else ("encoder", "losses", "trainer")
        given = {name: make() for name, make in offered.items() if name in asked or name in always}
        if "encoder" in given:
            terms = given["losses"].terms
            check_layers({name: term.layers for name, term in terms.items()}, given["encoder"].canonical)
        self.summary.device = _with(self.summary.device, str(self.device))
        self.summary.precision = _with(self.summary.precision, str(self.dtype).removeprefix("torch."))
        return build(self.cfg.method, **given)


def identity(cfg: DictConfig) -> str:
    """A digest of everything in a configuration that can change the result, including the state of the files it names.

    Keys about where results are written and what is logged are left out.
    """
    resolved = plain_table(cfg, resolve=True)
    others = (
        "run_dir", "output", "logger", "trainer", "metrics", "measure", "objective", "report", "prune", "task",
        "log_every_n_steps", "picture_every_n_steps", "threads",
    )  # fmt: skip
    made_of = {key: value for key, value in resolved.items() if key not in others}
    text = json.dumps(made_of, sort_keys=True, default=str)
    for _, value in texts(made_of):  # weights and pictures that the configuration names
        with contextlib.suppress(OSError, ValueError):  # too long for a path, or with characters that paths cannot have
            file = Path(value).expanduser()
            text += f" {file.stat().st_size} {file.stat().st_mtime_ns}" if file.is_file() else ""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _with(known: str | None, more: str) -> str:
    """Add an entry to a comma-separated list without duplicates, for the record."""
    return ", ".join(dict.fromkeys([*(known.split(", ") if known else []), more]))


def _scorer(parts: Parts) -> Scorer | None:
    """Build the measures of finished pictures, and record which are better when higher; None without measures."""
    metrics, device, dtype = parts.cfg.metrics, parts.device, parts.dtype
    names = measure_names(plain_table(metrics))

    def make() -> Scorer:
        # A separate encoder, because Lightning moves those of methods between devices.
        encoder = build(metrics.encoder, dtype=dtype)
        measures = {name: build(metrics[name]) for name in names}
        with under("metrics"):
            return Scorer(encoder, measures, metrics.longer_side_px).to(device)

    if not names:
        return None
    scorer: Scorer = kept(f"scorer {OmegaConf.to_yaml(metrics, resolve=True)} {dtype} {device}", make)
    parts.summary.higher_is_better = scorer.higher_is_better
    return scorer


def kept(key: str, make: Callable[[], T]) -> T:
    """Return the object with this key, or make it. The runs of a process share the last four objects."""
    if key not in _KEPT:
        _KEPT[key] = make()
    return cast(T, _KEPT[key])


def _trainer_factory(cfg: DictConfig, folder: RunFolder, active: "list[Logger]") -> "Callable[..., Trainer]":
    """A function that creates a new trainer, with the loggers of the run, for each picture or training."""

    def make(callbacks: "Sequence[Callback] | None" = None, **more: Any) -> "Trainer":
        from lightning_fabric.utilities.exceptions import MisconfigurationException

        watchers = _picture_callbacks(cfg, folder) if callbacks is None else list(callbacks)
        quiet_lightning()
        settings = build(cfg.trainer, _partial_=True)
        try:
            trainer = settings(logger=active or False, default_root_dir=str(folder.path), callbacks=watchers, **more)
            return cast("Trainer", trainer)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error

    return make


def _picture_callbacks(cfg: DictConfig, folder: RunFolder) -> "list[Callback]":
    from nstexp import callbacks

    return [
        callbacks.LossLog(folder, cfg.log_every_n_steps),  # before the bar, because it logs a few lines at the start
        callbacks.ProgressBar(),
        callbacks.PicturePanels(folder, cfg.picture_every_n_steps),
        callbacks.StopOnInterrupt(),
    ]


def _device(accelerator: str, devices: Any) -> torch.device:
    """The device that Lightning will choose for this process."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        local = local_rank() % torch.cuda.device_count()  # on a cluster, each process may see only one device
        return torch.device("cuda", devices[local] if isinstance(devices, list) else local)
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _close(cfg: DictConfig, folder: RunFolder, active: "list[Logger]") -> bool:
    """Send the numbers and pictures of the whole run to the loggers, and end them; False if Ctrl-C stopped this."""
    if not active:
        return True
    summary, metrics = folder.summary, folder.summary.metrics
    try:
        for name, numbers in metrics.items():
            prefix = "" if len(metrics) == 1 else f"{name}/"
            loggers.log_numbers(active, {f"{prefix}final/{key}": value for key, value in numbers.items()})
        seconds = {"seconds": cast(float, summary.seconds)}  # `_recorded` has set it
        loggers.log_numbers(active, seconds)
        config = {**plain_table(cfg, resolve=True), "choices": summary.choices}
        loggers.log_outcome(active, config, {**seconds, **_final_means(metrics)})
        loggers.log_pictures(active, "results", folder.pictures(), metrics)
        loggers.close(active, summary.status)
    except Exception as error:  # of any logger: results and record are in the run folder anyway
        log.warning("a logger failed at the end (%s: %s)", type(error).__name__, " ".join(str(error).split()))
    except KeyboardInterrupt:
        return False
    return True


def _final_means(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """One number per measure, by which runs can be compared.

    It is the mean over the pictures of a run; for an evaluation, the recorded mean of each method.
    """
    of_methods = {name.removeprefix(MEAN_OF): row for name, row in metrics.items() if name.startswith(MEAN_OF)}
    if len(of_methods) > 1:
        return {f"{label}/final/{key}": value for label, row in of_methods.items() for key, value in row.items()}
    rows = list((of_methods or metrics).values())
    keys = dict.fromkeys(key for row in rows for key in row)
    values = {key: [row[key] for row in rows if key in row] for key in keys}
    return {f"final/{key}": sum(numbers) / len(numbers) for key, numbers in values.items()}


def _reset_peak_memory() -> None:
    """Restart the measurement of peak memory where the system allows it, because jobs of a sweep share a process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float | None:
    """Peak resident memory of this process in megabytes; None if it is not known."""
    with contextlib.suppress(OSError, ValueError, StopIteration):  # Linux, where the peak can be reset
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def quiet_warnings() -> None:
    """Hide warnings of Lightning, which would drown the lines that matter to the user."""
    topics = "across ranks is zero", "broadcast_buffers", "many workers", "eval mode", "isinstance.treespec", "srun"
    for topic in topics:
        warnings.filterwarnings("ignore", message=f".*{topic}.*")


def quiet_lightning() -> None:
    """Hide banners and tips of Lightning; called after its import, which sets these log levels."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
