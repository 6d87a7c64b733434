"""All recorded answers for the script of the page, which searches, filters and sorts them.

The page has to open at once: long texts are cut, and where all of it would be too much, steps of
training are left out evenly. What was left out is counted, so that the page can say it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from polopt.report.plots import is_number
from polopt.report.read import Row
from polopt.report.samples import (
    MAX_TEXT,
    Prompt,
    Turn,
    marks_of,
    prompt_of,
    verdict_of,
)
from polopt.report.text import visible

MOST = 8_000_000  # bytes of answers in a page, about
OF_STEP = 400_000  # bytes of one step, about
AN_ANSWER, A_TOKEN = 250, 5  # bytes around the text of an answer, and of a number, about
KINDS = ("before", "train", "after")


@dataclass(frozen=True)
class Browser:
    """The answers of a run that can be looked through."""

    data: dict[str, Any]  # for the script
    shown: int
    recorded: int
    steps: int  # of training that are shown
    all_steps: int


def browser(samples: list[Row], system: Turn | None = None) -> Browser:
    """Every answer, or as many as a page can hold.

    ``system`` is shown elsewhere, and left out of the prompts.
    """
    chunks = [list(rows) for _, rows in groupby(sorted(samples, key=_order), key=_order)]
    steps = [rows for rows in chunks if rows[0]["kind"] == "train"]
    others = [rows for rows in chunks if rows[0]["kind"] != "train"]
    costs = {id(rows): min(OF_STEP, sum(_costs(rows))) for rows in chunks}
    left = MOST - sum(costs[id(rows)] for rows in others)
    every = 1
    while len(steps) > every and sum(costs[id(rows)] for rows in steps[::-every]) > left:
        every += 1
    kept = {id(rows) for rows in (*others, *steps[::-every])}
    rows = [row for rows in chunks if id(rows) in kept for row in _first(rows)]
    return Browser(_data(rows, system), len(rows), len(samples), len(steps[::-every]), len(steps))


def _order(row: Row) -> tuple[int, int, str, str]:
    """By step; at one step what was answered after training comes last."""
    kind = row["kind"]
    place = KINDS.index(kind) if kind in KINDS else len(KINDS)
    return row["step"], place, kind, str(row.get("stage", ""))


def _first(rows: list[Row]) -> list[Row]:
    """As many rows of a step as it may have, one at least."""
    spent = list(accumulate(_costs(rows)))
    return [row for row, cost in zip(rows, spent, strict=True) if cost <= OF_STEP] or rows[:1]


def _costs(rows: Sequence[Row]) -> list[int]:
    """About how many bytes each answer takes, the first one to a prompt with it."""
    asked, found = set[str](), list[int]()
    for row in rows:
        texts = [row["completion"], *([] if row["prompt"] in asked else [row["prompt"]])]
        asked.add(row["prompt"])
        columns = [row.get("widths"), row.get("advantages")]
        tokens = sum(len(one) for one in columns if isinstance(one, list))
        written = sum(len(json.dumps(visible(text[:MAX_TEXT]))) for text in texts)
        found.append(AN_ANSWER + written + A_TOKEN * tokens)
    return found


def _data(rows: Sequence[Row], system: Turn | None) -> dict[str, Any]:
    prompts, places = list[dict[str, Any]](), dict[str, int]()
    found = list[dict[str, Any]]()
    for row in rows:
        same = json.dumps([row["prompt"], row.get("messages"), str(row.get("key"))])
        if same not in places:
            places[same] = len(prompts)
            prompts.append(_asked(prompt_of(row, system), row.get("key")))
        found.append(_answer(row, places[same]))
    return {
        "prompts": prompts,
        "rows": found,
        "parts": sorted({name for one in found for name in one["parts"]}),
    }


def _asked(prompt: Prompt, key: object) -> dict[str, Any]:
    turns = [(turn.role, turn.content) for turn in prompt.turns] or [("", prompt.text)]
    told = [[visible(role), visible(text.shown), text.cut] for role, text in turns]
    return {
        "turns": told,
        "more": prompt.left_out,
        "key": visible(key) if isinstance(key, str) else None,
    }


def _answer(row: Row, prompt: int) -> dict[str, Any]:
    text, parts, reward = row["completion"], row.get("parts"), row.get("reward")
    shown, cut = text[:MAX_TEXT], max(0, len(text) - MAX_TEXT)
    named = parts if isinstance(parts, dict) else {}
    length = row.get("tokens")
    return {
        "prompt": prompt,
        "step": row["step"],
        "stage": visible(str(row.get("stage", ""))),
        "kind": visible(row["kind"]),
        "text": visible(shown),
        "cut": cut,
        "reward": reward if is_number(reward) else None,
        "verdict": verdict_of(row),
        "finish": visible(str(row.get("finish") or "")),
        "marks": [visible(mark) for mark in marks_of(row)],
        "parts": {visible(str(name)): v for name, v in named.items() if is_number(v)},
        "tokens": length if is_number(length) else len(text),
        **_of_tokens(row, shown),
    }


def _of_tokens(row: Row, shown: str) -> dict[str, Any]:
    """Advantage and bound of the tokens, and where each of them ends in the text that is shown."""
    advantages = row.get("advantages")
    numbers = advantages if isinstance(advantages, list) else [advantages]
    if not numbers or not all(is_number(one) or one is None for one in numbers):
        return {}
    if advantages is None:
        return {}
    found: dict[str, Any] = {"advantage": advantages}
    clipped = row.get("clipped")
    if isinstance(clipped, list) and all(map(_is_stretch, clipped)):
        found["clipped"] = [[start, end, visible(side)] for start, end, side in clipped]
    widths = row.get("widths")
    if isinstance(widths, list) and _fit(widths, row["completion"]):
        found["ends"] = list(_ends(widths, shown))
    return found


def _is_stretch(one: object) -> bool:
    match one:
        case [int(start), int(end), str()]:
            return 0 <= start < end
        case _:
            return False


def _fit(widths: Sequence[Any], text: str) -> bool:
    return all(type(w) is int and w >= 0 for w in widths) and sum(widths) == len(text)


def _ends(widths: Sequence[int], shown: str) -> Iterable[int]:
    """The end of each token in what the script has: UTF-16, hidden characters written out."""
    ends = list(accumulate(widths))
    if shown.isascii() and visible(shown) == shown:
        yield from (min(end, len(shown)) for end in ends)
        return
    start = total = 0
    for end in ends:
        total += len(visible(shown[start:end]).encode("utf-16-le")) // 2
        start = end
        yield total
