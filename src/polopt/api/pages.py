"""The page of a run while it goes on: written at intervals, for a small share of its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from polopt.coordination.stage import Event
from polopt.report import write

LEAST = 30.0  # seconds between two pages
SHARE = 0.02  # of the time of a run that its page may take

Page = Callable[[Path, float], object]
"""``(run, seconds) -> page``: writes the page of a run that is renewed after so many seconds."""


class Renewed:
    """An observer that writes the page of a run at the start of a stage and at intervals.

    A page that cannot be written ends no run: it is said once, and not tried again.

    Args:
        run: its directory.
        clock: seconds.
        page: writes it.
    """

    def __init__(
        self,
        run: Path,
        clock: Callable[[], float] = time.monotonic,
        page: Page = lambda run, seconds: write(run, renewed=seconds),
    ) -> None:
        self._run, self._clock, self._page = run, clock, page
        self._due: float | None = 0.0

    def hear(self, event: Event) -> list[Event]:
        """What is to be told: nothing, or why there is no page."""
        if event.kind not in ("stage", "metrics") or self._due is None:
            return []
        start = self._clock()
        if event.kind == "metrics" and start < self._due:
            return []
        try:
            self._page(self._run, LEAST)
        except Exception as error:  # of whatever kind: training is worth more than a page
            self._due = None
            text = f"report.html is not renewed: {type(error).__name__}: {error}"
            return [Event("message", {"text": text})]
        end = self._clock()
        self._due = end + max(LEAST, (end - start) / SHARE)
        return []
