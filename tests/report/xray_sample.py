"""What ``polopt.xray`` would find, made up: of a size that is asked for, with any text in it."""

from __future__ import annotations

import random
from typing import Any

TEXT = "3+8=1;1-9=2>2"


def estimate(value: float, spread: float = 0.1) -> dict[str, Any]:
    return {"value": value, "interval": [max(0.0, value - spread), value + spread]}


def shares(names: list[str]) -> list[dict[str, Any]]:
    weights = [2.0 ** -(place + 1) for place in range(len(names))]
    return [
        {
            "name": name,
            "tokens": 100,
            "of_tokens": 1 / len(names),
            "of_kl": estimate(weight / sum(weights), 0.02),
            "kl_token": estimate(weight),
        }
        for name, weight in zip(names, weights, strict=True)
    ]


def texts_of(name: str, *, changed: bool = True) -> dict[str, Any]:
    """The figures of the texts of one kind."""
    bins = [(0.9, 0.95), (0.95, 0.99), (0.99, 0.999), (0.999, None), (0.9, None)]
    names = ("rose", "p_before", "p_after", "another_before", "another_after")
    return {
        "name": name,
        "answers": 8,
        "tokens": 104,
        "changed": changed,
        "kl_answer": estimate(1.5 if changed else 0.0),
        "kl_token": estimate(0.12 if changed else 0.0),
        "log_ratio_answer": estimate(1.4 if changed else 0.0),
        "moved": estimate(0.2 if changed else 0.0),
        "entropy_before": estimate(0.7),
        "entropy_after": estimate(0.4),
        "classes": shares(["first token", "numbers", "results", "operators", "format"]),
        "positions": shares(["1", "2", "3–4", "5–8", "9–16"]),
        "certainty": [
            {
                "from": low,
                "below": high,
                "tokens": 0 if low == 0.95 else 40,
                **{one: None if low == 0.95 else estimate(0.5) for one in names},
            }
            for low, high in bins
        ],
        "swaps": [{"before": ">", "after": "3", "count": 9, "first": 8, "prompts": 4}]
        if changed
        else [],
    }


def estimators() -> dict[str, Any]:
    """Of KL estimators; those that have the gradient of the KL where they have it."""
    exact, nothing, away = (
        {"length": length, "angle": angle} for length, angle in ((1.0, 0.0), (0.0, None), (0.8, 12))
    )
    pulls = {"k1": (exact, nothing, exact), "k2": (away, exact, away), "k3": (away, away, exact)}
    return {
        "answers": 4,
        "tokens": 1040,
        "kl": estimate(0.12),
        "estimators": [
            {
                "name": name,
                "sampled": estimate(0.13),
                "average": 0.12,
                "bias": 0.031 if name == "k2" else 0.0,
                "dead": 0.0,
                "dead_reference": 0.02 if name == "k3" else 0.0,
                "gradients": dict(zip(("reward", "loss", "corrected loss"), own, strict=True)),
            }
            for name, own in pulls.items()
        ],
    }


def columns(text: str, draw: random.Random, pieces: list[str] | None = None) -> dict[str, Any]:
    """The tokens of an answer, one a character."""
    own = pieces or list(text)
    n = len(own)
    return {
        "text": own,
        "class": ["numbers" if piece.isdigit() else "operators" for piece in own],
        **{
            name: [round(draw.uniform(0.01, 1), 3) for _ in own] for name in ("p_before", "p_after")
        },
        "rank_before": [2] * n,
        "rank_after": [1] * n,
        "entropy_before": [0.5] * n,
        "entropy_after": [0.25] * n,
        "kl": [round(draw.choice([0, 0.02, 0.1, 0.5, 2.0]), 3) for _ in own],
        "top_before": [">"] * n,
        "top_after": own,
    }


def found(
    *, prompts: int = 3, draws: int = 2, text: str = TEXT, given: bool = True, changed: bool = True
) -> dict[str, Any]:
    """A whole finding."""
    draw = random.Random(0)
    sets = ["before", "after", *(["given"] if given else [])]
    side = {"name": "runs/a@30", "run": "runs/a", "step": 30, "stage": "sft", "algorithm": "sft"}
    side["kl"] = None
    share = {"value": 0.25, "interval": [0.1, 0.4]}
    broken = {
        **dict.fromkeys(("cut", "repeats", "runs_on", "broken"), share),
        "answers": 6,
        "length": 13.0,
        "begins": {"median": 6, "quartiles": [4.0, 8.0], "of_answer": 0.4},
    }
    figures = {
        "accuracy": share,
        "length": estimate(13.0),
        "worked": {"value": 0.5, "interval": None},
    }
    return {
        "polopt": "0.1.0",
        "base": side,
        "trained": {**side, "name": "runs/a", "step": 42, "stage": "rl", "algorithm": "grpo"}
        | {"kl": {"estimator": "k3", "place": "loss"}},
        "settings": {
            "source": "task:chain_sum",
            "prompts": prompts,
            "answers": draws,
            "temperature": 1.0,
            "max_new_tokens": 20,
            "seed": 1,
        },
        "estimators": estimators(),
        "sets": [texts_of(name, changed=changed) for name in sets],
        "figures": {"before": figures, "after": figures},
        "breaks": {"before": {**broken, "begins": None}, "after": broken},
        "diversity": {
            name: {
                "distinct_1": estimate(0.5),
                "self_bleu": estimate(0.4),
                "different": estimate(0.9),
            }
            for name in ("before", "after")
        },
        "pass": {
            "prompts": prompts,
            "crossing": 3,
            "rows": [
                {"k": k, "before": estimate(0.1 * k), "after": estimate(0.35), "difference": share}
                for k in range(1, 9)
            ],
        },
        "prompts": [{"text": f"{number}+1="} for number in range(prompts)],
        "texts": [
            {
                "of": name,
                "prompt": prompt,
                "draw": number,
                "completion": text,
                "reward": 1.0 if number else 0.0,
                "outcome": "ok" if number else "wrong",
                "finish": "length" if number else "stop",
                "loop": {"begins": 4, "period": 2, "length": 9} if number else None,
                "tokens": columns(text, draw),
            }
            for name in sets
            for prompt in range(prompts)
            for number in range(1 if name == "given" else draws)
        ],
    }


def inject(text: str) -> dict[str, Any]:
    """A finding with ``text`` wherever a finding can hold text."""
    made = found(prompts=2)
    for side in ("base", "trained"):
        made[side] |= {"name": text, "run": text, "stage": text, "algorithm": text + "2"}
    made["trained"]["kl"] = {"estimator": text, "place": "loss"}
    for one in made["estimators"]["estimators"]:
        one["name"] = text
    made["polopt"] = made["settings"]["source"] = text
    for one in made["sets"]:
        one["swaps"] = [{"before": text, "after": text, "count": 1, "first": 1, "prompts": 1}]
        for row in (*one["classes"], *one["positions"]):
            row["name"] = text
    made["sets"].append({**made["sets"][0], "name": text})
    for side in ("before", "after"):
        made["figures"][side] = {text: estimate(0.5)}
    made["prompts"] = [
        {"text": text},
        {"text": text, "messages": [{"role": text, "content": text}, {"role": "user"}]},
    ]
    draw = random.Random(0)
    for one in made["texts"]:
        one |= {"completion": text, "outcome": text, "finish": text}
        one["tokens"] = columns(text, draw, [text, text, ""])
        one["tokens"] |= {name: [text] * 3 for name in ("class", "top_before", "top_after")}
    return made
