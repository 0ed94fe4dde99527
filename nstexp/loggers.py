"""Loggers that never stop a run: without a connection, W&B logs offline. conf/logger/ selects the loggers."""

import logging
import netrc
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from nstexp.core.runtime.files import finite
from nstexp.core.secrets import without_secrets
from nstexp.core.text import printable
from nstexp.outputs import GOOD, each_text

if TYPE_CHECKING:  # Lightning takes seconds to import, and not every method needs it
    from pytorch_lightning.loggers import Logger
    from torch import Tensor

log = logging.getLogger(__name__)
CONNECT_SECONDS = 2.0
MOST_OF_A_NAME = 128  # characters in the name of a W&B artifact
# W&B's modes; "run" and "dryrun" are old names of "online" and "offline".
ONLINE, MODES = ("online", "run", "shared"), ("online", "offline", "disabled", "shared", "dryrun", "run")
OFF = ("", "0", "false", "no", "off")  # values of WANDB_DISABLED that do not disable W&B
STEP = "trainer/global_step"  # x axis of W&B's charts, with the name that Lightning uses


def set_up_silently(
    setup: Callable[..., Any], settings: Callable[..., Any], terminal: Callable[[Any, None], None]
) -> Any:
    """Set up W&B so that it never prints, because its messages would interrupt the progress bars.

    Args:
        setup, settings, terminal: W&B's functions `setup`, `Settings` and `termsetup`.
    """
    silent = settings(silent=True)
    terminal(silent, None)  # before the setup, which prints messages about the settings that it reads
    return setup(silent)


def online_or_offline(
    logger: Callable[..., Any],
    save_dir: str,
    setup: Callable[[], Any],
    picture: Callable[..., Any],
    table: Callable[..., Any],
    video: Callable[..., Any],
    number: int | str | None = None,
) -> "WandbRun":
    """Start a W&B run: online if an account is set up and the server answers, else offline. Never asks or blocks.

    W&B's environment variables apply unless the configuration sets the same value.

    Args:
        logger: starts the run; accepts `dir`, `mode` and `id`. Its attribute `settings`, if any, holds what the user
            set.
        save_dir: the run folder.
        setup: returns an object whose `settings` are W&B's settings, with the server and the key.
        picture, table, video: create W&B objects from a picture or its file, from columns and rows, and from a video
            file.
        number: of the job in its sweep; it is appended to WANDB_RUN_ID, because jobs must not share an id.
    """
    return WandbRun(partial(_started, logger, save_dir, setup, number), save_dir, picture, table, video)


def _started(
    logger: Callable[..., Any], save_dir: str, setup: Callable[[], Any], number: int | str | None, **more: Any
) -> Any:
    """Start the run; returns None if W&B is switched off."""
    chosen = getattr(logger, "settings", {})
    if chosen.get("mode") is None and os.environ.get("WANDB_DISABLED", "").lower() not in OFF:
        log.info("W&B is off: WANDB_DISABLED=%s", os.environ["WANDB_DISABLED"])
        return None
    if os.environ.get("WANDB_MODE", "online") not in MODES:
        log.warning("WANDB_MODE=%s: nothing is sent to W&B; use one of %s", os.environ["WANDB_MODE"], ", ".join(MODES))
        return None
    settings = setup().settings
    mode = chosen.get("mode") or settings.mode
    by = "WANDB_MODE" if "WANDB_MODE" in os.environ else "W&B's mode"
    by = "logger.wandb.logger.mode" if chosen.get("mode") else by
    if mode == "disabled":
        log.info("W&B is off: %s=disabled", by)
        return None
    folder = chosen.get("dir") or os.environ.get("WANDB_DIR") or save_dir
    more = {"dir": folder, **more}
    if number is not None and chosen.get("id") is None and os.environ.get("WANDB_RUN_ID"):
        more = {"id": f"{os.environ['WANDB_RUN_ID']}-{number}", **more}
    offline_because = why_offline(settings) if mode in ONLINE else f"{by}={mode}"
    if offline_because is None:
        try:
            return logger(mode=mode, **more)
        except Exception as error:  # no error of W&B may stop the run
            offline_because = f"{urlparse(settings.base_url).hostname} refused the run ({type(error).__name__})"
    where = "<run folder>" if folder == save_dir else folder
    log.info("W&B logs offline: %s. To send it later: wandb sync %s/wandb/offline-run-*", offline_because, where)
    return logger(mode="offline", **more)


