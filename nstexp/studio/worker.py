"""The one process that computes, and its queue.

The server starts it, sends it one job at a time, and starts it again if it dies. A job is a function of this package,
named as `module:function`, that takes a dictionary and returns something that can be pickled. Jobs that take no time,
such as reading an upload, run in a second thread of the same process, while a picture is being made. Every function
takes the dictionary and a function `tell`, by which it can report on its way.
"""

import asyncio
import atexit
import contextlib
import logging
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from nstexp.core.errors import UserError

log = logging.getLogger(__name__)

LOST = "the process that makes pictures has ended (out of memory, or killed); it starts again with the next picture"
REPLACED = "a newer request took the place of this one"
GRACE_S = 3.0  # for the process to end by itself, which leaves nothing behind
MOST_WAITING = 64  # jobs in the queue


class Replaced(UserError):
    """A newer job of the same kind and session took the place of this one."""


@dataclass
class Job:
    """A job in the queue.

    Args:
        call: `module:function`.
        payload: the argument of the function.
        replaces: jobs with the same key that still wait are replaced by this one; None: none are.
        done: the result, or an error.
        tell: called in the server's event loop with everything that the job reports on its way.
    """

    number: int
    call: str
    payload: dict[str, Any]
    replaces: str | None
    done: "asyncio.Future[Any]"
    tell: Callable[[Any], None] | None = None
    stopped: bool = False
    watcher: Any = None  # a task of the part that submitted the job; kept here so that it is not lost


class Worker:
    """The queue of jobs, as the server sees it. All methods are called in the server's event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._beside: dict[int, Job] = {}
        self._count = 0
        self._pipe: Connection | None = None
        self._process: BaseProcess | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def start(self) -> None:
        """Start the process, so that torch is imported before the first job comes."""
        self._closed, self._loop = False, asyncio.get_running_loop()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, os.getpid()), name="nstexp-studio", daemon=True)
        self._process.start()
        theirs.close()
        threading.Thread(target=self._listen, args=(self._pipe, self._loop), daemon=True).start()

    def close(self) -> None:
        """End the process."""
        self._closed = True
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._pipe.send(("end", 0, "", {}))
        if self._process is not None:
            self._process.join(GRACE_S + 2)
            if self._process.is_alive():
                self._process.kill()
        if self._pipe is not None:
            self._pipe.close()

    def submit(
        self,
        call: str,
        payload: dict[str, Any],
        *,
        replaces: str | None = None,
        tell: Callable[[Any], None] | None = None,
        first: bool = False,
    ) -> Job:
        """Put a job into the queue; `job.done` is its future.

        Args:
            call: `module:function`, below `nstexp.studio`.
            payload: the argument of the function.
            replaces: see `Job`.
            tell: see `Job`.
            first: whether it goes in front of all jobs that wait: for small previews.

        Raises:
            UserError: the queue is full.
        """
        if replaces is not None:
            for old in [job for job in self._waiting if job.replaces == replaces]:
                self._waiting.remove(old)
                _fail(old, Replaced(REPLACED))
        if len(self._waiting) >= MOST_WAITING:
            raise UserError("too many pictures wait already: try again when some of them are done")
        job = self._job(call, payload, replaces, tell)
        (self._waiting.appendleft if first else self._waiting.append)(job)
        self._next()
        return job

    async def ask(self, call: str, payload: dict[str, Any], *, replaces: str | None = None, first: bool = False) -> Any:
        """Put a job into the queue and wait for its result.

        Raises:
            UserError: the job failed, or another one replaced it (`Replaced`).
        """
        return await self.submit(call, payload, replaces=replaces, first=first).done

    async def beside(self, call: str, payload: dict[str, Any]) -> Any:
        """Run a short job at once, in the second thread of the process.

        Raises:
            UserError: the job failed.
        """
        job = self._job(call, payload, None, None)
        self._beside[job.number] = job
        self._send(("beside", job.number, call, payload))
        return await job.done

    def stop(self, job: Job) -> None:
        """Stop a job as Ctrl-C would: one that waits fails, one that runs keeps its best picture."""
        if job in self._waiting:
            self._waiting.remove(job)
            _fail(job, UserError("stopped before it began"))
        elif job is self._running:
            job.stopped = True
            self._send(("stop", job.number, "", {}))

    def place(self, job: Job) -> int:
        """How many jobs are in front of one that waits; 0 if it runs or is done."""
        return self._waiting.index(job) + 1 if job in self._waiting else 0

    def _job(self, call: str, payload: dict[str, Any], replaces: str | None, tell: Callable[[Any], None] | None) -> Job:
        self._count += 1
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody may wait for it
        return Job(self._count, call, payload, replaces, done, tell)

    def _next(self) -> None:
        """Begin the next job if none runs."""
        while self._running is None and self._waiting:
            job = self._waiting.popleft()
            if job.done.done():  # the browser no longer waits for it
                continue
            self._running = job
            self._send(("run", job.number, job.call, job.payload))

    def _send(self, message: tuple[str, int, str, dict[str, Any]]) -> None:
        if self._process is None or not self._process.is_alive():
            self.start()
        assert self._pipe is not None
        with contextlib.suppress(OSError):  # it has just died: `_lost` fails its jobs
            self._pipe.send(message)

    def _listen(self, pipe: Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Pass the process's messages to the event loop; it sleeps between them."""
        with contextlib.suppress(EOFError, OSError, RuntimeError):  # RuntimeError: the loop is closed
            while True:
                message = pipe.recv()
                loop.call_soon_threadsafe(self._heard, message)
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._lost, pipe)

    def _heard(self, message: tuple[str, int, Any]) -> None:
        kind, number, value = message
        running = self._running if self._running and self._running.number == number else None
        job = running or self._beside.get(number)
        if job is None:
            return
        if kind == "tell":
            if job.tell is not None:
                job.tell(value)
            return
        self._beside.pop(number, None)
        if running:
            self._running = None
        if job.done.done():
            pass
        elif kind == "result":
            job.done.set_result(value)
        else:
            _fail(job, UserError(value))
        self._next()

    def _lost(self, pipe: Connection) -> None:
        """The process has died: fail its jobs, and go on with those that wait in a new one."""
        if self._closed or pipe is not self._pipe:
            return
        for job in [*filter(None, [self._running]), *self._beside.values()]:
            _fail(job, UserError(LOST))
        self._running, self._beside = None, {}
        if self._process is not None:
            self._process.join(5)
        self._next()


