"""What ``polopt.evaluate`` would find, made up, with any text in it."""

from __future__ import annotations

from typing import Any

from polopt.report.evaluation import render

DATA = "examples/eval/easy.jsonl"
FIGURES = {  # of what was held out, and of what was trained on: value, and ends of the interval
    "accuracy": ((0.62, 0.55, 0.69), (0.91, 0.88, 0.93)),
    "accuracy_greedy": ((0.66, 0.59, 0.72), (0.95, 0.92, 0.97)),
    "pass@4": ((0.85, 0.79, 0.89), (0.99, 0.97, 1.0)),
    "length": ((12.25, 11.9, 12.6), (13.0, 12.8, 13.2)),
}


def page(text: str = DATA, *, target: str = "runs/quickstart-1") -> str:
    """The page of an evaluation, with ``text`` as its data set and in every answer."""
    table, answers = list[dict[str, Any]](), list[dict[str, Any]]()
    for place, seen in enumerate(("held out", "trained")):
        figures = {
            name: {"value": value, "interval": [low, high]}
            for name, (value, low, high) in ((n, both[place]) for n, both in FIGURES.items())
        }
        table.append({"data": text, "seen": seen, "n": 200, "figures": figures})
        for number in range(3):
            prompt = f"{number}+2-3=" if text == DATA else text
            for greedy in (False, True):
                answers.append(
                    {
                        "data": text,
                        "seen": seen,
                        "greedy": greedy,
                        "prompt": prompt,
                        "completion": str(number - 1) if text == DATA else text,
                        "reward": 1.0,
                        "correct": True,
                        "truncated": False,
                    }
                )
    return render(target, "0.1.0", table, answers)
