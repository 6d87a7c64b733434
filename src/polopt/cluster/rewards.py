"""Reward functions of a user in actors of Ray: one call at a time, killed where an answer is late.

An actor that dies over a call may have been killed by somebody, or lost with its node; so another
one is asked once more, with the same seed. A function that brings its process down does so again,
and that is the outcome.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from polopt.isolated import serving
from polopt.isolated.calls import Raised, Returned
from polopt.isolated.origins import Origin
from polopt.isolated.processes import START, DiedError
from polopt.isolated.workers import UnloadableError, environment

TRIES = 2  # of a call whose actor dies


class RewardHost:
    """The actor: it loads functions and calls them."""

    def __init__(self, path: Sequence[str]) -> None:
        os.environ.pop("PYTHONSAFEPATH", None)  # it was for the start
        serving.seed_imports()
        sys.path += [entry for entry in path if entry not in sys.path]

    def ready(self) -> None:
        """Say that the actor is there."""

    def load(self, origin: Origin, directory: str) -> str | None:
        """Make a function known, as the next number; what went wrong, on one line."""
        if not os.path.isdir(directory):
            node = ray.util.get_node_ip_address()
            return f"the working directory {directory} is not there on the node {node}"
        return serving.load(origin, START)

    def run(
        self, number: int, arguments: Mapping[str, Any], seed: int, limit: float, directory: str
    ) -> tuple[Returned | Raised, str]:
        """Call a function by its number; what came of it, and what it printed."""
        return serving.run(number, arguments, seed, limit, directory)


class RewardActor:
    """One actor, with the functions that it was asked for; see :class:`isolated.workers.Worker`."""

    def __init__(self) -> None:
        self.alive = True
        self._start()

    def ask(
        self, arguments: tuple[Origin, Mapping[str, Any], int], limit: float
    ) -> Returned | Raised:
        """Call a function, given by ``(origin, arguments, seed)``.

        Raises:
            TimeoutError: there was no answer within ``limit`` seconds.
            DiedError: the actor died over the call, and so did the next one.
            UnloadableError: the function cannot be loaded there.
        """
        for left in reversed(range(TRIES)):
            try:
                self._revived()
                return self._answer(*arguments, limit)
            except DiedError:
                if not (left and self.alive):  # or somebody ended it
                    self.kill()
                    raise
                self._start()
        raise AssertionError("the last try returns or raises")

    def kill(self) -> None:
        """End the actor."""
        self.alive = False
        with suppress(RayError, ValueError):
            ray.kill(self._actor)

    def _start(self) -> None:
        host: Any = ray.remote(RewardHost)
        self._actor = host.options(
            num_cpus=0,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": environment()},
        ).remote([entry for entry in sys.path if entry])
        self._numbers = dict[Origin, int]()

    def _revived(self) -> None:
        """Start another actor if this one ended while it had nothing to do."""
        try:
            self._result(self._actor.ready.remote(), START)
        except DiedError:
            self._start()
            try:
                self._result(self._actor.ready.remote(), START)
            except TimeoutError as error:
                raise DiedError("no actor for rewards starts") from error

    def _answer(
        self, origin: Origin, arguments: Mapping[str, Any], seed: int, limit: float
    ) -> Returned | Raised:
        if origin not in self._numbers:
            try:
                problem = self._result(self._actor.load.remote(origin, os.getcwd()), START)
            except TimeoutError:
                problem = f"it takes more than {START:g} s"
            if problem is not None:
                raise UnloadableError(problem)
            self._numbers[origin] = len(self._numbers)
        number = self._numbers[origin]
        asked = self._actor.run.remote(number, arguments, seed, limit, os.getcwd())
        answer, said = self._result(asked, limit)
        if said:
            sys.stderr.write(said)
        return answer

    def _result(self, reference: Any, limit: float) -> Any:  # noqa: ANN401
        try:
            return ray.get(reference, timeout=limit)
        except GetTimeoutError as error:
            self.kill()
            raise TimeoutError from error
        except RayTaskError:
            raise  # a bug of ours: what a function raises is an answer
        except RayError as error:
            raise DiedError("its process died") from error
        except BaseException:  # an interrupt
            self.kill()
            raise
