"""`python -m nstexp`: Hydra's entry point and the exit codes. torch is imported inside the job, so help is fast."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PACKAGE = Path(__file__).resolve().parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130


class JobFailed(Exception):
    """One job of a sweep failed; its text is the sentence for the user. Hydra goes on with the other jobs."""


def main() -> None:
    """Entry point of `python -m nstexp` and of the console script."""
    if sys.argv[1:2] == ["samples"]:
        _print_samples()
        return
    OmegaConf.register_new_resolver("sweep_name", _sweep_name, replace=True)
    command = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_job)
    if "HYDRA_FULL_ERROR" in os.environ:
        command()
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
        del os.environ["HYDRA_FULL_ERROR"]


def _leave(sentence: str, code: int) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(code)


def _with_cause(error: Exception) -> str:
    group, _, option = str(getattr(error, "missing_cfg_file", None) or "").rpartition("/")
    if group and (CONF / group).is_dir():  # Hydra would list its search path, and of a list's options none
        known = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        return f"Could not find '{group}/{option}': {group}=... takes {known}"
    cause = error.__cause__
    return f"{error}\n{cause}" if isinstance(cause, OmegaConfBaseException) else str(error)


def _job(cfg: DictConfig) -> None:
    from nstexp import outputs, run
    from nstexp.core.errors import Stopped, UserError

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    overrides = list(hydra_cfg.overrides.task)
    sweep = hydra_cfg.mode == RunMode.MULTIRUN
    new_folder = outputs.is_unused(run_dir)
    first = run.is_first_process()
    try:
        if sweep and cfg.get("output") is not None:
            raise UserError("output=... in a sweep would be written by every job: leave it out, each has a run folder")
        if sweep and any(override.startswith("run_dir=") for override in overrides):
            raise UserError("run_dir=... would be one folder for all jobs of a sweep: set hydra.sweep.dir=... instead")
        if sweep and "ddp" in str(cfg.trainer.get("strategy", "")).lower():
            raise UserError(
                "trainer=ddp starts this command once more for every device, which in a sweep would run "
                "the whole sweep as often: use one device per job, or start the jobs one by one"
            )
        result = run.run(cfg, run_dir, overrides, dict(hydra_cfg.runtime.choices))
    except (UserError, Stopped) as error:
        if isinstance(error, Stopped) and not run.is_first_process():
            sys.exit(0)  # all stop together, and Lightning would take another code for a crash and kill the first
        interrupted = isinstance(error, Stopped) and error.interrupted
        if sweep and not interrupted:
            raise JobFailed(str(error)) from None
        if isinstance(error, UserError) and new_folder and first:
            outputs.discard_unbegun(run_dir)
        code = EXIT_BAD_INPUT if isinstance(error, UserError) else EXIT_FAILED
        _leave(str(error), EXIT_INTERRUPTED if interrupted else code)
    if first:
        print(result, flush=True)


def _sweep_name() -> str | None:
    """Name of the sweep's folder inside a multirun, for grouping runs."""
    cfg = HydraConfig.get()
    return Path(cfg.sweep.dir).name if cfg.mode == RunMode.MULTIRUN else None


def _print_samples() -> None:
    from nstexp.core import samples

    for image in samples.listing():
        print(f"{image.name:24} {image.title}")


if __name__ == "__main__":
    main()
