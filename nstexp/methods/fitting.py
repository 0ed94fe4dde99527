"""Lightning's `fit`, as a function that Ctrl-C interrupts like any other, and what to say where it diverges."""

import signal
import threading
from typing import Any

from pytorch_lightning import LightningModule, Trainer


def smaller_rate(optimizer: str, rate: float) -> str:
    """A learning rate to try where one is too large, by its key.

    Args:
        optimizer: its name among `method.optimizers`.
        rate: its learning rate.
    """
    return f"a smaller learning rate such as method.optimizers.{optimizer}.lr={rate / 4:.2g}"


def fit(trainer: Trainer, module: LightningModule, **data: Any) -> None:
    """`trainer.fit`, which by itself answers to Ctrl-C by `sys.exit(1)`, and may leave later ones without an answer.

    Args:
        data: arguments of `trainer.fit`.

    Raises:
        KeyboardInterrupt: by Ctrl-C.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, **data)
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGINT, handler)
