"""Who did what, when: the last steps of a run as lanes, and the shares of its whole time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polopt.report.read import Row
from polopt.report.text import duration, percent

STEPS = 6  # that are drawn, the last ones
MOST = 1_500  # intervals that are drawn; of more, the newest
EVER = 1e12  # seconds; no clock says more
LEAST = 0.08  # per cent of the width that an interval has at least, so that it is seen
KINDS = {  # in the order of the legend; the words
    "generate": "generates",
    "score": "scores",
    "update": "updates",
    "wait": "waits for a batch",
    "publish": "hands over weights",
    "load": "takes over weights",
    "prove": "proves that they arrived",
    "evaluate": "evaluates",
    "save": "saves",
}
INSIDE = {"prove": "load"}  # a kind that is a part of another


@dataclass(frozen=True)
class Bar:
    """One interval on its lane; left and width in per cent."""

    what: str
    left: float
    width: float
    words: str


@dataclass(frozen=True)
class Lane:
    """One who did something."""

    who: str
    bars: list[Bar]  # in the last steps
    shares: list[Bar]  # of the whole time, side by side
    idle: float  # share of the whole time: waiting, or nothing on record
    words: str  # the shares in words


@dataclass(frozen=True)
class Lanes:
    """The timeline of a run."""

    lanes: list[Lane]
    kinds: Mapping[str, str]  # those that occur, with their words
    first: int  # step
    last: int
    seconds: float  # that are drawn
    whole: float  # seconds of the run
    summary: str  # for screen readers


def lanes(rows: Sequence[Row]) -> Lanes | None:
    """The timeline; None where only the trainer is in it, as in mode alternate."""
    rows = [row for row in rows if row["what"] in KINDS and 0 <= row["start"] <= row["end"] < EVER]
    names = sorted({str(row["who"]) for row in rows}, key=_place)
    if len(names) < 2:
        return None
    last = max(row["step"] for row in rows)
    some = [row for row in rows if row["step"] > last - STEPS]
    some = sorted(some, key=lambda row: row["start"])[-MOST:]
    start, end = some[0]["start"], max(row["end"] for row in some)
    whole = max(row["end"] for row in rows) - min(row["start"] for row in rows)
    made = [_lane(name, rows, some, start, end, whole) for name in names]
    kinds = {kind: words for kind, words in KINDS.items() if any(r["what"] == kind for r in rows)}
    first = min(row["step"] for row in some)
    words = "; ".join(f"{lane.who}: {lane.words}" for lane in made)
    summary = f"Shares of {duration(whole)}. {words}."
    return Lanes(made, kinds, first, last, end - start, whole, summary)


def _place(name: str) -> tuple[int, int, str]:
    """The trainer, engines by their number, and the rewards."""
    number = name.removeprefix("engine ")
    return (
        0 if name == "trainer" else 2 if name == "rewards" else 1,
        int(number) if number.isdecimal() else 0,
        name,
    )


def _lane(
    who: str, rows: Sequence[Row], some: Sequence[Row], start: float, end: float, whole: float
) -> Lane:
    scale = 100 / max(end - start, 1e-9)
    bars = [
        Bar(
            row["what"],
            round(scale * (row["start"] - start), 3),
            round(max(LEAST, scale * (row["end"] - row["start"])), 3),
            f"{KINDS[row['what']]}, {duration(row['end'] - row['start'])}, step {row['step']}",
        )
        for row in sorted(some, key=lambda row: row["what"] in INSIDE)
        if row["who"] == who
    ]
    shares, left = list[Bar](), 0.0
    for kind, share in _shares([row for row in rows if row["who"] == who], whole).items():
        width = min(100 * share, 100 - left)
        said = f"{KINDS[kind]} {percent(share)}"
        shares.append(Bar(kind, round(left, 3), round(width, 3), said))
        left += width
    waits = sum(bar.width for bar in shares if bar.what == "wait")
    idle = (100 - left + waits) / 100
    words = ", ".join([*(bar.words for bar in shares), f"idle {percent(idle)}"])
    return Lane(who, bars, shares, idle, words)


def _shares(rows: Sequence[Row], whole: float) -> dict[str, float]:
    """The share of the whole time of each kind; a part of another counts once."""
    seconds = dict.fromkeys(KINDS, 0.0)
    for row in rows:
        seconds[row["what"]] += row["end"] - row["start"]
    for part, of in INSIDE.items():
        seconds[of] = max(0.0, seconds[of] - seconds[part])
    return {kind: value / max(whole, 1e-9) for kind, value in seconds.items() if value > 0}
