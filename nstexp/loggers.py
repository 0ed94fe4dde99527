"""Loggers that never stop a run: W&B goes offline by itself. Which loggers there are is decided in conf/logger/."""

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
from nstexp.outputs import each_text

if TYPE_CHECKING:  # Lightning takes seconds to import, and not every method needs it
    from pytorch_lightning.loggers import Logger
    from torch import Tensor

log = logging.getLogger(__name__)
CONNECT_SECONDS = 2.0
MOST_OF_A_NAME = 128
# W&B's modes; "run" and "dryrun" are old names of online and offline.
ONLINE, MODES = ("online", "run", "shared"), ("online", "offline", "disabled", "shared", "dryrun", "run")
STEP = "trainer/global_step"  # the axis of W&B's charts, by the name that Lightning gives it


def set_up_silently(
    setup: Callable[..., Any], settings: Callable[..., Any], terminal: Callable[[Any, None], None]
) -> Any:
    """W&B's setup; it prints nothing, now or later: what it has to say would stand in the middle of a progress bar.

    Args:
        setup, settings, terminal: W&B's functions `setup`, `Settings` and `termsetup`.
    """
    silent = settings(silent=True)
    terminal(silent, None)  # beforehand, for the setup has something to say of settings that it reads
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
    """A W&B run, online when an account and the server are there, else offline; never asks, never hangs.

    W&B's environment variables count, but for what the configuration says otherwise.

    Args:
        logger: starts the run; takes `dir`, `mode` and `id`. In its `settings`, if it has them, is what the user set.
        save_dir: the run folder.
        setup: returns what has W&B's own `settings`, which know the server and the key.
        picture, table, video: make what W&B shows of a picture or its file, of columns and rows, and of a clip's file.
        number: of the job in its sweep; WANDB_RUN_ID is then the beginning of the run's id, for jobs must not share it.
    """
    return WandbRun(partial(_started, logger, save_dir, setup, number), save_dir, picture, table, video)


def _started(
    logger: Callable[..., Any], save_dir: str, setup: Callable[[], Any], number: int | str | None, **more: Any
) -> Any:
    """The run, or None if W&B is switched off."""
    own = getattr(logger, "settings", {})
    if own.get("mode") is None and os.environ.get("WANDB_DISABLED", "").lower() not in ("", "0", "false", "no", "off"):
        log.info("W&B is off: WANDB_DISABLED=%s", os.environ["WANDB_DISABLED"])
        return None
    if os.environ.get("WANDB_MODE", "online") not in MODES:
        log.warning("WANDB_MODE=%s: W&B gets nothing, it knows %s", os.environ["WANDB_MODE"], ", ".join(MODES))
        return None
    settings = setup().settings
    mode = own.get("mode") or settings.mode
    by = "logger.wandb.logger.mode" if own.get("mode") else "WANDB_MODE" if "WANDB_MODE" in os.environ else "W&B's mode"
    if mode == "disabled":
        log.info("W&B is off: %s=disabled", by)
        return None
    folder = own.get("dir") or os.environ.get("WANDB_DIR") or save_dir
    more = {"dir": folder, **more}
    if number is not None and own.get("id") is None and os.environ.get("WANDB_RUN_ID"):
        more = {"id": f"{os.environ['WANDB_RUN_ID']}-{number}", **more}
    offline_because = why_offline(settings) if mode in ONLINE else f"{by}={mode}"
    if offline_because is None:
        try:
            return logger(mode=mode, **more)
        except Exception as error:  # W&B has its own family of errors, and none of them is worth a lost picture
            offline_because = f"{urlparse(settings.base_url).hostname} refused the run ({type(error).__name__})"
    where = "<run folder>" if folder == save_dir else folder
    log.info("W&B logs offline: %s. Later: wandb sync %s/wandb/offline-run-*", offline_because, where)
    return logger(mode="offline", **more)


