"""Check a command of the form with the code of the command line, before anything is started.

The check runs in a process of its own, in the folder of the studio, because Hydra keeps its state in the process and
paths begin in the current folder. `python -m nstexp.studio.checking` reads a line of JSON for each command and prints a
line of JSON. It stays for a while, because its start takes longer than a check.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nstexp.core.errors import UserError

LIMIT_SECONDS = 120.0  # of one check
IDLE_SECONDS = 90.0  # without a check, after which the process ends


def python() -> list[str]:
    """The interpreter, told not to import modules from the current folder where it can be told."""
    return [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else [])]


class Checker:
    """Checks commands in another process, one after another. Its methods may be called from any thread.

    Args:
        folder: where the commands will run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._idle: threading.Timer | None = None

    def examine(self, words: Sequence[str]) -> dict[str, Any]:
        """Check a command; waits for the checks before it.

        Args:
            words: of the command line, `key=value`.

        Returns:
            problems: [{key (or null), sentence}]; sweep: whether it needs -m; total: number of jobs (or null); keys:
            those with several values; jobs: [{key: value}] of the first jobs.

        Raises:
            UserError: the check takes too long, or breaks.
        """
        with self._turn:
            process = self._ready()
            assert process.stdin is not None and process.stdout is not None
            limit = threading.Timer(LIMIT_SECONDS, process.kill)
            limit.daemon = True
            limit.start()
            try:
                process.stdin.write(json.dumps({"words": list(words)}) + "\n")
                process.stdin.flush()
                found: dict[str, Any] = json.loads(process.stdout.readline())
            except (ValueError, OSError):
                _end(process)
                raise UserError("the check of this command took too long, or broke; try again") from None
            finally:
                limit.cancel()
            self._idle = threading.Timer(IDLE_SECONDS, _end, (process,))
            self._idle.daemon = True
            self._idle.start()
        if "bug" in found:
            raise UserError(f"the command could not be checked: {found['bug']}")
        return found

    def _ready(self) -> "subprocess.Popen[str]":
        """The process, started if it does not run."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [*python(), "-m", "nstexp.studio.checking"],
                stdin=subprocess.PIPE,  # its end ends the process, also when the server was killed
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self.folder,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C at the server is not for it
            )
        return self._process


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # something was still to be written
                stream.close()


def examined(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Like `Checker.examine`, in this process, whose current folder is `folder`."""
    from nstexp.examining import WrongValue
    from nstexp.examining import examine as check
    from nstexp.studio.wishes import Refused, check_paths, key_of

    try:
        sweep, plan = check(words, lambda key, value: check_paths(key, value, folder))
    except UserError as error:
        sentence = str(error)
        known = error.key if isinstance(error, Refused | WrongValue) else None
        problem = {"key": known or key_of(sentence, words), "sentence": sentence}
        return {"problems": [problem], "sweep": False, "total": None, "keys": [], "jobs": []}
    return {"problems": [], "sweep": sweep, "total": plan.total, "keys": plan.keys, "jobs": plan.jobs}


def main() -> None:
    """Entry point of `python -m nstexp.studio.checking`."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries that print must not disturb the answers
    for line in sys.stdin:
        try:
            found = examined(json.loads(line)["words"], Path(os.getcwd()))
        except Exception as error:  # a mistake in nstexp, which must not end the studio
            found = {"bug": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
