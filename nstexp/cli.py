"""The command line: Hydra's entry point and the exit codes. torch is imported inside the job, so help is fast."""

import logging
import os
import re
import sys
from pathlib import Path

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nstexp import hooks

PACKAGE = Path(__file__).resolve().parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
SHARED = ("content", "style", "color", "color_strength", "image_px", "max_input_megapixels", "seed", "metrics")
EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130


class JobFailed(Exception):
    """One job of a sweep failed; its text is the sentence for the user. Hydra goes on with the other jobs."""


def main() -> None:
    """Entry point of `python -m nstexp` and of the console script."""
    if sys.argv[1:2] == ["samples"]:
        _print_samples()
        return
    OmegaConf.register_new_resolver("sweep_name", _sweep_name, replace=True)
    OmegaConf.register_new_resolver("job_name", _job_name, replace=True)
    OmegaConf.register_new_resolver("in_sweep", _in_sweep, replace=True)
    sys.argv[1:] = _one_method(sys.argv[1:])
    command = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_job)
    if "HYDRA_FULL_ERROR" in os.environ:
        try:
            command()
        finally:
            hooks.report_unfinished()
        return
    # With it Hydra raises what it would otherwise print as half a traceback, and the sentence can be chosen here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        command()
    except (CompactHydraException, JobFailed) as error:
        _leave(_with_cause(error), EXIT_FAILED)
    except OSError as error:
        _leave(f"{error.filename or 'the run folder'}: {error.strerror or error}", EXIT_FAILED)
    except KeyboardInterrupt:
        _leave("interrupted", EXIT_INTERRUPTED)
    finally:
        hooks.report_unfinished()
        del os.environ["HYDRA_FULL_ERROR"]


def _leave(sentence: str, code: int) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(code)


def _with_cause(error: Exception) -> str:
    group, _, option = str(getattr(error, "missing_cfg_file", None) or "").rpartition("/")
    if (group, option) == ("hydra/sweeper", "optuna"):
        return "hydra/sweeper=optuna needs a package that is not installed: pip install 'nstexp[optuna]'"
    known = [path.stem for path in (CONF / group).glob("*.yaml")] if group else []
    known += getattr(error, "options", None) or []  # of Hydra's own groups; of a list's options it knows none
    if group and known:  # Hydra would list its search path, too
        return f"Could not find '{group}/{option}': {group}=... takes {', '.join(sorted({*known}))}"
    cause = error.__cause__
    return f"{error}\n{cause}" if isinstance(cause, OmegaConfBaseException) else str(error)


def _job(cfg: DictConfig) -> float | list[float] | None:
    from nstexp import outputs, run
    from nstexp.core.errors import Stopped, UserError

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    overrides = list(hydra_cfg.overrides.task)
    sweep = hydra_cfg.mode == RunMode.MULTIRUN
    new_folder = outputs.is_unused(run_dir)
    first = run.is_first_process()
    try:
        if sweep:
            _check_sweep(cfg, hydra_cfg, overrides)
        result = outputs.finished(run_dir, OmegaConf.to_yaml(cfg, resolve=True)) if sweep else None
        if result is None:
            variants = _variants(cfg, overrides)
            result = run.run(cfg, run_dir, overrides, dict(hydra_cfg.runtime.choices), variants)
        else:
            logging.getLogger(__name__).info("finished before: %s", run_dir)
        found = outputs.objective(run_dir, cfg.objective)
    except (UserError, Stopped) as error:
        if isinstance(error, Stopped) and not run.is_first_process():
            sys.exit(0)  # all stop together, and Lightning would take another code for a crash and kill the first
        interrupted = isinstance(error, Stopped) and error.interrupted
        if sweep and not interrupted:
            raise JobFailed(str(error)) from None
        if isinstance(error, UserError) and new_folder and first:
            outputs.discard_unbegun(run_dir)
        code = EXIT_BAD_INPUT if isinstance(error, UserError) else EXIT_FAILED
        hint = _how_to_go_on(hydra_cfg) if sweep else ""
        _leave(f"{error}{hint}", EXIT_INTERRUPTED if interrupted else code)
    if first:
        print(result, flush=True)
    return found


