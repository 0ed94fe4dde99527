"""Loggers that never stop a run: W&B goes offline by itself. Which loggers there are is decided in conf/logger/."""

import logging
import netrc
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from pytorch_lightning.loggers import Logger
from torch import Tensor

log = logging.getLogger(__name__)
CONNECT_SECONDS = 2.0


def online_or_offline(
    logger: Callable[..., Logger], save_dir: str, setup: Callable[[], Any], picture: Callable[[str], Any] | None = None
) -> Logger:
    """Build a W&B logger and start its run, online when an account and the server are there, else offline; never asks,
    never hangs.

    Args:
        logger: takes `save_dir`, `offline` and W&B's `mode`.
        save_dir: the run folder.
        setup: returns what has W&B's own `settings`, which know the server and the key.
        picture: makes of a file what W&B shows in a table.
    """
    mode = os.environ.get("WANDB_MODE")
    try:
        built = _online_or_offline(logger, save_dir, setup)
    finally:
        # Lightning sets it when an offline run starts, and the next job of a sweep is to try the server again.
        os.environ.pop("WANDB_MODE", None)
        os.environ.update({} if mode is None else {"WANDB_MODE": mode})
    built.as_picture = picture
    return built


def _online_or_offline(logger: Callable[..., Logger], save_dir: str, setup: Callable[[], Any]) -> Logger:
    settings = setup().settings
    offline_because = why_offline(settings)
    if offline_because is None:
        try:
            return _started(logger(save_dir=save_dir, offline=False))
        except Exception as error:  # W&B has its own family of errors, and none of them is worth a lost picture
            offline_because = f"{urlparse(settings.base_url).hostname} refused the run ({type(error).__name__})"
    log.info("W&B logs offline: %s. Later: wandb sync <run folder>/wandb/offline-run-*", offline_because)
    # W&B has read the environment, through which Lightning's `offline` would reach it.
    mode = "disabled" if os.environ.get("WANDB_MODE") == "disabled" else "offline"
    return _started(logger(save_dir=save_dir, offline=True, mode=mode))


def _started(logger: Logger) -> Logger:
    _ = logger.experiment  # starts the run here, where a refusal can still be answered
    return logger


def why_offline(settings: Any) -> str | None:
    """The reason not to try the server of W&B's settings, or None."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return f"WANDB_MODE={os.environ['WANDB_MODE']}"
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


def log_picture(loggers: Iterable[Logger], key: str, image: Tensor, step: int) -> None:
    """Send a picture (3, H, W) in [0, 1] to every logger that shows pictures."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().cpu().permute(1, 2, 0).numpy()
    for logger in loggers:
        if hasattr(logger, "log_image"):  # W&B
            logger.log_image(key, [np.ascontiguousarray(pixels)], step=step)
        elif hasattr(getattr(logger, "experiment", None), "add_image"):  # TensorBoard
            logger.experiment.add_image(key, pixels, global_step=step, dataformats="HWC")


def log_pictures(
    loggers: Iterable[Logger], key: str, files: Mapping[str, Path], numbers: Mapping[str, Mapping[str, Any]]
) -> None:
    """A table with a row per picture: its name, the picture, and its numbers or texts; to the loggers that have tables.

    Args:
        files: name -> PNG file.
        numbers: name -> column -> value.
    """
    columns = dict.fromkeys(column for name in files for column in numbers.get(name, {}))
    columns = [column for column in columns if column not in ("name", "picture")]
    for logger in loggers:
        show = getattr(logger, "as_picture", None)
        if show is None or not files:
            continue
        rows = [
            [name, show(str(file)), *(numbers.get(name, {}).get(column) for column in columns)]
            for name, file in files.items()
        ]
        logger.log_table(key, columns=["name", "picture", *columns], data=rows)


def log_video(loggers: Iterable[Logger], key: str, file: Path, step: int) -> None:
    """Send a clip to every logger that shows clips, if it is of a format that browsers play."""
    if file.suffix.lower() not in (".mp4", ".webm", ".gif"):
        return
    for logger in loggers:
        if hasattr(logger, "log_video"):  # W&B
            logger.log_video(key, [str(file)], step=step)


def log_file(loggers: Iterable[Logger], file: Path, name: str, kind: str) -> None:
    """Keep a file with the run, where the logger has a place for files (W&B: an artifact)."""
    for logger in loggers:
        if hasattr(logger, "as_picture"):
            logger.experiment.log_artifact(str(file), name=name, type=kind)


def log_config(loggers: Iterable[Logger], config: Mapping[str, Any]) -> None:
    """Record the resolved configuration."""
    for logger in loggers:
        logger.log_hyperparams(dict(config))


def log_numbers(loggers: Iterable[Logger], numbers: Mapping[str, float], step: int | None = None) -> None:
    for logger in loggers:
        logger.log_metrics(dict(numbers), step=step)


def close(loggers: Iterable[Logger], status: str) -> None:
    """End every logger's run. Without it, the next job of a sweep would go on in this one's W&B run."""
    for logger in loggers:
        logger.finalize("success" if status == "completed" else "failed")
        finish = getattr(getattr(logger, "experiment", None), "finish", None)
        if finish is not None:
            finish()