class WandbRun:
    """A W&B run that starts, logs and ends in its own thread, so that no picture waits for it.

    It has the methods of Lightning's loggers. The first error of W&B is logged as a warning, and switches the run off.

    Args:
        start: starts the run with arguments of `wandb.init`; returns None to log nothing.
        save_dir: the run folder.
        picture, table, video: see `online_or_offline`.
    """

    name, version = "wandb", None

    def __init__(
        self,
        start: Callable[..., Any],
        save_dir: str,
        picture: Callable[..., Any],
        table: Callable[..., Any],
        video: Callable[..., Any],
    ) -> None:
        self.save_dir, self._start = save_dir, start
        self._picture, self._table, self._video = picture, table, video
        self._thread = ThreadPoolExecutor(1, "wandb")
        self._off = False
        self._run: Any = None
        self._thread.submit(self._begin)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle for another process of the same training, which joins the same run."""
        self._thread.submit(int).result()  # wait until the run has started
        start = self._start if self._run is None else partial(self._start, id=self._run.id, resume="allow")
        return type(self), (start, self.save_dir, self._picture, self._table, self._video)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers of a step."""
        self._later(lambda: self._log(metrics, step))

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Record the configuration."""
        self._later(lambda: self._run.config.update(dict(params), allow_val_change=True))

    def log_image(self, key: str, images: Sequence[Any], step: int | None = None) -> None:
        """Log pictures: uint8 arrays (H, W, 3), or files."""
        self._later(lambda: self._log({key: [self._picture(image) for image in images]}, step))

    def log_video(self, key: str, videos: Sequence[str], step: int | None = None) -> None:
        """Log video files."""
        self._later(lambda: self._log({key: [self._video(video) for video in videos]}, step))

    def log_pictures(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table whose second column holds picture files, which are shown as pictures."""

        def show() -> None:
            data = [[name, self._picture(file), *cells] for name, file, *cells in rows]
            self._log({key: self._table(columns=list(columns), data=data)}, None)

        self._later(show)

    def log_file(self, file: str, name: str, kind: str) -> None:
        """Store a file with the run, as an artifact."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:MOST_OF_A_NAME]  # the characters that W&B allows
        self._later(lambda: self._run.log_artifact(file, name=name, type=kind))

    def finish(self, status: str) -> None:
        """End the run, and wait until W&B has received everything."""
        self._later(lambda: self._run.finish(exit_code=0 if status in GOOD else 1))
        self._thread.shutdown()

    # Lightning calls these at the beginning and the end of every picture; nothing is to be done.
    def log_graph(self, model: Any) -> None: ...

    def save(self) -> None: ...

    def finalize(self, status: str) -> None: ...

    def _log(self, values: Mapping[str, Any], step: int | None) -> None:
        self._run.log(dict(values) if step is None else {**values, STEP: step})

    def _begin(self) -> None:
        def start() -> None:
            with _words_without_secrets():
                self._run = self._start()
            if self._run is None:
                self._off = True
                return
            self._run.define_metric(STEP)
            self._run.define_metric("*", step_metric=STEP, step_sync=True)

        self._try(start)

    def _later(self, call: Callable[[], object]) -> None:
        self._thread.submit(self._try, call)

    def _try(self, call: Callable[[], object]) -> None:
        if self._off:
            return
        try:
            call()
        except Exception as error:  # of any kind: results and record are in the run folder anyway
            self._off = True
            reason = " ".join(str(error).split())
            log.warning("W&B failed (%s: %s): nothing more is sent to it", type(error).__name__, reason)


@contextmanager
def _words_without_secrets() -> Iterator[None]:
    """Hide passwords in the words of the command, which W&B stores with the run."""
    words, shown = sys.argv, without_secrets(sys.argv)
    if words == shown:
        yield
        return
    sys.argv = shown
    try:
        yield
    finally:
        sys.argv = words


def why_offline(settings: Any) -> str | None:
    """The reason not to contact the server in W&B's settings, or None."""
    url = urlparse(settings.base_url)
    if not settings.api_key and not os.environ.get("WANDB_API_KEY") and not _has_netrc_entry(url.hostname):
        return "no account is set up here (`wandb login`)"
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")):
        return None  # only W&B can tell whether the server is reachable through it
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return f"{url.hostname} cannot be reached"
    return None