def _fail(job: Job, error: Exception) -> None:
    if not job.done.done():
        job.done.set_exception(error)


# ------------------------------------------------------------------------------------------- inside the process


class _Desk:
    """The process's side of the pipe: what runs, and a lock, because two threads send."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.running = pipe, 0
        self._lock = threading.Lock()

    def send(self, kind: str, number: int, value: Any) -> None:
        with self._lock, contextlib.suppress(OSError):
            self.pipe.send((kind, number, value))


def _work(pipe: Connection, parent: int) -> None:
    """The main function of the process. It ends when the server does, since the pipe ends then."""
    import _thread
    import queue
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal reaches the server, which ends this process
    desk, jobs, small = _Desk(pipe), queue.SimpleQueue[Any](), queue.SimpleQueue[Any]()

    def listen() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, number, call, payload = pipe.recv()
                if kind == "run":
                    jobs.put((number, call, payload))
                elif kind == "beside":
                    small.put((number, call, payload))
                elif kind == "end":
                    break
                elif desk.running == number:
                    _thread.interrupt_main()  # as Ctrl-C on the command line, which keeps the best picture
        # The server ends, or it is gone.
        jobs.put(None)
        if desk.running:
            _thread.interrupt_main()
        time.sleep(GRACE_S)
        os._exit(0)

    def beside() -> None:
        while True:
            number, call, payload = small.get()
            _do(desk, number, call, payload)

    from nstexp.studio import painting  # with torch

    threading.Thread(target=listen, daemon=True).start()
    threading.Thread(target=beside, daemon=True).start()
    painting.warm_up()
    while (job := jobs.get()) is not None:
        number, call, payload = job
        desk.running = number
        try:
            _do(desk, number, call, payload)
        finally:
            desk.running = 0
    atexit._run_exitfuncs()  # they remove the locks of the process
    os._exit(0)  # at once, without taking torch apart


def _do(desk: _Desk, number: int, call: str, payload: dict[str, Any]) -> None:
    """Run one job and send its result, or the sentence of its error."""
    from nstexp.core.errors import Stopped

    module, _, name = call.partition(":")
    try:
        function = getattr(import_module(f"nstexp.studio.{module}"), name)
        desk.send("result", number, function(payload, lambda value: desk.send("tell", number, value)))
    except (UserError, Stopped) as error:
        desk.send("error", number, str(error))
    except KeyboardInterrupt:
        desk.send("error", number, "stopped; there is no picture yet")
    except MemoryError:
        desk.send("error", number, "there is not enough memory for this picture: make it smaller")
    except Exception as error:  # a mistake in nstexp must not end the studio
        log.exception("a job of the studio failed")
        desk.send(
            "error", number, f"this is a mistake in nstexp ({type(error).__name__}: {' '.join(str(error).split())})"
        )
