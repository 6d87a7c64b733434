"""A run without its work: the ledger of the product, driven by a simulated clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from polopt.coordination.ledger import End, Ledger, Ticket
from polopt.diagnose.simulation.distributions import Draws
from polopt.diagnose.simulation.engine import Clock, Costs, Engine, Work
from polopt.types import Group, Prompt, Sample, Span

Key = Callable[[Ticket, int], Any]
_PROMPT = Prompt(0, "", ())
_ARRAYS = (np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Setting:
    """One way of coordinating a run."""

    prompts: int  # P, a step
    staleness: int = 0  # S
    window: int = 1  # W
    engines: int = 1
    trainers: int = 1
    shared: bool = False  # engines and trainers are the same devices, in turn
    engine_devices: int = 1  # of each engine
    threads: int = 1  # that roll out; each takes its share of the tickets at a time
    key: Key = field(default=lambda ticket, _: ticket.id)  # order in the window
    max_age: int | None = None

    @property
    def share(self) -> int:
        """Tickets that a thread claims at once."""
        return -(-self.prompts * (self.staleness + 1) // self.threads)

    def speed(self, efficiency: float) -> float:
        """Of the trainers, relative to one: ``n · efficiency ^ log2 n``."""
        return self.trainers * efficiency ** math.log2(self.trainers)

    @property
    def devices(self) -> int:
        """All that are held."""
        engines = self.engines * self.engine_devices
        return max(engines, self.trainers) if self.shared else engines + self.trainers


@dataclass(frozen=True)
class Simulated:
    """What a setting comes to, after the first steps."""

    seconds_per_step: float
    tokens_per_second: float  # that were trained on
    trainer_idle: float  # share of the time in which it waits for a batch
    engine_idle: float  # share in which an engine neither decodes nor takes over weights
    rows: float  # in flight on an engine while it decodes
    rollout_seconds: float  # of generating, for every thread and claim
    lag_mean: float  # versions between drawing a token and training on it, over tokens
    lag_max: int
    lag_bound: int
    lags: dict[int, float]  # share of the tokens of each lag
    stale: int  # groups that were given up, a step
    device_seconds_per_step: float


@dataclass
class _Call:
    """The tickets of one claim; they are scored together, when all are generated."""

    works: list[Work]
    left: int
    reward: float  # seconds: groups are scored side by side
    since: float


@dataclass(frozen=True)
class _Mark:
    """Sums until the end of a step."""

    time: float
    waited: float
    decoding: float
    loading: float
    row_seconds: float
    calls: int
    rollout: float
    stale: int


def simulate(
    setting: Setting, costs: Costs, draws: Draws, *, steps: int, warm: int = 0
) -> Simulated:
    """Run ``warm + steps`` steps, and measure the last ones.

    Args:
        setting: what is coordinated.
        costs: of its parts.
        draws: lengths and seconds by ticket.
        steps: measured.
        warm: steps before them, in which the ledger fills.
    """
    run = _Run(setting, costs, draws, range(warm + 1, warm + steps + 1))
    while len(run.marks) <= warm + steps:
        run.clock.turn()
    first, last = run.marks[warm], run.marks[-1]
    seconds, decoding = last.time - first.time, last.decoding - first.decoding
    busy = decoding + last.loading - first.loading
    tokens = sum(run.lags.values())
    shares = {lag: count / tokens for lag, count in sorted(run.lags.items())}
    return Simulated(
        seconds_per_step=seconds / steps,
        tokens_per_second=tokens / seconds if seconds else math.inf,
        trainer_idle=(last.waited - first.waited) / seconds if seconds else 0.0,
        engine_idle=1 - busy / (seconds * setting.engines) if seconds else 0.0,
        rows=(last.row_seconds - first.row_seconds) / decoding if decoding else 0.0,
        rollout_seconds=(last.rollout - first.rollout) / max(1, last.calls - first.calls),
        lag_mean=sum(lag * share for lag, share in shares.items()),
        lag_max=max(shares),
        lag_bound=run.ledger.lag_bound,
        lags=shares,
        stale=(last.stale - first.stale) // steps,
        device_seconds_per_step=seconds / steps * setting.devices,
    )


class _Run:
    """Threads that roll out, as in ``ThreadedSource``, engines, and one trainer of many devices."""

    def __init__(self, setting: Setting, costs: Costs, draws: Draws, counted: range) -> None:
        self.clock, self.marks = Clock(), list[_Mark]()
        self.lags = dict[int, float]()  # tokens of each
        self.ledger = Ledger(setting.prompts, staleness=setting.staleness, window=setting.window)
        self._setting, self._costs, self._draws, self._counted = setting, costs, draws, counted
        self._engines = [Engine(self.clock, costs, self._made) for _ in range(setting.engines)]
        self._speed = setting.speed(costs.efficiency)
        self._free = setting.threads
        self._calls = dict[int, _Call]()  # by ticket
        self._works = dict[int, Work]()  # delivered
        self._asked: float | None = None  # since when the trainer waits; None: it trains
        self._waited = self._rollout = 0.0
        self._claims = 0
        self._ask()

    def _ask(self) -> None:
        """The trainer asks for a batch; the threads go on with the free slots."""
        self.ledger.admit()
        self._mark()
        self._asked = self.clock.now
        self._roll_out()
        self._train()

    def _roll_out(self) -> None:
        """Threads without a task claim their share of the tickets."""
        while self._free and (works := self._claimed()):
            self._free -= 1
            call = _Call(works, len(works), 0.0, self.clock.now)
            for work in works:
                lengths, seconds, _ = self._draws(work.ticket)
                call.reward = max(call.reward, seconds)
                self._calls[work.ticket] = call
                self._engines[work.ticket % len(self._engines)].submit(work, lengths)

    def _claimed(self) -> list[Work]:
        works = list[Work]()
        while len(works) < self._setting.share and (ticket := self.ledger.claim(math.inf)):
            drawn = self._draws(ticket.id)
            size = len(drawn.lengths)
            works.append(Work(ticket.id, ticket.attempt, size, size, spread=drawn.spread))
        return works

    def _made(self, work: Work) -> None:
        """An engine has generated a group; the last one of a claim has them scored."""
        call = self._calls.pop(work.ticket)
        call.left -= 1
        if not call.left:
            self._rollout += self.clock.now - call.since
            self._claims += 1
            self.clock.after(call.reward, partial(self._delivered, call))

    def _delivered(self, call: _Call) -> None:
        for work in call.works:
            self._works[work.ticket] = work
            self.ledger.deliver(work.ticket, work.attempt, _group(work))
        self._free += 1
        self._roll_out()
        self._train()

    def _train(self) -> None:
        """Take a batch if the trainer waits and one is complete."""
        if self._asked is None or (batch := self._taken()) is None:
            return
        self._waited += self.clock.now - self._asked
        self._asked = None
        works = [self._works.pop(group.ticket) for group in batch]
        tokens = sum(work.tokens for work in works)
        if len(self.marks) in self._counted:
            for lag, some in _lags(works, self.ledger.version):
                self.lags[lag] = self.lags.get(lag, 0.0) + some
        ids = [work.ticket for work in works]
        self.clock.after(tokens * self._costs.update / self._speed, partial(self._publish, ids))

    def _taken(self) -> list[Group] | None:
        setting, version = self._setting, self.ledger.version
        if setting.max_age is not None:
            late = self.ledger.older_than(version - setting.max_age)
            if late:
                self.ledger.release(late, End.STALE)
                self.ledger.admit()
                self._roll_out()
        return self.ledger.take(lambda ticket: setting.key(ticket, version))

    def _publish(self, ids: list[int], place: int = 0) -> None:
        """Weights go to one engine after the other; with the last one the slots are free."""
        if place == len(self._engines):
            self.ledger.published(self.ledger.version + 1)
            self.ledger.release(ids, End.TRAINED)
            self._ask()
            return
        self._engines[place].stop()
        self.clock.after(self._costs.publish, partial(self._published, ids, place))

    def _published(self, ids: list[int], place: int) -> None:
        self._engines[place].serve()
        self._publish(ids, place + 1)

    def _mark(self) -> None:
        for engine in self._engines:
            engine.advance()
        self.marks.append(
            _Mark(
                self.clock.now,
                self._waited,
                sum(engine.decoding for engine in self._engines),
                sum(engine.loading for engine in self._engines),
                sum(engine.row_seconds for engine in self._engines),
                self._claims,
                self._rollout,
                self.ledger.ended[End.STALE],
            )
        )


def _lags(works: Iterable[Work], version: int) -> Iterator[tuple[int, float]]:
    """How far behind ``version`` tokens were drawn, and how many."""
    for work in works:
        for drawn_by, tokens in work.drawn.items():
            yield version - drawn_by, tokens


def _group(work: Work) -> Group:
    """What the ledger and its order look at: versions, and the spread of the rewards."""
    spans = tuple(Span(version, 0, 0) for version in work.drawn)
    pair = (Sample(*_ARRAYS, 0, spans, reward=reward) for reward in (-work.spread, work.spread))
    return Group(work.ticket, _PROMPT, tuple(pair))
