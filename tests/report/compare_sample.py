"""What ``polopt.compare`` would find, made up: of a size that is asked for, with any text in it."""

from __future__ import annotations

import random
from typing import Any


def found(
    names: tuple[str, ...] = ("grpo", "rloo", "reinforce"),
    *,
    seeds: int = 5,
    failed: int = 1,
    is_share: bool = True,
) -> dict[str, Any]:
    """A whole finding: arms that rise, each a little less, the last one with failed runs."""
    draw, budget = random.Random(0), 12_000.0
    grid = [budget * place / 12 for place in range(13)]
    size = 1.0 if is_share else 400.0
    arms = list[dict[str, Any]]()
    for place, name in enumerate(names):
        runs, ends = list[dict[str, Any]](), (0.95 - 0.1 * place) * size
        lost = failed if place == len(names) - 1 else 0
        for seed in range(1, seeds + 1):
            gone = seed <= lost
            curve = [
                [x, size * 0.1 + (ends - size * 0.1) * x / budget * draw.uniform(0.85, 1.05)]
                for x in grid
            ]
            runs.append(
                {
                    "directory": f"comparisons/compare/{name}-{seed}",
                    "seed": seed,
                    "status": "failed" if gone else "finished",
                    "line": "the run ended: policy/loss is NaN in step 3" if gone else "",
                    "steps": 3 if gone else 40,
                    "spent": 900.0 if gone else budget * 1.1,
                    "seconds": 2.0 if gone else 31.0,
                    "memory": None if gone else 512 << 20,
                    "before": None if gone else size * 0.1,
                    "score": None if gone else curve[-1][1],
                    "curve": [] if gone else curve,
                }
            )
        arms.append(_arm(name, runs, grid, ends, size))
    return {
        "directory": "comparisons/compare",
        "polopt": "0.1.0",
        "task": "task:chain_sum",
        "domain": "text" if is_share else "control",
        "stage": "rl",
        "metric": {
            "name": "accuracy" if is_share else "return_mean",
            "said": "accuracy" if is_share else "mean return",
            "is_share": is_share,
        },
        "training": "reward/mean",
        "budget": {
            "unit": "tokens",
            "said": "tokens generated",
            "value": budget,
            "largest": budget * 1.2,
        },
        "least_runs": 3,
        "arms": arms,
        "improvement": [
            {
                "arm": one,
                "over": other,
                "value": 0.8 if names.index(one) < names.index(other) else 0.2,
                "interval": [0.6, 1.0] if names.index(one) < names.index(other) else [0.0, 0.4],
            }
            for one in names
            for other in names
            if one != other
        ],
        "differences": [
            {"field": "algorithm", "values": list(names)},
            {"field": "objective.bound", "values": ["clip", *[None] * (len(names) - 1)]},
        ],
    }


def _arm(
    name: str, runs: list[dict[str, Any]], grid: list[float], end: float, size: float
) -> dict[str, Any]:
    whole = [run for run in runs if run["status"] == "finished"]
    several = len(whole) >= 3

    def near(value: float) -> dict[str, Any]:
        ends = [value - 0.03 * size, value + 0.03 * size]
        return {"value": value, "interval": ends if several else None}

    curve = [{"at": x, **near(0.1 * size + (end - 0.1 * size) * x / grid[-1] * 0.95)} for x in grid]
    unknown = {"value": None, "interval": None}
    return {
        "name": name,
        "algorithm": name,
        "finished": len(whole),
        "failed": len(runs) - len(whole),
        "score": near(curve[-1]["value"]) if whole else unknown,
        "before": near(0.1 * size) if whole else unknown,
        "training": near(0.8) if whole else unknown,
        "curve": curve if whole else [],
        "training_curve": curve[1:] if whole else [],
        "steps": 40 if whole else None,
        "spent": 13_200.0 if whole else None,
        "seconds": 31.0 if whole else None,
        "seconds_to_budget": 28.2 if whole else None,
        "memory": 512 << 20 if whole else None,
        "runs": runs,
    }


def inject(text: str) -> dict[str, Any]:
    """A finding with ``text`` wherever a finding can hold text."""
    made = found((text, text + "2", text + "3"), seeds=4)
    for key in ("directory", "polopt", "task", "stage", "training"):
        made[key] = text
    made["metric"] |= {"name": text, "said": text}
    made["budget"] |= {"unit": text, "said": text}
    made["differences"] = [{"field": text, "values": [text, [text], {text: text}]}]
    for arm in made["arms"]:
        arm["algorithm"] = text
        for run in arm["runs"]:
            run |= {"directory": text, "line": text if run["line"] else ""}
    return made