def _check_sweep(cfg: DictConfig, hydra_cfg: DictConfig, overrides: list[str]) -> None:
    """Raise for what would go wrong because there are several jobs."""
    from nstexp.core.errors import UserError

    if cfg.get("output") is not None:
        raise UserError("output=... in a sweep would be written by every job: leave it out, each has a run folder")
    if any(override.startswith("run_dir=") for override in overrides):
        raise UserError("run_dir=... would be one folder for all jobs of a sweep: set hydra.sweep.dir=... instead")
    if "ddp" in str(cfg.trainer.get("strategy", "")).lower():
        raise UserError(
            "trainer=ddp starts this command once more for every device, which in a sweep would run "
            "the whole sweep as often: use one device per job, or start the jobs one by one"
        )
    if _searches(hydra_cfg) and cfg.objective is None:
        raise UserError("a search needs a number to go by: objective=style_gram or objective=[style_gram,content_loss]")


def _searches(hydra_cfg: DictConfig) -> bool:
    """Whether the sweeper chooses values by the results before, and not all of them beforehand."""
    return "optuna" in str(hydra_cfg.sweeper.get("_target_"))


def _how_to_go_on(hydra_cfg: DictConfig) -> str:
    if _searches(hydra_cfg):
        return ""  # it would choose other values
    return f"\nthe same command with hydra.sweep.dir={hydra_cfg.sweep.dir} goes on; jobs that are finished are kept"


def _variants(cfg: DictConfig, overrides: list[str]) -> dict[str, DictConfig]:
    """The configurations of a task that takes several methods: `cfg` once more for each, with its own overrides.

    task.methods is a list of methods, or label -> overrides, where the label is the method unless they name another.
    An override may be a list of them, so that a file can name what several methods share.
    """
    from nstexp.core.errors import UserError

    wanted = OmegaConf.to_container(cfg.task).get("methods") or {}
    wanted = [wanted] if isinstance(wanted, str) else wanted
    wanted = wanted if isinstance(wanted, dict) else {name: [] for name in wanted}
    shared = {key: value for key, value in OmegaConf.to_container(cfg, resolve=True).items() if key in SHARED}
    found = {}
    for label, own in wanted.items():
        own = [own] if isinstance(own, str) else own or []
        own = [each for entry in own for each in ([entry] if isinstance(entry, str) else entry)]
        method = [] if any(override.startswith("method=") for override in own) else [f"method={label}"]
        common = [override for override in overrides if not override.startswith(("method=", "++task.methods"))]
        try:
            found[str(label)] = compose("config", [*common, *method, *own])
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(f"task.methods, {label}: {_with_cause(error)}") from None
        for key, value in OmegaConf.to_container(found[str(label)], resolve=True).items():
            needless = key == "style" and None in (value, shared[key])  # of a network that has learned its styles
            if key in shared and value != shared[key] and not needless:
                raise UserError(f"task.methods, {label}: {key}=... holds for all methods, sweep it with -m instead")
    return found


def _one_method(args: list[str]) -> list[str]:
    """`method=[a,b]` as what Hydra composes: the first of them, and all of them for the task. Each brings layers,
    losses and weights of its own, so that they cannot be one configuration."""
    several = [re.fullmatch(r"method=\[(.+)\]", arg) for arg in args]
    replaced = []
    for arg, match in zip(args, several, strict=True):
        names = match[1].replace(" ", "").split(",") if match else []
        replaced += [f"method={names[0]}", f"++task.methods=[{','.join(names)}]"] if match else [arg]
    return replaced


def _in_sweep() -> bool:
    """Whether this is a job of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _sweep_name() -> str | None:
    """Name of the sweep's folder inside a multirun, for grouping runs."""
    return Path(HydraConfig.get().sweep.dir).name if _in_sweep() else None


def _job_name() -> str | None:
    """Name of a job among those of all sweeps."""
    return f"{_sweep_name()} {HydraConfig.get().job.num}" if _in_sweep() else None


def _print_samples() -> None:
    from nstexp.core import samples

    for image in samples.listing():
        print(f"{image.name:24} {image.title}")
    titles = {image.name: image.title for image in samples.listing()}
    for name, source in samples.learned_styles().items():
        print(f"{name:24} of method=cin: {titles.get(source, source)}")
