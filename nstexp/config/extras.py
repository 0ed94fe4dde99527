"""Packages that only some settings need: which are missing is known before anything is done."""

from importlib.util import find_spec
from typing import Any

from nstexp.core.errors import UserError

# What a logger needs one of, and how it is installed.
OF_LOGGERS = {
    "TensorBoardLogger": (("tensorboard", "tensorboardX"), "'nstexp[tensorboard]'"),
    "MLFlowLogger": (("mlflow", "mlflow_skinny"), "mlflow"),
    "CometLogger": (("comet_ml",), "comet-ml"),
    "NeptuneLogger": (("neptune",), "neptune"),
}


def check_loggers(entries: Any) -> None:
    """Raise a UserError for a logger whose package is not installed.

    Args:
        entries: name -> settings with a `_target_`, or None.
    """
    for name, entry in (entries or {}).items():
        target = str((entry or {}).get("_target_")).rpartition(".")[2]
        packages, install = OF_LOGGERS.get(target, ((), ""))
        if packages and not any(map(_is_there, packages)):
            raise UserError(f"logger={name} needs a package that is not installed: pip install {install}")


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # a module without a record of where it came from
        return True
