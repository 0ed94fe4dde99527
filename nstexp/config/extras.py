"""Packages that only some settings need, checked before any work begins."""

from importlib.util import find_spec
from typing import Any

from nstexp.core.errors import UserError

# Class of a logger -> packages of which it needs one, and what to install.
OF_LOGGERS = {
    "TensorBoardLogger": (("tensorboard", "tensorboardX"), "'nstexp[tensorboard]'"),
    "MLFlowLogger": (("mlflow", "mlflow_skinny"), "mlflow"),
    "CometLogger": (("comet_ml",), "comet-ml"),
    "NeptuneLogger": (("neptune",), "neptune"),
}


def check_loggers(entries: Any) -> None:
    """Check that the packages of all chosen loggers are installed.

    Args:
        entries: name of a logger -> its settings with a `_target_`, or None.

    Raises:
        UserError: a package is missing.
    """
    for name, entry in (entries or {}).items():
        target = str((entry or {}).get("_target_")).rpartition(".")[2]
        packages, install = OF_LOGGERS.get(target, ((), ""))
        if packages and not any(map(_is_installed, packages)):
            raise UserError(f"logger={name} needs a package that is not installed: pip install {install}")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # the module is loaded, but has no __spec__
        return True
