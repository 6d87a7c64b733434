"""The answers of training that a run recorded, with what its updates made of their tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polopt.data import Tokeniser
from polopt.diagnose.xray.looked import Given, Marked
from polopt.types import Finish, Group, Outcome, Prompt, Sample

NAME = "recorded"
Lines = list[Mapping[str, Any]]


def recorded(
    run: Path, stage: str, step: int, tokeniser: Tokeniser, *, prompts: int, first: int
) -> Given | None:
    """The newest answers of training, up to a step of a stage; None: no line has its tokens.

    Args:
        run: its directory.
        stage: of the step.
        step: of the run.
        tokeniser: of the run.
        prompts: to so many of them, at most.
        first: number of the first one.
    """
    found = dict[tuple[int, Any], Lines]()
    for line in _lines(run / "samples.jsonl"):
        if line.get("stage") == stage and line["step"] <= step and "ids" in line:
            found.setdefault((line["step"], line["ticket"]), []).append(line)
    newest = list(found.values())[-prompts:]
    groups = [_group(first + n, lines, tokeniser) for n, lines in enumerate(newest)]
    marked = {
        (first + n, draw): _marked(line)
        for n, lines in enumerate(newest)
        for draw, line in enumerate(lines)
    }
    return Given(NAME, groups, marked) if groups else None


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):  # a run may be writing the last one
                yield json.loads(line)


def _group(number: int, lines: Lines, tokeniser: Tokeniser) -> Group:
    text, messages = lines[0]["prompt"], tuple(lines[0].get("messages", ()))
    tokens = tokeniser.again(text, rendered=bool(messages))
    prompt = Prompt(number, text, tokens, messages=messages)
    return Group(number, prompt, tuple(_sample(line, tokens) for line in lines))


def _sample(line: Mapping[str, Any], prompt: tuple[int, ...]) -> Sample:
    tokens = np.array([*prompt, *line["ids"]], dtype=np.int64)
    reward = line.get("reward")
    return Sample(
        tokens=tokens,
        mask=np.arange(len(tokens)) >= len(prompt),
        logp_rollout=np.full(len(tokens), np.nan, dtype=np.float32),
        prompt_length=len(prompt),
        finish=Finish(line["finish"]),
        reward=math.nan if reward is None else reward,
        outcome=Outcome(line["outcome"]),
    )


def _marked(line: Mapping[str, Any]) -> Marked:
    """Advantage and bound of every token."""
    count, advantages = len(line["ids"]), line["advantages"]
    sides = [""] * count
    for start, end, side in line.get("clipped", ()):
        sides[start:end] = [side] * (end - start)
    every = advantages if isinstance(advantages, list) else [advantages] * count
    return Marked(every, sides if "clipped" in line else None)