def _has_netrc_entry(host: str) -> bool:
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_picture(loggers: "Iterable[Logger]", key: str, image: "Tensor", step: int) -> None:
    """Send a picture (3, H, W) in [0, 1] to every logger that shows pictures."""
    from nstexp.core.pixels import to_array

    key, pixels = printable(key, one_line=True), to_array(image)
    for logger in loggers:
        if hasattr(logger, "log_image"):  # W&B
            logger.log_image(key, [pixels.copy()], step=step)
        elif hasattr(getattr(logger, "experiment", None), "add_image"):  # TensorBoard
            board: Any = logger
            board.experiment.add_image(key, pixels, global_step=step, dataformats="HWC")


def log_pictures(
    loggers: "Iterable[Logger]", key: str, files: Mapping[str, Path], numbers: Mapping[str, Mapping[str, Any]]
) -> None:
    """Log a table with a row per picture (name, picture, numbers or texts) to the loggers that support tables.

    Args:
        loggers: of the run.
        key: name of the table.
        files: name -> PNG file.
        numbers: name -> column -> value.
    """
    every = dict.fromkeys(column for name in files for column in numbers.get(name, {}))
    columns = [column for column in every if column not in ("name", "picture")]
    rows = [
        [printable(name, one_line=True), str(file), *(numbers.get(name, {}).get(column) for column in columns)]
        for name, file in files.items()
    ]
    for logger in loggers if rows else ():
        if hasattr(logger, "log_pictures"):  # W&B
            logger.log_pictures(key, ["name", "picture", *columns], rows)


def log_video(loggers: "Iterable[Logger]", key: str, file: Path, step: int) -> None:
    """Send a video to every logger that shows videos, if browsers can play its format."""
    if file.suffix.lower() not in (".mp4", ".webm", ".gif"):
        return
    for logger in loggers:
        if hasattr(logger, "log_video"):  # W&B
            logger.log_video(key, [str(file)], step=step)


def log_file(loggers: "Iterable[Logger]", file: Path, name: str, kind: str) -> None:
    """Store a file with the run in the loggers that store files (W&B: as an artifact)."""
    for logger in loggers:
        if hasattr(logger, "log_file"):
            logger.log_file(str(file), name, kind)


def log_config(loggers: "Iterable[Logger]", config: Mapping[str, Any]) -> None:
    """Record the resolved configuration, without passwords and with numbers that JSON can represent."""
    for logger in loggers:
        shown = each_text(printable, finite(without_secrets(config)))
        if _compares(logger):
            logger.hparams.update(shown)  # type: ignore[attr-defined]  # the rest is for `log_outcome`
        else:
            logger.log_hyperparams(shown)


def log_outcome(loggers: "Iterable[Logger]", config: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
    """Record a configuration with its results in the loggers that compare runs by both.

    TensorBoard accepts this once only, so it must not get the configuration earlier.
    """
    for logger in loggers:
        if _compares(logger):
            logger.log_hyperparams(each_text(printable, finite(without_secrets(config))), dict(numbers))


def _compares(logger: "Logger") -> bool:
    """Whether a logger records numbers with a configuration, as TensorBoard does for its tab of hyperparameters."""
    return "metrics" in signature(logger.log_hyperparams).parameters


def log_numbers(loggers: "Iterable[Logger]", numbers: Mapping[str, float], step: int | None = None) -> None:
    """Log numbers to every logger."""
    numbers = {printable(name, one_line=True): value for name, value in numbers.items()}
    for logger in loggers:
        logger.log_metrics(dict(numbers), step=step)


def close(loggers: "Iterable[Logger]", status: str) -> None:
    """End every logger's run; otherwise the next job of a sweep would continue this W&B run."""
    for logger in loggers:
        if hasattr(logger, "finish"):  # W&B
            logger.finish(status)
        else:
            logger.finalize("success" if status in GOOD else "failed")
