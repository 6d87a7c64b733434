"""What the ranks of a run tell each other once a step: requests to stop, and warnings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polopt.coordination.stage import Event, Observer
from polopt.ranks import Ranks


class Several:
    """The requests to stop and the warnings of all ranks, exchanged once a step.

    Args:
        ranks: of the run.
        asked: the number of the signal that this rank got, 0: none.
    """

    def __init__(self, ranks: Ranks, asked: Callable[[], int]) -> None:
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

    def stop(self, observe: Observer) -> int:
        """The signal that any rank got: all of them stop at the same step.

        Warnings of other ranks are told on the way, where this one has not given them itself.
        """
        said = self._ranks.said([self._asked(), self._warnings])
        for rank, (_, warnings) in enumerate(said):
            for text in warnings:
                if text not in self._known:
                    observe(Event("warning", self._where | {"message": f"rank {rank}: {text}"}))
        self._warnings.clear()  # those that were told just now, too
        return max(signal for signal, _ in said)
