"""Run Lightning's `fit` so that Ctrl-C raises KeyboardInterrupt as usual, and advice for a training that diverges."""

import signal
import threading
from typing import Any

from pytorch_lightning import LightningModule, Trainer


def smaller_rate(optimizer: str, rate: float) -> str:
    """Advice for a learning rate that is too large: the config key with a quarter of the rate, for an error message.

    Args:
        optimizer: the optimizer's name among `method.optimizers`.
        rate: the current learning rate.
    """
    return f"a smaller learning rate such as method.optimizers.{optimizer}.lr={rate / 4:.2g}"


def fit(trainer: Trainer, module: LightningModule, **data: Any) -> None:
    """Call `trainer.fit` with the usual behavior of Ctrl-C.

    Lightning alone turns Ctrl-C into `sys.exit(1)`, and may leave its signal handler installed, so that a later Ctrl-C
    has no effect.

    Args:
        data: keyword arguments of `trainer.fit`.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, **data)
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGINT, handler)
