"""Answers as a run of policy optimisation records them, as many as are asked for."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from sample_run import lines

TEXT = (
    "so the sum of both is then carried over because we add twelve and seven first wait that is "
    "not right therefore let me check once more and the answer must be"
)
WORDS = TEXT.split()
GROUP = 8  # answers to a prompt


def answers(count: int, words: int = 40, prompts: int = 60) -> list[dict[str, Any]]:
    """A group of answers a step, each word a token; prompts come again and again."""
    chance, rows = random.Random(1), list[dict[str, Any]]()
    for number in range(count):
        step, ticket = divmod(number, GROUP)[0] + 1, number // GROUP
        prompt = ticket % prompts
        pieces = [f"{chance.choice(WORDS)} " for _ in range(chance.randrange(words // 2, words))]
        right = chance.random() < 0.3 + 0.6 * number / count
        pieces[-1] = f"{prompt + 5}" if right else "none"
        rows.append(
            {
                "step": step,
                "stage": "rl",
                "kind": "train",
                "key": f"{prompt:016x}",
                "ticket": ticket,
                "prompt": f"What is {prompt} plus 5?",
                "completion": "".join(pieces),
                "reward": float(right) + 0.1,
                "parts": {"correct": float(right), "form": 0.1},
                "outcome": "ok" if right else "wrong",
                "finish": "length" if number % 11 == 0 else "stop",
                "tokens": len(pieces),
                "ids": [5] * len(pieces),
                "advantages": 0.75 if right else -1.25,
                "clipped": [[2, 4, "high" if right else "low"]] if number % 3 == 0 else [],
                **({"widths": [len(piece) for piece in pieces]} if number % 3 == 0 else {}),
            }
        )
    return rows


def earned(steps: int, prompts: int = 60, each: int = 10) -> list[dict[str, Any]]:
    """What prompts earned: most learn a little, three learn all, two forget, some stay."""
    chance, rows = random.Random(2), list[dict[str, Any]]()
    for step in range(1, steps + 1):
        share, found = step / steps, dict[str, float]()
        for place in range(each):
            prompt = ((step - 1) * each + place) % prompts
            reward = 0.2 + 0.1 * share + chance.uniform(0, 0.05)
            if prompt < 3:
                reward = min(1.0, 0.05 + share)
            if prompt in (10, 11):
                reward = 0.95 if 0.2 < share < 0.8 else 0.1
            if prompt == 20:
                reward = 0.5
            found[f"{prompt:016x}"] = reward
        new = {f"{int(key, 16):016x}": f"What is {int(key, 16)} plus 5?" for key in found}
        first = {"introduced": new} if (step - 1) * each < prompts else {}
        rows.append({"step": step, "stage": "rl", "trained": [*found], "earned": found, **first})
    return rows


def write_answers(run: Path, count: int, **sizes: int) -> Path:
    """Put them into the directory of a run."""
    lines(run / "samples.jsonl", answers(count, **sizes))
    lines(run / "prompts.jsonl", [{"step": 0, "stage": "rl", "held_out": ["f"]}, *earned(60)])
    return run
