"""What the page says in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polopt.report.text import number, percent

Json = Mapping[str, Any]
SETS = {
    "before": "answers of the base",
    "after": "answers of the trained model",
    "given": "given completions",
    "chosen": "chosen answers",
    "rejected": "rejected answers",
    "recorded": "answers of the training",
}
CLASSES = {  # of tokens, in the order of the page
    "first token": "how an answer begins, whatever it is",
    "words": "all words but connectives",
    "connectives": "words that steer: so, then, because, wait, …",
    "results": "numbers right after an equals sign",
    "numbers": "all other numbers",
    "operators": "signs of arithmetic and comparison",
    "punctuation": "full stops, brackets, quotation marks, …",
    "format": "special tokens, tags, marks of headings and final answers",
    "spaces": "spaces and line ends alone",
    "other": "bytes that are no character",
}
SHARES = ("accuracy", "pass@", "majority@", "truncated", "direct_accuracy", "worked")


def sentence(found: Json) -> str:
    """The page in a sentence."""
    own = next((one for one in found["sets"] if one["name"] == "after"), None)
    if own is None:
        return "Neither model wrote a token, so there is nothing to compare."
    if not any(one["changed"] for one in found["sets"]):
        return "Nothing changed: both models give every token of every answer the same probability."
    said = f"An answer of the trained model is {estimate(own['kl_answer'])} nats from the base."
    if not own["changed"]:
        return f"{said} What changed is in answers that it does not give any more."
    most = max(own["classes"], key=lambda one: one["of_kl"]["value"])
    share, tokens = percent(most["of_kl"]["value"]), percent(most["of_tokens"])
    where = f"{share} of that is in the class “{most['name']}”"
    return f"{said} {where}, which has {tokens} of the tokens."


def estimate(one: Json | None, *, share: bool = False) -> str:
    """A figure with its interval: ``0.31 (0.25 to 0.4)``."""
    if one is None or one["value"] is None:
        return "–"
    said = percent if share else number
    if not one["interval"]:
        return said(one["value"])
    low, high = one["interval"]
    return f"{said(one['value'])} ({said(low)} to {said(high)})"


def described(side: Json) -> str:
    """Where a model is from: ``step 30, end of or inside stage sft (sft)``."""
    if side["run"] is None:
        return "not of a run"
    method = "" if side["algorithm"] == side["stage"] else f" ({side['algorithm']})"
    return f"step {side['step']} of {side['run']}, stage {side['stage']}{method}"


def is_share(metric: str) -> bool:
    """Whether a metric of an evaluation is between 0 and 1."""
    return metric.startswith(SHARES)
