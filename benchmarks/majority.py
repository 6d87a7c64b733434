"""The task of learning.py: three letters, of which most should be liked.

After ``+`` letters from a to d are asked for, after ``-`` letters from w to z. The first two of
them are liked, which nobody says. Demonstrations are drawn at random from all four, so a policy
that imitates them is right half of the time, and so is its most likely answer, or not at all.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

ASKED = {"+": "abcd", "-": "wxyz"}
LIKED = {"+": "ab", "-": "wx"}
LENGTH = 3


def write(path: Path, place: int, count: int) -> None:
    """A file of prompts with demonstrations; files of two places have no prompt in common."""
    source = random.Random(place)
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            sign = source.choice("+-")
            letters = "".join(source.choices(ASKED[sign], k=LENGTH))
            row = {"prompt": f"{place}{index:04d}{sign}", "completion": letters}
            file.write(json.dumps(row) + "\n")


def majority(completions: Sequence[str], prompt: Sequence[str]) -> list[float]:
    """1.0 for three letters that were asked for, two or three of them liked."""
    return [
        float(
            len(text) == LENGTH
            and set(text) <= set(ASKED[asked[-1]])
            and sum(map(text.count, LIKED[asked[-1]])) > LENGTH / 2
        )
        for text, asked in zip(completions, prompt, strict=True)
    ]


def coin(completions: Sequence[str]) -> list[float]:
    """0 or 1 with equal odds, whatever was answered."""
    return [float(random.random() < 0.5) for _ in completions]
