"""One episode before training and one after it, as the page plays and draws them.

Numbers go to the script as integer multiples of a quantum, each as its difference from the one
before, which takes a fifth of the characters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from polopt.report.plots import is_number
from polopt.report.read import Row
from polopt.report.text import duration, number

MAX_STEPS = 1_000  # of an episode that are drawn
MAX_FRAMES = 2_000_000  # characters of a sheet of pictures
MAX_LINES, MAX_PANELS = 6, 4  # of plain observations: lines in a panel, panels
PARTS = 1_000  # quanta in the largest number of a series, at least
SPARE = 1 / 30  # seconds of a step where the environment names none


@dataclass(frozen=True)
class Track:
    """One plot over an episode."""

    index: int  # in the data
    title: str
    unit: str
    sentence: str
    labels: list[str]
    bars: bool


@dataclass(frozen=True)
class Played:
    """One episode."""

    title: str  # Before, After
    total: float
    fate: str  # how it ended, and when
    spoken: str  # for screen readers


@dataclass(frozen=True)
class Watched:
    """One or two episodes, with all that the page shows of them."""

    episodes: list[Played]
    tracks: list[Track]
    terms: list[tuple[str, list[float]]]  # of the reward: sum over each episode
    facts: list[tuple[str, list[float | None]]]  # of the environment, about each episode
    pictured: bool  # whether there is a drawing or pictures to play
    no_frames: str  # why there are none; "": unknown
    until: int  # step at which pictures end before the episode does; 0: they last to its end
    every: int  # steps in one moment of the page
    data: dict[str, Any]  # for the script

    @property
    def heading(self) -> str:
        """The heading above the episodes."""
        if len(self.episodes) == 1:
            return f"{self.episodes[0].title} training"
        return "Before and after"


def watched(rows: Sequence[Row]) -> Watched | None:
    """The last recorded episodes before and after training; None without any."""
    latest = {row["kind"]: row for row in rows if row["kind"] in ("before", "after")}
    found = [latest[kind] for kind in ("before", "after") if kind in latest]
    if not found:
        return None
    every = max(1, *(math.ceil(len(row["rewards"]) / MAX_STEPS) for row in found))
    panels = [_panels(row) for row in found]
    pictured = any("drawing" in row or _small_enough(row) for row in found)
    return Watched(
        episodes=[_played(row) for row in found],
        tracks=[
            Track(i, one["title"], one["unit"], one["sentence"], list(one["lines"]), one["bars"])
            for i, one in enumerate(panels[-1])
        ],
        terms=[(name, [sum(row["terms"][name]) for row in found]) for name in _terms(found)],
        facts=_facts(found),
        pictured=pictured,
        no_frames=_no_frames(found[-1]),
        until=max(_pictured_until(row) for row in found) if pictured else 0,
        every=every,
        data={
            "seconds": every * _seconds(found[-1]),
            "timed": is_number(found[-1].get("seconds")),
            "every": every,
            "episodes": [
                _episode(row, panel, every) for row, panel in zip(found, panels, strict=True)
            ],
        },
    )


def _small_enough(row: Row) -> bool:
    """Whether there are pictures, small enough for the page."""
    return "frames" in row and len(row["frames"]["image"]) <= MAX_FRAMES


def _no_frames(row: Row) -> str:
    """Why there are no pictures, in words for those who do not know the code of the environment."""
    if "frames" in row and not _small_enough(row):
        return "they are too large for this page"
    said = re.sub(r"^data\.source: '[^']*':? ", "", str(row.get("no_frames", ""))).rstrip(".")
    if said == NotImplementedError.__name__:
        return "the environment does not draw any"
    if "render_mode" in said and "argument" in said:
        return 'the environment does not take render_mode = "rgb_array", which asks for them'
    if re.fullmatch(r"[A-Z]\w*", said):
        return f"drawing failed, and the error, {said}, says no more"
    return said


def _pictured_until(row: Row) -> int:
    frames = row.get("frames")
    last = frames["count"] * frames["every"] if frames else 0
    return last if last < len(row["rewards"]) else 0


def _seconds(row: Row) -> float:
    seconds = row.get("seconds")
    return seconds if is_number(seconds) and seconds > 0 else SPARE


def _terms(rows: Sequence[Row]) -> list[str]:
    """Terms that all episodes have."""
    tables: list[Mapping[str, Any]] = [row.get("terms") or {} for row in rows]
    return [name for name in tables[-1] if all(name in table for table in tables)]


def _facts(rows: Sequence[Row]) -> list[tuple[str, list[float | None]]]:
    """The facts of the environment about the episodes."""
    tables: list[Mapping[str, Any]] = [row.get("facts") or {} for row in rows]
    names = dict.fromkeys(name for table in tables for name in table)
    return [
        (
            name.replace("_", " "),
            [value if is_number(value := t.get(name)) else None for t in tables],
        )
        for name in names
    ]


def _played(row: Row) -> Played:
    steps = len(row["rewards"])
    total = row["return"] if is_number(row.get("return")) else sum(row["rewards"])
    lasted = f"{steps:,} steps"
    if is_number(row.get("seconds")):
        lasted = f"{duration(steps * row['seconds'])}, {lasted}"
    fates = {
        "terminated": f"over after {lasted}",
        "truncated": f"lasted to its time limit: {lasted}",
    }
    fate = fates.get(str(row.get("ending")), lasted)
    title = str(row["kind"]).capitalize()
    spoken = f"The episode {title.lower()} training: {fate}; its return is {number(total)}."
    return Played(title, total, fate, spoken)


def _panels(row: Row) -> list[dict[str, Any]]:
    """The panels: the series of the environment, else observations; and the rewards."""
    own = list(row.get("panels") or []) or _observed(row)
    terms: Mapping[str, Any] = row.get("terms") or {}
    parts = terms if len(terms) > 1 else {}
    lines = {"in all" if parts else "reward": row["rewards"], **parts}
    return [
        *({"bars": False, "sentence": "", **panel} for panel in own),
        {
            "title": "Reward, by term" if parts else "Reward",
            "unit": "a step",
            "sentence": "The reward of each step" + (", and its parts." if parts else "."),
            "lines": lines,
            "bars": False,
        },
        {
            "title": "Return so far, by term" if parts else "Return so far",
            "unit": "",
            "sentence": "The sum of the rewards; its last value is the return.",
            "lines": {name: [0.0, *accumulate(values)] for name, values in lines.items()},
            "bars": False,
        },
    ]


def _observed(row: Row) -> list[dict[str, Any]]:
    """Observations and actions by their numbers, a few in each panel."""
    found: list[dict[str, Any]] = []
    for title, values in (("Observation", row.get("observations")), ("Action", row.get("actions"))):
        columns = _columns(values or [])
        for start in range(0, min(len(columns), MAX_LINES * MAX_PANELS), MAX_LINES):
            some = columns[start : start + MAX_LINES]
            names = [str(start + i) for i in range(len(some))]
            span = "" if len(columns) == 1 else f" {names[0]} to {names[-1]} of {len(columns)}"
            lines = dict(zip(names, some, strict=True))
            found.append({"title": title + span, "unit": "", "lines": lines})
    return found


def _columns(values: Sequence[Any]) -> list[list[float]]:
    if not values:
        return []
    rows = [value if isinstance(value, list) else [value] for value in values]
    return [list(column) for column in zip(*rows, strict=False)]


def _episode(row: Row, panels: Sequence[Mapping[str, Any]], every: int) -> dict[str, Any]:
    """What the script needs of one episode: its moments, thinned and packed."""

    def packed(values: Sequence[float], largest: float = 0.0) -> dict[str, Any]:
        return pack(_thin(values, every), largest)

    found: dict[str, Any] = {
        "steps": len(row["rewards"]),
        "moments": len(_thin(range(len(row["rewards"]) + 1), every)),
        "returns": packed([0.0, *accumulate(row["rewards"])]),
        "tracks": [
            {
                "bars": bool(panel["bars"]),
                "lines": [packed(values) for values in panel["lines"].values()],
            }
            for panel in panels
        ],
    }
    drawing, frames = row.get("drawing"), row.get("frames")
    if drawing:
        left, right, _, _ = drawing["window"]
        found["drawing"] = {
            **drawing,
            "points": {
                name: [packed([at[i] for at in _moving(place)], right - left) for i in (0, 1)]
                for name, place in drawing["points"].items()
            },
            "amounts": {name: packed(values) for name, values in drawing["amounts"].items()},
        }
    elif frames and _small_enough(row):
        found["frames"] = {**frames, "every": frames["every"] / every}
    return found


def _moving(place: Sequence[Any]) -> Sequence[Any]:
    """A point over time, [F, 2]; a fixed one as [1, 2]."""
    return place if place and isinstance(place[0], list) else [place]


def _thin(values: Sequence[Any], every: int) -> Sequence[Any]:
    """Every n-th moment, and the last one."""
    if every == 1 or len(values) < 2:
        return values
    return [*values[: len(values) - 1 : every], values[-1]]


def pack(values: Sequence[float], largest: float = 0.0) -> dict[str, Any]:
    """Integer multiples ``d`` of a quantum ``q``, each as its difference from the one before.

    The quantum is a power of ten, and at most a thousandth of ``largest``; of the largest value
    where ``largest`` is 0.
    """
    largest = largest or max(map(abs, values), default=0.0)
    quantum = 10.0 ** math.floor(math.log10(largest / PARTS)) if largest > 0 else 1.0
    whole = [round(value / quantum) for value in values]
    return {"q": quantum, "d": [b - a for a, b in zip([0, *whole], whole, strict=False)]}
