"""An engine under a simulated clock: rows that share it, one token each at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush

NEAR = 1e-9  # relative; places that differ by rounding are one


class Clock:
    """The simulated time, and what is due when."""

    def __init__(self) -> None:
        self.now = 0.0  # seconds
        self._due = list[tuple[float, int, Callable[[], None]]]()
        self._asked = 0

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call so many seconds from now; of what is due at the same time, the first asked first."""
        self._asked += 1
        heappush(self._due, (self.now + seconds, self._asked, call))

    def turn(self) -> None:
        """Go on to whatever is due next."""
        self.now, _, call = heappop(self._due)
        call()


@dataclass(frozen=True)
class Costs:
    """What the parts of a run cost."""

    token: float  # seconds of a decoding step of an engine
    update: float  # seconds of training on a token, on one trainer
    row: float = 0.0  # seconds that every row in flight adds to a decoding step
    rows: int | None = None  # decoded together; None: all that are asked for
    publish: float = 0.0  # seconds of new weights for an engine, which decodes nothing meanwhile
    efficiency: float = 1.0  # share of the speed that is kept when trainers double

    def step(self, rows: int) -> float:
        """Seconds of a decoding step with so many rows: ``token + row · rows``."""
        return self.token + self.row * rows


@dataclass
class Work:
    """One group while it is made; internal to the simulation."""

    ticket: int
    attempt: int
    left: int  # responses that are not done
    unstarted: int
    tokens: float = 0.0
    drawn: dict[int, float] = field(default_factory=dict[int, float])  # version -> tokens
    spread: float = 0.0
    end: float = 0.0  # place of the last of the responses that have started

    def add(self, version: int, tokens: float) -> None:
        """This version has drawn so many more of its tokens."""
        self.drawn[version] = self.drawn.get(version, 0.0) + tokens


class Engine:
    """Rows in flight draw a token each per decoding step; others wait for their places.

    The *place* of an engine is the number of tokens that a row would have drawn which is in flight
    since the beginning: a response of n tokens that starts at place x ends at x + n, whatever the
    steps cost until then.
    """

    def __init__(self, clock: Clock, costs: Costs, done: Callable[[Work], None]) -> None:
        self._clock, self._costs, self._done = clock, costs, done
        self._rows = costs.rows or 1_000_000_000
        self._waiting = deque[tuple[Work, float]]()
        self._running = list[tuple[float, int, Work, float]]()  # heap: end, order, work, start
        self._ends = list[float]()  # heap: those of whole groups
        self._place = self._since = 0.0
        self._order = self._plan = 0
        self._stopped = False
        self._served = [0.0]  # places from which on each version was
        self.decoding = 0.0  # seconds with rows in flight that were not stopped
        self.row_seconds = 0.0  # the same for every row
        self.loading = 0.0  # seconds in which it was stopped

    def submit(self, work: Work, lengths: Sequence[float]) -> None:
        """Generate responses of so many tokens."""
        self.advance()
        self._waiting.extend((work, length) for length in lengths)
        self._go_on()

    def stop(self) -> None:
        """Decode nothing until :meth:`serve`."""
        self.advance()
        self._stopped = True
        self._go_on()

    def serve(self) -> None:
        """Go on with the weights of the next version."""
        self.advance()
        self._served.append(self._place)
        self._stopped = False
        self._go_on()

    def advance(self) -> None:
        """Bring the rows to the present; those whose end has come make room."""
        seconds, self._since = self._clock.now - self._since, self._clock.now
        rows = len(self._running)
        if self._stopped:
            self.loading += seconds
            return
        if not rows:
            return
        step = self._costs.step(rows)
        self._place += seconds / step
        self.decoding += seconds
        self.row_seconds += rows * seconds
        running, over = self._running, 0.0
        reached = self._place * (1 + NEAR)
        while running and running[0][0] <= reached:
            end, _, work, start = heappop(running)
            over += self._place - end
            self._stamp(work, start, end)
            work.left -= 1
            if not work.left:
                heappop(self._ends)
                self._done(work)
        self.row_seconds -= over * step

    def _stamp(self, work: Work, start: float, end: float) -> None:
        """Which versions drew the tokens of a response."""
        version = len(self._served) - 1
        while self._served[version] > start:
            if self._served[version] < end:
                work.add(version, end - self._served[version])
                end = self._served[version]
            version -= 1
        work.add(version, end - start)

    def _go_on(self) -> None:
        """Start rows that have room, and plan the next moment at which something happens."""
        waiting, running = self._waiting, self._running
        while waiting and len(running) < self._rows:
            work, length = waiting.popleft()
            self._order += 1
            end = self._place + length
            heappush(running, (end, self._order, work, self._place))
            work.tokens += length
            if end > work.end:
                work.end = end
            work.unstarted -= 1
            if not work.unstarted:
                heappush(self._ends, work.end)
        self._plan += 1
        if running and not self._stopped:
            left = max(0.0, self._next() - self._place)
            seconds = left * self._costs.step(len(running))
            self._clock.after(seconds, partial(self._due, self._plan))

    def _next(self) -> float:
        """The place of the next event: the end of a row, where that matters to others, or a group.

        It does where a row waits for room, or the others are faster without it.
        """
        alone = not self._costs.row and not self._waiting
        return self._ends[0] if alone else self._running[0][0]

    def _due(self, plan: int) -> None:
        if plan == self._plan:  # nothing came in between
            self.advance()
            self._go_on()
