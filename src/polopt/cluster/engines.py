"""Engines in actors of Ray, for a trainer that does not notice where they are.

An actor that dies or stands still is replaced: the new one gets the weights that are served, and
what was asked of the old one. Draws go by the request, so the answers are those that the old one
would have given with these weights. Whatever an old actor still says is not listened to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from polopt.cluster.hosting import Done, EngineHost, Hosted, Made, Served
from polopt.cluster.weights import Parcel, Parcels
from polopt.errors import EngineError, UserError, counted, one_line
from polopt.models import LanguageModel
from polopt.models.skeleton import skeleton
from polopt.recipe.schema import Coordination
from polopt.rollout.engines import Request, Weights
from polopt.rollout.engines.interface import Arrival
from polopt.rollout.engines.shared import ClosedError
from polopt.types import Group, Prompt

IN_A_ROW = 3  # actors that may be lost without an answer in between
END = 10.0  # seconds for an actor to end what belongs to it
START = 300.0  # seconds for an actor to start; at least so many for its first weights
Start = Callable[[], Any]
"""Starts an actor and returns its handle."""


class _LostError(Exception):
    """An actor is no longer there, or stands still; the message says how that showed."""


def remote_engines(
    language_model: LanguageModel,
    how: Made,
    settings: Coordination,
    tell: Callable[[str], None],
) -> list[RemoteEngine]:
    """Engines for a policy; their actors start at once, and side by side.

    Args:
        language_model: the policy that is trained, or a whole copy of it.
        how: the engine in each actor is made.
        settings: how many engines, and how long to wait for one.
        tell: of actors that are lost.
    """
    model = language_model.model
    cuda = model.device.type == "cuda"
    described = Hosted(
        how,
        skeleton(language_model),
        tuple(n for n, weight in model.named_parameters() if weight.requires_grad),
        device=model.device.type,
        threads=torch.get_num_threads(),
    )
    reference, parcels = ray.put(described), Parcels(model)
    host: Any = ray.remote(EngineHost)
    host = host.options(
        num_cpus=1 if cuda else how.devices,
        num_gpus=how.devices if cuda else 0,
        max_restarts=0,
        scheduling_strategy="SPREAD",
    )
    return [
        RemoteEngine(
            lambda: host.remote(reference),
            parcels,
            f"engine {number} of {settings.engines}",
            settings.patience / 2,  # before the run gives up
            tell,
        )
        for number in range(1, settings.engines + 1)
    ]


class RemoteEngine:
    """An engine in an actor; used by one thread.

    Args:
        start: an actor.
        parcels: the weights that are trained, and the reference of those that are not.
        name: for messages.
        patience: seconds without an answer after which an actor counts as hung.
        tell: of actors that are lost.
    """

    def __init__(
        self,
        start: Start,
        parcels: Parcels,
        name: str,
        patience: float,
        tell: Callable[[str], None],
    ) -> None:
        self._start, self._parcels, self._name = start, parcels, name
        self._patience, self._tell = patience, tell
        self._parcel: Parcel | None = None  # that has to be served
        self._served: Served | None = None  # by the actor as it is now
        self._asked = 0  # requests so far: their numbers
        self._pending = dict[int, Request]()
        self._unsent = list[int]()  # to this actor
        self._lost = 0  # actors since the last answer
        self._abandoned = threading.Event()
        self._actor, self._runs = start(), False

    @property
    def version(self) -> int:
        """The version of the weights being served."""
        return 0 if self._parcel is None else self._parcel.version

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests."""
        for request in requests:
            self._asked += 1
            self._pending[self._asked] = request
            self._unsent.append(self._asked)

    def poll(self) -> list[Group]:
        """Go on for a while; the groups that got done.

        Raises:
            EngineError: too many actors died or hung in a row, or none starts.
        """
        if not self._pending:
            return []
        done: Done = self._called(self._work)
        for text in done.told:
            self._tell(f"{self._name}: {text}")
        if done.groups:
            self._lost = 0
        answered = [(self._pending.pop(number), samples) for number, samples in done.groups]
        return [Group(request.ticket, request.prompt, samples) for request, samples in answered]

    def publish(self, weights: Weights, version: int) -> None:
        """Serve the weights as they are now; what is being generated goes on with them.

        Raises:
            EngineError: too many actors died or hung in a row, or one serves other weights.
        """
        self._parcel, self._served = self._parcels(version, weights), None
        self._called(lambda: None)

    def arrived(self, probe: Sequence[Request]) -> Arrival:
        """What the actor serves, in its own words."""
        return self._called(lambda: self._actor.arrived.remote([*map(_bare, probe)]))

    def rest(self) -> None:
        """Others may be asking."""

    def abandon(self) -> None:
        """Have whoever waits for the actor give up; called by another thread."""
        self._abandoned.set()
        with suppress(RayError, ValueError):
            ray.kill(self._actor)

    def close(self) -> None:
        """End the actor."""
        with suppress(RayError):  # it may be gone, or hang
            ray.get(self._actor.close.remote(), timeout=END)
        with suppress(RayError, ValueError):
            ray.kill(self._actor)

    def _work(self) -> Any:  # noqa: ANN401 - a reference
        numbers, self._unsent = self._unsent, []
        return self._actor.work.remote([(n, _bare(self._pending[n])) for n in numbers])

    def _called(self, ask: Callable[[], Any]) -> Any:  # noqa: ANN401
        """The answer to a question, from an actor that serves the right weights.

        Args:
            ask: asks the actor as it is then, and returns the reference of the answer; None where
                there is nothing to ask.
        """
        while not self._abandoned.is_set():
            try:
                if self._served is None:
                    self._served = self._serve()
                reference = ask()
                return None if reference is None else self._answer(reference, self._patience)
            except _LostError as lost:
                if not self._abandoned.is_set():
                    self._replace(str(lost))
        raise ClosedError

    def _serve(self) -> Served:
        """Bring the actor to the current weights.

        Raises:
            EngineError: it serves others.
        """
        parcel = self._parcel
        assert parcel is not None, "published"
        if not self._runs:
            self._begin()
        asked = self._actor.serve.remote([self._parcels.frozen], parcel.reference, parcel.version)
        served: Served = self._answer(asked, max(START, self._patience))
        if (served.version, served.checksum) != (parcel.version, parcel.checksum):
            raise EngineError(
                f"coordination.mode: {self._name} serves version {served.version} with checksum "
                f"{served.checksum:x} and was given version {parcel.version} with "
                f"{parcel.checksum:x}"
            )
        return served

    def _begin(self) -> None:
        """Wait until the actor runs: then it has its slots.

        Raises:
            EngineError: it does not.
        """
        try:
            self._answer(self._actor.ready.remote(), START)
        except _LostError as lost:
            if not isinstance(lost.__cause__, GetTimeoutError):
                raise
            raise EngineError(
                f"coordination.engines: {self._name} does not start in {START:g} s: its slots are "
                "held by others, or gone with a node"
            ) from lost
        self._runs = True

    def _answer(self, reference: Any, patience: float) -> Any:  # noqa: ANN401
        try:
            return ray.get(reference, timeout=patience)
        except GetTimeoutError as error:
            raise _LostError(f"did not answer in {patience:g} s") from error
        except RayTaskError as error:
            cause: Any = error.cause
            if isinstance(cause, EngineError):  # a process of its own died in the actor
                raise _LostError(f"failed: {cause}") from error
            if isinstance(cause, UserError):
                raise cause from error
            raise
        except RayActorError as error:
            raise _LostError("died") from error
        except RayError as error:
            raise _LostError(f"was lost: {one_line(error, 120)}") from error

    def _replace(self, how: str) -> None:
        """Start another actor, which has everything to do that was not answered.

        Raises:
            EngineError: it would be one too many.
        """
        where = ""
        if self._served is not None:
            where = f" (process {self._served.process} on {self._served.node})"
        self.close()
        self._lost += 1
        if self._lost > IN_A_ROW:
            raise EngineError(
                f"coordination.engines: {self._name}{where} {how}, and so did "
                f"{counted(self._lost - 1, 'actor')} before it without an answer in between"
            )
        again = counted(len(self._pending), "request")
        self._tell(f"{self._name}{where} {how}; another actor takes over, {again} to do again")
        self._served, self._unsent = None, list(self._pending)
        self._actor, self._runs = self._start(), False


def _bare(request: Request) -> Request:
    """A request with what an engine reads of its prompt."""
    prompt = request.prompt
    return replace(request, prompt=Prompt(prompt.id, "", prompt.tokens))
