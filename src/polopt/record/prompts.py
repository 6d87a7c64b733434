"""The prompts of a run, by their keys: those that it held out, and those that it was trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FILE = "prompts.jsonl"
Seen = Literal["held out", "trained", "unknown"]


@dataclass(frozen=True)
class Prompts:
    """Keys of prompts; two prompts that share one are the same."""

    held_out: frozenset[str]
    trained: frozenset[str]  # by the run, and by those that its weights come from
    is_whole: bool = True  # False: more were trained on, of which nothing is known

    def seen(self, keys: tuple[str, ...]) -> Seen:
        """Whether the policy was trained on a prompt, by its keys."""
        if not self.trained.isdisjoint(keys):
            return "trained"
        return "held out" if self.is_whole else "unknown"


def share_of_top(gains: Sequence[float]) -> float | None:
    """The share that the best tenth of the prompts has of all that was gained; None: nothing was.

    Of what prompts lost nothing is taken off.
    """
    positive = sorted((gain for gain in gains if gain > 0), reverse=True)
    return sum(positive[: math.ceil(len(gains) / 10)]) / sum(positive) if positive else None


NOTHING_KNOWN = Prompts(frozenset(), frozenset(), is_whole=False)


def recorded_prompts(run: Path, step: int | None = None) -> Prompts | None:
    """The prompts of a run up to a step; None: it has no record of them.

    The record is not whole where it does not begin with the run (which an older version began), or
    where the run began with weights of a run without a record.
    """
    if not (run / FILE).is_file():
        return None
    held_out, trained, lines = set[str](), set[str](), list(_lines(run / FILE))
    for line in lines:
        if step is None or line["step"] <= step:
            held_out.update(line.get("held_out", ()))
            trained.update(line.get("trained", ()))
    from_start = bool(lines) and lines[0]["step"] == 0 and not any(x.get("unknown") for x in lines)
    return Prompts(frozenset(held_out), frozenset(trained), from_start)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):  # a run may be writing the last one
                yield json.loads(line)
