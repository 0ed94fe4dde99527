"""Configurations as a command composes them, and the texts in which readers find their options."""

from pathlib import Path
from typing import Any

import hydra
from documents import PAGES
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from nstexp.config.keys import CONF


def compose(*overrides: str) -> DictConfig:
    """With Hydra's own node, as in a job, so that ${hydra:...} resolves."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        given = [*overrides, "hydra.runtime.output_dir=/tmp/run", "hydra.job.num=0", "hydra.job.id=0"]
        cfg = hydra.compose("config", overrides=given, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The job's part as plain values."""
    job = {key: cfg[key] for key in cfg if key != "hydra"}
    masked = OmegaConf.masked_copy(cfg, list(job))
    return OmegaConf.to_container(masked, resolve=True, throw_on_missing=True)


def text_of(conf: Path) -> str:
    """All that a reader finds options in: the configuration itself, and the documentation."""
    return "\n".join(file.read_text(encoding="utf-8") for file in [*conf.rglob("*.yaml"), *PAGES])
