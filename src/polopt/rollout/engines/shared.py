"""An engine in a thread of its own, asked by several others.

An engine is used by one thread, which generates while there is something to generate. Weights are
published between two of its turns, so that what is being decoded goes on with them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from polopt.rollout.engines.interface import Engine, Request, Weights
from polopt.rollout.timeline import Timeline
from polopt.types import Group

TURN = 5.0  # seconds for a turn of an engine to end by itself
BEAT = 0.05  # seconds between looks at whether an engine has failed


class EngineThread:
    """The thread of an engine. An error in it reaches everybody who waits, and who asks later.

    Args:
        engine: used by this thread alone.
        name: in the timeline.
        timeline: told when the engine generates, and when it takes over weights.
        abandon: has the engine raise where it waits for a process of its own.
        listen: called again and again by whoever waits: the engine may have something to tell.
    """

    def __init__(
        self,
        engine: Engine,
        name: str = "engine 1",
        timeline: Timeline | None = None,
        abandon: Callable[[], None] = lambda: None,
        listen: Callable[[], None] = lambda: None,
    ) -> None:
        self.listen = listen
        self._engine, self._name, self._abandon = engine, name, abandon
        self._timeline = timeline or Timeline()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._askers = dict[tuple[int, int], list[Asker]]()  # by ticket and prompt
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="polopt engine", daemon=True)
        self._thread.start()

    @property
    def version(self) -> int:
        """The version of the weights being served."""
        return self._engine.version

    def publish(self, weights: Weights, version: int) -> None:
        """Have the engine serve these weights, between two of its turns; returns when it does.

        Raises:
            Exception: that of an engine which has failed.
        """
        served = threading.Event()

        def publish() -> None:
            with self._timeline.during(self._name, "load", version):
                self._engine.publish(weights, version)
            served.set()

        self._calls.put(publish)
        while not served.wait(timeout=BEAT):
            if self._failure is not None:
                raise self._failure
            self.listen()

    def ask(self, asker: Asker, requests: Sequence[Request]) -> None:
        """Generate for somebody."""

        def submitted() -> None:
            for request in requests:
                self._askers.setdefault(_key(request), []).append(asker)
            self._engine.submit(requests)

        self._calls.put(submitted)

    @property
    def failure(self) -> BaseException | None:
        """Why there is no answer to be waited for any more; None while there may be one."""
        return self._failure

    def close(self) -> None:
        """End the thread, then the engine; what is being generated is given up."""
        self._calls.put(None)
        self._thread.join(TURN)
        if self._thread.is_alive():
            self._abandon()
            self._thread.join()
        self._engine.close()

    def _run(self) -> None:
        try:
            while self._obeyed():
                for group in self._polled():
                    key = (group.ticket, id(group.prompt))
                    askers = self._askers[key]
                    askers.pop(0).deliver(group)
                    if not askers:
                        del self._askers[key]
            self._failure = ClosedError()
        except BaseException as error:  # raised again by whoever waits
            self._failure = error

    def _polled(self) -> list[Group]:
        """The groups that got done in one turn of the engine; the turn goes into the timeline."""
        with self._timeline.during(self._name, "generate", self._engine.version) as finished:
            finished.extend(self._engine.poll())
        return finished

    def _obeyed(self) -> bool:
        """Make the calls that are due; wait for one while there is nothing to generate."""
        try:
            while True:
                call = self._calls.get(block=not self._askers)
                if call is None:
                    return False
                call()
        except Empty:
            return True


class ClosedError(Exception):
    """The engine was closed while somebody waited for it."""


def _key(request: Request) -> tuple[int, int]:
    return request.ticket, id(request.prompt)


class Asker:
    """An engine for one of several threads: the groups that it asked for, and no others.

    Args:
        threads: of the engines; a ticket goes to one of them by its number.
    """

    def __init__(self, threads: Sequence[EngineThread]) -> None:
        self._threads = threads
        self._done: SimpleQueue[Group] = SimpleQueue()

    @property
    def version(self) -> int:
        """The version of the weights being served."""
        return min(thread.version for thread in self._threads)

    def submit(self, requests: Sequence[Request]) -> None:
        """Ask."""
        for place, thread in enumerate(self._threads):
            own = [one for one in requests if one.ticket % len(self._threads) == place]
            if own:
                thread.ask(self, own)

    def deliver(self, group: Group) -> None:
        """Called by an engine's thread."""
        self._done.put(group)

    def poll(self) -> list[Group]:
        """Wait a little; the groups that are done.

        Raises:
            Exception: that of an engine which has failed.
        """
        try:
            found = [self._done.get(timeout=BEAT)]
        except Empty:
            for thread in self._threads:
                if thread.failure is not None:
                    raise thread.failure from None
                thread.listen()
            return []
        while not self._done.empty():
            found.append(self._done.get())
        return found

    def publish(self, weights: Weights, version: int) -> None:
        """Have every engine serve these weights."""
        for thread in self._threads:
            thread.publish(weights, version)

    def rest(self) -> None:
        """Others may be asking."""

    def close(self) -> None:
        """End the engines."""
        for thread in self._threads:
            thread.close()
