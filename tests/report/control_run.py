"""A run directory of control as a run would have left it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from sample_run import lines, write_run

from polopt.envs.control.registry import watch
from polopt.rollout.recording import shown


class Leaning:
    """Pushes the cart to where the pole leans, or always to the left."""

    def __init__(self, balances: bool) -> None:
        self._balances = balances

    def choose(self, observations: Any, generator: None) -> Any:
        x, speed, angle, turn = observations.T
        lean = 0.02 * x + 0.05 * speed + angle + 0.3 * turn
        return np.where(self._balances & (lean > 0), 1, 0)

    def moved(self, actions: Any) -> Any:
        return actions


def cartpole(balances: bool) -> dict[str, Any]:
    """An episode that is balanced, or one that falls at once."""
    return shown(watch("control:cartpole", {}), Leaning(balances), seed=1)  # type: ignore[arg-type]


def write_control_run(directory: Path, before: dict[str, Any], after: dict[str, Any]) -> Path:
    """Write the run and return its directory."""
    run = write_run(directory, sft_steps=1, rl_steps=1)
    config = json.loads((run / "config.json").read_text())
    settings = {"data.source": "control:cartpole", "episodes.steps": 32}
    config["stages"] = [{"name": "train", "algorithm": "ppo", "row": [], "settings": settings}]
    (run / "config.json").write_text(json.dumps(config))
    stage: dict[str, Any] = {"stage": "train"}
    rows = [stage | {"step": 0, "stage_step": 0, **evaluated(20.0)}]
    for step in range(1, 11):
        row = stage | {"step": step, "stage_step": step, "steps": 100.0, "return/mean": 2.0 * step}
        rows.append(row | (evaluated(20.0 * step) if step % 5 == 0 else {}))
    lines(run / "metrics.jsonl", rows)
    lines(
        run / "samples.jsonl",
        [
            stage | {"step": 0, "kind": "before", **before},
            stage | {"step": 10, "kind": "after", **after},
        ],
    )
    summary = {
        "return_mean_before": 20.0,
        "return_mean_before_interval": [15.0, 25.0],
        "return_mean_after": 200.0,
        "return_mean_after_interval": [180.0, 220.0],
        "evaluation_episodes": 100,
        "steps": 10,
        "stages": [{"name": "train", "algorithm": "ppo", "steps": 10, "ended": "steps"}],
    }
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def evaluated(value: float) -> dict[str, float]:
    off = math.sqrt(value)
    ends = {"eval/return_mean_low": value - off, "eval/return_mean_high": value + off}
    return {"eval/return_mean": value, **ends}
