"""What was learned on which prompt: the mean reward of its answers, from time to time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from polopt.record import share_of_top
from polopt.report.plots import is_number
from polopt.report.read import Row, RunRecord

ROWS = 8  # of each list
POINTS = 60  # of a line
WIDTH, HEIGHT = 100, 20  # of the line of a prompt, in its own units
CHARACTERS = 160  # of a prompt


@dataclass(frozen=True)
class Learned:
    """What a prompt earned whenever it was asked."""

    key: str
    text: str  # how it begins; empty: it was not recorded
    first: float
    best: float
    last: float
    times: int
    line: str  # points of a polyline
    recorded: bool  # there are answers to it in the page

    @property
    def gain(self) -> float:
        """From the first time to the last one."""
        return self.last - self.first


@dataclass(frozen=True)
class Ranked:
    """The prompts of a stage by what was learned on them."""

    stage: str
    asked: int  # prompts in all
    again: int  # of them those that were asked more than once
    gain: float  # mean of these
    share: float | None  # of all gains, that the best tenth of the prompts has
    top: int  # prompts of this tenth
    lists: list[tuple[str, str, list[Learned]]]  # title, sentence, prompts


def ranked(record: RunRecord) -> list[Ranked]:
    """Of each stage in which prompts earned something."""
    texts = _texts(record)
    answered = {row["key"] for row in record.samples if isinstance(row.get("key"), str)}
    found = list[Ranked]()
    for stage in record.config["stages"]:
        rows = [row for row in record.earned if row.get("stage") == stage["name"]]
        if series := _series(rows):
            found.append(_ranked(stage["name"], series, texts, answered))
    return found


def _series(rows: Sequence[Row]) -> dict[str, list[float]]:
    """What each prompt earned, time after time."""
    found = dict[str, list[float]]()
    for row in sorted(rows, key=lambda row: row["step"]):
        for key, reward in row["earned"].items():
            if is_number(reward):
                found.setdefault(key, []).append(reward)
    return found


def _texts(record: RunRecord) -> dict[str, str]:
    """How prompts begin, by their key: as they were introduced, or as an answer was recorded."""
    found = dict[str, str]()
    for row in record.samples:
        if isinstance(row.get("key"), str):
            found.setdefault(row["key"], _asked(row))
    for row in record.earned:
        introduced: Mapping[str, Any] = row.get("introduced") or {}
        if isinstance(introduced, dict):
            found |= {key: text for key, text in introduced.items() if isinstance(text, str)}
    return found


def _asked(row: Row) -> str:
    match row.get("messages"):
        case [*_, {"content": str(content)}]:
            return content
        case _:
            return row["prompt"]


def _ranked(
    stage: str, series: Mapping[str, list[float]], texts: Mapping[str, str], answered: set[str]
) -> Ranked:
    every = [reward for rewards in series.values() for reward in rewards]
    low, high = min(every), max(every)
    again = [
        _learned(key, rewards, texts.get(key, ""), (low, high), key in answered)
        for key, rewards in series.items()
        if len(rewards) > 1
    ]
    gains = [one.gain for one in again]
    by_gain = sorted(again, key=lambda one: (-one.gain, -one.last))
    forgotten = [one for one in again if one.best - one.last > (high - low) / 2]
    forgotten.sort(key=lambda one: one.last - one.best)
    up = [one for one in by_gain if one.gain > 0][:ROWS]
    down = [one for one in reversed(by_gain) if one not in up][:ROWS]
    lists = [
        ("Learned most", "The largest gain from the first time to the last one.", up),
        ("Learned least", "The smallest gain, or a loss.", down),
        (
            "Forgotten",
            "Once answered well, and badly the last time: by more than half of the range of all "
            f"rewards below its best. {len(forgotten):,} in all.",
            forgotten[:ROWS],
        ),
    ]
    return Ranked(
        stage=stage,
        asked=len(series),
        again=len(again),
        gain=fmean(gains) if gains else 0.0,
        share=share_of_top(gains),
        top=math.ceil(len(gains) / 10),
        lists=[one for one in lists if one[2]],
    )


def _learned(
    key: str, rewards: Sequence[float], text: str, reach: tuple[float, float], recorded: bool
) -> Learned:
    shown = text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} …"
    line = _line(rewards, *reach)
    best = max(rewards)
    return Learned(key, shown, rewards[0], best, rewards[-1], len(rewards), line, recorded)


def _line(rewards: Sequence[float], low: float, high: float) -> str:
    """The rewards as the points of a line, the last ones where there are too many."""
    some, span = rewards[-POINTS:], high - low or 1.0
    step = WIDTH / (len(some) - 1)
    return " ".join(
        f"{place * step:.1f},{HEIGHT * (1 - (reward - low) / span):.1f}"
        for place, reward in enumerate(some)
    )
