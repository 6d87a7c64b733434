"""The prompts of a run, by their keys: those that it held out, and those that it was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
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

    def seen(self, keys: tuple[str, ...]) -> Seen:
        """Whether the policy was trained on a prompt, by its keys."""
        return "held out" if self.trained.isdisjoint(keys) else "trained"


def recorded_prompts(run: Path, step: int | None = None) -> Prompts | None:
    """The prompts of a run up to a step; None: it has no record of them."""
    if not (run / FILE).is_file():
        return None
    held_out, trained = set[str](), set[str]()
    for line in _lines(run / FILE):
        if step is None or line["step"] <= step:
            held_out.update(line.get("held_out", ()))
            trained.update(line.get("trained", ()))
    return Prompts(frozenset(held_out), frozenset(trained))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):  # a run may be writing the last one
                yield json.loads(line)
