"""The answers of both models for the script: tokens as columns, cut to what a page can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polopt.report.text import visible
from polopt.report.xray.words import SETS

Json = Mapping[str, Any]
MOST = 12_000_000  # bytes of answers in a page, about
A_TOKEN, AN_ANSWER = 75, 200  # bytes of them, about
DIGITS = 3  # significant digits of a number at a token
NUMBERS = ("p_before", "p_after", "entropy_before", "entropy_after", "kl")
COUNTS = ("rank_before", "rank_after")
OF_TRAINING = ("advantage", "clipped")  # of answers that a run recorded
TEXTS = ("text", "top_before", "top_after")


def answers(found: Json) -> tuple[dict[str, Any], int]:
    """The data of the script, and how many answers it leaves out.

    Prompts come in the order of how much changed in the answers of the trained model. Texts that
    occur often are written once, and tokens name them by number.
    """
    by_prompt = dict[int, list[Json]]()
    for one in found["texts"]:
        by_prompt.setdefault(one["prompt"], []).append(one)
    order = sorted(by_prompt, key=lambda prompt: -_change(by_prompt[prompt]))
    words, shown, spent = dict[str, int](), list[dict[str, Any]](), 0
    count = 0
    for prompt in order:
        spent += sum(AN_ANSWER + A_TOKEN * len(one["tokens"]["kl"]) for one in by_prompt[prompt])
        if shown and spent > MOST:
            break
        count += len(by_prompt[prompt])
        own = [_answer(one, words) for one in by_prompt[prompt]]
        shown.append({**_asked(found["prompts"][prompt]), "number": prompt + 1, "answers": own})
    totals = dict.fromkeys(SETS, 0.0)
    for one in found["texts"]:
        totals[one["of"]] = totals.get(one["of"], 0.0) + sum(one["tokens"]["kl"])
    data = {
        "prompts": shown,
        "words": [visible(word) for word in words],
        "totals": totals,
        "sets": {name: SETS.get(name, name) for name in totals},
    }
    return data, len(found["texts"]) - count


def _change(of_prompt: Sequence[Json]) -> float:
    own = [sum(one["tokens"]["kl"]) for one in of_prompt if one["of"] == "after"]
    return sum(own) / len(own) if own else 0.0


def _asked(prompt: Json) -> dict[str, Any]:
    if "messages" not in prompt:
        return {"turns": [["", visible(prompt["text"])]]}
    turns = [(str(m.get("role", "")), m.get("content")) for m in prompt["messages"]]
    return {"turns": [[visible(role), visible(str(text or ""))] for role, text in turns]}


def _answer(one: Json, words: dict[str, int]) -> dict[str, Any]:
    tokens = one["tokens"]
    columns = {name: [float(f"{v:.{DIGITS}g}") for v in tokens[name]] for name in NUMBERS}
    columns |= {name: tokens[name] for name in COUNTS}
    columns |= {name: tokens[name] for name in OF_TRAINING if name in tokens}
    columns |= {
        name: [words.setdefault(text, len(words)) for text in tokens[name]]
        for name in (*TEXTS, "class")
    }
    return {
        "of": one["of"],
        "draw": one["draw"],
        "reward": one["reward"],
        "verdict": {"ok": "right", "wrong": "wrong"}.get(one["outcome"], ""),
        "marks": _marks(one),
        "loop": None if one["loop"] is None else one["loop"]["begins"],
        "tokens": columns,
    }


def _marks(one: Json) -> list[str]:
    marks = ["cut at the length limit"] if one["finish"] == "length" else []
    if one["loop"] is not None:
        marks.append(f"repeats itself from token {one['loop']['begins'] + 1} on")
    return marks
