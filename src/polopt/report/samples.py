"""Which responses a page shows without a script: those before and after side by side.

A prompt that was chat messages (``messages`` of its line) is shown as these; a system message that
all of them have is shown once.

The page has to open at once, so long texts are cut; what was left out is counted, so that the page
can say it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from markupsafe import escape

from polopt.report.plots import is_number
from polopt.report.read import Row
from polopt.report.text import number, visible

MAX_TEXT = 3_000  # characters of one prompt or response
MAX_SIDE_BY_SIDE = 400_000  # bytes of HTML for one comparison
MAX_FIRST = 60_000  # bytes of HTML for the first prompts
MAX_TURNS = 20  # messages of one prompt
MARKUP = 250  # bytes of HTML around one response or message, about
VERDICTS = {"ok": "right", "wrong": "wrong"}  # by outcome; a reward alone says neither
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Text:
    """The beginning of a prompt or a response."""

    shown: str
    cut: int  # characters left out at the end


@dataclass(frozen=True)
class Turn:
    """A message of a conversation."""

    role: str
    content: Text

    @property
    def kind(self) -> str:
        """The role if the page knows it, for the style."""
        return self.role if self.role in ROLES else "other"


@dataclass(frozen=True)
class Prompt:
    """A prompt as text or, where it was one, as a conversation."""

    text: Text
    turns: tuple[Turn, ...] = ()  # without a system message that all prompts share
    left_out: int = 0  # messages after those


@dataclass(frozen=True)
class Answer:
    """A response as it is shown; equal ones are shown once."""

    text: Text
    reward: str  # "1", or "none"
    verdict: str  # "right", "wrong", or empty: nothing says which
    marks: tuple[str, ...]  # failures, length limit, parts of the reward
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

    prompt: Prompt
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


def common_system(samples: list[Row]) -> Turn | None:
    """The system message with which every conversation begins; None: there is no such message."""
    firsts = {messages[0] for row in samples if (messages := _messages(row))}
    match list(firsts):
        case [("system", content)]:
            return Turn("system", _text(content))
        case _:
            return None


def judged(samples: list[Row]) -> bool:
    """Whether any response was found right or wrong."""
    return any(row.get("outcome") in tuple(VERDICTS) for row in samples)


def compare(samples: list[Row], system: Turn | None = None) -> list[Comparison]:
    """Pair the samples of kind before with those of kind after, stage by stage.

    ``system`` is shown elsewhere, and left out of the prompts.
    """
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
    return [_comparison(*each, system) for each in found]


def first(samples: list[Row], system: Turn | None = None) -> list[tuple[Prompt, Answers]]:
    """The first prompts with their responses, as many as fit."""
    prompts: list[tuple[Prompt, Answers]] = []
    for prompt, group in _by_prompt(samples, system):
        prompts.append((prompt, _answers(group)))
        if _cost(*prompts) > MAX_FIRST:
            break
    return prompts


def _comparison(stage: str, before: list[Row], after: list[Row], system: Turn | None) -> Comparison:
    pairs: list[Pair] = []
    spent = 0
    by_prompt = _by_prompt(before + after, system)
    for prompt, rows in by_prompt:
        sides = [_answers(r for r in rows if r["kind"] == kind) for kind in ("before", "after")]
        spent += _cost(*((prompt, side) for side in sides))
        if pairs and spent > MAX_SIDE_BY_SIDE:
            break
        pairs.append(Pair(prompt, *sides))
    left_out = len(by_prompt) - len(pairs)
    return Comparison(stage, _mean_reward(before), _mean_reward(after), pairs, left_out, not after)


def _by_prompt(rows: list[Row], system: Turn | None) -> list[tuple[Prompt, list[Row]]]:
    """Rows of the same ticket and prompt together, in the order in which prompts appear."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row.get("ticket")), row["prompt"]), []).append(row)
    return [(prompt_of(group[0], system), group) for group in groups.values()]


def _messages(row: Row) -> list[tuple[str, str]]:
    """Role and content of the messages of a prompt; empty: it was text."""
    messages: list[tuple[str, str]] = []
    for message in row["messages"] if isinstance(row.get("messages"), list) else []:
        match message:
            case {"role": str(role), "content": str(content)}:
                messages.append((role, content))
            case _:
                return []
    return messages


def prompt_of(row: Row, system: Turn | None) -> Prompt:
    """The prompt of a row; ``system`` is shown elsewhere."""
    messages = _messages(row)
    own = messages[1:] if system is not None else messages
    turns = [Turn(role, _text(content)) for role, content in own[:MAX_TURNS]]
    return Prompt(_text(row["prompt"]), tuple(turns), len(own) - len(turns))


def _answers(rows: Iterable[Row]) -> Answers:
    rows = list(rows)
    counts = Counter(_answer(row) for row in rows)
    answers = [replace(answer, times=times) for answer, times in counts.items()]
    return Answers(answers, len(rows), _mean_reward(rows))


def _answer(row: Row) -> Answer:
    reward = row.get("reward")
    return Answer(
        _text(row["completion"]),
        number(reward) if is_number(reward) else "none",
        verdict_of(row),
        marks_of(row),
    )


def verdict_of(row: Row) -> str:
    """Whether a response is ``right`` or ``wrong``; empty: nothing says which."""
    outcome = row.get("outcome")
    return VERDICTS.get(outcome, "") if isinstance(outcome, str) else ""


def marks_of(row: Row) -> tuple[str, ...]:
    """What else is to be said of a response: failures, why it ended, the parts of its reward."""
    marks: list[str] = []
    if row.get("outcome") not in (*VERDICTS, "scored", None):
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


def _cost(*prompts: tuple[Prompt, Answers]) -> int:
    """About how many bytes of HTML these prompts and responses take."""
    texts = [text for prompt, answers in prompts for text in _texts(prompt, answers)]
    return sum(_bytes(text) + MARKUP for text in texts)


def _texts(prompt: Prompt, answers: Answers) -> list[Text]:
    asked = [turn.content for turn in prompt.turns] or [prompt.text]
    return asked + [answer.text for answer in answers.answers]


def _bytes(text: Text) -> int:
    return len(escape(visible(text.shown)).encode())
