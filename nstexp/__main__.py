"""Entry point of `python -m nstexp` and of the console script; it handles Ctrl-C from the first moment to the last."""

import atexit
import os
import sys
from typing import Any, NoReturn

from nstexp import interrupts, streams
from nstexp.core.runtime.cores import prepare_for_torch


def main() -> None:
    """Run the command line and exit with its code."""
    interrupts.leave_at_once(interrupts.EXIT_INTERRUPTED, "interrupted")
    streams.prepare()
    prepare_for_torch()
    atexit.register(interrupts.ignore)  # the last exit function, before the interpreter shuts down
    from nstexp import help as help_
    from nstexp.completion import shells

    if shells.asked(sys.argv[1:]):  # before Hydra is imported, because a person waits behind the Tab key
        _complete()

    code: Any = 0
    try:
        if not help_.answered(sys.argv[1:]):
            from nstexp import cli  # it imports Hydra, which takes time

            cli.main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = interrupts.EXIT_INTERRUPTED
    except SystemExit as end:
        code = end.code
    interrupts.leave_at_once(code if isinstance(code, int) else 0)
    if code == interrupts.EXIT_INTERRUPTED:
        _end_now(code)
    sys.exit(code)


def _complete() -> NoReturn:
    """Print what the shell's completion asks for, and exit."""
    from nstexp.commands import errors_on_one_line
    from nstexp.completion import shells

    with errors_on_one_line():
        text = shells.answer(sys.argv[1:])
        sys.stdout.buffer.write(os.fsencode(text + "\n" * bool(text)))  # names of files that are no Unicode, too
        sys.stdout.flush()
    sys.exit(0)


def _end_now(code: int) -> None:
    """Exit with this code, without waiting for threads such as one that uploads pictures.

    Without it, Python would change the exit code after Ctrl-C at certain moments.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
