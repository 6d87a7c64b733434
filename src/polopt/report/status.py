"""Where a run stands, from its files alone: for ``polopt watch``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polopt.record import headline_of, open_existing, words_of
from polopt.record.following import Owner, Tail, owner
from polopt.record.shown import figures
from polopt.report.plots import is_number
from polopt.report.text import duration
from polopt.resolution import did_nothing_in

FILES = ("metrics", "warnings", "alarms")
PACE = 20  # steps whose seconds say how long the rest takes
TREND = 24  # values of a figure that are drawn
STANDS_STILL = 10.0  # times a usual step without a line, beyond which that is said
NOT_PARTS = ("reward/mean", "reward/std", "reward/greedy")


@dataclass(frozen=True)
class Figure:
    """A figure now, at the first step that had it, and its way there."""

    name: str
    now: float
    first: float
    trend: Sequence[float]
    note: str = ""  # such as an interval


@dataclass(frozen=True)
class Status:
    """A run as it stands."""

    directory: str
    name: str
    goes_on: bool
    state: str  # whether it goes on, and how that is known
    stage: str
    algorithm: str
    place: tuple[int, int]  # of the stage among all of them, from 1 on
    step: int  # of the stage
    steps: int
    seconds_a_step: float | None
    left: float | None  # seconds that the stage still takes
    figures: Sequence[Figure]
    alarms: Sequence[str]
    warnings: Sequence[str]
    did_nothing: Sequence[str]


class Watched:
    """A run directory that is looked at again and again; only what was added is read.

    Raises:
        RunDirectoryError: it is none.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = open_existing(directory).config
        self._tails = {name: Tail(directory / f"{name}.jsonl") for name in FILES}

    def look(self, now: float | None = None) -> Status:
        """The run as it stands; ``now`` is the time, in seconds since 1970."""
        metrics, warnings, alarms = (self._tails[name].look() for name in FILES)
        finished = (self._directory / "summary.json").is_file()
        found = status(self._directory, self._config, metrics, warnings, alarms)
        age = self._age(time.time() if now is None else now)
        goes_on, state = _state(found, owner(self._directory), age, finished)
        return replace(found, goes_on=goes_on, state=state, left=found.left if goes_on else None)

    def _age(self, now: float) -> float | None:
        """Seconds since the newest line of metrics, by the clock of the file."""
        path = self._directory / "metrics.jsonl"
        written = path.is_file() and path.stat().st_size
        return max(0.0, now - path.stat().st_mtime) if written else None


def status(
    directory: Path,
    config: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    warnings: Sequence[Mapping[str, Any]],
    alarms: Sequence[Mapping[str, Any]],
) -> Status:
    """Where a run stands, by what it has recorded; whether it goes on is not known from that."""
    stages: list[dict[str, Any]] = config["stages"]
    names = [stage["name"] for stage in stages]
    newest = metrics[-1]["stage"] if metrics else names[0]
    place = names.index(newest)
    lines = [line for line in metrics if line["stage"] == newest]
    steps = [line for line in lines if line["stage_step"]]
    wanted = int((stages[place].get("settings") or {}).get("run.steps") or 0)
    done = int(steps[-1]["stage_step"]) if steps else 0
    taken = [line["time/step"] for line in steps[-PACE:] if "time/step" in line]
    pace = statistics.median(taken) if taken else None
    return Status(
        directory=str(directory),
        name=str(config.get("name") or directory.name),
        goes_on=False,
        state="",
        stage=newest,
        algorithm=str(stages[place].get("algorithm", "")),
        place=(place + 1, len(names)),
        step=done,
        steps=wanted,
        seconds_a_step=pace,
        left=None if pace is None else pace * max(0, wanted - done),
        figures=[*_held_out(lines), *_of_steps(steps)],
        alarms=[_alarm(line) for line in alarms],
        warnings=[
            str(line["message"])
            for line in warnings
            if not str(line["message"]).startswith("alarm ")
        ],
        did_nothing=did_nothing_in(config, lines).get(newest, []),
    )


def _state(
    found: Status, owned: Owner | None, age: float | None, finished: bool
) -> tuple[bool, str]:
    """Whether the run goes on, and that in words."""
    since = "no step yet" if age is None else f"the last line is {duration(age)} old"
    if owned is None:
        resume = f"polopt resume {found.directory} goes on"
        return False, "finished" if finished else f"stopped, {since}; {resume}"
    who = f"process {owned.process} on {owned.host}"
    if owned.lives is False:
        return False, f"{who} is gone, {since}; polopt resume {found.directory} goes on"
    usual = found.seconds_a_step
    still = age is not None and usual is not None and age > STANDS_STILL * usual + 60
    far = "; whether it lives cannot be seen from this machine" if owned.lives is None else ""
    word = "stands still" if still else "runs"
    return True, f"{word}: {who}, {since}{far}"


def _of_steps(steps: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The figures of training: those of the progress bar, and rewards by part."""
    if not steps:
        return []
    named = [
        (name, [v for line in steps for n, v in figures(line) if n == name])
        for name, _ in figures(steps[-1])
    ]
    parts = [n for n in steps[-1] if n.startswith("reward/") and n not in NOT_PARTS]
    if len(parts) > 1:
        named += [
            (f"reward {n.removeprefix('reward/')}", [x[n] for x in steps if n in x])
            for n in sorted(parts)
        ]
    return [
        Figure(name, values[-1], values[0], values[-TREND:])
        for name, values in named
        if is_number(values[-1])
    ]


def _held_out(lines: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The headline of the evaluations, with the interval of the newest."""
    evaluated = [line for line in lines if any(name.startswith("eval/") for name in line)]
    if not evaluated:
        return []
    newest = evaluated[-1]
    name = headline_of([one.removeprefix("eval/") for one in newest if one.startswith("eval/")])
    if name is None:
        return []
    values = [line[f"eval/{name}"] for line in evaluated if f"eval/{name}" in line]
    low, high = (newest.get(f"eval/{name}_{end}") for end in ("low", "high"))
    interval = f"{low:.3f} to {high:.3f}, " if is_number(low) and is_number(high) else ""
    note = f"{interval}at step {newest['stage_step']}"
    return [Figure(f"held-out {words_of(name)}", values[-1], values[0], values[-TREND:], note)]


def _alarm(line: Mapping[str, Any]) -> str:
    if "back_to" in line:
        return (
            f"step {line['step']}: back to step {line['back_to']}, after the alarm {line['alarm']}"
        )
    return f"step {line['step']}: {str(line['message']).removeprefix('alarm ')}"
