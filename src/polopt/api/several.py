"""What the ranks of a run tell each other once a step: requests to end, and warnings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from polopt.coordination.stage import Event, Observer, Request
from polopt.ranks import Ranks


class Several:
    """The requests to end and the warnings of all ranks, exchanged once a step.

    Args:
        ranks: of the run.
        asked: of this rank, by a signal or by an alarm.
    """

    def __init__(self, ranks: Ranks, asked: Callable[[], Request | None]) -> None:
        self._ranks, self._asked = ranks, asked
        self._warnings, self._known = list[str](), set[str]()
        self._where: dict[str, Any] = {"step": 0, "stage": ""}  # of the newest line of metrics

    def saw(self, event: Event) -> None:
        """Keep a warning of this rank for the others, and where the run is."""
        if event.kind == "metrics":
            self._where = {name: event.values[name] for name in ("step", "stage")}
        elif event.kind == "warning":
            text = str(event.values["message"])
            self._known.add(text)
            if not self._ranks.alone:
                self._warnings.append(text)

    def stop(self, observe: Observer) -> Request | None:
        """The request of any rank, a signal before an alarm: all of them end at the same step.

        Warnings of other ranks are told on the way, where this one has not given them itself.
        """
        own = self._asked()
        said = self._ranks.said([own and asdict(own), self._warnings])
        for rank, (_, warnings) in enumerate(said):
            for text in warnings:
                if text not in self._known:
                    observe(Event("warning", self._where | {"message": f"rank {rank}: {text}"}))
        self._warnings.clear()  # those that were told just now, too
        asked = [Request(**request) for request, _ in said if request is not None]
        return max(asked, key=lambda request: request.signal, default=None)
