"""Which responses the page shows, and how: before and after side by side, training by step.

The page has to open at once, so long texts are cut and steps are left out evenly; what was left
out is counted, so that the page can say it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from markupsafe import escape

from polopt.report.plots import is_number
from polopt.report.read import Row
from polopt.report.text import number, visible

MAX_TEXT = 3_000  # characters of one prompt or response
MAX_SIDE_BY_SIDE = 400_000  # bytes of HTML for one comparison
MAX_TRAINING = 500_000  # bytes of HTML for all training samples
MAX_STEP = 60_000  # bytes of HTML for one training step
MARKUP = 200  # bytes of HTML around one response, about


@dataclass(frozen=True)
class Text:
    """The beginning of a prompt or a response."""

    shown: str
    cut: int  # characters left out at the end


@dataclass(frozen=True)
class Answer:
    """A response as it is shown; equal ones are shown once."""

    text: Text
    reward: str  # "1", or "none"
    tone: str  # "good", "bad" or "none", by the sign of the reward
    marks: tuple[str, ...]  # outcome, length limit, parts of the reward
    times: int = 1


@dataclass(frozen=True)
class Answers:
    """The responses to one prompt at one time."""

    answers: list[Answer]
    count: int
    mean_reward: float | None


@dataclass(frozen=True)
class Pair:
    """One prompt with its responses before and after."""

    prompt: Text
    before: Answers
    after: Answers


@dataclass(frozen=True)
class Comparison:
    """The prompts that were answered before and after a stage (or the whole run)."""

    stage: str
    before: float | None  # mean reward
    after: float | None
    pairs: list[Pair]
    left_out: int  # prompts
    awaits_after: bool  # no response after the stage is recorded yet


@dataclass(frozen=True)
class Step:
    """The responses of one training step, by prompt."""

    step: int
    stage: str
    prompts: list[tuple[Text, Answers]]


@dataclass(frozen=True)
class Training:
    """The training steps that are shown, out of all that were recorded."""

    steps: list[Step]
    all_steps: int
    shown: int  # samples
    all_samples: int


def compare(samples: list[Row]) -> list[Comparison]:
    """Pair the samples of kind before with those of kind after, stage by stage."""
    found: list[tuple[str, list[Row], list[Row]]] = []
    for row in samples:
        stage = str(row.get("stage", ""))
        if row["kind"] == "before":
            if not found or found[-1][0] != stage or found[-1][2]:
                found.append((stage, [], []))
            found[-1][1].append(row)
        elif row["kind"] == "after":
            if not found:
                found.append((stage, [], []))
            found[-1][2].append(row)
    return [_comparison(*each) for each in found]


def training(samples: list[Row]) -> Training:
    """Training samples by step; where there are too many, every n-th step and the last one."""
    rows = sorted((r for r in samples if r["kind"] == "train"), key=lambda row: row["step"])
    steps = [
        _step(step, stage, list(group))
        for (step, stage), group in groupby(rows, key=lambda r: (r["step"], str(r.get("stage"))))
    ]
    costs = [_cost(*step.prompts) for step in steps]
    every = 1
    while len(steps) > every and sum(costs[::-every]) > MAX_TRAINING:
        every += 1
    kept = steps[::-every][::-1]
    shown = sum(answers.count for step in kept for _, answers in step.prompts)
    return Training(kept, len(steps), shown, len(rows))


def first(samples: list[Row]) -> list[tuple[Text, Answers]]:
    """The first prompts with their responses, as many as a step shows."""
    return _step(0, "", samples).prompts


def _comparison(stage: str, before: list[Row], after: list[Row]) -> Comparison:
    pairs: list[Pair] = []
    spent = 0
    by_prompt = _by_prompt(before + after)
    for prompt, rows in by_prompt:
        sides = [_answers(r for r in rows if r["kind"] == kind) for kind in ("before", "after")]
        spent += _cost(*((prompt, side) for side in sides))
        if pairs and spent > MAX_SIDE_BY_SIDE:
            break
        pairs.append(Pair(prompt, *sides))
    left_out = len(by_prompt) - len(pairs)
    return Comparison(stage, _mean_reward(before), _mean_reward(after), pairs, left_out, not after)


def _step(step: int, stage: str, rows: list[Row]) -> Step:
    prompts: list[tuple[Text, Answers]] = []
    for prompt, group in _by_prompt(rows):
        prompts.append((prompt, _answers(group)))
        if _cost(*prompts) > MAX_STEP:
            break
    return Step(step, stage, prompts)


def _by_prompt(rows: list[Row]) -> list[tuple[Text, list[Row]]]:
    """Rows of the same ticket and prompt together, in the order in which prompts appear."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row.get("ticket")), row["prompt"]), []).append(row)
    return [(_text(prompt), group) for (_, prompt), group in groups.items()]


def _answers(rows: Iterable[Row]) -> Answers:
    rows = list(rows)
    counts = Counter(_answer(row) for row in rows)
    answers = [replace(answer, times=times) for answer, times in counts.items()]
    return Answers(answers, len(rows), _mean_reward(rows))


def _answer(row: Row) -> Answer:
    text, reward = _text(row["completion"]), row.get("reward")
    if not is_number(reward):
        return Answer(text, "none", "none", _marks(row))
    return Answer(text, number(reward), "good" if reward > 0 else "bad", _marks(row))


def _marks(row: Row) -> tuple[str, ...]:
    marks: list[str] = []
    if row.get("outcome") not in ("ok", None):
        marks.append(str(row["outcome"]).replace("_", " "))
    if row.get("finish") == "length":
        marks.append("cut at the length limit")
    elif row.get("finish") not in ("stop", None):
        marks.append(str(row["finish"]))
    parts = row.get("parts")
    if isinstance(parts, dict) and len(parts) > 1:
        marks += [f"{name} {number(v) if is_number(v) else 'none'}" for name, v in parts.items()]
    return tuple(marks)


def _text(text: str) -> Text:
    return Text(text[:MAX_TEXT], max(0, len(text) - MAX_TEXT))


def _mean_reward(rows: list[Row]) -> float | None:
    rewards = [row["reward"] for row in rows if is_number(row.get("reward"))]
    return sum(rewards) / len(rewards) if rewards else None


def _cost(*prompts: tuple[Text, Answers]) -> int:
    """About how many bytes of HTML these prompts and responses take."""
    return sum(
        _bytes(prompt) + sum(_bytes(answer.text) + MARKUP for answer in answers.answers)
        for prompt, answers in prompts
    )


def _bytes(text: Text) -> int:
    return len(escape(visible(text.shown)).encode())