class WandbRun:
    """A run of W&B that starts, works and ends in a thread of its own, so that no picture waits for it.

    Lightning takes it for one of its loggers. What W&B refuses is one warning, and the run goes on without it.

    Args:
        start: starts the run, or returns None: nothing is logged; takes arguments of `wandb.init`.
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
        """In another process of the same training: the same run."""
        self._thread.submit(int).result()  # it has started by then
        start = self._start if self._run is None else partial(self._start, id=self._run.id, resume="allow")
        return type(self), (start, self.save_dir, self._picture, self._table, self._video)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._later(lambda: self._log(metrics, step))

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        self._later(lambda: self._run.config.update(dict(params), allow_val_change=True))

    def log_image(self, key: str, images: Sequence[Any], step: int | None = None) -> None:
        self._later(lambda: self._log({key: [self._picture(image) for image in images]}, step))

    def log_video(self, key: str, videos: Sequence[str], step: int | None = None) -> None:
        self._later(lambda: self._log({key: [self._video(video) for video in videos]}, step))

    def log_pictures(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table whose second column is shown as pictures; it holds their files."""

        def show() -> None:
            data = [[name, self._picture(file), *cells] for name, file, *cells in rows]
            self._log({key: self._table(columns=list(columns), data=data)}, None)

        self._later(show)

    def log_file(self, file: str, name: str, kind: str) -> None:
        """Keep a file with the run."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:MOST_OF_A_NAME]  # what W&B takes
        self._later(lambda: self._run.log_artifact(file, name=name, type=kind))

    def finish(self, status: str) -> None:
        """End the run, and wait until W&B has everything."""
        self._later(lambda: self._run.finish(exit_code=0 if status == "completed" else 1))
        self._thread.shutdown()

    # Lightning calls these as well: at the beginning and the end of every picture.
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
        except Exception as error:  # of whatever kind: the pictures and the record are there
            self._off = True
            log.warning("W&B failed (%s: %s): it gets no more", type(error).__name__, " ".join(str(error).split()))


@contextmanager
def _words_without_secrets() -> Iterator[None]:
    """W&B keeps the words of the command with the run."""
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
    """The reason not to try the server of W&B's settings, or None."""
    url = urlparse(settings.base_url)
    if not settings.api_key and not os.environ.get("WANDB_API_KEY") and not _has_netrc_entry(url.hostname):
        return "no account is set up here (`wandb login`)"
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")):
        return None  # only W&B knows whether it can be reached
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
            logger.experiment.add_image(key, pixels, global_step=step, dataformats="HWC")


def log_pictures(
    loggers: "Iterable[Logger]", key: str, files: Mapping[str, Path], numbers: Mapping[str, Mapping[str, Any]]
) -> None:
    """A table with a row per picture: its name, the picture, and its numbers or texts; to the loggers that have tables.

    Args:
        files: name -> PNG file.
        numbers: name -> column -> value.
    """
    columns = dict.fromkeys(column for name in files for column in numbers.get(name, {}))
    columns = [column for column in columns if column not in ("name", "picture")]
    rows = [
        [printable(name, one_line=True), str(file), *(numbers.get(name, {}).get(column) for column in columns)]
        for name, file in files.items()
    ]
    for logger in loggers if rows else ():
        if hasattr(logger, "log_pictures"):  # W&B
            logger.log_pictures(key, ["name", "picture", *columns], rows)


def log_video(loggers: "Iterable[Logger]", key: str, file: Path, step: int) -> None:
    """Send a clip to every logger that shows clips, if it is of a format that browsers play."""
    if file.suffix.lower() not in (".mp4", ".webm", ".gif"):
        return
    for logger in loggers:
        if hasattr(logger, "log_video"):  # W&B
            logger.log_video(key, [str(file)], step=step)


def log_file(loggers: "Iterable[Logger]", file: Path, name: str, kind: str) -> None:
    """Keep a file with the run, where the logger has a place for files (W&B: an artifact)."""
    for logger in loggers:
        if hasattr(logger, "log_file"):
            logger.log_file(str(file), name, kind)


def log_config(loggers: "Iterable[Logger]", config: Mapping[str, Any]) -> None:
    """Record the resolved configuration, without passwords and without numbers that JSON does not have."""
    for logger in loggers:
        shown = each_text(printable, finite(without_secrets(config)))
        if _compares(logger):
            logger.hparams.update(shown)  # for its hparams.yaml; the rest is for `log_outcome`
        else:
            logger.log_hyperparams(shown)


def log_outcome(loggers: "Iterable[Logger]", config: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
    """Record what came of a configuration, where the logger compares runs by both. TensorBoard takes it once only, and
    would go without the numbers if it had got the configuration before."""
    for logger in loggers:
        if _compares(logger):
            logger.log_hyperparams(each_text(printable, finite(without_secrets(config))), dict(numbers))


def _compares(logger: "Logger") -> bool:
    """Whether it records numbers with a configuration: TensorBoard, whose tab of hyperparameters shows them."""
    return "metrics" in signature(logger.log_hyperparams).parameters


def log_numbers(loggers: "Iterable[Logger]", numbers: Mapping[str, float], step: int | None = None) -> None:
    numbers = {printable(name, one_line=True): value for name, value in numbers.items()}
    for logger in loggers:
        logger.log_metrics(dict(numbers), step=step)


def close(loggers: "Iterable[Logger]", status: str) -> None:
    """End every logger's run. Without it, the next job of a sweep would go on in this one's W&B run."""
    for logger in loggers:
        if hasattr(logger, "finish"):  # W&B
            logger.finish(status)
        else:
            logger.finalize("success" if status == "completed" else "failed")
