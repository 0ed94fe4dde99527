"""The database in which Optuna keeps the trials of a search, `hydra.sweeper.storage`."""

import re
import warnings

from nstexp.core.errors import UserError
from nstexp.core.secrets import without_secrets


def make_storage(url: str) -> None:
    """Make the tables of a storage, unless it has them.

    Optuna 2 writes the version of its tables without ending the transaction. SQLAlchemy 2 discards it then, so that
    Optuna refuses every storage that it makes itself. Here each statement is a transaction.

    Args:
        url: such as sqlite:///study.db.

    Raises:
        UserError: the storage cannot be opened.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about SQLAlchemy's older names, which Optuna uses
        from optuna.storages import RDBStorage

        try:
            RDBStorage(url, engine_kwargs={"isolation_level": "AUTOCOMMIT"})
        except Exception as error:  # of Optuna, SQLAlchemy, or the driver of the database
            first = str(error).strip().partition("\n")[0]
            reason = re.sub(r"^\(\S+\) ", "", first) or type(error).__name__  # without the class of the driver
            text = f"hydra.sweeper.storage={url}: this storage cannot be opened ({reason})"
            raise UserError(without_secrets(text)) from error
