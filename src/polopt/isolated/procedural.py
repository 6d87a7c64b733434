"""Answers to the puzzles of reasoning-gym, judged by the data set that made them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def prepare(dataset: str, parameters: str) -> Callable[[str, dict[str, Any]], bool]:
    """The function that judges for a data set with parameters, which are JSON."""
    import reasoning_gym  # pyright: ignore[reportMissingImports] - an extra

    made = reasoning_gym.create_dataset(dataset, seed=0, size=1, **json.loads(parameters))

    def judge(answer: str, entry: dict[str, Any]) -> bool:
        """Whether an answer has full marks; an answer that the data set stumbles over has none."""
        try:
            return float(made.score_answer(answer, entry)) >= 1.0
        except MemoryError:
            raise
        except Exception:
            return False

    return judge
