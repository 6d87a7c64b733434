"""vLLM's asynchronous engine: its process, the event loop that talks to it, and how both end.

vLLM waits without end for a process that was killed or stands still. Here every wait is beside a
heartbeat: the process lives, and answers a small question within :data:`PATIENCE` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import active_children, resource_tracker
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

from polopt.errors import EngineError, UserError, one_line

T = TypeVar("T")
PATIENCE = 120.0  # seconds without an answer after which the engine counts as hung
_ERROR = re.compile(r"^.*\bERROR\b.*?\] (\w+(?:Error|Exception): .*)$", re.MULTILINE)
VISIBLE = "CUDA_VISIBLE_DEVICES"
BEAT = 0.25  # seconds between looks at it
DEFAULTS = {  # of vLLM's environment, where the user sets nothing else
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer uses the same cores
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with threads may lock up
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # CUDA IPC handles, between our own two processes
}


class _LostError(Exception):
    """The engine does not answer any more; the message says how that showed."""


class Server:
    """A running engine of vLLM.

    Args:
        arguments: gives those of ``AsyncEngineArgs``.
        patience: seconds without an answer after which it counts as hung.
        gpu: the only one that its process sees, by its name in ``CUDA_VISIBLE_DEVICES``; None:
            those that this one sees.

    Raises:
        EngineError: it does not start.
    """

    def __init__(
        self,
        arguments: Callable[[], Mapping[str, Any]],
        patience: float,
        gpu: str | None = None,
    ) -> None:
        self._patience, self._workers = patience, list[int]()
        self._question: asyncio.Future[object] | None = None  # of the heartbeat
        self._since = 0.0  # when it was asked
        with NamedTemporaryFile(prefix="polopt-vllm-", suffix=".log", delete=False) as log:
            self.log = Path(log.name)
        self.loop = asyncio.new_event_loop()
        # What was asked is awaited; what else is left when the engine fails is no news.
        self.loop.set_exception_handler(_ignore)
        self._thread = threading.Thread(target=self._talk, daemon=True)
        others = set(active_children())
        try:
            with output_to(self.log), _seeing(gpu):
                resource_tracker.ensure_running()  # later it would unblock the signals of _talk
                self._thread.start()
                self.vllm: Any = self._run(_started(arguments))
            logging.getLogger("vllm").handlers = [logging.FileHandler(self.log)]
        except BaseException as error:  # whatever vLLM makes of a model, a device, a package
            for process in set(active_children()) - others:
                process.kill()
            self._stop_loop()
            if not isinstance(error, Exception):
                raise
            raise self._told(f"did not start: {_reason(self.log, error)}") from error
        (self.process,) = set(active_children()) - others
        ids = self.call(self.vllm.collective_rpc("polopt_guard", args=(os.getpid(),)), "the start")
        self._workers = [os.pidfd_open(worker) for worker in ids]

    def call(self, work: Coroutine[Any, Any, T], doing: str, patience: float = 0.0) -> T:
        """The result of something asked of the engine.

        Args:
            work: on the engine's event loop.
            doing: for messages.
            patience: seconds beyond the usual; a large transfer blocks the engine for long.

        Raises:
            EngineError: it died, hung, or refused; it is ended, and leaves no process.
        """
        from vllm.v1.engine.exceptions import (  # pyright: ignore[reportMissingImports]
            EngineDeadError,
        )

        try:
            found = self._run(self._beside_heartbeat(work, self._patience + patience))
            if patience:
                self._question = None  # asked while the engine was blocked: that is no hang
            return found
        except (_LostError, EngineDeadError) as error:
            how = str(error) if isinstance(error, _LostError) else self._death()
            self.close(keep_log=True)
            raise self._told(f"{how} during {doing}") from error
        except UserError:
            self.close(keep_log=True)
            raise
        except Exception as error:  # of vLLM, in whatever class
            self.close(keep_log=True)
            raise self._told(f"failed in {doing}: {one_line(error)}") from error

    def close(self, *, keep_log: bool = False) -> None:
        """End the engine, its process and the event loop."""
        if self.loop.is_closed():
            return

        with suppress(Exception):  # it may be broken; what counts is the process
            asyncio.run_coroutine_threadsafe(self._shut_down(), self.loop).result(10)
        self.process.kill()
        self.process.join(10)
        for worker in self._workers:
            with suppress(ProcessLookupError):  # it ended with its parent
                signal.pidfd_send_signal(worker, signal.SIGKILL)
            os.close(worker)
        self._stop_loop()
        if not keep_log:
            self.log.unlink(missing_ok=True)

    async def _shut_down(self) -> None:
        vllm, self.vllm = self.vllm, None  # its finaliser has to run before the interpreter ends
        vllm.shutdown(timeout=0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _talk(self) -> None:
        """Run the event loop. vLLM's processes inherit that its thread takes no signals.

        A Ctrl-C in a terminal goes to all processes of it; the trainer still has a step to finish.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        self.loop.run_forever()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _beside_heartbeat(self, work: Awaitable[T], patience: float) -> T:
        """The result of the work, unless the engine is lost before."""
        working = asyncio.ensure_future(work)
        beating = asyncio.ensure_future(self._heartbeat(patience))
        try:
            await asyncio.wait({working, beating}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await beating
            return await working
        finally:
            working.cancel()
            beating.cancel()

    async def _heartbeat(self, patience: float) -> None:
        """Ends with an error when the engine is dead, or answers nothing for too long.

        A question outlives what was asked beside it: a poll is shorter than any patience.
        """
        while True:
            question = self._question
            if question is None:
                question = self._question = asyncio.ensure_future(self.vllm.get_weight_version())
                self._since = time.monotonic()
            while not question.done():
                if not self.process.is_alive():
                    raise _LostError(self._death())
                if time.monotonic() - self._since > patience:
                    raise _LostError(f"did not answer for {patience:.0f} s")
                await asyncio.wait({question}, timeout=BEAT)
            self._question = None
            question.result()
            await asyncio.sleep(BEAT)

    def _death(self) -> str:
        """How the process died."""
        self.process.join(5)
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"was killed by signal {-code}"
        return f"died: {_reason(self.log, 'it left no reason')}"

    def _told(self, what: str) -> EngineError:
        error = EngineError(f'rollout.engine: "vllm" {what}')
        error.add_note(f"its log is {self.log}")
        return error

    def _stop_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


async def _started(arguments: Callable[[], Mapping[str, Any]]) -> Any:  # noqa: ANN401
    """Start the engine, on the loop that will talk to it."""
    from vllm.engine.arg_utils import AsyncEngineArgs  # pyright: ignore[reportMissingImports]
    from vllm.v1.engine.async_llm import AsyncLLM  # pyright: ignore[reportMissingImports]

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments()))


def environment() -> None:
    """Set what vLLM reads when it is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def _seeing(gpu: str | None) -> Generator[None]:
    """Have processes that are started meanwhile see one GPU; this one has long seen its own."""
    before = os.environ.get(VISIBLE)
    if gpu is not None:
        os.environ[VISIBLE] = gpu
    try:
        yield
    finally:
        if before is not None:
            os.environ[VISIBLE] = before
        elif gpu is not None:
            del os.environ[VISIBLE]


@contextmanager
def output_to(log: Path) -> Generator[None]:
    """Standard output and error into a file; a process that is started meanwhile keeps that."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with log.open("ab") as file:
        for number, _ in kept:
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in kept:
            os.dup2(before, number)
            os.close(before)


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception handler of an event loop."""


def _reason(log: Path, otherwise: object) -> str:
    """The first error in a log, which the others follow from."""
    found = _ERROR.search(log.read_text(encoding="utf-8", errors="replace"))
    return one_line(found[1] if found else otherwise)
